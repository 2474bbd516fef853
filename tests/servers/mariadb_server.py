"""
Find MariaDB for the tests, or start a private one.

    python tests/servers/mariadb_server.py run -- COMMAND …

This works as for Redis (see redis_server.py). The variables are ``RELEVO_TEST_MARIADB`` and
``RELEVO_TEST_MARIADB_STANDARD``; the standard place is mariadb+pymysql://root@127.0.0.1:3306/test. The fixture
``mariadb_url`` finds a server in the same way, and ``mariadb_database`` is a new database on it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import server_starter
from certificate import Certificate
from database_server import ROOM, DatabaseKind
from private_server import private_server
from server_process import free_ports, search_path

_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/opt/homebrew/opt/mariadb/bin")

DATABASES = DatabaseKind(
    driver="mariadb+pymysql",
    options={
        "connect_timeout": 5,
        "read_timeout": 20,  # also for the server's first words
        # Python 3.13 reports an error of one encrypted connection, such as that of a test whose session was ended, on
        # the next one that is used.
        "ssl_disabled": True,
    },
    oldest=(10, 6),
    create=("CREATE DATABASE {name} CHARACTER SET utf8mb4",),
    drop="DROP DATABASE {name}",
    sessions="SELECT id FROM information_schema.processlist WHERE db = :name",
    end_session="KILL {id}",
)

_FILES = {"innodb-log-file-size": "16M"}
"""Settings for creating the files too."""

_AT_START = """\
DELETE FROM mysql.global_priv WHERE user = '';
FLUSH PRIVILEGES;
"""
"""Deletes the user without a name, who would be taken for users that tests create, as these are of every host."""

_SETTINGS = {
    "bind-address": "127.0.0.1",
    "socket": "",  # the path of one is limited to 107 bytes
    "max-connections": "200",
    "innodb-buffer-pool-size": "64M",
    "innodb-flush-log-at-trx-commit": "0",
    "ssl": "off",  # agreeing on a key takes longer than most statements
    **_FILES,
}


def _program(environ: Mapping[str, str]) -> Path | None:
    found = shutil.which("mariadbd", path=search_path(environ, _FOLDERS))
    return Path(found) if found else None


@contextmanager
def _private(program: Path, environ: Mapping[str, str], certificate: Certificate | None = None) -> Iterator[str]:
    with private_server("MariaDB", environ, programs=_FOLDERS, account="mysql", room=ROOM) as server:
        (port,) = free_ports(1)
        url = f"mariadb+pymysql://root@127.0.0.1:{port}/test"
        own = {"datadir": str(server.folder / "data"), "tmpdir": str(server.folder)}
        login = "--auth-root-authentication-method=normal"
        server.prepare(server.program("mariadb-install-db"), *_options({**_FILES, **own}), login)
        start = server.folder / "start.sql"
        start.write_text(_AT_START)
        encryption = {}
        if certificate is not None:
            its = server.adopted(certificate)
            encryption = {"ssl": "on", "ssl-cert": str(its.certificate), "ssl-key": str(its.key), "ssl-ca": str(its.ca)}
            encryption |= {"tls-version": "TLSv1.2"}
            start.write_text(_AT_START + _CERTIFIED)
        settings = {**_SETTINGS, **encryption, **own, "init-file": str(start), "port": str(port)}
        with server.running(str(program), *_options(settings), ready=lambda: not DATABASES.refusal(url)):
            yield url


def _options(settings: Mapping[str, str]) -> list[str]:
    return ["--no-defaults", *(f"--{name}={value}" for name, value in settings.items())]


_CERTIFIED = """\
CREATE USER certified REQUIRE X509;
GRANT ALL ON test.* TO certified;
"""
"""A user that needs a certificate."""


def encrypted(certificate: Certificate) -> AbstractContextManager[str]:
    """
    Start a server with *certificate* and TLS 1.2 at most, yield its URL, and end it.

    Raises:
        NotFoundError: It is not installed.
    """
    program = _program(os.environ)
    if program is None:
        raise server_starter.NotFoundError("MariaDB is not installed")
    return _private(program, os.environ, certificate)


KIND = server_starter.Kind(
    name="MariaDB",
    variable="RELEVO_TEST_MARIADB",
    standard="mariadb+pymysql://root@127.0.0.1:3306/test",
    example="mariadb+pymysql://user:password@host/test",
    package="mariadb-server",
    refusal=DATABASES.refusal,
    program=_program,
    private=_private,
)

if __name__ == "__main__":
    sys.exit(server_starter.main(KIND))
