"""The runner for supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from relevo import App, LoopRunner, RunOptions
from relevo.unit import supervisor
from relevo_amqp import SupervisorRunner

OPTIONS = RunOptions(queues=("media",))


@pytest.fixture(name="folder")
def _folder() -> Iterator[Path]:
    """Return a folder whose path is short enough for a socket."""
    with TemporaryDirectory(prefix="relevo-", dir="/tmp") as name:
        yield Path(name)


def test_its_unit_is_that_of_supervisor_with_its_number_of_processes_and_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    configuration = folder / "relevo.toml"
    configuration.write_text('transports.main = "amqp://localhost"\nroutes."*" = "main/media"\n')

    with App.from_config(configuration, environ={}) as app:
        runner = SupervisorRunner(processes=5, folder=Path("run"))
        monkeypatch.chdir("/")
        text = runner.unit(app, OPTIONS)

        assert text == supervisor(app, OPTIONS, processes=5, folder=folder / "run")
        assert SupervisorRunner().unit(app, OPTIONS) == supervisor(app, OPTIONS)


def test_it_waits_for_a_server_that_is_down() -> None:
    assert isinstance(SupervisorRunner(), LoopRunner)
    assert SupervisorRunner()._patient is True
