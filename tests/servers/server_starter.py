"""Find a server for the tests, or start a private one: the common part for all kinds of servers."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import attrs

import keeper
import server_package
from server_process import StartError, search_path, tied

UNAVAILABLE = 69
"""The exit code for a server that cannot be reached (``EX_UNAVAILABLE`` of sysexits.h)."""

AT_ONCE, BUSY = 1.0, 60.0
"""Seconds within which a server that is not there refuses; and for which one that may only be busy is asked again."""


class NotFoundError(Exception):
    """Raised when there is no such server on this machine; says how to install one."""


class NotAnsweringError(Exception):
    """Raised when the named server does not answer, or not as required."""


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of server."""

    name: str
    variable: str
    """If it is set, that server and no other; with ``_STANDARD`` behind it, another standard place."""

    standard: str
    example: str
    package: str
    refusal: Callable[[str], str]
    """Return why the server at a URL cannot be used; empty if it can."""

    program: Callable[[Mapping[str, str]], Path | None]
    """Return the program that starts a server, or ``None`` if it is not installed."""

    private: Callable[[Path, Mapping[str, str]], AbstractContextManager[str]]
    """Start a server with this program, yield its URL when it answers, and end it."""

    @property
    def port(self) -> int:
        """The usual one."""
        return urlsplit(self.standard).port or 0

    def shown(self, url: str) -> str:
        """Return *url* without its password."""
        parts = urlsplit(url)
        user = f"{parts.username}@" if parts.username else ""
        return f"{parts.scheme}://{user}{parts.hostname}:{parts.port or self.port}{parts.path}"

    @contextmanager
    def server(
        self, *, environ: Mapping[str, str] = os.environ, install: bool = False, private: bool = False
    ) -> Iterator[str]:
        """
        Yield the URL of a server that answers; a private one ends with the block.

        Args:
            environ: The environment with the variables above.

            install: Whether the system's package is installed if no server is found.

            private: Whether a private server, whose data is in memory, is preferred to the one at the standard place.

        Raises:
            NotFoundError: No server was found, and none can be started.

            NotAnsweringError: The named server does not answer.

            StartError: The private server does not start.

            InstallError: The package could not be installed.
        """
        if wanted := environ.get(self.variable):
            if why := self._lasting_refusal(wanted):
                raise NotAnsweringError(f"{self.variable} names {self.shown(wanted)}, which does not answer: {why}")
            yield wanted
            return
        standard = environ.get(f"{self.variable}_STANDARD") or self.standard
        program = self.program(environ)
        if (program is None or not private) and not self.refusal(standard):
            yield standard
            return
        if program is None and install:
            program = self._installed(environ)
        if program is None:
            raise NotFoundError(
                f"{self.name} is neither at {self.shown(standard)} nor installed; "
                f"install it with:  {server_package.command(self.package)}\n"
                f"or name one:  {self.variable}={self.example}"
            )
        with self.private(program, environ) as url:
            yield url

    def _lasting_refusal(self, url: str) -> str:
        """Return why the server at *url* cannot be used; ask one again that does not answer in time."""
        until = time.monotonic() + BUSY
        while True:
            asked = time.monotonic()
            why = self.refusal(url)
            now = time.monotonic()
            if not why or now - asked < AT_ONCE or now >= until:
                return why

    def _installed(self, environ: Mapping[str, str]) -> Path | None:
        try:
            server_package.install(self.package, self.name, environ)
        except server_package.InstallError:
            # If the system's service cannot start, apt-get fails although the programs are installed.
            if self.program(environ) is None:
                raise
        return self.program(environ)


def in_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a missing server is a failure."""
    return environ.get("CI", "").lower() in {"true", "1"}


def may_install(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the system's package may be installed."""
    return in_ci(environ) or environ.get("RELEVO_TEST_INSTALL") == "1"


def system_program(
    name: str, package: str, environ: Mapping[str, str] = os.environ, *, folders: Sequence[str] = ()
) -> Path:
    """
    Return the program *name* of the system's *package*; install the package first if needed and allowed.

    Args:
        name: The program, looked up on the PATH and then in *folders*.

        package: The package that contains it.

        environ: The environment with the PATH, and with the permission to install the package.

        folders: Folders of programs that are not on an ordinary user's PATH.

    Raises:
        NotFoundError: It is not installed.

        InstallError: The package could not be installed.
    """
    path = search_path(environ, folders)
    if shutil.which(name, path=path) is None and may_install(environ):
        server_package.install(package, package, environ)
    found = shutil.which(name, path=path)
    if found is None:
        raise NotFoundError(f"{name} is not installed; install it with:  {server_package.command(package)}")
    return Path(found)


# --- the command line -----------------------------------------------------------------------------


def main(kind: Kind, arguments: Sequence[str] | None = None) -> int:
    """Run the command line for *kind* and return its exit code."""
    parser = argparse.ArgumentParser(description=f"Find {kind.name} for the tests, or start a private one.")
    parser.add_argument("command", choices=["run"])
    parser.add_argument("--private", action="store_true", help="prefer a private one, whose data is in memory")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, after --")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("nothing to run")
    signal.signal(signal.SIGTERM, _leave)
    with ExitStack() as stack:
        environ = dict(os.environ)
        try:
            url = stack.enter_context(kind.server(install=may_install(), private=options.private))
        except NotFoundError as error:
            if in_ci():
                return _failed(error)
            _say(f"{error}\nWithout it the tests that need {kind.name} are skipped.")
        except (NotAnsweringError, StartError, server_package.InstallError) as error:
            return _failed(error)
        else:
            _say(f"{kind.name} is at {kind.shown(url)}")
            environ[kind.variable] = url
        return _run(command, environ)


def _run(command: Sequence[str], environ: Mapping[str, str]) -> int:
    child = subprocess.Popen(tied([sys.executable, keeper.__file__, *command], path=os.defpath), env=environ)
    # A terminal sends its Ctrl-C to both; the command decides what it means.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    return code if code >= 0 else 128 - code


def _leave(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)


def _failed(error: Exception) -> int:
    _say(str(error))
    return UNAVAILABLE


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
