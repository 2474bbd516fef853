"""pika logs nothing of an error that relevo raises, unless a level is set for its logger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from relevo.errors import ConfigurationError, TransportError
from relevo_amqp import AccessRefusedError, AmqpTransport

from .conftest import Server

Connect = Callable[..., AmqpTransport]


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """Give pika's logger without any configuration."""
    logger = logging.getLogger("pika")
    level = logger.level
    logger.setLevel(logging.NOTSET)
    yield
    logger.setLevel(level)


def pika_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("pika")]


def test_a_wrong_password_is_one_error_without_the_password_and_pika_logs_nothing(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    transport = connect(url=server.url.replace("//guest:guest@", "//guest:canary@"))

    with pytest.raises(AccessRefusedError, match=r"[^.]; check user, password") as caught:
        transport.stats("any")

    assert "canary" not in str(caught.value)
    assert pika_lines(caplog) == []


def test_a_host_that_has_no_address_is_one_error_and_pika_logs_nothing(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    transport = connect(url="amqp://user:password@nowhere.invalid/")

    with pytest.raises(TransportError, match=r"the host name nowhere\.invalid cannot be resolved"):
        transport.stats("any")

    assert pika_lines(caplog) == []


@pytest.mark.parametrize("name", ["pika", "pika.adapters", "pika.adapters.base_connection"])
def test_with_a_level_set_for_pika_its_records_are_kept(
    connect: Connect, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    transport = connect(url="amqp://127.0.0.1:1/")

    with caplog.at_level(logging.WARNING, name), pytest.raises((TransportError, ConfigurationError)):
        transport.stats("any")

    assert pika_lines(caplog) != []


def test_what_pika_logs_in_threads_of_the_application_is_left_alone(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TransportError):
        connect(url="amqp://127.0.0.1:1/").stats("any")
    assert pika_lines(caplog) == []

    logging.getLogger("pika.connection").error("the application's own")

    assert pika_lines(caplog) == ["the application's own"]
