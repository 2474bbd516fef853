"""What is particular to MariaDB and MySQL: keys, locks of rows, the setup, refusals and errors."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from database_server import DatabaseServer
from relevo import Ack, App, DeadLetter, Delivery, Envelope, Event, Nack, Release, Unreadable
from relevo.errors import ConfigurationError, SendError, SessionError, TransportUnavailableError
from relevo_sql import SqlTransport
from relevo_sql._dialect import Trouble
from relevo_sql._dialect.mariadb import MARIADB, MYSQL, MariadbDialect, kind_of

from .on_mariadb import an_engine, execute, query, seen

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

DEADLOCK, LOCK_WAIT, PACKET = 1213, 1205, 1153


def received(transport: SqlTransport, queue: str = "default", **options: Any) -> list[Delivery]:
    return list(transport.receive([queue], **({"limit": 100, "lease": 60, "wait": 0} | options)))


def ids(deliveries: list[Delivery]) -> list[str]:
    return [each.envelope.id for each in deliveries if isinstance(each.envelope, Envelope)]


@contextmanager
def holding(url: str, statement: str, **options: Any) -> Iterator[sa.Connection]:
    """Yield a connection that executed *statement* and has its transaction open."""
    with an_engine(url, **options) as engine, engine.connect() as connection:
        connection.exec_driver_sql(statement)
        yield connection
        connection.rollback()


@contextmanager
def in_a_thread(work: Callable[[], object]) -> Iterator[list[object]]:
    """Do *work* in a thread during the block; the list that is yielded gets its result."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        thread.join(60)
        assert not thread.is_alive()


def wait_until(met: Callable[[], bool]) -> None:
    """Return when *met* returns true."""
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


WAITS = (
    "SELECT 1 FROM information_schema.innodb_trx JOIN information_schema.processlist ON id = trx_mysql_thread_id "
    "WHERE trx_state = 'LOCK WAIT' AND db = DATABASE()"
)


# --- keys ---------------------------------------------------------------------------------------

ALIKE = ["a", "A", "a ", " a", "\u00e1", "a\u0301", "\uff41", "a\0", "aa"]
"""With an accent, a combined one and a letter of full width; one ends with NUL."""


@pytest.mark.parametrize("field", ["id", "source", "ordering_key"])
def test_texts_that_a_collation_may_equate_are_different_keys(
    opener: Opener, mariadb_database: str, an_envelope: Maker, field: str
) -> None:
    transport = opener(url=mariadb_database)
    sent = [an_envelope(0 if field == "source" else number, **{field: text}) for number, text in enumerate(ALIKE)]

    transport.send(sent)
    transport.send(sent)

    got = [each.envelope for each in received(transport)]
    assert sorted(getattr(each, field) for each in got) == sorted(ALIKE)


def test_queues_that_a_collation_may_equate_are_different_queues(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(1, queue=queue) for queue in ALIKE])

    got = {queue: [each.queue for each in received(transport, queue)] for queue in ALIKE}

    assert got == {queue: [queue] for queue in ALIKE}


def test_the_longest_texts_are_kept_apart(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database)
    long = "😀" * 254
    sent = [
        an_envelope(id=long + a, source=long + b, queue=long + c, ordering_key=long)
        for a in "xy"
        for b in "xy"
        for c in "xy"
    ]

    transport.send(sent)
    transport.send(sent)

    assert transport.stats(long + "x").ready == 4
    assert len(transport.find(long + "y")) == 4
    assert transport.cancel(long + "y") == 4
    assert transport.stats(long + "y").ready == 2


def test_rows_without_an_identity_may_be_alike(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database)

    execute(mariadb_database, *["INSERT INTO relevo_event (queue, event_id, body) VALUES ('default', 'x', '{}')"] * 2)

    assert [type(each.envelope) for each in received(transport)] == [Unreadable, Unreadable]


# --- locks --------------------------------------------------------------------------------------


