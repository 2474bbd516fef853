"""Surfaces of the backends: rows, messages of RabbitMQ, values of Redis, and the addresses of servers."""

from __future__ import annotations

import atexit
import contextlib
import sqlite3
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import attrs
import msgspec
import pika

from mutation import packed, parts
from oversized import MANY, keys, of_json, of_texts
from relevo import MAX_STATE, Ack, DeadLetter, Envelope, Secret, masked_url
from relevo.errors import ConfigurationError, EncodeError, RelevoError
from relevo.testing import FakeClock
from relevo.wire import pack
from relevo_amqp import AmqpOptions
from relevo_amqp._management import Management, ManagementError
from relevo_amqp._mapping import (
    UnfitError,
    expelled,
    lost_leases,
    plain_key,
    postponed,
    read,
    urgent,
    word_of,
    written,
)
from relevo_amqp._options import Address
from relevo_redis import RedisOptions
from relevo_redis._event import delivery as redis_delivery, entry as redis_entry, found as redis_found, grave
from relevo_sql import SqlOptions, SqlTransport
from relevo_sql._options import engine_for
from relevo_sql._row import (
    CLAIMED,
    FOUND,
    SHOWN,
    Stray,
    delivery_of,
    entry_of,
    found_of,
    place_of,
    stray_flaw,
    stray_of,
)
from surface import DifferentError, Known, Surface
from surfaces_of_events import NOW, STATE, _body

MICROS = round(NOW * 1_000_000)


# --- rows as values -------------------------------------------------------------------------------------------


def row(data: bytes) -> None:
    """Read a row that a database returns, as a delivery, for display, and as a dead letter."""
    given = parts(data, dict[str, Any])
    if given is None or any(isinstance(each, (list, dict)) for each in given.values()):
        return
    claimed = [1, *(given.get(column) for column in CLAIMED[1:])]
    delivery_of(claimed, 7)
    place_of(claimed)
    found_of([1, *(given.get(column) for column in FOUND[1:])], MICROS)
    entry = entry_of([given.get(column) for column in SHOWN])
    (entry.reason + entry.error).encode("utf-8", "surrogatepass")
    stray = Stray._make(given.get(column, 1) for column in Stray._fields)
    stray_of(claimed, 7, queue="default", flaw=stray_flaw(stray))


ROW: dict[str, Any] = {
    "ready_at": MICROS, "queue": "default", "target": "default", "event_id": "1", "source": "shop",
    "name": "image.created", "urgency": 1, "ordering_key": None, "expires": None, "attempt": 1, "lost_leases": 0,
    "enqueued_at": MICROS, "headers": '{"relevo-signature":"v1"}', "progress": STATE, "body": _body(),
    "begun": '["ab:cd:1:2:3",["ab:cd:1:2:3"],"take",false]', "deaths": '["ab:cd:1:2:3"]', "state": 0,
    "lease_until": MICROS, "ref": 1, "reason": "gave-up", "error": "no", "died_at": MICROS,
}  # fmt: skip


def _row(**changes: Any) -> bytes:
    return msgspec.msgpack.encode({**ROW, **changes})


# --- rows in a database -----------------------------------------------------------------------------------------


@attrs.frozen
class _Database:
    transport: SqlTransport
    connection: sqlite3.Connection


@cache
def _database() -> _Database:
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own in it
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None))
    path = Path(folder, "shop.db")
    options = SqlOptions(url=f"sqlite:///{path}")
    transport = stack.enter_context(SqlTransport.open(options, name="main", clock=FakeClock(NOW)))
    transport.setup([])
    connection = stack.enter_context(contextlib.closing(sqlite3.connect(path, isolation_level=None)))
    connection.execute("PRAGMA ignore_check_constraints = 1")
    return _Database(transport, connection)


COLUMNS = (
    *("state", "ready_at", "lease_until", "queue", "target", "event_id", "source", "name", "urgency"),
    *("ordering_key", "expires", "attempt", "lost_leases", "enqueued_at", "headers", "progress", "body"),
    *("begun", "deaths"),
)


