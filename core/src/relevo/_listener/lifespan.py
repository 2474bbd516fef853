"""Lifespans: what a process opens once, for the listeners that ask for it by type."""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, Protocol, get_args, get_origin

import attrs

from relevo._listener.annotation import evaluated, is_data, type_name
from relevo.errors import ConfigurationError, described, shown

LIFESPAN = "__relevo_lifespan__"
"""The attribute of a function that holds its lifespan."""

_YIELDING = frozenset([Iterator, Generator, Iterable, AsyncIterator, AsyncGenerator, AsyncIterable])

Needs = Mapping[str, Any]
"""From the name of a parameter to the type of the value that it gets."""


class Asking(Protocol):
    """A listener or a lifespan: it may ask for what others yield."""

    @property
    def id(self) -> str: ...

    @property
    def is_async(self) -> bool: ...

    @property
    def needs(self) -> Needs: ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Lifespan:
    """A generator function whose value listeners get: it opens before its ``yield``, and closes after it."""

    id: str
    """The module and the qualified name of the function."""

    function: Callable[..., Any]
    kind: Any
    """The type of what it yields."""

    is_async: bool
    """Whether it runs on the event loop."""

    needs: Needs
    """The values of other lifespans that it gets."""

    def __repr__(self) -> str:
        return f"<Lifespan {self.id}>"


def lifespan_of(thing: object) -> Lifespan | None:
    """Return the lifespan that *thing* is marked as."""
    try:
        found = getattr(thing, LIFESPAN, None)
    except Exception:  # noqa: BLE001 - a proxy that is not bound yet, such as Flask's request
        return None
    return found if isinstance(found, Lifespan) else None


def lifespan_for(function: Any, *, id: str, names: Mapping[str, Any]) -> Lifespan:  # noqa: A002 - of the class
    """
    Return the lifespan that calls *function*.

    Args:
        function: The generator function.

        id: The module and the qualified name of it.

        names: Local names where it is defined.

    Raises:
        ConfigurationError: It is not a generator function, or its annotations do not say what it yields or takes.
    """
    if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        raise ConfigurationError(
            f"lifespan: expected a function with one yield, without other decorators; got {shown(function)}; open "
            f"before the yield, and close after it"
        )
    kind = _yielded(function, id, names)
    needs: dict[str, Any] = {}
    for each in inspect.signature(function).parameters.values():
        if each.name in ("self", "cls"):
            raise ConfigurationError(f"{id} cannot be a lifespan: it is a method; write a function")
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            needs[each.name] = needed_type(f"{id} cannot be a lifespan", function, each, names)
    return Lifespan(id=id, function=function, kind=kind, is_async=inspect.isasyncgenfunction(function), needs=needs)


def _yielded(function: Any, where: str, names: Mapping[str, Any]) -> Any:
    """Return the type of what *function* yields, as it is annotated."""
    is_async = inspect.isasyncgenfunction(function)
    write = f"write -> {'AsyncIterator' if is_async else 'Iterator'}[Engine] if it yields an Engine"
    annotation = inspect.signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        raise ConfigurationError(f"{where} cannot be a lifespan: it is not annotated with what it yields; {write}")
    try:
        found = evaluated(function, annotation, names, is_whole=True)
    except Exception as error:
        raise ConfigurationError(
            f"{where} cannot be a lifespan: the annotation of what it yields cannot be evaluated: {described(error)}; "
            f"import at run time what it names"
        ) from error
    arguments = get_args(found)
    if get_origin(found) not in _YIELDING or not arguments:
        raise ConfigurationError(f"{where} cannot be a lifespan: it is annotated as {type_name(found)}; {write}")
    if is_data(arguments[0]):
        raise ConfigurationError(
            f"{where} cannot be a lifespan: it yields {type_name(arguments[0])}, which does not say what it is for; "
            f'yield an instance of a class of your own, or of a type: Token = NewType("Token", str)'
        )
    return arguments[0]


def needed_type(
    where: str, function: Callable[..., object], parameter: inspect.Parameter, names: Mapping[str, Any] | None = None
) -> Any:
    """
    Return the type of the value that *parameter* of *function* gets, which a lifespan yields.

    Raises:
        ConfigurationError: It has no annotation, or one of data; its text begins with *where*.
    """
    name = parameter.name
    if parameter.annotation is parameter.empty:
        raise ConfigurationError(f"{where}: annotate {name} with the type of what a lifespan yields, or remove it")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ConfigurationError(f"{where}: {name} is passed by its name; put it after the /")
    try:
        found = evaluated(function, parameter.annotation, names, is_whole=True)
    except Exception as error:
        raise ConfigurationError(
            f"{where}: the annotation of {name} cannot be evaluated: {described(error)}; import at run time what it "
            f"names"
        ) from error
    if is_data(found):
        raise ConfigurationError(
            f"{where}: {name} is annotated as {type_name(found)}, and only the value of a lifespan is found by its "
            f"type; read data from the event"
        )
    return found


