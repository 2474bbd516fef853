"""Dispatching to chosen targets: each listener runs once, and an event that one would not get is refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from relevo import (
    App,
    Call,
    DeadLetter,
    DeferredDispatcher,
    Delivery,
    Envelope,
    Event,
    ListenerTable,
    LocalDispatcher,
    Nack,
    QueueOptions,
    Retry,
    Signing,
    Target,
    listener,
)
from relevo._transport.sent_to import HEADER, SentTo, headers_for, sent_to
from relevo._worker.listener_log import ObstacleLog
from relevo._worker.progress import Progress, dumped, loaded
from relevo.errors import ConfigurationError, DecodeError, NotAcceptedError, RouteNotFoundError
from relevo.testing import FakeClock
from relevo_memory import ManualRunner, MemoryTransport

from .application import Make, waiting

ROUTES = {"fast.*": "main/fast", "feed.*": "main/feed", "*": "main"}
KEY = "ICl1y4JgHHCMPzFuR0eDBVcNmsBqKtd_4-wYpJw2oT8"


def run(app: App) -> Counter[str]:
    """Handle everything; return how deliveries ended."""
    report = ManualRunner().run(app)
    return Counter(done=report.done, retried=report.retried, dead=report.dead)


def first(envelope: Any) -> SentTo | None:
    return sent_to(envelope, source="shop")


# --- who runs --------------------------------------------------------------------------------------------


def test_an_event_goes_to_the_chosen_queue_and_its_listeners_run_there_once(make: Make) -> None:
    ran: list[str] = []

    @listener("image.created")
    def resize(event: Event, call: Call) -> None:
        ran.append(call.queue)

    app = make(resize, routes=ROUTES)

    done = app.dispatch("image.created", to="main/fast")

    assert done.targets == (Target("main", "fast"),)
    assert (waiting(app, queue="fast"), waiting(app)) == (1, 0)
    run(app)
    assert ran == ["fast"]


QUEUES = ("default", "fast", "feed")
TARGETS = ("now", *(f"{transport}/{queue}" for transport in ("main", "other") for queue in QUEUES))
chosen = st.lists(st.sampled_from(TARGETS), min_size=1, max_size=3, unique=True)


@pytest.mark.lengthy("tries many cases")
@given(to=chosen, homes=st.lists(st.sampled_from((None, "now", *QUEUES)), max_size=4), routed=chosen)
@settings(max_examples=200, deadline=None)
def test_each_listener_runs_once_or_the_dispatch_is_refused(
    to: list[str], homes: list[str | None], routed: list[str]
) -> None:
    """The model: what a dispatch promises, without how a worker knows it."""
    ran: Counter[int] = Counter()
    clock = FakeClock()
    transports = {name: MemoryTransport(clock=clock) for name in ("main", "other")}
    routes = {"image.created": routed} | {f"of.{each}": each for each in TARGETS}
    reached = ["now" if each == "now" else each.partition("/")[2] for each in to]
    is_apart = len({each.partition("/")[0] for each in to} - {"now"}) > 1
    is_fit = not is_apart and all(home is None or reached.count(home) == 1 for home in homes)
    with App(transports=transports, routes=routes, clock=clock) as app:
        for number, home in enumerate(homes):
            app.add_listener("image.created", _counting(ran, number), queue=home, id=str(number))
        try:
            app.dispatch("image.created", to=to)
        except ConfigurationError:
            assert not is_fit
            assert not ran
            assert all(transport.stats(queue).ready == 0 for transport in transports.values() for queue in QUEUES)
            return
        assert is_fit
        for name in transports:
            _drain_without_checks(app, name)
    assert ran == Counter(range(len(homes)))


def _counting(ran: Counter[int], number: int) -> Callable[[Event], None]:
    def count(_: Event) -> None:
        ran[number] += 1

    return count


def _drain_without_checks(app: App, name: str) -> None:
    """Handle all deliveries of a transport by the application's own handle; a worker checks routes at its start."""
    transport = app.transport(name)
    handle = app.handle(name, app.listeners, checkpoint=transport.checkpoint)
    for delivery in transport.receive(QUEUES, limit=10, lease=60, wait=0):
        handle(delivery)


