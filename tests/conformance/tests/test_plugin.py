"""The suite as pytest runs it by ``--harness``, and the card that pytest prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

STRANGERS = """
import threading

import pytest

from relevo import Nack, Release
from relevo_conformance import Harness
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory.conformance import MemoryHarness


class CountsReleases(MemoryTransport):
    def settle(self, settlements):
        return super().settle([(one, Nack() if isinstance(out, Release) else out) for one, out in settlements])


class BrokenHarness(MemoryHarness):
    transport = CountsReleases


class Hangs(MemoryTransport):
    def purge(self, queue):
        threading.Event().wait()


class HangsHarness(MemoryHarness):
    transport = Hangs
    call_timeout = 0.5


class BareHarness(Harness):
    transport = MemoryTransport
    store = MemoryStore()

    def open(self):
        return MemoryTransport(self.store, clock=self.clock)

    def kill(self, transport):
        pass


class MissingHarness(MemoryHarness):
    def __init__(self):
        pytest.skip("there is no server here")
"""


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Run:
    (tmp_path / "strangers.py").write_text(STRANGERS)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "--rootdir", tmp_path, "-p", "no:cacheprovider", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_broken_promise_fails_its_tests_and_stands_on_the_card(run: Run, tmp_path: Path) -> None:
    ran = run("--harness", "strangers:BrokenHarness", "-k", "released", "--junitxml", "junit.xml")

    assert ran.returncode == 1
    assert "FAIL  release-counts-nothing" in ran.stdout
    assert "not conformant: " in ran.stdout
    root = ET.parse(tmp_path / "junit.xml").getroot()  # noqa: S314 - written here
    (verdict,) = (one.get("value") for one in root.iter("property") if one.get("name") == "verdict")
    assert verdict == "not conformant"
    failed = [case for case in root.iter("testcase") if case.find("failure") is not None]
    proved = {one.get("value") for case in failed for one in case.iter("property") if one.get("name") == "promises"}
    assert any("release-counts-nothing" in (one or "") for one in proved)


def test_a_part_of_the_suite_passes_if_its_tests_do_and_its_card_says_what_is_not_known(run: Run) -> None:
    ran = run("--harness", "memory", "-k", "purge")

    assert ran.returncode == 0, ran.stdout
    assert "purged-is-gone" in ran.stdout
    assert "ack-is-final" not in ran.stdout
    assert "unknown: " in ran.stdout


@pytest.mark.soak
def test_the_whole_suite_fails_where_its_verdict_is_unknown_though_all_its_tests_pass(run: Run) -> None:
    ran = run("--harness", "strangers:BareHarness")

    assert ran.returncode == 1
    assert " failed" not in ran.stdout
    assert "unknown: " in ran.stdout


def test_a_call_that_hangs_is_a_broken_promise_on_the_card(run: Run) -> None:
    ran = run("--harness", "strangers:HangsHarness", "-k", "purge")

    assert ran.returncode == 1
    assert "FAIL  calls-come-back" in ran.stdout
    assert "did not come back within 0.5 s" in ran.stdout


def test_a_server_that_is_not_there_is_said_to_be_missing(run: Run) -> None:
    ran = run("--harness", "strangers:MissingHarness")

    assert ran.returncode == 69
    assert "there is no server here" in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "named, code, said",
    [
        ("standard", pytest.ExitCode.OK, "profile standard"),
        ("standart", pytest.ExitCode.USAGE_ERROR, 'RELEVO_CONFORMANCE_PROFILE: no profile "standart"; there are quick'),
    ],
)
def test_the_environment_names_the_profile(
    run: Run, monkeypatch: pytest.MonkeyPatch, named: str, code: int, said: str
) -> None:
    monkeypatch.setenv("RELEVO_CONFORMANCE_PROFILE", named)

    ran = run("--harness", "memory", "-k", "reviving_and_discarding_nothing")

    assert ran.returncode == code, ran.stdout
    assert said in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (["--harness", "memroy"], 'did you mean "memory"?'),
        (["--harness", "memory", "--harness-option", "url=x"], 'MemoryHarness takes no option "url"'),
        (["--harness", "memory", "--harness-option", "url"], "is not of the form name=value"),
        (["--harness", "memory", "-n", "2"], "leave -n out"),
    ],
)
def test_an_invalid_option_is_refused_with_a_hint(run: Run, words: list[str], said: str) -> None:
    ran = run(*words)

    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in ran.stderr


def test_without_the_option_the_suite_is_not_imported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    assert not [one for one in sys.modules if one.startswith('relevo_conformance')]\n"
    )

    ran = run("test_it.py")

    assert ran.returncode == 0, ran.stdout
