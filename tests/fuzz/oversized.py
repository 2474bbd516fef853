"""Oversized inputs, which no reader can read that takes a square of their size, or a level of the stack for a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

Makers = Mapping[str, Callable[[], bytes]]

MANY = 80_000
PARTS = 20_000
"""Of a dotted name."""

DEEP = 100_000
"""Levels."""

DIGITS = 5_000
"""More than the 4,300 that Python reads."""

LONG = 1_000_000
"""Characters."""


def keys(number: int = MANY) -> bytes:
    """Return a JSON object with as many keys."""
    return b"{" + b",".join(b'"k%d":%d' % (each, each) for each in range(number)) + b"}"


def _duplicates() -> bytes:
    return b"{" + b",".join([b'"a":1'] * MANY) + b"}"


_JSON: Makers = {
    "80,000 keys": keys,
    "80,000 duplicate keys": _duplicates,
    "80,000 values": lambda: b"[" + b",".join([b"1"] * MANY) + b"]",
    "100,000 lists in lists": lambda: b"[" * DEEP + b"]" * DEEP,
    "100,000 objects in objects": lambda: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "100,000 lists that are not closed": lambda: b"[" * DEEP,
    "a number of 5,000 digits": lambda: b"9" * DIGITS,
    "a fraction of 1,000,000 digits": lambda: b"0." + b"9" * LONG,
    "a text of 1,000,000 characters": lambda: b'"' + b"x" * LONG + b'"',
    "a text of 1,000,000 escapes": lambda: b'"' + b"\\u0000" * (LONG // 6) + b'"',
    "a text that is not closed": lambda: b'"' + b"\\" * LONG,
}


def of_json(place: Callable[[bytes], bytes] = bytes) -> Makers:
    """Return oversized documents, each as *place* returns it."""
    return {name: partial(_placed, place, make) for name, make in _JSON.items()}


def _placed(place: Callable[[bytes], bytes], make: Callable[[], bytes]) -> bytes:
    return place(make())


_LINES: Makers = {
    "80,000 keys in lines": lambda: b"".join(b"k%d = %d\n" % (each, each) for each in range(MANY)),
    "80,000 duplicate keys in lines": lambda: b"a = 1\n" * MANY,
    "80,000 sections": lambda: b"".join(b"[s%d]\n" % each for each in range(MANY)),
    "80,000 duplicate sections": lambda: b"[a]\nb = 1\n" * MANY,
    "80,000 lines of white space": lambda: b" \n" * MANY,
    "a key of 20,000 parts": lambda: b"a." * PARTS + b"b = 1\n",
    "a section of 20,000 parts": lambda: b"[" + b"a." * PARTS + b"b]\n",
    "2,000 keys of 20 parts": lambda: b"".join(b"a." * 19 + b"k%d = 1\n" % each for each in range(2000)),
    "100,000 lists in a line": lambda: b"a = " + b"[" * DEEP,
    "100,000 tables in a line": lambda: b"a = " + b"{a=" * DEEP,
    "80,000 duplicate keys in a table": lambda: b"a = {" + b"b=1," * MANY + b"}",
    "a number of 5,000 digits in a line": lambda: b"concurrency = " + b"9" * DIGITS,
    "a line of 1,000,000 characters": lambda: b'source = "' + b"x" * LONG + b'"',
    "a text that is not closed": lambda: b'source = """' + b"x\n" * MANY,
    "1,000,000 quotes": lambda: b'"' * LONG,
}


def of_lines(place: Callable[[bytes], bytes] = bytes) -> Makers:
    """Return oversized files of keys and sections, each as *place* returns it."""
    return {name: partial(_placed, place, make) for name, make in _LINES.items()}


_TEXTS: Mapping[str, Callable[[], str]] = {
    "a name of 20,000 parts": lambda: "a." * PARTS + "b",
    "a queue of 20,000 parts": lambda: "a/" * PARTS + "b",
    "1,000,000 characters": lambda: "x" * LONG,
    "1,000,000 digits": lambda: "9" * LONG,
    "5,000 digits": lambda: "9" * DIGITS,
    "20,000 addresses": lambda: "amqp://me:pw@host/v and " * PARTS,
    "20,000 addresses without a host": lambda: "amqp://me:pw " * PARTS,
    "an address of 20,000 addresses": lambda: "amqp://me:1/" * PARTS + "@host",
    "80,000 colons": lambda: "a:" * MANY + "@host",
    "80,000 ends of a host": lambda: "me:pw@" * MANY,
    "80,000 percent signs": lambda: "%3A%25" * MANY,
    "80,000 encoded colons": lambda: "%253A" * MANY,
    "20,000 settings": lambda: "password='x' token=\"y\" " * PARTS,
    "20,000 settings that are not closed": lambda: "'token': '" * PARTS,
    "20,000 names of settings": lambda: "secretpasswordtoken" * PARTS,
    "80,000 dashes": lambda: "-" * MANY + " --a" * MANY,
    "80,000 backslashes": lambda: "'token': " + "\\" * MANY + "'",
    "80,000 backslashes around a quote": lambda: "'token': " + "\\" * MANY + "'" + "\\" * MANY,
    "80,000 brackets": lambda: "[" * MANY + "://" + "]" * MANY,
    "80,000 lines": lambda: "a:/b@c\n" * MANY,
}


def of_texts(place: Callable[[str], bytes] = str.encode) -> Makers:
    """Return oversized texts, each as *place* returns it."""
    return {name: partial(_placed_text, place, make) for name, make in _TEXTS.items()}


def _placed_text(place: Callable[[str], bytes], make: Callable[[], str]) -> bytes:
    return place(make())
