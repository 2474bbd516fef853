"""The schedules of an application: which worker fires a tick, and what a tick is."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from relevo import App, Envelope, Event, LoopRunner, RunOptions, Schedule, event as declared, hookimpl
from relevo._app.app import clockwork_of
from relevo._runner import schedules as beside
from relevo._runner.host_lock import HostLock
from relevo._runner.host_schedules import HostScheduleStore
from relevo._runner.lock_path import schedule_file
from relevo._runner.schedules import firing_of
from relevo._schedule.clockwork import Clockwork
from relevo.backend import Firing
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport
from relevo_sql import SqlTransport

from .shop import CONFIGURATION, Shop, opened
from .test_coordinators import Plain

START = 1_767_225_600.0
"""Midnight, UTC."""

EVERY_FIVE = "*/5 * * * *"


def shop(store: MemoryStore | None = None, *, clock: FakeClock, **arguments: Any) -> App:
    return App(transports={"main": MemoryTransport(store, clock=clock)}, source="shop", clock=clock, **arguments)


def clockwork(app: App, name: str = "main") -> Clockwork:
    found = clockwork_of(app, name)
    assert found is not None
    return found


def times(app: App, name: str = "main") -> list[float]:
    """Return the times of the events that wait, in minutes since the start."""
    waiting = app.transports[name].waiting(["default"], limit=1000)
    texts = [json.loads(each.envelope.body)["time"] for each in waiting]
    return sorted((datetime.fromisoformat(text).timestamp() - START) / 60 for text in texts)


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock(START)


# --- in a test ------------------------------------------------------------------------------------------


def test_a_test_that_moves_the_clock_by_an_hour_sees_twelve_events(clock: FakeClock) -> None:
    app = shop(clock=clock)
    ran: list[float] = []

    @app.schedule(EVERY_FIVE)
    @app.deferred("feed.refresh")
    def refresh() -> None:
        ran.append(clock.now())

    with app.testing() as t:
        t.travel("1h")
        assert t.dispatched(refresh.name, times=12)
        assert times(app) == [5.0 * number for number in range(1, 13)]
        t.drain()

    assert len(ran) == 12


def test_the_clock_of_a_test_ends_where_it_was_sent_to(clock: FakeClock) -> None:
    app = shop(clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged")

    with app.testing() as t:
        t.travel("7m")
        t.travel("7m")

        assert t.clock.now() == START + 14 * 60
        assert times(app) == [5.0, 10.0]


# --- declaring ------------------------------------------------------------------------------------------


@declared("report.requested")
@attrs.frozen
class Report:
    full: bool = False


def test_a_schedule_has_the_name_of_its_event_unless_it_has_one_of_its_own(clock: FakeClock) -> None:
    app = shop(clock=clock)

    first = app.schedule(EVERY_FIVE, "feed.aged", {"full": True})
    second = app.schedule("0 3 * * *", Event("feed.aged"), name="at night", timezone="Europe/Madrid", missed="all")
    third = app.schedule("0 4 * * *", Report())

    assert [each.name for each in app.schedules] == ["feed.aged", "at night", "report.requested"]
    assert app.schedules == (first, second, third)
    assert first.event == Event("feed.aged", {"full": True})
    assert (second.timezone, second.missed) == ("Europe/Madrid", "all")


def test_two_schedules_of_one_name_are_an_error_unless_they_say_the_same(clock: FakeClock) -> None:
    app = shop(clock=clock, schedules=[Schedule(name="feed.aged", cron=EVERY_FIVE, event="feed.aged")])
    app.schedule(EVERY_FIVE, "feed.aged")

    with pytest.raises(ConfigurationError, match=r"'feed.aged' is the name of another one already, at .+; pass name="):
        app.schedule("0 3 * * *", "feed.aged")

    assert len(app.schedules) == 1


def test_a_second_schedule_with_other_data_does_not_replace_the_first(clock: FakeClock) -> None:
    app = shop(clock=clock)
    app.schedule(EVERY_FIVE, "backup.due", {"of": "mail"})
    app.schedule(EVERY_FIVE, Report(), name="report")
    app.schedule(EVERY_FIVE, Report(), name="report")

    for name, event in (("backup.due", Event("backup.due", {"of": "shop"})), ("report", Report(full=True))):
        with pytest.raises(ConfigurationError, match="is the name of another one already"):
            app.schedule(EVERY_FIVE, event, name=name)


def test_the_options_of_a_schedule_are_those_of_its_events(clock: FakeClock) -> None:
    app = shop(clock=clock)
    app.schedule("@hourly", "feed.aged", urgency="high", ordering_key="feed 7", expires="10m", missed="once")
    turned = clockwork(app)
    turned.turn(clock.now())
    clock.advance(5400)

    assert turned.turn(clock.now()) == 1
    (waiting,) = app.transports["main"].waiting(["default"])
    assert (waiting.envelope.urgency, waiting.envelope.ordering_key) == ("high", "feed 7")
    assert waiting.envelope.expires == clock.now() + 600, "from the moment at which it was fired, not from its tick"


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"urgency": "urgent"}, 'urgency: expected "normal" or "high"; got'),
        ({"ordering_key": ""}, "ordering_key: expected 1 to 255 printable characters; got ''"),
        ({"ordering_key": 7}, "ordering_key: expected 1 to 255 printable characters"),
        ({"expires": 0}, "expires: expected more than 0 s; got 0"),
        ({"expires": "soon"}, "expires: expected seconds"),
    ],
)
def test_an_invalid_option_of_a_schedule_is_an_error(clock: FakeClock, option: dict[str, Any], error: str) -> None:
    app = shop(clock=clock)

    with pytest.raises(ConfigurationError, match=error):
        app.schedule(EVERY_FIVE, "feed.aged", **option)


def test_an_option_that_the_transport_does_not_claim_is_an_error_at_the_start(
    db: SqlTransport, clock: FakeClock
) -> None:
    app = App(transports={"rabbit": Plain(clock), "db": db}, coordinators={"rabbit": "db"}, source="shop", clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged", urgency="high")

    with pytest.raises(ConfigurationError, match=r'the schedule "feed.aged": the transport "rabbit" .+ urgency'):
        clockwork_of(app, "rabbit")


@pytest.mark.parametrize(
    ("option", "hint"),
    [("tz", "it is called timezone= here"), ("delay", "the expression says when"), ("timezon", 'mean "timezone"')],
)
def test_a_schedule_has_no_other_option(clock: FakeClock, option: str, hint: str) -> None:
    given: Any = {option: "5m"}

    with pytest.raises(TypeError, match=f"a schedule has no option {option}=….+{hint}"):
        shop(clock=clock).schedule(EVERY_FIVE, "feed.aged", **given)


def test_the_decorator_returns_the_deferred_function_and_takes_no_other(clock: FakeClock) -> None:
    app = shop(clock=clock)

    @app.schedule(EVERY_FIVE)
    @app.deferred("feed.refresh")
    def refresh(*, full: bool = False) -> bool:
        return full

    assert refresh(full=True) is True
    with pytest.raises(ConfigurationError, match=r"expected a deferred function; got .+; put @app.deferred between"):
        app.schedule(EVERY_FIVE)(lambda: None)  # type: ignore[type-var]  # on purpose


def test_a_function_that_needs_arguments_is_scheduled_with_its_event(clock: FakeClock) -> None:
    app = shop(clock=clock)
    ran: list[int] = []

    @app.deferred("feed.refresh")
    def refresh(feed: int) -> None:
        ran.append(feed)

    with pytest.raises(TypeError, match="missing a required argument: 'feed'"):
        app.schedule(EVERY_FIVE, refresh)
    app.schedule(EVERY_FIVE, refresh.event(7))

    with app.testing() as t:
        t.travel("5m")
        t.drain()
    assert ran == [7]


@pytest.mark.parametrize(
    ("routes", "error"),
    [
        ({"*": "now"}, 'its event "feed.aged" is routed to now; expected one transport, whose workers fire it'),
        ({"*": ["main", "other"]}, "is routed to main/default and other/default; expected one transport"),
        ({"image.*": "main"}, "feed.aged"),
    ],
)
def test_a_schedule_whose_event_is_not_routed_to_one_transport_is_an_error_at_the_start(
    clock: FakeClock, routes: dict[str, Any], error: str
) -> None:
    transports = {name: MemoryTransport(clock=clock) for name in ("main", "other")}
    app = App(transports=transports, routes=routes, clock=clock, source="shop")
    app.schedule(EVERY_FIVE, "feed.aged")

    with pytest.raises(ConfigurationError, match=error):
        LoopRunner().run(app, RunOptions(transport="main", until_empty=True))


def test_only_the_workers_of_the_transport_that_the_event_goes_to_fire_it(clock: FakeClock) -> None:
    transports = {name: MemoryTransport(clock=clock) for name in ("main", "other")}
    app = App(transports=transports, routes={"feed.*": "other", "*": "main"}, clock=clock, source="shop")
    app.schedule(EVERY_FIVE, "feed.aged")

    assert clockwork_of(app, "main") is None
    assert len(clockwork(app, "other")) == 1


# --- firing ---------------------------------------------------------------------------------------------


def test_a_new_schedule_fires_no_tick_of_the_past(clock: FakeClock) -> None:
    app = shop(clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged", missed="all")
    turned = clockwork(app)

    assert turned.turn(clock.now()) == 0
    clock.advance(299)
    assert turned.turn(clock.now()) == 0
    clock.advance(1)
    assert turned.turn(clock.now()) == 1
    assert turned.turn(clock.now()) == 0
    assert turned.next == START + 600


def test_a_tick_fires_once_however_many_workers_there_are(clock: FakeClock) -> None:
    store = MemoryStore()
    apps = [shop(store, clock=clock) for _ in range(3)]
    for app in apps:
        app.schedule(EVERY_FIVE, "feed.aged")
    turned = [clockwork(app) for app in apps]

    for _ in range(20):
        fired = sum(each.turn(clock.now()) for each in turned)
        assert fired == (1 if clock.now() % 300 == 0 and clock.now() > START else 0)
        clock.advance(60)

    assert times(apps[0]) == [5.0, 10.0, 15.0]


def test_a_tick_fires_once_while_workers_fire_at_the_same_time(clock: FakeClock) -> None:
    store = MemoryStore()
    apps = [shop(store, clock=clock) for _ in range(4)]
    for app in apps:
        for number in range(150):
            app.schedule(EVERY_FIVE, "feed.aged", {"number": number}, name=f"feed {number}")
    turned = [clockwork(app) for app in apps]
    for each in turned:
        each.turn(clock.now())
    clock.advance(300)
    together = threading.Barrier(len(turned))
    fired: list[int] = []

    def turn(each: Clockwork) -> None:
        together.wait(60)
        fired.append(each.turn(clock.now()))

    threads = [threading.Thread(target=turn, args=(each,)) for each in turned]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sum(fired) == 150
    assert times(apps[0]) == [5.0] * 150


def test_of_two_that_expect_the_same_time_one_stores_its_events(clock: FakeClock) -> None:
    transport = MemoryTransport(clock=clock)
    new = Firing(name="feed", fired=None, until=60)
    tick = Firing(
        name="feed", fired=60, until=120, envelopes=(Envelope(id="1", source="shop", name="feed.aged", body=b"{}"),)
    )

    stored = [set(transport.fire([each])) for each in (new, new, tick, tick)]

    assert stored == [{"feed"}, set(), {"feed"}, set()]
    assert transport.fired(["feed", "other"]) == {"feed": 120}
    assert transport.stats("default").ready == 1


def test_what_is_due_in_an_outage_is_fired_after_it(clock: FakeClock) -> None:
    transport = Stepping(clock=clock)
    transport.failures = 0
    app = App(transports={"main": transport}, source="shop", clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged")
    turned = clockwork(app)
    turned.turn(clock.now())
    clock.advance(300)
    transport.failures = 1

    with pytest.raises(TransportUnavailableError):
        turned.turn(clock.now())

    assert turned.turn(clock.now()) == 1
    assert times(app) == [5.0]


@pytest.mark.parametrize(("missed", "fired"), [("once", [15.0]), ("all", [5.0, 10.0, 15.0]), ("skip", [])])
def test_what_was_missed_while_no_worker_ran_follows_the_policy(
    clock: FakeClock, missed: Any, fired: list[float]
) -> None:
    app = shop(clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged", missed=missed)
    clockwork(app).turn(clock.now())
    clock.advance(17 * 60)

    assert clockwork(app).turn(clock.now()) == len(fired)
    assert times(app) == fired


def test_a_drain_from_cron_fires_what_is_due_and_handles_it(clock: FakeClock) -> None:
    app = shop(clock=clock)
    ran: list[str] = []
    app.add_listener("feed.aged", lambda event: ran.append(event.name), id="age")
    app.schedule(EVERY_FIVE, "feed.aged")

    handled = []
    for _ in range(4):
        handled.append(app.drain().done)
        clock.advance(5 * 60)

    assert handled == [0, 1, 1, 1]


def test_a_drain_fires_all_that_was_missed_within_its_time_limit(clock: FakeClock) -> None:
    class Slow(MemoryTransport):
        def fire(self, firings: Sequence[Firing], *, relay_to: str | None = None) -> Any:
            clock.advance(10 if firings[0].envelopes else 0)
            return super().fire(firings, relay_to=relay_to)

    app = App(transports={"main": Slow(clock=clock)}, source="shop", clock=clock)
    app.schedule("* * * * *", "feed.aged", missed="all")
    drain = LoopRunner(signals=False)
    drain.run(app, RunOptions(until_empty=True))
    clock.advance(2 * 86_400)

    drain.run(app, RunOptions(until_empty=True, max_seconds=5.0))
    first = len(app.transports["main"].waiting(["default"], limit=5000))
    drain.run(app, RunOptions(until_empty=True, max_seconds=600.0, max_events=1))

    assert first == 1000
    assert len(app.transports["main"].waiting(["default"], limit=5000)) == 2880


def test_a_changed_expression_goes_on_from_the_last_tick_of_the_former_one(clock: FakeClock) -> None:
    store = MemoryStore()
    before, after = shop(store, clock=clock), shop(store, clock=clock)
    before.schedule(EVERY_FIVE, "feed.aged", missed="all")
    after.schedule("*/2 * * * *", "feed.aged", missed="all")
    clockwork(before).turn(clock.now())
    clock.advance(300)
    clockwork(before).turn(clock.now())
    clock.advance(300)

    clockwork(after).turn(clock.now())

    assert times(after) == [5.0, 6.0, 8.0, 10.0]


def test_a_clock_that_was_ahead_is_reported_and_nothing_fires_twice(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    wrong = FakeClock(START + 7 * 86_400)
    ahead, right = shop(store, clock=wrong), shop(store, clock=clock)
    for app in (ahead, right):
        app.schedule(EVERY_FIVE, "feed.aged")
    clockwork(ahead).turn(wrong.now())
    turned = clockwork(right)

    assert turned.turn(clock.now()) == 0
    assert turned.next == START + 7 * 86_400 + 300
    assert (
        "has fired up to a time that comes in 7 d: the clock of this host, or of another one, was wrong" in caplog.text
    )


def test_one_event_that_cannot_be_sent_keeps_no_other_schedule_from_firing(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop(clock=clock)
    good, bad = {"ok": 1}, {"text": "fine"}
    app.schedule(EVERY_FIVE, "feed.aged", good, name="a")
    app.schedule(EVERY_FIVE, Event("feed.aged", bad), name="b")
    app.schedule(EVERY_FIVE, "feed.aged", good, name="c")
    turned = clockwork(app)
    turned.turn(clock.now())
    event: Any = app.schedules[1].event
    event.arguments["text"] = object()
    clock.advance(300)

    assert turned.turn(clock.now()) == 2
    assert 'the schedule "b" cannot fire: ' in caplog.text
    event.arguments["text"] = "fine again"
    clock.advance(60)
    assert turned.turn(clock.now()) == 1
    assert times(app) == [5.0, 5.0, 5.0]


def test_a_plugin_that_fails_for_one_event_keeps_no_other_schedule_from_firing(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        fails = False

        @hookimpl
        def relevo_enrich(self, event: object) -> Mapping[str, Any] | None:
            if self.fails and isinstance(event, Event) and event.name == "feed.aged":
                raise ValueError("no user here")
            return None

    plugin = Failing()
    app = shop(clock=clock, plugins=[plugin])
    app.schedule(EVERY_FIVE, "feed.aged")
    app.schedule(EVERY_FIVE, "feed.renewed")
    turned = clockwork(app)
    turned.turn(clock.now())
    plugin.fails = True
    clock.advance(300)

    assert turned.turn(clock.now()) == 1
    assert 'the schedule "feed.aged" cannot fire: no user here' in caplog.text
    plugin.fails = False
    clock.advance(60)
    assert turned.turn(clock.now()) == 1


@pytest.mark.parametrize("stored", [-1, 9_223_372_036_854, 253_402_300_800])
def test_an_impossible_time_keeps_its_schedule_from_firing_and_no_other(
    clock: FakeClock, caplog: pytest.LogCaptureFixture, stored: int
) -> None:
    store = MemoryStore()
    app = shop(store, clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged")
    app.schedule(EVERY_FIVE, "feed.renewed")
    clockwork(app).turn(clock.now())
    app.transports["main"].fire([Firing(name="schedule/shop/feed.aged", fired=int(START), until=stored)])  # type: ignore[attr-defined]
    clock.advance(300)
    turned = clockwork(app)

    assert turned.turn(clock.now()) == 1
    assert (
        f'the schedule "feed.aged" cannot fire: the stored time up to which it has fired is impossible ({stored}'
        in (caplog.text)
    )
    app.transports["main"].fire([Firing(name="schedule/shop/feed.aged", fired=stored, until=int(START))])  # type: ignore[attr-defined]
    clock.advance(60)
    assert turned.turn(clock.now()) == 1


def test_many_missed_ticks_of_one_schedule_do_not_hold_up_the_others(clock: FakeClock) -> None:
    app = shop(clock=clock)
    app.schedule("* * * * *", "feed.aged", missed="all")
    app.schedule("* * * * *", "feed.renewed")
    turned = clockwork(app)
    turned.turn(clock.now())
    clock.advance(86_400)

    fired = [turned.turn(clock.now())]

    assert {each.envelope.name for each in app.transports["main"].waiting(["default"], limit=1000)} == {
        "feed.aged",
        "feed.renewed",
    }
    while more := turned.turn(clock.now()):
        fired.append(more)
    assert (sum(fired), len(fired) > 1) == (1441, True)


def test_firing_ends_between_two_transactions_when_it_may_not_go_on(clock: FakeClock) -> None:
    app = shop(clock=clock)
    for number in range(250):
        app.schedule(EVERY_FIVE, "feed.aged", {"number": number}, name=f"feed {number}")
    turned = clockwork(app)
    turned.turn(clock.now())
    clock.advance(300)
    answers = iter([True, False])

    assert turned.turn(clock.now(), may_go_on=lambda: next(answers)) == 100
    assert turned.turn(clock.now()) == 150


def test_a_worker_that_is_stopped_leaves_missed_ticks_to_the_next_one(clock: FakeClock) -> None:
    ended = threading.Event()

    class Slow(MemoryTransport):
        def fire(self, firings: Sequence[Firing], *, relay_to: str | None = None) -> Any:
            if any(each.envelopes for each in firings):
                ended.wait(60)
            return super().fire(firings, relay_to=relay_to)

    app = App(transports={"main": Slow(clock=clock)}, source="shop", clock=clock)
    app.schedule("* * * * *", "feed.aged", missed="all")
    turned = clockwork(app)
    turned.turn(clock.now())
    clock.advance(86_400)

    thread = beside._Thread(turned, clock)
    thread.start()
    thread._ended.set()
    ended.set()
    thread.join(60)

    assert not thread.is_alive()
    assert len(app.transports["main"].waiting(["default"], limit=2000)) <= 1000


def test_a_second_event_of_a_tick_is_a_duplicate(clock: FakeClock) -> None:
    app = shop(clock=clock)
    one = app.schedule(EVERY_FIVE, "feed.aged")
    turned = clockwork(app)
    turned.turn(clock.now())
    clock.advance(300)
    turned.turn(clock.now())

    (waiting,) = app.transports["main"].waiting(["default"])

    assert waiting.envelope.id == one.event_id("shop", int(START) + 300)


def test_a_listener_gets_the_arguments(clock: FakeClock) -> None:
    app = shop(clock=clock)
    got: list[object] = []
    app.schedule(EVERY_FIVE, "feed.aged", {"full": True})

    def take(event: Event) -> None:
        got.append(event["full"])

    app.add_listener("feed.aged", take, id="take")

    with app.testing() as t:
        t.travel("5m")
        t.drain()

    assert got == [True]


# --- on a transport with a coordinator --------------------------------------------------------------------


@pytest.fixture(name="db")
def _db(tmp_path: Path, clock: FakeClock) -> SqlTransport:
    transport = SqlTransport(f"sqlite:///{tmp_path}/shop.db", name="db", clock=clock)
    transport.setup([])
    return transport


def lent(db: SqlTransport, rabbit: Plain, clock: FakeClock) -> App:
    app = App(transports={"rabbit": rabbit, "db": db}, coordinators={"rabbit": "db"}, source="shop", clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged")
    return app


def test_a_coordinator_keeps_the_ticks_of_another_transport(db: SqlTransport, clock: FakeClock) -> None:
    rabbit = Plain(clock)
    turned = [clockwork(lent(db, rabbit, clock), "rabbit") for _ in range(2)]
    fired = []
    for _ in range(4):
        fired.append([each.turn(clock.now()) for each in turned])
        clock.advance(300)

    assert fired == [[0, 0], [1, 0], [1, 0], [1, 0]]
    assert rabbit.inner.stats("default").ready == 3
    assert db.stats("default").ready == 0


def test_each_missed_tick_of_another_transport_is_stored_by_itself(
    db: SqlTransport, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rabbit = Plain(clock)
    app = App(transports={"rabbit": rabbit, "db": db}, coordinators={"rabbit": "db"}, source="shop", clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged", missed="all")
    turned = clockwork(app, "rabbit")
    turned.turn(clock.now())
    clock.advance(17 * 60)
    stored: list[int] = []
    fire = SqlTransport.fire

    def watched(self: SqlTransport, firings: Sequence[Firing], *, relay_to: str | None = None) -> Any:
        stored.extend(each.until for each in firings)
        return fire(self, firings, relay_to=relay_to)

    monkeypatch.setattr(SqlTransport, "fire", watched)

    assert turned.turn(clock.now()) == 3
    assert stored == [START + 300, START + 600, START + 900]
    assert rabbit.inner.stats("default").ready == 3


def test_an_outage_of_another_transport_fires_no_later_tick_twice(
    db: SqlTransport, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rabbit = Plain(clock)
    app = App(transports={"rabbit": rabbit, "db": db}, coordinators={"rabbit": "db"}, source="shop", clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged")
    app.schedule(EVERY_FIVE, "feed.renewed")
    turned = clockwork(app, "rabbit")
    turned.turn(clock.now())
    clock.advance(300)
    sent: list[str] = []
    send, is_down = Plain.send, True

    def sending(self: Plain, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if is_down and envelopes[0].name == "feed.renewed":
            raise TransportUnavailableError(self.name, "it is down")
        sent.extend(each.name for each in envelopes)
        send(self, envelopes, delay=delay)

    monkeypatch.setattr(Plain, "send", sending)
    for _ in range(5):
        with pytest.raises(TransportUnavailableError):
            turned.turn(clock.now())
        clock.advance(5)
    is_down = False
    turned.turn(clock.now())
    assert sorted(sent) == ["feed.aged", "feed.renewed"]

    clock.advance(300)

    assert turned.turn(clock.now()) == 2
    assert sorted(sent) == ["feed.aged", "feed.aged", "feed.renewed", "feed.renewed"]


def test_the_lock_is_renewed_while_many_missed_ticks_are_sent(
    db: SqlTransport, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rabbit = Plain(clock)
    apps = [
        App(transports={"rabbit": rabbit, "db": db}, coordinators={"rabbit": "db"}, source="shop", clock=clock)
        for _ in range(2)
    ]
    for app in apps:
        app.schedule(EVERY_FIVE, "feed.aged", missed="all")
    one, other = (clockwork(app, "rabbit") for app in apps)
    one.turn(clock.now())
    other.turn(clock.now())
    clock.advance(90 * 300)
    sent: list[str] = []
    send = Plain.send

    def slowly(self: Plain, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        sent.extend(each.id for each in envelopes)
        clock.advance(1)
        if len(sent) == 60:
            assert other.turn(clock.now()) == 0
        send(self, envelopes, delay=delay)

    monkeypatch.setattr(Plain, "send", slowly)

    assert one.turn(clock.now()) == 90
    assert len(sent) == len(set(sent)) == 90


class Crash(BaseException):
    pass


def test_a_worker_that_dies_after_it_has_sent_is_followed_by_one_that_sends_the_same_event(
    db: SqlTransport, clock: FakeClock
) -> None:
    rabbit = Plain(clock)
    first, second = (clockwork(lent(db, rabbit, clock), "rabbit") for _ in range(2))
    first.turn(clock.now())
    clock.advance(300)

    class Dying(SqlTransport):
        def fire(self, firings: Sequence[Firing], *, relay_to: str | None = None) -> Any:
            raise Crash

        def unlock(self, name: str, receipt: str) -> None:
            """Not done by a process that has died."""

    db.__class__ = Dying
    with pytest.raises(Crash):
        first.turn(clock.now())
    db.__class__ = SqlTransport

    assert second.turn(clock.now()) == 0, "the lock is still that of the first"
    clock.advance(31)
    assert second.turn(clock.now()) == 1
    assert rabbit.inner.stats("default").ready == 1, "the same event is there once"


def test_an_outbox_has_the_tick_and_its_event_in_one_transaction(db: SqlTransport, clock: FakeClock) -> None:
    rabbit = Plain(clock)
    app = App(transports={"rabbit": rabbit}, outboxes={"rabbit": db}, source="shop", clock=clock)
    ran: list[str] = []
    app.add_listener("feed.aged", lambda event: ran.append(event.name), id="age")
    app.schedule(EVERY_FIVE, "feed.aged")
    turned = clockwork(app, "rabbit")
    turned.turn(clock.now())
    clock.advance(300)

    assert turned.turn(clock.now()) == 1
    assert (rabbit.inner.stats("default").ready, db.stats("outbox/rabbit").ready) == (0, 1)
    app.drain()
    assert ran == ["feed.aged"]


def on_this_host(folder: Path, clock: FakeClock, rabbit: Plain | None = None) -> App:
    app = App(transports={"rabbit": rabbit or Plain(clock)}, source="shop", clock=clock, lock=folder)
    app.add_listener("feed.aged", lambda event: event, id="age")
    app.schedule(EVERY_FIVE, "feed.aged", missed="all")
    return app


def test_without_a_coordinator_one_worker_of_the_host_fires_and_the_worker_says_so(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    rabbit = Plain(clock)
    apps = [on_this_host(tmp_path, clock, rabbit) for _ in range(2)]
    turned = [firing_of(app, "rabbit") for app in apps]
    fired = []
    for _ in range(3):
        fired.append([each.turn(clock.now()) for each in turned if each is not None])
        clock.advance(300)

    LoopRunner().run(apps[0], RunOptions(max_seconds=0))

    assert fired == [[0, 0], [1, 0], [1, 0]]
    assert caplog.text.count('the schedules of "rabbit" are fired by one worker of this host, and so by one of') == 1


def test_what_a_host_has_fired_outlives_its_workers(tmp_path: Path, clock: FakeClock) -> None:
    done = []
    for _ in range(3):
        done.append(on_this_host(tmp_path, clock).drain().done)
        clock.advance(600)

    assert done == [0, 2, 2]


def test_while_a_worker_of_the_host_fires_no_other_does(tmp_path: Path, clock: FakeClock) -> None:
    app = on_this_host(tmp_path, clock)
    turned = firing_of(app, "rabbit")
    assert turned is not None
    turned.turn(clock.now())
    clock.advance(300)
    other = HostLock(schedule_file(app, "rabbit").with_suffix(".lock"))

    assert other.acquire()
    assert turned.turn(clock.now()) == 0
    other.release()
    assert turned.turn(clock.now()) == 1


def test_of_two_that_expect_the_same_time_one_stores_it_on_the_host(tmp_path: Path) -> None:
    store = HostScheduleStore("rabbit", tmp_path / "schedules.db")
    new, tick = Firing(name="feed", fired=None, until=60), Firing(name="feed", fired=60, until=120)

    assert [[*store.fire([each])] for each in (new, new, tick, tick)] == [["feed"], [], ["feed"], []]
    assert store.fired(["feed", "other"]) == {"feed": 120}


def test_text_in_the_file_of_the_host_is_an_impossible_time(tmp_path: Path) -> None:
    store = HostScheduleStore("rabbit", tmp_path / "fired")
    store.fire([Firing(name="a", fired=None, until=60), Firing(name="b", fired=None, until=60)])
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE fired SET until = 'soon' WHERE name = 'a'")
    database.close()

    assert store.fired(["a", "b"]) == {"a": -1, "b": 60}


def test_a_file_of_the_host_that_cannot_be_used_is_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "schedules.db"
    path.write_text("no database, but a text of some length" * 100)

    with pytest.raises(TransportUnavailableError, match=r'"rabbit" .*the schedules in .*schedules.db: file is not a'):
        HostScheduleStore("rabbit", path).fired(["feed"])


def test_outside_of_a_runner_a_transport_without_a_coordinator_has_no_schedules(clock: FakeClock) -> None:
    app = App(transports={"rabbit": Plain(clock)}, source="shop", clock=clock)
    app.schedule(EVERY_FIVE, "feed.aged")

    with pytest.raises(ConfigurationError, match=r'"rabbit" cannot store up to when .+; give it a coordinator in a'):
        clockwork_of(app, "rabbit")


# --- beside a worker --------------------------------------------------------------------------------------


class Stepping(MemoryTransport):
    """A transport whose server cannot be reached at first."""

    failures = 2

    def fired(self, names: Sequence[str]) -> Mapping[str, int]:
        if self.failures:
            self.failures -= 1
            raise TransportUnavailableError(self.name, "it is down")
        return super().fired(names)


class Fast:
    """A clock on which a minute takes a tenth of a second."""

    speed = 600.0

    def __init__(self) -> None:
        self._began = time.monotonic()

    def now(self) -> float:
        return START + self.monotonic()

    def monotonic(self) -> float:
        return (time.monotonic() - self._began) * self.speed

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self.speed)


def test_a_worker_fires_ticks_beside_its_events_and_goes_on_after_an_outage(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "_DOWN", 0.01)
    monkeypatch.setattr(beside, "_LONGEST", 0.01)
    monkeypatch.setattr(beside, "_BUSY", 0.01)
    clock = Fast()
    app = App(transports={"main": Stepping(clock=clock)}, source="shop", clock=clock, lease="1d")
    ran: list[str] = []
    app.add_listener("feed.aged", lambda event: ran.append(event.name), id="age")
    app.schedule("* * * * *", "feed.aged")

    with caplog.at_level(logging.WARNING):
        report = LoopRunner().run(app, RunOptions(max_events=3))

    assert (report.done, ran) == (3, ["feed.aged"] * 3)
    assert caplog.text.count("the schedules cannot be fired, which is tried again: ") == 1
    assert not [each for each in threading.enumerate() if each.name == "relevo-schedules"]


# --- in the configuration, and on the command line ----------------------------------------------------------

SCHEDULES = """
[schedules]
nightly = { cron = "30 2 * * *", event = "mail.sent", arguments = { number = 7 }, timezone = "Europe/Madrid" }
feed = { cron = "*/5 * * * *", event = "image.created", missed = "skip", grace = "1h", expires = "10m" }
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Shop:
    shop = opened(tmp_path)
    shop.write("relevo.toml", CONFIGURATION + SCHEDULES)
    return shop


