"""The page "Words of other tools" has the words that newcomers search for, and what the commands answer."""

from __future__ import annotations

import re

import pytest

from relevo.cli._synonym import _COMMAND_ANSWERS, _COMMANDS, _OPTION_ANSWERS, _OPTIONS

from .workspace import ROOT

PAGE = (ROOT / "docs" / "reference" / "words.md").read_text(encoding="utf-8")
GLOSSARY = re.findall(r"^```\{glossary\}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
ENTRIES = {term: entry for entry in GLOSSARY.split("\n\n") for term in re.findall(r"^\S.*$", entry, re.MULTILINE)}


@pytest.mark.parametrize(
    ("word", "here"),
    {
        "broker": "*transport*",
        "consumer": "*worker*",
        "handler": "*listener*",
        "job": "*event*",
        "message": "*event*",
        "replay": "*Revive*",
        "requeue": "`relevo.RetryLater`",
        "retry": "*retry policy*",
        "task": "*listener*",
    }.items(),
)
def test_a_word_of_another_tool_leads_to_the_one_that_relevo_has_and_to_a_page(word: str, here: str) -> None:
    assert here in ENTRIES[word]
    assert re.search(r"\]\([\w./#-]+\.md[\w#-]*\)", ENTRIES[word])


def test_a_word_has_one_entry() -> None:
    terms = re.findall(r"^\S.*$", GLOSSARY, re.MULTILINE)

    assert sorted(terms) == sorted(ENTRIES)


def test_the_table_has_what_the_commands_answer() -> None:
    rows = dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", PAGE, re.MULTILINE))
    names = {**{word: f"relevo {command}" for word, command in _COMMANDS.items()}, **_OPTIONS}

    assert rows == {**{word: f"`{name}`" for word, name in names.items()}, **_COMMAND_ANSWERS, **_OPTION_ANSWERS}
