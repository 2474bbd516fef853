"""A page that says what is not so is found out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sybil.example import SybilFailure

from relevo import ConfigurationError

from .page import Page, commands, matches


def page(tmp_path: Path, text: str) -> Page:
    path = tmp_path / "page.md"
    path.write_text(text)
    folder = tmp_path / "folder"
    folder.mkdir()
    return Page(path, folder)


def block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n"


def test_blocks_of_python_share_their_names(tmp_path: Path) -> None:
    page(tmp_path, block("python", "x = 1") + block("python", "assert x == 1")).run()


def test_python_that_fails_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        page(tmp_path, block("python", "assert 1 == 2")).run()


def test_a_block_that_shows_files_writes_them(tmp_path: Path) -> None:
    text = block("python", "# shop/one.py\nX = 1\n\n# shop/two.py\nX = 2") + block(
        "python", "from shop import one, two"
    )
    shown = page(tmp_path, text)

    shown.run()

    assert (shown.folder / "shop" / "one.py").read_text() == "# shop/one.py\nX = 1\n\n"
    assert (shown.folder / "shop" / "two.py").read_text() == "# shop/two.py\nX = 2\n"


def test_a_page_forgets_its_modules(tmp_path: Path) -> None:
    text = block("python", "# corner/one.py\nX = 1") + block("python", "from corner import one")

    page(tmp_path, text).run()

    assert [name for name in sys.modules if name.startswith("corner")] == []


def test_a_comment_further_down_is_no_file(tmp_path: Path) -> None:
    page(tmp_path, block("python", "x = 1\n# shop/one.py\nx = 2") + block("python", "assert x == 2")).run()


@pytest.mark.parametrize(
    "wrong",
    ['sauce = "shop"', '# relevo.toml\nsauce = "shop"', '[tool.relevo]\nsauce = "shop"'],
)
def test_configuration_that_is_wrong_fails(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="sauce"):
        page(tmp_path, block("toml", wrong)).run()


def test_an_option_that_is_wrong_fails(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pol"):
        page(tmp_path, block("toml", '[transports]\nmain = { url = "sqlite:///x.db", pol = 1 }')).run()


def test_a_command_runs_in_the_folder_of_the_page(tmp_path: Path) -> None:
    page(tmp_path, block("python", "# one.py\nprint('here')") + block("console", "$ python one.py\nhere")).run()


@pytest.mark.parametrize("printed", ["there", ""])
def test_a_command_that_prints_something_else_fails(tmp_path: Path, printed: str) -> None:
    with pytest.raises(SybilFailure, match="but printed:\nhere"):
        page(tmp_path, block("console", f"$ echo here\n{printed}")).run()


def test_what_a_command_complains_of_counts(tmp_path: Path) -> None:
    with pytest.raises(SybilFailure, match="alas"):
        page(tmp_path, block("console", "$ echo alas >&2")).run()


def test_what_needs_a_server_is_left_out_without_one(tmp_path: Path) -> None:
    skip = "<!-- skip: next if(without_rabbitmq) -->\n"
    shown = page(tmp_path, skip + block("python", "raise SystemExit") + block("python", "y = 2"))

    assert shown.run() == 1


def test_the_server_is_there_for_a_page_that_configures_one(tmp_path: Path) -> None:
    shown = page(tmp_path, block("toml", '# relevo.toml\n[transports]\nmain = "amqp://localhost"'))
    shown.rabbitmq = {"RELEVO_TRANSPORTS__MAIN__PREFIX": "own"}
    before = shown.server()

    shown.run()

    assert (before, shown.server()) == ({}, shown.rabbitmq)


def test_a_console_is_split_into_commands() -> None:
    assert commands("$ one \\\n  more\na\nb\n$ two\n") == [("one \\\n  more", "a\nb\n"), ("two", "")]


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [("a b", "a   b\n"), ("a … d", "a b c d"), ("…", ""), ("", "\n"), ("in … s", "in 0.1 s\n"), ("a…d", "a d")],
)
def test_what_is_printed_matches(wanted: str, printed: str) -> None:
    assert matches(wanted, printed)


@pytest.mark.parametrize(("wanted", "printed"), [("a b", "ab"), ("a b", "a b c"), ("a … d", "a d e"), ("", "x")])
def test_what_is_printed_does_not_match(wanted: str, printed: str) -> None:
    assert not matches(wanted, printed)
