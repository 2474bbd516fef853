"""Dispatching inside a database session: the rows and the event together, whichever transport carries it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import relevo
from relevo import App, Call, Delivery, Envelope, Event, RunOptions, Subject, SubjectType, listener
from relevo._codec import decoded
from relevo._loop import LoopRunner
from relevo.errors import ConfigurationError, EncodeError, SessionError, SubjectError
from relevo_memory import MemoryTransport

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


def test_a_savepoint_takes_only_its_own_along(app: App, engine: Any) -> None:
    with orm.Session(engine) as session:
        app.dispatch(Event("first.kept"), session=session)
        savepoint = session.begin_nested()
        app.dispatch(Event("second.dropped"), session=session)
        savepoint.rollback()
        app.dispatch(Event("third.kept"), session=session)
        session.commit()

    assert sorted({envelope.name for envelope in received(app)}) == ["first.kept", "third.kept"]


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

        with pytest.raises(EncodeError, match="are allowed"):
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
        with pytest.raises(SubjectError, match="has no id yet; flush it first, or dispatch with session="):
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

        with pytest.raises(ConfigurationError, match="made text of None; let it return None"):
            app.dispatch(Event("image.created", subject=image), session=session)
