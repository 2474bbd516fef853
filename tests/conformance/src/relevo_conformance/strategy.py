"""Strategies for events, outcomes and states, with values that break careless stores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import attrs
from hypothesis import strategies as st

from relevo import MAX_DEATHS, MAX_STATE, Ack, Capabilities, DeadLetter, Lost, Nack, Note, Outcome, Release

Urgency = Literal["normal", "high"]

Value = TypeVar("Value")

NUMBERS = (2**53 + 1, -(2**63), 2**63 - 1, 0.1, -0.0, 5e-324, 1e308, 0, True, None)

BODIES: tuple[bytes, ...] = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\x00",
    b"\xff\xfe\x80 not unicode",
    b'{"a": 1, "a": 2,  "spaces" :\t"kept" }\r\n',
    b"'; DROP TABLE events; -- \\ \x1a %s {0}",
    json.dumps({"numbers": NUMBERS}).encode(),
    '{"text":"\u00e9 \u2603 \U0001f40d \u202e"}'.encode(),
    bytes(range(256)),
    b"[" * 100 + b"]" * 100,
    bytes(range(256)) * 257,
)
"""Bytes that a store changes if it reads them as text, JSON or SQL, or cuts them at 64 KiB."""

MEGABYTE = b'{"data":"' + b"x" * (2**20 - 11) + b'"}'

HEADERS: tuple[Mapping[str, str], ...] = (
    {},
    {"signature": "v1=abc"},
    {"Case": "upper", "case": "lower"},
    {"empty": "", "number": "007", "exponent": "1e3", "truth": "True", "nothing": "null", "spaces": " a\t"},
    {"text": "\u00e9 \u2603 \U0001f40d"},
    {"line": "one\r\ntwo: not a header"},
    {"quotes": "'\"\\`;--%_{}"},
    {f"header-{number}": str(number) for number in range(20)},
    {"long": "x" * 5000},
    # Names that a transport may use itself.
    {"id": "not the id", "name": "not the name", "queue": "nowhere", "attempt": "99", "x-death": "", "delay": "1"},
)

IDS: tuple[str, ...] = ("", "'", "%", "\u00e9\u2603", "/?#&=+ ", "A", "a", "\U0001f40d", "x" * 200)
"""Endings of ids, which differ in case and length."""

STATES: tuple[bytes, ...] = (b"", b" \t007 \r\n", b"\x00", bytes(range(256)), b"\xff" * MAX_STATE)

ERRORS: tuple[str, ...] = (
    "",
    "ValueError: no such image",
    "\u00e9\u2603\U0001f40d '\"\\%",
    "Traceback (most recent call last):\n" + '  File "shop.py", line 1\n' * 300,
)

REASONS: tuple[str, ...] = ("retries-exhausted", "crash-loop", "unknown-event")

SOURCES: tuple[str, ...] = ("conformance", "shop", "Shop", "https://example.org/a?b=c#d")

NAMES: tuple[str, ...] = ("image.created", "image.deleted", "a.b.c-d_e")

EXPIRIES: tuple[float | None, ...] = (None, 0.0, 1_000_000_000.5, 1_767_225_600.123457, 4_102_444_800.0)


@attrs.frozen(kw_only=True)
class Recipe:
    """An envelope without an id and a queue, which must be new each time and therefore cannot be drawn."""

    body: bytes = b"{}"
    headers: Mapping[str, str] = attrs.field(factory=dict)
    id_end: str = ""
    source: str = "conformance"
    name: str = "image.created"
    urgency: Urgency = "normal"
    ordering_key: str | None = None
    expires: float | None = None
    place: int = 0
    """The index of the queue."""


def texts(longest: int = 30) -> st.SearchStrategy[str]:
    """Return texts that every store must keep: any characters but NUL and lone surrogates."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
    return st.text(characters, max_size=longest)


def any_of(values: Sequence[Value], *, called: str) -> st.SearchStrategy[Value]:
    """Return one of *values*, the list with the name *called*; Hypothesis shows a long value by its index."""
    place = _Place(values, called)
    each = [
        st.just(one) if len(repr(one)) <= _TOLD else st.just(number).map(place) for number, one in enumerate(values)
    ]
    return st.integers(0, len(each) - 1).flatmap(each.__getitem__)


_TOLD = 80
"""The longest value, in characters, that is shown itself."""