@pytest.mark.parametrize("source", ["shop", "elsewhere"])
def test_the_queues_of_two_applications_are_apart(make: Make, clock: FakeClock, source: str) -> None:
    """In another application the later target may be the first queue of its own route."""
    ran: list[tuple[str, str]] = []

    @listener("image.created")
    def resize(event: Event, call: Call) -> None:
        ran.append((event["by"], call.queue))

    @listener("image.created", queue="feed")
    def show(event: Event) -> None:
        raise AssertionError("the event was not sent to its queue")

    main = MemoryTransport(clock=clock)
    sender = App(transports={"main": main}, routes=ROUTES, source="shop", clock=clock)
    mine = make(
        resize,
        transports={"rabbit": MemoryTransport(main.store, clock=clock)},
        source=source,
        routes={"image.*": ["rabbit/default", "rabbit/fast"], "*": "rabbit/feed"},
    )

    sender.dispatch("image.created", {"by": "first"}, to=["main/fast", "main"])
    run(mine)

    other = [("first", "default")] if source != "shop" else []
    assert sorted(ran) == sorted([("first", "fast"), *other])
    if source != "shop":
        app = make(
            show,
            resize,
            transports={"rabbit": MemoryTransport(main.store, clock=clock)},
            source=source,
            routes={"image.*": ["rabbit/default", "rabbit/fast", "rabbit/feed"]},
        )
        sender.dispatch("image.created", {"by": "again"}, to="main/fast")
        run(app)
        assert ran[-1] == ("again", "fast")
    sender.close()


def test_a_listener_that_the_sender_does_not_know_is_not_left_out_silently(make: Make, clock: FakeClock) -> None:
    ran: list[str] = []

    @listener("image.created", id="resize")
    def resize(event: Event) -> None:
        ran.append("resize")

    @listener("image.created", queue="feed", id="show")
    def show(event: Event) -> None:
        ran.append("show")

    main = MemoryTransport(clock=clock)
    routes: Any = {"image.*": ["main", "main/feed"], "fast.*": "main/fast"}
    sender = App(transports={"main": main}, routes=routes, source="shop", clock=clock)
    app = make(
        resize, show, transports={"main": MemoryTransport(main.store, clock=clock)}, routes=routes, source="shop"
    )

    sender.dispatch("image.created", to="main/fast")

    assert run(app) == Counter(retried=1)
    clock.advance(3600)
    run(app)
    [dead] = app.transport().dead_letters(["fast"], limit=10)
    assert (dead.reason, ran) == ("listener-bypassed", [])
    assert 'show runs only in the queue "feed", which the dispatch left out with to=' in dead.error
    app.unlisten(show)
    app.transport().revive({dead.ref: app.revived(dead)})
    assert run(app) == Counter(done=1)
    assert ran == ["resize"]
    sender.close()


def test_an_event_whose_listener_has_finished_elsewhere_is_not_held_up_by_it(
    caller: Callable[..., Any], listen: Callable[..., None], delivery: Callable[..., Delivery]
) -> None:
    ran: list[str] = []

    def resize(event: Event) -> None:
        ran.append("resize")

    def show(event: Event) -> None:
        ran.append("show")

    listen(resize)
    listen(show, queue="feed", aliases=("old",))
    headers = {HEADER: "first"}
    done = b'{"v":1,"listeners":{"old":["done",1]}}'

    held = caller(source="shop").outcome(delivery(queue="fast", headers=headers))
    outcome = caller(source="shop").outcome(delivery(queue="fast", headers=headers, state=done))
    stopped = caller(source="shop").outcome(
        delivery(queue="fast", headers=headers, state=dumped(Progress(1, stopped=True)))
    )

    assert held.reason == "listener-bypassed"
    assert (type(outcome).__name__, type(stopped).__name__, ran) == ("Ack", "Ack", ["resize"])


