"""Unique events: what a dispatch returns, what is refused, and what a test of an application sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from relevo import App, BoundSender, Call, DeferredDispatcher, Envelope, Event, LocalDispatcher, RetryLater, listener
from relevo.errors import ConfigurationError, EncodeError, SessionError, UnsupportedError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

from .application import DRAIN, Make, Plain, drain, waiting
from .shop import Shop, opened

STALE = Event("feed.stale", {"feed": 7})


@pytest.fixture(name="session")
def _session() -> Any:
    engine = sa.create_engine("sqlite://")
    with orm.Session(engine) as session:
        yield session
    engine.dispose()


def test_a_duplicate_is_not_sent_and_names_the_event_that_lives(make: Make) -> None:
    app = make()

    first, second = (app.dispatch(STALE, unique="feed/7") for _ in range(2))

    assert (first.duplicate, first.duplicate_of) == (False, None)
    assert (second.duplicate, second.duplicate_of) == (True, first.id)
    assert waiting(app) == 1


def test_a_dispatch_without_a_key_is_no_duplicate(make: Make) -> None:
    app = make()
    app.dispatch(STALE, unique="feed/7")

    done = app.dispatch(STALE)

    assert (done.duplicate, done.duplicate_of) == (False, None)
    assert waiting(app) == 2


def test_a_key_is_free_when_its_event_is_done_and_its_time_is_over(make: Make, clock: FakeClock) -> None:
    app = make(listener("feed.stale")(lambda event: None))
    app.dispatch(STALE, unique="feed/7", within="10m")
    drain(app)

    early = app.dispatch(STALE, unique="feed/7")
    clock.advance(601)

    assert early.duplicate
    assert not app.dispatch(STALE, unique="feed/7").duplicate


def test_an_event_that_is_being_handled_lives(make: Make) -> None:
    seen: list[bool] = []

    @listener("feed.stale")
    def rebuild(event: Event, call: Call) -> None:
        seen.append(app.dispatch(STALE, unique="feed/7").duplicate)
        if call.attempt == 1:
            raise RetryLater(0)

    app = make(rebuild)
    app.dispatch(STALE, unique="feed/7")
    drain(app)

    assert seen == [True, True]
    assert not app.dispatch(STALE, unique="feed/7").duplicate


def test_a_listener_that_runs_again_dispatches_its_unique_event_once(make: Make) -> None:
    @listener("order.paid")
    def follow(event: Event, call: Call) -> None:
        call.dispatch(STALE, unique="feed/7")
        call.dispatch(Event("order.seen"))

    @listener("order.paid", priority=-1)
    def fail(event: Event, call: Call) -> None:
        if call.attempt == 1:
            raise RetryLater(0)

    app = make(follow, fail, routes={"order.paid": "main/orders", "*": "main/later"})
    for _ in range(2):
        app.dispatch(Event("order.paid"))
    report = app.worker(attrs.evolve(DRAIN, queues=("orders",))).run()

    assert report.retried == 2
    assert waiting(app, queue="later") == 3  # one of the feed, and two others


def test_the_result_in_a_session_is_known_when_it_has_committed(make: Make, session: orm.Session) -> None:
    app = make()
    first = app.dispatch(STALE, unique="feed/7", session=session)
    second = app.dispatch(STALE, unique="feed/7", session=session)

    with pytest.raises(SessionError, match=r'^the unique key "feed/7" is checked when the session'):
        assert first.duplicate
    session.commit()

    assert (first.duplicate, second.duplicate_of) == (False, first.id)
    assert waiting(app) == 1


def test_after_a_rollback_the_result_stays_unknown_and_the_key_is_free(make: Make, session: orm.Session) -> None:
    app = make()
    done = app.dispatch(STALE, unique="feed/7", session=session)
    session.rollback()

    with pytest.raises(SessionError):
        assert done.duplicate
    assert not app.dispatch(STALE, unique="feed/7").duplicate


def test_a_deferred_dispatcher_sends_unique_events(clock: FakeClock, session: orm.Session) -> None:
    transport = MemoryTransport(clock=clock)
    dispatcher = DeferredDispatcher(transport, source="shop", clock=clock)

    first = dispatcher.dispatch(STALE, unique="feed/7")
    second = dispatcher.dispatch(STALE, unique="feed/7", session=session)
    session.commit()

    assert second.duplicate_of == first.id


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"unique": ""}, EncodeError, "unique: expected 1 to 255 printable characters; got ''$"),
        ({"unique": 7}, EncodeError, "unique: expected 1 to 255 printable characters; got 7; write it as text$"),
        ({"unique": "x" * 256}, EncodeError, "unique: expected 1 to 255"),
        ({"unique": "a\nb"}, EncodeError, "unique: expected 1 to 255"),
        ({"unique": "a", "within": "soon"}, ConfigurationError, "^within: expected seconds as a number, or text"),
        ({"unique": "a", "within": -1}, ConfigurationError, "^within: expected"),
        ({"within": "1m"}, ConfigurationError, '^within: it needs a unique key; pass unique="…" too$'),
    ],
)
def test_an_invalid_key_is_refused_on_every_way(
    make: Make, clock: FakeClock, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    app = make(routes={"feed.now": "now", "*": "main"})
    ways: list[Callable[[], object]] = [
        lambda: app.dispatch(STALE, **options),
        lambda: app.dispatch_many([STALE], **options),
        lambda: app.dispatch(STALE, session=object(), **options),
        lambda: DeferredDispatcher(app.transports["main"], clock=clock).dispatch(STALE, **options),
    ]
    for way in ways:
        with pytest.raises(error, match=text):
            way()
    for name in ("feed.now",):
        with pytest.raises((error, ConfigurationError)):
            app.dispatch(Event(name), **options)
    assert waiting(app) == 0


def test_a_key_is_that_of_one_event(make: Make, clock: FakeClock) -> None:
    app = make()
    for dispatcher in (app, DeferredDispatcher(app.transports["main"], clock=clock)):
        with pytest.raises(ConfigurationError, match="unique= is the key of one event; dispatch several one by one"):
            dispatcher.dispatch_many([STALE, STALE], unique="feed/7")
    assert waiting(app) == 0

    assert not app.dispatch_many([STALE], unique="feed/7")[0].duplicate


@pytest.mark.parametrize("routes", [{"*": "now"}, {"*": ["now", "main"]}])
def test_an_event_whose_listeners_are_called_in_process_cannot_be_unique(make: Make, routes: Any) -> None:
    heard: list[Event] = []

    @listener("feed.stale", queue="now")
    def hear(event: Event) -> None:
        heard.append(event)

    app = make(hear, routes=routes)

    with pytest.raises(ConfigurationError, match=r'^"feed[.]stale" cannot be unique, since "now" calls'):
        app.dispatch(STALE, unique="feed/7")
    with pytest.raises(ConfigurationError, match="cannot be unique"):
        LocalDispatcher().dispatch(STALE, unique="feed/7")
    assert heard == []


def test_an_event_of_two_transports_cannot_be_unique(make: Make, clock: FakeClock, session: orm.Session) -> None:
    stores = {"one": MemoryTransport(clock=clock), "other": MemoryTransport(clock=clock)}
    app = make(transports=stores, routes={"*": ["one", "other"]})

    with pytest.raises(ConfigurationError, match="leads to one and other; each would check the key by itself"):
        app.dispatch(STALE, unique="feed/7", session=session)


def test_copies_for_two_queues_of_a_transport_are_one_event(make: Make) -> None:
    app = make(routes={"*": ["main/feed", "main/mail"]})

    first, second = (app.dispatch(STALE, unique="feed/7") for _ in range(2))

    assert second.duplicate_of == first.id
    assert (waiting(app, queue="feed"), waiting(app, queue="mail")) == (1, 1)


def test_an_event_that_passes_an_outbox_cannot_be_unique(make: Make, clock: FakeClock, session: orm.Session) -> None:
    app = make(outboxes={"main": MemoryTransport(clock=clock)})

    with pytest.raises(UnsupportedError, match="does not support unique: a session writes its events to an outbox"):
        app.dispatch(STALE, unique="feed/7", session=session)

    assert not app.dispatch(STALE, unique="feed/7").duplicate


def test_a_transport_that_does_not_claim_it_refuses(make: Make, clock: FakeClock) -> None:
    app = make(transports={"plain": Plain(clock=clock)}, routes={"*": "plain"})
    text = 'the transport "plain" does not support unique; remove unique=, or use a transport that claims it'

    with pytest.raises(UnsupportedError, match=text):
        app.dispatch(STALE, unique="feed/7")
    with pytest.raises(UnsupportedError, match="does not support unique"), app.testing():
        app.dispatch(STALE, unique="feed/7")


def test_a_transport_that_claims_it_without_a_sender_for_it_is_named(make: Make, session: orm.Session) -> None:
    class Old:
        def send(self, make: Any, *, delay: float = 0.0) -> None:
            """Send nothing."""

    class Half(MemoryTransport):
        def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
            return Old()

    app = make(transports={"half": Half()}, routes={"*": "half"})

    with pytest.raises(ConfigurationError, match="cannot send unique events, although its transport claims"):
        app.dispatch(STALE, unique="feed/7", session=session)


# --- a test of an application -----------------------------------------------------------------------------


def test_a_test_sees_the_event_and_not_its_duplicate(make: Make, session: orm.Session) -> None:
    app = make()

    with app.testing() as t:
        app.dispatch(STALE, unique="feed/7")
        duplicate = app.dispatch(STALE, unique="feed/7")
        app.dispatch(STALE, unique="feed/7", session=session)
        session.commit()
        session.close()

        assert duplicate.duplicate
        t.dispatched("feed.stale", times=1)
        with pytest.raises(AssertionError) as caught:
            t.dispatched("order.paid")
        assert "without a commit" not in str(caught.value)


# --- the command line -------------------------------------------------------------------------------------


@pytest.fixture(name="shop")
def _shop(tmp_path: Any) -> Shop:
    return opened(tmp_path)


@pytest.mark.lengthy("runs commands")
def test_the_command_says_which_event_has_the_key(shop: Shop) -> None:
    first = shop.run("dispatch image.created {} --unique image/7 --within 10m")
    second = shop.run("dispatch image.created {} --unique image/7")
    third = shop.run("dispatch image.created {} --unique image/7 --json")
    wrong = [shop.run(f"dispatch image.created {rest}") for rest in ("--within 5m", "--unique a --lines rows.jsonl")]

    event_id = first.stdout.split()[0]
    assert (second.returncode, second.stdout) == (0, f"nothing was sent: {event_id} has the key image/7\n")
    assert json.loads(third.stdout) == {"id": None, "targets": [], "duplicate_of": event_id}
    assert [each.returncode for each in wrong] == [2, 2]
    assert "pass --unique KEY too" in wrong[0].stderr
    assert "--unique is the key of one event" in wrong[1].stderr


def test_an_envelope_has_no_key(make: Make) -> None:
    """What is sent is the same with a key and without one; a transport keeps the key beside the event."""
    app: App = make()
    app.dispatch(STALE, unique="feed/7")
    (held,) = app.transports["main"].receive(["default"], limit=1, lease=60, wait=0)

    assert isinstance(held.envelope, Envelope)
    assert b"feed/7" not in held.envelope.body
    assert held.envelope.headers == {}
