"""Show a history as text, one line for each call."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import attrs

from relevo import DeadLetterEntry, Envelope, Unreadable
from relevo_conformance import history

MOST = 40
"""Lines that are shown; of a longer history the last ones, since they show what is broken."""

_EVENT = re.compile(r"the (?:event|bytes) (b?'[^']+)' in")
_CALL = re.compile(r"\(call (\d+)\)")

_COMMENT = "# "
_LONG = 1.0
"""The shortest time in seconds between two records that is shown."""

_LONGEST, _FEW = 70, 4
"""The number of characters of a value, and of items of a list, that are shown."""


def in_words(records: Iterable[history.Record], *, about: str = "", most: int = MOST) -> str:
    """
    Return the calls of *records* as lines, each with its end, without calls of the harness.

    Args:
        records: The history.

        about: What it shows: the calls on the events that this text names are shown too if they are before the last
            ones, and the calls whose numbers it gives have them.

        most: The number of lines at the end that are shown.
    """
    named = _EVENT.findall(about)
    numbers = {int(number) for number in _CALL.findall(about)}
    lines = [(line, len(list(same))) for line, same in groupby(_lines(tuple(records), numbers))]
    shown, left_out = [], 0
    for place, (line, times) in enumerate(lines):
        if place < len(lines) - most and not any(name in line for name in named):
            left_out += 0 if line.startswith(_COMMENT) else times
            continue
        if left_out:
            shown.append(f"{_COMMENT}… {left_out} calls before")
            left_out = 0
        shown.append(line if times == 1 else f"{line}  # {times} times")
    return "\n".join(shown)


def _lines(records: tuple[history.Record, ...], numbers: Collection[int]) -> Iterator[str]:
    """Yield a line for each call, and one for each time that passed between two records."""
    ends = {record.op: record for record in records if isinstance(record, history.Returned)}
    for before, record in zip((None, *records), records, strict=False):
        passed = 0.0 if before is None else record.at - before.at
        if passed >= _LONG:
            yield f"{_COMMENT}{passed:g} s later"
        elif passed < 0.0:
            yield f"{_COMMENT}the clock is set {-passed:g} s back"
        if isinstance(record, history.Invoked):
            yield _line(record, ends.get(record.op), is_numbered=record.op in numbers)


def _line(began: history.Invoked, ended: history.Returned | None, *, is_numbered: bool) -> str:
    call = began.call
    operation = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(call).__name__).lower()
    given = ", ".join(f"{name}={_phrase(value)}" for name, value in _fields(call).items())
    if ended is None:
        how = "still running at the end of this history"
    elif ended.end != "done":
        how = f"{ended.end}: {ended.error}".removesuffix(": ")
    else:
        how = "" if ended.value is None else ", ".join(_phrase(value) for value in _fields(ended.value).values())
    remarks = [f"call {began.op}"] * is_numbered + [how] * bool(how)
    return f"{began.worker}: {operation}({given})" + (f"  # {': '.join(remarks)}" if remarks else "")


def _fields(value: Any) -> Mapping[str, object]:
    return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}


def _phrase(value: object) -> str:
    match value:
        case Envelope(id=event_id, queue=queue):
            return f"{event_id!r} in {queue!r}{_special(value)}"
        case Unreadable(raw=raw):
            return _short(repr(raw))
        case history.Handed(number=number, event=event, attempt=attempt, lost_leases=lost_leases, state=state):
            kept = f", state {_short(repr(state))}" if state else ""
            return f"delivery {number} of {_phrase(event)}, attempt {attempt}, lost leases {lost_leases}{kept}"
        case DeadLetterEntry(ref=ref):
            return repr(ref)
        case history.Item(delivery=delivery, outcome=outcome):
            return f"{delivery}: {_short(repr(outcome))}"
        case tuple() | list():
            rest = [f"{len(value) - _FEW} more"] if len(value) > _FEW else []
            return f"[{', '.join([*map(_phrase, value[:_FEW]), *rest])}]"
        case _:
            return _short(repr(value))


def _special(event: Envelope) -> str:
    """Return what decides how *event* is delivered, if it is not the default."""
    urgency = f", urgency {event.urgency!r}" if event.urgency != "normal" else ""
    return urgency + (f", ordering key {event.ordering_key!r}" if event.ordering_key is not None else "")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
