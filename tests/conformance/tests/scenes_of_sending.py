"""Scenes of sending, and of what was sent."""

from __future__ import annotations

import attrs

from relevo import Unreadable
from relevo_conformance import history, promise

from .scene import scene
from .script import BROKER, EVERYTHING, Script, event


@scene(promise.SENT_IS_RECEIVED)
def an_event_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.ack(*script.receive(event(1)))
    if honest:
        script.ack(*script.receive(event(2)))
    script.drain()
    return script


@scene(promise.SENT_IS_RECEIVED)
def an_event_whose_first_send_may_have_failed_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("before"))
    script.send(event(), fates=["unknown"])
    script.call(history.Mend())
    script.send(event())
    if honest:
        script.ack(*script.receive(event()))
    script.drain()
    return script


@scene(promise.SENT_IS_RECEIVED)
def a_send_is_refused_for_no_reason(*, honest: bool) -> Script:
    script = Script()
    script.setup()
    if honest:
        script.call(history.Break("before"))
    script.send(event(), fates=["refused"])
    return script


@scene(promise.SENT_IS_RECEIVED)
def an_unknown_queue_is_refused(*, honest: bool) -> Script:
    script = Script()
    if not honest:
        script.setup()
    script.send(event(), fates=["refused"])
    return script


@scene(promise.SENT_IS_RECEIVED)
def a_queue_that_a_set_up_would_have_made_is_refused(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SetUp(queues=("q",), dry_run=honest), history.Words(("q",)))
    script.send(event(), fates=["refused"])
    return script


@scene(promise.SENT_IS_RECEIVED)
def a_send_is_refused_while_the_store_of_another_worker_is_broken(*, honest: bool) -> Script:
    script = Script()
    script.setup()
    script.call(history.Break("before"), worker="a" if honest else "b")
    script.send(event(), fates=["refused"])
    return script


@scene(promise.SENT_IS_RECEIVED)
def a_body_of_just_the_largest_size_is_refused(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, max_body=3))
    script.setup()
    script.send(event(body=b"four" if honest else b"two"), fates=["refused"])
    return script


@scene(promise.NO_INVENTION)
def an_event_comes_that_nobody_sent(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.receive(event(2 if honest else 3))
    return script


@scene(promise.SEND_TELLS_APART)
def a_refused_event_comes(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, atomic_batch=False))
    script.call(history.Break("before"))
    script.send(event(1), event(2), fates=["sent", "unknown" if honest else "refused"])
    script.receive(event(1), event(2))
    return script


@scene(promise.SEND_TELLS_APART)
def an_error_leaves_a_position_out(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("after"))
    call = history.Send(envelopes=(event(1), event(2)))
    script.call(call, history.Fates(("unknown", "unknown"), told_apart=honest), end="unknown", error="SendError")
    return script


@scene(promise.BATCH_IS_ATOMIC)
def a_batch_is_torn_by_its_own_word(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("before"))
    script.send(event(1), event(2), fates=["refused", "refused" if honest else "sent"])
    return script


@scene(promise.BATCH_IS_ATOMIC)
def a_batch_of_unknown_fate_comes_in_half(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("after"))
    script.send(event(1), event(2), fates=["unknown", "unknown"])
    for number in (1, 2) if honest else (1,):
        script.ack(*script.receive(event(number)))
    script.drain()
    return script


@scene(promise.BATCH_IS_ATOMIC)
def a_batch_of_unknown_fate_comes_in_half_although_nobody_sent_it_again(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("before"))
    script.send(event(1), event(2), fates=["unknown", "unknown"])
    script.call(history.Mend())
    script.send(event(1) if honest else event(3))
    for number in (1,) if honest else (1, 3):
        script.ack(*script.receive(event(number)))
    script.drain()
    return script


@scene(promise.DELAY_IS_RESPECTED)
def a_delayed_event_comes_early(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=10.0)
    script.wait(10.0 if honest else 9.9)
    script.receive(event())
    return script


@scene(promise.RESENT_IS_ONE)
def an_event_that_stands_twice_in_a_batch_comes_twice(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(1))
    (first,) = script.receive(event(1))
    if honest:
        script.ack(first)
        script.send(event(1), event(2))
    script.receive(event(1))
    return script


