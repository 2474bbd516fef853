"""A database keeps dead letters of another transport: every kind of database alike."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa

from relevo import DeadLetterEntry, Envelope, Unreadable
from relevo.errors import SendError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport

QUEUE = "outbox/rabbit/media"
Open = Callable[[], SqlTransport]

ON_A_SERVER = pytest.mark.slow("about a server, not Python")
KINDS = [
    "sqlite",
    "portable",
    pytest.param("portable on mariadb", marks=[ON_A_SERVER, pytest.mark.mariadb]),
    pytest.param("postgresql", marks=[ON_A_SERVER, pytest.mark.postgresql]),
    pytest.param("mariadb", marks=[ON_A_SERVER, pytest.mark.mariadb]),
]
DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
PATIENCE = 60.0


@pytest.fixture(name="another", params=KINDS)
def _another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open a transport beside the others, as another process does."""
    url = sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")
    kind = request.param.rpartition(" ")[2]
    if driver := DRIVERS.get(kind):
        url = sa.make_url(request.getfixturevalue(f"{kind}_database")).set(drivername=driver)
    clock = FakeClock()

    def another() -> SqlTransport:
        engine = sa.create_engine(url)
        stack.callback(engine.dispose)
        dialect = "portable" if request.param.startswith("portable") else None
        transport = stack.enter_context(SqlTransport(engine, clock=clock, dialect=dialect))
        transport.setup(["media"])
        return transport

    with ExitStack() as stack:
        yield another


@pytest.fixture(name="keeper")
def _keeper(another: Open) -> SqlTransport:
    return another()


def letter(number: int = 1, *, queue: str = QUEUE, **changes: Any) -> DeadLetterEntry:
    """Return a dead letter of the event with that *number*, as another transport has it."""
    envelope = Envelope(id=str(number), source="shop", name="image.created", queue="media", body=b"{}")
    given: dict[str, Any] = {"ref": "", "reason": "retries-exhausted", "error": "", "state": b"", **changes}
    return DeadLetterEntry(
        queue=queue,
        **{"envelope": envelope, "attempt": 1, "lost_leases": 0, "enqueued_at": 5.0, "died_at": 7.0, **given},
    )


def entries(keeper: SqlTransport, queue: str = QUEUE) -> Sequence[DeadLetterEntry]:
    return keeper.dead_letters([queue])


def test_what_is_kept_is_read_as_it_was_given(keeper: SqlTransport) -> None:
    envelope = Envelope(
        id="é" * 255, source="s" * 255, name="n" * 255, queue="media", body=b"\0\xff", headers={"a": "\0é"},
        urgency="high", ordering_key="k", expires=9.5,
    )  # fmt: skip
    bytes_ = Unreadable(raw=b"\0\xff", headers={"a": "b"}, why="")
    given = [
        letter(envelope=envelope, error="why", state=b"\0state", attempt=4, lost_leases=2, enqueued_at=1.25),
        letter(envelope=bytes_, reason="unreadable", died_at=8.000001),
    ]

    refs = keeper.keep_dead_letters(given)

    found = entries(keeper)
    assert [each.ref for each in found] == refs
    unreadable = found[1].envelope
    assert isinstance(unreadable, Unreadable)
    assert (unreadable.raw, unreadable.headers) == (bytes_.raw, bytes_.headers)
    shown = [attrs.evolve(each, ref="") for each in found]
    assert shown == [given[0], attrs.evolve(given[1], envelope=unreadable)]
    assert keeper.stats(QUEUE).dead == 2
    assert keeper.stats("media").dead == 0


def test_those_that_die_now_have_the_time_at_which_they_are_stored(keeper: SqlTransport) -> None:
    """Several processes store some: the clock that one of them has read before is not the order of the list."""
    for died_at in (9e9, 7.0):
        keeper.keep_dead_letters([letter(died_at=died_at), letter(2, died_at=died_at)], dying=True)

    died = [each.died_at for each in entries(keeper)]
    assert died == sorted(died)
    assert 7.0 < died[0] < 9e9


def test_a_text_that_no_row_can_hold_is_kept_in_another_form(keeper: SqlTransport) -> None:
    keeper.keep_dead_letters([letter(reason="a\0b", error="\udc80", enqueued_at=float("nan"))])

    (found,) = entries(keeper)
    assert found.error == "\\udc80"
    assert found.reason in ("a\0b", "a\\0b")
    assert found.enqueued_at == found.died_at


def test_a_number_that_no_column_can_hold_is_kept_as_the_largest_one(keeper: SqlTransport) -> None:
    """A message of another program may hold any."""
    keeper.keep_dead_letters([letter(attempt=2**31, lost_leases=2**70, enqueued_at=-1e300)])

    (found,) = entries(keeper)
    assert (found.attempt, found.lost_leases) == (2**31 - 1, 2**31 - 1)
    assert found.enqueued_at < -1e12


