"""A transport that keeps no dead letters: an event that cannot be handled is put off, and holds up no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import attrs
import pytest

from relevo import (
    App,
    DeadLetter,
    Delivery,
    Envelope,
    Event,
    Note,
    Retry,
    RunOptions,
    Settlement,
    Signing,
    hookimpl,
    listener,
)
from relevo._process_identity import process_identity
from relevo._runner.loop import LoopRunner
from relevo._worker.suspect import Suspects
from relevo.errors import UnsupportedError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

Make = Callable[..., App]
DRAIN = RunOptions(until_empty=True)
HOUR = 3600.0
KEY = "Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd"


class Poor(MemoryTransport):
    """The memory transport without dead letters, as the first steps of a transport have it."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, dead_letters=False, presence=False, waiting=False)

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        if any(isinstance(outcome, DeadLetter) for _, outcome in settlements):
            raise UnsupportedError(self.name, "dead_letters")
        return super().settle(settlements)


@pytest.fixture(name="poor")
def _poor(clock: FakeClock) -> Poor:
    return Poor(name="main", clock=clock)


@pytest.mark.parametrize("signing", [None, Signing([KEY])])
def test_an_event_that_has_no_retries_left_is_tried_again_in_an_hour_and_the_others_go_on(
    make: Make, poor: Poor, clock: FakeClock, caplog: pytest.LogCaptureFixture, signing: Signing | None
) -> None:
    handled: list[tuple[str, int]] = []
    is_down = True

    @listener("image.created", id="keep", retry=Retry(1))
    def keep(event: Event) -> None:
        handled.append(("keep", event["number"]))

    @listener("image.created", id="send", retry=Retry(1))
    def send(event: Event) -> None:
        if event["number"] == 1 and is_down:
            raise OSError("no such host")
        handled.append(("send", event["number"]))

    app = make(keep, send, transports={"main": poor}, signing=signing)
    for number in range(3):
        app.dispatch("image.created", {"number": number})

    report = app.worker(DRAIN).run()

    assert (report.done, report.retried, report.dead, report.unsettled, report.stopped_by) == (2, 1, 0, 0, "empty")
    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert "image.created" in line
    assert 'the transport "main" keeps no dead letters, so it is tried again in 1 h: retries-exhausted: send' in line
    assert "no such host" in line
    assert ("keep", 1) in handled
    assert app.worker(DRAIN).run().handled == 0
    is_down = False
    clock.advance(HOUR)
    assert app.worker(DRAIN).run().done == 1
    assert sorted(handled) == [(each, number) for each in ("keep", "send") for number in range(3)]


