"""All errors of relevo, grouped by who must act."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Never

from relevo._secret import abridged, masked, without_secrets


class RelevoError(Exception):
    """The base class of relevo's errors; never raised itself. Its text shows no password of an address."""

    def __str__(self) -> str:
        return masked(abridged(super().__str__()))

    def __repr__(self) -> str:
        return masked(abridged(super().__repr__()))

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.args, self.__dict__)


# --- the program is wrong: raised at start-up or at the dispatch; retrying cannot help -----------


class ConfigurationError(RelevoError):
    """Raised when the program or its configuration is invalid and has to be changed."""


class TransportNotFoundError(ConfigurationError):
    """Raised when no installed package provides the transport or the URL scheme that was named."""

    def __init__(self, wanted: str, available: Iterable[str], *, distribution: str | None = None, advice: str = ""):
        self.wanted = wanted
        self.available = tuple(sorted(available))
        self.distribution = distribution
        offered = ", ".join(self.available) or "none"
        fix = f'; install "{distribution}"' if distribution else did_you_mean(wanted, self.available)
        fix = f"; {advice}" if advice else fix
        super().__init__(f'no transport for "{wanted}"; available: {offered}{fix}')


class PluginError(ConfigurationError):
    """Raised when a plugin cannot be loaded, or when two claim the same name."""


class DuplicateEventError(ConfigurationError):
    """Raised when two classes claim one event name."""

    def __init__(self, name: str, first: object, second: object):
        self.name = name
        self.first = first
        self.second = second
        fix = _imported_again(first, second) or "rename one of them"
        super().__init__(f'the event "{name}" is declared twice: by {first!r} and by {second!r}; {fix}')


class DuplicateListenerError(ConfigurationError):
    """
    Raised when two listeners of one event have the same id.

    Args:
        listener_id: The id.

        event_name: The name of the event.

        functions: The functions that both call.

        places: The functions in words, the registered one first.
    """

    def __init__(self, listener_id: str, event_name: str, *functions: object, places: Sequence[str] = ()):
        self.listener_id = listener_id
        self.event_name = event_name
        earlier = f'app.remove_listener("{listener_id}")'
        if (owner := _one_owner(*functions)) is not None:
            fix = (
                f"another instance of {owner} is registered, and its methods have the same ids; remove it first: "
                f"app.unlisten(instance), or {earlier}"
            )
        elif any(_has_no_name(each) for each in functions):
            fix = f'such an object has no name of its own; pass one: app.add_listener("{event_name}", …, id="…")'
        else:
            fix = _imported_again(*functions) or (
                f"pass another id=…; or, if the function was renamed, remove the earlier listener first: {earlier}"
            )
        both = f": {' and '.join(places)}" if places else ""
        super().__init__(f'two listeners of "{event_name}" have the id "{listener_id}"{both}; {fix}')


class EventNameError(ConfigurationError):
    """Raised when the name of an event is invalid."""

    def __init__(self, name: object, why: str):
        self.name = name
        super().__init__(f"{shown(name)} is not an event name: {why}; write noun.past-participle, as in image.created")


def _is_class(pattern: str) -> bool:
    """Return whether *pattern* looks like the path of a class, as in Symfony's routes."""
    module, _, name = pattern.replace("\\", ".").rpartition(".")
    return bool(module) and name[:1].isupper()


class RouteNotFoundError(ConfigurationError):
    """
    Raised when an event is dispatched and no route matches its name.

    Args:
        event_name: The name.

        patterns: The names and patterns that have a route.

        example: The target of a route that the text suggests.
    """

    def __init__(self, event_name: str, patterns: Iterable[str], *, example: str = "main"):
        self.event_name = event_name
        self.patterns = tuple(patterns)
        known = ", ".join(f'"{pattern}"' for pattern in self.patterns) or "none"
        classes = any(_is_class(pattern) for pattern in self.patterns) and event_name.islower()
        hint = "; routes take the event's name, not its class" if classes else ""
        if any(pattern.startswith("class ") for pattern in self.patterns):
            hint = "; an event that is dispatched by its name is of a class if the module of that is imported"
        super().__init__(
            f'no route for "{event_name}"; routes: {known}{hint}; add one under [routes], for example "*" = "{example}"'
        )


