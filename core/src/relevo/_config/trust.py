"""
Whether a configuration that the search found may be trusted.

Modules are imported from its folder, so anyone who can write there can run code as the user. The search goes through
folders of other users: a file of theirs, or one that they can replace, is refused. A file that is named is not checked.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISVTX, S_IWGRP, S_IWOTH

import msgspec

from relevo.errors import ConfigurationError

ROOT = 0
_MOST_LINKS = 40
"""The longest chain that Linux follows."""


class WayPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A file, folder or link on the way from the root to a file, as ``lstat`` describes it."""

    path: Path
    uid: int
    gid: int
    mode: int

    @classmethod
    def at(cls, path: Path) -> WayPoint:
        """Return the step at *path*; links are not followed."""
        found = path.lstat()
        return cls(path=path, uid=found.st_uid, gid=found.st_gid, mode=found.st_mode)


class RunningUser(msgspec.Struct, frozen=True, kw_only=True):
    """The user who runs the program, and what is known about the users of the system."""

    uid: int

    private_group: Callable[[int], int | None]
    """Takes a user, returns the group that has no other member."""

    unmapped: int | None = None
    """
    The owner that the kernel shows for all users outside of this container's user namespace, often 65534.

    The folders that lead to a mount belong to the host, whose root has that number too.
    """


class Weakness(msgspec.Struct, frozen=True):
    """A step that other users control."""

    step: WayPoint
    why: str
    fix: str
    """The command that changes it, without the path."""


def weakness_on(steps: Sequence[WayPoint], searched: Path, user: RunningUser) -> Weakness | None:
    """
    Return the step that other users control; ``None`` if the last one may be trusted.

    Args:
        steps: The way to it, from the root; the last one is a file or a folder.

        searched: The folder that is searched for modules. A file put into it is imported, so that the sticky bit, which
            keeps others from replacing what is there, is not enough.

        user: The user who runs the program.
    """
    for step in reversed(steps):
        is_way = S_ISDIR(step.mode) and step.path != searched
        if step.uid not in (ROOT, user.uid) and not (is_way and step.uid == user.unmapped):
            return Weakness(step, "belongs to another user", f"chown {user.uid}")
        if S_ISLNK(step.mode) or (is_way and step.mode & S_ISVTX):
            continue
        if step.mode & S_IWOTH:
            return Weakness(step, "can be written by every user", "chmod o-w")
        if step.mode & S_IWGRP and step.gid != user.private_group(step.uid):
            return Weakness(step, "can be written by other users of its group", "chmod g-w")
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


def unmapped_owner(uid_map: str, overflow: int) -> int | None:
    """
    Return *overflow*, the owner shown for users without a number here, if no user of this namespace has it.

    Args:
        uid_map: The content of ``/proc/self/uid_map``.

        overflow: The number in ``/proc/sys/kernel/overflowuid``.
    """
    ranges = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    return None if any(first <= overflow < first + count for first, _, count in ranges) else overflow


# --- asking the system --------------------------------------------------------------------------------


def check_trusted(file: Path) -> None:
    """
    Refuse *file*, which the search found, if a user other than root can change it or what is imported beside it.

    Args:
        file: An absolute path; its folder has no links.

    Raises:
        ConfigurationError: It is not to be trusted; names what is wrong, its owner and mode, and the remedy.
    """
    user = _this_user()
    weakness = weakness_on([*_way(file)], file.parent, user) if user else None
    if user and weakness:
        path = shlex.quote(str(weakness.step.path))
        named = f"--config {shlex.quote(str(file))}, RELEVO_CONFIG or App.from_config(path)"
        raise ConfigurationError(
            f"{file}: not read, since {_described(weakness)}, and its code would run as {_name(user.uid)}; "
            f"if you trust it, name it: {named}; otherwise {weakness.fix} {path}"
        )


def distrust_of(folder: Path) -> str | None:
    """Return why modules in *folder* are not to be trusted; ``None`` if they are."""
    user = _this_user()
    weakness = weakness_on([*_way(folder)], folder, user) if user else None
    return None if weakness is None else _described(weakness)


def _described(weakness: Weakness) -> str:
    step = weakness.step
    return f"{step.path} {weakness.why} (owner {_name(step.uid)}, group {step.gid}, mode {S_IMODE(step.mode):04o})"


def _way(path: Path) -> Iterator[WayPoint]:
    """Yield each folder and link that leads to *path*, and at last what is there."""
    here, rest, links = Path(path.anchor), [*reversed(path.parts[1:])], 0
    yield WayPoint.at(here)
    while rest:
        part = rest.pop()
        if part == "..":
            here = here.parent
            continue
        step = WayPoint.at(here / part)
        yield step
        if not S_ISLNK(step.mode):
            here = step.path
            continue
        target, links = step.path.readlink(), links + 1
        if links > _MOST_LINKS:
            raise ConfigurationError(f"{path}: more than {_MOST_LINKS} links")
        here = Path(target.anchor) if target.anchor else here
        rest += reversed(target.parts[bool(target.anchor) :])


def _this_user() -> RunningUser | None:
    """Return the user who runs the program; ``None`` on a system without such numbers."""
    if not hasattr(os, "geteuid"):
        return None
    return RunningUser(uid=os.geteuid(), private_group=_private_group, unmapped=_unmapped())


def _private_group(uid: int) -> int | None:
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


def _unmapped() -> int | None:
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_bytes())
        return unmapped_owner(Path("/proc/self/uid_map").read_bytes().decode(), overflow)
    except (OSError, ValueError):  # not Linux
        return None


def _name(uid: int) -> str:
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)
