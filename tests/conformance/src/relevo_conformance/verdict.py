"""Errors that end a test: a broken promise, an error of the harness, or a call that hung."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from types import FrameType, TracebackType

from hypothesis.errors import Flaky, FlakyFailure

from relevo import Capabilities, Transport
from relevo.errors import RelevoError, shown
from relevo_conformance import promise
from relevo_conformance._in_words import in_words
from relevo_conformance._world import Violation
from relevo_conformance.history import Record

_LONGEST = 2000
"""The number of characters of an error's text that are shown."""


AGAIN = (
    "the same calls had another result the second time, so what they do depends on something else: "
    "on chance, on a server, or on what earlier histories left behind"
)

_MOST = 3
"""The number of violations that are shown one by one: a batch may cause hundreds of equal ones."""


class BrokenPromiseError(AssertionError):
    """
    Raised when a history breaks a promise.

    Args:
        violations: The violations, in the order in which they were found.

        case: The case in which it was broken, of several that a test tries.
    """

    def __init__(self, violations: Sequence[Violation], *, case: str = "") -> None:
        self.violations = tuple(violations)
        self.case = case
        lines = [f"in the case {case}:"] if case else []
        lines += [str(violation) for violation in violations[:_MOST]]
        if len(violations) > _MOST:
            others = Counter(violation.promise for violation in violations[_MOST:])
            lines.append(f"and {', '.join(f'{number} more of {name}' for name, number in others.items())}")
        super().__init__("\n".join(lines))

    def of(self, case: str) -> BrokenPromiseError:
        """Return the same error of the case *case*, of several that a test tries."""
        return BrokenPromiseError(self.violations, case=case)

    @property
    def promises(self) -> frozenset[str]:
        """The ids of the promises that were broken."""
        return frozenset(violation.promise for violation in self.violations)


class NotReproducedError(BrokenPromiseError):
    """
    Raised when a history breaks a promise, and the same calls had another result the second time.

    Args:
        violations: The violations of the first run, in the order in which they were found.

        history: The records of the first run; they are proof.
    """

    def __init__(self, violations: Sequence[Violation], history: Sequence[Record]) -> None:
        super().__init__(violations)
        self.add_note(f"{AGAIN}; the history of the first time is proof:\n{in_words(history)}")


class HarnessError(Exception):
    """
    Raised when the harness fails, which proves nothing about the transport.

    Args:
        harness: The name of its class.

        hook: The hook that failed, or the attribute that is invalid.

        why: What happened.
    """

    def __init__(self, harness: str, hook: str, why: str) -> None:
        self.harness = harness
        self.hook = hook
        super().__init__(f"{harness}.{hook} {why}; fix the harness; the transport was not tested")


class LeftBehind(BaseException):
    """Raised in a thread that was left behind, at its next call into the suite."""


def error_text(error: BaseException | None) -> str:
    """Return the class name and the text of *error*, also if its ``__str__`` raises."""
    if error is None:
        return "success"
    try:
        text = str(error)
    except BaseException as worse:  # noqa: BLE001 - foreign code may raise anything
        text = f"no text: __str__ raised {type(worse).__name__}"
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"
    if isinstance(error, BrokenPromiseError) and isinstance(error.__context__, RelevoError):
        text = f"{text}\nit raised {error_text(error.__context__)}"
    text = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def flaky_verdict(error: Flaky, proof: tuple[Sequence[Record], Sequence[Violation]] | None) -> BaseException:
    """
    Return what to raise instead of *error*, which says only that a second run of a test differed from the first.

    Args:
        error: Hypothesis' error.

        proof: A history of the test that broke a promise, and its violations; ``None`` if none did.
    """
    if proof is not None:
        history, violations = proof
        return NotReproducedError(violations, history)
    if isinstance(error, FlakyFailure):
        first: BaseException = error.exceptions[0]
        first.add_note(AGAIN)
        return first
    return error


def is_a_persons(error: BaseException) -> bool:
    """Return whether *error* is a KeyboardInterrupt from the keyboard, which only the main thread gets."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def raised_in(trace: TracebackType | None, owner: type) -> bool:
    """Return whether a method of *owner* is in the traceback."""
    while trace is not None:
        if is_method_of(trace.tb_frame, owner):
            return True
        trace = trace.tb_next
    return False


def hook_that_raised(trace: TracebackType | None, harness: type) -> str | None:
    """Return the innermost method of *harness* in the traceback, if any."""
    found = None
    while trace is not None:
        if is_method_of(trace.tb_frame, harness):
            found = trace.tb_frame.f_code.co_name
        trace = trace.tb_next
    return found


def is_method_of(frame: FrameType, owner: type) -> bool:
    """Return whether *frame* is a call of a method on *owner* or on an instance of it."""
    code = frame.f_code
    if not code.co_argcount:
        return False
    first = frame.f_locals.get(code.co_varnames[0])
    return issubclass(first, owner) if isinstance(first, type) else isinstance(first, owner)


def claims_of(transport: Transport) -> Capabilities:
    """
    Return what *transport* claims.

    Raises:
        BrokenPromiseError: It has no valid capabilities.
    """
    try:
        claimed: object = transport.capabilities
    except BaseException as error:
        if is_a_persons(error):
            raise
        what = f"{type(transport).__name__}.capabilities raised {error_text(error)}; expected a relevo.Capabilities"
        raise BrokenPromiseError([Violation(promise.ANSWERS_ARE_WELL_FORMED.id, None, what)]) from error
    if not isinstance(claimed, Capabilities):
        what = f"{type(transport).__name__}.capabilities is {shown(claimed)}; expected a relevo.Capabilities"
        raise BrokenPromiseError([Violation(promise.ANSWERS_ARE_WELL_FORMED.id, None, what)])
    return claimed
