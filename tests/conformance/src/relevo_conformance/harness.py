"""The harness, through which the suite drives a transport."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self

import attrs

from relevo import Capabilities, Clock, Delivery, Transport
from relevo.backend import HandlingTransaction
from relevo.errors import ConfigurationError, did_you_mean, nearest, shown
from relevo.testing import FakeClock
from relevo_conformance._world import OVERTIME, PATIENCE, Violation
from relevo_conformance.checker import Judge
from relevo_conformance.fault import Breakage, Fault
from relevo_conformance.history import Record
from relevo_conformance.verdict import HarnessError, claims_of
from relevo_conformance.watch import Watchdog

LONGEST_SLEEP = 30.0
"""The longest time in seconds that the suite lets pass on a real clock."""

BREAKAGES: tuple[Breakage, ...] = ("before", "after")

ALLOWANCES: Mapping[str, float] = MappingProxyType({"slack": 60.0, "patience": 600.0, "call_timeout": 3600.0})
"""The attributes of a harness that make the suite less strict, with the largest value of each in seconds."""


class MovableClock(FakeClock):
    """A clock that is moved by hand, and that can be set back, as an administrator does it."""

    def __init__(self) -> None:
        super().__init__()
        self._set_back = 0.0

    def now(self) -> float:
        return super().now() - self._set_back

    def set_back(self, seconds: float) -> None:
        """Set the clock back by *seconds*; the monotonic time stays."""
        self._set_back += seconds


HOOKS = (
    "open",
    "kill",
    "put_raw",
    "advance",
    "drop",
    "session",
    "connection",
    "handling",
    "handling_once",
    "broken_send",
    "broken",
    "turnstile",
)
"""The methods that a harness may define, in the order of the documentation."""


class HookMissing(Exception):  # noqa: N818 - the reason for a skip, not a failure
    """Raised by an optional hook that a harness does not have; tests that need it are skipped."""


@attrs.frozen
class Deviation:
    """Why a transport does not keep a promise of the level *must*, and a page that explains it."""

    reason: str
    url: str


@attrs.define(eq=False)
class Observed:
    """What the suite recorded of a harness, over all its instances, for a report card."""

    met: Counter[str] = attrs.field(factory=Counter)
    """How often each situation of :func:`relevo_conformance.history.tally` was met."""

    hooks: Counter[str] = attrs.field(factory=Counter)
    """How often each hook was called."""

    broken: tuple[Sequence[Record], Sequence[Violation]] | None = None
    """The last history that broke a promise, and its violations; after shrinking it is the shortest one."""

    breaking: dict[str, Sequence[Record]] = attrs.field(factory=dict)
    """By the id of a promise: the last history whose first violation is of that promise."""

    failed: Sequence[Record] = ()
    """The last history of a scenario that failed."""

    pairs: dict[tuple[str, str], bool] = attrs.field(factory=dict)
    """For each pair of a feature and an operation that can exist, whether it was met."""

    _writing: threading.Lock = attrs.field(factory=threading.Lock, repr=False)

    def take_in(
        self,
        met: Mapping[str, int],
        hooks: Mapping[str, int],
        broken: tuple[Sequence[Record], Sequence[Violation]] | None,
        failed: Sequence[Record] = (),
    ) -> None:
        """Add what one history met; from any thread."""
        with self._writing:
            self.met.update(met)
            self.hooks.update(hooks)
            self.broken = broken or self.broken
            if broken is not None:
                self.breaking[broken[1][0].promise] = broken[0]
            self.failed = failed or self.failed

    def expect_pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Add pairs that can exist; from any thread."""
        with self._writing:
            self.pairs = {**dict.fromkeys(pairs, False), **self.pairs}

    def meet_pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Add pairs that were met; from any thread."""
        with self._writing:
            self.pairs.update(dict.fromkeys(pairs, True))

    def forget(self) -> None:
        """Drop the histories that broke a promise, or did not prove that it is kept."""
        self.broken, self.failed = None, ()
        self.breaking.clear()


def allowance_problems(harness: type[Harness]) -> Iterator[tuple[str, str]]:
    """Yield the name of each invalid attribute of :data:`ALLOWANCES`, and its problem."""
    for name, largest in ALLOWANCES.items():
        value: object = getattr(harness, name)
        if name == "patience" and value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        least_excluded = name == "call_timeout"
        if not is_number or not 0 <= value <= largest or (least_excluded and value == 0):  # type: ignore[operator]
            none = "None or " if name == "patience" else ""
            bounds = f"above 0 and up to {largest:g}" if least_excluded else f"from 0 to {largest:g}"
            yield name, f"is {shown(value)}; expected {none}a number of seconds {bounds}"


def allowances_of(harness: type[Harness]) -> Mapping[str, tuple[float, float | None]]:
    """Return the values of :data:`ALLOWANCES` that *harness* sets, each with its default in seconds."""
    values = {name: (getattr(harness, name), getattr(Harness, name)) for name in ALLOWANCES}
    return {name: (value, default) for name, (value, default) in values.items() if value != default}


def patience_of(harness: type[Harness], clock: Clock) -> float:
    """Return the patience of *harness* on *clock* in seconds: what it states, or the default."""
    if harness.patience is not None:
        return harness.patience
    return 0.0 if isinstance(clock, FakeClock) else PATIENCE


def judge_of(harness: type[Harness], capabilities: Capabilities, clock: Clock) -> Judge:
    """Return the checker of a transport with *capabilities*, as exact as *harness* and its *clock* allow."""
    return Judge(
        capabilities,
        slack=harness.slack,
        patience=patience_of(harness, clock),
        overtime=max(OVERTIME, harness.call_timeout),
        knows_faults=True,
    )


def opened(harness: Harness) -> Transport:
    """
    Return another transport of *harness*.

    Raises:
        HarnessError: Its ``open`` returned something else.
    """
    found: object = harness.open()
    if not isinstance(found, Transport):
        raise HarnessError(type(harness).__name__, "open", f"returned {shown(found)}; expected a relevo.Transport")
    return found


class CommitFailedError(Exception):
    """Raised by a commit that ``fail_commit()`` of a transaction made fail."""


class Savepoint(Protocol):
    """A part of a transaction that can be rolled back alone."""

    def commit(self) -> object:
        """Keep it as a part of the transaction around it."""

    def rollback(self) -> object:
        """Undo it."""


class Transaction(Protocol):
    """
    A transaction of the application, which a transport joins; after its end the session begins another one.

    If its session holds objects until a flush, it may have a method ``add_pending()``, which adds one and returns a
    function that tells whether it was written: events must be made after that. It may have ``count_written()``, which
    returns how many of them are committed: none of a commit that raised. It may have ``at_flush(act)``, which calls
    *act* once, after the next flush that writes objects: what is sent then belongs to the transaction.

    It may have ``close()``, if a closed session can be used again, and ``fail_commit()``, which lets the next commit
    roll back and raise :class:`CommitFailedError`. That of a connection may have ``without_transaction()``, a context
    manager with a connection to the same database that cannot be joined, since each statement commits itself.
    """

    @property
    def session(self) -> Any:
        """The argument of ``bound_to``; if it has ``flush()``, its events must be made at the commit."""

    def commit(self) -> object:
        """Commit it."""

    def rollback(self) -> object:
        """Roll it back."""

    def savepoint(self) -> Savepoint:
        """Begin a part that can be rolled back alone."""


class Harness(ABC):
    """
    Opens, breaks and cleans up one kind of transport for the suite.

    One harness stands for one store: what one transport that it opened sends, another receives.
    The suite makes one for each test class, uses queue names that never repeat, and closes it. It calls one hook at a
    time; where time is real, calls may come from different threads.
    A harness whose server is missing calls ``pytest.skip`` in its ``__init__``.
    """

    takes: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The options of the harness: a description by name. See :meth:`with_options`."""

    options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The values of the options."""

    transport: ClassVar[type[Transport]]
    """The class that is tested; its capabilities decide which tests run."""

    new_clock: ClassVar[Callable[[], Clock]] = MovableClock
    """Makes the clock; use ``SystemClock`` if the store's clock cannot be moved."""

    slack: ClassVar[float] = 0.002
    """
    Seconds by which the store's clock may differ from :attr:`clock`, rounding included; 60 at most.

    The card shows it, :attr:`patience` and :attr:`call_timeout` where a harness sets them: they make the suite less
    strict.
    """

    patience: ClassVar[float | None] = None
    """
    Seconds of real time within which a ready event must be handed out, and within which the store must
    notice that a holder has vanished. By default 0 on a clock moved by hand (one receive must be enough), else 10;
    600 at most.
    """

    glance: ClassVar[float] = 0.3
    """
    Seconds of real time for which one receive waits; a ready event usually comes faster. Never more than
    :attr:`patience`. Most of these receives must return nothing, so a short time makes the suite faster.
    """

    deviations: ClassVar[Mapping[str, Deviation]] = MappingProxyType({})
    """Promises of the level *must*, by id, that :attr:`transport` does not keep, and why."""

    call_timeout: ClassVar[float] = OVERTIME
    """
    Seconds of real time that a call of the transport, or of a hook, may take beyond what it is asked to
    wait; a longer call counts as hung. 3600 at most.
    """

    observed: ClassVar[Observed | None] = None
    """Where the suite records what it finds; by default nowhere."""

    clock: Clock

    last_opened: object = None
    """What :meth:`open` returned last."""

    takes_headers = True
    """Whether ``put_raw`` takes headers, as far as the suite has found out."""

    def __init__(self) -> None:
        self.clock = type(self).new_clock()

    @classmethod
    def with_options(cls, options: Mapping[str, str]) -> type[Self]:
        """
        Return this harness with *options*, as ``relevo-conformance run`` gets them on its command line.

        Raises:
            ConfigurationError: It does not have one of them.
        """
        for name in options:
            if name not in cls.takes:
                hint = did_you_mean(name, cls.takes) or f"; it takes {', '.join(cls.takes) or 'none'}"
                raise ConfigurationError(f'{cls.__name__} takes no option "{name}"{hint}')
        given = MappingProxyType({**cls.options, **options})
        return cls._with(options=given)

    @classmethod
    def may_run_beside(cls) -> bool:
        """
        Return whether an instance in another process may run at the same time: neither changes what the other uses.

        Then ``relevo-conformance run`` shares out the tests between two processes, where there are two cores. By
        default it may not.
        """
        return False

    @classmethod
    def watched(cls, observed: Observed) -> type[Self]:
        """Return this harness, changed so that the suite records in *observed* what it finds."""
        return cls._with(observed=observed)

    @classmethod
    def hurried(cls, seconds: float) -> type[Self]:
        """Return this harness, changed so that no call may take longer than *seconds*."""
        return cls._with(call_timeout=min(cls.call_timeout, seconds))

    @classmethod
    def defines(cls) -> frozenset[str]:
        """Return the hooks that the author of this harness wrote."""
        return frozenset(hook for hook in HOOKS if getattr(cls, hook, None) is not getattr(Harness, hook, None))

    @classmethod
    def resembling(cls, hook: str) -> str:
        """Return ``; did you mean it by "…"?`` for the method of the author that is most like *hook*, or nothing."""
        methods = {name for each in cls.__mro__ for name, value in vars(each).items() if callable(value)}
        found = nearest(hook, methods - set(dir(Harness)))
        return "" if found is None else f'; did you mean it by "{found}"?'

    @classmethod
    def _with(cls, **members: object) -> type[Self]:
        return type(cls.__name__, (cls,), {"__module__": cls.__module__, "__doc__": cls.__doc__, **members})

    # --- required -----------------------------------------------------------------------------------

    @abstractmethod
    def open(self) -> Transport:
        """Return another instance on the same store, with :attr:`clock`."""

    @abstractmethod
    def kill(self, transport: Transport) -> None:
        """
        Make *transport* vanish as a killed process does: settle nothing, close nothing.

        Connections end without a close. A timed lease runs on; the suite moves the clock.
        """

    # --- recommended --------------------------------------------------------------------------------

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        """
        Put *raw*, which is not an envelope, into *queue* as a foreign program would.

        Raises:
            HookMissing: There are *headers*, and the store has no place for foreign ones.
        """
        raise HookMissing("put_raw")

    # --- optional -----------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        if isinstance(self.clock, FakeClock):
            self.clock.advance(seconds)
        elif seconds <= LONGEST_SLEEP:
            self.clock.sleep(seconds)
        else:
            message = f"the suite would wait {seconds} s on a real clock; the limit is {LONGEST_SLEEP} s"
            raise ValueError(message)

    def drop(self, queue: str) -> None:  # noqa: B027 - a queue that costs nothing may stay
        """Remove *queue* and all that is in it; never called while a test still needs it."""

    def close(self) -> None:  # noqa: B027 - a harness may have nothing to give back
        """Release the resources of the harness."""

    # --- by capability ------------------------------------------------------------------------------

    def session(self) -> AbstractContextManager[Transaction]:
        """
        Begin a transaction on the store, which is rolled back at the end unless committed.

        Needed where ``transactional`` is claimed. Two may be open in one thread, and other calls come between: what is
        sent must block nothing before the commit. Where it is written at once, and may block others, define
        :meth:`connection` alone. It may be ended while savepoints are open, as databases allow it.
        """
        raise HookMissing("session")

    def connection(self) -> AbstractContextManager[Transaction]:
        """
        Begin a transaction of another kind than :meth:`session`, if the transport joins two kinds.

        What is sent in it may be written at once: while it is open, the suite calls nothing else.
        """
        raise HookMissing("connection")

    def handling(
        self, transport: Transport, delivery: Delivery
    ) -> AbstractContextManager[tuple[HandlingTransaction, Transaction]]:
        """
        Call ``handling`` of *transport* with sessions of the application, and close the result at the end.

        Needed where the transport is a :class:`relevo.backend.TransactionalHandling`. The second value is what the
        suite writes in the session with: it must have ``add_pending()`` and ``count_written()``.

        Args:
            transport: One that this harness opened.

            delivery: What it handed out.
        """
        raise HookMissing("handling")

    def handling_once(
        self, transport: Transport, key: str, aliases: Sequence[str], noted: Mapping[str, bytes]
    ) -> AbstractContextManager[tuple[HandlingTransaction, Transaction]]:
        """
        Call ``handling_once`` of *transport* with sessions of the application, and close the result at the end.

        Needed where the transport is a :class:`relevo.backend.Inbox`. The second value is as for :meth:`handling`.

        Args:
            transport: One that this harness opened.

            key: Identifies the listener and its event.

            aliases: Further keys that are committed with it.

            noted: The notes that the listener knows, by key.
        """
        raise HookMissing("handling_once")

    def broken_send(self, transport: Transport, breakage: Breakage) -> AbstractContextManager[None]:
        """
        Break the store beneath *transport*, so that its next send fails, and repair it at the end.

        Args:
            transport: One that this harness opened.

            breakage: *before*: nothing is written. *after*: all is written and the answer is lost.
        """
        try:
            return self.broken(transport, Fault(breakage, 1 if breakage == "before" else None))
        except HookMissing:
            raise HookMissing("broken_send") from None

    def broken(self, transport: Transport, fault: Fault) -> AbstractContextManager[None]:
        """
        Let one write of *transport* to its store fail, whichever call makes it, and repair the store at the end.

        It replaces :meth:`broken_send` too.

        Args:
            transport: One that this harness opened.

            fault: Which write, and whether before or after it had its effect.
        """
        raise HookMissing("broken")

    def turnstile(self, transport: Transport, stop: Callable[[], None]) -> AbstractContextManager[None]:
        """
        Call *stop* wherever another worker may come between two steps of *transport*, such as before a statement.

        It blocks until this transport may continue. Do not call it while holding a lock that other transports of this
        process need.

        Args:
            transport: One that this harness opened.

            stop: A function to call in the thread that takes the step.
        """
        raise HookMissing("turnstile")

    # --- derived ------------------------------------------------------------------------------------

    @cached_property
    def capabilities(self) -> Capabilities:
        """What :attr:`transport` claims, or an instance if the class does not know it."""
        claimed: object = getattr(type(self).transport, "capabilities", None)
        if isinstance(claimed, Capabilities):
            return claimed
        with opened(self) as transport:
            return claims_of(transport)

    @cached_property
    def watch(self) -> Watchdog:
        """The calls that are in flight, with their deadlines."""
        return Watchdog(type(self).call_timeout)

    def has(self, hook: str) -> bool:
        """Return whether this harness has the optional *hook*."""
        return getattr(type(self), hook) is not getattr(Harness, hook)

    @property
    def is_prompt(self) -> bool:
        """Whether no time passes while the suite waits: one receive is enough for each event that is ready."""
        return patience_of(type(self), self.clock) == 0.0

    @property
    def is_durable(self) -> bool:
        """Whether the events outlive the process, so that each call takes time."""
        return self.capabilities.durability != "process"

    @property
    def fake(self) -> bool:
        """Whether time passes only when the suite moves the clock."""
        return isinstance(self.clock, FakeClock)
