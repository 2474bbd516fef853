"""Incidents: a failure as a value, made quickly where it happens, with a fingerprint."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

import attrs

from relevo._transport.delivery import DeadLetter, Delivery
from relevo._transport.envelope import Envelope
from relevo._worker.decision import Reason, traced
from relevo.errors import described

_EPITAPH = re.compile(rf"^(\S.*?): ({'|'.join(Reason)}) after (\d+) runs?(?:: (.*))?$", re.MULTILINE)
"""How the error of a dead letter names each listener that failed; its traceback comes after it."""

_FRAME = re.compile(r'^ +File "(.+?)", line \d+, in (.+)$', re.MULTILINE)
_BEGIN = "Traceback (most recent call last):"
_OTHERS = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[2]))
_MACHINERY = re.compile(rf'^  File "{re.escape(str(Path(__file__).parents[2]))}/.*\n(?:    .*\n)*', re.MULTILINE)
_INSTALLED = ("/site-packages/", "/dist-packages/")


@attrs.frozen(kw_only=True)
class Incident:
    """One failure."""

    kind: Literal["dead", "lost", "failed"]
    delivery: Delivery
    at: float
    """Seconds since the epoch."""

    listener: str = ""
    """Its id; empty if it is not the fault of one, or not known of which."""

    error: str
    """In one line."""

    frame: str = ""
    """Where it was raised: the innermost file and function that are neither Python's nor installed."""

    trace: str = ""
    reason: str = ""
    """Of a dead letter."""

    runs: int = 0
    due: float | None = None
    """When the listener is run again."""

    @property
    def event(self) -> str:
        """The name of the event, as somebody sent it."""
        envelope = self.delivery.envelope
        return envelope.name if isinstance(envelope, Envelope) else "unreadable"

    @property
    def event_id(self) -> str:
        """The id of the event; empty if it cannot be read."""
        envelope = self.delivery.envelope
        return envelope.id if isinstance(envelope, Envelope) else ""

    @property
    def fingerprint(self) -> str:
        """What like failures share, of whatever event, process or release."""
        return fingerprint(
            self.error if self.listener else self.reason or self.kind, self.listener or self.event, self.frame
        )

    @property
    def key(self) -> str:
        """What is counted together: like failures that mean the same for the event."""
        return f"{self.kind} {self.fingerprint}"


def fingerprint(error: str, who: str, frame: str) -> str:
    """Return what tells failures apart: the kind of *error*, the listener, and the *frame*."""
    kind = error.partition(":")[0]
    text = f"{kind}\0{who}\0{frame}"
    return sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def deaths(delivery: Delivery, outcome: DeadLetter, *, at: float) -> list[Incident]:
    """Return what killed *delivery*: one for each listener that failed, or one for what keeps all from running."""
    text = outcome.error
    found = list(_EPITAPH.finditer(text))
    ends = [*(each.start() for each in found[1:]), len(text)]
    incidents = []
    for match, end in zip(found, ends, strict=False):
        listener, reason, runs, error = match.groups()
        trace = text[match.end() : end].strip("\n")
        incidents.append(
            Incident(
                kind="dead",
                delivery=delivery,
                at=at,
                listener=listener,
                error=error or reason,
                frame=frame_in(trace),
                trace=trace,
                reason=reason,
                runs=int(runs),
            )
        )
    if incidents:
        return incidents
    first, _, rest = text.partition("\n")
    error = f"{outcome.reason}: {first}" if first else outcome.reason
    return [Incident(kind="dead", delivery=delivery, at=at, error=error, trace=rest.strip("\n"), reason=outcome.reason)]


def loss(delivery: Delivery, error: str, *, at: float) -> Incident:
    """Return that a process died while it held *delivery*; *error* says how, if somebody watched."""
    return Incident(kind="lost", delivery=delivery, at=at, error=error or "a process died while it held the event")


def failure(
    delivery: Delivery, listener_id: str, error: BaseException, *, runs: int, due: float | None, at: float
) -> Incident:
    """Return that the listener *listener_id* raised *error*."""
    return Incident(
        kind="failed",
        delivery=delivery,
        at=at,
        listener=listener_id,
        error=described(error),
        frame=frame_of(error),
        trace=traced(error),
        runs=runs,
        due=due,
    )


def key_of_failure(listener_id: str, error: BaseException) -> str:
    """Return the key of what :func:`failure` returns, in a fraction of its time."""
    return f"failed {fingerprint(described(error), listener_id, frame_of(error))}"


def frame_of(error: BaseException) -> str:
    """Return where *error* was raised."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return _innermost([(code.co_filename, code.co_name) for code in codes])


def frame_in(trace: str) -> str:
    """Return the same, of what the traceback says in words."""
    return _innermost([(match[1], match[2]) for match in _FRAME.finditer(trace.rpartition(_BEGIN)[2])])


def without_machinery(trace: str) -> str:
    """Return the traceback *trace* without the lines that tell how relevo called the listener."""
    return _MACHINERY.sub("", trace)


def _innermost(frames: Sequence[tuple[str, str]]) -> str:
    """Return the last of *frames* that is the application's; only the file's name, since a release may be elsewhere."""
    own = [each for each in frames if _is_own(each[0])] or frames
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _is_own(filename: str) -> bool:
    return not (filename.startswith(("<", *_OTHERS)) or any(each in filename for each in _INSTALLED))
