"""Steps of transactional listeners: each commits with what it has written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings, strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from relevo import App, Call, Event, ListenerTable, RetryLater
from relevo.backend.session import _is_query
from relevo.errors import LeaseLostError, StepError
from relevo.testing import AppTesting, FakeClock
from relevo_memory import MemoryTransport


class _Base(DeclarativeBase):
    pass


class Shipment(_Base):
    __tablename__ = "shipment"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    made = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    _Base.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def app() -> App:
    return App(source="shop", transports={"main": MemoryTransport()}, routes={"*": ["main"]}, listeners=ListenerTable())


@pytest.fixture
def t(app: App) -> Iterator[AppTesting]:
    with app.testing() as testing:
        yield testing


def shipped(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(Shipment.name).order_by(Shipment.id)))


def ship(call: Call, name: str) -> None:
    call.session.add(Shipment(name=name))


def ship_at_once(call: Call, name: str) -> None:
    call.session.execute(sa.insert(Shipment).values(name=name))


Ship = Callable[[Call, str], None]
each_way = pytest.mark.parametrize("write", [ship, ship_at_once])


@each_way
def test_a_finished_step_has_committed_and_is_not_run_again(
    app: App, t: AppTesting, engine: sa.Engine, write: Ship
) -> None:
    seen = []

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        call.step("first", write, call, "first")
        seen.append(shipped(engine))
        call.step("second", write, call, "second")
        if call.attempt == 1:
            raise ValueError("not yet")
        write(call, "end")

    app.dispatch("order.paid")
    t.drain(raises=False)
    between = shipped(engine)
    t.travel("1m")
    t.drain()

    assert seen == [["first"], ["first", "second"]]
    assert between == ["first", "second"]
    assert shipped(engine) == ["first", "second", "end"]


@each_way
def test_a_step_that_fails_leaves_nothing_and_runs_again(
    app: App, t: AppTesting, engine: sa.Engine, write: Ship
) -> None:
    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        def half() -> None:
            write(call, "half")
            if call.attempt == 1:
                raise ValueError("not yet")

        call.step("first", write, call, "first")
        call.step("half", half)

    app.dispatch("order.paid")
    t.drain(raises=False)
    between = shipped(engine)
    t.travel("1m")
    t.drain()

    assert (between, shipped(engine)) == (["first"], ["first", "half"])


def test_a_failed_step_that_has_written_ends_the_listener_though_that_catches_its_error(
    app: App, t: AppTesting, engine: sa.Engine
) -> None:
    def half(call: Call) -> None:
        ship(call, "half")
        raise ValueError("always")

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine), retry=1)
    def pay(_: Event, call: Call) -> None:
        with suppress(ValueError):
            call.step("half", half, call)
        with suppress(ValueError):
            call.step("other", ship, call, "other")

    app.dispatch("order.paid")
    with pytest.raises(ValueError, match="always"):
        t.drain()

    assert shipped(engine) == []


def test_a_failed_step_that_has_written_nothing_lets_the_listener_go_on(
    app: App, t: AppTesting, engine: sa.Engine
) -> None:
    def failing(call: Call) -> None:
        call.session.scalars(sa.select(Shipment)).all()
        raise ValueError("always")

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        with suppress(ValueError):
            call.step("first", failing, call)
        call.step("second", ship, call, "second")

    app.dispatch("order.paid")
    t.drain()

    assert shipped(engine) == ["second"]


@each_way
@pytest.mark.parametrize("is_cursor", [False, True])
def test_a_step_is_refused_after_a_write_outside_of_steps(
    app: App, t: AppTesting, engine: sa.Engine, write: Ship, *, is_cursor: bool
) -> None:
    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine), retry=1)
    def pay(_: Event, call: Call) -> None:
        write(call, "outside")
        if is_cursor:
            list(call.cursor("first", [1, 2]))
        call.step("first", ship, call, "first")

    app.dispatch("order.paid")
    with pytest.raises(StepError, match=r'pay: the step "first": call.session has written something before it'):
        t.drain()

    assert shipped(engine) == []


def test_a_changed_and_a_deleted_object_are_writes_and_a_query_is_none(
    app: App, t: AppTesting, engine: sa.Engine
) -> None:
    with Session(engine) as session, session.begin():
        session.add_all([Shipment(name="one"), Shipment(name="two")])
    errors = []

    def refused(call: Call) -> bool:
        try:
            call.step("probe", int)
        except StepError as error:
            errors.append(error)
            return True
        return False

    @app.listener("order.paid", id="queries", transactional=sessionmaker(engine))
    def queries(_: Event, call: Call) -> None:
        found = call.session.get(Shipment, 1)
        found.name = "one"
        call.session.execute(sa.text("\n  select 1"))
        call.session.execute(sa.text("WITH x AS (SELECT 1) SELECT * FROM x"))
        with call.session.begin_nested():
            call.session.scalars(sa.select(Shipment)).all()
        assert not refused(call)

    @app.listener("order.paid", id="changes", transactional=sessionmaker(engine), retry=1)
    def changes(_: Event, call: Call) -> None:
        call.session.get(Shipment, 1).name = "other"
        assert refused(call)

    @app.listener("order.paid", id="deletes", transactional=sessionmaker(engine), retry=1)
    def deletes(_: Event, call: Call) -> None:
        call.session.delete(call.session.get(Shipment, 1))
        assert refused(call)

    @app.listener("order.paid", id="runs text", transactional=sessionmaker(engine), retry=1)
    def runs_text(_: Event, call: Call) -> None:
        call.session.execute(sa.text("UPDATE shipment SET name = 'other'"))
        assert refused(call)

    @app.listener("order.paid", id="runs text behind with", transactional=sessionmaker(engine), retry=1)
    def runs_text_behind_with(_: Event, call: Call) -> None:
        call.session.execute(sa.text("WITH x AS (SELECT 1)\nUPDATE shipment SET name = 'other'"))
        assert refused(call)

    app.dispatch("order.paid")
    t.drain(raises=False)

    assert shipped(engine) == ["one", "two"]
    assert len(errors) == 4


@pytest.mark.parametrize(
    ("statement", "is_query"),
    [
        ("SELECT 1", True),
        ("\n  ( select 1)", True),
        ("/* insert */ -- update\n SELECT 1", True),
        ("WITH x AS (SELECT 1) SELECT * FROM x", True),
        ("WITH x AS (SELECT 1 FOR UPDATE) SELECT * FROM x", True),
        ("WITH x AS (SELECT 1 FOR NO KEY UPDATE) SELECT update_time FROM x", True),
        ("ROLLBACK TO SAVEPOINT one", True),
        ("INSERT INTO shipment VALUES (1)", False),
        ("/* SELECT */ DELETE FROM shipment", False),
        ("WITH x AS (SELECT 1)\nDELETE FROM shipment", False),
        ("WITH x AS (DELETE FROM shipment RETURNING id) SELECT * FROM x", False),
        ("WITH x AS (SELECT 1) UPDATE shipment SET name = 'x'", False),
        ("with x as (select 1) insert  into shipment select * from x", False),
        ("CALL ship()", False),
        ("SELECTED", False),
    ],
)
def test_a_statement_is_a_query_by_its_words(statement: str, *, is_query: bool) -> None:
    assert _is_query(statement) is is_query


def test_an_object_is_used_in_several_steps(app: App, t: AppTesting, engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Shipment(name=""))

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        shipment = call.session.get(Shipment, 1)

        def append(letter: str) -> None:
            shipment.name += letter

        for letter in "abc":
            call.step(letter, append, letter)
        if call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    t.drain(raises=False)
    t.travel("1m")
    t.drain()

    assert shipped(engine) == ["abc"]


@pytest.mark.parametrize("every", [1, 2, 3, 100])
@pytest.mark.parametrize("failing", range(6))
def test_each_row_of_a_cursor_is_written_once(
    app: App, t: AppTesting, engine: sa.Engine, every: int, failing: int
) -> None:
    starts = []

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        def rows(start: int) -> range:
            starts.append(start)
            return range(start, 5)

        for row in call.cursor("rows", rows, every=every):
            ship(call, str(row))
            if row == failing and call.attempt == 1:
                raise ValueError("not yet")
        if failing == 5 and call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    t.drain(raises=False)
    between = shipped(engine)
    t.travel("1m")
    t.drain()

    committed = 5 if failing == 5 else failing - failing % every
    assert between == [str(row) for row in range(committed)]
    assert shipped(engine) == ["0", "1", "2", "3", "4"]
    assert starts == ([0] if failing == 5 else [0, committed])


def test_the_events_of_a_step_are_sent_when_it_commits(app: App, t: AppTesting, engine: sa.Engine) -> None:
    seen: list[Any] = []
    app.add_listener("order.shipped", lambda event: seen.append(event["name"]), id="note")

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        def both(name: str) -> None:
            ship(call, name)
            call.dispatch("order.shipped", {"name": name})
            if name == "second" and call.attempt == 1:
                raise ValueError("not yet")

        call.step("first", both, "first")
        call.dispatch("order.shipped", {"name": "end"})
        call.step("second", both, "second")

    app.dispatch("order.paid")
    t.drain(raises=False)
    between = list(seen)
    t.travel("1m")
    t.drain()

    assert (between, seen) == (["first"], ["first", "second", "end"])


def test_a_stop_between_steps_keeps_what_has_committed(app: App, t: AppTesting, engine: sa.Engine) -> None:
    runs = []

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        runs.append(call.attempt)
        call.step("first", ship, call, "first")
        call.step("second", ship, call, "second")
        ship(call, "end")

    app.dispatch("order.paid")
    t.interrupt(after="first")
    t.drain()

    assert runs == [1, 1]
    assert shipped(engine) == ["first", "second", "end"]


def test_a_step_whose_rows_the_database_refuses_is_not_finished(app: App, t: AppTesting, engine: sa.Engine) -> None:
    done = []
    sent: list[int] = []
    app.add_listener("order.shipped", lambda event: sent.append(event["attempt"]), id="note")

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        def twice() -> None:
            done.append("twice")
            call.dispatch("order.shipped", {"attempt": call.attempt})
            call.session.add(Shipment(id=1 if call.attempt == 1 else 2, name="twice"))

        call.step("first", ship, call, "first")
        call.step("twice", twice)

    app.dispatch("order.paid")
    with pytest.raises(sa.exc.IntegrityError):
        t.drain()
    between = shipped(engine)
    t.travel("1m")
    t.drain()

    assert (between, shipped(engine), done) == (["first"], ["first", "twice"], ["twice", "twice"])
    assert sent == [2]


def test_a_step_that_did_not_commit_ends_the_listener_though_that_catches_its_error(
    app: App, t: AppTesting, engine: sa.Engine
) -> None:
    with Session(engine) as session, session.begin():
        session.add(Shipment(id=1, name="before"))

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine), retry=1)
    def pay(_: Event, call: Call) -> None:
        with suppress(sa.exc.IntegrityError):
            call.step("twice", lambda: call.session.add(Shipment(id=1, name="again")))

    app.dispatch("order.paid")
    with pytest.raises(sa.exc.IntegrityError):
        t.drain()

    assert shipped(engine) == ["before"]


def test_a_step_after_its_lease_was_lost_leaves_nothing(engine: sa.Engine) -> None:
    clock = FakeClock()
    transport = MemoryTransport(clock=clock)
    app = App(source="shop", transports={"main": transport}, routes={"*": ["main"]}, clock=clock)
    errors = []

    @app.listener("order.paid", id="pay", transactional=sessionmaker(engine))
    def pay(_: Event, call: Call) -> None:
        call.step("first", ship, call, "first")
        clock.advance(10_000.0)
        transport.receive(["default"], limit=1, lease=1.0, wait=0.0)
        for _again in range(2):
            try:
                call.step("second", ship, call, "second")
            except LeaseLostError as error:
                errors.append(error)

    app.dispatch("order.paid")
    app.drain()

    assert len(errors) == 2
    assert shipped(engine) == ["first"]


Plan = list[tuple[str, int]]


def expected(plan: Plan) -> list[str]:
    """Return what a listener with this *plan* writes, without a failure."""
    found = []
    for index, (kind, _) in enumerate(plan):
        match kind:
            case "rows":
                found += [f"{index}.{row}.0" for row in range(4)]
            case "step":
                found.append(f"{index}.0")
            case _:
                found += [f"{index}.0", f"{index}.1"]
    return [*found, "end.0", "end.1"]


@pytest.mark.lengthy("tries many cases")
@settings(max_examples=60)
@given(
    plan=st.lists(st.tuples(st.sampled_from(["step", "step of two", "rows"]), st.integers(1, 3)), max_size=5),
    fails=st.lists(st.integers(0, 12), max_size=6),
)
def test_each_row_is_written_once_however_often_the_listener_fails(plan: Plan, fails: list[int]) -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    _Base.metadata.create_all(engine)
    clock = FakeClock()
    app = App(source="shop", transports={"main": MemoryTransport(clock=clock)}, routes={"*": ["main"]}, clock=clock)
    left = list(fails)
    points = 0

    def point() -> None:
        """Fail at the next one of *fails*, counted from the beginning of each run."""
        nonlocal points
        points += 1
        if left and points > left[0]:
            left.pop(0)
            raise RetryLater(delay=1)

    def work(call: Call, name: str, number: int) -> None:
        point()
        for each in range(number):
            ship(call, f"{name}.{each}")
            point()

    def listener(_: Event, call: Call) -> None:
        nonlocal points
        points = 0
        for index, (kind, number) in enumerate(plan):
            name = f"{index}"
            if kind == "rows":
                for row in call.cursor(name, range(4), every=number):
                    work(call, f"{name}.{row}", 1)
            else:
                call.step(name, work, call, name, 1 if kind == "step" else 2)
            point()
        work(call, "end", 2)

    app.add_listener("order.paid", listener, id="pay", transactional=sessionmaker(engine), retry=50)
    app.dispatch("order.paid")
    for _ in range(len(fails) + 1):
        app.drain()
        clock.advance(2.0)
    found = shipped(engine)
    engine.dispose()

    assert found == expected(plan)
