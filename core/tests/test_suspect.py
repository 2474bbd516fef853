"""How a worker handles events that were lost before, on transports with and without evidence."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import attrs
import pytest

from relevo import (
    Ack,
    App,
    Call,
    Delivery,
    Envelope,
    Event,
    Lost,
    Nack,
    Note,
    ProcessIdentity,
    Reason,
    Release,
    RunOptions,
    Settlement,
    Worker,
    listener,
)
from relevo._worker.evidence import APPEAR_EVERY, GRACE
from relevo._worker.progress import SEALED, failures_of
from relevo._worker.suspect import Suspects
from relevo.errors import ConfigurationError, SettleError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

KEY = "a key of 32 letters for a test of this"
DRAIN = RunOptions(until_empty=True)
MakeEnvelope = Callable[..., Envelope]


class Host:
    """A host whose processes end when the test says so."""

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self.dead: set[ProcessIdentity] = set()
        self._pids = count(7)

    def process(self) -> ProcessIdentity:
        pid = next(self._pids)
        return ProcessIdentity(worker=os.urandom(16).hex(), boot=self.boot, namespace="1", pid=pid, started=8)

    def lives(self, process: ProcessIdentity) -> bool | None:
        return process not in self.dead if process.boot == self.boot else None


def envelope_of(event: str) -> Envelope:
    return Envelope(id=event, source="shop", name="image.created", body=b"{}")


@attrs.define
class World:
    """Workers of several hosts on one store."""

    store: MemoryStore
    clock: FakeClock
    called: list[str] = attrs.field(factory=list)

    def worker(
        self,
        host: Host,
        then: Callable[[Delivery, Suspects], Any] = lambda *_: Ack(),
        *,
        process: ProcessIdentity | None = None,
        transport: MemoryTransport | None = None,
        options: RunOptions = DRAIN,
        **how: Any,
    ) -> Worker:
        on = transport or MemoryTransport(self.store, clock=self.clock)
        suspects = Suspects(on, self.clock, process or host.process(), host.lives)

        def handle(delivery: Delivery) -> Any:
            assert isinstance(delivery.envelope, Envelope)
            self.called.append(delivery.envelope.id)
            return then(delivery, suspects)

        return Worker(
            transport=on, handle=handle, queues=["default"], clock=self.clock, chance=lambda: 0.0,
            options=options, background=False, suspects=suspects, **how,
        )  # fmt: skip

    def killed(self, host: Host, *, listener: str = "") -> ProcessIdentity:
        """Receive the next event, begin it as a suspect, and die."""
        process = host.process()
        transport = MemoryTransport(self.store, clock=self.clock)
        (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
        suspects = Suspects(transport, self.clock, process, host.lives)
        assert suspects.outcome(delivery) is None
        suspects.runs(delivery, listener)
        host.dead.add(process)
        self.clock.advance(61)
        return process

    def lost(self, times: int = 1) -> None:
        """Lose the lease of the next event."""
        for _ in range(times):
            MemoryTransport(self.store, clock=self.clock).receive(["default"], limit=1, lease=60, wait=0)
            self.clock.advance(61)

    def transport(self) -> MemoryTransport:
        return MemoryTransport(self.store, clock=self.clock)

    def held(self) -> Delivery:
        (delivery,) = self.transport().receive(["default"], limit=1, lease=60, wait=0)
        return delivery

    def dead(self) -> Sequence[Any]:
        return self.transport().dead_letters(["default"])


@pytest.fixture(name="world")
def _world(store: MemoryStore, clock: FakeClock, envelope: MakeEnvelope) -> World:
    MemoryTransport(store, clock=clock).send([envelope("1")])
    return World(store, clock)


@pytest.fixture(name="host")
def _host() -> Host:
    return Host("aa")


def test_three_processes_that_began_it_and_died_are_a_crash_loop_that_names_its_evidence(
    world: World, host: Host
) -> None:
    world.lost()
    for _ in range(3):
        world.killed(host, listener="shop:crash")

    report = world.worker(host).run()

    (dead,) = world.dead()
    assert report.reasons == {Reason.CRASH_LOOP: 1}
    assert world.called == []
    said = "3 processes died while they held it; the last while shop:crash ran (pid 7, 8, 9 of boot aa)"
    assert dead.error == said


def test_a_suspect_that_is_begun_is_a_warning_that_names_who_began_it_last(
    world: World, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    world.lost()
    world.killed(host, listener="shop:crash")

    world.worker(host).run()

    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == (
        "image.created 1 in default is handled again, alone, after 2 lost leases; "
        "begun last by pid 7 of boot aa in shop:crash"
    )


def test_a_first_lost_lease_is_a_warning_too(world: World, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    world.lost()

    world.worker(host).run()

    assert caplog.messages[-1] == (
        "image.created 1 in default is handled again, alone, after 1 lost lease; the process that held it is not known"
    )


@pytest.mark.parametrize(("routes", "to"), [({"*": "main"}, None), ({"image.*": "main/media", "*": "main"}, "main")])
def test_the_listener_of_a_crash_loop_is_a_failure_of_the_dead_letter(
    world: World, host: Host, routes: dict[str, str], to: str | None
) -> None:
    @listener("image.created", id="crash")
    def crash(event: Event) -> None: ...

    transport = world.transport()
    app = App(
        transports={"main": transport}, listeners=[crash], routes=routes, clock=world.clock, source="shop", signing=KEY
    )
    (unsigned,) = transport.receive(["default"], limit=1, lease=60, wait=0)
    transport.ack(unsigned)
    app.dispatch(Event("image.created"), to=to)
    world.lost()
    for _ in range(3):
        world.killed(host, listener="crash")
    worker = app.worker(DRAIN)
    worker._suspects._lives = host.lives

    assert worker.run().reasons == {Reason.CRASH_LOOP: 1}

    (dead,) = world.dead()
    assert [(each.listener, each.reason) for each in failures_of(dead)] == [("crash", "crash-loop")]
    assert dead.state.startswith(SEALED)
    assert app.revived(dead, transport="main") != b""


def test_two_deaths_and_any_number_of_lost_leases_are_none(world: World, host: Host) -> None:
    world.lost(5)
    for _ in range(2):
        world.killed(host)
    world.lost(5)

    report = world.worker(host).run()

    assert (report.done, report.dead) == (1, 0)


def test_processes_that_live_on_after_they_lost_it_are_no_deaths(world: World, host: Host) -> None:
    world.lost()
    reports = []
    for _ in range(5):
        host.dead.discard(world.killed(host))
        world.clock.advance(GRACE + 1)

        reports.append(world.worker(host, lambda *_: Nack(), options=RunOptions(max_events=1)).run())

    assert [report.dead for report in reports] == [0] * 5


def test_one_that_lives_gets_the_event_back_for_its_outcome(world: World, host: Host) -> None:
    world.lost()
    process = host.process()
    nested: list[Any] = []

    def oversleep(delivery: Delivery, _: Suspects) -> Any:
        world.clock.advance(61)
        nested.append(world.worker(host, options=RunOptions(until_empty=True, max_seconds=5)).run())
        return Ack()

    first = world.worker(host, oversleep, process=process)
    first.run()
    world.clock.advance(2)
    report = first.run()

    assert world.called == ["1"], "the other worker left it alone"
    assert nested[0].handled == 0
    assert report.done == 1
    assert world.transport().stats("default").leased == 0


def test_one_that_lives_and_does_not_take_it_is_not_waited_for_without_end(world: World, host: Host) -> None:
    world.lost()
    host.dead.discard(world.killed(host))

    report = world.worker(host, options=RunOptions(until_empty=True, settle=2 * GRACE)).run()

    assert report.done == 1
    assert world.clock.now() >= 0


def test_a_kill_after_a_stop_is_no_death(world: World, host: Host) -> None:
    world.lost()
    for _ in range(9):
        process = host.process()
        transport = world.transport()
        (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
        suspects = Suspects(transport, world.clock, process, host.lives)
        assert suspects.outcome(delivery) is None
        suspects.excuse()
        host.dead.add(process)
        world.clock.advance(61)

    assert world.worker(host).run().done == 1


def test_a_worker_that_is_told_to_stop_notes_it_while_the_listener_runs(world: World, host: Host) -> None:
    world.lost()
    noted = threading.Event()

    class Watched(MemoryTransport):
        def excuse(self, delivery: Delivery, note: Note) -> None:
            super().excuse(delivery, note)
            noted.set()

    def stop(delivery: Delivery, _: Suspects) -> Any:
        worker.stop()
        assert noted.wait(60)
        return Ack()

    on = Watched(world.store, clock=world.clock)
    suspects = Suspects(on, world.clock, host.process(), host.lives)
    worker = Worker(
        transport=on, handle=lambda delivery: stop(delivery, suspects), queues=["default"], clock=world.clock,
        chance=lambda: 0.0, options=DRAIN, suspects=suspects,
    )  # fmt: skip
    worker.run()

    assert noted.is_set()


# --- processes on other hosts ---------------------------------------------------------------------------


def test_a_process_on_another_host_is_a_death_once_it_was_away_for_the_grace(world: World, host: Host) -> None:
    other = Host("bb")
    world.lost()
    for _ in range(3):
        world.killed(other)
    before = world.clock.now()

    report = world.worker(host).run()

    assert report.reasons == {Reason.CRASH_LOOP: 1}, "a run until empty waits for the verdict"
    assert world.clock.now() - before >= GRACE


def test_a_process_on_another_host_that_gives_a_sign_of_life_is_struck_off(world: World, host: Host) -> None:
    other = Host("bb")
    world.lost()
    processes = [world.killed(other) for _ in range(3)]

    class Beating(MemoryTransport):
        def presence(self, workers: Sequence[str]) -> Any:
            if processes[1].worker in workers:
                self.appear(processes[1].worker)
            return super().presence(workers)

    on = Beating(world.store, clock=world.clock)
    report = world.worker(host, transport=on).run()

    assert (report.done, report.dead) == (1, 0)


def test_a_suspect_is_begun_at_once_although_another_host_may_still_have_it(world: World, host: Host) -> None:
    world.lost()
    world.killed(Host("bb"))
    before = world.clock.now()

    assert world.worker(host).run().done == 1
    assert world.clock.now() == before


def test_a_worker_appears_before_it_begins_a_suspect_and_from_then_on(world: World, host: Host) -> None:
    world.lost()
    transport = world.transport()
    process = host.process()
    suspects = Suspects(transport, world.clock, process, host.lives)
    (delivery,) = transport.receive(["default"], limit=1, lease=600, wait=0)
    suspects.keep_up()
    assert transport.presence([process.worker]) == {}

    suspects.outcome(delivery)
    first = transport.presence([process.worker])[process.worker].beats
    suspects.keep_up()
    same = transport.presence([process.worker])[process.worker].beats
    world.clock.advance(APPEAR_EVERY)
    suspects.keep_up()

    assert first == same == 1
    assert transport.presence([process.worker])[process.worker].beats == 2


# --- what cannot be noted is not begun --------------------------------------------------------------------


def test_a_suspect_that_cannot_be_noted_is_not_begun_and_the_others_go_on(
    transport: Any, envelope: MakeEnvelope, clock: FakeClock, worker: Any
) -> None:
    transport.send([envelope("1")])
    transport.receive(["default"], limit=1, lease=60, wait=0)
    clock.advance(61)
    transport.send([envelope("2")])
    called: list[str] = []
    down = [TransportUnavailableError("memory", "an alarm")] * 3

    def begin(delivery: Delivery, note: Note) -> None:
        if down:
            raise down.pop()
        MemoryTransport.begin(transport, delivery, note)

    transport.begin = begin

    def handle(delivery: Any) -> Ack:
        called.append(delivery.envelope.id)
        return Ack()

    report = worker(handle, options=RunOptions(until_empty=True, settle=9)).run()

    assert called == ["2", "1"]
    assert report.done == 2


def test_the_note_names_the_listener_that_runs(
    transport: Any, envelope: MakeEnvelope, clock: FakeClock, caller: Any, listen: Callable[..., None], worker: Any
) -> None:
    noted: list[str] = []

    def begin(delivery: Delivery, note: Note) -> None:
        noted.append(note.listener)
        MemoryTransport.begin(transport, delivery, note)

    transport.begin = begin

    def look(event: Event, call: Call) -> None:
        assert noted[-1] == call.listener_id

    listen(look, id="first", priority=2)
    listen(look, id="second", priority=1)
    transport.send([envelope("1")])
    transport.receive(["default"], limit=1, lease=60, wait=0)
    clock.advance(61)
    suspects = Suspects(transport, clock)

    report = worker(caller(runs=suspects.runs).outcome, suspects=suspects, options=DRAIN).run()

    assert report.done == 1
    assert noted == ["", "first", "second"]


def test_the_note_names_a_single_listener_before_it_runs_and_is_written_once(
    transport: Any, envelope: MakeEnvelope, clock: FakeClock
) -> None:
    noted: list[str] = []

    def begin(delivery: Delivery, note: Note) -> None:
        noted.append(note.listener)
        MemoryTransport.begin(transport, delivery, note)

    transport.begin = begin
    app = App(transports={"main": transport}, routes={"*": "main"}, source="test", clock=clock)
    app.listen(listener("image.created", id="only")(lambda event: noted.append("runs")))
    transport.send([envelope("1")])
    transport.receive(["default"], limit=1, lease=60, wait=0)
    clock.advance(61)

    report = app.worker(DRAIN).run()

    assert report.done == 1
    assert noted == ["only", "runs"]


def test_an_event_that_was_never_lost_pays_nothing(
    transport: Any, envelope: MakeEnvelope, caller: Any, listen: Callable[..., None], worker: Any, clock: FakeClock
) -> None:
    transport.begin = transport.appear = transport.presence = None
    listen(lambda event: None, id="keep")
    transport.send([envelope("1")])
    suspects = Suspects(transport, clock)

    assert worker(caller(runs=suspects.runs).outcome, suspects=suspects, options=DRAIN).run().done == 1


# --- deaths that the worker saw -----------------------------------------------------------------------------


def test_the_third_death_that_was_seen_is_the_last(world: World, host: Host) -> None:
    def die(delivery: Delivery, _: Suspects) -> Any:
        return Lost(error="it exited with status 9", death=str(host.process().as_witnessed()), state=b"kept")

    report = world.worker(host, die, options=RunOptions(max_events=3)).run()

    (dead,) = world.dead()
    assert report.reasons == {Reason.CRASH_LOOP: 1}
    assert world.called == ["1"] * 3
    assert dead.error.startswith("3 processes died while they held it; it exited with status 9")
    assert dead.state == b"kept"


def test_what_ends_after_a_stop_was_asked_for_is_no_death(world: World, host: Host) -> None:
    def stopped(delivery: Delivery, suspects: Suspects) -> Any:
        suspects.excuse()
        return Lost(death=str(host.process().as_witnessed()))

    world.worker(host, stopped, options=RunOptions(max_events=1)).run()

    assert world.held().deaths == ()


# --- transports without evidence ----------------------------------------------------------------------------


class _Plain(MemoryTransport):
    capabilities = attrs.evolve(MemoryTransport.capabilities, presence=False)
    begin = appear = presence = None  # type: ignore[assignment]


def test_without_evidence_the_dead_letter_says_that_it_cannot_tell(world: World, host: Host) -> None:
    world.lost(3)

    report = world.worker(host, transport=_Plain(world.store, clock=world.clock)).run()

    (dead,) = world.dead()
    assert report.reasons == {Reason.CRASH_LOOP: 1}
    assert dead.error == (
        "3 hand-overs ended without an outcome: a process ended or its connection was lost; this transport cannot tell"
    )


def test_without_evidence_the_third_loss_that_was_seen_is_the_last(world: World, host: Host) -> None:
    world.lost(2)
    on = _Plain(world.store, clock=world.clock)

    world.worker(host, lambda *_: Lost(error="it exited", death="x"), transport=on).run()

    (dead,) = world.dead()
    assert dead.error.endswith("this transport cannot tell; it exited")


def test_a_release_later_counts_as_nothing_and_keeps_the_note(world: World) -> None:
    transport = world.transport()
    held = world.held()
    note = Note(by="b", deaths=("a",))
    transport.begin(held, note)

    transport.settle([(held, Release(delay=5))])

    assert not transport.receive(["default"], limit=1, lease=60, wait=0)
    world.clock.advance(5)
    again = world.held()
    assert (again.begun, again.deaths, again.attempt, again.lost_leases) == (note, ("a",), 1, 0)


def _interrupt_twice(world: World, host: Host) -> None:
    """Stop a worker while it handles a suspect, and interrupt it, as two signals do."""

    def interrupt(_: Delivery, suspects: Suspects) -> Any:
        worker.stop()
        suspects.excuse()  # as the thread that renews leases does it
        raise KeyboardInterrupt

    world.lost()
    worker = world.worker(host, interrupt)
    with pytest.raises(KeyboardInterrupt):
        worker.run()


def test_a_worker_of_this_process_whose_run_was_interrupted_is_not_waited_for(world: World, host: Host) -> None:
    _interrupt_twice(world, host)
    before = world.clock.now()

    report = world.worker(host).run()

    assert report.done == 1
    assert world.clock.now() - before < 1
    assert world.called == ["1", "1"]


def test_a_worker_whose_run_ended_before_it_could_settle_is_waited_for(world: World, host: Host) -> None:
    class Deaf(MemoryTransport):
        is_down = True

        def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
            if self.is_down:
                raise TransportUnavailableError(self.name, "down")
            return super().settle(settlements)

    world.lost()
    transport = Deaf(world.store, clock=world.clock)
    worker = world.worker(host, transport=transport)
    with pytest.raises(TransportUnavailableError):
        worker.run()
    world.clock.advance(61)
    other = world.transport()
    again = world.held()

    outcome = Suspects(other, world.clock, host.process(), host.lives).outcome(again)

    assert isinstance(outcome, Release)
    other.settle([(again, outcome)])
    world.clock.advance(1)
    transport.is_down = False
    assert worker.run().done == 1
    assert world.called == ["1"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_fork_waits_for_a_worker_of_its_parent(world: World, host: Host) -> None:
    _interrupt_twice(world, host)

    child = os.fork()
    if child == 0:
        signal.alarm(30)
        outcome = None
        with suppress(BaseException):
            outcome = Suspects(world.transport(), world.clock, host.process(), host.lives).outcome(world.held())
        os._exit(7 if isinstance(outcome, Release) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_process_that_lives_is_waited_for_with_a_line_in_the_log(
    world: World, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relevo.worker")
    world.lost()
    process = world.killed(host)
    host.dead.discard(process)

    report = world.worker(host).run()

    assert report.done == 1
    [line] = [each for each in caplog.messages if " waits for up to " in each]
    assert line == (
        f"image.created 1 in default waits for up to 32 s, after 2 lost leases; begun last by pid {process.pid} of "
        f"boot {process.boot[:8]}: that process may still settle it, or may not have ended"
    )


# --- a worker that is run again, and notes that cannot be written -----------------------------------------------


def test_deaths_count_also_in_the_second_run_of_a_worker(world: World, host: Host) -> None:
    called: list[str] = []

    def die(delivery: Delivery, _: Suspects) -> Any:
        called.append("")
        return Lost(death=str(host.process().as_witnessed())) if len(called) < 9 else Ack()

    worker = world.worker(host, die)
    MemoryTransport(world.store, clock=world.clock).purge("default")
    worker.run()
    world.transport().send([envelope_of("2")])
    report = worker.run()

    assert report.reasons == {Reason.CRASH_LOOP: 1}
    assert len(called) == 3


def test_a_run_until_empty_does_not_wait_for_a_suspect_that_is_done(world: World, host: Host) -> None:
    world.lost()
    host.dead.discard(world.killed(host))
    worker = world.worker(host)
    before = world.clock.now()

    report = worker.run()
    first = world.clock.now()
    worker.run()

    assert report.done == 1
    assert first - before >= GRACE
    assert world.clock.now() == first


def test_an_excuse_that_failed_is_tried_again(world: World, host: Host) -> None:
    class Down(MemoryTransport):
        down = True

        def excuse(self, delivery: Delivery, note: Note) -> None:
            if self.down:
                raise TransportUnavailableError(self.name, "an alarm")
            super().excuse(delivery, note)

    world.lost()
    on = Down(world.store, clock=world.clock)
    suspects = Suspects(on, world.clock, host.process(), host.lives)
    (delivery,) = on.receive(["default"], limit=1, lease=60, wait=0)
    assert suspects.outcome(delivery) is None

    suspects.excuse()
    on.down = False
    world.clock.advance(2)
    suspects.excuse()
    world.clock.advance(61)

    note = world.held().begun
    assert note is not None
    assert note.excused


@pytest.mark.parametrize("why", ["refused", "unreachable"])
def test_a_suspect_that_is_handled_and_not_settled_does_not_pay_for_the_next_event(
    world: World, host: Host, why: str
) -> None:
    """The worker dies of another event before the transport takes the suspect's outcome."""

    class Busy(MemoryTransport):
        def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
            if world.called:
                if why == "refused":
                    raise SettleError(self.name, unsettled=[delivery for delivery, _ in settlements], why="full")
                raise TransportUnavailableError(self.name, "down")
            return super().settle(settlements)

        def excuse(self, delivery: Delivery, note: Note) -> None:
            if "2" in world.called:  # a killed process writes nothing
                raise TransportUnavailableError(self.name, "dead")
            super().excuse(delivery, note)

    def then(delivery: Delivery, _: Suspects) -> Any:
        assert isinstance(delivery.envelope, Envelope)
        if delivery.envelope.id == "2":
            raise KeyboardInterrupt
        on.send([envelope_of("2")])
        return Ack()

    world.lost()
    process = host.process()
    on = Busy(world.store, clock=world.clock)

    with pytest.raises(KeyboardInterrupt):
        world.worker(host, then, process=process, transport=on, patient=True).run()
    host.dead.add(process)
    world.clock.advance(61)

    assert world.called == ["1", "2"]
    found = {each.envelope.id: each.begun for each in world.transport().receive(["default"], limit=9, lease=60, wait=0)}  # type: ignore[union-attr]
    assert found["1"] is not None
    assert found["1"].excused


