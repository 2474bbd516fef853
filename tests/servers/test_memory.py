"""Temporary files are made in memory where that is large, and where TMPDIR says so otherwise."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

import memory


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take a folder of this test for the one in memory."""
    monkeypatch.setattr(memory, "_MEMORY", tmp_path)
    monkeypatch.setattr(memory, "ENOUGH", 0)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)  # restored
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.delenv("TMPDIR")
    return tmp_path


def test_temporary_files_are_made_in_memory(folder: Path) -> None:
    memory.use_memory()

    assert (os.environ["TMPDIR"], tempfile.gettempdir()) == (str(folder), str(folder))


def test_what_tmpdir_says_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(folder.parent))

    memory.use_memory()

    assert os.environ["TMPDIR"] == str(folder.parent)


def test_a_small_folder_is_not_used(folder: Path) -> None:
    assert (memory.memory_folder(0), memory.memory_folder(2**60)) == (folder, None)


def test_a_folder_that_is_missing_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MEMORY", folder / "missing")

    memory.use_memory()

    assert (memory.memory_folder(0), "TMPDIR" in os.environ) == (None, False)


def test_a_folder_that_must_not_hold_programs_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = os.statvfs(folder)
    values = [*usual]
    values[8] |= os.ST_NOEXEC  # f_flag
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))

    assert memory.memory_folder(0) is None
