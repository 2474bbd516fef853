"""The ordering keys that are stuck, in relevo status."""

from __future__ import annotations

import json
from typing import Any

from relevo import Delivery, Envelope, Lost, Nack, SystemClock
from relevo_sql import SqlOptions, SqlTransport

from .shop import Shop


def store(shop: Shop) -> SqlTransport:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    transport = SqlTransport.open(options, name="main", clock=SystemClock())
    transport.setup([])
    return transport


def send(transport: SqlTransport, key: str, number: int, *, queue: str = "media") -> None:
    transport.send(
        [
            Envelope(id=f"{key}-{each}", source="s", name="image.moved", body=b"{}", queue=queue, ordering_key=key)
            for each in range(number)
        ]
    )


def first_of(transport: SqlTransport, key: str) -> Delivery:
    deliveries = transport.receive(["media"], limit=100, lease=3600, wait=0)
    (one,) = (each for each in deliveries if isinstance(each.envelope, Envelope) and each.envelope.ordering_key == key)
    return one


def stuck_in(shop: Shop, queue: str = "media") -> dict[str, Any]:
    rows = json.loads(shop.run("status --json").stdout)
    (found,) = (row["stuck"] for row in rows if row["queue"] == queue)
    assert isinstance(found, dict)
    return found


def test_a_key_behind_a_retry_is_shown_with_what_it_waits_for(shop: Shop) -> None:
    with store(shop) as transport:
        send(transport, "42", 3)
        transport.settle([(first_of(transport, "42"), Nack(delay=3600.0))])

    done = shop.run("status")

    assert (done.returncode, done.stderr) == (0, "")
    table, said = done.stdout.split("\n\n")
    assert "stuck" not in table
    title, head, row = said.splitlines()
    assert title == "1 ordering key is stuck:"
    assert head.split() == ["transport", "queue", "key", "waiting", "since", "behind"]
    assert row.split()[:4] == ["main", "media", "42", "2"]
    assert "image.moved 42-0, attempt 2, retried at 20" in row


def test_a_program_gets_the_keys_of_each_queue(shop: Shop) -> None:
    with store(shop) as transport:
        send(transport, "42", 3)
        transport.settle([(first_of(transport, "42"), Lost())])
        first_of(transport, "42")

    found = stuck_in(shop)

    assert (found["total"], stuck_in(shop, "feed")) == (1, {"total": 0, "keys": []})
    (key,) = found["keys"]
    assert (key["key"], key["waiting"]) == ("42", 2)
    first = key["first"]
    assert (first["id"], first["status"], first["attempt"], first["lost_leases"]) == ("42-0", "leased", 2, 1)
    assert first["leased"] <= first["until"]
    assert "42-0, attempt 2, 1 lost lease, leased since 20" in shop.run("status").stdout


def test_a_key_whose_events_are_handled_one_after_another_is_not_stuck(shop: Shop) -> None:
    with store(shop) as transport:
        send(transport, "42", 3)
        send(transport, "43", 3)
        first_of(transport, "42")

    assert stuck_in(shop)["total"] == 0
    assert "stuck" not in shop.run("status").stdout


def test_ten_keys_are_shown_at_most_and_all_are_counted(shop: Shop) -> None:
    with store(shop) as transport:
        for number in range(12):
            send(transport, f"key-{number}", 2)
        for delivery in transport.receive(["media"], limit=100, lease=60, wait=0):
            transport.settle([(delivery, Nack(delay=3600.0))])

    found = stuck_in(shop)
    text = shop.run("status").stdout

    assert (found["total"], len(found["keys"])) == (12, 10)
    assert "12 ordering keys are stuck; the 10 that have been the longest:" in text
    assert text.count("retried at") == 10


def test_where_a_transport_cannot_tell_no_key_is_shown(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, waiting=False)\n"
        "app = relevo.App(transports={'main': Plain()}, routes={'*': 'main'})\n",
    )

    (row,) = json.loads(shop.run("status --json").stdout)

    assert (row["queue"], row["stuck"], row["error"]) == ("default", None, None)
