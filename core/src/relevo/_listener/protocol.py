"""
What type checkers hold a marked listener to; nothing here is imported when a program runs.

A listener for a class takes an instance of it, or of something wider, and a second parameter takes a
:class:`Call`; so do methods, after their ``self``. What is marked keeps its own type. Python has no
type for "this, and also that". But what implements an overloaded protocol fits every one of its forms:
the first says what a listener has to take, the second finds out what it is, and that is returned. mypy
finds that out by the names of parameters, so plainer forms follow for functions whose parameters have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar, overload

from relevo._clock import Duration
from relevo._listener.call import Call
from relevo._listener.listener import Missing
from relevo._retry import Retry

E = TypeVar("E")
Me = TypeVar("Me")
R_co = TypeVar("R_co", covariant=True)
Needed = ParamSpec("Needed")
Own = ParamSpec("Own")


class Fits(Protocol[Needed, Own, R_co]):
    """A callable that can be called with *Needed*, and is one of *Own* that returns *R_co*."""

    @overload
    def __call__(self, *args: Needed.args, **kwargs: Needed.kwargs) -> object: ...
    @overload
    def __call__(self, *args: Own.args, **kwargs: Own.kwargs) -> R_co: ...


class Listening(Protocol[E]):
    """What marks a function or a method as a listener for *E*, and gives it back."""

    @overload
    def __call__(self, function: Fits[[E], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Fits[[E, Call], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Fits[[Any, E], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Fits[[Any, E, Call], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Callable[[E], R_co], /) -> Callable[[E], R_co]: ...
    @overload
    def __call__(self, function: Callable[[E, Call], R_co], /) -> Callable[[E, Call], R_co]: ...
    @overload
    def __call__(self, function: Callable[[Me, E], R_co], /) -> Callable[[Me, E], R_co]: ...
    @overload
    def __call__(self, function: Callable[[Me, E, Call], R_co], /) -> Callable[[Me, E, Call], R_co]: ...


class ListenerOptions(TypedDict, total=False):
    """The other arguments of :func:`relevo.listener`."""

    priority: int
    queue: str | None
    retry: Retry | int | None
    id: str | None
    aliases: Iterable[str]
    missing: Missing
    time_limit: Duration | None