def test_the_configuration_has_schedules_by_their_names(folder: Shop) -> None:
    app = App.from_config(folder.folder / "relevo.toml", environ={})

    nightly, feed = app._assembly.parts.schedules
    app.close()

    assert (nightly.name, nightly.timezone, nightly.missed) == ("nightly", "Europe/Madrid", "once")
    assert nightly.event == Event("mail.sent", {"number": 7})
    assert (feed.name, feed.event, feed.missed, feed.grace) == ("feed", Event("image.created"), "skip", 3600.0)


def test_the_schedules_are_listed_with_their_last_and_next_tick(folder: Shop) -> None:
    drained = folder.run("drain")
    rows = {row["name"]: row for row in json.loads(folder.run("schedules --json").stdout)}
    assert (drained.returncode, rows["nightly"]["last"], rows["feed"]["last"]) == (0, None, None)
    with sqlite3.connect(folder.folder / "shop.db") as database:
        database.execute(
            "UPDATE relevo_lock SET until = ? WHERE name = 'schedule/shop/feed'", (int(START) * 1_000_000,)
        )
    database.close()

    rows = {row["name"]: row for row in json.loads(folder.run("schedules --json").stdout)}
    table = folder.run("schedules")

    assert rows["feed"] == {
        "name": "feed",
        "cron": "*/5 * * * *",
        "timezone": "UTC",
        "event": "image.created",
        "arguments": {},
        "missed": "skip",
        "grace": 3600.0,
        "urgency": "normal",
        "ordering_key": None,
        "expires": 600.0,
        "transport": "main",
        "last": int(START),
        "next": int(START) + 300,
        "error": None,
    }
    assert "2026-01-01 00:00:00Z  2026-01-01 00:05:00Z" in table.stdout
    assert (table.returncode, table.stderr) == (0, "")


