"""A transport that keeps the dead letters of another one: the configuration, and the commands that look at it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relevo import App, DeadLetterEntry, Envelope, Event, Transport
from relevo._app.app import parts_of
from relevo._app.unrouted import unrouted_queues
from relevo.backend import DeadLetterOwner
from relevo.errors import ConfigurationError
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport

from .shop import Shop, opened


@pytest.fixture(name="rabbit")
def _rabbit() -> Iterator[Transport]:
    amqp = pytest.importorskip("relevo_amqp")
    with amqp.AmqpTransport("amqp://127.0.0.1:1", name="rabbit") as transport:
        yield transport


@pytest.fixture(name="db")
def _db(tmp_path: Path) -> Iterator[SqlTransport]:
    with SqlTransport(f"sqlite:///{tmp_path}/shop.db", name="db") as transport:
        yield transport


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    pytest.importorskip("relevo_amqp")
    return opened(tmp_path)


def test_the_transport_asks_its_keeper_and_claims_what_the_two_can(rabbit: Any, db: SqlTransport) -> None:
    with App(transports={"rabbit": rabbit, "db": db}, keepers={"rabbit": "db"}) as app:
        assert app.keepers == {"rabbit": db}
        assert rabbit.kept.store is db
        assert (rabbit.capabilities.dead_letters, rabbit.capabilities.settlement) == (True, "sent")
        assert app.transport() is rabbit, "what only keeps dead letters is no default"
        assert app.routes.queues("rabbit") == ("default",)
        assert db in parts_of(app).stores_of("rabbit")


def test_an_address_is_opened_once_and_belongs_to_the_application(rabbit: Any, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/shop.db"
    with App(transports={"rabbit": rabbit}, keepers={"rabbit": address}, coordinators={"rabbit": address}) as app:
        keeper = app.keepers["rabbit"]
        assert keeper is app.coordinators["rabbit"]
        assert keeper.source == app.source
        assert keeper in parts_of(app).stores()


@pytest.mark.parametrize(
    "keepers, why",
    [
        ({"rabit": "db"}, r'keepers: no transport is called "rabit"; did you mean "rabbit"'),
        ({"rabbit": "bd"}, r"keepers: 'rabbit': expected an address .*; got 'bd'; there are: rabbit, db"),
        ({"rabbit": 3}, r"keepers: 'rabbit': expected an address .*; got int"),
        ({"rabbit": "rabbit"}, r'"rabbit" cannot keep the dead letters of "rabbit"; choose a SQL transport'),
        ({"rabbit": "memory://"}, r'"rabbit.dead_letters" cannot keep the dead letters of "rabbit"; choose a SQL'),
        ({"db": "db"}, r'"db" cannot leave its dead letters to another one; remove dead_letters'),
        ([1], "keepers"),
    ],
)
def test_a_keeper_that_cannot_be_one_is_refused_with_the_remedy(
    rabbit: Any, db: SqlTransport, keepers: Any, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        App(transports={"rabbit": rabbit, "db": db}, keepers=keepers)

    assert rabbit.kept is None


def test_problems_of_keepers_are_reported_together_with_their_lines(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        '[transports]\ndb = { url = "sqlite:///shop.db", dead_letters = "db" }\n'
        'one = { url = "amqp://127.0.0.1:1", dead_letters = "bd" }\n'
        'two = { url = "amqp://127.0.0.1:2", dead_letters = "one" }\n[routes]\n"*" = "db"\n',
    )

    done = shop.run("check")

    assert done.returncode == 78
    lines = done.stderr + done.stdout
    assert 'relevo.toml:2: the transport "db" cannot leave its dead letters to another one' in lines
    assert "relevo.toml:3: transports.one.dead_letters: expected the name of a transport" in lines
    assert 'relevo.toml:4: the transport "one" cannot keep the dead letters of "two"' in lines


def test_the_keeper_is_set_up_with_its_transport_checked_and_shown(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        '[transports]\none = { url = "amqp://127.0.0.1:1", dead_letters = "sqlite:///box.db" }\n'
        '[routes]\n"*" = "one"\n',
    )

    checked = shop.run("check --live")
    done = shop.run("setup")
    rows = json.loads(shop.run("transports --json").stdout)

    assert f"there is no database {shop.folder}/box.db yet; created at first use" in checked.stdout
    assert done.returncode == 69
    assert shop.folder.joinpath("box.db").exists()
    assert [row["dead_letters"] for row in rows] == ["one.dead_letters"]


def test_a_transport_that_only_keeps_dead_letters_says_so(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        '[transports]\none = { url = "amqp://127.0.0.1:1", dead_letters = "db" }\ndb = "sqlite:///box.db"\n'
        '[routes]\n"*" = "one"\n',
    )

    assert "stores the dead letters of one" in shop.run("check").stdout


def test_kept_dead_letters_are_reported_once_no_route_leads_to_their_queue(rabbit: Any, db: SqlTransport) -> None:
    db.setup([])
    for queue in ("outbox/rabbit/shop/media", "outbox/rabbit/shop/former"):
        envelope = Envelope(id="1", source="shop", name="image.created", queue="media", body=b"{}")
        db.keep_dead_letters(
            [
                DeadLetterEntry(
                    ref="",
                    queue=queue,
                    envelope=envelope,
                    reason="expired",
                    error="",
                    state=b"",
                    attempt=1,
                    lost_leases=0,
                    enqueued_at=0.0,
                    died_at=0.0,
                )
            ]
        )
    routes = {"*": "rabbit/media"}

    with App(transports={"rabbit": rabbit, "db": db}, keepers={"rabbit": "db"}, routes=routes, source="shop") as app:
        (found,) = unrouted_queues(parts_of(app), [db], own=True)

    assert str(found) == (
        '"db/outbox/rabbit/shop/former" holds dead letters of "rabbit/former", to which no route leads, or which '
        'no longer leaves them here; let it, with dead_letters = "db", and look at them: relevo dead list -t rabbit '
        "-q former"
    )


@pytest.mark.parametrize("name", ["rabbit", "r" * 70, "r" * 300])
def test_two_applications_with_one_database_have_queues_of_their_own_that_fit(name: str, db: SqlTransport) -> None:
    amqp = pytest.importorskip("relevo_amqp")
    queue = "q" * 128
    found = set()
    for source in ("shop", "Shop", "/a/shop", "s" * 200):
        transports = {name: amqp.AmqpTransport("amqp://127.0.0.1:1"), "db": db}
        app = App(transports=transports, keepers={name: "db"}, routes={"*": f"{name}/{queue}"}, source=source)
        found.add(app.transports[name].kept.queue(queue))  # type: ignore[attr-defined]
        app.transports[name].close()

    assert len(found) == 4
    assert all(each.startswith("outbox/") and len(each) <= 255 for each in found)


def test_under_test_memory_keeps_its_own_dead_letters(rabbit: Any, db: SqlTransport) -> None:
    def fail(event: Event) -> None:
        raise ValueError("no such image")

    with App(transports={"rabbit": rabbit, "db": db}, keepers={"rabbit": "db"}, clock=None) as app:
        app.add_listener("image.created", fail, retry=1)
        with app.testing() as t:
            app.dispatch("image.created")
            t.drain(raises=False)
            assert isinstance(app.transport("rabbit"), MemoryTransport)
            assert len(t.dead) == 1
        assert isinstance(app.transport("rabbit"), DeadLetterOwner)
