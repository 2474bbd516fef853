"""What a declared event's field holds comes back as it was, or is refused at the dispatch; never as something else."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import typing
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, strategies as st

from relevo import EncodeError, event
from relevo._event.codec import content_of
from relevo._event.event import declared, reader
from relevo._event.round_trip import doubtful_fields


class _Berlin(dt.tzinfo):
    """Berlin in the hour that it has twice, when summer ends; whoever runs this may have no database of zones."""

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=1 if when and when.fold else 2)

    def dst(self, when: dt.datetime | None) -> dt.timedelta:
        return self.utcoffset(when) - dt.timedelta(hours=1)

    def tzname(self, when: dt.datetime | None) -> str:
        return "CET" if when and when.fold else "CEST"


BERLIN = _Berlin()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@attrs.frozen
class Point:
    x: int


@attrs.frozen
class Place(Point):
    name: str = ""


@attrs.frozen(eq=False)
class Opaque:
    x: int
    inner: Any = None


class Row(TypedDict):
    x: int


Pair = namedtuple("Pair", ["a", "b"])  # noqa: PYI024 - that is the point


def made(hint: Any, value: Any, how: str = "attrs") -> Any:
    """Return an event with one field, of the type *hint*, that holds *value*."""
    if how == "attrs":
        cls: Any = attrs.make_class("Made", {"f": attrs.field(type=hint)})
    elif how == "dataclass":
        cls = dataclasses.make_dataclass("Made", [("f", hint)])
    elif how == "Struct":
        cls = msgspec.defstruct("Made", [("f", hint)])
    else:
        config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        cls = pydantic.create_model("Made", __config__=config, f=(hint, ...))
    return event("some.made")(cls)(f=value)


def read_back(one: Any) -> Any:
    cls: Any = type(one)
    return reader(cls)(content_of(one).data)


def same(one: Any, other: Any) -> bool:
    """Return whether both are of the same types all through, and equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(
            type(a) is type(b) and same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return {(type(each), each) for each in one} == {(type(each), each) for each in other}
    if isinstance(one, dt.datetime):
        return (one.replace(tzinfo=None), one.utcoffset()) == (other.replace(tzinfo=None), other.utcoffset())
    return bool(one == other) and (not isinstance(one, (float, decimal.Decimal)) or str(one) == str(other))


# --- laws --------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
integers = st.integers(-(2**63), 2**63 - 1)
reals = st.floats(allow_nan=False, allow_infinity=False)
zones = st.none() | st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
moments = st.datetimes(timezones=zones)
plain = st.none() | st.booleans() | integers | reals | texts
odd = st.one_of(
    moments,
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.binary(max_size=3),
    st.sampled_from([Colour.RED, Point(1), Place(1, "a"), Opaque(1), Pair(1, 2), object()]),
    st.frozensets(integers, max_size=2),
)
anything = st.recursive(
    plain | odd,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(texts | integers | st.dates() | st.booleans(), inner, max_size=3),
    ),
    max_leaves=6,
)
unchanged = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
every_way = pytest.mark.parametrize("how", ["attrs", "dataclass", "Struct", "pydantic"])


@every_way
@given(value=anything)
def test_what_is_of_any_type_comes_back_the_same_or_is_refused(how: str, value: Any) -> None:
    try:
        back = read_back(made(Any, value, how))
    except EncodeError as error:
        assert error.path.startswith("$.f")  # noqa: PT017 - either way is right
    else:
        assert same(value, back.f)


@every_way
@given(value=unchanged)
def test_what_json_has_a_form_for_is_never_refused(how: str, value: Any) -> None:
    assert same(read_back(made(Any, value, how)).f, value)


LIST: Any = list  # checkers take what stands in brackets for a type
TUPLE: Any = tuple
DICT: Any = dict
SET: Any = frozenset


