"""RabbitMQ with a database that keeps something for it: the locks and announcements of its workers, dead letters."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pika
import pytest

import relevo
from relevo_amqp import AmqpTransport
from relevo_amqp._topology import Role, word
from relevo_sql import SqlTransport

PATIENCE = 60.0

SLOW = """
import pathlib, time
import relevo

@relevo.listener("image.created", id="slow")
def slow(event):
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""


@attrs.frozen
class Helped:
    """A folder with a configuration, and its application."""

    folder: Path
    app: relevo.App

    def start(self, command: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "relevo", *command.split()],
            cwd=self.folder,
            env={"PYTHONPATH": str(self.folder), "PATH": "/usr/bin:/bin", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(command, **environ)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


@pytest.fixture(
    name="database",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.soak]),
    ],
)
def _database(request: pytest.FixtureRequest) -> str:
    return "sqlite:///shop.db" if request.param == "sqlite" else str(request.getfixturevalue("postgresql_database"))


Configure = Callable[[str], Helped]


@pytest.fixture(name="configured")
def _configured(
    rabbitmq_url: str, database: str, tmp_path: Path, forget: Callable[[relevo.App], None]
) -> Iterator[Configure]:
    made: list[relevo.App] = []

    def configured(keys: str) -> Helped:
        options = f'prefix = "helped-{uuid.uuid4().hex[:8]}", levels = 4, settle_in = 0'
        (tmp_path / "relevo.toml").write_text(
            f'source = "shop"\nlisteners = ["shop_listeners"]\n\n[transports]\ndb = "{database}"\n'
            f'main = {{ url = "{rabbitmq_url}", {options}, {keys} }}\n'
        )
        made.append(relevo.App.from_config(tmp_path / "relevo.toml", environ={}))
        made[0].setup()
        return Helped(tmp_path, made[0])

    yield configured
    for app in made:
        forget(app)
        app.close()


def until(condition: Callable[[], Any]) -> Any:
    """Return what *condition* returns once that is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come true")


@pytest.mark.lengthy("waits for an announcement")
def test_one_host_drains_rabbitmq_at_a_time_and_the_status_shows_its_worker(configured: Configure) -> None:
    helped = configured('coordinator = "db"')
    (helped.folder / "shop_listeners.py").write_text(SLOW)
    hosts = [helped.folder / "one", helped.folder / "two"]
    for each in hosts:
        each.mkdir()
    helped.app.dispatch("image.created")

    draining = helped.start("drain", RELEVO_LOCK=str(hosts[0]))
    try:
        until((helped.folder / "begun").exists)
        elsewhere, _, _ = helped.run("drain", RELEVO_LOCK=str(hosts[1]))
        workers = until(lambda: json.loads(helped.run("status --json")[1])[-1]["workers"])
    finally:
        (helped.folder / "go").touch()
        _, err = draining.communicate(timeout=PATIENCE)
    afterwards, _, _ = helped.run("drain", RELEVO_LOCK=str(hosts[1]))

    assert (draining.returncode, err) == (0, "")
    assert (elsewhere, afterwards) == (75, 0)
    assert [(each["holds"], each["running"]) for each in workers] == [(1, ["slow"])]
    assert workers[0]["worker"].endswith(f":{draining.pid}")
    assert json.loads(helped.run("status --json")[1])[-1]["workers"] == []


FAILING = """
import pathlib
import relevo

@relevo.listener("image.created", id="once", retry=relevo.Retry(1))
def once(event):
    pathlib.Path("once").open("a").write("x")

@relevo.listener("image.created", id="fail", retry=relevo.Retry(1))
def fail(event):
    if not pathlib.Path("mended").exists():
        raise ValueError("no such image")
