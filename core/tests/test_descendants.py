"""Processes are found by the mark of the child process that they came from, and no others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from relevo._execution.descendants import MARK, kill_marked

pytestmark = [
    pytest.mark.lengthy("starts processes"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux shows the environment of processes"),
]


def started(**environ: str) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which ends by itself after a while."""
    kept = {name: value for name, value in os.environ.items() if name != MARK}
    words = [sys.executable, "-c", "import sys, time; print(flush=True); time.sleep(300)"]
    process = subprocess.Popen(words, env=kept | environ, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_only_those_with_the_mark_are_killed() -> None:
    mine, longer, others, without = (
        started(**{MARK: "ab12"}),
        started(**{MARK: "ab123"}),
        started(**{MARK: "cd34"}),
        started(OTHER=f"{MARK}=ab12"),
    )

    kill_marked(f"{MARK}=ab12")

    assert mine.wait(60) == -9
    assert [each.poll() for each in (longer, others, without)] == [None] * 3
    for each in (longer, others, without):
        each.kill()
        each.wait(60)
    for each in (mine, longer, others, without):
        assert each.stdout is not None
        each.stdout.close()


def test_where_there_are_none_nothing_is_done() -> None:
    kill_marked(f"{MARK}=no such mark")
