"""
In process: the cost of a dispatch, compared with pyee, blinker, and a dict with a loop.

    python benchmarks/local.py

Every contestant calls one or ten listeners that do nothing, by name, with one argument. Only figures of the same run
are comparable; the ratio to the dict is the meaningful one.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import relevo

NAME = "image.created"
ROUNDS = 7
SECONDS = 0.2
"""The approximate duration of each round."""

Contestant = Callable[[int], Callable[[], object]]
"""Takes the number of listeners; returns a function that dispatches once."""


def listeners(number: int) -> list[Callable[[Any], None]]:
    """Return that number of distinct functions that do nothing."""

    def made() -> Callable[[Any], None]:
        def listener(event: Any) -> None:
            pass

        return listener

    return [made() for _ in range(number)]


def by_hand(number: int) -> Callable[[], object]:
    """Call from a dict, in a loop: the lower limit in Python."""
    table = {NAME: listeners(number)}

    def dispatch() -> None:
        for listener in table[NAME]:
            listener(None)

    return dispatch


def with_relevo(number: int) -> Callable[[], object]:
    """Dispatch an existing event, as the others send existing values."""
    dispatcher = relevo.LocalDispatcher()
    for listener in listeners(number):
        dispatcher.add_listener(NAME, listener)
    event = relevo.Event(NAME, {"image_id": 7})
    return lambda: dispatcher.dispatch(event)


def with_pyee(number: int) -> Callable[[], object]:
    """Emit by pyee."""
    from pyee.base import EventEmitter  # noqa: PLC0415 - it may be missing

    emitter = EventEmitter()
    for listener in listeners(number):
        emitter.on(NAME, listener)
    event = {"image_id": 7}
    return lambda: emitter.emit(NAME, event)


def with_blinker(number: int) -> Callable[[], object]:
    """Send by blinker."""
    from blinker import Signal  # noqa: PLC0415 - it may be missing

    signal = Signal(NAME)
    for listener in listeners(number):
        signal.connect(listener, weak=False)
    event = {"image_id": 7}
    return lambda: signal.send(event)


CONTESTANTS: dict[str, Contestant] = {
    "dict and loop": by_hand,
    "relevo": with_relevo,
    "pyee": with_pyee,
    "blinker": with_blinker,
}


def microseconds(dispatch: Callable[[], object]) -> float:
    """Return the time of one call, in the fastest of some rounds."""
    timer = timeit.Timer(dispatch)
    calls, _ = timer.autorange()
    calls = max(1, int(calls * SECONDS / 0.2))
    return min(timer.repeat(ROUNDS, calls)) / calls * 1e6


def main() -> None:
    """Print a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{'microseconds a dispatch':24}{'1 listener':>12}{'10 listeners':>14}{'x dict':>16}")
    least: tuple[float, float] | None = None
    for name, contestant in CONTESTANTS.items():
        try:
            one, ten = (microseconds(contestant(number)) for number in (1, 10))
        except ImportError:
            print(f"{name:24}{'not installed: pip install ' + name:>42}")
            continue
        least = least or (one, ten)
        print(f"{_labelled(name):24}{one:12.2f}{ten:14.2f}{one / least[0]:9.1f} {ten / least[1]:6.1f}")


def _labelled(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


if __name__ == "__main__":
    main()
