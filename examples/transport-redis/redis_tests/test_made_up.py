"""Refs that the transport never issued are not found, whatever they look like."""

from __future__ import annotations

import pytest

from relevo import Envelope
from relevo.errors import ConfigurationError
from relevo_redis import RedisTransport


@pytest.mark.parametrize("made_up", ["0{}", "{} ", "+{}", "1.0@media", "9" * 5000 + "@media", "x@media"])
def test_a_ref_that_is_like_another_is_not_found(transport: RedisTransport, made_up: str) -> None:
    transport.send([Envelope(id="e1", source="shop", name="image.created", queue="media", body=b"{}")])
    transport.dead_letter(transport.receive(["media"], limit=1, lease=60, wait=0)[0], reason="broken")
    (entry,) = transport.dead_letters(["media"])
    ref = made_up.format(entry.ref)

    assert transport.revive({ref: b""}) == [ref]
    assert transport.discard([ref]) == [ref]
    with pytest.raises(ConfigurationError, match="is not the ref of a dead letter"):
        transport.dead_letters(["media"], after=ref)

    assert transport.dead_letters(["media"]) == [entry]
