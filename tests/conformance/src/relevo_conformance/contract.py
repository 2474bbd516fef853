"""What the directed scenarios share: a harness for the class, and the promise that each test stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import Phase

from relevo_conformance.bench import Bench
from relevo_conformance.harness import Harness, HookMissing
from relevo_conformance.profile import Profile, chosen
from relevo_conformance.promise import Promise

Test = TypeVar("Test", bound="Contract")


class Contract:
    """A class of scenarios, all on one harness."""

    harness_type: ClassVar[type[Harness]]
    profile: ClassVar[Profile]
    phases: ClassVar[Iterable[Phase] | None] = None
    """Hypothesis' phases; all if unsaid."""

    harness: ClassVar[Harness]

    @classmethod
    def setup_class(cls) -> None:
        """Open the harness."""
        cls.harness = cls.harness_type()
        if "profile" not in vars(cls):
            cls.profile = chosen()

    @classmethod
    def teardown_class(cls) -> None:
        """Close it."""
        cls.harness.close()

    def bench(self, *, queues: int = 1) -> Bench:
        """Return the bench of one scenario."""
        return Bench(self.harness, queues=queues)


def proves(*promises: Promise) -> Callable[[Callable[[Test], None]], Callable[[Test], None]]:
    """Mark a test as one that shows whether *promises* are kept; it is skipped where one is not claimed."""

    def decorate(test: Callable[[Test], None]) -> Callable[[Test], None]:
        @functools.wraps(test)
        def run(self: Test) -> None:
            for promise in promises:
                if not promise.claimed(self.harness.capabilities):
                    pytest.skip(f"{promise} is not claimed")
            try:
                test(self)
            except HookMissing as missing:
                pytest.skip(f"{type(self.harness).__name__} has no hook {missing}")
            except AssertionError as error:
                error.add_note(f"promised: {', '.join(promise.id for promise in promises)}")
                raise

        run.promises = promises  # type: ignore[attr-defined]
        return run

    return decorate


def promises_of(test: Any) -> tuple[Promise, ...]:
    """Return the promises that *test* was marked with."""
    found = getattr(test, "promises", ())
    return tuple(promise for promise in found if isinstance(promise, Promise))
