"""Write a history as JSON lines, and read it back."""

from __future__ import annotations

import base64
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
import msgspec

import relevo
from relevo_conformance import history

VERSION = 1
"""The version of the file format. Raise it with a change that an older reader would misread."""

_FORMAT = "relevo-conformance history"
_TAG = "$"
"""The key that holds the name of a value's class."""

_CLASSES: Mapping[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(value for value in vars(history).values() if attrs.has(value) and value.__module__ == history.__name__),
        relevo.Ack,
        relevo.DeadLetter,
        relevo.DeadLetterEntry,
        relevo.DeadLetterFilter,
        relevo.Envelope,
        relevo.EventFilter,
        relevo.EventGroup,
        relevo.Found,
        relevo.Lost,
        relevo.Nack,
        relevo.Note,
        relevo.Release,
        relevo.Stats,
        relevo.StuckKey,
        relevo.StuckKeys,
        relevo.Unreadable,
        relevo.WaitingEntry,
    )
}
"""Every class that a history may contain, by its tag."""


class _InvalidError(ValueError):
    """Raised for an invalid record; names the field."""


def dump(records: Iterable[history.Record]) -> Iterator[str]:
    """Yield a header line and then one line for each of *records*, without line ends."""
    yield json.dumps({_TAG: _FORMAT, "version": VERSION}, separators=(",", ":"))
    for record in records:
        yield json.dumps(_plain(record), ensure_ascii=True, separators=(",", ":"))


def load(lines: Iterable[str]) -> tuple[history.Record, ...]:
    """
    Return the records in *lines*; blank lines are skipped.

    Raises:
        ValueError: The lines are not a history, its version is not supported, or a line is not a record that is
            valid there; the message names the line and the field.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    _require_format(next(numbered, (1, ""))[1])
    records: list[history.Record] = []
    before = _Sequence()
    for number, line in numbered:
        try:
            record = _read(json.loads(line))
            before.require(record)
        except _InvalidError as error:
            raise ValueError(f"line {number}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not a record: {error}") from error
        records.append(record)
    return tuple(records)


class _Sequence:
    """The calls, deliveries and savepoints of the lines so far, which decide what may follow."""

    def __init__(self) -> None:
        self._calls: dict[int, history.Call] = {}
        self._ended: set[int] = set()
        self._savepoints: defaultdict[int, list[int]] = defaultdict(list)
        self._deliveries: set[int] = set()

    def require(self, record: history.Record) -> None:
        """
        Check that *record* may come next, and remember it.

        Raises:
            _InvalidError: It may not.
        """
        if isinstance(record, history.Invoked):
            self._begin(record)
        else:
            self._end(record)

    def _begin(self, record: history.Invoked) -> None:
        if record.op in self._calls:
            raise _InvalidError(f"op is {record.op}, which is the number of an earlier call")
        self._calls[record.op] = record.call
        if isinstance(record.call, history.SetSavepoint):
            self._savepoints[record.call.transaction].append(record.call.savepoint)

    def _end(self, record: history.Returned) -> None:
        call = self._calls.get(record.op)
        if call is None or record.op in self._ended:
            raise _InvalidError(f"op is {record.op}, but this call had not begun, or had already ended")
        self._ended.add(record.op)
        match call, record.value:
            case history.Send(envelopes=envelopes), history.Fates(fates=fates) if len(fates) != len(envelopes):
                raise _InvalidError(f"value.fates has {len(fates)} items for {len(envelopes)} envelopes")
            case history.EndSavepoint(savepoint=savepoint), _ if record.end == "done":
                inside = self._savepoints[call.transaction]
                if savepoint not in inside:
                    raise _InvalidError(f'end is "done", but savepoint {savepoint} had not begun, or had already ended')
                del inside[inside.index(savepoint) :]
            case _, history.HandedOut(deliveries=deliveries):
                for position, handed in enumerate(deliveries):
                    if handed.number in self._deliveries:
                        what = f"is {handed.number}, which is that of another delivery"
                        raise _InvalidError(f"value.deliveries[{position}].number {what}")
                    self._deliveries.add(handed.number)
            case _:
                pass


def _require_format(line: str) -> None:
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get(_TAG) != _FORMAT:
        raise ValueError("the first line: expected the header that relevo_conformance.dump writes; got something else")
    if head.get("version") != VERSION:
        written = head.get("version")
        raise ValueError(
            f"the history has version {written!r}; expected {VERSION}; "
            "use the version of relevo-conformance that wrote it"
        )


# --- one record ------------------------------------------------------------------------------------


def _plain(value: object) -> object:
    """Return *value* as values of JSON; classes, bytes and mappings are tagged."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {_TAG: "bytes", "base64": base64.b64encode(value).decode()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {_TAG: "map", "items": [[_plain(key), _plain(item)] for key, item in value.items()]}
        case _:
            cls = type(value)
            if _CLASSES.get(cls.__name__) is not cls:
                message = f"{cls.__name__} cannot be part of a history"
                raise TypeError(message)
            fields = {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(cls)}
            return {_TAG: cls.__name__, **fields}


