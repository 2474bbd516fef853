"""Child processes: how they begin, are replaced and end, and what they are told."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType

import attrs
import pika
import pytest

import relevo

PATIENCE = 300.0

LISTENERS = """
import os
import subprocess
import sys
import time
import relevo

def note(*words):
    with open("log", "ab", buffering=0) as log:
        log.write((" ".join(map(str, words)) + "\\n").encode())

note("imported", os.getpid())

@relevo.listener("a.done")
def a(event):
    note("a", event["n"], os.getpid())
    print("a", event["n"])

@relevo.listener("slow.done")
def slow(event):
    note("began", event["n"], os.getpid())
    time.sleep(event.arguments.get("wait", 300))
    note("ended", event["n"], os.getpid())

@relevo.listener("gate.reached")
def wait_at_the_gate(event):
    note("began", event["n"], os.getpid())
    while not os.path.exists("gate"):
        time.sleep(0.01)
    note("ended", event["n"], os.getpid())

@relevo.listener("offspring.made")
def offspring(event):
    subprocess.Popen(["sleep", "300"])
    note("began", event["n"], os.getpid())
    time.sleep(300)

@relevo.listener("memory.leaked")
def leak(event, held=[]):
    held.append(b"x" * (30 << 20))
    note("leaked", os.getpid())

@relevo.listener("two.done", id="first", priority=3)
def first(event, call):
    note("first", call.attempt)

@relevo.listener("two.done", id="hang", priority=2, time_limit="300ms", retry=relevo.Retry(2, first=0.1, jitter=0))
def hang(event, call):
    note("hang", call.attempt)
    time.sleep(300)

@relevo.listener("two.done", id="last", priority=1)
def last(event, call):
    note("last", call.attempt)

@relevo.listener("thing.failed", retry=1)
def fail(event):
    print("failing at", event["n"])
    raise ValueError

@relevo.listener("chain.begun")
def begin(event, call):
    call.dispatch(relevo.Event("a.done", {"n": 99}))
"""


class Started(subprocess.Popen[str]):
    """A process that a failing test does not wait for."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        super().__exit__(kind, value, traceback)


