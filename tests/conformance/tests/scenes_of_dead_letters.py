"""Scenes of dead letters."""

from __future__ import annotations

from relevo import DeadLetter, Nack, Unreadable
from relevo_conformance import history, promise

from .scene import scene
from .script import LEASE, Script, event


@scene(promise.LOST_LEASES_ARE_COUNTED)
def a_refused_checkpoint_is_handed_out_again(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    script.checkpoint(held, b"half", end="unknown" if honest else "refused", error="TransportUnavailableError")
    script.kill()
    script.receive(event(), attempt=2, lost_leases=1, state=b"half", worker="b")
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_handed_out(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Nack() if honest else DeadLetter(reason="failed"))
    script.receive(event(), attempt=2 if honest else 1)
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def what_is_held_is_listed_as_dead(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    if honest:
        script.bury(first)
    script.dead(script.entry(event()))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_not_listed(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(*([script.entry(event())] if honest else []))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_page_that_is_not_full_leaves_one_out(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    for number in (1, 2):
        script.bury(*script.receive(event(number)))
    script.dead(script.entry(event(1), ref="1"), limit=1 if honest else 2)
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_listed_on_two_pages(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    for number in (1, 2):
        script.bury(*script.receive(event(number)))
    first, second = (script.entry(event(number), ref=str(number)) for number in (1, 2))
    for page, after in ((first, None), (second if honest else first, "1")):
        call = history.ListDead(queues=("q", "r"), after=after, limit=1)
        script.call(call, history.Entries((page,)))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_on_no_page(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    for number in (1, 2):
        script.bury(*script.receive(event(number)))
    first, second = (script.entry(event(number), ref=str(number)) for number in (1, 2))
    pages = [(first, None), (second, "1"), (None, "2")] if honest else [(first, None), (None, "1")]
    for page, after in pages:
        call = history.ListDead(queues=("q", "r"), after=after, limit=10)
        script.call(call, history.Entries(() if page is None else (page,)))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_list_of_one_queue_leaves_out_one_of_it(*, honest: bool) -> Script:
    script = Script()
    script.send(event(queue="r"))
    script.bury(*script.receive(event(queue="r")))
    script.call(history.ListDead(queues=("q" if honest else "r",), limit=100), history.Entries(()))
    return script


def _pages(script: Script, *pages: tuple[int, ...]) -> None:
    """Read *pages*, each with the numbers of the events on it."""
    after = None
    for page in pages:
        entries = tuple(script.entry(event(number), ref=str(number), died_at=1000.0) for number in page)
        script.call(history.ListDead(queues=("q", "r"), after=after, limit=2), history.Entries(entries))
        after = entries[-1].ref if entries else after


def _buried(*numbers: int) -> Script:
    script = Script()
    for number in numbers:
        script.send(event(number))
        script.bury(*script.receive(event(number)))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_on_two_pages(*, honest: bool) -> Script:
    script = _buried(1, 2, 3)
    _pages(script, (1, 2), (3,) if honest else (2, 3))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def the_pages_end_before_the_last_dead_letter(*, honest: bool) -> Script:
    script = _buried(1, 2, 3)
    _pages(script, (1, 2), *([(3,)] if honest else []), ())
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def what_dies_while_pages_are_read_is_on_none(*, honest: bool) -> Script:
    script = _buried(1)
    script.call(
        history.ListDead(queues=("q", "r"), limit=1), history.Entries((script.entry(event(1), died_at=1000.0),))
    )
    script.wait(1)
    script.send(event(2, queue="r"))
    script.bury(*script.receive(event(2, queue="r"), enqueued_at=1001.0))
    last = "1"
    if honest:
        entry = script.entry(event(2, queue="r"), ref="2", enqueued_at=1001.0)
        script.call(history.ListDead(queues=("q", "r"), after=last, limit=1), history.Entries((entry,)))
        last = "2"
    script.call(history.ListDead(queues=("q", "r"), after=last, limit=1), history.Entries(()))
    return script


@scene(promise.DISCARDED_IS_GONE)
def the_ref_of_a_replaced_dead_letter_discards_something(*, honest: bool) -> Script:
    script = _buried(1)
    script.dead(script.entry(event(1), ref="1"))
    script.send(event(1))
    script.bury(*script.receive(event(1)))
    script.dead(script.entry(event(1), ref="2"))
    script.discard("1", missing=["1"] if honest else [])
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def the_first_page_leaves_one_out(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    after = "1" if honest else None
    script.call(history.ListDead(queues=("q", "r"), after=after, limit=100), history.Entries(()))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_list_leaves_out_what_died_before_it_began(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    if not honest:
        script.bury(held)
    op = script.begin(history.ListDead(queues=("q", "r")), worker="b")
    if honest:
        script.bury(held)
    script.end(op, history.Entries(()))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_list_holds_a_dead_letter_of_a_queue_that_was_not_asked_for(*, honest: bool) -> Script:
    script = Script()
    script.send(event(queue="r"))
    script.bury(*script.receive(event(queue="r")))
    queues = ("q", "r") if honest else ("q",)
    script.call(history.ListDead(queues=queues), history.Entries((script.entry(event(queue="r")),)))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def a_new_dead_letter_has_the_ref_of_the_revived_one(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b""})
    script.bury(*script.receive(event()))
    script.dead(script.entry(event(), ref="2" if honest else "1"), limit=1)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def a_revived_event_says_it_was_sent_at_its_revival(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    script.bury(held)
    script.dead(script.entry(event()))
    script.revive({"1": b""})
    if honest:
        script.receive(event())
    else:
        script.receive(event(), enqueued_at=1000.5)
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_forgets_its_error(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()), error="Traceback")
    script.dead(script.entry(event(), error="Traceback" if honest else ""))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_forgets_its_attempts(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.nack(*script.receive(event()))
    script.bury(*script.receive(event(), attempt=2))
    script.dead(script.entry(event(), attempt=2 if honest else 1))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_has_another_body(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(script.entry(event(body=b"{}" if honest else b"{ }")))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_of_foreign_bytes_has_others_at_the_second_look(*, honest: bool) -> Script:
    script = Script()
    script.put_raw(b"\xff")
    script.bury(*script.receive(Unreadable(raw=b"\xff", why="no id")))
    script.dead(script.entry(Unreadable(raw=b"\xff", why="no id")))
    script.dead(script.entry(Unreadable(raw=b"\xff" if honest else b"\xef", why="no id")))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_has_another_reason(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()), reason="crash-loop")
    script.dead(script.entry(event(), reason="crash-loop" if honest else "failed"))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_forgets_its_state(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()), state=b"half")
    script.dead(script.entry(event(), state=b"half" if honest else b""))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_forgets_its_lost_leases(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event(), worker="b")
    script.kill("b")
    script.wait(LEASE)
    script.bury(*script.receive(event(), attempt=2, lost_leases=1))
    script.dead(script.entry(event(), attempt=2, lost_leases=1 if honest else 0))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_says_it_was_sent_when_it_died(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(30.0)
    script.bury(first)
    script.dead(script.entry(event(), enqueued_at=1000.0 if honest else 1030.0))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_says_it_died_when_it_was_sent(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(30.0)
    script.bury(first)
    script.dead(script.entry(event(), died_at=1030.0 if honest else 1000.0))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_says_it_died_in_the_future(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(script.entry(event(), died_at=1000.0 if honest else 1030.0))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def dead_letters_are_listed_out_of_order(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    entries = []
    for number in (1, 2):
        script.bury(*script.receive(event(number)))
        entries.append(script.entry(event(number), ref=str(number)))
        script.wait(1.0)
    script.dead(*(entries if honest else entries[::-1]))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def an_event_that_died_twice_is_listed_as_it_died_first(*, honest: bool) -> Script:
    script = Script()
    entries = []
    for ref, reason in (("1", "first"), ("2", "second")):
        script.send(event())
        script.bury(*script.receive(event(), enqueued_at=script.now), reason=reason)
        entries.append(script.entry(event(), ref=ref, reason=reason, enqueued_at=script.now))
        script.wait(100.0)
    script.dead(entries[1 if honest else 0])
    return script


@scene(promise.SENT_IS_RECEIVED)
def what_was_sent_again_beside_its_dead_letter_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.send(event())
    if honest:
        script.ack(*script.receive(event()))
    script.drain()
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def what_may_have_died_is_neither_listed_nor_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    for delivery in script.receive(event(1), event(2)):
        items = (history.Item(delivery, DeadLetter(reason="failed", error="why")),)
        script.call(history.Settle(items=items), end="unknown", error="TransportUnavailableError")
    script.wait(LEASE)
    if honest:
        script.ack(*script.receive(event(1), attempt=2, lost_leases=1))
    script.dead(script.entry(event(2), died_at=1000.0))
    script.drain()
    return script


@scene(promise.LIMIT_IS_RESPECTED)
def more_dead_letters_are_listed_than_were_asked_for(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    for number in (1, 2):
        script.bury(*script.receive(event(number)))
    script.dead(script.entry(event(1), ref="1"), script.entry(event(2), ref="2"), limit=2 if honest else 1)
    return script


@scene(promise.NO_INVENTION)
def a_dead_letter_is_listed_that_nobody_sent(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1))
    script.bury(*script.receive(event(1)))
    script.dead(script.entry(event(1)), *([] if honest else [script.entry(event(2), ref="2")]))
    return script


def one_dead_letter() -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(script.entry(event()))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_revived_keeps_its_attempts(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b"new"})
    script.receive(event(), attempt=1 if honest else 2, state=b"new")
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_revived_never_comes(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b""})
    if honest:
        script.ack(*script.receive(event()))
    script.drain()
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_revived_stays_dead_too(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b""})
    script.dead(*([] if honest else [script.entry(event())]))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_came_after_a_revival_of_unknown_fate_stays_dead_too(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.call(history.Revive(refs={"1": b""}), end="unknown", error="TransportUnavailableError")
    script.receive(event())
    script.dead(*([] if honest else [script.entry(event())]))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_dead_is_said_to_be_missing(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b"", "2": b""}, *(["2"] if honest else ["1", "2"]))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def of_revivals_at_the_same_time_none_finds_it(*, honest: bool) -> Script:
    script = one_dead_letter()
    call = history.Revive(refs={"1": b""})
    revivals = [script.begin(call, worker=worker) for worker in "abc"]
    missing = history.Missing(("1",))
    for revival in revivals[1:]:
        script.end(revival, missing)
    script.end(revivals[0], history.Missing(()) if honest else missing)
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_missing_is_said_to_be_revived(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b""})
    script.revive({"1": b""}, *(["1"] if honest else []))
    return script


@scene(promise.DISCARDED_IS_GONE)
def what_is_discarded_is_listed(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.discard("1")
    script.dead(*([] if honest else [script.entry(event())]))
    return script


@scene(promise.DISCARDED_IS_GONE)
def what_is_discarded_comes(*, honest: bool) -> Script:
    script = one_dead_letter()
    if honest:
        script.revive({"1": b""})
    else:
        script.discard("1")
    script.receive(event())
    return script
