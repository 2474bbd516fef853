"""Rows that a stranger wrote, or that somebody changed by hand: set aside, and nothing behind them waits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from relevo import Ack, DeadLetter, Envelope, Nack, Unreadable
from relevo.errors import SendError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport

Maker = Callable[..., Envelope]


def tamper(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(sql, values)


@pytest.mark.parametrize(
    ("change", "why", "raw"),
    [
        ("body = NULL", "body is NULL", b""),
        ("body = 'text'", "body holds text", b"text"),
        ("body = 7", "body holds a number, 7", b"7"),
        ("body = CAST(x'ff41' AS TEXT)", "body holds text that is not UTF-8", b"\xffA"),
        ("attempt = -1", "attempt holds -1", b'{"number":1}'),
        ("attempt = 'many'", "attempt holds text", b'{"number":1}'),
        ("lost_leases = -3", "lost_leases holds -3", b'{"number":1}'),
        ("lost_leases = 1.5", "lost_leases holds a number, 1.5", b'{"number":1}'),
        ("event_id = NULL", "event_id is NULL", b'{"number":1}'),
        ("event_id = x'00'", "event_id holds bytes", b'{"number":1}'),
        ("source = NULL", "source is NULL", b'{"number":1}'),
        ("name = CAST(x'c3' AS TEXT)", "name holds text that is not UTF-8", b'{"number":1}'),
        ("target = x'00'", "target holds bytes", b'{"number":1}'),
        ("ordering_key = x'00'", "ordering_key holds bytes", b'{"number":1}'),
        ("urgency = 9", "urgency holds 9", b'{"number":1}'),
        ("urgency = 'high'", "urgency holds text", b'{"number":1}'),
        ("expires = 'soon'", "expires holds text", b'{"number":1}'),
        ("headers = '[1]'", "headers holds no JSON", b'{"number":1}'),
        ("headers = '{\"a\": 1}'", "headers holds no JSON", b'{"number":1}'),
        ("headers = '{'", "headers holds no JSON", b'{"number":1}'),
        (
            'headers = \'{"a": "\\ud800"}\'',
            "headers holds no JSON object of texts, or one with a lone",
            b'{"number":1}',
        ),
        (
            'headers = \'{"\\udfff": "a"}\'',
            "headers holds no JSON object of texts, or one with a lone",
            b'{"number":1}',
        ),
        ("event_id = CAST(x'eda080' AS TEXT)", "event_id holds text that is not UTF-8", b'{"number":1}'),
        ("headers = x'00'", "headers holds no JSON", b'{"number":1}'),
        ("enqueued_at = 'then'", "enqueued_at holds text", b'{"number":1}'),
    ],
)
def test_a_row_that_is_no_envelope_is_set_aside_and_its_followers_flow(
    transport: SqlTransport, path: Path, an_envelope: Maker, change: str, why: str, raw: bytes
) -> None:
    transport.send([an_envelope(1), an_envelope(2)])
    tamper(path, f"UPDATE relevo_event SET {change} WHERE event_id = 'id-1'")  # noqa: S608 - of this list

    deliveries = transport.receive(["default"], limit=10, lease=60, wait=0)
    broken, sound = sorted(deliveries, key=lambda delivery: isinstance(delivery.envelope, Envelope))
    lost = transport.settle([(broken, DeadLetter(reason="unreadable")), (sound, Ack())])
    (entry,) = transport.dead_letters(["default"])

    assert isinstance(broken.envelope, Unreadable)
    assert why in broken.envelope.why
    assert broken.envelope.raw == raw
    assert (broken.attempt, broken.lost_leases) == (1, 0)
    assert sound.envelope == an_envelope(2)
    assert not lost
    assert entry.envelope == broken.envelope


@pytest.mark.parametrize(
    "value, state",
    [("'half'", b"half"), ("CAST(x'c3' AS TEXT)", b"\xc3"), ("7", b"7"), ("NULL", b""), ("x'00ff'", b"\x00\xff")],
)
def test_a_state_that_is_not_bytes_does_not_make_its_row_unreadable(
    transport: SqlTransport, path: Path, an_envelope: Maker, value: str, state: bytes
) -> None:
    transport.send([an_envelope(1)])
    tamper(path, f"UPDATE relevo_event SET progress = {value}")  # noqa: S608 - of this list

    (delivery,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    transport.dead_letter(delivery, reason="r")
    (entry,) = transport.dead_letters(["default"])

    assert delivery.envelope == entry.envelope == an_envelope(1)
    assert delivery.state == entry.state == state


def without_not_null(path: Path) -> None:
    """Make the columns of the file at *path* nullable, which only an edit of the schema itself can do."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL, ', ', ') WHERE name = 'relevo_event'"
        )


