from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoints
from pathlib import Path

import pytest
from stevedore import ExtensionManager

from relevo._config import discovery
from relevo.errors import PluginError, TransportNotFoundError
from relevo_memory import MemoryTransport

Install = Callable[..., None]


@pytest.fixture(name="install")
def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with entry points and modules, as pip would, for this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # stevedore keeps what it found there
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})  # and here, for the rest of the process

    def install(name: str, entry_points: str, **modules: str) -> None:
        site = tmp_path / name
        info = site / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(entry_points)
        for module, text in modules.items():
            (site / f"{module}.py").write_text(text)
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(site))

    return install


def test_a_scheme_leads_to_a_transport_and_that_to_its_class() -> None:
    name = discovery.transport_of_scheme("memory")

    assert discovery.transport_class(name) is MemoryTransport
    assert "memory" in discovery.available(discovery.SCHEMES)


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
def test_the_driver_in_a_scheme_is_left_out_of_the_search(scheme: str) -> None:
    assert discovery.transport_of_scheme(scheme) == "sql"


def test_an_unknown_scheme_is_told_with_what_there_is() -> None:
    with pytest.raises(
        TransportNotFoundError, match=r'no transport for "memroy"; available: .*; did you mean "memory"\?'
    ) as caught:
        discovery.transport_of_scheme("memroy")

    assert caught.value.wanted == "memroy"
    assert {"memory", "sqlite", "postgresql", "mysql", "mariadb", "amqp"} <= {*caught.value.available}
    assert not {"mssql", "oracle", "cockroachdb"} & {*caught.value.available}


@pytest.mark.parametrize(
    "scheme, package",
    [("postgres", "relevo-sql[postgresql]"), ("mysql+pymysql", "relevo-sql[mysql]"), ("sqlite", "relevo-sql")],
)
def test_a_package_that_is_missing_is_named(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_points", lambda _: EntryPoints(()))  # nothing is installed

    with pytest.raises(TransportNotFoundError, match=re.escape(f'; install "{package}"')):
        discovery.transport_of_scheme(scheme)


def test_the_short_name_of_a_database_is_understood() -> None:
    assert discovery.transport_of_scheme("postgres") == discovery.transport_of_scheme("postgres+psycopg") == "sql"


@pytest.mark.parametrize(
    "scheme, advice",
    [
        ("rediss", 'relevo has no transport for Redis; use a database or RabbitMQ, or see "Write a transport"'),
        ("pyamqp", "write amqp://"),
        ("doctrine", "write the address of the database"),
        ("sync", 'handle events at once by a route to "now"'),
    ],
)
def test_the_scheme_of_another_tool_is_explained(scheme: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_points", lambda _: EntryPoints(()))  # the example for Redis may be installed

    with pytest.raises(TransportNotFoundError, match=re.escape(f"; {advice}")):
        discovery.transport_of_scheme(scheme)


def test_a_strangers_transport_is_found(install: Install) -> None:
    install(
        "stranger",
        "[relevo.transports]\nodd = odd_transport:Odd\n[relevo.schemes]\nodd = odd\n",
        odd_transport="class Odd: pass\n",
    )

    found = discovery.transport_class(discovery.transport_of_scheme("odd"))

    assert (found.__module__, found.__name__) == ("odd_transport", "Odd")


def test_a_transport_is_found_that_was_not_there_when_stevedore_searched(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("stranger", "[relevo.transports]\nodd = odd_transport:Odd\n", odd_transport="class Odd: pass\n")
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {discovery.TRANSPORTS: []})

    assert discovery.transport_class("odd").__name__ == "Odd"


def test_a_package_that_is_installed_meanwhile_is_found(install: Install) -> None:
    with pytest.raises(TransportNotFoundError):
        discovery.transport_of_scheme("odd")

    install("stranger", "[relevo.schemes]\nodd = odd\n")

    assert discovery.transport_of_scheme("odd") == "odd"


def test_what_is_installed_in_a_folder_that_was_searched_is_found_and_what_is_removed_is_not(
    install: Install, tmp_path: Path
) -> None:
    install("stranger", "[relevo.schemes]\nodd = odd\n")
    found = discovery.transport_of_scheme("odd")
    shutil.move(tmp_path / "stranger" / "stranger-1.2.dist-info", tmp_path / "elsewhere")
    with pytest.raises(TransportNotFoundError):
        discovery.transport_of_scheme("odd")
    shutil.move(tmp_path / "elsewhere", tmp_path / "stranger" / "stranger-1.2.dist-info")

    assert found == discovery.transport_of_scheme("odd") == "odd"


def test_the_metadata_of_what_is_installed_is_read_once_and_only_that_of_a_changed_folder_again(
    install: Install, tmp_path: Path
) -> None:
    discovery.transport_of_scheme("memory")
    before = discovery._declared_in.cache_info().misses

    install("stranger", "[relevo.schemes]\nodd = odd\n")
    discovery.transport_class(discovery.transport_of_scheme("memory"))
    discovery.transport_class("sql")
    assert discovery._declared_in.cache_info().misses == before + 1

    (tmp_path / "stranger" / "shop.db").touch()
    assert discovery.transport_of_scheme("odd") == "odd"
    assert discovery._declared_in.cache_info().misses == before + 2


def test_a_package_that_is_installed_twice_counts_where_python_finds_it_first(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("stranger", "[relevo.schemes]\nodd = old\n")
    second = tmp_path / "second" / "Stranger-1.3.dist-info"
    shutil.copytree(tmp_path / "stranger" / "stranger-1.2.dist-info", second)
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: Stranger\nVersion: 1.3\n")
    (second / "entry_points.txt").write_text("[relevo.schemes]\nodd = new\n")
    monkeypatch.syspath_prepend(str(second.parent))

    assert discovery.transport_of_scheme("odd") == "new"


def test_two_packages_that_claim_one_name_are_both_named_and_neither_is_taken(install: Install) -> None:
    for name in ("one", "other"):
        install(name, f"[relevo.schemes]\nodd = {name}\n")

    with pytest.raises(
        PluginError, match=r'relevo.schemes "odd" is claimed by one 1.2 \(one\) and other 1.2 \(other\); uninstall one'
    ):
        discovery.transport_of_scheme("odd")


@pytest.mark.parametrize(
    "text, why",
    [
        (
            "import no_such_driver\n",
            "No module named 'no_such_driver'; install \"broken\" again, with what it requires",
        ),
        ("1 / 0\n", "division by zero"),
        ("", "has no attribute 'Odd'"),
    ],
)
def test_a_package_that_cannot_be_imported_is_named_with_the_reason(install: Install, text: str, why: str) -> None:
    install("broken", "[relevo.transports]\nodd = broken_transport:Odd\n", broken_transport=text)

    with pytest.raises(PluginError, match=r'relevo.transports "odd" \(broken 1.2\) cannot be imported') as caught:
        discovery.transport_class("odd")

    assert why in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_scheme_that_leads_to_no_transport_is_told(install: Install) -> None:
    install("half", "[relevo.schemes]\nodd = nowhere\n")

    with pytest.raises(TransportNotFoundError, match='no transport for "nowhere"'):
        discovery.transport_class(discovery.transport_of_scheme("odd"))


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(PluginError, match=r'nothing in relevo.runners is called "lop"; available: .*loop'):
        discovery.load(discovery.RUNNERS, "lop")


def test_the_runner_that_serves_every_transport_is_found() -> None:
    assert discovery.load(discovery.RUNNERS, "loop").__name__ == "LoopRunner"