def _holding(inner: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    keys = st.sampled_from(KEYS)
    return st.one_of(
        inner.map(lambda each: (LIST[each[0]], st.lists(each[1], max_size=2))),
        inner.map(lambda each: (each[0] | None, each[1] | st.none())),
        inner.map(lambda each: (TUPLE[each[0], ...], st.lists(each[1], max_size=2).map(tuple))),
        st.tuples(inner, inner).map(lambda two: (TUPLE[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1]))),
        st.tuples(keys, inner).map(
            lambda two: (DICT[two[0][0], two[1][0]], st.dictionaries(two[0][1], two[1][1], max_size=2))
        ),
        keys.map(lambda each: (SET[each[0]], st.frozensets(each[1], max_size=2))),
    )


KEYS: list[tuple[Any, Any]] = [
    (int, integers),
    (str, texts),
    (dt.date, st.dates()),
    (uuid.UUID, st.uuids()),
    (decimal.Decimal, st.decimals(allow_nan=False)),
    (dt.timedelta, st.timedeltas()),
    (Colour, st.sampled_from(Colour)),
    (Literal["a", "b"], st.sampled_from("ab")),
    (bytes, st.binary(max_size=3)),
]
precise = st.recursive(
    st.sampled_from(
        [
            *KEYS,
            (bool, st.booleans()),
            (type(None), st.none()),
            (int | str, integers | texts),
            (bool | int | None, st.booleans() | integers | st.none()),
            (decimal.Decimal | int, st.decimals(allow_nan=False) | integers),
            (dt.timedelta | int, st.timedeltas() | integers),
            (Level | str, st.just(Level.LOW) | texts),
            (float, reals),
            (dt.datetime, moments),
            (dt.time, st.times()),
        ]
    ),
    _holding,
    max_leaves=4,
)


@given(data=st.data(), typed=precise)
def test_what_is_of_a_precise_type_is_never_refused_and_comes_back_the_same(data: Any, typed: tuple[Any, Any]) -> None:
    hint, values = typed
    value = data.draw(values)

    assert same(read_back(made(hint, value)).f, value)


# --- what is compared ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hint",
    [
        int,
        str | None,
        uuid.UUID,
        list[dt.date],
        dict[str, list[bytes]],
        dict[int, decimal.Decimal],
        tuple[int, ...],
        tuple[int, str],
        typing.Annotated[int, msgspec.Meta(gt=0)],
        list[typing.Annotated[str, msgspec.Meta(max_length=3)]],
        Colour,
        Literal[1, 2],
        typing.Optional[int],  # noqa: UP045 - the older way
    ],
    ids=repr,
)
@pytest.mark.parametrize("how", ["attrs", "dataclass", "Struct"])
def test_a_field_of_a_precise_type_is_not_compared(hint: Any, how: str) -> None:
    cls: Any = type(made(hint, None, how))

    assert doubtful_fields(cls) == ()


@pytest.mark.parametrize(
    "hint",
    [
        Any,
        dict,
        list,
        tuple,
        set,
        dict[str, Any],
        list[Any],
        dict[int | str, int],
        Sequence[int],
        Mapping[str, int],
        float,
        dt.datetime,
        dt.time,
        list[float] | None,
        Point,
        list[Point],
        Row,
        typing.NewType("Number", int),
    ],
    ids=repr,
)
@pytest.mark.parametrize("how", ["attrs", "dataclass", "Struct"])
def test_a_field_of_a_type_that_says_less_is_compared(hint: Any, how: str) -> None:
    cls: Any = type(made(hint, None, how))

    assert doubtful_fields(cls) == ("f",)


def test_only_the_fields_of_doubtful_types_are() -> None:
    @event("some.mixed")
    @attrs.frozen
    class Mixed:
        number: int
        details: dict[str, Any]
        later: Later | None = None

    assert doubtful_fields(Mixed) == ("details", "later")


@attrs.frozen
class Later:
    x: int


# --- what is refused -----------------------------------------------------------------------------------------


class Own(dict):  # type: ignore[type-arg]
    pass


LONG_AGO = dt.datetime(1850, 1, 1, tzinfo=dt.timezone(dt.timedelta(minutes=53, seconds=28)))


