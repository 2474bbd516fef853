from __future__ import annotations

import re
import ssl
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
import sqlalchemy as sa

from relevo import App, Secret, SystemClock
from relevo.backend.tls import Tls
from relevo.errors import ConfigurationError
from relevo_sql import SqlOptions, SqlTransport, _options


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


def test_the_scheme_of_an_address_may_have_capitals(tmp_path: Path) -> None:
    with App.from_config(environ={"RELEVO_TRANSPORTS__MAIN": f"SQLite:///{tmp_path}/shop.db"}) as app:
        assert app.setup() != []

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


def test_a_database_that_is_not_foreseen_is_refused_without_a_promise() -> None:
    with pytest.raises(ConfigurationError, match="SQLite, PostgreSQL, MariaDB and MySQL, and none for oracle; use"):
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


@pytest.mark.parametrize(
    "rest, why",
    [
        ("shop.db?s3cret=hunter2", r"\?s3cret=\*\*\*: unknown 's3cret'; known: cache, immutable, mode, .*, uri"),
        ("shop.db?mod=hunter2", "unknown 'mod'; did you mean \"mode\"\\?; known"),
        ("file:shop.db?uri=true&mod=hunter2", "unknown 'mod'"),
        ("shop.db?hunter=1&hunter=2", "unknown 'hunter'"),
        (
            "shop.db?busy_timeout=9",
            r'"busy_timeout" is an option of its own; write \{ url = "…", busy_timeout = … \}',
        ),
        ("shop.db?check_same_thread=false", "unknown 'check_same_thread'"),
        ("shop.db?mode=ro", r"sqlite:///file:shop\.db\?mode=rwc&uri=true"),
        ("shop.db?mode=ro&uri=true", r"sqlite:///file:shop\.db\?mode=rwc&uri=true"),
        ("file:shop.db?mode=ro", r"sqlite:///file:shop\.db\?mode=rwc&uri=true"),
        ("file:shop.db", r"sqlite:///file:shop\.db\?mode=rwc&uri=true"),
        ("file:shop.db?mode=hunter2&uri=true", '"mode" can be ro, rw, rwc'),
        ("file:shop.db?mode=ro&mode=rw&uri=true", '"mode" can be ro, rw, rwc'),
        ("file:shop.db?uri=hunter2", '"uri" can only be true'),
    ],
)
def test_what_means_nothing_behind_the_question_mark_is_refused_by_name(rest: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        opened(f"sqlite:///{rest}")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "query", ["uri=true", "uri=1", "mode=rwc&uri=true", "cache=private&nolock=0&psow=1&immutable=0&uri=true"]
)
def test_what_sqlite_understands_reaches_it(query: str, tmp_path: Path) -> None:
    with opened(f"sqlite:///file:shop.db?{query}", directory=tmp_path) as transport:
        transport.setup([])

    assert [file.name for file in tmp_path.glob("*.db*")] == ["shop.db"]


def test_an_address_is_masked_wherever_it_is_shown() -> None:
    options = SqlOptions(url="sqlite:///shop.db?key=hunter2")

    assert "hunter2" not in repr(options)
    assert options == SqlOptions(url=Secret("sqlite:///shop.db?key=hunter2"))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True])
@pytest.mark.parametrize("name", ["busy_timeout", "poll", "inbox_keep"])
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


# --- addresses that hosting platforms hand out ----------------------------------------------------------------


def arguments(transport: SqlTransport) -> dict[str, object]:
    """Return what the driver is called with, by the names that SQLAlchemy gives it."""
    engine = transport._database.engine
    _, found = engine.dialect.create_connect_args(engine.url)
    for complete in engine.dialect.dispatch.do_connect:
        complete(engine.dialect, None, (), found)
    return dict(found)


