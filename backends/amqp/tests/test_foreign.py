"""CloudEvents of other programs on RabbitMQ: handled like relevo's own, and kept as they came."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pika
import pytest
from hypothesis import given, strategies as st

import relevo
from relevo import (
    Ack,
    DeadLetter,
    Delivery,
    Envelope,
    ForeignEnvelope,
    Lost,
    Nack,
    Note,
    Release,
    Unreadable,
)
from relevo_amqp import AmqpTransport
from relevo_amqp._mapping import MessageRecord, plain_key, read, urgent, written
from relevo_amqp._settlement import message_of
from relevo_amqp._topology import Role, Topology

from .conftest import LEVELS, PATIENCE, Server, drain, ids, receive, wait_until
from .test_mapping import over_the_wire
from .test_suspects import hold_and_die

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

NOW = 1_795_000_000.25
HEADERS: Mapping[str, Any] = {
    "cloudEvents:id": "17",
    "cloudEvents:source": "/cam",
    "cloudEvents:type": "image.created",
    "cloudEvents:specversion": "1.0",
    "cloudEvents:time": datetime(2026, 11, 18, tzinfo=UTC),
    "cloudEvents:subject": "cat.jpg",
    "other": [1, b"\xff", None, {"a": True, "b": Decimal("1.5")}],
}
BODY = b'{"image_id": 7}'


def properties(body_type: str | None = "application/json", /, **changes: Any) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type=body_type, correlation_id="c", message_id="m", **{"headers": dict(HEADERS), **changes}
    )


def came(**changes: Any) -> MessageRecord:
    return read(properties(**changes), BODY, queue="mail", now=NOW)


def structured(**changes: Any) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": "17",
            "source": "/cam",
            "type": "image.created",
            "data": {"image_id": 7},
            **changes,
        }
    ).encode()


def publish(
    server: Server, queue: str, body: bytes = BODY, given: pika.BasicProperties | None = None, *, name: str = ""
) -> None:
    """Publish a message as another program does."""
    channel = server.channel()
    channel.confirm_delivery()
    exchange, key = ("", name) if name else (server.topology.exchange(Role.MAIN), queue)
    channel.basic_publish(exchange, key, body, given or properties(), mandatory=True)


def originals(found: pika.BasicProperties) -> dict[str, Any]:
    """Return the headers that are neither relevo's nor the server's."""
    return {name: value for name, value in found.headers.items() if not name.startswith(("relevo", "x-delivery"))}


# --- decided purely -------------------------------------------------------------------------------------------


def test_a_message_in_binary_mode_is_an_event() -> None:
    record = came()

    assert isinstance(record.envelope, ForeignEnvelope)
    assert (record.envelope.id, record.envelope.source, record.envelope.name) == ("17", "/cam", "image.created")
    assert record.envelope.body == (
        b'{"id":"17","source":"/cam","type":"image.created","specversion":"1.0","time":"2026-11-18T00:00:00Z",'
        b'"subject":"cat.jpg","datacontenttype":"application/json","data":{"image_id": 7}}'
    )
    assert (record.envelope.original, record.envelope.original_headers) == (BODY, HEADERS)
    assert (record.attempt, record.lost_leases, record.state, record.suspect) == (1, 0, b"", "")


def test_a_message_in_structured_mode_is_an_event_byte_for_byte() -> None:
    body = structured()

    record = read(properties("application/cloudevents+json; charset=utf-8"), body, queue="mail", now=NOW)

    assert isinstance(record.envelope, ForeignEnvelope)
    assert record.envelope.body == body


def test_its_time_is_that_of_the_message_unless_that_is_missing_or_to_come() -> None:
    assert came(timestamp=1_700_000_000).enqueued_at == 1_700_000_000.0
    assert came(timestamp=1_700_000_000_000).enqueued_at == NOW  # in milliseconds, by mistake
    assert came().enqueued_at == NOW


def test_its_urgency_is_that_of_the_extension_or_of_the_message() -> None:
    by_extension = came(headers={**HEADERS, "ce-relevourgency": "high"})
    by_priority = came(priority=9)

    for record in (by_extension, by_priority):
        assert isinstance(record.envelope, Envelope)
        assert record.envelope.urgency == "high"
        direct, _ = over_the_wire(written(record, exchange="e", key="k"))
        delayed, _ = over_the_wire(written(record, exchange="e", key="k", delayed=True))
        assert (direct.priority, delayed.priority) == (9, None)
        assert urgent(direct)
        assert urgent(delayed)


def test_headers_of_relevo_that_another_program_sets_mean_nothing() -> None:
    record = came(
        headers={
            **HEADERS,
            "relevo-attempt": 7,
            "relevo-state": b"x",
            "relevo-due": "inf",
            "relevo-queue": "other",
            "relevo-lost-leases": 3,
            "relevo-ref": "r",
            "relevo-urgency": "high",
            "relevo-suspect": "0000000000000-00000000",
        }
    )

    assert record == came()


def test_the_key_of_a_note_is_the_same_at_each_hand_over() -> None:
    first, again = came(), read(properties(), BODY, queue="mail", now=NOW + 5.0)

    def key(record: MessageRecord) -> str:
        return plain_key(record.envelope, "mail", 1, record.enqueued_at)

    assert key(first) == key(again)
    assert key(first) != plain_key(read(properties(), b"{}", queue="mail", now=NOW).envelope, "mail", 1, NOW)


NOTE = Note(by="p", deaths=("d",))
OUTCOMES = [
    Nack(delay=0.0, state=b"s"),
    Nack(delay=3.0),
    Release(delay=0.0),
    Release(delay=3.0),
    Lost(),
    Lost(state=b"t", death="d"),
    DeadLetter(reason="r", error="e", state=b"s"),
]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.binary(max_size=20)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
    | st.decimals(-20_000, 20_000, places=4).map(Decimal.normalize),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.lists(st.sampled_from(OUTCOMES), max_size=5),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), values, max_size=4),
    st.booleans(),
)
def test_whatever_happens_to_it_the_event_and_what_came_are_the_same(
    outcomes: list[Any],
    headers: dict[str, Any],
    in_structured_mode: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    headers = {name: value for name, value in headers.items() if not name.startswith(("relevo", "x-", "CC", "BCC"))}
    body = structured() if in_structured_mode else BODY
    content_type = "application/cloudevents+json" if in_structured_mode else "application/json"
    sent, _ = over_the_wire_of(properties(content_type, headers={**headers, **HEADERS}), body)
    first = record = read(sent, body, queue="mail", now=NOW)
    assert isinstance(first.envelope, ForeignEnvelope)

    for outcome in outcomes:
        delivery = Delivery(
            envelope=record.envelope,
            queue="mail",
            attempt=record.attempt,
            lost_leases=record.lost_leases,
            begun=NOTE,
            deaths=record.deaths,
            receipt=None,
            state=record.state,
            enqueued_at=record.enqueued_at,
        )
        message = message_of(delivery, outcome, topology=Topology("t"), now=NOW, unique="0123456789abcdef")
        assert message is not None
        came_back, body_again = over_the_wire(message)
        assert body_again == body
        assert originals(came_back) == sent.headers
        assert (came_back.content_type, came_back.correlation_id, came_back.message_id) == (content_type, "c", "m")
        record = read(came_back, body_again, queue="mail", now=NOW + 9.0)
        assert record.envelope == first.envelope
        assert record.enqueued_at == first.enqueued_at
        assert record.attempt == delivery.attempt + isinstance(outcome, (Nack, Lost))
        assert record.lost_leases == delivery.lost_leases + isinstance(outcome, Lost)
        state = getattr(outcome, "state", None)
        assert record.state == (delivery.state if state is None else state)
        if isinstance(outcome, DeadLetter):
            assert record.dead_letter is not None
            assert (record.dead_letter.reason, record.dead_letter.error) == ("r", "e")
            record = record.revived(b"", key="0000000000001-00000000")
            record = read(*over_the_wire(written(record, exchange="e", key="k")), queue="mail", now=NOW)
            assert (record.attempt, record.state, record.dead_letter) == (1, b"", None)
            assert record.envelope == first.envelope


def over_the_wire_of(given: pika.BasicProperties, body: bytes) -> tuple[pika.BasicProperties, bytes]:
    found = pika.BasicProperties()
    found.decode(b"".join(given.encode()))
    return found, body


def test_one_that_relevo_sends_again_with_a_signature_is_written_as_its_own() -> None:
    record = came()
    assert isinstance(record.envelope, Envelope)
    signed = attrs.evolve(record, envelope=attrs.evolve(record.envelope, headers={"relevo-signature": "v1"}))

    message = written(signed, exchange="e", key="k")

    assert message.body == record.envelope.body
    again = read(*over_the_wire(message), queue="mail", now=NOW)
    assert type(again.envelope) is Envelope
    assert again.envelope.headers == {"relevo-signature": "v1"}


@pytest.mark.parametrize(
    "headers, why",
    [
        ({**HEADERS, "relevo": 1, "relevo-foreign": 1, "relevo-expires": "nan"}, "its expiry: expected"),
        ({**HEADERS, "relevo": 1, "relevo-foreign": 1, "relevo-due": "inf"}, "its due time"),
        ({**HEADERS, "relevo": 0, "relevo-foreign": 1}, "wire version 0"),
        ({**HEADERS, "cloudEvents:id": ""}, "it was not sent by relevo: .*missing required field `id`"),
        ({**HEADERS, "long": "x" * 100_000}, "its headers have more than 80000 bytes"),
        ({**HEADERS, "deep": [[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]}, "are nested too deeply"),
        ({**HEADERS, "number": [1 << 63]}, "a number beyond 64 bits"),  # a double, as the driver reads it
        ({"x": "y"}, "it was not sent by relevo: it is not a CloudEvent"),
        ({}, "it was not sent by relevo: it is not a CloudEvent"),
    ],
    ids=range(9),
)
def test_what_is_no_event_is_unreadable_with_its_bytes(headers: dict[str, Any], why: str) -> None:
    record = came(headers=headers)

    assert type(record.envelope) is Unreadable
    assert record.envelope.raw == BODY
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(record.envelope.why)


# --- recorded from the SDKs ---------------------------------------------------------------------------------------

SDK = Path(__file__).parent / "sdk"
EXPECTED: Mapping[str, Mapping[str, Any]] = {
    "object": {"image_id": 7, "ratio": 1.5},
    "extensions": {},
    "json": {"data": [1, {"two": None}]},
    "text": {"data": 'café "7"'},
    "bytes": {"data": b"\x89PNG\x00\xff"},
    "nothing": {},
}


def recorded() -> Iterator[tuple[str, pika.BasicProperties, bytes]]:
    for name in ("python", "javascript"):
        for message in json.loads((SDK / f"{name}.json").read_text())["messages"]:
            yield (
                name,
                pika.BasicProperties(content_type=message["content_type"], headers=message["headers"]),
                base64.b64decode(message["body"]),
            )


def check_event(event: relevo.Event, call: relevo.Call, sdk: str) -> None:
    """Check what a listener gets for an event that *sdk* published."""
    kind = call.event_id.partition(" ")[0]
    assert event.arguments == EXPECTED[kind]
    assert (event.name, event.id, call.source) == ("image.created", call.event_id, f"/sdk/{sdk}")
    assert call.time in ("2026-11-18T11:06:40Z", "2026-11-18T11:06:40.000Z")
    assert call.attributes["time"] == call.time
    if kind == "object":
        assert event.subject == relevo.Subject("image", "7")
    if kind == "extensions":
        assert event.subject is None
        assert call.attributes["subject"] == "a/b/c.jpg"
        assert (call.attributes["tenant"], call.attributes["partitionkey"]) == ("eu", "cat 7")


def application(transport: AmqpTransport, queue: str, **options: Any) -> relevo.App:
    app = relevo.App(transports={"main": transport}, routes={"*": f"main/{queue}"}, source="shop", **options)
    app.prepare("main")
    return app


def run(app: relevo.App, until: Callable[[], bool]) -> relevo.Report:
    """Run workers until *until* returns true; return their dead letters together."""
    reasons: dict[str, int] = {}
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline
        for reason, number in app.worker(relevo.RunOptions(until_empty=True)).run().reasons.items():
            reasons[reason] = reasons.get(reason, 0) + number
    return relevo.Report(reasons=reasons)


def test_what_the_sdks_publish_is_handled(server: Server, transport: AmqpTransport, queue: str) -> None:
    messages = list(recorded())
    seen: list[str] = []
    problems: list[BaseException] = []
    app = application(transport, queue)

    @app.listen
    @relevo.listener("image.created")
    def listen(event: relevo.Event, call: relevo.Call) -> None:
        seen.append(f"{call.source} {call.event_id}")
        try:
            check_event(event, call, call.source.rpartition("/")[2])
        except AssertionError as problem:
            problems.append(problem)

    for _, sent, body in messages:
        publish(server, queue, body, sent)
    report = run(app, lambda: len(seen) >= len(messages))

    assert (problems, report.reasons) == ([], {})
    assert len(seen) == len(set(seen)) == 16 + 18
    assert transport.dead_letters([queue]) == []


@relevo.event("image.created", version=1, subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int


def test_a_listener_of_a_class_handles_it_and_its_follow_up_has_its_ids(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    app = application(transport, queue)
    seen: list[Any] = []

    @app.listen
    @relevo.listener(ImageCreated)
    def create(event: ImageCreated, call: relevo.Call) -> None:
        seen.append(event)
        call.dispatch(relevo.Event("image.rated"))

    @app.listen
    @relevo.listener("image.rated")
    def rated(event: relevo.Event, call: relevo.Call) -> None:
        seen.append((event.name, call.correlation_id, call.causation_id))

    publish(server, queue)
    publish(
        server, queue, structured(id="18", subject="image/8", data=None), properties("application/cloudevents+json")
    )
    run(app, lambda: len(seen) >= 4)

    assert sorted(seen, key=repr) == [
        ("image.rated", "17", "17"),
        ("image.rated", "18", "18"),
        ImageCreated(7),
        ImageCreated(8),
    ]


# --- on the server --------------------------------------------------------------------------------------------


def test_a_program_publishes_to_the_queue_or_to_an_exchange_of_its_own(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    name = server.topology.queue(queue, Role.MAIN)
    exchange = f"{server.prefix}.theirs"
    channel = server.channel()
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    channel.queue_bind(name, exchange, "image.*")

    publish(server, queue, name=name)
    channel.basic_publish(exchange, "image.created", structured(id="18"), properties("application/cloudevents+json"))

    assert sorted(ids(drain(transport, queue, least=2))) == ["17", "18"]
    channel.queue_unbind(name, exchange, "image.*")


def test_a_retry_runs_only_what_failed_and_the_dead_letter_is_what_came(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    app = application(transport, queue)
    calls: list[str] = []

    @app.listen
    @relevo.listener("image.created")
    def good(event: relevo.Event) -> None:
        calls.append("good")

    @app.listen
    @relevo.listener("image.created", retry=relevo.Retry(2, first="0.2s"))
    def bad(event: relevo.Event, call: relevo.Call) -> None:
        calls.append(f"bad {call.attempt} {event['image_id']}")
        if len(calls) < 4:
            raise ValueError("no")

    publish(server, queue, given=properties(priority=3, timestamp=1_700_000_000))
    run(app, lambda: len(calls) >= 3)
    (entry,) = wait_for_entries(transport, queue)

    assert calls == ["good", "bad 1 7", "bad 2 7"]
    assert (entry.reason, entry.attempt, entry.enqueued_at) == ("retries-exhausted", 2, 1_700_000_000.0)
    assert isinstance(entry.envelope, ForeignEnvelope)
    assert entry.envelope.original == BODY
    assert entry.envelope.original_headers == came().envelope.original_headers  # type: ignore[union-attr]
    name = server.topology.queue(queue, Role.DEAD)
    channel = server.channel()
    method, found, body = channel.basic_get(name)
    channel.basic_nack(method.delivery_tag, requeue=True)
    assert (body, found.content_type, found.correlation_id, found.priority) == (BODY, "application/json", "c", 3)
    assert originals(found) == HEADERS
    wait_until(lambda: server.ready(name) == 1)
    assert transport.revive({entry.ref: app.revived(entry)}) == []
    run(app, lambda: len(calls) >= 4)
    assert calls[3:] == ["bad 1 7"]


def wait_for_entries(transport: AmqpTransport, queue: str) -> Sequence[relevo.DeadLetterEntry]:
    found: Sequence[relevo.DeadLetterEntry] = []

    def came_there() -> bool:
        nonlocal found
        found = transport.dead_letters([queue])
        return bool(found)

    wait_until(came_there)
    return found


def test_a_copy_that_the_other_program_asked_for_is_not_sent_again_by_a_retry(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    other = server.queue()
    transport.setup([other])
    publish(server, queue, given=properties(headers={**HEADERS, "CC": [other]}))
    (delivery,) = receive(transport, queue)

    assert transport.settle([(delivery, Nack(delay=0.0))]) == []
    (again,) = receive(transport, queue)

    assert again.attempt == 2
    assert server.ready(server.topology.queue(other, Role.MAIN)) == 1
    transport.ack(again)


def test_what_a_killed_process_held_comes_back_alone_and_as_it_came(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    for number in range(3):
        publish(server, queue, given=properties(headers={**HEADERS, "cloudEvents:id": str(number)}))
    assert hold_and_die(server, queue, limit=2) == 2

    received: list[Delivery] = []
    while len(received) < 3:
        batch = receive(transport, queue)
        assert len(batch) == 1 or not any(each.lost_leases for each in batch)
        received += batch
        assert transport.settle([(each, Ack()) for each in batch]) == []

    assert sorted(ids(received)) == ["0", "1", "2"]
    assert sum(each.lost_leases for each in received) >= 2
    for each in received:
        assert isinstance(each.envelope, ForeignEnvelope)
        assert each.envelope.original == BODY
        assert each.envelope.original_headers == {**HEADERS, "cloudEvents:id": each.envelope.id}


KILLER = """
import os, sys
import relevo
from relevo_amqp import AmqpOptions, AmqpTransport
url, prefix, levels, queue = sys.argv[1:]
transport = AmqpTransport(AmqpOptions(url=url, prefix=prefix, levels=int(levels)))
app = relevo.App(transports={"main": transport}, routes={"*": f"main/{queue}"}, source="shop")
app.listen(relevo.listener("image.created")(lambda event: os._exit(9)))
app.worker(relevo.RunOptions(max_events=1)).run()
"""


def test_one_that_kills_its_processes_is_a_crash_loop_and_kept_as_it_came(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    publish(server, queue)
    for _ in range(4):
        command = [sys.executable, "-c", KILLER, server.url, server.prefix, str(LEVELS), queue]
        assert subprocess.run(command, check=False, timeout=PATIENCE).returncode == 9

    app = application(transport, queue)
    app.listen(relevo.listener("image.created")(lambda _: None))
    report = run(app, lambda: bool(transport.dead_letters([queue])))

    (entry,) = transport.dead_letters([queue])
    assert (entry.reason, report.reasons) == ("crash-loop", {"crash-loop": 1})
    assert isinstance(entry.envelope, ForeignEnvelope)
    assert entry.envelope.original == BODY


def test_a_person_who_rejects_it_makes_a_dead_letter_of_it_that_can_be_revived(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    publish(server, queue)
    channel = server.channel()
    wait_until(lambda: server.ready(server.topology.queue(queue, Role.MAIN)) == 1)
    method, _, _ = channel.basic_get(server.topology.queue(queue, Role.MAIN))
    channel.basic_nack(method.delivery_tag, requeue=False)

    (entry,) = wait_for_entries(transport, queue)
    assert entry.reason == "server-rejected"
    assert transport.revive({entry.ref: b""}) == []
    (delivery,) = receive(transport, queue)

    assert isinstance(delivery.envelope, ForeignEnvelope)
    assert delivery.envelope.original_headers == HEADERS
    transport.ack(delivery)


def test_one_that_is_moved_to_another_queue_stays_as_it_came(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    other = server.queue()
    transport.setup([other])
    publish(server, queue)
    (delivery,) = receive(transport, queue)
    assert isinstance(delivery.envelope, ForeignEnvelope)

    transport.send([attrs.evolve(delivery.envelope, queue=other)], delay=0.1)
    transport.ack(delivery)
    (moved,) = receive(transport, other)

    assert moved.envelope == attrs.evolve(delivery.envelope, queue=other)
    transport.ack(moved)


def test_an_event_reaches_a_listener_in_a_process_of_its_own(
    server: Server, connect: Connect, queue: str, tmp_path: Path
) -> None:
    options = f'url = "{server.url}", prefix = "{server.prefix}", levels = {LEVELS}, settle_in = 0'
    tmp_path.joinpath("relevo.toml").write_text(
        'source = "shop"\nlisteners = ["listeners"]\n'
        f'[transports]\nmain = {{ {options} }}\n[routes]\n"*" = "main/{queue}"\n'
    )
    tmp_path.joinpath("listeners.py").write_text(
        "import relevo\n"
        "@relevo.listener('image.created', retry=1)\n"
        "def handle(event, call):\n"
        "    raise ValueError(f\"{event['data']} {call.attributes['datacontenttype']}\")\n"
    )
    transport = connect()
    transport.setup([queue])
    publish(server, queue, b"\xff", properties("image/png"))

    command = [sys.executable, "-m", "relevo", "drain", "--execution", "process"]
    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=PATIENCE)

    (entry,) = wait_for_entries(transport, queue)
    assert "ValueError: b'\\xff' image/png" in entry.error
    assert isinstance(entry.envelope, ForeignEnvelope)
    assert entry.envelope.original == b"\xff"
    shown = subprocess.run(
        [sys.executable, "-m", "relevo", "dead", "show", entry.ref, "--json"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    row = json.loads(shown.stdout)
    assert row["headers"]["cloudEvents:id"] == "17"
    assert (row["body"], row["size"]) == ("\\xff", 1)


def test_where_events_are_signed_it_is_forged_and_kept_as_it_came_unless_its_source_is_listed(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    signing = relevo.Signing(secrets.token_urlsafe(32), unsigned=["/listed"])
    app = application(transport, queue, signing=signing)
    handled: list[str | None] = []

    @app.listen
    @relevo.listener("image.created", retry=relevo.Retry(2, first="0.1s"))
    def handle(event: relevo.Event, call: relevo.Call) -> None:
        handled.append(event.id)
        if call.attempt == 1:
            raise ValueError("again, with a state that is sealed for it")

    publish(server, queue)
    publish(
        server, queue, given=properties(headers={**HEADERS, "cloudEvents:id": "18", "cloudEvents:source": "/listed"})
    )
    report = run(app, lambda: len(handled) >= 2 and bool(transport.dead_letters([queue])))

    (entry,) = transport.dead_letters([queue])
    assert (handled, report.reasons) == (["18", "18"], {"forged": 1})
    assert isinstance(entry.envelope, ForeignEnvelope)
    assert (entry.envelope.id, entry.envelope.original) == ("17", BODY)


def test_one_that_has_expired_is_not_handled(server: Server, transport: AmqpTransport, queue: str) -> None:
    app = application(transport, queue)
    app.listen(relevo.listener("image.created")(lambda _: None))
    publish(server, queue, given=properties(headers={**HEADERS, "ce-expirytime": "2020-01-01T00:00:00Z"}))

    assert run(app, lambda: bool(transport.dead_letters([queue]))).reasons == {"expired": 1}


HOSTILE: Mapping[str, tuple[pika.BasicProperties, bytes]] = {
    "nested tables": (properties(headers={**HEADERS, "ce-x": {"a": [{"b": None}]}}), BODY),
    "an id of bytes": (properties(headers={**HEADERS, "cloudEvents:id": b"\xff"}), BODY),
    "an id of 256 characters": (properties(headers={**HEADERS, "cloudEvents:id": "i" * 256}), BODY),
    "an id with NUL": (properties(headers={**HEADERS, "cloudEvents:id": "a\0b"}), BODY),
    "an empty type": (properties(headers={**HEADERS, "cloudEvents:type": ""}), BODY),
    "no version": (properties(headers={**HEADERS, "cloudEvents:specversion": None}), BODY),
    "version 0.3": (properties(headers={**HEADERS, "cloudEvents:specversion": "0.3"}), BODY),
    "two ids": (properties(headers={**HEADERS, "ce-id": "18"}), BODY),
    "no JSON": (properties(), b"{"),
    "JSON that is not UTF-8": (properties(), b'{"a": "\xff"}'),
    "deep JSON": (properties(), b"[" * 200_000),
    "a document that is not an object": (properties("application/cloudevents+json"), b"[]"),
    "a document in UTF-16": (properties("application/cloudevents+json; charset=utf-16"), structured()),
    "a document with a lone surrogate": (properties("application/cloudevents+json"), structured(id="\ud800")),
    "a batch": (properties("application/cloudevents-batch+json"), b"[%b]" % structured()),
    "headers that fill the frame": (properties(headers={**HEADERS, "x": "y" * 110_000}), BODY),
    "a content type in Latin-1": (properties("\xe9" * 100, headers={}), BODY),
}
BENIGN: Mapping[str, tuple[pika.BasicProperties, bytes]] = {
    "many headers": (properties(headers={**HEADERS, **{f"ce-x{number}": "v" * 60 for number in range(900)}}), BODY),
    "headers of each type": (
        properties(
            headers={**HEADERS, "ce-a": b"\x00", "ce-b": Decimal("1.5"), "ce-c": True, "ce-d": -5, "ce-e": None}
            | {"ce-f": datetime(2026, 1, 1, tzinfo=UTC), "ce-": "x", "ce-data": "x", "ce-data_base64": "!"}
        ),
        BODY,
    ),
    "a mebibyte of data": (properties("image/png"), b"\xff" * (1 << 20)),
    "five mebibytes of JSON": (properties(), b'{"a": "%b"}' % (b"x" * (5 << 20))),
    "a document and other headers": (
        properties("application/cloudevents+json", headers={"ce-id": "other", "ce-specversion": "0.3"}),
        structured(),
    ),
    "a subject with NUL": (properties("application/cloudevents+json"), structured(subject="\0")),
    "a subject of 100,000 characters": (properties("application/cloudevents+json"), structured(subject="s" * 100_000)),
    "extensions with relevo's names": (
        properties("application/cloudevents+json"),
        structured(dataversion="v1", relevocontext={"a": 1}, traceparent=5, correlationid=[]),
    ),
}


def test_hostile_messages_stop_no_other_and_keep_their_bytes(
    server: Server, transport: AmqpTransport, queue: str
) -> None:
    app = application(transport, queue)
    handled: list[str] = []

    @app.listen
    @relevo.listener("image.created", retry=relevo.Retry(2, first="0.1s"))
    def handle(event: relevo.Event, call: relevo.Call) -> None:
        handled.append(call.event_id)
        if call.attempt == 1:
            raise ValueError("again, so that it is published again")

    for name in (*HOSTILE, *BENIGN):
        sent, body = {**HOSTILE, **BENIGN}[name]
        publish(server, queue, body, sent)
        publish(server, queue, structured(id=f"beside {name}"), properties("application/cloudevents+json"))
    number = len(HOSTILE) + 2 * len(BENIGN)
    report = run(app, lambda: len(handled) >= 2 * number)

    assert report.reasons == {"unreadable": len(HOSTILE)}
    assert len(handled) == 2 * number
    wait_until(lambda: len(transport.dead_letters([queue])) == len(HOSTILE))
    dead = {entry.envelope.raw for entry in transport.dead_letters([queue]) if isinstance(entry.envelope, Unreadable)}
    assert dead == {body for _, body in HOSTILE.values()}
    assert server.ready(server.topology.queue(queue, Role.MAIN)) == 0


@given(
    st.sampled_from(["application/cloudevents+json", "application/json", "text/plain", None]),
    st.dictionaries(
        st.sampled_from([*HEADERS, "ce-id", "CE-TYPE", "relevo", "relevo-foreign", "relevo-state", "relevo-due", "x"]),
        values,
        max_size=5,
    ),
    st.sampled_from([{}, HEADERS]),
    st.binary(max_size=40) | st.sampled_from([structured(), BODY, structured(relevocontext=5, data=[])]),
)
def test_whatever_comes_is_read_and_can_be_published_again(
    content_type: str | None, headers: dict[str, Any], valid: Mapping[str, Any], body: bytes
) -> None:
    sent, _ = over_the_wire_of(properties(content_type, headers={**valid, **headers}), body)

    record = read(sent, body, queue="mail", now=NOW)

    for delayed in (False, True):
        message = written(record, exchange="e", key="k", delayed=delayed)
        again = read(*over_the_wire(message), queue="mail", now=NOW)
        assert type(again.envelope) is type(record.envelope)
        assert again.state == record.state
        assert again.attempt == record.attempt
