"""A private server: started from installed programs, with a folder of its own, and ended with its block."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from certificate import Certificate
from memory import memory_folder
from server_process import StartError, end, last_words, search_path, spawn, temporary_folder, wait_until


@attrs.frozen(kw_only=True)
class PrivateServer:
    """A server that can be started in its folder."""

    name: str
    """The name of its kind."""

    folder: Path
    """Deleted at the end."""

    _environ: Mapping[str, str]
    _path: str
    """Where its programs are looked up."""

    _account: pwd.struct_passwd | None
    """The user that runs it, if it is not the one of this process."""

    def program(self, name: str) -> str:
        """
        Return the path of another program of the server.

        Raises:
            StartError: It is not installed.
        """
        found = shutil.which(name, path=self._path)
        if found is None:
            raise StartError(f"{name}, which belongs to {self.name}, is not on the PATH")
        return found

    def write(self, text: str, name: str) -> Path:
        """Write *text* to the file *name* in its folder, which only the user that runs it can read."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        return path

    def adopted(self, certificate: Certificate) -> Certificate:
        """Return *certificate* with copies of its files that the user which runs it can read."""
        return Certificate(
            **{name: self.write(path.read_text(), f"{name}.pem") for name, path in attrs.asdict(certificate).items()}
        )

    def prepare(self, *command: str) -> None:
        """
        Run *command*, which creates the files of the server.

        Raises:
            StartError: It failed; shows the end of its output.
        """
        if code := spawn(command, self._environ, self._log, path=self._path, account=self._account).wait():
            raise StartError(f"{command[0]} ended with {code}\n{last_words(self._log)}")

    @contextmanager
    def running(
        self, *command: str, ready: Callable[[], bool], stop: signal.Signals = signal.SIGTERM
    ) -> Iterator[None]:
        """
        Run *command*, the server itself, until the end of the block.

        Args:
            command: The program and its arguments.

            ready: Whether it answers; the block begins then.

            stop: The signal that ends it although clients are connected.

        Raises:
            StartError: It does not answer.
        """
        process = spawn(command, self._environ, self._log, path=self._path, account=self._account, stop=stop)
        try:
            wait_until(ready, process, self._log, name=self.name)
            yield
        finally:
            end(process, stop)

    @property
    def _log(self) -> Path:
        return self.folder / "output.log"


@contextmanager
def private_server(
    name: str, environ: Mapping[str, str], *, programs: Sequence[str], account: str = "", room: int = 0
) -> Iterator[PrivateServer]:
    """
    Yield a private server with a new folder, in memory if possible.

    Args:
        name: The name of its kind.

        environ: The environment that it inherits.

        programs: Folders of its programs, besides the PATH.

        account: The user that runs it if this process is root's, for a server that refuses to run as root. If there is
            no such user, it is the system's user without privileges.

        room: Bytes that it needs. Where memory has fewer, such as in a container, the folder is on the disk.
    """
    with temporary_folder(name.lower(), under=memory_folder(room)) as folder:
        other = _entry(account) if account and os.geteuid() == 0 else None
        if other:
            os.chown(folder, other.pw_uid, other.pw_gid)
        yield PrivateServer(
            name=name,
            folder=Path(folder),
            environ=environ,
            path=search_path(environ, programs),
            account=other,
        )


def _entry(account: str) -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam(account)
    return pwd.getpwnam("nobody")
