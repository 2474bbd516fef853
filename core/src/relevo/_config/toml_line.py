"""The line of each key in a TOML document, which :mod:`tomllib` does not report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from relevo._problem import KeyPath

_TOKEN = re.compile(
    r'(?P<token>"""(?:[^"\\]|\\.|""?(?!"))*+(?:"{3,5}|\Z)'
    r"|'''(?:[^']|''?(?!'))*+(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|[\[\]{}=.,\n]"
    r"|[^\s\[\]{}=.,#\"']++)"
    r"|[ \t\r]++|#[^\n]*+",
    re.DOTALL,
)
"""In any text each character is in one match, so that a quote without its end takes no longer than others."""

_END = ""
_AFTER_A_VALUE = (",", "]", "}", "\n", _END)


def lines_of(text: str) -> Mapping[KeyPath, int]:
    """
    Return the line, from 1, on which each key of *text*, and each member of a list, first appears.

    Args:
        text: A document that :mod:`tomllib` can read. For any other text the result has no meaning.
    """
    return _Scanner(text).lines()


def tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yield the tokens of *text*, valid or not, without spaces and comments, each with its line from 1."""
    line = 1
    for match in _TOKEN.finditer(text):
        if match["token"]:
            yield match["token"], line
        line += match[0].count("\n")


class _Scanner:
    """Reads a valid document once; ``_next`` is the token to read, which begins on ``_line``."""

    def __init__(self, text: str):
        self._tokens = tokens(text)
        self._next = _END
        self._line = 1
        self._found: dict[KeyPath, int] = {}
        self._lists: dict[KeyPath, int] = {}
        """The number of tables in each list that is written as ``[[…]]``."""

    def lines(self) -> Mapping[KeyPath, int]:
        table: KeyPath = ()
        self._take()
        while self._next != _END:
            if self._next == "\n":
                self._take()
            elif self._next == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._found

    def _take(self) -> None:
        self._next, self._line = next(self._tokens, (_END, self._line))

    def _note(self, path: KeyPath) -> None:
        self._found.setdefault(path, self._line)

    def _header(self) -> KeyPath:
        """Read ``[a.b]`` or ``[[a.b]]`` and return the table that the pairs below it belong to."""
        self._take()
        is_list = self._next == "["
        if is_list:
            self._take()
        table = self._keys(())
        if is_list:
            self._lists[table] = self._lists.get(table, 0) + 1
            self._note(table := self._latest(table))
            self._take()
        self._take()
        return table

    def _latest(self, table: KeyPath) -> KeyPath:
        """Return the last member of *table* if it is a list, since a header continues that one."""
        return (*table, self._lists[table] - 1) if table in self._lists else table

    def _keys(self, path: KeyPath) -> KeyPath:
        """Read a key with its dots, relative to *path*, and return its path."""
        while True:
            self._note(path := (*self._latest(path), _unquoted(self._next)))
            self._take()
            if self._next != ".":
                return path
            self._take()

    def _pair(self, table: KeyPath) -> None:
        path = self._keys(table)
        self._take()  # the equals sign
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        match self._next:
            case "[":
                self._inside(path, "]")
            case "{":
                self._inside(path, "}")
            case _:
                while self._next not in _AFTER_A_VALUE:  # a date may have a space, and a number a dot
                    self._take()

    def _inside(self, path: KeyPath, end: str) -> None:
        """Read the members of a list, or the pairs of a table in one line, up to *end*."""
        number = 0
        self._take()
        while self._next != end:
            if self._next in ("\n", ","):
                self._take()
            elif end == "}":
                self._pair(path)
            else:
                self._note((*path, number))
                self._value((*path, number))
                number += 1
        self._take()


def _unquoted(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    if key[0] != '"' or "\\" not in key:
        return key.strip('"')
    import tomllib  # noqa: PLC0415 - for the few keys with escapes

    text = tomllib.loads(f"key = {key}")["key"]
    assert isinstance(text, str)  # noqa: S101 - it is in quotes
    return text
