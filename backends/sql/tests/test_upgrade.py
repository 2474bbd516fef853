"""
An upgrade of the tables that an older release has created and filled.

``old_tables`` has a file for each version on each database. The release of that time has made it, from one program: a
number is in the arguments of each event. The tables of version 1 and 2 existed on SQLite only.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings, strategies as st

from database_server import DatabaseServer
from relevo import App, Envelope, Event, Retry, RunOptions, listener
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport, _database, _setup
from relevo_sql._schema import SCHEMA

from .command_line import configure, old_tables, relevo, run_script, tables_of
from .on_server import an_engine, execute, in_a_thread, query
from .test_rights import Server, grants, without

pytestmark = pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]
Filler = Callable[[], AbstractContextManager[str]]

SENT = 1_700_000_000.0
"""When the events were sent, and two of them handled; the others were sent a second later."""

LEASED_UNTIL = SENT + 61

OLD = [
    pytest.param(("sqlite", 1), id="sqlite-1"),
    pytest.param(("sqlite", 2), id="sqlite-2"),
    pytest.param(("sqlite", 3), id="sqlite-3"),
    pytest.param(("postgresql", 3), id="postgresql-3", marks=pytest.mark.postgresql),
    pytest.param(("mariadb", 3), id="mariadb-3", marks=pytest.mark.mariadb),
]

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "upgrade-the-tables.md"

TABLES = ("relevo_event", "relevo_dead", "relevo_lock")

NEW = {"begun": None, "deaths": None, "leased_at": None}
"""The columns of an event that version 1 lacks."""


@pytest.fixture(name="kind", params=OLD)
def _kind(request: pytest.FixtureRequest) -> tuple[str, int]:
    """Return a database, and the version of the tables in it."""
    found: tuple[str, int] = request.param
    return found


@pytest.fixture(name="empty")
def _empty(request: pytest.FixtureRequest, kind: tuple[str, int], tmp_path: Path) -> Filler:
    """Return what makes an empty database and yields its URL."""
    database, _ = kind
    if database == "sqlite":
        numbers = count()
        return lambda: nullcontext(f"sqlite:///{tmp_path}/old-{next(numbers)}.db")
    server: DatabaseServer = request.getfixturevalue(f"{database}_databases")
    return server.fresh_database


@pytest.fixture(name="filled")
def _filled(kind: tuple[str, int], empty: Filler) -> Filler:
    """Return what makes a database with the old tables and yields its URL."""

    @contextmanager
    def fill() -> Iterator[str]:
        with empty() as url:
            run_script(url, old_tables(*kind))
            yield url

    return fill


@pytest.fixture(name="url")
def _url(filled: Filler) -> Iterator[str]:
    with filled() as url:
        yield url


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock(LEASED_UNTIL + 1)


@pytest.fixture(name="old")
def _old(opener: Opener, clock: FakeClock, url: str) -> SqlTransport:
    """Return a transport on the old tables."""
    return opener(clock, url=url, setup=False)


@pytest.fixture(name="first")
def _first(path: Path) -> Path:
    """Return a file with the first tables of all."""
    run_script(f"sqlite:///{path}", old_tables("sqlite", 1))
    return path


def rows_of(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return all rows that old tables have, with the present names of their columns."""
    with an_engine(url) as engine, engine.connect() as connection:
        return {
            table: [
                {name.replace("losses", "lost_leases"): value for name, value in row.items()}
                for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1").mappings()  # noqa: S608
            ]
            for table in TABLES
        }


def versions(url: str) -> dict[str, str]:
    """Return what relevo_meta records."""
    return dict(query(url, "SELECT * FROM relevo_meta"))


def handled(transport: SqlTransport, clock: FakeClock, **options: Any) -> list[tuple[str, int]]:
    """Handle all that is due, and return which listener was called with which number."""
    calls: list[tuple[str, int]] = []

    @listener("image.created", id="steady", priority=10)
    def steady(event: Event) -> None:
        calls.append(("steady", event["n"]))

    @listener("image.created", id="flaky", retry=Retry(3, first="10m"))
    def flaky(event: Event) -> None:
        calls.append(("flaky", event["n"]))

    app = App(
        transports={"main": transport}, routes={"*": "main"}, listeners=[steady, flaky], source="shop", clock=clock
    )
    app.worker(RunOptions(until_empty=True, **options)).run()
    return calls


