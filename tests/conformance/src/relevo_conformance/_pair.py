"""
The table of pairs: the features of an event and its past, against the operations on it.

Most bugs that a suite misses are in a pair of features which are each tested alone. So the rows of a pairwise cover of
this table are played: each level meets each level of every other factor in one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from random import Random
from typing import Any

import attrs

from relevo import MAX_ERROR, MAX_STATE, Ack, DeadLetter, Envelope, Lost, Nack, Outcome, Release
from relevo_conformance import _step as do
from relevo_conformance._cover import combos, cover
from relevo_conformance._play import DAY, Play
from relevo_conformance.bench import Bench
from relevo_conformance.harness import Harness, HookMissing
from relevo_conformance.profile import Profile

Needs = Callable[[Harness], bool]


def _claimed(*names: str) -> Needs:
    """Return whether a harness's transport claims all of *names*."""

    def ask(harness: Harness) -> bool:
        return all(getattr(harness.capabilities, name) not in (None, False, "none") for name in names)

    return ask


def _always(harness: Harness) -> bool:
    return True


def _on_a_fake_clock(harness: Harness) -> bool:
    return harness.fake


def _delayed_far(harness: Harness) -> bool:
    return harness.fake and harness.capabilities.delay is not None


def _in_a_session(harness: Harness) -> bool:
    return harness.capabilities.transactional and harness.has("session")


def _raw(harness: Harness) -> bool:
    return harness.has("put_raw")


def _raw_with_headers(harness: Harness) -> bool:
    return _raw(harness) and harness.takes_headers


def _of_bytes(number: int) -> Needs:
    def ask(harness: Harness) -> bool:
        largest = harness.capabilities.max_body
        return largest is None or largest >= number

    return ask


def _limited(harness: Harness) -> bool:
    largest = harness.capabilities.max_body
    return largest is not None and largest <= _LARGE


@attrs.frozen(eq=False)
class Level:
    """One level of a factor."""

    words: str
    """What it is, in words that fit after "with" or "and"."""

    value: Any = None
    """What :mod:`._step` reads."""

    needs: Needs = _always
    """Whether a harness can have it."""

    never_with: frozenset[str] = frozenset()
    """The words of levels of other factors with which it makes no sense."""

    def __repr__(self) -> str:
        return self.words


Row = Mapping[str, Level]


# --- values ----------------------------------------------------------------------------------------

_LARGE = 2**20
_LONG = "k" * 200
"""Longer than a column that was made for 64, 128 or 191 characters."""

_LONGEST_QUEUE = 60
"""The largest number of characters after the beginning of a queue's name, of which 128 are allowed."""

_COMPOSED, _DECOMPOSED = "\u00e9", "e\u0301"
"""One letter in two Unicode normal forms."""


@attrs.frozen
class _Twin:
    """What the event and its twin differ in."""

    of_the_event: Mapping[str, Any] = attrs.field(factory=dict)
    of_the_twin: Callable[[Envelope, Sequence[str]], Mapping[str, Any] | None] = lambda event, queues: None
    suffixes: tuple[str, ...] = ("", "x")
    """The endings of the names of their two queues."""


def _swapped(field: str, old: str, new: str) -> Callable[[Envelope, Sequence[str]], Mapping[str, Any]]:
    """Return the twin's field: that of the event with the ending *new* instead of *old*."""
    return lambda event, queues: {field: getattr(event, field).removesuffix(old) + new}


def _shifted(separator: str) -> Callable[[Envelope, Sequence[str]], Mapping[str, Any]]:
    """Return the twin's source and id: the beginning of the event's id is at the end of its source instead."""
    return lambda event, queues: {
        "source": f"{event.source}{separator}a",
        "id": event.id.removeprefix(f"a{separator}"),
    }


def _elsewhere(event: Envelope, queues: Sequence[str]) -> Mapping[str, Any]:
    return {"queue": queues[1]}


_FOREIGN = ("foreign bytes", "large foreign bytes", "equal foreign bytes", "foreign bytes with headers")
_NO_FIELDS = frozenset(_FOREIGN)
"""Foreign bytes have no fields."""

_ALIKE = (
    ("by case", "a", "A"),
    ("by a trailing space", "a", "a "),
    ("by its Unicode form", _COMPOSED, _DECOMPOSED),
    ("by a separator", "a/b", "a_b"),
    ("only near its end", f"{_LONG}a", f"{_LONG}b"),
)
"""How two texts can be alike."""


