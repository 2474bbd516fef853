"""Listeners: marks, registration and order."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from logging import getLogger
from threading import Lock
from types import CodeType, ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from relevo._clock import Duration, seconds
from relevo._event.codec import version_of
from relevo._event.event import Event, EventType, EventTypes, checked_name, declared, fields_of, name_of
from relevo._listener.annotation import evaluated
from relevo._listener.call import Call
from relevo._listener.lifespan import LifespanTable, Needs, lifespan_of, needed_type
from relevo._listener.namesake import Definition, are_different, generation, hidden, hidden_by, latest
from relevo._mark import MARK
from relevo._retry import DEFAULT_RETRY, Retry
from relevo._secret import without_secrets
from relevo._size import memory_limit_from
from relevo._transport.route import checked_queue
from relevo.errors import (
    ConfigurationError,
    DuplicateEventError,
    DuplicateListenerError,
    EventNameError,
    described,
    nearest,
    shown,
)

_log = getLogger("relevo.listener")

Missing = Literal["fail", "skip", "tombstone"]
"""What to do with a listener if the event's subject is not found."""

MAX_ID = 255
_PATTERN = frozenset("*?#[")
"""The characters of patterns, as routes and the topics of RabbitMQ have them."""

Sessions = Callable[[], Any]
"""Makes a session of SQLAlchemy's, as a ``sessionmaker``, a ``scoped_session`` or an ``async_sessionmaker`` does."""

MARKS = "__relevo_listeners__"
"""The attribute of a function that holds its marks."""

CALLED = "__relevo_called__"
"""The attribute of a marked object that holds the function which its listeners call in its place."""


def _policy(value: Retry | int | None) -> Retry | None:
    return Retry(value) if isinstance(value, int) else value


