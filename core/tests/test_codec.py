"""Events as bytes and back; what comes out is the same to the last bit, or it does not go in."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import importlib
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import example, given, strategies as st

from relevo import Event, Subject, event
from relevo._event.codec import (
    Content,
    Document,
    attributes_of,
    checked_source,
    content_of,
    context_of,
    decoded,
    encoded,
    generic,
    generic_from,
    subject_of,
    typed,
    typed_from,
)
from relevo._event.context import Ambient
from relevo._event.event import declared
from relevo._event.validation import MAX_BODY
from relevo.errors import ConfigurationError, DecodeError, EncodeError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[A-Za-z0-9_-]+([./:][A-Za-z0-9_-]+)*", fullmatch=True).filter(lambda name: len(name) <= 200)
subjects = st.none() | st.builds(Subject, texts.filter(bool), texts.filter(bool))
NOW = 1_767_225_600.25


def body_of(event: object, *, context: dict[str, Any] | None = None, id: str = "1") -> bytes:  # noqa: A002
    around = Ambient(context or {})
    return encoded(content_of(event), event_id=id, source="shop", now=NOW, subject=subject_of(event), around=around)


def there_and_back(event: object) -> Any:
    return typed(decoded(body_of(event)), declared(type(event)))


@pytest.fixture(name="sdk", scope="module")
def _sdk() -> Any:
    """Give the official SDK's reader of JSON, as somebody who did not write this codec."""
    name = "cloudevents.core.formats.json"
    # It imports ctypes, which takes some builds of Python down with it.
    if subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode:
        pytest.skip("the package cloudevents cannot be imported")
    return importlib.import_module(name).JSONFormat()


# --- by name ------------------------------------------------------------------------------------------


@given(names, st.dictionaries(texts, values, max_size=4), subjects)
@example("a.b", {"zero": -0.0, "least": 5e-324, "most": 2**63 - 1, "": {}, "𝄞": ["\x7f"]}, Subject("a/b", "%"))
def test_an_event_by_name_comes_back_exactly(name: str, arguments: dict[str, Any], subject: Subject | None) -> None:
    event = Event(name, arguments, subject=subject)

    back = generic(decoded(body_of(event, id="the id")))

    assert repr(back) == repr(Event(name, arguments, subject=subject, id="the id"))


@given(
    names, st.dictionaries(texts, values, max_size=3), subjects, st.none() | st.dictionaries(texts, values, max_size=2)
)
def test_a_body_is_a_cloudevents_1_0_document(
    name: str, arguments: dict[str, Any], subject: Subject | None, context: dict[str, Any] | None
) -> None:
    # https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and formats/json-format.md
    body = body_of(Event(name, arguments, subject=subject), context=context)

    document = json.loads(body)

    assert all(document[required] for required in ("id", "source", "specversion", "type"))
    assert document["specversion"] == "1.0"
    assert document["datacontenttype"] == "application/json"
    assert all(re.fullmatch("[a-z0-9]{1,20}", attribute) for attribute in document)
    assert all(isinstance(value, str) and value for attribute, value in document.items() if attribute != "data")
    assert dt.datetime.fromisoformat(document["time"]) == dt.datetime.fromtimestamp(NOW, dt.UTC)
    assert document["time"].endswith("Z")
    assert document["data"] == arguments
    assert document.get("subject") == (str(subject) if subject else None)


