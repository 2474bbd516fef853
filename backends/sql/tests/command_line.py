"""The command line, drivers that run a whole script, and the tables: what the tests of the setup share."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pymysql  # type: ignore[import-untyped]  # it has no types
import sqlalchemy as sa

from .on_server import an_engine

_SEVERAL = 1 << 16
"""The flag of a MySQL connection that runs several statements at once."""

SHARED = 'source = "shop"\n[transports]\nmain = { url = "$URL", $OPTIONS }\n'


def configure(folder: Path, url: str, options: str = "") -> None:
    """Write a configuration into *folder* whose transport "main" has *url*."""
    text = SHARED.replace("$URL", url).replace(", $OPTIONS", f", {options}" if options else "")
    folder.joinpath("relevo.toml").write_text(text)


def relevo(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run *command* in *folder*."""
    return subprocess.run(
        [sys.executable, "-m", "relevo", *command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def run_script(url: str, script: str) -> None:
    """Run the statements of *script* as an administrator's program does, without relevo and SQLAlchemy."""
    parsed = sa.make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            with closing(sqlite3.connect(str(parsed.database))) as file:
                file.executescript(script)
        case "postgresql":
            plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(plain, autocommit=True) as connection:
                connection.execute(script.encode())
        case _:
            arguments = parsed.translate_connect_args(username="user")
            with closing(pymysql.connect(**arguments, client_flag=_SEVERAL)) as driver:
                cursor = driver.cursor()
                cursor.execute(script)
                while cursor.nextset():
                    pass
                driver.commit()


def old_tables(database: str, version: int) -> str:
    """Return the SQL of the tables that a release with schema *version* has made, with their rows."""
    return Path(__file__).with_name("old_tables").joinpath(f"{database}-{version}.sql").read_text()


_ADDRESS = re.compile(" at 0x[0-9a-f]+")
"""Of an SQLAlchemy object, the condition of an index."""


def tables_of(url: str, schema: str | None = None, *, in_order: bool = True) -> dict[str, str]:
    """Return the names of all tables, and all that can be read of each; columns *in_order*, or by their names."""
    with an_engine(url) as engine:
        inspector = sa.inspect(engine)
        return {
            name: repr(
                (
                    [(each["name"], str(each["type"]), each["nullable"], each.get("default")) for each in columns],
                    sorted(_ADDRESS.sub("", repr(each)) for each in inspector.get_indexes(name, schema)),
                    sorted(map(repr, inspector.get_check_constraints(name, schema))),
                    inspector.get_table_options(name, schema) if engine.dialect.name in ("mysql", "mariadb") else None,
                )
            )
            for name in inspector.get_table_names(schema)
            for found in [inspector.get_columns(name, schema)]
            for columns in [found if in_order else sorted(found, key=lambda each: str(each["name"]))]
        }
