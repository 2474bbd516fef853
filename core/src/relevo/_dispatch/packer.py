"""Validate events, assign their ids and make their envelopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import get_args

import attrs
import msgspec

from relevo._clock import END_OF_DATES, FIRST_DATE, Clock, Duration, Moment, moment, seconds
from relevo._dispatch.unique import KeyClaim
from relevo._event.codec import Content, checked_source, content_of, encoded, subject_of
from relevo._event.context import Ambient, ambient
from relevo._event.event import Event, declared
from relevo._event.subject import Subject, SubjectTypes
from relevo._hook import Hooks
from relevo._identity import IdFactory, uuid7
from relevo._listener.call import DispatchOptions
from relevo._synonym import DISPATCH
from relevo._transport.envelope import NO_HEADERS, Envelope, Urgency
from relevo._transport.made import made_envelope
from relevo._transport.route import Target
from relevo._transport.transport import Transport
from relevo.errors import ConfigurationError, EncodeError, SubjectError, UnsupportedError, no_option, shown

_LONGEST_ID = "9" * 40

_YEAR_2000 = 946684800.0
"""Seconds since the epoch; a smaller number is a time from now by mistake, unless the clock stands before it."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """The validated options of a dispatch."""

    urgency: Urgency = "normal"
    ordering_key: str | None = None

    expires: float | None = None
    """Seconds since the epoch."""

    wait: float = 0.0
    """Seconds from now before which the event is not handled."""

    claim: KeyClaim | None = None
    """The unique key of the event; such conditions are those of one event."""

    @classmethod
    def of(cls, event_name: str, options: DispatchOptions, *, now: float) -> Conditions:
        """
        Validate *options*.

        Raises:
            EncodeError: The urgency, the ordering key or the unique key is invalid.

            ConfigurationError: A time is invalid.
        """
        check_options(event_name, options)
        wait = _wait(options.get("delay", 0.0), options.get("at"), now)
        expires = checked_expires(options.get("expires"), now=now)
        if wait and expires is not None and expires < now + wait:
            raise ConfigurationError(
                f"expires: the event would expire before it is due; expected {wait:.10g} s or more after the dispatch; "
                f"got {round(expires - now, 3):.10g} s"
            )
        return cls(
            urgency=options.get("urgency", "normal"),
            ordering_key=options.get("ordering_key"),
            expires=expires,
            wait=wait,
            claim=_claim(options),
        )

    def check_claims(self, transport: Transport) -> None:
        """Raise :class:`UnsupportedError` if *transport* does not claim what the options need."""
        if self.urgency != "normal" and not transport.capabilities.urgency:
            raise UnsupportedError(transport.name, "urgency")
        if self.ordering_key is not None and transport.capabilities.order == "none":
            raise UnsupportedError(transport.name, "order")
        if self.wait and transport.capabilities.delay is None:
            raise UnsupportedError(transport.name, "delay")
        if self.claim is not None and not transport.capabilities.unique:
            raise UnsupportedError(transport.name, "unique")


NO_CONDITIONS = Conditions()


Headers = Mapping[Target, Mapping[str, str]] | None
"""The headers of the envelope for each target, if it has any."""


class Unnamed(msgspec.Struct, frozen=True):
    """An event whose subject has no id yet."""

    content: Content
    now: float
    subject: object
    targets: Sequence[Target]
    headers: Headers


# One is made for each dispatch, while the caller waits: a Struct takes a fifth of the time of an attrs class.
class PackedEvent(msgspec.Struct, frozen=True):
    """An event that was validated and has its id; its subject may get its own id only at the commit."""

    id: str
    conditions: Conditions
    around: Ambient

    envelopes: Sequence[Envelope] | None
    """One for each target; ``None`` if the subject is named at the commit."""

    unnamed: Unnamed | None = None
    """What the envelopes are made of then."""


def _checked_ids(ids: IdFactory) -> IdFactory:
    """Return *ids*, with a check of what it returns unless it is relevo's own."""

    def checked(now: float) -> str:
        made: object = ids(now)
        if isinstance(made, str) and _is_line(plain := str.__str__(made)):
            return plain
        raise ConfigurationError(
            f"ids: expected a function that returns 1 to 255 printable characters; it returned {shown(made)}"
        )

    return ids if ids is uuid7 else checked


