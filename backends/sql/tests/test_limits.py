"""What counts against limits on real databases: many callers at once, the first row, and what else is in the table."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from relevo import MAX_ANNOUNCEMENT
from relevo.errors import TransportUnavailableError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport

from .on_server import execute

Opener = Callable[..., SqlTransport]

THREADS, TIMES = 8, 50
PROCESSES, TIMES_IN_A_PROCESS = 3, 20
TTL = 60.0
KEY = "f" * 40


def increased(before: bytes, _: float = 0.0) -> bytes:
    return b"%d" % (int(before or b"0") + 1)


def stored(transport: SqlTransport, key: str = KEY) -> bytes:
    """Return what is stored under *key*, without a change of it."""

    class Seen(Exception):  # noqa: N818 - ends the change, so that nothing is stored
        pass

    found: list[bytes] = []

    def look(before: bytes, _: float) -> bytes:
        found.append(before)
        raise Seen

    with pytest.raises(Seen):
        transport.change_limit(key, look, ttl=TTL)
    return found[-1]


def opened(opener: Opener, url: str, number: int, *clock: FakeClock, **options: Any) -> list[SqlTransport]:
    """Return a *number* of transports on one database, each as in a process of its own."""
    first = opener(*clock, url=url, **options)
    address = first.url.render_as_string(hide_password=False)
    return [first, *(opener(*clock, url=address, **options) for _ in range(number - 1))]


def at_once(number: int, act: Callable[[int], None]) -> None:
    """Call *act* with each index below *number*, in threads that begin together."""
    start = threading.Barrier(number)

    def run(index: int) -> None:
        start.wait(30)
        act(index)

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(run, range(number)))


@pytest.mark.parametrize("shared", [True, False], ids=["one transport", "a transport for each"])
def test_what_many_threads_add_is_the_exact_sum(
    opener: Opener, url: str, options: dict[str, Any], *, shared: bool
) -> None:
    transports = opened(opener, url, 1 if shared else THREADS, **options)

    def add(index: int) -> None:
        for _ in range(TIMES):
            transports[index % len(transports)].change_limit(KEY, increased, ttl=TTL)

    at_once(THREADS, add)

    assert stored(transports[0]) == b"%d" % (THREADS * TIMES)


IN_A_PROCESS = """
import sys
from relevo_sql import SqlTransport

with SqlTransport(sys.argv[1], dialect=sys.argv[2] or None) as transport:
    for _ in range(int(sys.argv[3])):
        transport.change_limit("f" * 40, lambda before, now: b"%d" % (int(before or b"0") + 1), ttl=60.0)
