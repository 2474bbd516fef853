"""Read a table of the configuration as the class that describes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from inspect import isfunction
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import attrs
import msgspec

from relevo._clock import seconds
from relevo._problem import KeyPath, Origins, Problems, dotted, key_shown
from relevo._secret import Secret, without_secrets
from relevo._synonym import CALLED_KEYS, key_answer
from relevo.errors import ConfigurationError, did_you_mean, shown

REST: Mapping[str, bool] = MappingProxyType({"is_rest": True})
"""Marks the field of an attrs class that takes all keys which no other field has."""

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "list": "a list",
    "object": "a table",
    "dict": "a table",
    "date": "a date",
    "datetime": "a date with a time",
    "time": "a time",
}
"""What users call the types that msgspec and Python name."""

_VALUES = {**_WORDS, "bool": "a boolean"}
"""The same for a value of the type."""

_NOT_EMPTY = " of length >= 1"
"""How the error of msgspec ends for text that may not be empty."""


_FIRST_WORD = re.compile(r"\W*(\w+)")


@attrs.frozen(kw_only=True)
class Key:
    """A key of a table."""

    name: str
    """As in the file: the field's name, without the underscore after a keyword of Python."""

    field: str
    kind: Any
    """Its type."""

    default: Any = None
    is_required: bool = False
    read: Callable[[Any], Any] | None = None
    """Reads and validates a value, instead of the type."""

    check: Callable[[Any], object] | None = None
    """Validates a value of the type."""

    example: str = ""
    code_only: str = ""
    """Why a file cannot give it."""

    is_duration: bool = False

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that its value may have, except ``None``."""
        kinds = get_args(self.kind) if get_origin(self.kind) is not Literal else ()
        return tuple(each for each in kinds if each is not NoneType) or (self.kind,)

    @property
    def table(self) -> type | None:
        """The attrs class of its value, or of the values in it if it has them by name."""
        last = self.kinds[-1]
        return last if attrs.has(last) else None

    @property
    def is_mapping(self) -> bool:
        """Whether it has values by their names."""
        return get_origin(self.kind) is Mapping

    @property
    def is_secret(self) -> bool:
        """Whether its value is never shown."""
        return Secret in self.kinds


@lru_cache
def keys_of(cls: type) -> Mapping[str, Key]:
    """Return the keys of a table that is read as *cls*, an attrs class or a msgspec Struct, by their names."""
    hints = get_type_hints(cls, include_extras=True)
    if issubclass(cls, msgspec.Struct):
        found = [_key(name, hints[name]) for name in cls.__struct_fields__]
    else:
        attrs_class: Any = cls
        fields = [each for each in attrs.fields(attrs_class) if each.init and each.name != "directory"]
        found = [_attrs_key(each, hints[each.name]) for each in fields if "is_rest" not in each.metadata]
    return {key.name: key for key in found}


def _attrs_key(field: attrs.Attribute[Any], hint: Any) -> Key:
    key = _key(field.name, hint)
    default: Any = field.default
    return attrs.evolve(
        key,
        default=default.factory() if getattr(default, "takes_self", True) is False else default,
        is_required=default is attrs.NOTHING,
        check=_check_of(field),
        code_only=field.metadata.get("code_only", ""),
        is_duration=float in key.kinds and "is_factor" not in field.metadata,
    )


def _check_of(field: attrs.Attribute[Any]) -> Callable[[Any], object]:
    """Return a function that converts and validates a value as its class does for *field*."""

    def check(value: Any) -> None:
        converter: Any = field.converter
        if isfunction(converter):
            value = converter(value)
        elif converter is not None:
            return
        if field.validator is not None:
            with suppress(AttributeError):  # one that reads other fields runs when the instance is made
                field.validator(None, field, value)

    return check


def _key(name: str, hint: Any) -> Key:
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return Key(
        name=name.removesuffix("_"),
        field=name,
        kind=kind,
        read=next((each for each in extras if callable(each)), None),
        example=next((each for each in extras if isinstance(each, str)), ""),
    )


def as_table(cls: type, value: Any) -> dict[str, Any]:
    """Return *value* if it is a table; otherwise a table in which it is the first key of *cls*, if *cls* has any."""
    first = next(iter(keys_of(cls)), None)
    return {first: value} if first is not None and not isinstance(value, dict) else value


def _may_be_bare(cls: type, value: Any) -> bool:
    """Return whether *value* may stand for a table of *cls*: it does not for an optional path, unless it is text."""
    first = next(iter(keys_of(cls).values()))
    return first.is_required or Path not in first.kinds or isinstance(value, str)


class TableReader:
    """
    Reads tables, and notes what is invalid in them; no secret is shown.

    Args:
        problems: Collects unknown, missing and invalid keys.

        directory: Where relative paths start.

        origins: Where the values were set: a number in an environment variable is text, one in a file is not.
    """

    def __init__(self, problems: Problems, *, directory: Path, origins: Origins):
        self._problems = problems
        self._directory = directory
        self._origins = origins

    def make(self, cls: type, given: Any, keys: KeyPath) -> Any:
        """
        Return an instance of *cls* from *given*; ``None`` if a problem was noted.

        Args:
            cls: An attrs class.

            given: Values by the names of its keys, or the value of the first key.

            keys: Where they are in the configuration.
        """
        where = dotted(keys)
        before = len(self._problems)
        table = as_table(cls, given)
        values: dict[str, Any] = {}
        is_table = False  # nor may it be a problem yet: an earlier one at these keys stands for all
        with self._problems.at(*keys):
            if table is not given and not _may_be_bare(cls, given):
                table_of(where, given, "{}")
            values = self.values(cls, table_of(where, table, "{}"), keys, is_bare=table is not given)
            is_table = True
        if not is_table or len(self._problems) > before:
            return None
        if any(field.name == "directory" for field in attrs.fields(cls)):
            values["directory"] = self._directory
        try:
            with _prefix_errors(cls, where):
                return cls(**values)
        except ConfigurationError as error:
            blamed = _FIRST_WORD.match(str(error).removeprefix(where))
            self._problems.add((*keys, blamed[1]) if blamed and blamed[1] in table else keys, error)
            return None

    def values(
        self, cls: type, given: Mapping[str, Any], keys: KeyPath = (), *, is_bare: bool = False
    ) -> dict[str, Any]:
        """
        Return the valid values of *given* by the fields of *cls*, which may be a Struct too.

        If *is_bare*, the only value stands for the whole table, and its key is not written.
        """
        where = dotted(keys)
        known = keys_of(cls)
        rest = [each.name for each in attrs.fields(cls) if "is_rest" in each.metadata] if attrs.has(cls) else []
        missing = [key.name for key in known.values() if key.is_required and key.name not in given]
        values: dict[str, Any] = {name: {} for name in rest}
        listing = [f"; known: {', '.join(_names(known)) or 'none'}"]  # once for a table
        for name, value in given.items():
            if self._problems.is_full:
                return {}
            path, inside = (keys, where) if is_bare else ((*keys, name), dotted((*keys, name)))
            with self._problems.at(*path), _prefix_errors(cls, where):
                if name in known and not known[name].code_only:
                    values[known[name].field] = self._value(known[name], value, path, inside)
                elif rest and not _means_one_of(name, missing):
                    values[rest[0]][name] = value
                else:
                    hint = _hint(name, known, keys) or (listing.pop() if listing else "")
                    raise _unknown(name, known, where, hint)
        for name in missing:
            if not any(_means_one_of(each, [name]) for each in given):
                self._problems.add(keys, f'{where}: the option "{name}" is missing')
        return {name: value for name, value in values.items() if value is not None}

    def _value(self, key: Key, given: Any, keys: KeyPath, where: str) -> Any:
        """Return *given*, which is at *keys*, as the value of *key*."""
        if key.table:
            return self._tables(key, key.table, given, keys)
        is_text = self._origins.is_text(*keys)
        if is_text and isinstance(given, str):
            given = _number(given, key.kinds)
        if key.read:
            return key.read(given)
        if key.is_duration and isinstance(given, str):
            given = seconds(given, what=where)
        value = self._converted(key, given, where, strict=not is_text)
        if key.check:
            key.check(value)  # its class checks it too, but only reports the first problem
        return value

    def _tables(self, key: Key, cls: type, given: Any, keys: KeyPath) -> Any:
        if not key.is_mapping:
            return self.make(cls, given, keys)
        found = {
            name: self.make(cls, each, (*keys, name)) for name, each in table_of(key.name, given, key.example).items()
        }
        return {name: each for name, each in found.items() if each is not None}

    def _converted(self, key: Key, given: Any, where: str, *, strict: bool) -> Any:
        """Return *given* as the type of *key*; no error shows the value."""
        if key.kind == tuple[Secret, ...] and not isinstance(given, list):
            if not isinstance(given, str):
                raise wrong_type(where, f"Expected `str | list`, got `{type(given).__name__}`", key.example)
            given = [given]
        choices = get_args(key.kind) if get_origin(key.kind) is Literal else (given,)
        if given not in choices:
            quoted = " or ".join(f'"{each}"' for each in choices)
            raise ConfigurationError(f"{where}: expected {quoted}; got {shown(given)}")
        try:
            return msgspec.convert(given, key.kind, strict=strict, dec_hook=self._decoded)
        except msgspec.ValidationError as error:
            what, _, path = str(error).partition(" - at `$")
            inside = path.translate({ord("["): ".", ord("]"): None, ord("`"): None})
            raise wrong_type(where + inside, what, "" if inside else key.example) from None

    def _decoded(self, kind: type, given: Any) -> Any:
        """Return the value of a type that msgspec does not know."""
        if isinstance(given, str) and kind is Secret:
            return Secret(given)
        if isinstance(given, str) and issubclass(kind, Path):
            if without_secrets(given) != given:
                raise TypeError("Expected a path as text, got an address with a password")
            if given:
                return self._directory / given
            raise TypeError("Expected a path as text, got empty text")
        if issubclass(kind, Path):
            raise TypeError(f"Expected a path as text, got `{type(given).__name__}`")
        raise TypeError(f"Expected `str`, got `{type(given).__name__}`")


def table_of(where: str, given: Any, example: str) -> Mapping[str, Any]:
    """
    Return *given* if it is a table.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(given, dict):
        return given
    raise wrong_type(where, f"Expected `object`, got `{type(given).__name__}`", example)


