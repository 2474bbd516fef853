"""Transactional listeners of events that RabbitMQ delivers, with an inbox in the database of their rows."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa

import relevo
from relevo import Ack, App, Call, ConfigurationError, Delivery, Event, Nack, RunOptions, SystemClock
from relevo._worker.progress import hastened
from relevo.errors import TransportUnavailableError
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport

pytestmark = [pytest.mark.amqp, pytest.mark.slow("about a server, not Python")]

_TABLES = sa.MetaData()
SHIPPED = sa.Table("shipped", _TABLES, sa.Column("number", sa.Integer))


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    _TABLES.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="app")
def _app(rabbitmq_url: str, engine: sa.Engine, forget: Callable[[App], None]) -> Iterator[App]:
    options = AmqpOptions(url=rabbitmq_url, prefix=f"inbox-{uuid.uuid4().hex[:8]}", levels=8, settle_in=0)
    broker = AmqpTransport.open(options, name="main", clock=SystemClock())
    app = App(
        transports={"main": broker},
        outboxes={"main": SqlTransport(engine)},
        routes={"*": "main"},
        source="shop",
    )
    app.setup()
    yield app
    forget(app)
    app.close()


def one(app: App) -> Delivery:
    (found,) = app.transport().receive(["default"], limit=1, lease=60, wait=30)
    return found


def shipped(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(SHIPPED.c.number)))


def test_an_event_that_comes_again_has_no_second_effect(app: App, engine: sa.Engine) -> None:
    @app.listener("order.paid", transactional=True)
    def pay(event: Event, call: Call) -> None:
        call.session.execute(sa.insert(SHIPPED).values(number=1))
        call.dispatch("order.shipped")

    handle = app.handle("main", app.listeners, checkpoint=None)
    app.dispatch("order.paid")
    delivery = one(app)

    outcomes = [handle(delivery), handle(delivery)]  # as after a crash between the commit and the ack
    app.transport().settle([(delivery, outcomes[1])])
    app.drain()

    assert outcomes == [Ack(), Ack()]
    assert shipped(engine) == [1]


def test_a_call_that_the_inbox_makes_needless_is_not_observed(app: App, engine: sa.Engine) -> None:
    observed: list[str] = []

    class Observer:
        @relevo.hookimpl
        @contextmanager
        def relevo_around_call(self, listener_id: str) -> Iterator[None]:
            observed.append(listener_id)
            yield
            observed.append(f"after {shipped(engine)}")

    @app.listener("order.paid", transactional=True, id="pay")
    def pay(event: Event, call: Call) -> None:
        observed.append("called")
        call.session.execute(sa.insert(SHIPPED).values(number=1))

    app.hooks.add(Observer())
    handle = app.handle("main", app.listeners, checkpoint=None)
    app.dispatch("order.paid")
    delivery = one(app)

    assert [handle(delivery), handle(delivery)] == [Ack(), Ack()]
    assert observed == ["pay", "called", "after [1]"]


def test_two_services_that_share_an_inbox_are_remembered_apart(
    app: App, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []
    other = App(
        transports={"main": app.transport()},
        outboxes={"main": app.outboxes["main"]},
        routes={"*": "main"},
        source="mail",
    )
    for each in (app, other):
        each.add_listener("order.paid", lambda event, call: ran.append(call.queue), id="on_paid", transactional=True)
    app.dispatch("order.paid")
    delivery = one(app)

    with caplog.at_level("INFO", logger="relevo.worker"):
        for each in (app, other, other):
            assert each.handle("main", each.listeners, checkpoint=None)(delivery) == Ack()

    assert ran == ["default", "default"]
    assert caplog.text.count("not called, since the inbox remembers that it is done") == 1


def test_the_inbox_remembers_that_the_propagation_was_stopped(app: App, engine: sa.Engine) -> None:
    ran: list[str] = []

    @app.listener("order.paid", transactional=True, priority=1)
    def first(event: Event, call: Call) -> None:
        ran.append("first")
        call.stop_propagation()

    @app.listener("order.paid")
    def second(event: Event) -> None:
        ran.append("second")

    handle = app.handle("main", app.listeners, checkpoint=None)
    app.dispatch("order.paid")
    delivery = one(app)

    outcomes = [handle(delivery), handle(delivery)]

    assert outcomes == [Ack(), Ack()]
    assert ran == ["first"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_renamed_listener_is_remembered(app: App, engine: sa.Engine, order: int) -> None:
    """During a rolling deploy, an event may come to a worker of the earlier release after one of the later."""
    ran: list[str] = []

    def pay(event: Event, call: Call) -> None:
        ran.append(call.listener_id)

    app.dispatch("order.paid")
    delivery = one(app)
    releases: list[tuple[str, tuple[str, ...]]] = [("old", ()), ("new", ("old",))]
    for name, aliases in releases[::order]:
        listener = app.add_listener("order.paid", pay, id=name, aliases=aliases, transactional=True)
        assert app.handle("main", app.listeners, checkpoint=None)(delivery) == Ack()
        app.remove_listener(listener)

    assert ran == [releases[::order][0][0]]


def test_each_listener_and_each_queue_is_remembered_by_itself(app: App, engine: sa.Engine) -> None:
    ran: list[str] = []

    @app.listener("order.paid", transactional=True)
    def first(event: Event, call: Call) -> None:
        ran.append("first")

    @app.listener("order.paid", transactional=True, retry=relevo.Retry(2, first=0.0))
    def second(event: Event, call: Call) -> None:
        ran.append("second")
        if len(ran) == 2:
            raise ValueError("not yet")

    handle = app.handle("main", app.listeners, checkpoint=None)
    app.dispatch("order.paid")
    delivery = one(app)

    outcomes = [handle(delivery), handle(delivery)]

    assert [type(each) for each in outcomes] == [Nack, Ack]
    assert ran == ["first", "second", "second"]


@pytest.mark.parametrize("trace", [{"attempt": 2}, {"lost_leases": 1}, {"state": True}, {}], ids=str)
def test_an_event_that_comes_again_goes_on_after_its_last_step(
    app: App, engine: sa.Engine, trace: dict[str, Any]
) -> None:
    ran: list[int] = []
    errors = [ValueError("not yet")]

    @app.listener("order.paid", transactional=True)
    def pay(event: Event, call: Call) -> None:
        def add(number: int) -> None:
            ran.append(number)
            call.session.execute(sa.insert(SHIPPED).values(number=number))

        call.step("first", add, 1)
        if errors:
            raise errors.pop()
        call.step("second", add, 2)

    handle = app.handle("main", app.listeners, checkpoint=None)
    app.dispatch("order.paid")
    delivery = one(app)
    failed = handle(delivery)
    assert isinstance(failed, Nack)
    if "state" in trace:
        trace = {"state": hastened(failed.state or b"")}

    outcome = handle(attrs.evolve(delivery, **trace))
    if not trace:  # it meets the note at its first commit, and is given back
        assert isinstance(outcome, Nack)
        outcome = handle(attrs.evolve(delivery, state=hastened(outcome.state or b"")))

    assert isinstance(outcome, Ack)
    assert ran == ([1, 2] if trace else [1, 1, 2])
    assert shipped(engine) == [1, 2]
    app.transport().settle([(delivery, Ack())])


def test_too_many_finished_steps_make_a_dead_letter(app: App) -> None:
    @app.listener("order.paid", transactional=True)
    def pay(event: Event, call: Call) -> None:
        for number in range(20):
            call.step(f"{number}", lambda: "x" * 1900)

    app.dispatch("order.paid")
    app.drain(RunOptions(until_empty=True, settle=10))

    (letter,) = app.transport().dead_letters(["default"])
    assert letter.reason == "state-too-large"
    assert "finished steps take" in letter.error


@pytest.mark.parametrize("note", ["'nonsense'", "x'ff'", "'\"steps\"'", "1000000000000", "0.5"])
def test_a_note_that_was_changed_by_hand_is_an_error_that_says_where(app: App, engine: sa.Engine, note: str) -> None:
    @app.listener("order.paid", transactional=True, retry=relevo.Retry(2, first=0.0))
    def pay(event: Event, call: Call) -> None:
        call.step("first", int)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE relevo_inbox SET state = {note}")  # noqa: S608 - of this test
        raise ValueError("not yet")

    app.dispatch("order.paid")
    app.drain(RunOptions(until_empty=True, settle=10))

    (letter,) = app.transport().dead_letters(["default"])
    assert "the record of finished steps in the inbox is not readable" in letter.error


def test_an_outbox_that_is_no_inbox_is_refused(rabbitmq_url: str) -> None:
    broker = AmqpTransport(rabbitmq_url)
    app = App(transports={"main": broker}, outboxes={"main": MemoryTransport()}, routes={"*": "main"}, source="shop")

    @app.listener("order.paid", transactional=True)
    def pay(event: Event, call: Call) -> None: ...

    with pytest.raises(ConfigurationError, match="give the transport an outbox in the database of its rows"):
        app.worker()


def test_while_the_inbox_cannot_be_asked_an_event_waits_and_no_run_counts(
    app: App, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def unreachable(_: str) -> bytes | None:
        raise TransportUnavailableError("main.outbox", "unreachable")

    @app.listener("order.paid", transactional=True, retry=1, priority=1)
    def pay(event: Event, call: Call) -> None:
        ran.append(call.attempt)

    @app.listener("order.paid")
    def thank(event: Event) -> None:
        ran.append(0)

    app.dispatch("order.paid")
    delivery = one(app)
    handle = app.handle("main", app.listeners, checkpoint=None)
    with monkeypatch.context() as patched:
        patched.setattr(app.outboxes["main"], "remembered", unreachable)
        waits = handle(delivery)

    assert isinstance(waits, Nack)
    assert (round(waits.delay), waits.reason, ran) == (1, "transaction-unavailable", [0])

    app.transport().settle([(delivery, waits)])
    report = app.drain(RunOptions(until_empty=True, settle=20))

    assert (report.done, ran) == (1, [0, 1])


def test_without_the_table_of_the_inbox_an_event_waits_and_no_run_counts(app: App, engine: sa.Engine) -> None:
    ran: list[int] = []

    @app.listener("order.paid", transactional=True, retry=1)
    def pay(event: Event, call: Call) -> None:
        ran.append(call.attempt)

    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE relevo_inbox")
    app.dispatch("order.paid")
    delivery = one(app)

    waits = app.handle("main", app.listeners, checkpoint=None)(delivery)

    assert isinstance(waits, Nack)
    assert (round(waits.delay), waits.reason, ran) == (1, "transaction-unavailable", [])


def test_after_a_commit_of_which_nothing_is_known_the_event_waits(
    app: App, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    store = app.outboxes["main"]
    assert isinstance(store, SqlTransport)
    inbox = store._inbox

    def unreachable(_: str) -> bool:
        raise TransportUnavailableError("main.outbox", "unreachable")

    def commit_without_an_answer(connection: sqlite3.Connection) -> None:
        connection.commit()
        raise sqlite3.OperationalError("the connection is lost")

    @app.listener("order.paid", transactional=True, retry=1)
    def pay(event: Event, call: Call) -> None:
        ran.append(call.attempt)
        call.session.execute(sa.insert(SHIPPED).values(number=1))
        monkeypatch.setattr(engine.dialect, "do_commit", commit_without_an_answer)
        monkeypatch.setattr(inbox, "has", unreachable)

    app.dispatch("order.paid")
    delivery = one(app)
    handle = app.handle("main", app.listeners, checkpoint=None)
    waits = handle(delivery)
    monkeypatch.undo()
    assert isinstance(waits, Nack)
    again = handle(attrs.evolve(delivery, state=waits.state or b""))

    assert (round(waits.delay), waits.reason, again) == (1, "commit-unknown", Ack())
    assert (ran, shipped(engine)) == ([1], [1])
    assert "refused" not in caplog.text


def test_a_worker_refuses_to_start_without_the_table_of_the_inbox(app: App, engine: sa.Engine) -> None:
    """With ``setup = "explicit"`` it is not created."""
    table = app.outboxes["main"]
    explicit = App(
        transports={"main": app.transport()},
        outboxes={"main": table},
        routes={"*": "main"},
        source="shop",
        setup="explicit",
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE relevo_inbox")

    @explicit.listener("order.paid")
    def thank(event: Event) -> None: ...

    explicit.drain()

    @explicit.listener("order.paid", transactional=True)
    def pay(event: Event, call: Call) -> None: ...

    with pytest.raises(ConfigurationError, match="relevo setup"):
        explicit.drain()


def test_the_check_finds_that_the_table_of_the_inbox_is_missing(
    rabbitmq_url: str, forget: Callable[[App], None], tmp_path: Path, engine: sa.Engine
) -> None:
    main = f'url="{rabbitmq_url}", prefix="inbox-{uuid.uuid4().hex[:8]}", levels=8, settle_in=0'
    (tmp_path / "relevo.toml").write_text(
        f'source = "shop"\nlisteners = ["payments"]\nsetup = "explicit"\n[transports]\nmain = {{{main}, outbox="sqlite:///shop.db"}}\n'
        '[routes]\n"*" = "main"\n'
    )
    (tmp_path / "payments.py").write_text(
        'import relevo\n@relevo.listener("order.paid", transactional=True)\ndef pay(event, call): ...\n'
    )
    app = App.from_config(tmp_path / "relevo.toml", environ={})
    app.setup()
    found = []
    for statement in ("SELECT 1", "DROP TABLE relevo_inbox"):
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        check = [sys.executable, "-m", "relevo", "check", "--live"]
        found.append(subprocess.run(check, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60))
    forget(app)
    app.close()

    assert [each.returncode for each in found] == [0, 78]
    assert "inbox of main" in found[1].stdout