@attrs.frozen
class Shop:
    """A folder with an application in it."""

    folder: Path
    mark: str

    def write(self, listeners: str = LISTENERS, **keys: object) -> None:
        """Write the application."""
        (self.folder / "shop.py").write_text(listeners)
        said = "\n".join(f"{key} = {value!r}" for key, value in {"concurrency": 1, **keys}.items())
        (self.folder / "relevo.toml").write_text(
            f'listeners = ["shop"]\nexecution = "process"\n{said}\n[transports]\nmain = "sqlite:///shop.db"\n'
        )

    def start(self, *words: str, program: tuple[str, ...] = ("-m", "relevo")) -> Started:
        """Start ``relevo`` with *words*."""
        return Started(
            [sys.executable, *program, *words],
            cwd=self.folder,
            env={**os.environ, "SHOP": self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, program: tuple[str, ...] = ("-m", "relevo")) -> tuple[int, str, str]:
        """Run ``relevo`` with *words*; return its exit code and what it printed."""
        with self.start(*words, program=program) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def setup(self) -> None:
        """Create the database: a command that has to do that warns of it."""
        with relevo.App.from_config(self.folder / "relevo.toml", environ={}) as app:
            app.setup()

    def dispatch(self, name: str, *numbers: int, **arguments: object) -> list[str]:
        """Dispatch one event for each number; return their ids."""
        with relevo.App.from_config(self.folder / "relevo.toml", environ={}) as app:
            sent = app.dispatch_many(relevo.Event(name, {"n": number, **arguments}) for number in numbers or (0,))
            return [each.id for each in sent]

    def open_gate(self) -> None:
        """Let listeners that wait at the gate end."""
        (self.folder / "gate").touch()

    def lines(self, first: str) -> list[list[str]]:
        """Return what the listeners noted that begins so."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[1:] for line in lines if line.split()[0] == first]

    def wait_for(self, what: Callable[[], object]) -> None:
        """Return when *what* is so."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def processes(self) -> list[int]:
        """Return the processes that are left."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdecimal() and f"SHOP={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def ready(self) -> list[tuple[int, int]]:
        """Return the attempt and the lost leases of each event that is ready."""
        with relevo.App.from_config(self.folder / "relevo.toml", environ={}) as app:
            found = app.transport().receive(["default"], limit=99, lease=60.0, wait=0.0)
            return [(each.attempt, each.lost_leases) for each in found]

    def left(self) -> int:
        """Return the number of events that are not done."""
        with relevo.App.from_config(self.folder / "relevo.toml", environ={}) as app:
            stats = app.transport().stats("default")
            return sum(each or 0 for each in (stats.ready, stats.scheduled, stats.leased))

    def leased_until(self, event_id: str) -> float:
        """Return when the lease of this event ends; 0 if it has none."""
        with relevo.App.from_config(self.folder / "relevo.toml", environ={}) as app:
            return max((found.until or 0.0 for found in app.transport().find(event_id)), default=0.0)

    def dead(self) -> list[relevo.DeadLetterEntry]:
        """Return the dead letters."""
        with relevo.App.from_config(self.folder / "relevo.toml", environ={}) as app:
            app.prepare("main")
            return list(app.transport().dead_letters(["default"], limit=99))


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, uuid.uuid4().hex)
    shop.write()
    yield shop
    for pid in shop.processes():
        os.kill(pid, signal.SIGKILL)


# --- how they begin ---------------------------------------------------------------------------------------


def test_listeners_run_in_a_process_that_is_there_already(shop: Shop) -> None:
    shop.dispatch("a.done", *range(20))

    code, out, err = shop.run("drain")

    pids = {pid for _, pid in shop.lines("a")}
    assert code == 0, err
    assert len(shop.lines("a")) == 20
    assert len(pids) == 1
    assert len(shop.lines("imported")) == 2  # in the worker, which checks them, and in the child
    assert out == ""
    assert re.fullmatch(r"(\[1\] a \d+\n){20}", err), err


def test_what_a_listener_dispatches_is_sent_from_there(shop: Shop) -> None:
    shop.dispatch("chain.begun")

    code, _, err = shop.run("drain")

    assert code == 0, err
    assert [number for number, _ in shop.lines("a")] == ["99"]


@pytest.mark.lengthy("starts processes")
def test_an_application_in_a_module_is_made_again_by_its_name(shop: Shop) -> None:
    shop.write()
    (shop.folder / "site.toml").write_text("")
    (shop.folder / "web.py").write_text(
        "import relevo\nfrom relevo_sql import SqlTransport\nimport sqlalchemy\n"
        "app = relevo.App(transports={'main': SqlTransport(sqlalchemy.create_engine('sqlite:///shop.db'))},\n"
        "    routes={'*': 'main'}, listeners=['shop'], execution=relevo.Execution('process'))\n"
    )
    shop.dispatch("a.done")

    code, _, err = shop.run("drain", "-a", "web:app", "--config", "site.toml")

    assert code == 0, err
    assert len(shop.lines("a")) == 1


BASE = """
import relevo
app = relevo.App.from_config()
"""
WEB = """
import relevo
from base import app
from shop import note

class Context:
    @relevo.hookimpl
    def relevo_around_call(self):
        note("around")

app.hooks.add(Context())
"""


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("named", ["on the command line", "in the configuration"])
def test_a_child_imports_the_module_that_was_named_not_the_one_that_creates_the_application(
    shop: Shop, named: str
) -> None:
    (shop.folder / "base.py").write_text(BASE)
    (shop.folder / "web.py").write_text(WEB)
    config = shop.folder / "relevo.toml"
    if named == "in the configuration":
        config.write_text(f'app = "web:app"\n{config.read_text()}')
    shop.dispatch("a.done")

    code, _, err = shop.run("drain", *(["-a", "web:app"] if named == "on the command line" else []))

    assert code == 0, err
    assert (len(shop.lines("a")), len(shop.lines("around"))) == (1, 1)


@pytest.mark.lengthy("starts processes")
def test_an_application_in_a_script_is_made_again_by_the_scripts_name(shop: Shop) -> None:
    (shop.folder / "script.py").write_text(
        "import relevo\nfrom relevo_sql import SqlTransport\nimport sqlalchemy\n"
        "app = relevo.App(transports={'main': SqlTransport(sqlalchemy.create_engine('sqlite:///shop.db'))},\n"
        "    routes={'*': 'main'}, listeners=['shop'], execution=relevo.Execution('process'))\n"
        "if __name__ == '__main__':\n"
        "    print(relevo.LoopRunner().run(app, relevo.RunOptions(until_empty=True)).done)\n"
    )
    shop.dispatch("a.done")

    code, out, err = shop.run(program=("script.py",))

    assert (code, out) == (0, "1\n"), err


def test_an_application_that_no_module_has_a_name_for_is_refused(shop: Shop) -> None:
    (shop.folder / "script.py").write_text(
        "import relevo\nfrom relevo_sql import SqlTransport\nimport sqlalchemy\n"
        "def main():\n"
        "    app = relevo.App(transports={'main': SqlTransport(sqlalchemy.create_engine('sqlite:///shop.db'))},\n"
        "        routes={'*': 'main'}, listeners=['shop'], execution=relevo.Execution('process'))\n"
        "    app.worker()\n"
        "main()\n"
    )

    code, _, err = shop.run(program=("script.py",))

    assert code != 0
    assert "a child process cannot create this application, since no module has a name for it" in err


def test_what_a_child_process_would_send_to_its_own_memory_is_refused(shop: Shop) -> None:
    (shop.folder / "relevo.toml").write_text('execution = "process"\n[transports]\nmain = "memory://"\n')

    code, _, err = shop.run("drain")

    assert code == 78
    assert 'the transport "main" claims the durability "process", so events that a child process sends may end' in err


@pytest.mark.lengthy("starts processes")
def test_a_listener_that_only_the_worker_has_is_told_before_the_first_event(shop: Shop) -> None:
    (shop.folder / "script.py").write_text(
        "import os\nimport relevo\n"
        "app = relevo.App.from_config()\n"
        "if __name__ == '__main__':\n"
        "    @relevo.listener('late.come', id='late')\n"
        "    def late(event): ...\n"
        "    app.listen(late)\n"
        "    try:\n"
        "        relevo.LoopRunner().run(app, relevo.RunOptions())\n"
        "    finally:\n"
        "        try:\n"
        "            print('a child process is left:', os.waitpid(-1, os.WNOHANG))\n"
        "        except ChildProcessError:\n"
        "            print('no child process is left')\n"
    )

    code, out, err = shop.run(program=("script.py",))

    assert (code, out) == (1, "no child process is left\n")
    assert "a child process lacks listeners that this one has, by event and id: late.come late; register" in err
    assert shop.processes() == []


@pytest.mark.parametrize(
    "added, missing",
    [
        ("app.hooks.add(Context())", "plugins that this one has: Context"),
        (
            "app.add_subject(relevo.SubjectType(type='image', cls=Context, name=str, load=str))",
            "subject types that this one has: image",
        ),
    ],
    ids=["plugin", "subject type"],
)
@pytest.mark.lengthy("starts processes")
def test_a_plugin_or_a_subject_type_that_only_the_worker_has_is_told_before_the_first_event(
    shop: Shop, added: str, missing: str
) -> None:
    (shop.folder / "script.py").write_text(
        "import relevo\n"
        "app = relevo.App.from_config()\n"
        "class Context:\n"
        "    @relevo.hookimpl\n"
        "    def relevo_around_call(self): ...\n"
        "if __name__ == '__main__':\n"
        f"    {added}\n"
        "    relevo.LoopRunner().run(app, relevo.RunOptions(until_empty=True))\n"
    )
    shop.dispatch("a.done")

    code, _, err = shop.run(program=("script.py",))

    assert code == 1, err
    assert f"a child process lacks {missing}; register them where the application is created (script:app)" in err
    assert (shop.ready(), shop.processes()) == ([(1, 0)], [])


@pytest.mark.lengthy("starts processes")
def test_a_plugin_that_only_watches_the_worker_need_not_be_in_a_child(shop: Shop) -> None:
    (shop.folder / "script.py").write_text(
        "import relevo\n"
        "app = relevo.App.from_config()\n"
        "class Watching:\n"
        "    @relevo.hookimpl\n"
        "    def relevo_around_settle(self, settlements): print(len(settlements))\n"
        "if __name__ == '__main__':\n"
        "    app.hooks.add(Watching())\n"
        "    relevo.LoopRunner().run(app, relevo.RunOptions(until_empty=True))\n"
    )
    shop.dispatch("a.done")

    code, out, err = shop.run(program=("script.py",))

    assert (code, out) == (0, "1\n"), err


@pytest.mark.lengthy("starts processes")
def test_a_child_that_cannot_begin_is_told_with_its_reason(shop: Shop) -> None:
    shop.write(LISTENERS + '\nif "_app/child" in sys.argv[0]: 1 / 0\n')
    shop.dispatch("a.done")

    code, _, err = shop.run("drain")

    assert code == 78
    assert 'a child process cannot begin: listeners: the module "shop" cannot be imported: ZeroDivisionError' in err
    assert shop.ready() == [(1, 0)]
    assert shop.processes() == []


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("command", ["worker", "drain"])
def test_a_child_that_does_not_come_to_begin_keeps_no_worker_from_ending(shop: Shop, command: str) -> None:
    shop.write(LISTENERS + '\nif "_app/child" in sys.argv[0]: time.sleep(300)\n')
    shop.dispatch("a.done")
    with shop.start(command) as worker:
        shop.wait_for(lambda: len(shop.lines("imported")) == 2)
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=PATIENCE)

    assert worker.returncode == 0, err
    assert shop.processes() == []
    assert shop.ready() == [(1, 0)]


def test_a_drain_that_finds_nothing_starts_no_child(shop: Shop) -> None:
    shop.setup()
    code, _, err = shop.run("drain")

    assert (code, err) == (0, "")
    assert len(shop.lines("imported")) == 1


@pytest.mark.lengthy("starts processes")
def test_a_worker_has_its_children_before_the_first_event(shop: Shop) -> None:
    shop.write(concurrency=2)
    shop.setup()
    with shop.start("worker") as worker:
        shop.wait_for(lambda: len(shop.lines("imported")) == 3)
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=PATIENCE)

    assert (worker.returncode, err) == (0, "")
    assert shop.processes() == []


# --- what goes wrong beside them ----------------------------------------------------------------------------


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("kind", ["full", "closed"])
def test_what_a_listener_prints_and_nobody_can_keep_costs_nothing(shop: Shop, kind: str) -> None:
    shop.dispatch("a.done", *range(5))
    read, written = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "relevo", "drain"]
        environ = {**os.environ, "SHOP": shop.mark}
        stderr = full if kind == "full" else written
        done = subprocess.run(command, cwd=shop.folder, env=environ, stderr=stderr, timeout=PATIENCE, check=False)
    os.close(written)

    assert done.returncode == 0
    assert sorted(number for number, _ in shop.lines("a")) == ["0", "1", "2", "3", "4"]
    assert (shop.ready(), shop.dead()) == ([], [])


@pytest.mark.lengthy("starts processes")
def test_a_defect_beside_a_child_ends_the_worker_as_a_defect(shop: Shop) -> None:
    (shop.folder / "web.py").write_text(
        "import relevo\nfrom relevo._execution.slot import Slot\n"
        "def broken(slot, child, task): raise ZeroDivisionError\n"
        "Slot._hold_to_limits = broken\n"
        "app = relevo.App.from_config('relevo.toml')\n"
    )
    shop.dispatch("slow.done", wait=3.0)

    code, _, err = shop.run("drain", "-a", "web:app")

    assert code == 70, err
    assert err.splitlines()[-1].strip() == "ZeroDivisionError"
    assert shop.processes() == []


@pytest.mark.lengthy("starts processes")
def test_a_checkpoint_that_fails_in_any_way_keeps_no_listener_from_being_called(shop: Shop) -> None:
    (shop.folder / "web.py").write_text(
        "import relevo\nfrom relevo_sql import SqlTransport\nimport sqlalchemy\n"
        "class Broken(SqlTransport):\n"
        "    def checkpoint(self, delivery, state): raise ZeroDivisionError\n"
        "app = relevo.App(transports={'main': Broken(sqlalchemy.create_engine('sqlite:///shop.db'))},\n"
        "    routes={'*': 'main'}, listeners=['shop'], execution=relevo.Execution('process'))\n"
    )
    shop.dispatch("two.done")

    code, _, err = shop.run("drain", "-a", "web:app", "--settle", "5s")

    assert code == 1, err  # of the one that hangs, and has no run left
    assert (shop.lines("first"), shop.lines("last")) == ([["1"]], [["1"]])


@pytest.mark.lengthy("starts processes")
def test_the_output_of_a_child_that_died_is_not_repeated_in_the_log(shop: Shop) -> None:
    shop.write(
        "import os, signal, relevo\n"
        "@relevo.listener('a.done')\n"
        "def die(event):\n"
        "    print('the last words', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    shop.dispatch("a.done")

    _, _, err = shop.run("drain", "--max-events", "1")

    assert "the process was killed by SIGKILL while shop:die ran; this is crash 1 of 3" in err
    assert err.count("the last words") == 1
    assert "[1] the last words\n" in err


# --- messages that cannot be handed over ------------------------------------------------------------------------

SURROGATE = '{"a":"\\ud800"}'
HOSTILE: dict[str, tuple[str, object, str]] = {
    "a header that is no character": ("headers", SURROGATE, "unreadable"),
    "a state that is no number": ("progress", b"1e999", "malformed"),
    "a state of the future": ("progress", b'{"v":1,"waiting":{"newer-version":1e308}}', "malformed"),
    "data that is not UTF-8": (
        "body",
        b'{"specversion":"1.0","id":"ID","source":"shop","type":"a.done","data":{"n":"\xff"}}',
        "malformed",
    ),
    "more attempts than there are": ("attempt", 2**62, ""),
}


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("kind", ["process", "threads", "inline"])
def test_rows_that_cannot_be_handed_to_a_listener_end_and_their_neighbours_are_handled(shop: Shop, kind: str) -> None:
    shop.dispatch("a.done", *range(len(HOSTILE) + 3))
    with closing(sqlite3.connect(shop.folder / "shop.db")) as connection, connection:
        rows = connection.execute("SELECT seq, event_id FROM relevo_event ORDER BY seq").fetchall()
        for (seq, event_id), (column, value, _) in zip(rows, HOSTILE.values(), strict=False):
            said = value.replace(b"ID", event_id.encode()) if isinstance(value, bytes) else value
            connection.execute(f"UPDATE relevo_event SET {column} = ? WHERE seq = ?", (said, seq))  # noqa: S608

    code, _, err = shop.run("drain", "--execution", kind)
    again, _, _ = shop.run("drain", "--execution", kind)

    assert (code, again) == (1, 0), err
    assert "Traceback" not in err
    wanted = [reason for _, _, reason in HOSTILE.values() if reason]
    assert sorted(dead.reason for dead in shop.dead()) == sorted(wanted)
    assert sorted(int(number) for number, _ in shop.lines("a")) == list(range(len(wanted), len(rows)))
    assert shop.ready() == []


def test_an_event_that_nothing_works_on_ends_the_worker_and_is_given_back(shop: Shop) -> None:
    (shop.folder / "web.py").write_text(
        "import relevo, relevo._worker.stall\nfrom relevo.execution import ProcessExecutor\n"
        "relevo._worker.stall._STALLED_AFTER = 1.0\n"
        "def submit(self, delivery): self._submitted[delivery] = None\n"
        "ProcessExecutor.submit = submit\n"
        "app = relevo.App.from_config('relevo.toml')\n"
    )
    shop.dispatch("a.done", 1)

    code, _, err = shop.run("drain", "-a", "web:app")

    assert code == 70, err
    assert "a.done " in err
    assert "no listener has been running" in err
    assert shop.ready() == [(2, 1)]


@pytest.mark.amqp
def test_a_message_that_cannot_be_handed_to_a_child_ends_and_its_neighbours_are_handled(
    shop: Shop, rabbitmq_url: str, forget: Callable[[relevo.App], None]
) -> None:
    prefix = f"shop-{uuid.uuid4().hex[:8]}"
    (shop.folder / "relevo.toml").write_text(
        f'listeners = ["shop"]\nexecution = "process"\nsource = "shop"\n'
        f'[transports]\nmain = {{ url = "{rabbitmq_url}", prefix = "{prefix}", levels = 8 }}\n'
    )
    shop.dispatch("a.done", 1)
    properties = pika.BasicProperties(
        headers={"relevo": 1, "relevo-headers": SURROGATE}, message_id="x", type="a.done", app_id="shop"
    )
    with closing(pika.BlockingConnection(pika.URLParameters(rabbitmq_url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(f"{prefix}.q", "default", b"{}", properties, mandatory=True)
    shop.dispatch("a.done", 2)

    try:
        code, _, err = shop.run("drain")
        again, _, _ = shop.run("drain")

        assert (code, again) == (1, 0), err
        assert sorted(number for number, _ in shop.lines("a")) == ["1", "2"]
        (dead,) = shop.dead()
        assert dead.reason == "unreadable"
        assert "lone surrogate" in dead.error
    finally:
        forget(relevo.App.from_config(shop.folder / "relevo.toml", environ={}))


# --- time limits --------------------------------------------------------------------------------------------


def test_a_listener_over_its_time_limit_has_failed_and_the_others_of_its_event_are_done_once(shop: Shop) -> None:
    shop.dispatch("two.done")

    code, _, err = shop.run("drain", "--settle", "5s")

    (dead,) = shop.dead()
    assert code == 1, err
    assert (shop.lines("first"), shop.lines("last")) == ([["1"]], [["1"]])
    assert err.count("hang ran for more than 0.3 s") == 2  # it may be killed before it has noted that it began
    assert (dead.reason, dead.lost_leases) == ("retries-exhausted", 0)
    assert "TimeLimitExceededError: hang ran for longer than its time limit of 0.3 s" in dead.error


@pytest.mark.lengthy("starts processes")
def test_progress_is_signed_where_events_are(shop: Shop) -> None:
    shop.write(signing="Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd")
    shop.dispatch("two.done")

    code, _, err = shop.run("drain", "--settle", "5s")

    assert code == 1, err
    assert [each.reason for each in shop.dead()] == ["retries-exhausted"]
    assert (shop.lines("first"), shop.lines("last")) == ([["1"]], [["1"]])


@pytest.mark.lengthy("starts processes")
def test_a_limit_for_all_holds_for_those_that_say_nothing(shop: Shop) -> None:
    shop.write(time_limit="500ms")
    shop.dispatch("slow.done", 1)

    with shop.start("worker") as worker:
        shop.wait_for(lambda: len(shop.lines("began")) >= 2)
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=PATIENCE)

    assert len({pid for _, pid in shop.lines("began")}) == len(shop.lines("began"))
    assert shop.lines("ended") == []


@pytest.mark.lengthy("starts processes")
def test_a_dead_letter_holds_what_was_printed_about_its_own_event(shop: Shop) -> None:
    shop.dispatch("thing.failed", 1, 2)

    code, _, err = shop.run("drain")

    assert code == 1
    assert "[1] failing at 1\n" in err
    told = [re.findall(r"failing at (\d)", each.error) for each in shop.dead()]
    assert sorted(told) == [["1"], ["2"]]


@pytest.mark.lengthy("starts processes")
def test_the_failures_of_a_dead_letter_come_from_the_child_with_what_it_printed(shop: Shop) -> None:
    (shop.folder / "plugin.py").write_text(
        "import relevo\nfrom shop import note\n"
        "@relevo.hookimpl\ndef relevo_dead_lettered(outcome):\n"
        "    for each in outcome.failures:\n"
        "        note('died', each.listener, each.attempt, each.kind, each.reason, each.output.replace(' ', '_'))\n"
    )
    shop.dispatch("thing.failed", 1)
    shop.write(plugins=["plugin"])

    shop.run("drain")

    ((listener, attempt, kind, reason, output),) = shop.lines("died")
    assert (listener, attempt, kind, reason) == ("shop:fail", "1", "ValueError", "retries-exhausted")
    assert output == "failing_at_1"


# --- hooks ------------------------------------------------------------------------------------------------------


@pytest.mark.lengthy("starts processes")
def test_what_looks_on_at_listeners_is_asked_where_they_run_and_the_rest_in_the_worker(shop: Shop) -> None:
    (shop.folder / "plugin.py").write_text(
        "import os, relevo\nfrom shop import note\n"
        "@relevo.hookimpl\ndef relevo_around_handle(delivery): note('handle', os.getpid())\n"
        "@relevo.hookimpl\ndef relevo_around_call(listener_id): note('call', os.getpid(), listener_id)\n"
        "@relevo.hookimpl\ndef relevo_listener_failed(listener_id, error, attempt):\n"
        "    note('failed', os.getpid(), listener_id, type(error).__name__, attempt)\n"
        "@relevo.hookimpl\ndef relevo_around_settle(settlements): note('settle', os.getpid())\n"
        "@relevo.hookimpl\ndef relevo_dead_lettered(delivery): note('dead', os.getpid())\n"
        "@relevo.hookimpl\ndef relevo_may_run(): note('may', os.getpid())\n"
    )
    shop.dispatch("two.done")
    shop.write(plugins=["plugin"])

    code, _, err = shop.run("drain", "--settle", "5s")

    worker = shop.lines("may")[0][0]
    failed = shop.lines("failed")
    assert code == 1, err
    assert [each[1:] for each in failed] == [["hang", "TimeLimitExceededError", number] for number in "12"]
    assert {pid for (pid,) in shop.lines("settle") + shop.lines("dead")} == {worker}
    assert worker not in {each[0] for each in failed + shop.lines("handle") + shop.lines("call")}
    assert "hang" in {listener for _, listener in shop.lines("call")}


# --- replacements ---------------------------------------------------------------------------------------------


@pytest.mark.lengthy("starts processes")
def test_a_child_is_replaced_after_so_many_events(shop: Shop) -> None:
    shop.write(recycle_after=5)
    with shop.start("worker") as worker:
        for number in range(4):  # in portions, so that there is time for a successor
            shop.dispatch("a.done", *range(number * 10, number * 10 + 10))
            shop.wait_for(lambda n=number: len(shop.lines("a")) == n * 10 + 10)  # type: ignore[misc]
            shop.wait_for(lambda n=number: len(shop.lines("imported")) >= n + 2)  # type: ignore[misc]
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=PATIENCE)

    assert worker.returncode == 0, err
    assert len({pid for _, pid in shop.lines("a")}) >= 3
    assert "WARNING" not in err
    assert shop.processes() == []


@pytest.mark.lengthy("starts processes")
def test_a_child_that_grows_is_replaced_between_events_before_it_has_to_be_killed(shop: Shop) -> None:
    shop.write(memory_limit="400M", concurrency=1)
    with shop.start("worker") as worker:
        for number in range(14):
            shop.dispatch("memory.leaked")
            shop.wait_for(lambda n=number: len(shop.lines("leaked")) == n + 1)  # type: ignore[misc]
            shop.wait_for(lambda: shop.left() == 0)  # else the child is not idle yet
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=PATIENCE)

    assert worker.returncode == 0, err
    assert len(Counter(pid for (pid,) in shop.lines("leaked"))) >= 2
    assert "killed" not in err


@pytest.mark.lengthy("starts processes")
def test_a_child_that_grows_is_replaced_too_if_the_next_event_waits_already(shop: Shop) -> None:
    shop.write(memory_limit="400M", concurrency=1)
    shop.dispatch("memory.leaked", *range(14))

    code, _, err = shop.run("drain")

    assert code == 0, err
    assert len(Counter(pid for (pid,) in shop.lines("leaked"))) >= 2
    assert len(shop.lines("leaked")) == 14
    assert "killed" not in err


def test_an_idle_child_that_dies_is_replaced_and_no_event_pays(shop: Shop) -> None:
    with shop.start("worker") as worker:
        shop.dispatch("a.done", 1)
        shop.wait_for(lambda: shop.lines("a") and shop.left() == 0)  # else it is not idle yet
        ((_, pid),) = shop.lines("a")
        os.kill(int(pid), signal.SIGKILL)
        shop.wait_for(lambda: not Path("/proc", pid).exists())  # else the next event may still be given to it
        shop.dispatch("a.done", 2)
        shop.wait_for(lambda: len(shop.lines("a")) == 2)
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=PATIENCE)

    assert worker.returncode == 0, err
    assert "an idle child process was killed by SIGKILL" in err
    assert "is lost" not in err


@pytest.mark.lengthy("starts processes")
def test_an_event_that_a_dead_child_had_not_begun_is_given_to_the_next_one(shop: Shop) -> None:
    (shop.folder / "web.py").write_text(
        "import relevo\nfrom relevo._execution.slot import Slot\nfrom shop import note\n"
        "hand_over = Slot.hand_over\n"
        "def told(slot):\n"
        "    hand_over(slot)\n"
        "    note('given')\n"
        "Slot.hand_over = told\n"
        "app = relevo.App.from_config('relevo.toml')\n"
    )
    with shop.start("worker", "-a", "web:app", "-l", "info") as worker:
        shop.dispatch("a.done", 1)
        shop.wait_for(lambda: shop.lines("a") and shop.left() == 0)  # else the child is stopped before it reports
        ((_, pid),) = shop.lines("a")
        os.kill(int(pid), signal.SIGSTOP)
        shop.dispatch("a.done", 2)
        shop.wait_for(lambda: len(shop.lines("given")) == 2)  # to the child, which does not read
        os.kill(int(pid), signal.SIGKILL)
        shop.wait_for(lambda: len(shop.lines("a")) == 2)
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=PATIENCE)

    assert worker.returncode == 0, err
    assert "is lost" not in err
    assert "idle" not in err


# --- how they end -----------------------------------------------------------------------------------------------


def test_term_finishes_what_runs_and_leaves_nobody(shop: Shop) -> None:
    shop.dispatch("gate.reached", 1, 2, 3)
    with shop.start("worker") as worker:
        shop.wait_for(lambda: shop.lines("began"))
        worker.send_signal(signal.SIGTERM)
        shop.open_gate()
        _, err = worker.communicate(timeout=PATIENCE)

    assert worker.returncode == 0, err
    assert len(shop.lines("ended")) == len(shop.lines("began")) == 1
    assert shop.processes() == []


def test_a_second_signal_ends_the_children_too_and_names_the_listener(shop: Shop) -> None:
    shop.dispatch("offspring.made", 1)
    err = ""
    with shop.start("worker") as worker:
        shop.wait_for(lambda: shop.lines("began"))
        for patience in (1, 20, PATIENCE):  # two signals that come together count as one
            worker.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                _, err = worker.communicate(timeout=patience)
                break

    assert worker.returncode == 128 + signal.SIGTERM
    shop.wait_for(lambda: shop.processes() == [])  # what the child had started was killed, and nobody waits for its end
    assert err.count("a second signal stopped shop:offspring on offspring.made ") == 1, err


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("what", ["slow.done", "offspring.made"])
def test_children_and_what_they_started_end_with_a_worker_that_is_killed(shop: Shop, what: str) -> None:
    shop.dispatch(what, 1)
    worker = shop.start("worker")
    shop.wait_for(lambda: shop.lines("began"))

    worker.kill()
    worker.communicate(timeout=PATIENCE)

    shop.wait_for(lambda: shop.processes() == [])


@pytest.mark.lengthy("starts processes")
def test_a_terminals_interrupt_does_not_reach_the_children(shop: Shop) -> None:
    shop.dispatch("gate.reached", 1)
    with shop.start("worker") as worker:
        shop.wait_for(lambda: shop.lines("began"))
        ((_, pid),) = shop.lines("began")
        os.kill(int(pid), signal.SIGINT)
        os.kill(int(pid), signal.SIGTERM)
        shop.open_gate()
        shop.wait_for(lambda: shop.lines("ended") or len(shop.lines("began")) > 1)
        worker.send_signal(signal.SIGINT)
        _, err = worker.communicate(timeout=PATIENCE)

    assert worker.returncode == 0, err
    assert shop.lines("ended") == shop.lines("began") == [["1", pid]]


def test_leases_are_renewed_while_a_child_works(shop: Shop) -> None:
    shop.write(lease="9s")  # renewed every third of it
    (event_id,) = shop.dispatch("gate.reached", 1)
    with shop.start("drain") as drain:
        shop.wait_for(lambda: shop.lines("began"))
        first = shop.leased_until(event_id)
        shop.wait_for(lambda: shop.leased_until(event_id) > first)
        shop.open_gate()
        _, err = drain.communicate(timeout=PATIENCE)

    assert (drain.returncode, err) == (0, "")
    assert [number for number, _ in shop.lines("ended")] == ["1"]
    assert len(shop.lines("began")) == 1
