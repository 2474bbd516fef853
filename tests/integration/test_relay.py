"""Relays that are killed with events in flight: nothing is lost, little is sent twice, and keys keep their order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from _pytest.mark import ParameterSet

import relevo
from relevo_sql import database_url

EVENTS, KEYS = 1000, 30
AT_ONCE = 2
"""The relays that run at once."""

MOMENTS = ("before a batch is sent", "after a batch was sent", "after a batch was recorded")
MOST_TWICE = 1 + 2 + 4 + 8 + 16 + 32
"""The most events that are sent twice for each relay that was killed: those of its six batches."""

PATIENCE = 300.0

KILLED = """
import os, signal, sys
import relevo

calls = 0

def killing(call, *, before):
    def wrapped(*args, **how):
        global calls
        calls += 1
        if before and calls == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **how)
        if calls >= 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

app = relevo.App.from_config("relevo.toml")
store, name = app.transport(), "send"
if sys.argv[1] == "after a batch was recorded":
    store, name = app.outboxes["main"], "settle"
setattr(store, name, killing(getattr(store, name), before=sys.argv[1] == "before a batch is sent"))
app.relay("main").run()
"""
"""Runs a relay that kills itself at its sixth batch, at the moment that the argument says."""


@pytest.fixture(name="outbox")
def _outbox(request: pytest.FixtureRequest) -> str:
    return "sqlite:///box.db" if request.param == "sqlite" else str(request.getfixturevalue("postgresql_database"))


@pytest.fixture(name="main")
def _main(request: pytest.FixtureRequest) -> str:
    """Return the address and the options of the transport that the relays move the events to."""
    if request.param == "sqlite":
        return 'url = "sqlite:///main.db"'
    options = f'prefix = "relay-{uuid.uuid4().hex[:8]}", levels = 4, settle_in = 0'
    return f'url = "{request.getfixturevalue("rabbitmq_url")}", {options}'


def _pair(outbox: str, main: str, *marks: pytest.MarkDecorator) -> ParameterSet:
    servers = [getattr(pytest.mark, name) for name in (outbox, main) if name != "sqlite"]
    slow = [pytest.mark.slow("about a server, not Python")] if servers else []
    return pytest.param(outbox, main, marks=[*servers, *slow, *marks], id=f"{outbox}-{main}")


@pytest.mark.lengthy("starts processes and kills them")
@pytest.mark.parametrize(
    ("outbox", "main"),
    [
        _pair("sqlite", "sqlite"),
        _pair("postgresql", "amqp"),
        # Each of their stores is in one of the two pairs above.
        _pair("sqlite", "amqp", pytest.mark.soak),
        _pair("postgresql", "sqlite", pytest.mark.soak),
    ],
    indirect=True,
)
def test_relays_that_are_killed_lose_nothing_and_keep_the_order_of_each_key(
    tmp_path: Path, outbox: str, main: str, monkeypatch: pytest.MonkeyPatch, forget: Callable[[relevo.App], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relevo.toml").write_text(
        f'source = "shop"\nlease = "2s"\n\n[transports]\nmain = {{ {main}, outbox = "{outbox}" }}\n'
    )
    with relevo.App.from_config("relevo.toml", environ={}) as app:
        app.setup()
        is_ordered = app.transport().capabilities.order == "per key"
        _dispatch(app, is_ordered=is_ordered)

        killed = [_run_at_once("-c", KILLED, moment) for moment in MOMENTS]
        while _left(app):
            assert _run_at_once("-m", "relevo", "relay", "--until-empty") == [0] * AT_ONCE

        arrived = _received(app)
        forget(app)
    firsts = list(dict.fromkeys(arrived))
    assert killed == [[-9] * AT_ONCE] * len(MOMENTS)
    assert sorted(firsts) == list(range(EVENTS))
    assert len(arrived) - EVENTS <= len(MOMENTS) * AT_ONCE * MOST_TWICE
    for key in range(KEYS if is_ordered else 0):
        of_key = [number for number in firsts if number % KEYS == key]
        assert of_key == sorted(of_key)


def _dispatch(app: relevo.App, *, is_ordered: bool) -> None:
    """Commit events with the numbers from 0, whose ordering keys take turns, to the outbox."""
    engine = sa.create_engine(database_url(app))
    with engine.begin() as connection:
        for number in range(EVENTS):
            key = str(number % KEYS) if is_ordered else None
            app.dispatch("number.drawn", {"number": number}, session=connection, ordering_key=key)
    engine.dispose()


def _run_at_once(*words: str) -> list[int]:
    """Run Python with *words* in several processes at once; return their exit codes."""
    command: Sequence[str] = [sys.executable, *words]
    running = [subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL) for _ in range(AT_ONCE)]
    return [process.wait(PATIENCE) for process in running]


def _left(app: relevo.App) -> int:
    stats = app.outboxes["main"].stats("outbox/main")
    return (stats.ready or 0) + (stats.leased or 0) + (stats.scheduled or 0)


def _received(app: relevo.App) -> list[int]:
    """Receive and ack everything; return the numbers in the order in which they were received."""
    numbers: list[int] = []
    while batch := app.transport().receive(["default"], limit=250, lease=600.0, wait=1.0):
        app.transport().settle([(delivery, relevo.Ack()) for delivery in batch])
        bodies = [each.envelope.body for each in batch if isinstance(each.envelope, relevo.Envelope)]
        numbers += [json.loads(body)["data"]["number"] for body in bodies]
    return numbers
