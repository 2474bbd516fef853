"""The evidence for a crash loop in the rows of a real file: notes, deaths, heartbeats."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa

from relevo import Ack, DeadLetter, Delivery, Envelope, Lost, Nack, Note, Outcome, Presence, Release
from relevo._process_identity import ProcessIdentity
from relevo._worker.evidence import GRACE
from relevo._worker.suspect import Suspects
from relevo.errors import LeaseLostError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport
from relevo_sql._schema import worker as heartbeat

from .on_server import an_engine

Maker = Callable[..., Envelope]
Opener = Callable[..., SqlTransport]

NOTE = Note(by="aa:boot:1:2:3", deaths=("bb::0:1:1",), listener="shop.resize")


def received(transport: SqlTransport) -> Delivery:
    (delivery,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    return delivery


def tamper(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, values)


@pytest.fixture
def begun(transport: SqlTransport, an_envelope: Maker) -> Delivery:
    """Return a delivery that is held, with a note."""
    transport.send([an_envelope()])
    delivery = received(transport)
    transport.begin(delivery, NOTE)
    return delivery


@pytest.mark.usefixtures("begun")
def test_a_lost_lease_keeps_the_note_and_its_deaths(transport: SqlTransport, clock: FakeClock) -> None:
    clock.advance(61)

    again = received(transport)

    assert (again.lost_leases, again.begun, again.deaths) == (1, NOTE, NOTE.deaths)


@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_a_release_keeps_counters_and_note(
    transport: SqlTransport, clock: FakeClock, begun: Delivery, delay: float
) -> None:
    lost = transport.settle([(begun, Release(delay=delay))])
    clock.advance(delay)

    again = received(transport)

    assert not lost
    assert (again.attempt, again.lost_leases, again.begun, again.deaths) == (1, 0, NOTE, NOTE.deaths)


def test_a_retry_removes_the_note_and_keeps_the_deaths(transport: SqlTransport, begun: Delivery) -> None:
    transport.settle([(begun, Nack())])

    again = received(transport)

    assert (again.attempt, again.begun, again.deaths) == (2, None, NOTE.deaths)


@pytest.mark.parametrize("character", ["\N{PARTY POPPER}", "\x00", '"', "\\"])
def test_three_deaths_with_the_longest_names_are_kept(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker, character: str
) -> None:
    deaths = tuple(f"{number}{character * 249}" for number in range(3))
    transport.send([an_envelope()])
    transport.begin(received(transport), attrs.evolve(NOTE, deaths=deaths))
    clock.advance(61)

    assert received(transport).deaths == deaths


def test_a_death_that_was_seen_takes_the_place_of_the_note(transport: SqlTransport, begun: Delivery) -> None:
    transport.settle([(begun, Lost(death="cc::0:1:1+", state=b"half"))])

    again = received(transport)

    assert (again.attempt, again.lost_leases, again.state) == (2, 1, b"half")
    assert (again.begun, again.deaths) == (None, ("bb::0:1:1", "cc::0:1:1+"))


def test_a_loss_without_a_death_keeps_the_note(transport: SqlTransport, begun: Delivery) -> None:
    transport.settle([(begun, Lost())])

    again = received(transport)

    assert (again.lost_leases, again.begun, again.deaths) == (1, NOTE, NOTE.deaths)


def test_the_last_three_deaths_are_kept(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope()])

    for death in ("a", "b", "c", "d"):
        transport.settle([(received(transport), Lost(death=death))])

    assert received(transport).deaths == ("b", "c", "d")


def test_lost_leases_with_and_without_a_death_are_settled_in_one_batch(
    transport: SqlTransport, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number) for number in range(4)])
    batch = transport.receive(["default"], limit=10, lease=60, wait=0)
    outcomes = (Lost(), Lost(death="a"), Release(), Lost(death="b"))

    lost = transport.settle(list(zip(batch, outcomes, strict=True)))

    found = {each.envelope: each for each in transport.receive(["default"], limit=10, lease=60, wait=0)}
    assert not lost
    assert [(found[each.envelope].lost_leases, found[each.envelope].deaths) for each in batch] == [
        (1, ()),
        (1, ("a",)),
        (0, ()),
        (1, ("b",)),
    ]


def test_a_later_note_replaces_the_one_before(transport: SqlTransport, begun: Delivery, clock: FakeClock) -> None:
    later = Note(by="dd::0:1:1", excused=True)

    transport.begin(begun, later)

    clock.advance(61)
    again = received(transport)
    assert (again.begun, again.deaths) == (later, ())


@pytest.mark.parametrize("outcome", [Ack(), Nack(), Release(), Lost(), DeadLetter(reason="crash-loop")])
def test_what_is_no_longer_held_cannot_be_begun(
    transport: SqlTransport, begun: Delivery, outcome: Ack | Nack | Release | Lost | DeadLetter
) -> None:
    transport.settle([(begun, outcome)])

    with pytest.raises(LeaseLostError):
        transport.begin(begun, Note(by="ee::0:1:1"))


def test_what_another_worker_holds_meanwhile_cannot_be_begun(
    transport: SqlTransport, clock: FakeClock, begun: Delivery
) -> None:
    clock.advance(61)

    with pytest.raises(LeaseLostError):
        transport.begin(begun, Note(by="ee::0:1:1"))
    again = received(transport)
    with pytest.raises(LeaseLostError):
        transport.begin(begun, Note(by="ee::0:1:1"))

    assert again.begun == NOTE
    transport.settle([(again, Release())])
    assert received(transport).begun == NOTE


def test_a_revived_event_starts_without_evidence(transport: SqlTransport, begun: Delivery) -> None:
    transport.settle([(begun, DeadLetter(reason="crash-loop"))])
    (entry,) = transport.dead_letters(["default"])

    transport.revive({entry.ref: b""})

    again = received(transport)
    assert (again.attempt, again.lost_leases, again.begun, again.deaths) == (1, 0, None, ())


def test_a_note_is_seen_by_another_connection_at_once(
    opener: Opener, clock: FakeClock, path: Path, begun: Delivery
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("SELECT begun, deaths FROM relevo_event").fetchall()

    assert kept == [(NOTE.packed(), '["bb::0:1:1"]')]
    clock.advance(61)
    assert received(opener(clock)).begun == NOTE


# --- a release with a delay ------------------------------------------------------------------------


def test_what_is_released_with_a_delay_is_scheduled(transport: SqlTransport, clock: FakeClock, begun: Delivery) -> None:
    transport.settle([(begun, Release(delay=5.0))])

    (found,) = transport.find("id-1")
    stats = transport.stats("default")
    assert (found.status, found.until, found.attempt, found.lost_leases) == ("scheduled", clock.now() + 5.0, 1, 0)
    assert (stats.ready, stats.leased, stats.scheduled) == (0, 0, 1)
    assert not transport.receive(["default"], limit=1, lease=60, wait=0)
    clock.advance(4.9)
    assert not transport.receive(["default"], limit=1, lease=60, wait=0)


def test_a_batch_may_hold_releases_with_different_delays(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number) for number in range(4)])
    batch = transport.receive(["default"], limit=10, lease=60, wait=0)

    lost = transport.settle([(each, Release(delay=float(turn // 2))) for turn, each in enumerate(batch, start=1)])

    assert not lost
    assert len(transport.receive(["default"], limit=10, lease=60, wait=0)) == 1
    clock.advance(1)
    assert len(transport.receive(["default"], limit=10, lease=60, wait=0)) == 2
    clock.advance(1)
    assert len(transport.receive(["default"], limit=10, lease=60, wait=0)) == 1


def test_a_release_with_a_delay_is_cancelled_and_purged_as_scheduled(
    transport: SqlTransport, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1), an_envelope(2)])
    batch = transport.receive(["default"], limit=10, lease=60, wait=0)
    transport.settle([(each, Release(delay=5)) for each in batch])

    assert transport.cancel("id-1") == 1
    assert transport.purge("default") == 1


@pytest.mark.parametrize("outcome", [Nack(delay=5), Release(delay=5)])
def test_those_behind_one_of_their_key_wait_while_it_is_delayed(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker, outcome: Nack | Release
) -> None:
    transport.send([an_envelope(number, ordering_key="42") for number in (1, 2)])
    transport.settle([(received(transport), outcome)])

    during = transport.receive(["default"], limit=10, lease=60, wait=0)
    clock.advance(5)
    first = received(transport)
    transport.settle([(first, Ack())])
    second = received(transport)

    assert not during
    assert [first.envelope, second.envelope] == [an_envelope(number, ordering_key="42") for number in (1, 2)]


# --- rows that something else changed ---------------------------------------------------------------

HOSTILE = [
    b"\x00\xff",
    NOTE.packed().encode(),
    7,
    1.5,
    "",
    "{",
    "[" * 8000,
    "[" + "1" * 8000 + "]",
    '["\\ud800"]',
    '{"a":"b"}',
    '["a",["b"],"c"]',
    "[1,2,3,4]",
    '["' + "a" * 10_000 + '"]',
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_evidence_that_cannot_be_read_accuses_nobody(
    transport: SqlTransport, path: Path, an_envelope: Maker, value: object
) -> None:
    transport.send([an_envelope()])
    tamper(path, "UPDATE relevo_event SET begun = ?, deaths = ?, lost_leases = 3, attempt = 4", value, value)

    delivery = received(transport)

    assert (delivery.envelope, delivery.lost_leases, delivery.begun, delivery.deaths) == (an_envelope(), 3, None, ())
    transport.begin(delivery, NOTE)
    transport.settle([(delivery, Lost(death="cc"))])
    assert received(transport).deaths == ("bb::0:1:1", "cc")


def test_evidence_that_is_no_utf_8_makes_no_row_unreadable(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    transport.send([an_envelope()])
    tamper(path, "UPDATE relevo_event SET begun = CAST(x'ff41' AS TEXT), deaths = CAST(x'ff41' AS TEXT)")

    delivery = received(transport)

    assert (delivery.envelope, delivery.begun, delivery.deaths) == (an_envelope(), None, ())
    transport.settle([(delivery, Lost(death="cc"))])
    assert received(transport).deaths == ("cc",)


@pytest.mark.lengthy("writes and reads a hundred megabytes")
def test_no_more_is_read_of_evidence_than_relevo_writes(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    transport.send([an_envelope()])
    huge = '["' + "a" * 50_000_000 + '"]'
    tamper(path, "UPDATE relevo_event SET begun = ?, deaths = ?", huge, huge)
    longest: list[int] = []

    def measured(text: bytes) -> str:
        longest.append(len(text))
        return text.decode()

    driver = transport._database.read(lambda connection: connection.connection.driver_connection)
    assert isinstance(driver, sqlite3.Connection)
    driver.text_factory = measured
    delivery = received(transport)
    driver.text_factory = str

    assert (delivery.envelope, delivery.begun, delivery.deaths) == (an_envelope(), None, ())
    assert max(longest) < 10_000


# --- heartbeats -----------------------------------------------------------------------------------


def test_each_sign_of_a_worker_adds_a_beat(opener: Opener, transport: SqlTransport, clock: FakeClock) -> None:
    other = opener(clock)
    before = other.presence(["aa", "bb"])

    transport.appear("aa")
    once = other.presence(["aa", "bb"])
    transport.appear("aa")
    transport.appear("bb")
    twice = other.presence(["aa", "bb", "cc", "aa"])

    assert before == {}
    assert once == {"aa": Presence(beats=1)}
    assert twice == {"aa": Presence(beats=2), "bb": Presence(beats=1)}


def test_a_heartbeat_forgets_a_limited_number_of_workers(transport: SqlTransport, clock: FakeClock) -> None:
    """A statement that listed all of them could be larger than what a server takes."""
    workers = [f"worker-{number}" for number in range(600)]
    with an_engine(transport.url) as engine, engine.begin() as connection:
        connection.execute(sa.insert(heartbeat), [{"worker": each, "beats": 1, "seen_at": 0} for each in workers])
    left = []

    for _ in range(2):
        transport.appear("aa")
        left.append(len(transport.presence([*workers, "aa"])))

    assert left == [101, 1]


def test_a_worker_that_gave_no_sign_for_a_day_is_forgotten(transport: SqlTransport, clock: FakeClock) -> None:
    transport.appear("aa")
    clock.advance(86_000)
    transport.appear("bb")
    clock.advance(401)

    transport.appear("cc")

    assert transport.presence(["aa", "bb", "cc"]).keys() == {"bb", "cc"}


def test_a_sign_of_life_that_somebody_spoilt_is_none(transport: SqlTransport, path: Path) -> None:
    for worker in ("aa", "bb"):
        transport.appear(worker)
    tamper(path, "UPDATE relevo_worker SET beats = 'many' WHERE worker = 'aa'")

    assert transport.presence(["aa", "bb"]) == {"bb": Presence(beats=1)}


# --- workers of several hosts, judged by their heartbeats ---------------------------------------------


@attrs.frozen
class Host:
    """A worker's process on a separate host: no other host can tell whether it is alive."""

    transport: SqlTransport
    clock: FakeClock
    suspects: Suspects

    def begin_and_lose(self) -> None:
        """Begin the only event, which was lost before, and lose it."""
        delivery = received(self.transport)
        assert self.suspects.outcome(delivery) is None
        self.transport.settle([(delivery, Lost())])

    def judge(self) -> Outcome | None:
        """Return the outcome of the only event before it is begun, and give it back."""
        delivery = received(self.transport)
        outcome = self.suspects.outcome(delivery)
        if outcome is not None:
            assert self.transport.settle([(delivery, outcome)]) == []
        return outcome


