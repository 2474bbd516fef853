"""
An event has the fate of a row: whatever is done with a session, the event is there if the row is, and else not.

Each way is one that an application or its tests use a session in. It adds a row and sends an event in the same
place, by one name; which names are there in the end is SQLAlchemy's to say, and it is asked for the rows.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from relevo import App, Envelope, Event, Transport
from relevo.errors import SessionError
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


@attrs.frozen
class Shop:
    app: App
    engine: sa.Engine

    def add(self, session: Session | scoped_session[Session], name: str, *, flush: bool = True) -> None:
        """Add a row and send an event, both of *name*."""
        session.add(Row(name=name))
        self.app.dispatch(Event(name), session=session)
        if flush:
            session.flush()

    def write(self, connection: sa.Connection, name: str) -> None:
        """Do the same on a connection."""
        connection.execute(sa.insert(Row).values(name=name))
        self.app.dispatch(Event(name), session=connection)

    def rows(self) -> list[str]:
        with self.engine.connect() as connection:
            return sorted(connection.scalars(sa.select(Row.name)))

    def events(self) -> list[str]:
        deliveries = self.app.transport().receive(["default"], limit=100, lease=60, wait=0)
        return sorted(d.envelope.name for d in deliveries if isinstance(d.envelope, Envelope))


Way = Callable[[Shop], None]


# --- the end of a session -------------------------------------------------------------------------------


def _committed(shop: Shop) -> None:
    with Session(shop.engine) as session:
        shop.add(session, "in.flushed")
        shop.add(session, "in.pending", flush=False)
        session.commit()


def _rolled_back(shop: Shop) -> None:
    with Session(shop.engine) as session:
        shop.add(session, "out.first")
        session.rollback()
        shop.add(session, "in.second")
        session.commit()
        shop.add(session, "out.third", flush=False)
        session.rollback()


def _closed_and_used_again(shop: Shop) -> None:
    session = Session(shop.engine)
    shop.add(session, "out.closed")
    session.close()
    shop.add(session, "in.again")
    session.commit()
    shop.add(session, "out.reset")
    session.reset()
    shop.add(session, "out.invalidated")
    session.invalidate()
    shop.add(session, "in.last")
    session.commit()
    session.close()


def _left_lying(shop: Shop) -> None:
    shop.add(Session(shop.engine), "out.lying")
    gc.collect()


def _left_by_an_error(shop: Shop) -> None:
    with suppress(LookupError), Session(shop.engine) as session, session.begin():
        shop.add(session, "out.begun")
        raise LookupError
    with suppress(LookupError), sessionmaker(shop.engine).begin() as session:
        shop.add(session, "out.made")
        raise LookupError
    with sessionmaker(shop.engine).begin() as session:
        shop.add(session, "in.made")


def _emptied(shop: Shop) -> None:
    with Session(shop.engine) as session:
        shop.add(session, "in.flushed")
        session.expunge_all()
        session.commit()


def _failed_flush(shop: Shop) -> None:
    with Session(shop.engine) as session:
        shop.add(session, "in.name")
        session.commit()
        shop.add(session, "out.beside")
        session.add(Row(name="in.name"))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        session.rollback()
        shop.add(session, "in.after")
        session.commit()


def _refused_commit(shop: Shop) -> None:
    with Session(shop.engine) as session:

        def refuse(_: Session) -> None:
            raise LookupError

        sa.event.listen(session, "before_commit", refuse)
        shop.add(session, "in.kept")
        with pytest.raises(LookupError):
            session.commit()
        sa.event.remove(session, "before_commit", refuse)
        session.commit()
        sa.event.listen(session, "before_commit", refuse)
        shop.add(session, "out.refused")
        with pytest.raises(LookupError):
            session.commit()
        session.rollback()


def _committed_in_the_midst(shop: Shop) -> None:
    with Session(shop.engine, expire_on_commit=False) as session:
        shop.add(session, "in.first")
        session.commit()
        shop.add(session, "in.second", flush=False)
        session.commit()
        session.commit()


def _in_two_phases(shop: Shop) -> None:
    with Session(shop.engine, twophase=True) as session:
        with suppress(NotImplementedError, SessionError):  # SQLite has none
            shop.add(session, "out.prepared")
            session.commit()
        session.rollback()


def _begun_by_hand(shop: Shop) -> None:
    with Session(shop.engine, autobegin=False) as session:
        with pytest.raises(sa.exc.InvalidRequestError):
            session.add(Row(name="out.early"))
        with pytest.raises(SessionError, match="autobegin"):
            shop.app.dispatch(Event("out.early"), session=session)
        with session.begin():
            shop.add(session, "in.begun")
        transaction = session.begin()
        shop.add(session, "out.begun")
        transaction.rollback()


# --- savepoints ----------------------------------------------------------------------------------------


def _savepoints(shop: Shop) -> None:
    with Session(shop.engine) as session:
        shop.add(session, "in.outside", flush=False)
        with session.begin_nested():
            shop.add(session, "in.released")
        dropped = session.begin_nested()
        shop.add(session, "out.dropped")
        with session.begin_nested():
            shop.add(session, "out.released_in_dropped")
        dropped.rollback()
        kept = session.begin_nested()
        inner = session.begin_nested()
        shop.add(session, "out.inner", flush=False)
        inner.rollback()
        shop.add(session, "in.beside_inner")
        kept.commit()
        session.commit()


def _savepoint_of_a_rolled_back_session(shop: Shop) -> None:
    with Session(shop.engine) as session:
        with session.begin_nested():
            shop.add(session, "out.released")
        session.rollback()
        session.begin_nested()
        shop.add(session, "out.open")
        session.close()
        session.begin_nested()
        shop.add(session, "in.open")
        session.commit()


def _savepoint_left_by_an_error(shop: Shop) -> None:
    with Session(shop.engine) as session:
        with suppress(LookupError), session.begin_nested():
            shop.add(session, "out.failed")
            raise LookupError
        with suppress(sa.exc.IntegrityError), session.begin_nested():
            shop.add(session, "out.twice")
            session.add(Row(name="out.twice"))
        shop.add(session, "in.after")
        session.commit()


def _rolled_back_from_within_a_savepoint(shop: Shop) -> None:
    with Session(shop.engine) as session:
        shop.add(session, "out.outside")
        session.begin_nested()
        shop.add(session, "out.inside")
        session.get_transaction().rollback()  # type: ignore[union-attr]
        shop.add(session, "in.after")
        session.commit()


# --- a session in somebody else's transaction, as every suite of tests does it ------------------------------


def _joining(mode: Any, end: str, shop: Shop) -> None:
    with shop.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            shop.add(session, "a.first")
            session.commit()
            shop.add(session, "a.second", flush=False)
            session.commit()
            with session.begin_nested() as savepoint:
                shop.add(session, "a.dropped")
                savepoint.rollback()
            session.commit()
        if outer.is_active:
            getattr(outer, end)()


def _joining_and_rolling_back(mode: Any, end: str, shop: Shop) -> None:
    with shop.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            shop.add(session, "a.committed")
            session.commit()
            shop.add(session, "a.rolled_back")
            session.rollback()
        if outer.is_active:
            with Session(connection, join_transaction_mode=mode) as session:
                shop.add(session, "a.of_another_session")
                session.commit()
                shop.add(session, "a.closed")
        if outer.is_active:
            getattr(outer, end)()


def _joining_within_a_savepoint(mode: Any, end: str, shop: Shop) -> None:
    with shop.engine.connect() as connection:
        outer = connection.begin()
        shop.write(connection, "a.written")
        savepoint = connection.begin_nested()
        with Session(connection, join_transaction_mode=mode) as session:
            shop.add(session, "a.in_savepoint")
            session.commit()
            shop.add(session, "a.uncommitted")
        if savepoint.is_active:
            getattr(savepoint, end)()
        if outer.is_active:
            outer.commit()


def _connection(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        shop.write(connection, "out.first")
        connection.rollback()
        shop.write(connection, "in.second")
        savepoint = connection.begin_nested()
        shop.write(connection, "out.third")
        savepoint.rollback()
        connection.commit()
        shop.write(connection, "out.fourth")
    with suppress(LookupError), shop.engine.begin() as connection:
        shop.write(connection, "out.fifth")
        raise LookupError


# --- scoped ----------------------------------------------------------------------------------------------


def _scoped(shop: Shop) -> None:
    session = scoped_session(sessionmaker(shop.engine))
    shop.add(session, "in.first")
    session.commit()
    shop.add(session, "out.removed")
    session.remove()
    shop.add(session, "in.last")
    session.commit()
    session.remove()


ENDING_ITSELF: tuple[Way, ...] = (
    _committed,
    _rolled_back,
    _closed_and_used_again,
    _left_lying,
    _left_by_an_error,
    _emptied,
    _failed_flush,
    _refused_commit,
    _committed_in_the_midst,
    _in_two_phases,
    _begun_by_hand,
    _savepoints,
    _savepoint_of_a_rolled_back_session,
    _savepoint_left_by_an_error,
    _rolled_back_from_within_a_savepoint,
    _connection,
    _scoped,
)
JOINING = (_joining, _joining_and_rolling_back, _joining_within_a_savepoint)
MODES = ("conditional_savepoint", "rollback_only", "create_savepoint", "control_fully")


def _name(value: object) -> str:
    return getattr(value, "__name__", str(value)).strip("_")


@pytest.fixture(name="engine")
def _engine(path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{path}")
    sa.event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="shop", params=["sql", "sql, first use", "memory"])
def _shop(request: pytest.FixtureRequest, engine: sa.Engine) -> Iterator[Shop]:
    transport: Transport = MemoryTransport() if request.param == "memory" else SqlTransport(engine)
    with App(transports={"main": transport}, routes={"*": "main"}) as app:
        if request.param == "sql":
            app.setup()
        yield Shop(app, engine)


def _compare(shop: Shop) -> None:
    rows = shop.rows()
    assert [name for name in rows if name.startswith("out.")] == []
    if not rows:  # then neither are there tables, if they were made by what was rolled back
        shop.app.setup()
    assert shop.events() == rows


@pytest.mark.parametrize("way", ENDING_ITSELF, ids=_name)
def test_an_event_is_there_exactly_where_a_row_is(way: Way, shop: Shop) -> None:
    way(shop)

    _compare(shop)


# Not in memory: its transport stands in for others in tests, where a session that is committed inside what the
# test rolls back in the end is to have sent what it sent.
@pytest.mark.filterwarnings("ignore:nested transaction already deassociated:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", JOINING, ids=_name)
@pytest.mark.parametrize("shop", ["sql", "sql, first use"], indirect=True)
def test_so_it_is_in_a_session_that_joins_somebody_elses_transaction(
    way: Callable[[str, str, Shop], None], mode: str, end: str, shop: Shop
) -> None:
    way(mode, end, shop)

    _compare(shop)