"""


def dead_letters(helped: Helped) -> list[dict[str, Any]]:
    code, out, err = helped.run("dead list --json")
    assert (code, err) == (0, "")
    found: list[dict[str, Any]] = json.loads(out)
    return found


def of_rabbitmq(helped: Helped) -> list[relevo.DeadLetterEntry]:
    """Return the dead letters that RabbitMQ itself has."""
    transport = helped.app.transports["main"]
    assert isinstance(transport, AmqpTransport)
    kept, transport.kept = transport.kept, None
    try:
        return list(transport.dead_letters(["default"]))
    finally:
        transport.kept = kept


def kept_queue(helped: Helped) -> str:
    """Return the queue of the database that has the dead letters of RabbitMQ's queue "default"."""
    transport = helped.app.transports["main"]
    assert isinstance(transport, AmqpTransport)
    return f"outbox/main/{transport._options.prefix}/default"


def test_the_dead_letters_of_rabbitmq_are_in_the_database_and_each_command_finds_them(configured: Configure) -> None:
    helped = configured('dead_letters = "db"')
    (helped.folder / "shop_listeners.py").write_text(FAILING)
    sent = [helped.app.dispatch("image.created", {"number": number}).id for number in range(3)]

    drained = helped.run("drain")

    assert drained[0] == 1, drained
    found = dead_letters(helped)
    assert [each["id"] for each in found] == sent
    assert {(each["transport"], each["queue"], each["reason"]) for each in found} == {
        ("main", "default", "retries-exhausted")
    }
    assert of_rabbitmq(helped) == []
    assert len(helped.app.transports["db"].dead_letters([kept_queue(helped)])) == 3
    number = found[0]["ref"].partition("@")[0]
    code, out, err = helped.run(f"dead show {number}")
    assert (code, err) == (0, "")
    assert "ValueError: no such image" in out
    code, out, err = helped.run("status --json")
    assert (code, err) == (0, "")
    assert [(each["transport"], each["dead"]) for each in json.loads(out)] == [("main", 3)]
    assert helped.run("check --live")[0] == 0

    (helped.folder / "mended").touch()
    assert helped.run(f"dead discard {found[0]['ref']} --yes")[0] == 0
    assert helped.run("dead revive --all")[0] == 0
    assert dead_letters(helped) == []
    assert helped.run("drain")[0] == 0
    assert (helped.folder / "once").read_text() == "xxx", "what was done does not run again"


def test_dead_letters_that_rabbitmq_has_already_move_to_the_database(configured: Configure) -> None:
    helped = configured('coordinator = "db"')
    (helped.folder / "shop_listeners.py").write_text(FAILING)
    sent = [helped.app.dispatch("image.created").id for _ in range(3)]
    assert helped.run("drain")[0] == 1
    before = of_rabbitmq(helped)

    file = helped.folder / "relevo.toml"
    file.write_text(file.read_text().replace("coordinator =", "dead_letters ="))

    code, out, _ = helped.run("status --json")
    assert (code, [each["dead"] for each in json.loads(out)]) == (0, [3])
    assert {each["id"] for each in dead_letters(helped)} == {*sent}, "RabbitMQ may list those of one batch in any order"
    assert of_rabbitmq(helped) == []
    kept = helped.app.transports["db"].dead_letters([kept_queue(helped)])
    assert [(each.reason, each.error, each.state) for each in kept] == [
        (each.reason, each.error, each.state) for each in before
    ]
    assert [round(each.died_at, 5) for each in kept] == [round(each.died_at, 5) for each in before]


