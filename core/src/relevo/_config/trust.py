"""
Decide whether to trust a configuration that the search found.

Modules are imported from its folder, so anyone who can write there can run code as the user. The search goes through
folders of other users: a file of theirs, or one that they can replace, is refused. A file that is named is not checked,
unless it decides about signatures: then only its owner, this user and root may be able to change or replace it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISVTX, S_IWGRP, S_IWOTH

import msgspec

from relevo._user import ROOT, name_of, others, own_groups
from relevo.errors import ConfigurationError

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

    own_groups: Callable[[int], Collection[int]]
    """Takes the owner of a file, returns the groups that are as good as the owner."""

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


def weakness_on(
    steps: Sequence[WayPoint], searched: Path | None, user: RunningUser, *, trusted: Collection[int] = ()
) -> Weakness | None:
    """
    Return the step that other users control; ``None`` if the last one may be trusted.

    Args:
        steps: The way to it, from the root; the last one is a file or a folder.

        searched: The folder that is searched for modules, if one is. A file put into it is imported, so that the sticky
            bit, which keeps others from replacing what is there, is not enough.

        user: The user who runs the program.

        trusted: Owners who are trusted as *user* and root are.
    """
    for step in reversed(steps):
        is_way = S_ISDIR(step.mode) and step.path != searched
        if step.uid not in (ROOT, user.uid, *trusted) and not (is_way and step.uid == user.unmapped):
            return Weakness(step, "belongs to another user", f"chown {user.uid}")
        if S_ISLNK(step.mode) or (is_way and step.mode & S_ISVTX):
            continue
        if step.mode & S_IWOTH:
            return Weakness(step, "can be written by every user", "chmod o-w")
        if step.mode & S_IWGRP and others(step.mode, step.gid, own_groups=user.own_groups(step.uid), write=True):
            return Weakness(step, "can be written by other users of its group", "chmod g-w")
    return None


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
    _check(file, file, "read")


def check_modules(names: Iterable[str], file: Path) -> None:
    """
    Refuse the modules called *names* if they are beside *file*, which the search found, and other users control them.

    Judged are the file of each module, the packages that it is in, and where Python keeps its compiled form. What these
    modules import is not.

    Args:
        names: ``module`` or ``module:name``, as the configuration has them.

        file: The configuration, which :func:`check_trusted` accepted together with its folder.

    Raises:
        ConfigurationError: A module is not to be trusted; names what is wrong, its owner and mode, and the remedy.
    """
    for name in names:
        for each in _imported_by(name, file.parent):
            _check(each, file, "imported")


def _imported_by(name: str, folder: Path) -> Iterator[Path]:
    """Yield the files in *folder* that an import of *name* would run; a folder where only its content decides."""
    places = [str(folder)]
    for part in name.partition(":")[0].split("."):
        found = PathFinder.find_spec(part, places) if part.isidentifier() else None
        if found is None:
            return
        places = list(found.submodule_search_locations or ())
        compiled = Path(found.cached) if found.cached else None
        yield from map(Path, [found.origin] if found.has_location and found.origin else places)
        yield from (each for each in (compiled, compiled and compiled.parent) if each and each.exists())


def _check(path: Path, file: Path, done: str) -> None:
    """
    Refuse *path* if other users control it.

    Args:
        path: A file, or a folder that is searched for modules.

        file: The configuration that leads to it.

        done: What is not done to it then.
    """
    user, weakness = _judged(path)
    if user and weakness:
        named = f"--config {shlex.quote(str(file))}, RELEVO_CONFIG or App.from_config(path)"
        raise ConfigurationError(
            f"{path}: not {done}, since {described(weakness)}, and its code would run as {name_of(user.uid)}; "
            f"if you trust it, name {'it' if path == file else 'the configuration'}: {named}; "
            f"otherwise {weakness.fix} {shlex.quote(str(weakness.step.path))}"
        )


def _judged(path: Path) -> tuple[RunningUser | None, Weakness | None]:
    user = _this_user()
    searched = (path if path.is_dir() else path.parent).resolve()
    return user, weakness_on([*_way(path)], searched, user) if user else None


def distrust_of(path: Path) -> str | None:
    """Return why the file at *path*, or modules in the folder there, are not to be trusted; ``None`` if they are."""
    _, weakness = _judged(path)
    return None if weakness is None else described(weakness)


def strangers_weakness(file: Path) -> Weakness | None:
    """
    Return how users other than root, this one and the owner of *file* could change or replace it; ``None`` if none can.

    For a file that was named, by which its owner is trusted.

    Raises:
        OSError: It is not there any longer.
    """
    user = _this_user()
    if user is None:
        return None
    steps = [*_way(file.absolute())]
    return weakness_on([*map(_as_mounted, steps)], None, user, trusted=[steps[-1].uid])


def _as_mounted(step: WayPoint) -> WayPoint:
    """Return *step* without the right to write for others if it is mounted read-only, as Kubernetes does with 0777."""
    if S_ISLNK(step.mode) or not os.statvfs(step.path).f_flag & os.ST_RDONLY:
        return step
    return msgspec.structs.replace(step, mode=step.mode & ~(S_IWGRP | S_IWOTH))


def described(weakness: Weakness) -> str:
    """Return what is wrong with the step of *weakness*, with its owner and mode."""
    step = weakness.step
    return f"{step.path} {weakness.why} (owner {name_of(step.uid)}, group {step.gid}, mode {S_IMODE(step.mode):04o})"


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
    return RunningUser(uid=os.geteuid(), own_groups=own_groups, unmapped=_unmapped())


def _unmapped() -> int | None:
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_bytes())
        return unmapped_owner(Path("/proc/self/uid_map").read_bytes().decode(), overflow)
    except (OSError, ValueError):  # not Linux
        return None
