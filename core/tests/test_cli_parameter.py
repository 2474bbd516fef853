"""The options of every command: one that takes a value is given once, and numbers are ASCII digits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from relevo.cli._filter import last_moment
from relevo.cli._main import group

from .shop import Shop, opened, told_in_one_line


@pytest.fixture(name="shop", scope="module")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return opened(tmp_path_factory.mktemp("shop"))


def commands(command: click.Command = group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its path, groups too."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, *path, name)


COMMANDS = [
    *commands(),
    (("unit", "loop"), click.Command("loop", params=[click.Option(["-t"])])),  # of an installed runner
]

OPTIONS = [
    (" ".join(path), option)
    for path, command in COMMANDS
    for option in command.params
    if isinstance(option, click.Option) and not (option.is_flag or option.count)
]


@pytest.mark.parametrize("path, option", [pair for pair in OPTIONS if not pair[1].multiple], ids=str)
def test_an_option_with_a_single_value_is_refused_the_second_time(shop: Shop, path: str, option: click.Option) -> None:
    value = "json" if option.name == "form" else "1"

    done = shop.run(f"{path} {option.opts[-1]} {value} {option.opts[0]} {value}")

    assert done.returncode == 2
    assert f"{option.opts[0]}'" in done.stderr
    one = "a command uses one transport; run it once for each transport"
    advice = one if option.opts[0] == "-t" else "pass it once"
    assert f"it is given twice; {advice}" in told_in_one_line(done)


def test_some_options_are_lists_and_all_groups_are_looked_at() -> None:
    names = {path for path, _ in COMMANDS}

    assert {("dead", "list"), ("unit", "cron"), ("config", "show"), ("deploy", "begin"), ("drain",)} <= names
    assert {option.name for _, option in OPTIONS if option.multiple} >= {"queues", "names", "states", "reasons"}
    assert len(OPTIONS) > 80


def test_a_list_may_be_repeated_and_a_flag_too(shop: Shop) -> None:
    shop.run("setup")

    done = shop.run(
        "list -q media -q feed --event image.created --event mail.sent --state ready --state ready --json --json"
    )

    assert (done.returncode, done.stdout) == (0, "[]\n")


@pytest.mark.parametrize("command", ["--config a.toml status --config a.toml", "-a shop:app status -a shop:app"])
def test_an_option_before_and_after_the_command_is_given_twice(shop: Shop, command: str) -> None:
    done = shop.run(command)

    assert done.returncode == 2
    assert "is given twice, before and after the command; pass it once" in told_in_one_line(done)


@pytest.mark.parametrize("option", ["list --limit", "dead list --limit", "move --from main --to main/x --limit"])
@pytest.mark.parametrize("text", ["٣", "1_000", "' 5 '", "+5", "5.0", "1e3", "0x10", "9" * 19, "\uff15", "1" * 5000])
def test_a_count_is_written_in_ascii_digits(shop: Shop, option: str, text: str) -> None:
    done = shop.run(f"{option} {text}")

    assert done.returncode == 2
    how = "of at most 18 digits" if len(text) > 18 else "in digits from 0 to 9"
    assert f"expected a whole number {how}; got " in told_in_one_line(done)
    assert len(done.stderr) < 300


@pytest.mark.parametrize(
    "command",
    ["drain --max-time", "dispatch a.b --delay", "dispatch a.b --expires", "deploy begin --wait", "drain --settle"],
)
@pytest.mark.parametrize("text", ["٣", "٣s", "1_000", "1_0s", "' 5 '", "'5s '", "+5", "1e3", "inf", "nan", "1" * 5000])
def test_a_duration_is_written_in_ascii_digits(shop: Shop, command: str, text: str) -> None:
    done = shop.run(f"{command} {text}")

    assert done.returncode == 2
    assert "expected " in told_in_one_line(done)
    assert len(done.stderr) < 300


@pytest.mark.parametrize("text", ["' 1G'", "1_0M", "٣M", "1" * 5000, "1.5G", "999999999999999G"])
def test_a_size_is_written_in_ascii_digits(shop: Shop, text: str) -> None:
    done = shop.run(f"drain --max-memory {text}")

    assert done.returncode == 2
    assert "expected a number of bytes" in told_in_one_line(done)


@pytest.mark.parametrize(
    "text",
    ["٣h", "' 2h '", "1" * 5000, "11111111111111", "20260304" + "1" * 40, "1_0d", "-5s", "25:00", "22:60", "7:30"],
)
@pytest.mark.parametrize("option", ["list --since", "dead list --until"])
def test_a_time_is_written_in_ascii_digits(shop: Shop, option: str, text: str) -> None:
    done = shop.run(f"{option} {text}")

    assert done.returncode == 2
    assert "expected a time before now such as" in told_in_one_line(done)


@pytest.mark.parametrize(
    "text",
    [
        "2h",
        "22:00",
        "22:00:30",
        "22:00Z",
        "'22:00+02:00'",
        "20260304",
        "2026-03-04",
        "'2026-03-04 09:15'",
        "2026-03-04T09:15:00+01:00",
    ],
)
def test_a_time_is_before_now_or_a_date(shop: Shop, text: str) -> None:
    shop.run("setup")

    assert shop.run(f"list --since {text}").returncode == 0


@pytest.mark.parametrize("text", ["0", "0s", "0ms", "0.0"])
def test_an_event_that_expires_at_once_is_refused(shop: Shop, text: str) -> None:
    shop.run("setup")

    done = shop.run(f"dispatch image.created --expires {text}")

    assert done.returncode == 2
    assert "--expires: expected a time above 0; the event would never be handled" in told_in_one_line(done)
    assert shop.run("list --json").stdout == "[]\n"


@pytest.mark.parametrize("text", ["{", "[1]", "nonsense", '"text"'])
def test_arguments_that_are_no_object_are_told_without_a_path(shop: Shop, text: str) -> None:
    done = shop.run(f"dispatch image.created '{text}'")

    assert done.returncode == 65
    assert told_in_one_line(done).startswith('relevo: the event "image.created" cannot be sent: the arguments ')


def test_one_duplicate_among_many_keys_is_found_soon(shop: Shop, tmp_path: Path) -> None:
    keys = ",".join(f'"k{each}": 1' for each in [*range(80_000), 79_999])

    done = shop.run("dispatch image.created -", given=f"{{{keys}}}".encode())

    assert done.returncode == 65
    assert "duplicate key 'k79999'" in told_in_one_line(done)


NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("12:00", "2026-03-04T12:00:00+00:00"),
        ("11:59:30", "2026-03-04T11:59:30+00:00"),
        ("12:01", "2026-03-03T12:01:00+00:00"),
        ("13:30+02:00", "2026-03-04T11:30:00+00:00"),
        ("14:30+02:00", "2026-03-03T12:30:00+00:00"),
        ("23:00+12:00", "2026-03-04T11:00:00+00:00"),
        ("00:30+13:00", "2026-03-04T11:30:00+00:00"),
    ],
)
def test_a_time_of_day_is_the_last_one(text: str, expected: str) -> None:
    found = last_moment(text, NOON)

    assert found is not None
    assert found.astimezone(UTC).isoformat() == expected