@pytest.mark.parametrize("stored", [2**63 - 1, -(2**63), "soon", b"\xff", 1e300])
def test_an_impossible_time_in_the_database_is_reported_and_the_others_fire(
    folder: Shop, stored: object, caplog: pytest.LogCaptureFixture
) -> None:
    folder.run("drain")
    with sqlite3.connect(folder.folder / "shop.db") as database:
        database.execute("UPDATE relevo_lock SET until = ? WHERE name = 'schedule/shop/feed'", (stored,))
        past = (int(START) * 1_000_000,)
        database.execute("UPDATE relevo_lock SET until = ? WHERE name = 'schedule/shop/nightly'", past)
    database.close()

    listed = folder.run("schedules --json")
    drained = folder.run("drain")

    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert listed.returncode == 78
    assert 'the schedule "feed": the stored time up to which it has fired is impossible' in rows["feed"]["error"]
    assert (rows["nightly"]["last"], rows["nightly"]["error"]) == (None, None)
    assert rows["nightly"]["next"] is not None
    assert drained.returncode == 0, drained.stderr
    assert 'the schedule "feed" cannot fire: the stored time up to which it has fired is impossible' in caplog.text
    after = {row["name"]: row["last"] for row in json.loads(folder.run("schedules --json").stdout)}
    assert after["nightly"] > START


