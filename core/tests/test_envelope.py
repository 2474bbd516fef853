from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, strategies as st

from relevo import Envelope
from relevo.backend import made_envelope

envelopes = st.builds(
    Envelope,
    id=st.text(),
    source=st.text(),
    name=st.text(),
    queue=st.text(),
    body=st.binary(),
    headers=st.dictionaries(st.text(), st.text()),
    urgency=st.sampled_from(["normal", "high"]),
    ordering_key=st.none() | st.text(),
    expires=st.none() | st.floats(allow_nan=False),
)


@given(envelopes)
def test_an_envelope_that_is_made_quickly_is_the_same(envelope: Envelope) -> None:
    fields = attrs.asdict(envelope, recurse=False)
    bare = {name: value for name, value in fields.items() if name != "headers"}

    made = made_envelope(**fields)

    assert made == envelope
    assert repr(made) == repr(envelope)
    assert made_envelope(**bare).headers is Envelope(**bare).headers


@given(envelopes, st.sampled_from([lambda one: pickle.loads(pickle.dumps(one)), copy.copy, copy.deepcopy]))  # noqa: S301
def test_an_envelope_is_the_same_after_a_journey(envelope: Envelope, journey: Callable[[Envelope], Envelope]) -> None:
    assert journey(envelope) == envelope


def test_an_envelope_without_headers_travels_and_keeps_them_read_only() -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"{}")

    again = pickle.loads(pickle.dumps(envelope))  # noqa: S301 - our own

    assert again == envelope
    assert again.queue == "default"
    with pytest.raises(TypeError):
        again.headers["a"] = "b"


def test_an_envelope_never_changes_and_can_be_a_key() -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", body=b"{}", headers={"a": "b"})

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        envelope.id = "2"  # type: ignore[misc]

    assert len({envelope, attrs.evolve(envelope)}) == 1