def of_both(*numbers: int) -> list[tuple[str, int]]:
    """Return the calls of both listeners with each of *numbers*."""
    return [(name, number) for number in numbers for name in ("steady", "flaky")]


# --- what is kept --------------------------------------------------------------------------------------


def test_every_event_and_dead_letter_is_handled_after_an_upgrade(old: SqlTransport, clock: FakeClock, url: str) -> None:
    old.upgrade([])

    # Number 2 is urgent, 7 to 9 have an ordering key, 10 was leased, and 5 has failed in one of two listeners.
    first = handled(old, clock)
    assert first[:2] == of_both(2)
    assert sorted(first) == sorted(of_both(1, 2, 3, 7, 8, 9, 10, 11))
    assert [call for call in first if call[1] in (7, 8, 9)] == of_both(7, 8, 9)
    assert [call for call in first if call[1] in (1, 3, 11)] == of_both(1, 3, 11)
    clock.advance(SENT + 631 - clock.now())
    assert handled(old, clock) == [("flaky", 5)]
    clock.advance(SENT + 3602 - clock.now())
    assert handled(old, clock) == of_both(4)
    clock.advance(SENT + 7202 - clock.now())
    assert handled(old, clock) == of_both(12, 13)
    (entry,) = old.dead_letters(["default"])
    assert (entry.reason, isinstance(entry.envelope, Envelope)) == ("gave-up", True)
    app = App(transports={"main": old}, routes={"*": "main"}, source="shop", clock=clock)
    old.revive({entry.ref: app.revived(entry)})
    assert handled(old, clock) == [("flaky", 6)]
    assert (old.held_queues(), rows_of(url)["relevo_event"]) == ([], [])


def test_an_upgrade_changes_no_row(old: SqlTransport, url: str) -> None:
    before, database = rows_of(url), versions(url)["database"]

    old.upgrade([])

    after = rows_of(url)
    assert after == before | {"relevo_event": [NEW | row for row in before["relevo_event"]]}
    assert len(after["relevo_event"]) == 12
    assert versions(url) == {"schema": str(SCHEMA), "database": database}


def test_upgraded_tables_are_equal_to_new_ones(old: SqlTransport, opener: Opener, url: str, empty: Filler) -> None:
    old.upgrade([])

    with empty() as new:
        opener(url=new).close()
        assert tables_of(url, in_order=False) == tables_of(new, in_order=False)
    assert old.setup([]) == []


def test_new_rows_and_refs_follow_the_old_ones(old: SqlTransport, url: str, an_envelope: Maker) -> None:
    old.upgrade([])
    for each in old.dead_letters(["default"]):
        old.discard([each.ref])

    old.send([an_envelope(1)])

    seqs = [row["seq"] for row in rows_of(url)["relevo_event"]]
    assert seqs == sorted(seqs)
    (delivery,) = old.take("default", "id-1", lease=60)
    old.dead_letter(delivery, reason="rejected")
    assert [row["ref"] for row in rows_of(url)["relevo_dead"]] == [2]


# --- what is refused -----------------------------------------------------------------------------------


def test_without_an_upgrade_everything_is_refused_and_names_it(
    old: SqlTransport, url: str, kind: tuple[str, int], an_envelope: Maker
) -> None:
    before = rows_of(url)

    for call in (
        lambda: old.setup([]),
        lambda: old.setup([], dry_run=True),
        lambda: old.send([an_envelope()]),
        lambda: old.receive(["default"], limit=1, lease=60, wait=0),
        lambda: old.stats("default"),
    ):
        with pytest.raises(ConfigurationError, match=rf"older relevo .schema '{kind[1]}'.*: relevo setup --upgrade$"):
            call()

    assert rows_of(url) == before


def test_an_upgrade_waits_for_the_end_of_a_lease(opener: Opener, url: str, kind: tuple[str, int]) -> None:
    clock = FakeClock(LEASED_UNTIL - 20)
    old, before = opener(clock, url=url, setup=False), rows_of(url)

    with pytest.raises(TransportUnavailableError, match=r"hold events in .*: 1, .* ends in 20 s, .* stop all"):
        old.upgrade([])

    assert (rows_of(url), versions(url)["schema"]) == (before, str(kind[1]))
    clock.advance(21)
    assert old.upgrade([])