"""


def test_what_processes_add_is_the_exact_sum(opener: Opener, url: str, options: dict[str, Any]) -> None:
    (transport,) = opened(opener, url, 1, **options)
    address = transport.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", IN_A_PROCESS, address, options.get("dialect", ""), str(TIMES_IN_A_PROCESS)]

    processes = [subprocess.Popen(command) for _ in range(PROCESSES)]

    assert [each.wait(120) for each in processes] == [0] * PROCESSES
    assert stored(transport) == b"%d" % (PROCESSES * TIMES_IN_A_PROCESS)


def test_of_many_first_changes_none_is_lost(opener: Opener, url: str, options: dict[str, Any]) -> None:
    transports = opened(opener, url, THREADS, **options)
    for number in range(5):
        key, both = f"{number:x}", threading.Barrier(THREADS)
        waited: list[int] = []

        def first(index: int, key: str = key, both: threading.Barrier = both, waited: list[int] = waited) -> None:
            def add(before: bytes, _: float) -> bytes:
                if index not in waited:
                    waited.append(index)
                    both.wait(30)  # until all have read, and found nothing
                return increased(before)

            transports[index].change_limit(key, add, ttl=TTL)

        at_once(THREADS, first)

        assert stored(transports[0], key) == b"%d" % THREADS


def test_a_change_that_was_overtaken_is_made_of_what_the_other_has_stored(
    opener: Opener, url: str, options: dict[str, Any]
) -> None:
    one, other = opened(opener, url, 2, **options)
    for meanwhile, expected in ((b"2", b"3"), (b"", b"1"), (b"1", b"2")):
        one.change_limit(KEY, lambda *_: b"1", ttl=TTL)
        calls: list[bytes] = []

        def add(before: bytes, _: float, calls: list[bytes] = calls, meanwhile: bytes = meanwhile) -> bytes:
            calls.append(before)
            if len(calls) == 1:
                other.change_limit(KEY, lambda *_: meanwhile, ttl=TTL)
            return increased(before)

        one.change_limit(KEY, add, ttl=TTL)

        assert stored(other) == expected
        assert calls[0] == b"1"
        assert calls[-1] == meanwhile


def test_a_removal_that_was_overtaken_removes_nothing_of_the_other(
    opener: Opener, url: str, options: dict[str, Any]
) -> None:
    one, other = opened(opener, url, 2, **options)
    one.change_limit(KEY, increased, ttl=TTL)
    calls: list[bytes] = []

    def remove_the_first(before: bytes, _: float) -> bytes:
        calls.append(before)
        if before == b"1":
            other.change_limit(KEY, increased, ttl=TTL)
            return b""
        return before + b" stays"

    one.change_limit(KEY, remove_the_first, ttl=TTL)

    assert calls == [b"1", b"2"]
    assert stored(other) == b"2 stays"


def test_one_who_is_always_overtaken_is_not_left_without_an_end(
    opener: Opener, url: str, options: dict[str, Any]
) -> None:
    one, other = opened(opener, url, 2, **options)
    one.hurry(0.3)

    def overtaken(before: bytes, _: float) -> bytes:
        other.change_limit(KEY, increased, ttl=TTL)
        return increased(before)

    with pytest.raises(TransportUnavailableError, match=r"has other writers, which were faster each time for 0\.\d+ s"):
        one.change_limit(KEY, overtaken, ttl=TTL)


def test_an_expired_row_counts_as_nothing_and_is_replaced(
    opener: Opener, url: str, options: dict[str, Any], clock: FakeClock
) -> None:
    one, other = opened(opener, url, 2, clock, **options)
    one.change_limit(KEY, lambda *_: b"old", ttl=TTL)
    one.change_limit("a", lambda *_: b"older", ttl=TTL)
    clock.advance(TTL - 0.001)
    assert stored(other) == b"old"
    clock.advance(0.001)

    assert stored(other) == b""
    other.change_limit(KEY, increased, ttl=TTL)
    other.change_limit("a", lambda *_: b"", ttl=TTL)

    assert stored(one) == b"1"
    assert keys_of(one) == [f"limit/{KEY}"]


def test_an_announcement_removes_expired_rows_and_no_other(
    opener: Opener, url: str, options: dict[str, Any], clock: FakeClock
) -> None:
    (transport,) = opened(opener, url, 1, clock, **options)
    transport.change_limit("a", increased, ttl=TTL)
    transport.change_limit("b", increased, ttl=2 * TTL)
    clock.advance(TTL)

    transport.announce("w1", b"here", ttl=TTL)

    assert keys_of(transport) == ["limit/b", "w1"]


@pytest.mark.parametrize("ending", [b"", b"\x00", b"\xff\xfe%'\\"])
def test_the_longest_value_is_stored_and_compared_unchanged(
    opener: Opener, url: str, options: dict[str, Any], ending: bytes
) -> None:
    one, other = opened(opener, url, 2, **options)
    value = (bytes(range(256)) * 128)[: MAX_ANNOUNCEMENT - len(ending)] + ending
    assert len(value) == MAX_ANNOUNCEMENT
    one.change_limit(KEY, lambda *_: value, ttl=100 * 365 * 86_400.0)

    assert stored(other) == value
    other.change_limit(KEY, lambda before, _: before[::-1], ttl=TTL)
    assert stored(one) == value[::-1]


def test_values_controls_and_announcements_of_one_key_are_apart(
    opener: Opener, url: str, options: dict[str, Any]
) -> None:
    one, other = opened(opener, url, 2, **options)

    one.change_limit("a1", lambda *_: b"counted", ttl=TTL)
    assert other.workers() == {}
    assert other.controls() == {}

    one.announce("a1", b"said", ttl=TTL)
    one.set_control("a1", b"asked", ttl=TTL)
    assert other.workers() == {"a1": b"said"}
    assert other.controls() == {"a1": b"asked"}
    assert stored(other, "a1") == b"counted"

    other.set_control("a1", b"", ttl=0.0)
    other.announce("a1", b"", ttl=0.0)
    assert stored(one, "a1") == b"counted"
    one.change_limit("a1", lambda *_: b"", ttl=TTL)
    assert keys_of(one) == []


def test_a_change_of_a_stored_value_takes_two_statements(opener: Opener, url: str, options: dict[str, Any]) -> None:
    (transport,) = opened(opener, url, 1, **options)
    transport.change_limit(KEY, increased, ttl=TTL)
    seen: list[str] = []
    sa.event.listen(transport._database.engine, "before_cursor_execute", lambda *call: seen.append(call[2].split()[0]))

    transport.change_limit(KEY, increased, ttl=TTL)

    assert [word for word in seen if word not in ("BEGIN", "COMMIT")] == ["SELECT", "UPDATE"]


@pytest.mark.parametrize(("column", "value"), [("about", "'text'"), ("about", "7"), ("until", "'text'")])
def test_what_was_stored_by_hand_with_another_type_counts_as_nothing(opener: Opener, column: str, value: str) -> None:
    """Only SQLite stores it."""
    transport = opener()
    transport.change_limit(KEY, increased, ttl=TTL)
    execute(transport.url, f"UPDATE relevo_announcement SET {column} = {value}")  # noqa: S608 - of this test

    transport.change_limit(KEY, increased, ttl=TTL)

    assert stored(transport) == b"1"


@pytest.mark.parametrize("scheme", ["postgresql", "mariadb"])
def test_without_a_server_the_store_is_unavailable(opener: Opener, options: dict[str, Any], scheme: str) -> None:
    transport = opener(url=f"{scheme}://shop@127.0.0.1:1/shop", setup=False, **options)

    with pytest.raises(TransportUnavailableError, match="cannot be reached"):
        transport.change_limit(KEY, increased, ttl=TTL)


def keys_of(transport: SqlTransport) -> list[str]:
    """Return the keys of all rows among the announcements."""
    with transport._database.engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT worker FROM relevo_announcement ORDER BY worker")
        return [str(key) for (key,) in found]