def test_the_wait_for_a_listener_that_is_left_out_ends_when_none_is(
    caller: Callable[..., Any], listen: Callable[..., None], delivery: Callable[..., Delivery], clock: FakeClock
) -> None:
    def resize(event: Event) -> None:
        raise ValueError

    listen(resize)
    state = dumped(Progress(1, waiting={"listener-bypassed": clock.now() - 3599}))

    outcome = caller(source="shop").outcome(delivery(queue="fast", headers={HEADER: "first"}, state=state))

    assert outcome.reason == "listener-failed"
    assert loaded(outcome.state).waiting == {}


def test_an_event_that_leaves_a_listener_out_is_logged_with_the_places_of_its_listeners(
    table: ListenerTable,
    listen: Callable[..., None],
    delivery: Callable[..., Delivery],
    caplog: pytest.LogCaptureFixture,
) -> None:
    listen(lambda _: None, id="show", queue="feed")

    ObstacleLog(table, 3600.0, lambda _: ["main/feed"]).note(delivery(queue="fast"), Nack(reason="listener-bypassed"))

    assert caplog.messages[0].startswith(
        '"image.created" was sent to "fast" by to=, which leaves out the queue of a listener; 1 is retried until '
    )
    assert caplog.messages[0].endswith("; its listeners are in main/feed")


def test_a_header_of_an_unknown_form_makes_a_dead_letter(
    caller: Callable[..., Any], listen: Callable[..., None], delivery: Callable[..., Delivery]
) -> None:
    listen(lambda _: None, id="x")

    outcome = caller().outcome(delivery(headers={HEADER: "second"}))

    assert isinstance(outcome, DeadLetter)
    assert (outcome.reason, outcome.error) == ("malformed", "its header relevo-to is malformed: 'second'")


def test_the_headers_name_the_other_queues_in_the_envelope_of_the_first_target(
    envelope: Callable[..., Envelope],
) -> None:
    targets = [Target("main", "fast"), Target("main", "feed"), Target("now"), Target("other", "feed")]

    headers = headers_for(targets)

    read = [first(envelope(headers=headers[each])) for each in targets]
    assert read[0] == SentTo(is_first=True, others=("feed", "now"))
    assert read[1:] == [SentTo(is_first=False)] * 3
    assert first(envelope()) is None
    for text in ("", "other feed", " first", "First"):
        with pytest.raises(DecodeError, match="relevo-to"):
            first(envelope(headers={HEADER: text}))


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("mian/fast", r"^to: no transport is called 'mian'; did you mean \"main\"\?$"),
        ("x", r"^to: no transport is called 'x'; there are: main, now$"),
        ("main/fats", r"^to: nothing is routed to the queue 'fats' of \"main\", so .*; did you mean \"fast\"\?$"),
        ("main/x", r"; there are: fast, feed, default$"),
        ([], r"^to: expected a target such as \"main/media\", or several; got none$"),
        (["main", "main/default"], r"^to: duplicate target in main/default, main/default; remove one$"),
        (3, r"^to: expected a target, .*; got 3$"),
        ([None], r"^to: expected a target, .*; got None$"),
        (b"main", r"^to: expected a target, .*; got b'main'$"),
        ("", r"^to: expected a target"),
        ("now/x", r"^to: expected a target"),
    ],
)
def test_an_invalid_target_is_refused_and_the_error_says_what_there_is(make: Make, to: Any, error: str) -> None:
    app = make(routes=ROUTES)

    for way in (
        lambda: app.dispatch("image.created", to=to),
        lambda: app.dispatch_many([Event("image.created")], to=to),
        lambda: asyncio.run(app.adispatch("image.created", to=to)),
        lambda: app.bound_to(object()).dispatch("image.created", to=to),
    ):
        with pytest.raises(ConfigurationError, match=error):
            way()
    assert [waiting(app, queue=queue) for queue in QUEUES] == [0, 0, 0]


