"""
The types by which type checkers check a deferred call; nothing here is imported at run time.

Python cannot say "these parameters, and an option". So a call without options is checked against the parameters of the
function, and one with an option only at run time. ``app.dispatch(send_receipt.event(7), delay="1m")`` is checked too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from relevo._clock import Duration, Moment
from relevo._transport.envelope import Urgency

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Deferring(Protocol[P, R_co]):
    """Takes the arguments of a function, and options of a dispatch."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: Any, session: Any, **others: Any) -> R_co: ...
    @overload
    def __call__(self, *args: Any, delay: Duration, **others: Any) -> R_co: ...
    @overload
    def __call__(self, *args: Any, at: Moment, **others: Any) -> R_co: ...
    @overload
    def __call__(self, *args: Any, urgency: Urgency, **others: Any) -> R_co: ...
    @overload
    def __call__(self, *args: Any, ordering_key: str | None, **others: Any) -> R_co: ...
    @overload
    def __call__(self, *args: Any, expires: Moment | None, **others: Any) -> R_co: ...
    @overload
    def __call__(self, *args: Any, unique: str | None, **others: Any) -> R_co: ...
    @overload
    def __call__(self, *args: Any, to: str | Sequence[str] | None, **others: Any) -> R_co: ...
