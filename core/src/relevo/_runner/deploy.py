"""The deploy guard: while its file exists, workers take no events."""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path

from relevo._clock import Clock
from relevo._file import kind_of
from relevo._hook import hookimpl
from relevo._runner.host_lock import HostLock
from relevo.errors import ConfigurationError

STALE = 3600.0
"""Seconds after which a deploy is reported as possibly forgotten, and then once in each such period."""

_LOOK = 0.2

_OPEN = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A pipe without a reader must not block, and nothing is created where a link leads."""

_ANOTHER = 'set another path: deploy = "…"'

_log = getLogger("relevo.runner")


class DeployGuard:
    """
    Keeps workers from taking events while a file on this host exists.

    Each worker holds a shared lock beside it, so that the end of the last one can be noticed.

    Args:
        path: The file; ``touch`` and ``rm`` have the same effect as :meth:`begin` and :meth:`end`.

        clock: The source of time.
    """

    def __init__(self, path: Path, clock: Clock):
        self.path = path
        self._clock = clock
        self._reported = path.with_name(f"{path.name}.told")
        self._objected = False
        self._working = HostLock(path.with_name(f"{path.name}.working"))

    @hookimpl
    def relevo_may_run(self) -> str | None:
        """Object while a deploy is in progress."""
        if not self.is_up():
            return None
        self._objected = True
        return "deploy"

    def take_objection(self) -> bool:
        """Return whether a deploy stopped the worker since the last call, even if that deploy is over."""
        objected, self._objected = self._objected, False
        return objected

    def is_up(self) -> bool:
        """Return whether a deploy is in progress."""
        return os.path.lexists(self.path)

    def age(self) -> float:
        """Return the seconds since the deploy began; 0 if there is none."""
        with suppress(FileNotFoundError):
            return max(0.0, self._clock.now() - self.path.lstat().st_mtime)
        return 0.0

    def notice(self) -> str | None:
        """Return that a deploy is in progress, since when, and how to end it; ``None`` if there is none."""
        try:
            began = self.path.lstat().st_mtime
        except OSError:
            return None
        since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(began))
        return (
            f"a deploy is in progress on this host since {since}, so its workers begin no event; when it is over: "
            f"relevo deploy end, or rm {shlex.quote(str(self.path))}"
        )

    def require_usable(self) -> None:
        """
        Refuse a path at which there is something else than a guard: workers would wait for its end for ever.

        Raises:
            ConfigurationError: There is something that :meth:`begin` does not create.
        """
        _require_own(self.path)

    def begin(self) -> bool:
        """
        Keep all workers from taking further events; return whether no deploy was in progress before.

        Raises:
            ConfigurationError: The file cannot be created, or something else has its name.
        """
        is_new = not self.is_up()
        try:
            _require_own(self.path)
            self._touch(self.path)
            self._forget_report()
        except OSError as error:
            raise _unusable("created", error, self.path) from error
        return is_new

    def end(self) -> bool:
        """
        Let workers take events again; return whether a deploy was in progress.

        Raises:
            ConfigurationError: The file cannot be removed, or is not one that :meth:`begin` creates.
        """
        was_up = self.is_up()
        try:
            _require_own(self.path)
            self.path.unlink(missing_ok=True)
            self._forget_report()
        except OSError as error:
            raise _unusable("removed", error, self.path) from error
        return was_up

    def wait(self, seconds: float) -> bool:
        """Wait until no worker is busy, for at most *seconds*; return whether none is."""
        deadline = self._clock.monotonic() + seconds
        while not self._working.acquire():
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            self._clock.sleep(min(_LOOK, left))
        self._working.release()
        return True

    @contextmanager
    def working(self, is_over: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """
        Count as busy for :meth:`wait`, and yield whether events may begin; check for a deploy only inside the block.

        Args:
            is_over: Returns whether the worker has to end, even while another process holds the lock alone.
        """
        may_begin = self._count_as_busy(is_over)
        try:
            yield may_begin
        finally:
            self._working.release()

    def _count_as_busy(self, is_over: Callable[[], bool]) -> bool:
        """Take the lock together with other workers; return whether events may begin, even without it."""
        try:
            while not self._working.acquire(shared=True):  # another process is checking for busy workers
                if is_over():
                    return False
                self._clock.sleep(0.01)
        except ConfigurationError as error:
            _log.warning("relevo deploy begin --wait will not wait for this process: %s", error)
        return True

    def warn_if_stale(self) -> None:
        """Log a warning if a deploy has been in progress for long, once an hour for all processes together."""
        age = self.age()
        if age < STALE:
            return
        now = self._clock.now()
        with suppress(FileNotFoundError):
            if now - self._reported.lstat().st_mtime < STALE:
                return
        with suppress(OSError):  # a repeated warning is better than none
            self._touch(self._reported)
        _log.warning(
            "a deploy has kept events from being handled for %.1f hours; if it is over: relevo deploy end, or rm %s",
            age / 3600,
            shlex.quote(str(self.path)),
        )

    def _touch(self, path: Path) -> None:
        os.close(os.open(path, _OPEN, 0o644))
        now = self._clock.now()
        os.utime(path, (now, now), follow_symlinks=False)

    def _forget_report(self) -> None:
        with suppress(ConfigurationError):  # something else has its name
            _require_own(self._reported)
            self._reported.unlink(missing_ok=True)


def _require_own(path: Path) -> None:
    """
    Refuse a file that :meth:`DeployGuard.begin` cannot have created: the setting may name any file by mistake.

    Raises:
        ConfigurationError: There is something, and it is not an empty file.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        what = f"a file of {found.st_size} bytes" if stat.S_ISREG(found.st_mode) else kind_of(found.st_mode)
        raise ConfigurationError(
            f"the deploy guard {path}: expected an empty file, as relevo deploy begin creates it; got {what}, which is "
            f"left as it is; {_ANOTHER}, or remove it yourself"
        )


def _unusable(what: str, error: OSError, path: Path) -> ConfigurationError:
    return ConfigurationError(f"the deploy guard {path} cannot be {what}: {error.strerror}; {_ANOTHER}")