@attrs.frozen(eq=False, repr=False)
class Packer:
    """
    Makes envelopes of events.

    Args:
        source: The application's name.

        clock: The source of time.

        ids: Makes the id of an event.

        subjects: Names subjects.

        hooks: Plugins that add to the context.

        sign: Returns an envelope with its signature, if the application signs.

    Raises:
        ConfigurationError: *source* is invalid.
    """

    _source: str = attrs.field(converter=checked_source)
    _clock: Clock
    _ids: IdFactory = attrs.field(converter=_checked_ids)
    _subjects: SubjectTypes
    _hooks: Hooks
    _sign: Callable[[Envelope], Envelope] | None = None

    def pack(
        self,
        event: object,
        options: DispatchOptions,
        targets: Sequence[Target],
        *,
        made_id: Callable[[bytes], str] | None = None,
        conditions: Conditions | None = None,
        version: int | None = None,
        now: float | None = None,
        headers: Headers = None,
    ) -> PackedEvent:
        """
        Validate *event* and its options, assign its id, and make its envelopes.

        Args:
            event: The event as it was dispatched.

            options: The other arguments of the dispatch.

            targets: Where it is sent to.

            made_id: Takes the event's content, returns its id, unless the event has one; by default a new id.

            conditions: The *options* if they were validated before.

            version: The version of the class with which a named event was validated.

            now: The time of the event, in seconds since the epoch; by default the clock's.

            headers: Those of the envelope for each target.

        Raises:
            EncodeError: A value of the event or its context has no exact form in JSON, or an option is invalid.

            SubjectError: Its subject is of no registered type.

            ConfigurationError: An option is invalid, or the made id, or the clock is beyond the last date.
        """
        try:
            content = content_of(event, version)
        except EncodeError as error:
            if (kind := self._subject_type_at(error.path, event)) is None:
                raise
            remedy = f"pass it as subject=, as it is a {kind}"
            raise EncodeError(error.event_name, error.path, f"{error.why}; {remedy}") from error
        now = self._clock.now() if now is None else now
        if not FIRST_DATE <= now < END_OF_DATES:
            raise ConfigurationError(
                f"clock: expected seconds since the epoch, before the year 10000; now() returned {shown(now)}"
            )
        if conditions is None:
            conditions = Conditions.of(content.name, options, now=now) if options else NO_CONDITIONS
        elif conditions.claim is not None:
            raise ConfigurationError("dispatch_many: unique= is the key of one event; dispatch several one by one")
        if isinstance(event, Event):
            subject, event_id = event.subject, None if event.id is None else _valid_id(event, event.id)
        else:
            subject, event_id = subject_of(event), None
        about = None if subject is None else self._subjects.named(subject)
        if event_id is None:
            event_id = made_id(_identifying(content, about)) if made_id else self._ids(now)
        around = surroundings(event, self._hooks)
        if subject is None or about is not None:
            body = encoded(content, event_id=event_id, source=self._source, now=now, subject=about, around=around)
            envelopes = self._made(event_id, content.name, body, conditions, targets, headers=headers)
            return PackedEvent(event_id, conditions, around, envelopes)
        # A subject without an id is named at the commit; everything else is validated now.
        longest = Subject(self._subjects.of(subject).type, _LONGEST_ID)
        encoded(content, event_id=event_id, source=self._source, now=now, subject=longest, around=around)
        return PackedEvent(event_id, conditions, around, None, Unnamed(content, now, subject, targets, headers))

    def check(self, event: object, options: DispatchOptions) -> None:
        """
        Raise what :meth:`pack` raises for *event* and its *options*, except for its subject.

        In process that is any object; it has no name.
        """
        self.pack(attrs.evolve(event, subject=None) if isinstance(event, Event) else event, options, ())

    def _subject_type_at(self, path: str, event: object) -> str | None:
        """Return the subject type of the argument of *event* at *path*; ``None`` if it is of no registered one."""
        found = (
            [value for key, value in event.arguments.items() if path == f"$.{key}"] if isinstance(event, Event) else []
        )
        for value in found:
            with suppress(SubjectError):
                return self._subjects.of(value).type
        return None

    def new_id(self) -> str:
        """Return the id of an event that is not packed, since it leaves no process."""
        return self._ids(self._clock.now())

    def envelopes(self, packed: PackedEvent) -> Sequence[Envelope]:
        """
        Return the envelopes of *packed*, one for each target.

        Raises:
            SubjectError: Its subject has no id yet.
        """
        unnamed = packed.unnamed
        if unnamed is None:
            return packed.envelopes or ()
        body = encoded(
            unnamed.content,
            event_id=packed.id,
            source=self._source,
            now=unnamed.now,
            subject=self.name(unnamed.subject),
            around=packed.around,
        )
        return self._made(
            packed.id, unnamed.content.name, body, packed.conditions, unnamed.targets, headers=unnamed.headers
        )

    def _made(
        self,
        event_id: str,
        name: str,
        body: bytes,
        conditions: Conditions,
        targets: Sequence[Target],
        *,
        headers: Headers,
    ) -> Sequence[Envelope]:
        made = []
        for target in targets:
            envelope = made_envelope(
                id=event_id,
                source=self._source,
                name=name,
                queue=target.queue,
                body=body,
                headers=NO_HEADERS if headers is None else headers[target],
                urgency=conditions.urgency,
                ordering_key=conditions.ordering_key,
                expires=conditions.expires,
            )
            made.append(envelope if self._sign is None else self._sign(envelope))
        return made

    def name(self, subject: object) -> Subject:
        """
        Return the name of *subject*.

        Raises:
            SubjectError: It has no id yet, or is of no registered type.
        """
        found = self._subjects.named(subject)
        if found is None:
            raise SubjectError(
                f'the subject of type "{self._subjects.of(subject).type}" has no id yet, or its row was rolled back, '
                f"or it was not added to a session; add and flush it first, or dispatch with session= of the session "
                f"that it was added to"
            )
        return found


