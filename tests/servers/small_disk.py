"""A small disk, which a test fills: a file system in memory, mounted for as long as a block lasts."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from server_starter import NotFoundError

_CHUNKS = (1 << 20, 1 << 12)
"""Bytes that are written at once: the last is a page, the least that such a file system gives away."""


@attrs.frozen
class SmallDisk:
    """A disk with few bytes, mounted at *folder*."""

    folder: Path

    def fill(self) -> None:
        """Use up all of its space."""
        with self._ballast.open("ab", buffering=0) as file:
            for chunk in _CHUNKS:
                while True:
                    try:
                        file.write(bytes(chunk))
                    except OSError:
                        break

    def free(self) -> None:
        """Give back what :meth:`fill` took."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


@contextmanager
def small_disk(folder: Path, *, size: int, owner: pwd.struct_passwd | None = None) -> Iterator[SmallDisk]:
    """
    Mount a disk.

    Args:
        folder: Where; it exists and is empty.

        size: Its bytes.

        owner: Who may write to it, if it is not the user of this process.

    Raises:
        NotFoundError: This process may not mount anything.
    """
    if os.geteuid():
        raise NotFoundError("a small disk, which can be full, is mounted by root alone")
    options = f"size={size},mode=0755"
    if owner is not None:
        options += f",uid={owner.pw_uid},gid={owner.pw_gid}"
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotFoundError(f"a small disk cannot be mounted here: {error}") from error
    if done.returncode:
        raise NotFoundError(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        # With --lazy it goes when the server that holds its files has ended.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
