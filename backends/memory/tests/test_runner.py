"""A whole application on memory, run when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.orm import Session

import relevo
from relevo import App, Event, RunOptions
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_memory import ManualRunner, MemoryTransport


class Feed:
    """Keeps what it heard, and fails as often as it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.failures = 0

    @relevo.listener("image.created")
    def update(self, event: Event) -> None:
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError
        self.heard.append(event["image_id"])


@pytest.fixture(name="feed")
def _feed() -> Feed:
    return Feed()


@pytest.fixture(name="app")
def _app(feed: Feed, clock: FakeClock) -> Callable[..., App]:
    def app(**more: object) -> App:
        main = MemoryTransport(name="main", clock=clock)
        return App(transports={"main": main}, routes={"*": "main"}, listeners=[feed], clock=clock, **more)  # type: ignore[arg-type]

    return app


def test_it_handles_what_is_ready_and_returns(app: Callable[..., App], feed: Feed) -> None:
    with app() as shop:
        for number in range(3):
            shop.dispatch(Event("image.created", {"image_id": number}))
        assert feed.heard == []

        report = ManualRunner().run(shop)

        assert feed.heard == [0, 1, 2]
        assert (report.handled, report.done, report.stopped_by) == (3, 3, "empty")
        assert ManualRunner().run(shop).handled == 0


def test_a_retry_is_left_for_the_time_when_it_is_due(app: Callable[..., App], feed: Feed, clock: FakeClock) -> None:
    with app(chance=lambda: 0.0) as shop:
        feed.failures = 1
        shop.dispatch(Event("image.created", {"image_id": 7}))

        assert ManualRunner().run(shop).retried == 1
        assert ManualRunner().run(shop).handled == 0
        clock.advance(60)
        assert ManualRunner().run(shop).done == 1

    assert feed.heard == [7]


def test_what_keeps_failing_ends_in_the_dead_letters_and_can_be_revived(app: Callable[..., App], feed: Feed) -> None:
    with app() as shop:
        feed.failures = 5
        shop.dispatch(Event("image.created", {"image_id": 7}))

        report = ManualRunner().run(shop, RunOptions(settle=1_000_000))

        assert (report.dead, report.retried) == (1, 4)
        [dead] = shop.transport().dead_letters(["default"])
        assert "ZeroDivisionError" in dead.error
        shop.transport().revive({dead.ref: b""})
        ManualRunner().run(shop)

    assert feed.heard == [7]


def test_its_limits_hold(app: Callable[..., App], feed: Feed) -> None:
    with app() as shop:
        for number in range(3):
            shop.dispatch(Event("image.created", {"image_id": number}))

        report = ManualRunner().run(shop, RunOptions(max_events=2))

        assert (report.handled, report.stopped_by) == (2, "events")
        assert shop.transport().stats("default").ready == 1


def test_an_outbox_in_memory_is_emptied_first(app: Callable[..., App], feed: Feed, clock: FakeClock) -> None:
    outbox = MemoryTransport(name="outbox", clock=clock)
    with app(outboxes={"main": outbox}) as shop, Session() as session:
        shop.dispatch(Event("image.created", {"image_id": 1}), session=session)
        session.commit()
        shop.dispatch(Event("image.created", {"image_id": 2}), session=session)
        session.rollback()
        assert outbox.stats("outbox/main").ready == 1

        report = ManualRunner().run(shop)

        assert report.handled == 1
        assert outbox.stats("outbox/main").ready == 0

    assert feed.heard == [1]


@pytest.fixture(name="chained")
def _chained(clock: FakeClock) -> Iterator[tuple[App, list[int]]]:
    """Return an application whose listener dispatches the next event into the outbox, and what it heard."""
    heard: list[int] = []

    class Chain:
        @relevo.listener("link.reached")
        def follow(self, event: Event) -> None:
            heard.append(event["left"])
            if event["left"]:
                with Session() as session:
                    shop.dispatch(Event("link.reached", {"left": event["left"] - 1}), session=session)
                    session.commit()

    outbox, main = MemoryTransport(name="outbox", clock=clock), MemoryTransport(name="main", clock=clock)
    shop = App(
        transports={"main": main}, routes={"*": "main"}, listeners=[Chain()], outboxes={"main": outbox}, clock=clock
    )
    with shop:
        yield shop, heard


def test_what_a_listener_dispatches_into_the_outbox_is_handled_in_the_same_run(chained: tuple[App, list[int]]) -> None:
    shop, heard = chained
    shop.dispatch(Event("link.reached", {"left": 3}))

    report = ManualRunner().run(shop)

    assert heard == [3, 2, 1, 0]
    assert (report.done, report.stopped_by) == (4, "empty")


def test_its_limits_hold_for_all_that_comes_out_of_the_outbox_together(chained: tuple[App, list[int]]) -> None:
    shop, heard = chained
    shop.dispatch(Event("link.reached", {"left": 5}))

    report = ManualRunner().run(shop, RunOptions(max_events=3))

    assert heard == [5, 4, 3]
    assert (report.done, report.stopped_by) == (3, "events")


def test_no_host_system_can_run_it(app: Callable[..., App]) -> None:
    with app() as shop, pytest.raises(ConfigurationError, match="manual"):
        ManualRunner().unit(shop, RunOptions())
