"""
Derive inputs from valid ones: the structure mostly stays, so that an input gets past the first check.

A seed is parsed as its shape says, mostly changed in one place, and written again. Some results are then damaged as
bytes too. All choices come from the random generator that is passed: Hypothesis and the runner pass different ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from random import Random
from typing import Any, Literal

import msgspec

Shape = Literal["bytes", "text", "json", "lines of json", "msgpack"]

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, -1.5, 1e-300, 1e17, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "\0", "\ud800", "\udfff", "é", "\u2028", "\U0001f600", "\x1b[31m", "\r", "a\nb", "x" * 5000, "9" * 5000),
    *("*", "image.*", "now", "main", "main/feed", "default", "outbox/main", "default@1", "1@default", "-", "--", "-1"),
    *("$", "${", "${X}", "$$", "%", "%s", "%(here)s", "%ff", "://", "sqlite://", "amqp://", "memory://", "@", ":", "/"),
    *(
        "5m",
        "1e400",
        "inf",
        "nan",
        "-5s",
        "1_000",
        "٣",
        "0x10",
        "1.0",
        "[",
        "{",
        "}",
        "]",
        "'",
        '"',
        "\\",
        "#",
        "=",
        ",",
    ),
    *(
        "2026-11-28",
        "v1.00000000." + "0" * 64,
        "v2.00000000." + "0" * 64,
        "0:::0:0",
        "s1",
        "relevo-signature",
        "__class__",
        "$ref",
        "#/",
        "..",
        ".",
    ),
    *(b"", b"\0", b"\xff", b"s1" * 30, b"{}", b"[]", [], {}, [[]], [None], {"": {}}, {"a": 1}, {"$ref": "#/"}),
)
"""Values at the edge of a type, and texts that mean something to a parser."""

_CHUNKS = tuple(
    each if isinstance(each, bytes) else each.encode("utf-8", "surrogatepass")
    for each in NASTY
    if isinstance(each, (str, bytes)) and each
)
_DEEPEST = 150
"""Levels of lists and tables that are put around a value; the stack of Python has some thousand."""


def mutated(seed: bytes, shape: Shape, random: Random) -> bytes:
    """
    Return *seed*, changed.

    Args:
        seed: A valid input, or an earlier result.

        shape: How it is parsed; one that cannot be parsed is changed as bytes.

        random: The source of all choices.
    """
    changed = seed
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        changed = _MUTATORS[shape](changed, random)
    return _of_bytes(changed, random) if shape == "bytes" or random.random() < 0.1 else changed


def _of_bytes(data: bytes, random: Random) -> bytes:
    begin = random.randint(0, len(data))
    end = min(len(data), begin + random.choice((0, 1, 1, 2, 8, 64)))
    match random.randrange(6):
        case 0:  # flip bits
            flipped = bytes(each ^ 1 << random.randrange(8) for each in data[begin:end])
            return data[:begin] + flipped + data[end:]
        case 1:
            return data[:begin] + data[end:]
        case 2:
            return data[:begin] + random.choice(_CHUNKS) + data[end:]
        case 3:
            return data[:end] + data[begin:end] * random.choice((1, 2, 30)) + data[end:]
        case 4:
            return data[:begin]
        case _:
            return data[:begin] + random.randbytes(max(1, end - begin)) + data[end:]


def _of_text(data: bytes, random: Random) -> bytes:
    """Change lines, or words of a line; what is between words stays."""
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            del lines[place]
        case 1:
            lines.insert(random.randint(0, len(lines)), lines[place])
        case 2:
            lines[place] = _of_word(lines[place], random)
        case 3:
            other = random.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        case 4:
            deep = random.randint(1, _DEEPEST)
            around, inside = random.choice(((b"[", b"]"), (b"{ a = ", b" }"), (b"a.", b""), (b"'''", b"'''")))
            key, equals, value = lines[place].partition(b"=")
            lines[place] = key + equals + around * deep + value + inside * deep
        case _:
            return _of_bytes(data, random)
    return b"\n".join(lines)


def _of_word(line: bytes, random: Random) -> bytes:
    separator = random.choice((b" ", b"=", b'"', b"/", b":", b".", b"@", b"?", b"&", b"%", b","))
    words = line.split(separator)
    words[random.randrange(len(words))] = random.choice(_CHUNKS)
    return separator.join(words)


# --- trees -----------------------------------------------------------------------------------------------


def _of_json(data: bytes, random: Random) -> bytes:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return _of_bytes(data, random)
    try:
        return json.dumps(_of_tree(tree, random), default=repr, ensure_ascii=random.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    except RecursionError:
        return data


def _of_lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    if random.random() < 0.3:
        return _of_text(data, random)
    place = random.randrange(len(lines))
    lines[place] = _of_json(lines[place], random)
    return b"\n".join(lines)


def _of_msgpack(data: bytes, random: Random) -> bytes:
    try:
        return msgspec.msgpack.encode(_of_tree(msgspec.msgpack.decode(data), random))
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return _of_bytes(data, random)


def _of_tree(tree: Any, random: Random) -> Any:
    """Return *tree* with one value inside it, or itself, replaced."""
    steps: list[tuple[Any, Any]] = []
    found = tree
    while isinstance(found, (list, dict)) and found and random.random() < 0.85:
        step = random.choice(list(found) if isinstance(found, dict) else range(len(found)))
        steps.append((found, step))
        found = found[step]
    if not steps:
        return _of_value(found, random)
    around, step = steps[-1]
    match random.randrange(12):
        case 0:
            del around[step]
        case 1 if isinstance(around, list):
            around.insert(random.randint(0, len(around)), found)
        case 1:
            around[str(_nasty(random))] = around.pop(step)
        case 2:
            around[step] = _nasty(random)
        case 3:  # a value from elsewhere in the tree
            holder, other = random.choice(steps)
            around[step] = deepcopy(holder[other]) if holder is not around else None
        case _:
            around[step] = _of_value(found, random)
    return tree


def _of_value(value: Any, random: Random) -> Any:
    """Return a value like *value*: of its type mostly, else nested or replaced."""
    if random.random() < 0.2:
        return _nasty(random)
    if random.random() < 0.1:
        for _ in range(random.choice((1, 2, _DEEPEST))):
            value = [value] if random.random() < 0.5 else {"a": value}
        return value
    match value:
        case bool():
            return not value
        case int():
            return value + random.choice((-1, 1, 1000, 2**31, -(2**40)))
        case float():
            return value * random.choice((-1.0, 1e3, 1e300, 1e-300))
        case str():
            return _of_text(value.encode("utf-8", "surrogatepass"), random).decode("utf-8", "replace")
        case bytes():
            return _of_bytes(value, random)
        case _:
            return _nasty(random)


def _nasty(random: Random) -> Any:
    return deepcopy(random.choice(NASTY))


_MUTATORS: Mapping[Shape, Callable[[bytes, Random], bytes]] = {
    "bytes": _of_bytes,
    "text": _of_text,
    "json": _of_json,
    "lines of json": _of_lines,
    "msgpack": _of_msgpack,
}


def shortest(data: bytes, fails: Callable[[bytes], bool], *, tries: int = 2000) -> bytes:
    """
    Return the shortest input found that fails as *data* does.

    Args:
        data: An input that fails.

        fails: Returns whether an input fails in the same way.

        tries: The most calls of *fails*.
    """
    size = len(data) // 2
    while size and tries:
        begin = 0
        while begin < len(data) and tries:
            tries -= 1
            shorter = data[:begin] + data[begin + size :]
            if fails(shorter):
                data = shorter
            else:
                begin += size
        size //= 2
    return data


def parts(data: bytes, kind: type[Any]) -> Any:
    """Return *data*, which is MessagePack, as a value of *kind*; ``None`` if it is not one."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def packed(*values: Any) -> bytes:
    """Return *values* for :func:`parts`."""
    return msgspec.msgpack.encode(list(values))


def shapes() -> Sequence[Shape]:
    """Return all shapes."""
    return tuple(_MUTATORS)
