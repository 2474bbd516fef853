"""The mail queue: takes incidents at once, and sends mail from its own thread."""

from __future__ import annotations

import atexit
import os
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.message import EmailMessage
from email.utils import parseaddr
from logging import getLogger

import attrs

from relevo._clock import Clock
from relevo.ext.mail._book import OTHERS, FailureGroup, Shelf
from relevo.ext.mail._incident import Incident, packed, unpacked
from relevo.ext.mail._options import MailOptions, Server
from relevo.ext.mail._text import Letterhead, MailSection, compose, summary

_log = getLogger("relevo.ext.mail")

MAX_PILES = 100
"""The most kinds of failures of which one failure each is kept in memory."""

MAX_LOST_LEASES = 1000
_GATHER = 0.5
"""Seconds to wait after the first failure, so that those that come with it are in the same mail."""

_AGAIN_AFTER = 60.0
"""Seconds after which a server that took no mail is tried again, and its next failure is logged again."""

_LOOK = 60.0
"""Seconds after which the book is read again, since other processes write to it too."""


@attrs.define
class Pile:
    """Failures of one kind in this process that are not in the book yet."""

    incident: Incident | None
    """The first of them."""

    since: float
    last: float
    count: int = 0
    lost_leases: dict[str, int] = attrs.field(factory=dict)
    """By event; another process may know them already."""


@attrs.define(eq=False)
class _Box:
    """The state of one process; the child of a fork begins with an empty one."""

    process: int = attrs.field(factory=os.getpid)
    turn: threading.Condition = attrs.field(factory=threading.Condition)
    piles: dict[str, Pile] = attrs.field(factory=dict)
    thread: threading.Thread | None = None
    has_begun: bool = False
    runs: int = 0
    holds: int = 0
    held_until: float = 0.0
    asked: int = 0
    """The number of requested flushes; ``answered`` is the number of those that are done."""

    answered: int = 0
    claimed: tuple[dict[str, FailureGroup], float] | None = None
    """The contents of the mail that is being sent, and when they were claimed."""

    failed_at: float | None = None
    is_new: bool = False
    is_closing: bool = False


