"""
An outside judge: the profiles of pytest-obligation, bound to an application on SQLite.

pytest-obligation (formerly due-work-harness) proves of background work that a crash, a lost message or a late worker
neither loses nor repeats it. It asks what its authors thought of, not what we did. It is a plugin of pytest, so it has
an environment of its own: ``tox run -e judge``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

import relevo
from relevo import Ack, App, DeadLetter, Delivery, Event, GiveUp, Nack, Outcome, Release, RetryLater
from relevo.testing import FakeClock
from relevo.testing._database import WatchedDatabases
from relevo_sql import SqlTransport

obligation: Any = pytest.importorskip("pytest_obligation", reason="it has an environment of its own: tox run -e judge")
retries: Any = pytest.importorskip("pytest_obligation.profiles.job_retry_limits")
deaths: Any = pytest.importorskip("pytest_obligation.worker_death")

QUEUES = ["default"]
LEASE = 60.0

metadata = sa.MetaData()
image = sa.Table("image", metadata, sa.Column("path", sa.String(50), primary_key=True))
thumbnail = sa.Table(
    "thumbnail", metadata, sa.Column("path", sa.String(50), primary_key=True), sa.Column("n", sa.Integer)
)


class Gallery:
    """An application that stores images, and makes their thumbnails later."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.engine = sa.create_engine(f"sqlite:///{folder}/gallery.db", poolclass=sa.NullPool)
        metadata.create_all(self.engine)
        self.begun: list[sa.Connection] = []
        sa.event.listen(self.engine, "begin", self.begun.append)
        self.of_transport = sa.create_engine(self.engine.url)
        self.transport = SqlTransport(self.of_transport, clock=self.clock, name="main")
        self.app = App(transports={"main": self.transport}, source="gallery", clock=self.clock, listeners=[])
        self.app.setup()
        self.app.add_listener("image.created", self.create_thumbnail, id="create_thumbnail")
        self.app.add_listener("mail.due", self.send_mail, id="send_mail", retry=3)
        self.thumbnails: list[str] = []
        self.mails: list[str] = []
        self.failure: Exception = ConnectionError("the mail server is down")

    def create_thumbnail(self, event: Event) -> None:
        self.thumbnails.append(event["path"])
        with self.engine.begin() as connection:
            connection.execute(insert(thumbnail).values(path=event["path"], n=1).on_conflict_do_nothing())

    def send_mail(self, event: Event, call: relevo.Call) -> None:
        self.mails.append(call.event_id)
        raise self.failure

    def is_in_transaction(self) -> bool:
        """Return whether a connection of the application, not of the transport, is in a transaction."""
        return any(not each.closed and each.in_transaction() for each in self.begun)

    def rows(self, table: sa.Table, connection: sa.Connection | None = None) -> list[tuple[Any, ...]]:
        query = sa.select(table).order_by(table.c.path)
        if connection is not None:
            return [tuple(row) for row in connection.execute(query)]
        with self.engine.connect() as own:
            return [tuple(row) for row in own.execute(query)]

    def close(self) -> None:
        self.app.close()
        self.engine.dispose()
        self.of_transport.dispose()


_open: list[Gallery] = []


@contextmanager
def opened() -> Iterator[Gallery]:
    with TemporaryDirectory() as folder:
        gallery = Gallery(Path(folder))
        _open.append(gallery)
        try:
            yield gallery
        finally:
            _open.remove(gallery)
            gallery.close()


def _upload(app: App, engine: sa.Engine, path: str) -> list[str]:
    """Store an image and its event in one transaction; return the id of the event."""
    with Session(engine) as session:
        session.execute(sa.insert(image).values(path=path))
        done = App.dispatch(app, "image.created", {"path": path}, session=session)
        session.commit()
    return [done.id]


# --- B: a lease belongs to one worker ------------------------------------------------------------------


