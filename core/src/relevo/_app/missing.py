"""Listeners that stored events still need and that are not here, since they were renamed or moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, TypeVar

import attrs

from relevo._app.check import listeners_at
from relevo._app.parts import Parts
from relevo._listener.listener import Listener, ListenerTable, default_id
from relevo._secret import without_secrets
from relevo._transport.delivery import MAX_STATE
from relevo._transport.envelope import Envelope
from relevo._transport.query import EventFilter, Status, WaitingEntry
from relevo._transport.route import Target
from relevo._transport.transport import DeadLetterEntry, Transport
from relevo._visible import visible
from relevo._worker.progress import Progress, if_renamed, loaded, revived
from relevo.errors import DecodeError, RelevoError, nearest

SAMPLE = 1_000
"""The events of a queue that are looked at, and the dead letters; there may be millions."""

LOOK_TIME = 2.0
"""Seconds after which no further page is read."""

_PAGE = 200
_MOST = 50
"""The listeners of a queue that are named; the states of other programs may hold any number of ids."""

_LONGEST = 200
"""Characters of an id that are shown; the state of another program may have any."""

_HALVES: tuple[tuple[Status, ...], ...] = (("scheduled", "leased"), ("ready",))
"""Events that are retried are in the first, as a rule, and a backlog of new ones is in the second."""

Need = Literal["waits", "ran"]
"""Whether an event waits for a listener, or that listener is done and would run again under another id."""

_Entry = TypeVar("_Entry", WaitingEntry, DeadLetterEntry)


@attrs.frozen(kw_only=True)
class MissingListener:
    """A listener that stored events need and that is not here."""

    target: Target
    event: str
    """The name of the events."""

    listener: str
    """Its id, as the events have it."""

    need: Need
    is_dead: bool
    """Whether these events are dead letters, which need it if they are revived."""

    count: int
    looked_at: int
    """The events or dead letters of the queue that were looked at; there may be more."""

    meant: str | None
    """The listener here that it may be now."""

    elsewhere: Sequence[str] = ()
    """Where it runs now, if it was only moved to another queue."""

    @property
    def is_certain(self) -> bool:
        """Whether workers will meet it; a dead letter may stay one, and a done listener may have been removed."""
        return self.need == "waits" and not self.is_dead

    def __str__(self) -> str:
        noun = "dead letter" if self.is_dead else "event"
        head = f"{self.count:,} of the {self.looked_at:,} {noun}s that were looked at in {self.target}"
        if self.looked_at == 1:
            head = f"the only {noun} that was looked at in {self.target}"
        which = f"which now runs in {', '.join(self.elsewhere)}" if self.elsewhere else "which is not here"
        who = f'the listener {_cut(self.listener)} of "{self.event}", {which}'
        return visible(f"{head} {self._needs.format(who=who)}{self._remedy}")

    @property
    def _needs(self) -> str:
        is_one = self.count == 1
        if self.need == "ran":
            then = " if revived" if self.is_dead else ""
            return f'{"has" if is_one else "have"} finished with {{who}}, and would run "{self.meant}"{then}'
        if self.is_dead:
            again = "a dead letter" if is_one else "dead letters"
            return f"{'has' if is_one else 'have'} not finished with {{who}}, and would become {again} again if revived"
        return "waits for {who}, and becomes a dead letter" if is_one else "wait for {who}, and become dead letters"

    @property
    def _remedy(self) -> str:
        if self.elsewhere:
            return f"; let it run in {self.target} until there are none"
        hint = f'; did you mean "{without_secrets(self.meant)}"?' if self.meant and self.need == "waits" else ""
        return f"{hint}; {if_renamed(_cut(self.listener))}"


def missing_listeners(parts: Parts, listeners: ListenerTable) -> list[MissingListener]:
    """
    Return the listeners that events and dead letters still need and that *listeners* do not have.

    Some events of each queue are looked at, and nothing is changed. Stores that cannot list their events, or that are
    down, are passed over. So are events without a listener in their queue here: another program handles them.
    """
    ends = parts.clock.monotonic() + LOOK_TIME
    found: list[MissingListener] = []
    for name, store in parts.transports.items():
        for queue in parts.queues(name) if store.capabilities.waiting else ():
            search = _Search.of(parts, listeners, Target(name, queue))
            if search.here:
                found += search.run(store, lambda: parts.clock.monotonic() >= ends)
    return found


@attrs.frozen
class _Required:
    event: str
    listener: str
    need: Need


@attrs.define
class _Tally:
    """How many events need a listener, and which listeners here have not begun in one of them."""

    count: int = 0
    unbegun: set[str] = attrs.field(factory=set)


@attrs.frozen
class _Search:
    """Searches one queue."""

    parts: Parts
    listeners: ListenerTable
    target: Target
    here: dict[str, list[Listener]]
    """By event, the listeners that run in this queue."""

    packages: set[str | None]
    """The packages of the listeners of this application."""

    @classmethod
    def of(cls, parts: Parts, listeners: ListenerTable, target: Target) -> _Search:
        here: dict[str, list[Listener]] = {}
        for each in listeners_at(target, listeners, parts.routes):
            here.setdefault(each.event_name, []).append(each)
        packages = {_package(default_id(each.function)) for each in listeners}
        return cls(parts, listeners, target, here, packages)

    def run(self, store: Transport, is_late: Callable[[], bool]) -> Iterator[MissingListener]:
        """Yield what the events in *store* need, then what its dead letters need; what most need comes first."""
        living = ((entry.envelope, entry.state) for entry in self._living(store, is_late))
        yield from self._found(living, is_dead=False)
        if store.capabilities.dead_letters:
            dead = ((entry.envelope, _revived(entry)) for entry in self._dead(store, is_late))
            yield from self._found(dead, is_dead=True)

    def _living(self, store: Transport, is_late: Callable[[], bool]) -> Iterator[WaitingEntry]:
        left = SAMPLE
        for most, states in zip((SAMPLE // 2, SAMPLE), _HALVES, strict=True):
            read = partial(store.waiting, [self.target.queue], where=EventFilter(states=states))
            for entry in _paged(read, lambda entry: entry.cursor, min(most, left), is_late):
                left -= 1
                yield entry

    def _dead(self, store: Transport, is_late: Callable[[], bool]) -> Iterator[DeadLetterEntry]:
        read = partial(store.dead_letters, [self.target.queue])
        return _paged(read, lambda entry: entry.ref, SAMPLE, is_late)

    def _found(self, entries: Iterable[tuple[object, bytes]], *, is_dead: bool) -> Iterator[MissingListener]:
        """Yield what *entries* need: events, each with its state."""
        looked_at, tallies = 0, dict[_Required, _Tally]()
        with suppress(RelevoError):  # reported by the check of the server
            for envelope, state in entries:
                looked_at += 1
                if isinstance(envelope, Envelope) and state:
                    self._add(envelope, state, tallies)
        for key in sorted(tallies, key=lambda key: -tallies[key].count)[:_MOST]:
            tally = tallies[key]
            meant = _meant(key.listener, tally.unbegun or {each.id for each in self.here[key.event]})
            if key.need == "ran" and meant is None:
                continue  # it was removed, and another one was added
            yield MissingListener(
                target=self.target,
                event=key.event,
                listener=key.listener,
                need=key.need,
                is_dead=is_dead,
                count=tally.count,
                looked_at=looked_at,
                meant=meant,
                elsewhere=self._places(key),
            )

    def _add(self, envelope: Envelope, state: bytes, tallies: dict[_Required, _Tally]) -> None:
        """Add what the event *envelope* needs to *tallies*."""
        here = self.here.get(envelope.name)
        progress = _progress(state) if here else None
        if here is None or progress is None:
            return
        progress.adopt_aliases(here)
        ids = [each.id for each in here]
        unbegun = progress.unbegun(ids)
        known = {name for each in self.listeners.of(envelope.name) for name in (each.id, *each.aliases)}
        # Without a listener that has not begun, nothing runs again; the one that is done was removed.
        ran = [each for each in progress.ended(ids) if each not in known] if unbegun else []
        is_own = envelope.source == self.parts.source or any(each in progress.listeners for each in ids)
        needs: list[tuple[str, Need]] = [
            *((each, "waits") for each in progress.missing(ids)),
            *((each, "ran") for each in ran),
        ]
        for listener, need in needs:
            # An event of another application, which shares the queue, is not to be judged by the listeners of this one.
            if is_own or listener in known or _package(listener) in self.packages:
                tally = tallies.setdefault(_Required(envelope.name, listener, need), _Tally())
                tally.count += 1
                tally.unbegun.update(unbegun)

    def _places(self, key: _Required) -> list[str]:
        """Return the other queues in which the listener of *key* runs now."""
        return [
            str(target)
            for target in self.parts.routes.targets(key.event)
            for each in listeners_at(target, self.listeners, self.parts.routes)
            if each.event_name == key.event and key.listener in (each.id, *each.aliases)
        ]


def _paged(
    read: Callable[..., Sequence[_Entry]], cursor_of: Callable[[_Entry], str], most: int, is_late: Callable[[], bool]
) -> Iterator[_Entry]:
    """Yield up to *most* entries of the pages that *read* returns, until it is late."""
    after = None
    while most > 0 and not is_late() and (page := read(after=after, limit=min(most, _PAGE))):
        yield from page
        most -= len(page)
        after = cursor_of(page[-1])


def _progress(state: bytes) -> Progress | None:
    """Return the progress in *state*, whose signature is not verified; ``None`` if it cannot be read."""
    try:
        return loaded(state) if len(state) <= MAX_STATE else None
    except DecodeError:
        return None


def _revived(entry: DeadLetterEntry) -> bytes:
    """Return the state that *entry* would have if it were revived; empty if this release cannot revive it."""
    try:
        return revived(entry.state)
    except DecodeError:  # a newer release wrote it
        return b""


def _meant(listener_id: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that *listener_id* may be now: the function in another module, or a similar name."""
    wanted, known = _cut(listener_id), sorted(known)
    name = wanted.rpartition(":")[2]
    same = [each for each in known if each.rpartition(":")[2] == name]
    return nearest(wanted, same, 0.0) if same else nearest(wanted, known)


def _package(listener_id: str) -> str | None:
    """Return the outermost package of the module in *listener_id*; ``None`` if the id has none."""
    module, colon, _ = listener_id.partition(":")
    return module.partition(".")[0] if colon else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
