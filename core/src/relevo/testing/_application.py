"""An application under test."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import attrs

from relevo._app.app import clockwork_of, parts_of, using
from relevo._clock import Duration, Moment, moment, seconds
from relevo._listener.annotation import type_name
from relevo._synonym import missing_attribute
from relevo._transport.route import RESERVED, Target
from relevo.errors import ConfigurationError, did_you_mean, shown
from relevo.testing._clock import FakeClock, StandingClock
from relevo.testing._crash import Crashes
from relevo.testing._drain import (
    DeadEvent,
    OpenValuesForTest,
    RaisedError,
    Unheard,
    dead_events,
    drain,
    format_dead,
    format_raised,
)
from relevo.testing._effect import RepeatedEffectError
from relevo.testing._query import Predicate, Query, absence, listing, query_for
from relevo.testing._record import DispatchedEvent, Record
from relevo.testing._sender import RecordingSender
from relevo.testing._stand_in import stand_ins

if TYPE_CHECKING:
    from relevo._app.app import App
    from relevo._event.event import Event
    from relevo._listener.listener import ListenerTable
    from relevo._transport.delivery import Delivery
    from relevo._transport.envelope import Envelope
    from relevo._transport.transport import Transport
    from relevo._worker.run import Report

_NONE: Mapping[Any, object] = MappingProxyType({})
_LONGEST_DEAD = 600
"""The largest length of a dead letter in an error: its cause names the field at the end."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""In the text of an object that has none of its own."""


