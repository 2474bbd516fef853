from __future__ import annotations

from relevo import Ack, Envelope
from relevo.testing import FakeClock
from relevo_sql import SqlTransport


def test_what_is_sent_is_received_and_gone_once_it_is_settled(transport: SqlTransport) -> None:
    envelope = Envelope(id="1", source="shop", name="image.created", body=b"{}")
    transport.send([envelope])

    (delivery,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    lost = transport.settle([(delivery, Ack())])

    assert delivery.envelope == envelope
    assert not lost
    assert not transport.receive(["default"], limit=10, lease=60, wait=0)


def test_a_lease_that_ran_out_is_a_loss(transport: SqlTransport, clock: FakeClock) -> None:
    transport.send([Envelope(id="1", source="shop", name="image.created", body=b"{}")])
    (held,) = transport.receive(["default"], limit=1, lease=60, wait=0)

    clock.advance(60)
    (again,) = transport.receive(["default"], limit=1, lease=60, wait=0)

    assert (again.attempt, again.lost_leases) == (2, 1)
    assert transport.settle([(held, Ack())]) == [held]


def test_what_is_delayed_behind_its_key_is_found_as_scheduled_until_it_is_due(
    transport: SqlTransport, clock: FakeClock
) -> None:
    first, second = (
        Envelope(id=event_id, source="shop", name="image.created", body=b"{}", ordering_key="key") for event_id in "12"
    )
    transport.send([first])
    transport.send([second], delay=20)

    (early,) = transport.find("2")
    clock.advance(20)
    (due,) = transport.find("2")

    assert (early.status, early.until) == ("scheduled", clock.now())
    assert (due.status, due.until) == ("ready", None)
