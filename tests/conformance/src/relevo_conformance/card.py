"""The report card: the status of each promise, a pure function of the test results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from types import MappingProxyType
from typing import Any, Literal

import attrs

from relevo import Capabilities
from relevo_conformance._in_words import in_words
from relevo_conformance.contract import LEFT_OUT
from relevo_conformance.examination import Finding
from relevo_conformance.harness import Deviation
from relevo_conformance.history import (
    Cancel,
    Checkpoint,
    Discard,
    Extend,
    Purge,
    Receive,
    Record,
    Revive,
    Send,
    Settle,
    failed,
)
from relevo_conformance.promise import FAILURE_LOSES_NOTHING, PROMISES, UNCLAIMED_IS_REFUSED, Needs, Promise

Status = Literal["PASS", "FAIL", "UNKNOWN", "N/A", "DEVIATES"]
Verdict = Literal["conformant", "conformant in part", "not conformant", "unknown"]

_NOTHING: Mapping[str, int] = MappingProxyType({})
_UNCLAIMED = " is not claimed"


@attrs.frozen(kw_only=True)
class Counterexample:
    """A test that found a promise broken, and how."""

    test: str
    what: str
    program: str = ""
    """The recorded calls that break it; without a history, the program that Hypothesis found."""

    shrunk: bool = False
    """Whether Hypothesis found it, and looked for the shortest."""

    history: Sequence[Record] = attrs.field(default=(), repr=False)
    reproduced: bool = True
    """Whether it happened again; the history is proof in either case."""

    written: str = ""
    """The file with the history."""

    replays: bool | None = True
    """Whether the history alone breaks the promise when its calls are run again; ``None`` if that is unknown."""

    replay: str = ""
    """The command that shows it again: it replays the history if that works, else it runs the tests of the promise."""


@attrs.frozen(kw_only=True)
class Line:
    """What is known of one promise."""

    promise: Promise
    status: Status
    why: str = ""
    met: Mapping[str, tuple[int, int]] = attrs.field(factory=dict)
    """By situation: how often it was met, and how often it must be met."""

    tests: int = 0
    """How many tests showed that it is kept."""

    failures: Sequence[Counterexample] = ()


@attrs.frozen(kw_only=True)
class Examination:
    """What was examined, and how."""

    transport: str
    harness: str
    capabilities: Capabilities
    profile: str = "quick"
    seed: int | None = None
    duration: float = 0.0
    """Seconds."""

    versions: Mapping[str, str] = attrs.field(factory=dict)
    allows: Mapping[str, tuple[float, float | None]] = attrs.field(factory=dict)
    """What the harness sets of its ``slack``, ``patience`` and ``call_timeout``, each with its default in seconds."""

    only: Sequence[str] = ()
    """The ids of the promises, if not all were examined; empty if all were."""

    command: str = ""
    """The command that repeats the run."""


@attrs.frozen(kw_only=True)
class Card:
    """The result of a run of the suite."""

    examination: Examination
    lines: Sequence[Line]
    errors: Sequence[str] = ()
    """Errors of the harness or of the suite."""

    met: Mapping[str, int] = attrs.field(factory=dict)
    hooks: Mapping[str, int] = attrs.field(factory=dict)
    pairs: int = 0
    """How many pairs of a feature and an operation can exist."""

    unmet_pairs: Sequence[tuple[str, str]] = ()
    """Those that no test met."""

    @property
    def verdict(self) -> Verdict:
        """*conformant* only if no promise is broken and all that are made were tested; *in part*: of those examined."""
        if any(line.status == "FAIL" for line in self.lines):
            return "not conformant"
        unknown = any(line.status == "UNKNOWN" and self._is_promised(line.promise) for line in self.lines)
        if unknown or self.errors:
            return "unknown"
        return "conformant in part" if self.examination.only else "conformant"

    def _is_promised(self, promise: Promise) -> bool:
        return promise.level == "core" or promise.claimed(self.examination.capabilities)


def card(
    findings: Iterable[Finding],
    *,
    examination: Examination,
    met: Mapping[str, int] = _NOTHING,
    hooks: Mapping[str, int] = _NOTHING,
    pairs: Mapping[tuple[str, str], bool] = MappingProxyType({}),
    defined: Iterable[str] = (),
    deviations: Mapping[str, Deviation] = MappingProxyType({}),
    promises: Iterable[Promise] = tuple(PROMISES.values()),
) -> Card:
    """
    Return the card of *findings*.

    Args:
        findings: The findings of all tests that were run.

        examination: What was examined, and how.

        met: How often each situation was met.

        hooks: How often each hook of the harness was called.

        pairs: For each pair of a feature and an operation that can exist, whether it was met.

        defined: The hooks that its author wrote; none if they are not to be judged, as after a part of a run.

        deviations: The deviations that the harness declares.

        promises: The promises on the card; others join them if they were found broken.
    """
    findings, promises = tuple(findings), tuple(promises)
    broken = {name for one in findings if one.status == "broken" for name in one.promises}
    broken -= {promise.id for promise in promises}
    promises = (*promises, *(promise for promise in PROMISES.values() if promise.id in broken))
    lines = [_line(promise, findings, met, examination.capabilities, deviations) for promise in promises]
    return Card(
        examination=examination,
        lines=lines,
        errors=(
            *_errors(findings, {promise.id for promise in promises}),
            *_wrong_deviations(deviations),
            *_idle(defined, hooks),
        ),
        met=dict(sorted(met.items())),
        hooks=dict(sorted(hooks.items())),
        pairs=len(pairs),
        unmet_pairs=sorted(pair for pair, is_met in pairs.items() if not is_met),
    )


# --- one promise -----------------------------------------------------------------------------------


def _line(
    promise: Promise,
    findings: Sequence[Finding],
    met: Mapping[str, int],
    capabilities: Capabilities,
    deviations: Mapping[str, Deviation],
) -> Line:
    about = [one for one in findings if promise.id in one.promises]
    broken = [one for one in about if one.status == "broken"]
    kept = sum(one.status == "kept" for one in about)
    floors = {**promise.floors, **(_failures_needed(capabilities) if promise == FAILURE_LOSES_NOTHING else {})}
    counts = {situation: (met.get(situation, 0), floor) for situation, floor in floors.items()}
    deviation = deviations.get(promise.id) if promise.level == "must" else None

    def line(status: Status, why: str = "") -> Line:
        return Line(
            promise=promise,
            status=status,
            why=why,
            met=counts,
            tests=kept,
            failures=[_failure(one, promise) for one in broken],
        )

    if deviation and (broken or any(one.status == "deviates" for one in about)):
        return line("DEVIATES", f"{deviation.reason} ({deviation.url})")
    if broken:
        return line("FAIL")
    if not promise.claimed(capabilities):
        return line(*_unclaimed(promise, findings))
    if about and all(one.what == promise.unmade for one in about):
        return line("N/A", promise.unmade)
    if why := _doubts(promise, findings, counts):
        return line("UNKNOWN", "; ".join(dict.fromkeys(why)))
    return line("PASS", "it is declared as a deviation, but kept" if deviation else "")


def _unclaimed(promise: Promise, findings: Sequence[Finding]) -> tuple[Status, str]:
    """Return the status of a promise that is not made: a call for it must be refused, not done in part."""
    if promise.level != "optional":
        return "N/A", f"{promise.claimed} is not claimed"
    if not promise.claimed.asked_for:
        return "N/A", f"{promise.claimed} is not claimed"
    probes = {one.status for one in findings if UNCLAIMED_IS_REFUSED.id in one.promises}
    if probes == {"kept"}:
        return "N/A", f"{promise.claimed} is not claimed, and refused properly"
    why = [f"{promise.claimed} is not claimed", "no test showed whether it is refused properly"]
    return "UNKNOWN", "; ".join([*why, *_unfinished(UNCLAIMED_IS_REFUSED, findings)])


def _doubts(promise: Promise, findings: Sequence[Finding], counts: Mapping[str, tuple[int, int]]) -> Sequence[str]:
    """Return why *promise*, which no test found broken, is not known to be kept; empty if it is."""
    about = [one for one in findings if promise.id in one.promises]
    looked = about or [one for one in findings if not one.promises]
    kept = any(one.status == "kept" for one in looked)
    if not kept and (reasons := _reasons(looked)):
        return reasons
    missing = _below(counts) or ([] if kept else ["no test of it finished"])
    return [*missing, *_unfinished(promise, findings)] if missing else []


def _reasons(findings: Iterable[Finding]) -> Sequence[str]:
    """Return why tests proved nothing: that a capability is not claimed only if there is no other reason."""
    reasons = dict.fromkeys(one.what.strip() for one in findings if one.status in ("skipped", "error"))
    return [reason for reason in reasons if not reason.endswith(_UNCLAIMED)] or list(reasons)


def _below(counts: Mapping[str, tuple[int, int]]) -> Sequence[str]:
    """Return which situations were met too seldom."""
    below = [situation for situation, (times, floor) in counts.items() if times < floor]
    never_failed = [situation for situation in below if situation in _FAILED]
    seldom = [
        f"{situation}: met {counts[situation][0]} times, at least {counts[situation][1]} are needed"
        for situation in below
        if situation not in never_failed
    ]
    operations = ", ".join(situation.partition(" ")[0] for situation in never_failed)
    return [*seldom, f"no call failed of {operations}"] if never_failed else seldom


def _unfinished(promise: Promise, findings: Sequence[Finding]) -> Iterator[str]:
    """Yield why less was tested of *promise* than usual: tests that were left out or skipped, or that ended early."""
    left_out = dict.fromkeys(one.what for one in findings if one.what in LEFT_OUT)
    if left_out:
        yield from left_out
    elif broken := sorted({name for one in findings if one.status == "broken" for name in one.promises}):
        verb = "is" if len(broken) == 1 else "are"
        yield f"tests ended early, since {', '.join(broken)} {verb} broken"
    skipped = [one for one in findings if promise.id in one.promises and one.status == "skipped"]
    yield from (one for one in _reasons(skipped) if one not in left_out and not one.endswith(_UNCLAIMED))


def _failure(finding: Finding, promise: Promise) -> Counterexample:
    history = finding.histories.get(promise.id, finding.history)
    return Counterexample(
        test=finding.test,
        what=finding.what,
        program=in_words(history, about=finding.what) or finding.program,
        shrunk=bool(finding.program),
        history=history,
        reproduced=finding.reproduced,
    )


# --- a store that fails ----------------------------------------------------------------------------

_OPERATIONS: Mapping[type[Any], Needs] = MappingProxyType(
    {
        Send: Needs(),
        Receive: Needs(),
        Settle: Needs(),
        Extend: Needs("extend"),
        Checkpoint: Needs("checkpoint"),
        Revive: Needs("dead_letters"),
        Discard: Needs("dead_letters"),
        Cancel: Needs("cancel"),
        Purge: Needs("purge"),
    }
)
"""The operations of which a call must fail before it is known what a failure loses, each with its capability."""

_FAILED = frozenset(map(failed, _OPERATIONS))


def _failures_needed(capabilities: Capabilities) -> Mapping[str, int]:
    return {failed(operation): 1 for operation, needs in _OPERATIONS.items() if needs(capabilities)}


# --- errors of the harness -------------------------------------------------------------------------


def _errors(findings: Sequence[Finding], shown: AbstractSet[str]) -> Iterable[str]:
    """Return what no line shows: errors of the harness, and violations of promises that are not on the card."""
    found = (
        f"{one.test}: {one.what}"
        for one in findings
        if one.status == "error" or (one.status == "broken" and not one.promises & shown)
    )
    return dict.fromkeys(found)


def _wrong_deviations(deviations: Mapping[str, Deviation]) -> Iterable[str]:
    for name in deviations:
        if name not in PROMISES:
            yield f'the harness declares a deviation from "{name}", but there is no such promise'
        elif PROMISES[name].level != "must":
            yield (
                f'the harness declares a deviation from "{name}", whose level is {PROMISES[name].level}; '
                f"no transport may deviate from it; do not claim an optional promise that is not kept"
            )


def _idle(defined: Iterable[str], hooks: Mapping[str, int]) -> Iterable[str]:
    for hook in sorted(defined):
        if not hooks.get(hook):
            yield f"the harness defines {hook}(), which was never called; remove it, or claim what needs it"
