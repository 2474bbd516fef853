"""The mail plugin: the hooks that it implements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from relevo._clock import Clock, SystemClock
from relevo._hook import hookimpl
from relevo._retry import is_retry_later
from relevo._runner.lock_path import own_file
from relevo._transport.delivery import Ack, DeadLetter, Delivery, Failure, Lost, Nack, Settlement
from relevo._transport.envelope import Envelope
from relevo.ext.mail._book import Shelf
from relevo.ext.mail._incident import incidents_of, key_of_failure, location_of, loss, retried_incident
from relevo.ext.mail._options import MailOptions
from relevo.ext.mail._post import Post


class Mail:
    """
    Mails dead letters and the death of processes to the developers and, as an option, every failure.

    It neither connects to a server nor starts a thread before something is to be mailed or a worker runs.

    Args:
        options: The recipients, the server, and the limits.

        source: The application's name.

        clock: The source of time.
    """

    Options = MailOptions

    def __init__(self, options: MailOptions, *, source: str = "app", clock: Clock | None = None):
        self._options = options
        self._source = source
        self._clock = clock or SystemClock()
        self._post = Post(options, source=source, clock=self._clock, shelf=Shelf(self._book))

    @classmethod
    def open(cls, options: MailOptions, *, source: str, clock: Clock) -> Self:
        """Return the plugin that configuration describes."""
        return cls(options, source=source, clock=clock)

    def _book(self) -> Path:
        return self._options.book or own_file(f"{self._source}.mail", ",".join(self._options.recipients))

    def flush(self) -> None:
        """Mail what may be mailed now; a worker does so at its end."""
        self._post.flush()

    def close(self) -> None:
        """
        Mail what may be mailed now, and end the thread; a later process that mails something mails the rest.

        The application calls this when it is closed. It may be called again, and the plugin may be used afterwards.
        """
        self._post.close()

    # --- hooks ---------------------------------------------------------------------------------------------

    @hookimpl
    def relevo_dead_lettered(self, delivery: Delivery, outcome: DeadLetter) -> None:
        """Mail a dead letter."""
        for each in incidents_of(delivery, outcome, at=self._clock.now()):
            self._post.put(each.key, lambda each=each: each)  # type: ignore[misc]  # a default has no type in a lambda

    @hookimpl
    def relevo_handed_over_again(self, delivery: Delivery) -> None:
        """Mail the death of a process before its event is handled again: this process may die of it, too."""
        self._note_loss(delivery, "", delivery.lost_leases)
        self._post.flush()

    @hookimpl
    @contextmanager
    def relevo_around_settle(self, settlements: Sequence[Settlement]) -> Iterator[None]:
        """Mail the death of processes: of a child process at once, of any other when its event is handled again."""
        yield
        for delivery, outcome in settlements:
            if isinstance(outcome, Lost):
                about = {"death": outcome.death or "", "listener": outcome.listener}
                self._note_loss(delivery, outcome.error, delivery.lost_leases + 1, **about)
            elif delivery.lost_leases and isinstance(outcome, (Ack, Nack)):
                self._note_loss(delivery, "", delivery.lost_leases)

    def _note_loss(
        self, delivery: Delivery, error: str, lost_leases: int, *, death: str = "", listener: str = ""
    ) -> None:
        envelope = delivery.envelope
        event_id = f"{envelope.source} {envelope.id}" if isinstance(envelope, Envelope) else ""
        incident = loss(delivery, error, at=self._clock.now(), death=death, listener=listener)
        self._post.put(incident.key, lambda: incident, loss=(event_id, lost_leases))

    @hookimpl
    def relevo_listener_failed(self, delivery: Delivery, error: BaseException, failure: Failure) -> None:
        """Mail a failure if the option is set; the last failure is mailed as a dead letter."""
        if not self._options.failures or failure.due is None or is_retry_later(error):
            return
        frame = location_of(error)
        key = key_of_failure(failure, frame)
        self._post.put(key, lambda: retried_incident(delivery, failure, frame, at=self._clock.now()))

    @hookimpl
    @contextmanager
    def relevo_around_run(self, until_empty: bool) -> Iterator[None]:  # noqa: FBT001 - by name
        """Mail at the end of a drain what happened in it, and at the end of a worker what is left."""
        self._post.begin(hold=until_empty)
        try:
            yield
        finally:
            self._post.end(hold=until_empty)

    @hookimpl
    @contextmanager
    def relevo_around_close(self) -> Iterator[None]:
        """Close the plugin with the application."""
        try:
            yield
        finally:
            self.close()
