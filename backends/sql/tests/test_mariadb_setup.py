"""The tables of MariaDB: made once, by one of several, and refused if they are not relevo's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from relevo import Envelope
from relevo.errors import ConfigurationError
from relevo_sql import SqlTransport

from .on_mariadb import execute, holding, query
from .on_server import in_a_thread, wait_until

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


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
    counts = sorted(int(process.communicate(timeout=300)[0]) for process in processes)

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