def _twins() -> Iterator[Level]:
    yield Level("no twin", _Twin())
    other_source = _Twin(of_the_twin=lambda event, queues: {"source": "shop"})
    yield Level("the same id from another source", other_source, never_with=_NO_FIELDS)
    yield Level("the same id in another queue", _Twin(of_the_twin=_elsewhere), never_with=_NO_FIELDS)
    for how, old, new in _ALIKE:
        made = {"id_end": old}
        yield Level(f"an id that differs {how}", _Twin(made, _swapped("id", old, new)), never_with=_NO_FIELDS)
        made = {"source": f"shop-{old}"}
        yield Level(f"a source that differs {how}", _Twin(made, _swapped("source", old, new)), never_with=_NO_FIELDS)
        if " " not in new:  # a queue's name has no spaces
            twin = _Twin(of_the_twin=_elsewhere, suffixes=(old[-_LONGEST_QUEUE:], new[-_LONGEST_QUEUE:]))
            yield Level(f"a queue that differs {how}", twin, never_with=_NO_FIELDS)

    for separator in ("", ":"):
        made = {"id_begin": f"a{separator}"}
        shift = _Twin(made, _shifted(separator))
        yield Level(f'a source and an id that are equal if joined by "{separator}"', shift, never_with=_NO_FIELDS)


def _keys() -> Iterator[Level]:
    yield Level("no key", (None, None))
    ordered = _claimed("order")
    yield Level("an empty key", ("", None), ordered, _NO_FIELDS)
    yield Level("a key of its own", ("k", None), ordered, _NO_FIELDS)
    yield Level("a key that it shares", ("k", "k"), ordered, _NO_FIELDS)
    yield Level("an empty key that it shares", ("", ""), ordered, _NO_FIELDS)
    for how, old, new in _ALIKE:
        yield Level(f"a key that differs {how}", (old, new), ordered, _NO_FIELDS)


@attrs.frozen
class _Scene:
    """The numbers of neighbours before and after the event."""

    before: int
    after: int
    contrary: bool = False
    """Whether they are urgent if the event is not."""

    everywhere: bool = False
    """Whether there is one in each other queue too."""


@attrs.frozen
class _Stored:
    """The states that an event gets."""

    settled: bytes | None
    revived: bytes


def _small(largest: int | None) -> None:
    """Return no body of its own: that of the bench, which is unique."""
    return


