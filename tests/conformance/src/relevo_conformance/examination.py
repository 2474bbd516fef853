"""The suite without a test runner: what a report card, or a test of the suite itself, is made from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import attrs
import pytest
from hypothesis import Phase

from relevo_conformance.contract import Contract, promises_of
from relevo_conformance.harness import Harness
from relevo_conformance.recorder import BrokenPromiseError
from relevo_conformance.suite import suite

Status = Literal["kept", "broken", "skipped"]


@attrs.frozen(kw_only=True)
class Finding:
    """What one test of the suite found."""

    test: str
    status: Status
    promises: frozenset[str] = frozenset()
    """The ids of the promises that were broken; of those that the test proves if it passed or was skipped."""

    what: str = ""
    """What went wrong, or why it was skipped."""


def examine(
    harness: type[Harness],
    *,
    profile: str | None = None,
    phases: Iterable[Phase] | None = None,
    matching: Callable[[str, frozenset[str]], bool] = lambda test, promises: True,
) -> Iterator[Finding]:
    """
    Run the suite on *harness*, test by test, and tell what each one found.

    Args:
        harness: What drives the transport.

        profile: ``quick``, ``standard`` or ``nightly``.

        phases: Hypothesis' phases; without shrinking a failure is found sooner and shown longer.

        matching: Which tests are run, by their name and the ids of the promises that they prove.
    """
    tests = suite(harness, profile=profile)
    tests.phases = phases
    tests.setup_class()
    try:
        for name, test in _in_order(tests):
            promises = frozenset(promise.id for promise in promises_of(test))
            if matching(name, promises):
                yield _finding(name, promises, test, tests())
    finally:
        tests.teardown_class()


def broken_promises(error: BaseException) -> frozenset[str]:
    """Return the ids of the promises that *error* says were broken; none if it says nothing of the kind."""
    if isinstance(error, BrokenPromiseError):
        return error.promises
    if isinstance(error, BaseExceptionGroup):
        return frozenset[str]().union(*map(broken_promises, error.exceptions))
    return frozenset()


def _in_order(tests: type[Contract]) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Return the tests by name, as pytest would run them."""
    for cls in reversed(tests.__mro__):
        for name, member in vars(cls).items():
            if name.startswith("test_") and inspect.isfunction(member):
                yield name, member


def _finding(name: str, promises: frozenset[str], test: Callable[[Any], None], instance: Contract) -> Finding:
    try:
        test(instance)
    except pytest.skip.Exception as skipped:
        return Finding(test=name, status="skipped", promises=promises, what=str(skipped.msg))
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - whatever a broken transport raises is a finding
        broken = broken_promises(error) or promises
        return Finding(test=name, status="broken", promises=broken, what=f"{type(error).__name__}: {error}")
    return Finding(test=name, status="kept", promises=promises)
