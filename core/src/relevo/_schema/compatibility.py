"""
Breaking changes between two outputs of ``relevo schema``.

A change can break two things. *Older events* are still in queues and are read by the newer class: that needs an
upcaster from their version. *Newer events* may be received by workers of the older release: if the version was raised,
these return them and nothing is lost. A default that is added or removed counts too: an event
that is dispatched by name may lack the field.

Only differences between schemas are seen, so relevo's schemas include everything that msgspec validates. Pydantic's
schemas do not show whether a datetime needs a zone. Where a schema is not exact, a false alarm is preferred to a missed
change: a list that becomes a set may hold an item twice, which is read without an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import attrs
import msgspec

from relevo._schema.schema import OWN, Schema
from relevo.errors import shown

Reader = Literal["older events", "newer events"]
"""The events that fail or are read wrongly: older ones by the newer class, or newer ones by the older class."""

OLDER: tuple[Reader, ...] = ("older events",)
NEWER: tuple[Reader, ...] = ("newer events",)

_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_EXACT = ("pattern", "multipleOf", "uniqueItems")
_MORE = 10**30


@attrs.frozen(kw_only=True)
class Change:
    """One difference between the old and the new schema of an event."""

    event: str
    path: str
    """The path in its data, as in ``$.size``."""

    what: str
    breaks: tuple[Reader, ...] = ()
    """The events that it breaks without further changes; empty if it is harmless."""

    fix: str | None = None
    """How to fix it; ``None`` if nothing is left to do: the version was raised and there is an upcaster."""


class _Subject(msgspec.Struct):
    type: str


class _About(msgspec.Struct):
    """What relevo adds to the schema of an event."""

    event: str
    version: int
    upcasts: tuple[int, ...] = ()
    subject: _Subject | None = None


@attrs.frozen
class _Side:
    """An event of one of the two outputs."""

    schema: Schema
    root: Schema
    """The schema that its references refer to."""

    about: _About

    @property
    def version(self) -> int:
        return self.about.version

    @property
    def upcasts(self) -> tuple[int, ...]:
        return self.about.upcasts

    @property
    def subject(self) -> str | None:
        return self.about.subject.type if self.about.subject else None

    def resolved(self, node: Any) -> Schema:
        """
        Return *node*, or the schema that it refers to.

        Raises:
            ValueError: A keyword has a value that it cannot have in JSON Schema, or a reference leads nowhere.
        """
        for _ in range(100):
            if not isinstance(node, Mapping):
                return {} if node is not False else {"not": {}}
            _check_keywords(node)
            if "allOf" in node and len(node["allOf"]) == 1:
                node = node["allOf"][0]
            if "$ref" not in node:
                return dict(node)
            node = self._at(node["$ref"])
        return {}

    def _at(self, reference: str) -> Any:
        found: Any = self.root
        for step in reference.removeprefix("#/").split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if found is None:
            raise ValueError(f'it has no "{reference}", to which it refers')
        return found


_NODE = dict[str, Any] | bool
_Type = Literal["array", "boolean", "integer", "null", "number", "object", "string"]
_KEYWORDS: Mapping[str, Any] = {
    **dict.fromkeys(("$ref", "title", "format", "contentEncoding", "pattern"), str),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), list[_NODE]),
    **dict.fromkeys((*_LOWER, *_UPPER), float),
    "type": _Type | Annotated[list[_Type], msgspec.Meta(min_length=1)],
    "enum": list[Any],
    "multipleOf": Annotated[float, msgspec.Meta(gt=0)],
    "properties": dict[str, _NODE],
    "propertyNames": dict[str, Any],
    "required": list[str],
}
"""The types of the values that are read; a file may have others."""


def _check_keywords(node: Mapping[str, Any]) -> None:
    """
    Check the values of keywords in a schema.

    Raises:
        ValueError: One has another type than JSON Schema gives it.
    """
    for word in node.keys() & _KEYWORDS.keys():
        try:
            msgspec.convert(node[word], _KEYWORDS[word])
            if word == "pattern":
                re.compile(node[word])
        except (msgspec.ValidationError, re.error, OverflowError, RecursionError) as error:
            raise ValueError(f'it has the keyword "{word}" with {shown(node[word])}: {error}') from error


def events_in(document: object) -> dict[str, _Side]:
    """
    Return the events in an output of ``relevo schema``, by name.

    Raises:
        ValueError: *document* is not an output of ``relevo schema``.
    """
    root: Any = document if isinstance(document, Mapping) else {}
    among = root["$defs"] if "$defs" in root else root.get("components", {}).get("schemas")
    try:
        found = [each for each in among.values() if OWN in each]
        sides = [
            _Side(each, root if "components" in root else each, msgspec.convert(each[OWN], _About)) for each in found
        ]
    except (AttributeError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise ValueError("it is not an output of relevo schema") from error
    return {side.about.event: side for side in sides}


def compare(old: object, new: object) -> list[Change]:
    """
    Return the differences between the outputs *old* and *new*, sorted by event and then by path.

    Raises:
        ValueError: One of them is not an output of ``relevo schema``.
    """
    before, after = events_in(old), events_in(new)
    found: list[Change] = []
    for name in sorted({*before, *after}):
        if name not in before:
            found.append(Change(event=name, path="$", what="is new"))
        elif name not in after:
            found.append(
                Change(
                    event=name,
                    path="$",
                    what="is not declared any more",
                    breaks=OLDER,
                    fix="keep its listeners until its last event is handled",
                )
            )
        else:
            found += _event(name, before[name], after[name])
    return found


def _event(name: str, old: _Side, new: _Side) -> Iterator[Change]:
    was, now = old.version, new.version
    if now < was:
        yield Change(
            event=name, path="$", what=f"its version went from {was} back to {now}", breaks=OLDER, fix=f"keep {was}"
        )
    if now > was and new.upcasts and was < min(new.upcasts):
        what = f"has upcasters from version {min(new.upcasts)} on, and none from {was}"
        yield Change(event=name, path="$", what=what, breaks=OLDER, fix=f"add an upcaster from {was}")
    for version in sorted({*old.upcasts} - {*new.upcasts}):
        what = f"has no upcaster from version {version} any more"
        yield Change(event=name, path="$", what=what, breaks=OLDER, fix="keep it while such events may arrive")
    comparison = _Comparison(old, new)
    if old.subject != new.subject:
        comparison.note("$", f"its subject was {old.subject or 'none'}, and is {new.subject or 'none'}", OLDER + NEWER)
    comparison.compare(old.schema, new.schema, "$")
    for path, what, breaks in comparison.found:
        yield Change(event=name, path=path, what=what, breaks=breaks, fix=_fix(breaks, old, new))


def _fix(breaks: Sequence[Reader], old: _Side, new: _Side) -> str | None:
    risen = new.version > old.version
    if "older events" in breaks and not (risen and old.version in new.upcasts):
        return f"add an upcaster from {old.version}" if risen else _raise(old.version, upcaster=True)
    return _raise(old.version, upcaster=False) if breaks and not risen else None


def _raise(version: int, *, upcaster: bool) -> str:
    return f"raise the version to {version + 1}" + (f", with an upcaster from {version}" if upcaster else "")


class _Comparison:
    """Walks through both schemas in parallel and notes the differences."""

    def __init__(self, old: _Side, new: _Side):
        self._old, self._new = old, new
        self._within: list[tuple[Schema, Schema]] = []
        self.found: list[tuple[str, str, tuple[Reader, ...]]] = []

    def note(self, path: str, what: str, breaks: tuple[Reader, ...] = ()) -> None:
        self.found.append((path, what, breaks))

    def compare(self, old: Any, new: Any, path: str) -> None:
        olds, news = _alternatives(self._old, old), _alternatives(self._new, new)
        _pair(olds, news)
        lost = [kind for kind in olds if not _covered(kind, olds[kind], news)]
        gained = [kind for kind in news if not _covered(kind, news[kind], olds)]
        if lost and gained:
            self.note(path, f"was {_listed(lost)}, and is {_listed(gained)}", OLDER + NEWER)
        elif lost:
            self.note(path, f"is not {_listed(lost)} any more", OLDER)
        elif gained:
            self.note(path, f"may also be {_listed(gained)}", NEWER)
        for kind in olds:
            if kind in news:
                self._same_kind(kind, olds[kind], news[kind], path)
            elif kind not in lost:
                self._within_bounds(olds[kind], news, path, OLDER)
        for kind in news:
            if kind not in olds and kind not in gained:
                self._within_bounds(news[kind], olds, path, NEWER)

    def _same_kind(self, kind: str, old: Schema, new: Schema, path: str) -> None:
        if kind == "one of":
            self._values(old["enum"], new["enum"], path)
            return
        if (old, new) in self._within:  # a class that holds itself
            return
        self._within.append((old, new))
        self._bounds(old, new, path)
        if kind.startswith("object"):
            self._objects(old, new, path)
        if kind == "list":
            self._lists(old, new, path)
        self._within.pop()

    def _within_bounds(
        self, schema: Schema, others: Mapping[str, Schema], path: str, breaks: tuple[Reader, ...]
    ) -> None:
        """Note the values of *schema* that *others* do not accept, although they accept its kind."""
        if "enum" in schema:
            bad = [
                each
                for each in schema["enum"]
                if not _fits(each, others.get(_cover(_json_type(each), others) or "", {}))
            ]
            if bad:
                what = "may not be {} any more" if breaks == OLDER else "may also be {}"
                self.note(path, what.format(_listed(map(json.dumps, bad))), breaks)
            return
        other = others.get(_cover(_kind(schema), others) or "", {})
        old, new = (schema, other) if breaks == OLDER else (other, schema)
        before = len(self.found)
        self._bounds(old, new, path)
        self.found[before:] = [each for each in self.found[before:] if breaks[0] in each[2]]

    def _values(self, old: Sequence[Any], new: Sequence[Any], path: str) -> None:
        if lost := [each for each in old if each not in new]:
            self.note(path, f"may not be {_listed(map(json.dumps, lost))} any more", OLDER)
        if gained := [each for each in new if each not in old]:
            self.note(path, f"may also be {_listed(map(json.dumps, gained))}", NEWER)

    def _bounds(self, old: Schema, new: Schema, path: str) -> None:
        for words, sign in ((_LOWER, 1), (_UPPER, -1)):
            for word in words:
                was, now = (sign * each[word] if word in each else -_MORE for each in (old, new))
                if was != now:
                    what = f"{word} was {old.get(word, 'none')}, and is {new.get(word, 'none')}"
                    self.note(path, what, OLDER if now > was else NEWER)
        for word in _EXACT:
            if old.get(word) != new.get(word):
                breaks = NEWER if word not in new else OLDER if word not in old else OLDER + NEWER
                self.note(path, f"{word} was {old.get(word, 'none')}, and is {new.get(word, 'none')}", breaks)

    def _objects(self, old: Schema, new: Schema, path: str) -> None:
        olds, news = old.get("properties", {}), new.get("properties", {})
        for name in sorted({*olds, *news}):
            place = f"{path}.{name}"
            needed = [name in each.get("required", ()) for each in (old, new)]
            if name not in news:
                self._note_removed(place, new, needed=needed[0])
            elif name not in olds:
                self._note_added(place, old, needed=needed[1])
            else:
                if needed == [False, True]:
                    self.note(place, "has no default any more", OLDER)
                elif needed == [True, False]:
                    self.note(place, "has a default now, and may be left out", NEWER)
                elif olds[name] != news[name] and _default(olds[name]) != _default(news[name]):
                    self.note(place, "has another default")
                self.compare(olds[name], news[name], place)
        keys = [{"type": "string", **each.get("propertyNames", {})} for each in (old, new)]
        self.compare(keys[0], keys[1], f"{path}.*")
        values = [each.get("additionalProperties", True) for each in (old, new)]
        values = [True if each == {} else each for each in values]
        if values[0] is not values[1] and False in values:
            closed = values[1] is False
            what = "takes no other fields any more" if closed else "takes other fields now"
            self.note(path, what, OLDER if closed else NEWER)
        elif True not in values and False not in values:
            self.compare(values[0], values[1], f"{path}[*]")
        elif values[0] is not values[1]:
            self.note(path, "holds values of another type", OLDER if values[0] is True else NEWER)

    def _note_removed(self, place: str, new: Schema, *, needed: bool) -> None:
        breaks = OLDER if new.get("additionalProperties") is False else ()
        self.note(place, "is gone" + ("" if needed else ", and had a default"), breaks + (NEWER if needed else ()))

    def _note_added(self, place: str, old: Schema, *, needed: bool) -> None:
        breaks = NEWER if old.get("additionalProperties") is False else ()
        self.note(
            place, "is new, " + ("without" if needed else "with") + " a default", (OLDER if needed else ()) + breaks
        )

    def _lists(self, old: Schema, new: Schema, path: str) -> None:
        olds, news = _first(old), _first(new)
        for place, (was, now) in enumerate(zip(olds, news, strict=False)):
            self.compare(was, now, f"{path}[{place}]")
        if len(olds) != len(news):
            self.note(
                path, f"began with {len(olds)} items of their own types, and begins with {len(news)}", OLDER + NEWER
            )
        self.compare(_rest(old), _rest(new), f"{path}[*]")


def _alternatives(side: _Side, node: Any) -> dict[str, Schema]:
    """Return the alternatives of *node* by their kinds; kinds of objects have titles."""
    schema = side.resolved(node)
    among = schema.get("anyOf") or schema.get("oneOf")
    types = schema.get("type")
    if isinstance(types, list):
        among = [{**schema, "type": each} for each in types]
    if not among:
        return {_kind(schema): {"enum": [schema["const"]]} if "const" in schema else schema}
    found: dict[str, Schema] = {}
    for each in among:
        for kind, alternative in _alternatives(side, each).items():
            if kind == "one of" and kind in found:
                alternative = {"enum": [*found[kind]["enum"], *alternative["enum"]]}  # noqa: PLW2901 - both
            found[kind] = alternative
    return found


def _pair(olds: dict[str, Schema], news: dict[str, Schema]) -> None:
    """Treat the only kinds of objects of both sides as the same kind: the title does not affect reading."""
    titled = [[kind for kind in kinds if kind.startswith("object")] for kinds in (olds, news)]
    if [len(each) for each in titled] == [1, 1]:
        olds["object"], news["object"] = olds.pop(titled[0][0]), news.pop(titled[1][0])


def _kind(schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return "one of"
    if "not" in schema:
        return "nothing"
    kind = {"array": "list"}.get(schema.get("type", ""), schema.get("type", "anything"))
    form = schema.get("title") if kind == "object" else schema.get("format") or schema.get("contentEncoding")
    return f"{kind} ({form})" if form else str(kind)


def _covered(kind: str, schema: Schema, others: Mapping[str, Schema]) -> bool:
    """Return whether one of *others* accepts all values of *kind*, comparing only kinds."""
    if kind == "one of" and kind not in others:
        return all(_cover(_json_type(value), others) for value in schema["enum"])
    return kind == "nothing" or _cover(kind, others) is not None


def _cover(kind: str, others: Mapping[str, Schema]) -> str | None:
    """Return the one of *others* that accepts all values of *kind*."""
    wider = (kind, "anything", kind.partition(" (")[0], "number" if kind == "integer" else "")
    return next((each for each in wider if each in others), None)


def _fits(value: Any, schema: Schema) -> bool:
    """Return whether *value*, of a simple type, is within the bounds of *schema*."""
    if isinstance(value, str):
        return (
            schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", _MORE)
            and re.search(schema.get("pattern", ""), value) is not None
        )
    if not isinstance(value, (int, float)):
        return True
    return (
        schema.get("minimum", -_MORE) <= value <= schema.get("maximum", _MORE)
        and schema.get("exclusiveMinimum", -_MORE) < value < schema.get("exclusiveMaximum", _MORE)
        and ("multipleOf" not in schema or value % schema["multipleOf"] == 0)
    )


def _json_type(value: object) -> str:
    names: Mapping[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return names.get(type(value), "anything")


def _first(schema: Schema) -> list[Any]:
    items = schema.get("prefixItems", schema.get("items", []))
    return items if isinstance(items, list) else []


def _rest(schema: Schema) -> Any:
    items = schema.get("items", True)
    return schema.get("additionalItems", True) if isinstance(items, list) else items


def _default(schema: Any) -> Any:
    return schema.get("default", _default) if isinstance(schema, Mapping) else _default


def _listed(words: Any) -> str:
    return " or ".join(words)