@given(
    content=st.builds(Content, names, st.just(b'{"a":1}'), st.none() | st.integers(1, 2**31 - 1)),
    event_id=texts.filter(bool),
    now=st.floats(-1e9, 1e11) | st.integers(0, 2**33) | st.integers(0, 2**43).map(lambda each: each / 1000),
    subject=subjects,
    around=st.builds(Ambient, st.dictionaries(texts, values, max_size=2), st.none() | texts, st.none() | texts),
)
@example(Content("a.b", b"{}", None), "1", 0.999_999_5, None, Ambient())
@example(Content("a.b", b"{}", None), "1", 1_767_225_599.999_999_9, None, Ambient())
@example(Content("a.b", b"{}", None), "1", -0.000_000_4, None, Ambient())
def test_a_body_is_what_encoding_a_document_gives(
    content: Content, event_id: str, now: float, subject: Subject | None, around: Ambient
) -> None:
    document = Document(
        id=event_id,
        source="shop",
        type=content.name,
        specversion="1.0",
        time=dt.datetime.fromtimestamp(now, dt.UTC).isoformat().replace("+00:00", "Z"),
        subject=None if subject is None else str(subject),
        datacontenttype="application/json",
        dataversion=content.version,
        correlationid=around.correlation,
        causationid=around.causation,
        relevocontext=msgspec.json.encode(around.context).decode() if around.context else None,
        data=msgspec.Raw(content.data),
    )

    body = encoded(content, event_id=event_id, source="shop", now=now, subject=subject, around=around)

    assert body == msgspec.json.encode(document)


@pytest.mark.lengthy("tries many cases")
@given(names, st.dictionaries(texts, values, max_size=3), subjects)
def test_others_read_a_body_as_the_same_event(
    sdk: Any, name: str, arguments: dict[str, Any], subject: Subject | None
) -> None:
    read = sdk.read(None, body_of(Event(name, arguments, subject=subject)))

    assert (read.get_id(), read.get_source(), read.get_type(), read.get_specversion()) == ("1", "shop", name, "1.0")
    assert read.get_time() == dt.datetime.fromtimestamp(NOW, dt.UTC)
    assert read.get_data() == arguments
    assert read.get_subject() == (str(subject) if subject else None)


def test_others_accept_the_body_of_a_declared_class(sdk: Any) -> None:
    read = sdk.read(None, body_of(Created(image_id=7)))

    assert read.get_extension("dataversion") == 3
    assert read.get_subject() == "image/7"


@pytest.mark.parametrize(
    "source", ["shop", "/shop/web", "https://example.com/shop?a=b#c", "urn:uuid:6e8bc430", "a" * 255]
)
def test_a_source_is_a_reference(source: str) -> None:
    assert checked_source(source) == source


@pytest.mark.parametrize("source", ["", "my shop", "a\n", "ä", "a" * 256, None, 3, "\0", "a<b"])
def test_what_is_no_reference_is_no_source(source: object) -> None:
    with pytest.raises(ConfigurationError, match=r"source: expected the application's name as text without spaces"):
        checked_source(source)


def test_a_body_may_be_a_mebibyte_and_no_byte_more() -> None:
    room = MAX_BODY - len(body_of(Event("a.b", {"text": ""})))

    assert len(body_of(Event("a.b", {"text": "x" * room}))) == MAX_BODY
    with pytest.raises(EncodeError, match=r"1,048,577 bytes; the limit is 1,048,576; store the data"):
        body_of(Event("a.b", {"text": "x" * (room + 1)}))


def test_the_context_travels_as_text() -> None:
    document = decoded(body_of(Event("a.b"), context={"base_url": "https://example.com", "user": 7}))

    assert context_of(document) == {"base_url": "https://example.com", "user": 7}


@pytest.mark.parametrize("context", ["", "[", "[]", "1", "[" * 5000 + "]" * 5000])
def test_a_foreign_context_that_is_none_is_empty(context: str) -> None:
    document = decoded(
        json.dumps({"id": "1", "source": "s", "type": "t", "specversion": "1.0", "relevocontext": context}).encode()
    )

    assert context_of(document) == {}


def test_a_context_without_a_faithful_form_is_refused() -> None:
    with pytest.raises(EncodeError, match=r"context.user: object is not JSON"):
        body_of(Event("a.b"), context={"user": object()})


@pytest.mark.parametrize("subject", [Subject("image", "\ud800"), Subject("im\0age", "7")])
def test_a_subject_without_a_faithful_form_is_refused(subject: Subject) -> None:
    with pytest.raises(EncodeError, match=r"subject\.(id|type): holds"):
        body_of(Event("a.b", subject=subject))


# --- declared classes ---------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Text(str):
    __slots__ = ()


@attrs.frozen
class Point:
    x: float
    y: float | None = None


