"""
The two walks of an event: through which modules it passes, found by running one event on SQLite.

An event *passes* a module if a function written there has the event in an argument, a variable or its result, in any of
the forms that it takes on its way: document, envelope, row, receipt, delivery, progress or outcome, alone or in a list,
or the cursor that yields its row. Any other module that is called is a *leaf*: it answers a question, such as what time
it is, and does not see the event.

The first walk is from ``App.dispatch`` to the commit of the row. The second is from the claim to the settlement. Both
are walked by the second event of their kind: at the first one connections are opened and caches are filled.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import sqlalchemy as sa

import relevo
from relevo._event.codec import Content, Document
from relevo._worker.progress import Progress
from relevo_sql import SqlTransport
from relevo_sql._row import Kept, Receipt, Sent

PACKAGES = ("relevo.", "relevo_sql.")

FORMS = (
    relevo.Event, Content, Document, relevo.Envelope, Sent, Kept, sa.CursorResult, Receipt, relevo.Delivery,
    Progress, relevo.Ack,
)  # fmt: skip
"""What an event is on its way."""


@attrs.define
class Walk:
    """The modules of one walk, in the order in which they are called."""

    met: dict[str, bool] = attrs.field(factory=dict)
    """From a module to whether the event passes it."""

    climbs: list[tuple[str, str]] = attrs.field(factory=list)
    """Calls from a module into another one that waits for it, each pair once."""

    def lines(self) -> list[str]:
        """Return it as sorted lines, as :func:`written` returns the walk on the page."""
        met = [f"passes {module}" if passes else f"asks {module}" for module, passes in self.met.items()]
        return sorted([*met, *(f"{caller} calls back {called}" for caller, called in self.climbs)])

    def profile(self, frame: FrameType, event: str, result: object) -> None:
        """Note a call or a return of a function of ours; the interpreter calls this."""
        if event not in ("call", "return") or not _is_written(frame):
            return
        module = _module(frame)
        self.met.setdefault(module, False)
        if event == "call":
            self._climb(module, [_module(each) for each in _callers(frame)])
        else:
            self.met[module] |= any(map(_is_form, (*frame.f_locals.values(), result)))

    def _climb(self, module: str, waiting: list[str]) -> None:
        if waiting and waiting[0] != module and module in waiting and (waiting[0], module) not in self.climbs:
            self.climbs.append((waiting[0], module))


@contextmanager
def recorded(walk: Walk) -> Iterator[None]:
    """Record in *walk* what this thread calls in the block."""
    sys.setprofile(walk.profile)
    try:
        yield
    finally:
        sys.setprofile(None)


class _Still(relevo.SystemClock):
    """Does not measure time, so that settlements are flushed only when nothing is left to receive."""

    def monotonic(self) -> float:
        return 0.0


class _Recording(SqlTransport):
    """Starts to record at the second receive, and ends with the settlement."""

    walk: Walk | None = None
    receives = 0

    def receive(self, queues: Any, **how: Any) -> Any:
        self.receives += 1
        if self.receives == 2:
            self.walk = Walk()
            sys.setprofile(self.walk.profile)
        return super().receive(queues, **how)

    def settle(self, settlements: Any) -> Any:
        try:
            return super().settle(settlements)
        finally:
            sys.setprofile(None)


@relevo.listener("image.created")
def _nothing(_: relevo.Event) -> None:
    pass


def walks(folder: Path) -> tuple[Walk, Walk]:
    """Return the walk of a dispatch and that of a delivery, on a database in *folder*."""
    transport = _Recording(sa.create_engine(f"sqlite:///{folder / 'walk.db'}"), clock=_Still())
    event = relevo.Event("image.created", {"width": 600})
    with relevo.App(transports={"main": transport}, routes={"*": "main"}, source="walk", clock=_Still()) as app:
        app.listen(_nothing)
        app.dispatch(event)
        dispatch = Walk()
        with recorded(dispatch):
            app.dispatch(event)
        relevo.LoopRunner(signals=False).run(app, relevo.RunOptions(until_empty=True))
    assert transport.walk is not None
    return dispatch, transport.walk


def _is_form(value: object) -> bool:
    if isinstance(value, dict):
        value = list(value.values())[:1]
    while isinstance(value, (list, tuple, set, frozenset)) and not isinstance(value, FORMS):
        value = next(iter(value), None)
    return isinstance(value, FORMS)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_written(frame: FrameType) -> bool:
    """Return whether *frame* runs a function of ours; a constructor that attrs writes is the value itself."""
    return _module(frame).startswith(PACKAGES) and not frame.f_code.co_filename.startswith("<")


def _callers(frame: FrameType) -> list[FrameType]:
    """Return the frames of ours that wait for *frame*, the nearest one first."""
    found = []
    waiting = frame.f_back
    while waiting is not None:
        if _is_written(waiting):
            found.append(waiting)
        waiting = waiting.f_back
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for each in walks(Path(place)):
            print(*each.lines(), sep="\n", end="\n\n")
