"""The configuration of supervisor that ``relevo.unit.supervisor`` returns."""

from __future__ import annotations

import configparser
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relevo import App, RunOptions, listener
from relevo._runner.supervisor import _LONGEST_SOCKET
from relevo.errors import ConfigurationError
from relevo.unit import supervisor

CONFIGURATION = 'source = "shop"\ntime_limit = "5m"\ntransports.main = "memory://"\nroutes."*" = "main/media"\n'
RUN = Path("/run/shop")  # only named; a path of pytest may be too long for a socket


@pytest.fixture(name="made")
def _made(tmp_path: Path) -> Iterator[Callable[[str], App]]:
    """Make an application from a configuration in a folder of this name."""
    apps: list[App] = []

    def made(folder: str = "shop") -> App:
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "relevo.toml"
        path.write_text(CONFIGURATION)
        apps.append(App.from_config(path, environ={}))
        return apps[-1]

    yield made
    for app in apps:
        app.close()


def as_supervisor_reads(text: str) -> dict[str, dict[str, str]]:
    """Return the sections of *text*, their values expanded for the first process."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    names = {"program_name": "NAME", "process_num": 0}
    found = {name: {key: each % names for key, each in parser[name].items()} for name in parser.sections()}
    for section in found.values():
        if "stdout_logfile" in section:
            section["stdout_logfile"] %= names  # it really does so twice
    return found


def test_the_section_keeps_workers_alive_and_lets_them_finish(made: Callable[..., App], tmp_path: Path) -> None:
    text = supervisor(made(), RunOptions(), processes=5)

    ((name, section),) = as_supervisor_reads(text).items()
    assert name == "program:shop-main"
    config = str(tmp_path / "shop" / "relevo.toml")
    assert shlex.split(section["command"]) == [sys.executable, "-m", "relevo", "worker", "--config", config]
    wanted = {
        "numprocs": "5",
        "process_name": "NAME-00",
        "directory": str(tmp_path / "shop"),
        "autorestart": "true",
        "stopsignal": "TERM",
        "stopwaitsecs": "330",
        "stopasgroup": "false",
        "killasgroup": "true",
        "stdout_logfile_maxbytes": "10MB",
    }
    assert {key: section[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("options", "startsecs"),
    [
        (RunOptions(), "5"),
        (RunOptions(max_events=1), "0"),
        (RunOptions(max_memory=1 << 28), "0"),
        (RunOptions(max_seconds=4.0), "0"),
        (RunOptions(max_seconds=3600.0, max_failures=1), "5"),
    ],
)
def test_a_worker_that_soon_reaches_a_limit_counts_as_started(
    options: RunOptions, startsecs: str, made: Callable[..., App]
) -> None:
    section = as_supervisor_reads(supervisor(made(), options))["program:shop-main"]

    assert section["startsecs"] == startsecs


def test_the_longest_listener_says_how_long_a_stop_may_take(made: Callable[..., App]) -> None:
    app = made()
    app.listen(listener("image.created", id="long", queue="media", time_limit="1h")(lambda event: None))

    section = as_supervisor_reads(supervisor(app, RunOptions()))["program:shop-main"]

    assert section["stopwaitsecs"] == "3630"


def test_two_applications_without_a_name_are_two_programs(tmp_path: Path) -> None:
    programs: list[str] = []
    for folder in ("one", "two", "two"):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / "relevo.toml"
        path.write_text(CONFIGURATION.replace('source = "shop"\n', ""))
        with App.from_config(path, environ={}) as app:
            programs += as_supervisor_reads(supervisor(app, RunOptions()))

    assert len(set(programs)) == 2
    assert programs[1] == programs[2]
    assert all(re.fullmatch(r"program:app-[0-9a-f]{8}-main", name) for name in programs)


def test_a_folder_makes_it_a_whole_that_is_spoken_to_by_a_socket_alone(made: Callable[..., App]) -> None:
    text = supervisor(made(), RunOptions(queues=("media",)), folder=RUN)

    sections = as_supervisor_reads(text)
    assert "inet_http_server" not in sections
    assert sections["unix_http_server"] == {"file": f"{RUN}/supervisor.sock", "chmod": "0700"}
    assert sections["supervisorctl"]["serverurl"] == f"unix://{RUN}/supervisor.sock"
    assert sections["program:shop-main-media"]["stdout_logfile"] == f"{RUN}/NAME-00.log"
    assert sections["supervisord"]["logfile_maxbytes"] == "10MB"


def test_a_log_that_supervisor_deletes_at_its_next_start_is_marked(made: Callable[..., App]) -> None:
    mark = "; supervisor deletes an AUTO log at its next start; write a path here to keep it\n"
    app = made()
    section, whole = supervisor(app, RunOptions()), supervisor(app, RunOptions(), folder=RUN)

    assert f"{mark}stdout_logfile=AUTO\n" in section
    assert mark not in whole


@pytest.mark.parametrize("folder", ["50% off", "it's", 'a "b"', "$HOME", "naïve", "%(here)s"])
def test_whatever_a_folder_is_called_supervisor_gets_it(folder: str, made: Callable[..., App], tmp_path: Path) -> None:
    text = supervisor(made(folder), RunOptions(), folder=RUN / folder)
    section = as_supervisor_reads(text)["program:shop-main"]

    assert section["stdout_logfile"] == f"{RUN / folder}/NAME-00.log"
    assert section["directory"] == str(tmp_path / folder)
    assert str(tmp_path / folder / "relevo.toml") in shlex.split(section["command"])


@pytest.mark.parametrize("folder", ["a ;b", "a #b", "two\nlines", "\x9b31m", "gpj.\u202eexe", "\u2066a"])
def test_a_folder_that_supervisor_cannot_name_is_refused(folder: str, made: Callable[..., App]) -> None:
    with pytest.raises(ConfigurationError, match=r"supervisor would misread .* in"):
        supervisor(made(folder), RunOptions())


def test_a_folder_whose_path_is_too_long_for_a_socket_is_refused_and_the_longest_that_is_not_is_taken(
    made: Callable[..., App], tmp_path_factory: pytest.TempPathFactory
) -> None:
    app = made()
    longest = Path("/" + "x" * (_LONGEST_SOCKET - len("//supervisor.sock.4194304")))

    text = supervisor(app, RunOptions(), folder=longest)
    with pytest.raises(ConfigurationError, match="1 bytes too long; choose a folder with a shorter path"):
        supervisor(app, RunOptions(), folder=Path(f"{longest}x"))

    assert f"file={longest}/supervisor.sock\n" in text
    folder = tmp_path_factory.mktemp("sockets")
    name = str(folder / "s") + "x" * _LONGEST_SOCKET
    with closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(name[:_LONGEST_SOCKET])
    with closing(socket.socket(socket.AF_UNIX)) as refused, pytest.raises(OSError, match="too long"):
        refused.bind(name[: _LONGEST_SOCKET + 2])
