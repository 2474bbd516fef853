"""What the core's tests start from: a clock that stands still, a memory transport, envelopes and deliveries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from relevo import App, Delivery, Envelope, ListenerTable, Retry, Settlement, Stats, SubjectType, Worker
from relevo._event.subject import SubjectTypes
from relevo._listener.listener import Mark
from relevo._worker.caller import Caller
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

from .shop import Shop, opened

T = TypeVar("T")


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    """Make an application in a folder, whose commands are run."""
    return opened(tmp_path)


@pytest.fixture(name="store")
def _store() -> MemoryStore:
    return MemoryStore()


class FaultyTransport(MemoryTransport):
    """The memory transport over a bad line: its calls are noted, and fail when they are told to."""

    calls: list[tuple[str, Any]]
    faults: dict[str, list[tuple[BaseException, bool]]]

    def fail(self, operation: str, error: BaseException, *, times: int = 1, done: bool = False) -> None:
        """Let *operation* raise *error* so many *times*; with *done* after its effect, as when the answer is lost."""
        self.faults.setdefault(operation, []).extend([(error, done)] * times)

    def said(self, operation: str) -> list[Any]:
        """Return what *operation* was called with, call by call."""
        return [what for called, what in self.calls if called == operation]

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        return self._over_the_line("setup", tuple(queues), lambda: super(FaultyTransport, self).setup(queues))

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        ids = [envelope.id for envelope in envelopes]
        self._over_the_line("send", ids, lambda: super(FaultyTransport, self).send(envelopes, delay=delay))

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        receive = super().receive
        return self._over_the_line(
            "receive", (limit, wait), lambda: receive(queues, limit=limit, lease=lease, wait=wait)
        )

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        said = [(one.envelope.id, outcome) for one, outcome in settlements if isinstance(one.envelope, Envelope)]
        return self._over_the_line("settle", said, lambda: super(FaultyTransport, self).settle(settlements))

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        ids = [one.envelope.id for one in deliveries if isinstance(one.envelope, Envelope)]
        return self._over_the_line("extend", ids, lambda: super(FaultyTransport, self).extend(deliveries, lease=lease))

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        self._over_the_line("checkpoint", state, lambda: super(FaultyTransport, self).checkpoint(delivery, state))

    def stats(self, queue: str) -> Stats:
        return self._over_the_line("stats", queue, lambda: super(FaultyTransport, self).stats(queue))

    def _over_the_line(self, operation: str, what: object, act: Callable[[], T]) -> T:
        self.calls.append((operation, what))
        error, done = self.faults[operation].pop(0) if self.faults.get(operation) else (None, True)
        result = act() if done else None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]


@pytest.fixture(name="transport")
def _transport(store: MemoryStore, clock: FakeClock) -> Iterator[FaultyTransport]:
    with FaultyTransport(store, clock=clock) as transport:
        transport.calls, transport.faults = [], {}
        yield transport


@pytest.fixture(name="other")
def _other(store: MemoryStore, clock: FakeClock) -> Iterator[MemoryTransport]:
    """Make a second transport on the same store, as another process would have it."""
    with MemoryTransport(store, name="other", clock=clock) as transport:
        yield transport


@pytest.fixture(name="envelope")
def _envelope() -> Callable[..., Envelope]:
    """Make an envelope with a body that fits: its id, its data, and attributes of the body or of the envelope."""

    def envelope(event_id: str = "1", data: object = None, **fields: Any) -> Envelope:
        name = fields.pop("name", "image.created")
        body = {"specversion": "1.0", "id": event_id, "source": "shop", "type": name, "data": data or {}}
        for attribute in ("subject", "dataversion", "relevocontext", "time", "correlationid", "causationid"):
            if attribute in fields:
                body[attribute] = fields.pop(attribute)
        body |= fields.pop("body", {})
        return Envelope(id=event_id, source="shop", name=name, body=msgspec.json.encode(body), **fields)

    return envelope


@pytest.fixture(name="delivery")
def _delivery(envelope: Callable[..., Envelope], clock: FakeClock) -> Callable[..., Delivery]:
    """Make a delivery that no transport knows: attributes of it, or of its envelope."""

    def delivery(**fields: Any) -> Delivery:
        own = {"queue": "default", "receipt": object(), "enqueued_at": clock.now()}
        own |= {
            key: fields.pop(key) for key in ("queue", "attempt", "lost_leases", "state", "enqueued_at") if key in fields
        }
        return Delivery(envelope=fields.pop("whole", None) or envelope(**fields), **own)  # type: ignore[arg-type]

    return delivery


@pytest.fixture(name="table")
def _table() -> ListenerTable:
    return ListenerTable()


@pytest.fixture(name="listen")
def _listen(table: ListenerTable) -> Callable[..., None]:
    """Register a function as a listener of ``image.created``, or of what is said."""

    def listen(function: Callable[..., object], **how: Any) -> None:
        retry = how.pop("retry", None)
        policy = Retry(retry) if isinstance(retry, int) else retry
        table.add(function, Mark(**{"event": "image.created", "id": function.__name__, "retry": policy, **how}))

    return listen


@pytest.fixture(name="caller")
def _caller(table: ListenerTable, clock: FakeClock) -> Callable[..., Caller]:
    """Make a caller of the registered listeners; without chance, and without checkpoints unless said."""

    def caller(*, subjects: Sequence[SubjectType] = (), **how: Any) -> Caller:
        return Caller(
            **{
                "listeners": table,
                "first_queue": lambda _: "default",
                "subjects": SubjectTypes(subjects),
                "clock": clock,
                "chance": lambda: 0.0,
                **how,
            },
        )

    return caller


@pytest.fixture(name="send")
def _send(transport: Any, envelope: Callable[..., Envelope]) -> Callable[..., None]:
    """Send so many events, called 0, 1, 2 and so on."""

    def send(number: int, *, delay: float = 0.0, **fields: Any) -> None:
        transport.send([envelope(str(i), **fields) for i in range(number)], delay=delay)

    return send


@pytest.fixture(name="worker")
def _worker(transport: MemoryTransport, caller: Callable[..., Caller], clock: FakeClock) -> Callable[..., Worker]:
    """Make a worker of the default queue, over the registered listeners unless said, with nothing beside its loop."""

    def worker(handle: Callable[..., Any] | None = None, **how: Any) -> Worker:
        on = how.pop("transport", transport)
        return Worker(
            transport=on,
            handle=caller(checkpoint=on.checkpoint).outcome if handle is None else handle,
            **{"queues": ["default"], "clock": clock, "chance": lambda: 0.0, "background": False, **how},
        )

    return worker


@pytest.fixture(name="make")
def _make(clock: FakeClock) -> Iterator[Callable[..., App]]:
    """Make an application, with one memory transport called main if nothing is said."""
    made: list[App] = []

    def make(*listeners: object, **how: Any) -> App:
        parts: dict[str, Any] = {"transports": {"main": MemoryTransport(clock=clock)}, "routes": {"*": "main"}}
        made.append(
            App(listeners=listeners, **{**parts, "source": "shop", "clock": clock, "chance": lambda: 0.0, **how})
        )
        return made[-1]

    yield make
    for app in made:
        app.close()
