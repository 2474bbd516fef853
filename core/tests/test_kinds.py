"""Four kinds of class can be events, and all keep the same promises."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, strategies as st

from relevo import Event, Subject, event
from relevo._event.codec import content_of, decoded, encoded, generic, generic_from, subject_of, typed, typed_from
from relevo._event.context import Ambient
from relevo._event.event import EventTypes, declared, reader
from relevo.errors import ConfigurationError, DecodeError, EncodeError

BASE64 = pydantic.ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


def there_and_back(event: object) -> Any:
    return typed(decoded(body_of(event)), declared(type(event)))


def body_of(event: object) -> bytes:
    return encoded(content_of(event), event_id="1", source="shop", now=0.0, subject=subject_of(event), around=Ambient())


def sent(event: object) -> Any:
    return json.loads(content_of(event).data)


# --- rich types ---------------------------------------------------------------------------------------


@attrs.frozen
class AttrsPoint:
    x: float
    raw: bytes = b""


@dataclasses.dataclass(frozen=True)
class DataPoint:
    x: float
    raw: bytes = b""


class StructPoint(msgspec.Struct, frozen=True):
    x: float
    raw: bytes = b""


class ModelPoint(pydantic.BaseModel):
    model_config = BASE64
    x: float
    raw: bytes = b""


@event("rich.attrs", version=2)
@attrs.frozen(kw_only=True)
class RichAttrs:
    text: str
    number: int
    real: float
    flag: bool
    at: dt.datetime
    day: dt.date
    span: dt.timedelta
    key: uuid.UUID
    price: decimal.Decimal
    raw: bytes
    colour: Colour
    size: Size
    point: AttrsPoint
    points: list[AttrsPoint]
    by_name: dict[str, AttrsPoint | None]
    by_number: dict[int, str]
    words: tuple[str, ...]
    chosen: frozenset[int]
    maybe: int | str | None = None


@event("rich.data", version=2)
@dataclasses.dataclass(frozen=True, kw_only=True)
class RichData:
    text: str
    number: int
    real: float
    flag: bool
    at: dt.datetime
    day: dt.date
    span: dt.timedelta
    key: uuid.UUID
    price: decimal.Decimal
    raw: bytes
    colour: Colour
    size: Size
    point: DataPoint
    points: list[DataPoint]
    by_name: dict[str, DataPoint | None]
    by_number: dict[int, str]
    words: tuple[str, ...]
    chosen: frozenset[int]
    maybe: int | str | None = None


@event("rich.struct", version=2)
class RichStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    text: str
    number: int
    real: float
    flag: bool
    at: dt.datetime
    day: dt.date
    span: dt.timedelta
    key: uuid.UUID
    price: decimal.Decimal
    raw: bytes
    colour: Colour
    size: Size
    point: StructPoint
    points: list[StructPoint]
    by_name: dict[str, StructPoint | None]
    by_number: dict[int, str]
    words: tuple[str, ...]
    chosen: frozenset[int]
    maybe: int | str | None = None


@event("rich.model", version=2)
class RichModel(pydantic.BaseModel):
    model_config = BASE64
    text: str
    number: int
    real: float
    flag: bool
    at: dt.datetime
    day: dt.date
    span: dt.timedelta
    key: uuid.UUID
    price: decimal.Decimal
    raw: bytes
    colour: Colour
    size: Size
    point: ModelPoint
    points: list[ModelPoint]
    by_name: dict[str, ModelPoint | None]
    by_number: dict[int, str]
    words: tuple[str, ...]
    chosen: frozenset[int]
    maybe: int | str | None = None


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
integers = st.integers(-(2**63), 2**63 - 1)
reals = st.floats(allow_nan=False, allow_infinity=False)
zones = st.none() | st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))


def rich(cls: type, point: type) -> st.SearchStrategy[Any]:
    points = st.builds(point, x=reals, raw=st.binary(max_size=4))
    return st.builds(
        cls,
        text=texts,
        number=integers,
        real=reals,
        flag=st.booleans(),
        at=st.datetimes(timezones=zones),
        day=st.dates(),
        span=st.timedeltas(dt.timedelta(days=-100_000), dt.timedelta(days=100_000)),
        key=st.uuids(),
        price=st.decimals(allow_nan=False, allow_infinity=False),
        raw=st.binary(max_size=4),
        colour=st.sampled_from(Colour),
        size=st.sampled_from(Size),
        point=points,
        points=st.lists(points, max_size=2),
        by_name=st.dictionaries(texts, points | st.none(), max_size=2),
        by_number=st.dictionaries(integers, texts, max_size=2),
        words=st.lists(texts, max_size=2).map(tuple),
        chosen=st.frozensets(integers, max_size=2),
        maybe=integers | texts | st.none(),
    )


every_kind = st.one_of(
    rich(RichAttrs, AttrsPoint),
    rich(RichData, DataPoint),
    rich(RichStruct, StructPoint),
    rich(RichModel, ModelPoint),
)


@given(every_kind)
def test_an_event_of_any_kind_and_of_rich_types_comes_back_equal(event: Any) -> None:
    back = there_and_back(event)

    assert back == event
    assert type(back) is type(event)
    assert (type(back.price), repr(back.real)) == (decimal.Decimal, repr(event.real))
    assert back.at.utcoffset() == event.at.utcoffset()
    assert decoded(body_of(event)).dataversion == 2


@given(every_kind)
def test_it_reads_the_same_out_of_an_event_by_name(event: Any) -> None:
    assert typed_from(generic_from(event), declared(type(event))) == event


# --- one event, four ways to declare it -----------------------------------------------------------------


@event("image.created", subject="image_id", of="image")
@attrs.frozen
class AttrsCreated:
    image_id: int
    size: str = "small"


@event("image.created", subject="image_id", of="image")
@dataclasses.dataclass(frozen=True)
class DataCreated:
    image_id: int
    size: str = "small"


@event("image.created", subject="image_id", of="image")
class StructCreated(msgspec.Struct, frozen=True):
    image_id: int
    size: str = "small"


@event("image.created", subject="image_id", of="image")
class ModelCreated(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    image_id: int
    size: str = "small"


KINDS: list[Any] = [AttrsCreated, DataCreated, StructCreated, ModelCreated]
every = pytest.mark.parametrize("cls", KINDS, ids=["attrs", "dataclass", "Struct", "pydantic"])


@every
def test_all_kinds_look_the_same_on_their_way(cls: Any) -> None:
    document = decoded(body_of(cls(image_id=7)))

    assert json.loads(bytes(document.data)) == {"image_id": 7, "size": "small"}
    assert document.subject == "image/7"
    assert generic(document) == Event(
        "image.created", {"image_id": 7, "size": "small"}, subject=Subject("image", "7"), id="1"
    )


@every
@pytest.mark.parametrize("given", KINDS)
def test_one_kind_reads_what_another_sent(cls: Any, given: Any) -> None:
    assert typed(decoded(body_of(given(image_id=7, size="large"))), declared(cls)) == cls(image_id=7, size="large")


@every
def test_a_subject_field_that_is_lacking_is_filled(cls: Any) -> None:
    event = Event("image.created", subject=Subject("image", "7"))

    assert typed(decoded(body_of(event)), declared(cls)) == cls(image_id=7)
    assert typed_from(event, declared(cls)) == cls(image_id=7)


@every
def test_a_newer_field_is_ignored_and_a_missing_one_has_its_default(cls: Any) -> None:
    event = Event("image.created", {"image_id": 7, "newer": [1]})

    assert typed(decoded(body_of(event)), declared(cls)) == cls(image_id=7)


@every
@pytest.mark.parametrize(
    "arguments, field", [({"image_id": "seven"}, "image_id"), ({}, "image_id"), ({"image_id": 7, "size": 3}, "size")]
)
def test_a_misfit_is_a_decode_error_that_names_the_field(cls: Any, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(DecodeError, match=rf"the data of 'image.created' does not fit {cls.__name__}: .*{field}`"):
        typed(decoded(body_of(Event("image.created", arguments))), declared(cls))


@every
def test_what_does_not_fit_its_own_class_is_refused_at_the_dispatch(cls: Any) -> None:
    broken = cls.model_construct(image_id="x") if cls is ModelCreated else cls(image_id="x")

    with pytest.raises(EncodeError, match="image_id`"):
        content_of(broken)


@every
def test_a_subclass_of_any_kind_is_no_event_by_inheritance(cls: Any) -> None:
    child = type("Child", (cls,), {"__module__": __name__})

    with pytest.raises(ConfigurationError, match=r"Child is not an event; put @relevo.event"):
        declared(child)


@every
def test_any_kind_can_be_registered(cls: Any) -> None:
    assert EventTypes().add(cls).cls is cls


# --- what travels is the field's name in Python, unless its class says otherwise ---------------------------


@event("alias.attrs", subject="image_id", of="image")
@attrs.frozen
class AliasAttrs:
    image_id: int = attrs.field(alias="imageId")


@event("alias.struct", subject="image_id", of="image")
class AliasStruct(msgspec.Struct, rename={"image_id": "imageId"}):
    image_id: int
    size: str = msgspec.field(default="small", name="how-big")


@event("alias.model", subject="image_id", of="image")
class AliasModel(pydantic.BaseModel):
    image_id: Annotated[int, pydantic.Field(alias="imageId")]
    point: Inner = pydantic.Field(alias="thePoint")


class Inner(pydantic.BaseModel):
    left: int = pydantic.Field(alias="L")


@event("alias.generated")
class AliasGenerated(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=str.upper, populate_by_name=True)
    image_id: int


@pytest.mark.parametrize(
    "event, data",
    [
        (AliasAttrs(imageId=7), {"image_id": 7}),
        (AliasStruct(7), {"imageId": 7, "how-big": "small"}),
        (AliasModel.model_validate({"imageId": 7, "thePoint": {"L": 1}}), {"imageId": 7, "thePoint": {"L": 1}}),
        (AliasGenerated.model_validate({"IMAGE_ID": 7}), {"IMAGE_ID": 7}),
    ],
)
def test_a_field_travels_under_the_name_that_its_class_gives_it(event: Any, data: dict[str, Any]) -> None:
    EventTypes().add(type(event))

    assert sent(event) == data
    assert there_and_back(event) == event


@pytest.mark.parametrize("event", [AliasStruct(7), AliasModel.model_validate({"imageId": 7, "thePoint": {"L": 1}})])
def test_a_subject_field_with_another_name_is_filled_under_that(event: Any) -> None:
    data = sent(event)
    del data["imageId"]
    by_name = Event(declared(type(event)).name, data, subject=Subject("image", "7"))

    assert typed(decoded(body_of(by_name)), declared(type(event))) == event
    assert subject_of(event) == Subject("image", "7")


def test_a_subject_under_another_name_is_not_overwritten() -> None:
    event = Event("alias.struct", {"imageId": 8}, subject=Subject("image", "7"))

    assert typed(decoded(body_of(event)), declared(AliasStruct)) == AliasStruct(8)


def test_the_tag_of_a_struct_does_not_travel_since_the_event_has_a_name() -> None:
    @event("tagged.struct")
    class Tagged(msgspec.Struct, tag=True, omit_defaults=True):
        number: int = 3

    assert sent(Tagged()) == {"number": 3}
    assert there_and_back(Tagged()) == Tagged()


# --- what cannot be read back is refused when it is registered --------------------------------------------


class Handle:
    pass


@attrs.frozen
class HoldsHandle:
    handle: Handle


@attrs.frozen
class HoldsHandles:
    handles: list[dict[str, Handle]]


@dataclasses.dataclass
class HasInitVar:
    number: int
    other: dataclasses.InitVar[int]


class StructHandle(msgspec.Struct):
    handle: Handle


@attrs.frozen
class HoldsModel:
    model: ModelPoint


class ModelHandle(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    handle: Handle


class ModelBytes(pydantic.BaseModel):
    inner: list[ModelBytesInner]


class ModelBytesInner(pydantic.BaseModel):
    raw: bytes


class TwoNames(pydantic.BaseModel):
    number: int = pydantic.Field(serialization_alias="one", validation_alias="two")


class WriteOnly(pydantic.BaseModel):
    number: int = pydantic.Field(serialization_alias="one")


class Excluded(pydantic.BaseModel):
    number: int = pydantic.Field(exclude=True)


class Unresolved(pydantic.BaseModel):
    number: Nowhere  # type: ignore[name-defined]  # noqa: F821 - that is the point


@pytest.mark.parametrize(
    "cls, why",
    [
        (HoldsHandle, r"Handle'> is not supported"),
        (HoldsHandles, r"Handle'> is not supported"),
        (HasInitVar, r"InitVar"),
        (StructHandle, r"Handle'> is not supported"),
        (HoldsModel, r"ModelPoint'> is not supported"),
        (ModelHandle, r"Handle"),
        (ModelBytes, r'bytes need ser_json_bytes="base64" and val_json_bytes="base64" in model_config'),
        (TwoNames, r'"number" is written and read under different names'),
        (WriteOnly, r'"number" is written and read under different names'),
        (Excluded, r'"number" is written and read under different names; use one alias, and no exclude'),
        (Unresolved, r"Nowhere"),
    ],
)
def test_a_class_that_cannot_be_read_back_is_refused_when_it_is_registered(cls: Any, why: str) -> None:
    event("some.event")(cls)

    with pytest.raises(ConfigurationError, match=r"cannot be read back from JSON: .*" + why) as caught:
        EventTypes().add(cls)

    assert "\n" not in str(caught.value)


class Root(pydantic.RootModel[list[int]]):
    pass


class Array(msgspec.Struct, array_like=True):
    number: int


@pytest.mark.parametrize("cls", [Root, Array, ModelCreated(image_id=7), StructCreated(7)])
def test_what_has_no_fields_by_name_is_no_event(cls: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"has no fields; put @relevo.event"):
        event("some.event")(cls)


def test_a_private_attribute_of_a_model_is_refused_as_it_would_not_travel() -> None:
    class Private(pydantic.BaseModel):
        _secret: int = 3

    with pytest.raises(ConfigurationError, match='private attribute "_secret", which is not sent; make it a field, or'):
        event("some.event")(Private)


def test_a_cached_property_of_a_model_does_not_travel_and_is_computed_again() -> None:
    @event("model.cached")
    class Cached(pydantic.BaseModel):
        name: str

        @cached_property
        def upper(self) -> str:
            return self.name.upper()

    given = Cached(name="sea")

    assert given.upper == "SEA"
    assert declared(Cached).fields == {"name": "name"}
    assert reader(Cached)(given.model_dump_json().encode()).upper == "SEA"


def test_a_default_without_a_form_in_json_is_no_warning_at_the_registration() -> None:
    @event("model.default")
    class WithDefault(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        data: bytes = b"\xff"

    @event("model.raw")
    class Raw(pydantic.BaseModel):
        data: bytes = b"\xff"

    assert reader(WithDefault)(b"{}") == WithDefault()
    with pytest.raises(ConfigurationError, match="bytes need ser_json_bytes"):
        reader(Raw)


# --- models of pydantic, in particular ----------------------------------------------------------------------


def test_a_computed_field_does_not_travel() -> None:
    @event("model.computed")
    class Computed(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        number: int

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return 2 * self.number

    assert sent(Computed(number=2)) == {"number": 2}
    assert there_and_back(Computed(number=2)) == Computed(number=2)


@event("model.anything")
class Anything(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    anything: Any = None
    number: int = 0


@event("model.half")
class HalfBytes(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64")
    raw: bytes


@pytest.mark.parametrize(
    "event, path, why",
    [
        (Anything(anything=object()), "$.anything", "Unable to serialize unknown type"),
        (Anything(anything=[float("nan")]), "$.anything[0]", "float would be read back as NoneType"),
        (Anything(anything="\0"), "$.anything", "NUL"),
        (Anything(anything="\ud800"), "$.anything", "surrogate"),
        (Anything(anything=2**64), "$.anything", "does not fit 64 bits"),
        (Anything.model_construct(number="secret"), "$", "parse string as an integer - at `$.number`"),
        (Anything.model_construct(number="3"), "$.number", "str would be read back as int"),
        (Anything(anything=dt.date(2026, 1, 1)), "$.anything", "date would be read back as str; give the field a"),
        (Anything.model_validate({"extra": 3}), "$", "an undeclared field would be read back as another value"),
        (HalfBytes(raw=b"raw"), "$.raw", "bytes would be read back as a different value"),
    ],
)
def test_what_a_model_could_not_be_read_back_from_is_refused_at_the_dispatch(event: Any, path: str, why: str) -> None:
    with pytest.raises(EncodeError) as caught:
        content_of(event)

    assert why in str(caught.value)
    assert caught.value.path == path
    assert "secret" not in str(caught.value)


def test_a_misfit_shows_no_values() -> None:
    with pytest.raises(DecodeError) as caught:
        typed_from(Event("model.anything", {"number": "hunter2"}), declared(Anything))

    assert "hunter2" not in str(caught.value)
    assert "https" not in str(caught.value)


def test_a_model_decides_itself_how_strict_it_is() -> None:
    lax = Event("image.created", {"image_id": "7"})

    assert typed_from(lax, declared(ModelCreated)) == ModelCreated(image_id=7)
    with pytest.raises(DecodeError):
        typed_from(lax, declared(AttrsCreated))


def test_a_model_that_contains_itself_is_known() -> None:
    EventTypes().add(Node)
    node = Node.model_validate({"number": 1, "inner": {"n": 2}})

    assert there_and_back(node) == node


@event("model.node")
class Node(pydantic.BaseModel):
    number: int = pydantic.Field(alias="n", default=0)
    model_config = pydantic.ConfigDict(populate_by_name=True)
    inner: Node | None = None


@pytest.mark.lengthy("starts processes")
def test_pydantic_is_not_imported_by_relevo() -> None:
    script = "import relevo, relevo.cli, sys; relevo.App; sys.exit('pydantic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_class_that_only_has_some_names_of_pydantic_is_what_it_is() -> None:
    @event("model.like")
    @attrs.frozen
    class Like:
        model_fields: int
        model_dump: Callable[[], int] | None = None

    assert tuple(declared(Like).fields) == ("model_fields", "model_dump")
