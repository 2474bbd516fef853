"""``python -m relevo``."""

# pathlib may be a module of the working directory, so that it is not used before that is judged.
# ruff: noqa: PTH109, PTH120

import os
import sys


def _leave_working_directory() -> None:
    """
    Remove the working directory from the path, where Python puts it first, if other users can write to it.

    A file there, such as ``click.py``, would run in place of an installed module before anything is checked.
    """
    try:
        here = os.getcwd()
    except OSError:  # it was removed, so Python did not find it either
        return
    if sys.flags.safe_path or sys.path[:1] != [here]:
        return
    del sys.path[0]  # also while the judgement is imported
    try:
        trusted = _is_plainly_own(here) or _is_trusted(here)
    except OSError:  # this user cannot search a folder above it
        return
    if trusted:
        sys.path.insert(0, here)


def _is_plainly_own(folder: str) -> bool:
    """Return whether only root and this user have *folder* and those above it, as is usual; it imports nothing."""
    if not hasattr(os, "geteuid"):
        return False
    is_above = False
    while True:
        found = os.lstat(folder)
        is_open = found.st_mode & 0o022 and not (is_above and found.st_mode & 0o1000)  # those above may be like /tmp
        if is_open or found.st_uid not in (0, os.geteuid()):
            return False
        above = os.path.dirname(folder)
        if above == folder:
            return True
        folder, is_above = above, True


def _is_trusted(folder: str) -> bool:
    """Return whether *folder* is trusted as one in which a configuration is found: its group may be a private one."""
    from pathlib import Path  # noqa: PLC0415 - as above

    from relevo._config.trust import distrust_of  # noqa: PLC0415 - as above

    return distrust_of(Path(folder)) is None


if __name__ == "__main__":
    _leave_working_directory()
    from relevo.cli import main

    main()
