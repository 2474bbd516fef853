"""Data of earlier versions is brought to the one that a listener knows, step by step, and only for it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

import relevo
from relevo import Ack, DeadLetter, Delivery, Event, ListenerTable, LocalDispatcher, Reason
from relevo._event.codec import content_of, decoded, encoded, typed
from relevo._event.context import Ambient
from relevo._event.event import Upcaster, declared
from relevo._worker.caller import Caller
from relevo.errors import ConfigurationError, DecodeError

Make = Callable[..., Delivery]
Listen = Callable[..., None]
MakeCaller = Callable[..., Caller]


def from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Make the size in pixels of a width and a height."""
    return {"image_id": data["id"], "size": [data["width"], data["height"]]}


def from_2(data: dict[str, Any]) -> dict[str, Any]:
    data["at"] = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return data


UPCASTERS = {1: from_1, 2: from_2}


@relevo.event("image.created", version=3, subject="image_id", of="image", upcasters=UPCASTERS)
@attrs.frozen
class Created:
    image_id: int
    size: tuple[int, int]
    at: dt.datetime


@relevo.event("image.created", version=3, upcasters=UPCASTERS)
class CreatedStruct(msgspec.Struct, frozen=True):
    image_id: int
    size: tuple[int, int]
    at: dt.datetime


@relevo.event("image.created", version=3, upcasters=UPCASTERS)
class CreatedModel(pydantic.BaseModel):
    image_id: int
    size: tuple[int, int]
    at: dt.datetime


AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
VERSIONS: dict[int | None, dict[str, Any]] = {
    1: {"id": 7, "width": 3, "height": 4},
    2: {"image_id": 7, "size": [3, 4]},
    3: {"image_id": 7, "size": [3, 4], "at": "2026-01-01T00:00:00Z"},
    None: {"image_id": 7, "size": [3, 4], "at": "2026-01-01T00:00:00Z"},
}


def body(data: object, version: int | None, **attributes: Any) -> bytes:
    document = {"id": "1", "source": "s", "type": "image.created", "specversion": "1.0", "data": data, **attributes}
    return json.dumps(document if version is None else {**document, "dataversion": version}).encode()


@pytest.mark.parametrize("cls", [Created, CreatedStruct, CreatedModel])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_class_reads_every_version_that_it_has_an_upcaster_for(cls: Any, version: int | None) -> None:
    document = decoded(body(VERSIONS[version], version))

    assert typed(document, declared(cls)) == cls(image_id=7, size=(3, 4), at=AT)


def test_what_was_sent_as_the_present_version_is_not_upcast() -> None:
    event = Created(7, (3, 4), AT)
    sent = encoded(content_of(event), event_id="1", source="s", now=0.0, subject=None, around=Ambient())

    assert decoded(sent).dataversion == 3
    assert typed(decoded(sent), declared(Created)) == event


def test_data_is_upcast_anew_for_every_listener() -> None:
    document = decoded(body(VERSIONS[2], 2))

    assert typed(document, declared(Created)) == typed(document, declared(Created))
    assert document == decoded(body(VERSIONS[2], 2))


def test_a_subject_field_that_is_lacking_after_it_is_filled() -> None:
    @relevo.event("image.created", version=2, subject="image_id", of="image", upcasters={1: lambda _: {"size": 3}})
    @attrs.frozen
    class Sized:
        image_id: int
        size: int

    document = decoded(body({"width": 3}, 1, subject="image/7"))

    assert typed(document, declared(Sized)) == Sized(7, 3)


def test_the_upcasters_may_begin_at_any_version() -> None:
    @relevo.event("image.created", version=3, upcasters={2: from_2})
    @attrs.frozen
    class Late:
        image_id: int
        at: dt.datetime

    assert typed(decoded(body(VERSIONS[2], 2)), declared(Late)) == Late(7, AT)
    for version in (1, 0, -(2**31)):
        with pytest.raises(
            DecodeError, match=rf"has version {version}; the oldest upcaster of .*Late is for version 2"
        ):
            typed(decoded(body(VERSIONS[1], version)), declared(Late))


def test_a_class_without_upcasters_reads_earlier_data_as_it_is() -> None:
    @relevo.event("image.created", version=3)
    @attrs.frozen
    class Plain:
        image_id: int
        note: str = "none"

    assert typed(decoded(body({"image_id": 7}, 1)), declared(Plain)) == Plain(7)


class Stateful:
    def __call__(self, data: dict[str, Any]) -> Any:
        return None


def raising(_: object) -> Any:
    raise ValueError("no height")


def looping(data: dict[str, Any]) -> dict[str, Any]:
    data["self"] = data
    return data


