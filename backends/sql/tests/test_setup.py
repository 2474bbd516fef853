from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

import relevo_sql
from relevo import App, DeferredDispatcher, Envelope, Event, RunOptions, listener
from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport, _database
from relevo_sql._row import Kept
from relevo_sql._schema import KEPT, SCHEMA

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


def schema_of(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def execute(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


def test_setting_up_creates_the_tables_once(opener: Opener, path: Path) -> None:
    transport = opener(setup=False)

    first = transport.setup(["media"])
    schema = schema_of(path)
    second = transport.setup(["media"])

    assert "table relevo_event" in first
    assert second == []
    assert schema_of(path) == schema


def test_a_dry_run_only_tells(opener: Opener, path: Path) -> None:
    transport = opener(setup=False)

    told = transport.setup([], dry_run=True)

    assert not path.exists()
    assert transport.setup([]) == told
    assert transport.setup([], dry_run=True) == []


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_dry_run_tells_once_what_an_outbox_in_the_same_database_lacks(
    opener: Opener, tmp_path: Path, *, upgrade: bool
) -> None:
    main, box = opener(setup=False), opener(setup=False)
    apart = opener(url=f"sqlite:///{tmp_path}/apart.db", setup=False)
    transports = {"main": main, "far": MemoryTransport(), "farther": MemoryTransport()}
    app = App(transports=transports, outboxes={"far": box, "farther": apart}, routes={"*": "main"})

    told = app.setup(dry_run=True, upgrade=upgrade)

    assert told.count("table relevo_event") == 2
    assert app.setup(upgrade=upgrade) == told


def test_a_dry_run_on_an_engine_creates_no_file(engine: sa.Engine, path: Path) -> None:
    with SqlTransport(engine) as transport:
        told = transport.setup([], dry_run=True)

    assert told
    assert not path.exists()


def test_what_is_missing_is_created_beside_what_is_there(opener: Opener, path: Path) -> None:
    transport = opener()
    execute(path, "DROP TABLE relevo_dead")
    execute(path, "DROP INDEX relevo_event_ready")

    created = transport.setup([])

    assert created == [
        "table relevo_dead",
        "index relevo_dead_identity",
        "index relevo_dead_queue",
        "index relevo_event_ready",
    ]


def test_tables_that_a_migration_made_only_get_their_version(opener: Opener, engine: sa.Engine) -> None:
    relevo_sql.metadata.create_all(engine)

    created = opener(setup=False).setup([])

    assert created == [f"the schema's version, {SCHEMA}", "an id of this database"]


def test_tables_of_the_application_named_like_a_key_do_not_hide_it(opener: Opener, path: Path) -> None:
    execute(path, "CREATE TABLE schema (id INTEGER)")
    execute(path, "CREATE TABLE database (id INTEGER)")

    created = opener(setup=False).setup([])

    assert created[-2:] == [f"the schema's version, {SCHEMA}", "an id of this database"]
    assert opener().stats("default").ready == 0


def test_many_may_set_up_at_once(
    opener: Opener, path: Path, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_database, "_SETTING_UP", 60.0)  # however slow those before are
    transports = [opener(setup=False) for _ in range(6)]
    start = threading.Barrier(len(transports))
    created: list[str] = []
    failed: list[RelevoError] = []

    def set_up(transport: SqlTransport) -> None:
        start.wait()
        try:
            created.extend(transport.setup([]))
        except RelevoError as error:
            failed.append(error)

    threads = [threading.Thread(target=set_up, args=[transport]) for transport in transports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert len(created) == len(set(created))
    transports[0].send([an_envelope()])
    assert len(transports[-1].receive(["default"], limit=1, lease=60, wait=0)) == 1


@pytest.mark.parametrize("version", [str(SCHEMA + 1), "999"])
def test_a_newer_schema_is_refused_by_everything(opener: Opener, path: Path, an_envelope: Maker, version: str) -> None:
    opener()
    execute(path, f"UPDATE relevo_meta SET value = '{version}' WHERE key = 'schema'")  # noqa: S608
    schema = schema_of(path)
    transport = opener(setup=False)

    for call in (
        lambda: transport.setup([]),
        lambda: transport.setup([], dry_run=True),
        lambda: transport.send([an_envelope()]),
        lambda: transport.receive(["default"], limit=1, lease=60, wait=0),
        lambda: transport.stats("default"),
    ):
        with pytest.raises(ConfigurationError, match=f"newer relevo .schema {version}"):
            call()

    assert schema_of(path) == schema


def test_a_strangers_table_of_the_same_name_is_refused(opener: Opener, path: Path) -> None:
    execute(path, "CREATE TABLE relevo_event (id INTEGER)")

    with pytest.raises(ConfigurationError, match='the table "relevo_event" lacks the columns'):
        opener(setup=False).setup([])


def test_a_table_whose_column_may_be_null_is_refused(opener: Opener, path: Path) -> None:
    opener().close()
    with closing(sqlite3.connect(path)) as shop:
        shop.execute("ALTER TABLE relevo_lock RENAME TO kept")
        shop.execute("CREATE TABLE relevo_lock AS SELECT * FROM kept")  # with the same columns, and no constraint
        shop.execute("DROP TABLE kept")

    with pytest.raises(ConfigurationError, match='the table "relevo_lock" lacks NOT NULL for the columns holder, '):
        opener(setup=False).setup([])


def test_without_a_setup_every_call_names_the_mend(opener: Opener, path: Path, an_envelope: Maker) -> None:
    execute(path, "CREATE TABLE image (id INTEGER)")
    transport = opener(setup=False)

    with pytest.raises(ConfigurationError, match="relevo setup"):
        transport.send([an_envelope()])
    with pytest.raises(ConfigurationError, match="relevo setup"):
        transport.receive(["default"], limit=1, lease=60, wait=0)
    transport.setup([])
    transport.send([an_envelope()])

    assert len(transport.receive(["default"], limit=1, lease=60, wait=0)) == 1


def test_without_a_file_nothing_but_the_setup_creates_one(opener: Opener, path: Path, an_envelope: Maker) -> None:
    transport = opener(setup=False)

    with pytest.raises(TransportUnavailableError, match=r"there is no database .* relevo setup"):
        transport.send([an_envelope()])
    with pytest.raises(TransportUnavailableError, match="relevo setup"):
        transport.stats("default")

    assert not path.exists()


LOOKS: dict[str, Callable[[SqlTransport], object]] = {
    "stats": lambda transport: transport.stats("default"),
    "find": lambda transport: transport.find("id-1"),
    "waiting": lambda transport: transport.waiting(["default"], limit=1),
    "dead_letters": lambda transport: transport.dead_letters(["default"]),
    "presence": lambda transport: transport.presence(["worker"]),
    "held_queues": lambda transport: transport.held_queues(),
    "stuck_keys": lambda transport: transport.stuck_keys(["default"], limit=1),
    "store_id": lambda transport: transport.store_id(),
}
"""What only reads rows."""

INSPECTIONS: dict[str, Callable[[SqlTransport], object]] = {
    "setup": lambda transport: transport.setup(["default"], dry_run=True),
    "lacking": lambda transport: transport.lacking(["default"]),
    "problems": lambda transport: not transport.problems(["default"]),
    "setup_script": lambda transport: transport.setup_script(["default"]),
}
"""What only reads which tables there are."""

FORMS = ["sqlite:///{}", "sqlite:///file:{}?uri=true", "engine"]


def unopened(form: str, path: Path, opener: Opener) -> SqlTransport:
    """Return a transport on *path*, by the address or by an engine of the application."""
    if form == "engine":
        return SqlTransport(sa.create_engine(f"sqlite:///{path}"))
    return opener(url=form.format(path), setup=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("look", LOOKS)
def test_a_look_names_a_missing_file_and_creates_none(look: str, form: str, opener: Opener, path: Path) -> None:
    with (
        unopened(form, path, opener) as transport,
        pytest.raises(TransportUnavailableError, match=f"there is no database {path}; run: relevo setup"),
    ):
        LOOKS[look](transport)

    assert not list(path.parent.glob(f"{path.name}*"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inspection", INSPECTIONS)
def test_an_inspection_of_tables_creates_no_file(inspection: str, form: str, opener: Opener, path: Path) -> None:
    with unopened(form, path, opener) as transport:
        assert INSPECTIONS[inspection](transport)
        assert transport.missing() == f"database {path}"

    assert not list(path.parent.glob(f"{path.name}*"))


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_appears_or_is_deleted_is_noticed_by_a_look(
    form: str, opener: Opener, path: Path, an_envelope: Maker
) -> None:
    with unopened(form, path, opener) as transport:
        assert transport.missing()
        opener().send([an_envelope()])
        assert (transport.missing(), transport.stats("default").ready) == ("", 1)

        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        with pytest.raises(TransportUnavailableError, match="there is no database"):
            transport.stats("default")

        assert transport.missing()
        assert not path.exists()


def test_a_look_by_a_relative_path_creates_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    for engine in ("sqlite:///shpo.db", sa.create_engine("sqlite:///shpo.db")):
        with (
            SqlTransport(engine) as transport,
            pytest.raises(TransportUnavailableError, match=f"no database {tmp_path}/shpo.db"),
        ):
            transport.stats("default")

    assert not list(tmp_path.iterdir())


def test_setting_up_is_as_impatient_as_it_was_told_to_be(opener: Opener, path: Path) -> None:
    transport = opener(setup=False, busy_timeout=0.3)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransportUnavailableError, match=r"longer than 0\.3 s"):
            transport.setup([])
        other.execute("ROLLBACK")

    assert transport.setup([])


def test_opening_does_nothing(opener: Opener, path: Path, engine: sa.Engine) -> None:
    opener(setup=False)
    SqlTransport(engine).close()

    assert not path.exists()


def test_a_transport_that_no_application_sets_up_says_how_to_do_it_in_code(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    with SqlTransport(engine) as transport:
        dispatcher = DeferredDispatcher(transport)

        with pytest.raises(ConfigurationError, match=r"run: relevo setup, or call transport\.setup\(\[…\]\)"):
            dispatcher.dispatch(Event("a.b"))
        transport.setup([dispatcher.queue])
        dispatcher.dispatch(Event("a.b"))

        assert transport.stats("default").ready == 1
    engine.dispose()


def test_a_row_that_is_read_has_the_columns_of_the_tables_in_their_order() -> None:
    assert Kept._fields == KEPT


def test_a_virtual_table_of_the_application_with_a_similar_name_is_not_read(opener: Opener, path: Path) -> None:
    opener().close()
    with closing(sqlite3.connect(path)) as shop:
        shop.execute("PRAGMA writable_schema = 1")  # it cannot be created without its module, which is not loaded here
        shop.execute(
            "INSERT INTO sqlite_master VALUES ('table', 'relevo_search', 'relevo_search', 0, "
            "'CREATE VIRTUAL TABLE relevo_search USING missing_module')"
        )
        shop.commit()

    assert list(opener(setup=False).setup([])) == []


@pytest.mark.parametrize("setup", ["auto", "explicit"])
def test_a_database_that_an_earlier_release_has_set_up_works_as_before(
    opener: Opener, path: Path, monkeypatch: pytest.MonkeyPatch, setup: str
) -> None:
    monkeypatch.setattr("relevo._worker.announcement.LOOK_EVERY", 0.0)
    transport = opener()
    execute(path, "DROP TABLE relevo_announcement")
    seen: list[object] = []
    waited = threading.Event()

    @listener("image.created")
    def look(event: Event) -> None:
        waited.wait(0.5)  # the worker looks at what it holds, and cannot announce it
        seen.append(event["n"])

    app = App(transports={"main": transport}, routes={"*": "main"}, listeners=[look], setup=setup)
    app.dispatch(Event("image.created", {"n": 1}))
    report = app.worker(RunOptions(until_empty=True)).run()

    assert (report.done, seen) == (1, [1])
    assert transport.lacking([]) == []
    left = ["table relevo_announcement"] if setup == "explicit" else []
    assert transport.setup([], dry_run=True) == left
    assert transport.setup([]) == left
    assert transport.workers() == {}
