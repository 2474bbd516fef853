"""The diary: a line for each run of a listener, with its time and outcome, so that the demo can show what happened."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable

import attrs

import relevo
from gallery.events import ImageCreated
from gallery.store import store

PATH = "diary.jsonl"

Function = Callable[[ImageCreated, relevo.Call], None]


@attrs.frozen(kw_only=True)
class Run:
    """One run of one listener."""

    listener: str
    filename: str
    attempt: int
    started_at: float
    """Seconds since the epoch."""

    seconds: float
    error: str
    """Empty if it succeeded."""


def recorded(listener: Function) -> Function:
    """Write a line into the diary at the end of each run of *listener*."""

    @functools.wraps(listener)
    def run(event: ImageCreated, call: relevo.Call) -> None:
        started_at, start, problem = time.time(), time.perf_counter(), ""
        try:
            listener(event, call)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise
        finally:
            _write(
                Run(
                    listener=listener.__name__,
                    filename=event.filename,
                    attempt=call.attempt,
                    started_at=started_at,
                    seconds=time.perf_counter() - start,
                    error=problem,
                )
            )

    return run


def runs() -> list[Run]:
    """Return all runs so far, in the order in which they ended."""
    try:
        text = store.absolute(PATH).read_text()
    except FileNotFoundError:
        return []
    whole, _, _ = text.rpartition("\n")  # the last line may be half written
    return [Run(**json.loads(line)) for line in whole.splitlines()]


def _write(run: Run) -> None:
    with store.absolute(PATH).open("a") as file:  # one small write in append mode: processes do not mix their lines
        file.write(json.dumps(attrs.asdict(run)) + "\n")
