"""
Declared events as JSON Schema, for readers and writers that do not use relevo.

The dialect is https://json-schema.org/draft/2020-12/json-schema-core. The events of an application are
one document with a self-contained schema for each, which has an ``$id`` (section 9.3.1 there).

msgspec's schemas do not describe everything that is text in JSON. This module adds what they leave out: the formats of
datetimes and times that may or must be without a zone (``date-time-local`` and ``time-local`` of
https://spec.openapis.org/registry/format/), decimals that are also read from a number, and the keys of a dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from relevo._event.event import EventType

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OWN = "x-relevo"
"""The keyword for facts that JSON Schema cannot express; unknown keywords are annotations (section 6.5)."""

Schema = dict[str, Any]

_BY_NAME = ("properties", "patternProperties", "$defs")
_PLAIN = ("const", "default", "enum", "examples", "required", OWN)
_LOCAL = "#/$defs/"


def schemas(kinds: Iterable[EventType], *, source: str) -> Schema:
    """
    Return the schemas of *kinds* as one document, by event name.

    Args:
        kinds: Declared events.

        source: The application's name.
    """
    named = {kind.name: schema_of(kind) for kind in kinds}
    return {"$schema": DIALECT, "title": f"The events of {source}", "$defs": dict(sorted(named.items()))}


def schema_of(kind: EventType) -> Schema:
    """Return the self-contained schema of the data of *kind*."""
    cls: Any = kind.cls
    given: Schema = cls.model_json_schema() if kind.is_model else _complete(cls)
    parts = given.pop("$defs", {})
    name = given.pop("$ref", "").removeprefix(_LOCAL)
    root = dict(parts[name]) if name else given
    if not any(each == _LOCAL + name for each in _references([root, *(parts[part] for part in parts if part != name)])):
        parts.pop(name, None)
    _drop_tag(root, getattr(cls, "__struct_config__", None))
    about: Schema = {"event": kind.name, "version": kind.version, "upcasts": sorted(kind.upcasters)}
    if kind.subject and kind.of:
        about["subject"] = {"field": kind.fields[kind.subject], "type": kind.of}
    root |= {"$schema": DIALECT, "$id": f"urn:relevo:event:{kind.name}:{kind.version}", "title": kind.name, OWN: about}
    if parts:
        root["$defs"] = parts
    made: Schema = msgspec.json.decode(msgspec.json.encode(rewritten(root, _sorted)))  # a default may be a tuple
    return made


def rewritten(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """Return *schema* with *change* applied to every schema in it, innermost first; plain values are not changed."""
    if isinstance(schema, list):
        return [rewritten(each, change) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner: Schema = {}
    for key, value in schema.items():
        if key in _PLAIN:
            inner[key] = value
        elif key in _BY_NAME:
            inner[key] = {name: rewritten(each, change) for name, each in value.items()}
        else:
            inner[key] = rewritten(value, change)
    return change(inner)


# --- what msgspec's schemas leave out -----------------------------------------------------------------------


_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_FORMATS = (None, "date-time", "time", "partial-time", "decimal")
"""The formats for which msgspec's schema is incomplete."""

_KEYS: Mapping[type[inspect.Type], Schema] = {
    inspect.IntType: {"pattern": "^-?[0-9]+$"},
    inspect.FloatType: {"pattern": _NUMBER},
    inspect.DecimalType: {"format": "decimal"},
    inspect.DateType: {"format": "date"},
    inspect.TimeDeltaType: {"format": "duration"},
    inspect.UUIDType: {"format": "uuid"},
    inspect.BytesType: {"contentEncoding": "base64"},
}
"""The schema of a key of each type, as text."""


def _complete(cls: type) -> Schema:
    """Return msgspec's schema of *cls*, completed."""
    classes: dict[Any, Any] = {}
    _collect(inspect.type_info(cls), classes)
    references, parts = msgspec.json.schema_components(classes, ref_template=_LOCAL + "{name}")
    for reference, kind in zip(references, classes.values(), strict=True):
        schema = parts[reference["$ref"].removeprefix(_LOCAL)]
        in_order = schema.get("prefixItems", [])[-len(kind.fields) :]
        for place, field in enumerate(kind.fields):
            _complete_field(in_order[place] if in_order else schema["properties"][field.encode_name], field.type)
    return {**references[0], "$defs": parts}