@pytest.mark.parametrize("version", ["0", "3 portable", "3.5", "none"])
def test_a_version_that_never_was_is_not_upgraded(opener: Opener, path: Path, version: str) -> None:
    transport = opener()
    execute(f"sqlite:///{path}", f"UPDATE relevo_meta SET value = '{version}' WHERE key = 'schema'")  # noqa: S608

    calls: list[Callable[[], object]] = [lambda: transport.upgrade([]), lambda: transport.upgrade_script([])]
    for call in calls:
        with pytest.raises(ConfigurationError, match=r"older relevo .* drop the tables that begin with relevo_"):
            call()


def test_what_an_upgrade_makes_untrue_is_forgotten(old: SqlTransport, url: str) -> None:
    execute(url, "INSERT INTO relevo_meta VALUES ('oldest', '1')")

    old.upgrade([])

    assert "oldest" not in versions(url)


@pytest.mark.parametrize("kind", OLD[-1:], indirect=True)
@pytest.mark.slow("about the rights of a server's user")
def test_the_rights_on_the_page_are_needed_and_enough(opener: Opener, clock: FakeClock, url: str) -> None:
    server = Server("mariadb", url, execute, [])
    pieces = [piece for grant in grants("mariadb", "shop_deploy") for piece in without(grant)]
    (granted,) = re.findall("GRANT .*(?=;)", PAGE.read_text())
    more = without(granted)

    def deployer(rights: list[str]) -> SqlTransport:
        return opener(clock, url=server.user("shop_deploy", [*pieces, *rights]), setup=False)

    try:
        for left_out in more:
            with pytest.raises(ConfigurationError, match=left_out.split()[1]):
                deployer([each for each in more if each != left_out]).upgrade([])

        assert deployer(more).upgrade([])
    finally:
        server.drop_users()


@pytest.mark.parametrize("table", ["relevo_event", "relevo_meta"])
def test_a_view_in_place_of_a_table_is_named_before_anything_changes(old: SqlTransport, url: str, table: str) -> None:
    execute(url, f"ALTER TABLE {table} RENAME TO aside", f"CREATE VIEW {table} AS SELECT * FROM aside")  # noqa: S608 - our own names
    before = versions(url)

    calls: list[Callable[[], object]] = [
        lambda: old.upgrade([]),
        lambda: old.upgrade([], dry_run=True),
        lambda: old.upgrade_script([]),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match=f'"{table}" is a view; expected a table'):
            call()

    assert versions(url) == before


def test_a_table_that_is_missing_is_created_as_planned(old: SqlTransport, url: str, an_envelope: Maker) -> None:
    execute(url, "DROP TABLE relevo_event")
    planned = old.upgrade([], dry_run=True)

    done = old.upgrade([])

    assert done == planned
    assert "table relevo_event" in done
    old.send([an_envelope()])


# --- interruptions -------------------------------------------------------------------------------------


class Cut(BaseException):
    """The end of a process, as the transport sees it."""