def _names(value: Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _limit(value: Duration) -> float:
    return seconds(value, what="time_limit of a listener", least=0.001)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Mark:
    """The arguments of :func:`listener`; the function itself is not changed."""

    event: str | type
    priority: int = 0
    queue: str | None = None
    retry: Retry | None = attrs.field(default=None, converter=_policy)
    id: str | None = None
    aliases: tuple[str, ...] = attrs.field(default=(), converter=_names)
    missing: Missing = "fail"
    time_limit: float | None = attrs.field(default=None, converter=attrs.converters.optional(_limit))
    """The longest run in seconds."""

    memory_limit: int | None = attrs.field(default=None, converter=attrs.converters.optional(memory_limit_from))
    """The bytes that its child process may occupy while it runs."""

    transactional: bool | Sessions = False
    """Whether it is called in a transaction, and what makes the session."""

    @property
    def sessions(self) -> Sessions | None:
        """What makes the session of its transaction; ``None`` if the transport does, or if it has none."""
        return None if isinstance(self.transactional, bool) else self.transactional

    def __attrs_post_init__(self) -> None:
        event: Any = self.event
        retry: Any = self.retry
        transactional: Any = self.transactional
        ids: tuple[Any, ...] = self.aliases if self.id is None else (self.id, *self.aliases)
        if isinstance(event, str) and not _PATTERN.isdisjoint(event):
            raise EventNameError(
                event,
                "a listener takes one name, not a pattern; write one @relevo.listener(…) for each event above the "
                "function",
            )
        where = f'a listener of "{declared(event).name if isinstance(event, type) else checked_name(event)}"'
        if self.queue is not None:
            checked_queue(self.queue, where=where)
        if type(self.priority) is not int:
            raise ConfigurationError(f"{where}: priority: expected an integer; got {shown(self.priority)}")
        if not (retry is None or isinstance(retry, Retry)):
            raise ConfigurationError(
                f"{where}: retry: expected relevo.Retry(…) or a number of runs; got {shown(retry)}; write "
                f'retry=relevo.Retry(5, first="2s", factor=4)'
            )
        if self.missing not in get_args(Missing):
            raise ConfigurationError(f"{where}: missing: expected fail, skip or tombstone; got {shown(self.missing)}")
        if not (isinstance(transactional, bool) or callable(transactional)):
            raise ConfigurationError(
                f"{where}: transactional: expected True, or a session factory, such as "
                f"sqlalchemy.orm.sessionmaker(engine); got {shown(transactional)}"
            )
        if not all(isinstance(each, str) and 0 < len(each) <= MAX_ID for each in ids):
            raise ConfigurationError(
                f"{where}: id, aliases: expected text of 1 to {MAX_ID} characters; got {shown(ids)}"
            )
        if self.id is not None:  # an alias is only searched for, and may be an id from before this rule
            _check_printable(self.id, where)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Listener:
    """A callable registered for one event."""

    id: str
    event_name: str
    event_type: EventType | None
    """The declared class whose instance it is called with; ``None`` for an :class:`Event`."""

    function: Callable[..., object]
    mark: Mark
    """The mark with which it was registered."""

    takes_call: bool
    """Whether it has a second parameter, for the :class:`Call`."""

    is_async: bool = False
    """Whether it is called on an event loop."""

    priority: int = 0
    queue: str | None = None
    retry: Retry | None = None
    aliases: tuple[str, ...] = ()
    watched: Callable[[Callable[[], Any]], Any] | None = None
    """Calls a function within the time limit; ``None`` if *function* does that itself, or if there is no limit."""

    needs: Needs = attrs.field(factory=dict)
    """The values of lifespans that it gets, after the call: from the name of a parameter to a type."""

    is_wrapped: bool = False
    """Whether *function* calls it inside the plugins that wrap listeners."""

    def __repr__(self) -> str:
        return f"<Listener {self.id} of {self.event_name}>"


def marks_of(thing: object) -> tuple[Mark, ...]:
    """Return the marks on *thing*, from top to bottom."""
    try:
        found = getattr(thing, MARKS, ())
    except Exception:  # noqa: BLE001 - a proxy that is not bound yet, such as Flask's request
        return ()
    return found if isinstance(found, tuple) else ()


def marked_methods(cls: type) -> list[str]:
    """Return the names of the marked methods of *cls*, in the order of their definition."""
    found = {name: value for each in reversed(cls.__mro__) for name, value in vars(each).items()}
    return [name for name, value in found.items() if marks_of(getattr(value, "__func__", value))]


def marked(things: Iterable[object]) -> Iterator[tuple[Callable[..., object], Mark]]:
    """
    Yield the marked functions among *things*, and the marked methods of the subscribers; leave out lifespans.

    Raises:
        ConfigurationError: One of them has no mark.
    """
    for thing in things:
        if lifespan_of(thing) is not None:
            continue
        holders: list[Any] = [getattr(thing, CALLED, thing)]
        if not (callable(thing) and marks_of(thing)):
            holders = [] if inspect.isclass(thing) else [getattr(thing, name) for name in marked_methods(type(thing))]
        found = [(each, mark) for each in holders for mark in marks_of(each)]
        yield from found
        if not found:
            place = defined_at(thing)
            what = f"{shown(thing)}{place and f' ({place})'}"
            if inspect.isclass(thing) and marked_methods(thing):
                raise ConfigurationError(f"{what} is a class; pass an instance of it: app.listen({thing.__name__}(…))")
            raise ConfigurationError(
                f"{what} has no listener; put @relevo.listener(…) above a function, or above methods and pass an "
                f"instance"
            )


class ListenerTable:
    """
    The listeners of an application, ordered by priority and then by registration.

    Args:
        event_types: Takes the declared classes that listeners use.

        unique: Refuse two listeners of one event with the same id. Not needed in process, where no progress is stored
            under it.
    """

    def __init__(self, event_types: EventTypes | None = None, *, unique: bool = True):
        self.event_types = EventTypes() if event_types is None else event_types
        self.lifespans = LifespanTable()
        """What a process opens once, for the listeners that ask for it."""

        self._unique = unique
        self._by_name: dict[str, list[Listener]] = {}
        self._ordered: dict[str, tuple[Listener, ...]] = {}
        self._queued: dict[tuple[str, str, str], tuple[Listener, ...]] = {}
        self._definitions: dict[tuple[str, str, tuple[str, str]], Definition] = {}
        """By the event's name, the listener's id, and the module and name of the function."""

        self._at: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}
        """By the module and name of a function, the events' names and listeners' ids that it has a definition for."""

        self._generation = generation.number
        """That of the last renewal."""

        self._followed = generation.number
        """That of the last renewal that was tried for a running worker."""

        self._following = Lock()

        self._ousted: list[tuple[Listener, Listener]] = []
        """Listeners of cells that were replaced by one of another event, with that one, until it is logged."""

    def add(self, function: Callable[..., object], mark: Mark) -> Listener:
        """
        Register *function* for the event of *mark*; registering it again does nothing.

        If it is an earlier function that was defined again, in a cell of a notebook or by ``importlib.reload``, it
        replaces that. Functions of different cells with different explicit ids are different listeners.

        Raises:
            DuplicateListenerError: The event has a listener with the same id.

            ConfigurationError: *function* cannot be called, or has the wrong parameters.
        """
        event_type = self._declared_for(function, mark.event) if isinstance(mark.event, type) else None
        event_name = event_type.name if event_type else str(mark.event)
        given: object = function
        if not callable(given):
            raise ConfigurationError(
                f'{shown(function)} cannot be a listener of "{event_name}": it cannot be called; pass a function'
            )
        listener_id = id_of(function, mark)
        _check_printable(listener_id, f'a listener of "{event_name}"')
        has_call = takes_call(function, mark.event)
        if mark.transactional and not has_call:
            raise ConfigurationError(
                f"{listener_id} is transactional and takes no call, which has the session; write (event, call) as its "
                f"parameters, and use call.session"
            )
        if mark.transactional is True and is_async(function):
            raise ConfigurationError(
                f"{listener_id} is transactional and async; no transport makes an AsyncSession; name a session "
                f"factory: transactional=async_sessionmaker(engine), or write it as def"
            )
        made = Listener(
            id=listener_id,
            event_name=event_name,
            event_type=event_type,
            function=function,
            mark=mark,
            takes_call=has_call,
            is_async=is_async(function),
            needs=_needs_of(function),
            priority=mark.priority,
            queue=mark.queue,
            retry=mark.retry,
            aliases=mark.aliases,
        )
        earlier = self._earlier(function, mark)
        siblings = self._by_name.setdefault(event_name, [])
        for sibling in siblings:
            if sibling.function == function and sibling.mark is mark and sibling not in earlier:
                return sibling
            taken = {sibling.id, *sibling.aliases}.intersection((made.id, *made.aliases))
            if taken and self._unique and sibling not in earlier:
                places = [_described(each) for each in (sibling.function, function)]
                raise DuplicateListenerError(min(taken), event_name, function, sibling.function, places=places)
        place = next((index for index, sibling in enumerate(siblings) if sibling in earlier), len(siblings))
        for name in {each.event_name for each in earlier} - {event_name}:
            self._by_name[name] = [each for each in self._by_name[name] if each not in earlier]
        self._ousted += [(each, made) for each in earlier if each.event_name != event_name]
        left = [each for each in siblings if each not in earlier]
        self._by_name[event_name] = [*left[:place], made, *left[place:]]  # at once, since a worker may be running
        if (definition := Definition.of(function)) is not None:
            self._definitions[event_name, listener_id, definition.place] = definition
            known = self._at.get(definition.place, ())
            if (event_name, listener_id) not in known:
                self._at[definition.place] = (*known, (event_name, listener_id))
        self._forget()
        return made

    def declare(self, cls: type) -> EventType:
        """
        Register the declared class *cls*, as ``EventTypes.add()`` does.

        If it was defined again, the listeners of the earlier class get its instances.
        """
        before = self.event_types.get(declared(cls).name)
        found = self.event_types.add(cls)
        if before is not None and before is not found:
            siblings = self._by_name.get(found.name, [])
            siblings[:] = [attrs.evolve(each, event_type=each.event_type and found) for each in siblings]
            self._forget()
        return found

    def _declared_for(self, function: Callable[..., object], cls: type) -> EventType:
        """Register *cls*; an error about its fields names the listener *function* too."""
        try:
            return self.declare(cls)
        except DuplicateEventError:  # which names both classes
            raise
        except ConfigurationError as error:
            place = defined_at(function)
            raise ConfigurationError(f"{default_id(function)}{place and f' ({place})'}: {error}") from error

    def _earlier(self, function: Callable[..., object], mark: Mark) -> list[Listener]:
        """Return the listeners of earlier definitions of *function*, if it was defined again."""
        definition = Definition.of(function)
        if definition is None:
            return []
        found = self._replaced_by(definition, (mark, *marks_of(function)))
        lost = [*hidden_by(function)]
        for each in found:
            if (inner := inspect.unwrap(each.function)) in lost:  # both are in one run of their module
                raise hidden(inner, function)
        return found

    def _replaced_by(self, definition: Definition, marks: Iterable[Mark]) -> list[Listener]:
        """Return the listeners that a function with that *definition* and *marks* replaces."""
        ids = [mark.id for mark in marks]
        return [
            each
            for event_name, listener_id in self._at.get(definition.place, ())
            for each in self._by_name.get(event_name, ())
            if each.id == listener_id
            and definition.replaces(self._definition_of(each))
            and not (definition.is_in_cell and are_different(ids, self._explicit_ids(each.function)))
        ]

    def _explicit_ids(self, function: Callable[..., object]) -> list[str | None]:
        """Return the ids with which *function* is registered; ``None`` for the default one."""
        return [each.mark.id for each in self._everything() if each.function == function]

    def _definition_of(self, listener: Listener) -> Definition | None:
        """Return the definition of the function of *listener* when it was registered."""
        place = _place(listener.function)
        return None if place is None else self._definitions.get((listener.event_name, listener.id, place))

    def _everything(self) -> list[Listener]:
        return [each for siblings in self._by_name.values() for each in siblings]

    def renew(self, *, always: bool = False) -> None:
        """
        Replace the listeners whose functions were defined and marked again, as by the reload of their module.

        Args:
            always: Look for such functions although none was defined again since the last time.

        Raises:
            ConfigurationError: A new function cannot be a listener. Then all stay as they are, and the next call raises
                it again, until the function is defined without the error or its listener is removed.
        """
        number = generation.number  # read before the functions, so that one which is defined meanwhile is noticed
        if self._generation == number and not always:
            return
        with self._all_or_nothing():
            for each in self._everything():
                function = latest(each.function)
                definition = Definition.of(function)
                is_new = definition is not None and definition.replaces(self._definition_of(each))
                for mark in marks_of(function) if is_new else ():
                    self.add(function, mark)
        self._generation = number

    def _follow(self) -> None:
        """Renew for a worker that is running, which cannot raise: log an error, and keep the earlier functions."""
        if not self._following.acquire(blocking=False):  # another thread does it
            return
        try:
            self._followed = generation.number
            self.renew()
        except Exception as error:  # noqa: BLE001 - the checks of a class may raise anything
            _log.warning("%s; until that is corrected, a running worker calls the earlier function", described(error))
        finally:
            self._following.release()

    def extend(self, things: Iterable[object]) -> None:
        """
        Register the marked functions and subscribers among *things*, and the lifespans.

        None of them is registered if one cannot be registered.
        """
        things = list(things)
        with self._all_or_nothing():
            for lifespan in filter(None, map(lifespan_of, things)):
                self.lifespans.add(lifespan)
            for function, mark in marked(things):
                self.add(function, mark)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Restore the listeners if the block raises."""
        before, ousted = self.copy(), [*self._ousted]
        try:
            yield
        except BaseException:
            self._by_name, self._definitions = before._by_name, before._definitions  # noqa: SLF001 - of this class
            self._at, self._ousted = before._at, ousted  # noqa: SLF001 - as above
            self.lifespans.restore(before.lifespans)
            self.event_types.clear()  # others have it
            self.event_types.update(before.event_types)
            self._forget()
            raise

    def remove(self, listener: Listener) -> None:
        """Remove *listener*; do nothing if it is not registered."""
        siblings = self._by_name.get(listener.event_name, [])
        left = [each for each in siblings if each.function != listener.function or each.mark is not listener.mark]
        if len(left) < len(siblings):
            siblings[:] = left
            self._forget()

    def remove_id(self, listener_id: str) -> None:
        """Remove the listeners with that id; do nothing if there are none."""
        for each in self._everything():
            if each.id == listener_id:
                self.remove(each)

    def copy(self) -> ListenerTable:
        """Return another table with the same listeners in the same order."""
        made = ListenerTable(EventTypes(self.event_types), unique=self._unique)
        made._by_name = {name: [*siblings] for name, siblings in self._by_name.items()}
        made._definitions, made._at = {**self._definitions}, {**self._at}
        made.lifespans = self.lifespans.copy()
        made._generation = self._generation
        return made

    def withdraw(self, things: Iterable[object]) -> None:
        """
        Remove functions, subscribers and lifespans; ignore those that are not registered.

        Raises:
            ConfigurationError: One of them has no mark and is not registered.
        """
        for thing in things:
            if (lifespan := lifespan_of(thing)) is not None:
                self.lifespans.remove(lifespan)
            elif not self.remove_function(thing):
                for function, _ in marked((thing,)):
                    self.remove_function(function)

    def remove_function(self, function: object) -> bool:
        """
        Remove all listeners that call *function*, or the function that it replaces.

        Returns:
            Whether there were any.
        """
        function = getattr(function, CALLED, function)
        definition = Definition.of(function)
        replaced = [] if definition is None else self._replaced_by(definition, marks_of(function))
        found = [each for each in self._everything() if each.function == function or each in replaced]
        for each in found:
            self.remove(each)
        return bool(found)

    def __call__(self, event: object = None) -> tuple[Listener, ...]:
        """
        Return the listeners of *event* in the order in which they are called; by default those of all events.

        Args:
            event: A name, a declared class, or an event.
        """
        if event is None:
            return tuple(self)
        if isinstance(event, type):
            event = declared(event).name
        return self.of(event if isinstance(event, str) else name_of(event))

    def of(self, event_name: str) -> tuple[Listener, ...]:
        """Return the listeners of *event_name* in the order in which they are called."""
        known = self._ordered
        found = known.get(event_name)
        if found is None and self._ousted:
            self._log_ousted()
        if found is None and event_name in self._by_name:
            found = tuple(sorted(self._by_name[event_name], key=lambda each: -each.priority))
            known[event_name] = found
        return found or ()

    def version_of(self, event: object) -> int | None:
        """
        Return the version of the class for a named *event*, after validating its data; ``None`` if no listener has one.

        Raises:
            EncodeError: The data does not fit the class.
        """
        if not isinstance(event, Event):
            return None
        kind = next((each.event_type for each in self.of(event.name) if each.event_type is not None), None)
        return None if kind is None else version_of(event, kind)

    def in_queue(self, event_name: str, queue: str, first: str) -> tuple[Listener, ...]:
        """
        Return the listeners of *event_name* that run in *queue*.

        Args:
            event_name: The name of the event.

            queue: The queue that it was received from.

            first: The first queue that the event is routed to; listeners without a queue run there.
        """
        if self._followed != generation.number:
            self._follow()
        key = (event_name, queue, first)
        known = self._queued
        found = known.get(key)
        if found is None:
            found = tuple(each for each in self.of(event_name) if (each.queue or first) == queue)
            if found:  # names without listeners are not cached: foreign events may bring any number of them
                known[key] = found
        return found

    def hint(self, event_name: str) -> str:
        """Return ``; did you mean "…" (file:line)?`` for the event with a listener that is nearest, or nothing."""
        near = nearest(event_name, [name for name, siblings in self._by_name.items() if siblings])
        if near is None:
            return ""
        place = defined_at(self.of(near)[0].function)
        return f'; did you mean "{without_secrets(near)}"{place and f" ({place})"}?'

    def __iter__(self) -> Iterator[Listener]:
        for event_name in sorted(self._by_name):
            yield from self.of(event_name)

    def __len__(self) -> int:
        return sum(len(siblings) for siblings in self._by_name.values())

    def __repr__(self) -> str:
        found = {name: ", ".join(each.id for each in self.of(name)) for name in sorted(self._by_name)}
        lines = [f"\n  {name}: {ids}" for name, ids in found.items() if ids]
        return f"<ListenerTable{''.join(lines) or ' without listeners'}>"

    def _log_ousted(self) -> None:
        """Log which events lost a listener because a cell defined a function of its name for another event."""
        ousted, self._ousted = self._ousted, []
        for former, new in ousted:
            definition = Definition.of(new.function)
            is_same = None is not former.mark.id == new.mark.id
            left = [_place(each.function) for each in self._by_name.get(former.event_name, ())]
            if definition is None or not definition.is_in_cell or is_same or definition.place in left:
                continue
            _log.warning(
                '%s is now a listener of "%s"; it replaced the earlier function of the same name, so "%s" has lost its '
                "listener %s; if you need both, rename one of them or give each its own id=…, and run both cells",
                _described(new.function),
                new.event_name,
                former.event_name,
                former.id,
            )

    def _forget(self) -> None:
        """Forget what was looked up; a worker that looks something up meanwhile remembers it in the former tables."""
        self._ordered, self._queued = {}, {}


def policy_of(listener: Listener, *, queue: Retry | None = None) -> Retry:
    """Return the retry policy of *listener*: its own, else the event's, else the queue's, else the default."""
    return listener.retry or (listener.event_type and listener.event_type.retry) or queue or DEFAULT_RETRY


def defined_at(thing: object) -> str:
    """Return where the function *thing* is defined, as ``file:line``, or a module's file; empty if not known."""
    if isinstance(thing, ModuleType):
        return getattr(thing, "__file__", None) or ""
    found = inspect.unwrap(thing) if callable(thing) else thing
    code = getattr(getattr(found, "__func__", found), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if isinstance(code, CodeType) else ""


def _place(function: object) -> tuple[str, str] | None:
    definition = Definition.of(function)
    return None if definition is None else definition.place


def _described(function: Callable[..., object]) -> str:
    """Return the name of *function* with its place, for an error."""
    if isinstance(function, partial):
        return f"partial of {_described(function.func)}"
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    place = defined_at(function)
    return f"{name}{place and f' ({place})'}"


def _check_printable(listener_id: str, where: str) -> None:
    if not listener_id.isprintable():
        raise ConfigurationError(
            f"{where}: id: expected printable characters; got {shown(listener_id)}; pass another id=…, with the "
            f"old one in aliases=…"
        )


def is_function(thing: object) -> bool:
    """Return whether *thing* can be called and is not a class."""
    return callable(thing) and not isinstance(thing, type)


def id_of(function: Callable[..., object], mark: Mark) -> str:
    """Return the id of the listener that calls *function* because of *mark*."""
    return mark.id or default_id(function)


def default_id(function: Callable[..., object]) -> str:
    """Return the id of a listener that calls *function*, unless its mark has one: ``module:qualified.name``."""
    module = getattr(function, "__module__", None) or type(function).__module__
    if module == "__main__":  # the name under which a worker imports it, so that the ids are the same in both
        script = sys.argv[0].rpartition("/")[2].removesuffix(".py")
        module = getattr(sys.modules[module].__spec__, "name", None) or script or module
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}:{name}"