def test_a_listener_that_would_not_get_the_event_is_named_with_the_remedy(make: Make) -> None:
    @listener("image.created", queue="feed", id="show")
    def show(event: Event) -> None: ...

    app = make(show, routes={"image.*": ["main", "main/feed"]} | ROUTES)

    with pytest.raises(ConfigurationError) as caught:
        app.dispatch("image.created", to="main/fast")

    assert str(caught.value).startswith(f"to: show ({__file__}:")
    assert str(caught.value).endswith(
        " runs only in the queue 'feed', which main/fast leaves out, so it would not get the event; write "
        'to=["main/fast", "main/feed"], or remove queue= from the listener'
    )
    assert waiting(app, queue="fast") == 0
    app.dispatch("image.created", to=["main/fast", "main/feed"])


def test_the_remedy_for_a_listener_in_process_is_now(make: Make) -> None:
    @listener("image.created", queue="now", id="check")
    def check(event: Event) -> None: ...

    app = make(check, routes={"image.*": ["main", "now"]} | ROUTES)

    with pytest.raises(ConfigurationError, match=r'write to=\["main/fast", "now"\], or remove queue='):
        app.dispatch("image.created", to="main/fast")


def test_a_listener_whose_module_waits_for_its_first_use_is_known_when_it_is_imported(
    make: Make, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "listeners_of_later.py").write_text(
        'import relevo\n@relevo.listener("image.created", queue="feed")\ndef show(event): ...\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    app = make("listeners_of_later", routes=ROUTES)

    app.dispatch("image.created", to="main/fast")
    with pytest.raises(ConfigurationError, match="runs only in the queue 'feed'"):
        app.dispatch("image.created", to=["now", "main/fast"])
    with pytest.raises(ConfigurationError, match="runs only in the queue 'feed'"):
        app.dispatch("image.created", to="main/fast")


def test_a_listener_whose_queue_is_chosen_on_two_transports_would_run_twice(make: Make, clock: FakeClock) -> None:
    @listener("image.created", queue="fast", id="resize")
    def resize(event: Event) -> None: ...

    transports = {name: MemoryTransport(clock=clock) for name in ("main", "other")}
    app = make(resize, transports=transports, routes={"a": "other/fast"} | ROUTES)

    with pytest.raises(ConfigurationError, match=r"would run 2 times, since its queue 'fast' is among main/fast, oth"):
        app.dispatch("image.created", to=["main/fast", "other/fast"])


def test_a_queue_that_does_not_accept_the_event_refuses_it(make: Make) -> None:
    app = make(routes=ROUTES, queues={"main/fast": QueueOptions(accept=("fast.*",))})

    with pytest.raises(NotAcceptedError):
        app.dispatch("image.created", to="main/fast")
    app.dispatch("fast.lane", to="main/fast")


def test_an_event_without_a_route_can_be_sent(make: Make) -> None:
    app = make(routes={"fast.*": "main/fast"})

    with pytest.raises(RouteNotFoundError):
        app.dispatch("image.created")
    app.dispatch("image.created", to="main/fast")

    assert waiting(app, queue="fast") == 1


def test_several_transports_need_a_session(make: Make, clock: FakeClock) -> None:
    transports = {name: MemoryTransport(clock=clock) for name in ("main", "other")}
    app = make(transports=transports, routes=ROUTES)

    with pytest.raises(ConfigurationError, match="is routed to several transports"):
        app.dispatch("image.created", to=["main/fast", "other"])


def test_dispatchers_without_routes_have_no_targets_to_choose_from(clock: FakeClock) -> None:
    for dispatcher in (LocalDispatcher(), DeferredDispatcher(MemoryTransport(clock=clock))):
        with pytest.raises(ConfigurationError, match=r"^to: only relevo.App has targets to choose from; got 'main'"):
            dispatcher.dispatch("image.created", to="main")
        dispatcher.dispatch("image.created", to=None)


# --- with everything else --------------------------------------------------------------------------------


def test_a_transport_without_a_route_has_its_default_queue(make: Make) -> None:
    app = make(routes={"*": "now"})

    app.dispatch("image.created", to="main")

    assert waiting(app) == 1


def test_an_awaited_dispatch_to_listeners_in_process_has_threads_apart(make: Make) -> None:
    app = make(routes=ROUTES)
    events = [Event("image.created")]

    assert app._calls_listeners(events, {"to": ["main/fast", "now"]})
    assert not app._calls_listeners(events, {"to": "main/fast"})
    assert not app._calls_listeners(events, {"to": "mian"})
    assert make(routes={"*": "now"})._calls_listeners(events, {})
    assert not make(routes={"*": "now"})._calls_listeners(events, {"to": "main"})


def test_the_target_may_be_in_process(make: Make) -> None:
    ran: list[str] = []

    @listener("image.created")
    def resize(event: Event, call: Call) -> None:
        ran.append(call.queue)

    app = make(resize, routes=ROUTES)

    app.dispatch("image.created", to="now")
    asyncio.run(app.adispatch("image.created", to="now"))
    app.dispatch("image.created", to=["main/fast", "now"])
    assert ran == ["now", "now"]
    run(app)

    assert ran == ["now", "now", "fast"]
    with pytest.raises(ConfigurationError, match="cannot be delayed"):
        app.dispatch("image.created", to="now", delay="1m")


def test_listeners_without_a_queue_are_called_in_process_if_that_comes_first(make: Make) -> None:
    ran: list[tuple[str, str]] = []

    @listener("image.created")
    def resize(event: Event, call: Call) -> None:
        ran.append(("resize", call.queue))

    @listener("image.created", queue="feed")
    def show(event: Event, call: Call) -> None:
        ran.append(("show", call.queue))

    app = make(resize, show, routes={"image.*": ["main", "main/feed"]} | ROUTES)

    app.dispatch("image.created", to=["now", "main/feed"])
    assert ran == [("resize", "now")]
    run(app)

    assert ran == [("resize", "now"), ("show", "feed")]


def test_it_composes_with_the_other_options(make: Make) -> None:
    app = make(routes=ROUTES)

    options: dict[str, Any] = {"to": "main/fast", "urgency": "high", "expires": "1h"}
    app.dispatch("image.created", delay="1m", ordering_key="8", **options)
    options["ordering_key"] = "7"
    one = app.dispatch("image.created", unique="7", **options)
    two = app.dispatch("image.created", unique="7", **options)

    assert (one.duplicate, two.duplicate_of) == (False, one.id)
    stats = app.transport().stats("fast")
    assert (stats.ready, stats.scheduled, waiting(app)) == (1, 1, 0)
    [delivery] = app.transport().receive(["fast"], limit=9, lease=60, wait=0)
    sent = delivery.envelope
    assert isinstance(sent, Envelope)
    assert (sent.ordering_key, sent.urgency, sent.queue) == ("7", "high", "fast")


def test_many_events_go_to_the_same_targets(make: Make) -> None:
    app = make(routes=ROUTES)

    results = app.dispatch_many((Event("image.created") for _ in range(3)), to=["main/fast", "main/feed"])

    assert [each.targets for each in results] == [(Target("main", "fast"), Target("main", "feed"))] * 3
    assert [waiting(app, queue=queue) for queue in QUEUES] == [0, 3, 3]


def test_a_listener_chooses_the_targets_of_a_follow_up(make: Make) -> None:
    ran: list[str] = []

    @listener("image.created")
    def resize(event: Event, call: Call) -> None:
        call.dispatch("image.resized", to="main/fast")

    @listener("image.resized")
    def show(event: Event, call: Call) -> None:
        ran.append(call.queue)

    app = make(resize, show, routes=ROUTES)
    app.dispatch("image.created")

    run(app)

    assert ran == ["fast"]


def test_a_retry_and_a_revival_stay_in_the_queue(make: Make, clock: FakeClock) -> None:
    ran: list[str] = []

    @listener("image.created", retry=Retry(2, first="1s"))
    def resize(event: Event, call: Call) -> None:
        ran.append(call.queue)
        if len(ran) < 3:
            raise ValueError

    app = make(resize, routes=ROUTES)
    app.dispatch("image.created", to="main/fast")

    run(app)
    clock.advance(10)
    run(app)
    [dead] = app.transport().dead_letters(["fast"], limit=10)
    app.transport().revive({dead.ref: app.revived(dead)})
    run(app)

    assert ran == ["fast"] * 3


@pytest.mark.parametrize("changed", [{HEADER: "other"}, {HEADER: "first feed"}, {}])
def test_a_changed_header_is_found_if_events_are_signed(make: Make, changed: dict[str, str]) -> None:
    """Otherwise it could keep a listener from running."""
    ran: list[str] = []

    @listener("image.created")
    def resize(event: Event) -> None:
        ran.append("resize")

    signing = Signing(KEY)
    app = make(resize, routes=ROUTES, signing=signing)
    app.dispatch("image.created", to="main/fast")
    [delivery] = app.transport().receive(["fast"], limit=1, lease=60, wait=0)
    sent = delivery.envelope
    assert isinstance(sent, Envelope)
    headers = {name: value for name, value in sent.headers.items() if name != HEADER} | changed
    app.transport().send([attrs.evolve(sent, id="forged", headers=headers)])
    handle = app.handle("main", app.listeners, checkpoint=None)

    forged = handle(app.transport().receive(["fast"], limit=1, lease=60, wait=0)[0])
    again = handle(delivery)

    assert isinstance(forged, DeadLetter)
    assert forged.reason == "forged"
    assert (type(again).__name__, ran) == ("Ack", ["resize"])


def test_a_deferred_function_is_sent_to_a_target_unless_it_has_a_parameter_of_that_name(make: Make) -> None:
    sent: list[object] = []
    app = make(routes=ROUTES)

    @app.deferred("receipt.send")
    def send_receipt(order: int) -> None:
        sent.append(order)

    @app.deferred("mail.send")
    def send_mail(to: str) -> None:
        sent.append(to)

    asyncio.run(send_receipt.adefer(7, to="main/fast"))
    send_mail.defer(to="ann")
    send_mail.map(["bob"], to="main/fast")
    app.dispatch(send_mail.event("cid"), to="main/fast")
    assert (waiting(app, queue="fast"), waiting(app)) == (3, 1)
    run(app)

    assert sorted(map(str, sent)) == ["7", "ann", "bob", "cid"]


def test_a_test_asks_for_the_chosen_target(make: Make) -> None:
    app = make(routes=ROUTES | {"gone.*": "main/feed"})

    with app.testing() as t:
        app.dispatch("image.created", to="main/fast")

        t.dispatched("image.created", queue="fast", target="main/fast")
        t.refute_dispatched("image.created", queue="default")
        t.refute_dispatched("image.created", queue="now")
        with pytest.raises(ConfigurationError, match='in the queue "fsat"'):
            t.refute_dispatched("image.created", queue="fsat")
    unrouted = make(routes={"fast.*": "main/fast"})
    with unrouted.testing() as t:
        with pytest.raises(RouteNotFoundError):
            t.dispatched("image.created")
        unrouted.dispatch("image.created", to="main/fast")
        t.dispatched("image.created", target="main/fast")
