from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from relevo import Routes
from relevo._config.opening import read
from relevo._config.schema import Config
from relevo._problem import Origin, Origins, Problems
from relevo.errors import ConfigurationError, TransportNotFoundError

CANARY = "hunter2"

Read = Callable[..., Config]


@pytest.fixture(name="read_")
def _read(tmp_path: Path) -> Read:
    def read_(text: str, **environ: str) -> Config:
        path = tmp_path / "relevo.toml"
        path.write_text(text)
        return read(path, environ, start=tmp_path)

    return read_


def told(read_: Read, text: str, **environ: str) -> list[str]:
    """Return what is wrong, without the folder."""
    with pytest.raises(ConfigurationError) as caught:
        read_(text, **environ)
    return [line.rpartition("/")[2] for line in str(caught.value).splitlines()]


# --- ${VARIABLE} ----------------------------------------------------------------------------------------


def test_a_variable_stands_in_any_text_for_what_the_environment_has(read_: Read) -> None:
    config = read_(
        'source = "${NAME}"\nlisteners = ["a.${MODULE}", "${MODULE}.b"]\n'
        '[transports]\nmain = { url = "amqp://${USER}:${_P1}@${HOST}/", "${USER}" = "${USER}" }\n'
        '[routes]\n"*" = "main/${QUEUE}"\n',
        NAME="shop",
        MODULE="m",
        USER="me",
        _P1="$${x}",
        HOST="",
        QUEUE="feed",
    )

    assert config.source == "shop"
    assert config.listeners == ("a.m", "m.b")
    assert config.transports["main"].url.reveal() == "amqp://me:$${x}@/"
    assert config.transports["main"].options == {"${USER}": "me"}
    assert config.routes == {"*": ("main/feed",)}


@pytest.mark.parametrize(
    "written, meant",
    [("$$", "$"), ("$$$$", "$$"), ("$${A}", "${A}"), ("$$${A}", "$1"), ("a$$b$$", "a$b$"), ("${A}$$", "1$")],
)
def test_two_dollar_signs_are_one(read_: Read, written: str, meant: str) -> None:
    config = read_(f"[transports]\nmain = 'x://{written}'", A="1")

    assert config.transports["main"].url.reveal() == f"x://{meant}"


def test_what_the_environment_says_itself_is_taken_as_it_is(read_: Read) -> None:
    config = read_("[transports]\nmain = 'x://'", RELEVO_TRANSPORTS__MAIN="x://${A}$", RELEVO_TRANSPORTS__B='{url="$"}')

    assert [each.url.reveal() for each in config.transports.values()] == ["x://${A}$", "$"]


def test_a_variable_that_is_not_set_is_told_with_its_key_and_line_and_nothing_beside_it(read_: Read) -> None:
    lines = told(
        read_,
        f'source = "shop"\npatience = "${{P}}"\nlisteners = [\n  "a",\n  "${{L}}"]\n'
        f'[transports]\nmain = "amqp://{CANARY}:${{A}}${{B}}${{A}}${{C}}@host"\n',
        C=CANARY,
    )

    assert lines == [
        "relevo.toml:2: patience: the variable P is not set; set it, or write $${P} if the text itself is meant",
        "relevo.toml:5: listeners.1: the variable L is not set; set it, or write $${L} if the text itself is meant",
        "relevo.toml:7: transports.main: the variable A is not set; set it, or write $${A} if the text itself is meant",
        "relevo.toml:7: transports.main: the variable B is not set; set it, or write $${B} if the text itself is meant",
    ]


def test_what_seems_wrong_with_the_whole_of_what_is_not_known_is_no_news(read_: Read) -> None:
    (line,) = told(read_, 'signing = ["${KEY}"]')

    assert line.startswith("relevo.toml:1: signing.0: the variable KEY is not set")


@pytest.mark.parametrize("text", ["$", "a$b", "$A", "${", "${}", "${1}", "${A", "${A:-b}", "${A }", "$ {A}", "$$$"])
def test_a_dollar_sign_that_stands_for_nothing_is_told(read_: Read, text: str) -> None:
    lines = told(read_, f'[transports]\nmain = "x://{CANARY}{text}"', A=CANARY)

    assert lines == [
        "relevo.toml:2: transports.main: a dollar sign without {VARIABLE} after it; write $$ for the sign itself"
    ]


