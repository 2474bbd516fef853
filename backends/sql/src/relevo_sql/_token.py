"""Tokens of claims; each contains the id of the process that made it."""

from __future__ import annotations

import os
import secrets

_PROCESS = (1 << 22) - 1
"""The bits of a token that identify a process; the largest process id of Linux: https://man7.org/linux/man-pages/man5/proc.5.html"""


def new_token() -> int:
    """Return a random token that no other claim has and that identifies this process."""
    return secrets.randbits(40) << 22 | os.getpid() & _PROCESS


def is_of_this_process(token: int) -> bool:
    """Return whether *token* was made in this process; after a fork the parent keeps what it held."""
    return token & _PROCESS == os.getpid() & _PROCESS