class Post:
    """
    Collects failures, which takes no time, and mails them.

    Args:
        options: The options of the plugin.

        source: The application's name.

        clock: The source of the times of failures.

        shelf: The place of the book.
    """

    def __init__(self, options: MailOptions, *, source: str, clock: Clock, shelf: Shelf):
        self._options = options
        self._source = source
        self._clock = clock
        self._shelf = shelf
        self._server = options.parsed_server()
        self._details: dict[str, Incident] = {}
        self._complained: float | None = None
        self._box = _Box()

    # --- from any thread --------------------------------------------------------------------------------

    def put(self, key: str, make: Callable[[], Incident], *, loss: tuple[str, int] | None = None) -> None:
        """
        Take a failure; *make* is called only for the first one with this *key*.

        Args:
            key: The key of its incident.

            make: Returns the incident.

            loss: The event and the number of its lost leases, if another process may report the same loss.
        """
        box = self._mine()
        now = self._clock.now()
        with box.turn:
            pile = box.piles.get(key)
            if pile is None and len(box.piles) >= MAX_PILES:
                key = OTHERS
                pile = box.piles.get(key)
            if pile is None:
                pile = box.piles[key] = Pile(None if key == OTHERS else make(), now, now)
            pile.last = now
            if loss is None:
                pile.count += 1
            elif len(pile.lost_leases) < MAX_LOST_LEASES:
                pile.lost_leases[loss[0]] = max(loss[1], pile.lost_leases.get(loss[0], 0))
            box.is_new = True
            self._start(box)
            box.turn.notify_all()
            may_end_any_moment = not box.runs and key not in self._details
        if may_end_any_moment:  # a child that handles events: the next one may kill it, and its parent mails this then
            try:
                self._note(box, witness=box.process)
            except Exception as error:  # noqa: BLE001 - any error; the thread tries again
                self._complain(error)

    def begin(self, *, hold: bool) -> None:
        """Note that a run begins; with *hold* its failures are mailed at its end, or after a while."""
        box = self._mine()
        with box.turn:
            box.runs += 1
            box.holds += hold
            if hold:
                box.held_until = time.monotonic() + self._options.every
            else:  # what earlier processes left in the book may be due
                self._start(box)

    def end(self, *, hold: bool) -> None:
        """Note that a run ends, and wait for its last mail for a limited time."""
        box = self._mine()
        with box.turn:
            box.holds -= hold
        self.flush()
        with box.turn:
            box.runs -= 1
            box.turn.notify_all()

    def flush(self) -> None:
        """Mail what may be mailed now; wait for the server at most for the timeout."""
        box = self._mine()
        with box.turn:
            if box.failed_at is not None and time.monotonic() - box.failed_at < _AGAIN_AFTER:
                self._note(box)
                return
            box.asked += 1
            wanted = box.asked
            self._start(box)
            box.turn.notify_all()
            is_done = box.turn.wait_for(lambda: box.answered >= wanted, self._options.timeout)
            claimed, box.claimed = (None, box.claimed) if is_done else (box.claimed, None)
        if not is_done:
            self._complain(TimeoutError(f"no answer within {self._options.timeout:g} s"))
            box.failed_at = time.monotonic()
            if claimed is not None:
                with self._shelf.open() as book:
                    book.give_back(*claimed)

    def close(self) -> None:
        """Mail what may be mailed now, and end the thread after the last run; what is left stays in the book."""
        box = self._mine()
        if box.thread is not None:
            try:
                self.flush()
            finally:
                with box.turn:
                    box.is_closing = box.thread is not None
                    box.turn.notify_all()

    def _mine(self) -> _Box:
        box = self._box
        if box.process != os.getpid():  # the thread, and any thread that held the lock, stayed in the parent
            box = self._box = _Box()
            self._details = {}
        return box

    def _start(self, box: _Box) -> None:
        if box.thread is None:
            box.thread = threading.Thread(target=self._run, args=(box,), name="relevo-mail", daemon=True)
            box.thread.start()
            if not box.has_begun:
                box.has_begun = True
                atexit.register(self._at_exit, box)

    def _at_exit(self, box: _Box) -> None:
        if box is self._box and box.process == os.getpid() and box.thread is not None:
            self.flush()

    # --- in the thread ------------------------------------------------------------------------------------

    def _run(self, box: _Box) -> None:
        wait: float | None = 0.0
        while True:
            with box.turn:
                box.turn.wait_for(
                    lambda: box.is_new or box.asked > box.answered or self._may_end(box),
                    _LOOK if wait is None else wait,
                )
                if self._may_end(box):
                    box.thread, box.is_closing = None, False
                    return
                if box.asked == box.answered and not self._is_held(box):
                    box.turn.wait_for(lambda: box.asked > box.answered, _GATHER)
                asked, box.is_new = box.asked, False
                if asked == box.answered and self._is_held(box):
                    wait = min(_LOOK, box.held_until - time.monotonic())
                    continue
            try:
                wait = self._round(box)
            except Exception as error:  # noqa: BLE001 - any error; the next failure is mailed nevertheless
                self._complain(error)
                wait = _AGAIN_AFTER
            with box.turn:
                box.answered = asked
                box.turn.notify_all()
                if wait is None and not (box.runs or box.is_new or box.asked > box.answered):
                    box.thread, box.is_closing = None, False
                    return

    def _may_end(self, box: _Box) -> bool:
        return box.is_closing and not box.runs and not box.is_new and box.asked == box.answered

    def _is_held(self, box: _Box) -> bool:
        return box.holds > 0 and time.monotonic() < box.held_until

    def _round(self, box: _Box) -> float | None:
        """Mail what may be mailed, in one mail; return the seconds until the next one, ``None`` if nothing waits."""
        options = self._options
        self._note(box)
        is_down = box.failed_at is not None and time.monotonic() - box.failed_at < _AGAIN_AFTER
        if is_down and box.failed_at is not None:
            return box.failed_at + _AGAIN_AFTER - time.monotonic()
        now = self._clock.now()
        with self._shelf.open() as book:
            claimed = book.claim(now, every=options.every, most=options.most)
            wait = book.wait(now, every=options.every, most=options.most)
        if claimed:
            box.claimed = claimed, now
            try:
                self._tell(claimed, now)
            except Exception as error:  # noqa: BLE001 - a server may fail in any way; the work goes on
                box.failed_at = time.monotonic()
                self._complain(error)
                with box.turn:
                    mine, box.claimed = box.claimed, None
                if mine is not None:
                    with self._shelf.open() as book:
                        book.give_back(*mine)
                return _AGAIN_AFTER
            box.claimed, box.failed_at = None, None
            for key in claimed:
                self._details.pop(key, None)
        return None if wait is None else min(max(wait, _GATHER), _LOOK)

    def _note(self, box: _Box, *, witness: int | None = None) -> None:
        """Add the collected failures to the book."""
        with box.turn:
            piles, box.piles = box.piles, {}
        if not piles:
            return
        with self._shelf.open() as book:
            for key, pile in piles.items():
                count = pile.count + sum(
                    book.is_news(event_id, lost_leases) for event_id, lost_leases in pile.lost_leases.items()
                )
                if count:
                    what = summary(pile.incident) if pile.incident else ""
                    detail = None
                    # This process may have ended when a group of which one was mailed is mailed again.
                    if pile.incident is not None and (witness is not None or book.was_mailed(key)):
                        detail = packed(pile.incident, arguments=self._options.arguments)
                    book.note(
                        key,
                        what or "other failures",
                        count,
                        since=pile.since,
                        last=pile.last,
                        witness=witness,
                        detail=detail,
                    )
                    if pile.incident is not None and len(self._details) < MAX_PILES:
                        self._details.setdefault(key, pile.incident)

    def _tell(self, claimed: dict[str, FailureGroup], now: float) -> None:
        host = socket.gethostname()
        letterhead = Letterhead(
            source=self._source,
            host=host,
            process=os.getpid(),
            sender=self._options.from_ or f"relevo@{re.sub(r'[^A-Za-z0-9.-]+', '-', host).strip('.-') or 'localhost'}",
            recipients=self._options.recipients,
            arguments=self._options.arguments,
        )
        sections = [
            MailSection(key=key, group=group, incident=self._details.get(key) or _incident_in(group))
            for key, group in claimed.items()
        ]
        deliver(self._server, compose(sections, letterhead, now=now), letterhead, timeout=self._options.timeout)

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if self._complained is None or now - self._complained >= _AGAIN_AFTER:
            self._complained = now
            _log.warning(
                "no mail to the developers by %s: %s: %s; the failures are in the log and in the dead letters",
                self._server,
                type(error).__name__,
                " ".join(str(error).split()),
            )


def _incident_in(group: FailureGroup) -> Incident | None:
    """Return the incident that a process which has ended left in the book."""
    return None if group.detail is None else unpacked(group.detail)


def deliver(server: Server, mail: EmailMessage, letterhead: Letterhead, *, timeout: float) -> None:
    """
    Hand *mail* to *server*.

    Raises:
        OSError: It cannot be reached, has an invalid certificate, or does not take the mail.
    """
    host = socket.gethostname()
    if server.smtps:
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, host, timeout=timeout, context=ssl.create_default_context()
        )
    else:
        smtp = smtplib.SMTP(server.host, server.port, host, timeout=timeout)
    try:
        if server.starttls:
            smtp.starttls(context=ssl.create_default_context())
        if server.user is not None:
            smtp.login(server.user, server.password.reveal())
        recipients = [parseaddr(each)[1] for each in letterhead.recipients]
        refused = smtp.send_message(mail, parseaddr(letterhead.sender)[1], recipients)
        if refused:
            _log.warning("%s takes no mail for %s", server, ", ".join(refused))
    finally:
        with suppress(OSError, smtplib.SMTPException):  # the mail is sent already, or failed
            smtp.quit()
        smtp.close()
