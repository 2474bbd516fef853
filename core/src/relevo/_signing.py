"""
Signatures: nobody but the application makes events for it, or changes what is known of how far they are.

Off unless it is given keys. Events are signed at the dispatch, in a header, and verified by workers before
anything of them is read; workers sign the state that travels with a delivery. It is HMAC-SHA256 (RFC 2104)
over fields that are each preceded by their length, so that no two events are written alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from relevo._decision import Reason, sanitised
from relevo._delivery import DeadLetter, Delivery, Nack, Outcome
from relevo._envelope import Envelope
from relevo._executor import Handle
from relevo._progress import SEAL, SEALED
from relevo._secret import Secret
from relevo.errors import ConfigurationError, DecodeError

HEADER = "relevo-signature"
SHORTEST_KEY = 32
_VERSION = "v1"
_ID = 8


def _keys(given: str | Secret | Iterable[str | Secret]) -> tuple[Secret, ...]:
    several: Iterable[Any] = (given,) if isinstance(given, (str, Secret)) else given
    return tuple(each if isinstance(each, Secret) else Secret(each) for each in several)


@attrs.frozen
class Signing:
    """
    The keys of an application, and what is done with them.

    To change keys without a pause, put the new one first: what was signed with one of the others is still
    taken. To begin, deploy with ``required=False``, which takes what is not signed yet, and leave that out
    once nothing unsigned is on its way.

    Args:
        keys: One key, or several. The first one signs, all verify. Each has 32 characters at least, out of
            a random source: ``python -c "import secrets; print(secrets.token_urlsafe(32))"``.

        required: Refuse what is not signed.

    Raises:
        ConfigurationError: There is no key, or one is too short; it is not shown.
    """

    keys: tuple[Secret, ...] = attrs.field(converter=_keys)
    required: bool = True
    _by_id: dict[str, bytes] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        lengths = [len(key.reveal()) for key in self.keys]
        if not lengths or min(lengths) < SHORTEST_KEY:
            what = f"has {min(lengths)} characters" if lengths else "is missing"
            raise ConfigurationError(
                f"signing: a key {what}, {SHORTEST_KEY} are the least; make one with "
                f'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        raw = [key.reveal().encode() for key in self.keys]
        object.__setattr__(self, "_by_id", {_digest(key, b"key id").hex()[:_ID]: key for key in raw})

    # --- events ------------------------------------------------------------------------------------

    def signed(self, envelope: Envelope) -> Envelope:
        """Return *envelope* with a signature of its own, whatever it had."""
        key_id = next(iter(self._by_id))
        mac = self._mac(key_id, *_said(envelope)).hex()
        return attrs.evolve(envelope, headers={**envelope.headers, HEADER: f"{_VERSION}.{key_id}.{mac}"})

    def making(self, make: Callable[..., Sequence[Envelope]]) -> Callable[..., Sequence[Envelope]]:
        """Return what makes the envelopes that *make* makes, signed."""
        return lambda *targets: [self.signed(envelope) for envelope in make(*targets)]

    def fault(self, envelope: Envelope) -> str | None:
        """Return what is wrong with the signature of *envelope*, in words without a secret; ``None`` if nothing is."""
        header = envelope.headers.get(HEADER)
        if header is None:
            return "it is not signed" if self.required else None
        version, _, rest = header.partition(".")
        key_id, _, text = rest.partition(".")
        if version != _VERSION:
            return f"its signature is of version {sanitised(version, limit=20)}, {_VERSION} is known"
        if key_id not in self._by_id:
            return (
                f"it is signed with the key {sanitised(key_id, limit=20)}, which is none of: {', '.join(self._by_id)}"
            )
        try:
            mac = bytes.fromhex(text)
        except ValueError:
            mac = b""
        if _same(mac, self._mac(key_id, *_said(envelope))):
            return None
        return "its signature does not fit: its body, source, queue, urgency, key or expiry is not what was signed"

    # --- state -------------------------------------------------------------------------------------

    def sealed(self, state: bytes, envelope: Envelope) -> bytes:
        """Return *state* with a signature, which holds for *envelope* alone."""
        key_id = next(iter(self._by_id))
        return SEALED + key_id.encode() + self._mac(key_id, *_whose(envelope), state) + state if state else state

    def opened(self, state: bytes, envelope: Envelope) -> bytes:
        """
        Return the state that :meth:`sealed` was given.

        Raises:
            DecodeError: Its signature does not fit, or is missing and required.
        """
        if not state or not (self.required or state.startswith(SEALED)):
            return state
        begin = len(SEALED) + _ID
        key_id, mac, rest = state[len(SEALED) : begin].decode("latin-1"), state[begin:SEAL], state[SEAL:]
        if (
            state.startswith(SEALED)
            and key_id in self._by_id
            and _same(mac, self._mac(key_id, *_whose(envelope), rest))
        ):
            return rest
        raise DecodeError("the state of the delivery was not signed by a worker of this application")

    # --- around a worker ------------------------------------------------------------------------------

    def verifying(self, handle: Handle) -> Handle:
        """Return what does as *handle*, but only to what is rightly signed; its outcomes have sealed states."""

        def outcome(delivery: Delivery) -> Outcome:
            envelope = delivery.envelope
            if not isinstance(envelope, Envelope):
                return handle(delivery)
            fault = self.fault(envelope)
            if fault is None and HEADER in envelope.headers and envelope.queue != delivery.queue:
                fault = f'it was signed for the queue "{envelope.queue}" and lies in another'
            if fault is not None:
                return DeadLetter(reason=Reason.FORGED, error=fault)
            try:
                state = self.opened(delivery.state, envelope)
            except DecodeError as error:
                return DeadLetter(reason=Reason.FORGED, error=str(error))
            ended = handle(attrs.evolve(delivery, state=state))
            if isinstance(ended, (Nack, DeadLetter)) and ended.state:
                return attrs.evolve(ended, state=self.sealed(ended.state, envelope))
            return ended

        return outcome

    def keeping(self, checkpoint: Callable[[Delivery, bytes], None]) -> Callable[[Delivery, bytes], None]:
        """Return what does as *checkpoint*, with a sealed state."""

        def keep(delivery: Delivery, state: bytes) -> None:
            envelope = delivery.envelope
            checkpoint(delivery, self.sealed(state, envelope) if isinstance(envelope, Envelope) else state)

        return keep

    def _mac(self, key_id: str, *said: str | bytes | None) -> bytes:
        message = bytearray(_VERSION.encode())
        for each in (key_id, *said):
            data = each.encode("utf-8", "surrogatepass") if isinstance(each, str) else each
            message += b"-" if data is None else len(data).to_bytes(8) + data
        return _digest(self._by_id[key_id], bytes(message))


def _digest(key: bytes, message: bytes) -> bytes:
    import hmac  # noqa: PLC0415 - it brings OpenSSL along, and few applications sign

    return hmac.digest(key, message, "sha256")


def _same(one: bytes, other: bytes) -> bool:
    import hmac  # noqa: PLC0415 - as above

    return hmac.compare_digest(one, other)


def _said(envelope: Envelope) -> tuple[str | bytes | None, ...]:
    """Return what the signature of *envelope* is over: whom it is for, and what of it the body does not say."""
    expires = None if envelope.expires is None else repr(float(envelope.expires))
    return ("event", envelope.source, envelope.queue, envelope.urgency, envelope.ordering_key, expires, envelope.body)


def _whose(envelope: Envelope) -> tuple[str, ...]:
    return ("state", envelope.source, envelope.queue, envelope.id)
