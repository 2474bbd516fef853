"""Tokens of claims, each of which names the process that made it."""

from __future__ import annotations

import os
import secrets

_PROCESS = (1 << 22) - 1
"""The bits of a token that name a process; Linux counts no higher: https://man7.org/linux/man-pages/man5/proc.5.html"""


def new_token() -> int:
    """Return what no other claim has, since it is random, and by which one of this process is known."""
    return secrets.randbits(40) << 22 | os.getpid() & _PROCESS


def is_of_this_process(token: int) -> bool:
    """Return whether *token* was made here; a fork leaves what was held with the parent."""
    return token & _PROCESS == os.getpid() & _PROCESS
