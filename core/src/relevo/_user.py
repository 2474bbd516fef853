"""Users and groups of the system: the group of one user alone, and the users that a mode admits."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence

ROOT = 0


def others(mode: int, gid: int, *, own_groups: Collection[int], write: bool) -> str | None:
    """
    Return which other users can write a file, or read it; ``None`` if only its owner and the own groups can.

    Args:
        mode: The permissions of the file.

        gid: Its group.

        own_groups: The groups that are as good as the owner.

        write: Ask for writing, else for reading.
    """
    of_all, of_group = (stat.S_IWOTH, stat.S_IWGRP) if write else (stat.S_IROTH, stat.S_IRGRP)
    if mode & of_all:
        return "every user"
    if mode & of_group and gid not in own_groups:
        return f"the group {gid}"
    return None


def private_group(uid: int, account: tuple[str, int] | None, group: tuple[str, Sequence[str]] | None) -> int | None:
    """
    Return the private group of *uid*: one without other members, as Debian creates.

    Args:
        uid: The number of the user.

        account: The name of the user and the number of the primary group; ``None`` if the system has no such account.

        group: The name of that group, or of the one with the number *uid*, and its members; ``None`` if there is none.
    """
    name, gid = account or ("", uid)
    if group is None:
        return gid if gid == uid else None
    return gid if group[0] == name and set(group[1]) <= {name} else None


# --- asking the system --------------------------------------------------------------------------------


def own_groups(owner: int) -> Collection[int]:
    """Return the groups that are as good as *owner*: the private ones of *owner*, of this user and of root."""
    found = {private_group_of(uid) for uid in (owner, os.geteuid(), ROOT)}
    return {gid for gid in found if gid is not None}


def private_group_of(uid: int) -> int | None:
    """Return the private group of *uid* on this system."""
    import grp  # noqa: PLC0415 - not on Windows
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        known = pwd.getpwuid(uid)
    except (KeyError, OSError):
        account = None
    else:
        account = (known.pw_name, known.pw_gid)
    try:
        found = grp.getgrgid(uid if account is None else account[1])
    except (KeyError, OSError):
        return private_group(uid, account, None)
    return private_group(uid, account, (found.gr_name, found.gr_mem))


def name_of(uid: int) -> str:
    """Return the name of *uid*, or its number if the system has no such account."""
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)