class AppTesting:
    """
    An application under test: the result of :meth:`relevo.App.testing`, a context manager.

    Inside the block every transport and outbox of the application is in memory, and refuses what the real one
    does not claim, and a dispatch that would wait there for a session of its own; the clock stands still until
    :meth:`travel` moves it; waits have no jitter; an event must be encodable even if its route is ``now``, except its
    subject. The real transports are not used. Afterwards everything is restored, even after an error.

    Args:
        app: The application.

        now: The time at the start: a datetime with a zone, or seconds since the epoch; by default the time of the
            application's clock.

        provide: What listeners get in place of what a lifespan yields, by that type; these lifespans are not opened.
            The others are opened at their first use in the block, and closed at its end.

    Raises:
        ConfigurationError: relevo-memory is not installed.
    """

    def __init__(self, app: App, *, now: Moment | None = None, provide: Mapping[Any, object] = _NONE):
        self.app = app
        """The application."""
        start = app.clock.now()
        self.clock: FakeClock = StandingClock(start if now is None else moment(now, now=start, what="now"))
        """The application's clock inside the block."""
        self._provided = provide
        self._record = Record()
        self._interrupted: set[str] = set()
        self._crashes: Crashes | None = None
        self._undo = ExitStack()
        self._configured: Mapping[str, Transport] = {}
        self._held_before: frozenset[str] = frozenset()
        self._inside: object = None
        self._entered = False

    def __repr__(self) -> str:
        state = "" if self._inside is not None else ", ended" if self._entered else ", not entered"
        return f"<AppTesting of {self.app.source}: {len(list(self._record))} dispatched{state}>"

    def __enter__(self) -> Self:
        if self._entered:
            raise ConfigurationError("this block was entered already; use a new app.testing() for each block")
        app = self.app
        former = parts_of(app).stores()
        self._configured = app.transports
        memory = stand_ins(former, clock=self.clock, sent=self._note_sent, stored=self._note_state)
        registry = parts_of(app).registry.copy()
        opened = self._opened = OpenValuesForTest(registry.known.lifespans, self._provided)
        _check_provided(self._provided, registry.known)
        with ExitStack() as undo:
            undo.enter_context(
                using(
                    app,
                    attrs.evolve(
                        parts_of(app),
                        transports={name: memory[each] for name, each in app.transports.items()},
                        outboxes={name: memory[each] for name, each in app.outboxes.items()},
                        coordinators={name: memory[each] for name, each in app.coordinators.items()},
                        keepers={},  # memory keeps its own dead letters
                        registry=registry,
                        opened=opened,
                        schedules=parts_of(app).schedules.copy(),
                        clock=self.clock,
                        chance=lambda: 0.0,
                    ),
                    sender=partial(RecordingSender, self._record, self._blocked_send),
                )
            )
            for each in memory.values():
                undo.callback(each.close)
            undo.callback(opened.close)
            app.setup()
            self._undo = undo.pop_all()
        self._inside, self._entered = app.transports, True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._inside = None
        self._undo.close()

    @contextmanager
    def _crashing(self, crashes: Crashes | None) -> Iterator[None]:
        """Pass what happens to *crashes* while the block runs."""
        self._crashes = crashes
        try:
            with nullcontext() if crashes is None else crashes.watching():
                yield
        finally:
            self._crashes = None

    def _note_sent(self, envelope: Envelope, target: Target, delay: float) -> None:
        self._record.add_sent(envelope, target, delay)
        if self._crashes is not None:
            self._crashes.note_sent(envelope)

    def _note_state(self, delivery: Delivery, state: bytes) -> None:
        if self._crashes is not None:
            self._crashes.note_state(delivery, state)

    def record_effect(self, name: str, *values: object) -> None:
        """
        Report an effect outside of a database, such as a mail, from what stands in for it in the test.

        With ``t.drain(crash="everywhere")`` it is an error if an effect with the same name and equal values happens
        again after a crash. Otherwise nothing is done.

        Args:
            name: Its name.

            values: What distinguishes it from another one, such as the recipient and the number of the order.

        Raises:
            ConfigurationError: A value has no text of its own by which it could be compared, as most objects.
        """
        for each in values:
            if _ADDRESS.search(repr(each)):
                raise ConfigurationError(
                    f"t.record_effect: {type(each).__qualname__} has no text of its own, so it differs in each run; "
                    f"pass what distinguishes it, such as a recipient or a number"
                )
        if self._crashes is not None:
            self._crashes.record(name, values)

    def _blocked_send(self, transport: str) -> str | None:
        """Return why a send would block on the configured *transport*; the stand-in would not wait."""
        if self._crashes is not None:
            self._crashes.refuse_if_dead()
        return None if transport in self._held_before else self._configured[transport].blocked_send()

    @contextmanager
    def _as_a_worker(self) -> Iterator[None]:
        """Ignore the sessions of the test while the block runs: a worker is another process, and can wait for them."""
        self._held_before = frozenset(name for name, each in self._configured.items() if each.blocked_send())
        try:
            yield
        finally:
            self._held_before = frozenset()

    # --- what was dispatched ---------------------------------------------------------------------------

    def dispatched(
        self,
        event: object = None,
        predicate: Predicate | None = None,
        /,
        *,
        subject: Any = None,
        queue: str | None = None,
        target: str | None = None,
        times: int | None = None,
        **arguments: Any,
    ) -> list[DispatchedEvent]:
        """
        Return the dispatched events that match, in order.

        Args:
            event: A name; a declared class; an event, which has to be equal; by default any event.

            predicate: A function that takes the event, and returns whether it is meant: an :class:`Event`, or an
                instance of the declared class. It may also be the only argument.

            subject: Its subject: an object of a registered type, or a :class:`relevo.Subject`.

            queue: A queue that it was sent to; ``now`` in process.

            target: A target that it was sent to, ``transport`` or ``transport/queue``.

            times: The exact number of events; by default at least one. With 0, an unknown name or argument is an error
                as in :meth:`refute_dispatched`.

            arguments: Some of its arguments, or of its fields. With a name, values are compared in their JSON form.

        Raises:
            AssertionError: No event matches, or the number differs; it lists the dispatched events, best match first.

            RouteNotFoundError: No route matches the name.

            ConfigurationError: No event can match: it is not an event, has no such field, or is not routed there. With
                a name, the fields are those of its declared class, if there is one, and of events with that name.
        """
        __tracebackhide__ = True
        given: object = times
        if given is not None and (type(given) is not int or given < 0):
            raise ConfigurationError(f"times: expected a whole number from 0; got {shown(given)}")
        absent = times == 0
        query = self._query(
            event, predicate, absent=absent, subject=subject, queue=queue, target=target, arguments=arguments
        )
        if absent:
            self._refuse_if_unknown(query)
        found = query.found(self._record)
        if not found and times != 0:
            raise AssertionError(absence(query, self._record, meant=self._meant(query)))
        if times is not None and len(found) != times:
            raise AssertionError(
                f"{query.text} was dispatched {_times(len(found))}, not {_times(times)}:{listing(found)}"
            )
        return found

    def refute_dispatched(
        self,
        event: object = None,
        predicate: Predicate | None = None,
        /,
        *,
        subject: Any = None,
        queue: str | None = None,
        target: str | None = None,
        **arguments: Any,
    ) -> None:
        """
        Check that no dispatched event matches; without arguments, that no event was dispatched.

        The arguments are those of :meth:`dispatched`. So that a misspelt name does not pass, a name that only a
        pattern matches must have a listener, or must have been dispatched with other arguments. If it was, and has no
        declared class, each argument must be one of those with which it was dispatched.

        Raises:
            AssertionError: An event matches; it is listed.

            ConfigurationError: As in :meth:`dispatched`, and if the name or an argument is unknown.
        """
        __tracebackhide__ = True
        query = self._query(
            event, predicate, absent=True, subject=subject, queue=queue, target=target, arguments=arguments
        )
        self._refuse_if_unknown(query)
        found = query.found(self._record)
        if found:
            raise AssertionError(f"{query.text} was dispatched:{listing(found)}")

    def _query(self, event: object, predicate: Predicate | None, **how: Any) -> Query:
        __tracebackhide__ = True
        return query_for(self.app, event, predicate, known=self._known(), **how)

    def _known(self) -> list[Event]:
        """Return all events that were dispatched, with and without a commit."""
        return [*(each.event for each in self._record), *self._record.enlisted, *self._record.dropped]

    def _refuse_if_unknown(self, query: Query) -> None:
        __tracebackhide__ = True
        hint = self._meant(query)
        if hint is None:
            return
        raise ConfigurationError(
            f'unknown event "{query.name}": it has no listener and no route of its own, and none was dispatched'
            f"{hint or '.'} If another application listens to it, give it a route of its own, or refute its class"
        )

    def _meant(self, query: Query) -> str | None:
        """Return the suggestion of a known name if that of *query* may be misspelt; ``None`` if it is known."""
        name = query.name
        if name is None or not query.by_name or name in self.app.routes.names():
            return None
        known = {each.name for each in self._known()}
        if name in known or self.app.has_listeners(name):
            return None
        known |= {each.event_name for each in self.app.listeners} | set(self.app.routes.table) | self.app.routes.names()
        return did_you_mean(name, known)

    # --- handling --------------------------------------------------------------------------------------

    def interrupt(self, *, after: str) -> None:
        """
        Let the next :meth:`drain` stop the listener once after the step or the row of a cursor called *after*.

        It stops as at the end of a worker, where its next step or row would begin; then the drain calls it again. The
        report counts the event as retried, and then as done.
        """
        self._refuse_outside()
        if not after:
            raise ConfigurationError("t.interrupt(after=…): expected the name of a step or a cursor; got ''")
        self._interrupted.add(after)

    def drain(
        self,
        *,
        raises: bool = True,
        twice: bool = False,
        crash: Literal["everywhere"] | None = None,
        repeatable: Collection[str] = (),
        limit: int = 10_000,
    ) -> Report:
        """
        Handle all ready events on every transport, and those that become ready; relay the events in outboxes.

        The clock does not move: events that are due later, including retries, need :meth:`travel` first.

        Args:
            raises: Raise the first error of a listener, or of a lifespan that does not open, unchanged, at the end; the
                event is retried by a later call as usual. ``RetryLater`` is not an error.

            twice: Handle every delivery twice, the first time as if the process had died before the settlement,
                so that each listener runs again; it shows whether they are idempotent.

            crash: With ``"everywhere"`` each delivery runs repeatedly. One run after the other is killed: after each
                step and row that is stored, each commit with SQLAlchemy that writes, each ``call.dispatch()``, each
                listener that has returned, and before the ack. An effect that happens again in a later run is an
                error: a change of the tables written to, an event sent with another id, or one that
                :meth:`record_effect` reports.

            repeatable: The names of tables, columns (``table.column``), events and effects that may happen again.

            limit: Fail after this number of events.

        Returns:
            The counts of deliveries; ``handled`` is the sum of ``done``, ``retried`` and ``dead``. A delivery that
            is handled twice counts once. A relayed event counts where it is handled; only events that die in
            an outbox count there.

        Raises:
            AssertionError: No listener raised, but an event died or has no listener here, the limit was reached, or
                no step or row began after the name passed to :meth:`interrupt`; or a delivery has more than 100 points
                at which it can be killed.

            RepeatedEffectError: No listener raised, but an effect happened twice.

            ConfigurationError: A listener is bound to a queue that its event is not routed to, or *crash*, *twice* and
                *repeatable* do not go together.
        """
        __tracebackhide__ = True
        self._refuse_outside()
        crashes = _crashes(crash, twice=twice, repeatable=repeatable)
        before = {(each.transport, each.entry.ref) for each in self.dead}
        failures: list[RaisedError] = []
        self._opened.failures.clear()
        given_back = Unheard()
        with given_back.watching(self.app), self._as_a_worker(), self._crashing(crashes):
            report = drain(
                self.app,
                twice=twice,
                failed=failures.append,
                limit=limit,
                interrupted=self._interrupted,
                crashes=crashes,
            )
        never, self._interrupted = sorted(self._interrupted), set()
        if not raises:
            _raise_repeated(crashes)
            return report
        if self._opened.failures:
            raise self._opened.failures[0]
        if failures:
            first, *others = failures
            if others:
                count = "one more" if len(others) == 1 else f"{len(others)} more"
                texts = "; ".join(map(format_raised, others[:5]))
                first.error.add_note(f"relevo: {count} failed while draining: {texts}")
            raise first.error.with_traceback(first.traceback)
        _raise_repeated(crashes)
        if never:
            raise AssertionError(
                f't.interrupt(after="{never[0]}"): no listener went on after a step of that name; a listener is '
                f"interrupted where its next step or row would begin"
            )
        if unheard := given_back.texts(self.app):
            raise AssertionError(
                "events without a listener would be retried, then dead-lettered:"
                + "".join(f"\n  {text}" for text in unheard)
                + "\nIf another application handles one, route it by its name to a queue in which no listener here "
                "runs, or pass t.drain(raises=False)"
            )
        if report.dead:
            dead = [each for each in self.dead if (each.transport, each.entry.ref) not in before]
            count = "1 event is" if report.dead == 1 else f"{report.dead} events are"
            lines = listing(dead, format_dead, longest=_LONGEST_DEAD)
            raise AssertionError(f"no listener raised, but {count} dead:{lines}")
        return report

    @property
    def dead(self) -> list[DeadEvent]:
        """The dead letters of every queue, outboxes included, with their reasons."""
        self._refuse_outside()
        return dead_events(self.app)

    def revive(self, *dead: DeadEvent) -> None:
        """
        Put dead letters back to be handled again, as ``relevo dead revive`` does: only what failed runs again.

        Args:
            dead: Some of :attr:`dead`; by default all.

        Raises:
            ConfigurationError: One of them is no longer there, or is not a dead letter.
        """
        for given in dead:
            _refuse_other(given)
        for each in dead or self.dead:
            self._refuse_outside()
            app = self.app
            kept = app.outboxes if each.queue.startswith(RESERVED) else app.transports
            state = app.revived(each.entry, transport=each.transport)
            if kept[each.transport].revive({each.entry.ref: state}):
                raise ConfigurationError(f"revive: {each!r} was revived or discarded before; read t.dead again")

    def travel(self, by: Duration | None = None, *, to: Moment | None = None) -> None:
        """
        Move the clock forward, and fire the schedules whose ticks it passes; no event is handled.

        Each tick is fired, at its own time, as by a worker that runs all the time.

        Args:
            by: The distance: seconds, a timedelta, or text such as ``"1h"``.

            to: The new time instead: a datetime with a zone, or seconds since the epoch.

        Raises:
            ConfigurationError: Neither or both are given, one is invalid, or the new time is before now.
        """
        if (by is None) is (to is None):
            raise ConfigurationError('travel: pass a duration, as in t.travel("1h"), or a datetime with a zone as to=')
        if isinstance(by, datetime):
            raise ConfigurationError(f"travel: expected a duration; got {shown(by)}; write t.travel(to=…)")
        now = self.clock.now()
        distance = seconds(by, what="the distance of travel") if to is None else moment(to, now=now, what="to") - now
        if distance < 0:
            raise ConfigurationError(
                f"travel: to= is {-distance:g} s ago, and the clock cannot go back; start earlier: app.testing(now=…)"
            )
        self._fire_until(now + distance)
        self.clock.advance(max(0.0, now + distance - self.clock.now()))

    def _fire_until(self, end: float) -> None:
        """Move the clock from tick to tick until *end*."""
        found = [clockwork_of(self.app, name) for name in self.app.transports] if len(self.app.schedules) else []
        clockworks = [each for each in found if each is not None]
        for each in clockworks:
            each.turn(self.clock.now())
        while ticks := [each.next for each in clockworks if each.next is not None and each.next <= end]:
            self.clock.advance(max(0.0, min(ticks) - self.clock.now()))
            for each in clockworks:
                each.turn(self.clock.now())

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Raise :class:`AttributeError`, for an attribute of another tool with what there is instead."""
            return missing_attribute(self, "AppTesting", name)

    def _refuse_outside(self) -> None:
        __tracebackhide__ = True
        if self._inside is None:
            raise ConfigurationError("app.testing() has ended or was not entered; call this inside its with block")
        if self.app.transports is not self._inside:
            raise ConfigurationError("another app.testing() block is active inside this one; use its object")


def _crashes(crash: object, *, twice: bool, repeatable: Collection[str]) -> Crashes | None:
    if crash is None:
        if repeatable:
            raise ConfigurationError('t.drain(repeatable=…): it is for t.drain(crash="everywhere")')
        return None
    if crash != "everywhere":
        raise ConfigurationError(f't.drain(crash=…): expected "everywhere"; got {shown(crash)}')
    if twice:
        raise ConfigurationError('t.drain(crash="everywhere") handles every delivery repeatedly; leave out twice=True')
    if isinstance(repeatable, str):
        raise ConfigurationError(f"t.drain(repeatable=…): expected a list of names; got {shown(repeatable)}")
    return Crashes(repeatable)


def _raise_repeated(crashes: Crashes | None) -> None:
    """Raise what crashes have found, also in a drain that raises no error of a listener."""
    if crashes is not None and crashes.too_many:
        raise AssertionError(crashes.too_many)
    if crashes is not None and crashes.found:
        raise RepeatedEffectError(crashes.found, crashes.unmatched)


def _refuse_other(given: object) -> None:
    if not isinstance(given, DeadEvent):
        hint = "; pass a list as t.revive(*…)" if isinstance(given, (list, tuple)) else ""
        raise ConfigurationError(f"revive: expected some of t.dead; got {shown(given)}{hint}")


def _check_provided(provided: Mapping[Any, object], listeners: ListenerTable) -> None:
    """Refuse a value of a type that no lifespan yields and no listener asks for."""
    known = {each.kind for each in listeners.lifespans}.union(*(each.needs.values() for each in listeners))
    for kind in provided:
        if kind not in known:
            there = ", ".join(sorted(map(type_name, known))) or "none"
            raise ConfigurationError(
                f"testing: provide: no lifespan yields {type_name(kind)}, and no listener asks for it; there are: "
                f"{there}"
            )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