def test_a_list_of_schedules_creates_no_database(folder: Shop) -> None:
    done = folder.run("schedules")

    assert done.returncode == 69
    assert "nightly  30 2 * * *   Europe/Madrid  mail.sent" in done.stdout
    assert "shop.db yet; the first dispatch, a worker or relevo setup creates it" in done.stderr
    assert not (folder.folder / "shop.db").exists()


def test_a_schedule_without_a_transport_is_listed_with_the_reason(folder: Shop) -> None:
    folder.run("drain")
    folder.write("relevo.toml", (folder.folder / "relevo.toml").read_text().replace('"*" = "main"', '"*" = "now"'))

    done = folder.run("schedules --json")

    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 78
    assert rows["feed"]["error"] is None
    assert 'the schedule "nightly": its event "mail.sent" is routed to now' in rows["nightly"]["error"]


def test_an_application_without_schedules_says_so(tmp_path: Path) -> None:
    done = opened(tmp_path).run("schedules")

    assert (done.returncode, done.stdout) == (0, "no schedules\n")


def test_the_check_reports_a_schedule_that_cannot_be_fired(folder: Shop) -> None:
    good = folder.run("check")
    folder.write("relevo.toml", (folder.folder / "relevo.toml").read_text().replace('"*" = "main"', '"*" = "now"'))

    bad = folder.run("check")

    assert good.returncode == 0
    assert "2 schedules" in good.stdout
    assert bad.returncode == 78
    assert 'the schedule "nightly": its event "mail.sent" is routed to now; expected one transport' in bad.stderr
