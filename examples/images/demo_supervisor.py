"""
Upload photographs for a minute while workers under supervisor make their thumbnails, with RabbitMQ.

supervisord and its files are in var/supervisor. At the end, and at Ctrl-C, its processes are stopped, and everything
that was declared on RabbitMQ is deleted.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika

import live
import relevo
from gallery import app as application
from gallery.store import store

CONFIGURATION = live.HOME / "supervisor.toml"
PROCESSES = 2
PATIENCE = 60.0
UNAVAILABLE = 69


def main() -> int:
    parser = live.arguments("The gallery on RabbitMQ, its workers under supervisor.")
    parser.add_argument("--url", default="amqp://localhost", help="address of RabbitMQ")
    parser.add_argument("--prefix", default=f"gallery-{secrets.token_hex(4)}", help="prefix of all names on RabbitMQ")
    options = parser.parse_args()
    live.heed_signals()
    os.environ["RELEVO_TRANSPORTS__MAIN__URL"] = options.url
    os.environ["RELEVO_TRANSPORTS__MAIN__PREFIX"] = options.prefix
    store.empty()
    with application.make(CONFIGURATION) as app, made_on_rabbitmq(app, options), supervised(folder()):
        title = f"The gallery through {relevo.masked_url(options.url)}, {PROCESSES} workers under supervisor"
        problems = live.Show(app, title).run(seconds=options.seconds, pause=options.pause, patience=PATIENCE)
    live.console.print(f"The logs of supervisor and its workers: [bold]{os.path.relpath(folder())}[/]", soft_wrap=True)
    return live.tell(problems)


def folder() -> Path:
    return store.absolute("supervisor")


@contextmanager
def made_on_rabbitmq(app: relevo.App, options: argparse.Namespace) -> Iterator[None]:
    """Declare queues and exchanges, and delete them at the end."""
    transport = app.transport()
    made = "\n".join(transport.setup(app.queues(transport.name), dry_run=True))
    try:
        app.setup()
        yield
    finally:
        time.sleep(1)  # RabbitMQ 4.0.5 fails if a queue is deleted just after it was declared
        connection = pika.BlockingConnection(pika.URLParameters(options.url))
        channel = connection.channel()
        for kind, name in re.findall(rf'(queue|exchange) "({re.escape(options.prefix)}[^"]*)"', made):
            (channel.queue_delete if kind == "queue" else channel.exchange_delete)(name)
        connection.close()


@contextmanager
def supervised(home: Path) -> Iterator[None]:
    """Start supervisord with the output of ``relevo unit supervisor``; stop it and its processes at the end."""
    home.mkdir()
    configuration = home / "supervisord.conf"
    unit = [sys.executable, "-m", "relevo", "--config", str(CONFIGURATION), "unit", "supervisor"]
    unit += ["--processes", str(PROCESSES), "--folder", str(home)]
    configuration.write_text(subprocess.run(unit, check=True, stdout=subprocess.PIPE, text=True).stdout)
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", str(configuration)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # only the demo gets Ctrl-C, and stops this
    )
    try:
        await_workers(configuration, process)
        yield
    finally:
        live.console.print("Supervisor lets the workers finish …")
        process.terminate()
        process.wait()


def await_workers(configuration: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until supervisor reports that all of them run, which takes some seconds."""
    status = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(configuration), "status"]
    deadline = time.monotonic() + PATIENCE
    shown = ""
    live.console.print("Supervisor starts the workers …")
    while shown.count(" RUNNING ") < PROCESSES:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"demo: supervisor does not keep the workers running; see {folder()}\n{shown}")
        time.sleep(live.REFRESH)
        shown = subprocess.run(status, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    try:
        sys.exit(main())
    except relevo.TransportUnavailableError as unavailable:
        print(
            f"demo: {unavailable}\nThis demo needs RabbitMQ. Start a server, and pass its address with --url; "
            "or install it (on Debian, the package rabbitmq-server), and make demo-supervisor starts a private server.",
            file=sys.stderr,
        )
        sys.exit(UNAVAILABLE)
    except KeyboardInterrupt:
        sys.exit(130)
