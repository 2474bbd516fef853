"""A state that no worker signed, on every kind of store: it decides for no listener, and the event is not lost."""

from __future__ import annotations

import functools
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pika
import pytest

import relevo
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_amqp._topology import Role, Topology
from relevo_memory import MemoryTransport
from relevo_sql import SqlOptions, SqlTransport

KEY = "ICl1y4JgHHCMPzFuR0eDBVcNmsBqKtd_4-wYpJw2oT8"
DONE = b'{"v":1,"listeners":{"done":["done",1],"fail":["done",1]}}'
PATIENCE = 60.0

Forgery = Callable[[Any], object]
Store = tuple[Callable[[], relevo.Transport], Callable[[Forgery], None]]
"""Opens a transport on a store, and replaces the state of the only event that waits in it."""

FORGERIES: dict[str, Forgery] = {
    "changed": lambda state: state[:-1] + b"?",
    "of a stranger": lambda _: DONE,
    "text": lambda _: DONE.decode(),
    "a number": lambda _: 5,
    "too long": lambda state: state + b" " * relevo.MAX_STATE,
}


@attrs.frozen
class Place:
    """A store, and the application on it, which can be opened again."""

    open: Callable[[], relevo.Transport]
    forge: Callable[[Forgery], None]
    heard: list[str]
    apps: list[relevo.App]

    def app(self) -> relevo.App:
        """Return the application, opened again; one of its two listeners fails at first."""
        for former in self.apps:
            former.close()  # or it would still hold what it was handed
        done = relevo.listener("a.b", id="done", priority=1)(functools.partial(lambda event: self.heard.append("done")))
        again = relevo.Retry(9, first="100ms", factor=1)
        fail = relevo.listener("a.b", id="fail", retry=again)(functools.partial(self._fail_once))
        app = relevo.App(
            transports={"main": self.open()},
            routes={"*": "main"},
            listeners=[done, fail],
            source="shop",
            signing=relevo.Signing(KEY),
        )
        self.apps.append(app)
        return app

    def _fail_once(self, event: relevo.Event) -> None:
        self.heard.append("fail")
        if self.heard.count("fail") == 1:
            raise ValueError


def handle(app: relevo.App) -> relevo.Report:
    """Handle one event."""
    return app.worker(relevo.RunOptions(max_events=1)).run()


def _in_memory(_: pytest.FixtureRequest, __: Path) -> Store:
    transports = [MemoryTransport(name="main")]
    store = transports[0].store

    def forge(forgery: Forgery) -> None:
        (event,) = store._queues["default"].events.values()
        forged = forgery(event.state)
        event.state = forged if isinstance(forged, bytes) else str(forged).encode()  # it holds nothing else

    return lambda: MemoryTransport(store, name="main"), forge


def _on_sqlite(_: pytest.FixtureRequest, folder: Path) -> Store:
    def forge(forgery: Forgery) -> None:
        with closing(sqlite3.connect(folder / "shop.db")) as database, database:
            ((state,),) = database.execute("SELECT progress FROM relevo_event")
            database.execute("UPDATE relevo_event SET progress = ?", (forgery(state),))

    return lambda: SqlTransport.open(
        SqlOptions(url=f"sqlite:///{folder / 'shop.db'}"), name="main", clock=relevo.SystemClock()
    ), forge


def _on_rabbitmq(request: pytest.FixtureRequest, _: Path) -> Store:
    url, prefix = request.getfixturevalue("rabbitmq_url"), f"state-{uuid.uuid4().hex[:8]}"
    topology = Topology(prefix, 0.1, 4)

    def forge(forgery: Forgery) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.confirm_delivery()
        deadline = time.monotonic() + PATIENCE
        while (got := channel.basic_get(topology.queue("default", Role.MAIN)))[0] is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        method, properties, body = got
        properties.headers["relevo-state"] = forgery(properties.headers["relevo-state"])
        channel.basic_publish(topology.exchange(Role.MAIN), "default", body, properties, mandatory=True)
        channel.basic_ack(method.delivery_tag)
        connection.close()

    return lambda: AmqpTransport(AmqpOptions(url=url, prefix=prefix, levels=4, settle_in=0.0)), forge


KINDS = [_in_memory, _on_sqlite, pytest.param(_on_rabbitmq, marks=pytest.mark.amqp)]


@pytest.fixture(name="place", params=KINDS, ids=["memory", "sqlite", "amqp"])
def _place(request: pytest.FixtureRequest, tmp_path: Path, forget: Callable[[relevo.App], None]) -> Iterator[Place]:
    opener, forge = request.param(request, tmp_path)
    place = Place(opener, forge, [], [])
    yield place
    forget(place.apps[-1])
    place.apps[-1].close()


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_state_is_a_dead_letter_and_its_event_is_revived_from_the_beginning(
    place: Place, forgery: Forgery
) -> None:
    app = place.app()
    app.setup()
    app.dispatch(relevo.Event("a.b", {"path": "sea.jpg"}))
    handle(app)
    app.close()
    place.forge(forgery)

    app = place.app()
    report = handle(app)
    (entry,) = app.transport().dead_letters(["default"], after=None, limit=9)
    before = list(place.heard)
    missing = app.transport().revive({entry.ref: app.revived(entry)})
    again = handle(app)

    assert before == ["done", "fail"]
    assert (report.dead, entry.reason) == (1, "forged")
    assert isinstance(entry.envelope, relevo.Envelope)
    assert missing == []
    assert (again.done, again.dead) == (1, 0)
    assert place.heard == ["done", "fail", "done", "fail"]
    assert app.transport().dead_letters(["default"], after=None, limit=9) == []