class Owners:
    """Deliveries by the tokens that the judge passes on."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._deliveries: dict[UUID, Delivery] = {}
        self._receiving = threading.local()

    def transport(self) -> SqlTransport:
        """Return the transport of this thread: one has one receiver at a time."""
        if not hasattr(self._receiving, "transport"):
            self._receiving.transport = SqlTransport(self._gallery.engine, clock=self._gallery.clock, name="main")
        return self._receiving.transport  # type: ignore[no-any-return]  # of any attribute

    def token(self, delivery: Delivery) -> UUID:
        token = uuid4()
        self._deliveries[token] = delivery
        return token

    def delivery(self, token: UUID) -> Delivery:
        return self._deliveries[token]


@contextmanager
def _ownership() -> Iterator[Any]:
    with opened() as gallery:
        owners = Owners(gallery)
        receive, settle, extend = SqlTransport.receive, SqlTransport.settle, SqlTransport.extend

        def claim() -> tuple[str, UUID] | None:
            found = receive(owners.transport(), QUEUES, limit=1, lease=LEASE, wait=0)
            return (str(found[0].envelope.id), owners.token(found[0])) if found else None  # type: ignore[union-attr]

        def settling(outcome: Outcome) -> Callable[[str, UUID], bool]:
            return lambda _, token: not settle(owners.transport(), [(owners.delivery(token), outcome)])

        def reclaim(event_id: str) -> str | None:
            found = receive(owners.transport(), QUEUES, limit=1, lease=LEASE, wait=0)
            settle(owners.transport(), [(each, Release()) for each in found])
            return event_id if found else None

        yield obligation.FencedOwnership(
            name="deliveries",
            make_claimable=lambda: _upload(gallery.app, gallery.engine, f"{uuid4()}.jpg"),  # ARRANGE
            claim=claim,  # REAL PRODUCTION
            fenced_write=settling(Ack()),
            other_fenced_writes={"nack": settling(Nack()), "dead_letter": settling(DeadLetter(reason="judged"))},
            renew_lease=lambda _, token: not extend(owners.transport(), [owners.delivery(token)], lease=LEASE),
            release_unchanged=settling(Release()),
            reclaim_stalled=reclaim,
            expire_lease=lambda _: gallery.clock.advance(LEASE + 1),  # EXTERNAL SEAM
            # OBSERVE: what each call returns; a row that is settled is gone
        )


# --- H: an event that comes twice ----------------------------------------------------------------------


@contextmanager
def _replay() -> Iterator[Any]:
    with opened() as gallery:
        app = gallery.app

        def execute(path: str) -> None:
            app.dispatch(Event("image.created", {"path": path}, id=path))
            app.drain()

        yield obligation.ReplaySafeEffect(
            name="thumbnails",
            prepare=lambda: f"{uuid4()}.jpg",  # ARRANGE
            execute=execute,  # REAL PRODUCTION
            execution_count_for=gallery.thumbnails.count,  # EXTERNAL SEAM
            observe=lambda path: [row for row in gallery.rows(thumbnail) if row[0] == path],  # OBSERVE
            expected=lambda path: [(path, 1)],
        )


# --- I: an image and its event, or neither -------------------------------------------------------------


@contextmanager
def _admission() -> Iterator[Any]:
    with opened() as gallery:
        inside: list[sa.Connection] = []

        def obligations() -> list[str]:
            query = sa.text("SELECT event_id FROM relevo_event ORDER BY seq")
            if inside:
                return list(inside[0].scalars(query))
            with gallery.engine.connect() as connection:
                return list(connection.scalars(query))

        @contextmanager
        def during(checkpoint: Callable[[], None]) -> Iterator[None]:
            def interrupt(connection: sa.Connection) -> None:
                inside.append(connection)
                try:
                    checkpoint()
                finally:
                    inside.clear()
                raise ConnectionError("the application fails before its commit")

            sa.event.listen(gallery.engine, "commit", interrupt)
            try:
                yield
            finally:
                sa.event.remove(gallery.engine, "commit", interrupt)

        @contextmanager
        def publications() -> Iterator[Sequence[Any]]:
            yield []  # a worker is not woken by a message: it finds the row

        app = gallery.app
        assert isinstance(app, App)
        yield obligation.AdmissionAtomicity(
            name="upload",
            admit=lambda: _upload(app, gallery.engine, "sea.jpg"),  # REAL PRODUCTION
            observe=lambda: gallery.rows(image, inside[0] if inside else None),  # OBSERVE
            expected=[("sea.jpg",)],
            obligations=obligations,
            outstanding=lambda: [each.envelope.id for each in gallery.transport.waiting(QUEUES)],
            effects=lambda: len(gallery.thumbnails),  # ARRANGE: nothing
            publications=publications,
            during=during,  # EXTERNAL SEAM
            expected_error=ConnectionError,
        )


# --- J: a failure is retried, and ends ----------------------------------------------------------------


def _lifecycle(gallery: Gallery, failure: Exception) -> dict[str, Any]:
    app, transport = gallery.app, gallery.transport
    gallery.failure = failure

    def due() -> list[str]:
        now = gallery.clock.now()
        return [each.envelope.id for each in transport.waiting(QUEUES) if (each.until or 0.0) <= now]

    def dead(event_id: str) -> bool:
        return event_id in [getattr(each.envelope, "id", "") for each in transport.dead_letters(QUEUES)]

    return {
        "make_failing": lambda: app.dispatch("mail.due").id,  # ARRANGE
        "due_work": due,
        "run_once": lambda _: app.drain(),  # REAL PRODUCTION
        "advance_to_due": lambda _: gallery.clock.advance(3600),  # EXTERNAL SEAM
        "is_terminal": dead,
        "failure_attempt_count": gallery.mails.count,
        "observe": lambda event_id: (dead(event_id), gallery.mails.count(event_id)),  # OBSERVE
    }


@contextmanager
def _retry() -> Iterator[Any]:
    """Bind what is marked in _lifecycle: # ARRANGE, # REAL PRODUCTION, # EXTERNAL SEAM, # OBSERVE."""
    with opened() as gallery:
        yield obligation.BoundedRetry(name="mails", max_executions=3, **_lifecycle(gallery, ConnectionError("down")))


