"""
Signatures: only the application can make its events, or change their state.

Off without keys. Events are signed at the dispatch, in a header, and workers verify them before they read
anything else; workers also sign the state of a delivery. It is HMAC-SHA256 (RFC 2104) over fields that are
each preceded by their length, so that two different events never have the same input.

The signature of an event covers the whole envelope (``v2``). Earlier releases signed less of it (``v1``); the rest is
verified in another way, so that their events are still handled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated

import attrs

from relevo._clock import Clock
from relevo._event.codec import checked_source, decoded
from relevo._secret import Secret
from relevo._transport.delivery import MAX_STATE, DeadLetter, Delivery, Nack, Outcome
from relevo._transport.envelope import Envelope
from relevo._worker.decision import Reason, sanitised, since, wait_left, waited
from relevo._worker.executor import Flow, Steps, followed
from relevo._worker.progress import SEAL, SEALED
from relevo._worker.signing_key import checked_keys
from relevo.errors import ConfigurationError, DecodeError, shown

HEADER = "relevo-signature"
_EARLIER, _VERSION = "v1", "v2"
_OF_STATES = "v1"
"""States are signed as before, so that workers of two releases read each other's."""

_ID = 8

_SIGNATURE = re.compile(r"(v[1-9][0-9]{0,8})\.([0-9a-f]{8})\.([0-9a-f]{64})")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_NOTE = SEALED + b"awaiting"
"""
The prefix of a state while its key, or that of its event, is waited for; a time follows in place of a signature.

It is not signed: a program that can write it can delete the whole event.
"""


class UnknownKeyError(DecodeError):
    """Raised for an unknown key, or a later version of signatures; a later worker may know it."""


def _sources(given: str | Iterable[str], where: str) -> tuple[str, ...]:
    """Return the sources that are *given*, one or several, if each is valid."""
    if not isinstance(given, (str, list, tuple, set, frozenset)):
        raise ConfigurationError(f"{where}: expected a source as text, or a list of them; got {shown(given)}")
    found = (given,) if isinstance(given, str) else tuple(given)
    for each in found:
        try:
            checked_source(each)
        except ConfigurationError:
            raise ConfigurationError(
                f"{where}: expected sources of events, such as shop or /shop/web; got {shown(each)}"
            ) from None
        if "*" in each:
            raise ConfigurationError(
                f"{where}: expected exact sources of events; got {shown(each)}; * is not a pattern here, so write the "
                f"name of each source"
            )
    return found


def _accept(given: str | Iterable[str]) -> tuple[str, ...]:
    return _sources(given, "signing.accept")


