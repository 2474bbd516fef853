"""Listeners of an application: where they come from, and what is told of them at the start."""

from __future__ import annotations

import functools
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_type

import attrs
import pytest

import relevo
from relevo import App, Call, Clock, Event, Reason, RunOptions, SystemClock, listener
from relevo._app.app import parts_of
from relevo._app.check import unheard
from relevo.errors import ConfigurationError, DuplicateEventError, DuplicateListenerError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

from .application import Make, drain


def test_modules_are_imported_at_first_use_and_not_before(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_listeners.py").write_text("import relevo\n@relevo.listener('a.b')\ndef late(event): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    app = make("late_listeners")

    app.dispatch(Event("a.b"))
    before = "late_listeners" in sys.modules
    found = [each.id for each in app.listeners]

    assert not before
    assert found == ["late_listeners:late"]


def test_a_module_that_could_not_be_imported_is_tried_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    app = make("later_listeners")

    for _ in range(2):
        with pytest.raises(ConfigurationError, match='there is no module "later_listeners"'):
            app.listeners  # noqa: B018 - it imports
    (tmp_path / "later_listeners.py").write_text("import relevo\n@relevo.listener('a.b')\ndef late(event): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert len(app.listeners) == 1


def test_listeners_can_be_added_until_they_are_needed(make: Make) -> None:
    @listener("a.b")
    def one(event: Event) -> None: ...

    @listener("a.b", id=f"{__name__}:{one.__qualname__}")
    def same_id(event: Event) -> None: ...

    app = make()
    app.listen(one)
    assert len(app.listeners) == 1
    app.listen(one)
    assert len(app.listeners) == 1
    with pytest.raises(DuplicateListenerError):
        app.listen(same_id)

    assert [each.function for each in app.listeners] == [one]


@relevo.event("photo.made")
@attrs.frozen
class PhotoMade:
    number: int = 7


@relevo.event("photo.made")
@attrs.frozen
class OtherPhotoMade:
    number: int = 7


@pytest.mark.parametrize(
    "thing, why",
    [
        (
            "image.created",
            r'\'image.created\', which is not the name of a module .*; put @relevo.listener\("…"\) above',
        ),
        (
            "not a module",
            r"not the name of a module that can be found; .* or write app.add_listener\(\"…\", function\)",
        ),
        (
            PhotoMade,
            r"PhotoMade'>, which is an event; put @relevo.listener\(…\) above the function and @app.listen above that",
        ),
        (print, "has no listener; put @relevo.listener"),
        (object(), "has no listener; put @relevo.listener"),
    ],
)
def test_what_cannot_hold_a_listener_is_refused_where_it_is_registered_and_leaves_nothing_behind(
    make: Make, thing: object, why: str
) -> None:
    app = make()

    with pytest.raises(ConfigurationError, match=why):
        app.listen(thing)

    app.add_listener("a.b", print)
    assert len(app.listeners) == 1


def test_an_application_registers_by_a_decorator_too(make: Make) -> None:
    app = make()

    @app.listen
    @listener("a.b")
    def one(event: Event) -> int:
        return 1

    assert_type(one(Event("a.b")), int)
    assert [each.function for each in app.listeners] == [one]


@pytest.mark.parametrize("target", ["main", "now"])
def test_an_event_of_another_class_than_the_one_that_is_listened_for_is_refused_at_the_dispatch(
    make: Make, target: str
) -> None:
    app = make(routes={"*": target})
    app.add_listener(PhotoMade, lambda event: None)
    app.dispatch(PhotoMade())
    app.dispatch(Event("photo.made", {"number": 8}))

    with pytest.raises(DuplicateEventError, match=r'"photo.made" is declared twice: by .*PhotoMade.*OtherPhotoMade'):
        app.dispatch(OtherPhotoMade())


def test_a_listener_that_names_a_transport_with_its_queue_is_told_to_leave_it_out(make: Make) -> None:
    @listener("image.created", queue="main/feed", id="update")
    def update(event: Event) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        make(update, routes={"image.*": ["main/media", "main/feed"]}).worker()

    assert str(caught.value) == (
        f'update ({_place(update)}): it runs in the queue "main/feed", but "image.created" is routed to main/media, '
        'main/feed; a listener names its queue without the transport: queue="feed"'
    )


@pytest.mark.parametrize(
    ("route", "remedy"),
    [
        ("main", '; write under [routes]: "order.placed" = ["main/default", "main/mail"]'),
        (["main/a", "main/b"], '; write under [routes]: "order.placed" = ["main/a", "main/b", "main/mail"]'),
        ("now", ""),
    ],
)
def test_a_listener_in_a_queue_without_a_route_is_told_which_route_leads_there(
    make: Make, route: str | list[str], remedy: str
) -> None:
    @listener("order.placed", queue="mail", id="bill")
    def bill(event: Event) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        make(bill, routes={"*": route, "mail.*": "main/mail"}).worker()

    before, _, after = str(caught.value).partition(" is routed to ")
    assert before.endswith('it runs in the queue "mail", but "order.placed"')
    assert after.partition(";")[1] + after.partition(";")[2] == remedy


def _place(function: Callable[..., object]) -> str:
    return f"{__file__}:{function.__code__.co_firstlineno}"


def test_a_listener_in_a_queue_without_a_route_is_told_at_the_start(make: Make) -> None:
    @listener("image.created", queue="meida", id="thumbnails")
    def thumbnails(event: Event) -> None: ...

    @listener("feed.read", id="reader")
    def reader(event: Event) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        make(thumbnails, reader, routes={"image.*": ["main/media", "main/feed"]}).worker()

    first, second = str(caught.value).splitlines()
    assert first == (
        f'reader ({_place(reader)}): no route for "feed.read"; routes: "image.*"; add one under [routes], for example '
        '"*" = "main"'
    )
    assert second == (
        f'thumbnails ({_place(thumbnails)}): it runs in the queue "meida", but "image.created" is routed to '
        'main/media, main/feed; did you mean "media"?'
    )


def test_a_worker_is_not_started_on_a_queue_that_nothing_is_routed_to(make: Make) -> None:
    app = make(routes={"*": "main/media"})

    with pytest.raises(
        ConfigurationError,
        match=r'nothing is routed to the queue "meida" of "main"; did you mean "media"\?; there are: media',
    ):
        app.worker(RunOptions(queues=("meida",)))


def test_a_target_that_no_listener_here_serves_is_told_at_the_start(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    hear = listener("a.b", id="hear")(lambda event: None)
    app = make(hear, routes={"a.b": ["main/media", "main/feed", "now"], "*": "main"})

    app.worker(RunOptions(queues=("media",)))
    assert caplog.messages == []
    app.worker()

    (told,) = caplog.messages
    assert told.startswith('"a.b" is routed to main/feed, but no listener here runs there')


def test_more_listeners_than_a_state_can_keep_are_refused_at_the_start(make: Make) -> None:
    many = [listener("a.b", id=f"{number:0100}")(functools.partial(print)) for number in range(100)]

    with pytest.raises(ConfigurationError, match=r'"a\.b" has 100 listeners in main/default, whose progress'):
        make(*many).worker()


def test_a_transport_without_delays_is_refused_at_the_start_since_nothing_could_be_retried(make: Make) -> None:
    class Hasty(MemoryTransport):
        capabilities = attrs.evolve(MemoryTransport.capabilities, delay=None)

    with pytest.raises(ConfigurationError, match='the transport "main" does not support delay'):
        make(transports={"main": Hasty()}).worker()


def test_every_listener_runs_in_one_queue(make: Make) -> None:
    heard: list[str] = []

    @listener("image.created", queue="feed", id="feed")
    @listener("image.deleted", id="deleted")
    def hear(event: Event, call: Call) -> None:
        heard.append(f"{call.listener_id} in {call.queue}")

    @listener("image.created", id="first")
    def first(event: Event, call: Call) -> None:
        heard.append(f"{call.listener_id} in {call.queue}")

    app = make(hear, first, routes={"image.*": ["main/media", "main/feed"]})
    app.dispatch(Event("image.created"))
    report = drain(app)

    assert sorted(heard) == ["feed in feed", "first in media"]
    assert report.done == 2


def test_listeners_that_come_and_go_while_it_is_tested_are_the_same_as_before_afterwards(
    make: Make, clock: FakeClock
) -> None:
    app = make()
    goes = app.add_listener("a.b", print, id="goes")
    stays = app.add_listener("a.b", print, id="stays")
    last = app.add_listener("a.b", print, id="last", priority=-1)

    with app.testing():
        app.remove_listener(goes)
        app.add_listener("a.b", print, id="new")
        app.listen("relevo.never_imported")
        meanwhile = [each.id for each in parts_of(app).registry.known("a.b")]
    after = app.listeners("a.b")
    app.remove_listener(goes)

    assert meanwhile == ["stays", "new", "last"]
    assert after == (goes, stays, last)
    assert app.listeners("a.b") == (stays, last)


def test_a_class_that_was_listened_for_in_one_test_does_not_keep_another_one_from_its_name_in_the_next(
    make: Make, clock: FakeClock
) -> None:
    def declared() -> type:
        @relevo.event("a.b")
        @attrs.frozen
        class Made:
            pass

        return Made

    app = make()
    for _ in range(2):
        with app.testing():
            cls = declared()
            heard = app.add_listener(cls, print)
            assert app.listeners(cls) == (heard,)

    assert not app.has_listeners()


def test_a_module_is_taken_out_as_it_was_put_in(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving.py").write_text(
        "import relevo\n\n@relevo.listener('a.b')\ndef one(event): ...\n\n"
        "@relevo.listener('a.c')\ndef two(event): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stays = listener("a.b", id="stays")(functools.partial(print))
    app = make(stays, "leaving")
    before = [each.id for each in app.listeners]

    app.unlisten("leaving")
    app.listen("leaving")
    again = [each.id for each in app.listeners]
    app.unlisten(sys.modules["leaving"])
    app.unlisten("leaving", "leaving:one")

    assert sorted(before) == sorted(again) == ["leaving:one", "leaving:two", "stays"]
    assert [each.id for each in app.listeners] == ["stays"]
    with pytest.raises(ConfigurationError, match='no module "leavin"'):
        app.unlisten("leavin")


def test_a_module_that_asks_for_the_listeners_while_it_is_imported_hides_none(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asking.py").write_text(
        "import relevo\nfrom application_of_asking import app\n\n@relevo.listener('a.b')\ndef one(event): ...\n\n"
        "app.listeners\n\n@relevo.listener('a.b')\ndef two(event): ...\n"
    )
    (tmp_path / "asked_later.py").write_text("import relevo\n\n@relevo.listener('a.b')\ndef three(event): ...\n")
    (tmp_path / "application_of_asking.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    app = make("asking", "asked_later")
    vars(importlib.import_module("application_of_asking"))["app"] = app

    assert [each.id for each in app.listeners] == ["asking:one", "asking:two", "asked_later:three"]


# --- events without a listener ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("order.placed", []),
        ("order.placd", ["main/mail"]),
        ("cart.filled", ["main/mail"]),  # an exact route to a queue in which a listener runs
        ("invoice.sent", []),  # an exact route to a queue of another program
        ("stock.counted", []),  # heard in its first queue; the other one is of another program
        ("stock.recounted", ["main/stock", "main/billing"]),
        ("user.seen", ["now"]),
        ("nowhere", []),
    ],
)
def test_an_event_is_unheard_where_its_workers_have_no_listener_for_it(make: Make, name: str, found: list[str]) -> None:
    app = make(
        listener("order.placed", id="order")(lambda event: None),
        listener("stock.counted", id="stock")(lambda event: None),
        routes={
            "order.*": "main/mail",
            "cart.filled": "main/mail",
            "invoice.sent": "main/billing",
            "stock.*": ["main/stock", "main/billing"],
            "user.*": "now",
        },
    )

    assert list(map(str, unheard(name, app.listeners, app.routes))) == found


def test_a_program_without_listeners_only_dispatches(make: Make) -> None:
    app = make(routes={"*": "main"})

    assert list(unheard("a.b", app.listeners, app.routes)) == []


def test_a_worker_logs_an_event_without_a_listener_once_for_each_name(
    make: Make, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    @listener("order.placed")
    def bill(event: Event) -> None: ...

    app = make(bill, routes={"*": "main/mail"})
    first = app.dispatch(Event("order.placd")).id
    app.dispatch(Event("order.placd"))
    app.dispatch(Event("stock.counted"))

    app.worker(RunOptions(until_empty=True)).run()

    placd, stock = [record for record in caplog.records if record.name == "relevo.listener"]
    end = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(clock.now() + 3600))
    assert placd.levelname == "WARNING"
    assert placd.message == (
        f'no listener here for "order.placd" in the queue "mail"; {first} is retried until {end}, then it is a dead '
        f'letter (logged once a run for this name); did you mean "order.placed" ({_place(bill)})?'
    )
    assert stock.message.startswith('no listener here for "stock.counted" in the queue "mail"; ')


def test_a_worker_says_in_which_queue_the_listeners_of_an_event_are(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(listener("a.b", queue="mail", id="one")(lambda event: None), routes={"*": ["main/mail", "main/stock"]})
    app.dispatch(Event("a.b"))

    app.worker(RunOptions(until_empty=True)).run()

    (record,) = [record for record in caplog.records if record.name == "relevo.listener"]
    assert record.message.endswith("(logged once a run for this name); its listeners are in main/mail")


def test_a_worker_of_another_transport_says_in_which_queue_the_listeners_of_an_event_are(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def ignore(event: Event) -> None: ...

    with App(
        transports={"main": MemoryTransport(clock=clock), "old": MemoryTransport(clock=clock)},
        routes={"a.b": "old", "*": "main"},
        clock=clock,
    ) as before:
        before.dispatch(Event("a.b"))
        with App(
            transports=before.transports,
            routes={"a.b": "main/import2", "*": "old"},
            listeners=[listener("a.b", id="one")(ignore)],
            clock=clock,
        ) as app:
            app.worker(RunOptions(transport="old", until_empty=True)).run()

    (record,) = [record for record in caplog.records if record.name == "relevo.listener"]
    assert record.message.endswith("; its listeners are in main/import2")


def test_a_listener_that_has_begun_and_is_missing_is_named_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    with App(transports={"main": MemoryTransport(store)}) as before:
        before.add_listener("image.created", lambda _: 1 / 0, id="notebook:rate")
        before.dispatch("image.created")
        before.drain()
    clock = FakeClock(time.time() + 60)
    with App(transports={"main": MemoryTransport(store, clock=clock)}, clock=clock) as after:
        after.add_listener("image.created", print, id="shop:rate")
        caplog.clear()

        report = after.drain()

    assert dict(report.retry_reasons) == {Reason.LISTENER_MISSING: 1}
    (line,) = [each for each in caplog.messages if "has begun" in each]
    assert line.startswith('notebook:rate of "image.created" has begun in the queue "default" and is not here; ')
    assert line.endswith('; if it was renamed, write @relevo.listener(…, aliases=["notebook:rate"]) above the function')


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["the machine's", "that of the application"])
def test_a_worker_warns_of_a_transport_with_another_clock(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    own = FakeClock() if isinstance(clock, SystemClock) else clock
    app = App(transports={"main": MemoryTransport(MemoryStore(), clock=clock)}, clock=own)

    app.worker()

    warned = [each.getMessage() for each in caplog.records if "another clock" in each.getMessage()]
    assert len(warned) == isinstance(clock, SystemClock)
    assert all(
        "another clock (SystemClock) than the application (FakeClock); events are due" in each for each in warned
    )


def _search_and_more(make: Make, **routes: object) -> App:
    main = listener("order.placed", id="bill")(lambda event: None)
    search = listener("order.placed", queue="search", id="index")(lambda event: None)
    return make(main, search, routes={"ordr.*": ["main", "main/search"], "*": "main", **routes})


def test_the_first_dispatch_of_a_name_warns_once_of_a_listener_that_the_route_does_not_lead_to(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    app = _search_and_more(make)

    for _ in range(2):
        app.dispatch(Event("order.placed"))
        app.dispatch_many([Event("order.placed"), Event("other.event")])

    assert [(each.levelname, each.name) for each in caplog.records] == [("WARNING", "relevo.app")]
    (told,) = caplog.messages
    assert told == (
        'index will not get this event: it runs in the queue "search", but "order.placed" is routed to main/default; '
        'write under [routes]: "order.placed" = ["main/default", "main/search"]'
    )


def test_a_dispatch_does_not_warn_of_a_listener_that_the_route_leads_to(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    app = _search_and_more(make, **{"order.*": ["main/search", "main"]})

    app.dispatch(Event("order.placed"))

    assert caplog.messages == []


def test_a_dispatch_in_process_warns_of_a_listener_in_a_queue(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    app = _search_and_more(make, **{"order.placed": "now"})

    app.dispatch(Event("order.placed"))

    (told,) = caplog.messages
    assert told.startswith('index will not get this event: it runs in the queue "search", but "order.placed" is routed')
