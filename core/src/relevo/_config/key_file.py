"""The users who can change or read the keys of signatures in a configuration file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from relevo._config.schema import Config
from relevo._config.trust import described, strangers_weakness
from relevo._problem import Problem
from relevo._user import others, own_groups
from relevo.errors import ConfigurationError


def key_file_problems(config: Config) -> Iterator[Problem]:
    """
    Yield a problem if events are signed and others can write or replace the file of *config*, and so the keys.

    Its owner may be any user, since a program is often deployed by one user and run by another.
    """
    if config.signing is not None and config.path is not None and (fault := _fault(config.path)):
        yield Problem(("signing",), ConfigurationError(f"signing: {fault}"))


def _fault(path: Path) -> str | None:
    """Return how other users could replace the keys in the file at *path*, with the remedy; ``None`` if they cannot."""
    try:
        weakness = strangers_weakness(path)
    except OSError as error:
        return f"{path} was replaced or removed while it was read: {error.strerror}; try again"
    if weakness is None:
        return None
    return (
        f"{described(weakness)}, so that other users could replace the keys in {path}; "
        f"run {weakness.fix} {shlex.quote(str(weakness.step.path))}"
    )


def key_file_advice(config: Config) -> str | None:
    """Return how to protect the keys that are written in the file of *config*, if others can read them."""
    who = _readers(config)
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


def _readers(config: Config) -> str | None:
    """Return which other users can read the file of *config*, if it has one and the system says so."""
    if config.path is None or os.name != "posix":
        return None
    try:
        found = config.path.stat()
    except OSError:
        return None
    return others(found.st_mode, found.st_gid, own_groups=own_groups(found.st_uid), write=False)