STRAYS = [
    ("state = 9", "the column state holds a number, 9"),
    ("state = 'ready'", "the column state holds text"),
    ("state = -1", "the column state holds a number, -1"),
    ("state = 0.5", "the column state holds a number, 0.5"),
    ("state = x'00'", "the column state holds bytes"),
    ("state = 2, ready_at = 'soon'", "the column ready_at holds text"),
    ("state = 2, ready_at = 9e99", "the column ready_at holds a number, 9e+99"),
    ("ready_at = 'soon'", "the column ready_at holds text"),
    ("state = 3", "the column ordering_key is NULL and the row waits"),
    ("state = 3, ordering_key = '42', target = NULL", "the column target is NULL and the row waits"),
    ("state = 1", "the column lease_until is NULL and the row is leased"),
    ("state = 1, token = 7, lease_until = 'soon'", "the column lease_until holds text and the row is leased"),
    ("state = 1, token = 7, lease_until = 9e99", "the column lease_until holds a number, 9e+99"),
    ("queue = x'64656661756c74'", "the column queue holds bytes"),
]


@pytest.mark.parametrize(("change", "why"), STRAYS)
def test_a_row_that_no_claim_would_find_is_handed_out_as_unreadable(
    transport: SqlTransport, path: Path, an_envelope: Maker, change: str, why: str
) -> None:
    transport.send([an_envelope(1), an_envelope(2)])
    tamper(path, f"UPDATE relevo_event SET {change} WHERE event_id = 'id-1'")  # noqa: S608 - of this list

    ready = transport.stats("default").ready
    stray, sound = transport.receive(["default"], limit=10, lease=60, wait=0)
    lost = transport.settle([(stray, DeadLetter(reason="unreadable")), (sound, Ack())])
    (entry,) = transport.dead_letters(["default"])
    transport.revive({entry.ref: b""})
    (again,) = transport.receive(["default"], limit=10, lease=60, wait=0)

    assert ready == 2
    assert isinstance(stray.envelope, Unreadable)
    assert why in stray.envelope.why
    assert stray.envelope.raw == b'{"number":1}'
    assert sound.envelope == an_envelope(2)
    assert not lost
    assert (entry.queue, entry.attempt, entry.lost_leases) == ("default", 1, 0)
    body = again.envelope.body if isinstance(again.envelope, Envelope) else again.envelope.raw
    assert body == b'{"number":1}'


def test_a_row_whose_time_is_missing_is_handed_out_as_unreadable(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    without_not_null(path)
    tamper(path, "UPDATE relevo_event SET state = 2, ready_at = NULL")

    (stray,) = transport.receive(["default"], limit=10, lease=60, wait=0)

    assert isinstance(stray.envelope, Unreadable)
    assert stray.envelope.why == "the column ready_at is NULL"


def test_no_more_rows_that_no_claim_would_find_are_handed_out_than_asked_for(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number) for number in range(5)])
    tamper(path, "UPDATE relevo_event SET state = 9 WHERE event_id < 'id-3'")

    batches = [transport.receive(["default"], limit=2, lease=60, wait=0) for _ in range(4)]

    assert [len(batch) for batch in batches] == [2, 2, 1, 0]


@pytest.mark.parametrize("change", [change for change, _ in STRAYS if "queue" not in change])
def test_a_row_that_no_claim_would_find_can_be_purged_and_cancelled(
    transport: SqlTransport, path: Path, an_envelope: Maker, change: str
) -> None:
    transport.send([an_envelope(1), an_envelope(2)])
    tamper(path, f"UPDATE relevo_event SET {change}")  # noqa: S608 - of this list

    cancelled = transport.cancel("id-1")
    purged = transport.purge("default")

    assert (cancelled, purged) == (1, 1)


@pytest.mark.parametrize("far", ["32503680000000000", "9223372036854775807"])  # the year 3000, and the last integer
def test_a_lease_that_ends_later_than_any_that_relevo_gives_is_over(
    transport: SqlTransport, path: Path, an_envelope: Maker, far: str
) -> None:
    transport.send([an_envelope(1), an_envelope(2)])
    transport.receive(["default"], limit=1, lease=60, wait=0)
    tamper(path, f"UPDATE relevo_event SET lease_until = {far} WHERE state = 1")  # noqa: S608 - of this list

    stats, (found,) = transport.stats("default"), transport.find("id-1")
    deliveries = transport.receive(["default"], limit=10, lease=60, wait=0)

    assert (stats.ready, stats.leased) == (2, 0)
    assert (found.status, found.lost_leases) == ("ready", 1)
    assert sorted((each.attempt, each.lost_leases) for each in deliveries) == [(1, 0), (2, 1)]