def _body(size: int) -> Callable[[int | None], bytes]:
    """Return a body of *size* bytes, or as many as there may be."""
    return lambda largest: (bytes(range(256)) * (size // 256 + 1))[: size if largest is None else min(size, largest)]


def _largest(largest: int | None) -> bytes:
    return b"x" * (largest or 0)


def _pasts() -> Iterator[Level]:
    yield Level("fresh", do.nothing)
    yield Level("nacked", do.settled(lambda play: Nack(state=play.state)))
    emptied = do.in_turn(
        do.settled(lambda play: Nack(state=b"first")), do.settled(lambda play: Nack(state=b"", delay=play.later))
    )
    yield Level("nacked with a state and then with an empty one", emptied)
    yield Level("lost once", do.lost)
    yield Level("lost twice and nacked", do.in_turn(do.lost, do.lost, do.settled(lambda play: Nack(state=play.state))))
    yield Level("reported lost", do.settled(lambda play: Lost(state=play.state)))
    yield Level("released", do.settled(lambda play: Release()))
    yield Level("released with a delay", do.settled(lambda play: Release(delay=play.later)), _claimed("delay"))
    yield Level("checkpointed and lost", do.in_turn(do.checkpointed, do.lost), _claimed("checkpoint"))
    yield Level(
        "checkpointed and released",
        do.in_turn(do.checkpointed, do.settled(lambda play: Release())),
        _claimed("checkpoint"),
    )
    yield Level("extended", do.extended, _claimed("extend"))
    yield Level("begun and lost", do.in_turn(do.begun, do.lost), _claimed("presence"))
    yield Level("begun, and its death reported", do.in_turn(do.begun, do.settled(do.death)), _claimed("presence"))
    yield Level("dead and revived", do.in_turn(do.lost, do.buried, do.revived), _claimed("dead_letters"))
    again = do.in_turn(do.settled(lambda play: Nack(state=b"first")), do.buried, do.sent_again)
    yield Level("dead and sent again", again, _claimed("dead_letters"), _NO_FIELDS | {"sent to an outbox"})


def _situations() -> Iterator[Level]:
    yield Level("ready", Play.ripen)
    yield Level("scheduled", do.scheduled, _claimed("delay"))
    yield Level("held", Play.take)
    yield Level("taken by its id", do.taken_by_id, _claimed("take"), _NO_FIELDS)
    yield Level("lost", do.in_turn(do.lost, do.late))
    yield Level("lost and held by another", do.held_by_another)
    yield Level("dead", do.in_turn(do.buried, do.late), _claimed("dead_letters"))
    yield Level("revived", do.in_turn(do.buried, do.revived), _claimed("dead_letters"))
    yield Level("done", do.in_turn(do.settled(lambda play: Ack()), do.late))
    yield Level("dead and held again", do.dead_and_held_again, _claimed("dead_letters"), _NO_FIELDS)
    yield Level("dead and delayed again", do.dead_and_delayed_again, _claimed("dead_letters", "delay"), _NO_FIELDS)


def _operations() -> Iterator[Level]:
    delayed, dead = _claimed("delay"), _claimed("dead_letters")
    yield Level("inspect the store", do.look)
    yield Level("receive", do.receive)
    yield Level("take by its id", do.take_by_id, _claimed("take"), _NO_FIELDS)
    yield Level("ack", do.settle(lambda play: Ack()))
    yield Level("nack", do.settle(lambda play: Nack(state=play.state)))
    yield Level("nack with a delay", do.settle(lambda play: Nack(delay=play.later, state=play.state)), delayed)
    yield Level("release", do.settle(lambda play: Release()))
    yield Level("release with a delay", do.settle(lambda play: Release(delay=play.later)), delayed)
    yield Level("dead-letter", do.settle(Play.died), dead)
    yield Level("dead-letter a batch", do.dead_letter_a_batch, dead)
    yield Level("report lost", do.settle(lambda play: Lost(state=play.state)))
    yield Level("report a death", do.settle(do.death), _claimed("presence"))
    yield Level("extend", do.extend, _claimed("extend"))
    yield Level("checkpoint", do.checkpoint, _claimed("checkpoint"))
    yield Level("begin", do.begin, _claimed("presence"))
    yield Level("excuse", do.excuse, _claimed("presence"))
    yield Level("settle a batch, the lost first", do.settle_a_batch(lambda batch: batch))
    yield Level("settle a batch, the lost last", do.settle_a_batch(lambda batch: batch[::-1]))
    yield Level("settle it twice in a batch", do.settle_twice)
    yield Level("settle an earlier delivery", do.settle_stale)
    yield Level("let the lease end", do.let_lease_end)
    yield Level("kill", do.kill)
    yield Level("close", do.close)
    yield Level("revive", do.revive, dead)
    yield Level("discard", do.discard, dead)
    yield Level("replace its dead letter", do.replace_a_dead_letter, dead, _NO_FIELDS)
    yield Level("page through dead letters", do.turn_pages, dead)
    yield Level("cancel", do.cancel, _claimed("cancel"))
    yield Level("purge", do.purge, _claimed("purge"))
    again = do.in_turn(do.cancel, do.sent_again)
    yield Level("cancel and send again", again, _claimed("cancel"), _NO_FIELDS)
    yield Level("purge and send again", do.in_turn(do.purge, do.sent_again), _claimed("purge"), _NO_FIELDS)
    yield Level("set up", do.set_up)
    yield Level("send again", do.sent_again, never_with=_NO_FIELDS)


_SECOND = (
    "inspect the store",
    "receive",
    "take by its id",
    "ack",
    "nack",
    "release with a delay",
    "dead-letter",
    "extend",
    "checkpoint",
    "revive",
    "cancel",
    "purge",
    "send again",
)


def _others() -> Iterator[Level]:
    yield Level("other events stay held")
    yield Level("other events are released", Release)
    yield Level("other events are nacked", lambda: Nack(state=b"others"))
    yield Level("other events are acked", Ack)
    buried: Callable[[], Outcome] = lambda: DeadLetter(reason="unknown-event", error="others")  # noqa: E731
    yield Level("other events are dead-lettered", buried, _claimed("dead_letters"))


_TIMES = (
    Level("at once", do.nothing),
    Level("a moment later", do.step),
    Level("shortly before the lease ends", do.before_the_lease_ends, _on_a_fake_clock),
    Level("just after the lease", do.after_the_lease, lambda harness: harness.capabilities.lease == "timed"),
    Level("a day later", do.days(1), _on_a_fake_clock),
    Level("60 days later", do.days(60), _on_a_fake_clock),
)

FACTORS: Mapping[str, Sequence[Level]] = {
    "origin": (
        Level("sent", do.sent),
        Level("sent in a batch", do.sent_in_a_batch),
        Level("sent twice", do.sent_twice),
        Level("sent twice in a batch", do.sent_twice_in_a_batch),
        Level("sent in a session", do.sent_in_a_session, _in_a_session),
        Level("sent in a savepoint", do.sent_in_a_savepoint, _in_a_session),
        Level("sent in nested savepoints", do.sent_in_nested_savepoints, _in_a_session),
        Level("sent beside savepoints that are rolled back", do.sent_beside_a_savepoint, _in_a_session),
        Level("sent in savepoints in sequence", do.sent_in_savepoints_in_sequence, _in_a_session),
        Level("sent in a session after a rollback", do.sent_after_a_rollback, _in_a_session),
        Level("rolled back, and sent without a session", do.rolled_back_and_sent, _in_a_session),
        Level("sent to an outbox", do.sent_to_an_outbox, _in_a_session),
        Level(_FOREIGN[0], do.put_by_a_stranger(), _raw),
        Level(_FOREIGN[1], do.put_by_a_stranger(size=300_000), _raw),
        Level(_FOREIGN[2], do.put_by_a_stranger(times=2), _raw),
        Level(_FOREIGN[3], do.put_by_a_stranger(headers={"Kind": "foreign "}), _raw_with_headers),
    ),
    "delay": (
        Level("no delay", 0.0),
        Level("a short delay", None, _claimed("delay"), _NO_FIELDS),
        Level("a delay of an hour", 3600.0, _delayed_far, _NO_FIELDS),
        Level("a delay of 60 days", 60 * DAY, _delayed_far, _NO_FIELDS),
    ),
    "urgency": (Level("not urgent", "normal"), Level("urgent", "high", _claimed("urgency"), _NO_FIELDS)),
    "key": tuple(_keys()),
    "name": (
        Level("a usual name", "image.created"),
        Level("a long name in an odd form", f"Image.{_LONG}.{_DECOMPOSED} ", never_with=_NO_FIELDS),
    ),
    "expiry": (
        Level("never expires", lambda now: None),
        Level("expired", lambda now: now - 100.0, never_with=_NO_FIELDS),
        Level("expires in a month", lambda now: now + 30 * DAY + 0.123457, never_with=_NO_FIELDS),
    ),
    "headers": (
        Level("no headers", {}),
        Level("an empty header", {"empty": ""}, never_with=_NO_FIELDS),
        Level(
            "headers that are alike",
            {"Case": "a", "case": "A ", "forms": _COMPOSED + _DECOMPOSED, "queue": "nowhere"},
            never_with=_NO_FIELDS,
        ),
        Level(
            "headers that look like values of another type",
            {"number": "007", "exponent": "1e3", "truth": "True", "nothing": "null", "day": "2026-01-01"},
            never_with=_NO_FIELDS,
        ),
        Level("many long headers", {"long": _LONG * 100, **{f"h{n}": "v" for n in range(100)}}, never_with=_NO_FIELDS),
    ),
    "body": (
        Level("a small body", _small),
        Level("an empty body", _body(0), never_with=_NO_FIELDS),
        Level("a body of 300,000 bytes", _body(300_000), _of_bytes(70_000), _NO_FIELDS),
        Level("the largest body", _largest, _limited, _NO_FIELDS),
    ),
    "twin": tuple(_twins()),
    "neighbours": (
        Level("a neighbour after it", _Scene(0, 1)),
        Level("no neighbours", _Scene(0, 0)),
        Level("a neighbour before it", _Scene(1, 0)),
        Level("urgent neighbours around it", _Scene(1, 2, contrary=True)),
        Level("neighbours around it", _Scene(2, 2)),
        Level("neighbours in all queues", _Scene(0, 1, everywhere=True)),
    ),
    "others": tuple(_others()),
    "state": (
        Level("no state", _Stored(None, b"revived")),
        Level("an empty state", _Stored(b"", b"")),
        Level("a state", _Stored(b" \x00state\t\r\n", b"")),
        Level("the longest state", _Stored(b"\xff" * MAX_STATE, b"\xfe" * MAX_STATE)),
    ),
    "death": (
        Level("an error", ("retries-exhausted", "no such image")),
        Level("no error", ("crash-loop", ""), _claimed("dead_letters")),
        # With accents, which take two bytes, and six where they are escaped.
        Level("the longest error", ("r" * 70, "x" * (MAX_ERROR - 6000) + "é" * 3000), _claimed("dead_letters")),
        Level("an error with spaces around it", ("crash-loop", f" {_COMPOSED}\t'\n"), _claimed("dead_letters")),
    ),
    "past": tuple(_pasts()),
    "situation": tuple(_situations()),
    "time before the operation": _TIMES,
    "operation": tuple(_operations()),
    "time after the operation": _TIMES,
    "second operation": tuple(one for one in _operations() if one.words in _SECOND),
    "delay of an outcome": (
        Level("for a short time", None),
        Level("for an hour", 3600.0, _on_a_fake_clock),
        Level("for 60 days", 60 * DAY, _on_a_fake_clock),
    ),
    "lease": (
        Level("the usual lease", None),
        Level("a lease of 1.9 s", 1.9, _on_a_fake_clock),
        Level("a lease of an hour", 3600.0, _on_a_fake_clock),
        Level("a lease of 12 hours", 43_200.0, _on_a_fake_clock),
    ),
    "limit": (Level("one at a time", 1), Level("ten at a time", 10), Level("300 at a time", 300)),
    "queues": (
        Level("one queue", lambda own, other, third: (own,)),
        Level("its queue first", lambda own, other, third: (own, other)),
        Level("its queue last", lambda own, other, third: (other, own)),
        Level("its queue as the second of three", lambda own, other, third: (third, own, other)),
        Level("its queue as the last of three", lambda own, other, third: (third, other, own)),
    ),
    "who": (
        Level("by the same worker", lambda play: play.worker),
        Level("by another worker", lambda play: play.other),
        Level("by a new worker", lambda play: play.bench.worker()),
    ),
}
"""By factor: its levels, the usual one first; that one fits each level of the other factors."""

DANGEROUS = ("key", "origin", "situation", "operation", "second operation", "time after the operation", "lease")
"""The factors of which standard covers each combination of three."""


def fits(one: Level, other: Level) -> bool:
    """Return whether the levels *one* and *other* of two factors can be in one row."""
    return other.words not in one.never_with and one.words not in other.never_with


def factors_of(harness: Harness) -> Mapping[str, Sequence[Level]]:
    """Return the levels that *harness* can have."""
    return {name: tuple(one for one in levels if one.needs(harness)) for name, levels in FACTORS.items()}


def rows(harness: Harness, profile: Profile, rng: Random) -> Iterator[Row]:
    """Yield the rows for *harness* under *profile*."""
    factors = factors_of(harness)
    # Elsewhere they would take hours, one by one.
    most = profile.rows if harness.is_prompt else 0 if harness.fake else profile.slow_rows
    for _ in range(profile.covers):
        yield from islice(cover(factors, fits=fits, rng=rng), most)
    if profile.triples and harness.is_prompt:
        yield from islice(cover(factors, strength=3, of=DANGEROUS, fits=fits, rng=rng), profile.triples)


def rows_of_seed(harness: Harness, seed: int) -> Sequence[Row]:
    """Return the rows of one cover for *harness*, the same ones for the same *seed*."""
    return _cover_of_seed(tuple(factors_of(harness).items()), seed)


@lru_cache(maxsize=8)
def _cover_of_seed(factors: tuple[tuple[str, Sequence[Level]], ...], seed: int) -> Sequence[Row]:
    """Search once for all state machines with these *factors*: it takes nearly a second."""
    return tuple(cover(dict(factors), fits=fits, rng=Random(seed)))  # noqa: S311 - no secret


def try_foreign_headers(harness: Harness) -> None:
    """Record in *harness* whether it can put foreign bytes with headers into its store."""
    if not harness.has("put_raw"):
        return
    bench = Bench(harness)  # not as a context: other tests judge what is done with such bytes
    try:
        bench.worker()
        bench.raw(headers={"Kind": "foreign"})
    except HookMissing:
        harness.takes_headers = False
    finally:
        bench.clean_up()


def pairs_of(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a feature and an operation that *row* has."""
    for name, level in row.items():
        if name != "operation":
            yield level.words if name not in _TOLD else f"{name}: {level.words}", row["operation"].words


_TOLD = frozenset({"time before the operation", "time after the operation", "second operation", "situation"})
"""The factors that share levels with others."""


def pairs_that_can_exist(harness: Harness) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a feature and an operation that *harness* can meet."""
    factors = factors_of(harness)
    for name, levels in factors.items():
        if name != "operation":
            for pair in combos({name: levels, "operation": factors["operation"]}, 2, fits):
                yield from pairs_of(dict(pair))


def in_words(row: Row) -> str:
    """Return the levels of *row* that are not the usual ones."""
    unusual = [f"{name}: {level.words}" for name, level in row.items() if level is not FACTORS[name][0]]
    return "; ".join(unusual) or "the usual"
