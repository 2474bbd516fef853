"""Dispatching inside a database session: the rows and the event together, whichever transport carries it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

import relevo
from relevo import (
    App,
    BoundSender,
    Call,
    DeferredDispatcher,
    Delivery,
    Envelope,
    Event,
    RunOptions,
    Subject,
    SubjectType,
    Transport,
    listener,
)
from relevo._event.codec import decoded
from relevo._runner.loop import LoopRunner
from relevo.backend import SessionSetup
from relevo.errors import ConfigurationError, EncodeError, SendError, SessionError, SubjectError
from relevo_memory import ManualRunner, MemoryTransport

sa = pytest.importorskip("sqlalchemy")
orm = pytest.importorskip("sqlalchemy.orm")


class Base(orm.DeclarativeBase):  # type: ignore[misc, name-defined]
    pass


class Image(Base):
    __tablename__ = "image"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)  # type: ignore[name-defined]
    name: orm.Mapped[str]  # type: ignore[name-defined]


@relevo.event("image.created", subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Iterator[Any]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="app", params=["memory", "sqlite", "outbox"])
def _app(request: pytest.FixtureRequest, engine: Any) -> Iterator[App]:
    """Make the same shop on memory, on the SQLite file of its images, and on memory behind an outbox in that file."""
    app = App(**_carriers(request.param, engine), source="shop", subjects=[_image_type(engine)])
    with app:
        app.setup()
        yield app


def _carriers(name: str, engine: Any) -> dict[str, Any]:
    routes = {"*": ["main/media", "main/feed"]}
    if name == "memory":
        return {"transports": {"main": MemoryTransport()}, "routes": routes}
    sql = pytest.importorskip("relevo_sql").SqlTransport(engine)
    if name == "sqlite":
        return {"transports": {"main": sql}, "routes": routes}
    return {"transports": {"main": MemoryTransport()}, "routes": routes, "outboxes": {"main": sql}}


def _image_type(engine: Any) -> SubjectType:
    def load(name: str) -> Image | None:
        with orm.Session(engine) as session:
            found: Image | None = session.get(Image, int(name))
            return found

    return SubjectType(
        type="image", cls=Image, name=lambda image: None if image.id is None else str(image.id), load=load
    )


def received(app: App) -> list[Envelope]:
    """Return what is there to be handled, after what an outbox holds was moved."""
    relay = app.relay("main", RunOptions(until_empty=True))
    if relay is not None:
        relay.run()
    deliveries: list[Delivery] = [*app.transport("main").receive(["media", "feed"], limit=10, lease=60.0, wait=0.0)]
    return [each.envelope for each in deliveries if isinstance(each.envelope, Envelope)]


def subject_in(envelope: Envelope) -> str:
    return str(decoded(envelope.body).subject)


def test_a_pending_object_can_be_the_subject_and_has_its_id_at_the_commit(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        image = Image(name="cat")
        session.add(image)
        done = app.dispatch(Event("image.created", {"a": 1}, subject=image), session=session)
        before = received(app)
        session.commit()
        image_id = image.id

    envelopes = received(app)
    assert before == []
    assert [envelope.id for envelope in envelopes] == [done.id, done.id]
    assert {envelope.queue for envelope in envelopes} == {"media", "feed"}
    assert {subject_in(envelope) for envelope in envelopes} == {f"image/{image_id}"}
    assert len({envelope.body for envelope in envelopes}) == 1


def test_an_object_that_is_added_after_the_dispatch_is_named_too(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        image = Image(name="cat")
        app.dispatch(Event("image.created", subject=image), session=session)
        session.add(image)
        session.commit()
        image_id = image.id

    assert {subject_in(envelope) for envelope in received(app)} == {f"image/{image_id}"}


def test_a_rollback_takes_the_event_along(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        image = Image(name="cat")
        session.add(image)
        app.dispatch(Event("image.created", subject=image), session=session)
        session.flush()
        session.rollback()
        session.commit()

    assert received(app) == []


def test_a_dispatcher_bound_to_a_session_is_part_of_its_transaction(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        session.add(Image(name="sea"))
        app.bound_to(session).dispatch(Event("image.lost"))
        session.rollback()
        image = Image(name="sea")
        session.add(image)
        asyncio.run(app.bound_to(session).adispatch(Event("image.created", subject=image)))
        app.bound_to(session).dispatch(Event("image.rated"), session=session)
        assert received(app) == []
        session.commit()

    assert {envelope.name for envelope in received(app)} == {"image.created", "image.rated"}


def test_a_savepoint_takes_only_its_own_along(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        app.dispatch(Event("first.kept"), session=session)
        savepoint = session.begin_nested()
        app.dispatch(Event("second.dropped"), session=session)
        savepoint.rollback()
        app.dispatch(Event("third.kept"), session=session)
        session.commit()

    assert sorted({envelope.name for envelope in received(app)}) == ["first.kept", "third.kept"]


@pytest.mark.parametrize("carrier", ["memory", "sqlite", "outbox"])
def test_if_a_listener_that_hears_it_now_raises_nothing_is_enlisted(carrier: str, engine: Any) -> None:
    @listener("image.created")
    def look(event: Event, call: Call) -> None:
        call.dispatch(Event("follow.up"))
        if event["path"] == "broken.jpg":
            raise ValueError("not this one")

    how = {**_carriers(carrier, engine), "routes": {"*": ["now", "main/media"]}}
    with App(**how, source="shop", listeners=[look]) as app, orm.Session(engine) as session:
        app.setup()
        with pytest.raises(ValueError, match="not this one"):
            app.dispatch(Event("image.created", {"path": "broken.jpg"}), session=session)
        app.dispatch(Event("image.created", {"path": "sea.jpg"}), session=session)
        session.commit()

        assert [each.name for each in received(app)] == ["image.created", "follow.up"]


@pytest.mark.parametrize("carrier", ["memory", "sqlite", "outbox"])
def test_where_a_session_cannot_be_joined_nobody_is_called_that_hears_it_now(carrier: str, engine: Any) -> None:
    heard: list[Event] = []

    @listener("image.created")
    def look(event: Event) -> None:
        heard.append(event)

    with App(**{**_carriers(carrier, engine), "routes": {"*": ["now", "main/media"]}}, listeners=[look]) as app:
        app.setup()
        for session in (object(), orm.Session(engine, autobegin=False)):
            with pytest.raises(SessionError):
                app.dispatch(Event("image.created"), session=session)

    assert heard == []


@pytest.mark.parametrize("hook", ["after_commit", "after_rollback"])
@pytest.mark.parametrize("joined_before", [True, False])
def test_a_session_whose_transaction_is_over_is_refused_and_says_what_to_do(
    *, joined_before: bool, hook: str, app: App, engine: Any
) -> None:
    errors: list[SessionError] = []

    def too_late(session: Any) -> None:
        with pytest.raises(SessionError, match=r"transaction is over.* in before_commit, without session=") as caught:
            app.dispatch(Event("too.late"), session=session)
        errors.append(caught.value)
        if hook == "after_commit":
            app.dispatch(Event("not.too.late"))

    with orm.Session(engine) as session:
        sa.event.listen(session, hook, too_late)
        session.add(Image(name="cat"))
        session.flush()
        if joined_before:
            app.dispatch(Event("in.time"), session=session)
        (session.commit if hook == "after_commit" else session.rollback)()
        sa.event.remove(session, hook, too_late)
        session.commit()

    assert len(errors) == 1
    expected = {"not.too.late", *(["in.time"] if joined_before else [])} if hook == "after_commit" else set()
    assert {each.name for each in received(app)} == expected


def test_a_session_that_an_error_has_ended_takes_events_again_after_its_rollback(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        session.add(Image(name=None))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        with pytest.raises(SessionError, match=r"an error has ended it; .* or after its rollback\(\)"):
            app.dispatch(Event("too.late"), session=session)
        session.rollback()
        app.dispatch(Event("in.time"), session=session)
        session.commit()

    assert {each.name for each in received(app)} == {"in.time"}


def test_an_event_goes_with_its_row_to_the_target_that_the_dispatch_chose(app: App, engine: Any) -> None:
    ran: list[tuple[str, object]] = []

    def note(event: Event, call: Call) -> None:
        ran.append((call.queue, call.subject.name))

    app.add_listener("image.created", note)
    with orm.Session(engine) as session:
        image = Image(name="cat")
        session.add(image)
        app.dispatch(Event("image.created", subject=image), session=session, to="main/feed")
        assert ran == []
        session.commit()
    with orm.Session(engine) as session:
        session.add(Image(name="dog"))
        app.dispatch("image.created", session=session, to="main/feed")

    ManualRunner().run(app)

    assert ran == [("feed", "cat")]


def test_an_object_that_never_gets_an_id_fails_the_commit_and_not_the_next_one(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        session.add(Image(name="cat"))
        app.dispatch(Event("image.created", subject=Image(name="forgotten")), session=session)
        with pytest.raises(SubjectError, match='subject of type "image" has no id yet'):
            session.commit()
        session.rollback()

    with orm.Session(engine) as session:
        assert session.scalars(sa.select(Image)).all() == []
    assert received(app) == []


@pytest.mark.parametrize(
    "event, error",
    [
        (Event("a.b", {"a": object()}), EncodeError),
        (Event("a.b", {"a": "x" * 1024 * 1024}), EncodeError),
        (Event("a.b", subject=object()), SubjectError),
    ],
    ids=range(3),
)
def test_what_cannot_be_sent_is_refused_at_the_dispatch_and_the_commit_goes_through(
    app: App, engine: Any, event: Event, error: type[Exception]
) -> None:
    with orm.Session(engine) as session:
        session.add(Image(name="cat"))
        with pytest.raises(error):
            app.dispatch(event, session=session)
        session.commit()

        assert [image.name for image in session.scalars(sa.select(Image))] == ["cat"]
    assert received(app) == []


def test_what_is_too_large_is_refused_before_the_object_has_its_id(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        image = Image(name="cat")
        session.add(image)

        with pytest.raises(EncodeError, match="the limit is"):
            app.dispatch(Event("image.created", {"a": "x" * 1024 * 1024}, subject=image), session=session)


def test_a_session_that_has_already_written_can_be_joined_at_the_first_dispatch(engine: Any, app: App) -> None:
    with orm.Session(engine) as session:
        image = Image(name="cat")
        session.add(image)
        session.flush()
        app.dispatch(ImageCreated(image.id), session=session)
        session.commit()
        image_id = image.id

    assert {subject_in(envelope) for envelope in received(app)} == {f"image/{image_id}"}


def test_the_listener_gets_the_object_and_waits_for_it_if_it_is_gone(app: App, engine: Any) -> None:
    found: list[str] = []

    @listener("image.created", queue="media")
    def by_name(event: Event, call: Call) -> None:
        found.append(f"{call.subject.name} {event.subject}")

    @listener(ImageCreated, queue="feed")
    def by_class(event: ImageCreated, call: Call) -> None:
        found.append(f"{call.subject.name} {event.image_id}")

    app.listen(by_name, by_class)
    with orm.Session(engine) as session:
        image = Image(id=7, name="cat")
        session.add(image)
        app.dispatch(Event("image.created", subject=image), session=session)
        app.dispatch(Event("image.created", subject=Subject("image", "8")), session=session)
        session.commit()
    report = LoopRunner().run(app, RunOptions(until_empty=True))

    assert sorted(found) == ["cat 7", "cat image/7"]
    assert (report.done, report.retried, report.dead) == (2, 2, 0), "image/8 may still be committed"


def test_without_a_session_a_flushed_object_is_named_and_a_pending_one_is_told(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        image = Image(name="cat")
        session.add(image)
        with pytest.raises(
            SubjectError,
            match=r"no id yet, or its row was rolled back, .* add and flush it first, or dispatch with session=",
        ):
            app.dispatch(Event("image.created", subject=image))
        session.commit()
        image_id = image.id

        app.dispatch(Event("image.created", subject=image))
        session.rollback()

    assert {subject_in(envelope) for envelope in received(app)} == {f"image/{image_id}"}


def test_a_connection_can_be_joined_as_well(app: App, engine: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(Image).values(id=7, name="cat"))
        app.dispatch(Event("image.created", subject=Subject("image", "7")), session=connection)
    with engine.connect() as connection:
        app.dispatch(Event("image.deleted", subject=Subject("image", "7")), session=connection)
        connection.rollback()

    assert {envelope.name for envelope in received(app)} == {"image.created"}


@pytest.mark.parametrize("at", [None, 4_000_000_000.0], ids=["now", "at a moment"])
def test_on_a_connection_all_are_made_before_the_first_is_written(app: App, engine: Any, at: float | None) -> None:
    pending = Image(name="cat")
    with engine.connect() as connection:
        with pytest.raises(SubjectError, match="has no id yet"):
            app.dispatch_many(
                [Event("first.named"), Event("second.pending", subject=pending)], session=connection, at=at
            )
        connection.commit()

    stats = [app.transport("main").stats(queue) for queue in ("media", "feed")]
    assert [(each.ready, each.scheduled) for each in stats] == [(0, 0), (0, 0)]
    assert waiting_rows(engine) == 0
    assert received(app) == []


def test_on_a_connection_a_dispatcher_of_one_transport_makes_all_before_the_first_is_written(
    app: App, engine: Any
) -> None:
    joined = app.outboxes.get("main", app.transport("main"))
    dispatcher = DeferredDispatcher(joined, queue="media", subjects=app.subjects)
    with engine.connect() as connection:
        with pytest.raises(SubjectError, match="has no id yet"):
            dispatcher.dispatch_many([Event("a.b"), Event("a.b", subject=Image(name="cat"))], session=connection)
        connection.commit()
    with engine.connect() as connection:
        done = dispatcher.dispatch_many([Event("a.b"), Event("a.c")], session=connection)
        connection.commit()

    deliveries = joined.receive(["media"], limit=9, lease=9.0, wait=0.0)
    ids = [each.envelope.id for each in deliveries if isinstance(each.envelope, Envelope)]
    assert ids == [each.id for each in done]


def test_what_one_transport_refuses_on_a_connection_was_not_written_for_another(engine: Any) -> None:
    sql = pytest.importorskip("relevo_sql").SqlTransport
    with App(
        transports={"main": sql(engine), "broker": MemoryTransport()},
        routes={"first.*": "main", "second.*": "broker/feed"},
        outboxes={"broker": sql(engine)},
        subjects=[_image_type(engine)],
    ) as app:
        app.setup()
        with engine.connect() as connection:
            with pytest.raises(SubjectError, match="has no id yet"):
                app.dispatch_many(
                    [Event("first.named"), Event("second.pending", subject=Image(name="cat"))], session=connection
                )
            connection.commit()

        assert waiting_rows(engine) == 0


def test_what_a_connection_cannot_write_is_told_by_the_position_of_its_event(engine: Any) -> None:
    relevo_sql = pytest.importorskip("relevo_sql")
    with App(transports={"main": relevo_sql.SqlTransport(engine)}, routes={"*": ["main/media", "main/feed"]}) as app:
        app.setup()
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = 1")
            with pytest.raises(SendError) as caught:
                app.dispatch_many([Event("a.b"), Event("a.c"), Event("a.d")], session=connection)
            connection.rollback()
            connection.exec_driver_sql("PRAGMA query_only = 0")

    assert (caught.value.sent, caught.value.refused, caught.value.unknown) == ((), (0, 1, 2), ())


def waiting_rows(engine: Any) -> int:
    """Return how many events lie in the SQL transport's table, whenever they are due; 0 if there is none."""
    if not sa.inspect(engine).has_table("relevo_event"):
        return 0
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM relevo_event").scalar_one())


