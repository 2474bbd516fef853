"""A transport that coordinates the workers of another one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from relevo import App, Capabilities, Coordinator, Delivery, Envelope, Event, RunOptions, Settlement, Transport
from relevo._app.app import parts_of
from relevo._runner.lock_note import busy_here
from relevo._runner.lock_path import single_flight
from relevo._runner.loop import LoopRunner
from relevo._worker.announcement import LOOK_EVERY, Announcement, HeldEvent, HoldingWorker, holders
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport

from .shop import Shop, opened

DRAIN = RunOptions(until_empty=True)


class Plain(Transport):
    """A transport as RabbitMQ is: several processes share it, it lists no events, and it is no coordinator."""

    capabilities = Capabilities(durability="host", lease="timed", delay=0.001)
    name = "rabbit"

    def __init__(self, clock: FakeClock):
        self.clock = clock
        self.inner = MemoryTransport(clock=clock)

    @classmethod
    def open(cls, options: Any, *, name: str, clock: Any) -> Self:
        raise NotImplementedError

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        return ()

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        self.inner.send(envelopes, delay=delay)

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return self.inner.receive(queues, limit=limit, lease=lease, wait=wait)

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return self.inner.settle(settlements)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="db")
def _db(tmp_path: Path, clock: FakeClock) -> SqlTransport:
    transport = SqlTransport(f"sqlite:///{tmp_path}/shop.db", name="db", clock=clock)
    transport.setup([])
    return transport


@pytest.fixture(name="app")
def _app(tmp_path: Path, db: SqlTransport, clock: FakeClock) -> Any:
    with App(
        transports={"rabbit": Plain(clock), "db": db},
        coordinators={"rabbit": "db"},
        source="shop",
        clock=clock,
        lock=tmp_path,
    ) as app:
        app.add_listener("image.created", lambda event: None, id="see")
        yield app


def test_a_drain_does_nothing_while_another_host_drains(app: App, db: SqlTransport, clock: FakeClock) -> None:
    app.dispatch(Event("image.created"))
    name = single_flight(app, "rabbit", ())._name
    assert db.lock(name, holder="another host", ttl=30.0) is not None

    first = LoopRunner(single_flight=True).run(app, DRAIN)
    clock.advance(31)
    second = LoopRunner(single_flight=True).run(app, DRAIN)

    assert (first.stopped_by, first.done) == ("lock", 0)
    assert (second.stopped_by, second.done) == ("empty", 1)
    assert db.lock(name, holder="another host", ttl=30.0) is not None, "it is given up at the end"


def test_what_only_coordinates_is_neither_the_default_route_nor_served(app: App) -> None:
    assert app.routes.queues("rabbit") == ("default",)
    assert app.transport() is app.transports["rabbit"]


def test_the_coordinator_is_the_chosen_one_else_the_transport_else_its_outbox(
    app: App, db: SqlTransport, clock: FakeClock
) -> None:
    rabbit, other = Plain(clock), MemoryTransport(clock=clock)
    with App(transports={"rabbit": rabbit}, outboxes={"rabbit": db}) as without:
        found: object = parts_of(without).coordinator(rabbit)
    with App(transports={"other": other}, coordinators={"other": db}) as chosen:
        preferred: object = parts_of(chosen).coordinator(other)
    with App(transports={"other": other}) as alone:
        own: object = parts_of(alone).coordinator(other)
    with App(transports={"rabbit": rabbit}) as nobody:
        none: object = parts_of(nobody).coordinator(rabbit)

    assert (found, preferred, own, none) == (db, db, other, None)


def test_two_transports_of_a_process_announce_apart_and_with_their_names(
    app: App, db: SqlTransport, clock: FakeClock
) -> None:
    seen: list[dict[str, dict[str, HoldingWorker]]] = []

    def look(event: object, call: Any) -> None:
        for worker in workers:
            clock.advance(LOOK_EVERY)
            worker._announcer.keep_up()
            clock.advance(LOOK_EVERY)
            worker._announcer.keep_up()
        said = list(db.workers().values())
        seen.append({name: {key[2]: each for key, each in holders(said, name).items()} for name in ("", "rabbit")})

    app.add_listener("image.created", look, id="look")
    sent = app.dispatch(Event("image.created"))
    beside: Any = app.worker(RunOptions(transport="db"))
    (held,) = db_holding(db)
    beside._ledger.hold([held])
    worker: Any = app.worker(RunOptions(transport="rabbit", until_empty=True))
    workers = [beside, worker]

    worker.run()

    (found,) = seen
    assert set(found[""]) == {held.envelope.id}
    assert {key: each.listener for key, each in found["rabbit"].items()} == {sent.id: "look"}
    assert len(db.workers()) == 1, "the worker that has ended withdrew its own"


def db_holding(db: SqlTransport) -> Sequence[Any]:
    db.send([Envelope(id="mine", source="shop", name="image.created", body=b"{}")])
    return db.receive(["default"], limit=1, lease=3600.0, wait=0.0)


def test_what_runs_here_is_known_from_the_coordinator(app: App, db: SqlTransport) -> None:
    here = Announcement(1, os.uname().nodename, 42, [HeldEvent("default", "shop", "1", "see")], "rabbit")
    db.announce("a1", here.packed(), ttl=3600.0)

    assert busy_here(app) == busy_here(app, "rabbit") == {42: ["see"]}


def test_an_announcement_of_an_earlier_release_is_about_the_coordinator_itself() -> None:
    old = b'{"v":1,"host":"web-1","pid":7,"held":[["default","shop","1",""]]}'

    assert list(holders([old])) == [("default", "shop", "1")]
    assert not holders([old], "rabbit")


@pytest.mark.parametrize(
    "coordinators, why",
    [
        ({"rabit": "db"}, r'coordinators: no transport is called "rabit"; did you mean "rabbit"'),
        ({"rabbit": "bd"}, r"coordinators: 'rabbit': expected an address .*; got 'bd'; there are: rabbit, db"),
        ({"rabbit": 3}, r"coordinators: 'rabbit': expected an address .*; got int"),
        ({"db": "rabbit"}, r'the coordinator "rabbit" has no locks, .* workers of "db"; choose a SQL transport'),
        ({"rabbit": "memory://"}, r'"rabbit.coordinator" is in the memory of one process, .* choose a SQL transport'),
        ([1], "coordinators"),
    ],
)
def test_a_coordinator_that_cannot_be_one_is_refused_with_the_remedy(
    db: SqlTransport, clock: FakeClock, coordinators: Any, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        App(transports={"rabbit": Plain(clock), "db": db}, coordinators=coordinators)


def test_memory_may_coordinate_memory() -> None:
    with App(transports={"main": "memory://", "other": "memory://"}, coordinators={"main": "other"}) as app:
        assert isinstance(app.coordinators["main"], Coordinator)


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    pytest.importorskip("relevo_amqp")
    return opened(tmp_path)


def test_the_configuration_names_the_coordinator_or_its_address(tmp_path: Path) -> None:
    pytest.importorskip("relevo_amqp")
    file = tmp_path / "relevo.toml"
    twice = 'outbox = "sqlite:///shop.db", coordinator = "sqlite:///shop.db"'
    file.write_text(
        '[transports]\ndb = "sqlite:///other.db"\nnamed = { url = "amqp://127.0.0.1:1", coordinator = "db" }\n'
        f'addressed = {{ url = "amqp://127.0.0.1:2", {twice} }}\n[routes]\n"*" = "named"\n'
    )

    with App.from_config(file, environ={}) as app:
        assert app.coordinators["named"] is app.transports["db"]
        assert app.coordinators["addressed"] is app.outboxes["addressed"]


def test_problems_of_coordinators_are_reported_together_with_their_lines(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        '[transports]\ndb = "sqlite:///shop.db"\n'
        'one = { url = "amqp://127.0.0.1:1", coordinator = "bd" }\n'
        'two = { url = "amqp://127.0.0.1:2", coordinator = "one" }\n'
        'three = { url = "amqp://127.0.0.1:3", coordinator = "memory://" }\n[routes]\n"*" = "db"\n',
    )

    done = shop.run("check")

    assert done.returncode == 78
    lines = done.stderr + done.stdout
    assert "relevo.toml:3: transports.one.coordinator: expected the name of a transport" in lines
    assert "got neither; there are: db, one, two, three" in lines
    assert 'relevo.toml:4: the coordinator "one" has no locks' in lines
    assert 'relevo.toml:5: the coordinator "three.coordinator" is in the memory of one process' in lines


def test_the_status_shows_the_workers_of_a_transport_that_cannot_list_its_events(shop: Shop) -> None:
    shop.write("shop.py", IN_CODE)
    announced(shop, "a1", Announcement(1, "web-1", 4242, [HeldEvent("media", "shop", "1", "thumbnails")], "rabbit"))
    announced(
        shop,
        "b2",
        Announcement(
            1, "web-2", 17, [HeldEvent("media", "shop", "2"), HeldEvent("media", "shop", "3", "rate")], "rabbit"
        ),
    )
    announced(shop, "c3", Announcement(1, "web-3", 1, [HeldEvent("media", "shop", "1")], "another"))

    done, as_json = shop.run("status"), shop.run("status --json")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == [
        "web-1:4242 holds 1 event of rabbit/media; it runs thumbnails",
        "web-2:17 holds 2 events of rabbit/media; it runs rate",
    ]
    rows = {(row["transport"], row["queue"]): row["workers"] for row in json.loads(as_json.stdout)}
    assert rows == {
        ("rabbit", "media"): [
            {"worker": "web-1:4242", "holds": 1, "running": ["thumbnails"]},
            {"worker": "web-2:17", "holds": 2, "running": ["rate"]},
        ],
        ("rabbit", "feed"): [],
        ("alone", "default"): None,
    }


IN_CODE = f"""
import relevo
from {__name__} import Plain
from relevo.testing import FakeClock