@pytest.mark.parametrize("scheme", ["postgres", "postgres+psycopg", "postgresql", "postgresql+psycopg", "POSTGRES"])
def test_all_names_of_postgresql_are_one(scheme: str) -> None:
    with opened(f"{scheme}://me:pw@db.example:5432/shop?sslmode=require&channel_binding=require") as transport:
        assert transport.url.drivername == "postgresql+psycopg"
        assert (arguments(transport)["sslmode"], arguments(transport)["channel_binding"]) == ("require", "require")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgres://db/shop?pgbouncer=hunter2", "the driver psycopg has no parameter 'pgbouncer'; write the address"),
        ("postgres://db/shop?ssl_mode=hunter2", "has no parameter 'ssl_mode'; write the address"),
        ("postgres://db/shop?schema=hunter2", '"schema" is an option of its own; write { url = "…", schema = … }'),
        ("mysql://db/shop?reconnect=hunter2", "the driver pymysql has no parameter 'reconnect'; write the address"),
        ("mysql://db/shop?ssl-mode=hunter2", "ssl-mode: expected DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_I"),
    ],
)
def test_a_parameter_that_the_driver_does_not_know_is_explained(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opened(url)

    assert why in str(caught.value)
    assert "ssl-mode" in url or "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["ssl-mode", "sslmode", "ssl_mode"])
def test_the_mode_of_encryption_of_mysql_is_understood(key: str) -> None:
    found = {}
    for mode in ("REQUIRED", "require", "VERIFY_IDENTITY", "verify-full", "VERIFY_CA", "DISABLED", "prefer"):
        with opened(f"mysql://me:pw@db.example/shop?{key}={mode}") as transport:
            found[mode] = arguments(transport).get("ssl")
            assert not transport.url.query.keys() & {key}

    assert found["REQUIRED"] == found["require"] == {"check_hostname": False}
    for mode, checks in (("VERIFY_IDENTITY", True), ("verify-full", True), ("VERIFY_CA", False)):
        context = found[mode]
        assert isinstance(context, ssl.SSLContext)
        assert (context.check_hostname, context.verify_mode) == (checks, ssl.CERT_REQUIRED)
    assert found["DISABLED"] is found["prefer"] is None


def test_tls_takes_precedence_over_the_mode_of_an_address() -> None:
    with opened("postgres://db.example/shop?sslmode=require", tls=Tls()) as postgresql:
        assert arguments(postgresql)["sslmode"] == "verify-full"
    with opened("mysql://db.example/shop?ssl-mode=REQUIRED", tls=Tls()) as mysql:
        context = arguments(mysql)["ssl"]

    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname


def test_a_driver_that_is_missing_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = metadata("relevo-sql").get_all("Provides-Extra")
    for kind, module in (("postgresql", "psycopg"), ("mariadb", "pymysql"), ("mysql", "pymysql")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ConfigurationError, match=re.escape(f"pip install 'relevo-sql[{kind}]'")):
                opened(f"{kind}://db/shop")
        assert extras is not None
        assert kind in extras


@pytest.mark.parametrize(
    ("address", "far"),
    [
        ("shop@localhost/shop", ""),
        ("shop@/shop?host=localhost:5432", ""),
        ("shop@/shop?host=[::1]:5432", ""),
        ("shop@/shop?host=127.0.0.1:5432,::1", ""),
        ("shop@/shop?host=/var/run/postgresql", ""),
        ("shop@/shop?host=db.example:5432&host=localhost", "db.example"),
        ("shop@/shop?host=db1.example,db2.example:5433", "db1.example, db2.example"),
    ],
)
def test_an_address_without_a_password_is_a_risk_on_another_host(address: str, far: str) -> None:
    with opened(f"postgresql://{address}") as transport:
        risks = transport.risks()

    assert [risk.partition(";")[0] for risk in risks] == ([f"the address has no password for {far}"] if far else [])


def test_the_connections_of_listeners_notice_a_server_that_is_gone_and_limit_no_query() -> None:
    own, theirs = (_options._Use(is_for_listeners=each, patience=1.0) for each in (False, True))

    assert theirs.arguments("psycopg") == own.arguments("psycopg")
    assert {"keepalives_idle", "tcp_user_timeout"} <= set(theirs.arguments("psycopg"))
    assert set(own.arguments("pymysql")) - set(theirs.arguments("pymysql")) == {"read_timeout", "write_timeout"}
