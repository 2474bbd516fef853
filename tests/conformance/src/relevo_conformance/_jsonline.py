"""A history as JSON lines, and back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

import relevo
from relevo_conformance import history

_KIND = "$"

_CLASSES: Mapping[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(value for value in vars(history).values() if attrs.has(value) and value.__module__ == history.__name__),
        relevo.Ack,
        relevo.DeadLetter,
        relevo.DeadLetterEntry,
        relevo.Envelope,
        relevo.Lost,
        relevo.Nack,
        relevo.Release,
        relevo.Stats,
        relevo.Unreadable,
    )
}


def dump(records: Iterable[history.Record]) -> Iterator[str]:
    """Return one line for each of *records*, without its end."""
    for record in records:
        yield json.dumps(_plain(record), ensure_ascii=True, separators=(",", ":"))


def load(lines: Iterable[str]) -> tuple[history.Record, ...]:
    """
    Return the records that *lines* hold; blank lines are skipped.

    Raises:
        ValueError: A line is not a record.
    """
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _value(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            message = f"line {number} is not a record: {error}"
            raise ValueError(message) from error
        if not isinstance(record, history.Invoked | history.Returned):
            message = f"line {number} is not a record"
            raise ValueError(message)  # noqa: TRY004 - the file is wrong, not the caller's types
        records.append(record)
    return tuple(records)


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {_KIND: "bytes", "base64": base64.b64encode(value).decode()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {_KIND: "map", "items": [[_plain(key), _plain(item)] for key, item in value.items()]}
        case _:
            cls = type(value)
            if _CLASSES.get(cls.__name__) is not cls:
                message = f"{cls.__name__} has no place in a history"
                raise TypeError(message)
            fields = {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(cls)}
            return {_KIND: cls.__name__, **fields}


def _value(plain: Any) -> Any:
    match plain:
        case list():
            return tuple(_value(item) for item in plain)
        case {"$": "bytes", "base64": str(text)}:
            return base64.b64decode(text, validate=True)
        case {"$": "map", "items": items}:
            return {_value(key): _value(item) for key, item in items}
        case {"$": str(name)}:
            return _CLASSES[name](**{key: _value(item) for key, item in plain.items() if key != _KIND})
        case _:
            return plain
