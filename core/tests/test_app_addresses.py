"""An application that is made in code from addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relevo import App, Event, Target
from relevo.errors import ConfigurationError, TransportNotFoundError
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport


def test_an_address_is_a_transport_and_every_event_goes_to_the_first() -> None:
    with App(transports={"main": "memory://", "other": "memory://"}) as app:
        sent = app.dispatch("image.created")

        assert isinstance(app.transport("main"), MemoryTransport)
        assert sent.targets == (Target("main", "default"),)
        assert app.transport("other").name == "other"


def test_a_path_starts_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with App(transports={"main": "sqlite:///shop.db"}) as app:
        app.dispatch("image.created")

    assert (tmp_path / "shop.db").exists()


def test_an_outbox_is_an_address_or_the_name_of_another_transport(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/shop.db"
    with App(transports={"main": "memory://", "db": address}, outboxes={"main": "db"}) as app:
        assert app.outboxes["main"] is app.transport("db")
    with App(transports={"main": "memory://"}, outboxes={"main": address}) as app:
        assert isinstance(app.outboxes["main"], SqlTransport)
        assert app.outboxes["main"].name == "main.outbox"


def test_a_transport_that_is_only_an_outbox_is_not_the_first() -> None:
    parts: list[Any] = [{"db": MemoryTransport(), "main": "memory://"}, {"db": "memory://", "main": "memory://"}]
    for transports in parts:
        with App(transports=transports, outboxes={"main": "db"}) as app:
            assert app.dispatch("image.created").targets == (Target("main", "default"),)


def test_an_outbox_that_is_not_there_is_refused_without_a_route_too() -> None:
    with pytest.raises(
        ConfigurationError, match=r"outboxes: 'main': expected an address .*; got 'bd'; there are: main"
    ):
        App(transports={"main": "memory://", "db": "memory://"}, outboxes={"main": "bd"})


def test_the_clock_and_the_settings_are_those_of_the_application(clock: Any) -> None:
    with App(transports={"main": "memory://"}, clock=clock) as app:
        app.dispatch("image.created", delay="1h")

        assert not app.transport().receive(["default"], limit=1, lease=60, wait=0)
        clock.advance(3600)
        assert app.transport().receive(["default"], limit=1, lease=60, wait=0)


@pytest.mark.parametrize(
    "parts, kind, why",
    [
        (
            {"transports": {"main": "shop.db"}},
            ConfigurationError,
            "transports.main: expected an address such as sqlite:///shop.db, .*; got text without a scheme",
        ),
        ({"transports": {"main": "nosuch://x"}}, TransportNotFoundError, "transports.main: no transport for"),
        ({}, ConfigurationError, 'App: no transport; write App.transports={"main": "sqlite:///app.db"}.*"now"'),
        ({"transports": {}}, ConfigurationError, "App: no transport; write App"),
    ],
    ids=["no scheme", "unknown scheme", "nothing", "empty"],
)
def test_what_cannot_be_opened_says_what_can(parts: Any, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        App(**parts)


def test_all_problems_are_reported_and_a_password_is_not() -> None:
    with pytest.raises(ConfigurationError) as caught:
        App(transports={"a": "nosuch://u:very-secret@x", "b": "shop.db"}, patience="soon")

    lines = str(caught.value).splitlines()
    assert {line.partition(":")[0] for line in lines} == {"transports.a", "transports.b", "patience"}
    assert "very-secret" not in str(caught.value)


def test_without_a_transport_every_route_is_now() -> None:
    heard: list[Event] = []
    with App(routes={"*": "now"}) as app:
        app.add_listener("image.created", heard.append, id="hear")
        done = app.dispatch("image.created")

        assert heard == [Event("image.created", id=done.id)]
        with pytest.raises(ConfigurationError, match="there is no transport: every route leads to now"):
            app.worker()


def test_a_configuration_whose_only_route_is_now_needs_no_transport(tmp_path: Path) -> None:
    (tmp_path / "relevo.toml").write_text('[routes]\n"*" = "now"\n')
    with App.from_config(tmp_path / "relevo.toml", environ={}) as app:
        assert app.dispatch("image.created").targets == (Target("now"),)

    (tmp_path / "relevo.toml").write_text('[routes]\n"*" = "now"\n"a" = "main"\n')
    with pytest.raises(ConfigurationError, match="no transport; add one"):
        App.from_config(tmp_path / "relevo.toml", environ={})


def test_an_application_shows_its_transports(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/shop.db"
    with App(transports={"main": "memory://", "db": address}, outboxes={"main": "db"}, source="shop") as app:
        assert repr(app) == "<App shop: main (MemoryTransport, outbox SqlTransport), db (SqlTransport)>"
    with App(routes={"*": "now"}) as app:
        assert repr(app) == "<App app: in process>"


def test_the_sql_transport_takes_an_address_too(tmp_path: Path) -> None:
    with SqlTransport(f"sqlite:///{tmp_path}/shop.db", name="main", poll=0.5) as transport:
        assert transport.folder == tmp_path
        assert transport.name == "main"
        transport.setup(["default"])

    with pytest.raises(ConfigurationError, match=r"SqlTransport: expected an engine, .*; got int"):
        SqlTransport(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="busy_timeout: expected a number of seconds above 0"):
        SqlTransport("sqlite:///shop.db", busy_timeout=0)