class LifespanTable:
    """The lifespans of an application, in the order of their registration; each yields another type."""

    def __init__(self, lifespans: Mapping[Any, Lifespan] | None = None):
        self._by_kind: dict[Any, Lifespan] = dict(lifespans or {})

    def add(self, lifespan: Lifespan) -> None:
        """
        Register *lifespan*; one whose function was defined again, in a cell of a notebook, replaces the former one.

        Raises:
            ConfigurationError: Another one yields the same type.
        """
        known = self._by_kind.get(lifespan.kind)
        if known is not None and known.id != lifespan.id:
            name = type_name(lifespan.kind)
            raise ConfigurationError(
                f"the lifespans {known.id} and {lifespan.id} both yield {name}, and listeners get a value by its type; "
                f'let one of them yield a subclass, or a type of its own: Other{name} = NewType("Other{name}", {name})'
            )
        self._by_kind = {kind: each for kind, each in self._by_kind.items() if each.id != lifespan.id or each is known}
        self._by_kind[lifespan.kind] = lifespan

    def remove(self, lifespan: Lifespan) -> None:
        """Remove *lifespan*; do nothing if it is not registered."""
        self._by_kind = {kind: each for kind, each in self._by_kind.items() if each is not lifespan}

    def get(self, kind: Any) -> Lifespan | None:
        """Return the lifespan that yields *kind*."""
        return self._by_kind.get(kind)

    def copy(self) -> LifespanTable:
        """Return another table with the same lifespans."""
        return LifespanTable(self._by_kind)

    def restore(self, before: LifespanTable) -> None:
        """Become like *before*."""
        self._by_kind = dict(before._by_kind)

    def __iter__(self) -> Iterator[Lifespan]:
        return iter(tuple(self._by_kind.values()))

    def needed_by(self, asking: Asking, provided: Container[Any] = ()) -> list[Lifespan]:
        """
        Return the lifespans that have to be open for *asking*, each after those that it needs itself.

        Args:
            asking: A listener or a lifespan.

            provided: The types of values that need no lifespan.

        Raises:
            ConfigurationError: None yields a type that is needed, one needs itself, or what runs in a thread needs one
                on the event loop.
        """
        found: dict[Lifespan, None] = {}
        self._collect(asking, provided, found, ())
        return list(found)

    def _collect(
        self, asking: Asking, provided: Container[Any], found: dict[Lifespan, None], path: tuple[Asking, ...]
    ) -> None:
        for name, kind in asking.needs.items():
            lifespan = self._by_kind.get(kind)
            if lifespan is None and kind not in provided:
                raise ConfigurationError(self._missing(asking, name, kind))
            if lifespan is None:
                continue
            if lifespan.is_async and not asking.is_async:
                raise ConfigurationError(
                    f"{asking.id}: {name} comes from the async lifespan {lifespan.id}, which only what is async can "
                    f"use; write async def here, or make {lifespan.id} a plain generator function"
                )
            if kind in provided:
                continue
            if lifespan is asking or lifespan in path:
                raise ConfigurationError(f"{lifespan.id}: {name} is its own value, directly or through other lifespans")
            self._collect(lifespan, provided, found, (*path, asking))
            found[lifespan] = None

    def _missing(self, asking: Asking, name: str, kind: Any) -> str:
        near = [
            each.kind
            for each in self
            if isinstance(each.kind, type) and isinstance(kind, type) and _is_near(each.kind, kind)
        ]
        wanted = type_name(kind)
        remedy = (
            f"did you mean {type_name(near[0])}?"
            if near
            else f"put @app.lifespan above a function that yields it, annotated -> Iterator[{wanted}], or import the "
            f"module of that"
        )
        return f"{asking.id}: {name} is annotated as {wanted}, and no lifespan yields that; {remedy}"


def _is_near(one: type, other: type) -> bool:
    """Return whether one of two classes is derived from the other."""
    try:
        return issubclass(one, other) or issubclass(other, one)
    except TypeError:  # a protocol that cannot be checked at run time
        return False
