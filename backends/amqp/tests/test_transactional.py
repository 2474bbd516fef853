"""A listener that is called in a transaction of a database, on a transport that has none."""

from __future__ import annotations

import pytest

from relevo import App, Call, ConfigurationError, Event
from relevo_amqp import AmqpTransport


def test_a_transactional_listener_is_refused_before_anything_is_received() -> None:
    app = App(transports={"main": AmqpTransport("amqp://127.0.0.1:1")}, routes={"*": "main"}, source="shop")

    @app.listener("order.paid", transactional=True)
    def pay(event: Event, call: Call) -> None: ...

    with pytest.raises(ConfigurationError, match=r"AmqpTransport\) cannot record .* give the transport an outbox"):
        app.worker()