def stored_row(data: bytes) -> None:
    """Tamper with one of two rows in SQLite; the other is handed out, and both can be settled and shown."""
    given = parts(data, dict[str, Any])
    changes = {key: value for key, value in (given or {}).items() if key in COLUMNS}
    if not changes or any(isinstance(each, (list, dict)) for each in changes.values()):
        return
    database = _database()
    transport = database.transport
    envelopes = [Envelope(id=each, source="shop", name="image.created", body=b"{}") for each in ("1", "2")]
    transport.send(envelopes)
    setters = ", ".join(f"{column} = ?" for column in changes)
    values = [value if not isinstance(value, int) or -(2**63) <= value < 2**63 else 7 for value in changes.values()]
    try:
        with contextlib.suppress(sqlite3.IntegrityError, UnicodeEncodeError):  # a unique key, a lone surrogate
            statement = f"UPDATE relevo_event SET {setters} WHERE event_id = '1'"  # noqa: S608 - of these columns
            database.connection.execute(statement, values)
        delivered = transport.receive(["default"], limit=10, lease=60, wait=0)
        if "2" not in [one.envelope.id for one in delivered if isinstance(one.envelope, Envelope)]:
            raise DifferentError(delivered)
        transport.stats("default")
        transport.find("1")
        for number, one in enumerate(delivered):
            transport.settle([(one, Ack() if number % 2 else DeadLetter(reason="tried", state=one.state[:MAX_STATE]))])
        for entry in transport.dead_letters(["default"]):
            transport.revive({entry.ref: entry.state})
    finally:
        database.connection.execute("DELETE FROM relevo_event")
        database.connection.execute("DELETE FROM relevo_dead")


# --- messages of RabbitMQ ---------------------------------------------------------------------------------------


_Short = Annotated[str, msgspec.Meta(max_length=63)]
"""A short string: at most 255 bytes."""


class _Properties(msgspec.Struct):
    """The properties of a message, of the types that pika returns."""

    content_type: _Short | None = None
    content_encoding: _Short | None = None
    message_id: _Short | None = None
    type: _Short | None = None
    app_id: _Short | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    correlation_id: _Short | None = None
    reply_to: _Short | None = None
    timestamp: Annotated[int, msgspec.Meta(ge=0)] | None = None
    headers: dict[_Short, Any] | None = None


def message(data: bytes) -> None:
    """Read a message, write it again in each way, and read that; it stays the same event."""
    given = parts(data, list[Any])
    if given is None or len(given) != 2 or not isinstance(given[1], bytes) or not isinstance(given[0], dict):
        return
    try:
        properties = msgspec.convert(given[0], _Properties)
    except msgspec.ValidationError:
        return
    if isinstance(properties.headers, dict):
        properties.headers = {key: _of_amqp(value) for key, value in properties.headers.items()}
    record = read(properties, given[1], queue="default", now=NOW)
    expelled(properties, given[1], word="default", now=NOW)
    lost_leases(properties)
    urgent(properties)
    postponed(record, NOW, patience=3600.0)
    plain_key(record.envelope, record.queue, record.attempt, record.enqueued_at)
    word_of(record.dead_letter.ref if record.dead_letter else "")
    for each, delayed in ((record, False), (record, True), (record.revived(b"", key=""), False)):
        try:
            again = written(each, exchange="x", key="k", delayed=delayed)
        except UnfitError:
            if isinstance(each.envelope, Envelope):
                raise DifferentError("an envelope that was read cannot be written") from None
            raise
        pika.BasicProperties(**again.properties).encode()
        back = read(pika.BasicProperties(**again.properties), again.body, queue=each.queue, now=NOW)
        if repr(back.envelope) != repr(each.envelope) and isinstance(each.envelope, Envelope):
            raise DifferentError(back)


def _of_amqp(value: Any, room: int = 20) -> Any:
    """Return *value* with types that only AMQP has, where a text asks for them."""
    match value:
        case "a time":
            return datetime(2026, 11, 28, tzinfo=UTC)
        case "a decimal":
            return Decimal("1.5")
        case float() if isfinite(value):
            return int(value)  # as pika does it; it may have more than 64 bits
        case list() if room:
            return [_of_amqp(each, room - 1) for each in value]
        case dict() if room:
            return {str(key)[:63]: _of_amqp(each, room - 1) for key, each in value.items()}
        case _:
            return value


OURS: dict[str, Any] = {"relevo": 1, "relevo-at": MICROS}


_BINARY = {
    "ce-id": "17",
    "CE-SOURCE": "/cam",
    "cloudEvents:type": "image.created",
    "cloudEvents_specversion": "1.0",
    "ce-relevourgency": "high",
    "ce-partitionkey": 7,
    "ce-expirytime": 1_795_000_000_000,
}


