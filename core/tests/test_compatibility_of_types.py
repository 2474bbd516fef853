"""
Of every change from one type to another: what ``relevo schema --diff`` tells is what really happens.

The truth is found by reading: whatever text, number, list or object one of the two types reads and the other does not
is an event that breaks. Nothing that breaks may be left untold; what is told without need is written down here.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import uuid
from functools import cache
from typing import Annotated as Of, Any, Literal, NamedTuple, NotRequired, TypedDict

import attrs
import msgspec
import pytest
from msgspec import Meta

import relevo
from relevo._event.event import declared, reader
from relevo._schema.compatibility import compare
from relevo._schema.schema import schemas


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class FewerColours(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1
    TWO = 2


class Pair(NamedTuple):
    x: int
    y: int = 0


class Row(TypedDict):
    x: int
    y: NotRequired[int]


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Short(msgspec.Struct, array_like=True):
    x: int
    y: int = 0


TYPES: dict[str, Any] = {
    "int": int,
    "int | None": int | None,
    "int above 0": Of[int, Meta(gt=0)],
    "int from 0": Of[int, Meta(ge=0)],
    "int below 9": Of[int, Meta(lt=9)],
    "even int": Of[int, Meta(multiple_of=2)],
    "bool": bool,
    "float": float,
    "float above 0": Of[float, Meta(gt=0)],
    "int | float": int | float,
    "int | str": int | str,
    "Any": Any,
    "str": str,
    "str to 3": Of[str, Meta(max_length=3)],
    "str from 2": Of[str, Meta(min_length=2)],
    "plate": Of[str, Meta(pattern="^[A-Z]+$")],
    "bytes": bytes,
    "bytes to 3": Of[bytes, Meta(max_length=3)],
    "bytearray": bytearray,
    "datetime": dt.datetime,
    "datetime with a zone": Of[dt.datetime, Meta(tz=True)],
    "datetime without one": Of[dt.datetime, Meta(tz=False)],
    "datetime | None": dt.datetime | None,
    "datetime | int": dt.datetime | int,
    "date": dt.date,
    "time": dt.time,
    "time with a zone": Of[dt.time, Meta(tz=True)],
    "time without one": Of[dt.time, Meta(tz=False)],
    "timedelta": dt.timedelta,
    "timedelta | float": dt.timedelta | float,
    "UUID": uuid.UUID,
    "Decimal": decimal.Decimal,
    "Decimal | None": decimal.Decimal | None,
    "Colour": Colour,
    "FewerColours": FewerColours,
    "Number": Number,
    "Literal of text": Literal["red"],
    "Literal of numbers": Literal[1, 2],
    "Literal of both": Literal["red", 1, None],  # noqa: PYI061 - as msgspec knows it
    "list": list,
    "list[int]": list[int],
    "list[int] to 1": Of[list[int], Meta(max_length=1)],
    "list[datetime]": list[dt.datetime],
    "list[datetime] | None": list[dt.datetime] | None,
    "set[int]": set[int],
    "frozenset[int]": frozenset[int],
    "tuple[int, ...]": tuple[int, ...],
    "tuple[int, str]": tuple[int, str],
    "tuple[int, datetime]": tuple[int, dt.datetime],
    "dict": dict,
    "dict to 1": Of[dict[str, int], Meta(max_length=1)],
    "dict of datetimes": dict[str, dt.datetime],
    "dict by str": dict[str, int],
    "dict by str to 3": dict[Of[str, Meta(max_length=3)], int],
    "dict by int": dict[int, int],
    "dict by int | str": dict[int | str, int],
    "dict by float": dict[float, int],
    "dict by Decimal": dict[decimal.Decimal, int],
    "dict by UUID": dict[uuid.UUID, int],
    "dict by date": dict[dt.date, int],
    "dict by datetime": dict[dt.datetime, int],
    "dict by timedelta": dict[dt.timedelta, int],
    "dict by bytes": dict[bytes, int],
    "dict by Colour": dict[Colour, int],
    "dict by Literal": dict[Literal["red"], int],
    "Pair": Pair,
    "Row": Row,
    "Point": Point,
    "Short": Short,
}

WITHOUT_NEED = {
    ("list[int]", "set[int]"),  # an item may stand there twice: it is read, but once
    ("list[int]", "frozenset[int]"),
    ("tuple[int, ...]", "set[int]"),
    ("tuple[int, ...]", "frozenset[int]"),
    ("dict by float", "dict by Decimal"),
}
"""Changes, in either direction, that break nothing that was found and are told nevertheless."""

KEYS = [
    *("a", "b", "x", "1", "-3", "1.5", "AB", "red", "blue", "NaN", "abcdef", "YWJj", "YWJjZA==", "P1D", "2026-01-01"),
    *("2026-01-01T00:00:00", "2026-01-01T00:00:00Z", "12345678-1234-5678-1234-567812345678"),
]
SIMPLE: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, -3, 9, 10, 1.5, -1.5, 2.0, 10**18, *KEYS),
    *("", "A", "ABCDEF", "yellow", "12:00:00", "12:00:00Z", "12:00:00+01:00"),
]
VALUES: list[Any] = [
    *SIMPLE,
    *([], *([each] for each in SIMPLE), [1, 1], [1, 2], [1, "a"], [1, 2, 3], [1, None]),
    *([1, "2026-01-01T00:00:00"], [1, "2026-01-01T00:00:00Z"]),
    *({}, *({key: 1} for key in KEYS), *({key: "a"} for key in KEYS), {"x": 1, "y": 2}, {"x": 1, "z": 2}),
    *({"1": 1, "2": 1}, {"red": 1, "blue": 1}, {"x": 1, "y": "a"}, {"x": None}),
    *({"a": "2026-01-01T00:00:00"}, {"a": "2026-01-01T00:00:00Z"}),
]


@cache
def event_of(name: str) -> Any:
    return relevo.event("some.event")(attrs.make_class("Made", {"f": attrs.field(type=TYPES[name])}))


@cache
def output_of(name: str) -> Any:
    return schemas([declared(event_of(name))], source="shop")


@cache
def read_by(name: str) -> frozenset[int]:
    """Return the places of the values that the type reads."""
    read = reader(event_of(name))
    return frozenset(place for place, value in enumerate(VALUES) if _reads(read, value))


def _reads(read: Any, value: Any) -> bool:
    try:
        read(json.dumps({"f": value}).encode())
    except (msgspec.DecodeError, ValueError):
        return False
    return True


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize("old", TYPES)
def test_no_change_of_a_type_that_breaks_somebody_is_left_untold(old: str) -> None:
    untold, without_need = {}, set()
    for new in TYPES:
        told = {reader for change in compare(output_of(old), output_of(new)) for reader in change.breaks}
        lost, gained = read_by(old) - read_by(new), read_by(new) - read_by(old)
        broken = {*(["older events"] if lost else []), *(["newer events"] if gained else [])}
        if not broken <= told:
            untold[new] = [VALUES[place] for place in lost | gained]
        if told and not broken:
            without_need.add(new)

    assert untold == {}
    assert {new for new in without_need if not {(old, new), (new, old)} & WITHOUT_NEED} == set()


@pytest.mark.parametrize("name", TYPES)
def test_every_type_reads_some_of_the_values_and_only_any_reads_all(name: str) -> None:
    assert read_by(name)
    assert (len(read_by(name)) == len(VALUES)) == (name == "Any")


@pytest.mark.parametrize(
    "hint, told",
    [
        (dt.datetime, {"anyOf": [{"type": "string", "format": each} for each in ("date-time", "date-time-local")]}),
        (Of[dt.datetime, Meta(tz=True)], {"type": "string", "format": "date-time"}),
        (Of[dt.datetime, Meta(tz=False)], {"type": "string", "format": "date-time-local"}),
        (dt.time, {"anyOf": [{"type": "string", "format": each} for each in ("time", "time-local")]}),
        (Of[dt.time, Meta(tz=False)], {"type": "string", "format": "time-local"}),
        (decimal.Decimal, {"anyOf": [{"type": "string", "format": "decimal"}, {"type": "number"}]}),
        (Of[dt.time, Meta(extra_json_schema={"format": "own"})], {"type": "string", "format": "own"}),
        (
            Of[dt.time, Meta(tz=False, title="When")],
            {"type": "string", "format": "time-local", "title": "When"},
        ),
        (
            dict[uuid.UUID, int],
            {"type": "object", "additionalProperties": {"type": "integer"}, "propertyNames": {"format": "uuid"}},
        ),
        (
            dict[Number, int],
            {"type": "object", "additionalProperties": {"type": "integer"}, "propertyNames": {"enum": ["1", "2"]}},
        ),
    ],
    ids=range(10),
)
def test_a_schema_says_what_msgspec_reads(hint: Any, told: Any) -> None:
    made = relevo.event("some.event")(attrs.make_class("Made", {"f": attrs.field(type=hint)}))

    assert schemas([declared(made)], source="shop")["$defs"]["some.event"]["properties"]["f"] == told


class Inner(msgspec.Struct):
    at: dt.time
    rest: list[Inner] = []


def test_it_says_so_wherever_the_type_stands() -> None:
    hints: Any = {
        "a": list[dt.datetime] | None,
        "b": tuple[int, dt.datetime],
        "c": dict[str, list[dt.datetime]],
        "d": list[Inner] | dict[str, dt.datetime],
        "e": Pair | None,
        "f": Short | int,
    }
    made = relevo.event("some.event")(
        attrs.make_class("Made", {name: attrs.field(type=each) for name, each in hints.items()})
    )

    told = json.dumps(schemas([declared(made)], source="shop"))

    assert told.count('"date-time-local"') == 4
    assert told.count('"time-local"') == 1