def wrong_type(where: str, what: str, example: str = "") -> ConfigurationError:
    """Return the error for a value of a wrong type, which is not shown; *what* is in the words of msgspec."""
    wanted, _, got = what.removesuffix(_NOT_EMPTY).partition(", got ")
    wanted = _in_words(wanted, _WORDS)
    got = "empty text" if what.endswith(_NOT_EMPTY) else _in_words(got, _VALUES)
    such = f" such as {example}" if example else ""
    return ConfigurationError(f"{where}: {wanted[:1].lower()}{wanted[1:]}{such}{f'; got {got}' if got else ''}")


def _in_words(text: str, words: Mapping[str, str]) -> str:
    """Return *text* with the types in backquotes replaced by *words*."""

    def named(types: re.Match[str]) -> str:
        return " or ".join(words.get(each, each) for each in types[1].split(" | ") if each != "null")

    return re.sub(r"`([^`]*)`", named, text)


def _names(known: Mapping[str, Key]) -> list[str]:
    """Return the names of the keys that a file can give."""
    return [key.name for key in known.values() if not key.code_only]


def _means_one_of(name: str, missing: Sequence[str]) -> bool:
    """Return whether the unknown key *name* is a misspelling, or another tool's word, of a key that is *missing*."""
    return CALLED_KEYS.get(name) in missing or bool(did_you_mean(name, missing))