def test_an_event_that_is_expired_or_no_event_is_put_off_too(
    make: Make, poor: Poor, clock: FakeClock, envelope: Callable[..., Envelope], caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[str] = []

    @listener("image.created", id="keep")
    def keep(event: Event) -> None:
        handled.append(str(event.id))

    poor.send([envelope("late", expires=clock.now() - 1.0), envelope("odd", body={"id": "even"}), envelope("good")])

    report = make(keep, transports={"main": poor}).worker(DRAIN).run()

    assert (report.done, report.retried, report.dead, report.unsettled) == (1, 2, 0, 0)
    assert handled == ["good"]
    assert poor.stats("default").scheduled == 2
    assert "so it is tried again in 1 d: expired: " in caplog.text
    assert "so it is tried again in 1 h: malformed: " in caplog.text


def test_expired_events_are_one_warning_together_and_tried_again_in_a_day(
    make: Make, poor: Poor, clock: FakeClock, envelope: Callable[..., Envelope], caplog: pytest.LogCaptureFixture
) -> None:
    poor.send([envelope(f"late-{number}", expires=clock.now() - 1.0) for number in range(3)])
    app = make(transports={"main": poor})

    report = app.worker(DRAIN).run()

    (line,) = [each for each in caplog.records if "cannot be handled" in each.getMessage()]
    assert line.levelname == "WARNING"
    assert line.getMessage() == (
        'image.created late-0 in default and 2 more cannot be handled, and the transport "main" keeps no dead letters, '
        "so they are tried again in 1 d: expired: expired 1.000 s before it was received"
    )
    assert dict(report.retry_reasons) == {"expired": 3}
    clock.advance(23 * HOUR)
    assert app.worker(DRAIN).run().retried == 0
    clock.advance(HOUR)
    assert app.worker(DRAIN).run().retried == 3


def _killed(transport: Poor, clock: FakeClock, times: int) -> None:
    """Let as many processes as *times* begin the next event and end."""
    for _ in range(times):
        (delivery,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
        if transport.capabilities.presence:
            here = process_identity(os.getpid())
            gone = attrs.evolve(here, worker=os.urandom(16).hex(), started=here.started + 1)
            suspects = Suspects(transport, clock, gone)
            if delivery.lost_leases:
                assert suspects.outcome(delivery) is None
            else:
                transport.begin(delivery, Note(by=str(gone)))
        clock.advance(61.0)


@pytest.mark.parametrize("signing", [None, Signing([KEY])])
@pytest.mark.parametrize("presence", [False, True])
def test_a_suspect_of_a_crash_loop_is_put_off_too_and_tried_again_in_an_hour(
    make: Make,
    poor: Poor,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    signing: Signing | None,
    *,
    presence: bool,
) -> None:
    handled: list[str] = []

    @listener("image.created", id="keep")
    def keep(event: Event) -> None:
        handled.append(event["name"])

    poor.capabilities = attrs.evolve(Poor.capabilities, presence=presence)
    app = make(keep, transports={"main": poor}, signing=signing)
    app.dispatch("image.created", {"name": "deadly"})
    _killed(poor, clock, 3)
    app.dispatch("image.created", {"name": "good"})

    report = app.worker(DRAIN).run()

    assert (report.done, report.retried, report.dead, report.unsettled) == (1, 1, 0, 0)
    assert handled == ["good"]
    assert "so it is tried again in 1 h: crash-loop: " in caplog.text

    clock.advance(HOUR)
    _killed(poor, clock, 3)
    report = app.worker(DRAIN).run()

    assert (report.done, report.retried) == (0, 1), "it ended three more processes"

    clock.advance(HOUR)
    _killed(poor, clock, 2)
    report = app.worker(DRAIN).run()

    assert (report.done, report.unsettled) == (1, 0)
    assert handled == ["good", "deadly"]


def test_a_relay_puts_off_what_its_outbox_cannot_keep(
    make: Make, poor: Poor, clock: FakeClock, envelope: Callable[..., Envelope], caplog: pytest.LogCaptureFixture
) -> None:
    poor.name = "outbox"
    poor.send([envelope("late", expires=clock.now() - 1.0, queue="outbox/main")])
    app = make(transports={"main": MemoryTransport(clock=clock)}, outboxes={"main": poor})
    relay = app.relay("main", DRAIN)
    assert relay is not None

    report = relay.run()

    assert (report.retried, report.dead, report.unsettled) == (1, 0, 0)
    assert 'the transport "outbox" keeps no dead letters' in caplog.text


def test_a_worker_warns_at_its_start_and_each_run_from_cron_does_not(
    make: Make, poor: Poor, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(transports={"main": poor})
    warning = 'the transport "main" keeps no dead letters: an event that cannot be handled is logged'

    LoopRunner().run(app, DRAIN)
    app.drain()

    assert warning not in caplog.text

    LoopRunner().run(app, RunOptions(max_seconds=0.1))

    assert caplog.text.count(warning) == 1


def test_a_test_of_the_application_puts_it_off_too(make: Make, poor: Poor) -> None:
    @listener("image.created", id="keep", retry=Retry(1))
    def keep(event: Event) -> None:
        raise OSError("no such host")

    app = make(keep, transports={"main": poor})

    with app.testing() as t:
        app.dispatch("image.created", {})
        report = t.drain(raises=False)

        assert (report.retried, report.dead, t.dead) == (1, 0, [])


def test_a_plugin_observes_what_is_put_off_and_when_it_is_tried_again(
    make: Make, poor: Poor, clock: FakeClock, envelope: Callable[..., Envelope], caplog: pytest.LogCaptureFixture
) -> None:
    observed: list[tuple[str, list[tuple[str, str, float | None]]]] = []

    class Observer:
        @hookimpl
        def relevo_dead_lettered(self, delivery: Delivery, outcome: DeadLetter) -> None:
            failures = [(each.listener, each.reason, each.due) for each in outcome.failures]
            observed.append((outcome.reason, failures))

    @listener("image.created", id="send", retry=Retry(1))
    def send(event: Event) -> None:
        raise OSError("no such host")

    app = make(send, transports={"main": poor}, plugins=[Observer()])
    app.dispatch("image.created", {})
    poor.send([envelope("odd", name="image.rated")])
    app.worker(DRAIN).run()
    observed.clear()
    caplog.clear()
    clock.advance(2 * HOUR)
    due = clock.now() + HOUR

    report = app.worker(DRAIN).run()

    assert dict(report.retry_reasons) == {"retries-exhausted": 1, "unknown-event": 1}
    assert sorted(observed) == [
        ("retries-exhausted", [("send", "retries-exhausted", due)]),
        ("unknown-event", [("", "unknown-event", due)]),
    ]
    assert "then it is a dead letter" not in caplog.text


def test_what_was_no_longer_held_when_it_was_put_off_is_put_off_when_it_is_delivered_again(
    make: Make, poor: Poor, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    @listener("image.created", id="send", retry=Retry(1))
    def send(event: Event) -> None:
        calls.append(str(event.id))
        clock.advance(600.0)
        raise OSError("no such host")

    poor.capabilities = attrs.evolve(Poor.capabilities, presence=True)
    app = make(send, transports={"main": poor})
    app.dispatch("image.created", {})

    report = app.worker(DRAIN).run()

    assert (report.retried, len(calls)) == (1, 1)
    assert caplog.text.count("so it is tried again in 1 h: retries-exhausted: send") == 1