def _read(plain: object) -> history.Record:
    """
    Return the record whose JSON is *plain*.

    msgspec distinguishes the classes of a union by a tag, which only a Struct can have. So it converts to Structs
    with the same fields, and these are converted to the classes of the history.

    Raises:
        _InvalidError: A field is missing, unknown, or of another type.
    """
    try:
        record: history.Record = _built(msgspec.convert(plain, _record()))
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        if repr(_LARGEST) in message:  # the limits refuse NaN and infinity
            message = "expected a finite number"
        where = path.lstrip(".").removesuffix("`") or "the record"
        raise _InvalidError(f"{where}: {message[:1].lower()}{message[1:]}") from error
    except UnicodeEncodeError as error:  # msgspec compares names as UTF-8
        raise _InvalidError(f"the record: a name contains the lone surrogate {error.object!r}") from error
    return record


_Item = TypeVar("_Item")
_LARGEST = sys.float_info.max
_Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]


class _Bytes(msgspec.Struct, tag="bytes", tag_field=_TAG, forbid_unknown_fields=True):
    base64: bytes


class _Map(msgspec.Struct, Generic[_Item], tag="map", tag_field=_TAG, forbid_unknown_fields=True):
    items: tuple[tuple[str, _Item], ...]


@cache
def _record() -> Any:
    return _convertible(history.Record)


def _convertible(kind: Any) -> Any:
    """Return the type to which msgspec converts a value of *kind*, the type of a field."""
    origin, args = get_origin(kind), get_args(kind)
    if attrs.has(kind):
        return _struct(kind)
    if origin in (Union, UnionType):
        return reduce(or_, map(_convertible, args))
    if origin is tuple:
        return tuple[_convertible(args[0]), ...]  # type: ignore[misc]  # made at run time
    if origin is Mapping:
        return _Map[_convertible(args[1])]  # type: ignore[misc]  # the same
    return {bytes: _Bytes, float: _Finite}.get(kind, kind)


@cache
def _struct(cls: Any) -> type[msgspec.Struct]:
    """Return a Struct with the fields of *cls*."""
    kinds = get_type_hints(cls)
    fields = []
    for field in attrs.fields(cls):
        default = msgspec.NODEFAULT if field.default is attrs.NOTHING else field.default
        fields.append((field.name, _convertible(kinds[field.name]), default))
    return msgspec.defstruct(
        cls.__name__, fields, tag=cls.__name__, tag_field=_TAG, forbid_unknown_fields=True, kw_only=True
    )


def _built(value: Any) -> Any:
    """Return the value of the history for *value*, a converted one."""
    match value:
        case _Bytes():
            return value.base64
        case _Map():
            return {key: _built(item) for key, item in value.items}
        case msgspec.Struct():
            fields = {name: _built(getattr(value, name)) for name in value.__struct_fields__}
            return _CLASSES[type(value).__name__](**fields)
        case tuple():
            return tuple(map(_built, value))
        case _:
            return value