def _hint(name: str, known: Mapping[str, Key], keys: KeyPath) -> str:
    """Return what the unknown key *name* of the table at *keys* may mean; empty if that is not known."""
    names = _names(known)
    answer = key_answer(name, names, table=str(keys[0]) if keys else "")
    return f"; {answer}" if answer else did_you_mean(name, names)


def _unknown(name: str, known: Mapping[str, Key], where: str, hint: str) -> ConfigurationError:
    if name in known:
        return ConfigurationError(f"{where}: {name} {known[name].code_only}")
    shown_name = key_shown(name)
    return ConfigurationError(
        f'{where}: unknown option "{shown_name}"{hint}' if where else f'unknown key "{shown_name}"{hint}'
    )


def _number(text: str, kinds: tuple[Any, ...]) -> Any:
    """Return the number that *text* is if one of *kinds* is a number; the environment has only text."""
    for kind in kinds:
        if kind is float or (kind is int and text.lstrip("-").isdecimal()):
            try:
                return msgspec.convert(text, kind, strict=False)
            except msgspec.ValidationError:
                pass
    return text


@contextmanager
def _prefix_errors(cls: type, where: str) -> Iterator[None]:
    """Make an error that is raised in the block begin with *where*, instead of the name of *cls*."""
    try:
        yield
    except (TypeError, ValueError, ConfigurationError) as error:
        # the further arguments of a validator's error hold the value, which may be secret
        text = str(error.args[0]) if error.args else type(error).__name__
        own = text.removeprefix(cls.__name__)
        named = text if text.startswith(where) else f"{where}{own}" if own != text else f"{where}: {text}"
        raise ConfigurationError(named) from None