_PLAIN = r"(?:\w+\.)*(?:int|str|float|bool|bytes|list|tuple|set|datetime|Decimal|UUID|None)(?:\[[^|]*\])?"
_DATA = re.compile(rf"(?:typing\.)?Optional\[{_PLAIN}\]|{_PLAIN}(?: *\| *{_PLAIN})*")
"""Annotations of data, such as ``int | None``: a listener gets the event, which has the data."""


def _annotated_as_data(parameters: Sequence[inspect.Parameter]) -> str:
    """Return the annotation of the first of *parameters* if it is one of data; empty if it may be an event."""
    annotation = parameters[0].annotation if parameters else ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text if _DATA.fullmatch(text) else ""


def _annotated_as_class(function: Callable[..., object], parameters: Sequence[inspect.Parameter]) -> type | None:
    """Return the class with fields that annotates the first of *parameters*, alone or in a union without an event."""
    try:
        found = evaluated(function, parameters[0].annotation)
        members = get_args(found) if isinstance(found, UnionType) or get_origin(found) is Union else (found,)
        classes = [each for each in members if each is not NoneType]
        has_fields = all(isinstance(each, type) and fields_of(each) is not None for each in classes)
        if not has_fields or any(issubclass(Event, each) or issubclass(each, Event) for each in classes):
            return None
        return next(iter(classes), None)
    except Exception:  # noqa: BLE001 - an event may be what cannot be evaluated
        return None


