"""
The cost of a dispatch for the request that waits for it: relevo's own share, in memory, and its peers.

    python benchmarks/dispatch.py [--rounds 7]

Each contestant sends the same event of five fields, one by one and, if it can, 1,000 at once. The floor only encodes
the event and makes an id. Contestants take turns; the fastest round of each counts, in microseconds of processor time.
Peers that are not installed are omitted: pip install celery dramatiq huey.
"""

from __future__ import annotations

import argparse
import gc
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import attrs
import msgspec

import relevo
from relevo_memory import MemoryTransport

NAME = "image.created"
FIELDS: dict[str, Any] = {"path": "2026/11/sea.jpg", "width": 640, "height": 480, "user": "ann", "rating": 4.5}
LINES: dict[str, Any] = {
    "order": 7,
    "lines": [{"article": f"a{number}", "number": number, "price": 9.5} for number in range(5)],
}
NUMBER = 1000
KEY = "a key of a benchmark, which is not a secret"

Work = Callable[[], object]


@attrs.frozen
class Contestant:
    """A function that dispatches :data:`NUMBER` events."""

    one_by_one: Work
    at_once: Work | None = None


@relevo.event(NAME)
@attrs.frozen
class ImageCreated:
    """The same event as a declared class."""

    path: str
    width: int
    height: int
    user: str
    rating: float


class Nowhere(MemoryTransport):
    """Discards envelopes: what remains is the core's share."""

    def send(self, envelopes: Sequence[relevo.Envelope], *, delay: float = 0.0) -> None:
        """Do nothing."""


def floor() -> Contestant:
    """Encode the event and make an id."""
    encode = msgspec.json.Encoder().encode
    return Contestant(lambda: [(encode(FIELDS), str(uuid.uuid4())) for _ in range(NUMBER)])


def with_relevo(
    event: object, transport: Callable[[], MemoryTransport], *, around: Mapping[str, Any] | None = None, **more: Any
) -> Callable[[], Contestant]:
    """Dispatch *event* to a new *transport*, inside the context *around*."""

    def made() -> Contestant:
        app = relevo.App(transports={"main": transport()}, routes={"*": "main"}, **more)
        app.setup()
        events = [event] * NUMBER

        def one_by_one() -> None:
            with relevo.context(**around) if around else nullcontext():
                for each in events:
                    app.dispatch(each)

        def at_once() -> None:
            with relevo.context(**around) if around else nullcontext():
                app.dispatch_many(events)

        return Contestant(one_by_one, at_once)

    return made


def handle(**fields: object) -> None:
    """Do nothing: nothing that is sent here is received."""


def with_celery() -> Contestant:
    """Send a task to Celery's broker in memory."""
    import celery  # noqa: PLC0415 - it may be missing

    app = celery.Celery("benchmark", broker="memory://", set_as_current=False)
    task = app.task(name=NAME)(handle)
    return Contestant(lambda: [task.apply_async(kwargs=FIELDS) for _ in range(NUMBER)])


def with_dramatiq() -> Contestant:
    """Send a message to Dramatiq's stub broker."""
    import dramatiq  # noqa: PLC0415 - it may be missing
    from dramatiq.brokers.stub import StubBroker  # noqa: PLC0415 - it may be missing

    actor = dramatiq.actor(actor_name=NAME, broker=StubBroker())(handle)
    return Contestant(lambda: [actor.send(**FIELDS) for _ in range(NUMBER)])


def with_huey() -> Contestant:
    """Enqueue a task in Huey's memory."""
    from huey import MemoryHuey  # noqa: PLC0415 - it may be missing

    task = MemoryHuey("benchmark").task(name=NAME)(handle)
    return Contestant(lambda: [task(**FIELDS) for _ in range(NUMBER)])


BY_NAME = relevo.Event(NAME, FIELDS)

CONTESTANTS: dict[str, Callable[[], Contestant]] = {
    "floor: JSON and an id": floor,
    "relevo, core alone": with_relevo(BY_NAME, Nowhere),
    "relevo, memory transport": with_relevo(BY_NAME, MemoryTransport),
    "  a declared class": with_relevo(ImageCreated(**FIELDS), MemoryTransport),
    "  five nested lines": with_relevo(relevo.Event("order.placed", LINES), MemoryTransport),
    "  a context of three values": with_relevo(BY_NAME, MemoryTransport, around={"a": 1, "b": "two", "c": 3.0}),
    "  signed": with_relevo(BY_NAME, MemoryTransport, signing=KEY),
    "Huey, in memory": with_huey,
    "Dramatiq, stub broker": with_dramatiq,
    "Celery, memory broker": with_celery,
}


def measured(work: Work) -> float:
    """Return the microseconds for an event."""
    gc.collect()
    gc.disable()
    began = time.process_time()
    work()
    taken = time.process_time() - began
    gc.enable()
    return taken / NUMBER * 1e6


def rounds(number: int) -> Iterator[tuple[str, list[float], list[float]]]:
    """Yield the rounds of each contestant, one by one and at once."""
    present = {}
    for name, made in CONTESTANTS.items():
        try:
            made()
        except ImportError:
            continue
        present[name] = made
    one: dict[str, list[float]] = {name: [] for name in present}
    many: dict[str, list[float]] = {name: [] for name in present}
    for _ in range(number):
        for name, made in present.items():
            one[name].append(measured(made().one_by_one))
            if (work := made().at_once) is not None:
                many[name].append(measured(work))
    for name in present:
        yield name, one[name], many[name]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="The cost of a dispatch in memory.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each contestant (7)")
    options = parser.parse_args()
    print(f"{'microseconds a dispatch':30}{'one by one':>12}{'1,000 at once':>15}{'x floor':>16}")
    least: float | None = None
    for name, one, many in rounds(options.rounds):
        least = least or min(one)
        at_once = f"{min(many):15.2f}" if many else f"{'-':>15}"
        times = f"{min(one) / least:9.1f} " + (f"{min(many) / least:6.1f}" if many else f"{'-':>6}")
        print(f"{name:30}{min(one):12.2f}{at_once}{times}")


if __name__ == "__main__":
    main()