def test_earlier_copies_are_replaced_and_nothing_else(keeper: SqlTransport) -> None:
    other_body = Envelope(id="1", source="shop", name="image.created", queue="media", body=b"[]")
    bytes_ = Unreadable(raw=b"{}", why="")
    before = [letter(), letter(2), letter(envelope=other_body), letter(queue=f"{QUEUE}2"), letter(envelope=bytes_)]
    refs = keeper.keep_dead_letters(before)
    mine, later = keeper.keep_dead_letters([letter(envelope=bytes_), letter(error="mine")])
    (last,) = keeper.keep_dead_letters([letter(error="last")])
    assert len(entries(keeper)) == 7, "each is kept beside the earlier ones"

    keeper.replace_earlier([mine, later])
    keeper.replace_earlier([mine, "none", f"{later}2"])

    assert [each.ref for each in entries(keeper)] == [refs[1], refs[2], refs[4], mine, later, last]
    assert len(entries(keeper, f"{QUEUE}2")) == 1


def test_only_what_is_chosen_is_removed(keeper: SqlTransport) -> None:
    refs = keeper.keep_dead_letters([letter(1), letter(2), letter(3)])
    asked: list[list[str]] = []

    def second(found: Sequence[DeadLetterEntry]) -> Iterable[str]:
        asked.append([each.ref for each in found])
        return [refs[1], "none"]

    missing = keeper.remove_dead_letters([*refs[:2], refs[0], "none", f"{refs[0]}2"], second)

    assert asked == [refs[:2]]
    assert sorted(missing) == sorted([refs[0], "none", f"{refs[0]}2"])
    assert [each.ref for each in entries(keeper)] == [refs[0], refs[2]]


def test_all_stay_if_what_comes_first_fails(keeper: SqlTransport) -> None:
    refs = keeper.keep_dead_letters([letter(1), letter(2)])

    def fail(_: object) -> Iterable[str]:
        raise OSError("no such host")

    with pytest.raises(OSError, match="no such host"):
        keeper.remove_dead_letters(refs, fail)

    assert [each.ref for each in entries(keeper)] == refs
    assert not keeper.discard(refs)


def test_of_two_that_remove_one_finds_it(another: Open) -> None:
    one, other = another(), another()
    refs = one.keep_dead_letters([letter()])
    entered, asked = threading.Event(), threading.Event()
    found: list[Sequence[DeadLetterEntry]] = []
    missing: list[Sequence[str]] = []

    def first(entries: Sequence[DeadLetterEntry]) -> Iterable[str]:
        entered.set()
        assert asked.wait(PATIENCE)
        found.append(entries)
        return refs

    def again(entries: Sequence[DeadLetterEntry]) -> Iterable[str]:
        found.append(entries)
        return [each.ref for each in entries]

    def remove_too() -> None:
        assert entered.wait(PATIENCE)
        asked.set()
        missing.append(other.remove_dead_letters(refs, again))

    thread = threading.Thread(target=remove_too)
    thread.start()
    missing.append(one.remove_dead_letters(refs, first))
    thread.join(PATIENCE)

    assert [len(each) for each in found] == [1, 0]
    assert sorted(map(list, missing)) == [[], list(refs)]
    assert not entries(one)


def test_a_transaction_that_is_repeated_calls_what_comes_first_once(tmp_path: Path) -> None:
    with SqlTransport(f"sqlite:///{tmp_path}/shop.db") as keeper:
        keeper.setup([])
        refs = keeper.keep_dead_letters([letter()])
        calls: list[int] = []
        locked = [sqlite3.OperationalError("database is locked")]

        @sa.event.listens_for(keeper._database.engine, "before_cursor_execute")
        def _(_: object, __: object, statement: str, *___: object) -> None:
            if statement.startswith("DELETE") and locked:
                raise sa.exc.OperationalError(statement, (), locked.pop())

        def first(entries: Sequence[DeadLetterEntry]) -> Iterable[str]:
            calls.append(len(entries))
            return refs

        assert list(keeper.remove_dead_letters(refs, first)) == []

        assert (calls, locked) == ([1], [])
        assert not entries(keeper)


def test_what_the_database_refuses_is_reported_as_refused_and_not_as_an_outage(tmp_path: Path) -> None:
    with SqlTransport(f"sqlite:///{tmp_path}/shop.db") as keeper:
        keeper.setup([])

        @sa.event.listens_for(keeper._database.engine, "before_cursor_execute")
        def _(_: object, __: object, statement: str, parameters: Sequence[object], *___: object) -> None:
            if b"large" in parameters:
                raise sa.exc.DataError(statement, (), sqlite3.DataError("string or blob too big"))

        with pytest.raises(SendError, match="too big"):
            keeper.keep_dead_letters([letter(1), letter(2, state=b"large")])

        assert not entries(keeper)
