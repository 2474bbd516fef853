"""The user's crontab: replace relevo's block in it, and leave the rest alone."""

from __future__ import annotations

import os
import subprocess

from relevo.errors import ConfigurationError


def merged(text: str, name: str, line: str | None) -> str:
    """
    Return the crontab *text* with *line* in the block called *name*, or without that block.

    A block that is there stays in its place; everything else stays as it is, byte by byte. Of all that Python takes for
    the end of a line, cron knows one.

    Raises:
        ConfigurationError: The block has a beginning and no end.
    """
    begin, end = f"# relevo {name} begin", f"# relevo {name} end"
    lines = text.removesuffix("\n").split("\n") if text else []
    block = [] if line is None else [begin, line, end]
    if begin not in lines:
        kept = [*lines, *block]
    else:
        start = lines.index(begin)
        if end not in lines[start:]:
            raise ConfigurationError(f'the crontab has "{begin}" and no "{end}" behind it; mend it by crontab -e')
        kept = [*lines[:start], *block, *lines[lines.index(end, start) + 1 :]]
    return "".join(f"{each}\n" for each in kept)


def install(name: str, line: str | None) -> bool:
    """
    Put *line* into the user's crontab, or take it out if there is none; return whether that changed anything.

    Raises:
        ConfigurationError: There is no cron, or it refuses.
    """
    before = _crontab("-l")
    after = merged(before, name, line)
    if after == before:
        return False
    _crontab("-", given=after)
    return True


def _crontab(what: str, *, given: str = "") -> str:
    environ = {**os.environ, "LC_ALL": "C"}
    command = ["crontab", what]  # whichever comes first in the user's PATH; S603: no word of it is somebody else's
    try:
        done = subprocess.run(command, input=os.fsencode(given), capture_output=True, check=False, env=environ)  # noqa: S603
    except FileNotFoundError as error:
        raise ConfigurationError("there is no crontab command; install cron, or put the line where yours is") from error
    told = done.stderr.decode(errors="replace")
    if done.returncode and not (what == "-l" and "no crontab" in told):
        raise ConfigurationError(f"crontab {what} failed: {' '.join(told.split())}")
    return "" if done.returncode else os.fsdecode(done.stdout)
