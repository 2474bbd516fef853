"""Whatever a configuration and the environment hold, it is read, or refused in lines that name their origin."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from relevo import SystemClock
from relevo._config.bounded_toml import MAX_DEPTH, TomlError, loads
from relevo._config.opening import open_config, read
from relevo._config.schema import KEYS
from relevo._config.toml_line import tokens
from relevo.errors import ConfigurationError

NAMES = st.sampled_from([*KEYS, "main", "url", "outbox", "poll", "keys", "runs", "first", "factor", "mail", "to", "*"])
ODD = st.sampled_from(["a\nb", "\u2028", "\x1b[31m", "é", "", "${A}", "$", "/", "0", "a" * 50])
TEXTS = st.sampled_from(["memory://", "sqlite:///x.db", "amqp://u:p@h:x/", "5m", "512M", "shop:app", "main/feed"]) | ODD
PARTS = NAMES | ODD.map(lambda text: '"' + ascii(text)[1:-1].replace("\\x", "\\u00") + '"')
SCALARS = st.one_of(
    TEXTS.map(lambda text: '"' + ascii(text)[1:-1].replace("\\x", "\\u00") + '"'),
    st.integers().map(str),
    st.sampled_from(
        ["nan", "-inf", "1e400", "1_000", "0x1f", "07:32:00", "1979-05-27", "9999-12-31T23:59:59-23:59", "-0"]
    ),
)
DOTTED = st.lists(PARTS, min_size=1, max_size=3).map(".".join)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(DOTTED, inner).map(" = ".join), max_size=3).map(lambda parts: f"{{{', '.join(parts)}}}"),
    ),
    max_leaves=8,
)
LINES = st.one_of(
    st.tuples(DOTTED, VALUES).map(" = ".join),
    DOTTED.map(lambda key: f"[{key}]"),
    DOTTED.map(lambda key: f"[[{key}]]"),
)
DOCUMENTS = st.lists(LINES, max_size=6).map("\n".join).map(str.encode)
BYTES = st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(str.encode) | st.binary(max_size=40).map(
    lambda raw: raw.replace(b"\0", b"")
)
VARIABLES = st.dictionaries(
    st.lists(NAMES | ODD, min_size=1, max_size=4).map(lambda keys: "RELEVO_" + "__".join(keys).upper()),
    VALUES | BYTES.map(lambda raw: raw.decode("utf-8", "surrogateescape")) | st.just("{"),
    max_size=3,
)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.lengthy("tries many cases")
@given(DOCUMENTS | BYTES | st.binary(max_size=200), VARIABLES)
@example(b'"x\nb" = 1', {})
@example(b'"x\x1eb" = 1', {})
@example(b'"x\\u2028b" = 1', {"RELEVO_APP__\n": "[{"})
@example(b"", {"RELEVO_TRANSPORTS__/": "3"})
@settings(max_examples=300)
def test_every_line_of_an_error_names_its_origin(folder: Path, raw: bytes, environ: dict[str, str]) -> None:
    file = folder / "relevo.toml"
    file.write_bytes(raw)

    try:
        opened = open_config(read(file, environ, start=folder), clock=SystemClock())
    except ConfigurationError as error:
        for line in str(error).split("\n"):
            assert line.startswith((str(file), "RELEVO_", "the environment"))
            assert line.isprintable()
    else:
        for transport in [
            *opened.transports.values(),
            *(each for key in opened.helpers.values() for each in key.values()),
        ]:
            transport.close()


@given(DOCUMENTS)
def test_values_are_those_of_tomllib_if_they_are_not_too_deep(raw: bytes) -> None:
    text = raw.decode()

    try:
        wanted = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(TomlError):
            loads(text)
    else:
        assert repr(loads(text)) == repr(wanted)


@given(st.text(st.sampled_from("\"'\\\n[]{}=., #a"), max_size=60))
def test_each_character_of_any_text_is_in_one_token_or_between_two(text: str) -> None:
    rest = text
    for token, line in tokens(text):
        before, _, rest = rest.partition(token)
        assert not before.strip() or before.lstrip().startswith("#")
        assert 1 <= line <= text.count("\n") + 1


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH])
def test_a_value_may_be_as_deep_as_the_limit(depth: int) -> None:
    text = "a = " + "[" * depth + "]" * depth
    dotted = ".".join("a" * depth) + " = 1"

    assert loads(text)
    assert loads(dotted)
    for deeper in (text.replace("[]", "[[]]"), "a." + dotted):
        if depth == MAX_DEPTH:
            with pytest.raises(TomlError, match=f"expected at most {MAX_DEPTH}"):
                loads(deeper)
