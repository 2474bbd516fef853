"""Threads that send at the same time share commits; what happens to one of them does not happen to the others."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa

from relevo import Envelope
from relevo.errors import SendError, TransportUnavailableError
from relevo_sql import SqlTransport
from relevo_sql._group_commit import _Request, _Status

from .on_postgresql import ids, wait_until

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.fixture(name="transport", params=["sqlite", "postgresql_database", "mariadb_database"])
def _transport(request: pytest.FixtureRequest, opener: Opener) -> SqlTransport:
    return opener() if request.param == "sqlite" else opener(url=request.getfixturevalue(request.param))


@attrs.define
class Inserts:
    """Calls *first* and *second* before the first and the second insert."""

    first: Callable[[], None]
    second: Callable[[], None] = lambda: None
    seen: int = 0

    def before(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "INTO relevo_event" in statement:
            self.seen += 1
            {1: self.first, 2: self.second}.get(self.seen, lambda: None)()


@contextmanager
def listening(transport: SqlTransport, moment: str, listener: Callable[..., None]) -> Iterator[None]:
    sa.event.listen(transport._database.engine, moment, listener)
    try:
        yield
    finally:
        sa.event.remove(transport._database.engine, moment, listener)


def result_of(transport: SqlTransport, envelopes: Sequence[Envelope]) -> BaseException | None:
    try:
        transport.send(envelopes)
    except BaseException as error:  # noqa: BLE001 - an interrupt is one
        return error
    return None


def sent_together(
    transport: SqlTransport, calls: Sequence[Sequence[Envelope]], second: Callable[[], None] = lambda: None
) -> list[BaseException | None]:
    """Send all *calls* while another send is in its transaction; call *second* in their own; return their results."""
    begun = threading.Event()

    def first() -> None:
        begun.set()
        wait_until(lambda: len(transport._group_commit._queue) == len(calls))

    inserts = Inserts(first, second)
    with listening(transport, "before_cursor_execute", inserts.before), ThreadPoolExecutor(len(calls) + 1) as pool:
        alone = pool.submit(transport.send, [_plain("first")])
        begun.wait()
        results = list(pool.map(lambda envelopes: result_of(transport, envelopes), calls))
        alone.result()
    return results


def _plain(event_id: str, **fields: Any) -> Envelope:
    return Envelope(id=event_id, source="shop", name="image.created", body=b"{}", **fields)


def seven() -> list[list[Envelope]]:
    return [[_plain(f"id-{number}")] for number in range(7)]


def test_what_was_sent_meanwhile_is_one_insert(transport: SqlTransport) -> None:
    number = 0

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal number
        number += "INTO relevo_event" in statement

    with listening(transport, "before_cursor_execute", count):
        assert sent_together(transport, seven()) == [None] * 7

    assert number == 2
    assert sorted(ids(transport)) == ["first", *(f"id-{number}" for number in range(7))]


def test_lists_and_events_of_a_key_share_a_commit(transport: SqlTransport) -> None:
    calls = [[_plain(f"{key}-{number}", ordering_key=key) for number in range(3)] for key in (None, "k")]

    assert sent_together(transport, calls) == [None, None]

    there = ids(transport)
    assert [one for one in there if one.startswith("None")] == ["None-0", "None-1", "None-2"]
    assert [one for one in there if one.startswith("k")] == ["k-0"]


def test_a_row_that_cannot_be_written_is_refused_alone(transport: SqlTransport) -> None:
    calls = seven()
    calls[3] = [_plain("bad", ordering_key="\ud800")]

    results = sent_together(transport, calls)

    refused = results.pop(3)
    assert isinstance(refused, SendError)
    assert refused.refused == (0,)
    assert results == [None] * 6
    assert sorted(ids(transport)) == ["first", *(f"id-{number}" for number in range(7) if number != 3)]


def test_a_commit_that_may_have_happened_is_unknown_to_all(transport: SqlTransport) -> None:
    inserts = Inserts(lambda: None)
    driver: Any = transport._database.engine.dialect.loaded_dbapi

    def fail(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        inserts.before(_connection, _cursor, statement)
        if inserts.seen == 2 and statement.lstrip().startswith(_committing(transport)):
            raise sa.exc.OperationalError(statement, (), driver.OperationalError("disk I/O error"))

    with listening(transport, "after_cursor_execute", fail):
        results = sent_together(transport, seven())

    assert all(isinstance(each, SendError) and each.unknown == (0,) for each in results)
    assert sorted(ids(transport)) == ["first", *(f"id-{number}" for number in range(7))]


def test_an_interrupt_reaches_one_thread_only(transport: SqlTransport) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    results = sent_together(transport, seven(), interrupt)

    assert sum(isinstance(each, KeyboardInterrupt) for each in results) == 1
    there = ids(transport)
    for number, each in enumerate(results):
        if each is None:
            assert f"id-{number}" in there
        elif not isinstance(each, KeyboardInterrupt):
            assert isinstance(each, SendError)
            assert each.unknown == (0,)
            assert "interrupted" in each.why
    if not transport._database.dialect.max_autocommit_rows > 1:  # it is certain that nothing was committed
        assert results.count(None) == 6


def test_an_interrupt_in_the_commit_is_unknown_to_the_others(transport: SqlTransport) -> None:
    inserts = Inserts(lambda: None)

    def interrupt(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        inserts.before(_connection, _cursor, statement)
        if inserts.seen == 2 and statement.lstrip().startswith(_committing(transport)):
            raise KeyboardInterrupt

    with listening(transport, "after_cursor_execute", interrupt):
        results = sent_together(transport, seven())

    assert sum(isinstance(each, KeyboardInterrupt) for each in results) == 1
    assert sum(isinstance(each, SendError) and each.unknown == (0,) for each in results) == 6


def _committing(transport: SqlTransport) -> tuple[str, ...]:
    """Return how the statement begins that commits several rows."""
    return ("INSERT", "WITH") if transport._database.dialect.max_autocommit_rows > 1 else ("COMMIT",)


class Interrupted(BaseException):
    pass


@contextmanager
def a_leader(transport: SqlTransport, meanwhile: Callable[[], None]) -> Iterator[ThreadPoolExecutor]:
    """
    Let another thread send, and call *meanwhile* in its transaction; SIGUSR1 interrupts this thread.

    Yields the threads, once the transaction has begun.
    """
    begun = threading.Event()

    def lead() -> None:
        begun.set()
        meanwhile()

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with listening(transport, "before_cursor_execute", Inserts(lead).before), ThreadPoolExecutor(2) as pool:
            leading = pool.submit(transport.send, [_plain("first")])
            begun.wait()
            yield pool
            leading.result()
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupt_the_main_thread() -> None:
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGUSR1)


def test_what_an_interrupted_thread_queued_is_not_written_later(transport: SqlTransport) -> None:
    queue = transport._group_commit._queue

    def meanwhile() -> None:
        wait_until(lambda: len(queue) == 1)
        interrupt_the_main_thread()
        wait_until(lambda: not queue)

    with a_leader(transport, meanwhile), pytest.raises(Interrupted):
        transport.send([_plain("second")])
    transport.send([_plain("third")])

    assert ids(transport) == ["first", "third"]


def test_a_thread_behind_an_interrupted_one_is_woken(transport: SqlTransport) -> None:
    queue = transport._group_commit._queue
    behind: list[Any] = []

    def meanwhile() -> None:
        wait_until(lambda: len(queue) == 1)
        behind.append(pool.submit(transport.send, [_plain("third")]))
        wait_until(lambda: len(queue) == 2)
        interrupt_the_main_thread()
        wait_until(lambda: len(queue) == 1)

    with a_leader(transport, meanwhile) as pool, pytest.raises(Interrupted):
        transport.send([_plain("second")])
    behind[0].result()

    assert ids(transport) == ["first", "third"]


def test_an_interrupt_while_results_are_reported_leaves_no_thread_waiting(
    transport: SqlTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, reported = _Request.end, itertools.count()

    def end(request: _Request, status: _Status, error: Exception | None = None) -> None:
        if next(reported) == 3:  # of the seven that are sent together
            raise KeyboardInterrupt
        report(request, status, error)

    monkeypatch.setattr(_Request, "end", end)

    results = sent_together(transport, seven())

    assert sum(isinstance(each, KeyboardInterrupt) for each in results) == 1
    assert all(each is None or not isinstance(each, SendError) or each.unknown == (0,) for each in results)
    assert sorted(ids(transport)) == ["first", *(f"id-{number}" for number in range(7))]


def test_a_lock_of_another_writer_is_waited_for_by_all(opener: Opener, path: Path) -> None:
    transport = opener(busy_timeout=1000)
    group_commit = transport._group_commit

    def each_waits_by_itself() -> bool:
        is_free = group_commit._leading.acquire(blocking=False)
        if is_free:
            group_commit._leading.release()
        return is_free and not group_commit._queue

    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(8) as pool:
        other.execute("BEGIN IMMEDIATE")
        sending = [pool.submit(transport.send, envelopes) for envelopes in seven()]
        wait_until(lambda: any(each.running() for each in sending) and each_waits_by_itself())
        other.execute("COMMIT")
        for each in sending:
            each.result()

    assert sorted(ids(transport)) == [f"id-{number}" for number in range(7)]


def test_a_lock_that_stays_is_reported_to_all(opener: Opener, path: Path) -> None:
    transport = opener(busy_timeout=0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(8) as pool:
        other.execute("BEGIN IMMEDIATE")
        results = list(pool.map(lambda envelopes: result_of(transport, envelopes), seven()))
        other.execute("ROLLBACK")

    assert all("is locked by another writer" in str(each) for each in results)
    assert ids(transport) == []


def test_threads_that_send_in_any_order_lose_nothing(transport: SqlTransport) -> None:
    def send(thread: int) -> None:
        for number in range(25):
            transport.send([_plain(f"{thread}-{number}-{part}") for part in range(1 + number % 3)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))

    there: list[str] = []
    while found := ids(transport):
        there += found
    assert len(there) == len(set(there)) == 8 * sum(1 + number % 3 for number in range(25))


def test_a_signal_handler_that_sends_in_the_middle_of_a_send_is_refused(transport: SqlTransport) -> None:
    def handle() -> None:  # it runs in the thread that it interrupts
        with pytest.raises(TransportUnavailableError, match="interrupted by a signal handler"):
            transport.send([_plain("second")])

    with listening(transport, "before_cursor_execute", Inserts(handle).before):
        transport.send([_plain("first")])

    assert ids(transport) == ["first"]


def test_a_signal_handler_that_sends_in_the_middle_of_a_claim_is_refused(transport: SqlTransport) -> None:
    transport.send([_plain("first")])
    transport._settling.identity()  # connects, where it is another connection
    refused: list[str] = []
    handling: list[object] = []

    def handle(*_: object) -> None:
        if handling:  # the send looks at the time of the database
            return
        handling.append(1)
        try:
            transport.send([_plain("second")])
        except TransportUnavailableError as error:
            refused.append(str(error))
        finally:
            handling.clear()

    with listening(transport, "after_cursor_execute", handle):
        assert ids(transport) == ["first"]

    assert any("interrupted by a signal handler" in each for each in refused)
    there = ids(transport)
    assert len(there) == len(set(there))


def test_a_thread_waits_for_another_one_no_longer_than_for_another_writer(opener: Opener, path: Path) -> None:
    transport = opener(busy_timeout=0.05)
    with ThreadPoolExecutor(1) as pool, transport._database._lock:  # as during a call that gets no answer
        refused = pool.submit(result_of, transport, [_plain("first")]).result()

    assert isinstance(refused, TransportUnavailableError)
    assert "another thread of this process" in str(refused)
    assert ids(transport) == []