def _annotated_as_other(function: Callable[..., object], parameter: inspect.Parameter) -> str:
    """Return the class that annotates *parameter* of *function* if a call is not of it; empty if it may be."""
    try:
        found = evaluated(function, parameter.annotation)
        may_be = found in (Any, parameter.empty) or getattr(found, "_is_protocol", False)
        return "" if may_be or issubclass(Call, found) or issubclass(found, Call) else str(found.__qualname__)
    except Exception:  # noqa: BLE001 - a call may be what cannot be evaluated, or what is not a class
        return ""


def _refuse_parameters(
    name: str,
    function: Callable[..., object],
    event: str | type | None,
    positional: Sequence[inspect.Parameter],
    needed: Sequence[inspect.Parameter],
) -> None:
    """Refuse *function* if its annotations or defaults show that it takes something else than *event* and a call."""
    if annotation := _annotated_as_data(positional):
        first = positional[0].name
        raise ConfigurationError(
            f"{name} cannot be a listener: it is called with the event, and {first} is annotated as {annotation}; "
            f'read the data from the event, as in event["{first}"]'
        )
    if isinstance(event, str) and (cls := _annotated_as_class(function, positional)):
        own = cls.__qualname__.rpartition(".")[2]
        declare = "" if MARK in vars(cls) else f'put @relevo.event("{event}") above {own} and '
        raise ConfigurationError(
            f'{name} cannot be a listener of "{event}": a listener for a name is called with a relevo.Event, and '
            f"{positional[0].name} is annotated as {cls.__qualname__}; {declare}write @relevo.listener({own}), or "
            f"annotate it as relevo.Event"
        )
    for each in positional:
        if type(each.default).__module__ == "fastapi.params":
            raise ConfigurationError(
                f"{name} cannot be a listener: it is called with the event and the call alone, and {each.name} has the "
                f"default {type(each.default).__name__}(…), which only FastAPI resolves; remove the parameter, and "
                f"create what the function needs inside it"
            )
    if len(needed) == 2 and (annotation := _annotated_as_other(function, needed[1])):
        raise ConfigurationError(
            f"{name} cannot be a listener: it is called with (event, call), and {needed[1].name} is annotated as "
            f"{annotation}; annotate it as relevo.Call, and let what a lifespan yields come after it: (event, call, "
            f"{needed[1].name}: {annotation})"
        )


