"""Retry policies: the delay before the next run, as a function of the number of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import isfinite, nan
from types import MappingProxyType
from typing import Any, Never

import attrs

from relevo._clock import Duration, seconds
from relevo._synonym import RETRY, counted
from relevo.errors import ConfigurationError, GiveUp, RetryLater, StepError, no_option, shown

IS_FACTOR: Mapping[str, bool] = MappingProxyType({"is_factor": True})
"""Marks a number that is not a duration, so that configuration does not read text such as "2s"."""

IS_CODE: Mapping[str, str] = MappingProxyType(
    {"code_only": "cannot be set here, since it names classes; set it in code: listener(…, retry=Retry(…))"}
)
"""Marks a field that configuration cannot give, and says how to give it."""


def _runs(value: int) -> int:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"Retry.runs: expected a whole number from 1; got {shown(value)}")
    return value


def _first(value: Duration) -> float:
    return seconds(value, what="Retry.first")


def _cap(value: Duration) -> float:
    return seconds(value, what="Retry.cap")


def _factor(value: object) -> float:
    number = _number(value)
    if not isfinite(number) or number < 1:
        raise ConfigurationError(f"Retry.factor: expected a number from 1; got {shown(value)}")
    return number


def _jitter(value: object) -> float:
    number = _number(value)
    if not 0 <= number <= 1:
        raise ConfigurationError(f"Retry.jitter: expected a number from 0 to 1; got {shown(value)}")
    return number


def _number(value: Any) -> float:
    """Return *value* as a float; NaN if it is not a number, be it one of Python's own classes or of another library."""
    return float(value) if hasattr(value, "__float__") and not isinstance(value, bool) else nan


def _exceptions(value: type[BaseException] | Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    kinds: tuple[Any, ...] = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(each, type) and issubclass(each, BaseException) for each in kinds):
        raise ConfigurationError(
            f"Retry.give_up_on: expected exception classes, as in (ValueError, OSError); got {shown(value)}"
        )
    return kinds


@attrs.frozen(init=False)
class Retry:
    """
    How often a listener is run, and how long it waits in between.

    The wait after the n-th run is ``min(cap, first * factor ** (n - 1))``, plus a random share of it up to
    *jitter*, so that listeners that failed together are not retried together. It is never shorter.

    Args:
        runs: The number of runs, including the first; 1 never retries.

        first: The wait after the first run: seconds, a timedelta, or text such as ``"2s"``.

        factor: The factor from one wait to the next.

        cap: The longest wait, before the jitter is added.

        jitter: The largest random share that is added, from 0 to 1.

        give_up_on: Exception classes that are not retried; the listener is dead at once.

    Raises:
        ConfigurationError: A number is out of range, or *give_up_on* holds something other than exception classes.

        TypeError: An argument is unknown; the error says what to write instead.
    """

    runs: int = attrs.field(default=5, converter=_runs)
    first: float = attrs.field(default=2.0, converter=_first, kw_only=True)
    factor: float = attrs.field(default=4.0, converter=_factor, kw_only=True, metadata=IS_FACTOR)
    cap: float = attrs.field(default=3600.0, converter=_cap, kw_only=True)
    jitter: float = attrs.field(default=0.1, converter=_jitter, kw_only=True, metadata=IS_FACTOR)
    give_up_on: tuple[type[BaseException], ...] = attrs.field(
        default=(), converter=_exceptions, kw_only=True, metadata=IS_CODE
    )

    def __init__(
        self,
        runs: int = 5,
        *,
        first: Duration = 2.0,
        factor: float = 4.0,
        cap: Duration = 3600.0,
        jitter: float = 0.1,
        give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
        **unknown: Never,
    ):
        if unknown:
            name = next(iter(unknown))
            raise no_option("Retry", name, attrs.fields_dict(Retry), counted(RETRY, unknown))
        Retry.__attrs_init__(self, runs, first=first, factor=factor, cap=cap, jitter=jitter, give_up_on=give_up_on)

    def __attrs_post_init__(self) -> None:
        if self.cap < self.first:
            raise ConfigurationError(f"Retry.cap: expected first, {self.first:g} s, or more; got {self.cap:g} s")

    def wait(self, run: int, chance: float) -> float:
        """
        Return the seconds to wait after a run failed.

        Args:
            run: The number of the run; the first is 1.

            chance: A random number from 0 to 1.
        """
        try:
            grown = self.first * float(self.factor) ** (run - 1)
        except OverflowError:
            grown = self.cap if self.first else 0.0
        return min(self.cap, grown) * (1.0 + self.jitter * chance)

    def is_final(self, error: BaseException) -> bool:
        """
        Return whether a listener that raised *error* is not run again, however many runs are left.

        So is an exception group with such an error in it, as a task group raises it: the task would fail again.
        """
        return any(self._is_final(each) for each in with_members(error))

    def _is_final(self, error: BaseException) -> bool:
        return isinstance(error, (GiveUp, *self.give_up_on)) or (isinstance(error, StepError) and error.is_final)

    def decide(self, run: int, error: BaseException, chance: float) -> float | None:
        """
        Return the seconds to wait after run number *run* ended with *error*; ``None`` to give up.

        The delay of a :class:`RetryLater` is used as long as runs are left; an invalid delay is ignored. Of a group of
        them it is the longest.
        """
        if run >= self.runs or self.is_final(error):
            return None
        delays = _delays(error) if is_retry_later(error) else ()
        return max(delays) if delays else self.wait(run, chance)


DEFAULT_RETRY = Retry()


_members_of = vars(BaseExceptionGroup)["exceptions"].__get__  # a subclass cannot override this


def with_members(error: BaseException) -> Iterator[BaseException]:
    """Yield *error*, and if it is an exception group, its members and theirs."""
    found = [error]
    while found:
        each = found.pop()
        yield each
        if isinstance(each, BaseExceptionGroup):
            found.extend(_members_of(each))


def is_retry_later(error: BaseException) -> bool:
    """Return whether *error* is a :class:`RetryLater`, or a group of nothing else."""
    return all(isinstance(each, RetryLater | BaseExceptionGroup) for each in with_members(error))


def _delays(error: BaseException) -> Sequence[float]:
    """Return the valid delays of the :class:`RetryLater` in *error*, in seconds."""
    found = []
    for each in with_members(error):
        if isinstance(each, RetryLater) and each.delay is not None:
            with suppress(Exception):  # a listener may pass anything, even an object whose repr fails
                found.append(seconds(each.delay))
    return found
