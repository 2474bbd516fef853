"""Log lines about what is tried again: one for each failure of a listener."""

from __future__ import annotations

from logging import INFO, WARNING, getLogger

from relevo._clock import readable
from relevo._transport.delivery import Delivery, Failure
from relevo._visible import visible
from relevo._worker.decision import Reason
from relevo.errors import RetryLater

_log = getLogger("relevo.listener")

_RELEVO = __file__.rpartition("_worker")[0]
"""The folder of this package, whose frames do not show where a listener was."""


def log_failure(delivery: Delivery, failure: Failure, error: BaseException, *, runs: int, now: float) -> None:
    """
    Log *failure* as one line; from the level INFO on with the traceback.

    Args:
        delivery: The delivery.

        failure: The failure.

        error: What the listener raised.

        runs: The largest number of runs of the listener.

        now: Seconds since the epoch.
    """
    if failure.due is None:
        ending = "gave up" if failure.reason == Reason.GAVE_UP else "the last"
    else:
        ending = f"again in {readable(max(0.0, failure.due - now))}"
    is_planned = isinstance(error, RetryLater) and failure.due is not None
    place = "" if is_planned else place_of(error)
    _log.log(
        INFO if is_planned else WARNING,
        "%s %s on %s (run %d of %d, %s): %s%s",
        failure.listener,
        "asks to run again" if is_planned else "failed",
        delivery,
        failure.attempt,
        runs,
        ending,
        visible(failure.error),
        f" ({visible(place)})" if place else "",
        exc_info=error if _log.isEnabledFor(INFO) and not is_planned else None,
    )


def place_of(error: BaseException) -> str:
    """Return where the listener was when *error* was raised, as ``file:line``; empty if that is not known."""
    trace, found, line = error.__traceback__, "", 0
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if found == file or (not found and not file.startswith(_RELEVO)):
            found, line = file, trace.tb_lineno
        trace = trace.tb_next
    return f"{found.rpartition('/')[2]}:{line}" if found else ""
