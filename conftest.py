"""What every test of the workspace may ask for."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

import mariadb_server
import memory
import postgresql_server
import rabbitmq
import redis_server
import server_starter
from database_server import DatabaseServer
from order import slow_first

# A busy machine is no failure. Everything else is as it was: in CI Hypothesis itself fixes the seed.
settings.register_profile("busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
# What `make check` takes, with --hypothesis-profile: a quarter of the examples; `make test` runs all of them.
settings.register_profile("check", settings.get_profile("busy"), max_examples=25)
settings.load_profile("busy")

memory.use_memory()

MARKS = {
    "rabbitmq_url": pytest.mark.amqp,
    "redis_url": pytest.mark.redis,
    "postgresql_url": pytest.mark.postgresql,
    "mariadb_url": pytest.mark.mariadb,
}
"""What the tests that use a fixture are marked with."""

LONGEST = ("test_random_histories_", "test_each_pair_of_features_", "test_each_operation_after_each_other_")
"""How the names of the suite's longest tests begin; they are in each class of the suite, whatever it is marked with."""

SUITE = Path(__file__).parent / "tests" / "conformance" / "tests"
REPOSITORY = Path(__file__).parent / "tests" / "repository"
SQL = Path(__file__).parent / "backends" / "sql"


@pytest.fixture(name="rabbitmq_url", scope="session")
def _rabbitmq_url() -> Iterator[str]:
    """Give the URL of a RabbitMQ that answers."""
    yield from _url(rabbitmq.KIND)


@pytest.fixture(name="redis_url", scope="session")
def _redis_url() -> Iterator[str]:
    """Give the URL of a Redis that answers when what it took is on disk."""
    yield from _url(redis_server.KIND)


@pytest.fixture(name="postgresql_url", scope="session")
def _postgresql_url() -> Iterator[str]:
    """Give the URL of a PostgreSQL on which databases can be created."""
    yield from _url(postgresql_server.KIND)


@pytest.fixture(name="postgresql_databases", scope="session")
def _postgresql_databases(postgresql_url: str) -> Iterator[DatabaseServer]:
    """Give the PostgreSQL on which tests create databases, connected once."""
    with postgresql_server.DATABASES.server(postgresql_url) as server:
        yield server


@pytest.fixture(name="postgresql_database")
def _postgresql_database(postgresql_databases: DatabaseServer) -> Iterator[str]:
    """Give the URL of a new database on PostgreSQL, which only this test uses."""
    with postgresql_databases.fresh_database() as url:
        yield url


@pytest.fixture(name="mariadb_url", scope="session")
def _mariadb_url() -> Iterator[str]:
    """Give the URL of a MariaDB on which databases can be created."""
    yield from _url(mariadb_server.KIND)


@pytest.fixture(name="mariadb_databases", scope="session")
def _mariadb_databases(mariadb_url: str) -> Iterator[DatabaseServer]:
    """Give the MariaDB on which tests create databases, connected once."""
    with mariadb_server.DATABASES.server(mariadb_url) as server:
        yield server


@pytest.fixture(name="mariadb_database")
def _mariadb_database(mariadb_databases: DatabaseServer) -> Iterator[str]:
    """Give the URL of a new database on MariaDB, which only this test uses."""
    with mariadb_databases.fresh_database() as url:
        yield url


@pytest.fixture(name="disk_path")
def _disk_path() -> Iterator[Path]:
    """Give a new folder that is not below /dev, where others are: systemd refuses one there, and cron hides it."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(name="systemd_analyze", scope="session")
def _systemd_analyze() -> Path:
    """Return the program with which systemd checks a unit."""
    try:
        return server_starter.system_program("systemd-analyze", "systemd")
    except server_starter.NotFoundError as error:
        _do_without(error)


def _url(kind: server_starter.Kind) -> Iterator[str]:
    """
    Give the URL of a server of this kind, a private one if need be.

    It stands in its variable too as long as the session lasts, for programs that a test starts and for
    test classes that cannot ask for a fixture.
    """
    with ExitStack() as stack:
        try:
            url = stack.enter_context(kind.server())
        except server_starter.NotFoundError as error:
            _do_without(error)
        stack.enter_context(pytest.MonkeyPatch.context()).setenv(kind.variable, url)
        yield url


def _do_without(error: server_starter.NotFoundError) -> NoReturn:
    """Skip the test, whose program or server was not found; in CI it fails."""
    if server_starter.in_ci():
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return how many processes run tests: two a core where a test of a server or a process mostly waits."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1 if config.getoption("hypothesis_profile", None) == "check" else 2 * cores


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """
    Mark what can be told without asking, and begin with what is slow where several processes share the tests.

    The marks are needing a server, and being of the conformance suite, about the project's files or of the SQL backend.
    """
    for item in items:
        for fixture, mark in MARKS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)
        for mark in _marks_of(item.path):
            item.add_marker(mark)
    yield
    if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        items[:] = slow_first(items, _is_slow, processes=processes)


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None or item.name.startswith(LONGEST)


@cache
def _marks_of(path: Path) -> Sequence[pytest.MarkDecorator]:
    """Return the marks of all tests in the file at *path*."""
    marks = []
    if path.name.startswith("test_conformance") or path.is_relative_to(SUITE):
        marks.append(pytest.mark.conformance)
    if path.is_relative_to(REPOSITORY):
        marks.append(pytest.mark.repository)
    if path.is_relative_to(SQL):
        marks.append(pytest.mark.sql)
    return marks


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    """Fail a test that leaves a logger changed: tests after it, in the same process, would see no records."""
    yield
    changed = [each for each in _loggers() if each.level != logging.NOTSET or each.disabled or not each.propagate]
    for each in changed:
        each.setLevel(logging.NOTSET)
        each.disabled, each.propagate = False, True
    if logging.root.level != logging.WARNING or logging.root.manager.disable:
        changed.append(logging.root)
        logging.root.setLevel(logging.WARNING)
        logging.disable(logging.NOTSET)
    if changed:
        pytest.fail(f"it left changed: {', '.join(each.name for each in changed)}", pytrace=False)


def _loggers() -> list[logging.Logger]:
    """Return the loggers of relevo that exist."""
    known = list(logging.root.manager.loggerDict.items())
    return [each for name, each in known if name.startswith("relevo") and isinstance(each, logging.Logger)]


def pytest_configure() -> None:
    """Collect no garbage while tests are collected: looking for it takes a quarter of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """
    Freeze the collected tests, so that later garbage collections skip them.

    Hypothesis collects garbage once in each thread that it runs in, and the conformance suite starts a thread for each
    harness.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