@dataclasses.dataclass(frozen=True)
class Line:
    start: Point
    ends: tuple[Point, ...]


@event("image.created", version=3, subject="image_id", of="image")
@attrs.frozen
class Created:
    image_id: int
    size: str = "small"


@event("rich.one")
@attrs.frozen
class Rich:
    text: str
    number: int
    real: float
    flag: bool
    moment: dt.datetime
    day: dt.date
    hour: dt.time
    span: dt.timedelta
    key: uuid.UUID
    price: decimal.Decimal
    raw: bytes
    colour: Colour
    point: Point
    line: Line
    maybe: Point | None
    union: int | str | None
    words: tuple[str, ...]
    points: list[Point]
    by_name: dict[str, Point]
    by_number: dict[int, str]
    chosen: frozenset[int]


@event("rich.two")
@dataclasses.dataclass(frozen=True)
class RichData:
    at: dt.datetime | None
    line: Line
    prices: list[decimal.Decimal]
    colours: dict[str, Colour]


integers = st.integers(-(2**63), 2**63 - 1)
reals = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(
    timezones=st.none() | st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
)
prices = st.decimals(allow_nan=False, allow_infinity=False)
points = st.builds(Point, reals, st.none() | reals)
lines = st.builds(Line, points, st.lists(points, max_size=2).map(tuple))
colours = st.sampled_from(Colour)
rich = st.builds(
    Rich,
    text=texts,
    number=integers,
    real=reals,
    flag=st.booleans(),
    moment=moments,
    day=st.dates(),
    hour=st.times(),
    span=st.timedeltas(),
    key=st.uuids(),
    price=prices,
    raw=st.binary(),
    colour=colours,
    point=points,
    line=lines,
    maybe=st.none() | points,
    union=integers | texts | st.none(),
    words=st.lists(texts, max_size=2).map(tuple),
    points=st.lists(points, max_size=2),
    by_name=st.dictionaries(texts, points, max_size=2),
    by_number=st.dictionaries(integers, texts, max_size=2),
    chosen=st.frozensets(integers, max_size=3),
)


@given(rich)
def test_an_attrs_class_of_rich_types_comes_back_exactly(event: Rich) -> None:
    back = there_and_back(event)

    assert back == event
    assert type(back.price) is decimal.Decimal
    assert str(back.price) == str(event.price)
    assert repr(back.real) == repr(event.real)
    assert back.moment.utcoffset() == event.moment.utcoffset()


@given(
    st.builds(
        RichData, moments | st.none(), lines, st.lists(prices, max_size=2), st.dictionaries(texts, colours, max_size=2)
    )
)
def test_a_dataclass_of_rich_types_comes_back_exactly(event: RichData) -> None:
    assert there_and_back(event) == event


def test_subclasses_of_simple_types_come_back_as_what_they_hold() -> None:
    back = there_and_back(Created(image_id=7, size=Text("large")))

    assert back == Created(7, "large")
    assert type(back.size) is str


class FrozenTime(dt.datetime):
    """Replaces the class in modules, as freezegun does."""


@event("time.frozen")
@attrs.frozen
class TimeFrozen:
    at: dt.datetime
    on: list[dt.date]


def test_a_time_can_be_encoded_where_a_test_replaced_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (each for name, each in sys.modules.items() if name.startswith("relevo.")):
        for name in [name for name, value in vars(module).items() if value is dt.datetime]:
            monkeypatch.setattr(module, name, FrozenTime)

    body = encoded(
        Content("a.b", b"{}", None), event_id="1", source="shop", now=1_893_456_000.5, subject=None, around=Ambient()
    )

    assert decoded(body).time == "2030-01-01T00:00:00.500000Z"


@pytest.mark.parametrize("zone", [None, dt.UTC, dt.timezone(dt.timedelta(hours=-2))])
def test_subclasses_of_times_are_sent_as_times(zone: dt.tzinfo | None) -> None:
    class FrozenDate(dt.date):
        pass

    frozen, plain = FrozenTime(2030, 1, 2, 3, 4, 5, 6, zone), dt.datetime(2030, 1, 2, 3, 4, 5, 6, zone)

    data = content_of(TimeFrozen(frozen, [FrozenDate(2030, 1, 2)])).data

    assert data == content_of(TimeFrozen(plain, [dt.date(2030, 1, 2)])).data


