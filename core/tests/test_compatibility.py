"""Which changes of an event break somebody, and what makes up for them."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, strategies as st

import relevo
from relevo import Routes
from relevo._event.event import declared
from relevo._schema.asyncapi import asyncapi
from relevo._schema.compatibility import NEWER, OLDER, Change, compare
from relevo._schema.schema import schemas

BOTH = OLDER + NEWER


def made(fields: Mapping[str, Any], *, name: str = "image.created", **how: Any) -> dict[str, Any]:
    """Return the output for one event with *fields*: a type, or a type and a default."""
    with_defaults = {
        field: attrs.field(type=told[0], default=told[1]) if isinstance(told, tuple) else attrs.field(type=told)
        for field, told in fields.items()
    }
    cls = relevo.event(name, **how)(attrs.make_class("Made", with_defaults, kw_only=True))
    return schemas([declared(cls)], source="shop")


def changes(old: Any, new: Any, **how: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(each.path, each.what, each.breaks) for each in compare(made({"f": old}), made({"f": new}, **how))]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class FewerColours(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Place(msgspec.Struct):
    x: int
    y: int = 0


class Spot(msgspec.Struct):
    x: int
    z: int
    y: str = ""


class Chain(msgspec.Struct):
    number: int
    rest: Chain | None = None


class ChainOfText(msgspec.Struct):
    number: str
    rest: ChainOfText | None = None


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    y: int = 0


class ClosedAndSmaller(msgspec.Struct, forbid_unknown_fields=True):
    x: int


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class Fish(msgspec.Struct, tag=True):
    name: str


class DogOfAge(msgspec.Struct, tag="Dog"):
    name: str
    age: int


Short = Annotated[str, msgspec.Meta(max_length=3)]
Long = Annotated[str, msgspec.Meta(max_length=9)]
Aware = Annotated[datetime, msgspec.Meta(tz=True)]
Naive = Annotated[datetime, msgspec.Meta(tz=False)]
Positive = Annotated[int, msgspec.Meta(gt=0)]
Plate = Annotated[str, msgspec.Meta(pattern="^[A-Z]+$")]


@pytest.mark.parametrize(
    "old, new",
    [
        (int, int),
        (Point, Place),  # a class may be called otherwise
        (Point | None, Place | None),
        (list[Point], list[Place]),
        (int | None, None | int),
        (Chain, Chain),
        (Cat | Dog, Dog | Cat),
        (dict[str, Any], dict[str, Any]),
        (Literal["a", "b"], Literal["b", "a"]),
    ],
)
def test_what_is_the_same_is_no_change(old: Any, new: Any) -> None:
    assert changes(old, new) == []


@pytest.mark.parametrize(
    "old, new, told",
    [
        (int, str, [("$.f", "was integer, and is string", BOTH)]),
        (int, float, [("$.f", "may also be number", NEWER)]),
        (float, int, [("$.f", "is not number any more", OLDER)]),
        (int, int | None, [("$.f", "may also be null", NEWER)]),
        (int | None, int, [("$.f", "is not null any more", OLDER)]),
        (int, Any, [("$.f", "may also be anything", NEWER)]),
        (Any, int, [("$.f", "is not anything any more", OLDER)]),
        (Aware, str, [("$.f", "may also be string", NEWER)]),
        (str, Aware, [("$.f", "is not string any more", OLDER)]),
        (Aware, date, [("$.f", "was string (date-time), and is string (date)", BOTH)]),
        (str, bytes, [("$.f", "is not string any more", OLDER)]),
        (Decimal, float, [("$.f", "is not string (decimal) any more", OLDER)]),  # it is also read from numbers
        (str, datetime, [("$.f", "is not string any more", OLDER)]),
        (datetime, str, [("$.f", "may also be string", NEWER)]),
        (datetime, Aware, [("$.f", "is not string (date-time-local) any more", OLDER)]),
        (Aware, datetime, [("$.f", "may also be string (date-time-local)", NEWER)]),
        (str, time, [("$.f", "is not string any more", OLDER)]),
        (datetime, Naive, [("$.f", "is not string (date-time) any more", OLDER)]),
        (UUID, Short, [("$.f", "may also be string", NEWER), ("$.f", "maxLength was none, and is 3", OLDER)]),
        (Short, UUID, [("$.f", "is not string any more", OLDER), ("$.f", "maxLength was 3, and is none", NEWER)]),
        (Colour, Short, [("$.f", "may also be string", NEWER), ("$.f", 'may not be "blue" any more', OLDER)]),
        (Short, Colour, [("$.f", "is not string any more", OLDER), ("$.f", 'may also be "blue"', NEWER)]),
        (dict[str, int], dict[int, int], [("$.f.*", "pattern was none, and is ^-?[0-9]+$", OLDER)]),
        (dict[str, int], dict[UUID, int], [("$.f.*", "is not string any more", OLDER)]),
        (dict[date, int], dict[UUID, int], [("$.f.*", "was string (date), and is string (uuid)", BOTH)]),
        (Colour, FewerColours, [("$.f", 'may not be "blue" any more', OLDER)]),
        (FewerColours, Colour, [("$.f", 'may also be "blue"', NEWER)]),
        (Colour, str, [("$.f", "may also be string", NEWER)]),
        (str, Colour, [("$.f", "is not string any more", OLDER)]),
        (Literal[1, 2], int, [("$.f", "may also be integer", NEWER)]),
        (Literal[1, 2], str, [("$.f", "was one of, and is string", BOTH)]),
        (list[int], list[str], [("$.f[*]", "was integer, and is string", BOTH)]),
        (list[int], int, [("$.f", "was list, and is integer", BOTH)]),
        (tuple[int, str], tuple[int, int], [("$.f[1]", "was string, and is integer", BOTH)]),
        (dict[str, int], dict[str, str], [("$.f[*]", "was integer, and is string", BOTH)]),
        (dict[str, int], dict[str, Any], [("$.f", "holds values of another type", NEWER)]),
        (dict[str, Any], dict[str, int], [("$.f", "holds values of another type", OLDER)]),
        (Long, Short, [("$.f", "maxLength was 9, and is 3", OLDER)]),
        (Short, Long, [("$.f", "maxLength was 3, and is 9", NEWER)]),
        (str, Short, [("$.f", "maxLength was none, and is 3", OLDER)]),
        (Short, str, [("$.f", "maxLength was 3, and is none", NEWER)]),
        (int, Positive, [("$.f", "exclusiveMinimum was none, and is 0", OLDER)]),
        (Positive, int, [("$.f", "exclusiveMinimum was 0, and is none", NEWER)]),
        (str, Plate, [("$.f", "pattern was none, and is ^[A-Z]+$", OLDER)]),
        (Plate, str, [("$.f", "pattern was ^[A-Z]+$, and is none", NEWER)]),
        (
            Point,
            Spot,
            [
                ("$.f.y", "has another default", ()),
                ("$.f.y", "was integer, and is string", BOTH),
                ("$.f.z", "is new, without a default", OLDER),
            ],
        ),
        (Chain, ChainOfText, [("$.f.number", "was integer, and is string", BOTH)]),
        (Cat | Dog, Cat, [("$.f", "is not object (Dog) any more", OLDER)]),
        (Cat | Dog, Cat | Dog | Fish, [("$.f", "may also be object (Fish)", NEWER)]),
        (Closed, ClosedAndSmaller, [("$.f.y", "is gone, and had a default", OLDER)]),
        (ClosedAndSmaller, Closed, [("$.f.y", "is new, with a default", NEWER)]),
        (Point, Closed, [("$.f", "takes no other fields any more", OLDER)]),
        (Closed, Point, [("$.f", "takes other fields now", NEWER)]),
    ],
)
def test_a_change_of_a_type_is_told_and_whom_it_breaks(old: Any, new: Any, told: Any) -> None:
    assert changes(old, new) == told


def test_one_of_several_classes_that_changes_within_is_told() -> None:
    def output(cls: Any) -> Any:
        return made({"f": cls})

    told = compare(output(Cat | Dog), _with_title(output(Cat | DogOfAge), "DogOfAge", "Dog"))

    assert [(each.path, each.what, each.breaks) for each in told] == [("$.f.age", "is new, without a default", OLDER)]


def _with_title(output: Any, old: str, new: str) -> Any:
    for part in output["$defs"]["image.created"]["$defs"].values():
        part["title"] = part["title"].replace(old, new)
    return output


@pytest.mark.parametrize(
    "old, new, told",
    [
        ({"a": int}, {"a": int, "b": (int, 3)}, ("$.b", "is new, with a default", ())),
        ({"a": int}, {"a": int, "b": int}, ("$.b", "is new, without a default", OLDER)),
        ({"a": int, "b": (int, 3)}, {"a": int}, ("$.b", "is gone, and had a default", ())),
        ({"a": int, "b": int}, {"a": int}, ("$.b", "is gone", NEWER)),
        ({"a": (int, 3)}, {"a": int}, ("$.a", "has no default any more", OLDER)),
        ({"a": int}, {"a": (int, 3)}, ("$.a", "has a default now, and may be left out", NEWER)),
        ({"a": (int, 3)}, {"a": (int, 4)}, ("$.a", "has another default", ())),
    ],
)
def test_a_change_of_fields_is_told_and_whom_it_breaks(old: Any, new: Any, told: Any) -> None:
    assert [(each.path, each.what, each.breaks) for each in compare(made(old), made(new))] == [told]


def test_every_place_of_a_change_is_told() -> None:
    old, new = (
        made({"a": int, "b": int, "c": Chain, "d": Chain}),
        made({"a": str, "b": str, "c": ChainOfText, "d": ChainOfText}),
    )

    assert [each.path for each in compare(old, new)] == ["$.a", "$.b", "$.c.number", "$.d.number"]


def test_models_are_compared_like_others() -> None:
    def output(kind: Any) -> Any:
        cls = relevo.event("image.created")(pydantic.create_model("Model", f=(kind, ...)))
        return schemas([declared(cls)], source="shop")

    told = compare(output(datetime), output(list[int] | None))

    assert [(each.path, each.what) for each in told] == [
        ("$.f", "was string (date-time), and is list or null"),
    ]


# --- what makes up for it -----------------------------------------------------------------------------------


def keep(data: dict[str, Any]) -> dict[str, Any]:
    return data


@pytest.mark.parametrize(
    "new, how, fix",
    [
        (str, {}, "raise the version to 3, with an upcaster from 2"),
        (str, {"version": 3}, "add an upcaster from 2"),
        (str, {"version": 3, "upcasters": {2: keep}}, None),
        (str, {"version": 4, "upcasters": {1: keep, 2: keep, 3: keep}}, None),
        (float, {}, "raise the version to 3"),
        (float, {"version": 3}, None),
        (Positive, {}, "raise the version to 3, with an upcaster from 2"),
        (Positive, {"version": 3}, "add an upcaster from 2"),
    ],
)
def test_a_higher_version_and_an_upcaster_make_up_for_what_breaks(new: Any, how: Any, fix: str | None) -> None:
    (told,) = compare(made({"f": int}, version=2), made({"f": new}, **{"version": 2, **how}))

    assert told.breaks
    assert told.fix == fix


@pytest.mark.parametrize(
    "old, new, what, fix",
    [
        ({"version": 2}, {"version": 1}, "its version went from 2 back to 1", "keep 2"),
        (
            {"version": 1},
            {"version": 3, "upcasters": {2: keep}},
            "has upcasters from version 2 on, and none from 1",
            "add an upcaster from 1",
        ),
        (
            {"version": 2, "upcasters": {1: keep}},
            {"version": 2},
            "has no upcaster from version 1 any more",
            "keep it while such events may arrive",
        ),
    ],
)
def test_a_version_that_is_not_read_any_more_is_told(old: Any, new: Any, what: str, fix: str) -> None:
    told = compare(made({"f": int}, **old), made({"f": int}, **new))

    assert told == [Change(event="image.created", path="$", what=what, breaks=OLDER, fix=fix)]


def test_a_version_may_rise_without_a_change() -> None:
    assert compare(made({"f": int}), made({"f": int}, version=2)) == []


def test_another_subject_is_told() -> None:
    old, new = made({"f": int}, subject="f", of="image"), made({"f": int}, subject="f", of="user")

    (told,) = compare(old, new)

    assert (told.what, told.breaks) == ("its subject was image, and is user", BOTH)


def test_events_that_come_and_go_are_told() -> None:
    told = compare(made({"f": int}, name="a.old"), made({"f": int}, name="b.new"))

    assert [(each.event, each.what, each.breaks) for each in told] == [
        ("a.old", "is not declared any more", OLDER),
        ("b.new", "is new", ()),
    ]
    assert told[0].fix == "keep its listeners until its last event is handled"


# --- outputs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document", [None, [], 3, {}, {"$defs": 3}, {"$defs": {"a": 3}}, {"asyncapi": "3.0.0"}, {"components": {}}]
)
def test_what_is_no_output_is_told(document: object) -> None:
    with pytest.raises(ValueError, match="not an output of relevo schema"):
        compare(document, made({}))


@pytest.mark.parametrize(
    "about", [{}, {"version": 1}, {"event": None, "version": 1}, {"event": "a", "version": "1"}, {"subject": {}}, None]
)
def test_an_event_without_its_name_or_version_is_reported(about: object) -> None:
    broken = made({"f": int})
    broken["$defs"]["image.created"]["x-relevo"] = about

    with pytest.raises(ValueError, match="not an output of relevo schema"):
        compare(broken, made({}))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("type", {}),
        ("type", []),
        ("type", [["string"]]),
        ("$ref", None),
        ("allOf", 3),
        ("anyOf", [None]),
        ("enum", None),
        ("type", "one of"),
        ("type", ["string", "anything"]),
        ("title", []),
        ("pattern", "("),
        ("multipleOf", 0),
        ("minimum", "0"),
        ("maxLength", 10**400),
        ("properties", []),
        ("required", 3),
    ],
)
def test_a_keyword_with_a_value_that_json_schema_does_not_know_is_reported(word: str, value: object) -> None:
    broken = made({"f": int})
    broken["$defs"]["image.created"]["properties"]["f"] = {"type": "integer", word: value}

    with pytest.raises(ValueError, match=f'keyword "{re.escape(word)}"'):
        compare(broken, made({"f": int}))


def test_a_reference_that_leads_nowhere_is_told() -> None:
    broken = made({"f": int})
    broken["$defs"]["image.created"]["properties"]["f"] = {"$ref": "#/$defs/Gone"}

    with pytest.raises(ValueError, match="to which it refers"):
        compare(broken, made({"f": int}))


def test_an_asyncapi_document_is_compared_as_well_also_with_the_other_form() -> None:
    @relevo.event("image.created")
    @attrs.frozen
    class Created:
        at: tuple[int, Point]
        chain: Chain

    @relevo.event("image.created")
    @attrs.frozen
    class CreatedOtherwise:
        at: tuple[int, Place]
        chain: ChainOfText

    old = asyncapi([declared(Created)], source="shop", version="1", routes=Routes({}), listeners=())
    new = asyncapi([declared(CreatedOtherwise)], source="shop", version="1", routes=Routes({}), listeners=())

    assert compare(old, old) == []
    assert compare(old, schemas([declared(Created)], source="shop")) == []
    assert [each.path for each in compare(old, new)] == ["$.chain.number"]


types = st.recursive(
    st.sampled_from(
        [int, str, float, bool, Aware, datetime, Short, Decimal, bytes, Colour, Point, Chain, Closed, Any, type(None)]
    ),
    lambda inner: st.one_of(
        inner.map(lambda each: list[each]),  # type: ignore[valid-type]
        inner.map(lambda each: dict[str, each]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(lambda pair: tuple[pair[0], pair[1]]),  # type: ignore[valid-type]
    ),
    max_leaves=4,
)


@given(types, types)
def test_nothing_is_different_from_itself_and_what_breaks_one_way_breaks_the_other_way_round(
    old: Any, new: Any
) -> None:
    there, back = changes(old, new), changes(new, old)

    assert changes(old, old) == []
    assert {each for _, _, breaks in there for each in breaks} == {
        "newer events" if each == "older events" else "older events" for _, _, breaks in back for each in breaks
    }
