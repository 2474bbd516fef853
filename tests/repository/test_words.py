"""The project stands for itself: nothing in it depends on where it happened to be written."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from relevo.cli._main import group

from .workspace import ROOT, files

# Put together here, so that this file does not hold them.
FORBIDDEN = {
    "a folder of one machine": ["/" + "root/", "/" + "work/", "/" + "home/"],
    "a folder outside the repository": [".." + "/shared"],
    "the host of a package registry": [
        "pypi" + ".org",
        "python" + "hosted.org",
        "deb.debian" + ".org",
        "registry.npmjs" + ".org",
    ],
}

TEXTS = {path: text for path in files() if (text := path.read_bytes()) and b"\0" not in text}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    pattern = re.compile("|".join(map(re.escape, FORBIDDEN[what])).encode())

    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.decode(errors='replace').strip()}"
        for path, text in TEXTS.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]

    assert found == []


# Phrases that read as if translated, and what to write instead; more may join them, none comes back.
PHRASES = {
    r"\bunsaid\b": "by default",
    r"\banew\b": "again",
    r"to become of": "the outcome of",
    r"who hears": "the receiver",
    r"to be said against": "after validating",
    r"manieth": "the index of",
    r"an? [a-z]+ is none\b": "is invalid, is not a …",
    r"\bit is none\.": "it is invalid, it is not a …",
}
READ_BY_USERS = ("core/src/", "backends/", "docs/", "tests/conformance/src/", "README.md", "CONTRIBUTING.md")
GENERATED = "docs/reference/mutants.md"  # from the names of scenarios

# The same for prose: pages and READMEs, and the help of the commands.
PHRASES_OF_PROSE = {
    **PHRASES,
    r"\bwhoever\b": "anyone who, or the part that acts",
    r"\b(some|no|every)body\b(?!-)": "the part that acts: a worker, a process, you",
    r"\bwhom\b": "which, for which",
    r"\btold\b": "reported, logged, printed",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bafresh\b": "from the beginning",
    r"\bso many\b": "this number of",
    r"\bas ever\b": "as usual",
    r"\bgo(es)? along\b": "is sent with, is passed on",
    r"if you say nothing|unless you say otherwise": "by default",
    r"what (is to )?bec[ao]mes? of|what comes of": "the outcome of",
    r"(?<!there )\b(is|are) no (?!longer\b|more\b)": "is not a …",
    r"\bstrangers?\b": "third party, other users",
    r"\blooks? on\b": "observe",
    r"\bhow it fares\b|\bwhose turn\b": "its status, who has to act",
    r"\ball the same\b": "nevertheless, still",
    r"\bin vain\b": "without success",
    r"\bin no (log|error)\b": "never in a log or an error",
    r"\bnames? nothing\b": "does not exist",
    r"(\bthe|'s) seam\b": "the transport interface",
}
PROSE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "changes/",
    "core/",
    "backends/",
    "examples/",
    "docs/",
    "tests/conformance/",
)
NOT_YET = (GENERATED,)
# The same for the core's code, where it is done. Two words are also names that are stored or printed for programs:
# the file that ends with .told, "told" in the file of the mail plugin, and "mend" and "mended" of relevo schema --diff.
_ALSO_NAMES = {r"\btold\b": r"(?<![.\"])\btold\b", r"\bmend(s|ed|ing)?\b": r"(?<!\")\bmend(s|ed|ing)?\b"}
PHRASES_OF_CODE = {_ALSO_NAMES.get(phrase, phrase): rather for phrase, rather in PHRASES_OF_PROSE.items()}
CODE = (
    "core/src/",
    "backends/amqp/src/",
    "backends/memory/src/",
    "backends/sql/src/",
    "benchmarks/",
    "examples/",
)
# The same for what the suite and the tools of the repository say: their comments and strings. Names stay, since
# seeds of Hypothesis and stored histories have them.
SENTENCES = ("tests/conformance/src/", "tests/servers/", "tests/machine/", "docs/_sphinx/", "Makefile", "tox.ini")
_CODE = re.compile(r"^(`{3,}).*?^\1$|^<!--.*?-->$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def phrases(found: dict[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{each})" for each in found), re.IGNORECASE)


def lines_with(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of *text* in which *pattern* is found; most texts have none."""
    if pattern.search(text):
        yield from ((number, line) for number, line in enumerate(text.splitlines(), start=1) if pattern.search(line))


