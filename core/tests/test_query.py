"""The filters of queries."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from relevo import DeadLetterFilter, Envelope, EventFilter
from relevo._transport.query import Found
from relevo.errors import ConfigurationError


def found(name: str = "image.created", **fields: Any) -> Found:
    envelope = Envelope(id="1", source="shop", name=name, body=b"{}")
    defaults: dict[str, Any] = {"status": "ready", "attempt": 1, "lost_leases": 0, "state": b"", "enqueued_at": 1000.0}
    return Found(queue="default", envelope=envelope, **(defaults | fields))


def test_an_empty_filter_chooses_everything() -> None:
    assert EventFilter().matches(found())
    assert EventFilter().wanted == ("ready", "leased", "scheduled")
    assert DeadLetterFilter().matches(name=None, reason="", died_at=nan)


@pytest.mark.parametrize(
    ("names", "name", "chosen"),
    [
        (("image.created",), "image.created", True),
        (("image.created",), "image.created2", False),
        (("image.*",), "image.created", True),
        (("image.*",), "imagex", False),
        (("*",), "anything", True),
        (("b", "image.*"), "b", True),
        (("i*e",), "image", False),
        (("Image.created",), "image.created", False),
    ],
)
def test_names_are_chosen_as_in_routes(names: tuple[str, ...], name: str, *, chosen: bool) -> None:
    assert EventFilter(names=names).matches(found(name)) is chosen
    assert DeadLetterFilter(names=names).matches(name=name, reason="r", died_at=0.0) is chosen


def test_unreadable_bytes_have_no_name() -> None:
    assert not DeadLetterFilter(names=("*",)).matches(name=None, reason="r", died_at=0.0)
    assert DeadLetterFilter(reasons=("r",)).matches(name=None, reason="r", died_at=0.0)


def test_a_time_is_chosen_from_its_beginning_to_before_its_end() -> None:
    times = [999.0, 1000.0, 1001.0, nan]

    assert [EventFilter(since=1000.0).matches(found(enqueued_at=at)) for at in times] == [False, True, True, False]
    assert [EventFilter(until=1000.0).matches(found(enqueued_at=at)) for at in times] == [True, False, False, False]
    assert EventFilter(since=-inf, until=inf).matches(found())


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        ({"states": ("dead",)}, "states of a filter: expected some of ready, leased, scheduled; got 'dead'"),
        ({"names": "image.*"}, "names of a filter: expected a sequence of texts; got 'image.*'"),
        ({"names": (7,)}, "names of a filter"),
        ({"since": nan}, "since of a filter: expected seconds since the epoch; got nan"),
        ({"until": "1h"}, "until of a filter"),
    ],
)
def test_a_condition_that_is_none_is_refused(conditions: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        EventFilter(**conditions)

    assert told in str(raised.value)
