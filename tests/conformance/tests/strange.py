"""Memory transports that do what no transport may do, and harnesses that fail."""

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

VERBS = (
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
    "purge",
    "stats",
    "close",
)

Strange = Callable[[Any], Any]
"""Given what the memory transport answers, does or answers something else."""


class ImpatientHarness(MemoryHarness):
    """Waits no longer than a test can, and longer than any call that comes back."""

    call_timeout: ClassVar[float] = 1.0


class HastyHarness(MemoryHarness):
    """Has a clock that nobody can move."""

    new_clock: ClassVar[Callable[[], Clock]] = SystemClock
    patience: ClassVar[float] = 0.4
    glance: ClassVar[float] = 0.2


def transport_with(verb: str, strange: Strange) -> type[MemoryTransport]:
    """Return a memory transport whose *verb* ends in *strange*."""

    def method(self: MemoryTransport, *args: Any, **options: Any) -> Any:
        return strange(getattr(MemoryTransport, verb)(self, *args, **options))

    return type(f"Strange{verb.title()}", (MemoryTransport,), {verb: method})


def harness_of(transport: type[MemoryTransport]) -> type[MemoryHarness]:
    """Return the harness of *transport*."""
    return type(f"{transport.__name__}Harness", (MemoryHarness,), {"transport": transport})


def answering(verb: str, strange: Strange) -> type[MemoryHarness]:
    """Return the harness of a memory transport whose *verb* ends in *strange*."""
    return harness_of(transport_with(verb, strange))


def impatient(harness: type[MemoryHarness]) -> type[MemoryHarness]:
    """Return *harness*, which waits no longer than a test can."""
    return type(harness.__name__, (harness, ImpatientHarness), {})


def where_time_is_real(harness: type[MemoryHarness]) -> type[HastyHarness]:
    """Return *harness* on a clock that nobody moves, and with little patience."""
    return type(harness.__name__, (HastyHarness, harness), {})


def raising(error: BaseException) -> Strange:
    """Return what raises *error*, whatever came."""

    def strange(answer: object) -> NoReturn:
        raise error

    return strange


class Hours:
    """A clock that runs as the real one, but on which hours go by where somebody hangs; no other call takes as long."""

    def __init__(self) -> None:
        self._passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._passed

    def go_by(self) -> None:
        """Let what is in flight be overdue."""
        self._passed += 3600.0


HOURS = Hours()
"""What a watch must be given as its clock, if it is not to wait for what hangs."""


def hanging(answer: object) -> NoReturn:
    """Never come back."""
    HOURS.go_by()
    threading.Event().wait()
    raise AssertionError


class Unspeakable(Exception):  # noqa: N818 - a stranger's
    """Cannot even be told."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class Unshowable:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


# --- harnesses that fail ---------------------------------------------------------------------------


def fail(*args: object) -> NoReturn:
    """Be wrong."""
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
"""By harness: the hook that must be blamed."""


class BreaksNothing(MemoryHarness):
    """Says that it breaks the store, and leaves it whole."""

    @contextmanager
    def broken(self, transport: Transport, fault: Fault) -> Iterator[None]:
        yield


class StopsNobody(MemoryHarness):
    """Says that it stops a transport between its steps, and lets it pass."""

    @contextmanager
    def turnstile(self, transport: Transport, stop: Callable[[], None]) -> Iterator[None]:
        yield
