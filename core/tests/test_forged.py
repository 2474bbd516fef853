"""What is done to signed and to forged events on their way: they are relayed, moved, revived and replayed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from relevo import (
    App,
    Call,
    DeadLetter,
    DeadLetterEntry,
    Envelope,
    Event,
    Retry,
    RunOptions,
    Signing,
    Unreadable,
    Worker,
    listener,
)
from relevo._transport.acceptance import QueueTable
from relevo._transport.delivery import MAX_STATE, Release
from relevo._transport.route import Target, outbox_queue
from relevo._worker.progress import ListenerProgress, Progress, dumped
from relevo._worker.relay import RelayExecutor, readdressed
from relevo.errors import ConfigurationError, DecodeError, SendError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_memory._store import Posting

from .application import DRAIN, Make, drain

OLD = "ICl1y4JgHHCMPzFuR0eDBVcNmsBqKtd_4-wYpJw2oT8"
NEW = "9tZr7dX0bQ3mWkLhE5vYgUa1SfJc6RnOiP2TqHxKs8M"
OTHER = "fD2wGy8UoR4aLzNp7JbXsEc1QhTkVm0I5xBrKd9ZiYg"
OUTBOX = outbox_queue("main")

Listening = Callable[..., App]


@pytest.fixture(name="heard")
def _heard() -> list[str]:
    """Return the list of the paths of the events that were handled."""
    return []


@pytest.fixture(name="shop")
def _shop(make: Make, heard: list[str]) -> Listening:
    """Make an application that notes what it handles."""
    hear = listener("a.b", id="hear")(functools.partial(lambda event: heard.append(event["path"])))
    return functools.partial(make, hear)


def sent(app: App, path: str = "sea.jpg", queue: str = "default") -> Envelope:
    """Return what *app* sends for an event."""
    app.dispatch(Event("a.b", {"path": path}))
    (one,) = app.transport("main").receive([queue], limit=1, lease=60.0, wait=0.0)
    app.transport("main").ack(one)
    assert isinstance(one.envelope, Envelope)
    return one.envelope


def put(transport: MemoryTransport, *envelopes: Envelope, queue: str | None = None) -> None:
    """Write *envelopes* into the store of *transport*, as something that can write there does."""
    postings = [Posting(queue=queue or one.queue, envelope=one, due=0.0) for one in envelopes]
    transport.store.add(postings, 0.0)


def dead(transport: Any, queue: str = "default") -> list[tuple[str, str]]:
    return [(each.reason, each.error) for each in transport.dead_letters([queue], after=None, limit=9)]


def unsigned(source: str, *, of: str | None = None, path: str = "sea.jpg") -> Envelope:
    """Return an event without a signature from *source*, whose body says that it is from the source *of*."""
    body = json.dumps({"specversion": "1.0", "id": "1", "source": of or source, "type": "a.b", "data": {"path": path}})
    return Envelope(id="1", source=source, name="a.b", body=body.encode())


# --- a copy in another place -------------------------------------------------------------------------------


def test_the_event_of_another_application_with_the_same_key_is_handled_only_if_it_is_accepted(
    make: Make, shop: Listening, heard: list[str]
) -> None:
    transport = MemoryTransport()
    copied = sent(make(source="bank", signing=NEW))
    put(transport, copied)

    drain(shop(transports={"main": transport}, signing=NEW))
    before = list(heard)
    put(transport, copied)
    drain(shop(transports={"main": transport}, signing=Signing(NEW, accept=["bank"])))

    assert (before, heard) == ([], ["sea.jpg"])
    why = (
        "its source 'bank' is not accepted: this application is 'shop'; to handle its events, add it to signing.accept"
    )
    assert dead(transport) == [("forged", why)]


def test_an_event_that_was_copied_to_another_queue_is_forged(shop: Listening, heard: list[str]) -> None:
    transport = MemoryTransport()
    app = shop(transports={"main": transport}, routes={"a.b": "main", "*": "main/feed"}, signing=NEW)
    envelope = sent(app)
    put(transport, envelope, queue="feed")
    put(transport, attrs.evolve(envelope, queue="feed"))

    drain(app)

    assert heard == []
    assert [reason for reason, _ in dead(transport, "feed")] == ["forged"] * 2


# --- sources that may come without a signature -------------------------------------------------------------


def test_an_unsigned_event_is_handled_if_its_source_may_come_unsigned(shop: Listening, heard: list[str]) -> None:
    transport = MemoryTransport()
    put(transport, unsigned("partner"), unsigned("bank", path="bank.jpg"), unsigned("shop", path="shop.jpg"))

    drain(shop(transports={"main": transport}, signing=Signing(NEW, unsigned=["partner"])))

    assert heard == ["sea.jpg"]
    assert [reason for reason, _ in dead(transport)] == ["forged"] * 2


def test_an_event_that_may_come_unsigned_cannot_pass_for_one_of_another_source(
    shop: Listening, heard: list[str]
) -> None:
    transport = MemoryTransport()
    put(transport, unsigned("partner", of="shop"))

    drain(shop(transports={"main": transport}, signing=Signing(NEW, unsigned=["partner"])))

    assert heard == []
    assert dead(transport) == [("malformed", 'the body names "a.b" 1 from shop, the envelope "a.b" 1 from partner')]


def test_the_applications_own_events_cannot_be_let_in_unsigned(make: Make) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^signing.unsigned: the application's own source 'shop' may not be listed; "
    ):
        make(signing=Signing(NEW, unsigned=["partner", "shop"]))


# --- a relay -----------------------------------------------------------------------------------------------


@pytest.fixture(name="box")
def _box(clock: FakeClock) -> MemoryTransport:
    return MemoryTransport(name="box", clock=clock)


def relay(app: App) -> None:
    worker = app.relay("main", DRAIN)
    assert worker is not None
    worker.run()


def test_a_relay_signs_again_with_the_key_that_signs_now(
    make: Make, shop: Listening, heard: list[str], box: MemoryTransport
) -> None:
    put(box, sent(make(signing=OLD)), queue=OUTBOX)
    app = shop(outboxes={"main": box}, signing=[NEW, OLD])

    relay(app)
    drain(shop(transports=app.transports, signing=NEW))

    assert heard == ["sea.jpg"]


@pytest.mark.parametrize(
    "changes", [{"headers": {}}, {"name": "a.c"}, {"queue": "feed"}, {"source": "bank"}, {"expires": 4e9}], ids=str
)
def test_a_relay_leaves_a_forged_event_as_it_is(
    changes: dict[str, Any], make: Make, shop: Listening, box: MemoryTransport
) -> None:
    forged = attrs.evolve(sent(make(signing=NEW)), **changes)
    put(box, forged, queue=OUTBOX)
    app = shop(outboxes={"main": box}, signing=NEW)

    relay(app)

    (entry,) = box.dead_letters([OUTBOX], after=None, limit=9)
    assert (entry.reason, entry.envelope) == ("forged", forged)
    assert app.transport("main").stats("default").ready == 0
    with pytest.raises(DecodeError):
        app.revived(entry)


def test_a_relay_waits_for_the_key_of_a_later_deploy(
    make: Make, shop: Listening, heard: list[str], box: MemoryTransport, clock: FakeClock
) -> None:
    put(box, sent(make(signing=NEW)), queue=OUTBOX)
    earlier, later = shop(outboxes={"main": box}, signing=OLD), shop(outboxes={"main": box}, signing=[NEW, OLD])

    relay(earlier)
    waiting = box.stats(OUTBOX).scheduled
    clock.advance(60.0)
    relay(later)
    drain(later)

    assert waiting == 1
    assert heard == ["sea.jpg"]


class Choosy(MemoryTransport):
    """It refuses everything until it is told otherwise."""

    is_choosy = True

    def send(self, envelopes: Any, *, delay: float = 0.0) -> None:
        if self.__dict__.get("choosy", True):
            raise SendError(self.name, refused=range(len(envelopes)), why="not today")
        super().send(envelopes, delay=delay)


def test_an_event_that_the_target_refused_is_revived_in_the_outbox(
    make: Make, shop: Listening, heard: list[str], box: MemoryTransport, clock: FakeClock
) -> None:
    target = Choosy(clock=clock)
    put(box, sent(make(signing=NEW)), queue=OUTBOX)
    app = shop(transports={"main": target}, outboxes={"main": box}, signing=NEW, patience=0.0)
    relay(app)
    (entry,) = box.dead_letters([OUTBOX], after=None, limit=9)

    target.__dict__["choosy"] = False
    box.revive({entry.ref: app.revived(entry)})
    relay(app)
    drain(app)

    assert entry.reason == "refused"
    assert heard == ["sea.jpg"]


# --- a move ------------------------------------------------------------------------------------------------


def move(app: App, here: MemoryTransport, there: MemoryTransport, *, queue: str, to: str) -> None:
    """Move what is in *queue* as ``relevo move`` does."""
    Worker(
        transport=here,
        handle=lambda _: Release(),
        queues=(queue,),
        clock=app.clock,
        chance=lambda: 0.0,
        options=RunOptions(until_empty=True),
        executor=RelayExecutor(
            there,
            clock=app.clock,
            patience=None,
            change=readdressed(app.signing, app.source, to=Target("there", to), queues=QueueTable()),
        ),
    ).run()


def test_a_signed_event_is_handled_after_it_was_moved_and_a_forged_one_stays_what_it_is(
    shop: Listening, heard: list[str], clock: FakeClock
) -> None:
    here, there = MemoryTransport(name="here", clock=clock), MemoryTransport(name="there", clock=clock)
    app = shop(transports={"main": here, "other": there}, routes={"a.b": "main", "*": "other"}, signing=NEW)
    true = sent(app)
    forged = attrs.evolve(true, id="2"), attrs.evolve(true, id="3", headers={})
    put(here, true, *forged, Signing(OTHER).signed(attrs.evolve(true, id="4")))

    move(app, here, there, queue="default", to="media")
    drain(shop(transports={"main": there}, routes={"*": "main/media"}, signing=NEW))

    assert heard == ["sea.jpg"]
    entries = here.dead_letters(["default"], after=None, limit=9)
    assert [entry.envelope for entry in entries] == [*forged]
    assert here.stats("default").scheduled == 1, "the one of a key that may still come"


# --- dead letters ------------------------------------------------------------------------------------------


def test_a_forged_dead_letter_is_not_revived_until_its_key_is_there(
    make: Make, shop: Listening, heard: list[str], clock: FakeClock
) -> None:
    transport = MemoryTransport(clock=clock)
    put(transport, sent(make(signing=NEW)))
    earlier = shop(transports={"main": transport}, signing=OLD, patience=0.0)
    drain(earlier)
    (entry,) = transport.dead_letters(["default"], after=None, limit=9)
    with pytest.raises(DecodeError, match="it is signed with the key"):
        earlier.revived(entry)

    later = shop(transports={"main": transport}, signing=[NEW, OLD])
    transport.revive({entry.ref: later.revived(entry)})
    drain(later)

    assert entry.reason == "forged"
    assert heard == ["sea.jpg"]


def test_a_dead_letter_that_was_changed_in_the_store_is_not_revived(make: Make) -> None:
    @listener("a.b", retry=1)
    def fail(event: Event, call: Call) -> None:
        raise ValueError

    app = make(fail, signing=NEW)
    app.dispatch(Event("a.b", {"path": "sea.jpg"}))
    drain(app)
    (entry,) = app.transport("main").dead_letters(["default"], after=None, limit=9)
    assert isinstance(entry.envelope, Envelope)

    assert app.revived(entry)
    for changes in (
        {"envelope": attrs.evolve(entry.envelope, body=entry.envelope.body.replace(b"sea", b"bay"))},
        {"envelope": attrs.evolve(entry.envelope, headers={})},
        {"queue": "feed"},
    ):
        with pytest.raises(DecodeError):
            app.revived(attrs.evolve(entry, **changes))


STRANGER = dumped(Progress(1, listeners={"done": ListenerProgress("done", 1), "fail": ListenerProgress("done", 1)}))
"""A state that no worker signed: everything is done."""


@pytest.mark.parametrize(
    "forge",
    [
        lambda state, _: state[:-1] + b"?",
        lambda state, _: STRANGER,
        lambda state, _: state + b" " * MAX_STATE,
        lambda _, another: another,
    ],
    ids=["changed", "of a stranger", "too long", "of another event"],
)
def test_a_forged_state_decides_for_no_listener_and_the_event_is_revived_from_the_beginning(
    make: Make, clock: FakeClock, forge: Callable[[bytes, bytes], bytes]
) -> None:
    transport = MemoryTransport(clock=clock)
    heard: list[str] = []

    @listener("a.b", id="fail", retry=Retry(3, first=10.0))
    def fail(event: Event) -> None:
        heard.append("fail")
        if len(heard) == 2:
            raise ValueError

    done = listener("a.b", id="done", priority=1)(functools.partial(lambda event: heard.append("done")))
    app = make(fail, done, transports={"main": transport}, signing=NEW)
    app.dispatch(Event("a.b"))
    drain(app)
    clock.advance(60.0)
    (one,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    other = Signing(NEW).sealed(STRANGER, Envelope(id="2", source="shop", name="a.b", body=b""))

    outcome = app.handle("main", app.listeners, checkpoint=None)(attrs.evolve(one, state=forge(one.state, other)))
    assert isinstance(outcome, DeadLetter)
    transport.settle([(one, outcome)])
    (entry,) = transport.dead_letters(["default"], after=None, limit=9)
    before = list(heard)
    transport.revive({entry.ref: app.revived(attrs.evolve(entry, state=forge(one.state, other)))})
    drain(app)

    assert before == ["done", "fail"]
    assert (outcome.reason, outcome.state) == ("forged", None)
    assert outcome.error.endswith("; if the event is revived, all its listeners run again")
    assert heard == ["done", "fail", "done", "fail"]
    assert dead(transport) == []


def test_what_was_unreadable_is_revived_without_a_state_since_that_cannot_be_verified(make: Make) -> None:
    state = Signing(NEW).sealed(STRANGER, Envelope(id="1", source="shop", name="a.b", body=b""))
    entry = DeadLetterEntry(
        ref="1",
        queue="default",
        envelope=Unreadable(raw=b"?", why="the column attempt holds text"),
        reason="unreadable",
        error="",
        state=state,
        attempt=1,
        lost_leases=0,
        enqueued_at=0.0,
        died_at=0.0,
    )

    assert make(signing=NEW).revived(entry) == make(signing=NEW).revived(attrs.evolve(entry, state=b"")) == b""
    assert make().revived(entry) != b""
    assert make().revived(attrs.evolve(entry, state=b"")) == b""