def _collect(kind: Any, classes: dict[Any, Any]) -> None:
    """Add *kind*, if it is a class with fields, and all such classes in it to *classes*."""
    is_part = isinstance(kind, (inspect.Type, inspect.Field))
    if isinstance(kind, tuple):
        for each in kind:
            _collect(each, classes)
    elif is_part:
        if hasattr(kind, "fields"):
            if kind.cls in classes:
                return
            classes[kind.cls] = kind
        for name in kind.__struct_fields__:
            _collect(getattr(kind, name), classes)


def _complete_field(schema: Schema, kind: Any) -> None:
    """Complete *schema*, whose type *kind* is not a class with fields."""
    kind = _bare(kind)
    match kind:
        case inspect.DateTimeType() | inspect.TimeType():
            _set_forms(schema, _moments(kind))
        case inspect.DecimalType():
            _set_forms(schema, [{"type": "string", "format": "decimal"}, {"type": "number"}])
        case inspect.CollectionType() if "items" in schema:
            _complete_field(schema["items"], kind.item_type)
        case inspect.TupleType():
            for inner, item in zip(schema.get("prefixItems", ()), kind.item_types, strict=True):
                _complete_field(inner, item)
        case inspect.DictType():
            if "additionalProperties" in schema:
                _complete_field(schema["additionalProperties"], kind.value_type)
            if (keys := _keys(_bare(kind.key_type))) is not None:
                schema["propertyNames"] = keys
        case inspect.UnionType():
            for member in kind.types:
                _complete_option(schema["anyOf"], member)


def _complete_option(options: Iterable[Schema], member: Any) -> None:
    """Complete the one of *options* for *member* of a union; no other option has its JSON type."""
    kind = _bare(member)
    if hasattr(kind, "cls"):
        return
    wanted = "array" if isinstance(kind, (inspect.CollectionType, inspect.TupleType)) else "string"
    wanted = "object" if isinstance(kind, inspect.DictType) else wanted
    for option in options:
        if option.get("type") == wanted:
            _complete_field(option, member)
            return


def _bare(kind: Any) -> Any:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _set_forms(schema: Schema, forms: Sequence[Schema]) -> None:
    """Replace the type and format of *schema* by *forms*, and keep its other keywords."""
    if schema.get("format") not in _FORMATS:
        return  # the author of the class chose it
    schema.pop("type", None)
    schema.pop("format", None)
    schema.update(forms[0] if len(forms) == 1 else {"anyOf": list(forms)})


def _moments(kind: Any) -> list[Schema]:
    name = "time" if isinstance(kind, inspect.TimeType) else "date-time"
    formats = {None: (name, f"{name}-local"), True: (name,), False: (f"{name}-local",)}[kind.tz]
    return [{"type": "string", "format": each} for each in formats]


def _keys(kind: Any) -> Schema | None:
    """Return the schema of a key of type *kind*, as text; ``None`` if any text is valid or msgspec describes it."""
    match kind:
        case inspect.DateTimeType() | inspect.TimeType():
            keys: Schema = {}
            _set_forms(keys, _moments(kind))
            return keys
        case inspect.EnumType():
            return {"enum": sorted(str(each.value) for each in kind.cls)}
        case inspect.LiteralType():
            return {"enum": sorted(map(str, kind.values))}
    return dict(_KEYS[type(kind)]) if type(kind) in _KEYS else None


def _sorted(schema: Schema) -> Schema:
    """Return *schema* sorted, so that the order of the fields' declaration does not matter."""
    if "required" in schema:
        schema["required"] = sorted(schema["required"])
    return dict(sorted(schema.items()))


def _references(schema: Any) -> list[str]:
    found: list[str] = []

    def look(each: Schema) -> Schema:
        found.extend([each["$ref"]] if "$ref" in each else [])
        return each

    rewritten(schema, look)
    return found


def _drop_tag(root: Schema, config: Any) -> None:
    """Remove the tag of a Struct from *root*: it is not part of the event's data."""
    if config is not None and config.tag is not None:
        root["properties"] = {name: each for name, each in root["properties"].items() if name != config.tag_field}
        root["required"] = [name for name in root["required"] if name != config.tag_field]
