"""Set up the helpers of a transport that were down when its worker began, beside the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from logging import getLogger

from relevo._clock import Clock, readable
from relevo._worker.ledger import Reminder
from relevo.errors import RelevoError, TransportUnavailableError

_log = getLogger("relevo.worker")

_FIRST, _LONGEST = 0.1, 3.0
"""Seconds before the second attempt, doubled each time, and the most of them."""

_REST, _LONGEST_REST = 9.0, 60.0
"""After an attempt without an answer: the pause as a multiple of the time it took, and the longest pause in seconds."""

_GRACE = 2.0
"""Seconds for which the end of a worker waits for an attempt."""

Prepare = Callable[[], Sequence[TransportUnavailableError]]
"""Sets up what is missing; returns why something cannot be reached."""


class LateSetup:
    """
    Sets up what helps a transport, such as its outbox, in a thread, while the events of the transport are handled.

    Args:
        prepare: Sets them up.

        clock: The source of time for the log.
    """

    def __init__(self, prepare: Prepare, clock: Clock):
        self._prepare, self._clock = prepare, clock
        self._missed: dict[str, float] = {}
        """When each transport was missed first, in monotonic seconds, by its name."""
        self._reminder = Reminder(clock)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, missed: Sequence[TransportUnavailableError]) -> None:
        """Remember and log what is *missed*, and what is back."""
        now = self._clock.monotonic()
        names = {each.transport for each in missed}
        for name in self._missed.keys() - names:
            _log.warning('the transport "%s" is back after %s', name, readable(now - self._missed.pop(name)))
        is_reminder = bool(missed) and self._reminder.take_turn()
        if is_reminder or names - self._missed.keys():
            for error in {each.transport: each for each in missed}.values():
                _log.warning("%s; events that do not need it are handled meanwhile", error)
                self._missed.setdefault(error.transport, now)

    def begin(self) -> None:
        """Try again, if something was missed, until :meth:`end`; not twice at a time."""
        if self._missed and (self._ended.is_set() or self._thread is None):
            self._ended = threading.Event()
            self._thread = threading.Thread(
                target=self._try, args=(self._ended,), name="relevo-late-setup", daemon=True
            )
            self._thread.start()

    def end(self) -> None:
        """Try no further; an attempt that waits for a silent server is left alone."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_GRACE)

    def _try(self, ended: threading.Event) -> None:
        pause = _FIRST
        while not ended.wait(pause):
            began = self._clock.monotonic()
            missed = self._attempt()
            if ended.is_set():
                return
            self.note(missed)
            if not missed:
                return
            rest = min(_REST * (self._clock.monotonic() - began), _LONGEST_REST)
            pause = max(min(2.0 * pause, _LONGEST), rest)

    def _attempt(self) -> Sequence[TransportUnavailableError]:
        try:
            return self._prepare()
        except TransportUnavailableError as error:
            return [error]
        except RelevoError as error:  # the worker has begun, so this is an outage too
            return [TransportUnavailableError(next(iter(self._missed)), str(error))]
