"""
What schedules cost a worker that is idle otherwise, and how long many take that are due together.

    python benchmarks/schedules.py                                        # 10,000 schedules on SQLite
    python benchmarks/schedules.py --url postgresql://localhost/empty     # on another, empty database

Each schedule fires once a day. They are spread over the day, as many for each minute, so some fire meanwhile, and their
events are handled. The share of a core is that of the process, with and without schedules; only the difference is
theirs. After that, all are due in the same minute.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import relevo
from relevo._app.app import clockwork_of
from relevo._schedule.clockwork import Clockwork
from relevo.testing import FakeClock

_DAY = 24 * 60


def an_app(url: str, number: int, *, together: bool = False, clock: relevo.Clock | None = None) -> relevo.App:
    """Return an application with that *number* of schedules."""
    app = relevo.App(transports={"main": url}, source=f"schedules-{number}-{together}", clock=clock)
    app.add_listener("minute.passed", lambda _: None, id="pass")
    for each in range(number):
        minute, hour = (0, 0) if together else (each % _DAY % 60, each % _DAY // 60)
        app.schedule(f"{minute} {hour} * * *", "minute.passed", name=f"schedule {each}", timezone="Europe/Madrid")
    app.setup()
    return app


def _clockwork(app: relevo.App) -> Clockwork:
    found = clockwork_of(app, "main")
    if found is None:
        raise SystemExit("there is no schedule")
    return found


@contextmanager
def a_worker(app: relevo.App) -> Iterator[None]:
    """Run a worker of *app* in a thread."""
    ended = threading.Event()

    class Stop:
        @relevo.hookimpl
        def relevo_may_run(self) -> str | None:
            return "the measurement is over" if ended.is_set() else None

    app.hooks.add(Stop())
    thread = threading.Thread(target=relevo.LoopRunner(signals=False).run, args=(app,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def share(url: str, number: int, seconds: float) -> tuple[float, float]:
    """Return the seconds of the start with that *number* of schedules, and the share of a core of the idle worker."""
    with an_app(url, number) as app:
        began = time.perf_counter()
        if number:
            _clockwork(app).turn(time.time())  # so that it is known when they have been read
        start = time.perf_counter() - began
        with a_worker(app):
            time.sleep(start + 2.0)  # it reads them too
            before, at = time.process_time(), time.perf_counter()
            time.sleep(seconds)
            return start, (time.process_time() - before) / (time.perf_counter() - at)


def seconds_together(url: str, number: int) -> float:
    """Return how long that *number* of schedules takes that are due together."""
    clock = FakeClock(time.time())
    with an_app(url, number, together=True, clock=clock) as app:
        clockwork = _clockwork(app)
        clockwork.turn(clock.now())
        clock.advance(86_400)
        began = time.perf_counter()
        fired = clockwork.turn(clock.now())
        took = time.perf_counter() - began
        if fired != number:
            raise SystemExit(f"{number} schedules were due, and {fired} ticks were fired")
        return took


def main() -> None:
    """Measure, and print the shares."""
    parser = argparse.ArgumentParser(description="The cost of schedules for an idle worker.")
    parser.add_argument("--url", help="an empty database; by default a new file of SQLite")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=65.0, help="more than a minute, so that some fire")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'schedules.db'}"
        _, without = share(url, 0, given.seconds)
        start, with_all = share(url, given.schedules, given.seconds)
        together = seconds_together(url, given.schedules)
    print(f"start            {start:8.2f} s, the first one, which stores them")
    print(f"idle, none       {without:8.2%} of a core")
    print(f"idle, {given.schedules:<10} {with_all:8.2%} of a core")
    print(f"difference       {with_all - without:8.2%}")
    print(f"all due together {together:8.2f} s")


if __name__ == "__main__":
    main()