@attrs.frozen
class _Base:
    anything: Any


@event("any.one")
@attrs.frozen
class Anything(_Base):
    text: str = ""
    number: int = 0
    real: float = 0.0


@pytest.mark.parametrize(
    "fields, path, why",
    [
        ({"anything": object()}, "$.anything", "object has no form in JSON"),
        ({"anything": [{"a": object()}]}, "$.anything", "object has no form in JSON"),
        ({"anything": [float("nan")]}, "$.anything[0]", "nan is not JSON"),
        ({"anything": {"a": 2**64}}, "$.anything.a", "does not fit 64 bits"),
        ({"anything": 1, "text": "\ud800"}, "$.text", "lone surrogate"),
        ({"anything": 1, "text": "\0"}, "$.text", "NUL"),
        ({"anything": 1, "text": 3}, "$", "its own class rejects the data: Expected `str`, got `int` - at `$.text`"),
        ({"anything": 1, "number": "3"}, "$", "Expected `int`, got `str`"),
        ({"anything": 1, "number": 1.5}, "$", "Expected `int`, got `float`"),
    ],
)
def test_what_a_listener_could_not_read_is_refused_at_the_dispatch(fields: dict[str, Any], path: str, why: str) -> None:
    with pytest.raises(EncodeError) as caught:
        content_of(Anything(**fields))

    assert why in str(caught.value)
    assert caught.value.path == path


def test_what_contains_itself_is_refused() -> None:
    around: list[Any] = []
    around.append(around)

    with pytest.raises(EncodeError, match=r"\$.anything"):
        content_of(Anything(around))


def test_a_newer_field_of_another_release_is_ignored_and_a_missing_one_has_its_default() -> None:
    document = decoded(b'{"id":"1","source":"s","type":"t","specversion":"1.0","data":{"image_id":7,"newer":[1]}}')

    assert typed(document, declared(Created)) == Created(7, "small")


# --- the subject of a declared class ------------------------------------------------------------------


@event("image.moved", subject="image", of="image/raw")
@attrs.frozen
class Moved:
    image: uuid.UUID | None
    to: str = ""


@event("image.coloured", subject="colour", of="colour")
@attrs.frozen
class Coloured:
    colour: Any = 0


@given(st.uuids())
def test_the_subject_of_a_declared_class_is_its_field(key: uuid.UUID) -> None:
    document = decoded(body_of(Moved(key)))

    assert document.subject == f"image%2Fraw/{key}"
    assert generic(document).subject == Subject("image/raw", str(key))


def test_a_field_without_a_value_is_no_subject() -> None:
    assert decoded(body_of(Moved(None))).subject is None


@pytest.mark.parametrize("value", [1.5, True, [1], {"a": 1}])
def test_what_cannot_be_an_id_is_no_subject(value: object) -> None:
    with pytest.raises(EncodeError, match=r"\$.colour: the id of a subject must be text or an integer"):
        body_of(Coloured(value))


@given(st.integers(-(2**63), 2**63 - 1))
def test_the_field_that_an_event_by_name_lacks_is_filled_from_its_subject(image_id: int) -> None:
    event = Event("image.created", {"size": "large"}, subject=Subject("image", str(image_id)))

    assert typed(decoded(body_of(event)), declared(Created)) == Created(image_id, "large")
    assert typed_from(event, declared(Created)) == Created(image_id, "large")


def test_a_field_with_a_default_is_filled_too() -> None:
    event = Event("image.coloured", subject=Subject("colour", "red"))

    assert typed(decoded(body_of(event)), declared(Coloured)) == Coloured("red")


@given(st.uuids())
def test_a_rich_field_is_filled_too(key: uuid.UUID) -> None:
    event = Event("image.moved", subject=Subject("image/raw", str(key)))

    assert typed(decoded(body_of(event)), declared(Moved)) == Moved(key)


