"""Processes that run tests of the suite beside this one: each test is run by the process that claims it first."""

from __future__ import annotations

import copyreg
import io
import os
import pickle  # nosec B403  # what is read was written by a process that was forked from this one
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

import attrs

_LENGTH = 8
"""The bytes that hold the length of what follows."""

Claim = Callable[[str], bool]
"""Returns whether this process runs the test of that name, and not another one."""

Send = Callable[[object], None]
"""Sends something to the process that waits for it."""


class NotSentError(Exception):
    """Raised when something cannot be sent to another process."""


class CompanionEndedError(Exception):
    """
    Raised when a companion ended before its tests had.

    Args:
        test: The test in which it ended.

        status: How it ended, as :func:`os.waitstatus_to_exitcode` returns it.
    """

    def __init__(self, test: str, status: int):
        super().__init__(f"a process ended in {test}: {status}")
        self.test, self.status = test, status


class Companions:
    """
    Forks processes that wait for :meth:`start`, and ends them with the block.

    Fork them while this process has no thread that holds a lock.

    Args:
        number: How many.

        act: What each of them runs, with what claims a test and what sends something to this process.
    """

    def __init__(self, number: int, act: Callable[[Claim, Send], None]):
        self._folder = tempfile.TemporaryDirectory(prefix="relevo-conformance-", ignore_cleanup_errors=True)
        self._order, self._begin = os.pipe()
        self._companions = [self._fork(act) for _ in range(number)]
        os.close(self._order)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for companion in self._companions:
            companion.end()
        os.close(self._begin)
        self._folder.cleanup()

    def start(self) -> None:
        """Let them begin."""
        os.write(self._begin, b"." * len(self._companions))

    def claim(self, test: str) -> bool:
        """Return whether this process runs *test*, and not another one."""
        try:
            os.close(os.open(Path(self._folder.name, test), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def claimed(self) -> int:
        """Return how many tests have been claimed."""
        return sum(1 for _ in Path(self._folder.name).iterdir())

    def received(self, *, wait: bool = False) -> Iterator[object]:
        """
        Yield what they have sent since the last time.

        Args:
            wait: Wait until they have ended.

        Raises:
            CompanionEndedError: One of them ended before its tests had.
        """
        for companion in self._companions:
            status = companion.look(wait=wait)
            yield from companion.read()
            if status is not None and not companion.is_done:
                raise CompanionEndedError(companion.test, status)

    def _fork(self, act: Callable[[Claim, Send], None]) -> _Companion:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as both processes run
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process:
            return _Companion(file, process)
        code = 1
        try:
            os.close(self._begin)
            os.setsid()  # a signal to its group does not reach the others
            if os.read(self._order, 1):
                act(self._claim_and_say(file), lambda something: _write(file, something))
            _write(file, _Ended())
            code = 0
        except BaseException:  # noqa: BLE001 - nothing above can show it
            traceback.print_exc()
        # sys.exit would wait for a thread that hangs.
        os._exit(code)

    def _claim_and_say(self, file: IO[bytes]) -> Claim:
        def claim(test: str) -> bool:
            if not self.claim(test):
                return False
            _write(file, _TestBegan(test))
            return True

        return claim


@attrs.frozen
class _TestBegan:
    test: str


@attrs.frozen
class _Ended:
    """Sent last: whatever ends the process before, its tests have not ended."""


@attrs.define(eq=False)
class _Companion:
    """One of them, as this process sees it."""

    _file: IO[bytes]
    _process: int
    test: str = ""
    """The last test that it began."""

    is_done: bool = False
    """Whether its tests have ended."""

    _status: int | None = None
    _read: int = 0
    """How many bytes were read."""

    def look(self, *, wait: bool) -> int | None:
        """Return how it ended; ``None`` if it runs."""
        if self._status is None:
            process, status = os.waitpid(self._process, 0 if wait else os.WNOHANG)
            if process:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def read(self) -> Sequence[object]:
        """Return what it has sent since the last time."""
        received = []
        while (something := self._next()) is not None:
            match something:
                case _TestBegan(test=test):
                    self.test = test
                case _Ended():
                    self.is_done = True
                case _:
                    received.append(something)
        return received

    def end(self) -> None:
        """Kill it if it runs."""
        if self._status is None:
            os.kill(self._process, signal.SIGKILL)
            self.look(wait=True)
        self._file.close()

    def _next(self) -> object | None:
        begin = self._read + _LENGTH
        length = int.from_bytes(os.pread(self._file.fileno(), _LENGTH, self._read))
        packed = os.pread(self._file.fileno(), length, begin) if length else b""
        if not length or len(packed) < length:  # it is not written yet
            return None
        self._read = begin + length
        something: object = pickle.loads(packed)  # noqa: S301 - the process was forked from this one  # nosec B301
        return something


class _Pickler(pickle.Pickler):
    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[MappingProxyType] = lambda mapping: (_mapping, (dict(mapping),))


def _mapping(content: dict[object, object]) -> MappingProxyType[object, object]:
    """Return a mapping that cannot be changed; pickle does not find its class by name."""
    return MappingProxyType(content)


def _write(file: IO[bytes], something: object) -> None:
    packed = io.BytesIO()
    try:
        _Pickler(packed, pickle.HIGHEST_PROTOCOL).dump(something)
    except Exception as error:
        raise NotSentError(str(error)) from error
    content = packed.getvalue()
    file.write(len(content).to_bytes(_LENGTH) + content)
    file.flush()
