"""Crashes everywhere: what a listener does twice is found, and what is right is not."""

from __future__ import annotations

import asyncio
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.orm.session import SessionTransaction

from relevo import App, Call, Event, ListenerTable, RetryLater
from relevo.errors import ConfigurationError
from relevo.testing import AppTesting, RepeatedEffectError
from relevo_memory import MemoryTransport


class _Base(DeclarativeBase):
    pass


class Mail(_Base):
    __tablename__ = "mail"
    id: Mapped[int] = mapped_column(primary_key=True)
    to: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


class Image(_Base):
    __tablename__ = "image"
    path: Mapped[str] = mapped_column(primary_key=True)
    views: Mapped[int] = mapped_column(server_default="0")
    seen: Mapped[datetime | None]
    token: Mapped[str] = mapped_column(default=lambda: str(uuid4()))


class Book(_Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    pages: Mapped[list[str]] = mapped_column(sa.JSON, default=list)
    sold: Mapped[int] = mapped_column(default=int)


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    made = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    _Base.metadata.create_all(made)
    with Session(made) as session:
        session.add(Image(path="sea.jpg"))
        session.commit()
    yield made
    made.dispose()


@pytest.fixture
def sessions(tmp_path: Path) -> Any:
    """Return what makes sessions for async listeners."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db", poolclass=sa.NullPool)

    async def create() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(_Base.metadata.create_all)

    asyncio.run(create())
    return async_sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def app() -> App:
    return App(source="shop", transports={"main": MemoryTransport()}, routes={"*": ["main"]}, listeners=ListenerTable())


@pytest.fixture
def t(app: App) -> Iterator[AppTesting]:
    with app.testing() as testing:
        yield testing


def mails(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(Mail.to).order_by(Mail.id)))


def forgetful() -> AppTesting:
    """Return the test of an application whose transport does not claim ``checkpoint``."""
    transport = MemoryTransport()
    transport.capabilities = attrs.evolve(transport.capabilities, checkpoint=False)
    app = App(source="shop", transports={"main": transport}, routes={"*": ["main"]}, listeners=ListenerTable())
    return app.testing()


def crash(t: AppTesting, listener: Callable[..., Any], **options: Any) -> None:
    """Handle one event with *listener*, and crash everywhere."""
    t.app.add_listener("image.created", listener, id="listener", **options)
    t.app.dispatch("image.created")
    assert t.drain(crash="everywhere").done == 1


def found(t: AppTesting, listener: Callable[..., Any], **options: Any) -> str:
    """Return the first effect of *listener* that happens twice."""
    with pytest.raises(RepeatedEffectError) as caught:
        crash(t, listener, **options)
    return str(caught.value.effects[0])


def line_of(text: str) -> str:
    """Return the place of the only line of this file that ends with *text* as a comment."""
    lines = Path(__file__).read_text().splitlines()
    [number] = [number for number, line in enumerate(lines, 1) if line.endswith(f"  # {text}")]
    return f"{Path(__file__).name}:{number}"


# --- where the process is killed -----------------------------------------------------------------------


def test_a_listener_is_killed_after_each_step_each_dispatch_its_return_and_before_the_ack(
    app: App, t: AppTesting
) -> None:
    runs: list[list[str]] = []

    def listener(_: Event, call: Call) -> None:
        runs.append([])
        call.step("resize", runs[-1].append, "resize")
        call.dispatch("image.shown")
        for number in call.cursor("rows", range(2)):
            runs[-1].append(str(number))
        runs[-1].append("end")

    app.add_listener("image.shown", lambda _: None, id="shown")
    app.add_listener("image.created", listener, id="listener")
    app.dispatch("image.created")

    report = t.drain(crash="everywhere")

    assert runs == [["resize"], [], ["0"], ["1"], [], ["end"], ["end"], ["end"]]
    assert (report.done, report.handled) == (2, 2)
    t.dispatched("image.shown", times=1)


def test_a_delivery_is_handed_out_again_as_after_a_crash(app: App, t: AppTesting) -> None:
    seen = []

    def listener(_: Event, call: Call) -> None:
        seen.append((call.attempt, call.lost_leases))

    crash(t, listener)

    assert seen == [(1, 0), (1, 1), (1, 2)]


def test_what_is_done_runs_no_more(app: App, t: AppTesting) -> None:
    runs: list[str] = []
    app.add_listener("image.created", lambda _: runs.append("first"), id="first", priority=1)

    crash(t, lambda _: runs.append("second"))

    assert runs == ["first", "first", "second", "second", "second"]


def test_a_kill_is_no_failure_and_no_death(app: App, t: AppTesting) -> None:
    def listener(_: Event, call: Call) -> None:
        for number in range(20):
            call.step(str(number), lambda: None)

    crash(t, listener, retry=1)

    assert t.dead == []


def test_what_catches_everything_is_killed_nevertheless(app: App, t: AppTesting, engine: sa.Engine) -> None:
    ends = []
    counts = []

    def listener(_: Event, call: Call) -> None:
        with suppress(BaseException):
            call.step("resize", lambda: None)
        with suppress(BaseException):
            app.dispatch("image.shown")
        with suppress(BaseException), Session(engine) as session:
            session.add(Mail(to="ann"))
            session.commit()
        ends.append(call.lost_leases)
        counts.append(len(mails(engine)))

    app.add_listener("image.shown", lambda _: None, id="shown")
    found(t, listener)

    assert ends == [0, 1, 2, 3, 4]
    assert counts == ends  # nothing was written after the first kill
    t.dispatched("image.shown", times=4)


def test_what_is_stored_after_the_kill_does_not_count(app: App, t: AppTesting) -> None:
    runs: list[list[int]] = []

    def listener(_: Event, call: Call) -> None:
        runs.append([])
        for number in call.cursor("rows", range(4), every=2):
            runs[-1].append(number)
            if number == 3:
                call.dispatch("image.shown")

    app.add_listener("image.shown", lambda _: None, id="shown")
    app.add_listener("image.created", lambda _: None, id="later")
    app.add_listener("image.created", listener, id="listener", priority=1)
    app.dispatch("image.created")
    t.drain(crash="everywhere")

    assert runs[:4] == [[0, 1], [2, 3], [2, 3], []]


def test_another_error_instead_of_the_kill_is_no_failure(t: AppTesting) -> None:
    def listener(_: Event, call: Call) -> None:
        try:
            call.step("first", lambda: None)
        except BaseException:  # noqa: BLE001 - what a listener should not do
            raise ValueError("the step was ended") from None

    crash(t, listener)


def test_the_end_of_a_savepoint_is_no_commit(t: AppTesting, engine: sa.Engine) -> None:
    left = []

    def listener(_: Event, call: Call) -> None:
        with Session(engine) as session, session.begin():
            with session.begin_nested():
                session.get_one(Image, "sea.jpg").views = 7
            left.append(call.lost_leases)

    crash(t, listener)

    assert left[0] == 0


def test_a_block_is_left_as_after_its_commit(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with engine.begin() as connection:
            connection.execute(sa.update(Image).values(views=7))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        crash(t, listener)

    assert [str(each.message) for each in caught] == []


def test_a_listener_with_too_many_points_is_refused(app: App, t: AppTesting) -> None:
    def listener(_: Event, call: Call) -> None:
        for _number in call.cursor("rows", range(200)):
            pass

    with pytest.raises(AssertionError, match=r'more than 100 points .*, the last one after row 101 of "rows"'):
        crash(t, listener)


def test_without_crash_nothing_is_killed(app: App, t: AppTesting) -> None:
    runs: list[str] = []

    def listener(_: Event, call: Call) -> None:
        t.record_effect("mail", "ann")
        call.step("run", runs.append, "run")

    app.add_listener("image.created", listener, id="listener")
    app.dispatch("image.created")

    assert t.drain().done == 1
    assert runs == ["run"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crash": "sometimes"}, "expected \"everywhere\"; got 'sometimes'"),
        ({"crash": "everywhere", "twice": True}, "leave out twice=True"),
        ({"repeatable": ["mail"]}, r't.drain\(repeatable=…\): it is for t.drain\(crash="everywhere"\)'),
        ({"crash": "everywhere", "repeatable": "mail"}, "expected a list of names; got 'mail'"),
    ],
)
def test_wrong_options_are_refused(t: AppTesting, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        t.drain(**options)


# --- what is wrong -------------------------------------------------------------------------------------


def test_a_row_that_is_inserted_twice_is_found(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with Session(engine) as session:
            session.add(Mail(to="ann"))
            session.commit()  # insert

    text = found(t, listener)

    place = line_of("insert")
    assert text.startswith("listener: the table \"mail\" got (to='ann') again at ")
    assert f"{place}, in the run after the process was killed after the commit at " in text
    assert text.count(place) == 2
    assert "a unique key" in text


def test_a_row_that_is_inserted_with_a_connection_is_found(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO mail (\"to\", at) VALUES ('ann', '')"))  # by text

    text = found(t, listener)

    assert line_of("by text") in text


def test_a_count_that_grows_twice_is_found(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with Session(engine) as session:
            session.get_one(Image, "sea.jpg").views += 1
            session.commit()

    text = found(t, listener)

    assert "from (path='sea.jpg', views=2) to (path='sea.jpg', views=3)" in text
    assert "was killed after it had returned" in text


def test_a_guard_that_comes_too_late_is_found(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with Session(engine) as session:
            if session.get(Image, "done.jpg") is not None:
                return
            session.add(Mail(to="ann"))
            session.commit()
            session.add(Image(path="done.jpg"))
            session.commit()

    assert "(to='ann') again" in found(t, listener)


def test_a_commit_inside_a_step_is_found(t: AppTesting, engine: sa.Engine) -> None:
    def write() -> None:
        with Session(engine) as session:
            session.add(Mail(to="ann"))
            session.commit()

    text = found(t, lambda _, call: call.step("write", write))

    assert "(to='ann') again" in text
    assert "one of its steps" in text


def test_an_effect_that_happens_twice_is_found(t: AppTesting) -> None:
    def send(to: str) -> None:
        t.record_effect("mail", to)

    def listener(_: Event, call: Call) -> None:
        send("ann")  # effect
        call.step("resize", lambda: None)

    text = found(t, listener)

    assert text.startswith("listener: mail('ann') happened again at ")
    assert f'{line_of("effect")}, in the run after the process was killed after step "resize"' in text
    assert "make it a step of its own" in text


def test_two_effects_in_one_step_are_found(t: AppTesting, engine: sa.Engine) -> None:
    def both() -> None:
        t.record_effect("mail", "ann")
        with Session(engine) as session:
            session.merge(Image(path="lake.jpg", token=""))
            session.commit()

    assert "mail('ann') happened again" in found(t, lambda _, call: call.step("both", both))


def test_an_event_that_is_sent_with_another_id_is_found(app: App, t: AppTesting) -> None:
    app.add_listener("image.shown", lambda _: None, id="shown")

    text = found(t, lambda _: app.dispatch("image.shown", {"path": "sea.jpg"}))

    assert 'the event "image.shown" was sent again with another id' in text
    assert "use call.dispatch()" in text


def test_a_step_is_repeated_where_the_transport_keeps_no_notes() -> None:
    with forgetful() as t:
        text = found(t, lambda _, call: call.step("mail", t.record_effect, "mail", "ann"))

    assert "mail('ann') happened again" in text


def test_an_async_listener_is_crashed_too(t: AppTesting) -> None:
    async def listener(_: Event, call: Call) -> None:
        await asyncio.sleep(0)
        t.record_effect("mail", "ann")
        async with asyncio.TaskGroup() as group:
            group.create_task(wait(call))

    async def wait(call: Call) -> None:
        await call.step("wait", asyncio.sleep, 0)

    assert 'killed after step "wait"' in found(t, listener)


def test_the_commit_of_an_async_session_is_found(t: AppTesting, sessions: Any) -> None:
    async def listener(_: Event) -> None:
        async with sessions() as session:
            session.add(Mail(to="ann"))
            await session.commit()  # async

    text = found(t, listener)

    assert text.count(line_of("async")) == 2


def test_all_that_happens_twice_is_listed(t: AppTesting) -> None:
    def listener(_: Event) -> None:
        t.record_effect("mail", "ann")
        t.record_effect("mail", "bob")

    with pytest.raises(RepeatedEffectError) as caught:
        crash(t, listener)

    assert str(caught.value).startswith("2 effects happened twice:\n  listener: mail('ann')")
    assert [each.listener for each in caught.value.effects] == ["listener", "listener"]


def test_an_error_in_a_later_run_says_where_the_process_was_killed(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with Session(engine) as session:
            session.execute(sa.insert(Image).values(path="lake.jpg"))
            session.commit()

    with pytest.raises(sa.exc.IntegrityError) as caught:
        crash(t, listener)

    assert "relevo: raised in the run after the process was killed after the commit at " in caught.value.__notes__[0]


# --- what is right -------------------------------------------------------------------------------------


def test_a_unique_key_is_right(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with engine.begin() as connection:
            connection.execute(upsert(Image).values(path="lake.jpg").on_conflict_do_nothing())
        with engine.begin() as connection:
            set_again = upsert(Image).values(path="sea.jpg", views=7)
            connection.execute(set_again.on_conflict_do_update(index_elements=["path"], set_={"views": 7}))

    crash(t, listener)


def test_rows_that_are_replaced_are_right(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with Session(engine) as session:
            session.execute(sa.delete(Mail))
            session.add_all([Mail(to="ann"), Mail(to="bob")])
            session.commit()

    crash(t, listener)

    assert mails(engine) == ["ann", "bob"]


def test_a_loop_over_what_is_not_done_is_right(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with Session(engine) as session:
            for name in ("ann", "bob", "cas"):
                if session.scalar(sa.select(Mail.id).where(Mail.to == name)) is None:
                    session.add(Mail(to=name))
                    session.commit()

    crash(t, listener)

    assert mails(engine) == ["ann", "bob", "cas"]


def test_effects_in_steps_are_right(app: App, t: AppTesting) -> None:
    def listener(_: Event, call: Call) -> None:
        call.step("ann", t.record_effect, "mail", "ann")
        call.step("announce", call.dispatch, "image.shown")
        for name in call.cursor("others", ["bob", "cas"]):
            t.record_effect("mail", name)

    app.add_listener("image.shown", lambda _: None, id="shown")
    app.add_listener("image.created", listener, id="listener")
    app.dispatch("image.created")

    assert t.drain(crash="everywhere").done == 2


def test_a_transactional_listener_with_steps_is_right(t: AppTesting, engine: sa.Engine) -> None:
    def write(call: Call, to: str) -> None:
        call.session.add(Mail(to=to))

    def listener(_: Event, call: Call) -> None:
        call.step("first", write, call, "ann")
        for name in call.cursor("others", ["bob", "cas"]):
            write(call, name)
        write(call, "dee")

    crash(t, listener, transactional=sessionmaker(engine))

    assert mails(engine) == ["ann", "bob", "cas", "dee"]


def test_an_async_transactional_listener_is_right(t: AppTesting, sessions: Any, tmp_path: Path) -> None:
    async def write(call: Call, to: str) -> None:
        call.session.add(Mail(to=to))

    async def listener(_: Event, call: Call) -> None:
        await call.step("first", write, call, "ann")
        await write(call, "bob")

    crash(t, listener, transactional=sessions)

    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    assert mails(engine) == ["ann", "bob"]
    engine.dispose()


def test_an_event_with_the_same_id_is_the_same_event() -> None:
    with forgetful() as t:

        def listener(_: Event, call: Call) -> None:
            call.step("announce", call.dispatch, "image.shown")

        t.app.add_listener("image.shown", lambda _: None, id="shown")
        t.app.add_listener("image.created", listener, id="listener")
        t.app.dispatch("image.created")
        t.drain(crash="everywhere")


def test_times_may_differ_in_each_run(t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with Session(engine) as session:
            session.get_one(Image, "sea.jpg").seen = datetime.now(UTC)
            session.commit()

    crash(t, listener)


def test_an_event_in_the_session_of_its_effect_is_sent_with_it(app: App, t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        with Session(engine) as session:
            if session.get(Image, "done.jpg") is None:
                session.add(Image(path="done.jpg"))
                app.dispatch("image.shown", session=session)
                session.commit()

    app.add_listener("image.shown", lambda _: None, id="shown")
    app.add_listener("image.created", listener, id="listener")
    app.dispatch("image.created")
    t.drain(crash="everywhere")

    t.dispatched("image.shown", times=1)


def test_other_events_of_the_same_listener_do_not_count(app: App, t: AppTesting, engine: sa.Engine) -> None:
    def listener(event: Event) -> None:
        with engine.begin() as connection:
            path = f"{event['number']}.jpg"
            connection.execute(upsert(Image).values(path=path).on_conflict_do_nothing())

    app.add_listener("image.created", listener, id="listener")
    for number in range(3):
        app.dispatch("image.created", {"number": number})

    assert t.drain(crash="everywhere").done == 3


def test_equal_effects_of_one_run_are_two(t: AppTesting) -> None:
    def listener(_: Event, call: Call) -> None:
        call.step("first", t.record_effect, "mail", "ann")
        call.step("second", t.record_effect, "mail", "bob")

    crash(t, listener)


def test_what_is_repeatable_may_happen_twice(app: App, t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        t.record_effect("log", "began")
        app.dispatch("image.shown")
        with Session(engine) as session:
            session.add(Mail(to="ann"))
            session.get_one(Image, "sea.jpg").views += 1
            session.commit()

    app.add_listener("image.shown", lambda _: None, id="shown")
    app.add_listener("image.created", listener, id="listener")
    app.dispatch("image.created")

    t.drain(crash="everywhere", repeatable=["log", "image.shown", "mail", "image.views"])


def test_a_name_that_did_not_occur_is_reported_with_the_effects(app: App, t: AppTesting, engine: sa.Engine) -> None:
    def listener(_: Event) -> None:
        t.record_effect("log", "began")
        app.dispatch("image.shown")
        with Session(engine) as session:
            session.add(Mail(to="ann"))
            session.commit()

    app.add_listener("image.shown", lambda _: None, id="shown")
    app.add_listener("image.created", listener, id="listener")
    app.dispatch("image.created")

    with pytest.raises(RepeatedEffectError, match=r"; nothing was called 'image\.show' or 'mial'$") as caught:
        t.drain(crash="everywhere", repeatable=["log", "mail", "mail.to", "mial", "image.show"])

    assert [each.effect.partition(" was")[0] for each in caught.value.effects] == ['the event "image.shown"']
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own


def test_a_retry_runs_to_its_end(app: App, t: AppTesting) -> None:
    def listener(_: Event, call: Call) -> None:
        call.step("first", t.record_effect, "mail", "ann")
        if call.attempt == 1:
            raise RetryLater("1m")

    app.add_listener("image.created", listener, id="listener")
    app.dispatch("image.created")

    assert t.drain(crash="everywhere").retried == 1
    t.travel("1m")
    assert t.drain(crash="everywhere").done == 1


def test_what_sqlalchemy_has_is_restored(t: AppTesting, engine: sa.Engine) -> None:
    def methods() -> list[object]:
        kinds = sa.engine.Transaction, sa.engine.RootTransaction, SessionTransaction
        return [getattr(kind, name) for kind in kinds for name in ("commit", "__exit__")]

    before = methods()

    crash(t, lambda _: None)

    assert methods() == before


def test_a_session_that_outlives_the_listener_is_rolled_back(t: AppTesting, engine: sa.Engine) -> None:
    session = scoped_session(sessionmaker(engine))

    def listener(_: Event, call: Call) -> None:
        if session.get(Image, "done.jpg") is None:
            session.add(Mail(to="ann"))
            session.flush()
            call.step("resize", lambda: None)
            session.add(Image(path="done.jpg"))
            session.commit()

    crash(t, listener)

    assert mails(engine) == ["ann"]
    session.remove()


# --- what could be taken for nothing ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ['"order"', "[order]", "`order`"])
def test_a_table_whose_name_has_to_be_in_quotes_is_compared(t: AppTesting, engine: sa.Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text('CREATE TABLE "order" (n INTEGER)'))

    def add(event: Event) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(f"INSERT INTO {name} (n) VALUES (1)"))  # noqa: S608 - the name of the test

    assert 'the table "order"' in found(t, add)


@pytest.mark.parametrize("is_made_anew", [True, False])
def test_a_database_is_known_by_its_address_and_not_by_its_engine(
    t: AppTesting, tmp_path: Path, *, is_made_anew: bool
) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    kept: list[sa.Engine] = [sa.create_engine(url, poolclass=sa.NullPool)]
    _Base.metadata.create_all(kept[0])

    def add(event: Event) -> None:
        kept.append(sa.create_engine(url, poolclass=sa.NullPool) if is_made_anew else kept[0].execution_options(a=1))
        with Session(kept[-1]) as session:
            session.add(Mail(to="ann"))
            session.commit()

    assert 'the table "mail"' in found(t, add)


@pytest.mark.parametrize("column", ["pages", "sold"])
def test_a_column_with_a_constructor_as_its_default_is_compared(t: AppTesting, engine: sa.Engine, column: str) -> None:
    with Session(engine) as session:
        session.add(Book(id=1))
        session.commit()

    def add(event: Event) -> None:
        with Session(engine) as session:
            book = session.get_one(Book, 1)
            setattr(book, column, [*book.pages, "x"] if column == "pages" else book.sold + 1)
            session.commit()

    assert 'the table "book"' in found(t, add)


def test_a_table_that_cannot_be_read_is_warned_about(t: AppTesting, engine: sa.Engine) -> None:
    def add(event: Event) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS short (n INTEGER)"))
            connection.execute(sa.text("INSERT INTO short (n) VALUES (1)"))
            connection.execute(sa.text("DROP TABLE short"))

    with pytest.warns(UserWarning, match="the table short is not compared, since it cannot be read: "):
        crash(t, add)


def test_what_happens_twice_is_raised_also_if_errors_of_listeners_are_not(t: AppTesting) -> None:
    t.app.add_listener("image.created", lambda _: t.record_effect("mail", "ann"), id="mail")
    t.app.dispatch("image.created")

    with pytest.raises(RepeatedEffectError, match="mail"):
        t.drain(crash="everywhere", raises=False)


def test_an_effect_that_cannot_be_compared_is_refused(t: AppTesting) -> None:
    with pytest.raises(ConfigurationError, match="object has no text of its own"):
        t.record_effect("mail", object())
