"""Refs and ids that the transport never issued are not found, whatever they look like."""

from __future__ import annotations

import pytest

from relevo import Envelope
from relevo.errors import ConfigurationError
from relevo_sql import SqlTransport

NO_TEXT = "\udcff"
"""Python's reading of a byte on the command line that is not UTF-8; no database can hold it."""


def envelope() -> Envelope:
    return Envelope(id="1", source="shop", name="image.created", body=b"{}")


@pytest.mark.parametrize("made_up", ["0{}", "{} ", "+{}", "9" * 5000, f"1@{NO_TEXT}"])
def test_a_ref_that_is_like_another_is_not_found(transport: SqlTransport, made_up: str) -> None:
    transport.send([envelope()])
    transport.dead_letter(transport.receive(["default"], limit=1, lease=60, wait=0)[0], reason="broken")
    (entry,) = transport.dead_letters(["default"])
    ref = made_up.format(entry.ref)

    assert transport.revive({ref: b""}) == [ref]
    assert transport.discard([ref]) == [ref]
    with pytest.raises(ConfigurationError, match="is not the ref of a dead letter"):
        transport.dead_letters(["default"], after=ref)

    assert transport.dead_letters(["default"]) == [entry]


def test_an_id_that_cannot_be_written_is_not_found(transport: SqlTransport) -> None:
    transport.send([envelope()])

    assert transport.find(NO_TEXT) == []
    assert transport.cancel(NO_TEXT) == 0
