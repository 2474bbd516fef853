from __future__ import annotations

import enum
import json
import re
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from relevo import Event
from relevo._event.validation import MAX_DEPTH, json_of, plain
from relevo.errors import EncodeError

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Return whether both are equal to the last bit and of the same types, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return repr(left) == repr(right)


def nested(depth: int, kind: type = list) -> Any:
    value: Any = 1
    for level in range(depth):
        value = {"a": value} if kind is dict or (kind is object and level % 2) else [value]
    return value


class Name(str):
    __slots__ = ()


anything = (
    values
    | st.text()  # lone surrogates and NUL among it
    | st.integers()
    | st.floats()
    | st.binary()
    | st.text(characters).map(Name)
    | st.just({1: 2})
    | st.tuples(values)
)
keys = st.text() | st.integers() | st.text(characters).map(Name)


@given(st.dictionaries(keys, anything, max_size=5) | st.dictionaries(texts, values, max_size=5).map(OrderedDict))
@example({"a": "\\u0000", "b": 1})
@example({"a": "\0"})
@example({"a\0": 1})
@example({"\ud800": 1})
@example({"a": [1, {"b": True}]})
@example({"a": 2**63, "b": -(2**63)})
@example({"a": nested(MAX_DEPTH - 1, list), "b": nested(MAX_DEPTH - 1, dict)})
@example({"a": nested(MAX_DEPTH, list)})
@example({"a": [[{"b": "\0"}], {"c": [None, 1.5, {1: 2}]}]})
def test_what_is_encoded_quickly_is_what_was_validated_and_fails_with_the_same_error(value: dict[Any, Any]) -> None:
    try:
        expected: object = msgspec.json.encode(plain(value, event_name="a.b", path="x"))
    except EncodeError as error:
        expected = str(error)

    try:
        found: object = json_of(value, "a.b", "x")
    except EncodeError as error:
        found = str(error)

    assert found == expected


@given(values)
@example(-0.0)
@example([5e-324, 1.7976931348623157e308, 1e22, 1.0, 2.0**70])
@example([2**63 - 1, -(2**63)])
@example({"": {}, "𝄞": ["\U0010ffff", "\ufffe", "\x7f", "\u2028", '"\\/', "\r\n\t\x01"]})
def test_what_passes_comes_back_from_json_exactly(value: Any) -> None:
    passed = plain(value, event_name="a.b")

    written = msgspec.json.encode(passed)

    assert same(passed, value)
    assert same(msgspec.json.decode(written), value)
    assert same(json.loads(written), value)


@pytest.mark.parametrize("kind", [list, dict, object])
def test_a_hundred_levels_pass_and_one_more_does_not(kind: type) -> None:
    value = nested(MAX_DEPTH, kind)

    assert same(msgspec.json.decode(msgspec.json.encode(plain(value, event_name="a.b"))), value)
    with pytest.raises(EncodeError, match="deeper than 100 levels"):
        plain(nested(MAX_DEPTH + 1, kind), event_name="a.b")


def test_what_contains_itself_is_too_deep() -> None:
    value: list[Any] = []
    value.append({"again": value})

    with pytest.raises(EncodeError, match="deeper than 100 levels"):
        plain(value, event_name="a.b")


@pytest.mark.parametrize(
    "value, path, why",
    [
        ("a\0b", "$", "NUL"),
        ({"a": [0, "\ud800"]}, "$.a[1]", "lone surrogate U\\+D800"),
        ("\ud83d\ude00", "$", "lone surrogate U\\+D83D"),
        ({"a": float("nan")}, "$.a", "nan is not JSON"),
        ([float("-inf")], "$[0]", "-inf is not JSON"),
        ({"a": {"b": 2**63}}, "$.a.b", "does not fit 64 bits"),
        ([-(2**63) - 1], "$[0]", "does not fit 64 bits"),
        (2**4000, "$", "does not fit 64 bits"),
        ({"a": b"x"}, "$.a", "bytes is not JSON.*declare the event as a class"),
        ([{1, 2}], "$[0]", "set is not JSON"),
        ([object()], "$[0]", "object is not JSON"),
        ({"a": {1: 2}}, "$.a", "the key 1 is int"),
        ({None: 2}, "$", "the key None is NoneType"),
        ({"a": {"\0": 2}}, "$.a['\\x00']", "NUL"),
        ({"a b": [2**64]}, "$['a b'][0]", "64 bits"),
        ({"line\nbreak": 2**64}, "$['line\\nbreak']", "64 bits"),
        ({"\ud800": 1}, "$['\\ud800']", "surrogate"),
    ],
)
def test_what_has_no_faithful_form_is_refused_with_its_place(value: Any, path: str, why: str) -> None:
    with pytest.raises(EncodeError, match=why) as caught:
        plain(value, event_name="a.b")

    assert caught.value.path == path
    assert "\n" not in str(caught.value)