@attrs.frozen(repr=False)
class _Place(Generic[Value]):
    """Looks a value up by its index, and is shown as the list with the index."""

    _values: Sequence[Value]
    _called: str

    def __call__(self, place: int) -> Value:
        return self._values[place]

    def __repr__(self) -> str:
        return f"{self._called}.__getitem__"


def bodies() -> st.SearchStrategy[bytes]:
    """Return bodies: BODIES and random ones."""
    return any_of(BODIES, called="BODIES") | st.binary(max_size=200)


def headers() -> st.SearchStrategy[Mapping[str, str]]:
    """Return headers: special ones and random ones."""
    names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
    return any_of(HEADERS, called="HEADERS") | st.dictionaries(names, texts(), max_size=4)


FLAVOURS: tuple[Mapping[str, Any], ...] = (
    {},
    {},
    *({"body": body} for body in BODIES[:8]),
    *({"headers": headers} for headers in HEADERS[1:]),
    *({"id_end": end} for end in IDS[1:]),
    *({"expires": expires, "source": source} for expires, source in zip(EXPIRIES, SOURCES, strict=False)),
)


def plain_recipes(capabilities: Capabilities, *, queues: int) -> st.SearchStrategy[Recipe]:
    """Return recipes with at most one special field: few choices, for tests that are not about the payload."""
    return st.builds(
        _plain,
        flavour=any_of(FLAVOURS, called="FLAVOURS"),
        place=st.integers(0, queues - 1),
        urgency=_urgencies(capabilities),
        ordering_key=_keys(capabilities),
    )


def _plain(flavour: Mapping[str, Any], **more: Any) -> Recipe:
    return Recipe(**flavour, **more)


def _urgencies(capabilities: Capabilities) -> st.SearchStrategy[Urgency]:
    urgencies: list[Urgency] = ["normal", "high"] if capabilities.urgency else ["normal"]
    return st.sampled_from(urgencies)


def _keys(capabilities: Capabilities) -> st.SearchStrategy[str | None]:
    return st.sampled_from([None, None, "a", "A", "b'%"]) if capabilities.order == "per key" else st.none()


def recipes(capabilities: Capabilities, *, queues: int = 1) -> st.SearchStrategy[Recipe]:
    """Return recipes with any payload that need no unclaimed capability."""
    return st.builds(
        Recipe,
        body=bodies(),
        headers=headers(),
        id_end=any_of(IDS, called="IDS"),
        source=st.sampled_from(SOURCES),
        name=st.sampled_from(NAMES),
        urgency=_urgencies(capabilities),
        ordering_key=_keys(capabilities),
        expires=st.sampled_from(EXPIRIES),
        place=st.integers(0, queues - 1),
    )


def states() -> st.SearchStrategy[bytes | None]:
    """Return the state of an outcome; often it leaves the stored one."""
    return st.none() | any_of(STATES, called="STATES") | st.binary(max_size=40)


IDENTITIES: tuple[str, ...] = ("a1:0b-9c:1:7:9", "a2:0b-9c:1:7:8+", "a3::0:0:0", "a4:0b-9c:2:7:9")
"""Identities of processes, in the form that workers write."""


def notes() -> st.SearchStrategy[Note]:
    """Return notes that a worker may store when it begins an event."""
    return st.builds(
        Note,
        by=st.sampled_from(IDENTITIES),
        deaths=st.lists(st.sampled_from(IDENTITIES), max_size=MAX_DEATHS, unique=True).map(tuple),
        listener=st.sampled_from(("", "shop.listeners:crash", "ä\U0001f41e")),
        excused=st.booleans(),
    )


def _deaths(capabilities: Capabilities) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(IDENTITIES) if capabilities.presence else st.none()


def dead_letters() -> st.SearchStrategy[DeadLetter]:
    """Return dead-letter outcomes."""
    return st.builds(
        DeadLetter, reason=st.sampled_from(REASONS), error=any_of(ERRORS, called="ERRORS") | texts(), state=states()
    )


def outcomes(capabilities: Capabilities, delays: st.SearchStrategy[float]) -> st.SearchStrategy[Outcome]:
    """Return outcomes, all kinds equally often."""
    kinds: list[st.SearchStrategy[Outcome]] = [
        st.just(Ack()),
        st.just(Release()),
        st.builds(Lost, state=states(), death=_deaths(capabilities)),
        st.builds(Nack, delay=delays, state=states()),
    ]
    if capabilities.delay is not None:
        kinds.append(st.builds(Release, delay=delays))
    if capabilities.dead_letters:
        kinds.append(dead_letters())
    return st.one_of(kinds)