def test_what_the_event_says_itself_is_not_overwritten() -> None:
    event = Event("image.created", {"image_id": 8}, subject=Subject("image", "7"))

    assert typed(decoded(body_of(event)), declared(Created)) == Created(8)


@pytest.mark.parametrize("subject", [Subject("feed", "7"), Subject("image", "seven"), Subject("image", "7.5")])
def test_a_subject_that_does_not_fit_fills_nothing(subject: Subject) -> None:
    event = Event("image.created", subject=subject)

    with pytest.raises(DecodeError, match=r"the data of 'image.created' does not fit Created"):
        typed(decoded(body_of(event)), declared(Created))


def test_a_subject_that_does_not_fit_is_told_by_the_field_that_it_would_fill() -> None:
    event = Event("image.created", subject=Subject("image", "seven"))

    with pytest.raises(
        DecodeError, match=r"Expected `int`, got `str` - at `\$.image_id`, from the subject image/seven"
    ):
        typed_from(event, declared(Created))


def test_the_other_fields_are_still_read_strictly() -> None:
    event = Event("image.created", {"size": 3}, subject=Subject("image", "7"))

    with pytest.raises(DecodeError, match="Expected `str`, got `int`"):
        typed(decoded(body_of(event)), declared(Created))


def test_a_declared_event_is_also_an_event_by_name() -> None:
    assert generic_from(Created(7)) == Event(
        "image.created", {"image_id": 7, "size": "small"}, subject=Subject("image", "7")
    )


# --- what comes from outside ------------------------------------------------------------------------------


def foreign(**attributes: Any) -> bytes:
    return json.dumps({"id": "1", "source": "s", "type": "t", "specversion": "1.0", **attributes}).encode()


