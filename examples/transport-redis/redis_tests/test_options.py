"""The options in the configuration; errors show no password."""

from __future__ import annotations

from pathlib import Path

import pytest

import relevo
from relevo import Secret
from relevo.errors import ConfigurationError
from relevo_redis import RedisOptions, RedisTransport


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://127.0.0.1:7000/3",
        "redis://[::1]:6379/",
        "rediss://me:pass%2Fword@redis.example:6380/0",
        "redis://:secret@localhost",
    ],
)
def test_an_address_is_understood(url: str) -> None:
    assert RedisOptions(url=Secret(url)).pool().connection_kwargs["protocol"] == 2


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@",
        "redis://:secret@localhost/media",
        "redis://:secret@localhost?db=3",
        "redis://:secret@localhost:port",
        "unix://:secret@/tmp/redis.sock",
        "redis://:sec/ret@localhost",
        "redis://:secret[@localhost",
        "redis://:secret\u2100@localhost",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://user:password@host") as caught:
        RedisOptions(url=Secret(url))

    assert "secret" not in str(caught.value)
    assert "sec/ret" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "a:b", "a b", "x" * 61, "*"])
def test_a_prefix_that_could_meet_another_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisOptions(url=Secret("redis://localhost"), prefix=prefix)


@pytest.mark.parametrize("timeout", [0.0, 1.0, float("nan"), float("inf")])
def test_a_timeout_that_a_wait_would_meet_is_refused(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        RedisOptions(url=Secret("redis://localhost"), timeout=timeout)


def test_all_invalid_options_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "relevo.toml"
    file.write_text("[transports.main]\nurl = 'redis://:secret@host?db=3'\nprefix = 'a:b'\ntimeout = 1\n")

    with pytest.raises(ConfigurationError) as caught:
        relevo.App.from_config(file, environ={})

    expected = [
        "url: expected redis://user:password@host:port/database; got 'redis://:***@host?db=***'",
        'prefix: expected 1 to 60 letters, digits, ".", "_" or "-"; got \'a:b\'',
        "timeout: expected a number of seconds from 2 to 3600; got 1.0",
    ]
    lines = [f"{file}:{number}: transports.main: {each}" for number, each in enumerate(expected, 2)]
    assert str(caught.value).splitlines() == lines


def test_tls_asks_for_the_name_of_the_host() -> None:
    assert RedisOptions(url=Secret("rediss://localhost")).pool().connection_kwargs["ssl_check_hostname"] is True


def test_one_line_of_configuration_leads_here(tmp_path: Path) -> None:
    file = tmp_path / "relevo.toml"
    main = '{ url = "redis://localhost", durability = "process" }'
    file.write_text(f'[transports]\nmain = {main}\n[routes]\n"*" = "main"\n')

    with relevo.App.from_config(file, environ={}) as app:
        transport = app.transport()

    assert isinstance(transport, RedisTransport)
    assert transport.capabilities.durability == "process"
    assert RedisTransport.capabilities.durability == "host"
