"""
Whether a worker grows while a million events pass through it, with everything on that a worker can do.

    python benchmarks/endurance.py                                         # SQLite
    python benchmarks/endurance.py --url postgresql://localhost/empty      # another, empty database
    python benchmarks/endurance.py --events 100000 --execution threads     # a shorter look at threads

The worker is a process of its own: signed events, a plain and an async listener, a lifespan, a step in each hundredth
event, one that each tenth event dispatches, retries, dead letters, a schedule, a limit of the queue, and a plugin. A
line shows its memory, its open files and its threads after each tenth of the events. The exit code is 1 if the memory
grows by more than 5 MB between the first tenth and the end, or if there are more files or threads.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import attrs

import relevo

PARTS = 10
MOST = 5 * 1024
"""Kilobytes by which the memory may grow."""

_AT_ONCE = 1000
_AHEAD = 20_000
"""The most events that wait."""

_KEY = os.environ.setdefault("ENDURANCE_KEY", secrets.token_urlsafe(32))
"""A new one for each run, which the worker inherits."""


class Client:
    """What a lifespan opens."""

    def reserve(self, number: int) -> int:
        """Return the number of the reservation."""
        return number


class Watch:
    """A plugin that sees each call of a listener."""

    calls = 0

    @relevo.hookimpl
    def relevo_around_listener(self, proceed: Callable[[], object]) -> object:
        """Count the call."""
        self.calls += 1
        return proceed()

    @relevo.hookimpl
    async def relevo_around_async_listener(self, proceed: Callable[[], Awaitable[object]]) -> object:
        """Count the call."""
        self.calls += 1
        return await proceed()


def an_app(url: str) -> relevo.App:
    """Return the application of the sender and of the worker."""
    app = relevo.App(
        transports={"main": url},
        source="endurance",
        signing=relevo.Signing(_KEY),
        queues={"default": relevo.QueueOptions(rate="1000000/s", concurrency=10_000)},
        plugins=[Watch()],
    )

    @app.lifespan
    def client() -> Iterator[Client]:
        yield Client()

    @app.listener("order.made", id="plain", retry=relevo.Retry(2, first=0.1))
    def plain(event: relevo.Event, call: relevo.Call, client: Client) -> None:
        if not event["number"] % 100:  # each is a commit of its own
            call.step("reserve", client.reserve, event["number"])
        if not event["number"] % 10:
            call.dispatch(relevo.Event("order.sent", {"number": event["number"]}))
        if not event["number"] % 1000 and (call.attempt == 1 or not event["number"] % 10_000):
            raise ValueError("each thousandth is tried again, and each ten-thousandth dies")

    @app.listener("order.made", id="awaited")
    async def awaited(event: relevo.Event) -> None: ...

    app.add_listener("order.sent", lambda _: None, id="sent")
    app.add_listener("minute.passed", lambda _: None, id="minute")
    app.schedule("* * * * *", "minute.passed")
    return app


@attrs.frozen
class Size:
    """What a process occupies."""

    memory: int
    """Kilobytes."""

    files: int
    threads: int

    @classmethod
    def of(cls, process: int) -> Size:
        """Return the size of *process*."""
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
        )
        files = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
        return cls(int(status["VmRSS"].split()[0]), files, int(status["Threads"]))


def passed(url: str, events: int, execution: str, concurrency: int) -> Iterator[tuple[int, Size, float]]:
    """Let that number of *events* pass; yield their number, the worker's size and the rate after each tenth."""
    with an_app(url) as app:
        app.setup()
        command = [sys.executable, __file__, "--url", url, "--serve", execution, "--concurrency", str(concurrency)]
        worker = subprocess.Popen(command)
        try:
            sent = 0
            for number in range(1, PARTS + 1):
                began, before = time.perf_counter(), sent
                while sent < events * number // PARTS:
                    _await(app, worker, most=_AHEAD)
                    app.dispatch_many(
                        [relevo.Event("order.made", {"number": each}) for each in range(sent, sent + _AT_ONCE)]
                    )
                    sent += _AT_ONCE
                _await(app, worker, most=0)
                yield sent, Size.of(worker.pid), (sent - before) / (time.perf_counter() - began)
        finally:
            worker.terminate()
            worker.wait()


def _await(app: relevo.App, worker: subprocess.Popen[bytes], *, most: int) -> None:
    while (app.transports["main"].stats("default").ready or 0) > most:
        if worker.poll() is not None:
            raise SystemExit(f"the worker has ended with {worker.returncode}")
        time.sleep(0.05)


def main() -> int:
    """Measure, and print the sizes."""
    parser = argparse.ArgumentParser(description="The growth of a worker.")
    parser.add_argument("--url", help="an empty database; by default a new file of SQLite")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--execution", choices=["inline", "threads", "async"], default="inline")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.getLogger("relevo").setLevel(logging.CRITICAL)  # failures are part of it
    if given.serve:
        with an_app(given.url) as app:
            relevo.LoopRunner().run(app, relevo.RunOptions(execution=given.serve, concurrency=given.concurrency))
        return 0
    sizes: list[Size] = []
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'endurance.db'}"
        for events, size, rate in passed(url, given.events, given.execution, given.concurrency):
            sizes.append(size)
            print(
                f"{events:10,} events {size.memory / 1024:8.1f} MB {size.files:4} files {size.threads:3} threads "
                f"{rate:8,.0f} events/s",
                flush=True,
            )
    first, last = sizes[0], sizes[-1]
    print(f"growth since the first tenth: {(last.memory - first.memory) / 1024:.1f} MB")
    has_grown = last.memory - first.memory > MOST or last.files > first.files or last.threads > first.threads
    return 1 if has_grown else 0


if __name__ == "__main__":
    sys.exit(main())
