"""
Signatures: only the application can make its events, or change their state.

Off without keys. Events are signed at the dispatch, in a header, and workers verify them before they read
anything else; workers also sign the state of a delivery. It is HMAC-SHA256 (RFC 2104) over fields that are
each preceded by their length, so that two different events never have the same input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from relevo._clock import Clock
from relevo._secret import Secret
from relevo._transport.delivery import MAX_STATE, DeadLetter, Delivery, Nack, Outcome
from relevo._transport.envelope import Envelope
from relevo._worker.decision import Reason, sanitised, since, wait_left, waited
from relevo._worker.executor import Handle
from relevo._worker.progress import SEAL, SEALED
from relevo.errors import ConfigurationError, DecodeError, shown

HEADER = "relevo-signature"
SHORTEST_KEY = 32
_VERSION = "v1"
_ID = 8

_SIGNATURE = re.compile(r"(v\d{1,9})\.([0-9a-f]{8})\.([0-9a-f]{64})")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_NOTE = SEALED + b"awaiting"
"""
The prefix of a state while its key, or that of its event, is waited for; a time follows in place of a signature.

It is not signed: a program that can write it can delete the whole event.
"""


class UnknownKeyError(DecodeError):
    """Raised for an unknown key, or a later version of signatures; a later worker may know it."""


def _keys(given: str | Secret | Iterable[str | Secret]) -> tuple[Secret, ...]:
    value: Any = given
    is_one = isinstance(value, (str, bytes, Secret)) or not isinstance(value, Iterable)
    keys: list[Any] = [value] if is_one else list(value)
    if wrong := [type(each).__name__ for each in keys if not isinstance(each, (str, Secret))]:
        raise ConfigurationError(f"signing: expected a key as text, or a list of keys; got {wrong[0]}")
    found = tuple(each if isinstance(each, Secret) else Secret(each) for each in keys)
    lengths = [len(key.reveal()) for key in found]
    if not lengths or min(lengths) < SHORTEST_KEY:
        got = f"one of {min(lengths)}" if lengths else "no key"
        raise ConfigurationError(
            f"signing: expected keys of at least {SHORTEST_KEY} characters; got {got}; generate one with "
            f'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    if len(set(found)) < len(found):
        raise ConfigurationError("signing: one of the keys is given twice; remove it")
    return found


@attrs.frozen
class Signing:
    """
    The keys of an application; they sign and verify its events.

    To change keys without a pause, add the new one in second place to every program, then let it sign by putting it
    first, then remove the old one once nothing that it signed is left. An event whose key a worker does not have yet
    is given back, as a later version of an event is. To begin, deploy with ``required=False``, which accepts unsigned
    events, and remove that once no unsigned event is left.

    Args:
        keys: One key, or several. The first one signs, all verify. Each has at least 32 characters, from
            a random source: ``python -c "import secrets; print(secrets.token_urlsafe(32))"``.

        required: Refuse unsigned events.

    Raises:
        ConfigurationError: There is no key, or one is too short; it is not shown.
    """

    keys: tuple[Secret, ...] = attrs.field(converter=_keys)
    required: bool = True
    _by_id: dict[str, bytes] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        raw = [key.reveal().encode() for key in self.keys]
        object.__setattr__(self, "_by_id", {_digest(key, b"key id").hex()[:_ID]: key for key in raw})

    # --- events ------------------------------------------------------------------------------------

    def signed(self, envelope: Envelope) -> Envelope:
        """Return *envelope* with a new signature, which replaces any that it had."""
        key_id = next(iter(self._by_id))
        mac = self._mac(key_id, *_said(envelope)).hex()
        return attrs.evolve(envelope, headers={**envelope.headers, HEADER: f"{_VERSION}.{key_id}.{mac}"})

    def making(self, make: Callable[..., Sequence[Envelope]]) -> Callable[..., Sequence[Envelope]]:
        """Return a function that signs the envelopes that *make* returns."""
        return lambda *targets: [self.signed(envelope) for envelope in make(*targets)]

    def fault(self, envelope: Envelope) -> str | None:
        """Return what is wrong with the signature of *envelope*, in words without a secret; ``None`` if nothing is."""
        try:
            self.verify(envelope, queue=envelope.queue)
        except DecodeError as error:
            return str(error)
        return None

    def verify(self, envelope: Envelope, *, queue: str) -> None:
        """
        Verify that one of the keys signed *envelope*, which was received from *queue*.

        Raises:
            UnknownKeyError: Another key signed it, or a newer release of relevo.

            DecodeError: It was not signed, or differs from what was signed.
        """
        header = envelope.headers.get(HEADER)
        if header is None:
            if self.required:
                raise DecodeError("it is not signed")
            return
        match = _SIGNATURE.fullmatch(header)
        if match is None:
            raise DecodeError(f"its signature is malformed: {shown(header)}")
        version, key_id, mac = match.groups()
        if version != _VERSION:
            raise UnknownKeyError(f"its signature has the version {version}; only {_VERSION} is known")
        if not _same(bytes.fromhex(mac), self._mac(self._known(key_id, "it"), *_said(envelope))):
            raise DecodeError(
                "its signature does not fit: its body, source, queue, urgency, key or expiry is not what was signed"
            )
        if envelope.queue != queue:
            raise DecodeError(f'it was signed for the queue "{envelope.queue}" and was received from another')

    def _known(self, key_id: str, what: str) -> str:
        if key_id not in self._by_id:
            raise UnknownKeyError(
                f"{what} is signed with the key {key_id}, which is unknown; known: {', '.join(self._by_id)}"
            )
        return key_id

    # --- state -------------------------------------------------------------------------------------

    def sealed(self, state: bytes, envelope: Envelope) -> bytes:
        """Return *state* with a signature, which is valid for *envelope* alone."""
        key_id = next(iter(self._by_id))
        return SEALED + key_id.encode() + self._mac(key_id, *_whose(envelope), state) + state if state else state

    def opened(self, state: bytes, envelope: Envelope) -> bytes:
        """
        Return the state that :meth:`sealed` was given.

        Raises:
            UnknownKeyError: It is signed with another key.

            DecodeError: Its signature does not fit, or is missing and required.
        """
        _, state = _noted(state)
        if not state or not (self.required or state.startswith(SEALED)):
            return state
        begin = len(SEALED) + _ID
        key_id, mac, rest = state[len(SEALED) : begin].decode("latin-1"), state[begin:SEAL], state[SEAL:]
        is_sealed = state.startswith(SEALED) and len(mac) == SEAL - begin and _KEY_ID.fullmatch(key_id)
        if is_sealed and _same(mac, self._mac(self._known(key_id, "its state"), *_whose(envelope), rest)):
            return rest
        raise DecodeError("the state of the delivery was not signed by a worker of this application")

    # --- around a worker ------------------------------------------------------------------------------

    def verifying(self, handle: Handle, *, clock: Clock, patience: float) -> Handle:
        """
        Wrap *handle* so that it gets only deliveries with a valid signature, and its outcomes have sealed states.

        A delivery that another key signed is given back: while keys change, a later worker knows the key.

        Args:
            handle: From a delivery to its outcome.

            clock: The source of time.

            patience: Seconds to wait for an unknown key, from the first hand-over that met it.
        """

        def outcome(delivery: Delivery) -> Outcome:
            envelope = delivery.envelope
            if not isinstance(envelope, Envelope):
                return handle(delivery)
            try:
                self.verify(envelope, queue=delivery.queue)
                state = self.opened(delivery.state, envelope)
            except UnknownKeyError as error:
                return _patient(delivery, clock.now(), detail=str(error), patience=patience)
            except DecodeError as error:
                return DeadLetter(reason=Reason.FORGED, error=sanitised(str(error)))
            ended = handle(attrs.evolve(delivery, state=state))
            if isinstance(ended, (Nack, DeadLetter)) and ended.state:
                return attrs.evolve(ended, state=_kept(self.sealed(ended.state, envelope)))
            return ended

        return outcome

    def keeping(self, checkpoint: Callable[[Delivery, bytes], None]) -> Callable[[Delivery, bytes], None]:
        """Wrap *checkpoint* so that it stores sealed states."""

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


def _patient(delivery: Delivery, now: float, *, detail: str, patience: float) -> Outcome:
    """Give *delivery* back, and note before its state, which is unreadable here, when the wait for its key began."""
    first, state = _noted(delivery.state)
    first = since(first, now)
    noted = b"%b%032.3f%b" % (_NOTE, first, state)
    fits = len(noted) <= MAX_STATE
    wait = wait_left(now - first if fits else waited(delivery, now), patience)
    if wait is None:
        return DeadLetter(reason=Reason.FORGED, error=sanitised(detail), state=_kept(state))
    return Nack(delay=wait, state=noted if fits else None)


def _kept(state: bytes) -> bytes | None:
    """Return *state* if it is short enough to be stored; else ``None``, which leaves the stored one."""
    return state if len(state) <= MAX_STATE else None


def _noted(state: bytes) -> tuple[float | None, bytes]:
    """Return when the wait for a key began, if *state* has that note, and the state without the note."""
    if not state.startswith(_NOTE):
        return None, state
    try:
        return float(state[len(_NOTE) : SEAL]), state[SEAL:]
    except ValueError:
        return None, state[SEAL:]


def _digest(key: bytes, message: bytes) -> bytes:
    import hmac  # noqa: PLC0415 - it loads OpenSSL, and few applications sign

    return hmac.digest(key, message, "sha256")


def _same(one: bytes, other: bytes) -> bool:
    import hmac  # noqa: PLC0415 - as above

    return hmac.compare_digest(one, other)


def _said(envelope: Envelope) -> tuple[str | bytes | None, ...]:
    """Return what the signature of *envelope* covers: its audience, and what the body does not contain."""
    expires = None if envelope.expires is None else repr(float(envelope.expires))
    return ("event", envelope.source, envelope.queue, envelope.urgency, envelope.ordering_key, expires, envelope.body)


def _whose(envelope: Envelope) -> tuple[str, ...]:
    return ("state", envelope.source, envelope.queue, envelope.id)
