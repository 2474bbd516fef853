"""The schemas of declared events: true of what is sent, the same every time, and fit for others."""

from __future__ import annotations

import json
import random
import re
from typing import Annotated, Any

import attrs
import jsonschema
import msgspec
import pydantic
import pytest
from hypothesis import given

import relevo
from relevo import Call, Event, Routes
from relevo._event.codec import content_of, encoded, subject_of
from relevo._event.context import Ambient
from relevo._event.event import EventType, declared
from relevo._listener.listener import ListenerTable
from relevo._schema.asyncapi import asyncapi
from relevo._schema.schema import OWN, schema_of, schemas

from .test_kinds import (
    AliasAttrs,
    AliasModel,
    AliasStruct,
    Node,
    RichAttrs,
    RichData,
    RichModel,
    RichStruct,
    every_kind,
)

Validator = jsonschema.Draft202012Validator


@relevo.event("image.created", version=3, subject="image_id", of="image", upcasters={2: dict})
@attrs.frozen
class Created:
    """An image was stored."""

    image_id: int
    at: tuple[int, str]
    size: Annotated[str, msgspec.Meta(max_length=9)] = "small"


@relevo.event("image.moved")
@attrs.frozen
class Moved:
    image_id: int
    before: Moved | None = None


@relevo.event("image/rated:now")
class Rated(msgspec.Struct, tag=True, rename="camel", forbid_unknown_fields=True):
    image_stars: int


@relevo.event("mail.sent")
class Sent(pydantic.BaseModel):
    to: list[Address]


class Address(pydantic.BaseModel):
    name: str = pydantic.Field(alias="Name", default="")


SHOP: list[EventType] = [declared(cls) for cls in (Created, Moved, Rated, Sent)]
EVERY = [*SHOP, *(declared(cls) for cls in (RichAttrs, RichData, RichStruct, RichModel, AliasAttrs, AliasStruct))]
EVERY += [declared(AliasModel), declared(Node)]


def fits(data: object, kind: EventType) -> bool:
    return bool(Validator(schema_of(kind)).is_valid(data))


# --- JSON Schema --------------------------------------------------------------------------------------------


@given(every_kind)
def test_what_is_sent_fits_the_schema(event: Any) -> None:
    assert fits(json.loads(content_of(event).data), declared(type(event)))


@pytest.mark.parametrize(
    "event",
    [
        Created(7, (1, "a")),
        Moved(7, Moved(6)),
        Rated(3),
        Sent.model_validate({"to": [{"Name": "a"}]}),
        AliasAttrs(imageId=7),
        AliasStruct(7),
        AliasModel.model_validate({"imageId": 7, "thePoint": {"L": 1}}),
        Node.model_validate({"n": 1, "inner": {"n": 2}}),
    ],
)
def test_so_it_does_with_names_of_its_own_tags_and_classes_that_hold_themselves(event: Any) -> None:
    assert fits(json.loads(content_of(event).data), declared(type(event)))


@pytest.mark.parametrize(
    "kind, data",
    [
        (Created, {}),
        (Created, {"image_id": "7", "at": [1, "a"]}),
        (Created, {"image_id": 7, "at": [1]}),
        (Created, {"image_id": 7, "at": ["a", 1]}),
        (Created, {"image_id": 7, "at": [1, "a"], "size": "enormously"}),
        (Moved, {"image_id": 7, "before": {"image_id": "6"}}),
        (Rated, {"image_stars": 3}),
        (Rated, {"imageStars": 3, "type": "Rated"}),
        (Sent, {"to": [{"Name": 3}]}),
    ],
)
def test_what_a_class_does_not_read_does_not_fit_its_schema(kind: type, data: object) -> None:
    assert not fits(data, declared(kind))


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: str(kind.name))
def test_a_schema_is_one_of_2020_12_and_says_what_it_is_of(kind: EventType) -> None:
    schema = schema_of(kind)

    Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:relevo:event:{kind.name}:{kind.version}"
    assert schema["title"] == schema[OWN]["event"] == kind.name
    assert set(schema["properties"]) == set(kind.fields.values())
    assert schema["type"] == "object"


def test_version_subject_and_upcasters_stand_in_it() -> None:
    schema = schema_of(declared(Created))

    assert schema[OWN] == {
        "event": "image.created",
        "version": 3,
        "upcasts": [2],
        "subject": {"field": "image_id", "type": "image"},
    }
    assert schema["description"] == "An image was stored."
    assert schema_of(declared(AliasStruct))[OWN]["subject"] == {"field": "imageId", "type": "image"}


