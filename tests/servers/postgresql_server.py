"""
Find PostgreSQL for the tests, or start a private one.

    python tests/servers/postgresql_server.py run -- COMMAND …

This works as for Redis (see redis_server.py). The variables are ``RELEVO_TEST_POSTGRESQL`` and
``RELEVO_TEST_POSTGRESQL_STANDARD``; the standard place is postgresql://postgres@127.0.0.1:5432/postgres. The fixture
``postgresql_url`` finds a server in the same way, and ``postgresql_database`` is a new database on it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import server_starter
from certificate import Certificate
from database_server import ROOM, DatabaseKind
from private_server import private_server
from server_process import free_ports, search_path

_INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
"""Folders of programs, one for each version; usually they are not on the PATH."""

_FOLDERS = ("/usr/local/bin", "/opt/homebrew/bin")

DATABASES = DatabaseKind(
    driver="postgresql+psycopg",
    options={"connect_timeout": 5},
    oldest=(13,),
    create=(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'",
        "ALTER DATABASE {name} SET synchronous_commit = off",  # no test lets the host crash
    ),
    drop="DROP DATABASE {name} WITH (FORCE)",
    sessions="SELECT pid FROM pg_stat_activity WHERE datname = :name",
    end_session="SELECT pg_terminate_backend({id})",
)

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # files in its folder, so that a killed server leaves none elsewhere
    "max_connections": "200",
    "max_prepared_transactions": "20",  # for transactions in two phases; 0 by default
    "shared_buffers": "32MB",  # dropping a database searches all of them
    "max_wal_size": "128MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


def _programs() -> Sequence[str]:
    """Return the folders of programs, the newest version first."""
    found = [str(path) for pattern in _INSTALLED for path in Path("/").glob(pattern.removeprefix("/"))]
    return [*sorted(found, key=_version, reverse=True), *_FOLDERS]


def _version(folder: str) -> float:
    found = re.search(r"(\d+(\.\d+)?)/bin$", folder)
    return float(found[1]) if found else 0.0


def _program(environ: Mapping[str, str]) -> Path | None:
    found = shutil.which("postgres", path=search_path(environ, _programs()))
    return Path(found) if found else None


@contextmanager
def _private(program: Path, environ: Mapping[str, str], certificate: Certificate | None = None) -> Iterator[str]:
    with private_server("PostgreSQL", environ, programs=_programs(), account="postgres", room=ROOM) as server:
        (port,) = free_ports(1)
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        data = str(server.folder / "data")
        initdb = str(program.with_name("initdb"))  # of the same version
        login = ("--username=postgres", "--auth=trust")
        server.prepare(initdb, "-D", data, *login, "--encoding=UTF8", "--no-locale", "--no-sync")
        encryption = {}
        if certificate is not None:
            own = server.adopted(certificate)
            encryption = {"ssl": "on", "ssl_cert_file": str(own.certificate), "ssl_key_file": str(own.key)}
            encryption |= {"ssl_ca_file": str(own.ca), "ssl_max_protocol_version": "TLSv1.2"}
            server.write(_ENCRYPTED, "data/pg_hba.conf")
        settings = [f"--{name}={value}" for name, value in {**_SETTINGS, **encryption, "port": str(port)}.items()]
        command = [str(program), "-D", data, *settings]
        # SIGTERM would wait for clients.
        with server.running(*command, ready=lambda: not DATABASES.refusal(url), stop=signal.SIGINT):
            yield url


_ENCRYPTED = """\
hostssl all certified all trust clientcert=verify-ca
host all all all trust
"""
"""Users may connect as they like, except one that needs a certificate."""


def encrypted(certificate: Certificate) -> AbstractContextManager[str]:
    """
    Start a server with *certificate* and TLS 1.2 at most, yield its URL, and end it.

    Raises:
        NotFoundError: It is not installed.
    """
    program = _program(os.environ)
    if program is None:
        raise server_starter.NotFoundError("PostgreSQL is not installed")
    return _private(program, os.environ, certificate)


KIND = server_starter.Kind(
    name="PostgreSQL",
    variable="RELEVO_TEST_POSTGRESQL",
    standard="postgresql://postgres@127.0.0.1:5432/postgres",
    example="postgresql://user:password@host/postgres",
    package="postgresql",
    refusal=DATABASES.refusal,
    program=_program,
    private=_private,
)

if __name__ == "__main__":
    sys.exit(server_starter.main(KIND))
