"""``relevo setup --print``: the SQL that an administrator runs, without relevo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relevo import Envelope
from relevo_sql import SqlTransport

from .command_line import configure, relevo, run_script, tables_of
from .on_server import DATABASES

pytestmark = pytest.mark.slow("about the SQL of each database")

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.fixture(name="url", params=DATABASES)
def _url(request: pytest.FixtureRequest, path: Path) -> str:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue(f"{request.param}_database")
    return url


def test_the_printed_sql_makes_a_complete_database(
    url: str, tmp_path: Path, opener: Opener, an_envelope: Maker
) -> None:
    configure(tmp_path, url)

    printed = relevo(tmp_path, "setup", "--print")
    before = relevo(tmp_path, "setup", "--check")
    planned = relevo(tmp_path, "setup", "--plan")
    run_script(url, printed.stdout)
    after = relevo(tmp_path, "setup", "--check")

    assert (printed.returncode, printed.stderr) == (0, "")
    assert (before.returncode, planned.returncode) == (78, 0)
    assert before.stdout == planned.stdout != ""
    assert (after.returncode, after.stdout, after.stderr) == (0, "nothing is missing\n", "")
    transport = opener(url=url)
    transport.send([an_envelope(1)])
    assert transport.stats("default").ready == 1


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_the_printed_sql_makes_the_same_tables_as_a_setup(url: str, opener: Opener) -> None:
    printed = opener(url=url, setup=False).setup_script([])
    run_script(url, printed)
    by_hand = tables_of(url)
    clear(url, by_hand)

    opener(url=url)

    assert tables_of(url) == by_hand


def clear(url: str, tables: dict[str, str]) -> None:
    run_script(url, "".join(f"DROP TABLE {name};" for name in tables))


def test_printing_needs_no_server(opener: Opener) -> None:
    transport = opener(url="postgresql://shop:not-to-be-shown@127.0.0.1:1/events", setup=False)

    script = transport.setup_script([])

    assert '-- relevo\'s tables, version 4, for the database "events" on 127.0.0.1:1\n' in script
    assert "not-to-be-shown" not in script


def test_a_script_for_mariadb_is_one_for_mysql_too(opener: Opener) -> None:
    scripts = {opener(url=f"{name}://shop@db/shop", setup=False).setup_script([]) for name in ("mariadb", "mysql")}
    (script,) = scripts

    assert script.count(" COLLATE /*M!100600 utf8mb4_nopad_bin */ /*!80019 utf8mb4_0900_bin */;\n") == 10


def test_a_script_is_the_same_each_time_and_gives_each_database_its_own_id(opener: Opener, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first.db", "second.db"))
    scripts = {opener(url=f"sqlite:///{first}", setup=False).setup_script([]) for _ in range(2)}
    (script,) = scripts

    run_script(f"sqlite:///{first}", script)
    run_script(f"sqlite:///{second}", script)

    ids = [opener(url=f"sqlite:///{path}")._database.identity() for path in (first, second)]
    assert ids[0] != ids[1]
    assert [len(each) for each in ids] == [32, 32]


def test_a_script_that_finds_a_table_changes_nothing(opener: Opener, path: Path) -> None:
    run_script(f"sqlite:///{path}", "CREATE TABLE relevo_lock (name TEXT);")
    script = opener(setup=False).setup_script([])

    with pytest.raises(Exception, match="already exists"):
        run_script(f"sqlite:///{path}", script)

    assert list(tables_of(f"sqlite:///{path}")) == ["relevo_lock"]


def test_a_path_with_a_line_break_stays_in_the_comment(opener: Opener, tmp_path: Path) -> None:
    script = opener(url=f"sqlite:///{tmp_path}/a\nDROP TABLE note;.db", setup=False).setup_script([])

    assert "\nDROP" not in script