def a_host(number: int, transport: SqlTransport, clock: FakeClock) -> Host:
    identity = ProcessIdentity.parsed(identity_of(number))
    assert identity is not None
    return Host(transport, clock, Suspects(transport, clock, identity, lambda _: None))


@pytest.fixture
def three(transport: SqlTransport, clock: FakeClock, an_envelope: Maker) -> list[Host]:
    """Return three workers of other hosts that began the only event, one after the other, and lost it."""
    return noted_by_three(transport, clock, an_envelope())


def noted_by_three(transport: SqlTransport, clock: FakeClock, envelope: Envelope) -> list[Host]:
    transport.send([envelope])
    transport.settle([(received(transport), Lost())])
    hosts = [a_host(number, transport, clock) for number in (1, 2, 3)]
    for host in hosts:
        host.begin_and_lose()
    return hosts


def verdict(asker: Host, living: Sequence[Host]) -> Outcome | None:
    """Return the first outcome other than a release; try once a second while *living* send heartbeats."""
    clocks = {id(host.clock): host.clock for host in (asker, *living)}.values()
    for _ in range(100):
        outcome = asker.judge()
        if not isinstance(outcome, Release):
            return outcome
        for clock in clocks:
            clock.advance(1)
        for host in living:
            host.suspects.keep_up()
    return Release()


