"""The permissions of an SQLite file that relevo creates."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from relevo import App, Event
from relevo.errors import ConfigurationError
from relevo_sql import SqlTransport
from relevo_sql._database import Database
from relevo_sql._dialect.sqlite import SqliteDialect


def modes(folder: Path) -> dict[str, str]:
    """Return the permissions of the files of the database, by their names after its own."""
    return {
        path.name.removeprefix("shop.db"): oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.glob("shop.db*")
    }


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def opened(folder: Path, address: str = "sqlite:///shop.db", more: str = "") -> App:
    path = folder / "relevo.toml"
    path.write_text(f'[transports]\nmain = {{ url = "{address}"{more} }}\n')
    return App.from_config(path)


@pytest.mark.parametrize("address", ["sqlite:///shop.db", "sqlite:///file:shop.db?uri=true", "sqlite:///./shop.db"])
def test_a_new_file_and_those_beside_it_are_of_this_user_alone(address: str, tmp_path: Path) -> None:
    with umask(0o022), opened(tmp_path, address) as app:
        app.dispatch(Event("a.b"))

        assert modes(tmp_path) == {"": "0o600", "-wal": "0o600", "-shm": "0o600"}


def test_a_new_file_behind_a_link_is_of_this_user_alone(tmp_path: Path) -> None:
    real = tmp_path / "data" / "real.db"
    real.parent.mkdir()
    tmp_path.joinpath("shop.db").symlink_to(real)

    with umask(0o022), opened(tmp_path) as app:
        app.dispatch(Event("a.b"))

    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write to a file without the right")
def test_a_stricter_umask_is_respected(tmp_path: Path) -> None:
    with umask(0o277), opened(tmp_path) as app:
        app.dispatch(Event("a.b"))

    assert modes(tmp_path)[""] == "0o400"


def test_an_option_chooses_the_permissions_whatever_the_umask_is(tmp_path: Path) -> None:
    with umask(0o077), opened(tmp_path, more=', file_mode = "0660"') as app:
        app.dispatch(Event("a.b"))

        assert modes(tmp_path) == {"": "0o660", "-wal": "0o660", "-shm": "0o660"}


def test_a_file_that_exists_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "shop.db").touch(0o640)
    (tmp_path / "shop.db").chmod(0o640)

    with opened(tmp_path, more=', file_mode = "0666"') as app:
        app.dispatch(Event("a.b"))

    assert modes(tmp_path)[""] == "0o640"


@pytest.mark.lengthy("looks without a pause while twenty databases are created")
def test_there_is_no_moment_in_which_others_can_read_it(tmp_path: Path) -> None:
    found: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                found.update(modes(tmp_path).values())
            except FileNotFoundError:
                continue

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(20):
        with umask(0), opened(tmp_path) as app:
            app.dispatch(Event("a.b", {"number": number}))
        (tmp_path / "shop.db").unlink()
    done.set()
    thread.join()

    assert found == {"0o600"}


def test_a_file_that_may_not_be_created_is_not(tmp_path: Path) -> None:
    with opened(tmp_path, "sqlite:///file:shop.db?mode=rw&uri=true") as app, pytest.raises(Exception, match="opened"):
        app.dispatch(Event("a.b"))

    assert modes(tmp_path) == {}


@pytest.mark.parametrize("mode", ['"0444"', '"rw"', '"0o600"', "600", '"06600"'])
def test_permissions_that_are_invalid_are_reported(mode: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"relevo.toml:2: transports.main.*file_mode: expected"):
        opened(tmp_path, more=f", file_mode = {mode}")


@pytest.mark.lengthy("starts processes")
def test_two_processes_that_create_it_at_once_both_work(tmp_path: Path) -> None:
    opened(tmp_path).close()
    # The command waits for the others that set up, however slow they are.
    program = "from relevo_sql import _database; _database._SETTING_UP = 60.0; from relevo.cli import main; main()"
    words = [sys.executable, "-c", program, "dispatch", "a.b"]

    processes = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(3)]

    assert [process.wait(300) for process in processes] == [0, 0, 0]
    with opened(tmp_path) as app:
        transport = app.transport("main")
        assert isinstance(transport, SqlTransport)
        assert transport.stats("default").ready == 3


@pytest.mark.parametrize("mode", ["660", "0o660"])
def test_permissions_as_a_number_are_to_be_written_as_text(mode: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'file_mode: expected text such as "0660"; got a whole number$'):
        opened(tmp_path, more=f", file_mode = {mode}")


def test_a_second_connection_creates_the_file_with_the_same_permissions(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    first = Database(engine, SqliteDialect(), name="main", own=True, patience=1.0, file_mode=0o640)

    second = first.second_connection()
    second.create(lambda connection: connection.exec_driver_sql("CREATE TABLE t (a)"))
    second.close()

    assert modes(tmp_path)[""] == "0o640"