def test_a_delay_holds_inside_a_session_too(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        app.dispatch(Event("a.later"), session=session, delay="1h")
        app.dispatch(Event("a.soon"), session=session)
        session.commit()

    assert {envelope.name for envelope in received(app)} == {"a.soon"}


def test_one_session_carries_an_event_to_several_transports_or_to_none(engine: Any) -> None:
    sql = pytest.importorskip("relevo_sql").SqlTransport
    with App(
        transports={"main": sql(engine), "broker": MemoryTransport()},
        routes={"*": ["main", "broker/feed"]},
        outboxes={"broker": sql(engine)},
    ) as app:
        app.setup()
        for end in ("commit", "rollback"):
            with orm.Session(engine) as session:
                done = app.dispatch(Event("a.b", id=end), session=session)
                getattr(session, end)()
            assert [str(target) for target in done.targets] == ["main/default", "broker/feed"]
        relay = app.relay("broker", RunOptions(until_empty=True))
        assert relay is not None
        relay.run()

        def ids(transport: str, queue: str) -> list[str]:
            deliveries = app.transport(transport).receive([queue], limit=9, lease=9.0, wait=0.0)
            return [each.envelope.id for each in deliveries if isinstance(each.envelope, Envelope)]

        assert (ids("main", "default"), ids("broker", "feed")) == (["commit"], ["commit"])


def test_a_session_of_another_database_is_refused_before_anything_is_enlisted(engine: Any, tmp_path: Path) -> None:
    sql = pytest.importorskip("relevo_sql").SqlTransport
    elsewhere = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with (
        App(transports={"memory": MemoryTransport(), "main": sql(engine)}, routes={"*": ["memory", "main"]}) as app,
        orm.Session(elsewhere) as session,
    ):
        app.setup()
        with pytest.raises(SessionError):
            app.dispatch(Event("a.b"), session=session)
        session.commit()

        assert app.transport("memory").stats("default").ready == 0
    elsewhere.dispose()


def test_a_name_that_was_made_of_none_is_told(engine: Any) -> None:
    careless = SubjectType(type="image", cls=Image, name=lambda image: str(image.id), load=lambda _: None)
    app = App(transports={"main": MemoryTransport()}, routes={"*": "main"}, subjects=[careless])
    with app, orm.Session(engine) as session:
        image = Image(name="cat")
        session.add(image)

        with pytest.raises(ConfigurationError, match='returned the text "None"; return None'):
            app.dispatch(Event("image.created", subject=image), session=session)


class NotingTransport(MemoryTransport):
    """A transport that knows of no other way to be set up than setup, as a stranger's may."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        self.calls.append("setup")
        return super().setup(queues, dry_run=dry_run)

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        self.calls.append(f"bound_to {relay_to}" if relay_to else "bound_to")
        return super().bound_to(session, relay_to=relay_to)


@pytest.mark.parametrize("as_outbox", [False, True])
def test_a_transport_that_creates_nothing_in_a_session_is_set_up_once_before_it_joins_one(
    engine: Any, *, as_outbox: bool
) -> None:
    keeper = NotingTransport()
    main: dict[str, Transport] = {"main": MemoryTransport() if as_outbox else keeper}
    app = App(transports=main, outboxes={"main": keeper} if as_outbox else {}, routes={"*": "main"})

    with orm.Session(engine) as session:
        for _ in range(2):
            app.dispatch(Event("image.created"), session=session)
        session.commit()

    bound = "bound_to main" if as_outbox else "bound_to"
    assert keeper.calls == ["setup", bound, bound]


class CreatingTransport(NotingTransport, SessionSetup):
    """One that creates in the session what is missing."""

    def bound_with_setup(self, session: Any, queues: Sequence[str], *, relay_to: str | None = None) -> BoundSender:
        self.calls.append(f"bound_with_setup {list(queues)} {relay_to}")
        return MemoryTransport.bound_to(self, session, relay_to=relay_to)


@pytest.mark.parametrize(
    ("setup", "calls"),
    [
        ("auto", ["bound_with_setup ['outbox/main'] main", "setup", "bound_to main"]),
        ("explicit", ["setup", "bound_to main", "bound_to main"]),
    ],
)
def test_a_transport_that_creates_in_the_session_is_asked_to_until_it_was_set_up(
    engine: Any, setup: str, calls: list[str]
) -> None:
    keeper = CreatingTransport()
    app = App(transports={"main": MemoryTransport()}, outboxes={"main": keeper}, routes={"*": "main"}, setup=setup)

    App(transports=app.transports, outboxes=app.outboxes, routes={"*": "main"}).setup()
    keeper.calls.clear()

    with orm.Session(engine) as session:
        app.dispatch(Event("image.created"), session=session)
        app.prepare("main")
        app.dispatch(Event("image.created"), session=session)
        session.commit()

    assert keeper.calls == calls