@contextmanager
def _given_up() -> Iterator[Any]:
    """Bind what is marked in _lifecycle: # ARRANGE, # REAL PRODUCTION, # EXTERNAL SEAM, # OBSERVE."""
    with opened() as gallery:
        yield obligation.ClassifiedFailure(
            name="mails given up",
            classification=retries.FailureClass.TERMINAL,
            **_lifecycle(gallery, GiveUp("no such address")),
        )


@contextmanager
def _retried_later() -> Iterator[Any]:
    """Bind what is marked in _lifecycle: # ARRANGE, # REAL PRODUCTION, # EXTERNAL SEAM, # OBSERVE."""
    with opened() as gallery:
        yield obligation.ClassifiedFailure(
            name="mails later",
            classification=retries.FailureClass.RETRYABLE,
            provider_wait=timedelta(minutes=10),
            advance_by=lambda _, wait: gallery.clock.advance(wait.total_seconds()),
            **_lifecycle(gallery, RetryLater("10m")),
        )


# --- the process dies after each commit ----------------------------------------------------------------


@contextmanager
def killed_after(commit: int | None) -> Iterator[Any]:
    """Count the commits of this process, and let it die right after the one of that number."""
    worker = deaths.CommitWorker(commit)
    with WatchedDatabases(worker.refuse_if_dead, lambda _: worker.committed()).watching():
        yield worker


def _recover() -> None:
    App.drain(_open[0].app)


UPLOAD = obligation.HandoffHistory(
    name="upload",
    arrange=opened,
    transition=lambda gallery: _upload(gallery.app, gallery.engine, "sea.jpg"),
    observe=lambda gallery: (gallery.rows(image), gallery.rows(thumbnail)),
    expected=([("sea.jpg",)], [("sea.jpg", 1)]),
)


# --- the contract --------------------------------------------------------------------------------------

NO_SWEEP = (
    "The transport hands out an expired lease by itself, in the claim of the next worker; profile B binds that. No "
    "recovery pass of the application selects owed rows"
)
ENDED = (
    "A lease that has run out is lost, even if no other worker has the event yet: an extension by a worker that was "
    "suspended would race with the next claim. The judge asks that it is renewed. relevo extends in good time, each "
    "third of the lease"
)
NO_JOURNAL = (
    "A listener whose process dies is called again; whether its effect outside of the database happened is for the "
    "listener to ask, by the event's id. relevo promises at least once there, and stores no attempt before the call"
)

with obligation.hosted(obligation.Host(production_packages=frozenset({"relevo", "relevo_sql"}))):
    CONTRACT = obligation.ObligationContract(
        name="relevo on SQLite",
        adoption=obligation.Adoption.LEGACY,  # the judge allows the gap of profile B only so
        profiles={
            obligation.Profile.AUTOMATIC_RECOVERY: obligation.NotApplicable(NO_SWEEP),
            obligation.Profile.BOUNDED_OWNERSHIP: obligation.Claim(
                gaps={"assert_current_token_renewal_is_accepted": ENDED}
            ),
            obligation.Profile.CRASH_AMBIGUITY: obligation.Decline(NO_JOURNAL),
            obligation.Profile.DURABLE_RETENTION: obligation.NotApplicable(
                "Handled events are deleted with their settlement; nothing else is deleted without a command"
            ),
            obligation.Profile.EVENTUAL_CONVERGENCE: obligation.NotApplicable(
                "Which of two results is newer is a question of the product's data, which relevo does not have"
            ),
            obligation.Profile.FACT_DERIVED_OBLIGATIONS: obligation.Decline(
                "An event is recorded with the fact, in one transaction, and not derived from it later"
            ),
            obligation.Profile.GATED_EXECUTION: obligation.NotApplicable(
                "A listener that has to wait raises RetryLater; profile J binds that"
            ),
            obligation.Profile.HARMLESS_REPLAY: obligation.Claim(),
            obligation.Profile.INDIVISIBLE_ADMISSION: obligation.Claim(),
            obligation.Profile.JOB_RETRY_LIMITS: obligation.Claim(),
        },
        ownership=_ownership,
        replay=_replay,
        admission={"upload": _admission},
        retry=_retry,
        classified_failures={"given up": _given_up, "later": _retried_later},
        handoffs=(UPLOAD,),
        handoff_delivery=obligation.CallableDelivery(name="a worker", recover=_recover),
    )


@pytest.fixture(autouse=True)
def _host() -> Iterator[None]:
    host = obligation.Host(
        production_packages=frozenset({"relevo", "relevo_sql"}),
        worker_killer=killed_after,
        in_transaction=lambda: any(gallery.is_in_transaction() for gallery in _open),
    )
    with obligation.hosted(host):
        yield


@obligation.due_work_contract_suite(CONTRACT)
class TestRelevo:
    pass
