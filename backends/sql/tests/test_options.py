from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from relevo import App, Secret, SystemClock
from relevo.errors import ConfigurationError
from relevo_sql import SqlOptions, SqlTransport


def opened(url: str, **options: object) -> SqlTransport:
    return SqlTransport.open(SqlOptions(url=url, **options), name="main", clock=SystemClock())  # type: ignore[arg-type]


def test_a_relative_path_starts_from_the_configurations_directory(tmp_path: Path) -> None:
    with opened("sqlite:///data/shop.db", directory=tmp_path) as transport:
        (tmp_path / "data").mkdir()
        transport.setup([])

    assert (tmp_path / "data" / "shop.db").exists()


def test_a_relative_uri_starts_there_too(tmp_path: Path) -> None:
    with opened("sqlite:///file:shop.db?mode=rwc&uri=true", directory=tmp_path) as transport:
        transport.setup([])

    assert (tmp_path / "shop.db").exists()


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/shop.db", directory=Path("/elsewhere")) as transport:
        transport.setup([])

    assert (tmp_path / "shop.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_a_database_in_memory_is_refused_with_a_mend(url: str) -> None:
    with pytest.raises(ConfigurationError, match="memory://"):
        opened(url)


def test_an_engine_in_memory_is_refused_at_its_first_use() -> None:
    engine = sa.create_engine("sqlite://")
    with SqlTransport(engine) as transport, pytest.raises(ConfigurationError, match="memory://"):
        transport.setup([])
    engine.dispose()


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "mysql", "mariadb+pymysql"])
def test_a_database_that_is_not_served_yet_is_refused_with_what_to_write_instead(scheme: str) -> None:
    url = f"{scheme}://me:hunter2@localhost/shop"

    with pytest.raises(
        ConfigurationError, match=r"SQLite only, not on \w+ .*later.*; keep .* sqlite:///shop\.db"
    ) as told:
        App.from_config(environ={"RELEVO_TRANSPORTS__MAIN": url})

    assert (
        f"transports.main: this release of relevo-sql works on SQLite only, not on {scheme.partition('+')[0]} ("
        in str(told.value)
    )
    assert "install" not in str(told.value)
    assert "hunter2" not in str(told.value)


def test_a_database_that_is_not_foreseen_is_refused_without_a_promise() -> None:
    with pytest.raises(ConfigurationError, match="SQLite only, not on oracle; keep"):
        opened("oracle://localhost/shop")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://me:hunter2@host/shop.db",
        "sqlite+nonsense:///shop.db?password=hunter2",
        "sqlite:hunter2",
        "sqlite://me:hunter2@host:port/x",
        "hunter2",
        "",
    ],
)
def test_a_malformed_address_is_refused_and_never_shown_whole(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opened(url)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_address_is_masked_wherever_it_is_shown() -> None:
    options = SqlOptions(url="sqlite:///shop.db?key=hunter2")

    assert "hunter2" not in repr(options)
    assert options == SqlOptions(url=Secret("sqlite:///shop.db?key=hunter2"))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["busy_timeout", "poll"])
def test_a_duration_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        opened("sqlite:///shop.db", **{name: value})


def test_an_asynchronous_engine_is_refused_with_a_mend() -> None:
    class Dialect:
        name, driver, is_async = "sqlite", "aiosqlite", True

    class Engine:
        dialect = Dialect

    with pytest.raises(ConfigurationError, match=r"aiosqlite.*create_engine"):
        SqlTransport(Engine)  # type: ignore[arg-type]