def test_a_claim_leaves_out_what_another_transaction_has_locked(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(number) for number in range(3)])

    with holding(mariadb_database, "SELECT * FROM relevo_event WHERE event_id = 'id-1' FOR UPDATE"):
        got = received(transport)

    assert ids(got) == ["id-0", "id-2"]


def test_a_settlement_waits_for_another_transaction(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database)
    numbers = seen(transport)
    transport.send([an_envelope(1)])
    (delivery,) = received(transport)

    with (
        holding(mariadb_database, "SELECT * FROM relevo_event FOR UPDATE") as other,
        in_a_thread(lambda: transport.settle([(delivery, Ack())])) as lost,
    ):
        wait_until(lambda: LOCK_WAIT in numbers)  # the server waits for a second, and relevo asks again
        other.rollback()

    assert lost == [[]]
    assert transport.stats("default").leased == 0


def test_the_patience_with_another_transaction_ends(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database, busy_timeout=0.1)
    transport.send([an_envelope(1)])
    (delivery,) = received(transport)

    with (
        holding(mariadb_database, "SELECT * FROM relevo_event FOR UPDATE"),
        pytest.raises(
            TransportUnavailableError, match=r"a row or a table is locked by another transaction for longer than 0\.1 s"
        ),
    ):
        transport.settle([(delivery, Ack())])

    assert transport.settle([(delivery, Ack())]) == []


def test_a_deadlock_is_retried(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database)
    numbers = seen(transport)
    transport.send([an_envelope(number) for number in range(2)])
    first, second = received(transport)
    execute(mariadb_database, "CREATE TABLE heavy (id INT) ENGINE=InnoDB")
    weight = ", ".join(["(1)"] * 1000)  # of two transactions the one that has changed less is rolled back

    with holding(mariadb_database, f"INSERT INTO heavy VALUES {weight}") as other:  # noqa: S608 - of this test
        other.exec_driver_sql("SELECT * FROM relevo_event WHERE event_id = 'id-1' FOR UPDATE")
        with in_a_thread(lambda: transport.settle([(first, Ack()), (second, Release())])) as lost:
            wait_until(lambda: bool(query(mariadb_database, WAITS)))
            other.exec_driver_sql("SELECT * FROM relevo_event WHERE event_id = 'id-0' FOR UPDATE")
            other.rollback()

    assert DEADLOCK in numbers
    assert lost == [[]]
    assert ids(received(transport)) == ["id-1"]


def test_the_next_event_of_a_key_is_chosen_without_waiting_for_the_ones_behind_it(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database, busy_timeout=0.1)
    transport.send([an_envelope(number, ordering_key="k") for number in range(4)])
    (delivery,) = received(transport)

    with holding(mariadb_database, "SELECT * FROM relevo_event WHERE event_id IN ('id-2', 'id-3') FOR UPDATE"):
        transport.settle([(delivery, Ack())])

    assert ids(received(transport)) == ["id-1"]


def test_transactions_choose_the_next_event_of_a_key_one_after_another(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(number, ordering_key="k") for number in range(2)])
    (delivery,) = received(transport)
    dialect, line = transport._database.dialect, ("default", "default", "k")

    with an_engine(mariadb_database) as engine, engine.connect() as other:
        dialect.lock_lines(other, [line])
        with in_a_thread(lambda: transport.settle([(delivery, Ack())])) as lost:
            wait_until(lambda: bool(query(mariadb_database, WAITS)))
            assert lost == []
            other.rollback()

    assert lost == [[]]


def test_a_send_in_a_transaction_of_the_application_keeps_no_claim_waiting(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database, busy_timeout=0.1)
    transport.send([an_envelope(number, urgency="high") for number in range(2)])

    with an_engine(mariadb_database) as engine, engine.connect() as connection:  # under REPEATABLE READ
        connection.exec_driver_sql("SELECT COUNT(*) FROM relevo_event")
        transport.bound_to(connection).send(lambda: [an_envelope(7, urgency="high"), an_envelope(8, ordering_key="k")])
        first = received(transport)
        transport.settle([(each, Nack()) for each in first])
        transport.send([an_envelope(9)])
        again = received(transport)
        connection.commit()

    assert ids(first) == ["id-0", "id-1"]
    assert ids(again) == ["id-0", "id-1", "id-9"]
    assert ids(received(transport)) == ["id-7", "id-8"]


