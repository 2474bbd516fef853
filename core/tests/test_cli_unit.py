"""The commands that print what a host system runs, and put it in its place."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from relevo.cli._crontab import merged
from relevo.errors import ConfigurationError

from .shop import Shop, lines, opened

CRONTAB = """#!/bin/sh
# Keeps a crontab in a file, as cron's own does.
kept="{folder}/kept"
case "$1" in
-l) if [ -f "$kept" ]; then cat "$kept"; else echo "no crontab for root" >&2; exit 1; fi ;;
-) [ -f "{folder}/refuse" ] && {{ echo 'bad minute' >&2; exit 1; }}; echo >> "{folder}/writes"; cat > "$kept" ;;
esac
"""

RELAYED = """
source = "shop"
listeners = []
transports.main = { url = "sqlite:///shop.db", outbox = "sqlite:///box.db" }
"""


@pytest.fixture(name="crontab")
def _crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file of a crontab, and a command ``crontab`` that keeps it there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "crontab"
    program.write_text(CRONTAB.format(folder=folder))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "kept"


# --- any runner -------------------------------------------------------------------------------------------------


def test_the_unit_of_an_installed_runner_is_printed_by_its_name(shop: Shop) -> None:
    loop = shop.run("unit loop -q feed")
    manual = shop.run("unit manual")

    assert (loop.returncode, loop.stderr) == (0, "")
    assert shlex.split(loop.stdout)[1:4] == ["-m", "relevo", "worker"]
    assert loop.stdout.endswith("--queue feed\n")
    assert (manual.returncode, manual.stdout) == (78, "")
    assert "runs when your program calls it" in lines(manual)[0]


def test_a_runner_that_is_not_installed_is_no_command(shop: Shop) -> None:
    done = shop.run("unit sytemd")

    assert done.returncode == 2
    assert 'there is no command "sytemd"; did you mean "systemd"?' in lines(done)[0]


@pytest.mark.parametrize("unit", ["cron", "supervisor", "systemd", "loop"])
def test_a_unit_takes_the_options_of_the_run_that_it_starts(shop: Shop, unit: str) -> None:
    options = "--execution threads -c 4 --max-events 100 --max-time 1h --max-memory 200M"
    done, plain = shop.run(f"unit {unit} -t main -l info {options}"), shop.run(f"unit {unit}")

    wanted = "--execution threads --concurrency 4 --max-events 100 --max-time 3600s --max-memory 200M"
    assert (done.returncode, done.stderr) == (0, "")
    assert f"--transport main --log-level info {wanted}" in done.stdout
    assert "--log-level" not in plain.stdout


def test_only_a_unit_that_drains_takes_what_only_drain_does(shop: Shop) -> None:
    drained, worked = shop.run("unit cron --settle 10s"), shop.run("unit supervisor --settle 10s")

    assert "--settle 10s" in drained.stdout
    assert "there is no option --settle" in worked.stderr


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        ("cron", ["relevo relay --until-empty --config", "--max-time 55s"]),
        ("supervisor", ["[program:shop-main-relay]", "relevo relay --config", "stopwaitsecs=30\n"]),
        ("systemd", ["relevo relay of shop/main", "Type=exec\n", "relevo relay --config", "TimeoutStopSec=30\n"]),
    ],
)
def test_a_unit_can_be_that_of_a_relay(shop: Shop, unit: str, wanted: list[str]) -> None:
    shop.write("relevo.toml", RELAYED)

    done = shop.run(f"unit {unit} --relay")

    assert (done.returncode, done.stderr) == (0, "")
    assert [each in done.stdout for each in wanted] == [True] * len(wanted)
    assert "WatchdogSec" not in done.stdout  # a relay does not answer it


def test_a_unit_of_a_relay_needs_an_outbox(shop: Shop) -> None:
    without = shop.run("unit systemd --relay")

    assert without.returncode == 78
    assert '"main" has no outbox' in lines(without)[0]


@pytest.mark.parametrize(
    ("words", "option", "others"),
    [
        ("systemd --relay -c 4", "--concurrency", "-t, --max-events, --max-time"),
        ("supervisor --relay -q main/default", "-q", "-t, --max-events, --max-time"),
        ("cron --relay --max-failures 3", "--max-failures", "-t, --max-events, --max-time, --settle"),
    ],
)
def test_a_unit_of_a_relay_takes_no_option_of_listeners(shop: Shop, words: str, option: str, others: str) -> None:
    shop.write("relevo.toml", RELAYED)

    done = shop.run(f"unit {words}")

    (told,) = lines(done)
    assert (done.returncode, done.stdout) == (2, "")
    assert f": {option}: a relay calls no listener and serves one outbox" in told
    assert f"with --relay there are only {others}; leave {option} out; see relevo unit" in told


def test_any_runner_can_print_the_unit_of_a_relay(shop: Shop) -> None:
    shop.write("relevo.toml", RELAYED)

    done = shop.run("unit loop --relay")

    assert (done.returncode, done.stderr) == (0, "")
    assert " -m relevo relay --config " in done.stdout


def test_a_relay_that_never_ends_does_not_wait_for_what_becomes_due(shop: Shop) -> None:
    shop.write("relevo.toml", RELAYED)

    done = shop.run("relay --settle 3s --max-time 1s")

    assert (done.returncode, done.stdout) == (2, "")
    assert "pass --until-empty too" in lines(done)[0]


@pytest.mark.parametrize("command", ["relay --until-empty", "relay --max-time 0.1s"])
def test_a_relay_that_creates_the_outbox_says_so_once(
    shop: Shop, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.write("relevo.toml", RELAYED)

    for _ in range(2):
        assert shop.run(command).returncode == 0

    created = [each.getMessage() for each in caplog.records if each.name == "relevo.runner"]
    assert [each.partition(";")[0] for each in created] == [
        f"created the database {shop.folder}/shop.db",
        f"created the database {shop.folder}/box.db",
    ]


def test_a_relay_has_a_line_of_its_own_in_the_crontab(shop: Shop, crontab: Path) -> None:
    shop.write("relevo.toml", RELAYED)
    done = [shop.run(f"unit cron --install {which}") for which in ("", "--relay")]
    shop.run("unit cron --remove --relay")

    assert [each.stdout.partition(":")[0] for each in done] == ["installed", "installed"]
    assert "relevo drain" in crontab.read_text()
    assert "relevo relay" not in crontab.read_text()


# --- cron -------------------------------------------------------------------------------------------------------


@pytest.mark.slow("starts the command line in a process of its own")
def test_the_line_can_be_run_by_a_shell_that_knows_nothing(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    line = shop.run("unit cron").stdout
    command = line.removeprefix("* * * * * ").replace(r"\%", "%")
    done = subprocess.run(["/bin/sh", "-c", command], cwd="/", env={}, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"cd {shop.folder} && exec {sys.executable} -m relevo drain" in line
    assert '"ready": 1' not in shop.run("status --json").stdout


def test_a_queue_or_a_transport_that_is_not_there_is_told(shop: Shop) -> None:
    done = shop.run("unit cron -q medai")

    assert (done.returncode, done.stdout) == (78, "")
    assert "medai" in lines(done)[0]


def test_the_line_is_installed_once_beside_what_is_there(shop: Shop, crontab: Path) -> None:
    crontab.write_text("MAILTO=me\n@daily backup\n")

    first, again = shop.run("unit cron --install"), shop.run("unit cron --install")
    feed = shop.run("unit cron -q feed --install")
    kept = crontab.read_text().splitlines()

    assert [done.returncode for done in (first, again, feed)] == [0, 0, 0]
    assert first.stdout.startswith("installed: * * * * * ")
    assert again.stdout.startswith("already installed: * * * * * ")
    place = shop.folder / "relevo.toml"
    assert kept[:3] == ["MAILTO=me", "@daily backup", f"# relevo shop/main of {place} begin"]
    assert [line for line in kept if line.startswith("#")] == [
        f"# relevo shop/main of {place} begin",
        f"# relevo shop/main of {place} end",
        f"# relevo shop/main/feed of {place} begin",
        f"# relevo shop/main/feed of {place} end",
    ]
    assert len(crontab.with_name("writes").read_text()) == 2


@pytest.mark.parametrize("source", ["", 'source = "shop"\n'], ids=["without a name", "of the same name"])
def test_two_projects_have_a_line_each(source: str, crontab: Path, tmp_path: Path) -> None:
    shops = []
    for name in ("one", "two"):
        shops.append(Shop(tmp_path / name))
        shops[-1].folder.mkdir()
        shops[-1].write("relevo.toml", f'{source}listeners = []\ntransports.main = "sqlite:///shop.db"\n')

    done = [each.run("unit cron --install") for each in shops]
    kept = crontab.read_text()
    shops[0].run("unit cron --remove")
    left = crontab.read_text()

    assert [each.stdout.partition(":")[0] for each in done] == ["installed", "installed"]
    assert [f"{each.folder}/relevo.toml --max-time" in kept for each in shops] == [True, True]
    assert [str(each.folder) in left for each in shops] == [False, True]


def test_a_link_to_the_release_of_today_is_kept(crontab: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    for release in ("one", "two"):
        folder = tmp_path / release
        folder.mkdir()
        (folder / "relevo.toml").write_text('source = "shop"\nlisteners = []\ntransports.main = "sqlite:///shop.db"\n')
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        Shop(folder).run(f"--config {link}/relevo.toml unit cron --install")

    (line,) = [line for line in crontab.read_text().splitlines() if line.startswith("* * * * *")]
    assert f"--config {link}/relevo.toml" in line


def test_two_applications_of_one_configuration_have_a_line_each(shop: Shop, crontab: Path) -> None:
    shop.write("other.py", "import relevo\napp = relevo.App.from_config()\n")
    lines_before = [shop.run(f"unit cron --install {which}").stdout for which in ("", "-a other:app")]

    assert [line in crontab.read_text() for line in (each.partition(": ")[2] for each in lines_before)] == [True, True]


def test_the_line_is_taken_out_again(shop: Shop, crontab: Path) -> None:
    crontab.write_text("@daily backup\n")
    shop.run("unit cron --install")

    removed, again = shop.run("unit cron --remove"), shop.run("unit cron --remove")

    assert (removed.stdout, again.stdout) == ("removed\n", "nothing to remove\n")
    assert crontab.read_text() == "@daily backup\n"


def test_every_byte_of_others_stays_as_it_is(shop: Shop, crontab: Path) -> None:
    strange = "# a\u2028b\n# c\x0bd\x0ce\x85f\n@daily backup\r\n".encode() + b"# caf\xe9\n\n"
    crontab.write_bytes(strange)

    installed, again = shop.run("unit cron --install"), shop.run("unit cron --install")
    kept = crontab.read_bytes()
    removed = shop.run("unit cron --remove")

    assert [done.returncode for done in (installed, again, removed)] == [0, 0, 0], installed.stderr
    assert again.stdout.startswith("already installed: ")
    assert kept.startswith(strange)
    assert crontab.read_bytes() == strange


def test_somebody_without_a_crontab_gets_one(shop: Shop, crontab: Path) -> None:
    assert shop.run("unit cron --remove").stdout == "nothing to remove\n"
    assert shop.run("unit cron --install").returncode == 0
    assert len(crontab.read_text().splitlines()) == 3


def test_a_refusal_of_crontab_is_passed_on(shop: Shop, crontab: Path) -> None:
    crontab.with_name("refuse").touch()

    done = shop.run("unit cron --install")

    assert done.returncode == 78
    assert lines(done) == ["relevo: crontab - failed: bad minute"]


def test_where_there_is_no_cron_that_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(shop.folder))

    done = shop.run("unit cron --install")

    assert done.returncode == 78
    assert "there is no crontab command; install cron" in lines(done)[0]


def test_installing_and_removing_at_once_is_a_slip(shop: Shop) -> None:
    assert shop.run("unit cron --install --remove").returncode == 2


# --- a crontab as a value ---------------------------------------------------------------------------------------------

_LINES = st.lists(st.sampled_from(["", "@daily backup", "# relevo other begin", "# relevo other end", "A=b"]))


@given(_LINES, st.sampled_from(["* * * * * a", "* * * * * b"]))
def test_what_is_put_in_and_taken_out_leaves_the_rest_as_it_was(others: list[str], line: str) -> None:
    before = "".join(f"{each}\n" for each in others)

    with_line = merged(before, "shop/main", line)

    assert with_line.startswith(before)
    assert line in with_line.splitlines()
    assert merged(with_line, "shop/main", line) == with_line
    assert merged(with_line, "shop/main", None) == before


@given(_LINES, _LINES)
def test_a_block_that_is_there_stays_in_its_place(above: list[str], below: list[str]) -> None:
    block = ["# relevo shop/main begin", "old", "# relevo shop/main end"]
    before = "".join(f"{each}\n" for each in [*above, *block, *below])

    after = merged(before, "shop/main", "new").splitlines()

    assert after == [*above, "# relevo shop/main begin", "new", "# relevo shop/main end", *below]


def test_a_block_without_an_end_is_left_to_its_owner() -> None:
    with pytest.raises(ConfigurationError, match="fix it with crontab -e"):
        merged("# relevo shop/main begin\n@daily backup\n", "shop/main", "new")


def test_a_last_line_without_an_end_is_no_part_of_what_follows() -> None:
    assert merged("@daily backup", "a", "b") == "@daily backup\n# relevo a begin\nb\n# relevo a end\n"


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("folder", ["a\nb", "\x9b31m", "\x85", "gpj.\u202eexe", "\u2066a", "a\\b"])
@pytest.mark.parametrize("unit", ["cron", "cron --install", "cron --remove", "loop", "supervisor", "systemd"])
def test_a_path_that_a_terminal_obeys_is_refused(unit: str, folder: str, crontab: Path, tmp_path: Path) -> None:
    if "\\" in folder and not unit.startswith("cron"):
        pytest.skip("they can quote it")
    (tmp_path / folder).mkdir()
    crontab.write_text("@daily backup\n")

    done = opened(tmp_path / folder).run(f"unit {unit}")

    assert (done.returncode, done.stdout) == (78, "")
    assert "give the folder another name" in done.stderr
    assert done.stderr.replace("\n", "").isprintable()
    assert crontab.read_text() == "@daily backup\n"


def test_a_folder_without_a_configuration_begins_no_line_of_a_crontab(crontab: Path, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "a\n* * * * * other\n#")
    shop.folder.mkdir()

    done = shop.run("unit cron --install", RELEVO_TRANSPORTS__MAIN=f"sqlite:///{tmp_path}/shop.db")

    assert done.returncode == 78
    assert "a crontab cannot hold" in done.stderr
    assert not crontab.exists()


def test_the_command_is_quoted_for_a_shell(shop: Shop) -> None:
    assert shlex.split(shop.run("unit cron").stdout)[-2:] == ["--max-time", "55s"]