def test_only_what_is_referred_to_is_a_part() -> None:
    assert "$defs" not in schema_of(declared(Created))
    assert list(schema_of(declared(Moved))["$defs"]) == ["Moved"]
    assert list(schema_of(declared(Sent))["$defs"]) == ["Address"]


def test_all_events_are_one_document_in_which_each_stands_by_itself() -> None:
    document = schemas(SHOP, source="shop")

    Validator.check_schema(document)
    assert list(document["$defs"]) == ["image.created", "image.moved", "image/rated:now", "mail.sent"]
    by_id = Validator({**document, "$ref": "urn:relevo:event:image.moved:1"})
    assert by_id.is_valid({"image_id": 7, "before": {"image_id": 6}})
    assert not by_id.is_valid({"image_id": 7, "before": {"image_id": "6"}})


def test_the_order_of_listeners_and_of_fields_makes_no_difference() -> None:
    first = json.dumps(schemas(SHOP, source="shop"), sort_keys=True)
    for _ in range(5):
        again = random.sample(SHOP, len(SHOP))

        assert json.dumps(schemas(again, source="shop"), sort_keys=True) == first

    def made(order: list[str]) -> Any:
        return relevo.event("a.b")(attrs.make_class("Made", dict.fromkeys(order, attrs.field(type=int))))

    assert schema_of(declared(made(["x", "y"]))) == schema_of(declared(made(["y", "x"])))


def test_a_field_that_is_called_like_a_keyword_is_a_field() -> None:
    @relevo.event("odd.named")
    @attrs.frozen
    class Odd:
        required: list[str]
        properties: dict[str, int]
        default: int = 3
        prefixItems: tuple[int, int] = (1, 2)  # noqa: N815 - that is the point

    event = Odd(["b", "a"], {"$ref": 3})
    document = _asyncapi([declared(Odd)])

    assert fits(json.loads(content_of(event).data), declared(Odd))
    assert set(document["components"]["schemas"]["odd.named"]["properties"]) == set(declared(Odd).fields)
    assert _payload(document, "odd.named").is_valid(_document(event))


LIKE_A_SCHEMA = {"required": ["b", "a"], "properties": 3}


@relevo.event("odd.example")
class Odd(msgspec.Struct):
    rules: Annotated[dict[str, Any], msgspec.Meta(examples=[LIKE_A_SCHEMA])]


def test_a_schema_is_the_same_after_it_was_written_and_read() -> None:
    @relevo.event("image.tagged")
    @attrs.frozen
    class Tagged:
        tags: tuple[str, ...] = ()
        sizes: tuple[tuple[int, int], ...] = ((1, 2),)

    made = schema_of(declared(Tagged))

    assert json.loads(json.dumps(made)) == made


def test_an_example_that_looks_like_a_schema_is_an_example() -> None:
    assert schema_of(declared(Odd))["properties"]["rules"]["examples"] == [LIKE_A_SCHEMA]


# --- AsyncAPI -------------------------------------------------------------------------------------------------


@relevo.listener(Created)
def thumbnails(event: Created, call: Call) -> None: ...


@relevo.listener(Created, queue="feed")
def feed(event: Created) -> None: ...


@relevo.listener(Moved, queue="main/feed")
def moved(event: Moved) -> None: ...


@relevo.listener(Rated)
def rated(event: Rated) -> None: ...


@relevo.listener("mail.sent", queue="elsewhere")
def by_name(event: Event) -> None: ...


ROUTES = Routes(
    {
        "image.*": ["main/media", "main/feed"],
        "image/rated:now": ["now", "main/a/queue"],
        "mail.*": "amqp",
    }
)


def _asyncapi(kinds: list[EventType]) -> Any:
    table = ListenerTable()
    table.extend([thumbnails, feed, moved, rated, by_name])
    return asyncapi(kinds, source="shop", version="1.2.3", routes=ROUTES, listeners=tuple(table))


def _document(event: object) -> Any:
    return json.loads(
        encoded(content_of(event), event_id="1", source="shop", now=0.0, subject=subject_of(event), around=Ambient())
    )


