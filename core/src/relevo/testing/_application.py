"""An application under test."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs

from relevo._clock import Duration, Moment, moment, seconds
from relevo.errors import ConfigurationError, did_you_mean
from relevo.testing._clock import FakeClock, StandingClock
from relevo.testing._drain import DeadEvent, Failure, dead_events, dead_told, drain, failure_told
from relevo.testing._query import Query, absence, asked, listing
from relevo.testing._record import DispatchedEvent, Record
from relevo.testing._sender import RecordingSender
from relevo.testing._stand_in import stand_ins

if TYPE_CHECKING:
    from relevo._app.app import App
    from relevo._transport.transport import Transport
    from relevo._worker.run import Report


class AppTesting:
    """
    An application in the hands of a test: what :meth:`relevo.App.testing` returns, to be entered with ``with``.

    Inside, every transport and every outbox of the application is in memory, and refuses what the real one
    does not claim; the clock stands until :meth:`travel` moves it; waits have no jitter; what is dispatched
    must have a faithful form also where the route says ``now``. The real transports are not touched. Afterwards,
    whatever happened, all is as it was.

    Args:
        app: Which one.

        now: When it begins: a datetime with a zone, or seconds since the epoch; when the application's
            clock says, by default.

    Raises:
        ConfigurationError: relevo-memory is not installed.
    """

    def __init__(self, app: App, *, now: Moment | None = None):
        self.app = app
        """The application."""
        start = app.clock.now()
        self.clock: FakeClock = StandingClock(start if now is None else moment(now, now=start, what="now"))
        """What the application takes the time from, inside."""
        self._record = Record()
        self._undo = ExitStack()
        self._inside: object = None
        self._entered = False

    def __enter__(self) -> Self:
        if self._entered:
            raise ConfigurationError("this block was entered already; begin another with app.testing()")
        app = self.app
        former: list[Transport] = [*app.transports.values(), *app.outboxes.values()]
        memory = stand_ins(former, clock=self.clock, taken=self._record.taken)
        with ExitStack() as undo:
            undo.enter_context(
                app.using(
                    attrs.evolve(
                        app.parts,
                        transports={name: memory[each] for name, each in app.transports.items()},
                        outboxes={name: memory[each] for name, each in app.outboxes.items()},
                        registry=app.parts.registry.copy(),
                        clock=self.clock,
                        chance=lambda: 0.0,
                    ),
                    sender=partial(RecordingSender, self._record),
                )
            )
            for each in memory.values():
                undo.callback(each.close)
            app.setup()
            self._undo = undo.pop_all()
        self._inside, self._entered = app.transports, True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._inside = None
        self._undo.close()

    # --- what was dispatched ---------------------------------------------------------------------------

    def dispatched(
        self,
        event: object = None,
        /,
        *,
        subject: Any = None,
        queue: str | None = None,
        target: str | None = None,
        times: int | None = None,
        **arguments: Any,
    ) -> list[DispatchedEvent]:
        """
        Return the events that were dispatched and are like this, in order.

        Args:
            event: A name; a declared class; an event, which has to be equal; or any event, by default.

            subject: What it happened to: an object of a registered type, or a :class:`relevo.Subject`.

            queue: One that it went to; ``now`` in process.

            target: One that it went to, ``transport`` or ``transport/queue``.

            times: How often exactly; at least once by default.

            arguments: Some of its arguments, or of its fields. With a name, rich values are compared as JSON
                has them.

        Raises:
            AssertionError: There is none, or not as many; it shows what there is, the nearest first.

            RouteNotFoundError: No route matches the name.

            ConfigurationError: It can never be there: it is no event, has no such field, or is not routed there.
        """
        __tracebackhide__ = True
        query = asked(self.app, event, subject=subject, queue=queue, target=target, arguments=arguments)
        events = list(self._record)
        found = query.found(events)
        if times is None and not found:
            raise AssertionError(absence(query, events, self._record.enlisted))
        if times is not None and len(found) != times:
            if not found:
                raise AssertionError(absence(query, events, self._record.enlisted))
            raise AssertionError(
                f"{query.text} was dispatched {_times(len(found))}, not {_times(times)}:{listing(found)}"
            )
        return found

    def refute_dispatched(
        self,
        event: object = None,
        /,
        *,
        subject: Any = None,
        queue: str | None = None,
        target: str | None = None,
        **arguments: Any,
    ) -> None:
        """
        Check that no event was dispatched that is like this; none at all, if nothing is said.

        The arguments are those of :meth:`dispatched`. So that a misspelt name does not pass, one that only a
        pattern matches must have a listener, or must have been dispatched with something else.

        Raises:
            AssertionError: There is one; it is shown.

            ConfigurationError: As :meth:`dispatched` raises it, and if nobody knows such an event.
        """
        __tracebackhide__ = True
        query = asked(self.app, event, subject=subject, queue=queue, target=target, arguments=arguments)
        self._refuse_if_unknown(query)
        found = query.found(self._record)
        if found:
            raise AssertionError(f"{query.text} was dispatched:{listing(found)}")

    def _refuse_if_unknown(self, query: Query) -> None:
        __tracebackhide__ = True
        name = query.name
        if name is None or not query.by_name or name in self.app.routes.table:
            return
        known = {each.event.name for each in self._record} | {each.name for each in self._record.enlisted}
        if name in known or self.app.has_listeners(name):
            return
        known |= {each.event_name for each in self.app.listeners} | set(self.app.routes.table)
        hint = did_you_mean(name, known) or "."
        raise ConfigurationError(
            f'nobody knows "{name}": no listener hears it, no route has its name and none was dispatched{hint} '
            f"If it is heard elsewhere, give it a route of its own, or refute its class"
        )

    # --- what becomes of it ----------------------------------------------------------------------------

    def drain(self, *, raises: bool = True, twice: bool = False, limit: int = 10_000) -> Report:
        """
        Handle all that is ready, and what becomes ready by that, on every transport; move on what outboxes hold.

        The clock does not move meanwhile: what is due later, retries among it, needs :meth:`travel` before.

        Args:
            raises: Raise the first error of a listener, as it is, when all is done; the event is retried as
                usual, by a later call. Asking to be called later is no error.

            twice: Handle every delivery twice, the first time as if the process had died before it could be
                settled, so that each of its listeners is run again: are they idempotent?

            limit: Fail after this number of events.

        Returns:
            What became of the deliveries, of which ``handled`` is ``done``, ``retried`` and ``dead`` together. One that
            is handled twice counts once. What an outbox hands on counts where it is handled; only what dies in
            the outbox counts there.

        Raises:
            AssertionError: An event died though no listener raised, or the limit was reached.

            ConfigurationError: A listener is bound to a queue that its event is not routed to.
        """
        __tracebackhide__ = True
        self._refuse_outside()
        before = {(each.transport, each.entry.ref) for each in self.dead}
        failures: list[Failure] = []
        report = drain(self.app, twice=twice, failed=failures.append, limit=limit)
        if not raises:
            return report
        if failures:
            first, *others = failures
            if others:
                count = "one more" if len(others) == 1 else f"{len(others)} more"
                told = "; ".join(map(failure_told, others[:5]))
                first.error.add_note(f"relevo: {count} failed while draining: {told}")
            raise first.error.with_traceback(first.traceback)
        if report.dead:
            dead = [each for each in self.dead if (each.transport, each.entry.ref) not in before]
            count = "1 event is" if report.dead == 1 else f"{report.dead} events are"
            raise AssertionError(f"no listener raised, but {count} dead:{listing(dead, dead_told)}")
        return report

    @property
    def dead(self) -> list[DeadEvent]:
        """The dead letters of every queue, outboxes included, with their reasons."""
        self._refuse_outside()
        return dead_events(self.app)

    def travel(self, by: Duration | None = None, *, to: Moment | None = None) -> None:
        """
        Move the clock forward; nothing is handled by that.

        Args:
            by: How far: seconds, a timedelta, or text such as ``"1h"``.

            to: When, instead: a datetime with a zone, or seconds since the epoch.

        Raises:
            ConfigurationError: It is neither, or before now.
        """
        if (by is None) is (to is None):
            raise ConfigurationError('say how far, as in t.travel("1h"), or t.travel(to=…), to a datetime with a zone')
        now = self.clock.now()
        distance = seconds(by, what="a journey") if to is None else moment(to, now=now, what="to") - now
        if distance < 0:
            raise ConfigurationError(
                f"to is {-distance:g} s ago, and a clock does not go back; begin earlier, with app.testing(now=…)"
            )
        self.clock.advance(distance)

    def _refuse_outside(self) -> None:
        __tracebackhide__ = True
        if self._inside is None:
            raise ConfigurationError("only inside of with app.testing() as t: outside are the real transports")
        if self.app.transports is not self._inside:
            raise ConfigurationError("another block of its application is inside of this one; ask that one")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