def cut_after(transport: SqlTransport, number: int) -> None:
    """Raise :class:`Cut` after *number* statements that change something."""
    left = count(number, -1)

    @sa.event.listens_for(transport._database.engine, "before_cursor_execute")
    def cut(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().startswith(("ALTER", "CREATE", "DROP", "INSERT", "UPDATE", "DELETE")) and next(left) <= 0:
            raise Cut


def test_an_upgrade_that_was_interrupted_anywhere_is_finished_by_the_next(
    opener: Opener, clock: FakeClock, filled: Filler, old: SqlTransport, url: str
) -> None:
    old.upgrade([])
    rows, tables = rows_of(url), tables_of(url, in_order=False)
    for number in count():
        with filled() as cut:
            interrupted = opener(clock, url=cut, setup=False)
            cut_after(interrupted, number)
            try:
                interrupted.upgrade([])
            except Cut:
                pass
            else:
                break
            finally:
                interrupted.close()
            opener(clock, url=cut, setup=False).upgrade([])
            assert (rows_of(cut), tables_of(cut, in_order=False)) == (rows, tables), number
    assert number >= 4


KILLED = """
import os, sys
import sqlalchemy as sa
from relevo.testing import FakeClock
from relevo_sql import SqlOptions, SqlTransport

transport = SqlTransport.open(SqlOptions(url=sys.argv[1]), name="main", clock=FakeClock(float(sys.argv[2])))

@sa.event.listens_for(transport._database.engine, "after_cursor_execute")
def die(connection, cursor, statement, *_):
    if "leased_at" in statement:
        os.kill(os.getpid(), 9)

transport.upgrade([])
"""


def test_an_upgrade_whose_process_was_killed_is_finished_by_the_next(
    old: SqlTransport, clock: FakeClock, url: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), url, str(clock.now())], check=False, timeout=60
    )

    assert killed.returncode == -9
    assert versions(url)["schema"] != str(SCHEMA)
    old.upgrade([])
    assert len(handled(old, clock)) == len(of_both(1, 2, 3, 7, 8, 9, 10, 11))


def test_of_upgrades_at_a_time_one_does_it(opener: Opener, clock: FakeClock, url: str) -> None:
    transports = [opener(clock, url=url, setup=False) for _ in range(3)]
    start = threading.Barrier(len(transports))
    done: list[Sequence[str]] = []

    def upgrade(transport: SqlTransport) -> None:
        start.wait()
        done.append(transport.upgrade([]))

    threads = [threading.Thread(target=upgrade, args=[each]) for each in transports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(bool, done)) == [False, False, True]


