from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, strategies as st

from relevo import App, Secret
from relevo.errors import ConfigurationError, TransportUnavailableError, UnsupportedError
from relevo.testing import FakeClock
from relevo_amqp import AccessRefusedError, AmqpOptions, AmqpTransport
from relevo_amqp._errors import ConnectionLostError, translated
from relevo_amqp._options import Address, prefix_of
from relevo_amqp._topology import Role, Topology


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://localhost", ("localhost", 5672, "/", "guest", "guest", False)),
        ("amqp://localhost/", ("localhost", 5672, "/", "guest", "guest", False)),
        ("amqps://me:pw@broker.example/shop", ("broker.example", 5671, "shop", "me", "pw", True)),
        ("amqp://guest:own@broker.example", ("broker.example", 5672, "/", "guest", "own", False)),
        ("amqp://me@broker.example", ("broker.example", 5672, "/", "me", "guest", False)),
        ("amqp://127.1.2.3", ("127.1.2.3", 5672, "/", "guest", "guest", False)),
        ("amqp://mq.localhost", ("mq.localhost", 5672, "/", "guest", "guest", False)),
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
    ("url", "why"),
    [
        ("amqp://user:canary@host:99999/", "the port '99999' is not a number from 1 to 65535"),
        ("amqp://user:canary@host:abc/", "the port 'abc' is not a number from 1 to 65535"),
        ("amqp://host:99999/", "the port '99999' is not a number from 1 to 65535"),
        ("amqp://user:canary", "the text after the colon is not a number from 1 to 65535"),
        ("amqp://user:ca#nary@host/", "'amqp://user:***@host/' is not .* write / as %2F, . as %3F and # as %23"),
        ("amqp://user:ca?nary@host/", "write / as %2F, . as %3F and # as %23"),
        (
            "amqp://guest:canary@127.0.0.1:5672//",
            "leave out the last slash; the default virtual host needs none; write",
        ),
        ("amqp://user:12/nary@host/", "write / as %2F, . as %3F and # as %23"),
    ],
)
def test_what_is_wrong_in_an_address_is_named_but_for_the_password(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why.replace("***", r"\*\*\*")) as caught:
        AmqpOptions(url=url)

    assert "nary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://broker.example",
        "amqps://broker.example:5671/shop",
        "amqp://10.0.0.1/",
        "amqp://[2001:db8::1]/",
        "amqp://127.example.org",
        "amqp://guest@broker.example",
        "amqp://guest:guest@broker.example",
        "amqp://gu%65st:guest@broker.example",
        "amqp://@broker.example",
    ],
)
def test_the_user_that_a_server_takes_from_its_own_machine_alone_is_refused_elsewhere(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AmqpOptions(url=url)

    host = urlsplit(url).hostname or ""
    assert str(caught.value).startswith(f"'{url.partition('://')[0]}")
    assert host in str(caught.value)
    assert 'uses the default user "guest", which RabbitMQ accepts only from localhost; write' in str(caught.value)
    assert "://user:${VARIABLE}@" in str(caught.value)
    assert ":guest" not in str(caught.value)


def test_a_server_elsewhere_without_a_user_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "relevo.toml"
    path.write_text("[transports]\nbox = 'sqlite:///x.db'\nmain = 'amqp://broker.example'\n")

    with pytest.raises(ConfigurationError) as caught:
        App.from_config(path, environ={})

    assert str(caught.value).startswith(f"{path}:3: transports.main: 'amqp://broker.example' ")


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
        {"settle_in": -1.0},
        {"settle_in": 61.0},
        {"management": "broker:15672"},
        {"management": "amqp://broker:15672"},
        {"management": "http://broker:port"},
        {"management": "http://me:pw@broker:15672"},
        {"patience": -1.0},
        {"patience": float("nan")},
    ],
)
def test_options_that_cannot_work_are_refused_by_name(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        AmqpOptions(**changes)  # type: ignore[arg-type]


def test_all_invalid_options_are_reported_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "relevo.toml"
    path.write_text(
        "[transports.main]\n"
        "url = 'amqp://me:canary@broker.example/a/b'\n"
        "prefix = 'a b'\n"
        "prefetch = 0\n"
        "window = 70000\n"
        "confirm_timeout = 0\n"
        "connect_timeout = 4000\n"
        "heartbeat = 0\n"
        "max_body = 0\n"
        "resolution = 0.001\n"
        "levels = 29\n"
        "settle_in = 61\n"
        "management = 'http://me:canary@broker:15672'\n"
        "patience = -1\n"
    )

    with pytest.raises(ConfigurationError) as caught:
        App.from_config(path, environ={})

    wrong = "'amqp://me:***@broker.example/a/b' is not an address of RabbitMQ"
    remedy = "write amqp://user:password@host:port/vhost, or amqps:// for TLS"
    prefix = 'expected 1 to 60 letters, digits, ".", "_" or "-", beginning with a letter or a digit and not with "amq."'
    expected = [
        f"{wrong}: write a slash in the name of a virtual host as %2F; {remedy}",
        f"prefix: {prefix}; got 'a b'",
        "prefetch: expected a whole number from 1 to 65000, or none; got 0",
        "window: expected a whole number from 1 to 65000; got 70000",
        "confirm_timeout: expected a number of seconds above 0 and at most 3600; got 0.0",
        "connect_timeout: expected a number of seconds above 0 and at most 3600; got 4000.0",
        "heartbeat: expected a whole number from 1 to 3600; got 0",
        "max_body: expected a whole number from 1 to 536870912; got 0",
        "resolution: expected a number of seconds from 0.01 to 3600; got 0.001",
        "levels: expected a whole number from 1 to 28; got 29",
        "settle_in: expected a number of seconds from 0 to 60; got 61.0",
        "management: expected http://host:port or https://host:port, without a user; got 'http://me:***@broker:15672'",
        "patience: expected a number of seconds, 0 or more; got -1.0",
    ]
    lines = [f"{path}:{number}: transports.main: {each}" for number, each in enumerate(expected, 2)]
    assert str(caught.value).splitlines() == lines


def test_parameters_of_an_address_are_options_beside_it() -> None:
    with pytest.raises(
        ConfigurationError, match=r'write options beside the address, as in \{ url = "…", heartbeat = 30 \}'
    ):
        AmqpOptions(url="amqps://me:pw@mq.example/shop?heartbeat=30")


@pytest.mark.parametrize("host", ["%2f", "%2F"])
def test_the_exchange_in_an_address_of_symfony_is_left_out(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"leave out '/messages', which is the name of an") as caught:
        AmqpOptions(url=f"amqp://guest:canary@localhost:5672/{host}/messages")

    assert "canary" not in str(caught.value)
    assert Address.parse(f"amqp://guest:canary@localhost:5672/{host}").vhost == "/"


def test_no_password_is_shown_anywhere() -> None:
    options = AmqpOptions(url="amqp://user:canary@host/")
    transport = AmqpTransport(options)

    with pytest.raises(ConfigurationError) as caught:
        AmqpOptions(management="http://user:canary@host/")
    assert "canary" not in str(caught.value)
    assert "canary" not in f"{options!r} {transport!r} {Address.parse(options.url)} {Address.parse(options.url)!r}"


def test_opening_does_no_input_or_output() -> None:
    transport = AmqpTransport("amqp://me:pw@no-such-host.invalid")

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
        (ConnectionLostError("403 ACCESS_REFUSED", code=403), AccessRefusedError),
        (ConnectionLostError("530 NOT_ALLOWED - vhost x not found", code=530), AccessRefusedError),
        (
            ConnectionLostError("530 NOT_ALLOWED - connection limit (10) is reached", code=530),
            TransportUnavailableError,
        ),
        (ConnectionLostError("530 NOT_ALLOWED - vhost 'x' is down", code=530), TransportUnavailableError),
        (
            ConnectionLostError("320 CONNECTION_FORCED", code=320, kind="ConnectionClosedByBroker"),
            TransportUnavailableError,
        ),
        (ConnectionLostError("refused", kind="ConnectionRefusedError"), TransportUnavailableError),
        (ConnectionLostError("certificate verify failed", kind="SSLCertVerificationError"), ConfigurationError),
        (ConnectionLostError("anything", kind="SomethingNew"), TransportUnavailableError),
    ],
)
def test_each_error_says_who_must_act(error: ConnectionLostError, expected: type[Exception]) -> None:
    result = translated(error, transport="main", place="amqp://user@host")

    assert type(result) is expected
    assert error.why in str(result)


