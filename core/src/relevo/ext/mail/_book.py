"""The state of the mail plugin: sent mails, waiting failures and rate limits, in a file that processes share."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path

import msgspec

from relevo.errors import ConfigurationError

_log = getLogger("relevo.ext.mail")

HOUR = 3600.0
MAX_ENTRIES = 200
MAX_LOST_LEASES = 1000
OTHERS = "others"
"""The key of the entry for all failures that come when there are too many different ones."""

_MAX_FILE = 4 * 1024 * 1024
_MAX_DETAILS = 1024 * 1024
"""Bytes of all incidents in the book, which encodes them as text."""

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FailureGroup(msgspec.Struct):
    """Failures of one kind."""

    what: str
    """In one line."""

    since: float
    last: float
    count: int = 0
    """The number since the last mail about them."""

    mailed: float | None = msgspec.field(default=None, name="told")
    """The time of the last mail about them."""

    witness: int | None = None
    """The process that knows the details, and mails them itself while it is alive."""

    detail: bytes | None = None
    """An incident, for the process that mails it if the witness has ended."""


class Book(msgspec.Struct):
    """The failures that wait for a mail, and the mails that were sent."""

    entries: dict[str, FailureGroup] = {}
    sent: list[float] = []
    lost_leases: dict[str, int] = {}
    """The number of known lost leases, by event."""

    def note(
        self,
        key: str,
        what: str,
        count: int,
        *,
        since: float,
        last: float,
        witness: int | None = None,
        detail: bytes | None = None,
    ) -> None:
        """
        Note a failure.

        Args:
            key: The key of its incident.

            what: The failure in one line.

            count: How many times it happened.

            since: The first time.

            last: The last time.

            witness: The process that mails it while it is alive.

            detail: The incident, in case the witness ends before.
        """
        if key not in self.entries and len(self.entries) >= MAX_ENTRIES:
            self._forget_one()
        if key not in self.entries and len(self.entries) >= MAX_ENTRIES:
            key, what = OTHERS, "other failures"
        mine = self.entries.get(key)
        if mine is None:
            mine = self.entries[key] = FailureGroup(what, since, last)
        elif not mine.count:
            mine.since = since
        mine.count += count
        mine.last = max(mine.last, last)
        mine.witness = witness or mine.witness
        if mine.detail is None and detail is not None and self._has_room_for(detail):
            mine.detail = detail
        if key != OTHERS:
            mine.what = what

    def was_mailed(self, key: str) -> bool:
        """Return whether a failure with this *key* was mailed, so that another one may have to wait."""
        mine = self.entries.get(key)
        return mine is not None and mine.mailed is not None

    def is_news(self, event_id: str, lost_leases: int) -> bool:
        """Return whether an event has more lost leases than were known, and note them."""
        if lost_leases <= self.lost_leases.get(event_id, 0):
            return False
        self.lost_leases.pop(event_id, None)
        self.lost_leases[event_id] = lost_leases
        while len(self.lost_leases) > MAX_LOST_LEASES:
            self.lost_leases.pop(next(iter(self.lost_leases)))
        return True

    def claim(self, now: float, *, every: float, most: int) -> dict[str, FailureGroup]:
        """Return what to mail now, in one mail, and note it as mailed; nothing if the limit of mails is reached."""
        if self._room(now, most) > 0.0:
            return {}
        ripe = {key: each for key, each in self.entries.items() if self._left(each, now, every) == 0.0}
        ripe = {key: each for key, each in ripe.items() if not _is_mailed_by_another(each)}
        claimed = {key: msgspec.structs.replace(each) for key, each in ripe.items()}
        for each in ripe.values():
            each.count, each.mailed, each.witness, each.detail = 0, now, None, None
        if claimed:
            self.sent.append(now)
        return dict(sorted(claimed.items(), key=lambda item: item[1].since))

    def give_back(self, claimed: Mapping[str, FailureGroup], at: float) -> None:
        """Note that what was *claimed* at that time could not be mailed."""
        for key, each in claimed.items():
            self.note(key, each.what, each.count, since=each.since, last=each.last, detail=each.detail)
            mine = self.entries.get(key)
            if mine is not None:
                mine.since, mine.mailed = each.since, each.mailed
        if at in self.sent:
            self.sent.remove(at)

    def wait(self, now: float, *, every: float, most: int) -> float | None:
        """Return the seconds until the next mail may be sent; ``None`` if nothing waits for one."""
        waits = [left for each in self.entries.values() if (left := self._left(each, now, every)) is not None]
        return max(min(waits), self._room(now, most)) if waits else None

    def _left(self, entry: FailureGroup, now: float, every: float) -> float | None:
        """Return the seconds until *entry* may be mailed; if the clock was set back, it may be mailed now."""
        if not entry.count:
            return None
        return 0.0 if entry.mailed is None or entry.mailed > now else max(0.0, entry.mailed + every - now)

    def _room(self, now: float, most: int) -> float:
        """Return the seconds until the limit of mails allows another one."""
        self.sent = sorted(each for each in self.sent if now - HOUR < each <= now)
        return 0.0 if len(self.sent) < most else self.sent[-most] + HOUR - now

    def _has_room_for(self, detail: bytes) -> bool:
        return sum(len(each.detail or b"") for each in self.entries.values()) + len(detail) <= _MAX_DETAILS

    def _forget_one(self) -> None:
        """Drop the entry that was mailed longest ago and did not happen again."""
        over = [key for key, each in self.entries.items() if not each.count and key != OTHERS]
        if over:
            self.entries.pop(min(over, key=lambda key: self.entries[key].mailed or 0.0))


def _is_mailed_by_another(entry: FailureGroup) -> bool:
    if entry.witness is None or entry.witness == os.getpid():
        return False
    try:
        os.kill(entry.witness, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


class Shelf:
    """
    The place of the book: a file under a lock of the kernel, or memory if the file cannot be used.

    Args:
        path: Returns the path of the file; called when it is first needed.
    """

    def __init__(self, path: Callable[[], Path]):
        self._find = path
        self._path: Path | None = None
        self._own: Book | None = None

    @contextmanager
    def open(self) -> Iterator[Book]:
        """Open the book exclusively for the block, then store it."""
        try:
            file = self._open_file()
        except (OSError, ConfigurationError) as error:
            if self._own is None:
                _log.warning("the record of sent mails cannot be stored, so each process counts its own: %s", error)
                self._own = Book()
            yield self._own
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            book = _read(file)
            yield book
            os.ftruncate(file, 0)
            os.pwrite(file, msgspec.json.encode(book), 0)
        finally:
            os.close(file)

    def _open_file(self) -> int:
        if self._own is not None:
            raise ConfigurationError("it could not be stored before")
        if self._path is None:
            self._path = self._find()
        file = os.open(self._path, _OPEN, 0o600)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise ConfigurationError(f"{self._path}: expected a regular file")
        return file


def _read(file: int) -> Book:
    """Return the book in *file*; an empty one if a process was killed while it wrote the file."""
    try:
        return msgspec.json.decode(os.pread(file, _MAX_FILE, 0) or b"{}", type=Book)
    except (msgspec.DecodeError, RecursionError):
        return Book()
