"""The user's crontab: replace relevo's block in it, and leave the rest unchanged."""

from __future__ import annotations

import os
import subprocess

from relevo._runner.command import unprintable_in
from relevo.errors import ConfigurationError


def merged(text: str, name: str, line: str | None) -> str:
    """
    Return the crontab *text* with *line* in the block called *name*, or without that block.

    An existing block keeps its position; everything else is unchanged, byte by byte. Lines end with a line feed only,
    as in cron; Python's other line boundaries do not count.

    Raises:
        ConfigurationError: The block has a beginning and no end, or *name* has a character that a crontab cannot hold.
    """
    if line is not None and (found := unprintable_in(name)):  # a line break would begin a line of the crontab
        raise ConfigurationError(f"a crontab cannot hold {found!r}, which is in {name!r}; give the folder another name")
    begin, end = f"# relevo {name} begin", f"# relevo {name} end"
    lines = text.removesuffix("\n").split("\n") if text else []
    block = [] if line is None else [begin, line, end]
    if begin not in lines:
        kept = [*lines, *block]
    else:
        start = lines.index(begin)
        if end not in lines[start:]:
            raise ConfigurationError(f'the crontab has "{begin}" without "{end}" after it; fix it with crontab -e')
        kept = [*lines[:start], *block, *lines[lines.index(end, start) + 1 :]]
    return "".join(f"{each}\n" for each in kept)


def install(name: str, line: str | None) -> bool:
    """
    Put *line* into the user's crontab, or remove the block if it is ``None``; return whether the crontab changed.

    Raises:
        ConfigurationError: The crontab command is missing or fails.
    """
    before = _crontab("-l")
    after = merged(before, name, line)
    if after == before:
        return False
    _crontab("-", given=after)
    return True


def _crontab(what: str, *, given: str = "") -> str:
    environ = {**os.environ, "LC_ALL": "C"}
    command = ["crontab", what]  # the first one in the user's PATH
    try:
        done = subprocess.run(command, input=os.fsencode(given), capture_output=True, check=False, env=environ)  # noqa: S603 - our own words
    except FileNotFoundError as error:
        raise ConfigurationError(
            "there is no crontab command; install cron, or add the line to your scheduler's configuration"
        ) from error
    output = done.stderr.decode(errors="replace")
    if done.returncode and not (what == "-l" and "no crontab" in output):
        raise ConfigurationError(f"crontab {what} failed: {' '.join(output.split())}")
    return "" if done.returncode else os.fsdecode(done.stdout)
