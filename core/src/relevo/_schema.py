"""
What declared events look like, as JSON Schema for whoever writes or reads them without relevo.

The dialect is https://json-schema.org/draft/2020-12/json-schema-core. The events of an application are
one document, in which each has a schema that stands by itself, with an ``$id`` (section 9.3.1 there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from relevo._event import EventType

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OWN = "x-relevo"
"""The keyword under which stands what JSON Schema has no word for; unknown keywords are annotations (section 6.5)."""

Schema = dict[str, Any]

_BY_NAME = ("properties", "patternProperties", "$defs")
_PLAIN = ("const", "default", "enum", "examples", "required", OWN)
_LOCAL = "#/$defs/"


def schemas(kinds: Iterable[EventType], *, source: str) -> Schema:
    """
    Return the schemas of *kinds* as one document, by the names of the events.

    Args:
        kinds: Declared events.

        source: The application's name.
    """
    named = {kind.name: schema_of(kind) for kind in kinds}
    return {"$schema": DIALECT, "title": f"The events of {source}", "$defs": dict(sorted(named.items()))}


def schema_of(kind: EventType) -> Schema:
    """Return the schema of the data of *kind*, which needs nothing outside of itself."""
    cls: Any = kind.cls
    given: Schema = cls.model_json_schema() if kind.is_model else msgspec.json.schema(cls)
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
    made: Schema = rewritten(root, _sorted)
    return made


def rewritten(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """Return *schema* with every schema in it changed, the innermost first; what only looks like one is left alone."""
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


def _sorted(schema: Schema) -> Schema:
    """Return *schema* so that the order in which fields are declared makes no difference."""
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
    """Take the tag of a Struct out of *root*: the event has a name, and the tag does not travel."""
    if config is not None and config.tag is not None:
        root["properties"] = {name: each for name, each in root["properties"].items() if name != config.tag_field}
        root["required"] = [name for name in root["required"] if name != config.tag_field]