class Shouting(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Lying(int):
    def __int__(self) -> int:
        return 7

    __index__ = __int__

    def __le__(self, other: object) -> bool:
        return True

    __ge__ = __lt__ = __gt__ = __le__


class Drifting(float):
    def __float__(self) -> float:
        return 0.5


class Endless(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        while True:
            yield 1


class Hiding(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return []


class Twin(str):
    """Equal to nothing, so that a dict can hold two of the same text."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Pretending:
    __class__ = str  # type: ignore[assignment]


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


Point = namedtuple("Point", "x y")  # noqa: PYI024 - a tuple with names is the case


@pytest.mark.parametrize(
    "value, expected",
    [
        (Shouting("a"), "a"),
        (Lying(3), 3),
        (Drifting(1.5), 1.5),
        (Endless([1, 2]), [1, 2]),
        (Hiding(a=1), {"a": 1}),
        ({Shouting("k"): 1}, {"k": 1}),
        (Colour.RED, "red"),
        (Level.LOW, 1),
        (True, True),
        ((1, (2,)), [1, [2]]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    ],
    ids=range(12),
)
def test_subclasses_become_what_they_truly_hold(value: Any, expected: Any) -> None:
    assert same(plain([value], event_name="a.b"), [expected])


@pytest.mark.parametrize(
    "hostile",
    [
        lambda: Lying(2**64),
        lambda: Drifting("nan"),
        lambda: Shouting("\0"),
        lambda: {Twin("a"): 1, Twin("a"): 2},
        lambda: {Lying(3): 1},
        Pretending,
    ],
    ids=range(6),
)
def test_no_override_lets_anything_pass(hostile: Callable[[], Any]) -> None:
    with pytest.raises(EncodeError):
        plain([hostile()], event_name="a.b")


def test_the_copy_shares_nothing_with_the_original() -> None:
    original: dict[str, Any] = {"a": [{"b": 1}]}

    copy = plain(original, event_name="a.b")
    original["a"][0]["b"] = 2

    assert copy == {"a": [{"b": 1}]}


class Scalar:
    """It stands for numpy.int64."""

    __module__ = "numpy"

    def item(self) -> int:
        return 7

    def tolist(self) -> int:
        return 7


class Column(Scalar):
    """It stands for numpy.ndarray."""

    __module__ = "numpy"

    def __len__(self) -> int:
        return 1


class Timestamp(datetime):
    """It stands for pandas.Timestamp."""

    __module__ = "pandas"

    def to_pydatetime(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


class NaTType(Timestamp):
    """It stands for the type of pandas.NaT."""

    __module__ = "pandas"


class NAType:
    """It stands for the type of pandas.NA."""

    __module__ = "pandas._libs.missing"


class Frame:
    """It stands for pandas.DataFrame."""

    __module__ = "pandas"

    def __len__(self) -> int:
        return 1

    def to_dict(self, orient: str) -> list[dict[str, int]]:
        return [{orient: 1}]

    def to_json(self, orient: str, date_format: str) -> str:
        return json.dumps([{orient: date_format}])


class Row(Frame):
    """It stands for pandas.Series."""

    __module__ = "pandas"

    def tolist(self) -> list[int]:
        return [1]


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        (Frame(), 'Frame; write {"rows": json.loads(value.to_json(orient="records", date_format="iso"))}'),
        (Row(), "Row; write value.to_dict()"),
    ],
)
def test_how_a_value_of_pandas_becomes_arguments_is_named(given: Any, fix: str) -> None:
    with pytest.raises(EncodeError, match=f"got {re.escape(fix)}$"):
        Event("a.b", given)


@pytest.mark.parametrize("value", [NaTType(2026, 1, 1, tzinfo=UTC), NAType()])
def test_a_missing_value_of_pandas_is_none(value: Any) -> None:
    with pytest.raises(EncodeError, match=r"T?Type is not JSON; write None for a missing value; "):
        plain({"a": value}, event_name="a.b")


@pytest.mark.parametrize(
    ("value", "method"),
    [
        (Scalar(), "item()"),
        (Column(), "tolist()"),
        (Timestamp(2026, 1, 1, tzinfo=UTC), "isoformat()"),
    ],
)
def test_a_value_of_another_library_is_named_with_its_module_and_how_it_becomes_one_of_python(
    value: Any, method: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        plain({"a": value}, event_name="a.b")

    name = f"{type(value).__module__}.{type(value).__name__}"
    assert f"$.a: {name} is not JSON; .{method} returns a value of Python's own" in str(caught.value)


def test_a_frame_among_the_data_is_told_the_way_that_its_times_and_missing_values_survive() -> None:
    with pytest.raises(EncodeError, match=r'Frame is not JSON; write json\.loads\(value\.to_json\(orient="records", '):
        plain({"a": Frame()}, event_name="a.b")


def test_a_class_of_the_application_gets_no_such_advice() -> None:
    class Basket:
        def item(self) -> int:
            return 7

    with pytest.raises(EncodeError, match="Basket is not JSON; send text or a number"):
        plain({"a": Basket()}, event_name="a.b")