class NotAcceptedError(ConfigurationError):
    """Raised when an event is dispatched to a queue that does not accept it; nothing was written."""

    def __init__(self, event_name: str, target: str, patterns: Iterable[str], *, key: str):
        self.event_name = event_name
        self.target = target
        self.patterns = tuple(patterns)
        self.key = key
        known = ", ".join(f'"{pattern}"' for pattern in self.patterns)
        table = f"[queues.{key}]" if key.isidentifier() else f'[queues."{key}"]'
        super().__init__(
            f"the queue {target} does not accept {shown(event_name)}; it accepts: {known}; add the name to accept "
            f"under {table}, or send the event elsewhere"
        )


_ARGUMENTS = {"delay": "delay= or at=", "order": "ordering_key=", "unique": "unique=", "urgency": "urgency="}
"""The arguments of ``dispatch`` that need a capability, by its name."""


_LACKS = {
    "find": "cannot find one event by its id",
    "take": "cannot handle one given event now",
    "waiting": "cannot list its waiting events",
}
"""What a transport without a capability cannot do, where the capability's name alone would not say it."""


class UnsupportedError(ConfigurationError):
    """Raised when a feature is used that the transport does not claim in its capabilities."""

    def __init__(self, transport: str, capability: str, why: str = ""):
        self.transport = transport
        self.capability = capability
        self.why = why
        argument = _ARGUMENTS.get(capability)
        fix = f"remove {argument}, or use a transport that claims it" if argument else "use a transport that claims it"
        because = f": {why}" if why else ""
        lacks = f"{_LACKS[capability]} ({capability})" if capability in _LACKS else f"does not support {capability}"
        super().__init__(f'the transport "{transport}" {lacks}{because}; {fix}')


class SessionError(ConfigurationError):
    """Raised when a session cannot be joined: its database is not the transport's, or there is no outbox."""


class StepError(ConfigurationError):
    """
    Raised when a step or a cursor of a listener is used incorrectly, or its result cannot be stored.

    For example, the name was used already, or a new step begins although a step that an earlier run finished has not
    begun in this run. The listener fails with it even if it catches it. If *is_final*, the listener is not retried:
    that would repeat the effect of the step, and fail again.
    """

    def __init__(self, listener_id: str, step: str, why: str, *, is_final: bool = False):
        self.listener_id = listener_id
        self.step = step
        self.is_final = is_final
        super().__init__(f'{listener_id}: the step "{step}": {why}')


class SubjectError(ConfigurationError):
    """Raised when an object cannot be named as the subject of an event, or a subject cannot be loaded."""


# --- the world is wrong: retrying may help --------------------------------------------------------


class TransportError(RelevoError):
    """Raised when something outside the program failed; a retry may work."""


class TransportUnavailableError(TransportError):
    """
    Raised when the server or the file behind a transport cannot be reached or written.

    *hurried* is whether :meth:`Transport.hurry` left so little time that the server may be well.
    """

    def __init__(self, transport: str, why: str, *, hurried: bool = False):
        self.transport = transport
        self.why = why
        self.hurried = hurried
        super().__init__(f'the transport "{transport}" is unavailable: {why}')


class CommitUnknownError(TransportUnavailableError):
    """Raised when a commit failed and it is not known whether it took effect."""


class TransportClosedError(TransportError):
    """Raised when a transport is used after its ``close()``."""

    def __init__(self, transport: str):
        self.transport = transport
        super().__init__(f'the transport "{transport}" is closed; make a new App, or a new transport')


class LeaseLostError(TransportError):
    """Raised when a delivery that is no longer held is settled or extended; nothing was changed."""

    def __init__(self, transport: str, delivery: object):
        self.transport = transport
        self.delivery = delivery
        super().__init__(f'the transport "{transport}" no longer leases {delivery!r}; nothing was changed')


