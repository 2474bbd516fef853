"""Queues that accept only some events: at the dispatch, in a worker, at its start, on a move, a revival and a relay."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from relevo import App, Call, Envelope, Event, QueueOptions, RunOptions, Signing, Target, Unreadable, listener
from relevo._config.opening import read
from relevo._transport.acceptance import QueueTable
from relevo._transport.route import outbox_queue
from relevo._worker.relay import RelayExecutor, readdressed
from relevo.errors import ConfigurationError, NotAcceptedError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_memory._store import Posting

from .application import DRAIN, Make, drain, waiting
from .shop import Shop, opened

IMAGES = {"media": QueueOptions(accept=["image.*", "thumbnail.made"])}
KEY = "ICl1y4JgHHCMPzFuR0eDBVcNmsBqKtd_4-wYpJw2oT8"


def put(transport: Any, *envelopes: Envelope) -> None:
    """Write *envelopes* into the store of *transport*, as a program that is not relevo does."""
    transport.store.add([Posting(queue=one.queue, envelope=one, due=0.0) for one in envelopes], 0.0)


def dead(transport: Any, queue: str = "media") -> list[tuple[str, str]]:
    return [(each.reason, each.error) for each in transport.dead_letters([queue], after=None, limit=9)]


@pytest.fixture(name="heard")
def _heard() -> list[str]:
    """Return the list of the names of the events that were handled."""
    return []


@pytest.fixture(name="shop")
def _shop(make: Make, heard: list[str]) -> Callable[..., App]:
    """Make an application that handles two events in the queue media."""
    marks = [
        listener(name, queue="media", id=name)(functools.partial(lambda event: heard.append(event.name)))
        for name in ("image.created", "user.deleted")
    ]
    return functools.partial(make, *marks, routes={"*": "main/media"})


# --- patterns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept, names",
    [
        (["*"], {"image.created", "image.deleted", "images.sorted", "user.deleted"}),
        (["image.*"], {"image.created", "image.deleted"}),
        ("image.*", {"image.created", "image.deleted"}),
        (["image*"], {"image.created", "image.deleted", "images.sorted"}),
        (["image.created"], {"image.created"}),
        (["image.created", "user.*"], {"image.created", "user.deleted"}),
        (["image.", "created", "Image.created"], set()),
    ],
)
def test_a_queue_accepts_names_and_prefixes(accept: Any, names: set[str]) -> None:
    options = QueueOptions(accept=accept)

    offered = ["image.created", "image.deleted", "images.sorted", "user.deleted"]
    assert {name for name in offered if options.accepts(name)} == names


@pytest.mark.parametrize(
    "accept, why",
    [
        ([], 'expected at least one pattern such as "image.*"; got none'),
        (3, 'expected a list of patterns such as "image.*"; got 3'),
        ({"image.*": 1}, "expected a list of patterns such as"),
        ("", "expected names of events, or a prefix and *, as in \"image.*\"; got ''"),
        (["image.*", 3], 'expected names of events, or a prefix and *, as in "image.*"; got 3'),
        (["*.created"], "got '*.created'"),
        (["image.**"], "got 'image.**'"),
        (["image created"], "got 'image created'"),
        (["image.*\n"], r"got 'image.*\n'"),
    ],
)
def test_what_is_not_a_pattern_is_refused(accept: Any, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        QueueOptions(accept=accept)

    assert str(caught.value).startswith("QueueOptions.accept: expected ")
    assert why in str(caught.value)


patterns = st.text("ab", min_size=1, max_size=3).flatmap(lambda text: st.sampled_from([text, f"{text}*"])) | st.just(
    "*"
)


@given(st.lists(patterns, min_size=1, max_size=3), patterns)
def test_a_queue_accepts_some_event_of_a_route_exactly_if_one_name_matches_both(accept: list[str], route: str) -> None:
    options, of_route = QueueOptions(accept=accept), QueueOptions(accept=[route])
    short = ["a", "b"]
    for _ in range(4):  # longer than every pattern, so that each match has an example
        short += [name + letter for name in short for letter in "ab"]

    assert options.accepts_some(route) == any(options.accepts(name) and of_route.accepts(name) for name in set(short))


def test_a_queue_is_named_on_every_transport_or_on_one() -> None:
    feed, media = QueueOptions(accept=["feed.*"]), QueueOptions(accept=["media.*"])
    table = QueueTable({"feed": feed, "main/media": media, "main/a/b": media})

    assert table.of(Target("main", "feed")) is table.of(Target("other", "feed")) is feed
    assert table.of(Target("main", "media")) is table.of(Target("main", "a/b")) is media
    assert table.of(Target("other", "media")) == table.of(Target("now", "feed")) == QueueOptions()


@pytest.mark.parametrize(
    "options, why",
    [
        ({"media": 3}, "queues.media: expected relevo.QueueOptions(…); got 3"),
        ({"now": QueueOptions()}, 'queues: "now" is not a queue; a route to it calls listeners in process'),
        ({"main/now": QueueOptions()}, 'queues: a queue cannot be called "now"'),
        ({"a b": QueueOptions()}, "queues: 'a b' cannot name a queue: spaces and control characters are not"),
        ({3: QueueOptions()}, "queues: 3 cannot name a queue: it is int, not text"),
        ({"main/outbox/main": QueueOptions()}, 'names that begin with "outbox/" or "amq." are reserved'),
        ({"media": QueueOptions(), "main/media": QueueOptions()}, "'media' has options for that queue already"),
        ({"main/media": QueueOptions(), "media": QueueOptions()}, "'main/media' has options for that queue already"),
        ({"mdia": QueueOptions()}, 'queues.mdia: nothing is routed to that queue; did you mean "media"?'),
        ({"main": QueueOptions()}, 'to that queue; for the queue of that transport write "main/default"'),
        ({"mian/media": QueueOptions()}, 'nothing is routed to that queue; did you mean "main/media"?'),
        ([], "queues: expected a mapping; got []"),
    ],
)
def test_what_is_not_the_options_of_a_queue_is_refused(make: Make, options: Any, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(routes={"*": "main/media"}, queues=options)

    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


# --- routes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "route, is_possible",
    [
        ("image.created", True),
        ("thumbnail.made", True),
        ("thumbnail.*", True),
        ("image.thumbnail.*", True),
        ("*", True),
        ("user.deleted", False),
        ("thumbnail.made.twice", False),
        ("user.*", False),
        ("thumbnail.made.*", False),
    ],
)
def test_a_route_to_a_queue_that_accepts_none_of_its_events_is_refused(
    make: Make,
    route: str,
    is_possible: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    routes = {"image.seen": "main/media", route: ["main/feed", "main/media"], "*": "main"}
    routes["*"] = routes["*"] if route == "*" else "main"

    if is_possible:
        make(routes=routes, queues=IMAGES)
        return
    with pytest.raises(ConfigurationError) as caught:
        make(routes=routes, queues=IMAGES)
    assert str(caught.value) == (
        f'routes."{route}": main/media accepts no event of this route; it accepts: "image.*", "thumbnail.made"; '
        f"add one to accept under queues.media, or change the route"
    )


# --- at the dispatch ---------------------------------------------------------------------------------------


def test_an_event_that_its_queue_does_not_accept_is_refused_before_anything_is_written(make: Make) -> None:
    app = make(routes={"*": ["main", "main/media"]}, queues=IMAGES)

    with pytest.raises(NotAcceptedError) as caught:
        app.dispatch_many([Event("image.created"), Event("user.deleted")])

    assert (caught.value.event_name, caught.value.target) == ("user.deleted", "main/media")
    assert (caught.value.patterns, caught.value.key) == (("image.*", "thumbnail.made"), "media")
    assert str(caught.value) == (
        'the queue main/media does not accept \'user.deleted\'; it accepts: "image.*", "thumbnail.made"; add the name '
        "to accept under [queues.media], or send the event elsewhere"
    )
    assert (waiting(app), waiting(app, queue="media")) == (0, 0)


def test_an_event_that_its_queue_accepts_is_sent_and_other_queues_accept_all(make: Make) -> None:
    app = make(routes={"image.*": "main/media", "*": "main"}, queues=IMAGES)

    app.dispatch_many([Event("image.created"), Event("user.deleted"), Event("image.created")])

    assert (waiting(app), waiting(app, queue="media")) == (1, 2)


def test_what_a_listener_dispatches_is_refused_too(make: Make) -> None:
    errors: list[BaseException] = []

    @listener("image.created", retry=1)
    def follow(event: Event, call: Call) -> None:
        try:
            call.dispatch(Event("user.deleted"))
        except NotAcceptedError as error:
            errors.append(error)

    app = make(follow, routes={"image.*": "main/media", "*": "main/feed"}, queues={"main/feed": IMAGES["media"]})
    app.dispatch(Event("image.created"))
    drain(app)

    assert [type(error) for error in errors] == [NotAcceptedError]


def test_listeners_in_process_are_called_whatever_queues_accept(make: Make) -> None:
    heard: list[str] = []
    hear = listener("user.deleted", queue="now", id="hear")(functools.partial(lambda event: heard.append(event.name)))
    app = make(hear, routes={"user.*": "now", "*": "main"}, queues={"default": IMAGES["media"]})

    app.dispatch(Event("user.deleted"))

    assert heard == ["user.deleted"]


# --- in a worker -------------------------------------------------------------------------------------------


def test_an_event_that_its_queue_does_not_accept_is_a_dead_letter_before_its_body_is_read(
    make: Make, heard: list[str]
) -> None:
    transport = MemoryTransport()
    hear = listener("image.created", queue="media", id="hear")(
        functools.partial(lambda event: heard.append(event.name))
    )
    app = make(hear, transports={"main": transport}, routes={"*": "main/media"}, queues=IMAGES)
    app.dispatch(Event("image.created"))
    put(transport, Envelope(id="1", source="x", name="user.deleted", queue="media", body=b"\xff no JSON"))
    put(transport, Envelope(id="2", source="x", name="image\ncreated", queue="media", body=b"{}"))

    drain(app)

    assert heard == ["image.created"]
    (first, second) = dead(transport)
    why = 'the queue main/media does not accept \'user.deleted\'; it accepts: "image.*", "thumbnail.made"; add the name'
    assert first == ("not-accepted", f"{why} to accept under [queues.media], or send the event elsewhere")
    assert second[0] == "not-accepted"
    assert r"'image\ncreated'" in second[1]


def test_an_accepted_name_does_not_let_another_event_in(make: Make, heard: list[str]) -> None:
    transport = MemoryTransport()
    body = b'{"specversion":"1.0","id":"1","source":"x","type":"user.deleted","data":{}}'
    put(transport, Envelope(id="1", source="x", name="image.created", queue="media", body=body))
    hear = listener("image.created", queue="media", id="hear")(
        functools.partial(lambda event: heard.append(event.name))
    )

    drain(make(hear, transports={"main": transport}, routes={"*": "main/media"}, queues=IMAGES))

    assert heard == []
    assert [reason for reason, _ in dead(transport)] == ["malformed"]


def test_a_dead_letter_is_handled_when_it_is_revived_after_the_list_has_changed(
    shop: Callable[..., App], heard: list[str]
) -> None:
    transport = MemoryTransport()
    shop(transports={"main": transport}).dispatch(Event("user.deleted"))
    strict = shop(transports={"main": transport}, queues=IMAGES)
    strict.handle("main", strict.listeners, checkpoint=None)
    (one,) = transport.receive(["media"], limit=1, lease=60.0, wait=0.0)
    outcome = strict.handle("main", strict.listeners, checkpoint=None)(one)
    transport.settle([(one, outcome)])
    (entry,) = transport.dead_letters(["media"], after=None, limit=9)

    later = shop(transports={"main": transport}, queues={"media": QueueOptions(accept=["image.*", "user.deleted"])})
    transport.revive({entry.ref: later.revived(entry)})
    drain(later)

    assert entry.reason == "not-accepted"
    assert heard == ["user.deleted"]


def test_a_forged_event_is_forged_whatever_its_queue_accepts(make: Make) -> None:
    transport = MemoryTransport()
    put(transport, Envelope(id="1", source="shop", name="user.deleted", queue="media", body=b"{}"))

    drain(make(transports={"main": transport}, routes={"*": "main/media"}, queues=IMAGES, signing=Signing(KEY)))

    assert [reason for reason, _ in dead(transport)] == ["forged"]


def test_unreadable_bytes_stay_unreadable(make: Make) -> None:
    transport = MemoryTransport()
    transport.setup(["media"])
    transport.store.put_raw("media", b"?")
    (one,) = transport.receive(["media"], limit=1, lease=60.0, wait=0.0)
    app = make(transports={"main": transport}, routes={"*": "main/media"}, queues=IMAGES)

    outcome = app.handle("main", app.listeners, checkpoint=None)(one)

    assert isinstance(one.envelope, Unreadable)
    assert getattr(outcome, "reason", None) == "unreadable"


# --- when a worker starts ----------------------------------------------------------------------------------


def test_a_listener_whose_event_is_not_accepted_is_reported_at_the_start(shop: Callable[..., App]) -> None:
    app = shop(queues=IMAGES)

    with pytest.raises(ConfigurationError) as caught:
        app.worker(RunOptions())

    assert str(caught.value) == (
        'user.deleted: the queue main/media does not accept \'user.deleted\'; it accepts: "image.*", "thumbnail.made"; '
        "add the name to accept under [queues.media], or send the event elsewhere"
    )


def test_a_listener_whose_event_another_queue_of_its_route_does_not_accept_is_reported_too(make: Make) -> None:
    hear = listener("user.deleted", queue="feed", id="hear")(functools.partial(lambda event: None))
    app = make(hear, routes={"*": ["main/feed", "main/media"]}, queues=IMAGES)

    with pytest.raises(ConfigurationError, match=r"hear: the queue main/media does not accept 'user.deleted'"):
        app.worker(RunOptions())


# --- a move ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signing", [None, Signing(KEY)])
def test_an_event_is_not_moved_to_a_queue_that_does_not_accept_it(
    make: Make, transport: Any, clock: FakeClock, signing: Signing | None
) -> None:
    app = make(signing=signing)
    app.dispatch_many([Event("image.created"), Event("user.deleted")])
    received = app.transport().receive(["default"], limit=2, lease=60.0, wait=0.0)
    change = readdressed(signing, "shop", to=Target("there", "media"), queues=QueueTable(IMAGES))
    executor = RelayExecutor(transport, clock=clock, patience=None, change=change)
    for one in received:
        executor.submit(one)

    ended = {one.envelope.name: type(outcome).__name__ for one, outcome in executor.take_finished(0.0)}  # type: ignore[union-attr]

    assert ended == {"image.created": "Ack", "user.deleted": "Nack"}
    assert transport.stats("media").ready == 1


# --- a revival and a relay ----------------------------------------------------------------------------------


@pytest.mark.parametrize("signing", [None, Signing(KEY)])
def test_a_dead_letter_is_not_revived_while_its_queue_does_not_accept_it(
    make: Make, clock: FakeClock, signing: Signing | None
) -> None:
    main, other = MemoryTransport(name="main", clock=clock), MemoryTransport(name="other", clock=clock)
    everywhere = {"transports": {"main": main, "other": other}, "signing": signing}
    make(**everywhere, routes={"*": "main/media"}).dispatch(Event("user.deleted"))
    (one,) = main.receive(["media"], limit=1, lease=60.0, wait=0.0)
    main.dead_letter(one, reason="retries-exhausted")
    (entry,) = main.dead_letters(["media"], after=None, limit=9)
    strict = make(**everywhere, routes={"*": "main/media"}, queues={"main/media": IMAGES["media"]})
    lenient = make(
        **everywhere, routes={"image.*": "other/media", "*": "main"}, queues={"other/media": IMAGES["media"]}
    )

    with pytest.raises(NotAcceptedError) as caught:
        strict.revived(entry, transport="main")

    assert caught.value.target == "main/media"
    assert lenient.revived(entry, transport="main") == b""
    with pytest.raises(ConfigurationError, match="there are several transports"):
        lenient.revived(entry)


@pytest.mark.parametrize("signing", [None, Signing(KEY)])
def test_a_relay_keeps_an_event_that_its_queue_does_not_accept_and_it_is_revived_when_the_queue_does(
    shop: Callable[..., App], heard: list[str], clock: FakeClock, signing: Signing | None
) -> None:
    main, box = MemoryTransport(name="main", clock=clock), MemoryTransport(name="box", clock=clock)
    reserved = outbox_queue("main")
    everywhere = {"transports": {"main": main}, "outboxes": {"main": box}, "signing": signing}
    lenient, strict = shop(**everywhere), shop(**everywhere, queues=IMAGES, patience=60.0)
    lenient.dispatch_many([Event("user.deleted"), Event("image.created")])
    for one in main.receive(["media"], limit=9, lease=60.0, wait=0.0):
        assert isinstance(one.envelope, Envelope)
        box.store.add([Posting(queue=reserved, envelope=one.envelope, due=0.0)], 0.0)
        main.ack(one)

    relay(strict)
    waiting, moved = box.stats(reserved).scheduled, main.stats("media").ready
    clock.advance(120.0)
    relay(strict)

    assert (waiting, moved, main.stats("media").ready) == (1, 1, 1)
    ((reason, error),) = dead(box, reserved)
    assert reason == "not-accepted"
    assert error.startswith("the queue main/media does not accept 'user.deleted'; it accepts: ")
    (entry,) = box.dead_letters([reserved], after=None, limit=9)
    with pytest.raises(NotAcceptedError):
        strict.revived(entry)

    box.revive({entry.ref: lenient.revived(entry)})
    relay(lenient)
    drain(lenient)

    assert sorted(heard) == ["image.created", "user.deleted"]
    assert dead(box, reserved) == dead(main) == []


def relay(app: App) -> None:
    worker = app.relay("main", DRAIN)
    assert worker is not None
    worker.run()


# --- configuration -----------------------------------------------------------------------------------------

ROUTED = '[transports]\nmain = "memory://"\n[routes]\n"image.*" = "main/media"\n"*" = "main"\n'


@pytest.mark.parametrize(
    "text, environ",
    [
        ('[queues.media]\naccept = ["image.*"]\n', {}),
        ('[queues]\nmedia = ["image.*"]\n', {}),
        ('[queues]\nmedia.accept = "image.*"\n', {}),
        ('[queues."main/media"]\naccept = ["image.*"]\n', {}),
        ("", {"RELEVO_QUEUES__MEDIA__ACCEPT": "image.*"}),
        ("", {"RELEVO_QUEUES__MEDIA__ACCEPT": '["image.*"]'}),
        ('[queues.media]\naccept = ["user.*"]\n', {"RELEVO_QUEUES__MEDIA": "image.*"}),
    ],
)
def test_queues_are_configured(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    file = tmp_path / "relevo.toml"
    file.write_text(text + ROUTED)

    with App.from_config(file, environ=environ) as app:
        app.dispatch(Event("image.created"))
        with pytest.raises(NotAcceptedError):
            App.from_config(file, environ={**environ, "RELEVO_ROUTES": '{"*" = "main/media"}'}).dispatch(Event("a.b"))


@pytest.mark.parametrize(
    "text, why",
    [
        (
            '[queues.mdia]\naccept = ["a.b"]',
            'relevo.toml:1: queues.mdia: nothing is routed to that queue; did you mean "',
        ),
        (
            '[queues.media]\naccept = ["a.b"]',
            'relevo.toml:6: routes."image.*": main/media accepts no event of this route',
        ),
        (
            '[queues.media]\naccept = ["*.b"]',
            "relevo.toml:2: queues.media.accept: expected names of events, or a prefix",
        ),
        ("[queues.media]\naccept = []", "relevo.toml:2: queues.media.accept: expected at least one pattern"),
        (
            '[queues.media]\nacept = ["a.b"]',
            'relevo.toml:2: queues.media: unknown option "acept"; did you mean "accept"?',
        ),
        (
            '[queues."main/media"]\n[queues.media]',
            "relevo.toml:2: queues.media: 'main/media' has options for that queue",
        ),
    ],
)
def test_what_is_invalid_is_reported_with_its_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "relevo.toml"
    file.write_text(f"{text}\n{ROUTED}")

    with pytest.raises(ConfigurationError) as caught:
        read(file, {}, start=tmp_path)

    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(why)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Shop:
    return opened(tmp_path)


def test_the_command_line_refuses_and_shows_what_is_not_accepted(folder: Shop) -> None:
    refused = folder.run("dispatch user.deleted {}", RELEVO_QUEUES='{ default = ["image.*", "mail.sent"] }')
    checked = folder.run("check", RELEVO_QUEUES='{ default = ["image.*", "video.*"] }')

    assert (refused.returncode, checked.returncode) == (78, 78)
    assert "the queue main/default does not accept 'user.deleted'" in refused.stderr
    assert "/shop_listeners.py:13): the queue main/default does not accept 'mail.sent'" in checked.stderr