def test_heartbeats_of_two_workers_do_not_wait_for_each_other(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database, busy_timeout=0.1)
    transport.appear("one")
    transport.appear("two")
    execute(mariadb_database, "UPDATE relevo_worker SET seen_at = 0 WHERE worker = 'two'")

    with holding(mariadb_database, "SELECT * FROM relevo_worker WHERE worker = 'two' FOR UPDATE"):
        transport.appear("one")
    transport.appear("one")

    assert {name: each.beats for name, each in transport.presence(["one", "two"]).items()} == {"one": 3}


# --- the setup ----------------------------------------------------------------------------------


def test_a_setup_creates_each_thing_once(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database, setup=False)

    planned = transport.setup([], dry_run=True)
    before = query(mariadb_database, "SHOW TABLES")
    made = transport.setup([])

    assert before == []
    assert made == planned
    assert "index relevo_event_identity" in made
    assert transport.setup([]) == transport.setup([], dry_run=True) == []


def test_two_processes_set_up_at_once(mariadb_database: str) -> None:
    program = (
        "import sys\n"
        "from relevo import SystemClock\n"
        "from relevo_sql import SqlOptions, SqlTransport\n"
        "with SqlTransport.open(SqlOptions(url=sys.argv[1]), name='main', clock=SystemClock()) as transport:\n"
        "    print(len(transport.setup([])))\n"
    )

    processes = [
        subprocess.Popen([sys.executable, "-c", program, mariadb_database], stdout=subprocess.PIPE) for _ in range(3)
    ]
    counts = sorted(int(process.communicate(timeout=60)[0]) for process in processes)

    assert counts[:2] == [0, 0]
    assert counts[2] > 10
    assert query(mariadb_database, "SELECT COUNT(*) FROM relevo_meta") == [(2,)]


def test_a_setup_waits_for_another_one(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database, setup=False)
    transport.setup([], dry_run=True)

    with (
        holding(mariadb_database, "SELECT GET_LOCK(CONCAT('relevo/', SHA1(DATABASE())), 0)") as other,
        in_a_thread(lambda: transport.setup([])) as made,
    ):
        waits = "SELECT 1 FROM information_schema.processlist WHERE state = 'User lock' AND db = DATABASE()"
        wait_until(lambda: bool(query(mariadb_database, waits)))
        assert made == []
        other.exec_driver_sql("SELECT RELEASE_LOCK(CONCAT('relevo/', SHA1(DATABASE())))")

    assert len(made) == 1
    assert isinstance(made[0], list)


def test_a_setup_that_was_interrupted_is_finished(opener: Opener, mariadb_database: str) -> None:
    opener(url=mariadb_database)
    execute(
        mariadb_database,
        "DROP INDEX relevo_event_identity ON relevo_event",
        "DROP TABLE relevo_line",
        "DELETE FROM relevo_meta",
    )

    made = opener(url=mariadb_database, setup=False).setup([])

    assert made == [
        "index relevo_event_identity", "table relevo_line", "the schema's version, 4", "an id of this database",
    ]  # fmt: skip


def test_a_table_without_a_constraint_is_refused(opener: Opener, mariadb_database: str) -> None:
    opener(url=mariadb_database)
    execute(mariadb_database, "ALTER TABLE relevo_event DROP CONSTRAINT relevo_event_state_is_known")

    with pytest.raises(ConfigurationError, match="lacks the constraints relevo_event_state_is_known"):
        opener(url=mariadb_database)


