"""One application, its upload unchanged, on tables of each database, on RabbitMQ behind an outbox, and in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import relevo
from relevo_memory import MemoryTransport
from relevo_sql import database_url


class Base(orm.DeclarativeBase):
    pass


class Image(Base):
    __tablename__ = "image"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(255))


@attrs.frozen
class Shop:
    app: relevo.App
    engine: sa.Engine
    seen: list[tuple[str, str]]

    def upload(self, name: str, *, commit: bool = True) -> None:
        """Store an image and have the rest done later: what every one of these applications does alike."""
        with orm.Session(self.engine) as session:
            image = Image(name=name)
            session.add(image)
            self.app.dispatch(relevo.Event("image.created", subject=image), session=session)
            if commit:
                session.commit()

    def drain(self) -> relevo.Report:
        return relevo.LoopRunner(signals=False).run(self.app, relevo.RunOptions(until_empty=True, settle=2.0))


SQLITE = "sqlite:///shop.db"
SERVERS = {"postgresql", "mariadb"}
ASYNCHRONOUS = {"postgresql": "asyncpg", "mysql": "asyncmy", "sqlite": "aiosqlite"}

ON_A_SERVER = pytest.mark.slow("about a server, not Python")
KINDS = [
    "sqlite",
    pytest.param("postgresql", marks=[ON_A_SERVER, pytest.mark.postgresql]),
    pytest.param("mariadb", marks=[ON_A_SERVER, pytest.mark.mariadb]),
    "amqp",
    pytest.param("amqp, postgresql", marks=[ON_A_SERVER, pytest.mark.postgresql]),
    "memory",
]
"""The transport, and the database of the application if it is not SQLite's."""


@pytest.fixture(name="fresh_shop", params=KINDS)
def _fresh_shop(request: pytest.FixtureRequest, tmp_path: Path, forget: Callable[[relevo.App], None]) -> Iterator[Shop]:
    transport, _, name = request.param.rpartition(", ")
    transport = transport or name
    database: str = request.getfixturevalue(f"{name}_database") if name in SERVERS else SQLITE
    if transport == "amqp":
        url = request.getfixturevalue("rabbitmq_url")
        prefix = f"upload-{uuid.uuid4().hex[:8]}"
        main = f'{{ url = "{url}", prefix = "{prefix}", levels = 4, settle_in = 0, outbox = "{database}" }}'
    else:
        main = '"memory://"' if transport == "memory" else f'"{database}"'
    (tmp_path / "relevo.toml").write_text(
        f'[transports]\nmain = {main}\n[routes]\n"*" = ["main/media", "main/feed"]\n', "utf-8"
    )
    app = relevo.App.from_config(tmp_path / "relevo.toml", environ={})
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}" if transport == "memory" else database_url(app))
    Base.metadata.create_all(engine)
    seen: list[tuple[str, str]] = []
    app.add_subject(_images(engine))
    for queue in ("media", "feed"):
        app.listen(relevo.listener("image.created", queue=queue, id=queue)(_watching(seen)))
    try:
        yield Shop(app, engine, seen)
    finally:
        forget(app)
        app.close()
        engine.dispose()


@pytest.fixture(name="shop")
def _shop(fresh_shop: Shop) -> Shop:
    fresh_shop.app.setup()
    return fresh_shop


def _images(engine: sa.Engine) -> relevo.SubjectType:
    def load(name: str) -> str | None:
        with orm.Session(engine) as session:
            found = session.get(Image, int(name))
            return None if found is None else found.name

    return relevo.SubjectType(
        type="image", cls=Image, name=lambda image: None if image.id is None else str(image.id), load=load
    )


def _watching(seen: list[tuple[str, str]]) -> Callable[[relevo.Event, relevo.Call], None]:
    def watch(event: relevo.Event, call: relevo.Call) -> None:
        seen.append((call.queue, call.subject))

    return watch


def test_an_image_and_its_event_are_committed_together_or_not_at_all(shop: Shop) -> None:
    shop.upload("cat")
    shop.upload("never", commit=False)
    before = list(shop.seen)
    shop.upload("dog")

    report = shop.drain()

    assert before == []
    assert sorted(shop.seen) == [("feed", "cat"), ("feed", "dog"), ("media", "cat"), ("media", "dog")]
    assert (report.done, report.dead) == (4, 0)


def test_whatever_kind_of_session_the_application_has(shop: Shop) -> None:
    scoped = orm.scoped_session(orm.sessionmaker(shop.engine))
    scoped.add(image := Image(name="scoped"))
    shop.app.dispatch(relevo.Event("image.created", subject=image), session=scoped)
    scoped.commit()
    scoped.remove()

    kind, is_in_database = shop.engine.url.get_backend_name(), not isinstance(shop.app.transport(), MemoryTransport)

    async def asynchronously(driver: str) -> None:
        own = shop.engine.url.set(drivername=f"{kind}+{driver}")
        engine = create_async_engine(database_url(shop.app, driver=driver) if is_in_database else own)
        async with AsyncSession(engine) as session:
            image = Image(name="async")
            session.add(image)
            await shop.app.adispatch(relevo.Event("image.created", subject=image), session=session)
            await session.commit()
        await engine.dispose()

    asyncio.run(asynchronously(ASYNCHRONOUS[kind]))
    if is_in_database:
        with shop.engine.begin() as connection:
            shop.app.dispatch(relevo.Event("image.created", subject=relevo.Subject("image", "1")), session=connection)

    shop.drain()

    assert {name for _, name in shop.seen} == {"scoped", "async"}
    assert {queue for queue, _ in shop.seen} == {"media", "feed"}


def test_a_savepoint_that_is_rolled_back_takes_its_event_along(shop: Shop) -> None:
    with orm.Session(shop.engine) as session:
        session.add(kept := Image(name="kept"))
        shop.app.dispatch(relevo.Event("image.created", subject=kept), session=session)
        savepoint = session.begin_nested()
        session.add(dropped := Image(name="dropped"))
        shop.app.dispatch(relevo.Event("image.created", subject=dropped), session=session)
        savepoint.rollback()
        session.commit()

    shop.drain()

    assert sorted(shop.seen) == [("feed", "kept"), ("media", "kept")]


def test_the_first_dispatch_of_all_comes_in_a_session_that_has_flushed(fresh_shop: Shop) -> None:
    shop = fresh_shop
    for name, end in (("never", "rollback"), ("first", "commit"), ("second", "commit")):
        with orm.Session(shop.engine) as session:
            session.add(image := Image(name=name))
            session.flush()
            shop.app.dispatch(relevo.Event("image.created", subject=image), session=session)
            getattr(session, end)()

    shop.drain()

    assert sorted(shop.seen) == [("feed", "first"), ("feed", "second"), ("media", "first"), ("media", "second")]
