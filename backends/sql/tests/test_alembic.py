"""Migrations by Alembic: with relevo's tables among the application's, and beside tables that ``relevo setup`` made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

import relevo_sql
from relevo import Envelope
from relevo.errors import ConfigurationError
from relevo_sql import SqlTransport
from relevo_sql._schema import SCHEMA
from relevo_sql.alembic import metadata_for, without_relevo

from .command_line import configure, old_tables, relevo, run_script, tables_of
from .on_server import with_driver

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

# SQLAlchemy does not read an index of an expression from SQLite.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index relevo_event_stray"),
    pytest.mark.slow("each migration in a process of its own"),
]

ENV = """
import sqlalchemy as sa
from alembic import context
from relevo_sql import alembic as relevo_alembic

own = sa.MetaData()
sa.Table("image", own, sa.Column("id", sa.Integer, primary_key=True))
config = context.config.attributes

engine = sa.create_engine(config["url"])
with engine.connect() as connection:
    options = dict(connection=connection, target_metadata=own, include_schemas=config["schema"] is not None)
    if config["way"] == "with relevo":
        options["target_metadata"] = [own, relevo_alembic.metadata_for(config["database"], schema=config["schema"])]
        options["process_revision_directives"] = relevo_alembic.complete_migration
    elif config["way"] == "without relevo":
        options["include_name"] = relevo_alembic.without_relevo
    context.configure(**options)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""

TEMPLATE = '''
"""${message}"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
'''


@attrs.frozen
class Shop:
    """An application with migrations."""

    folder: Path
    database: str
    url: str
    schema: str | None

    def config(self, way: str) -> Config:
        folder = self.folder / "migrations"
        if not folder.exists():
            folder.joinpath("versions").mkdir(parents=True)
            folder.joinpath("env.py").write_text(ENV)
            folder.joinpath("script.py.mako").write_text(TEMPLATE)
        config = Config(
            attributes={"way": way} | {"url": self.driver, "database": self.database, "schema": self.schema}
        )
        config.set_main_option("script_location", str(folder))
        config.set_main_option("path_separator", "os")
        return config

    @property
    def driver(self) -> str:
        return with_driver(self.url).render_as_string(hide_password=False)

    def generate(self, way: str) -> str:
        """Generate a migration; return its text."""
        script: Any = command.revision(self.config(way), message="generated", autogenerate=True)
        return Path(script.path).read_text()

    def differences(self, **options: Any) -> Sequence[Any]:
        """Return what Alembic would change in relevo's tables."""
        engine = sa.create_engine(self.driver)
        with engine.connect() as connection:
            options |= {"include_schemas": self.schema is not None, "include_name": lambda name, *_: name != "image"}
            context = MigrationContext.configure(connection, opts=options)
            found: Sequence[Any] = compare_metadata(context, metadata_for(self.database, schema=self.schema))
        engine.dispose()
        return found

    def tables(self) -> list[str]:
        engine = sa.create_engine(self.driver)
        found = {name for schema in {None, self.schema} for name in sa.inspect(engine).get_table_names(schema)}
        engine.dispose()
        return sorted(found)


@pytest.fixture(
    name="shop",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("postgresql jobs", marks=pytest.mark.postgresql),
        pytest.param("postgresql 1% :jobs", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
        pytest.param("mysql", marks=pytest.mark.mariadb),
    ],
)
def _shop(request: pytest.FixtureRequest, tmp_path: Path, path: Path) -> Shop:
    database, _, schema = request.param.partition(" ")
    if database == "sqlite":
        url = f"sqlite:///{path}"
    else:
        url = request.getfixturevalue(f"{database.replace('mysql', 'mariadb')}_database")
    if database == "mysql":  # MariaDB by the other scheme
        database, url = "mariadb", url.replace("mariadb", "mysql", 1)
    configure(tmp_path, url, f'schema = "{schema}"' if schema else "")
    return Shop(tmp_path, database, url, schema or None)


def opened(shop: Shop, opener: Opener, *, setup: bool) -> SqlTransport:
    return opener(url=shop.url, schema=shop.schema, setup=setup)


