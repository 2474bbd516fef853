"""Paths that match a pattern with wildcards, looked for in a limited number of folders and files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import attrs

_WILDCARD = re.compile(r"[*?\[]")

_LONGEST_NAME = 255
"""Characters of a name in a pattern; a set of characters takes a square of its length to read."""


class TooFarError(Exception):
    """Raised for patterns whose matches take too long to find."""


@attrs.define
class Search:
    """
    Searches for the matches of patterns, all together within a number of steps.

    A pattern of a few characters, such as ``/*/*/*/*``, may stand for the whole file system.

    Args:
        most: The largest number of names that are looked at.
    """

    most: int
    _looked: int = attrs.field(default=0, init=False)

    def paths(self, pattern: Path) -> list[Path]:
        """
        Return the existing paths that match the absolute path *pattern*, sorted.

        They are those that :func:`glob.glob` finds.

        Raises:
            TooFarError: There are too many names to look at, or a name in the pattern is too long.
        """
        root, *names = pattern.parts
        found = [root]
        for name in names:
            found = [os.path.join(folder, each) for folder in found for each in self._names(folder, name)]  # noqa: PTH118 - thousands of them
        return sorted(map(Path, found))

    def _names(self, folder: str, name: str) -> Iterator[str]:
        """Yield the names in *folder* that match *name*."""
        self._look()
        if not _WILDCARD.search(name):
            if os.path.lexists(os.path.join(folder, name)):  # noqa: PTH118 - as above
                yield name
            return
        if len(name) > _LONGEST_NAME:
            raise TooFarError(f"expected names of at most {_LONGEST_NAME} characters; got a longer one")
        with suppress(OSError, ValueError), os.scandir(folder) as entries:
            for entry in entries:
                self._look()
                is_shown = name.startswith(".") or not entry.name.startswith(".")
                if is_shown and fnmatchcase(entry.name, name):
                    yield entry.name

    def _look(self) -> None:
        self._looked += 1
        if self._looked > self.most:
            raise TooFarError(f"more than {self.most} files and folders would be looked at")