def _payload(document: Any, key: str) -> Any:
    """Return a validator of draft 7, on which AsyncAPI builds, whose references lead into *document*."""
    message = document["components"]["messages"][key]
    return jsonschema.Draft7Validator({**document, **message["payload"]})


def test_channels_are_queues_and_operations_are_where_listeners_run() -> None:
    document = _asyncapi(SHOP)

    told = {
        name: sorted(each["$ref"].rpartition("/")[2] for each in operation["messages"])
        for name, operation in document["operations"].items()
    }
    assert told == {
        "send.main.media": ["image.created", "image.moved"],
        "send.main.feed": ["image.created", "image.moved"],
        "send.main.a_queue": ["image_rated_now"],
        "send.amqp.default": ["mail.sent"],
        "receive.main.media": ["image.created"],
        "receive.main.feed": ["image.created", "image.moved"],
    }
    assert document["channels"]["main.media"]["address"] == "media"
    assert document["channels"]["main.a_queue"]["title"] == "main/a/queue"


def test_an_asyncapi_document_has_the_form_of_3_0() -> None:
    # The essentials of https://www.asyncapi.com/docs/reference/specification/v3.0.0, by hand.
    document = _asyncapi(EVERY)

    def found(reference: str) -> Any:
        assert reference.startswith("#/")
        here = document
        for step in reference[2:].split("/"):
            here = here[step]
        return here

    assert document["asyncapi"] == "3.0.0"
    assert document["info"] == {"title": "shop", "version": "1.2.3"}
    for channel in document["channels"].values():
        assert set(channel) <= {"address", "title", "messages"}
        assert all(found(each["$ref"])["name"] for each in channel["messages"].values())
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = found(operation["channel"]["$ref"])
        assert all(found(each["$ref"]) in channel["messages"].values() for each in operation["messages"])
    for kind in ("messages", "schemas"):
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", key) for key in document["components"][kind])
    for message in document["components"]["messages"].values():
        assert re.fullmatch(r"\$message\.payload#/correlationid", message["correlationId"]["location"])
        jsonschema.Draft7Validator.check_schema(message["payload"])
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(schema)
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))
    assert all(found(each) is not None for each in references)
    assert "$defs" not in json.dumps(document)


@pytest.mark.lengthy("tries many cases")
@given(every_kind)
def test_the_body_that_is_sent_fits_the_payload_of_its_message(event: Any) -> None:
    document = _asyncapi(EVERY)

    assert _payload(document, declared(type(event)).name).is_valid(_document(event))


@pytest.mark.parametrize("event", [Created(7, (1, "a")), Moved(7, Moved(6)), Rated(3), Sent(to=[])])
def test_no_other_body_fits_it(event: Any) -> None:
    payload = _payload(_asyncapi(SHOP), re.sub("[/:]", "_", declared(type(event)).name))
    body = _document(event)

    assert payload.is_valid(body)
    for broken in ({"specversion": "0.3"}, {"type": "other"}, {"dataversion": 99}, {"data": {"to": 3}}, {"id": 3}):
        assert not payload.is_valid({**body, **broken})
    del body["data"]
    assert not payload.is_valid(body)


def test_a_list_of_fixed_length_is_one_in_draft_7_too() -> None:
    document = _asyncapi(SHOP)
    payload = _payload(document, "image.created")
    body = _document(Created(7, (1, "a")))
    at = document["components"]["schemas"]["image.created"]["properties"]["at"]

    for wrong in ([1], ["a", 1], [1, "a", 3]):
        assert not payload.is_valid({**body, "data": {**body["data"], "at": wrong}})
    assert (at["items"], at["additionalItems"]) == ([{"type": "integer"}, {"type": "string"}], False)


def test_names_that_would_be_the_same_key_are_told_apart() -> None:
    kinds = [declared(relevo.event(name)(attrs.make_class("Made", []))) for name in ("a/b", "a:b", "CloudEvent")]

    document = _asyncapi(kinds)

    assert {key: each["name"] for key, each in document["components"]["messages"].items()} == {
        "CloudEvent_": "CloudEvent",
        "a_b": "a/b",
        "a_b_": "a:b",
    }


def test_an_event_without_a_route_is_a_message_without_a_channel() -> None:
    document = _asyncapi([declared(Node)])

    assert document["channels"] == document["operations"] == {}
    assert list(document["components"]["messages"]) == ["model.node"]
