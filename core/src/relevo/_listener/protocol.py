"""
The types by which type checkers check a marked listener; nothing here is imported at run time.

A listener for a class takes an instance of it, or of a base class, and may take a :class:`Call` as the second
parameter, and after that what lifespans yield; methods do so after their ``self``. A marked function keeps its own
type. Python has no intersection types, but an implementation of an overloaded protocol matches every overload: the
first states the parameters that a listener must take, the second captures its own parameters and result, which are
returned. mypy captures them by parameter names, so simpler overloads follow for functions whose parameters have no
names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, overload

from relevo._clock import Duration
from relevo._listener.call import Call
from relevo._listener.listener import Missing, Sessions
from relevo._retry import Retry

E = TypeVar("E")
Me = TypeVar("Me")
R_co = TypeVar("R_co", covariant=True)
Needed = ParamSpec("Needed")
Own = ParamSpec("Own")
Given = ParamSpec("Given")


class Fits(Protocol[Needed, Own, R_co]):
    """A callable that accepts *Needed*, has the parameters *Own* and returns *R_co*."""

    @overload
    def __call__(self, *args: Needed.args, **kwargs: Needed.kwargs) -> object: ...
    @overload
    def __call__(self, *args: Own.args, **kwargs: Own.kwargs) -> R_co: ...


class Listening(Protocol[E]):
    """Marks a function or a method as a listener for *E*, and returns it."""

    @overload
    def __call__(self, function: Fits[[E], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Fits[[E, Call], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Fits[Concatenate[E, Call, Given], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Fits[[Any, E], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Fits[[Any, E, Call], Own, R_co], /) -> Callable[Own, R_co]: ...
    @overload
    def __call__(self, function: Fits[Concatenate[Any, E, Call, Given], Own, R_co], /) -> Callable[Own, R_co]: ...
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
    memory_limit: int | str | None
    transactional: bool | Sessions


class DeferredOptions(TypedDict, total=False):
    """The options of :meth:`relevo.Dispatcher.deferred`."""

    queue: str | None
    retry: Retry | int | None
    id: str | None
    aliases: Iterable[str]
    time_limit: Duration | None
    memory_limit: int | str | None
