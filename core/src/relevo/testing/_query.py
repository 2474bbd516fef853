"""Queries about dispatched events, and the messages of failed assertions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from relevo._event.codec import built_in, content_of, typed_from
from relevo._event.event import Event, EventType, checked_name, declared, name_of
from relevo._event.subject import Subject
from relevo._listener.listener import is_function
from relevo._transport.route import NOW, Routes, Target, parsed_target
from relevo.errors import (
    ConfigurationError,
    DecodeError,
    EncodeError,
    RouteNotFoundError,
    SubjectError,
    did_you_mean,
    shown,
)
from relevo.testing._record import DispatchedEvent, Record, format_dispatched, format_event, format_subject

if TYPE_CHECKING:
    from relevo._app.app import App

_MOST = 10
_LONGEST = 160

_FOUND = "read it from the result: [found] = t.dispatched(…); found."

_NOT_COMPARED: Mapping[str, str] = {
    "times": "write dispatched(…, times=…) for the number of events",
    "session": "an event counts when its session commits",
    "delay": f"{_FOUND}delay",
    "at": f"{_FOUND}delay, the seconds until then",
    "urgency": f"{_FOUND}envelope.urgency",
    "ordering_key": f"{_FOUND}envelope.ordering_key",
    "expires": f"{_FOUND}envelope.expires",
}
"""What is not an argument of an event as a rule, and how to ask for it."""

Check = Callable[[DispatchedEvent], bool]
Predicate = Callable[[Any], object]
"""Takes an event; its result is true if the event is one of those that are asked for."""


@attrs.frozen(kw_only=True)
class Query:
    """A query: a name, and checks that all must pass."""

    name: str | None
    kind: EventType | None
    arguments: Mapping[str, Any]
    """The requested values of some of its arguments, or of its fields."""

    checks: Sequence[Check]
    text: str
    by_name: bool
    """Whether the event was given by its name only, which may be misspelt."""

    classes: Mapping[str, EventType]
    """The declared classes of the application, by event name."""

    predicate: Predicate | None = None
    """A check of the caller, which gets the event in the requested form; only asked about events that match."""

    def found(self, events: Iterable[DispatchedEvent]) -> list[DispatchedEvent]:
        """Return the *events* that match, as instances of the requested class."""
        alike = [self._formed(each) for each in events if self._is_named(each) and all(self._results(each))]
        return [each for each in alike if self.predicate is None or self._is_accepted(each, self.predicate)]

    def _is_accepted(self, dispatched: DispatchedEvent, predicate: Predicate) -> bool:
        try:
            return bool(predicate(dispatched.event))
        except Exception as error:
            what = format_dispatched(dispatched)
            error.add_note(f"relevo: the predicate raised this for {what}{self._remedy(dispatched, error)}")
            raise

    def _remedy(self, dispatched: DispatchedEvent, error: Exception) -> str:
        """Return what to write instead of the predicate, which raised *error* for *dispatched*; empty if not clear."""
        if self.kind is None and isinstance(error, AttributeError):
            name = dispatched.event.name
            cls = self.classes[name].cls.__name__ if name in self.classes else "ImageCreated"
            return (
                f'; it got a relevo.Event, whose data is read as event["path"]; it gets an instance of a declared '
                f"class if you pass the class: t.dispatched({cls}, predicate)"
            )
        if self.name is None:
            return '; to ask only about some events, name them first: t.dispatched("image.created", predicate)'
        return ""

    def nearest(self, events: Iterable[DispatchedEvent]) -> list[DispatchedEvent]:
        """Return *events*, best match first."""

        def likeness(each: DispatchedEvent) -> tuple[bool, int, float]:
            named = self._is_named(each)
            alike = SequenceMatcher(None, self.name or "", each.event.name).ratio()
            return named, sum(self._results(each)) if named else 0, alike

        return sorted(events, key=likeness, reverse=True)

    def _is_named(self, dispatched: DispatchedEvent) -> bool:
        return self.name is None or dispatched.event.name == self.name

    def _results(self, dispatched: DispatchedEvent) -> list[bool]:
        return [bool(check(dispatched)) for check in self.checks]

    def _formed(self, dispatched: DispatchedEvent) -> DispatchedEvent:
        if self.kind is None:
            return dispatched
        return attrs.evolve(dispatched, event=typed_from(dispatched.event, self.kind))


def query_for(
    app: App,
    event: object,
    predicate: Predicate | None,
    *,
    known: Sequence[Event],
    absent: bool,
    subject: Any,
    queue: str | None,
    target: str | None,
    arguments: Mapping[str, Any],
) -> Query:
    """
    Validate the query, and return it.

    Args:
        app: The application.

        event: A name, a declared class or an event; ``None`` for any event.

        predicate: The check of the caller.

        known: The dispatched events; they may have arguments that their declared class does not have.

        absent: Whether no event is expected. Then an argument that none of the *known* ones has is an error.

        subject: The subject.

        queue: A queue that the event was sent to.

        target: A target that the event was sent to.

        arguments: Some of its arguments.

    Raises:
        RouteNotFoundError: No route matches the name.

        ConfigurationError: It is not an event, or no event can match.
    """
    __tracebackhide__ = True
    event, predicate = _asked(event, predicate)
    name, kind, whole = _parts(event)
    routed: Sequence[Target] = ()
    if name is not None:
        _refuse_unreachable(name, routed := _targets_of(app, name, known), app.routes, queue=queue, target=target)
        own = whole.arguments if isinstance(whole, Event) else {}
        fields = _fields(app, name, kind, known)
        _refuse_unknown_fields(name, fields, {**own, **arguments})
        if absent and fields is None:
            _refuse_unused_arguments(name, known, arguments)
    checks = _event_checks(kind, whole)
    if isinstance(whole, Event) and subject is None:
        subject = whole.subject
    words: list[str] = []
    for key, value in arguments.items():
        checks.append(_has(key, value) if kind is None else _has_attribute(kind, key, value))
        words.append(f"{key}={shown(value)}")
    if subject is not None:
        is_now = name is None or any(each.transport == NOW for each in routed)
        about = _name_in_process(app, subject) if is_now else _named(app, subject)
        checks.append(lambda each: each.event.subject is subject or _is_about(app, each, about))
        words.append(f"subject={format_subject(subject if about is None else about)}")
    text = _opening(name, whole) + (f" with {', '.join(words)}" if words else "")
    if queue is not None:
        checks.append(lambda each: any(queue == _queue(one) for one in each.targets))
        text += f' in the queue "{queue}"'
    if target is not None:
        place = parsed_target(target, where="target")
        checks.append(lambda each: place in each.targets)
        text += f" to {place}"
    if predicate is not None:
        text += " that the predicate accepts"
    by_name = isinstance(event, (str, Event))
    return Query(
        name=name,
        kind=kind,
        arguments=arguments,
        checks=checks,
        text=text,
        by_name=by_name,
        classes=app.listeners.event_types,
        predicate=predicate,
    )


def _event_checks(kind: EventType | None, whole: object) -> list[Check]:
    """Return the checks that an event is one of the class *kind*, and equal to *whole*; ``None`` is any."""
    checks: list[Check] = []
    if kind is not None:
        checks.append(lambda each: _typed(each, kind) is not None)
    if isinstance(whole, Event):
        wanted = msgspec.json.decode(content_of(whole).data)
        checks.extend([_has(key, value) for key, value in wanted.items()])
        checks.append(lambda each: each.event.arguments.keys() == wanted.keys())
        if whole.id is not None:
            checks.append(lambda each: each.id == whole.id)
    elif whole is not None and kind is not None:
        fields = msgspec.json.decode(content_of(whole).data)
        checks.extend([_has_field(kind, key, value) for key, value in fields.items()])
    return checks


def listing(
    events: Sequence[Any], format_line: Callable[[Any], str] = format_dispatched, *, longest: int = _LONGEST
) -> str:
    """Return *events*, a line each, with a limit on the number and length of lines."""
    lines = [format_line(each) for each in events[:_MOST]]
    cut = [line if len(line) <= longest else f"{line[: longest - 1]}…" for line in lines]
    if len(events) > _MOST:
        cut.append(f"and {len(events) - _MOST} more")
    return "".join(f"\n  {line}" for line in cut)


def absence(query: Query, record: Record, *, meant: str | None) -> str:
    """Return the message that no event of *record* matches *query*; *meant* suggests a name, if its own is unknown."""
    events = list(record)
    if events:
        text = f"{query.text} was not dispatched; these were, the nearest first:{listing(query.nearest(events))}"
        text += "".join(f"\n{hint}" for hint in _hints(query, events))
    else:
        text = f"{query.text} was not dispatched; no event was."
    if meant:
        text += f'\nno event "{query.name}" is known{meant}'
    if enlisted := record.enlisted:
        text += f"\nInside a session that has not committed:{listing(enlisted, format_event)}"
    if dropped := [each for each in record.dropped if query.name in (None, each.name)]:
        text += f"\nInside a session that ended without a commit:{listing(dropped, format_event)}"
    return text


def _hints(query: Query, events: Sequence[DispatchedEvent]) -> Iterator[str]:
    """Yield what the list of *events* does not show: misspelt arguments, and values of another type."""
    alike = [each for each in events if each.event.name == query.name]
    sent = _arguments_of(query.name, (each.event for each in alike))
    for key, wanted in query.arguments.items():
        if query.kind is None:
            if sent and key not in sent:
                yield f'no "{query.name}" has "{key}"{_advice(key, sent)}'
            continue
        typed = [_typed(each, query.kind) for each in alike]
        for found in [getattr(each, key) for each in typed if each is not None]:
            if found != wanted and shown(_simple(found)) == shown(_simple(wanted)):
                yield f"{key}: the values look the same; expected {type(found).__name__}; got {type(wanted).__name__}"
                break


def _asked(event: object, predicate: Predicate | None) -> tuple[object, Predicate | None]:
    """Return the event and the predicate of a query; the predicate may be the only argument."""
    if predicate is None and isinstance(event, (FunctionType, BuiltinFunctionType, MethodType, partial)):
        event, predicate = None, event
    given: object = predicate
    if given is not None and not is_function(given):
        raise ConfigurationError(
            f"dispatched: expected a function that takes an event and returns whether it is meant; got {shown(given)}; "
            f'arguments are named: dispatched("image.created", path="sea.jpg")'
        )
    return event, predicate


def _opening(name: str | None, whole: object) -> str:
    if name is None:
        return "something"
    return f'"{name}"' if whole is None else format_event(whole)


def _parts(event: object) -> tuple[str | None, EventType | None, object]:
    """Return the requested name, its class, and *event* if it is a complete event."""
    if event is None:
        return None, None, None
    if isinstance(event, str):
        return checked_name(event), None, None
    if isinstance(event, type):
        kind = declared(event)
        return kind.name, kind, None
    return name_of(event), None if isinstance(event, Event) else declared(type(event)), event


def _targets_of(app: App, name: str, known: Sequence[Event]) -> Sequence[Target]:
    """Return the targets of the route of *name*; none if it has no route, but was dispatched with ``to=``."""
    try:
        return app.routes.targets(name)
    except RouteNotFoundError:
        if all(each.name != name for each in known):
            raise
        return ()


def _refuse_unreachable(
    name: str, targets: Sequence[Target], routes: Routes, *, queue: str | None, target: str | None
) -> None:
    """Refuse a queue or a target that *name* gets to neither by its *targets*, those of its route, nor with ``to=``."""
    every = [Target(NOW), *(each for found in routes.entries.values() for each in found)]
    queues = [_queue(each) for each in targets]
    if queue is not None and queue not in map(_queue, every):
        raise _elsewhere(name, targets, f'in the queue "{queue}"{did_you_mean(queue, queues)}')
    if target is not None and parsed_target(target, where="target") not in every:
        raise _elsewhere(name, targets, f'to "{target}"{did_you_mean(target, map(str, targets))}')


def _elsewhere(name: str, targets: Sequence[Target], where: str) -> ConfigurationError:
    return ConfigurationError(f'"{name}" is routed to {", ".join(map(str, targets))}; it can never be {where}')


def _fields(app: App, name: str, kind: EventType | None, known: Sequence[Event]) -> Collection[str] | None:
    """Return the fields that an event may have, those that were dispatched by name too; ``None`` if it is not known."""
    if kind is not None:
        return kind.fields
    declaration = app.listeners.event_types.get(name)
    return None if declaration is None else {*declaration.fields.values(), *_arguments_of(name, known)}


def _refuse_unknown_fields(name: str, fields: Collection[str] | None, arguments: Iterable[str]) -> None:
    for key in arguments:
        if fields is not None and key not in fields:
            known = f"; it has: {', '.join(sorted(fields)) or 'none'}"
            raise ConfigurationError(f'"{name}" has no field "{key}"{_advice(key, fields) or known}')


def _refuse_unused_arguments(name: str, known: Iterable[Event], arguments: Iterable[str]) -> None:
    """Refuse arguments that no event of this *name* had: a misspelt one would always be absent."""
    alike = [each for each in known if each.name == name]
    sent = _arguments_of(name, alike)
    for key in arguments:
        if key not in sent and (alike or key in _NOT_COMPARED):
            other = f'; if only some have it, write a predicate: lambda event: event.arguments.get("{key}") == …'
            raise ConfigurationError(f'no "{name}" has "{key}"{_advice(key, sent) or other}')


def _advice(key: str, known: Iterable[str]) -> str:
    """Return what to write instead of *key*, which is none of the *known* arguments; empty if that is not clear."""
    return f"; {_NOT_COMPARED[key]}" if key in _NOT_COMPARED else did_you_mean(key, known)


def _arguments_of(name: str | None, events: Iterable[Event]) -> set[str]:
    """Return the names of all arguments of the *events* with this *name*."""
    return {key for each in events if each.name == name for key in each.arguments}


def _queue(target: Target) -> str:
    return NOW if target.transport == NOW else target.queue


def _typed(dispatched: DispatchedEvent, kind: EventType) -> Any:
    try:
        return typed_from(dispatched.event, kind)
    except DecodeError:
        return None


def _has(key: str, wanted: object) -> Check:
    """Return a check that an argument, in its JSON form, equals *wanted*, or the JSON form of *wanted*."""

    def check(dispatched: DispatchedEvent) -> bool:
        arguments = dispatched.event.arguments
        return key in arguments and (wanted == arguments[key] or _simple(wanted) == arguments[key])

    return check


def _has_attribute(kind: EventType, key: str, wanted: object) -> Check:
    def check(dispatched: DispatchedEvent) -> bool:
        typed = _typed(dispatched, kind)
        return typed is not None and bool(wanted == getattr(typed, key))

    return check


def _has_field(kind: EventType, key: str, wanted: object) -> Check:
    def check(dispatched: DispatchedEvent) -> bool:
        typed = _typed(dispatched, kind)
        return typed is not None and bool(wanted == msgspec.json.decode(content_of(typed).data).get(key))

    return check


def _simple(value: object) -> object:
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=built_in)
    except (TypeError, ValueError, msgspec.MsgspecError, EncodeError):
        return value


def _named(app: App, subject: object) -> Subject:
    found = app.subjects.named(subject)
    if found is None:
        raise SubjectError(f"the subject {shown(subject)} has no id yet; flush it first")
    return found


def _name_in_process(app: App, subject: object) -> Subject | None:
    """Return the name of *subject*; ``None`` if it has none, which it needs only to be sent."""
    try:
        return app.subjects.named(subject)
    except SubjectError:
        return None


def _is_about(app: App, dispatched: DispatchedEvent, wanted: Subject | None) -> bool:
    about = dispatched.event.subject
    return about is not None and wanted is not None and _name_in_process(app, about) == wanted
