"""
Upload photographs for a minute while cron makes their thumbnails, from a SQLite table.

If a private cron can be run (that needs root, Linux, and the system's package), the line of ``relevo unit cron`` is in
its crontab; otherwise a loop here runs that line as often. The machine's own crontabs are not changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import live
from gallery import app as application
from gallery.store import store

try:  # from the repository's tests; make demo-cron sets their path
    import cron_daemon
    from server_starter import NotFoundError
except ImportError:
    cron_daemon, NotFoundError = None, LookupError  # type: ignore[assignment, misc]

CONFIGURATION = live.HOME / "cron.toml"
RELEVO = (sys.executable, "-m", "relevo", "--config", str(CONFIGURATION))
MINUTE = 60.0
TICKS = 4
"""The maximum until everything is handled: a listener that ends its process is tried three times."""

Mails = Callable[[], list[str]]


def main() -> int:
    parser = live.arguments("The gallery in a SQLite table, which cron empties.")
    parser.add_argument("--tick", type=float, metavar="SECONDS", help="run cron's line in a loop instead, this often")
    options = parser.parse_args()
    live.heed_signals()
    with application.make(CONFIGURATION) as app, ExitStack() as stack:
        store.empty()
        app.setup()
        stack.callback(deploy, "end")
        who, mails = stack.enter_context(ticking(options.tick))
        stack.callback(deploy, "begin", "--wait", "60s")  # a tick that still runs finishes its work
        show = live.Show(app, f"The gallery through sqlite:///var/gallery.db, emptied by {who}")
        patience = TICKS * (options.tick or MINUTE) + MINUTE
        problems = show.run(seconds=options.seconds, pause=options.pause, patience=patience)
        texts = all_of(mails, deaths=len(show.figures.dead))
    live.console.print("The mails, one for each tick with a dead event:\n")
    for mail in texts:
        for line in re.findall(r"^.* WARNING .* is dead: .*|^\d+ done.*", mail, re.MULTILINE):
            live.console.print(f"  {line}", markup=False, soft_wrap=True)
    return live.tell(problems)


@contextmanager
def ticking(every: float | None) -> Iterator[tuple[str, Mails]]:
    """Run the unit's line every minute; yield what runs it, and a function that returns the mails."""
    with ExitStack() as stack:
        who, mails = f"a loop that runs cron's line every {every or MINUTE:g} s", None
        if every is None:
            try:
                who, mails = "a real cron, every minute", stack.enter_context(cron())
            except NotFoundError as why:
                live.console.print(f"No private cron: {why}. A loop ticks instead.", soft_wrap=True)
        yield who, mails or stack.enter_context(loop(every or MINUTE))


def deploy(*words: str) -> None:
    subprocess.run([*RELEVO, "deploy", *words], check=False, capture_output=True, start_new_session=True)


def all_of(mails: Mails, *, deaths: int) -> list[str]:
    """Return all mails; the last is sent when its tick ends, shortly after the last event."""
    deadline = time.monotonic() + MINUTE
    while len(re.findall(" is dead: ", "".join(mails()))) < deaths and time.monotonic() < deadline:
        time.sleep(live.REFRESH)
    return mails()


@contextmanager
def cron() -> Iterator[Mails]:
    """Run the line with the system's cron in an isolated environment, which ends with the block."""
    if cron_daemon is None:
        raise NotFoundError("the repository's tests, which start it, are not available; see make demo-cron")
    installing = {"CI", "RELEVO_TEST_INSTALL"}  # these would install the package
    with cron_daemon.running({key: value for key, value in os.environ.items() if key not in installing}) as daemon:
        done = daemon.run(*RELEVO, "unit", "cron", "--install", cwd=live.HOME)
        if done.returncode:
            raise SystemExit(f"demo: {done.stderr}")
        yield lambda: [mail.get_content() for mail in daemon.mails()]


@contextmanager
def loop(seconds: float) -> Iterator[Mails]:
    """Run the line in a thread, with an environment as small as cron's; the output of a tick is a mail."""
    line = subprocess.run([*RELEVO, "unit", "cron"], check=True, stdout=subprocess.PIPE, text=True).stdout
    command = line.removeprefix("* * * * * ").replace(r"\%", "%")
    environ = {key: os.environ[key] for key in ("HOME", "LOGNAME") if key in os.environ} | {"PATH": "/usr/bin:/bin"}
    ended, mails = threading.Event(), list[str]()

    def tick() -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            check=False,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # only the demo gets Ctrl-C
        )
        if done.stdout:
            mails.append(done.stdout)

    def run() -> None:
        while not ended.wait(seconds):
            ticks.append(threading.Thread(target=tick))  # in parallel to those that still run, as cron does
            ticks[-1].start()

    ticks = [threading.Thread(target=run)]
    ticks[0].start()
    try:
        yield lambda: list(mails)
    finally:
        ended.set()
        for each in ticks:  # the first starts the others, and is joined first
            each.join()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