def test_an_upgrade_in_the_middle_of_the_inspection_of_another_is_seen(
    opener: Opener, clock: FakeClock, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (opener(clock, url=url, setup=False) for _ in range(2))
    dialect = type(one._database.dialect)
    step_from, upgraded = dialect.step_from, list[Sequence[str]]()

    def step_after_another_upgrade(self: Any, connection: sa.Connection, version: int) -> Any:
        if not upgraded:
            upgraded.append(())
            upgraded.append(other.upgrade([]))
        return step_from(self, connection, version)

    monkeypatch.setattr(dialect, "step_from", step_after_another_upgrade)

    assert not one.upgrade([])
    assert upgraded[1]


def test_an_upgrade_waits_for_another_writer_as_long_as_a_send_does(
    first: Path, opener: Opener, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_database, "_SETTING_UP", 0.0)
    transport = opener(clock, setup=False)
    refused = threading.Event()
    sa.event.listen(transport._database.engine, "handle_error", lambda _: refused.set())

    with closing(sqlite3.connect(first, isolation_level=None, check_same_thread=False)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("BEGIN IMMEDIATE")
        with in_a_thread(lambda: transport.upgrade([])) as done:
            assert refused.wait(60)
            writer.execute("ROLLBACK")

    assert done[0]
    assert not isinstance(done[0], Exception)


def lock_tables(connection: sa.Connection, name: str) -> None:
    """Lock what an upgrade has to change, in a transaction that stays open."""
    if name == "sqlite":
        connection.exec_driver_sql("UPDATE relevo_meta SET value = value")
    elif name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE relevo_event IN SHARE MODE")
    else:
        connection.exec_driver_sql("SELECT COUNT(*) FROM relevo_event")  # an ALTER waits for each transaction


def test_an_upgrade_that_is_blocked_says_what_to_stop_and_names_no_dispatch(
    opener: Opener, clock: FakeClock, url: str, kind: tuple[str, int]
) -> None:
    old = opener(clock, url=url, setup=False, busy_timeout=0.1)
    writer = sa.create_engine(old.url)

    with writer.connect() as connection, connection.begin():
        lock_tables(connection, writer.dialect.name)
        with pytest.raises(TransportUnavailableError, match="stop all programs") as caught:
            old.upgrade([])
    writer.dispose()

    assert "dispatch" not in str(caught.value)
    assert "this thread" not in str(caught.value)
    assert old.upgrade([])


# --- the command line ----------------------------------------------------------------------------------


@pytest.mark.slow("starts a process for each command")
@pytest.mark.parametrize("kind", [OLD[0], *OLD[3:]], indirect=True)
def test_the_command_line_plans_prints_and_does_an_upgrade(
    tmp_path: Path, url: str, kind: tuple[str, int], filled: Filler
) -> None:
    configure(tmp_path, url)
    summary = f"an upgrade of the tables from schema version {kind[1]} to {SCHEMA}\n"

    refused = [relevo(tmp_path, *command) for command in (["setup", "--check"], ["drain"])]
    check = relevo(tmp_path, "setup", "--upgrade", "--check")
    plan = relevo(tmp_path, "setup", "--upgrade", "--plan")
    printed = relevo(tmp_path, "setup", "--upgrade", "--print")
    done = relevo(tmp_path, "setup", "--upgrade")
    again = relevo(tmp_path, "setup", "--upgrade", "--check")

    for each in refused:
        assert (each.returncode, each.stderr.endswith("run: relevo setup --upgrade\n")) == (78, True)
    assert (check.returncode, plan.returncode, done.returncode) == (78, 0, 0)
    assert check.stdout == plan.stdout == done.stdout
    assert done.stdout.startswith(summary)
    assert (again.returncode, again.stdout, again.stderr) == (0, "nothing is missing\n", "")
    with filled() as other:
        run_script(other, printed.stdout)
        assert tables_of(other) == tables_of(url)
        assert rows_of(other) == rows_of(url)


def test_without_old_tables_an_upgrade_is_a_setup(opener: Opener, path: Path) -> None:
    transport = opener(setup=False)

    planned, script = transport.upgrade([], dry_run=True), transport.upgrade_script([])
    assert not path.exists()
    made = transport.upgrade([])

    assert planned == made
    assert script == transport.setup_script([])
    assert transport.setup([]) == transport.upgrade([]) == []
    nothing = f"-- relevo's tables, version {SCHEMA}, nothing to upgrade in the database {path}\n"
    assert transport.upgrade_script([]) == nothing


# --- SQLite --------------------------------------------------------------------------------------------


def test_what_an_application_attached_to_the_table_is_kept(first: Path, opener: Opener, clock: FakeClock) -> None:
    run_script(
        f"sqlite:///{first}",
        "CREATE TABLE note (text TEXT);"
        "CREATE INDEX by_name ON relevo_event (name);"
        "CREATE TRIGGER noted AFTER DELETE ON relevo_event BEGIN INSERT INTO note VALUES (old.event_id); END;"
        "CREATE VIEW backlog AS SELECT queue, losses FROM relevo_event;"
        "CREATE TABLE about (seq INTEGER REFERENCES relevo_event (seq));"
        "INSERT INTO about VALUES (1);",
    )
    transport = opener(clock, setup=False)

    transport.upgrade([])
    handled(transport, clock)

    url = f"sqlite:///{first}"
    assert "by_name" in {name for (name,) in query(url, "SELECT name FROM sqlite_master")}
    assert len(query(url, "SELECT * FROM note")) == 8
    assert len(query(url, "SELECT * FROM backlog")) == 4
    assert query(url, "SELECT about.seq FROM about JOIN relevo_event USING (seq)") == [(1,)]


@pytest.mark.parametrize("way", ["upgrade", "script"])
@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
def test_rows_that_refer_to_an_event_stay(first: Path, action: str, way: str) -> None:
    run_script(
        f"sqlite:///{first}",
        f"CREATE TABLE about (seq INTEGER REFERENCES relevo_event (seq) {action}); INSERT INTO about VALUES (1);",  # noqa: S608 - our own words
    )
    with an_engine(f"sqlite:///{first}") as engine:
        sa.event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys = ON"))

        with SqlTransport(engine, clock=FakeClock(LEASED_UNTIL + 1)) as transport:
            if way == "upgrade":
                transport.upgrade([])
            else:
                run_script(f"sqlite:///{first}", "PRAGMA foreign_keys = ON;" + transport.upgrade_script([]))
                transport.setup([])

        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT seq FROM about").all() == [(1,)]
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


@pytest.mark.parametrize("column", ["mine TEXT DEFAULT 'x'", "mine TEXT AS (name)"])
def test_a_column_of_the_application_is_not_lost(first: Path, opener: Opener, clock: FakeClock, column: str) -> None:
    execute(f"sqlite:///{first}", f"ALTER TABLE relevo_event ADD COLUMN {column}")
    transport = opener(clock, setup=False)

    calls: list[Callable[[], object]] = [lambda: transport.upgrade([]), lambda: transport.upgrade_script([])]
    for call in calls:
        with pytest.raises(ConfigurationError, match=r'"relevo_event" has the columns mine, .* would lose'):
            call()

    assert len(query(f"sqlite:///{first}", "SELECT mine FROM relevo_event")) == 12


def test_a_column_that_an_old_table_lacks_is_named(first: Path, opener: Opener, clock: FakeClock) -> None:
    execute(f"sqlite:///{first}", "ALTER TABLE relevo_event DROP COLUMN name")

    with pytest.raises(ConfigurationError, match='"relevo_event" lacks the columns name; something else'):
        opener(clock, setup=False).upgrade([])

    assert versions(f"sqlite:///{first}")["schema"] == "1"


@pytest.mark.parametrize("way", ["upgrade", "script"])
def test_rows_that_no_claim_found_are_not_lost(first: Path, opener: Opener, clock: FakeClock, way: str) -> None:
    columns = "(state, ready_at, lease_until, token, queue, target, event_id, source, name, attempt, body)"
    values = ("0, NULL, NULL, NULL", "7, 0, NULL, NULL", "1, 0, NULL, NULL", "2, 'soon', NULL, NULL", "3, 0, NULL, 5")
    rows = [
        f"INSERT INTO relevo_event {columns} SELECT {value}, 'default', 'default', 'odd-{number}', source, name, 1, "  # noqa: S608
        f"CAST(replace(body, 'event-4', 'odd-{number}') AS BLOB) FROM relevo_event WHERE event_id = 'event-4';"
        for number, value in enumerate(values)
    ]
    run_script(f"sqlite:///{first}", "".join(rows))
    transport = opener(clock, setup=False)

    if way == "upgrade":
        transport.upgrade([])
    else:
        run_script(f"sqlite:///{first}", transport.upgrade_script([]))
    calls = handled(transport, clock)

    # The first only lacked a time. The others are handed out as unreadable.
    assert calls.count(("steady", 1)) == 2
    assert transport.stats("default").dead == 1 + 4


_VALUES = st.one_of(
    st.none(), st.integers(-1, 2**40), st.floats(allow_nan=False), st.text("ab", max_size=3), st.binary(max_size=3)
)
_ROWS = st.lists(
    st.fixed_dictionaries(
        {"state": st.one_of(st.integers(0, 4), st.text("ab", min_size=1, max_size=2)), "urgency": st.integers(0, 1)},
        optional=dict.fromkeys(
            ("ready_at", "lease_until", "token", "target", "ordering_key", "headers", "progress", "body"), _VALUES
        ),
    ),
    max_size=5,
)


@given(rows=_ROWS)
@settings(max_examples=30, deadline=None)
def test_whatever_the_first_tables_held_is_kept(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('upgrade')}/shop.db"
    run_script(url, old_tables("sqlite", 1))
    with an_engine(url) as engine, engine.begin() as connection:
        for number, row in enumerate(rows):
            values = {"queue": "default", "event_id": f"odd-{number}", "source": "shop"} | row
            text = f"INSERT INTO relevo_event ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"  # noqa: S608
            connection.exec_driver_sql(text, tuple(values.values()))
    before = rows_of(url)

    with an_engine(url) as engine, SqlTransport(engine, clock=FakeClock(2.0**45)) as transport:
        transport.upgrade([])

    kept = [NEW | row | ({"ready_at": 0} if row["ready_at"] is None else {}) for row in before["relevo_event"]]
    assert rows_of(url) == before | {"relevo_event": kept}


# --- a schema of PostgreSQL ----------------------------------------------------------------------------


@pytest.mark.postgresql
def test_tables_in_a_schema_are_upgraded_there(postgresql_database: str, opener: Opener, clock: FakeClock) -> None:
    run_script(
        postgresql_database,
        'CREATE SCHEMA "My Jobs"; SET search_path TO "My Jobs";' + old_tables("postgresql", 3),
    )
    transport = opener(clock, url=postgresql_database, schema="My Jobs", setup=False)

    transport.upgrade([])

    assert len(handled(transport, clock)) == len(of_both(1, 2, 3, 7, 8, 9, 10, 11))
    assert not query(postgresql_database, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'")


@pytest.mark.postgresql
def test_the_script_names_a_schema_with_a_percent_sign(postgresql_database: str, opener: Opener) -> None:
    run_script(postgresql_database, 'CREATE SCHEMA "50%"; SET search_path TO "50%";' + old_tables("postgresql", 3))
    transport = opener(url=postgresql_database, schema="50%", setup=False)

    run_script(postgresql_database, transport.upgrade_script([]))

    assert transport.setup([]) == []


# --- the next release ----------------------------------------------------------------------------------

NEWER = SCHEMA + 1


def made_by_the_next_release(url: str, oldest: int | None = SCHEMA, kind: str = "") -> None:
    """Change the tables at *url* as a newer release might."""
    execute(
        url,
        "ALTER TABLE relevo_event ADD COLUMN newer BIGINT",
        "CREATE TABLE relevo_newer (id INTEGER)",
        "DROP TABLE relevo_announcement",
        f"UPDATE relevo_meta SET value = '{NEWER}{kind}' WHERE key = 'schema'",  # noqa: S608 - our own words
        *([] if oldest is None else [f"INSERT INTO relevo_meta VALUES ('oldest', '{oldest}')"]),  # noqa: S608 - as above
    )


@pytest.mark.parametrize("dialect", ["", "portable"])
def test_tables_of_a_newer_release_are_used_if_it_allows_that(
    opener: Opener, path: Path, clock: FakeClock, dialect: str, an_envelope: Maker
) -> None:
    options = {"dialect": dialect} if dialect else {}
    opener(clock, **options).close()
    made_by_the_next_release(f"sqlite:///{path}", kind=f" {dialect}" if dialect else "")
    transport = opener(clock, **options)  # the setup leaves everything as it is

    transport.send([an_envelope(1), an_envelope(2)])
    first, second = transport.receive(["default"], limit=2, lease=60, wait=0)
    transport.ack(first)
    transport.dead_letter(second, reason="rejected")

    assert transport.stats("default").dead == 1
    assert list(transport.upgrade([])) == list(transport.lacking([])) == list(transport.setup([], dry_run=True)) == []
    assert "relevo_announcement" not in tables_of(f"sqlite:///{path}")


@pytest.mark.parametrize("oldest", [None, NEWER, 0, "some"])
def test_tables_of_a_newer_release_are_refused_otherwise(opener: Opener, path: Path, oldest: Any) -> None:
    opener().close()
    made_by_the_next_release(f"sqlite:///{path}", oldest)
    transport = opener(setup=False)

    for call in (
        lambda: transport.setup([]),
        lambda: transport.upgrade([]),
        lambda: transport.upgrade([], dry_run=True),
        lambda: transport.upgrade_script([]),
        lambda: transport.stats("default"),
    ):
        with pytest.raises(ConfigurationError, match=rf"newer relevo .schema {NEWER}, this one knows {SCHEMA}"):
            call()


def test_a_newer_release_with_another_dialect_is_not_called_older(opener: Opener, path: Path) -> None:
    opener(dialect="portable").close()
    made_by_the_next_release(f"sqlite:///{path}", SCHEMA, " portable")

    with pytest.raises(ConfigurationError, match=f"newer relevo .schema {NEWER}"):
        opener(setup=False).setup([])


def test_a_release_that_leaves_tables_usable_for_older_ones_records_it(
    opener: Opener, path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_setup, "OLDEST", SCHEMA - 1)
    new, upgraded = f"sqlite:///{path}", f"sqlite:///{path}.old"
    run_script(upgraded, old_tables("sqlite", 3))

    opener(url=new)
    done = opener(clock, url=upgraded, setup=False).upgrade([])

    assert (versions(new)["oldest"], versions(upgraded)["oldest"]) == (str(SCHEMA - 1),) * 2
    assert done[-1] == f"the oldest version that can use it, {SCHEMA - 1}"
