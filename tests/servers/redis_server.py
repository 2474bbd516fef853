"""
Find Redis for the tests, or start a private one.

    python tests/servers/redis_server.py run -- COMMAND …

runs COMMAND with the URL of a server in ``RELEVO_TEST_REDIS`` and returns its exit code. It uses the first of:

1. ``RELEVO_TEST_REDIS``: if it is set, that server and no other;
2. the standard place, redis://127.0.0.1:6379/0 (``RELEVO_TEST_REDIS_STANDARD`` names another), if its
   writes are on disk before it answers, as the transport requires;
3. a private server, started from the installed program, and ended with the command.

With ``CI=true`` or ``RELEVO_TEST_INSTALL=1`` the system's package is installed before 3 if it is
missing. If no server is found, tests that need one are skipped; with ``CI=true`` that
is a failure. The fixture ``redis_url`` finds a server in the same way.
"""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import server_starter
from private_server import private_server
from server_process import free_ports, search_path

_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")

_ON_DISK = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}


def refusal(url: str) -> str:
    """
    Return why the server at *url* cannot be used; empty if its writes are on disk before it answers.

    This speaks the protocol itself, so that a server is found without an installed driver.
    """
    parts = urlsplit(url)
    login = [unquote(part) for part in (parts.username, parts.password) if part]
    commands = [["AUTH", *login], ["CONFIG", "GET", "*append*"]] if login else [["CONFIG", "GET", "*append*"]]
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 6379), timeout=5.0) as line:
            for command in commands:
                line.sendall(b"".join([b"*%d\r\n" % len(command), *(_bulk(word) for word in command)]))
            said = b""
            while not _complete(said, len(commands)):
                if not (more := line.recv(65536)):
                    return "it ended the connection"
                said += more
    except OSError as error:
        return str(error)
    words = said.decode(errors="replace").split("\r\n")
    lacking = [f"{name} {value}" for name, value in _ON_DISK.items() if _after(words, name) != value]
    refused = [word[1:] for word in words if word.startswith("-")]
    return "; ".join(refused) or (f"it is not set to {', '.join(lacking)}" if lacking else "")


def _bulk(word: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode())


def _complete(said: bytes, answers: int) -> bool:
    """Return whether *said* is complete: all *answers*, the last one a list of texts, or an error, which ends them."""
    *others, last = said.split(b"\r\n", answers - 1)
    if any(each.startswith(b"-") for each in (*others, last)) or (last and not last.startswith(b"*")):
        return said.endswith(b"\r\n")
    lines = last.split(b"\r\n")
    return len(lines) > 1 and len(lines) - 2 >= 2 * int(lines[0][1:])


def _after(words: list[str], name: str) -> str:
    return words[words.index(name) + 2] if name in words else ""


def _program(environ: Mapping[str, str]) -> Path | None:
    found = shutil.which("redis-server", path=search_path(environ, _FOLDERS))
    return Path(found) if found else None


@contextmanager
def _private(program: Path, environ: Mapping[str, str]) -> Iterator[str]:
    with private_server("Redis", environ, programs=_FOLDERS) as server:
        (port,) = free_ports(1)
        url = f"redis://127.0.0.1:{port}/0"
        settings = {"bind": "127.0.0.1", "port": str(port), "dir": str(server.folder), "save": "", **_ON_DISK}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with server.running(str(program), *words, ready=lambda: not refusal(url)):
            yield url


KIND = server_starter.Kind(
    name="Redis",
    variable="RELEVO_TEST_REDIS",
    standard="redis://127.0.0.1:6379/0",
    example="redis://:password@host:6379/0",
    package="redis-server",
    refusal=refusal,
    program=_program,
    private=_private,
)

if __name__ == "__main__":
    sys.exit(server_starter.main(KIND))
