"""The deploy guard: while its file exists, workers take no events."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path

from relevo._clock import Clock
from relevo._hook import hookimpl
from relevo._runner.host_lock import HostLock
from relevo.errors import ConfigurationError

STALE = 3600.0
"""Seconds after which a deploy is told as one that somebody may have forgotten, and told again."""

_LOOK = 0.2

_log = getLogger("relevo.guard")


class DeployGuard:
    """
    Keeps everything that handles events from taking any, while a file of this host is there.

    Whoever works holds a lock beside it, shared: thus it is known when the last one has finished.

    Args:
        path: The file; ``touch`` and ``rm`` do as well as :meth:`begin` and :meth:`end`.

        clock: Where the time comes from.
    """

    def __init__(self, path: Path, clock: Clock):
        self.path = path
        self._clock = clock
        self._told = path.with_name(f"{path.name}.told")
        self._objected = False
        self._working = HostLock(path.with_name(f"{path.name}.working"))

    @hookimpl
    def relevo_may_run(self) -> str | None:
        """Object while a deploy goes on."""
        if not self.is_up():
            return None
        self._objected = True
        return "deploy"

    def objected(self) -> bool:
        """Return whether it objected since this was asked; the deploy may be over meanwhile."""
        objected, self._objected = self._objected, False
        return objected

    def is_up(self) -> bool:
        """Return whether a deploy goes on."""
        return os.path.lexists(self.path)

    def age(self) -> float:
        """Return for how many seconds it has been going on; 0 if there is none."""
        with suppress(FileNotFoundError):
            return max(0.0, self._clock.now() - self.path.lstat().st_mtime)
        return 0.0

    def begin(self) -> bool:
        """
        Let nobody take further events; return whether that is new.

        Raises:
            ConfigurationError: The file cannot be made.
        """
        is_new = not self.is_up()
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
            now = self._clock.now()
            os.utime(self.path, (now, now))
            self._told.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable("made", error, self.path) from error
        return is_new

    def end(self) -> bool:
        """
        Let events be taken again; return whether there was a deploy.

        Raises:
            ConfigurationError: The file cannot be removed.
        """
        was_up = self.is_up()
        try:
            self.path.unlink(missing_ok=True)
            self._told.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable("removed", error, self.path) from error
        return was_up

    def wait(self, seconds: float) -> bool:
        """Wait until no worker is busy, for *seconds* at most; return whether none is."""
        deadline = self._clock.monotonic() + seconds
        while not self._working.acquire():
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            self._clock.sleep(min(_LOOK, left))
        self._working.release()
        return True

    @contextmanager
    def working(self) -> Iterator[None]:
        """Take part in what :meth:`wait` waits for; look only now whether a deploy goes on."""
        try:
            while not self._working.acquire(shared=True):  # somebody looks whether anybody works
                self._clock.sleep(0.01)
        except ConfigurationError as error:
            _log.warning("relevo deploy begin --wait will not wait for this process: %s", error)
        try:
            yield
        finally:
            self._working.release()

    def tell_if_stale(self) -> None:
        """Say once an hour, all that see it together, that a deploy has been going on for long."""
        age = self.age()
        if age < STALE:
            return
        now = self._clock.now()
        with suppress(FileNotFoundError):
            if now - self._told.stat().st_mtime < STALE:
                return
        with suppress(OSError):  # told more often is better than not
            self._told.touch()
            os.utime(self._told, (now, now))
        _log.warning(
            "a deploy has kept events from being handled for %.1f hours; if it is over: relevo deploy end, or rm %s",
            age / 3600,
            self.path,
        )


def _unusable(what: str, error: OSError, path: Path) -> ConfigurationError:
    return ConfigurationError(
        f'the deploy guard {path} cannot be {what}: {error.strerror}; choose another place: deploy = "…"'
    )
