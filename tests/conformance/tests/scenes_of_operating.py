"""Scenes of operating: looking, finding, purging, and what ends in no way at all."""

from __future__ import annotations

from typing import Any

import attrs

from relevo import DeadLetter, Nack, Stats
from relevo_conformance import history, promise

from .scene import SCENES, scene
from .script import EVERYTHING, LEASE, NOTHING, Script, event


@scene(promise.PURGED_IS_GONE)
def a_purge_takes_out_what_somebody_holds_and_says_nothing(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    script.call(history.Purge(queue="q"), history.Number(0))
    script.ack(held, lost=not honest)
    return script


@scene(promise.CANCELLED_IS_GONE)
def a_cancel_takes_out_what_somebody_holds_who_is_lost_then(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.call(history.Cancel(event_id="e1"), history.Number(0))
    script.kill()
    script.wait(LEASE + 1.0)
    if honest:
        script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")
    script.drain()
    return script


@scene(promise.TAKEN_BY_ITS_ID)
def an_event_that_is_not_due_is_not_taken_by_its_id(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=3600.0)
    script.take(*([event()] if honest else []))
    return script


@scene(promise.TAKEN_BY_ITS_ID)
def another_event_is_taken(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), event(2))
    script.take(event(), *([] if honest else [event(2)]))
    return script


@scene(promise.LEASED_IS_HIDDEN)
def a_held_event_is_taken_by_its_id(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.take(*([] if honest else [event()]), worker="b")
    return script


@scene(promise.LEASED_IS_HIDDEN)
def an_event_that_was_taken_by_its_id_is_received(*, honest: bool) -> Script:
    """Let its lease begin with the call, and not when it would have been due."""
    script = Script()
    script.send(event(), delay=3600.0)
    script.take(event())
    script.wait(LEASE + 1.0 if honest else LEASE / 2)
    script.receive(event(), attempt=2 if honest else 1, lost_leases=1 if honest else 0, worker="b")
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_that_lives_is_not_found(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.find(*([script.living(event())] if honest else []))
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_is_found_twice(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), event(1, queue="r"))
    script.find(script.living(event()), script.living(event(1, queue="r" if honest else "q")))
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_is_found_that_is_done(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    if not honest:
        script.ack(held)
    script.find(script.living(event(), status="leased", until=script.now + LEASE))
    return script


@scene(promise.FOUND_AS_IT_IS)
def another_event_is_found_too(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.find(script.living(event(1)), *([] if honest else [script.living(event(2))]))
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_is_found_that_was_changed(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.find(script.living(event() if honest else event(body=b"[]")))
    return script


@scene(promise.FOUND_AS_IT_IS)
def a_lease_that_is_over_is_found_as_held(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    end = script.now + LEASE
    script.wait(LEASE + 1.0)
    held = script.living(event(), status="leased", until=end)
    script.find(script.living(event(), attempt=2, lost_leases=1) if honest else held)
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_that_waits_is_found_with_another_time(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=10.0)
    script.find(script.living(event(), status="scheduled", until=script.now + (10.0 if honest else 9.0)))
    return script


def a_held_event_is_found_with_another(**wrong: Any) -> None:
    def play(*, honest: bool) -> Script:
        script = Script()
        script.send(event())
        (first,) = script.receive(event())
        script.nack(first, state=b"once")
        script.receive(event(), attempt=2, state=b"once")
        right = {"status": "leased", "attempt": 2, "state": b"once", "until": script.now + LEASE}
        script.find(script.living(event(), **(right if honest else right | wrong)))
        return script

    name, value = next(iter(wrong.items()))
    play.__name__ = f"a_held_event_is_found_with_another_{name}_{value}"
    SCENES.append((promise.FOUND_AS_IT_IS, play))


a_held_event_is_found_with_another(status="ready")
a_held_event_is_found_with_another(attempt=1)
a_held_event_is_found_with_another(attempt=3)
a_held_event_is_found_with_another(lost_leases=1, attempt=3)
a_held_event_is_found_with_another(state=b"")
a_held_event_is_found_with_another(until=1030.0)
a_held_event_is_found_with_another(until=1070.0)
a_held_event_is_found_with_another(enqueued_at=1000.5)


@scene(promise.CANCELLED_IS_GONE)
def a_cancelled_event_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.call(history.Cancel(event_id="e1"), history.Number(1))
    script.receive(event(2 if honest else 1))
    return script


@scene(promise.CANCELLED_IS_GONE)
def what_was_held_until_now_is_not_cancelled(*, honest: bool) -> Script:
    """Once its lease is past, nobody holds it; before that, nobody may cancel it."""
    script = Script()
    script.send(event())
    script.receive(event())
    script.wait(LEASE if honest else LEASE - 1)
    script.call(history.Cancel(event_id="e1"), history.Number(1))
    return script


@scene(promise.SENT_IS_RECEIVED)
def what_a_refused_cancel_took_out_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    call = history.Cancel(event_id="e1")
    script.call(call, end="unknown" if honest else "refused", error="TransportUnavailableError")
    script.drain()
    return script


@scene(promise.CANCELLED_IS_GONE)
def a_held_event_is_cancelled(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.call(history.Cancel(event_id="e1"), history.Number(0 if honest else 1))
    return script


@scene(promise.PURGED_IS_GONE)
def a_purge_counts_what_is_not_there(*, honest: bool) -> Script:
    """Leave open whether what is sent meanwhile is counted."""
    script = Script()
    op = script.begin(history.Purge(queue="q"))
    if honest:
        script.send(event(), worker="b")
    script.end(op, history.Number(1))
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def what_is_sent_during_a_purge_is_counted_after_it(*, honest: bool) -> Script:
    """Leave open whether what is sent meanwhile was removed."""
    script = Script()
    op = script.begin(history.Purge(queue="q"))
    script.send(event(), worker="b")
    script.end(op, history.Number(1))
    script.count(ready=0 if honest else 2, leased=0, scheduled=0, dead=0, oldest_age=None)
    return script


@scene(promise.PURGED_IS_GONE)
def a_purged_event_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2, queue="r"))
    script.call(history.Purge(queue="q"), history.Number(1))
    script.receive(event(2, queue="r") if honest else event(1))
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def the_figures_are_wrong(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2), event(3, queue="r"))
    script.send(event(4), delay=10.0)
    script.receive(event(1))
    script.count(ready=1 if honest else 2, leased=1, scheduled=1, dead=0, oldest_age=0.0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def the_oldest_event_that_is_ready_has_no_age(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.count(ready=1, oldest_age=0.0)
    script.count(ready=1, oldest_age=0.0 if honest else None)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def the_figures_are_late_when_nothing_moves(*, honest: bool) -> Script:
    script = Script()
    op = script.begin(history.Send(envelopes=(event(),)), worker="b")
    if honest:
        script.count(ready=0)
    script.end(op)
    if not honest:
        script.count(ready=0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def what_has_come_due_is_counted_as_scheduled(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=5.0)
    script.wait(4.0 if honest else 6.0)
    script.count(ready=0, scheduled=1)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def a_lease_that_holds_is_counted_as_ready(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.wait(LEASE if honest else LEASE - 1)
    script.count(ready=1, leased=0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def the_age_of_the_oldest_is_wrong(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1))
    script.wait(30.0)
    script.send(event(2))
    script.count(ready=2, oldest_age=30.0 if honest else 0.0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def there_is_an_age_of_nothing(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=10.0)
    script.count(ready=0, scheduled=1, oldest_age=None if honest else 0.0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def there_are_fewer_than_none(*, honest: bool) -> Script:
    """Figures that are approximate may be wrong, but not like this."""
    script = Script(attrs.evolve(EVERYTHING, stats="approximate"))
    script.send(event())
    script.count(ready=3 if honest else -1)
    return script


@scene(promise.CLOSE_IS_IDEMPOTENT)
def a_closed_transport_sends(*, honest: bool) -> Script:
    script = Script()
    script.close()
    if honest:
        script.send(event(), end="refused", error="TransportClosedError")
    else:
        script.send(event())
    return script


@scene(promise.CLOSE_IS_IDEMPOTENT)
def a_closed_transport_does_what_it_does_not_claim(*, honest: bool) -> Script:
    script = Script(NOTHING)
    script.close()
    call = history.Find(event_id="e1")
    if honest:
        script.call(call, end="refused", error="UnsupportedError")
    else:
        script.call(call, history.Living(()))
    return script


@scene(promise.CLOSE_IS_IDEMPOTENT)
def a_transport_says_closed_before_its_close_began(*, honest: bool) -> Script:
    """Let a call that a close comes to meet end as one of a closed transport."""
    script = Script()
    op = script.begin(history.Receive(queues=("q",), limit=1, lease=LEASE, wait=5.0))
    if honest:
        script.close()
    script.end(op, end="refused", error="TransportClosedError")
    return script


@scene(promise.CLOSE_IS_IDEMPOTENT)
def a_transport_says_closed_that_nobody_closed(*, honest: bool) -> Script:
    script = Script()
    if honest:
        script.close()
    script.send(event(), end="refused", error="TransportClosedError")
    return script


@scene(promise.UNCLAIMED_IS_REFUSED)
def what_is_not_claimed_is_done(*, honest: bool) -> Script:
    script = Script(NOTHING)
    if honest:
        script.send(event(), delay=1.0, end="refused", error="UnsupportedError")
    else:
        script.send(event(), delay=1.0)
    return script


@scene(promise.UNCLAIMED_IS_REFUSED)
def an_urgency_that_is_not_claimed_is_taken(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, urgency=False))
    script.send(event(urgency="normal" if honest else "high"))
    return script


@scene(promise.UNCLAIMED_IS_REFUSED)
def an_order_that_is_not_claimed_is_taken(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, order="none"))
    script.send(event(ordering_key=None if honest else "k"))
    return script


@scene(promise.UNCLAIMED_IS_REFUSED)
def a_dead_letter_that_is_not_claimed_is_taken(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, dead_letters=False))
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Nack() if honest else DeadLetter(reason="failed"))
    return script


def what_is_not_claimed_comes_back(call: history.Call, value: history.Value | None) -> None:
    def play(*, honest: bool) -> Script:
        script = Script(NOTHING)
        if honest:
            script.call(call, end="refused", error="UnsupportedError")
        else:
            script.call(call, value)
        return script

    play.__name__ = f"{type(call).__name__.lower()}_is_not_claimed_and_done"
    SCENES.append((promise.UNCLAIMED_IS_REFUSED, play))


what_is_not_claimed_comes_back(history.Extend(deliveries=(), lease=LEASE), history.Settled())
what_is_not_claimed_comes_back(history.Checkpoint(delivery=1, state=b""), None)
what_is_not_claimed_comes_back(history.ListDead(queues=("q",)), history.Entries(()))
what_is_not_claimed_comes_back(history.Revive(refs={}), history.Missing(()))
what_is_not_claimed_comes_back(history.Discard(refs=()), history.Missing(()))
what_is_not_claimed_comes_back(history.Cancel(event_id="e1"), history.Number(0))
what_is_not_claimed_comes_back(history.Find(event_id="e1"), history.Living(()))
what_is_not_claimed_comes_back(history.Take(queue="q", event_id="e1", lease=LEASE), history.HandedOut(()))
what_is_not_claimed_comes_back(history.Purge(queue="q"), history.Number(0))
what_is_not_claimed_comes_back(history.Count(queue="q"), history.Figures(Stats()))
what_is_not_claimed_comes_back(history.SendBound(transaction=1, envelopes=()), None)


@scene(promise.UNCLAIMED_IS_REFUSED)
def what_is_claimed_is_refused(*, honest: bool) -> Script:
    script = Script(NOTHING if not honest else EVERYTHING)
    script.extend(1) if honest else script.call(history.SetUp(queues=()), end="refused", error="UnsupportedError")
    return script


@scene(promise.ERRORS_ARE_TRANSLATED)
def a_driver_error_comes_through(*, honest: bool) -> Script:
    script = Script()
    call = history.Receive(queues=("q",), limit=1, lease=LEASE, wait=0.0)
    if honest:
        script.call(call, end="unknown", error="TransportUnavailableError")
    else:
        script.call(call, end="crashed", error="OperationalError: database is locked")
    return script


@scene(promise.ANSWERS_ARE_WELL_FORMED)
def an_answer_is_none(*, honest: bool) -> Script:
    script = Script()
    call = history.Purge(queue="q")
    if honest:
        script.call(call, history.Number(0))
    else:
        script.call(call, end="malformed", error="purge returned None")
    return script


@scene(promise.CALLS_COME_BACK)
def a_call_does_not_come_back(*, honest: bool) -> Script:
    script = Script()
    call = history.Purge(queue="q")
    if honest:
        script.call(call, history.Number(0))
    else:
        script.call(call, end="hung", error="did not come back within 30 s")
    return script