app = relevo.App(
    transports={{"rabbit": Plain(FakeClock()), "alone": Plain(FakeClock())}},
    coordinators={{"rabbit": "sqlite:///shop.db"}},
    routes={{"image.*": ["rabbit/media", "rabbit/feed"], "*": "alone"}},
)
"""


def announced(shop: Shop, worker: str, said: Announcement) -> None:
    with SqlTransport(f"sqlite:///{shop.folder / 'shop.db'}") as store:
        store.setup([])
        store.announce(worker, said.packed(), ttl=60.0)


def test_the_status_goes_on_without_its_coordinator(shop: Shop) -> None:
    shop.write("shop.py", IN_CODE)
    shop.folder.joinpath("shop.db").mkdir()

    done = shop.run("status -t rabbit --json")

    assert [row["workers"] for row in json.loads(done.stdout)] == [None, None]
    assert "the workers that hold events are unknown" in done.stderr


def test_the_coordinator_is_set_up_with_its_transport_and_checked(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        '[transports]\none = { url = "amqp://127.0.0.1:1", coordinator = "sqlite:///box.db" }\n[routes]\n"*" = "one"\n',
    )

    checked = shop.run("check --live")
    done = shop.run("setup")
    rows = json.loads(shop.run("transports --json").stdout)

    assert f"there is no database {shop.folder}/box.db yet; created at first use" in checked.stdout
    assert done.returncode == 69
    assert shop.folder.joinpath("box.db").exists()
    assert [row["coordinator"] for row in rows] == ["one.coordinator"]


def test_under_test_the_coordinator_is_in_memory_too(app: App, db: SqlTransport) -> None:
    with app.testing() as t:
        assert isinstance(app.coordinators["rabbit"], MemoryTransport)
        app.dispatch(Event("image.created"))
        t.drain()
    assert app.coordinators == {"rabbit": db}