def is_async(function: Callable[..., object]) -> bool:
    """Return whether calling *function* returns a coroutine, which has to be run."""
    return _is_a(function, inspect.iscoroutinefunction)


def _is_a(function: Callable[..., object], *checks: Callable[[object], bool]) -> bool:
    """Return whether one of *checks* applies to *function*, or to the method by which an object is called."""
    return any(check(function) or check(getattr(function, "__call__", None)) for check in checks)  # noqa: B004 - bound


def takes_call(function: Callable[..., object], event: str | type | None = None) -> bool:
    """
    Return whether *function* takes an event and a call, and maybe what lifespans yield, instead of an event alone.

    Args:
        function: The function.

        event: The name or the declared class that it listens to, if that is known.

    Raises:
        ConfigurationError: It has parameters that nothing is passed for, or is a generator, or a method without its
            instance.
    """
    name = default_id(function)
    if _is_a(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise ConfigurationError(
            f"{name} cannot be a listener: it has a yield, so calling it does not run it; use def or async def without "
            f"yield, and call the generator inside, as in: for _ in steps(event): pass"
        )
    try:
        positional, needed = _parameters(function)
    except (TypeError, ValueError):  # it is written in C
        return False
    if any(p.kind is p.VAR_POSITIONAL for p in needed):
        return True
    first = positional[0].name if positional else "call"
    if first in ("self", "cls"):
        raise ConfigurationError(
            f"{name} is a method and cannot be a listener without its instance; pass an instance, or write a function "
            f"that takes (event) or (event, call)"
        )
    more = [each for each in needed if each not in positional[:2]]
    needed = needed[: len(needed) - len(more)]
    where = f"{name} cannot be a listener: it must take (event) or (event, call)"
    if first == "call":
        raise ConfigurationError(where)
    for each in more:
        needed_type(where, function, each)
    if inspect.unwrap(function) is function:  # else a decorator may pass other arguments on
        _refuse_parameters(name, function, event, positional, needed)
    has_call = len(needed) == 2 or (len(positional) > 1 and positional[1].name == "call")
    if more and not has_call:
        raise ConfigurationError(f"{where}; write (event, call, {more[0].name}) to get what a lifespan yields")
    return has_call


def _parameters(function: Callable[..., object]) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """Return the parameters of *function* that may be passed by position, and those that need an argument."""
    parameters = inspect.signature(function).parameters.values()
    return (
        [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)],
        [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD],
    )


def _needs_of(function: Callable[..., object]) -> Needs:
    """Return the values of lifespans that *function* gets, which :func:`takes_call` has accepted."""
    try:
        positional, needed = _parameters(function)
    except (TypeError, ValueError):  # it is written in C
        return {}
    if any(each.kind is each.VAR_POSITIONAL for each in needed):
        return {}
    name = default_id(function)
    return {each.name: needed_type(name, function, each) for each in needed if each not in positional[:2]}
