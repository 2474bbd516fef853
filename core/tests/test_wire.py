"""Envelopes as one blob."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from relevo import DecodeError, EncodeError, Envelope
from relevo.wire import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
envelopes = st.builds(
    Envelope,
    id=texts,
    source=texts,
    name=texts,
    queue=texts,
    body=st.binary(max_size=200),
    headers=st.dictionaries(texts, texts, max_size=3),
    urgency=st.sampled_from(["normal", "high"]),
    ordering_key=st.none() | texts,
    expires=st.none() | st.floats(allow_nan=False),
)


@given(envelopes)
def test_what_is_packed_is_unpacked_the_same(envelope: Envelope) -> None:
    assert envelope == unpack(pack(envelope))


@given(envelopes, st.integers(min_value=0, max_value=60))
def test_a_blob_that_was_cut_is_told_from_an_envelope(envelope: Envelope, length: int) -> None:
    blob = pack(envelope)

    with pytest.raises(DecodeError, match="not a packed envelope"):
        unpack(blob[: min(length, len(blob) - 1)])


@given(st.binary(max_size=60))
def test_foreign_bytes_are_an_envelope_or_a_decode_error(blob: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert isinstance(unpack(blob), Envelope)


@pytest.mark.parametrize("change", [lambda blob: blob.replace(b"\x01", b"\x63", 1)])
def test_another_version_is_named(change: Callable[[bytes], bytes]) -> None:
    blob = pack(Envelope(id="1", source="s", name="n", body=b"{}"))

    with pytest.raises(DecodeError, match="version 99"):
        unpack(change(blob))


@pytest.mark.parametrize("field", ["id", "source", "name", "queue", "ordering_key"])
def test_a_text_that_has_no_form_in_utf_8_is_refused_with_its_field(field: str) -> None:
    texts = {"id": "1", "source": "s", "name": "n", field: "\ud800"}

    with pytest.raises(EncodeError, match=rf"\$\.{field}: .*surrogates not allowed"):
        pack(Envelope(body=b"{}", **texts))  # type: ignore[arg-type]


@pytest.mark.parametrize("headers", [{"a": "\ud800"}, {"\udc00": "a"}])
def test_a_header_that_has_no_form_in_utf_8_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(EncodeError, match=r"\$\.headers: "):
        pack(Envelope(id="1", source="s", name="n", body=b"{}", headers=headers))
