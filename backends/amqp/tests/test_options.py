from __future__ import annotations

from pathlib import Path

import pytest

from relevo import App, Secret
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo_amqp import AccessRefusedError, AmqpOptions, AmqpTransport
from relevo_amqp._errors import LineLostError, translated
from relevo_amqp._options import Address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://localhost", ("localhost", 5672, "/", "guest", "guest", False)),
        ("amqp://localhost/", ("localhost", 5672, "/", "guest", "guest", False)),
        ("amqps://broker.example/shop", ("broker.example", 5671, "shop", "guest", "guest", True)),
        ("amqp://u%40x:p%2F%25@h:1234/a%2Fb", ("h", 1234, "a/b", "u@x", "p/%", False)),
        ("amqp://[::1]:5673/", ("::1", 5673, "/", "guest", "guest", False)),
    ],
)
def test_an_address_is_read(url: str, expected: tuple[object, ...]) -> None:
    address = Address.parse(url)

    host, port, vhost, user, password, encrypted = expected
    assert (address.host, address.port, address.vhost, address.user) == (host, port, vhost, user)
    assert address.password == Secret(str(password))
    assert address.encrypted == encrypted


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://user:canary@localhost/",
        "amqpp://user:canary@localhost/",
        "amqp://",
        "amqp://user:canary@/",
        "amqp://user:canary@host:port/",
        "amqp://user:canary@host:99999/",
        "amqp://user:canary@host:0/",
        "amqp://user:canary@host/a/b",
        "amqp://user:canary@host/?heartbeat=5",
        "amqp://user:canary@host/#x",
        "amqp://user:canary%@host/",
        "amqp://user:canary@[::1/",
    ],
)
def test_what_is_no_address_is_refused_and_its_password_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not an address of RabbitMQ") as caught:
        AmqpOptions(url=url)

    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix": ""},
        {"prefix": "amq.x"},
        {"prefix": "a b"},
        {"prefix": "x" * 61},
        {"prefetch": 0},
        {"prefetch": 70_000},
        {"window": 0},
        {"heartbeat": 0},
        {"levels": 0},
        {"levels": 29},
        {"max_body": 0},
        {"confirm_timeout": 0.0},
        {"connect_timeout": -1.0},
        {"resolution": 0.001},
        {"patience": -1.0},
        {"patience": float("nan")},
    ],
)
def test_options_that_cannot_work_are_refused_by_name(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        AmqpOptions(**changes)  # type: ignore[arg-type]


def test_no_password_is_shown_anywhere() -> None:
    options = AmqpOptions(url="amqp://user:canary@host/")
    transport = AmqpTransport(options)

    assert "canary" not in f"{options!r} {transport!r} {Address.parse(options.url)} {Address.parse(options.url)!r}"


def test_opening_does_no_input_or_output() -> None:
    transport = AmqpTransport("amqp://no-such-host.invalid")

    transport.close()


def test_what_an_instance_claims_follows_its_options() -> None:
    transport = AmqpTransport(AmqpOptions(resolution=0.5, max_body=1000))

    assert (transport.capabilities.delay, transport.capabilities.max_body) == (0.5, 1000)


@pytest.mark.parametrize(
    ("text", "patience"),
    [
        ("[transports]\nmain = 'amqp://localhost'", 3600.0),
        ("patience = '5m'\n[transports]\nmain = 'amqp://localhost'", 300.0),
        ("patience = '5m'\n[transports]\nmain = {url = 'amqp://localhost', patience = '1m'}", 60.0),
    ],
)
def test_configuration_gives_it_the_applications_patience(tmp_path: Path, text: str, patience: float) -> None:
    path = tmp_path / "relevo.toml"
    path.write_text(f"source = 'shop'\n{text}\n")

    transport = App.from_config(path, environ={}).transports["main"]

    assert isinstance(transport, AmqpTransport)
    assert transport._options.patience == patience


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LineLostError("403 ACCESS_REFUSED", code=403), AccessRefusedError),
        (LineLostError("530 NOT_ALLOWED - vhost x not found", code=530), AccessRefusedError),
        (LineLostError("530 NOT_ALLOWED - connection limit (10) is reached", code=530), TransportUnavailableError),
        (LineLostError("530 NOT_ALLOWED - vhost 'x' is down", code=530), TransportUnavailableError),
        (LineLostError("320 CONNECTION_FORCED", code=320, kind="ConnectionClosedByBroker"), TransportUnavailableError),
        (LineLostError("refused", kind="ConnectionRefusedError"), TransportUnavailableError),
        (LineLostError("certificate verify failed", kind="SSLCertVerificationError"), ConfigurationError),
        (LineLostError("anything", kind="SomethingNew"), TransportUnavailableError),
    ],
)
def test_each_error_says_who_must_act(error: LineLostError, expected: type[Exception]) -> None:
    result = translated(error, transport="main", place="amqp://user@host")

    assert type(result) is expected
    assert error.why in str(result)