@pytest.mark.parametrize(
    "hint, value, path, why",
    [
        (dict, {1: "a"}, "$.f[1]", "the key would be read back as text or be lost; give the field a precise type"),
        (dict, {"a": (1,)}, "$.f.a", "tuple would be read back as list; give the field a precise type"),
        (Any, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "$.f", "datetime would be read back as str; give the field a"),
        (list, [1, {"a b": {1}}], "$.f[1]['a b']", "set would be read back as list"),
        (list[Any], [b"a"], "$.f[0]", "bytes would be read back as str"),
        (dict[str, Any], {"a": decimal.Decimal("1.5")}, "$.f.a", "Decimal would be read back as str"),
        (Any, uuid.UUID(int=1), "$.f", "UUID would be read back as str"),
        (Any, Colour.RED, "$.f", "Colour would be read back as str"),
        (Any, Point(1), "$.f", "Point would be read back as dict"),
        (Any, Pair(1, 2), "$.f", "Pair would be read back as list"),
        (dict[int | str, int], {1: 2}, "$.f[1]", "the key would be read back as text"),
        (Sequence[int], (1, 2), "$.f", "tuple would be read back as list"),
        (Point, Place(1, "here"), "$.f", "Place would be read back as Point"),
        (list[Point], [Point(1), Place(1)], "$.f[1]", "Place would be read back as Point"),
        (Row, {"x": 1, "y": 2}, "$.f.y", "the key would be read back as text or be lost"),
        (float, 2**53 + 1, "$.f", "int would be read back as float"),
        (Opaque, Opaque(1, {1}), "$.f.inner", "set would be read back as list"),
        (dt.datetime, LONG_AGO, "$.f", "the offset 0:53:28 has seconds, which RFC 3339 does not allow; use UTC"),
    ],
    ids=range(18),
)
def test_what_would_change_on_its_way_is_refused_by_its_place_type_and_mend(
    hint: Any, value: Any, path: str, why: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        content_of(made(hint, value))

    assert caught.value.path == path
    assert why in caught.value.why
    assert 'the event "some.made" cannot be sent' in str(caught.value)


@pytest.mark.parametrize(
    "hint, value",
    [
        (Any, Level.LOW),  # equal to what it is a subclass of
        (Any, Own(a=1)),
        (dict, OrderedDict(a=1)),
        (float, 3),
        (Sequence[int], [1, 2]),
        (Opaque, Opaque(1)),  # its own == says that it is another one
        (list[Opaque], [Opaque(1, [2])]),
        (dt.datetime, dt.datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN)),  # an hour that is there twice
        (dt.datetime, dt.datetime(2025, 10, 26, 2, 30, fold=1, tzinfo=BERLIN)),
        (list[dt.datetime], [dt.datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN)]),
        (decimal.Decimal, decimal.Decimal("NaN")),
        (decimal.Decimal | float, decimal.Decimal("NaN")),
    ],
    ids=range(12),
)
def test_what_does_not_change_is_not_refused(hint: Any, value: Any) -> None:
    assert content_of(made(hint, value)).name == "some.made"


def test_an_hour_that_is_there_twice_is_not_refused_in_a_model_either() -> None:
    twice = dt.datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN)

    assert content_of(made(dt.datetime, twice, "pydantic")).name == "some.made"


def test_a_class_that_changes_what_it_reads_is_found_out_whatever_its_types() -> None:
    @event("some.counted")
    @attrs.define
    class Counted:
        number: int

        def __attrs_post_init__(self) -> None:
            self.number += 1

    with pytest.raises(
        EncodeError, match=r"\$.number: int would be read back as a different value; make its class read what"
    ):
        content_of(Counted(1))


def test_no_error_shows_a_value() -> None:
    with pytest.raises(EncodeError) as caught:
        content_of(made(dict, {"password": (b"hunter2",)}))

    assert "hunter2" not in str(caught.value)


def test_the_declaration_is_untouched() -> None:
    assert declared(type(made(Any, 1))).fields == {"f": "f"}