@scene(promise.RESENT_IS_ONE)
def a_kept_event_comes_twice(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    if honest:
        script.ack(first)
    script.send(event())
    script.receive(event())
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_comes_before_the_commit(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    if honest:
        script.call(history.EndTransaction(transaction=1, way="commit"))
    script.receive(event())
    return script


def _committed(script: Script, *, times: int) -> Script:
    """Commit the transaction, and let its event be delivered so many *times*."""
    script.call(history.EndTransaction(transaction=1, way="commit"))
    for _ in range(times):
        script.ack(*script.receive(event()))
    script.drain()
    return script


@scene(promise.RESENT_IS_ONE)
def an_event_that_a_transaction_sends_again_comes_twice(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    return _committed(script, times=1 if honest else 2)


@scene(promise.RESENT_IS_ONE)
def an_event_that_is_twice_in_a_transaction_comes_twice(*, honest: bool) -> Script:
    script = Script()
    for number in (1, 2):
        script.call(history.SendBound(transaction=1, envelopes=(event(),), number=number))
    return _committed(script, times=1 if honest else 2)


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_comes_after_a_commit_that_failed(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    op = script.begin(history.EndTransaction(transaction=1, way="commit", how="" if honest else "fail"))
    script.end(op, end="done" if honest else "refused", error="" if honest else "CommitFailedError")
    script.receive(event())
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_comes_after_a_rollback(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    script.call(history.EndTransaction(transaction=1, way="commit" if honest else "rollback"))
    script.receive(event())
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_of_a_savepoint_that_was_taken_back_comes(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SetSavepoint(transaction=1, savepoint=1))
    script.call(history.SendBound(transaction=1, envelopes=(event(1),)))
    script.call(history.EndSavepoint(transaction=1, savepoint=1, way="rollback"))
    script.call(history.SendBound(transaction=1, envelopes=(event(2),)))
    script.call(history.EndTransaction(transaction=1, way="commit"))
    script.receive(event(2 if honest else 1))
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_between_two_savepoints_of_one_number_never_comes(*, honest: bool) -> Script:
    script = Script()
    begin = history.SetSavepoint(transaction=1, savepoint=1)
    take_back = history.EndSavepoint(transaction=1, savepoint=1, way="rollback")
    send = history.SendBound(transaction=1, envelopes=(event(3),))
    for call in (begin, take_back, send, begin, take_back):
        script.call(call)
    script.call(history.EndTransaction(transaction=1, way="commit"))
    if honest:
        script.ack(*script.receive(event(3)))
    script.drain()
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_of_a_transaction_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    op = script.begin(history.EndTransaction(transaction=1, way="commit"))
    script.end(op, end="unknown" if honest else "done")
    script.drain()
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def a_send_in_a_transaction_is_made_twice(*, honest: bool) -> Script:
    script = Script()
    for number in (1, 2):
        script.call(history.SendBound(transaction=1, envelopes=(event(number),), number=number))
    script.call(history.Make(transaction=1, number=1))
    script.call(history.Make(transaction=1, number=2 if honest else 1))
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def a_send_in_a_transaction_is_made_after_a_rollback(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),), number=1))
    script.call(history.EndTransaction(transaction=1, way="rollback"))
    if not honest:
        script.call(history.Make(transaction=1, number=1))
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def a_send_in_a_savepoint_is_made_after_its_rollback(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(1),), number=1))
    script.call(history.SetSavepoint(transaction=1, savepoint=1))
    script.call(history.SendBound(transaction=1, envelopes=(event(2),), number=2))
    script.call(history.EndSavepoint(transaction=1, savepoint=1, way="rollback"))
    script.call(history.Make(transaction=1, number=1 if honest else 2))
    return script


# --- the payload -----------------------------------------------------------------------------------


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def a_body_is_changed(*, honest: bool) -> Script:
    script = Script()
    script.send(event(body=b"\xff"))
    script.receive(event(body=b"\xff" if honest else b"\xef\xbf\xbd"))
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def a_header_is_dropped_at_the_second_hand_over(*, honest: bool) -> Script:
    script = Script()
    script.send(event(headers={"a": "", "b": "1"}))
    script.nack(*script.receive(event(headers={"b": "1", "a": ""})))
    script.receive(event(headers={"a": "", "b": "1"} if honest else {"b": "1"}), attempt=2)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def an_event_says_it_was_sent_at_another_time(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.wait(30.0)
    script.receive(event(), enqueued_at=1000.0 if honest else 1030.0)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def a_redelivery_says_it_was_sent_at_another_time(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.nack(*script.receive(event(), enqueued_at=1000.5))
    script.receive(event(), attempt=2, enqueued_at=1000.5 if honest else 1000.6)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def one_of_two_sendings_comes_with_a_time_of_neither(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.send(event())
    script.wait(0.2)
    script.send(event())
    # The ack of the second sending is lost with its worker, and it comes again; which of the two that is, is a guess.
    script.ack(*script.receive(event(), enqueued_at=1000.2))
    script.kill()
    script.receive(event(), worker="b", attempt=2, lost_leases=1, enqueued_at=1000.2)
    script.receive(event(), worker="b", attempt=2, lost_leases=1, enqueued_at=1000.0 if honest else 1030.0)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def an_envelope_comes_as_unreadable(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event() if honest else Unreadable(raw=b"{}", why="no id"))
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def an_event_comes_with_another_source(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event(source="shop" if honest else "Shop"))
    return script


@scene(promise.QUEUES_ARE_ISOLATED)
def an_event_comes_out_of_another_queue(*, honest: bool) -> Script:
    script = Script()
    script.send(event(queue="r"))
    script.receive(event(queue="r" if honest else "q"), queues=["q", "r"])
    return script


@scene(promise.QUEUES_ARE_ISOLATED)
def a_queue_is_received_from_that_was_not_asked_for(*, honest: bool) -> Script:
    script = Script()
    script.send(event(queue="r"))
    script.receive(event(queue="r"), queues=["q", "r"] if honest else ["q"])
    return script
