"""Subjects that are loaded together for all events of a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import attrs
import pytest

from relevo import App, Call, Delivery, Envelope, Event, Execution, Subject, SubjectType, SubjectTypes, Unreadable
from relevo._worker.subjects_ahead import FRESH, SubjectsAhead
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

Make = Callable[..., Delivery]


@attrs.define(eq=False)
class Image:
    id: str


@attrs.define
class Store:
    """Images, and how they were loaded and released."""

    stored: set[str]
    alone: list[str] = attrs.field(factory=list)
    together: list[Sequence[str]] = attrs.field(factory=list)
    released: list[str] = attrs.field(factory=list)
    error: Exception | None = None

    def load(self, name: str) -> Image | None:
        self.alone.append(name)
        return Image(name) if name in self.stored else None

    def load_many(self, names: Sequence[str]) -> Mapping[str, Image]:
        self.together.append(names)
        if self.error is not None:
            raise self.error
        return {name: Image(name) for name in names if name in self.stored}

    def kind(self, **how: Any) -> SubjectType:
        parts: dict[str, Any] = {"type": "image", "cls": Image, "load": self.load, "load_many": self.load_many}
        release = lambda image: self.released.append(image.id)  # noqa: E731
        return SubjectType(**{**parts, "name": lambda image: image.id, "release": release, **how})


@pytest.fixture(name="store")
def _store() -> Store:
    return Store({str(number) for number in range(20)})


@pytest.fixture(name="batch")
def _batch(envelope: Callable[..., Envelope], delivery: Make) -> Callable[..., Sequence[Delivery]]:
    """Return what makes deliveries of events about the given subjects."""

    def batch(*subjects: str | None) -> Sequence[Delivery]:
        return [
            delivery(whole=envelope(str(number), **({"subject": each} if each else {})))
            for number, each in enumerate(subjects)
        ]

    return batch


Batch = Callable[..., Sequence[Delivery]]


def image(name: str) -> Subject:
    return Subject("image", name)


def test_the_subjects_of_a_batch_are_loaded_together_when_the_first_is_asked_for(
    store: Store, batch: Batch, clock: FakeClock
) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)

    ahead.expect(batch("image/1", "image/2", None, "other/3", "image/2", "image"))
    before = list(store.together)
    found = [ahead.load(image(name)).id for name in ("1", "2")]

    assert before == []
    assert found == ["1", "2"]
    assert (store.together, store.alone) == ([["1", "2"]], [])


def test_an_instance_is_given_once_and_what_is_stored_by_then_afterwards(
    store: Store, batch: Batch, clock: FakeClock
) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)

    ahead.expect(batch("image/1", "image/2"))
    first, second = (ahead.load(image("2")) for _ in range(2))

    assert first is not second
    assert (store.together, store.alone) == ([["1", "2"]], ["2"])


def test_an_instance_that_is_older_than_a_second_is_released_and_loaded_again(
    store: Store, batch: Batch, clock: FakeClock
) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)

    ahead.expect(batch("image/1", "image/2", "image/3"))
    ahead.load(image("1"))
    clock.advance(FRESH)
    ahead.load(image("2"))
    clock.advance(0.001)
    ahead.load(image("3"))

    assert (store.together, store.alone, store.released) == ([["1", "2", "3"]], ["3"], ["3"])


def test_the_age_of_an_instance_counts_from_before_it_was_loaded(store: Store, batch: Batch, clock: FakeClock) -> None:
    def slowly(names: Sequence[str]) -> Mapping[str, Image]:
        found = store.load_many(names)
        clock.advance(FRESH + 0.001)
        return found

    ahead = SubjectsAhead(SubjectTypes([store.kind(load_many=slowly)]), clock)

    ahead.expect(batch("image/1", "image/2"))
    ahead.load(image("1"))

    assert (store.together, store.alone, store.released) == ([["1", "2"]], ["1"], ["1"])


def test_a_subject_of_no_batch_loads_no_batch(store: Store, batch: Batch, clock: FakeClock) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)

    ahead.expect(batch("image/1", "image/2"))
    ahead.load(image("3"))

    assert (store.together, store.alone) == ([], ["3"])


def test_what_a_batch_lacks_is_not_released(
    store: Store, batch: Batch, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def with_nothing(names: Sequence[str]) -> Mapping[str, Any]:
        return dict.fromkeys(names) | dict(store.load_many(names))

    ahead = SubjectsAhead(SubjectTypes([store.kind(load_many=with_nothing)]), clock)

    ahead.expect(batch("image/1", "image/100"))
    ahead.load(image("1"))
    clock.advance(FRESH + 0.001)
    ahead.expect(batch("image/2"))

    assert (store.released, caplog.messages) == ([], [])


def test_what_no_listener_has_got_is_released_when_it_is_old(
    store: Store, batch: Batch, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def release(instance: Image) -> None:
        store.released.append(instance.id)
        raise OSError("broken")

    ahead = SubjectsAhead(SubjectTypes([store.kind(release=release)]), clock)

    ahead.expect(batch("image/1", "image/2", "image/3"))
    ahead.load(image("2"))
    ahead.expect(batch("image/4", "image/5"))
    clock.advance(FRESH + 0.001)
    ahead.expect(batch("image/6", "image/7"))

    assert store.released == ["1", "3"]
    assert "the subject image/1, which was loaded ahead, could not be released" in caplog.messages


def test_an_idle_worker_releases_what_is_old(store: Store, batch: Batch, clock: FakeClock) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)
    ahead.expect(batch("image/1", "image/2"))
    ahead.load(image("2"))

    ahead.expect(())
    early = list(store.released)
    clock.advance(FRESH + 0.001)
    ahead.expect(())

    assert (early, store.released) == ([], ["1"])


def test_an_event_gets_nothing_that_was_loaded_before_it_was_received(
    store: Store, batch: Batch, clock: FakeClock
) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock, 4)

    ahead.expect(batch("image/1", "image/2"))
    ahead.load(image("1"))
    ahead.expect(batch("image/2"))
    ahead.load(image("2"))

    assert (store.together, store.alone, store.released) == ([["1", "2"]], ["2"], ["2"])


def test_the_events_of_several_batches_may_be_handled_at_a_time(store: Store, batch: Batch, clock: FakeClock) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock, 2)

    ahead.expect(batch("image/1"))
    ahead.expect(batch("image/2"))
    ahead.expect(batch("image/3", "image/4"))
    ahead.expect(())
    ahead.load(image("2"))
    ahead.load(image("4"))
    ahead.load(image("1"))

    assert (store.together, store.alone) == ([["2", "3", "4"]], ["1"])


def test_a_subject_that_is_not_of_the_batch_is_loaded_alone(store: Store, batch: Batch, clock: FakeClock) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)

    ahead.load(image("1"))
    ahead.expect(batch("image/2"))
    ahead.load(image("2"))
    ahead.expect(batch("image/3", "image/3"))
    ahead.load(image("3"))

    assert (store.together, store.alone) == ([], ["1", "2", "3"])


def test_what_was_not_found_ahead_is_looked_for_again(store: Store, batch: Batch, clock: FakeClock) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)

    ahead.expect(batch("image/1", "image/new", "image/gone"))
    ahead.load(image("1"))
    store.stored.add("new")

    assert ahead.load(image("new")).id == "new"
    assert ahead.load(image("gone")) is None


def test_each_is_loaded_alone_if_that_fails(
    store: Store, batch: Batch, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)
    store.error = ValueError("2 is odd")

    ahead.expect(batch("image/1", "image/2"))
    found = [ahead.load(image(name)).id for name in ("1", "2")]

    assert found == ["1", "2"]
    assert len(store.together) == 1
    assert 'the load_many= of the subject type "image" failed for 2 subjects; each is loaded alone' in caplog.messages


def test_an_earlier_name_of_the_type_names_the_same_subject(store: Store, batch: Batch, clock: FakeClock) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind(aliases=["images"])]), clock)

    ahead.expect(batch("images/1", "image/1", "images/2"))
    ahead.load(image("1"))
    ahead.load(Subject("images", "1"))
    ahead.load(Subject("images", "2"))

    assert (store.together, store.alone) == ([["1", "2"]], ["1"])


def test_what_cannot_be_read_names_no_subject(
    store: Store, batch: Batch, delivery: Make, envelope: Callable[..., Envelope], clock: FakeClock
) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind()]), clock)
    broken = attrs.evolve(envelope("8"), body=b"{")

    ahead.expect(
        [
            *batch("image/1", "image/2", "image/%FF"),
            delivery(whole=broken),
            delivery(whole=Unreadable(raw=b"", headers={}, why="torn")),
        ]
    )
    ahead.load(image("1"))

    assert store.together == [["1", "2"]]


def test_a_type_without_load_many_is_loaded_as_before(store: Store, batch: Batch, clock: FakeClock) -> None:
    ahead = SubjectsAhead(SubjectTypes([store.kind(load_many=None)]), clock)

    ahead.expect(batch("image/1", "image/2"))
    ahead.load(image("1"))

    assert (store.together, store.alone) == ([], ["1"])


# --- in a worker -------------------------------------------------------------------------------------------


def dispatched(app: App, number: int) -> None:
    app.dispatch_many([Event("image.created", subject=image(str(each))) for each in range(number)])


def test_a_worker_loads_the_subjects_of_each_batch_together(make: Callable[..., App], store: Store) -> None:
    found: list[str] = []
    app = make(subjects=[store.kind()])
    app.add_listener("image.created", lambda event, call: found.append(call.subject.id), id="look")

    dispatched(app, 10)
    app.drain()

    assert found == [str(number) for number in range(10)]
    assert [*store.alone, *chain.from_iterable(store.together)] == found
    assert len(store.alone) <= 2, "a worker receives one event first"
    assert len(store.together) <= 3
    assert store.released == found


def test_at_the_end_of_a_run_what_no_listener_has_got_is_released(make: Callable[..., App], store: Store) -> None:
    app = make(subjects=[store.kind()])

    @app.listener("image.created")
    def look(event: Event, call: Call) -> None:
        assert event.subject is not None
        if int(event.subject.id) % 2:
            assert call.subject

    dispatched(app, 10)
    app.drain()

    assert sorted(store.released) == sorted({*store.alone, *chain.from_iterable(store.together)})
    assert len(store.released) > 5


def test_a_listener_that_asks_for_no_subject_costs_no_query(make: Callable[..., App], store: Store) -> None:
    app = make(subjects=[store.kind()])
    app.add_listener("image.created", lambda event, call: None, id="ignore")

    dispatched(app, 10)
    app.drain()

    assert (store.together, store.alone) == ([], [])


def test_a_second_listener_and_a_second_event_get_what_the_first_has_stored(
    make: Callable[..., App], store: Store
) -> None:
    versions: dict[str, int] = {}
    seen: list[tuple[str, int]] = []

    def load_many(names: Sequence[str]) -> Mapping[str, tuple[str, int]]:
        return {name: (name, versions.get(name, 0)) for name in names}

    kind = store.kind(cls=tuple, load_many=load_many, load=lambda name: load_many([name])[name], release=None)
    app = make(subjects=[kind])

    def count(event: Event, call: Call) -> None:
        name, version = call.subject
        seen.append((name, version))
        versions[name] = version + 1

    for each in ("first", "second"):
        app.add_listener("image.created", count, id=each)
    app.dispatch_many([Event("image.created", subject=image(name)) for name in ("0", "1", "1", "2", "1")])
    app.drain()

    assert [version for name, version in seen if name == "1"] == list(range(6))


def test_threads_share_one_query_and_no_instance(make: Callable[..., App], store: Store, clock: FakeClock) -> None:
    found: list[Image] = []
    all_came = threading.Event()

    class NoticingTransport(MemoryTransport):
        def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
            batch = super().receive(queues, limit=limit, lease=lease, wait=wait)
            if not batch:
                all_came.set()
            return batch

    def look(event: Event, call: Call) -> None:
        all_came.wait(60)
        found.append(call.subject)

    transport = NoticingTransport(clock=clock)
    app = make(subjects=[store.kind()], transports={"main": transport}, execution=Execution("threads", 4))
    app.add_listener("image.created", look, id="look")
    dispatched(app, 5)  # fewer than the threads have room for
    app.drain()

    assert sorted(each.id for each in found) == ["0", "1", "2", "3", "4"]
    assert len({id(each) for each in found}) == 5
    assert (store.together, store.alone) == ([["0", "1", "2", "3", "4"]], [])