def _message(*, body: bytes | None = None, headers: Any = None, **changes: Any) -> bytes:
    properties = {"content_type": "application/cloudevents+json", "message_id": "1", "type": "image.created"}
    return packed(
        {**properties, "app_id": "shop", "headers": OURS if headers is None else headers, **changes},
        _body() if body is None else body,
    )


# --- answers of the management plugin -----------------------------------------------------------------------------


class _Plugin(Management):
    """A management plugin that answers as it is told."""

    def __init__(self, answers: _Answers) -> None:
        super().__init__(Address.parse("amqp://localhost"), None, timeout=1.0, known_within=0.0)
        self._answers = answers

    def _fetch(self, path: str) -> tuple[int, str, bytes]:
        answers = self._answers
        body = answers.members if path.endswith("/status") else answers.queues if "?" in path else answers.queue
        return answers.status, answers.reason, body


class _Answers(msgspec.Struct, array_like=True):
    status: int
    reason: str
    members: bytes
    queue: bytes
    queues: bytes


def management(data: bytes) -> None:
    """Read the answers of a management plugin; each problem is short."""
    answers = parts(data, _Answers)
    if answers is None:
        return
    plugin = _Plugin(answers)
    try:
        found = [*plugin.problems(["q", "r"]), str(plugin.held(["q", "relevo.q."]))]
    except ManagementError as error:
        found = [str(error)]
    if max(map(len, found)) > 10_000 + len(answers.queues):
        raise DifferentError(found)


def _answers(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "status": 200,
        "reason": "OK",
        "members": b'[{"Raft State":"leader"},{"Raft State":"follower"}]',
        "queue": b'{"name":"q","policy":"p","operator_policy":null,"effective_policy_definition":{"max-length":7}}',
        "queues": b'[{"name":"relevo.q.old","messages":3},{"name":"q"}]',
    }
    return msgspec.msgpack.encode(list({**fields, **changes}.values()))


# --- values of Redis --------------------------------------------------------------------------------------------


def redis_row(data: bytes) -> None:
    """Read what the script of the example returns about keys that another program changed."""
    given = parts(data, list[bytes | None])
    if given is None or len(given) != 9:
        return
    number, status, attempt, lost, sent, died, blob, stored, error = given
    redis_delivery("token", [number or b"", b"default", attempt, lost, sent, blob, stored])
    redis_entry("default", [7, status, error, attempt, lost, sent, died, blob, stored])
    list(redis_found([[b"default", b"ready", attempt, lost, sent, died, blob, stored]]))
    grave((status or b"").decode("utf-8", "surrogateescape"))


_BLOB = pack(Envelope(id="1", source="shop", name="image.created", body=b"{}"))


# --- addresses --------------------------------------------------------------------------------------------------

CANARY = "hunter2"


def address(data: bytes) -> None:
    """Read the address of a transport in each backend; the password in it appears in no error."""
    text = data.decode("utf-8", "surrogateescape")
    masked_url(text)
    for make in (
        lambda: str(AmqpOptions(url=text)),
        lambda: AmqpOptions(management=text),
        lambda: engine_for(SqlOptions(url=text)).dispose(),
        lambda: engine_for(SqlOptions(url=text, dialect="portable")).dispose(),
        lambda: RedisOptions(url=Secret(text)).pool(),
    ):
        try:
            make()
        except ConfigurationError as error:
            if f":{CANARY}@" in str(error):
                raise DifferentError(str(error)) from None