def surroundings(event: object, hooks: Hooks) -> Ambient:
    """
    Return the context and the parent's ids for *event*.

    Names of the event's own arguments are left out; the application's context wins over values of plugins.
    """
    here = ambient()
    added = hooks.enrichment(event) if hooks.enriches else {}
    if not (added or here.context):
        return here
    own = event.arguments if isinstance(event, Event) else declared(type(event)).fields
    context = {key: each for key, each in {**added, **here.context}.items() if key not in own}
    return Ambient(context, here.correlation, here.causation)


def refuse_unknown(event_name: str, options: Mapping[str, object]) -> None:
    """Raise :class:`TypeError` if *options* has one that a dispatch has not."""
    if unknown := sorted(options.keys() - DispatchOptions.__annotations__.keys()):
        data = f'the arguments of an event are one mapping: dispatch("{event_name}", {{"{unknown[0]}": …}})'
        raise no_option("a dispatch", unknown[0], DispatchOptions.__annotations__, DISPATCH, otherwise=data)


def check_options(event_name: str, options: DispatchOptions) -> None:
    """Raise :class:`EncodeError` if a dispatch option is invalid, :class:`TypeError` if there is no such option."""
    refuse_unknown(event_name, options)
    if (urgency := options.get("urgency", "normal")) not in get_args(Urgency):
        raise EncodeError(event_name, "urgency", f"expected normal or high; got {shown(urgency)}")
    for option in ("ordering_key", "unique"):
        _check_key(event_name, option, options.get(option))
    if options.get("within") and options.get("unique") is None:
        raise ConfigurationError('within: it needs a unique key; pass unique="…" too')


def refuse_to(options: DispatchOptions) -> None:
    """Raise :class:`ConfigurationError` if *options* choose targets, for a dispatcher that has none to choose from."""
    if (to := options.get("to")) is not None:
        raise ConfigurationError(f"to: only relevo.App has targets to choose from; got {shown(to)}; leave it out")


def _check_key(event_name: str, option: str, key: object) -> None:
    """Raise :class:`EncodeError` if *key*, the value of *option*, is neither a key nor ``None``."""
    if key is not None and not _is_line(key):
        fix = "" if isinstance(key, str) else "; write it as text"
        raise EncodeError(event_name, option, f"expected 1 to 255 printable characters; got {shown(key)}{fix}")


def _claim(options: DispatchOptions) -> KeyClaim | None:
    key = options.get("unique")
    return None if key is None else KeyClaim(key, seconds(options.get("within", 0.0), what="within"))


def checked_expires(expires: Moment | None, *, now: float) -> float | None:
    """
    Return *expires* in seconds since the epoch.

    Raises:
        ConfigurationError: It is not a moment, or not after *now*: the event would never be handled.
    """
    if expires is None:
        return None
    end = moment(expires, now=now, what="expires")
    if isinstance(expires, (int, float)) and 0 < end < _YEAR_2000 <= now:
        raise ConfigurationError(
            f"expires: expected seconds since the epoch; got {shown(expires)}, before the year 2000; write "
            f'expires="{shown(expires)}s" for a time from now'
        )
    if end <= now:
        raise ConfigurationError(
            f"expires: expected a moment in the future; got {shown(expires)}, {now - end:.10g} s ago; "
            f'pass a later one, or the time from now such as "1h"'
        )
    return end


def _valid_id(event: Event, wanted: str) -> str:
    if not _is_line(wanted):
        raise EncodeError(event.name, "id", "expected 1 to 255 printable characters")
    return wanted


def _identifying(content: Content, about: Subject | None) -> bytes:
    """Return the bytes of an event from which the id of a follow-up event is derived."""
    return b"%b %b %b" % (content.name.encode(), str(about).encode("utf-8", "surrogatepass"), content.data)


def _wait(delay: Duration, at: Moment | None, now: float) -> float:
    wait = seconds(delay, what="delay")
    if at is None:
        return wait
    if wait:
        raise ConfigurationError("a dispatch takes delay= or at=, not both")
    then = moment(at, now=now, what="at")
    if isinstance(at, (int, float)) and then < _YEAR_2000 <= now:
        raise ConfigurationError(
            f"at: expected seconds since the epoch; got {shown(at)}, before the year 2000; write "
            f"delay={shown(at)} for a time from now"
        )
    return seconds(max(0.0, then - now), what="at, in seconds from now")


def _is_line(text: object) -> bool:
    return type(text) is str and 0 < len(text) <= 255 and text.isprintable()
