"""Processes that are killed, on every store that outlives them: nothing is lost, and neighbours do not pay."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.integration import crashing
from tests.integration.conftest import ON_FEW, PATIENCE

import relevo
from relevo._transport.route import outbox_queue
from relevo._worker.ledger import FLUSH_AFTER
from relevo.backend import ParallelSettlement
from relevo_sql import database_url

if TYPE_CHECKING:
    from tests.integration.conftest import Stage


def test_a_worker_killed_in_the_middle_loses_nothing(stage: Stage) -> None:
    numbers = {str(number) for number in range(200)}
    configuration = stage.folder / "relevo.toml"
    configuration.write_text(f'plugins = ["crashing"]\n{configuration.read_text()}')  # for the processes
    for number in range(200):
        stage.app.dispatch(relevo.Event("number.counted", {"number": number}, id=str(number)))
    killed: list[str] = []
    for threshold in (30, 90):
        worker = stage.start("worker")
        stage.wait_for(partial(_ended_at_least, threshold))
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
        killed.append(str(worker.pid))

    code = stage.drain()

    lines = stage.lines()
    ended = Counter(line[1] for line in lines if line[0] == "ended")
    assert code == 0
    assert numbers == set(ended)
    assert stage.dead("numbers") == []
    # Each kill repeats at most the running event, what is being flushed and what waits for the next flush; where acks
    # are sent and answered later, also those that are on their way.
    transport = stage.app.transport()
    is_sent = transport.capabilities.settlement == "sent"
    assert all(any(line[:2] == ["settling", process] for line in lines) for process in killed)
    if not is_sent:
        repeated = {number for number, times in ended.items() if times > 1}
        assert repeated <= set().union(*(_may_repeat(lines, process) for process in killed))
    # Beside a worker that settles in parallel any number of events may end during one slow commit.
    if not (isinstance(transport, ParallelSettlement) and transport.settles_in_parallel):
        flush = 1 + round(FLUSH_AFTER / crashing.SECONDS)
        assert sum(ended.values()) - len(ended) <= len(killed) * (1 + (3 if is_sent else 2) * flush)


def _may_repeat(lines: list[list[str]], killed: str) -> set[str]:
    """Return the events that a killed process may have left unsettled: what was being flushed, and what came since."""
    flushes = [place for place, line in enumerate(lines) if line[:2] == ["settling", killed]]
    last = flushes[-1] if flushes else 0
    ended = [place for place, line in enumerate(lines) if line[0] == "ended" and line[2] == killed]
    since = [place for place in ended if place > last]
    # The event that ended just before may not have waited for that flush yet.
    late = [place for place in ended if place < last][-1:]
    is_settled = any(line[:2] == ["settled", killed] for line in lines[last:])
    return {lines[place][1] for place in (*late, *since)} | (set() if is_settled or not flushes else {*lines[last][2:]})


def test_a_listener_that_kills_its_process_is_set_aside_and_its_neighbours_are_done(stage: Stage) -> None:
    for number in range(100):
        stage.app.dispatch(relevo.Event("mine.stepped-on", {"number": number, "deadly": number == 37}))

    codes: list[int] = []
    while len(codes) < 12 and (not codes or codes[-1] < 0):
        codes.append(stage.drain())

    lines = stage.lines()
    deaths = [line for line in lines if line[0] == "began" and line[1] == "37"]
    ended = Counter(line[1] for line in lines if line[0] == "ended")
    (dead,) = stage.dead("mines")
    assert set(ended) == {str(number) for number in range(100)} - {"37"}
    assert dead.reason == "crash-loop"
    # Before the first loss nothing is noted; a transport without evidence counts the lost leases alone.
    claims = stage.app.transport().capabilities
    processes = 4 if claims.presence else 3
    assert dead.lost_leases == processes or (claims.lost_leases == "at least" and dead.lost_leases > processes)
    assert len(deaths) == processes
    assert codes == [-signal.SIGKILL] * processes + [1]
    if claims.presence:
        assert "3 processes died while they held it; the last while crashing:explode ran" in dead.error


@pytest.mark.amqp
@pytest.mark.slow("about a server, not Python")
def test_a_killer_that_came_from_an_outbox_is_not_sent_again_for_each_process_that_it_kills(
    relayed_stage: Stage,
) -> None:
    app = relayed_stage.app
    app.setup()
    engine = sa.create_engine(database_url(app), poolclass=sa.NullPool)

    def dispatch(number: int, *, deadly: bool) -> None:
        with Session(engine) as session:
            app.dispatch(relevo.Event("mine.stepped-on", {"number": number, "deadly": deadly}), session=session)
            session.commit()

    worker = relayed_stage.start("worker", RELEVO_LEASE="60s")
    dispatch(0, deadly=False)
    relayed_stage.wait_for(lambda lines: any(line[:2] == ["ended", "0"] for line in lines))
    dispatch(1, deadly=True)  # to a worker that waits for it, and begins it at once
    deadline = time.monotonic() + PATIENCE
    while not (dead := relayed_stage.dead("mines")):
        assert time.monotonic() < deadline
        if worker.poll() is not None:
            worker.communicate()
            worker = relayed_stage.start("worker", RELEVO_LEASE="60s")
        time.sleep(0.05)
    worker.terminate()
    worker.communicate(timeout=PATIENCE)

    outbox = app.outboxes["main"].stats(outbox_queue("main"))
    assert (outbox.ready, outbox.leased, outbox.scheduled) == (0, 0, 0)
    assert [one.reason for one in dead] == ["crash-loop"]


@ON_FEW
def test_a_suspect_is_alone_when_it_kills_again(stage: Stage) -> None:
    for number in range(20):
        arguments = {"number": number, "deadly": number == 3}
        stage.app.dispatch(relevo.Event("mine.stepped-on", arguments, id=f"id-{number}"))

    while stage.drain() < 0:
        pass

    lines = stage.lines()
    first = lines[0][2]
    ended = Counter(line[1] for line in lines if line[0] == "ended" and line[2] != first)
    lost_leases = {
        line[1]: int(line[3].removeprefix("lost_leases=")) for line in lines if line[0] == "began" and line[1] != "3"
    }
    assert max(ended.values()) == 1
    (dead,) = stage.dead("mines")
    assert isinstance(dead.envelope, relevo.Envelope)
    assert dead.envelope.id == "id-3"
    # RabbitMQ may assign an event to a consumer that is being stopped. It never delivers that one, and counts a loss.
    if stage.app.transport().capabilities.lost_leases == "exact":
        assert max(lost_leases.values()) <= 1


@ON_FEW
def test_a_drain_does_all_the_others_before_it_dies_of_a_suspect(stage: Stage) -> None:
    stage.app.dispatch(relevo.Event("mine.stepped-on", {"number": 0, "deadly": True}))
    first = stage.drain()
    for number in range(1, 20):
        stage.app.dispatch(relevo.Event("mine.stepped-on", {"number": number, "deadly": False}))

    second = stage.drain()

    assert (first, second) == (-signal.SIGKILL, -signal.SIGKILL)
    assert [line[1] for line in stage.lines() if line[0] == "ended"] == [str(number) for number in range(1, 20)]


def test_what_finished_before_a_crash_is_not_run_again_where_progress_is_kept(stage: Stage) -> None:
    stage.app.dispatch(relevo.Event("mine.stepped-on", {"number": 1, "deadly": True}))

    while stage.drain() < 0:
        pass

    runs = sum(line[0] == "before" for line in stage.lines())
    capabilities = stage.app.transport().capabilities
    assert runs == (1 if capabilities.checkpoint else 4 if capabilities.presence else 3)


@ON_FEW
def test_the_first_term_finishes_the_work_in_hand(stage: Stage) -> None:
    for number in range(50):
        stage.app.dispatch(relevo.Event("number.counted", {"number": number}))
    gate = stage.folder / "gate"
    worker = stage.start("worker", CRASH_GATE=str(gate), RELEVO_LEASE="60s")
    stage.wait_for(lambda lines: sum(line[0] == "began" for line in lines) > crashing.GATE_FROM)

    worker.send_signal(signal.SIGTERM)
    gate.touch()
    _, error = worker.communicate(timeout=PATIENCE)

    began = [line[1] for line in stage.lines() if line[0] == "began"]
    ended = [line[1] for line in stage.lines() if line[0] == "ended"]
    assert worker.returncode == 0, error
    assert began == ended
    assert len(ended) == crashing.GATE_FROM + 1
    assert stage.drain() == 0
    assert Counter(line[1] for line in stage.lines() if line[0] == "ended") == Counter(map(str, range(50)))


def _ended_at_least(enough: int, lines: list[list[str]]) -> bool:
    return sum(line[0] == "ended" for line in lines) >= enough