@pytest.mark.parametrize(
    "upcaster, why",
    [
        (lambda data: None, r"<lambda>, failed: .*Expected `object`, got `null`"),
        (list, r"list, failed: .*Expected `object`, got `array`"),
        (lambda data: data.pop("missing"), r"<lambda>, failed: KeyError\('missing'\)"),
        (lambda data: {"at": object()}, r"failed: TypeError.*object"),
        (lambda data: {3: 4, "a": {object(): 1}}, r"failed: "),
        (Stateful(), r"Stateful.*, failed: .*Expected `object`, got `null`"),
        (raising, r"raising, failed: ValueError\('no height'\)"),
        (looping, r"looping, failed: RecursionError"),
    ],
)
def test_an_upcaster_that_fails_is_named(upcaster: Any, why: str) -> None:
    @relevo.event("image.created", version=2, upcasters={1: upcaster})
    @attrs.frozen
    class Broken:
        image_id: int = 0

    with pytest.raises(DecodeError, match=r"'image.created' has version 1; its upcaster from 1, .*" + why):
        typed(decoded(body({"a": 1}, 1)), declared(Broken))


def test_the_step_that_fails_is_the_one_that_is_named() -> None:
    with pytest.raises(DecodeError, match=r"has version 1; its upcaster from 1, from_1, failed: KeyError\('id'\)"):
        typed(decoded(body({}, 1)), declared(Created))


def test_what_an_upcaster_makes_has_to_fit() -> None:
    with pytest.raises(DecodeError, match=r"does not fit Created: .*`\$.size"):
        typed(decoded(body({"image_id": 7, "size": "big"}, 2)), declared(Created))


@pytest.mark.parametrize("data", [[], 1, "text"])
def test_data_that_is_no_object_reaches_an_upcaster_as_the_argument_data(data: object) -> None:
    with pytest.raises(DecodeError, match=r"from_1, failed: KeyError\('id'\)"):
        typed(decoded(body(data, 1)), declared(Created))


# --- at the decoration ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, upcasters",
    [
        (3, {1: from_1}),
        (3, {1: from_1, 3: from_2}),
        (4, {1: from_1, 3: from_2}),
        (1, {1: from_1}),
        (1, {0: from_1}),
        (2, {0: from_1, 1: from_2}),
        (2, {True: from_1}),
        (2, {1.0: from_1}),
        (2, {"1": from_1}),
        (2, {2: from_1}),
        (2, {1: "from_1"}),
        (2, {1: None}),
    ],
)
def test_upcasters_are_for_consecutive_versions_up_to_the_last(version: int, upcasters: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf'upcasters of "a.b": .* consecutive versions up to {version - 1}'):
        relevo.event("a.b", version=version, upcasters=upcasters)


def test_upcasters_that_are_refused_are_told_by_their_versions() -> None:
    wrong: Any = {1: lambda data: data, "2": from_2, 3: "from_3"}

    with pytest.raises(ConfigurationError, match=r"up to 3; got from 1, from '2', from 3 'from_3'"):
        relevo.event("a.b", version=4, upcasters=wrong)


@pytest.mark.parametrize("upcasters", [None, {}, {2: from_2}, {1: from_1, 2: from_2}, {2: from_2, 1: from_1}])
def test_any_consecutive_ones_do(upcasters: dict[int, Upcaster] | None) -> None:
    relevo.event("a.b", version=3, upcasters=upcasters)


def test_what_is_changed_in_them_afterwards_changes_nothing() -> None:
    given = dict(UPCASTERS)

    @relevo.event("image.created", version=3, upcasters=given)
    @attrs.frozen
    class Kept:
        image_id: int

    given.clear()

    assert typed(decoded(body(VERSIONS[1], 1)), declared(Kept)) == Kept(7)


# --- where listeners are called ---------------------------------------------------------------------------


def test_a_listener_of_the_class_is_given_the_event_upcast_and_one_by_name_the_data_as_sent(
    listen: Listen, caller: MakeCaller, delivery: Make
) -> None:
    seen: list[object] = []
    listen(seen.append, event=Created, id="typed", priority=1)
    listen(lambda event: seen.append(event.arguments), id="by name")

    outcome = caller().outcome(delivery(data=VERSIONS[1], dataversion=1))

    assert outcome == Ack()
    assert seen == [Created(7, (3, 4), AT), VERSIONS[1]]


@pytest.mark.parametrize("version, why", [(1, "upcaster from 1, from_1, failed"), (0, "has version 0; the oldest")])
def test_what_cannot_be_upcast_is_a_malformed_dead_letter_and_no_run(
    listen: Listen, caller: MakeCaller, delivery: Make, version: int, why: str
) -> None:
    called: list[object] = []
    listen(called.append, event=Created, id="typed")

    outcome = caller().outcome(delivery(data={"image_id": 7}, dataversion=version))

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == Reason.MALFORMED
    assert why in outcome.error
    assert "typed: malformed after 0 runs" in outcome.error
    assert called == []


def test_in_process_nothing_is_upcast() -> None:
    seen: list[object] = []
    table = ListenerTable()

    @relevo.listener(Created)
    def keep(event: Created) -> None:
        seen.append(event)

    @relevo.listener("image.created")
    def by_name(event: Event) -> None:
        seen.append(event.arguments)

    table.extend([keep, by_name])
    dispatcher = LocalDispatcher(table)

    dispatcher.dispatch(Created(7, (3, 4), AT))
    dispatcher.dispatch(Event("image.created", VERSIONS[3] or {}))

    assert seen[0] == seen[2] == Created(7, (3, 4), AT)
    with pytest.raises(DecodeError):
        dispatcher.dispatch(Event("image.created", VERSIONS[1] or {}))