def test_a_generated_migration_makes_complete_tables(shop: Shop, opener: Opener, an_envelope: Maker) -> None:
    if shop.schema:
        engine = sa.create_engine(shop.driver)
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(shop.schema))
        engine.dispose()

    shop.generate("with relevo")
    command.upgrade(shop.config("with relevo"), "head")

    command.check(shop.config("with relevo"))
    assert shop.differences(compare_server_default=True) == []
    checked = relevo(shop.folder, "setup", "--check")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "nothing is missing\n", "")
    transport = opened(shop, opener, setup=False)
    transport.send([an_envelope(1), an_envelope(2, ordering_key="a")])
    assert len(transport.receive(["default"], limit=10, lease=60, wait=0)) == 2
    transport.close()
    migrated = tables_of(shop.url, shop.schema)
    command.downgrade(shop.config("with relevo"), "base")
    assert shop.tables() == ["alembic_version"]
    opened(shop, opener, setup=True)
    assert {**migrated, **tables_of(shop.url, shop.schema)} == migrated  # in all that Alembic does not compare


def test_tables_of_a_setup_are_as_a_migration_would_make_them(shop: Shop, opener: Opener) -> None:
    opened(shop, opener, setup=True)

    assert shop.differences() == []
    assert shop.differences(compare_server_default=True) == []


def test_a_migration_without_relevo_leaves_its_tables_alone(shop: Shop, opener: Opener) -> None:
    opened(shop, opener, setup=True)
    before = shop.tables()

    text = shop.generate("without relevo")
    command.upgrade(shop.config("without relevo"), "head")

    assert "relevo" not in text
    assert "op.create_table('image'" in text
    assert shop.tables() == sorted([*before, "image", "alembic_version"])
    command.check(shop.config("without relevo"))


def test_a_migration_that_does_not_know_of_relevo_would_drop_its_tables(shop: Shop, opener: Opener) -> None:
    opened(shop, opener, setup=True)

    assert "op.drop_table('relevo_event'" in shop.generate("unaware")


@pytest.mark.mariadb
def test_the_tables_of_another_database_differ(opener: Opener, mariadb_database: str, tmp_path: Path) -> None:
    opener(url=mariadb_database)

    engine = sa.create_engine(with_driver(mariadb_database))
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), relevo_sql.metadata)
    engine.dispose()

    assert found


def test_the_tables_of_mysql_differ_from_those_of_mariadb_in_their_collation() -> None:
    collations = {
        name: {table.dialect_options["mysql"]["collate"] for table in metadata_for(name).sorted_tables}
        for name in ("mariadb", "mysql")
    }

    assert collations == {"mariadb": {"utf8mb4_nopad_bin"}, "mysql": {"utf8mb4_0900_bin"}}


def test_only_tables_of_relevo_are_left_out() -> None:
    assert not without_relevo("relevo_event", "table", {"schema_name": None})
    assert not without_relevo("relevo_line", "table", {"schema_name": "jobs"})
    assert without_relevo("relevo_statistics", "table", {"schema_name": None})
    assert without_relevo("relevo_event", "column", {"schema_name": None, "table_name": "audit"})
    assert without_relevo(None, "schema", {})


@pytest.mark.parametrize(
    ("database", "options", "words"),
    [
        ("postgres", {}, r"expected one of .*; got 'postgres'; did you mean .postgresql"),
        (
            "mariadb",
            {"schema": "jobs"},
            "schema: only PostgreSQL has schemas inside a database; omit it for mariadb",
        ),
    ],
)
def test_what_no_database_has_is_refused(database: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        metadata_for(database, **options)


@pytest.mark.parametrize("way", ["by itself", "after a migration"])
def test_after_an_upgrade_alembic_finds_no_difference(shop: Shop, opener: Opener, way: str) -> None:
    if shop.schema:
        run_script(shop.url, f'CREATE SCHEMA "{shop.schema}"; SET search_path TO "{shop.schema}";')
    tables = old_tables(shop.database, 3)
    run_script(shop.url, f'SET search_path TO "{shop.schema}";{tables}' if shop.schema else tables)
    if way == "after a migration":  # it adds the column, and does not know the version
        shop.generate("with relevo")
        command.upgrade(shop.config("with relevo"), "head")

    done = opener(url=shop.url, setup=False, **({"schema": shop.schema} if shop.schema else {})).upgrade([])

    assert done[0].endswith(f"from schema version 3 to {SCHEMA}")
    assert shop.differences() == []
