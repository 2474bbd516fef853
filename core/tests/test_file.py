"""Files that a user or a configuration names."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from relevo._file import regular_bytes
from relevo.errors import ConfigurationError


def test_a_regular_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")

    assert regular_bytes(tmp_path / "a") == regular_bytes(tmp_path / "b", most=7) == b"content"


def test_a_larger_one_is_refused_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 2049)

    with pytest.raises(ConfigurationError, match=r"/a: expected a file of at most 2 KiB; got a larger one$"):
        regular_bytes(tmp_path / "a", most=2048)


@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "device"])
def test_anything_else_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))

    with pytest.raises(ConfigurationError, match=rf"/a: expected a regular file; got a {kind}$"):
        regular_bytes(path)


@pytest.mark.parametrize(
    ("name", "why"), [("none", "No such file"), ("x" * 300, "too long"), ("a\0b", "null (byte|character)")]
)
def test_what_cannot_be_read_is_reported_with_its_path(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot be read: .*{why}"):
        regular_bytes(tmp_path / name)
