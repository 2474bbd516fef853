"""The runner for cron, and the line of a crontab that starts it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import msgspec
import pytest

from relevo import App, Event, LoopRunner, RunOptions, Worker, listener
from relevo._app.app import parts_of, using
from relevo.errors import ConfigurationError
from relevo_sql import CronRunner

CONFIGURATION = 'source = "shop"\ntransports.main = "sqlite:///shop.db"\nroutes."*" = ["main/media", "main/feed"]\n'


@pytest.fixture(name="made")
def _made(tmp_path: Path) -> Iterator[Callable[[str], App]]:
    """Make an application from a configuration in a folder of this name."""
    apps: list[App] = []

    def made(folder: str) -> App:
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "relevo.toml"
        path.write_text(CONFIGURATION)
        apps.append(App.from_config(path, environ={}))
        return apps[-1]

    yield made
    for app in apps:
        app.close()


def as_cron_reads(line: str) -> list[str]:
    """Return the words of the command in *line*, after what cron takes away and the shell."""
    assert line.startswith("* * * * * ")
    command = line.removeprefix("* * * * * ")
    assert "%" not in command.replace(r"\%", "")
    return shlex.split(command.replace(r"\%", "%"))


def test_the_line_names_everything_from_the_root(made: Callable[[str], App]) -> None:
    app = made("shop")
    config = parts_of(app).config
    assert config is not None

    words = as_cron_reads(CronRunner().unit(app, RunOptions()))

    assert words == [sys.executable, "-m", "relevo", "drain", "--config", str(config.path), "--max-time", "55s"]


def test_the_line_says_which_queues(made: Callable[[str], App]) -> None:
    words = as_cron_reads(CronRunner().unit(made("shop"), RunOptions(transport="main", queues=("media", "feed"))))

    assert words[-8:] == ["--transport", "main", "--queue", "media", "--queue", "feed", "--max-time", "55s"]


@pytest.mark.parametrize("folder", ["50% off", "it's", 'a "b"', "$HOME; true", "naïve", "%%"])
def test_whatever_a_folder_is_called_the_shell_gets_it(folder: str, made: Callable[[str], App]) -> None:
    app = made(folder)
    config = parts_of(app).config
    assert config is not None

    assert str(config.path) in as_cron_reads(CronRunner().unit(app, RunOptions()))


@pytest.mark.parametrize("folder", ["two\nlines", "back\\slash"])
def test_a_folder_that_no_crontab_can_name_is_refused(folder: str, made: Callable[[str], App]) -> None:
    with pytest.raises(ConfigurationError, match=r"a crontab cannot hold .*; give the folder another name"):
        CronRunner().unit(made(folder), RunOptions())


def test_an_application_of_ones_own_code_is_run_in_its_folder(made: Callable[[str], App]) -> None:
    app = made("shop")
    place = msgspec.structs.replace(
        parts_of(app).loaded_from, options=["--app", "shop:app"], folder=Path("/srv/a shop")
    )

    with using(app, attrs.evolve(parts_of(app), loaded_from=place)):
        line = CronRunner().unit(app, RunOptions())

    assert line.startswith("* * * * * cd '/srv/a shop' && exec ")
    assert as_cron_reads(line)[-4:] == ["--app", "shop:app", "--max-time", "55s"]


def test_it_drains_within_the_minute(made: Callable[[str], App], monkeypatch: pytest.MonkeyPatch) -> None:
    app = made("shop")
    seen: list[RunOptions] = []
    worker = app.worker

    def noted(options: RunOptions, *, patient: bool) -> Worker:
        seen.append(options)
        return worker(options, patient=patient)

    monkeypatch.setattr(app, "worker", noted)

    CronRunner().run(app, RunOptions())
    CronRunner().run(app, RunOptions(max_seconds=5.0))

    assert [(each.until_empty, each.max_seconds) for each in seen] == [(True, 55.0), (True, 5.0)]


def test_a_second_one_of_the_same_queues_does_nothing(made: Callable[[str], App]) -> None:
    app = made("shop")
    beside: list[str] = []

    @listener("image.created", queue="media")
    def make(event: object) -> None:
        beside.append(CronRunner().run(app, RunOptions()).stopped_by)

    app.listen(make)
    app.dispatch(Event("image.created"))

    assert CronRunner().run(app, RunOptions()).done >= 1
    assert beside == ["lock"]


def test_it_is_a_loop_runner_that_waits_for_no_server() -> None:
    assert isinstance(CronRunner(), LoopRunner)
    assert CronRunner()._patient is False
