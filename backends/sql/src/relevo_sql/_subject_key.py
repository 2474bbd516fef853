"""The primary key of a mapped class as text: the id of its instances as subjects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote
from uuid import UUID

import attrs
import sqlalchemy as sa

from relevo import ConfigurationError, SubjectError
from relevo.errors import shown

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper


def _whole(text: str) -> int:
    number = int(text)
    if str(number) != text:
        raise ValueError(text)  # int() reads 007, 1_000 and other digits than 0 to 9, too
    return number


def _text(text: str) -> str:
    text.encode()  # raises an error if it has half of a surrogate pair, as drivers do
    if "\0" in text:
        raise ValueError(text)  # PostgreSQL refuses it
    return text


def _uuid_text(text: str) -> str:
    UUID(text)
    return text


def _unpadded(text: Any) -> str:
    return str(text).rstrip(" ")


def _itself(part: object) -> object:
    return part


_READERS: dict[type, Callable[[str], object]] = {int: _whole, str: _text, UUID: UUID, date: date.fromisoformat}
"""From the types of the parts of a key: each value has exactly one form as text, which every database returns."""


@attrs.frozen
class _KeyPart:
    column: sa.ColumnElement[Any]
    read: Callable[[str], object]
    """Raises :class:`ValueError` for text that is not a value."""

    normal: Callable[[Any], object] = _itself
    """From a value to what has to be equal if the database returns it in another form."""

    @classmethod
    def of(cls, mapped: type, column: sa.ColumnElement[Any]) -> _KeyPart:
        if isinstance(column.type, sa.Uuid) and not column.type.as_uuid:
            return cls(column, _uuid_text, UUID)
        try:
            kind = column.type.python_type
        except NotImplementedError:
            kind = object
        if kind not in _READERS:
            raise ConfigurationError(
                f"orm_subject: the key {column} of {mapped.__qualname__} is {kind.__name__}; expected integers, text, "
                f"UUIDs or dates; for other types write a relevo.SubjectType(…) with its own name= and load="
            )
        # PostgreSQL pads it with spaces, others remove them.
        return cls(column, _READERS[kind], _unpadded if isinstance(column.type, sa.CHAR) else _itself)

    def can_read(self, text: str) -> bool:
        """Return whether *text* is a value of the column."""
        try:
            self.read(text)
        except ValueError:
            return False
        return True


Key = tuple[object, ...]


def _joined(values: Sequence[object]) -> str:
    if len(values) == 1:
        return str(values[0])
    return ",".join(quote(str(value), safe="") for value in values)


@attrs.frozen(eq=False)
class SubjectKey:
    """
    Converts the primary key of the instances of a mapped class to text, and back.

    Several parts are joined by commas, and what is special in them is percent-encoded.
    """

    _owner: str
    _parts: Sequence[_KeyPart]

    @classmethod
    def of(cls, mapper: Mapper[Any]) -> SubjectKey:
        """
        Return that of the class of *mapper*.

        Raises:
            ConfigurationError: A part of the key is of a type without exactly one form as text.
        """
        mapped = mapper.class_
        return cls(mapped.__qualname__, [_KeyPart.of(mapped, column) for column in mapper.primary_key])

    def text(self, instance: object) -> str | None:
        """
        Return the key of *instance* as text; ``None`` if it is not written.

        Raises:
            SubjectError: A part of it is NULL, or of another type than its column, so no query finds it.
        """
        # An object that was not written, or whose write was rolled back, may have a key that another row will get.
        values: Sequence[object] | None = sa.inspect(instance).identity
        if values is None:
            return None
        for part, value in zip(self._parts, values, strict=True):
            if value is None:
                raise SubjectError(
                    f"an instance of {self._owner} cannot be a subject: its key has no value in {part.column}, so it "
                    f"cannot be found by its key; pass another subject"
                )
            if not part.can_read(str(value)):
                raise SubjectError(
                    f"an instance of {self._owner} cannot be a subject: {part.column} of its key was set to "
                    f"{shown(value)}, which is not the form that the database returns; set it to a value of the type "
                    f"of the column, or refresh the object first"
                )
        return _joined(values)

    def parsed(self, text: str) -> Key | None:
        """Return the key that *text* has; ``None`` if no key of this class has that form."""
        try:
            # errors="strict": otherwise text that is not UTF-8 would be the key of another row.
            texts = [unquote(each, errors="strict") for each in text.split(",")] if len(self._parts) > 1 else [text]
            return tuple(part.read(each) for part, each in zip(self._parts, texts, strict=True))
        except ValueError:
            return None

    def is_of(self, instance: object, key: Key) -> bool:
        """
        Return whether *instance*, which a query for *key* has found, has that key.

        A database may find another row: one whose text differs in case or accents, or the number 1 for the text 1a.
        """
        found = self.parsed(_joined(sa.inspect(instance).identity))
        return found is not None and all(
            part.normal(one) == part.normal(other) for part, one, other in zip(self._parts, found, key, strict=True)
        )

    def among(self, keys: Collection[Key]) -> sa.ColumnElement[bool]:
        """Return the condition that a row has one of *keys*."""
        if len(self._parts) == 1:
            return self._parts[0].column.in_([key[0] for key in keys])
        pairs = [zip(self._parts, key, strict=True) for key in keys]
        return sa.or_(*(sa.and_(*(part.column == value for part, value in each)) for each in pairs))