SURFACES = (
    Surface(
        name="row",
        target=row,
        shape="msgpack",
        seeds={
            "a row": _row(),
            "high urgency, an ordering key": _row(urgency=0, ordering_key="k", expires=4e9, state=3),
            "a queue that is not text": _row(queue=b"\xff", state=9),
            "headers with a lone surrogate": _row(headers='{"a":"\\ud800"}'),
            "times beyond every calendar": _row(enqueued_at=2**63 - 1, died_at=1e300, lease_until="soon", state=1),
            "deaths nested too deeply": _row(deaths="[" * 5000, begun="[" * 5000, headers="[" * 5000),
        },
        oversized={
            **of_json(
                lambda data: _row(headers=data.decode(), begun=data.decode(), deaths=data.decode(), progress=data)
            ),
            **{
                f"{name}, as a text": make
                for name, make in of_texts(lambda text: _row(name=text, error=text, queue=text)).items()
            },
        },
    ),
    Surface(
        name="stored row",
        target=stored_row,
        shape="msgpack",
        errors=(EncodeError,),
        seeds={
            "times": msgspec.msgpack.encode({"ready_at": MICROS, "enqueued_at": MICROS, "lease_until": MICROS}),
            "a leased row": msgspec.msgpack.encode({"state": 1, "lease_until": MICROS + 60_000_000}),
            "a scheduled row": msgspec.msgpack.encode({"state": 2, "ready_at": MICROS + 60_000_000}),
            "a waiting row without a key": msgspec.msgpack.encode({"state": 3, "ordering_key": None}),
            "texts": msgspec.msgpack.encode({"queue": "default", "target": "x", "source": "s", "ordering_key": "k"}),
            "counters": msgspec.msgpack.encode({"attempt": 2, "lost_leases": 1, "urgency": 1}),
            "bytes": msgspec.msgpack.encode({"headers": "{}", "progress": STATE, "body": b"{}", "expires": 4e9}),
            "evidence": msgspec.msgpack.encode({"begun": ROW["begun"], "deaths": ROW["deaths"], "lost_leases": 1}),
        },
        weight=0.1,
        oversized=of_json(
            lambda data: msgspec.msgpack.encode({"headers": data.decode(), "begun": data.decode(), "progress": data})
        ),
    ),
    Surface(
        name="message",
        target=message,
        shape="msgpack",
        seeds={
            "a message": _message(),
            "all headers": _message(
                priority=9,
                headers={
                    **OURS,
                    "relevo-attempt": 2,
                    "relevo-lost-leases": 1,
                    "relevo-state": STATE,
                    "relevo-due": "1795000001",
                    "relevo-expires": "4e9",
                    "relevo-headers": '{"a":"b"}',
                    "relevo-deaths": ["ab:cd:1:2:3"],
                    "relevo-begun": ROW["begun"],
                    "relevo-suspect": "0" * 13 + "-" + "a" * 8,
                    "relevo-queue": "feed",
                    "relevo-id": "i" * 300,
                    "x-delivery-count": 2,
                },
            ),
            "a dead letter": _message(
                headers={
                    **OURS,
                    "relevo-ref": "default/0000000000000001-ab",
                    "relevo-reason": "gave-up",
                    "relevo-error": "no",
                    "relevo-died-at": MICROS,
                    "relevo-queue": "default",
                    "relevo-unreadable": "why",
                    "x-death": [{"time": "a time", "reason": "rejected"}],
                }
            ),
            "a newer release": _message(headers={**OURS, "relevo": 2, "relevo-met": MICROS, "more": ["a decimal"]}),
            "a foreign message": _message(headers={"ce-id": "1", "cloudEvents:type": "a"}, body=b"\xff"),
            "a CloudEvent of another program": _message(headers={"other": [1, None]}),
            "one in binary mode": _message(headers=_BINARY, content_type="image/png", body=b"\xff"),
            "one that relevo published again": _message(
                headers={**OURS, **_BINARY, "relevo-foreign": 1, "relevo-priority": 3, "relevo-attempt": 2},
                content_type="application/json",
                body=b"{}",
            ),
            "a state of 17,000 bytes": _message(headers={**OURS, "relevo-state": b"s" * 17_000}),
            "a double of more than 64 bits, from a newer release": _message(
                headers={**OURS, "relevo": 2, "more": 1e300}
            ),
            "due at infinity": _message(headers={**OURS, "relevo-due": "inf", "relevo-expires": "nan"}),
            "an expiry of 5,000 digits": _message(headers={**OURS, "relevo-expires": "9" * 5000}),
            "headers that cannot be decoded": _message(headers={"x-relevo-undecodable": "struct.error"}),
        },
        weight=2.0,
        oversized={
            "80,000 headers": lambda: _message(headers={**OURS, **{f"k{each}": 1 for each in range(MANY)}}),
            "80,000 attributes": lambda: _message(headers={**_BINARY, **{f"ce-k{each}": "1" for each in range(MANY)}}),
            **of_json(
                lambda data: _message(
                    headers={
                        **OURS,
                        "relevo-headers": data.decode(),
                        "relevo-begun": data.decode(),
                        "relevo-state": data,
                    }
                )
            ),
            **{f"{name}, as a body": make for name, make in of_json(lambda data: _message(body=data)).items()},
            **of_texts(
                lambda text: _message(headers={**OURS, "relevo-id": text, "relevo-due": text, "relevo-ref": text})
            ),
        },
    ),
    Surface(
        name="management",
        target=management,
        shape="msgpack",
        seeds={
            "a policy": _answers(),
            "no policy, of an old release": _answers(queue=b'{"effective_policy_definition":[]}'),
            "no statistics": _answers(queue=b"{}"),
            "no leader": _answers(members=b"[]"),
            "no queue": _answers(status=404),
            "a refusal": _answers(status=401),
            "another server": _answers(status=302, reason="Found", members=b"<html>"),
            "an operator's policy": _answers(
                queue=b'{"operator_policy":"o","effective_policy_definition":{"overflow":"drop-head","expires":[1]}}'
            ),
            "members that are no tables": _answers(members=b'["leader"]'),
            "nested too deeply": _answers(queues=b"[" * 5000),
            "5,000 digits": _answers(queues=b'[{"name":"q","messages":' + b"9" * 5000 + b"}]"),
        },
        weight=0.5,
        oversized={
            **of_json(lambda data: _answers(members=data)),
            **{
                f"{name}, about a queue": make
                for name, make in of_json(
                    lambda data: _answers(queue=b'{"effective_policy_definition":' + data + b"}")
                ).items()
            },
            **{f"{name}, about queues": make for name, make in of_json(lambda data: _answers(queues=data)).items()},
            "80,000 queues": lambda: _answers(
                queues=b"[" + b",".join(b'{"name":"relevo.q.%d","messages":1}' % each for each in range(MANY)) + b"]"
            ),
        },
    ),
    Surface(
        name="redis row",
        target=redis_row,
        shape="msgpack",
        seeds={
            "an event": packed(
                b"1", b"ready", b"1", b"0", b"1795000000000000", b"1795000000000001", _BLOB, STATE, b"no"
            ),
            "nothing": packed(*[None] * 9),
            "digits of another alphabet": packed(
                b"1", "٣".encode(), "٣".encode(), b"x", b"soon", b"nan", b"", b"", b""
            ),
        },
        weight=0.5,
        oversized={
            "a state of 80,000 keys": lambda: packed(
                b"1", b"ready", b"1", b"0", b"1795000000000000", b"1795000000000001", _BLOB, keys(), b"no"
            ),
            **of_texts(lambda text: packed(*[text.encode()] * 6, _BLOB, text.encode(), text.encode())),
        },
    ),
    Surface(
        name="address",
        target=address,
        shape="text",
        errors=(RelevoError,),
        seeds={
            name: text.encode()
            for name, text in {
                "RabbitMQ": f"amqp://shop:{CANARY}@mq.example:5672/vhost",
                "RabbitMQ with TLS": f"amqps://shop:{CANARY}@[::1]:5671/a%2Fb",
                "RabbitMQ in JSON": f"amqp://shop:{CANARY}@localhost:99999/",
                "PostgreSQL": f"postgresql://shop:{CANARY}@db.example:5432/shop?sslmode=require",
                "MariaDB": f"mariadb://shop:{CANARY}@db.example/shop?charset=utf8mb4",
                "SQLite": "sqlite:///shop.db",
                "a file: URI": "sqlite:///file:shop.db?mode=rwc&uri=true",
                "another database": f"oracle://shop:{CANARY}@db.example/shop",
                "Redis": f"rediss://shop:{CANARY}@redis.example:6379/0",
                "a management plugin": "https://mq.example:15671",
                "Redis on a port beyond all": "redis://redis.example:77373",
                "a password without a host": f"amqp://shop:{CANARY}",
                "an unclosed bracket": f"amqp://shop:{CANARY}@[::1",
                "a password in place of the scheme": f":{CANARY}@://",
            }.items()
        },
        weight=0.1,
        oversized={
            **of_texts(),
            "a password of 1,000,000 characters": lambda: b"amqp://shop:" + b"x" * 1_000_000 + b"@mq.example/",
            "20,000 parts of a path": lambda: b"sqlite:///" + b"a/" * 20_000,
            "80,000 pairs of a query": lambda: b"postgresql://db.example/shop?" + b"a=b&" * MANY,
            "a host of 20,000 parts": lambda: b"amqp://" + b"a." * 20_000 + b"example/",
            "a port of 5,000 digits": lambda: b"amqp://mq.example:" + b"9" * 5000,
        },
        known=(Known(error=DifferentError, function="address", why="a password before :// is shown"),),
    ),
)
