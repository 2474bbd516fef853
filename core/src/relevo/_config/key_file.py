"""Which users can change or read the keys of signatures in a configuration file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from relevo._config.schema import Config
from relevo._problem import Problem
from relevo._user import others, own_groups
from relevo.errors import ConfigurationError


def key_file_problems(config: Config) -> Iterator[Problem]:
    """Yield a problem if events are signed and others can write the file of *config*: they could replace the keys."""
    who = _others(config, write=True)
    if config.signing is not None and config.path is not None and who:
        yield Problem(
            ("signing",),
            ConfigurationError(
                f"signing: {config.path} can be written by {who}, who could replace the keys; expected a file and "
                f"a folder that only their owner can write; run chmod go-w {config.path} {config.path.parent}"
            ),
        )


def key_file_advice(config: Config) -> str | None:
    """Return how to protect the keys that are written in the file of *config*, if others can read them."""
    who = _others(config, write=False)
    if config.signing is None or not who or not _has_keys(config, len(config.signing.keys)):
        return None
    return (
        f"{config.path} has keys and can be read by {who}; run chmod go-r {config.path}, or keep the keys in "
        f"environment variables"
    )


def _has_keys(config: Config, number: int) -> bool:
    """Return whether one of the *number* keys is written in the file, rather than taken from a variable."""
    for index in range(number):
        origins = [config.origins.exactly("signing", *inside, index) for inside in ((), ("keys",))]
        if all(origin is not None and origin.line is not None and not origin.is_text for origin in origins):
            return True
    return False


def _others(config: Config, *, write: bool) -> str | None:
    """Return which other users can write the file of *config*, or read it, if it has one and the system says so."""
    if config.path is None or os.name != "posix":
        return None
    try:
        found, folder = config.path.stat(), config.path.resolve().parent.stat()
    except OSError:
        return None
    who = others(found.st_mode, found.st_gid, own_groups=own_groups(found.st_uid), write=write)
    if who is None and write and not folder.st_mode & stat.S_ISVTX:
        who = others(folder.st_mode, folder.st_gid, own_groups=own_groups(folder.st_uid), write=True)
        return who and f"{who} through its folder"
    return who
