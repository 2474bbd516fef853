"""Where the controls of the workers of a store are kept, and which queues are paused there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from relevo._app.app import App, parts_of, stores_of
from relevo._transport.control_store import ControlStore
from relevo._transport.transport import Transport
from relevo._worker.control import Pause, name_there, pauses_in
from relevo.cli._output import when
from relevo.cli._place import Place
from relevo.errors import RelevoError, UnsupportedError


@attrs.frozen
class StoreControls:
    """Where operators leave what they ask of the workers of a store."""

    place: Place
    store: ControlStore
    transport: str
    """The name by which its workers look for that; empty if the store itself keeps it."""

    @classmethod
    def of(cls, app: App, place: Place) -> StoreControls | None:
        """Return that of *place*; ``None`` if its workers share nothing."""
        coordinator: object = parts_of(app).coordinator(place.store)
        if not isinstance(coordinator, ControlStore):
            return None
        return cls(place, coordinator, name_there(place.store, coordinator))

    @classmethod
    def required(cls, app: App, place: Place) -> StoreControls:
        """Return that of *place*, set up; raise :class:`UnsupportedError` if its workers share nothing."""
        found = cls.of(app, place)
        if found is None:
            raise UnsupportedError(
                place.store.name,
                "control",
                "it has no coordinator, so its workers cannot see a pause or a request to stop; set one that all hosts "
                'reach, as in coordinator = "postgresql://…" under [transports.…]',
            )
        found.prepare(app)
        return found

    def prepare(self, app: App) -> None:
        """Create what is missing to write a control; the transport of the events may be down."""
        if not self.transport:
            self.place.prepare(app)
        elif isinstance(self.store, Transport):
            stores_of(app).set_up_coordinator(self.place.transport, self.store)

    def pauses(self) -> Mapping[str, Pause]:
        """Return the pauses of the store, by queue; it may be one that has several places."""
        return pauses_in(self.store.controls().values(), self.transport)


def paused_in(app: App, place: Place) -> Mapping[str, Pause]:
    """
    Return which queues of the store of *place* are paused; none if its workers share nothing.

    Raises:
        RelevoError: They could not be looked up, since the coordinator could not be reached or lacks a table.
    """
    controls = StoreControls.of(app, place)
    return {} if controls is None else controls.pauses()


def every_pause(app: App, selected: Iterable[Place]) -> Iterator[tuple[Place, Pause]]:
    """Yield the pauses of the stores of *selected*, each once; those that cannot be looked up are left out."""
    seen = set[tuple[int, str]]()
    for place in selected:
        try:
            found = paused_in(app, place)
        except RelevoError:  # as of a server that is down, which is reported elsewhere
            continue
        for pause in found.values():
            if (id(place.store), pause.queue) not in seen:
                seen.add((id(place.store), pause.queue))
                yield place, pause


def row_of(pause: Pause | None) -> dict[str, Any] | None:
    """Return *pause* for programs."""
    return None if pause is None else {"since": when(pause.since), "by": pause.by, "reason": pause.reason}


def notice(place: Place, pause: Pause) -> str:
    """Return that a queue is paused, with the time, the operator and the reason, and how to resume it."""
    where = f"{place.store.name}/{pause.queue}"
    return f"{where} has been paused {pause.in_words}; its events wait; to resume it: relevo resume -q {where}"
