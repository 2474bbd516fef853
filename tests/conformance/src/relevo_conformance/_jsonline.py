"""A history as JSON lines, and back."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import attrs

from relevo_conformance import history
from relevo_conformance._reading import CLASSES, KIND, MisfitError, read

_FORMAT = "relevo-conformance history"

VERSION = 1
"""Of the form in which histories are written; a change that an older reader would misread makes it greater."""


def dump(records: Iterable[history.Record]) -> Iterator[str]:
    """Return a line that says what this is, and one for each of *records*, all without their ends."""
    yield json.dumps({KIND: _FORMAT, "version": VERSION}, separators=(",", ":"))
    for record in records:
        yield json.dumps(_plain(record), ensure_ascii=True, separators=(",", ":"))


def load(lines: Iterable[str]) -> tuple[history.Record, ...]:
    """
    Return the records that *lines* hold; blank lines are skipped.

    Raises:
        ValueError: They are no history, one of a version that is not known here, or a line is not a record that may
            stand there; names the line, and the field that is wrong.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    _require_format(next(numbered, (1, ""))[1])
    records: list[history.Record] = []
    before = _Before()
    for number, line in numbered:
        try:
            record = read(json.loads(line), history.Record)
            before.require(record)
        except MisfitError as error:
            raise ValueError(f"line {number}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not a record: {error}") from error
        records.append(record)
    return tuple(records)


class _Before:
    """What stood in the lines before, as far as it decides what may follow."""

    def __init__(self) -> None:
        self._calls: dict[int, history.Call] = {}
        self._ended: set[int] = set()
        self._savepoints: defaultdict[int, list[int]] = defaultdict(list)
        self._deliveries: set[int] = set()

    def require(self, record: history.Record) -> None:
        """
        Return if *record* may come next, and take note of it.

        Raises:
            MisfitError: It may not.
        """
        if isinstance(record, history.Invoked):
            self._begin(record)
        else:
            self._end(record)

    def _begin(self, record: history.Invoked) -> None:
        if record.op in self._calls:
            raise MisfitError(f"op is {record.op}, which is the number of another call")
        self._calls[record.op] = record.call
        if isinstance(record.call, history.SetSavepoint):
            self._savepoints[record.call.transaction].append(record.call.savepoint)

    def _end(self, record: history.Returned) -> None:
        call = self._calls.get(record.op)
        if call is None or record.op in self._ended:
            raise MisfitError(f"op is {record.op}, and this call had not begun, or had ended")
        self._ended.add(record.op)
        match call, record.value:
            case history.Send(envelopes=envelopes), history.Fates(fates=fates) if len(fates) != len(envelopes):
                raise MisfitError(f"value.fates are {len(fates)}, of {len(envelopes)} envelopes")
            case history.EndSavepoint(savepoint=savepoint), _ if record.end == "done":
                inside = self._savepoints[call.transaction]
                if savepoint not in inside:
                    raise MisfitError(f'end is "done", and savepoint {savepoint} had not begun, or had ended')
                del inside[inside.index(savepoint) :]
            case _, history.HandedOut(deliveries=deliveries):
                for position, handed in enumerate(deliveries):
                    if handed.number in self._deliveries:
                        what = f"is {handed.number}, which is that of another delivery"
                        raise MisfitError(f"value.deliveries[{position}].number {what}")
                    self._deliveries.add(handed.number)
            case _:
                pass


def _require_format(line: str) -> None:
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get(KIND) != _FORMAT:
        raise ValueError("this is no history that relevo_conformance.dump wrote: its first line does not say so")
    if head.get("version") != VERSION:
        written = head.get("version")
        raise ValueError(
            f"this history is of version {written!r}, and version {VERSION} is what can be read here; "
            "use the relevo-conformance that wrote it"
        )


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {KIND: "bytes", "base64": base64.b64encode(value).decode()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {KIND: "map", "items": [[_plain(key), _plain(item)] for key, item in value.items()]}
        case _:
            cls = type(value)
            if CLASSES.get(cls.__name__) is not cls:
                message = f"{cls.__name__} has no place in a history"
                raise TypeError(message)
            fields = {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(cls)}
            return {KIND: cls.__name__, **fields}
