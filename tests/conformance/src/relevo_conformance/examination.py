"""Run the suite without a test runner, for a report card or a test of the suite itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import attrs
import pytest
from hypothesis import Phase
from hypothesis.errors import Flaky

from relevo_conformance._wrong_error import broken_by
from relevo_conformance.contract import Contract, deviating, promises_of
from relevo_conformance.harness import Harness, Observed
from relevo_conformance.history import Record
from relevo_conformance.profile import Profile
from relevo_conformance.suite import suite
from relevo_conformance.verdict import (
    BrokenPromiseError,
    HarnessError,
    NotReproducedError,
    error_text,
    is_a_persons,
)

Status = Literal["kept", "broken", "skipped", "deviates", "error"]
"""*deviates*: it is broken as the harness declares.
*error*: the harness failed, or no test could run; nothing is known of the transport."""

Matching = Callable[[str, frozenset[str]], bool]


@attrs.frozen(kw_only=True)
class Finding:
    """The result of one test of the suite."""

    test: str
    status: Status
    promises: frozenset[str] = frozenset()
    """The ids of the broken promises; if the test passed or was skipped, of those that it proves."""

    what: str = ""
    """What went wrong, or the reason for skipping."""

    program: str = ""
    """The shortest program that Hypothesis found, if it was Hypothesis that found the failure."""

    history: Sequence[Record] = attrs.field(default=(), repr=False)
    """The history in which the promise was broken, or did not prove to be kept."""

    histories: Mapping[str, Sequence[Record]] = attrs.field(factory=dict, repr=False)
    """By the id of a promise: the history that breaks it, if different histories break different promises."""

    reproduced: bool = True
    """Whether it happened again in a second try; the history is proof in either case."""


def examine(
    harness: type[Harness],
    *,
    profile: str | Profile | None = None,
    phases: Iterable[Phase] | None = None,
    matching: Matching = lambda test, promises: True,
    observed: Observed | None = None,
    backwards: bool = False,
) -> Iterator[Finding]:
    """
    Run the suite on *harness*, and yield the finding of each test.

    Args:
        harness: The harness of the transport.

        profile: ``quick``, ``standard`` or ``nightly``, or one of your own.

        phases: Hypothesis' phases; without shrinking a failure is reported earlier, and its program is longer.

        matching: Selects the tests, by name and the ids of the promises that they prove.

        observed: Collects the situations and hooks that were met.

        backwards: Whether the last test is run first.
    """
    observed = observed or Observed()
    tests = suite(harness.watched(observed), profile=profile)
    tests.phases = phases
    began = _attempt("setup_class", frozenset(), tests.setup_class, observed)
    if began.status == "skipped":
        pytest.skip(began.what)
    if began.status != "kept":
        yield began
        return
    try:
        ordered = list(_in_order(tests))
        for name, test in reversed(ordered) if backwards else ordered:
            promises = frozenset(promise.id for promise in promises_of(test))
            if matching(name, promises):
                yield _attempt(name, promises, partial(test, tests()), observed)
    finally:
        ended = _attempt("teardown_class", frozenset(), tests.teardown_class, observed)
    if ended.status != "kept":
        yield ended


def tests_of(harness: type[Harness]) -> Sequence[tuple[str, frozenset[str]]]:
    """Return the names of all tests of the suite in their order, and the ids of the promises that each proves."""
    return [(name, frozenset(one.id for one in promises_of(test))) for name, test in _in_order(suite(harness))]


def broken_promises(error: BaseException) -> frozenset[str]:
    """Return the ids of the promises that *error* reports as broken."""
    if isinstance(error, BrokenPromiseError):
        return error.promises
    if isinstance(error, BaseExceptionGroup):
        return frozenset[str]().union(*map(broken_promises, error.exceptions))
    return frozenset()


def _broken_without_a_cause(error: BaseException | None) -> frozenset[str]:
    """Return the ids of the promises that errors of relevo break that ended a test of everything."""
    if isinstance(error, BaseExceptionGroup):
        return frozenset[str]().union(*map(_broken_without_a_cause, error.exceptions))
    found = None if error is None else broken_by(error)
    return frozenset() if found is None else found.promises


def _in_order(tests: type[Contract]) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Return the tests by name, as pytest would run them."""
    for cls in reversed(tests.__mro__):
        for name, member in vars(cls).items():
            if name.startswith("test_") and inspect.isfunction(member):
                yield name, member


def _attempt(name: str, promises: frozenset[str], act: Callable[[], object], observed: Observed) -> Finding:
    observed.forget()
    try:
        act()
    except BaseException as error:
        if is_a_persons(error):
            raise
        return finding(name, promises, error, observed)
    return finding(name, promises, None, observed)


def finding(name: str, promises: frozenset[str], error: BaseException | None, observed: Observed) -> Finding:
    """
    Return the finding of the test *name*.

    Args:
        name: The name of the test.

        promises: The ids of the promises that it proves.

        error: What it raised.

        observed: What was recorded during the test.
    """
    match error:
        case pytest.skip.Exception():
            deviates = deviating(error)
            status: Status = "deviates" if deviates else "skipped"
            return Finding(test=name, status=status, promises=deviates or promises, what=str(error.msg))
        case HarnessError():
            return Finding(test=name, status="error", promises=promises, what=str(error))
        case None if observed.broken is None:
            return Finding(test=name, status="kept", promises=promises)
        case _:
            return _broken(name, promises, error, observed)


def _broken(name: str, promises: frozenset[str], error: BaseException | None, observed: Observed) -> Finding:
    """Return the finding of a failed test; a history that breaks a promise is proof, whatever the error."""
    history, violations = observed.broken or (observed.failed, ())
    recorded = frozenset(violation.promise for violation in violations)
    said = frozenset() if error is None else broken_promises(error)
    flaky = error is None or (bool(recorded) and isinstance(error, Flaky | NotReproducedError))
    what = "\n".join(map(str, violations)) if flaky or error is None else _reason(error)
    return Finding(
        test=name,
        status="broken",
        promises=said or recorded or promises or _broken_without_a_cause(error),
        what=what,
        program="" if error is None else _program(error),
        history=history,
        histories={**observed.breaking},
        reproduced=not flaky,
    )


def _reason(error: BaseException) -> str:
    """Return the text of *error*; for a group also the text of each error in it."""
    if isinstance(error, BaseExceptionGroup):
        return "\n\n".join([error_text(error), *map(_reason, error.exceptions)])
    return error_text(error)


def _program(error: BaseException) -> str:
    """Return the steps in Hypothesis' notes on *error*, without its explanations."""
    if isinstance(error, BaseExceptionGroup):
        return "\n\n".join(filter(None, map(_program, error.exceptions)))
    notes = "\n".join(map(str, getattr(error, "__notes__", ())))
    _, _, steps = notes.partition("<state machine>\n")
    return steps.partition("\nExplanation:")[0].replace("  # or any other generated value", "").strip()
