"""Rows that a stranger wrote, or that somebody changed by hand: set aside, and nothing behind them waits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from relevo import Ack, DeadLetter, Envelope, Unreadable
from relevo.errors import SendError
from relevo_sql import SqlTransport

Maker = Callable[..., Envelope]


def tamper(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, values)


@pytest.mark.parametrize(
    ("change", "why", "raw"),
    [
        ("body = NULL", "body holds nothing", b""),
        ("body = 'text'", "body holds text", b"text"),
        ("body = 7", "body holds a number, 7", b"7"),
        ("body = CAST(x'ff41' AS TEXT)", "body holds text that is not UTF-8", b"\xffA"),
        ("attempt = -1", "attempt holds -1", b'{"number":1}'),
        ("attempt = 'many'", "attempt holds text", b'{"number":1}'),
        ("losses = -3", "losses holds -3", b'{"number":1}'),
        ("losses = 1.5", "losses holds a number, 1.5", b'{"number":1}'),
        ("event_id = NULL", "event_id holds nothing", b'{"number":1}'),
        ("event_id = x'00'", "event_id holds bytes", b'{"number":1}'),
        ("source = NULL", "source holds nothing", b'{"number":1}'),
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
        ("progress = 'half'", "progress holds text", b'{"number":1}'),
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
    assert (broken.attempt, broken.losses) == (1, 0)
    assert sound.envelope == an_envelope(2)
    assert not lost
    assert entry.envelope == broken.envelope


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
             "enqueued_at", "ready_at", "attempt", "losses", "urgency"]
        ),
        _ANYTHING,
        min_size=1,
    )
)  # fmt: skip
def test_whatever_stands_in_a_row_it_is_received_and_can_be_settled(
    transport: SqlTransport, path: Path, values: dict[str, object]
) -> None:
    never_null = {"attempt", "losses", "urgency"}
    row = {name: value for name, value in values.items() if value is not None or name not in never_null}
    names, marks = ", ".join(["queue", *row]), ", ".join("?" * (1 + len(row)))
    tamper(path, f"INSERT INTO relevo_event ({names}) VALUES ({marks})", "default", *row.values())  # noqa: S608

    (delivery,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    transport.dead_letter(delivery, reason="odd")
    entries = transport.dead_letters(["default"])

    assert transport.stats("default").ready == 0
    assert not transport.discard([entry.ref for entry in entries])