@pytest.mark.parametrize(
    "body, why",
    [
        (b"", "not a CloudEvents document"),
        (b"{", "not a CloudEvents document"),
        (b"[]", "not a CloudEvents document"),
        (b"\xff\xfe", "not a CloudEvents document"),
        (b'{"id":"1"}', "missing required field"),
        (foreign(id=3), "not a CloudEvents document"),
        (foreign(specversion="0.3"), "unknown CloudEvents version '0.3'"),
        (foreign(id=""), "an empty id, source or type"),
        (foreign(source=""), "an empty id, source or type"),
        (foreign(type=""), "an empty id, source or type"),
        (foreign(id="5\nforged"), r"its id holds a control character: '5\\nforged'"),
        (foreign(source="s\x1b"), "its source holds a control character"),
        (foreign(type="t\x7f"), "its type holds a control character"),
        (foreign(id="x" * 256), "its id has 256 characters; at most 255 are allowed"),
        (foreign(data_base64="Y"), "data_base64 .* is not Base64"),
        (foreign(data_base64=5), "data_base64 .* is not Base64"),
        (foreign(data_base64="YQ==", data=5), "both data and data_base64"),
        (foreign(subject=5), "not a CloudEvents document"),
        (b"[" * 100_000, "not a CloudEvents document"),
    ],
    ids=range(19),
)
def test_what_is_no_cloudevent_is_told(body: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decoded(body)


@given(st.binary() | texts.map(str.encode) | values.map(lambda value: json.dumps(value).encode()))
def test_whatever_bytes_come_are_an_event_or_a_decode_error(body: bytes) -> None:
    with suppress(DecodeError):
        generic(decoded(body))


def test_foreign_attributes_and_names_are_let_in() -> None:
    event = generic(
        decoded(foreign(type="com.example/ä #1", comexampleextension=3, subject="a/b/c", time=None, data=None))
    )

    assert event.name == "com.example/ä #1"
    assert event.subject is None
    assert event.arguments == {}


@pytest.mark.parametrize("data", [[], [{"a": 1}], 1, 0, -1.5, "text", "", True, False, "{"])
def test_data_that_is_no_object_is_the_argument_data(data: object) -> None:
    event = generic(decoded(foreign(data=data)))

    assert event.arguments == {"data": data}
    assert type(event["data"]) is type(data)


@given(st.binary())
def test_binary_data_is_the_argument_data_as_bytes(data: bytes) -> None:
    document = decoded(foreign(data_base64=base64.b64encode(data).decode(), datacontenttype="image/png"))

    assert generic(document).arguments == {"data": data}
    assert typed(document, declared(Uploaded)) == Uploaded(data)


@pytest.mark.parametrize("content_type", ["application/json", "text/JSON", "application/vnd.a+json; charset=utf-8"])
def test_binary_data_that_is_json_as_its_content_type_says_is_read_as_json(content_type: str) -> None:
    document = decoded(foreign(data_base64="eyJhIjoxfQ==", datacontenttype=content_type))  # {"a":1}

    assert generic(document).arguments == {"a": 1}


@pytest.mark.parametrize("data", ["{", "\xff", '{"a":1} x'])
def test_binary_data_that_is_no_json_stays_binary_whatever_its_content_type_says(data: str) -> None:
    raw = data.encode("latin-1")

    document = decoded(foreign(data_base64=base64.b64encode(raw).decode(), datacontenttype="application/json"))

    assert generic(document).arguments == {"data": raw}


@pytest.mark.parametrize("members", [{"data": None}, {"data_base64": None}, {"data": None, "data_base64": None}])
def test_data_that_is_null_is_no_data(members: Mapping[str, None]) -> None:
    document = decoded(foreign(**members))

    assert generic(document).arguments == {}
    with pytest.raises(DecodeError, match="does not fit Uploaded"):
        typed(document, declared(Uploaded))


@event("file.uploaded")
@attrs.frozen
class Uploaded:
    data: bytes


@event("file.measured")
@attrs.frozen
class Measured:
    width: int = 0


@pytest.mark.parametrize(
    "members, got",
    [({"data": [1]}, "list"), ({"data": "text"}, "str"), ({"data": 5}, "int"), ({"data_base64": "YQ=="}, "str")],
)
def test_a_class_without_a_field_for_other_data_does_not_ignore_it(members: Mapping[str, Any], got: str) -> None:
    with pytest.raises(
        DecodeError, match=f"does not fit Measured: expected an object, or a field data for other data; got {got}"
    ):
        typed(decoded(foreign(**members)), declared(Measured))


@pytest.mark.parametrize(
    "name, value",
    [
        ("dataversion", "v2"),
        ("dataversion", 1.5),
        ("correlationid", 5),
        ("causationid", [1]),
        ("traceparent", {}),
        ("relevocontext", True),
        ("relevocontext", {"a": 1}),
    ],
)
def test_an_extension_of_another_program_that_has_the_name_of_relevos_is_ignored(name: str, value: object) -> None:
    document = decoded(foreign(**{name: value}, data={"a": 1}))

    assert getattr(document, name) is None
    assert generic(document).arguments == {"a": 1}
    assert context_of(document) == {}


def test_a_version_of_the_data_may_be_text() -> None:
    assert decoded(foreign(dataversion="2")).dataversion == 2


def test_all_attributes_can_be_read() -> None:
    body = foreign(subject="a/b/c", comexampleextension=3, time=None, flag=True, data={"a": 1}, data_base64=None)

    assert attributes_of(body) == {
        "id": "1",
        "source": "s",
        "type": "t",
        "specversion": "1.0",
        "subject": "a/b/c",
        "comexampleextension": 3,
        "flag": True,
    }


def test_data_is_not_looked_at_before_it_is_asked_for() -> None:
    document = decoded(foreign(data=0).replace(b": 0", b": [1e999]"))

    with pytest.raises(DecodeError):
        generic(document)
    assert isinstance(context_of(document), Mapping)


def test_a_subject_field_is_filled_although_its_name_stands_within_another() -> None:
    @event("picture.measured", subject="id", of="image")
    @attrs.frozen
    class Measured:
        id: int
        width: int
        of: Mapping[str, int]

    arguments = {"width": 3, "of": {"id": 1}}
    body = body_of(Event("picture.measured", arguments, subject=Subject("image", "7")))

    assert typed(decoded(body), declared(Measured)) == Measured(id=7, width=3, of={"id": 1})
