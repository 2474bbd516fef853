"""How it is said where listeners run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import relevo
from relevo import App, ConfigurationError, Execution, InlineExecutor, RunOptions
from relevo._app.app import app_of
from relevo._config.opening import read
from relevo._config.schema import Config
from relevo._size import size, size_text
from relevo.execution import ThreadExecutor
from relevo_memory import MemoryTransport

Read = Callable[..., Config]
MAIN = '[transports]\nmain = "memory://"\n'


@pytest.fixture(name="read_")
def _read(tmp_path: Path) -> Read:
    def read_(text: str, **environ: str) -> Config:
        path = tmp_path / "relevo.toml"
        path.write_text(text + MAIN)
        return read(path, environ, start=tmp_path)

    return read_


@pytest.mark.parametrize(
    "said, meant",
    [
        (Execution(), "inline"),
        (Execution("inline"), "inline"),
        (Execution(concurrency=4), "threads"),
        (Execution("threads"), "threads"),
        (Execution("process", 4), "process"),
    ],
    ids=str,
)
def test_several_at_once_run_in_threads_unless_something_else_is_said(said: Execution, meant: str) -> None:
    assert said.chosen == meant


@pytest.mark.parametrize(
    "wrong, told",
    [
        (
            {"kind": "proces"},
            "execution: expected inline, threads, process or async; got 'proces'; did you mean \"process\"?",
        ),
        ({"kind": 1}, "execution: expected inline, threads, process or async; got 1"),
        ({"concurrency": 0}, "concurrency: expected a whole number from 1 to 10000; got 0"),
        ({"concurrency": 10001}, "concurrency: expected a whole number from 1 to 10000; got 10001"),
        ({"concurrency": True}, "concurrency: expected a whole number from 1 to 10000; got True"),
        ({"concurrency": 2.0}, "concurrency: expected a whole number from 1 to 10000; got 2.0"),
        ({"time_limit": 0}, "time_limit: expected 0.001 s or more; got 0"),
        ({"time_limit": "soon"}, "time_limit: expected seconds as a number, or text such as"),
        (
            {"memory_limit": "1M"},
            "memory_limit: expected a number of bytes or text such as \"512M\", at least 16M; got '1M'",
        ),
        ({"memory_limit": "much"}, "got 'much'"),
        (
            {"memory_limit": "9" * 5000},
            "memory_limit: expected a number of bytes or text",
        ),  # Python parses 4,300 digits
        ({"memory_limit": "64\u212a"}, "got '64\\u212a'"),  # the sign of Kelvin, which equals K without its case
        ({"memory_limit": "\u0666\u0664M"}, "got '\\u0666\\u0664M'"),
        ({"recycle_after": 0}, "recycle_after: expected a whole number of at least 1; got 0"),
        ({"kind": "inline", "concurrency": 2}, 'set execution = "threads", "process" or "async"'),
    ],
    ids=str,
)
def test_what_is_no_way_to_run_listeners_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Execution(**wrong)

    assert told in str(caught.value)


@pytest.mark.parametrize(
    "text, number",
    [("512M", 512 << 20), ("2g", 2 << 30), ("64 MiB", 64 << 20), ("20000K", 20000 << 10), (99999999, 99999999)],
    ids=str,
)
def test_a_limit_of_memory_may_be_said_in_words(text: object, number: int) -> None:
    assert Execution(memory_limit=text).memory_limit == number


def test_it_comes_from_the_file(read_: Read) -> None:
    config = read_(
        'execution = "process"\nconcurrency = 4\ntime_limit = "30s"\nmemory_limit = "512M"\nrecycle_after = 100\n'
    )

    assert (config.execution, config.concurrency, config.time_limit) == ("process", 4, 30.0)
    assert (config.memory_limit, config.recycle_after) == (512 << 20, 100)


def test_it_comes_from_the_environment(read_: Read) -> None:
    config = read_(
        'execution = "process"\n',
        RELEVO_EXECUTION="threads",
        RELEVO_CONCURRENCY="4",
        RELEVO_TIME_LIMIT="30",
        RELEVO_MEMORY_LIMIT="99999999",
        RELEVO_RECYCLE_AFTER="7",
    )

    assert (config.execution, config.concurrency, config.time_limit) == ("threads", 4, 30.0)
    assert (config.memory_limit, config.recycle_after) == (99999999, 7)


def test_what_does_not_go_together_is_told_with_its_line(read_: Read) -> None:
    with pytest.raises(ConfigurationError, match=r"relevo\.toml:2: concurrency: expected 1, .*; got 4"):
        read_('execution = "inline"\nconcurrency = 4\n')


def test_an_application_of_configuration_runs_listeners_as_it_says(read_: Read) -> None:
    with app_of(read_('concurrency = 3\ntime_limit = "1m"\n'), App) as app:
        assert app.execution == Execution(None, 3, 60.0)
        assert isinstance(app.worker()._executor, ThreadExecutor)


def test_the_options_of_a_run_win_over_the_application() -> None:
    with App(transports={"main": MemoryTransport()}, routes={"*": "main"}, execution=Execution(concurrency=3)) as app:
        assert isinstance(app.worker(RunOptions(execution="inline"))._executor, InlineExecutor)
        assert app.worker(RunOptions(concurrency=5))._executor._threads == 5  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError, match=r"concurrency: expected 1, .*; got 2"):
            app.worker(RunOptions(execution="inline", concurrency=2))


def test_whoever_says_nothing_gets_one_event_after_the_other_in_the_workers_own_thread() -> None:
    with App(transports={"main": MemoryTransport()}, routes={"*": "main"}) as app:
        assert isinstance(app.worker()._executor, InlineExecutor)


@pytest.mark.parametrize("limit, told", [("0s", "0.001 s or more"), ("soon", "seconds"), (-1, "0.001 s")])
def test_a_listener_cannot_have_a_time_limit_that_is_none(limit: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"time_limit of a listener: expected {told}.*; got "):
        relevo.listener("image.created", time_limit=limit)


@pytest.mark.parametrize(
    "text, bytes_", [("1000", 1000), ("1K", 1024), ("1536K", 1536 << 10), ("512M", 512 << 20), ("3G", 3 << 30)]
)
def test_a_size_is_written_as_a_person_writes_it(text: str, bytes_: int) -> None:
    assert size_text(bytes_) == text
    assert size(text, what="x") == bytes_