class SendError(TransportError):
    """
    Raised when not every envelope of a batch is known to be safe.

    The three attributes hold indexes in the batch; each index is in exactly one of them. Send the
    *unknown* ones again with the same ids: where an event did arrive, it is the same event.

    If the transport did not fail, but a later event of an iterator is invalid, *index* is that event, and *why* its
    error; otherwise *index* is ``None``.
    """

    def __init__(
        self,
        transport: str,
        *,
        sent: Sequence[int] = (),
        refused: Sequence[int] = (),
        unknown: Sequence[int] = (),
        why: str,
        index: int | None = None,
    ):
        self.transport = transport
        self.sent = tuple(sent)
        self.refused = tuple(refused)
        self.unknown = tuple(unknown)
        self.why = why
        self.index = index
        counts = f"{len(self.sent)} sent, {len(self.refused)} refused, {len(self.unknown)} unknown"
        super().__init__(
            f'the transport "{transport}" could not confirm every event: {counts}: {why}'
            if index is None
            else f"{why}; results of this event's batch and the earlier batches: {counts}"
        )


class SettleError(TransportError):
    """
    Raised when some deliveries of a batch could not be settled while the others were.

    The two attributes hold deliveries; a delivery that is in neither was settled.
    """

    def __init__(self, transport: str, *, lost: Sequence[object] = (), unsettled: Sequence[object], why: str):
        self.transport = transport
        self.lost = tuple(lost)
        self.unsettled = tuple(unsettled)
        self.why = why
        several = "1 delivery" if len(self.unsettled) == 1 else f"{len(self.unsettled)} deliveries"
        super().__init__(f'the transport "{transport}" could not settle {several}: {why}')


# --- the event is wrong: dead-letter it, never retry ----------------------------------------------


class CodecError(RelevoError):
    """Raised when an event cannot be written or read."""


class EncodeError(CodecError):
    """
    Raised when a value of an event has no exact form in JSON, or the event is too large; nothing was sent.

    If it was dispatched with others, *index* is its place among them, counted from 0.
    """

    def __init__(self, event_name: str, path: str, why: str, *, index: int | None = None):
        self.event_name = event_name
        self.path = path
        self.why = why
        self.index = index
        where = f"{path[:80]}{'…' * (len(path) > 80)}: " if path else ""  # without a path, *why* is about all of it
        place = "" if index is None else f" at index {index}"
        super().__init__(f'the event "{event_name}"{place} cannot be sent: {where}{why}')


class DecodeError(CodecError):
    """Raised when bytes are not an event, or its data does not fit its declared type."""


# --- a listener cannot go on yet: it is called again ---------------------------------------------


class SubjectMissingError(RelevoError):
    """
    Raised by ``call.subject`` when the subject was not found; *subject* is its name, a :class:`relevo.Subject`.

    Do not catch it: the subject may not be committed yet, so the listener is called again for a while before the
    event is dead-lettered as ``subject-missing``. It does not count as a run.
    """

    def __init__(self, subject: Any):
        self.subject = subject
        super().__init__(f"the subject {subject} is gone, or not committed yet")


# --- steering: raised by listeners, not errors -----------------------------------------------------


class RetryLater(Exception):  # noqa: N818 - it steers, it is not an error
    """
    Raise it in a listener to be called again after *delay*; it counts as a run.

    Args:
        delay: Seconds, a timedelta, or text such as ``"5m"``. By default the retry policy decides.

        reason: Stored with the event's state.
    """

    def __init__(self, delay: object = None, reason: str = "", **unknown: Never):
        if unknown:
            from relevo._synonym import RETRY_LATER  # noqa: PLC0415 - only an error needs it

            raise no_option("RetryLater", next(iter(unknown)), ("delay", "reason"), RETRY_LATER)
        self.delay = delay
        self.reason = reason
        super().__init__(delay, reason)

    def __str__(self) -> str:
        return self.reason or "asked to be called later"


class GiveUp(Exception):  # noqa: N818 - it steers, it is not an error
    """Raise it in a listener to dead-letter the event without further retries of this listener."""

    def __init__(self, reason: str = "", **unknown: Never):
        if unknown:
            from relevo._synonym import GIVE_UP  # noqa: PLC0415 - only an error needs it

            raise no_option("GiveUp", next(iter(unknown)), ("reason",), GIVE_UP)
        self.reason = reason
        super().__init__(reason or "gave up")


