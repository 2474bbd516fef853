"""The answers that a transport may return: their types and bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from math import isfinite
from typing import Any

from relevo import (
    DeadLetterEntry,
    Delivery,
    Envelope,
    EventGroup,
    Found,
    Note,
    Stats,
    StuckKey,
    StuckKeys,
    Unreadable,
    WaitingEntry,
)
from relevo.errors import SendError, SettleError, shown
from relevo_conformance import history
from relevo_conformance.verdict import error_text

_MOST = 10_000
"""The longest list that a transport may return to the suite."""


class MisfitError(Exception):
    """Raised for an invalid answer; says what is wrong with it."""


def require(call: history.Call, answer: object, asked: Sequence[Delivery] = ()) -> None:
    """
    Return if the transport interface allows *answer* as the result of *call*.

    Args:
        call: The call.

        answer: What it returned.

        asked: The deliveries that were passed to the call.

    Raises:
        MisfitError: It does not; names the method, what it returned, and what was expected.
    """
    method, look = _LOOKS[type(call)]
    _look_at(f"{method} returned", lambda: look(call, answer, asked))


def method_of(call: history.Call) -> str:
    """Return the name of the method that *call* calls."""
    return _LOOKS[type(call)][0]


def require_change(before: object, now: object) -> None:
    """
    Return if a transport may pass *before* and *now* to a function that changes what counts against a limit.

    Raises:
        MisfitError: It may not.
    """

    def look() -> None:
        _is(before, bytes, "bytes", " as what is stored")
        if not _is_time(now):
            raise _Unexpected(now, "seconds", " as the time")

    _look_at("change_limit passed", look)


def require_error(call: history.Call, error: object, asked: Sequence[Delivery] = ()) -> None:
    """
    Return if the transport interface allows the attributes of *error* for *call*.

    Raises:
        MisfitError: It does not.
    """
    match call, error:
        case history.Send(envelopes=envelopes) | history.SendBound(envelopes=envelopes), SendError():
            for name in ("sent", "refused", "unknown"):
                look = partial(_positions, getattr(error, name), len(envelopes))
                _look_at(f"send raised a SendError whose {name} is", look)
        case history.Settle(), SettleError():
            for name in ("lost", "unsettled"):
                look = partial(_some_of, asked, getattr(error, name))
                _look_at(f"settle raised a SettleError whose {name} is", look)
        case _:
            pass


def _look_at(what: str, look: Callable[[], None]) -> None:
    try:
        look()
    except _Unexpected as error:
        raise MisfitError(f"{what} {error}") from None
    except Exception as error:
        raise MisfitError(f"{what} something that cannot be read: {error_text(error)}") from error


class _Unexpected(Exception):  # noqa: N818 - becomes a MisfitError
    """A value that is not what was expected."""

    def __init__(self, came: object, expected: str, within: str = "") -> None:
        self.came, self.expected, self.within = came, expected, within
        super().__init__(f"{shown(came)}{within}; expected {expected}")


# --- answers ---------------------------------------------------------------------------------------


def _nothing(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    if answer is not None:
        raise _Unexpected(answer, "nothing")


def _deliveries(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    for delivery in _sequence(answer, "a sequence of Delivery"):
        _is(delivery, Delivery, "a Delivery", " among others")
        _fields(delivery, _OF_A_DELIVERY)
        _event(delivery.envelope)


def _lost(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    _some_of(asked, answer)


def _entries(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    for entry in _sequence(answer, "a sequence of DeadLetterEntry"):
        _is(entry, DeadLetterEntry, "a DeadLetterEntry", " among others")
        _fields(entry, _OF_AN_ENTRY)
        _event(entry.envelope)


def _missing(call: history.Revive | history.Discard, answer: object, asked: Sequence[Delivery]) -> None:
    for ref in _sequence(answer, "a sequence of refs"):
        if ref not in call.refs:
            raise _Unexpected(ref, "only refs that it was given", " among others")


def _words(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    for line in _sequence(answer, "a sequence of texts"):
        _is(line, str, "a text", " among others")


def _living(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    for one in _sequence(answer, "a sequence of Found"):
        _is(one, Found, "a Found", " among others")
        _fields(one, _OF_FOUND)
        _fields(one.envelope, _OF_AN_ENVELOPE)


def _waiting(call: history.ListWaiting, answer: object, asked: Sequence[Delivery]) -> None:
    for one in _sequence(answer, "a sequence of WaitingEntry"):
        _is(one, WaitingEntry, "a WaitingEntry", " among others")
        _fields(one, _OF_WAITING)
        _fields(one.envelope, _OF_AN_ENVELOPE)


def _groups(call: history.CountGroups, answer: object, asked: Sequence[Delivery]) -> None:
    for one in _sequence(answer, "a sequence of EventGroup"):
        _is(one, EventGroup, "an EventGroup", " among others")
        _fields(one, _OF_A_GROUP)


def _stuck(call: history.ListStuck, answer: object, asked: Sequence[Delivery]) -> None:
    _is(answer, StuckKeys, "a StuckKeys")
    _fields(answer, {"total": _COUNT})
    for one in _sequence(getattr(answer, "keys", None), "a sequence of StuckKey"):
        _is(one, StuckKey, "a StuckKey", " among others")
        _fields(one, _OF_A_STUCK_KEY)


def _number(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    if not _is_count(answer):
        raise _Unexpected(answer, "a number of events")


def _figures(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    _is(answer, Stats, "a Stats")
    _fields(answer, _OF_STATS)


def _receipt(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    if answer is not None:
        _is(answer, str, "a receipt, or None")


def _id(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    if answer is not None:
        _is(answer, str, "the id of an event, or None")


def _flag(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    _is(answer, bool, "True or False")


def _announced(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    _is(answer, Mapping, "a mapping of workers to bytes")
    for worker, about in dict(answer).items():  # type: ignore[call-overload]  # it is a mapping
        _is(worker, str, "a text", " as a worker")
        _is(about, bytes, "bytes", " as an announcement")


def _controls(call: history.Call, answer: object, asked: Sequence[Delivery]) -> None:
    _is(answer, Mapping, "a mapping of keys to bytes")
    for key, what in dict(answer).items():  # type: ignore[call-overload]  # it is a mapping
        _is(key, str, "a text", " as a key")
        _is(what, bytes, "bytes", " as a control")


Look = Callable[[Any, object, Sequence[Delivery]], None]

_LOOKS: Mapping[type[Any], tuple[str, Look]] = {
    history.SetUp: ("setup", _words),
    history.Send: ("send", _nothing),
    history.SendUnique: ("send_unique", _id),
    history.SendBound: ("send, bound to a session,", _nothing),
    history.Receive: ("receive", _deliveries),
    history.Take: ("take", _deliveries),
    history.Settle: ("settle", _lost),
    history.Extend: ("extend", _lost),
    history.Checkpoint: ("checkpoint", _nothing),
    history.Begin: ("begin", _nothing),
    history.Excuse: ("excuse", _nothing),
    history.ListDead: ("dead_letters", _entries),
    history.Revive: ("revive", _missing),
    history.Discard: ("discard", _missing),
    history.Cancel: ("cancel", _number),
    history.Find: ("find", _living),
    history.ListWaiting: ("waiting", _waiting),
    history.ListMatching: ("matching_dead_letters", _entries),
    history.CountGroups: ("waiting_groups or dead_letter_groups", _groups),
    history.ListStuck: ("stuck_keys", _stuck),
    history.Purge: ("purge", _number),
    history.Count: ("stats", _figures),
    history.Lock: ("lock", _receipt),
    history.RenewLock: ("renew_lock", _flag),
    history.Unlock: ("unlock", _nothing),
    history.Announce: ("announce", _nothing),
    history.ListWorkers: ("workers", _announced),
    history.SetControl: ("set_control", _nothing),
    history.ListControls: ("controls", _controls),
    history.ChangeLimit: ("change_limit", _nothing),
    history.Close: ("close", _nothing),
}
"""By call: the name of its method, and the function that checks its result."""


# --- parts of them ---------------------------------------------------------------------------------


def _sequence(answer: object, expected: str) -> Iterable[Any]:
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes | bytearray | memoryview):
        raise _Unexpected(answer, expected)
    items = tuple(islice(answer, _MOST + 1))
    if len(items) > _MOST:
        raise _Unexpected(items[:1], expected, f" and so on, which is longer than {_MOST}")  # all take seconds to show
    return items


def _is(value: object, kind: type, expected: str, within: str = "") -> None:
    if not isinstance(value, kind):
        raise _Unexpected(value, expected, within)


def _some_of(asked: Sequence[Delivery], answer: object) -> None:
    for one in _sequence(answer, "a sequence of Delivery"):
        if not any(one is other for other in asked):
            raise _Unexpected(one, "only deliveries that it was given", " among others")


def _positions(answer: object, size: int) -> None:
    for one in _sequence(answer, "a sequence of positions"):
        if not _is_count(one) or one >= size:
            raise _Unexpected(one, f"positions below {size}", " among others")


def _event(event: object) -> None:
    _fields(event, _OF_AN_ENVELOPE if isinstance(event, Envelope) else _OF_UNREADABLE)


Fit = tuple[Callable[[Any], bool], str]


def _fields(value: object, fits: Mapping[str, Fit]) -> None:
    for name, (fits_it, expected) in fits.items():
        found = getattr(value, name)
        if not fits_it(found):
            raise _Unexpected(found, expected, f" as {name} of a {type(value).__name__}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_headers(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, str) for item in value.items() for one in item)


def _or_none(fit: Fit) -> Fit:
    fits_it, expected = fit
    return lambda value: value is None or fits_it(value), f"{expected}, or None"


_TEXT: Fit = (lambda value: isinstance(value, str), "a text")
_BYTES: Fit = (lambda value: isinstance(value, bytes), "bytes")
_COUNT: Fit = (_is_count, "an integer, 0 or more")
_TIME: Fit = (_is_time, "seconds")
_HEADERS: Fit = (_is_headers, "a mapping of texts to texts")
_EVENT: Fit = (lambda value: isinstance(value, Envelope | Unreadable), "an Envelope or Unreadable")
_ATTEMPT: Fit = (lambda value: _is_count(value) and value > 0, "an integer, 1 or more")

_OF_A_DELIVERY: Mapping[str, Fit] = {
    "envelope": _EVENT,
    "queue": _TEXT,
    "attempt": _ATTEMPT,
    "lost_leases": _COUNT,
    "state": _BYTES,
    "enqueued_at": _TIME,
}
_OF_FOUND: Mapping[str, Fit] = {
    **_OF_A_DELIVERY,
    "envelope": (lambda value: isinstance(value, Envelope), "an Envelope"),
    "status": (
        lambda value: isinstance(value, str) and value in {"ready", "leased", "scheduled"},
        '"ready", "leased" or "scheduled"',
    ),
    "until": _or_none(_TIME),
}
_OF_WAITING: Mapping[str, Fit] = {
    **_OF_FOUND,
    "cursor": _TEXT,
    "leased_at": _or_none(_TIME),
    "begun": _or_none((lambda value: isinstance(value, Note), "a Note")),
}
_OF_A_GROUP: Mapping[str, Fit] = {"key": _TEXT, "count": _COUNT, "oldest": _TIME, "newest": _TIME}
_OF_A_STUCK_KEY: Mapping[str, Fit] = {
    "queue": _TEXT,
    "key": _TEXT,
    "waiting": _COUNT,
    "since": _TIME,
    "first": _or_none((lambda value: isinstance(value, WaitingEntry), "a WaitingEntry")),
}
_OF_AN_ENTRY: Mapping[str, Fit] = {
    **_OF_A_DELIVERY,
    "ref": _TEXT,
    "reason": _TEXT,
    "error": _TEXT,
    "died_at": _TIME,
}
_OF_AN_ENVELOPE: Mapping[str, Fit] = {
    "id": _TEXT,
    "source": _TEXT,
    "name": _TEXT,
    "queue": _TEXT,
    "body": _BYTES,
    "headers": _HEADERS,
    "urgency": (lambda value: isinstance(value, str) and value in {"normal", "high"}, '"normal" or "high"'),
    "ordering_key": _or_none(_TEXT),
    "expires": _or_none(_TIME),
}
_OF_UNREADABLE: Mapping[str, Fit] = {"raw": _BYTES, "headers": _HEADERS, "why": _TEXT}
_OF_STATS: Mapping[str, Fit] = {
    **dict.fromkeys(("ready", "leased", "scheduled", "dead"), _or_none(_COUNT)),
    "oldest_age": _or_none((lambda value: _is_time(value) and value >= 0, "seconds, 0 or more")),
}
