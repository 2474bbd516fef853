"""The reference says all that there is."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from pathlib import Path

import attrs
import msgspec
import pytest

from relevo import TRANSITIONS, Capabilities, Reason
from relevo._config.schema import Settings
from relevo._config.table import keys_of
from relevo._hook import HookSpecs
from relevo.cli import _main
from relevo_amqp import AmqpTransport
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport

from .workspace import ROOT

DOCS = ROOT / "docs"
PACKAGES = [
    "relevo",
    "relevo.testing",
    "relevo.ext.mail",
    "relevo.wire",
    "relevo.backend",
    "relevo.backend.session",
    "relevo_memory",
    "relevo_sql",
    "relevo_sql.alembic",
    "relevo_amqp",
    "relevo_conformance",
]
_DIRECTIVE = re.compile(r"^ *\.\. (currentmodule|automodule|auto\w+|py:\w+):: ([\w.]+)", re.MULTILINE)


def told_names() -> set[str]:
    """Return the full names of all that the reference has an entry for."""
    found: set[str] = set()
    for page in (DOCS / "reference").glob("*.md"):
        module = ""
        for kind, name in _DIRECTIVE.findall(page.read_text()):
            if kind in {"currentmodule", "automodule"}:
                module = name
                if kind == "automodule":
                    found.add(f"{name} (all)")
            else:
                found.add(f"{module}.{name}")
    return found


def cells(page: Path, first: str) -> list[list[str]]:
    """Return the rows, without head, of the table in *page* whose head begins with *first*."""
    lines = page.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    told = told_names()
    public = importlib.import_module(package).__all__

    assert [name for name in public if not told & {f"{package}.{name}", f"{package} (all)"}] == []


def test_every_key_of_configuration_is_told_with_its_default() -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    rows = {row[0]: row for row in cells(DOCS / "reference" / "configuration.md", "key")}

    assert list(rows) == list(defaults)
    for key in ("source", "setup"):
        assert f'"{defaults[key]}"' in rows[key][2]
    for key in ("patience", "lease", "concurrency", "time_limit"):
        assert f"`{defaults[key]:g}`" in f"{rows[key][2]}`"


def test_every_key_of_a_table_of_configuration_is_told() -> None:
    page = (DOCS / "reference" / "configuration.md").read_text()
    tables = {key.name: key.table for key in keys_of(Settings).values() if key.table}

    assert list(tables) == ["plugins", "signing", "retries", "queues", "schedules", "transports"]
    for name, cls in tables.items():
        section = page.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]
        keys = [key.name for key in keys_of(cls).values() if not key.code_only]
        assert section, name
        assert [key for key in keys if f"`{key}`" not in section] == [], name


def test_every_exit_code_is_told() -> None:
    codes = {str(code) for name, code in vars(_main).items() if name.startswith("EXIT_")}
    told = [row[0] for row in cells(DOCS / "reference" / "exit-codes.md", "code")]

    assert set(told) == codes | {"0", "2", "128 + n"}


def test_every_hook_is_told_with_its_arguments() -> None:
    hooks = {name: function for name, function in vars(HookSpecs).items() if name.startswith("relevo_")}
    arguments = {name: [*inspect.signature(function).parameters][1:] for name, function in hooks.items()}

    rows = cells(DOCS / "reference" / "hook.md", "hook")

    assert [(name, re.findall(r"[a-z_]+", told)) for name, told, _ in rows] == list(arguments.items())


def test_every_reason_of_a_dead_letter_is_told() -> None:
    told = [row[0] for row in cells(DOCS / "how-to" / "dead-letters.md", "reason")]

    assert sorted(told) == sorted(Reason)


def test_the_backends_are_compared_by_what_they_claim() -> None:
    page = DOCS / "how-to" / "choose-a-backend.md"
    claims = [transport.capabilities for transport in (MemoryTransport, SqlTransport, AmqpTransport)]
    wanted = [
        [field.name, *(shown(getattr(claim, field.name)) for claim in claims)] for field in attrs.fields(Capabilities)
    ]
    if os.environ.get("RELEVO_TEST_ACCEPT") == "1":
        before, head, rest = page.read_text().partition("| claim | memory | SQL | RabbitMQ |\n|---|---|---|---|\n")
        rows = "".join(f"| `{name}` | {' | '.join(said)} |\n" for name, *said in wanted)
        page.write_text(before + head + rows + re.sub(r"\A(\|.*\n)+", "", rest))

    assert cells(page, "claim") == wanted, "RELEVO_TEST_ACCEPT=1 writes the table anew"


def shown(claim: object) -> str:
    if claim is True:
        return "yes"
    return "-" if claim is None or claim is False else str(claim)


def test_the_diagram_is_that_of_the_table() -> None:
    text = (DOCS / "explanation" / "life-of-a-delivery.md").read_text()
    drawn = {
        (start, action, end)
        for start, end, actions in re.findall(r"^    (\w+) --> (\w+): (.*)$", text, re.MULTILINE)
        for action in actions.split(", ")
    }

    assert drawn == {(start, action.replace("_", " "), end) for (start, action), end in TRANSITIONS.items()}