def test_a_foreign_event_is_kept_in_the_database_as_it_came(configured: Configure) -> None:
    helped = configured('dead_letters = "db"')
    transport = helped.app.transports["main"]
    assert isinstance(transport, AmqpTransport)
    publish(transport, b'{"number": 7}', PROPERTIES)
    publish(transport, b"\0\xff", pika.BasicProperties(content_type="image/png", headers={"a": [1, b"\xff"]}))
    publish(transport, b"later", pika.BasicProperties(headers={"relevo": 99, "relevo-ref": "r"}))
    helped.app.prepare("main")

    def held(number: int) -> list[relevo.Delivery]:
        found: list[relevo.Delivery] = []

        def all_came() -> bool:
            found.extend(transport.receive(["default"], limit=9, lease=60.0, wait=0.1))
            return len(found) >= number

        until(all_came)
        return found

    came = held(2)  # that of a newer release waits for a worker which can read it
    assert not transport.settle([(each, relevo.DeadLetter(reason="unknown-event")) for each in came])
    entries = transport.dead_letters(["default"])

    assert [each.envelope for each in entries] == [each.envelope for each in came]
    foreign = entries[0].envelope
    assert isinstance(foreign, relevo.ForeignEnvelope)
    assert foreign.original == b'{"number": 7}'
    assert foreign.original_headers == PROPERTIES.headers
    assert not transport.revive({each.ref: b"" for each in entries})
    again = held(2)
    assert [each.envelope for each in again] == [each.envelope for each in came]
    assert [each.attempt for each in again] == [1, 1]
    assert not transport.settle([(each, relevo.Ack()) for each in again])
    assert list(transport.dead_letters(["default"])) == []


def test_an_event_whose_worker_is_cut_off_between_the_steps_is_one_dead_letter_in_the_end(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    helped = configured('dead_letters = "db"')
    event_id = helped.app.dispatch("image.created").id
    config = helped.folder / "relevo.toml"
    with relevo.App.from_config(config, environ={}) as doomed:
        transport, keeper = doomed.transports["main"], doomed.transports["db"]
        assert isinstance(transport, AmqpTransport)
        assert isinstance(keeper, SqlTransport)
        doomed.prepare("main")
        held = until(lambda: transport.receive(["default"], limit=1, lease=60.0, wait=0.1))
        keep = keeper.keep_dead_letters

        def keep_and_vanish(letters: Sequence[relevo.DeadLetterEntry], *, dying: bool) -> Sequence[str]:
            keep(letters, dying=dying)
            transport._abort()
            raise KeyboardInterrupt  # nothing more is done, as in a process that was killed

        monkeypatch.setattr(keeper, "keep_dead_letters", keep_and_vanish)
        with pytest.raises(KeyboardInterrupt):
            transport.settle([(held[0], relevo.DeadLetter(reason="unknown-event", error="first"))])
    other = helped.app.transports["main"]
    assert [each.error for each in other.dead_letters(["default"])] == ["first"]
    (again,) = until(lambda: other.receive(["default"], limit=1, lease=60.0, wait=0.1))
    assert again.lost_leases == 1

    assert not other.settle([(again, relevo.DeadLetter(reason="unknown-event", error="second"))])

    (entry,) = other.dead_letters(["default"])
    assert isinstance(entry.envelope, relevo.Envelope)
    assert (entry.envelope.id, entry.error) == (event_id, "second")


def test_a_drain_needs_the_database_that_keeps_its_dead_letters(configured: Configure, database: str) -> None:
    helped = configured('dead_letters = "db"')
    (helped.folder / "shop_listeners.py").write_text(FAILING)
    helped.app.dispatch("image.created")
    file = helped.folder / "relevo.toml"
    file.write_text(file.read_text().replace(f'"{database}"', '"postgresql://127.0.0.1:1/shop"'))

    drained = helped.run("drain")

    assert drained[0] == 69, drained
    assert not (helped.folder / "once").exists()


PROPERTIES = pika.BasicProperties(
    content_type="application/json",
    correlation_id="c",
    headers={
        "cloudEvents:id": "17",
        "cloudEvents:source": "/cam",
        "cloudEvents:type": "image.created",
        "cloudEvents:specversion": "1.0",
        "other": [1, b"\xff", None, {"a": True}],
    },
)


def publish(transport: AmqpTransport, body: bytes, properties: pika.BasicProperties) -> None:
    """Publish as another program does."""
    connection = pika.BlockingConnection(pika.URLParameters(transport._options.url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish(transport._topology().exchange(Role.MAIN), word("default"), body, properties, mandatory=True)
    connection.close()