def _one_owner(*functions: object) -> str | None:
    """Return the name of the class if *functions* are one method of two of its instances, or the instances."""
    owners = [getattr(each, "__self__", each) for each in functions]
    methods = {getattr(each, "__func__", None) for each in functions}
    kinds = {type(each) for each in owners}
    is_one = len(kinds) == len(methods) == 1 and not any(kind.__module__ in _LIBRARY for kind in kinds)
    return kinds.pop().__qualname__ if is_one else None


_LIBRARY = ("builtins", "functools")


def _has_no_name(function: object) -> bool:
    """Return whether *function* is something like ``functools.partial(…)`` or ``seen.append``."""
    return type(function).__module__ in _LIBRARY and not hasattr(function, "__code__")


def _imported_again(*things: object) -> str | None:
    """Return how to fix it if *things* come both from ``__main__`` and from an imported module, else ``None``."""
    if len({getattr(each, "__module__", None) == "__main__" for each in things}) < 2:
        return None
    return "the file that runs as __main__ is imported a second time by its name; move its declarations to another file"


def did_you_mean(wanted: str, known: Iterable[str], least: float = 0.6) -> str:
    """Return ``; did you mean "…"?`` for the nearest of *known*, at *least* this like it from 0 to 1, or nothing."""
    near = nearest(wanted, known, least)
    return "" if near is None else f'; did you mean "{without_secrets(near)}"?'


def nearest(wanted: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """Return the one of *known* that is most like *wanted*, at *least* this like it from 0 to 1, or ``None``."""
    from difflib import get_close_matches  # noqa: PLC0415 - only an error needs it

    return next(iter(get_close_matches(wanted, list(known), n=1, cutoff=least)), None)


_NEAR = 0.8
"""How like an argument a known one has to be, from 0 to 1; "sensor" is like "session" by 0.77."""


def no_option(
    what: str, name: str, known: Iterable[str], answers: Mapping[str, str], *, otherwise: str = ""
) -> TypeError:
    """
    Return the error for an unknown keyword argument.

    Args:
        what: What has no such argument.

        name: The argument.

        known: The arguments that there are.

        answers: What to write instead of the arguments of other tools.

        otherwise: What to write if it is not one of those; the argument that it is like follows.
    """
    hint = (
        f"; {answers[name]}" if name in answers else (otherwise and f"; {otherwise}") + did_you_mean(name, known, _NEAR)
    )
    return TypeError(f"{what} has no option {name}=…{hint}")


def is_text(value: str) -> bool:
    """Return whether *value* is text; Python passes invalid bytes as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def shown(value: object, limit: int = 80) -> str:
    """Return *value* for an error line: without passwords, escaped, and cut at *limit* characters."""
    try:
        text = masked(abridged(ascii(without_secrets(abridged(value) if isinstance(value, str) else value))))
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide the error that is reported
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


_PLUGIN = "__relevo_plugin__"
"""The attribute of an error that has the name of the plugin which raised it."""

_attributes_of = vars(BaseException)["__dict__"].__get__  # a subclass cannot override this


def blame(error: BaseException, plugin: str) -> None:
    """Note that *plugin* raised *error*, for :func:`described` and the traceback."""
    if (attributes := _attributes_of(error)).get(_PLUGIN) != plugin:  # it may be raised several times
        attributes[_PLUGIN] = plugin
        with suppress(Exception):  # a hostile class
            error.add_note(f"raised by the plugin {plugin}")


def described(error: BaseException) -> str:
    """
    Return *error* in one line without passwords, even if its ``__str__`` fails; a group with its first errors.

    It names the plugin that raised it, if that is known.
    """
    name = vars(type)["__name__"].__get__(type(error))  # a metaclass cannot override this
    try:
        text = f"{name}: {error}"
        if isinstance(error, BaseExceptionGroup):
            text += ": " + "; ".join(map(described, error.exceptions[:3]))
        if plugin := _attributes_of(error).get(_PLUGIN):
            text += f" (raised by the plugin {plugin})"
        return " ".join(masked(abridged(text)).split())
    except BaseException:  # noqa: BLE001 - a hostile __str__ must neither hide which error it was nor end the worker
        return f"{name}: its text cannot be shown"


def _again(cls: type[RelevoError], args: tuple[object, ...], attributes: dict[str, object]) -> RelevoError:
    """Unpickle an error without calling its constructor, whose arguments differ."""
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error
