"""
The state of a process that listeners can change: observe it, compare it, restore it.

Python's own objects are not checked: modules, global variables, thread-local and context variables stay as a listener
leaves them.
"""

from __future__ import annotations

import fcntl
import gc
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import attrs

Fate = Literal["restored", "replaced", "kept"]
"""The consequence of a change: it is undone, the process is replaced, or it stays."""

_OWN = "relevo-"
"""The beginning of the names of relevo's own threads, such as those of a connection."""

_SHOWN = 5
_LONGEST = 60

_COPIES_FROM = 512
"""Above the descriptors that programs close by their number."""

_SIGNALS = tuple(sorted({*range(1, 32)} & signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
_TIMERS = {name: getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")}
_LIMITS = {name: getattr(resource, name) for name in sorted(vars(resource)) if name.startswith("RLIMIT_")}
_LIMITS.pop("RLIMIT_OFILE", None)  # another name of RLIMIT_NOFILE
_STREAMS = ("stdin", "stdout", "stderr")

Place = tuple[int, int] | None
"""The device and inode of a directory; ``None`` if it cannot be read."""

Descriptor = tuple[int, int, int, int] | None
"""The device, inode, status flags and descriptor flags of an open file; ``None`` if the descriptor is closed."""


@attrs.frozen(kw_only=True)
class Surroundings:
    """The state of this process outside of Python's objects, as it was at one moment."""

    timers: tuple[tuple[bool, float], ...]
    """For each interval timer whether it runs, and its interval in seconds."""

    handlers: tuple[object, ...]
    blocked: frozenset[int]
    directory: Place
    root: Place
    environment: tuple[int, Mapping[bytes, bytes]]
    """The identity of ``os.environ``, and its contents."""

    descriptors: tuple[Descriptor, ...]
    """0, 1 and 2."""

    links: tuple[Descriptor, ...]
    """The descriptors that lead to the parent process."""

    streams: tuple[tuple[int, bool], ...]
    """For each of the standard streams its identity, and whether it is closed."""

    limits: tuple[tuple[int, int], ...]
    umask: int
    user: tuple[Any, ...]
    priority: int
    locale: str
    collector: tuple[bool, tuple[int, int, int]]
    recursion_limit: int
    socket_timeout: float | None


@attrs.frozen
class Difference:
    """A part of the surroundings that has changed."""

    name: str
    """The name of the field."""

    text: str
    """The part in words, with the elements that differ."""


def differences(before: Surroundings, after: Surroundings) -> list[Difference]:
    """Return the parts of *after* that differ from *before*; a timer that ran out does not count."""
    timers = tuple(
        one if other == (False, one[1]) else other for one, other in zip(before.timers, after.timers, strict=True)
    )
    after = attrs.evolve(after, timers=timers)
    found = []
    for name, text in _TEXTS.items():
        one, other = getattr(before, name), getattr(after, name)
        if one != other:
            names = _shortened(_changed(name, one, other))
            found.append(Difference(name, f"{text} ({names})" if names else text))
    return found


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {number}"


_TEXTS = {
    "timers": "timers",  # first: one that runs out meanwhile would call a listener's handler, or end the process
    "blocked": "blocked signals",
    "handlers": "signal handlers",
    "directory": "the working directory",
    "root": "the root directory",
    "environment": "the environment",
    "descriptors": "standard descriptors",
    "links": "descriptors that lead to the worker",
    "streams": "standard streams",
    "limits": "resource limits",
    "umask": "the umask",
    "user": "the user",
    "priority": "the priority",
    "locale": "the locale",
    "collector": "the garbage collector",
    "recursion_limit": "the recursion limit",
    "socket_timeout": "the default timeout of sockets",
}
"""The parts in words, in the order in which they are restored."""

_NAMES: Mapping[str, Sequence[str]] = {
    "timers": tuple(_TIMERS),
    "handlers": tuple(map(_signal_name, _SIGNALS)),
    "descriptors": ("0", "1", "2"),
    "streams": tuple(f"sys.{each}" for each in _STREAMS),
    "limits": tuple(_LIMITS),
}
"""The names of the elements of those parts that have several."""


def _changed(name: str, before: Any, after: Any) -> list[str]:
    """Return the names of the elements that differ in a part that has several."""
    if name == "environment":
        keys = sorted(key for key in {*before[1], *after[1]} if before[1].get(key) != after[1].get(key))
        return [key.decode("utf-8", "backslashreplace") for key in keys]
    if name == "blocked":
        return [_signal_name(each) for each in sorted(before ^ after)]
    pairs = zip(_NAMES.get(name, ()), before, after, strict=True) if name in _NAMES else ()
    return [each for each, one, other in pairs if one != other]


def _shortened(names: Iterable[str]) -> str:
    found = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name in names]
    return ", ".join(found if len(found) <= _SHOWN else [*found[:_SHOWN], f"{len(found) - _SHOWN} more"])


# --- observing --------------------------------------------------------------------------------------------


def observe(links: Iterable[int] = (), *, umask: int | None = None) -> Surroundings:
    """
    Return the surroundings as they are now.

    Args:
        links: The descriptors that lead to the parent process.

        umask: The expected umask. It can only be read by setting it, so it is set to this.
    """
    found_umask = os.umask(0o077 if umask is None else umask)
    if umask is None:
        os.umask(found_umask)
    return Surroundings(
        timers=tuple([(left > 0, every) for left, every in map(signal.getitimer, _TIMERS.values())]),
        handlers=tuple(map(signal.getsignal, _SIGNALS)),
        blocked=frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        directory=_place("."),
        root=_place("/"),
        environment=_environment(),
        descriptors=tuple(map(_descriptor, (0, 1, 2))),
        links=tuple(map(_descriptor, links)),
        streams=tuple([_stream(getattr(sys, name)) for name in _STREAMS]),
        limits=tuple(map(resource.getrlimit, _LIMITS.values())),
        umask=found_umask,
        user=_user(),
        priority=os.getpriority(os.PRIO_PROCESS, 0),
        locale=locale.setlocale(locale.LC_ALL),
        collector=(gc.isenabled(), gc.get_threshold()),
        recursion_limit=sys.getrecursionlimit(),
        socket_timeout=socket.getdefaulttimeout(),
    )


def _place(path: str) -> Place:
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path takes four times as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _environment() -> tuple[int, Mapping[bytes, bytes]]:
    # A copy of what it wraps takes 0.1 µs; its own copy() decodes every value, and takes 14 µs.
    data = getattr(os.environ, "_data", None)
    return id(os.environ), dict(data if isinstance(data, dict) else os.environb)


def _descriptor(fd: int) -> Descriptor:
    try:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino, fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return None


def _stream(stream: object) -> tuple[int, bool]:
    try:
        return id(stream), bool(getattr(stream, "closed", False))
    except Exception:  # noqa: BLE001 - a listener's own object, or one whose buffer was detached
        return id(stream), True


def _user() -> tuple[Any, ...]:
    if sys.platform == "darwin":
        return os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()
    return os.getresuid(), os.getresgid(), os.getgroups()


# --- restoring --------------------------------------------------------------------------------------------


class Keeper:
    """
    Keeps the surroundings of this process as they were when it was made, or when :meth:`renew` was called.

    Args:
        links: The descriptors that lead to the parent process.
    """

    def __init__(self, links: Sequence[int] = ()):
        self._links = links
        self._keep()
        self._restorers: Mapping[str, Callable[[Any, Any], object]] = {
            **_RESTORERS,
            "directory": self._restore_directory,
            "environment": self._restore_environment,
            "descriptors": partial(self._restore_descriptors, (0, 1, 2)),
            "links": partial(self._restore_descriptors, links),
            "streams": self._restore_streams,
        }
        self.renew()

    def renew(self) -> None:
        """Keep the surroundings as they are now."""
        self._before = observe(self._links)

    def _keep(self) -> None:
        """Keep what can only be restored from a copy."""
        self._copies = {fd: _copy(fd) for fd in (0, 1, 2, *self._links)}
        self._directory = _open_directory(".")
        self._environ = os.environ
        self._streams = {name: getattr(sys, name) for name in _STREAMS}
        self._threads = set(threading.enumerate())

    def adopt(self) -> None:
        """Keep the surroundings, and the threads, as they are now, for good."""
        before = [fd for fd in (*self._copies.values(), self._directory) if fd is not None]
        self._keep()
        for fd in before:
            with suppress(OSError):
                os.close(fd)
        self.renew()

    def look(self) -> list[tuple[Difference, Fate]]:
        """Restore what was changed; return each change and its consequence."""
        found: list[tuple[Difference, Fate]] = []
        before = self._before
        after = observe(self._links, umask=before.umask)
        if before != after and (changes := differences(before, after)):
            for each in changes:
                restore = self._restorers.get(each.name)
                if restore is not None:
                    with suppress(OSError, TypeError, ValueError, RecursionError, locale.Error):
                        restore(getattr(before, each.name), getattr(after, each.name))
            # What could not be restored still differs. A listener that closed a link has closed other files as well.
            lasting = {"links", *(each.name for each in differences(before, observe(self._links, umask=before.umask)))}
            found = [(each, "replaced" if each.name in lasting else "restored") for each in changes]
            if len(lasting) > 1:
                self.renew()  # so that the next listener is not blamed for what the last one did
        threads = threading.enumerate()
        if new := [thread for thread in threads if thread not in self._threads and not thread.name.startswith(_OWN)]:
            names = (each.name.encode("utf-8", "backslashreplace").decode() for each in new)
            found.append((Difference("threads", f"threads ({_shortened(names)})"), "kept"))
        self._threads = set(threads)
        return found

    def _restore_directory(self, *_: object) -> None:
        if self._directory is not None:
            os.fchdir(self._directory)

    def _restore_environment(self, before: tuple[int, Mapping[bytes, bytes]], _: object) -> None:
        os.environ = self._environ  # noqa: B003 - the original object, which sets them in the C library too
        (_, now) = _environment()
        for key in now.keys() - before[1].keys():
            del os.environ[os.fsdecode(key)]
        for key, value in before[1].items():
            if now.get(key) != value:
                os.environ[os.fsdecode(key)] = os.fsdecode(value)
        if now.get(b"TZ") != before[1].get(b"TZ"):
            time.tzset()

    def _restore_descriptors(
        self, numbers: Sequence[int], before: Sequence[Descriptor], after: Sequence[Descriptor]
    ) -> None:
        for fd, one, other in zip(numbers, before, after, strict=True):
            copy = self._copies[fd]
            if one == other:
                continue
            if one is None:
                os.close(fd)
            elif copy is not None and (kept := _descriptor(copy)) is not None and kept[:2] == one[:2]:
                os.dup2(copy, fd)
                fcntl.fcntl(fd, fcntl.F_SETFL, one[2])
                fcntl.fcntl(fd, fcntl.F_SETFD, one[3])

    def _restore_streams(self, *_: object) -> None:
        for name, stream in self._streams.items():
            setattr(sys, name, stream)


def _restore_each(
    restore: Callable[[int, Any], object], numbers: Iterable[int], before: Sequence[Any], after: Sequence[Any]
) -> None:
    for number, one, other in zip(numbers, before, after, strict=True):
        if one != other:
            restore(number, one)


def _restore_timer(number: int, before: tuple[bool, float]) -> None:
    signal.setitimer(number, before[1], before[1])


def _restore_blocked(before: frozenset[int], _: object) -> None:
    for number in signal.sigpending():  # sent while it was blocked; unblocked it could end the process
        handler = signal.getsignal(number)
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _restore_collector(before: tuple[bool, tuple[int, int, int]], _: object) -> None:
    gc.set_threshold(*before[1])
    (gc.enable if before[0] else gc.disable)()


_RESTORERS: Mapping[str, Callable[[Any, Any], object]] = {
    "timers": partial(_restore_each, _restore_timer, _TIMERS.values()),
    "blocked": _restore_blocked,
    "handlers": partial(_restore_each, signal.signal, _SIGNALS),
    "limits": partial(_restore_each, resource.setrlimit, _LIMITS.values()),
    "priority": lambda before, _: os.setpriority(os.PRIO_PROCESS, 0, before),
    "locale": lambda before, _: locale.setlocale(locale.LC_ALL, before),
    "collector": _restore_collector,
    "recursion_limit": lambda before, _: sys.setrecursionlimit(before),
    "socket_timeout": lambda before, _: socket.setdefaulttimeout(before),
}
"""By part, for those that can be restored from their earlier value alone. Observing the umask restores it."""


def _copy(fd: int) -> int | None:
    """Return a copy of *fd* with a high number, which no other program inherits; ``None`` if that fails."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = _COPIES_FROM if soft == resource.RLIM_INFINITY else min(_COPIES_FROM, soft // 2)
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError:
        return None


def _open_directory(path: str) -> int | None:
    """Return a descriptor of the directory *path*, with a high number; ``None`` if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return _copy(fd)
    finally:
        os.close(fd)
