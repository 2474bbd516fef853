from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from relevo._config.toml_line import lines_of
from relevo._problem import KeyPath

WHOLE = '''\
# source = "not here"
source = "shop"          # nor = "here"

"a key" = """
[transports]
main = "neither here"
""" # end
'b.c' . d = 1
listeners = [ # the first
    "shop.listeners", # [routes]
    'x', [1,

    2], { y = 3 },
]

[transports]
main = { url = "sqlite:///a#b", outbox = "x" }
"ot\\u0068er".url = \'\'\'
"""\'\'\'

[transports . third] # here
url = "\\"[no]"
at = 1979-05-27 07:32:00

[[list]]
a = 1
[[list]]
a = 2
[list.inner]
b = 3
[[list.inner.deep]]
[[list.inner.deep]]
c = [[[]]]
'''


def test_every_key_has_its_line() -> None:
    lines = lines_of(WHOLE)

    assert lines == {
        ("source",): 2,
        ("a key",): 4,
        ("b.c",): 8,
        ("b.c", "d"): 8,
        ("listeners",): 9,
        ("listeners", 0): 10,
        ("listeners", 1): 11,
        ("listeners", 2): 11,
        ("listeners", 2, 0): 11,
        ("listeners", 2, 1): 13,
        ("listeners", 3): 13,
        ("listeners", 3, "y"): 13,
        ("transports",): 16,
        ("transports", "main"): 17,
        ("transports", "main", "url"): 17,
        ("transports", "main", "outbox"): 17,
        ("transports", "other"): 18,
        ("transports", "other", "url"): 18,
        ("transports", "third"): 21,
        ("transports", "third", "url"): 22,
        ("transports", "third", "at"): 23,
        ("list",): 25,
        ("list", 0): 25,
        ("list", 0, "a"): 26,
        ("list", 1): 27,
        ("list", 1, "a"): 28,
        ("list", 1, "inner"): 29,
        ("list", 1, "inner", "b"): 30,
        ("list", 1, "inner", "deep"): 31,
        ("list", 1, "inner", "deep", 0): 31,
        ("list", 1, "inner", "deep", 1): 32,
        ("list", 1, "inner", "deep", 1, "c"): 33,
        ("list", 1, "inner", "deep", 1, "c", 0): 33,
        ("list", 1, "inner", "deep", 1, "c", 0, 0): 33,
    }
    assert set(lines) == set(paths(tomllib.loads(WHOLE)))


@pytest.mark.parametrize("text", ["", "\n", "# only this", "a = 1", "a = 1 # no line break", "a=1\r\nb=2\r\n", "[a]"])
def test_a_document_may_end_and_break_its_lines_as_it_likes(text: str) -> None:
    assert list(lines_of(text).values()) == list(range(1, len(tomllib.loads(text)) + 1))


@pytest.mark.parametrize("quotes", ['""""""', "''''''", '"""a""""', '"""a"""""', "'''a'''''", '"""""a"""', '"""\\""""'])
def test_quotes_next_to_quotes_are_told_apart(quotes: str) -> None:
    text = f"a = {quotes}\nb = 1\n"

    assert lines_of(text) == {("a",): 1, ("b",): 2}
    assert list(tomllib.loads(text)) == ["a", "b"]


def test_a_text_of_a_mebibyte_is_passed_over_at_once() -> None:
    text = f'a = """{chr(10) * (1 << 20)}"""\nb = 1'

    assert lines_of(text)["b",] == (1 << 20) + 2


# --- whatever tomllib reads ----------------------------------------------------------------------------

NASTY = st.text("ab\"'#=[]{},.\\ \t\n$", max_size=8)
BARE = st.text("ab-_3", min_size=1, max_size=4)


def paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Return the path of everything inside *value*."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for key, inner in members for each in ((*path, key), *paths(inner, (*path, key)))]


