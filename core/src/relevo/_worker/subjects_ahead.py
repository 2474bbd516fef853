"""Load the subjects of a batch of events together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from logging import getLogger
from threading import Lock
from typing import Any

import attrs

from relevo._clock import Clock
from relevo._event.codec import decoded
from relevo._event.subject import Subject, SubjectType, SubjectTypes
from relevo._transport.delivery import Delivery
from relevo._transport.envelope import Envelope
from relevo.errors import DecodeError, SubjectError

_log = getLogger("relevo.worker")

FRESH = 1.0
"""Seconds for which an instance that was loaded ahead may be given to a listener."""


def _newest(number: int) -> deque[_Batch]:
    return deque(maxlen=number)


@attrs.define(eq=False)
class _Batch:
    deliveries: Sequence[Delivery]
    asked: set[str] = attrs.field(factory=set)
    """The types whose subjects were loaded."""

    @cached_property
    def subjects(self) -> Sequence[Subject]:
        """The subjects of its events."""
        return [subject for each in self.deliveries if (subject := _subject_of(each)) is not None]


@attrs.define(eq=False)
class SubjectsAhead:
    """
    Loads the subjects of events, and those of a type with ``load_many`` once for each batch.

    The first listener of a batch that asks for a subject of such a type has all of that type loaded. Each instance is
    given to one listener: a second one, and a second event about the same subject, get what is stored by then. What is
    too old, or was not found ahead, is loaded alone.

    Args:
        subjects: The types, which load.

        clock: The source of time.

        batches: From how many batches the events are that are handled at a time.
    """

    _subjects: SubjectTypes
    _clock: Clock
    _batches: deque[_Batch] = attrs.field(default=1, converter=_newest)
    _lock: Lock = attrs.field(factory=Lock, init=False)
    _ready: dict[Subject, tuple[float, Any]] = attrs.field(factory=dict, init=False)
    """The instances that no listener has got, and when they were loaded; the type is as it is registered."""

    def expect(self, batch: Sequence[Delivery]) -> None:
        """
        Load the subjects of *batch* together from now on.

        What was loaded before it, and is about one of its subjects, is released: its events may be about a change. So
        is what is too old, also if *batch* is empty.
        """
        with self._lock:
            came = _Batch(batch)
            if batch:
                self._batches.append(came)
            names = {each.id for each in came.subjects} if self._ready else set()
            old = [subject for subject in self._ready if subject.id in names or not self._is_fresh(subject)]
            left = {subject: self._ready.pop(subject)[1] for subject in old}
        self._release_all(left)

    def end(self) -> None:
        """Release what no listener has got; from now on each subject is loaded alone."""
        with self._lock:
            self._batches.clear()
            left = {subject: instance for subject, (_, instance) in self._ready.items()}
            self._ready.clear()
        self._release_all(left)

    def load(self, subject: Subject) -> Any:
        """
        Return the instance that *subject* names; ``None`` if it was not found.

        Raises:
            SubjectError: Its type is not registered.
        """
        kind = self._subjects.type_of(subject)
        found = None if kind.load_many is None else self._take(kind, Subject(kind.type, subject.id))
        return kind.load(subject.id) if found is None else found

    def release(self, subject: Subject, loaded: object) -> None:
        """Release *loaded*, which :meth:`load` returned for *subject*."""
        self._subjects.release(subject, loaded)

    def _take(self, kind: SubjectType, subject: Subject) -> Any:
        """Return the instance of *subject* that was loaded ahead, if there is one that is fresh."""
        with self._lock:  # the listeners in other threads wait, since most of them need what is loaded now
            if subject not in self._ready:
                self._load(kind, subject)
            is_fresh = self._is_fresh(subject)
            _, found = self._ready.pop(subject, (0.0, None))
        if found is None or is_fresh:
            return found
        self._release(subject, found)
        return None

    def _is_fresh(self, subject: Subject) -> bool:
        return subject in self._ready and self._clock.monotonic() - self._ready[subject][0] <= FRESH

    def _load(self, kind: SubjectType, subject: Subject) -> None:
        """Load the subjects of the type *kind* in the batches, if *subject* is among them and they were not loaded."""
        batches = [each for each in self._batches if kind.type not in each.asked]
        names = _names(kind, chain.from_iterable(each.subjects for each in batches))
        if kind.load_many is None or len(names) < 2 or subject.id not in names:
            return
        for each in batches:
            each.asked.add(kind.type)
        now = self._clock.monotonic()
        try:
            found = kind.load_many(names)
        except Exception:  # noqa: BLE001 - the id of another event may be the reason: each listener gets its own error
            _log.warning(
                'the load_many= of the subject type "%s" failed for %d subjects; each is loaded alone',
                kind.type,
                len(names),
                exc_info=True,
            )
            return
        self._ready |= {
            Subject(kind.type, each): (now, instance) for each, instance in found.items() if instance is not None
        }

    def _release_all(self, left: Mapping[Subject, object]) -> None:
        for subject, instance in left.items():
            self._release(subject, instance)

    def _release(self, subject: Subject, instance: object) -> None:
        try:
            self._subjects.release(subject, instance)
        except Exception:  # noqa: BLE001 - no listener has got it
            _log.exception("the subject %s, which was loaded ahead, could not be released", subject)


def _names(kind: SubjectType, subjects: Iterable[Subject]) -> Sequence[str]:
    """Return the ids of those of *subjects* that are of the type *kind*, each once."""
    types = {kind.type, *kind.aliases}
    return list(dict.fromkeys(each.id for each in subjects if each.type in types))


def _subject_of(delivery: Delivery) -> Subject | None:
    """Return the subject of the event of *delivery*; ``None`` if it has none, or its body is not valid."""
    if not isinstance(delivery.envelope, Envelope):
        return None
    try:
        text = decoded(delivery.envelope.body).subject
        return Subject.parsed(text) if text else None
    except (DecodeError, SubjectError):
        return None
