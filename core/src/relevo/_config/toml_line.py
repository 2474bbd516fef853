"""The line of each key in a TOML document, which :mod:`tomllib` does not report."""

from __future__ import annotations

import re
from collections.abc import Mapping

from relevo._problem import KeyPath

_BASIC = r'"(?:[^"\\\n]|\\.)*+"'
_LITERAL = r"'[^'\n]*+'"
_LONG_BASIC = r'"""(?:[^"\\]|\\.|""?(?!"))*+"{3,5}'
_LONG_LITERAL = r"'''(?:[^']|''?(?!'))*+'{3,5}"
_TEXT = re.compile(f"{_LONG_BASIC}|{_LONG_LITERAL}|{_BASIC}|{_LITERAL}", re.DOTALL)
_KEY = re.compile(f"{_BASIC}|{_LITERAL}|[A-Za-z0-9_-]++")
_NOTHING = re.compile(r"(?:[ \t\r\n]|#[^\n]*+)*+")
_BLANK = re.compile(r"[ \t]*+")
_PLAIN = re.compile(r"[^,\]}#\n]++")
"""A number, a date, true or false; spaces and all, since a date may have one."""


def lines_of(text: str) -> Mapping[KeyPath, int]:
    """
    Return where each key of *text* is first said, and each member of a list: its line, from 1.

    Args:
        text: A document that :mod:`tomllib` reads. Of another the answer means nothing.
    """
    return _Scanner(text).lines()


class _Scanner:
    """Goes through a document that is known to be right, once, from the beginning to the end."""

    def __init__(self, text: str):
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._found: dict[KeyPath, int] = {}
        self._lists: dict[KeyPath, int] = {}
        """How many tables each list has that is written as ``[[…]]``."""

    def lines(self) -> Mapping[KeyPath, int]:
        table: KeyPath = ()
        while self._skip() < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._found

    def _header(self) -> KeyPath:
        """Read ``[a.b]`` or ``[[a.b]]`` and return what the pairs below it belong to."""
        several = self._text.startswith("[[", self._at)
        self._at += 2 if several else 1
        table: KeyPath = ()
        for key in self._keys():
            table = self._latest(table)
            self._note(table := (*table, key))
        self._at += 2 if several else 1
        if several:
            number = self._lists.get(table, 0)
            self._lists[table] = number + 1
            self._note(table := (*table, number))
        return table

    def _latest(self, table: KeyPath) -> KeyPath:
        """Return the last member of *table* if it is a list, since that is what a header goes on with."""
        return (*table, self._lists[table] - 1) if table in self._lists else table

    def _pair(self, table: KeyPath) -> None:
        path = table
        for key in self._keys():
            self._note(path := (*path, key))
        self._at += 1  # the equals sign
        self._value(path)

    def _keys(self) -> list[str]:
        """Read a key with its dots, up to what follows it."""
        keys: list[str] = []
        while True:
            self._blank()
            match = _KEY.match(self._text, self._at)
            if match is None:
                return keys
            self._at = match.end()
            keys.append(_unquoted(match[0]))
            self._blank()
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        self._blank()
        match self._text[self._at]:
            case "[":
                self._members(path)
            case "{":
                self._pairs(path)
            case quote:
                pattern = _TEXT if quote in "\"'" else _PLAIN
                found = pattern.match(self._text, self._at)
                assert found is not None  # noqa: S101 - tomllib has read it
                self._at = found.end()

    def _members(self, path: KeyPath) -> None:
        self._at += 1
        number = 0
        while self._text[self._skip()] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._note((*path, number))
            self._value((*path, number))
            number += 1
        self._at += 1

    def _pairs(self, path: KeyPath) -> None:
        self._at += 1
        while self._text[self._skip()] != "}":
            if self._text[self._at] == ",":
                self._at += 1
            else:
                self._pair(path)
        self._at += 1

    def _note(self, path: KeyPath) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self._found.setdefault(path, self._line)

    def _skip(self) -> int:
        """Pass over line breaks and comments, and return where that leads."""
        match = _NOTHING.match(self._text, self._at)
        assert match is not None  # noqa: S101 - it may be empty
        self._at = match.end()
        return self._at

    def _blank(self) -> None:
        match = _BLANK.match(self._text, self._at)
        assert match is not None  # noqa: S101 - it may be empty
        self._at = match.end()


def _unquoted(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    if key[0] != '"' or "\\" not in key:
        return key.strip('"')
    import tomllib  # noqa: PLC0415 - for the few keys with escapes

    text = tomllib.loads(f"key = {key}")["key"]
    assert isinstance(text, str)  # noqa: S101 - it stands in quotes
    return text
