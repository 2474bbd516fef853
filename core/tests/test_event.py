from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import pickle
from collections import UserDict
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest

from relevo import DeferredDispatcher, Event, LocalDispatcher, event
from relevo._event.event import EventTypes, declared, name_of
from relevo.errors import ConfigurationError, DuplicateEventError, EncodeError, EventNameError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

if TYPE_CHECKING:
    from decimal import Decimal


class Name(enum.StrEnum):
    DELETED = "image.deleted"


@pytest.mark.parametrize(
    "name", ["image.created", "a", "com.github.pull_request.opened", "a/b:c-d", "A1", "a" * 200, Name.DELETED]
)
def test_an_event_has_a_name(name: str) -> None:
    assert Event(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "image created",
        "image..created",
        ".a",
        "a.",
        "a\n",
        "ä.b",
        "image.*",
        "a" * 201,
        None,
        3,
        b"a",
        "\ud800",
    ],
)
def test_what_is_no_name_is_refused_where_it_is_written(name: Any) -> None:
    with pytest.raises(EventNameError, match=r"write noun.past-participle") as caught:
        Event(name)

    assert len(str(caught.value)) < 300


def test_an_event_by_name_gives_its_arguments() -> None:
    created = Event("image.created", {"image_id": 7})

    assert created["image_id"] == 7
    assert created.get("image_id") == 7
    assert created.get("size", "small") == "small"
    with pytest.raises(KeyError):
        created["size"]


def test_an_event_by_name_tells_whether_it_has_an_argument() -> None:
    created = Event("image.created", {"image_id": None})

    assert "image_id" in created
    assert "path" not in created
    assert 0 not in created


def test_an_event_is_not_several(clock: FakeClock) -> None:
    created: Any = Event("image.created")

    with pytest.raises(TypeError, match="'Event' object is not iterable"):
        list(created)
    for dispatcher in (LocalDispatcher(), DeferredDispatcher(MemoryTransport(clock=clock))):
        with pytest.raises(TypeError, match="'Event' object is not iterable"):
            dispatcher.dispatch_many(created)


@pytest.mark.parametrize("arguments", [None, [("a", 1)], "a", 3, {"a"}])
def test_arguments_that_are_no_mapping_are_refused_at_once(arguments: Any) -> None:
    with pytest.raises(EncodeError, match="expected a mapping"):
        Event("image.created", arguments)


def test_any_mapping_can_hold_arguments() -> None:
    assert Event("image.created", UserDict(a=1))["a"] == 1


def test_an_event_is_a_value() -> None:
    one, same = Event("image.created", {"a": 1}), Event("image.created", {"a": 1})

    assert one == same
    assert hash(one) == hash(same)
    assert one != Event("image.created", {"a": 2})
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.name = "other"  # type: ignore[misc]


@event("image.created", version=2, subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int
    size: str = "small"


@event("image.rated")
@dataclasses.dataclass(frozen=True)
class ImageRated:
    stars: int
    scale: ClassVar[int] = 5


def test_a_declared_class_says_what_it_is() -> None:
    created, rated = declared(ImageCreated), declared(ImageRated)

    assert (created.name, created.version, created.subject, created.of) == ("image.created", 2, "image_id", "image")
    assert tuple(created.fields) == ("image_id", "size")
    assert (rated.name, rated.version, rated.subject, tuple(rated.fields)) == ("image.rated", 1, None, ("stars",))


def test_the_subject_may_be_an_inherited_field() -> None:
    @attrs.frozen
    class Base:
        image_id: int

    @event("image.moved", subject="image_id", of="image")
    @attrs.frozen
    class Moved(Base):
        to: str

    assert tuple(declared(Moved).fields) == ("image_id", "to")


def test_a_subclass_is_not_an_event_by_inheritance() -> None:
    @attrs.frozen
    class Special(ImageCreated):
        pass

    with pytest.raises(ConfigurationError, match=r"Special is not an event; put @relevo.event"):
        declared(Special)


@pytest.mark.parametrize("thing", [type("Plain", (), {}), type("Child", (ImageCreated,), {}), lambda: None, 3])
def test_only_a_class_whose_fields_are_known_can_be_declared(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"above @attrs.frozen, @dataclass, a Struct or a model"):
        event("image.created")(thing)


def test_the_order_of_decorators_that_would_lose_the_mark_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"above @attrs.frozen"):

        @attrs.frozen
        @event("image.created")
        class Wrong:
            image_id: int


@pytest.mark.parametrize("make", [attrs.frozen, dataclasses.dataclass])
def test_a_field_that_would_not_travel_is_refused(make: Any) -> None:
    class Hiding:
        _secret: int

    with pytest.raises(ConfigurationError, match='"_secret"; fields with a leading underscore are not sent'):
        event("image.created")(make(Hiding))


@pytest.mark.parametrize(
    "how, why",
    [
        ({"version": 0}, "expected an integer from 1; got"),
        ({"version": True}, "expected an integer from 1; got"),
        ({"version": "1"}, "expected an integer from 1; got"),
        ({"version": 2**31}, "expected an integer from 1; got"),
        ({"subject": "image_id"}, "needs both subject="),
        ({"of": "image"}, "needs both subject="),
        ({"subject": "image_ids", "of": "image"}, 'no field "image_ids".*did you mean "image_id"'),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(how: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):

        @event("image.created", **how)
        @attrs.frozen
        class Created:
            image_id: int


def test_a_class_is_registered_once_under_its_name() -> None:
    @event("image.created")
    @attrs.frozen
    class Other:
        pass

    types = EventTypes()

    assert types.add(ImageCreated) is types.add(ImageCreated)
    assert types.get("image.created") is declared(ImageCreated)
    assert types.get("image.deleted") is None
    with pytest.raises(DuplicateEventError, match=r"declared twice.*ImageCreated.*Other"):
        types.add(Other)


@attrs.frozen
class _Ambiguous:
    at: dt.datetime | str


@attrs.frozen
class _Unresolved:
    price: Decimal


@pytest.mark.parametrize(
    "cls, why",
    [
        (_Ambiguous, "JSON: the field at: "),
        (_Ambiguous, "datetime | str"),
        (_Unresolved, "JSON: name 'Decimal' is not defined"),
    ],
)
def test_a_class_that_cannot_be_read_back_is_refused_when_it_is_registered(cls: type, why: str) -> None:
    event("image.created")(cls)

    with pytest.raises(ConfigurationError, match="cannot be read back from JSON") as caught:
        EventTypes().add(cls)

    assert why in str(caught.value)


def test_the_name_of_an_event_is_known() -> None:
    assert name_of(Event("a.b")) == "a.b"
    assert name_of(ImageRated(3)) == "image.rated"


@pytest.mark.parametrize(
    "thing, why",
    [
        ("image.created", "dispatch relevo.Event"),
        (ImageCreated, "dispatch an instance of it"),
        (None, r"None is not an event; dispatch a name, relevo.Event\("),
        ({"a": 1}, "{'a': 1} is not an event; dispatch a name"),
    ],
)
def test_what_is_no_event_is_told_how_to_become_one(thing: object, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        name_of(thing)


def test_a_subclass_with_an_init_of_its_own_calls_the_one_above() -> None:
    @attrs.frozen(init=False)
    class Own(Event):  # type: ignore[override]
        tenant: str = attrs.field(kw_only=True)

        def __init__(self, tenant: str):
            super().__init__("order.made", {"number": 3})
            object.__setattr__(self, "tenant", tenant)

    made = Own("north")

    assert (made.name, made["number"], made.tenant) == ("order.made", 3, "north")