def test_a_view_in_the_place_of_a_table_is_refused(opener: Opener, mariadb_database: str) -> None:
    execute(mariadb_database, "CREATE VIEW relevo_event AS SELECT 1 AS seq")

    with pytest.raises(ConfigurationError, match='"relevo_event" is a view; expected a table'):
        opener(url=mariadb_database)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("10.6.0-MariaDB", MARIADB),
        ("11.8.9-MariaDB-0+deb13u1", MARIADB),
        ("8.0.19", MYSQL),
        ("8.4.3-commercial", MYSQL),
    ],
)
def test_the_version_tells_which_of_the_two_a_server_is(version: str, kind: object) -> None:
    assert kind_of(version) is kind


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("10.5.27-MariaDB-log", r"MariaDB is 10\.5\.27; relevo needs 10\.6 or newer"),
        ("8.0.18", r"MySQL is 8\.0\.18; relevo needs 8\.0\.19 or newer"),
        ("5.7.44-log", r"MySQL is 5\.7\.44;"),
        ("8.0.11-TiDB-v7.5.0", r"MySQL is 8\.0\.11;"),
    ],
)
def test_an_old_server_is_refused(version: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        kind_of(version)


def test_another_driver_is_refused_in_an_address(opener: Opener) -> None:
    with pytest.raises(ConfigurationError, match=r"own connections use mysql\+pymysql; write mariadb://…"):
        opener(url="mariadb+mariadbconnector://localhost/shop")


def test_an_address_without_a_database_is_refused(opener: Opener, mariadb_url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no database; write mariadb://"):
        opener(url=sa.make_url(mariadb_url).set(database="").render_as_string(hide_password=False))


def test_an_engine_whose_updates_count_only_changes_is_refused(mariadb_database: str) -> None:
    def without_flag(_: object, __: object, ___: object, arguments: dict[str, Any]) -> None:
        arguments["client_flag"] = 0

    with an_engine(mariadb_database) as engine:
        sa.event.listen(engine, "do_connect", without_flag)
        pool = sa.pool.NullPool(creator=lambda: engine.dialect.connect(**_arguments(mariadb_database)))
        bare = sa.create_engine(mariadb_database, pool=pool)
        with SqlTransport(bare) as transport, pytest.raises(ConfigurationError, match=r"CLIENT\.FOUND_ROWS"):
            transport.setup([])


def _arguments(url: str) -> dict[str, Any]:
    parsed = sa.make_url(url)
    given = {"host": parsed.host, "port": parsed.port, "user": parsed.username, "password": parsed.password or ""}
    return given | {"database": parsed.database}


@pytest.mark.parametrize("scheme", ["mariadb", "mysql", "mariadb+pymysql", "mysql+pymysql"])
def test_each_scheme_reaches_the_server(opener: Opener, mariadb_database: str, an_envelope: Maker, scheme: str) -> None:
    url = sa.make_url(mariadb_database).set(drivername=scheme).render_as_string(hide_password=False)
    transport = opener(url=url)

    transport.send([an_envelope(1)])

    assert ids(received(transport)) == ["id-1"]


def test_the_sessions_of_the_application_keep_their_settings(opener: Opener, mariadb_database: str) -> None:
    with an_engine(mariadb_database) as engine, SqlTransport(engine) as transport:
        transport.setup([])
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT @@innodb_lock_wait_timeout, @@check_constraint_checks").one()

    assert tuple(found) == (50, 1)


# --- sessions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mariadb+pymysql", "mysql+pymysql"])
def test_a_session_of_either_scheme_is_joined(
    opener: Opener, mariadb_database: str, an_envelope: Maker, scheme: str
) -> None:
    transport = opener(url=mariadb_database)

    with an_engine(sa.make_url(mariadb_database).set(drivername=scheme)) as engine, Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()
        transport.bound_to(session).send(lambda: [an_envelope(2)])
        session.rollback()

    assert ids(received(transport)) == ["id-1"]


def test_a_session_of_another_database_of_the_same_server_is_refused(
    opener: Opener, mariadb_databases: DatabaseServer, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)

    with mariadb_databases.fresh_database() as url, an_engine(url) as engine:
        opener(url=url)
        with engine.connect() as connection, pytest.raises(SessionError, match="uses another database"):
            transport.bound_to(connection)


def test_a_connection_that_commits_each_statement_is_refused(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database)

    with (
        an_engine(mariadb_database, isolation_level="AUTOCOMMIT") as engine,
        engine.connect() as connection,
        pytest.raises(SessionError, match="AUTOCOMMIT"),
    ):
        transport.bound_to(connection)


def test_the_first_dispatch_with_a_session_creates_the_tables_outside_its_transaction(
    opener: Opener, mariadb_database: str
) -> None:
    app = App(transports={"main": opener(url=mariadb_database, setup=False)}, routes={"*": "main"})
    execute(mariadb_database, "CREATE TABLE orders (id INT PRIMARY KEY) ENGINE=InnoDB")

    with app, an_engine(mariadb_database) as engine, Session(engine) as session:
        session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        app.dispatch(Event("order.placed"), session=session)
        session.rollback()

    assert query(mariadb_database, "SELECT COUNT(*) FROM orders") == [(0,)]
    assert query(mariadb_database, "SELECT COUNT(*) FROM relevo_event") == [(0,)]


# --- errors -------------------------------------------------------------------------------------


def test_a_value_that_does_not_fit_into_a_packet_is_refused_with_the_setting(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    limit = query(mariadb_database, "SELECT @@max_allowed_packet")[0][0]

    for size in (limit // 2 + 2**17, limit + 2**20):  # the server ends the connection while the second is being sent
        with pytest.raises(SendError, match=r"cannot hold a value.*max_allowed_packet") as caught:
            transport.send([an_envelope(1, body=b"x" * size)])
        assert list(caught.value.refused) == [0]
    transport.send([an_envelope(2)])

    assert ids(received(transport)) == ["id-2"]


@pytest.mark.parametrize("fields", [{"id": "x" * 256}, {"expires": float("inf")}, {"source": "\ud800"}])
def test_a_value_that_no_column_holds_is_refused(
    opener: Opener, mariadb_database: str, an_envelope: Maker, fields: dict[str, Any]
) -> None:
    transport = opener(url=mariadb_database)

    with pytest.raises(SendError) as caught:
        transport.send([an_envelope(1), an_envelope(**fields)])

    assert list(caught.value.refused) == [0, 1]
    assert transport.stats("default").ready == 0


def test_a_user_without_privileges_is_told_what_is_missing(
    opener: Opener, mariadb_database: str, mariadb_databases: DatabaseServer
) -> None:
    opener(url=mariadb_database)
    parsed = sa.make_url(mariadb_database)
    name = f"reader_{str(parsed.database)[-8:]}"
    execute(
        mariadb_database,
        f"CREATE USER {name} IDENTIFIED BY 'hunter2'",
        f"GRANT SELECT ON {parsed.database}.* TO {name}",
    )
    try:
        url = parsed.set(username=name, password="hunter2").render_as_string(hide_password=False)
        transport = opener(url=url, setup=False)
        with pytest.raises(ConfigurationError, match=r"command denied.*grant what is missing") as caught:
            transport.lock("x", holder="h", ttl=1)
        wrong = parsed.set(username=name, password="wrong").render_as_string(hide_password=False)
        with pytest.raises(ConfigurationError, match=r"Access denied.*\(1045\); grant what is missing, or fix"):
            opener(url=wrong)
    finally:
        execute(mariadb_database, f"DROP USER {name}")
    assert "hunter2" not in str(caught.value)


def test_a_database_that_is_not_there_is_named(opener: Opener, mariadb_database: str) -> None:
    missing = sa.make_url(mariadb_database).set(database="relevo_test_missing")

    with pytest.raises(TransportUnavailableError, match=r'"relevo_test_missing" on .* does not exist; create it with'):
        opener(url=missing.render_as_string(hide_password=False))


def test_a_server_that_is_not_there_is_unavailable(opener: Opener) -> None:
    with pytest.raises(TransportUnavailableError, match="cannot be reached, or ended the connection"):
        opener(url="mariadb://root@127.0.0.1:1/shop")


def test_a_database_without_tables_says_what_to_run(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database, setup=False)

    with pytest.raises(ConfigurationError, match="lacks tables that relevo needs; run: relevo setup"):
        transport.send([an_envelope(1)])


def test_a_connection_that_was_ended_is_opened_again(opener: Opener, mariadb_database: str, an_envelope: Maker) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(1)])

    own = transport._database.read(lambda c: c.exec_driver_sql("SELECT CONNECTION_ID()").scalar())
    execute(mariadb_database, f"KILL {own}")

    assert ids(received(transport)) == ["id-1"]


@pytest.mark.parametrize(
    ("number", "trouble"),
    [
        (1020, Trouble.CONFLICT), (DEADLOCK, Trouble.CONFLICT), (LOCK_WAIT, Trouble.BUSY), (PACKET, Trouble.TOO_BIG),
        (1040, Trouble.CROWDED), (1290, Trouble.READ_ONLY), (1114, Trouble.FULL), (1176, Trouble.NO_TABLE),
        (2013, Trouble.LOST), (4031, Trouble.LOST), (4025, Trouble.OTHER), (9999, Trouble.OTHER),
    ],
)  # fmt: skip
def test_an_error_is_known_by_its_number(number: int, trouble: Trouble) -> None:
    driver = sa.create_engine("mysql+pymysql://").dialect.loaded_dbapi

    error = sa.exc.OperationalError("", (), driver.OperationalError(number, "words"))

    assert MariadbDialect().trouble(error) is trouble


# --- rows of other writers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "flaw"),
    [
        ("state = 9", "the column state holds a number, 9"),
        ("state = -1", "the column state holds a number, -1"),
        ("state = 1", "the column lease_until holds nothing and the row is leased"),
        ("state = 3", "the column ordering_key holds nothing and the row waits for others of its ordering key"),
        ("state = 3, ordering_key = 'k', target = NULL", "the column target holds nothing"),
    ],
)
def test_a_row_that_no_claim_would_find_is_handed_out_as_unreadable(
    opener: Opener, mariadb_database: str, an_envelope: Maker, values: str, flaw: str
) -> None:
    transport = opener(url=mariadb_database)
    transport.send([an_envelope(1), an_envelope(2)])
    execute(
        mariadb_database,
        "SET check_constraint_checks = 0",
        f"UPDATE relevo_event SET {values} WHERE event_id = 'id-1'",  # noqa: S608 - of this test
    )

    counted, problems = transport.stats("default"), transport.problems(["default"])
    stray, sound = received(transport)
    transport.settle([(stray, DeadLetter(reason="r", error="e")), (sound, Ack())])

    assert counted.ready == 2
    assert flaw in problems[0]
    assert isinstance(stray.envelope, Unreadable)
    assert flaw in stray.envelope.why
    assert ids([sound]) == ["id-2"]
    assert (transport.stats("default").ready, transport.stats("default").dead) == (0, 1)


def test_a_row_with_only_a_queue_is_handed_out(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database)

    execute(mariadb_database, "INSERT INTO relevo_event (queue) VALUES ('default')")

    (delivery,) = received(transport)
    assert isinstance(delivery.envelope, Unreadable)
    assert transport.settle([(delivery, DeadLetter(reason="r", error="e"))]) == []
    assert transport.stats("default").dead == 1


def test_a_table_whose_columns_were_changed_is_refused(opener: Opener, mariadb_database: str) -> None:
    opener(url=mariadb_database)
    execute(
        mariadb_database,
        "DROP INDEX relevo_event_stray ON relevo_event",
        "ALTER TABLE relevo_event DROP COLUMN stray",
    )

    with pytest.raises(ConfigurationError, match="lacks the columns stray; something else created or changed it"):
        opener(url=mariadb_database)
