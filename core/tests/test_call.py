from __future__ import annotations

import pytest

from relevo import Call, Subject, SubjectMissingError, SubjectType
from relevo._event.codec import Document
from relevo._event.subject import SubjectTypes
from relevo.errors import SubjectError


class _Image:
    pass


_images: dict[str, _Image] = {"7": _Image()}
_loads: list[str] = []


def _load(name: str) -> _Image | None:
    _loads.append(name)
    return _images.get(name)


SUBJECTS = SubjectTypes([SubjectType(type="image", cls=_Image, name=lambda _: "7", load=_load)])


def _call(*, subject: object = None, document: Document | None = None) -> Call:
    return Call(
        listener_id="resize",
        queue="default",
        attempt=2,
        lost_leases=1,
        document=document,
        subject=subject,
        subjects=SUBJECTS,
    )


def test_it_tells_what_stands_in_the_event() -> None:
    document = Document(
        "17",
        "shop",
        "image.created",
        "1.0",
        time="2026-01-01T00:00:00Z",
        correlationid="3",
        causationid="2",
        relevocontext='{"user":5}',
    )

    call = _call(document=document)

    assert (call.event_id, call.source, call.time) == ("17", "shop", "2026-01-01T00:00:00Z")
    assert (call.correlation_id, call.causation_id, call.context) == ("3", "2", {"user": 5})


def test_in_process_there_is_nothing_to_tell() -> None:
    call = _call()

    assert (call.event_id, call.source, call.time) == ("", "", "")
    assert (call.correlation_id, call.causation_id, call.context) == (None, None, {})
    assert call.subject is None


def test_a_subject_is_loaded_when_it_is_first_asked_for_and_only_then() -> None:
    _loads.clear()
    call = _call(subject=Subject("image", "7"))
    before = list(_loads)

    assert call.subject is call.subject is _images["7"]
    assert (before, _loads) == ([], ["7"])


def test_a_subject_that_is_not_there_is_missing_until_it_is() -> None:
    call = _call(subject=Subject("image", "8"))

    with pytest.raises(SubjectMissingError, match="image/8 is gone, or not committed yet"):
        _ = call.subject
    _images["8"] = _Image()

    assert call.subject is _images.pop("8")


def test_a_subject_of_an_unknown_type_is_the_programs_mistake() -> None:
    with pytest.raises(SubjectError, match='"images"'):
        _ = _call(subject=Subject("images", "7")).subject


def test_an_object_that_was_dispatched_in_process_is_its_own_subject() -> None:
    image = _Image()

    assert _call(subject=image).subject is image


def test_stopping_the_propagation_is_remembered() -> None:
    call = _call()

    call.stop_propagation()

    assert call.stopped