@cache
def without_code(text: str) -> str:
    """Return *text* without its code, line for line: the code has its own names, and what programs print is theirs."""
    return _CODE.sub(lambda block: "\n" * block[0].count("\n"), text)


def sentences(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of *text*; of a Python file those of its comments and of strings with a space."""
    if not name.endswith(".py"):
        yield from enumerate(text.splitlines(), start=1)
        return
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds and " " in token.string:
            yield from enumerate(token.string.splitlines(), start=token.start[0])


def helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Yield all texts of the help of *command*, and of those under it, each with the name of its command."""
    yield name, command.help or ""
    yield from ((name, option.help or "") for option in command.params if isinstance(option, click.Option))
    if isinstance(command, click.Group):
        for each in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), each)
            assert found is not None
            yield from helps(found, f"{name} {each}")


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_that_was_replaced_does_not_come_back(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    names = {path: str(path.relative_to(ROOT)) for path in TEXTS}

    found = [
        f"{name}:{number}: {line.strip()}; rather: {PHRASES[phrase]}"
        for path, name in names.items()
        if name.startswith(READ_BY_USERS) and "/tests/" not in name and name != GENERATED
        for number, line in lines_with(pattern, TEXTS[path].decode())
    ]

    assert found == []


@pytest.mark.parametrize("phrase", PHRASES_OF_CODE)
def test_code_does_without_a_phrase_that_was_replaced(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    sources = {str(path.relative_to(ROOT)): text.decode() for path, text in TEXTS.items() if path.suffix == ".py"}

    found = [
        f"{name}:{number}: {line.strip()}; rather: {PHRASES_OF_CODE[phrase]}"
        for name, text in sources.items()
        if name.startswith(CODE)
        for number, line in lines_with(pattern, text)
    ]

    assert found == []


def test_the_suite_and_the_tools_do_without_a_phrase_that_was_replaced() -> None:
    pattern = phrases(PHRASES_OF_PROSE)
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in ((str(path.relative_to(ROOT)), text.decode()) for path, text in TEXTS.items())
        if name.startswith(SENTENCES) and pattern.search(text)
        for number, line in sentences(name, text)
        if pattern.search(line)
    ]

    assert found == []


def test_every_place_that_is_held_to_the_phrases_of_code_is_there() -> None:
    names = [str(path.relative_to(ROOT)) for path in TEXTS]

    assert [each for each in CODE + SENTENCES if not any(name.startswith(each) for name in names)] == []


@pytest.mark.parametrize("phrase", PHRASES_OF_PROSE)
def test_prose_does_without_a_phrase_that_was_replaced(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    pages = {str(path.relative_to(ROOT)): text.decode() for path, text in TEXTS.items() if path.suffix == ".md"}

    found = [
        f"{name}:{number}: {line.strip()}; rather: {PHRASES_OF_PROSE[phrase]}"
        for name, text in pages.items()
        if name.startswith(PROSE) and not name.startswith(NOT_YET)
        for number, line in lines_with(pattern, without_code(text))
    ]

    assert found == []


def test_the_help_of_the_commands_does_without_them_too() -> None:
    pattern = phrases(PHRASES_OF_PROSE)

    assert [(name, text) for name, text in helps(group, "relevo") if pattern.search(" ".join(text.split()))] == []


def test_every_text_is_utf_8_and_ends_with_a_line_break() -> None:
    assert [str(path) for path, text in TEXTS.items() if not _well_formed(text)] == []


def _well_formed(text: bytes) -> bool:
    try:
        return text.decode().endswith("\n")
    except UnicodeDecodeError:
        return False


def test_the_files_that_people_look_for_are_there() -> None:
    wanted = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "workspace.txt", "Makefile", "tox.ini"]

    assert [name for name in wanted if not Path(ROOT, name).is_file()] == []