@pytest.mark.usefixtures("three")
def test_three_workers_elsewhere_that_stay_away_for_the_grace_make_a_crash_loop(
    transport: SqlTransport, clock: FakeClock
) -> None:
    began = clock.now()

    outcome = verdict(a_host(4, transport, clock), [])

    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == "crash-loop"
    assert clock.now() - began >= GRACE


@pytest.mark.parametrize("shift", [0.0, 3600.0, -3600.0])
def test_workers_elsewhere_that_live_are_struck_off_whatever_the_clocks_say(
    opener: Opener, clock: FakeClock, three: list[Host], path: Path, shift: float
) -> None:
    shifted = FakeClock(clock.now() + shift)
    asker = a_host(4, opener(shifted), shifted)

    outcome = verdict(asker, three)

    assert outcome is None
    assert identity_of(3) not in deaths_in(path)


def test_only_those_that_live_are_struck_off(
    transport: SqlTransport, clock: FakeClock, three: list[Host], path: Path
) -> None:
    outcome = verdict(a_host(4, transport, clock), three[:2])

    assert outcome is None
    assert deaths_in(path) == [identity_of(3)]


def test_an_outage_that_is_longer_than_lease_and_grace_accuses_nobody(
    path: Path, clock: FakeClock, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_sql._dialect.sqlite.SLICE", 0.001)  # or each of 130 calls waits for the lock for 0.2 s

    # With a rollback journal one that holds the lock keeps readers out too.
    def opened() -> SqlTransport:
        return SqlTransport(sa.create_engine(f"sqlite:///{path}"), name="main", clock=clock, busy_timeout=0.01)

    with opened() as transport, opened() as other, closing(sqlite3.connect(path, isolation_level=None)) as down:
        transport.setup([])
        three = noted_by_three(transport, clock, an_envelope())
        asker = a_host(4, other, clock)
        before = asker.judge()
        clock.advance(1)
        held = received(other)

        down.execute("BEGIN EXCLUSIVE")
        for _ in range(100):
            with pytest.raises(TransportUnavailableError):
                asker.suspects.outcome(held)
            clock.advance(1)
            for host in three if clock.monotonic() % 10 < 1 else ():
                with pytest.raises(TransportUnavailableError):
                    host.suspects.keep_up()
        down.execute("ROLLBACK")
        outcome = verdict(asker, three)

        assert before == Release(delay=1.0)
        assert outcome is None
        assert identity_of(3) not in deaths_in(path)


def identity_of(number: int) -> str:
    return f"{number:032x}:b0{number}:1:1:1"


def deaths_in(path: Path) -> list[str]:
    """Return the deaths of the only event."""
    with closing(sqlite3.connect(path)) as connection:
        ((text,),) = connection.execute("SELECT deaths FROM relevo_event").fetchall()
    return list(json.loads(text or "[]"))