def test_the_error_of_a_refused_connection_says_what_to_check() -> None:
    result = translated(
        ConnectionLostError("refused", kind="ConnectionRefusedError"), transport="main", place="amqp://me:***@host"
    )

    assert str(result).endswith("amqp://me:***@host: refused; check that the server runs and that the port is right")


@pytest.mark.parametrize(
    ("source", "prefix"),
    [
        ("shop", "shop"),
        ("shop.example", "shop.example"),
        ("", "relevo"),
        ("/shop/api", r"shop-api-[0-9a-f]{8}"),
        ("https://shop.example/a", r"https-shop.example-a-[0-9a-f]{8}"),
        ("läden", r"l-den-[0-9a-f]{8}"),
        ("店", r"app-[0-9a-f]{8}"),
        ("amq.shop", r"app-[0-9a-f]{8}"),
        ("x" * 61, r"x{51}-[0-9a-f]{8}"),
    ],
)
def test_the_default_prefix_is_the_source_or_made_of_it(source: str, prefix: str) -> None:
    made = prefix_of(source)

    assert re.fullmatch(prefix, made)
    assert AmqpOptions(prefix=made).prefix == made


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_sources_have_two_prefixes(one: str, other: str) -> None:
    assert AmqpOptions(prefix=prefix_of(one)).prefix
    assert (prefix_of(one) == prefix_of(other)) == (one == other)


@pytest.mark.parametrize(
    "call",
    [
        lambda transport: transport.waiting(["default"]),
        lambda transport: transport.find("1"),
        lambda transport: transport.take("default", "1", lease=60.0),
    ],
    ids=["waiting", "find", "take"],
)
def test_what_waits_can_be_neither_listed_nor_taken_by_its_id_and_the_error_says_why(
    call: Callable[[AmqpTransport], object],
) -> None:
    with pytest.raises(UnsupportedError, match="RabbitMQ shows the events of a queue only to a worker that takes them"):
        call(AmqpTransport("amqp://127.0.0.1:1"))


def test_a_purge_is_refused_with_the_reason_and_the_name_of_the_queue_on_the_server() -> None:
    transport = AmqpTransport(AmqpOptions(url="amqp://127.0.0.1:1", prefix="PREFIX"))

    with pytest.raises(UnsupportedError, match="the scheduled events of all queues wait together") as raised:
        transport.purge("QUEUE")

    assert f"rabbitmqctl purge_queue {Topology('PREFIX', 1.0, 8).queue('QUEUE', Role.MAIN)}, " in raised.value.why


def test_a_clock_that_is_moved_is_a_risk_since_the_server_measures_delays() -> None:
    url = "amqp://127.0.0.1"

    (risk,) = AmqpTransport(url, clock=FakeClock()).risks()

    assert risk.startswith("the server measures delays, so a FakeClock makes no event due; ")
    assert not AmqpTransport(url).risks()