def _unsigned(given: str | Iterable[str]) -> tuple[str, ...]:
    return _sources(given, "signing.unsigned")


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

        accept: The exact sources of other applications that sign with one of the keys. A signed event of any other
            source than the application's own is refused, even if its signature is valid.

        unsigned: The exact sources whose events may be unsigned, although a signature is required. Any program that
            can publish can claim to be one of them.

    Raises:
        ConfigurationError: There is no key, one is too short or weak, or a source is invalid; no key is shown.
    """

    keys: tuple[Secret, ...] = attrs.field(converter=checked_keys)
    required: bool = True
    accept: Annotated[tuple[str, ...], _accept] = attrs.field(default=(), converter=_accept, kw_only=True)
    unsigned: Annotated[tuple[str, ...], _unsigned] = attrs.field(default=(), converter=_unsigned, kw_only=True)
    _by_id: dict[str, bytes] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        raw = [key.reveal().encode() for key in self.keys]
        object.__setattr__(self, "_by_id", {_digest(key, b"key id").hex()[:_ID]: key for key in raw})

    # --- events ------------------------------------------------------------------------------------

    def signed(self, envelope: Envelope) -> Envelope:
        """Return *envelope* with a new signature, which replaces any that it had."""
        key_id = next(iter(self._by_id))
        mac = self._mac(_VERSION, key_id, *_said(envelope)).hex()
        return attrs.evolve(envelope, headers={**envelope.headers, HEADER: f"{_VERSION}.{key_id}.{mac}"})

    def verify(self, envelope: Envelope, *, queue: str, source: str) -> None:
        """
        Verify that one of the keys signed *envelope* for the application called *source*, and for *queue*.

        An event without a signature is accepted if none is required of its source. A signature that is there is
        always verified.

        Args:
            envelope: As it was received.

            queue: Where it was received.

            source: The name of the application that received it.

        Raises:
            UnknownKeyError: Another key signed it, or a newer release of relevo.

            DecodeError: It was not signed, differs from what was signed, or is of a source that is not accepted.
        """
        header = envelope.headers.get(HEADER)
        if header is None:
            if self.required and envelope.source not in self.unsigned:
                raise DecodeError(_not_signed(envelope.source, source))
            return
        if envelope.source not in (source, *self.accept, *self.unsigned):
            raise DecodeError(
                f"its source {shown(envelope.source)} is not accepted: this application is {shown(source)}; "
                f"to handle its events, add it to signing.accept"
            )
        match = _SIGNATURE.fullmatch(header)
        if match is None:
            raise DecodeError(f"its signature is malformed: {shown(header)}")
        version, key_id, mac = match.groups()
        if version not in (_EARLIER, _VERSION):
            raise UnknownKeyError(f"its signature has the version {version}; known: {_EARLIER}, {_VERSION}")
        said = _said(envelope) if version == _VERSION else _said_earlier(envelope)
        if not _same(bytes.fromhex(mac), self._mac(version, self._known(key_id, "it"), *said)):
            raise DecodeError("its signature is invalid: the event was changed after signing")
        if version == _EARLIER:
            _check_unsaid(envelope)
        if envelope.queue != queue:
            raise DecodeError(f'it was signed for the queue "{envelope.queue}" and was received from another')

    def readdressed(self, envelope: Envelope, *, to: str, queue: str, source: str) -> Envelope:
        """
        Return *envelope* for the queue *to*, signed again; one that is validly unsigned stays so.

        Args:
            envelope: As for :meth:`verify`, which is called first: a forged event must not become a valid one.

            to: The queue that it is sent to.

            queue: As for :meth:`verify`.

            source: As for :meth:`verify`.

        Raises:
            DecodeError: As :meth:`verify` does.
        """
        self.verify(envelope, queue=queue, source=source)
        moved = attrs.evolve(envelope, queue=to)
        return self.signed(moved) if HEADER in envelope.headers else moved

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
        return (
            SEALED + key_id.encode() + self._mac(_OF_STATES, key_id, *_whose(envelope), state) + state
            if state
            else state
        )

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
        if state.startswith(SEALED) and len(mac) == SEAL - begin and _KEY_ID.fullmatch(key_id):
            expected = self._mac(_OF_STATES, self._known(key_id, "its state"), *_whose(envelope), rest)
            if _same(mac, expected):
                return rest
        raise DecodeError(
            "the state of the delivery was not signed by a worker of this application; if the event is revived, all "
            "its listeners run again"
        )

    def trusted(self, state: bytes, envelope: Envelope) -> bytes:
        """
        Return the state that :meth:`sealed` was given; that of a new event if it is forged.

        Raises:
            UnknownKeyError: As :meth:`opened` does.
        """
        try:
            return self.opened(state, envelope)
        except UnknownKeyError:
            raise
        except DecodeError:
            return b""

    # --- around a worker ------------------------------------------------------------------------------

    def verifying(self, steps: Steps, *, source: str, clock: Clock, patience: float) -> Steps:
        """
        Wrap *steps* so that it gets only deliveries with a valid signature, and its outcomes have sealed states.

        A delivery that another key signed is given back: while keys change, a later worker knows the key.

        Args:
            steps: From a delivery to the flow of its handling.

            source: The application's name.

            clock: The source of time.

            patience: Seconds to wait for an unknown key, from the first hand-over that met it.
        """

        def verified(delivery: Delivery, *, on_loop: bool) -> Flow:
            envelope = delivery.envelope
            if not isinstance(envelope, Envelope):
                return (yield from followed(steps(delivery, on_loop=on_loop)))
            try:
                self.verify(envelope, queue=delivery.queue, source=source)
                state = self.opened(delivery.state, envelope)
            except UnknownKeyError as error:
                return wait_for_key(delivery, clock.now(), detail=str(error), patience=patience)
            except DecodeError as error:
                return DeadLetter(reason=Reason.FORGED, error=sanitised(str(error)))
            ended = yield from followed(steps(attrs.evolve(delivery, state=state), on_loop=on_loop))
            if isinstance(ended, (Nack, DeadLetter)) and ended.state:
                return attrs.evolve(ended, state=_kept(self.sealed(ended.state, envelope)))
            return ended

        return verified

    def keeping(self, checkpoint: Callable[[Delivery, bytes], None]) -> Callable[[Delivery, bytes], None]:
        """Wrap *checkpoint* so that it stores sealed states."""

        def keep(delivery: Delivery, state: bytes) -> None:
            envelope = delivery.envelope
            checkpoint(delivery, self.sealed(state, envelope) if isinstance(envelope, Envelope) else state)

        return keep

    def _mac(self, version: str, key_id: str, *said: str | bytes | None) -> bytes:
        message = bytearray(version.encode())
        for each in (key_id, *said):
            data = each.encode("utf-8", "surrogatepass") if isinstance(each, str) else each
            message += b"-" if data is None else len(data).to_bytes(8) + data
        return _digest(self._by_id[key_id], bytes(message))


def expected_sources(own: str, signing: Signing | None) -> frozenset[str]:
    """Return the sources whose events the application with the source *own* expects."""
    return frozenset((own,) if signing is None else (own, *signing.accept, *signing.unsigned))


def wait_for_key(delivery: Delivery, now: float, *, detail: str, patience: float) -> Outcome:
    """
    Give *delivery* back, and note before its state, which is unreadable here, when the wait for its key began.

    Args:
        delivery: One whose event, or whose state, another key signed.

        now: Seconds since the epoch.

        detail: In words, for the dead letter.

        patience: Seconds from the first hand-over that met the reason.
    """
    first, state = _noted(delivery.state)
    first = since(first, now)
    noted = b"%b%032.3f%b" % (_NOTE, first, state)
    fits = len(noted) <= MAX_STATE
    wait = wait_left(now - first if fits else waited(delivery, now), patience)
    if wait is None:
        return DeadLetter(reason=Reason.FORGED, error=sanitised(detail), state=_kept(state))
    return Nack(delay=wait, state=noted if fits else None, reason=Reason.FORGED)


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
    """Return what the signature of *envelope* covers: all of it, except for the signature itself."""
    headers = sorted((name, value) for name, value in envelope.headers.items() if name != HEADER)
    return (
        "event",
        envelope.source,
        envelope.queue,
        envelope.id,
        envelope.name,
        envelope.urgency,
        envelope.ordering_key,
        _expiry(envelope),
        envelope.body,
        *(text for header in headers for text in header),
    )


def _said_earlier(envelope: Envelope) -> tuple[str | bytes | None, ...]:
    """Return what a signature of the version ``v1`` covers."""
    expires, body = _expiry(envelope), envelope.body
    return ("event", envelope.source, envelope.queue, envelope.urgency, envelope.ordering_key, expires, body)


def _check_unsaid(envelope: Envelope) -> None:
    """
    Verify what a signature of the version ``v1`` does not cover: the body has the id and the name, too.

    Raises:
        DecodeError: It differs, or the event has other headers, which the releases that signed so never added.
    """
    if others := sorted(envelope.headers.keys() - {HEADER}):
        raise DecodeError(
            f"its signature has the version {_EARLIER}, which does not cover its header {shown(others[0])}"
        )
    document = decoded(envelope.body)
    if (document.id, document.type) != (envelope.id, envelope.name):
        raise DecodeError("its signature is invalid: its id or name was changed after signing")


def _expiry(envelope: Envelope) -> str | None:
    return None if envelope.expires is None else repr(float(envelope.expires))


def _not_signed(of: str, source: str) -> str:
    """Return the error for an unsigned event *of* a source; *source* is the application's own."""
    if of == source:
        return "it is not signed"
    return (
        f"it is not signed, and its source is {shown(of)}; to accept every event that claims this source, add it to "
        f"signing.unsigned"
    )


def _whose(envelope: Envelope) -> tuple[str, ...]:
    return ("state", envelope.source, envelope.queue, envelope.id)