def quoted(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(escapes.get(each, each) for each in text) + '"'


class Writer:
    """Writes a document, and down on which line it put what."""

    def __init__(self, data: st.DataObject):
        self.draw = data.draw
        self.text = ""
        self.lines: dict[KeyPath, int] = {}

    def note(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def keys(self, path: KeyPath, keys: list[str]) -> KeyPath:
        for number, key in enumerate(keys):
            self.text += self.draw(st.sampled_from([".", " . "])) if number else ""
            path = (*path, key)
            self.note(path)
            literal = "'" not in key and "\n" not in key
            forms = [
                quoted(key),
                *([f"'{key}'"] if literal else []),
                *([key] if key.strip("ab-_3") == "" != key else []),
            ]
            self.text += self.draw(st.sampled_from(forms))
        return path

    def pair(self, path: KeyPath, key: str, depth: int) -> None:
        more = self.draw(st.lists(NASTY, max_size=1))
        inner = self.keys(path, [key, *more])
        self.text += self.draw(st.sampled_from(["=", " = ", "\t="]))
        self.value(inner, depth)

    def value(self, path: KeyPath, depth: int) -> None:
        kind = self.draw(st.sampled_from(["text", "long", "raw", "plain", *(["list", "table"] if depth else [])]))
        if kind == "text":
            self.text += quoted(self.draw(NASTY))
        elif kind == "long":
            inner = quoted(self.draw(NASTY))[1:-1].replace("\\n", self.draw(st.sampled_from(["\\n", "\n"])))
            self.text += f'"""{inner}{self.draw(st.sampled_from(["", chr(34), chr(34) * 2]))}"""'
        elif kind == "raw":
            text = self.draw(NASTY)
            self.text += quoted(text) if "'" in text else f"'''{text}'''" if "\n" in text else f"'{text}'"
        elif kind == "plain":
            self.text += self.draw(
                st.sampled_from(["1", "-0.5e3", "true", "1979-05-27 07:32:00Z", "nan", "0xff", "07:32:00"])
            )
        elif kind == "list":
            self.text += "["
            for number in range(self.draw(st.integers(0, 3))):
                self.text += "," if number else ""
                self.gap()
                self.note((*path, number))
                self.value((*path, number), depth - 1)
                self.gap()
            self.text += "]"
        else:
            self.text += "{ "
            for number, key in enumerate(self.draw(st.lists(NASTY, max_size=3, unique=True))):
                self.text += ", " if number else ""
                self.pair(path, key, depth - 1)
            self.text += " }"

    def gap(self) -> None:
        self.text += self.draw(st.sampled_from(["", " ", "\n", ' # ] , } "\n\n', "\t"]))

    def break_line(self) -> None:
        self.text += self.draw(st.sampled_from(["\n", " # = [x] '''\n", "\r\n", "\n\n#\n  "]))

    def document(self) -> None:
        tables: list[list[str]] = []
        self.pairs(())
        for _ in range(self.draw(st.integers(0, 4))):
            several = self.draw(st.booleans())
            begin = self.draw(st.sampled_from([[], *tables]))
            path = [*begin, self.draw(BARE if self.draw(st.booleans()) else NASTY)]
            tables.append(path)
            self.text += "[[" if several else "["
            self.header(path, several=several)

    def header(self, keys: list[str], *, several: bool) -> None:
        """Write a header, whose lists go on with their last member."""
        path: KeyPath = ()
        for number, key in enumerate(keys):
            self.text += "." if number else ""
            path = self.last(self.keys(path, [key])) if number < len(keys) - 1 else self.keys(path, [key])
        if several:
            count = sum(each[:-1] == path and isinstance(each[-1], int) for each in self.lines if each)
            self.note(path := (*path, count))
        self.text += "]]" if several else "]"
        self.break_line()
        self.pairs(self.last(path))

    def last(self, path: KeyPath) -> KeyPath:
        numbers = [each[-1] for each in self.lines if each and each[:-1] == path and isinstance(each[-1], int)]
        return (*path, max(numbers)) if numbers else path

    def pairs(self, path: KeyPath) -> None:
        for key in self.draw(st.lists(NASTY, max_size=3, unique=True)):
            self.pair(path, key, 2)
            self.break_line()


@given(st.data())
def test_the_lines_are_those_on_which_it_was_written(data: st.DataObject) -> None:
    writer = Writer(data)
    writer.document()
    try:
        read = tomllib.loads(writer.text)
    except tomllib.TOMLDecodeError:
        assume(False)  # noqa: FBT003 - two tables of one name, for example

    assert lines_of(writer.text) == writer.lines
    assert set(writer.lines) == set(paths(read))
