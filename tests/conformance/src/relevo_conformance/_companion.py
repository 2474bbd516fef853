"""Processes that run tests of the suite beside this one: each test is run by the process that claims it first."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import attrs

_LENGTH = 8
"""The bytes that hold the length of what follows."""

_CLEANS_UP_WITHIN = 5.0
"""Seconds for which an interrupted process may close its harness."""

_LOOK = 0.02
"""Seconds between two looks whether it has ended."""

Claim = Callable[[str], bool]
"""Returns whether this process runs the test of that name, and not another one."""

Send = Callable[[object], None]
"""Sends something to the process that waits for it."""


class NotSentError(Exception):
    """Raised when something cannot be sent to another process."""


class CompanionFailedError(Exception):
    """Raised when a companion failed by itself, in what it runs and not in the transport; names the error."""


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

        folder: Where they keep their files, in a folder of their own; by default that of temporary files.
    """

    def __init__(self, number: int, act: Callable[[Claim, Send], None], *, folder: Path | None = None):
        self._alone = 0
        """How many tests were claimed, if there is no companion."""

        self._companions: list[_Companion] = []
        if not number:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="companions-", dir=folder, ignore_cleanup_errors=True)
        self._tests = Path(self._folder.name, "tests")
        self._tests.mkdir()
        self._order, self._begin = os.pipe()
        self._companions += [self._fork(act, Path(self._folder.name, str(each))) for each in range(number)]
        os.close(self._order)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for companion in self._companions:
            companion.end()
        if self._companions:
            os.close(self._begin)
            self._folder.cleanup()

    def start(self) -> None:
        """Let them begin."""
        if self._companions:
            with suppress(BrokenPipeError):  # they have ended, which is found later
                os.write(self._begin, b"." * len(self._companions))

    def claim(self, test: str) -> bool:
        """Return whether this process runs *test*, and not another one."""
        if not self._companions:
            self._alone += 1
            return True
        return self._claim(test)

    def claimed(self) -> int:
        """Return how many tests have been claimed."""
        return sum(1 for _ in self._tests.iterdir()) if self._companions else self._alone

    def running(self) -> str | None:
        """Return the last test that one of them began which has not ended; ``None`` if all have ended."""
        return next((each.test for each in self._companions if each.look() is None), None)

    def received(self) -> Iterator[object]:
        """
        Yield what they have sent since the last time.

        Raises:
            CompanionEndedError: One of them ended before its tests had.

            CompanionFailedError: One of them failed by itself.
        """
        for companion in self._companions:
            status = companion.look()
            yield from companion.read()
            if companion.why:
                raise CompanionFailedError(companion.why)
            if status is not None and not companion.is_done:
                raise CompanionEndedError(companion.test, status)

    def _fork(self, act: Callable[[Claim, Send], None], sent: Path) -> _Companion:
        sys.stdout.flush()
        sys.stderr.flush()
        # Until the new process can end at an interruption, and not go on as this one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        process = os.fork()
        if process:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return _Companion(sent, process)
        try:
            self._be_companion(act, sent, before)
        finally:
            # sys.exit would wait for a thread that hangs.
            os._exit(0)

    def _be_companion(self, act: Callable[[Claim, Send], None], sent: Path, signals: AbstractSet[int]) -> None:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            os.close(self._begin)
            os.setsid()  # a signal to its group does not reach the others
            self._companions.clear()  # they are not its own

            def claim(test: str) -> bool:
                if not self._claim(test):
                    return False
                _write(sent, _TestBegan(test))
                return True

            if os.read(self._order, 1):
                act(claim, lambda something: _write(sent, something))
            _write(sent, _Ended())
        except KeyboardInterrupt:
            with suppress(Exception):
                _write(sent, _Ended("it was interrupted"))
        except BaseException as error:  # noqa: BLE001 - the first process reports it
            with suppress(Exception):
                _write(sent, _Ended("".join(traceback.format_exception(error))))

    def _claim(self, test: str) -> bool:
        try:
            os.close(os.open(self._tests / test, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


@attrs.frozen
class _TestBegan:
    test: str


@attrs.frozen
class _Ended:
    """Sent last: whatever ends the process before, its tests have not ended."""

    why: str = ""
    """The error of the suite that ended them."""


@attrs.define(eq=False)
class _Companion:
    """One of them, as this process sees it."""

    _sent: Path
    """What it has sent: a file, since a pipe would be held open by every process that inherits it."""

    _process: int
    test: str = ""
    """The last test that it began."""

    is_done: bool = False
    """Whether its tests have ended."""

    why: str = ""
    """The error of the suite that ended them."""

    _status: int | None = None
    _read: int = 0
    """How many bytes were read."""

    def look(self) -> int | None:
        """Return how it ended; ``None`` if it runs."""
        if self._status is None:
            try:
                process, status = os.waitpid(self._process, os.WNOHANG)
            except ChildProcessError:  # another part of the process has waited for it
                self._status = 0
            else:
                self._status = os.waitstatus_to_exitcode(status) if process else None
        return self._status

    def read(self) -> Iterator[object]:
        """Yield what it has sent since the last time."""
        for something in self._new():
            match something:
                case _TestBegan(test=test):
                    self.test = test
                case _Ended(why=why):
                    self.is_done, self.why = True, why
                case _:
                    yield something

    def end(self) -> None:
        """Interrupt it if it runs, and kill it if it goes on."""
        for number, seconds in ((signal.SIGINT, _CLEANS_UP_WITHIN), (signal.SIGKILL, None)):
            if self.look() is None:
                with suppress(ProcessLookupError):
                    os.kill(self._process, number)
            until = None if seconds is None else time.monotonic() + seconds
            while self.look() is None and (until is None or time.monotonic() < until):
                time.sleep(_LOOK)

    def _new(self) -> Iterator[object]:
        try:
            file = self._sent.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._read)
            while len(head := file.read(_LENGTH)) == _LENGTH:
                packed = file.read(int.from_bytes(head))
                if len(packed) < int.from_bytes(head):  # it is not written yet
                    return
                self._read = file.tell()
                yield pickle.loads(packed)  # noqa: S301 - the process was forked from this one


class _Pickler(pickle.Pickler):
    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[MappingProxyType] = lambda mapping: (_mapping, (dict(mapping),))


def _mapping(content: dict[object, object]) -> MappingProxyType[object, object]:
    """Return a mapping that cannot be changed; pickle does not find its class by name."""
    return MappingProxyType(content)


def _write(sent: Path, something: object) -> None:
    """Append *something* to the file, which is opened each time: a transport may close what is open."""
    packed = io.BytesIO()
    try:
        _Pickler(packed, pickle.HIGHEST_PROTOCOL).dump(something)
        pickle.loads(packed.getvalue())  # noqa: S301 - it was written here
    except Exception as error:
        raise NotSentError(str(error)) from error
    with sent.open("ab") as file:
        file.write(len(packed.getvalue()).to_bytes(_LENGTH) + packed.getvalue())
