"""The base class of the scenarios: a harness for the class, and the promises of each test."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, ClassVar, TypeVar, get_args

import pytest
from hypothesis import Phase

from relevo import Clock, SystemClock
from relevo.errors import RelevoError
from relevo_conformance import history
from relevo_conformance._flavour import PLAIN, Flavour, flavours
from relevo_conformance._wrong_error import broken_by
from relevo_conformance.bench import Bench, Thread, finish_all, tolerated
from relevo_conformance.harness import Harness, HookMissing, allowance_problems
from relevo_conformance.profile import Profile, chosen
from relevo_conformance.promise import Promise
from relevo_conformance.verdict import (
    BrokenPromiseError,
    HarnessError,
    error_text,
    hook_that_raised,
    is_a_persons,
    raised_in,
)
from relevo_conformance.watch import Stage, Watchdog

LONGEST = 60.0
"""Seconds that these may take, beyond what a call may take."""

MANY = 16
"""The number of cases that run at the same time on a real clock."""

HANGS = 3
"""The number of tests of a class that may hang before the others are skipped."""

NOT_RUN = f"{HANGS} tests hung, so the others were skipped"
"""The reason for skipping them."""

FRUITLESS = 3
"""The number of tests that may fail without a delivery before the others are skipped, if none was ever handed out."""

NOTHING_CAME = f"nothing was ever handed out, and {FRUITLESS} tests failed because of that, so the others were skipped"
"""The reason for skipping them."""

LEFT_OUT = frozenset({NOT_RUN, NOTHING_CAME})

Case = TypeVar("Case")
Result = TypeVar("Result")
Test = TypeVar("Test", bound="Contract")


class Contract:
    """
    A class of scenarios, all on one harness.

    They run on a stage, which is abandoned if a call hangs; then another harness is opened.
    """

    harness_type: ClassVar[type[Harness]]
    profile: ClassVar[Profile]
    phases: ClassVar[Iterable[Phase] | None] = None
    """Hypothesis' phases; all by default."""

    harness: ClassVar[Harness]
    proven: frozenset[str] = frozenset()
    """The ids of the promises that the running test proves."""

    flavour: Flavour = PLAIN
    """What the events of the running test have in common."""

    stage: ClassVar[Stage]
    hung: ClassVar[int] = 0
    """How many tests hung."""

    fruitless: ClassVar[int] = 0
    """How many failed because a sent event was missing, while nothing was ever handed out."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, member in list(vars(cls).items()):
            if name.startswith("test_") and inspect.isfunction(member):
                setattr(cls, name, _on_stage(member))

    @classmethod
    def setup_class(cls) -> None:
        """Open the harness."""
        if "profile" not in vars(cls):
            cls.profile = chosen()
        cls.hung = cls.fruitless = 0
        cls._open_harness()

    @classmethod
    def teardown_class(cls) -> None:
        """Close it."""
        if cls.hung < HANGS:
            cls._play("close", cls.harness.watch, cls.harness.close)
            cls.stage.end()

    @classmethod
    def run(cls, act: Callable[[], Result]) -> Result:
        """
        Return what *act* returns; it may hang.

        Raises:
            BrokenPromiseError: A call of the transport hung.

            HarnessError: A call of the harness hung.

            pytest.skip.Exception: Too many tests hung before, or failed because nothing is handed out.
        """
        __tracebackhide__ = True
        name = cls.harness_type.__name__
        if cls.hung >= HANGS:
            pytest.skip(NOT_RUN)
        if cls.fruitless >= FRUITLESS:
            pytest.skip(NOTHING_CAME)
        watch = cls.harness.watch
        try:
            return cls._count(watch, lambda: cls.stage.run(watch, act, functools.partial(HarnessError, name, "test")))
        except (HarnessError, HookMissing, AssertionError):
            raise
        except Exception as error:
            hook = hook_that_raised(error.__traceback__, cls.harness_type)
            if hook is None or raised_in(error.__traceback__, cls.harness_type.transport):
                raise
            raise HarnessError(name, hook, f"raised {error_text(error)}") from error
        finally:
            if watch.is_over:
                cls._start_again()

    @classmethod
    def _count(cls, watch: Watchdog, act: Callable[[], Result]) -> Result:
        """Return what *act* returns; count a failure for a missing event if nothing was ever handed out."""
        __tracebackhide__ = True
        looks = watch.vain_looks
        try:
            return act()
        except Exception:
            cls.fruitless = cls.fruitless + (watch.vain_looks > looks) if not watch.handed_out else 0
            raise

    @classmethod
    def _open_harness(cls) -> None:
        for attribute, problem in allowance_problems(cls.harness_type):
            raise HarnessError(cls.harness_type.__name__, attribute, problem)
        cls.stage = Stage()
        watch = Watchdog(cls.harness_type.call_timeout)
        cls.harness = cls._play("__init__", watch, cls.harness_type)
        if not hasattr(cls.harness, "clock"):
            raise HarnessError(cls.harness_type.__name__, "__init__", "did not call super().__init__()")
        cls.harness.watch = watch
        cls._play("capabilities", watch, lambda: cls.harness.capabilities)

    @classmethod
    def _start_again(cls) -> None:
        """Clean up after a test that hung, as far as that can be done, and open another harness."""
        cls.hung += 1
        left = cls.harness
        stage, watch = Stage(), Watchdog(left.call_timeout)

        def clean_up() -> None:
            for bench in left.watch.benches:
                bench.clean_up(watch)
            left.close()

        with suppress(Exception):  # the test has its verdict
            stage.run(watch, clean_up, functools.partial(HarnessError, type(left).__name__, "close"))
        stage.end()
        if cls.hung < HANGS:
            cls._open_harness()

    @classmethod
    def _play(cls, hook: str, watch: Watchdog, act: Callable[[], Result]) -> Result:
        """Return what *act*, a call of the harness, returns."""
        name = cls.harness_type.__name__
        tell = functools.partial(HarnessError, name, hook)
        try:
            return cls.stage.run(watch, lambda: watch.call(act, tell), tell)
        except (HarnessError, AssertionError, pytest.skip.Exception):
            raise
        except BaseException as error:
            if is_a_persons(error):
                raise
            raise HarnessError(name, hook, f"raised {error_text(error)}") from error

    def each(self, cases: Iterable[Case], act: Callable[[Case], None]) -> None:
        """
        Call *act*, which has its own bench, with each of *cases*.

        On a real clock most of the time is spent waiting for a server, and many cases run at the same time.
        """
        if self.harness.fake:
            for case in cases:
                act(case)
        else:
            self.each_at_once(cases, act)

    def each_at_once(self, cases: Iterable[Case], act: Callable[[Case], None]) -> None:
        """Call *act*, which has its own bench on a running clock, with each of *cases*, many at the same time."""
        left = iter(cases)
        while some := list(islice(left, MANY)):
            threads = [Thread(functools.partial(act, case)) for case in some]
            tell = functools.partial(HarnessError, type(self.harness).__name__, "test")
            # Each group is a call of its own to the watch, which sees so that the test makes progress.
            self.harness.watch.call(functools.partial(finish_all, threads), tell, wait=LONGEST)

    def play(
        self,
        case: Case,
        act: Callable[[Case], None],
        *,
        in_words: Callable[[Case], str],
        simpler: Iterable[Callable[[Case], Case]],
    ) -> None:
        """
        Call *act* with *case*; if it breaks a promise, look for a simpler case that breaks it too, and name that one.

        Args:
            case: One of many, which is judged by its history.

            act: Plays it on its own bench; an error of relevo that it raises has no cause.

            in_words: Describes it.

            simpler: Functions that each leave something out of a case; they are tried one after another.

        Raises:
            BrokenPromiseError: A promise was broken.
        """

        def again(case: Case) -> BrokenPromiseError | None:
            try:
                act(case)
            except Exception as error:  # noqa: BLE001 - another case, which may prove nothing
                another = broken_by(error)
                return another if another is not None and another.violations[0].promise == broken else None
            return None

        try:
            act(case)
        except Exception as error:
            first = broken_by(error)
            if first is None:
                raise
            found, broken = first, first.violations[0].promise
            if self.harness.fake and (self.phases is None or Phase.shrink in self.phases):
                for leave_out in simpler:
                    shorter = leave_out(case)
                    if shorter != case and again(shorter) is not None:
                        case = shorter
                found = again(case) or first  # so that its history is the last one
            raise found.of(in_words(case)) from error

    def bench(self, *, queues: int = 1) -> Bench:
        """Return the bench of one scenario."""
        return Bench(self.harness, queues=queues, flavour=self.flavour, tolerated=tolerated(self.harness) - self.proven)

    def _flavours(self) -> Iterable[Flavour]:
        """Return what the events of a test have, one flavour after the other."""
        yield PLAIN
        if self.profile.flavours:
            yield from flavours(self.harness.capabilities)

    def transaction_kinds(self) -> list[history.Kind]:
        """Return the kinds of transactions that the harness can begin."""
        return [kind for kind in get_args(history.Kind) if self.harness.has(kind)]

    def require_timed_leases(self) -> None:
        """Skip the test where a lease lasts as long as its holder."""
        if self.harness.capabilities.lease == "connection":
            pytest.skip("a lease lasts as long as its holder")

    @contextmanager
    def bench_whose_clock_runs(self, *, queues: int = 1) -> Iterator[Bench]:
        """Yield the bench of a scenario with a waiting call: with a fake clock a wait would end at once."""
        if not self.harness.fake:
            with self.bench(queues=queues) as bench:
                yield bench
            return
        with self.bench_with(SystemClock(), queues=queues) as bench:
            yield bench

    @contextmanager
    def bench_with(self, clock: Clock, *, queues: int = 1) -> Iterator[Bench]:
        """Yield the bench of a scenario in a store of its own, with *clock* instead of the one of the harness."""
        harness = self.harness_type()
        harness.clock = clock
        harness.watch = self.harness.watch
        try:
            kept = tolerated(harness) - self.proven
            with Bench(harness, queues=queues, flavour=self.flavour, tolerated=kept) as bench:
                yield bench
        finally:
            harness.close()


def _on_stage(test: Callable[[Test], None]) -> Callable[[Test], None]:
    """Return *test*, changed to run on the stage, where it can be left behind."""

    @functools.wraps(test)
    def run(self: Test) -> None:
        __tracebackhide__ = True
        type(self).run(lambda: test(self))

    return run


def proves(*promises: Promise) -> Callable[[Callable[[Test], None]], Callable[[Test], None]]:
    """Mark a test that shows whether *promises* are kept; it is skipped if one is not claimed."""

    def decorate(test: Callable[[Test], None]) -> Callable[[Test], None]:
        @functools.wraps(test)
        def run(self: Test) -> None:
            for promise in promises:
                if not promise.is_made_by(self.harness_type.transport):
                    pytest.skip(promise.unmade)
                if not promise.claimed(self.harness.capabilities):
                    pytest.skip(f"{promise} is not claimed")
            self.proven = frozenset(promise.id for promise in promises)
            try:
                for flavour in self._flavours():
                    self.flavour = flavour
                    test(self)
            except HookMissing as missing:
                name = "broken, or at least broken_send" if str(missing) == "broken_send" else str(missing)
                hint = type(self.harness).resembling(name.partition(",")[0])
                pytest.skip(f"{type(self.harness).__name__} has no hook {name}{hint}")
            except AssertionError as error:
                _tolerate(self.harness, error, self.proven)
                if isinstance(error, BrokenPromiseError):  # which names the promise that its history breaks
                    if self.flavour is not PLAIN and not error.case:
                        raise error.of(self.flavour.words) from error
                else:
                    with_flavour = f" ({self.flavour.words})" if self.flavour is not PLAIN else ""
                    error.args = (f"{', '.join(promise.id for promise in promises)}{with_flavour}: {error}",)
                raise

        run.promises = promises  # type: ignore[attr-defined]
        return run

    return decorate


def raised_by(act: Callable[[], object]) -> RelevoError | None:
    """Return the error of relevo that *act* raises, if any."""
    try:
        act()
    except RelevoError as error:
        return error
    return None


def deviating(skipped: BaseException) -> frozenset[str]:
    """Return the ids of the promises for whose declared deviation a test was skipped."""
    found: frozenset[str] = getattr(skipped, "deviating", frozenset())
    return found


def _tolerate(harness: Harness, error: AssertionError, proven: frozenset[str]) -> None:
    """Skip a test that shows a deviation which *harness* declares, and nothing else."""
    broken = error.promises if isinstance(error, BrokenPromiseError) else proven
    if broken <= tolerated(harness):
        reasons = (f"{name}: {harness.deviations[name].reason} ({harness.deviations[name].url})" for name in broken)
        skipped = pytest.skip.Exception(f"deviates from {'; '.join(sorted(reasons))}")
        skipped.deviating = broken  # type: ignore[attr-defined]
        raise skipped


def promises_of(test: Any) -> tuple[Promise, ...]:
    """Return the promises that *test* was marked with."""
    found = getattr(test, "promises", ())
    return tuple(promise for promise in found if isinstance(promise, Promise))