def test_the_last_excuse_of_a_run_does_not_wait_because_an_earlier_one_failed(world: World, host: Host) -> None:
    class Down(MemoryTransport):
        down = True

        def excuse(self, delivery: Delivery, note: Note) -> None:
            if self.down:
                raise TransportUnavailableError(self.name, "an alarm")
            super().excuse(delivery, note)

    world.lost()
    on = Down(world.store, clock=world.clock)
    suspects = Suspects(on, world.clock, host.process(), host.lives)
    (delivery,) = on.receive(["default"], limit=1, lease=60, wait=0)
    assert suspects.outcome(delivery) is None
    suspects.excuse_handled()
    on.down = False

    suspects.excuse()  # at once: there is no later one

    world.clock.advance(61)
    note = world.held().begun
    assert note is not None
    assert note.excused


def test_a_note_that_cannot_be_renewed_neither_fails_the_listener_nor_is_lost(world: World, host: Host) -> None:
    class Replaced(MemoryTransport):
        broken = False

        def begin(self, delivery: Delivery, note: Note) -> None:
            if self.broken:
                raise ConfigurationError("the tables are gone")
            super().begin(delivery, note)

    world.lost()
    on = Replaced(world.store, clock=world.clock)
    suspects = Suspects(on, world.clock, host.process(), host.lives)
    (delivery,) = on.receive(["default"], limit=1, lease=60, wait=0)
    assert suspects.outcome(delivery) is None
    on.broken = True

    suspects.runs(delivery, "shop:listener")
    suspects.excuse()
    world.clock.advance(61)

    note = world.held().begun
    assert note is not None
    assert (note.listener, note.excused) == ("", True)