def test_a_lease_longer_than_the_longest_is_shortened_to_it(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])

    (held,) = transport.receive(["default"], limit=1, lease=1e12, wait=0)
    early = transport.receive(["default"], limit=1, lease=60, wait=0)
    transport.extend([held], lease=1e12)
    clock.advance(8 * 86_400)

    assert not early
    assert len(transport.receive(["default"], limit=1, lease=60, wait=0)) == 1


def test_those_behind_one_of_their_key_that_something_else_deleted_have_their_turn(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number, ordering_key="42") for number in (1, 2, 3)])
    tamper(path, "DELETE FROM relevo_event WHERE event_id = 'id-1'")

    (second,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    transport.settle([(second, Ack())])
    (third,) = transport.receive(["default"], limit=10, lease=60, wait=0)

    assert [second.envelope, third.envelope] == [an_envelope(number, ordering_key="42") for number in (2, 3)]


@pytest.mark.parametrize(
    "change",
    [*(change for change, _ in STRAYS if "9e99" not in change), "attempt = 0", "lost_leases = -1", "lease_until = 1"],
)
def test_a_writer_that_breaks_a_constraint_is_refused(path: Path, transport: SqlTransport, change: str) -> None:
    insert = "INSERT INTO relevo_event (queue, event_id, source, target) VALUES ('default', '1', 'shop', 'default')"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(insert)

        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed: relevo_event_"):
            connection.execute(f"UPDATE relevo_event SET {change}")  # noqa: S608 - of this list


def test_what_relevo_writes_breaks_no_constraint(
    transport: SqlTransport, path: Path, clock: FakeClock, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number, ordering_key="42" if number < 3 else None) for number in range(9)])
    transport.send([an_envelope(9)], delay=60)
    first, second, third, *_ = transport.receive(["default"], limit=6, lease=60, wait=0)
    transport.settle([(first, Nack(delay=5)), (second, Nack()), (third, DeadLetter(reason="broken"))])
    clock.advance(61)
    transport.receive(["default"], limit=2, lease=60, wait=0)
    transport.revive({entry.ref: b"" for entry in transport.dead_letters(["default"])})

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("ref", [2**63 - 1, 2**63 - 2])
def test_a_dead_letter_with_the_greatest_ref_holds_up_none_of_the_later_ones(
    transport: SqlTransport, path: Path, an_envelope: Maker, ref: int
) -> None:
    def bury(number: int) -> str:
        transport.send([an_envelope(number)])
        (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
        transport.dead_letter(delivery, reason="broken")
        known = {entry.ref: entry.envelope for entry in transport.dead_letters(["default"])}
        return next(ref for ref, envelope in known.items() if envelope == an_envelope(number))

    first = bury(1)
    tamper(path, f"INSERT INTO relevo_dead (ref, queue) VALUES ({ref}, 'default')")  # noqa: S608 - of this list
    later = [bury(number) for number in range(2, 5)]

    refs = [entry.ref for entry in transport.dead_letters(["default"])]
    pages = [transport.dead_letters(["default"], after=each, limit=1)[0].ref for each in refs[:-1]]
    last = refs[-1]
    missing = transport.discard([f"{ref}@default"])
    assert (first, len({first, *later})) == ("1@default", 4)
    assert pages == refs[1:]
    assert last == f"{2**63 - 1}@default"
    assert not missing
    assert not transport.revive(dict.fromkeys(later, b""))


@pytest.mark.parametrize("ref", [0, -1, -(2**63)])
def test_a_dead_letter_with_a_ref_that_is_not_positive_is_listed_and_can_be_revived(
    transport: SqlTransport, path: Path, ref: int
) -> None:
    tamper(path, f"INSERT INTO relevo_dead (ref, queue) VALUES ({ref}, 'default')")  # noqa: S608 - of this list

    (entry,) = transport.dead_letters(["default"])
    later = transport.dead_letters(["default"], after=entry.ref)
    missing = transport.revive({entry.ref: b""})

    assert entry.ref == f"{ref}@default"
    assert not later
    assert not missing


def test_the_order_of_a_key_is_kept_behind_the_greatest_row_of_all(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    tamper(path, f"INSERT INTO relevo_event (seq, queue) VALUES ({2**63 - 1}, 'other')")  # noqa: S608

    for number in range(20):
        transport.send([an_envelope(number, ordering_key="42")])
    received = []
    while deliveries := transport.receive(["default"], limit=10, lease=60, wait=0):
        received += [delivery.envelope for delivery in deliveries]
        transport.settle([(delivery, Ack()) for delivery in deliveries])

    assert received == [an_envelope(number, ordering_key="42") for number in range(20)]


def test_large_dead_letters_come_in_small_pages(transport: SqlTransport, an_envelope: Maker) -> None:
    for number in range(3):
        transport.send([an_envelope(number, body=bytes(9 * 1024 * 1024))])
        (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
        transport.dead_letter(delivery, reason="broken")

    pages, after = [], None
    while page := transport.dead_letters(["default"], after=after):
        pages.append([entry.ref for entry in page])
        after = page[-1].ref

    assert pages == [["1@default", "2@default"], ["3@default"]]


@pytest.mark.parametrize("field", ["id", "source", "name", "ordering_key", "headers"])
def test_an_envelope_that_would_be_unreadable_is_refused_where_it_is_sent(
    transport: SqlTransport, an_envelope: Maker, field: str
) -> None:
    hostile = an_envelope(1, **{field: {"a": "\ud800"} if field == "headers" else "\ud800"})

    with pytest.raises(SendError, match="surrogates not allowed") as caught:
        transport.send([hostile])

    assert caught.value.refused == (0,)


def test_a_dead_letter_keeps_the_row_as_it_was(transport: SqlTransport, path: Path, an_envelope: Maker) -> None:
    transport.send([an_envelope(1)])
    tamper(path, "UPDATE relevo_event SET body = 'text', attempt = 'many', name = NULL")
    (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)

    transport.dead_letter(delivery, reason="unreadable")

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT body, attempt, name FROM relevo_dead").fetchall() == [("text", "many", None)]


def test_a_revived_one_that_cannot_be_read_is_received_again(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    tamper(path, "UPDATE relevo_event SET body = NULL")
    (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
    transport.dead_letter(delivery, reason="unreadable")
    (entry,) = transport.dead_letters(["default"])

    missing = transport.revive({entry.ref: b""})

    assert not missing
    (again,) = transport.receive(["default"], limit=1, lease=60, wait=0)
    assert isinstance(again.envelope, Unreadable)


def test_those_behind_one_of_their_key_that_cannot_be_read_have_their_turn(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number, ordering_key="42") for number in (1, 2)])
    tamper(path, "UPDATE relevo_event SET body = NULL WHERE event_id = 'id-1'")
    (broken,) = transport.receive(["default"], limit=10, lease=60, wait=0)

    transport.dead_letter(broken, reason="unreadable")

    (next_one,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    assert next_one.envelope == an_envelope(2, ordering_key="42")


def test_dead_letters_whose_text_is_not_utf_8_are_shown(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
    transport.dead_letter(delivery, reason="broken", error="\ud800 and \0")
    tamper(path, "UPDATE relevo_dead SET reason = CAST(x'62ff' AS TEXT)")

    (entry,) = transport.dead_letters(["default"])

    assert entry.reason == "b\ufffd"
    assert entry.error == "\\ud800 and \0"


_ANYTHING = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8")),
    st.binary(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.sampled_from(
            ["event_id", "source", "target", "name", "body", "headers", "expires", "progress", "ordering_key",
             "enqueued_at", "ready_at", "attempt", "lost_leases", "urgency"]
        ),
        _ANYTHING,
        min_size=1,
    )
)  # fmt: skip
def test_whatever_stands_in_a_row_it_is_received_and_can_be_settled(
    transport: SqlTransport, path: Path, values: dict[str, object]
) -> None:
    never_null = {"attempt", "lost_leases", "urgency", "ready_at"}
    row = {name: value for name, value in values.items() if value is not None or name not in never_null}
    names, marks = ", ".join(["queue", *row]), ", ".join("?" * (1 + len(row)))
    tamper(path, f"INSERT INTO relevo_event ({names}) VALUES ({marks})", "default", *row.values())  # noqa: S608

    (delivery,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    transport.dead_letter(delivery, reason="odd")
    entries = transport.dead_letters(["default"])

    assert transport.stats("default").ready == 0
    assert not transport.discard([entry.ref for entry in entries])
