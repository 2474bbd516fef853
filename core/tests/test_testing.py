from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import EntryPoints
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import attrs
import pytest
from hypothesis import example, given, settings, strategies as st

import relevo
from relevo import (
    App,
    Call,
    DeferredDispatcher,
    Envelope,
    Event,
    GiveUp,
    RetryLater,
    Signing,
    Subject,
    SubjectType,
    Target,
    listener,
)
from relevo._app.app import parts_of
from relevo.errors import ConfigurationError, EncodeError, RouteNotFoundError, SessionError, TransportClosedError
from relevo.testing import FakeClock, project_app
from relevo_memory import MemoryTransport

sa = pytest.importorskip("sqlalchemy")
orm = pytest.importorskip("sqlalchemy.orm")


class Base(orm.DeclarativeBase):  # type: ignore[misc, name-defined]
    pass


class Image(Base):
    __tablename__ = "image"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)  # type: ignore[name-defined]
    path: orm.Mapped[str]  # type: ignore[name-defined]


@relevo.event("image.created", subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int
    taken: datetime | None = None


class Elsewhere(MemoryTransport):
    """It stands for a server that no test may reach, and claims less than memory does."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, transactional=False, order="none", urgency=False)

    def _refuse(self, *_: object, **__: object) -> Any:
        raise AssertionError("a test reached for the real transport")

    setup = send = receive = settle = extend = stats = bound_to = checkpoint = dead_letters = _refuse


class Database(Elsewhere):
    capabilities = MemoryTransport.capabilities


Make = Callable[..., App]


@pytest.fixture(name="make")
def _make() -> Make:
    """Make an application whose transports must not be touched; one called main if nothing is said."""

    def make(*listeners: object, **how: Any) -> App:
        parts = {"transports": {"main": Database()}, "routes": {"*": "main"}, **how}
        return App(listeners=listeners, source="shop", **parts)

    return make


@pytest.fixture(name="session")
def _session() -> Iterator[Any]:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        yield session
    engine.dispose()


def failing(event_name: str, error: BaseException, **how: Any) -> Callable[..., Any]:
    @listener(event_name, id=f"fails with {type(error).__name__}", **how)
    def fail(event: Event) -> None:
        raise error

    return fail


def hearing(event_name: str, heard: list[Any], **how: Any) -> Callable[..., Any]:
    @listener(event_name, **{"id": "hear", **how})
    def hear(event: Event) -> None:
        heard.append(event)

    return hear


# --- swapping -----------------------------------------------------------------------------------------


def test_every_transport_is_in_memory_meanwhile_under_its_own_name(make: Make) -> None:
    app = make(transports={"main": Database(), "other": Elsewhere()}, routes={"a.*": "main", "*": "other"})
    before = dict(app.transports)

    with app.testing() as t:
        app.dispatch(Event("a.b"))
        app.dispatch(Event("c.d"))
        meanwhile = dict(app.transports)
        assert t.app is app

    assert {name: type(each) for name, each in meanwhile.items()} == {"main": MemoryTransport, "other": MemoryTransport}
    assert [each.name for each in meanwhile.values()] == ["main", "other"]
    assert app.transports == before


def test_an_outbox_that_is_a_transport_too_is_the_same_one_meanwhile(make: Make) -> None:
    database = Database()
    app = make(transports={"main": Elsewhere(), "db": database}, outboxes={"main": database})

    with app.testing():
        assert app.outboxes == {"main": app.transports["db"]}
        assert isinstance(app.outboxes["main"], MemoryTransport)

    assert app.outboxes == {"main": database}


def test_nothing_is_left_after_an_exception(make: Make) -> None:
    clock = FakeClock(100.0)
    app = make(clock=clock)
    before = parts_of(app)

    with pytest.raises(ZeroDivisionError), app.testing() as t:  # noqa: PT012 - what happens in the block matters
        app.dispatch(Event("a.b"))
        t.travel("1h")
        raise ZeroDivisionError

    assert parts_of(app) is before
    assert clock.now() == 100.0
    with app.testing() as t:
        t.refute_dispatched()
        assert t.clock.now() == 100.0


def test_a_block_that_could_not_begin_leaves_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make(routes={"a.b": ["main"]})
    before = app.transports
    monkeypatch.setattr("relevo._config.discovery._points", lambda _: EntryPoints(()))

    with pytest.raises(ConfigurationError, match='install "relevo-memory"'), app.testing():
        pass

    assert app.transports is before


def test_blocks_can_be_nested_and_know_nothing_of_each_other(make: Make) -> None:
    app = make()

    with app.testing() as outer:
        app.dispatch(Event("a.b"))
        outer.travel("1h")
        with app.testing() as inner:
            inner.refute_dispatched()
            app.dispatch(Event("c.d"))
            assert inner.clock.now() == outer.clock.now()
            with pytest.raises(ConfigurationError, match=r"another app.testing\(\) block is active inside"):
                outer.drain()
        outer.dispatched("a.b", times=1)
        assert len(outer.dispatched()) == 1
        assert outer.drain().handled == 1


def test_a_block_is_entered_once_and_asked_for_work_only_inside(make: Make) -> None:
    heard: list[Event] = []
    t = make(hearing("a.b", heard)).testing()

    with pytest.raises(ConfigurationError, match="call this inside its with block"):
        t.drain()
    with t:
        t.app.dispatch(Event("a.b"))
        with pytest.raises(ConfigurationError, match="was entered already"), t:
            pass
    with pytest.raises(ConfigurationError, match="call this inside its with block"):
        t.drain()
    with pytest.raises(ConfigurationError, match="was entered already"), t:
        pass

    t.dispatched("a.b")
    assert heard == []


def test_two_applications_are_tested_at_once(make: Make) -> None:
    one, other = make(), make()

    with one.testing() as t, other.testing() as u:
        one.dispatch(Event("a.b"))
        t.travel("1h")
        t.dispatched("a.b")
        u.refute_dispatched()
        assert t.clock.now() - u.clock.now() > 3500


def test_the_transports_of_a_block_are_closed_with_it(make: Make) -> None:
    app = make()

    with app.testing():
        transport = app.transport()

    with pytest.raises(TransportClosedError):
        transport.stats("default")


def test_an_application_whose_tables_are_made_elsewhere_can_be_tested(make: Make) -> None:
    app = make(setup="explicit", transports={"main": Elsewhere()}, outboxes={"main": Database()})

    with app.testing() as t:
        app.dispatch(Event("a.b"))
        t.dispatched("a.b")


def test_what_is_called_at_once_must_have_a_faithful_form_in_tests(make: Make) -> None:
    heard: list[Event] = []
    app = make(hearing("a.b", heard), routes={"*": "now"})

    app.dispatch(Event("a.b", {"path": object()}))
    with app.testing():
        with pytest.raises(EncodeError, match=r"\$\.path"):
            app.dispatch(Event("a.b", {"path": object()}))
        with pytest.raises(EncodeError, match="the limit is 1,048,576"):
            app.dispatch(Event("a.b", {"text": "x" * 2**20}))

    assert len(heard) == 1


@pytest.mark.parametrize("terms", [{"urgency": "high"}, {"ordering_key": "k"}])
def test_what_the_real_transport_refuses_is_refused_in_tests(make: Make, terms: Any) -> None:
    app = make(transports={"main": Elsewhere()})

    with app.testing(), pytest.raises(ConfigurationError, match="does not support"):
        app.dispatch(Event("a.b"), **terms)


def test_a_session_that_nothing_joins_is_refused_in_tests(make: Make, session: Any) -> None:
    app = make(transports={"main": Elsewhere()})

    with app.testing(), pytest.raises(SessionError, match="give it an outbox"):
        app.dispatch(Event("a.b"), session=session)


# --- what was dispatched ------------------------------------------------------------------------------


def test_events_are_found_by_name_by_class_by_themselves_and_by_their_arguments(make: Make) -> None:
    app = make()

    with app.testing() as t:
        first = app.dispatch(ImageCreated(7))
        second = app.dispatch(Event("image.created", {"image_id": 8, "by": "me"}))
        app.dispatch(Event("feed.read"))

        assert [each.id for each in t.dispatched("image.created")] == [first.id, second.id]
        assert [each.event for each in t.dispatched(ImageCreated)] == [ImageCreated(7), ImageCreated(8)]
        assert [each.id for each in t.dispatched(ImageCreated(8))] == [second.id]
        assert [each.id for each in t.dispatched(ImageCreated, image_id=7)] == [first.id]
        assert [each.id for each in t.dispatched("image.created", image_id=8, by=ANY)] == [second.id]
        assert [each.id for each in t.dispatched(Event("image.created", {"image_id": 8, "by": "me"}))] == [second.id]
        assert len(t.dispatched()) == 3
        with pytest.raises(AssertionError):
            t.dispatched(Event("image.created", {"image_id": 8}))
        t.dispatched(Event("feed.read", id=t.dispatched("feed.read")[0].id))
        t.refute_dispatched(Event("feed.read", id=first.id))


def test_an_event_that_does_not_fit_a_class_is_none_of_it(make: Make) -> None:
    with make().testing() as t:
        t.app.dispatch(Event("image.created", {"image_id": "seven"}))

        t.dispatched("image.created")
        t.refute_dispatched(ImageCreated)
        t.refute_dispatched(ImageCreated, image_id=7)
        t.refute_dispatched(ImageCreated(7))


def test_an_event_tells_all_that_a_test_may_want_to_know(make: Make) -> None:
    app = make(routes={"*": ["main/media", "main/feed"]})

    with app.testing() as t:
        done = app.dispatch(Event("image.created", {"image_id": 7}), delay="5m")
        (found,) = t.dispatched("image.created", times=1)

    assert found.event == Event("image.created", {"image_id": 7}, id=done.id)
    assert (found.id, found.targets, found.queue) == (done.id, done.targets, "media")
    assert found.delay == pytest.approx(300.0)
    assert isinstance(found.envelope, Envelope)
    assert found.envelope.source == "shop"
    assert repr(found) == "<image.created(image_id=7) to main/media, main/feed, in 300 s>"


def test_rich_values_are_compared_in_either_form(make: Make) -> None:
    app = make()
    taken = datetime(2026, 2, 3, 4, 5, tzinfo=UTC)

    with app.testing() as t:
        app.dispatch(ImageCreated(7, taken))

        t.dispatched(ImageCreated, taken=taken)
        t.dispatched("image.created", taken=taken)
        t.dispatched("image.created", taken="2026-02-03T04:05:00Z")
        t.dispatched(ImageCreated(7, taken))
        t.refute_dispatched(ImageCreated(7))


def test_events_are_found_by_their_subject(make: Make) -> None:
    app = make(subjects=[SubjectType(type="image", cls=Image, name=lambda image: str(image.id), load=int)])

    with app.testing() as t:
        app.dispatch(ImageCreated(7))
        app.dispatch(Event("image.deleted", subject=Image(id=8)))

        t.dispatched("image.created", subject=Subject("image", "7"))
        t.dispatched("image.created", subject=Image(id=7))
        t.dispatched("image.deleted", subject=Image(id=8))
        t.dispatched(Event("image.deleted", subject=Image(id=8)))
        t.refute_dispatched(Event("image.deleted", subject=Image(id=9)))
        t.refute_dispatched("image.deleted", subject=Image(id=7))
        with pytest.raises(AssertionError, match="subject=image/9"):
            t.dispatched("image.created", subject=Subject("image", "9"))


def test_events_are_found_by_where_they_went(make: Make) -> None:
    app = make(routes={"image.*": ["main/media", "main/feed"], "a.b": "now", "*": "main"})

    with app.testing() as t:
        app.dispatch(Event("image.created"))
        app.dispatch(Event("a.b"))

        assert t.dispatched("image.created", queue="feed") == t.dispatched("image.created", target="main/media")
        t.dispatched("a.b", queue="now")
        t.dispatched("a.b", target="now")
        with pytest.raises(ConfigurationError, match=r'"image.created" is routed to .*; did you mean "feed"'):
            t.refute_dispatched("image.created", queue="feeed")
        with pytest.raises(ConfigurationError, match=r'"image.created" is routed to .*; did you mean "main/feed"'):
            t.refute_dispatched("image.created", target="main/feeed")


def test_what_is_called_at_once_counts_as_dispatched_even_if_nobody_hears_it(make: Make) -> None:
    app = make(routes={"a.b": "now", "*": ["now", "main"]})

    with app.testing() as t:
        app.dispatch(Event("a.b", {"n": 1}))
        app.dispatch(ImageCreated(7))
        at_once, both = t.dispatched()

    assert (at_once.event, at_once.queue, at_once.envelope) == (Event("a.b", {"n": 1}), "now", None)
    assert [str(each) for each in both.targets] == ["now", "main/default"]
    assert both.envelope is not None


def test_what_is_called_at_once_is_counted_one_by_one(make: Make) -> None:
    with make(routes={"*": "now"}).testing() as t:
        t.app.dispatch_many([Event("a.b"), Event("a.b")])

        assert len(t.dispatched("a.b", times=2)) == 2


def test_an_event_in_a_session_that_is_called_at_once_goes_elsewhere_when_that_commits(
    make: Make, session: Any
) -> None:
    with make(routes={"*": ["main", "now"]}).testing() as t:
        done = t.app.dispatch(Event("a.b"), session=session)
        (before,) = t.dispatched("a.b", queue="now", target="now")
        t.refute_dispatched("a.b", queue="default")
        t.refute_dispatched("a.b", target="main")
        session.commit()
        (after,) = t.dispatched("a.b", target="main")

    assert (before.targets, before.envelope) == ((Target("now"),), None)
    assert after.targets == done.targets == (Target("main"), Target("now"))
    assert after.envelope is not None


def test_what_is_remembered_does_not_change_with_what_was_dispatched(make: Make) -> None:
    app = make(routes={"*": "now"})
    tags = ["sea"]

    with app.testing() as t:
        app.dispatch(Event("a.b", {"tags": tags}))
        tags.append("sand")

        t.dispatched("a.b", tags=["sea"])


def test_events_of_a_transaction_are_dispatched_when_it_commits(make: Make, session: Any) -> None:
    app = make()

    with app.testing() as t:
        app.dispatch(Event("a.b"), session=session)
        t.refute_dispatched("a.b", target="main")
        assert t.drain().handled == 0
        session.commit()
        t.dispatched("a.b", times=1)

        app.dispatch(Event("a.b"), session=session)
        session.rollback()
        t.dispatched("a.b", times=1)

        with session.begin_nested() as savepoint:
            app.dispatch(Event("c.d"), session=session)
            savepoint.rollback()
        session.commit()
        with pytest.raises(AssertionError):
            t.dispatched("c.d")


def test_events_that_a_commit_failed_with_are_not_dispatched(make: Make, session: Any) -> None:
    app = make()
    session.add(Image(id=1, path="sea.jpg"))
    session.commit()

    with app.testing() as t:
        app.dispatch(Event("a.b"), session=session)
        session.execute(sa.insert(Image).values(id=2, path="sand.jpg"))
        sa.event.listen(session.get_bind(), "commit", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.commit()

        t.refute_dispatched()


def test_a_predicate_chooses_events(make: Make) -> None:
    app = make()

    with app.testing() as t:
        first = app.dispatch(ImageCreated(7))
        second = app.dispatch("image.created", {"image_id": 8, "tags": ["sea"]})
        app.dispatch("feed.read")

        assert [each.id for each in t.dispatched("image.created", lambda each: each["image_id"] > 7)] == [second.id]
        assert [each.id for each in t.dispatched(ImageCreated, lambda each: each.image_id < 8)] == [first.id]
        assert [each.id for each in t.dispatched(lambda each: "tags" in each)] == [second.id]
        t.dispatched("image.created", lambda each: each["image_id"] > 0, times=2)
        t.dispatched("image.created", lambda each: each["tags"], image_id=8)
        t.refute_dispatched("image.created", lambda each: each["image_id"] > 8)
        t.refute_dispatched(lambda each: each.name == "image.rated")


def test_a_predicate_that_accepts_nothing_or_fails_says_so(make: Make) -> None:
    app = make()

    with app.testing() as t:
        app.dispatch("feed.read", {"n": 1})
        with pytest.raises(AssertionError) as nothing:
            t.dispatched("feed.read", lambda each: each["n"] > 1)
        with pytest.raises(AssertionError) as found:
            t.refute_dispatched(lambda each: each["n"] == 1)
        with pytest.raises(KeyError) as failed:
            t.refute_dispatched(lambda each: each["image_id"] == 1)
        with pytest.raises(ConfigurationError, match=r"takes an event and returns whether it is meant; got {'n': 1}"):
            t.dispatched("feed.read", {"n": 1})  # type: ignore[arg-type]

    assert str(nothing.value).startswith('"feed.read" that the predicate accepts was not dispatched; these were')
    assert str(found.value).startswith("something that the predicate accepts was dispatched:\n  feed.read(n=1)")
    assert failed.value.__notes__[0].startswith("relevo: the predicate raised this for feed.read(n=1) to main/default")


def _note(error: BaseException) -> str:
    return error.__notes__[0].partition(" to main/default; ")[2]


def test_a_predicate_that_expects_an_instance_is_told_to_pass_the_class(make: Make) -> None:
    hear = listener(ImageCreated, id="typed")(lambda event: None)
    by_class = "it gets an instance of a declared class if you pass the class: t.dispatched({}, predicate)"

    with make(hear).testing() as t:
        t.app.dispatch(ImageCreated(7))
        with pytest.raises(AttributeError) as attribute:
            t.dispatched("image.created", lambda each: each.image_id == 7)
        with pytest.raises(AttributeError) as anything:
            t.dispatched(lambda each: each.image_id == 7)
        with pytest.raises(AttributeError) as misspelt:
            t.dispatched(ImageCreated, lambda each: each.imag_id == 7)
        with pytest.raises(KeyError) as key:
            t.dispatched(lambda each: each["path"] == 7)
        t.app.dispatch("feed.read")
        with pytest.raises(AttributeError) as undeclared:
            t.dispatched("feed.read", lambda each: each.path == 7)

    for error in (attribute, anything):
        assert _note(error.value).endswith(by_class.format("ImageCreated"))
    assert _note(undeclared.value).endswith(by_class.format("ImageCreated"))
    assert _note(misspelt.value) == ""
    assert _note(key.value).startswith("to ask only about some events, name them first: t.dispatched(")


def test_an_event_of_an_unknown_name_is_told_with_the_name_that_is_meant(make: Make) -> None:
    with make(hearing("order.placed", [])).testing() as t:
        t.app.dispatch("feed.read")
        for wanted in (t.dispatched, partial(t.dispatched, times=2)):
            with pytest.raises(AssertionError) as caught:
                wanted("order.plcaed")
            assert str(caught.value).endswith('\nno event "order.plcaed" is known; did you mean "order.placed"?')
        with pytest.raises(AssertionError) as known:
            t.dispatched("order.placed")

    assert "is known" not in str(known.value)


def test_a_field_that_is_like_none_is_told_with_the_fields_that_there_are(make: Make) -> None:
    with make().testing() as t, pytest.raises(ConfigurationError) as caught:
        t.dispatched(ImageCreated, path="sea.jpg")

    assert str(caught.value) == '"image.created" has no field "path"; it has: image_id, taken'


def test_what_joined_a_session_says_so(make: Make, session: Any) -> None:
    app = make(routes={"*": "main", "now.done": "now"})

    with app.testing() as t:
        app.dispatch("a.b")
        app.dispatch("a.c", session=session)
        app.dispatch("now.done", session=session)
        session.commit()
        found = {each.event.name: each.in_session for each in t.dispatched()}

    assert found == {"a.b": False, "a.c": True, "now.done": True}


def test_what_was_rolled_back_does_not_count_as_waiting(make: Make, session: Any) -> None:
    app = make()
    app.add_subject(SubjectType(type="image", cls=Image, name=lambda each: each.id and str(each.id), load=int))

    def pending() -> str:
        with pytest.raises(AssertionError) as caught:
            t.dispatched("nothing.like.it")
        return str(caught.value).partition("not committed:\n")[2]

    with app.testing() as t:
        app.dispatch("a.b", session=session)
        app.dispatch("a.c", subject=Image(path="sea.jpg"), session=session)
        assert [line.partition("(")[0] for line in pending().splitlines()] == ["  a.b", "  a.c"]
        session.rollback()
        assert pending() == ""

        app.dispatch("a.b", {"n": 2}, session=session)
        with session.begin_nested() as savepoint:
            app.dispatch("c.d", session=session)
            savepoint.rollback()
        assert pending() == "  a.b(n=2)"
        session.rollback()

        with session.get_bind().connect() as connection:
            app.dispatch("e.f", session=connection)
            assert pending() == "  e.f()"
            connection.rollback()
            assert pending() == ""


def test_times_is_exact(make: Make) -> None:
    app = make()

    with app.testing() as t:
        app.dispatch_many([Event("a.b", {"n": n}) for n in range(2)])

        assert len(t.dispatched("a.b", times=2)) == 2
        assert t.dispatched("a.b", n=3, times=0) == []
        with pytest.raises(AssertionError, match=r'"a\.b" was dispatched 2 times, not once'):
            t.dispatched("a.b", times=1)
        with pytest.raises(AssertionError, match=r'"a\.b" was dispatched 2 times, not 3 times'):
            t.dispatched("a.b", times=3)


# --- what was not -------------------------------------------------------------------------------------


def test_a_name_without_a_route_is_an_error_whichever_way_it_is_asked(make: Make) -> None:
    app = make(routes={"image.*": "main"})

    with app.testing() as t:
        for ask in (t.dispatched, t.refute_dispatched):
            with pytest.raises(RouteNotFoundError, match=r'no route for "feed\.read"'):
                ask("feed.read")
            with pytest.raises(RouteNotFoundError):
                ask(Event("feed.read"))


def test_a_name_that_only_a_pattern_matches_must_be_known_to_somebody_to_be_refuted(make: Make) -> None:
    app = make(hearing("image.created", []), routes={"image.deleted": "main", "*": "main"})

    with app.testing() as t:
        t.refute_dispatched("image.created")
        t.refute_dispatched("image.deleted")
        t.refute_dispatched(ImageCreated)
        with pytest.raises(ConfigurationError) as caught:
            t.refute_dispatched("image.craeted")
        app.dispatch(Event("feed.read", {"n": 1}))
        t.refute_dispatched("feed.read", n=2)

    assert str(caught.value) == (
        'unknown event "image.craeted": it has no listener and no route of its own, and none was dispatched; '
        'did you mean "image.created"? If another application listens to it, give it a route of its own, '
        "or refute its class"
    )


def test_a_misspelt_name_does_not_pass_as_dispatched_no_times(make: Make) -> None:
    with make(hearing("image.created", []), routes={"*": "main"}).testing() as t:
        assert t.dispatched("image.created", times=0) == []
        assert t.dispatched("image.created", size=7, times=0) == []
        with pytest.raises(ConfigurationError, match=r'unknown event "image.craeted": .* did you mean "image.created"'):
            t.dispatched("image.craeted", times=0)


def test_a_misspelt_argument_is_not_refuted(make: Make) -> None:
    app = make(hearing("order.placed", []))

    with app.testing() as t:
        t.refute_dispatched("order.placed", prise=12)
        app.dispatch("order.placed", {"price": 12, "delay": 3})

        t.refute_dispatched("order.placed", price=13)
        t.refute_dispatched("order.placed", delay=4)
        t.refute_dispatched(Event("order.placed", {"price": 12, "gift": True}))
        for ask in (t.refute_dispatched, partial(t.dispatched, times=0)):
            with pytest.raises(ConfigurationError) as caught:
                ask("order.placed", prise=12)
            assert str(caught.value) == 'no "order.placed" has "prise"; did you mean "price"?'
            with pytest.raises(
                ConfigurationError, match=r'"wrapped"; .*: lambda event: event\.arguments\.get\("wrapped"\)'
            ):
                ask("order.placed", wrapped=True)


@pytest.mark.parametrize("key", ["times", "delay", "at", "session", "urgency", "ordering_key", "expires"])
def test_what_is_no_argument_of_an_event_is_not_refuted(make: Make, key: str) -> None:
    given: dict[str, Any] = {key: 1}
    with make(hearing("mail.wanted", [])).testing() as t:
        with pytest.raises(ConfigurationError, match=f'no "mail.wanted" has "{key}"; (write|an event|read)'):
            t.refute_dispatched("mail.wanted", **given)

        t.app.dispatch("mail.wanted", {"to": "bob"}, delay="1h")
        with pytest.raises(ConfigurationError, match=f'no "mail.wanted" has "{key}"; (write|an event|read)'):
            t.refute_dispatched("mail.wanted", **given)
        if key != "times":
            with pytest.raises(AssertionError, match=f'\nno "mail.wanted" has "{key}"; (an event|read)'):
                t.dispatched("mail.wanted", **given)


@pytest.mark.parametrize("times", ["1", True, 1.0, -1])
def test_times_is_a_number(make: Make, times: Any) -> None:
    with (
        make().testing() as t,
        pytest.raises(ConfigurationError, match=r"^times: expected a whole number from 0; got "),
    ):
        t.dispatched("a.b", times=times)


def test_a_field_that_the_class_of_a_name_does_not_have_is_an_error(make: Make) -> None:
    hear = listener(ImageCreated, id="typed")(lambda event: None)
    misspelt: Any = {"imag_id": 7}

    with make(hear).testing() as t:
        t.refute_dispatched("image.created", image_id=7)
        for ask in (t.dispatched, t.refute_dispatched):
            for wanted, fields in [("image.created", misspelt), (Event("image.created", misspelt), {})]:
                with pytest.raises(ConfigurationError) as caught:
                    ask(wanted, **fields)
                assert str(caught.value) == '"image.created" has no field "imag_id"; did you mean "image_id"?'

        t.app.dispatch("image.created", {"image_id": 7, "by": "me"})
        t.refute_dispatched("image.created", by="you")
        t.dispatched("image.created", by="me")


def test_an_argument_that_a_class_does_not_have_is_an_error(make: Make) -> None:
    with make().testing() as t, pytest.raises(ConfigurationError) as caught:
        t.refute_dispatched(ImageCreated, image=7)

    assert str(caught.value) == '"image.created" has no field "image"; did you mean "image_id"?'


def test_what_is_no_event_cannot_be_asked_for(make: Make) -> None:
    with make().testing() as t:
        with pytest.raises(ConfigurationError, match="is not an event"):
            t.dispatched(int)
        with pytest.raises(ConfigurationError, match="is not an event name"):
            t.dispatched("no event")


def test_the_failure_shows_what_was_dispatched_the_nearest_first(make: Make) -> None:
    app = make(routes={"a.b": "now", "*": "main/media"})

    with app.testing() as t:
        app.dispatch(Event("feed.updated", {"user": 3}))
        app.dispatch(Event("a.b"))
        app.dispatch(Event("image.created", {"image_id": 9, "by": "you"}, subject=Subject("image", "9")))
        app.dispatch(Event("image.created", {"image_id": 7, "by": "you"}), delay=5)
        with pytest.raises(AssertionError) as caught:
            t.dispatched("image.created", image_id=7, by="me")

    assert str(caught.value) == (
        "\"image.created\" with image_id=7, by='me' was not dispatched; these were, the nearest first:\n"
        "  image.created(image_id=7, by='you') to main/media, in 5 s\n"
        "  image.created(image_id=9, by='you', subject=image/9) to main/media\n"
        "  feed.updated(user=3) to main/media\n"
        "  a.b() to now"
    )


def test_the_failure_names_the_types_of_values_that_look_the_same(make: Make) -> None:
    taken = datetime(2026, 2, 3, 4, 5, tzinfo=UTC)

    with make().testing() as t:
        t.app.dispatch(ImageCreated(7, taken))
        with pytest.raises(AssertionError) as caught:
            t.dispatched(ImageCreated, image_id=8, taken="2026-02-03T04:05:00Z")

    assert str(caught.value).splitlines()[2:] == ["taken: the values look the same; expected datetime; got str"]


def test_the_failure_names_the_nearest_argument_if_no_event_has_the_one_that_was_asked_for(make: Make) -> None:
    with make().testing() as t:
        t.app.dispatch("order.placed", {"order_id": 7, "by": "me"})
        with pytest.raises(AssertionError) as caught:
            t.dispatched("order.placed", ordr_id=7, by="you")

    assert str(caught.value).splitlines()[2:] == ['no "order.placed" has "ordr_id"; did you mean "order_id"?']


def test_the_failure_tells_of_events_that_wait_for_a_commit(make: Make, session: Any) -> None:
    app = make()

    with app.testing() as t:
        app.dispatch(Event("a.b", {"n": 1}), session=session)
        with pytest.raises(AssertionError) as caught:
            t.dispatched("a.b")
        session.commit()
        with pytest.raises(AssertionError) as later:
            t.dispatched("a.b", n=2)

    assert str(caught.value) == (
        '"a.b" was not dispatched; no event was.\nInside a session that has not committed:\n  a.b(n=1)'
    )
    assert str(later.value) == (
        '"a.b" with n=2 was not dispatched; these were, the nearest first:\n  a.b(n=1) to main/default'
    )


def test_the_failure_tells_of_events_whose_session_ended_without_a_commit(make: Make, session: Any) -> None:
    app = make()
    engine = session.get_bind()

    with app.testing() as t:
        with orm.Session(engine) as forgotten:
            app.dispatch(Event("a.b", {"n": 1}), session=forgotten)
        app.dispatch(Event("a.b", {"n": 2}), session=session)
        app.dispatch("c.d", session=session)
        session.rollback()
        t.refute_dispatched("a.b")
        with pytest.raises(AssertionError) as caught:
            t.dispatched("a.b")

    assert str(caught.value) == (
        '"a.b" was not dispatched; no event was.\nInside a session that ended without a commit:\n  a.b(n=1)\n  a.b(n=2)'
    )


def test_a_long_list_is_cut(make: Make) -> None:
    app = make()

    with app.testing() as t:
        app.dispatch_many([Event("a.b", {"n": n, "text": "x" * 500}) for n in range(30)])
        with pytest.raises(AssertionError) as caught:
            t.dispatched("a.b", n=30)

    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert max(map(len, lines)) < 200
    assert lines[-1] == "  and 20 more"


def test_refuting_shows_what_was_dispatched_after_all(make: Make) -> None:
    app = make()

    with app.testing() as t:
        app.dispatch(Event("a.b", {"n": 1}))
        app.dispatch(Event("a.b", {"n": 2}))
        with pytest.raises(AssertionError) as one:
            t.refute_dispatched("a.b", n=1)
        with pytest.raises(AssertionError) as anything:
            t.refute_dispatched()

    assert str(one.value) == '"a.b" with n=1 was dispatched:\n  a.b(n=1) to main/default'
    assert str(anything.value) == "something was dispatched:\n  a.b(n=1) to main/default\n  a.b(n=2) to main/default"


# --- draining -----------------------------------------------------------------------------------------


def test_draining_handles_what_is_ready_on_every_transport_and_what_comes_of_it(make: Make) -> None:
    heard: list[Event] = []
    app = make(
        transports={"main": Database(), "other": Elsewhere()},
        outboxes={"other": Database()},
        routes={"a.*": "main", "*": "other"},
    )

    @listener("a.first")
    def first(event: Event) -> None:
        app.dispatch(Event("b.second"))

    @listener("b.second")
    def second(event: Event) -> None:
        app.dispatch(Event("a.third"))

    app.listen(first, second, hearing("a.third", heard))
    with app.testing() as t:
        app.dispatch(Event("a.first"))
        report = t.drain()

    assert [event.name for event in heard] == ["a.third"]
    assert (report.handled, report.done, report.dead, report.stopped_by) == (3, 3, 0, "empty")


def test_draining_relays_what_an_outbox_holds(make: Make, session: Any) -> None:
    heard: list[Event] = []
    app = make(
        hearing("a.b", heard),
        transports={"main": Elsewhere()},
        outboxes={"main": Database()},
        routes={"*": ["main/media", "main/feed"]},
    )

    with app.testing() as t:
        done = app.dispatch(Event("a.b"), session=session)
        session.commit()
        (before,) = t.dispatched("a.b")
        report = t.drain()
        (after,) = t.dispatched("a.b")

    assert [event.id for event in heard] == [done.id]
    assert before == after
    assert before.targets == done.targets
    assert (report.handled, report.done, report.retried) == (2, 1, 1)  # nobody listens in the feed


@pytest.mark.parametrize("twice", [False, True])
def test_a_report_counts_each_delivery_once_wherever_it_came_from(make: Make, session: Any, *, twice: bool) -> None:
    app = make(
        hearing("a.done", []),
        failing("a.retried", ValueError("no"), retry=relevo.Retry(2)),
        failing("a.dead", relevo.GiveUp("never")),
        transports={"main": Elsewhere(), "local": Database()},
        outboxes={"main": Database()},
        routes={"b.*": "local", "*": "main"},
    )
    app.listen(hearing("b.done", []))

    with app.testing() as t:
        for name in ("a.done", "a.retried", "a.dead", "b.done"):
            app.dispatch(Event(name), session=session)
        app.dispatch(Event("a.done"), session=session, expires="1s")
        session.commit()
        t.travel("2s")
        report = t.drain(raises=False, twice=twice)

    assert (report.done, report.retried, report.dead) == (2, 1, 2)
    assert report.handled == 5
    assert report.reasons == {"gave-up": 1, "expired": 1}


def test_draining_neither_moves_the_clock_nor_handles_what_is_not_due(make: Make) -> None:
    heard: list[Event] = []
    app = make(hearing("a.b", heard))

    with app.testing() as t:
        began = t.clock.now()
        app.dispatch(Event("a.b", {"n": 1}), delay="1h", ordering_key="k")
        app.dispatch(Event("a.b", {"n": 2}), ordering_key="k")
        t.drain()
        assert (heard, t.clock.now()) == ([], began)
        t.travel("59m")
        t.drain()
        assert heard == []
        t.travel(timedelta(minutes=1))
        assert heard == []
        t.drain()

    assert [event["n"] for event in heard] == [1, 2]


def test_the_first_error_of_a_listener_is_raised_as_it_is_after_all_else_was_handled(make: Make) -> None:
    heard: list[Event] = []
    error, other = ValueError("no photograph"), KeyError("path")
    app = make(failing("a.b", error), failing("a.c", other), hearing("a.d", heard))

    with app.testing() as t:
        app.dispatch_many([Event("a.b"), Event("a.c"), Event("a.d")])
        with pytest.raises(ValueError, match="no photograph") as caught:
            t.drain()

    assert caught.value is error
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-2:] == ["drain", "fail"]
    assert error.__notes__ == ["relevo: one more failed while draining: fails with KeyError: KeyError: 'path'"]
    assert len(heard) == 1


def test_a_listener_that_failed_is_retried_as_usual_and_without_chance(make: Make) -> None:
    error = ValueError("no")
    app = make(failing("a.b", error, retry=relevo.Retry(2, first="10s", jitter=1)))

    with app.testing() as t:
        app.dispatch(Event("a.b"))
        assert t.drain(raises=False).retried == 1
        t.travel("9s")
        assert t.drain().handled == 0
        t.travel("1s")
        assert t.drain(raises=False).dead == 1
        (dead,) = t.dead

    assert dead.reason == "retries-exhausted"
    assert "ValueError: no" in dead.error


def test_an_error_at_a_dispatch_to_now_reaches_the_dispatch_and_not_the_drain(make: Make) -> None:
    app = make(failing("a.b", ValueError("no")), routes={"*": "now"})

    with app.testing() as t:
        with pytest.raises(ValueError, match="no"):
            app.dispatch(Event("a.b"))
        assert t.drain().handled == 0
        (found,) = t.dispatched("a.b")

    assert found.failed
    assert repr(found) == "<a.b() to now, failed>"


def test_an_event_in_process_counts_although_its_session_is_rolled_back(make: Make, session: Any) -> None:
    heard: list[Any] = []
    app = make(hearing("a.b", heard), routes={"*": "now"})

    with app.testing() as t:
        app.dispatch("a.b", session=session)
        session.rollback()
        (found,) = t.dispatched("a.b")

    assert len(heard) == 1
    assert not found.failed


@pytest.mark.parametrize("route", ["now", "main", ["now", "main"]])
def test_a_dispatched_event_has_its_context(make: Make, route: Any) -> None:
    app = make(hearing("a.b", []), routes={"*": route})

    with app.testing() as t:
        with relevo.context(user=7, n=1):
            app.dispatch("a.b", {"n": 2})
        app.dispatch("a.b", {"n": 3})
        found = t.dispatched("a.b")

    assert [each.context for each in found] == [{"user": 7}, {}]


def test_a_revived_event_is_handled_again(make: Make) -> None:
    heard: list[Any] = []
    error: list[Exception] = [GiveUp("not yet")]

    @listener("a.b", id="mended")
    def mended(event: Event) -> None:
        if error:
            raise error[0]
        heard.append(event["n"])

    with make(mended, hearing("a.b", heard)).testing() as t:
        t.app.dispatch_many([Event("a.b", {"n": n}) for n in range(2)])
        t.drain(raises=False)
        assert len(heard) == 2
        error.clear()
        heard.clear()
        first, second = t.dead

        t.revive(first)
        t.drain()
        assert (heard, t.dead) == ([0], [second])
        with pytest.raises(ConfigurationError, match=r"revive: <a\.b\(n=0\) in .*> was revived or discarded before"):
            t.revive(first)
        t.revive()
        t.drain()
        assert (heard, t.dead) == ([0, 1], [])


def test_asking_to_be_called_later_is_no_error_and_giving_up_is_one(make: Make) -> None:
    app = make(failing("a.b", RetryLater("1m")), failing("a.c", GiveUp("never")))

    with app.testing() as t:
        app.dispatch(Event("a.b"))
        assert t.drain().retried == 1
        app.dispatch(Event("a.c"))
        with pytest.raises(GiveUp, match="never"):
            t.drain()
        assert [each.reason for each in t.dead] == ["gave-up"]


@pytest.mark.parametrize("missing, raised", [("fail", relevo.SubjectMissingError), ("skip", None), ("tombstone", None)])
def test_a_missing_subject_is_an_error_of_who_cannot_do_without(
    make: Make, missing: Any, raised: type[BaseException] | None
) -> None:
    heard: list[Any] = []

    @listener("image.created", missing=missing)
    def look(event: Event, call: Call) -> None:
        heard.append(call.subject)

    kind = SubjectType(type="image", cls=Image, name=lambda image: str(image.id), load=lambda _: None)
    with make(look, subjects=[kind]).testing() as t:
        t.app.dispatch(Event("image.created", subject=Subject("image", "7")))
        if raised:
            with pytest.raises(raised):
                t.drain()
        else:
            t.drain()
            t.travel("2m")
            assert t.drain().done == 1

    assert [str(each) for each in heard] == (["image/7"] if missing == "tombstone" else [])


def dispatch_elsewhere(app: App, arguments: dict[str, object]) -> None:
    """Dispatch the event as a program does that does not know its class."""
    DeferredDispatcher(app.transport("main"), clock=app.clock).dispatch("image.created", arguments)


def test_an_event_that_dies_without_an_error_of_a_listener_fails_the_drain(make: Make) -> None:
    hear = listener(ImageCreated, id="typed")(lambda event: None)

    with make(hear).testing() as t:
        dispatch_elsewhere(t.app, {"image_id": "seven"})
        t.app.dispatch(Event("image.created", {"image_id": 1}), expires="1s")
        t.travel("2s")
        with pytest.raises(AssertionError) as caught:
            t.drain()
        assert t.drain().handled == 0
        dispatch_elsewhere(t.app, {"image_id": "eight"})
        with pytest.raises(AssertionError) as later:
            t.drain()

    assert "seven" not in str(later.value)
    assert "1 event is dead" in str(later.value)
    first, malformed, expired = str(caught.value).splitlines()
    assert first == "no listener raised, but 2 events are dead:"
    assert malformed == (
        "  image.created(image_id='seven') in main/default: malformed: typed: the data of 'image.created' does not fit "
        "ImageCreated: Expected `int`, got `str` - at `$.image_id`"
    )
    assert expired.startswith("  image.created(image_id=1) in main/default: expired: expired 1.000 s before")


def test_a_dead_letter_with_a_long_event_and_a_long_id_of_its_listener_shows_the_cause(make: Make) -> None:
    hear = listener(ImageCreated, id="shop.listeners.of.photographs:create_all_thumbnails" * 2)(lambda event: None)

    with make(hear).testing() as t:
        dispatch_elsewhere(t.app, {"text": "x" * 500, "more": "x" * 500, "image_id": "seven"})
        with pytest.raises(AssertionError, match=r"Expected `int`, got `str` - at `\$\.image_id`$"):
            t.drain()


def test_dead_letters_of_outboxes_are_listed_too(make: Make, session: Any) -> None:
    app = make(hearing("a.b", []), transports={"main": Elsewhere()}, outboxes={"main": Database()})

    with app.testing() as t:
        app.dispatch(Event("a.b"), session=session, expires="1s")
        session.commit()
        t.travel("2s")
        report = t.drain(raises=False)
        (dead,) = t.dead
        t.revive(dead)
        assert t.dead == []

    assert (report.dead, report.reasons) == (1, {"expired": 1})
    assert (dead.transport, dead.queue, dead.reason) == ("main", "outbox/main", "expired")
    assert dead.event == Event("a.b", id=dead.id)
    assert repr(dead).startswith("<a.b() in main/outbox/main: expired: ")


def test_bytes_that_are_no_event_die_and_are_shown(make: Make) -> None:
    with make().testing() as t:
        sent = Envelope(id="1", source="shop", name="a b", body=b"\xff")
        t.app.transport().send([sent])
        t.drain(raises=False)
        (dead,), (seen,) = t.dead, t.dispatched()

    assert (dead.reason, seen.envelope) == ("malformed", sent)
    assert repr(seen) == "<a b() to main/default>"


def test_two_listeners_that_dispatch_to_each_other_end_the_drain(make: Make) -> None:
    app = make()

    @listener("a.b")
    def again(event: Event) -> None:
        app.dispatch(Event("a.b"))

    app.listen(again)
    with app.testing() as t:
        app.dispatch(Event("a.b"))
        with pytest.raises(AssertionError, match=r"more than 50 events were handled; does a listener dispatch"):
            t.drain(raises=False, limit=50)


def test_a_listener_without_a_route_for_its_queue_is_told_as_at_the_start_of_a_worker(make: Make) -> None:
    hear = hearing("a.b", [], queue="meida")

    with make(hear).testing() as t, pytest.raises(ConfigurationError) as caught:
        t.drain()

    place = f"{__file__}:{hear.__code__.co_firstlineno}"
    assert f'hear ({place}): it runs in the queue "meida"' in str(caught.value)


def test_a_queue_without_a_listener_is_told_once_in_a_drain(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    app = make(
        hearing("a.b", []),
        transports={"main": Elsewhere()},
        outboxes={"main": Database()},
        routes={"*": ["main/media", "main/feed"]},
    )

    with app.testing() as t:
        app.dispatch(Event("a.b"))
        t.drain()

    assert len([line for line in caplog.messages if "no listener here runs there" in line]) == 1


def test_an_event_without_a_listener_fails_the_drain_and_names_the_nearest(make: Make) -> None:
    @listener("order.placed")
    def bill(event: Event) -> None: ...

    with make(bill).testing() as t:
        t.app.dispatch(Event("order.placd"))
        with pytest.raises(AssertionError) as caught:
            t.drain()
        t.app.dispatch(Event("order.placd"))
        report = t.drain(raises=False)

    first, event, remedy = str(caught.value).splitlines()
    assert first == "events without a listener would be retried, then dead-lettered:"
    assert event == (
        '  no listener here for "order.placd" in main/default; '
        f'did you mean "order.placed" ({__file__}:{bill.__code__.co_firstlineno})?'
    )
    assert "pass t.drain(raises=False)" in remedy
    assert report.retry_reasons == {"unknown-event": 1}


def test_an_event_for_another_program_does_not_fail_the_drain(make: Make) -> None:
    routes = {"invoice.sent": "main/billing", "*": "main"}

    with make(hearing("order.placed", []), routes=routes).testing() as t:
        t.app.dispatch(Event("invoice.sent"))

        assert t.drain().retried == 1


def test_a_hook_that_objects_stops_the_drain_and_the_report_says_so(make: Make) -> None:
    class Deploying:
        @relevo.hookimpl
        def relevo_may_run(self) -> str:
            return "deploy"

    with make(hearing("a.b", []), plugins=[Deploying()]).testing() as t:
        t.app.dispatch(Event("a.b"))
        assert t.drain().stopped_by == "objection"


def test_a_worker_is_shown_with_its_transport_and_its_queues(make: Make) -> None:
    with make(routes={"*": ["main/media", "main/feed"]}).testing() as t:
        assert repr(t.app.worker()) == "<Worker of main: media, feed>"


def test_no_thread_is_left_over(make: Make) -> None:
    before = set(threading.enumerate())  # other tests may have left some behind

    with make(hearing("a.b", [])).testing() as t:
        t.app.dispatch(Event("a.b"))
        t.drain()

    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("wrong", ["x", 7, ["x"]])
def test_only_a_dead_letter_is_revived(make: Make, wrong: Any) -> None:
    with make().testing() as t, pytest.raises(ConfigurationError, match=r"^revive: expected some of t\.dead; got "):
        t.revive(wrong)


def test_a_list_of_dead_letters_is_revived_with_a_star(make: Make) -> None:
    given: Any = []

    with make().testing() as t, pytest.raises(ConfigurationError, match=r"got \[\]; pass a list as t\.revive\(\*…\)"):
        t.revive(given)


# --- twice --------------------------------------------------------------------------------------------


def test_draining_twice_runs_every_listener_of_a_delivery_again_after_a_loss(make: Make) -> None:
    calls: list[tuple[str, int, str]] = []

    @listener("a.b", id="one", priority=1)
    def one(event: Event, call: Call) -> None:
        calls.append((call.listener_id, call.lost_leases, call.event_id))

    @listener("a.b", id="two")
    def two(event: Event, call: Call) -> None:
        one(event, call)

    with make(one, two).testing() as t:
        done = t.app.dispatch(Event("a.b"))
        report = t.drain(twice=True)

    assert calls == [(who, lost_leases, done.id) for lost_leases in (0, 1) for who in ("one", "two")]
    assert (report.done, report.dead) == (1, 0)


def test_a_listener_that_is_not_idempotent_is_found_out(make: Make) -> None:
    created: set[str] = set()

    @listener("image.created")
    def create(event: Event) -> None:
        if event["path"] in created:
            raise FileExistsError(event["path"])
        created.add(event["path"])

    with make(create).testing() as t:
        t.app.dispatch(Event("image.created", {"path": "sea.jpg"}))
        with pytest.raises(FileExistsError, match=r"sea\.jpg"):
            t.drain(twice=True)


def test_retries_are_handled_twice_too_and_do_not_end_as_a_crash_loop(make: Make) -> None:
    calls: list[int] = []

    @listener("a.b", retry=relevo.Retry(6, first=1, factor=1))
    def fail(event: Event, call: Call) -> None:
        calls.append(call.attempt)
        if call.attempt < 6:
            raise ValueError

    with make(fail).testing() as t:
        t.app.dispatch(Event("a.b"))
        for _ in range(6):
            t.drain(twice=True, raises=False)
            t.travel("1s")
        assert t.dead == []

    assert calls == [attempt for attempt in range(1, 7) for _ in range(2)]


def test_what_a_listener_dispatches_twice_with_one_id_is_one_event(make: Make) -> None:
    heard: list[Event] = []

    @listener("a.b")
    def pass_on(event: Event, call: Call) -> None:
        call.dispatch(Event("c.d"))

    with make(pass_on, hearing("c.d", heard)).testing() as t:
        t.app.dispatch(Event("a.b"))
        t.drain(twice=True)
        t.dispatched("c.d", times=1)

    assert len({event.id for event in heard}) == 1


def test_signed_events_are_tested_like_others(make: Make, session: Any) -> None:
    heard: list[Event] = []
    app = make(
        hearing("a.b", heard),
        transports={"main": Elsewhere()},
        outboxes={"main": Database()},
        signing=Signing("Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd"),
    )

    with app.testing() as t:
        app.dispatch(Event("a.b"), session=session)
        session.commit()
        t.drain(twice=True)
        t.dispatched("a.b", times=1)

    assert len(heard) == 2


# --- travelling ---------------------------------------------------------------------------------------


def test_the_clock_starts_where_the_applications_is_and_moves_only_when_told(make: Make) -> None:
    app = make(clock=FakeClock(1_000_000.0))

    with app.testing() as t:
        assert t.clock.now() == app.clock.now() == 1_000_000.0
        t.travel("1h")
        t.travel(to=datetime(2030, 1, 1, tzinfo=UTC))
        assert app.clock.now() == datetime(2030, 1, 1, tzinfo=UTC).timestamp()
        t.travel(to=2_000_000_000)
        assert app.clock.now() == 2_000_000_000.0


def test_a_block_can_begin_at_any_moment(make: Make) -> None:
    with make().testing(now=datetime(2020, 2, 29, tzinfo=UTC)) as t:
        t.app.dispatch(Event("a.b"), at=datetime(2020, 3, 1, tzinfo=UTC))
        (found,) = t.dispatched("a.b")

    assert found.delay == 86400.0


MICROSECOND = timedelta(microseconds=1)

starts = st.floats(1e9, 2.1e9) | st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is the other argument
steps = st.lists((st.integers(1, 10_000_000) | st.integers(1, 10_000).map(lambda ms: ms * 1000)), min_size=1)


@pytest.mark.lengthy("tries many cases")
@settings(deadline=None, max_examples=100)  # the first block imports what the others have
@given(start=starts, before=steps, split=steps)
@example(start=datetime(2026, 1, 1, tzinfo=UTC), before=[], split=[100_000] * 10)
@example(start=1_767_000_000.123456789, before=[], split=[86_400_000_000])
@example(start=datetime(2026, 1, 1, tzinfo=UTC), before=[100_000], split=[100_000, 100_000])
def test_any_steps_reach_the_end_of_a_delay_of_an_expiry_and_of_a_retry_and_not_earlier(
    start: Any, before: list[int], split: list[int]
) -> None:
    wait = timedelta(microseconds=sum(split))
    retried = relevo.Retry(2, first=wait, factor=1, cap=wait)
    app = App(
        listeners=[hearing("a.b", []), failing("a.failed", ValueError(), retry=retried)],
        transports={"main": Database()},
        routes={"*": "main"},
    )

    with app.testing(now=start) as t:
        for step in before:
            t.travel(timedelta(microseconds=step))
        app.dispatch(Event("a.b"), delay=wait)
        app.dispatch(Event("a.b"), at=datetime.fromtimestamp(t.clock.now(), UTC) + wait)
        app.dispatch(Event("a.b"), delay=wait, expires=wait)
        app.dispatch(Event("a.failed"))
        assert t.drain(raises=False).reasons == {}
        for step in [*split[:-1], split[-1] - 1]:
            t.travel(step * MICROSECOND)
            early = t.drain(raises=False)
            assert (early.done, early.dead) == (0, 0)
        t.travel(MICROSECOND)
        report = t.drain(raises=False)

    assert (report.done, report.reasons) == (2, {"expired": 1, "retries-exhausted": 1})


@pytest.mark.parametrize(
    "how, why",
    [
        ({}, r"travel: pass a duration, as in t\.travel\("),
        ({"to": 5, "by": 5}, r"travel: pass a duration, as in t\.travel\("),
        ({"by": -1}, "expected 0 s or more; got -1"),
        ({"by": datetime(2026, 1, 1, tzinfo=UTC)}, r"travel: expected a duration; got .*; write t\.travel\(to=…\)"),
        ({"to": datetime(2026, 1, 1)}, "a datetime with a zone"),  # noqa: DTZ001 - that is what is refused
        ({"to": datetime(2019, 1, 1, tzinfo=UTC)}, "the clock cannot go back; start earlier: app.testing"),
    ],
)
def test_a_journey_that_is_none_is_refused(make: Make, how: Any, why: str) -> None:
    by = [how.pop("by")] if "by" in how else []

    with make(clock=FakeClock()).testing() as t, pytest.raises(ConfigurationError, match=why):
        t.travel(*by, **how)


# --- the application of a project ---------------------------------------------------------------------

PROJECT = """
import relevo

app = relevo.App.from_config()
number = 7
"""


@pytest.fixture(name="project")
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the folder of a project; what is imported from there is forgotten afterwards."""
    (tmp_path / "tested_shop.py").write_text(PROJECT)
    (tmp_path / "relevo.toml").write_text('app = "tested_shop:app"\n[transports]\nmain = "memory://"\n')
    monkeypatch.chdir("/")
    monkeypatch.delenv("RELEVO_CONFIG", raising=False)
    yield tmp_path
    sys.modules.pop("tested_shop", None)


def test_the_application_of_a_project_is_found_and_imported_and_leaves_no_trace(project: Path) -> None:
    environ, path = os.environ.copy(), list(sys.path)
    (project / "deep").mkdir()

    with project_app(project / "deep", environ=os.environ) as app:
        assert app is sys.modules["tested_shop"].app
        config = parts_of(app).config
        assert config is not None
        assert config.path == project / "relevo.toml"
        assert os.environ.copy() == environ
        assert sys.path == [str(project), *path]

    assert (os.environ.copy(), sys.path) == (environ, path)


def test_the_environment_says_where_the_configuration_is_before_during_and_after(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELEVO_CONFIG", str(project / "relevo.toml"))

    with project_app(tmp_path_factory.mktemp("elsewhere"), environ=os.environ) as app:
        assert app is sys.modules["tested_shop"].app

    assert os.environ["RELEVO_CONFIG"] == str(project / "relevo.toml")


def test_an_application_that_is_named_needs_no_configuration(project: Path) -> None:
    (project / "relevo.toml").unlink()
    (project / "tested_shop.py").write_text('import relevo\napp = relevo.App(transports={}, routes={"*": "now"})\n')

    with project_app(project, environ={}, name="tested_shop:app") as app:
        assert app is sys.modules["tested_shop"].app


@pytest.mark.parametrize(
    "name, why",
    [
        ("tested_shop", r'app: expected "module:name", as in "tested_shop:app"; got \'tested_shop\''),
        (":app", 'app: expected "module:name"'),
        ("tested_shop:number", 'app: "tested_shop:number": expected a relevo.App; got int'),
        ("tested_shop:ap", 'app: "tested_shop" has no "ap"; did you mean "app"'),
    ],
)
def test_a_name_that_leads_to_no_application_is_told(project: Path, name: str, why: str) -> None:
    environ: dict[str, str] = {}
    path = list(sys.path)
    (project / "tested_shop.py").write_text("app = None\nnumber = 7\n")

    with pytest.raises(ConfigurationError, match=why), project_app(project, environ=environ, name=name):
        pass

    assert (environ, sys.path) == ({}, path)


def test_a_project_that_names_no_application_is_told_where_it_could(project: Path) -> None:
    (project / "relevo.toml").write_text('[transports]\nmain = "memory://"\n')
    with pytest.raises(ConfigurationError, match=r'relevo\.toml names no application; add app = "module:name"'):
        project_app(project, environ={}).__enter__()

    (project / "relevo.toml").unlink()
    with pytest.raises(ConfigurationError, match=r"there is no relevo\.toml in .* or above"):
        project_app(project, environ={}).__enter__()


# --- the same upload on every transport ---------------------------------------------------------------

CARRIERS = {
    "memory": 'main = "memory://"',
    "sql": 'main = "sqlite:///shop.db"',
    "amqp": 'main = { url = "amqp://me:pw@no.such.host", outbox = "sqlite:///shop.db" }',
}


def upload(app: App, session: Any, path: str) -> None:
    image = Image(path=path)
    session.add(image)
    app.dispatch(Event("image.created", {"path": path}, subject=image), session=session)
    session.commit()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_upload_in_a_session_is_tested_alike_whichever_transport_it_is_configured_for(
    carrier: str, session: Any, tmp_path: Path
) -> None:
    for needed in ("relevo_sql", "relevo_amqp"):
        pytest.importorskip(needed)
    (tmp_path / "relevo.toml").write_text(f'[transports]\n{CARRIERS[carrier]}\n[routes]\n"*" = "main/media"\n')
    thumbnails: list[tuple[str, str]] = []

    @listener("image.created")
    def create_thumbnail(event: Event, call: Call) -> None:
        thumbnails.append((event["path"], call.subject.path))

    with App.from_config(tmp_path / "relevo.toml", environ={}) as app:
        app.listen(create_thumbnail)
        app.add_subject(
            SubjectType(
                type="image",
                cls=Image,
                name=lambda image: None if image.id is None else str(image.id),
                load=lambda name: session.get(Image, int(name)),
            )
        )
        with app.testing() as t:
            upload(app, session, "sea.jpg")
            t.dispatched("image.created", path="sea.jpg", subject=session.get(Image, 1), queue="media", times=1)
            t.drain(twice=True)

    assert thumbnails == [("sea.jpg", "sea.jpg")] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["relevo.toml"]
