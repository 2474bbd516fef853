"""What relevo does with an engine: that of an application is never changed, its own is as safe as can be."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool, StaticPool

from relevo import Ack, DeadLetter, Envelope, Nack
from relevo_sql import SqlTransport

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

WAL_NORMAL, WAL_FULL, ROLLBACK_NORMAL, ROLLBACK_FULL = 1, 2, 2, 3


def levels(transport: SqlTransport) -> list[tuple[str, int]]:
    """Return a list that fills with the first word of each change, and how safe its commit is."""
    seen: list[tuple[str, int]] = []
    engine = transport._database.engine

    def note(connection: sa.Connection, _: Any, statement: str, *__: Any) -> None:
        word = " ".join(statement.split()[:3])
        if word.startswith(("INSERT", "UPDATE", "DELETE")):
            driver: Any = connection.connection.driver_connection
            seen.append((word, driver.execute("PRAGMA synchronous").fetchone()[0]))

    sa.event.listen(engine, "before_cursor_execute", note)
    return seen


def round_trip(transport: SqlTransport, envelope: Envelope) -> None:
    transport.send([envelope])
    (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
    assert delivery.envelope == envelope
    assert not transport.settle([(delivery, Ack())])


def test_sends_survive_a_crash_of_the_host_and_settlements_one_of_the_process(
    opener: Opener, an_envelope: Maker
) -> None:
    transport = opener()
    seen = levels(transport)

    round_trip(transport, an_envelope(1))
    round_trip(transport, an_envelope(2))

    assert seen == 2 * [
        ("INSERT INTO relevo_event", WAL_FULL),
        ("UPDATE relevo_event SET", WAL_NORMAL),
        ("DELETE FROM relevo_event", WAL_NORMAL),
    ]


def test_whoever_will_write_takes_the_lock_before_reading(opener: Opener, an_envelope: Maker) -> None:
    transport = opener()
    transport.send([an_envelope(number) for number in range(2)])
    seen: list[list[str]] = []
    engine = transport._database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *execution: seen.append(execution[2].split()[0:2]))

    one, two = transport.receive(["default"], limit=2, lease=60, wait=0)
    transport.settle([(one, Nack()), (two, DeadLetter(reason="broken"))])

    seen = [words for words in seen if words[0] != "PRAGMA"]
    commands = [words[0] for words in seen]
    assert commands[:2] == ["SELECT", "BEGIN"]
    assert seen.count(["BEGIN", "IMMEDIATE"]) == commands.count("BEGIN") == commands.count("COMMIT") == 2
    assert commands[commands.index("COMMIT") + 1] == "BEGIN"


@pytest.mark.parametrize("mode", ["delete", "truncate", "memory", "off"])
def test_with_a_rollback_journal_all_are_a_level_safer(engine: sa.Engine, an_envelope: Maker, mode: str) -> None:
    sa.event.listen(engine, "connect", lambda driver, _: driver.execute(f"PRAGMA journal_mode = {mode}"))
    with SqlTransport(engine) as transport:
        transport.setup([])
        seen = levels(transport)
        round_trip(transport, an_envelope(1))
        kept = transport._database.read(lambda c: c.exec_driver_sql("PRAGMA journal_mode").scalar())

    assert [level for _, level in seen] == [ROLLBACK_FULL, ROLLBACK_NORMAL, ROLLBACK_NORMAL]
    assert kept == (mode if mode in ("delete", "truncate") else "delete")


def test_an_engine_of_its_own_writes_ahead(opener: Opener, path: Path) -> None:
    opener()

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_applications_database_keeps_its_journal_as_it_is(engine: sa.Engine, path: Path) -> None:
    with SqlTransport(engine) as transport:
        transport.setup([])

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_the_applications_connections_are_as_they_were(engine: sa.Engine, an_envelope: Maker) -> None:
    def settings() -> list[Any]:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            pragmas = ("synchronous", "busy_timeout", "foreign_keys")
            values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
            return [driver.isolation_level, driver.text_factory, driver.row_factory, *values]

    before = settings()
    listeners = len(engine.pool.dispatch.connect), len(engine.dispatch.begin)
    with SqlTransport(engine) as transport:
        transport.setup([])
        round_trip(transport, an_envelope())
        during = settings()
        checked_out = engine.pool.checkedout()  # type: ignore[attr-defined]

    assert before == during == settings()
    assert checked_out == 0
    assert (len(engine.pool.dispatch.connect), len(engine.dispatch.begin)) == listeners


def test_an_application_can_make_its_engine_from_the_url_of_a_transport(opener: Opener, engine: sa.Engine) -> None:
    transport = opener()

    own = sa.create_engine(transport.url)
    with own.connect() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM relevo_event").scalar()
    own.dispose()

    assert found == 0
    assert SqlTransport(engine).url == engine.url


@pytest.mark.parametrize("scheme", ["mariadb", "postgresql"])
@pytest.mark.parametrize(
    "address",
    [
        "shop:not-to-be-shown@127.0.0.1:1/shop",
        "shop@127.0.0.1:1/shop?password=not-to-be-shown",
        "127.0.0.1:1/shop?user=shop&password=not-to-be-shown",
    ],
)
def test_the_url_of_a_transport_has_the_password_and_does_not_show_it(
    opener: Opener, scheme: str, address: str
) -> None:
    url = opener(url=f"{scheme}://{address}", setup=False).url

    assert url.username == "shop"
    assert url.password == "not-to-be-shown"
    assert "not-to-be-shown" not in f"{url} {url!r}"


def test_closing_leaves_the_applications_engine_open(engine: sa.Engine) -> None:
    with SqlTransport(engine) as transport, engine.connect() as connection:
        transport.setup([])
        transport.close()

        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


def test_the_listeners_of_the_application_that_make_a_connection_usable_are_called(
    engine: sa.Engine, an_envelope: Maker
) -> None:
    called = []
    sa.event.listen(engine, "connect", lambda driver, _: called.append(driver))
    with SqlTransport(engine) as transport:
        transport.setup([])
        round_trip(transport, an_envelope())

    assert len(called) == 2, "one connection to set up, one for all that follows"


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _autocommit_off(driver: Any) -> None:
    if hasattr(driver, "autocommit"):
        driver.autocommit = False


@pytest.mark.parametrize(
    "habit",
    [
        lambda driver: setattr(driver, "isolation_level", None),
        lambda driver: setattr(driver, "isolation_level", "EXCLUSIVE"),
        lambda driver: setattr(driver, "row_factory", sqlite3.Row),
        lambda driver: setattr(driver, "row_factory", lambda cursor, row: dict(enumerate(row))),
        lambda driver: setattr(driver, "text_factory", bytes),
        lambda driver: driver.execute("PRAGMA synchronous = OFF"),
        lambda driver: driver.execute("PRAGMA foreign_keys = ON"),
        lambda driver: driver.execute("BEGIN"),
        _autocommit_off,
    ],
    ids=["no level", "exclusive", "rows", "dicts", "bytes", "off", "keys", "begun", "autocommit"],
)
def test_an_application_may_have_habits_of_its_own(
    engine: sa.Engine, an_envelope: Maker, habit: Callable[[Any], object]
) -> None:
    sa.event.listen(engine, "connect", lambda driver, _: habit(driver))
    with SqlTransport(engine) as transport:
        transport.setup([])
        seen = levels(transport)
        round_trip(transport, an_envelope())

    assert [level for _, level in seen] == [ROLLBACK_FULL, ROLLBACK_NORMAL, ROLLBACK_NORMAL]


def test_a_listener_of_all_engines_that_begins_is_put_up_with(engine: sa.Engine, an_envelope: Maker) -> None:
    sa.event.listen(sa.Engine, "begin", _begin)
    try:
        with SqlTransport(engine) as transport:
            transport.setup([])
            round_trip(transport, an_envelope())
    finally:
        sa.event.remove(sa.Engine, "begin", _begin)


@pytest.mark.parametrize("pool", [NullPool, StaticPool])
def test_any_pool_will_do(path: Path, an_envelope: Maker, pool: Any) -> None:
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=pool)
    with SqlTransport(engine) as transport:
        transport.setup([])
        round_trip(transport, an_envelope())
    engine.dispose()


def test_a_pool_of_one_connection_will_do(path: Path, an_envelope: Maker) -> None:
    engine = sa.create_engine(f"sqlite:///{path}", pool_size=1, max_overflow=0, pool_timeout=0.1)
    with SqlTransport(engine) as transport, engine.connect():
        transport.setup([])
        round_trip(transport, an_envelope())
    engine.dispose()


def test_an_engine_with_a_creator_will_do(path: Path, an_envelope: Maker) -> None:
    engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(path, check_same_thread=False))
    with SqlTransport(engine) as transport:
        transport.setup([])
        round_trip(transport, an_envelope())
    engine.dispose()

    assert path.exists()


def test_errors_show_no_event(opener: Opener, an_envelope: Maker, caplog: pytest.LogCaptureFixture) -> None:
    transport = opener()
    with closing(sqlite3.connect(transport._database.location.file)) as connection, connection:
        connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON relevo_event BEGIN SELECT RAISE(ABORT, 'no'); END")

    with pytest.raises(Exception, match="no") as caught:
        transport.send([an_envelope(body=b"the card number")])

    shown = f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}{caplog.text}"
    assert "card number" not in shown


def test_threads_share_a_transport(opener: Opener, an_envelope: Maker) -> None:
    transport = opener()
    received: list[str] = []

    def work(start: int) -> None:
        for number in range(start, start + 50):
            transport.send([an_envelope(number)])
            deliveries = transport.receive(["default"], limit=3, lease=60, wait=0)
            received.extend(d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope))
            assert not transport.settle([(delivery, Ack()) for delivery in deliveries])

    threads = [threading.Thread(target=work, args=[start]) for start in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(received) == len(set(received)) == 200


def test_sending_and_receiving_load_neither_the_orm_nor_the_dialect_of_another_database(path: Path) -> None:
    program = (
        "import sys, sqlalchemy\n"
        "before = set(sys.modules)\n"
        "from relevo import Envelope, SystemClock\n"
        "from relevo_sql import SqlOptions, SqlTransport\n"
        "transport = SqlTransport.open(SqlOptions(url=sys.argv[1]), name='main', clock=SystemClock())\n"
        "transport.setup(['default'])\n"
        "transport.send([Envelope(id='1', source='shop', name='a.done', queue='default', body=b'{}')])\n"
        "assert transport.receive(['default'], limit=1, lease=60.0, wait=0.0)\n"
        "print(*set(sys.modules) - before)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{path}"], capture_output=True, text=True, check=True
    )

    loaded = done.stdout.split()
    assert "relevo_sql" in loaded
    assert [name for name in loaded if name.startswith(("sqlalchemy.orm", "sqlalchemy.dialects.postgresql"))] == []
