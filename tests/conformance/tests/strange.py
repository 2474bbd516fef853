"""Memory transports that violate the interface, and harnesses that fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NoReturn

from relevo import Clock, SystemClock, Transport
from relevo_conformance.fault import Fault
from relevo_memory import MemoryTransport

from .memory import MemoryHarness

OPERATIONS = (
    "setup",
    "send",
    "receive",
    "settle",
    "extend",
    "checkpoint",
    "dead_letters",
    "revive",
    "discard",
    "cancel",
    "find",
    "waiting",
    "waiting_groups",
    "matching_dead_letters",
    "stuck_keys",
    "purge",
    "stats",
    "close",
)

Strange = Callable[[Any], Any]
"""Called with the return value of the memory transport, and returns or does something else."""


class ImpatientHarness(MemoryHarness):
    """Has a short timeout for calls, which only a call that hangs exceeds."""

    call_timeout: ClassVar[float] = 1.0


class HastyHarness(MemoryHarness):
    """Has a real clock, which the suite cannot move."""

    new_clock: ClassVar[Callable[[], Clock]] = SystemClock
    patience: ClassVar[float] = 0.4
    glance: ClassVar[float] = 0.2


def transport_with(operation: str, strange: Strange) -> type[MemoryTransport]:
    """Return a memory transport whose *operation* ends in *strange*."""

    def method(self: MemoryTransport, *args: Any, **options: Any) -> Any:
        return strange(getattr(MemoryTransport, operation)(self, *args, **options))

    return type(f"Strange{operation.title()}", (MemoryTransport,), {operation: method})


def harness_of(transport: type[MemoryTransport]) -> type[MemoryHarness]:
    """Return the harness of *transport*."""
    return type(f"{transport.__name__}Harness", (MemoryHarness,), {"transport": transport})


def answering(operation: str, strange: Strange) -> type[MemoryHarness]:
    """Return the harness of a memory transport whose *operation* ends in *strange*."""
    return harness_of(transport_with(operation, strange))


def impatient(harness: type[MemoryHarness]) -> type[MemoryHarness]:
    """Return *harness* with a short timeout for calls."""
    return type(harness.__name__, (harness, ImpatientHarness), {})


def where_time_is_real(harness: type[MemoryHarness]) -> type[HastyHarness]:
    """Return *harness* with a real clock and little patience."""
    return type(harness.__name__, (HastyHarness, harness), {})


def raising(error: BaseException) -> Strange:
    """Return a function that raises *error*."""

    def strange(answer: object) -> NoReturn:
        raise error

    return strange


class Hours:
    """A clock that runs like the real one, but skips an hour when a call hangs."""

    def __init__(self) -> None:
        self._passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._passed

    def go_by(self) -> None:
        """Skip an hour, so that the calls in flight are overdue."""
        self._passed += 3600.0


HOURS = Hours()
"""The clock for a watch that must not really wait for a hanging call."""


def hanging(answer: object) -> NoReturn:
    """Never return."""
    HOURS.go_by()
    threading.Event().wait()
    raise AssertionError


class Unspeakable(Exception):  # noqa: N818 - of a third party
    """An exception that cannot be converted to a string."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class Unshowable:
    """An object whose ``repr()`` raises."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


# --- harnesses that fail ---------------------------------------------------------------------------


def fail(*args: object) -> NoReturn:
    """Raise an error that is not the transport's fault."""
    message = "the author was tired"
    raise ZeroDivisionError(message)


class CannotBegin(MemoryHarness):
    def __init__(self) -> None:
        fail()


class CannotOpen(MemoryHarness):
    def open(self) -> Transport:
        fail()


class OpensNothing(MemoryHarness):
    def open(self) -> Transport:
        return None  # type: ignore[return-value]


class CannotKill(MemoryHarness):
    def kill(self, transport: Transport) -> None:
        fail()


class CannotPutRaw(MemoryHarness):
    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        fail()


class CannotAdvance(MemoryHarness):
    def advance(self, seconds: float) -> None:
        fail()


class CannotDrop(MemoryHarness):
    def drop(self, queue: str) -> None:
        fail()


class CannotClose(MemoryHarness):
    def close(self) -> None:
        super().close()
        fail()


class HasNoSession(MemoryHarness):
    def session(self) -> NoReturn:
        fail()


class LeavesNoSession(MemoryHarness):
    @contextmanager
    def session(self) -> Iterator[Any]:
        with super().session() as handle:
            yield handle
        fail()


class HangsInAdvance(MemoryHarness):
    def advance(self, seconds: float) -> None:
        hanging(None)


FAILING: Mapping[type[MemoryHarness], str] = {
    CannotBegin: "__init__",
    CannotOpen: "open",
    OpensNothing: "open",
    CannotKill: "kill",
    CannotPutRaw: "put_raw",
    CannotAdvance: "advance",
    CannotDrop: "drop",
    CannotClose: "close",
    HasNoSession: "session",
    LeavesNoSession: "session",
    HangsInAdvance: "advance",
}
"""By harness: the hook that the report must name."""


class BreaksNothing(MemoryHarness):
    """Claims to break the store, but does not."""

    @contextmanager
    def broken(self, transport: Transport, fault: Fault) -> Iterator[None]:
        yield


class StopsNobody(MemoryHarness):
    """Claims to stop a transport between its steps, but does not."""

    @contextmanager
    def turnstile(self, transport: Transport, stop: Callable[[], None]) -> Iterator[None]:
        yield
