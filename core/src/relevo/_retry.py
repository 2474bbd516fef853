"""Retry policies: the delay before the next run, as a function of the number of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import isfinite
from types import MappingProxyType
from typing import Any

import attrs

from relevo._clock import Duration, seconds
from relevo.errors import ConfigurationError, GiveUp, RetryLater, shown

IS_DURATION: Mapping[str, bool] = MappingProxyType({"is_duration": True})
"""Marks a field that configuration gives as a duration, such as "2s"."""

IS_CODE: Mapping[str, bool] = MappingProxyType({"is_code": True})
"""Marks a field that configuration cannot give."""


def _duration(value: Duration) -> float:
    return seconds(value, what="a retry delay")


def _exceptions(value: type[BaseException] | Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    kinds: tuple[Any, ...] = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(each, type) and issubclass(each, BaseException) for each in kinds):
        raise ConfigurationError(f"Retry: give_up_on is exceptions, as in (ValueError, OSError), not {shown(value)}")
    return kinds


@attrs.frozen
class Retry:
    """
    How often a listener is run, and how long it waits in between.

    After the n-th run the wait is ``min(cap, first * factor ** (n - 1))``, lengthened by up to *jitter*
    of itself so that what failed together is not retried together. It is never shorter.

    Args:
        runs: Runs in all, the first included; 1 never retries.

        first: The wait after the first run.

        factor: How much longer each wait is than the one before.

        cap: The longest wait, before the jitter.

        jitter: The largest share that is added by chance, 0 to 1.

        give_up_on: An exception, or several, that no retry can mend; the listener is dead at once.

    Raises:
        ConfigurationError: A number is out of range, or *give_up_on* has what is no exception.
    """

    runs: int = 5
    first: float = attrs.field(default=2.0, converter=_duration, kw_only=True, metadata=IS_DURATION)
    factor: float = attrs.field(default=4.0, kw_only=True)
    cap: float = attrs.field(default=3600.0, converter=_duration, kw_only=True, metadata=IS_DURATION)
    jitter: float = attrs.field(default=0.1, kw_only=True)
    give_up_on: tuple[type[BaseException], ...] = attrs.field(
        default=(), converter=_exceptions, kw_only=True, metadata=IS_CODE
    )

    def __attrs_post_init__(self) -> None:
        faults = {
            f"runs is {self.runs!r}, it must be a whole number from 1": type(self.runs) is not int or self.runs < 1,
            f"factor is {self.factor!r}, it must be a number from 1": not isfinite(self.factor) or self.factor < 1,
            f"jitter is {self.jitter!r}, it must be a number from 0 to 1": not 0 <= self.jitter <= 1,
            f"cap ({self.cap} s) is shorter than first ({self.first} s)": self.cap < self.first,
        }
        if any(faults.values()):
            raise ConfigurationError("Retry: " + "; ".join(fault for fault, is_met in faults.items() if is_met))

    def wait(self, run: int, chance: float) -> float:
        """
        Return the seconds to wait after the *run*-th run failed.

        Args:
            run: 1 for the first.

            chance: A random number from 0 to 1.
        """
        try:
            grown = self.first * float(self.factor) ** (run - 1)
        except OverflowError:
            grown = self.cap if self.first else 0.0
        return min(self.cap, grown) * (1.0 + self.jitter * chance)

    def decide(self, run: int, error: BaseException, chance: float) -> float | None:
        """
        Return the seconds to wait after the *run*-th run ended with *error*, or ``None`` to give up.

        A :class:`RetryLater` that names a delay gets that, as long as runs are left; a delay that is
        none is as if it named none.
        """
        if isinstance(error, (GiveUp, *self.give_up_on)) or run >= self.runs:
            return None
        if isinstance(error, RetryLater) and error.delay is not None:
            with suppress(Exception):  # whatever a listener passes, and however it shows itself
                return seconds(error.delay)
        return self.wait(run, chance)


DEFAULT_RETRY = Retry()
