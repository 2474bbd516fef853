"""Positions in JSON Lines up to which all is dispatched, to continue an interrupted command."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Self

import attrs
import click
import msgspec

from relevo._identity import made, uuid7
from relevo.cli._main import EXIT_LATER, EXIT_OUTPUT


@attrs.frozen
class Ids:
    """
    Makes the ids of the events of one input: the same for the same line, so that a line can be dispatched again.

    Args:
        key: The 32 hexadecimal digits of a UUID of version 7, made when the first line was dispatched.
    """

    key: str

    @classmethod
    def new(cls, now: float) -> Self:
        """Return new ids; *now* is in seconds since the epoch."""
        return cls(uuid7(now).replace("-", ""))

    @classmethod
    def parsed(cls, key: str) -> Self | None:
        """Return the ids with *key*; ``None`` if it is not a key."""
        return cls(key) if len(key) == 32 and set(key) <= set("0123456789abcdef") else None

    def of(self, number: int, line: bytes) -> str:
        """
        Return the id of the event in *line*, which sorts after those of earlier lines.

        Args:
            number: The number of the line.

            line: The line. If it differs in a second command, it is another event: with the same id it would be
                ignored as a duplicate, and lost.
        """
        chance = blake2b(b"%d %b" % (number, line), digest_size=10, key=self.key.encode()).digest()
        return made(int(self.key[:12], 16) + number // 1000, 8, chance)


@attrs.frozen
class FirstLine:
    """The line to begin with, and the ids of an earlier command."""

    number: int
    ids: Ids | None

    @classmethod
    def parsed(cls, text: str) -> Self | None:
        """Return the line in *text*, ``N`` or ``N:KEY``; ``None`` if it is neither."""
        number, colon, key = text.partition(":")
        ids = Ids.parsed(key) if colon else None
        if not (number.isascii() and number.isdecimal() and len(number) <= 18 and int(number)) or (colon and not ids):
            return None
        return cls(int(number), ids)

    def __str__(self) -> str:
        return str(self.number) if self.ids is None else f"{self.number}:{self.ids.key}"


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result for all lines before a place."""

    lines: int
    """The number of lines that are dispatched or rejected."""

    digest: str
    """A digest of these lines."""

    rejected: int
    """The number of them that were rejected."""

    end: int
    """The bytes of the file of rejected lines."""


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of the file."""

    event: str
    key: str
    to: dict[str, str] | None = None
    """The targets of the events, each with the identity of its store; earlier releases did not write it."""


_head = msgspec.json.Decoder(_Head).decode
_position = msgspec.json.Decoder(Position).decode
_encode = msgspec.json.Encoder().encode


class PositionFile:
    """
    A file that grows by a line for each position, so that one that was written in part leaves the one before.

    Args:
        file: The open file, which no other command writes.

        path: Its path.

        event: The name of the events.

    Raises:
        click.BadParameter: It is another kind of file, or of other events.
    """

    def __init__(self, file: FileIO, path: Path, event: str):
        self._file = file
        self._path = path
        self._event = event
        self.ids: Ids | None = None
        """The ids of the events; ``None`` if the file is new."""
        self.position: Position | None = None
        """The last position."""
        self.to: Mapping[str, str] | None = None
        """The targets to which the lines were dispatched, each with its store's identity; ``None`` if not known."""
        *lines, torn = file.readall().split(b"\n")
        if lines:
            self._read(lines[0], lines[-1] if lines[1:] else None)
        elif not b'{"event":'.startswith(torn[:9]):
            raise self._of_another_kind()
        if torn:
            file.truncate(file.tell() - len(torn))

    def _read(self, first: bytes, last: bytes | None) -> None:
        try:
            head = _head(first)
            self.position = None if last is None else _position(last)
        except msgspec.DecodeError as error:
            raise self._of_another_kind() from error
        self.ids, self.to = Ids.parsed(head.key), head.to
        if self.ids is None:
            raise self._of_another_kind()
        if head.event != self._event:
            raise _refused(f'{self._path} has the position of "{head.event}"; choose another path, or remove it')

    def _of_another_kind(self) -> click.BadParameter:
        return _refused(f"{self._path}: expected a file that --resume wrote; got another one; choose another path")

    @classmethod
    @contextmanager
    def opened(cls, path: Path, event: str) -> Iterator[Self]:
        """
        Open the file at *path*, which no other command can do meanwhile; create it if it is missing.

        Raises:
            click.ClickException: It is another kind of file, cannot be opened, or another command has opened it.
        """
        with appended(path, "--resume") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refused(f"{path}: expected a regular file")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FailureError(f"another command uses --resume {path}; wait for its end", EXIT_LATER) from error
            yield cls(file, path, event)

    def begin(self, ids: Ids, position: Position, to: Mapping[str, str]) -> None:
        """Note *ids*, the targets *to* and the first *position* durably, before the first event is sent."""
        head = b"" if self.ids else _encode(_Head(event=self._event, key=ids.key, to=dict(to))) + b"\n"
        append(self._file, self._path, head + _encode(position) + b"\n")
        folder = os.open(self._path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # otherwise a crash of the host could lose the file
        finally:
            os.close(folder)

    def note(self, position: Position) -> None:
        """Note *position* durably."""
        append(self._file, self._path, _encode(position) + b"\n")


@contextmanager
def appended(path: Path, option: str) -> Iterator[FileIO]:
    """Open the file at *path* of *option*, to read it and to append to it; create it if it is missing."""
    try:
        file = FileIO(path, "a+")
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be opened: {error.strerror}", param_hint=option) from error
    with file:
        if file.seekable():
            file.seek(0)
        yield file


def append(file: FileIO, path: Path, data: bytes) -> None:
    """Append *data* to *file* durably; the error has its *path*."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) or 0 :]
        if file.seekable():
            os.fsync(file)
    except OSError as error:
        raise FailureError(f"{path} cannot be written: {error.strerror}", EXIT_OUTPUT) from error


class FailureError(click.ClickException):
    """
    Raised when the command has to end with an exit code of its own.

    Args:
        text: What is reported.

        code: The exit code.
    """

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.exit_code = code  # type: ignore[misc]  # click declares it for the class


def _refused(text: str) -> click.BadParameter:
    return click.BadParameter(text, param_hint="--resume")
