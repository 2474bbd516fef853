from __future__ import annotations

import pytest

from dispatch_amqp import pairs
from dispatch_sql import lines, measured

pytestmark = [pytest.mark.amqp, pytest.mark.slow("runs each measurement once")]


def test_every_pair_is_measured(rabbitmq_url: str) -> None:
    with pairs(rabbitmq_url, events=8) as contestants:
        heads, *printed = lines(measured(contestants, rounds=1), driver="pika")

    assert heads.startswith("microseconds an event")
    assert [line[:28].strip() for line in printed] == [
        "one by one, blocking",
        "one by one, asynchronous",
        "dispatch_many of 1,000",
        "8 threads, one by one",
    ]
    assert all(float(line.split()[-1].replace(",", "")) > 0 for line in printed)