@pytest.mark.parametrize("written", ["%env(DSN)%", "%env(resolve:DSN)%"])
def test_a_reference_to_a_variable_as_in_symfony_is_told_as_it_is_written_here(read_: Read, written: str) -> None:
    lines = told(read_, f"[transports]\nmain = '{written}'", DSN=CANARY)

    assert lines == [f"relevo.toml:2: transports.main: write ${{DSN}} instead of {written}"]


def test_a_table_of_symfony_is_told(read_: Read) -> None:
    lines = told(read_, "[framework.messenger.transports]\nasync = 'sqlite:///shop.db'")

    assert any("leave it out; transports and routes are tables at the top level" in line for line in lines)


def test_what_the_environment_overrules_may_name_variables_that_are_not_set(read_: Read) -> None:
    config = read_("[transports]\nmain = { url = '${A}', x = '${B}' }", RELEVO_TRANSPORTS__MAIN="memory://")

    assert config.transports["main"].url.reveal() == "memory://"


@given(st.text("$", max_size=3), st.text(max_size=20).filter(str.isprintable))
def test_a_text_with_its_dollar_signs_doubled_is_meant_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, more: str, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "doubled.toml"
    meant = f"{more}{text}{more}"
    quoted = meant.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    path.write_text(f'[transports]\nmain = "x{quoted}"', encoding="utf-8")

    assert read(path, {}, start=path.parent).transports["main"].url.reveal() == f"x{meant}"


# --- where it comes from ----------------------------------------------------------------------------------


def test_the_origin_of_a_value_is_its_line_its_variable_or_nothing(read_: Read) -> None:
    origins = read_(
        'source = "shop"\n[transports.main]\nurl = "memory://"\na = 1\nb = 2\n[transports.other]\nurl = "x://"\nc = 1',
        RELEVO_TRANSPORTS__MAIN__B="3",
        RELEVO_TRANSPORTS__OTHER="memory://",
        RELEVO_SETUP="auto",
    ).origins

    def of(*keys: str) -> str:
        return str(origins.exactly(*keys)).rpartition("/")[2]

    assert of("source") == "relevo.toml:1"
    assert of("transports", "main", "url") == "relevo.toml:3"
    assert of("transports", "main", "b") == "RELEVO_TRANSPORTS__MAIN__B"
    assert of("transports", "main", "never") == "relevo.toml:2"
    assert of("transports", "other", "c") == "RELEVO_TRANSPORTS__OTHER"
    assert of("setup") == "RELEVO_SETUP"
    assert of("lease") == "None"
    assert str(origins.of("lease")).endswith("/relevo.toml")


def test_lines_are_those_of_the_whole_pyproject(tmp_path: Path) -> None:
    tmp_path.joinpath("pyproject.toml").write_text('[project]\nname = "x"\n\n[tool.relevo]\nsorce = 1\n')

    with pytest.raises(ConfigurationError, match=r'/pyproject\.toml:5: unknown key "sorce"'):
        read(None, {}, start=tmp_path)


# --- telling it together ----------------------------------------------------------------------------------


def test_one_problem_keeps_its_class_and_several_are_lines() -> None:
    origins = Origins(Origin("here"), {("a",): Origin("f", 9), ("b",): Origin("f", 3)})
    problems, only = Problems(), Problems()

    problems.add(("a", 0), "one\ntwo")
    with problems.at("b"):
        Routes({}).targets("x")
    problems.add((), "three")
    only.add((), TransportNotFoundError("x", []))

    with pytest.raises(ConfigurationError) as several:
        problems.raise_any(origins)
    for _ in range(2):  # what was found is not changed by being told
        with pytest.raises(TransportNotFoundError, match=r"^here: no transport"):
            only.raise_any(Origins(Origin("here")))
    with pytest.raises(TransportNotFoundError, match=r"^no transport"):
        only.raise_any()
    assert [line[:10] for line in str(several.value).splitlines()] == [
        "f:3: no ro",
        "f:9: one",
        "  two",
        "here: thre",
    ]


def test_nothing_found_raises_nothing() -> None:
    problems = Problems()

    problems.raise_any()

    assert len(problems) == 0
