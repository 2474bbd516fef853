"""Under --json, and where a command prints a document, standard output holds that document and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .shop import CONFIGURATION, LISTENERS, Done, Shop, lines, opened

NOISY = """
import os, subprocess
print("imported")

@relevo.listener("mail.read")
def read(event):
    print("print")
    os.write(1, b"descriptor\\n")
    subprocess.run(["echo", "child"], check=True)

class Plugin:
    @relevo.hookimpl
    def relevo_around_handle(self): print("plugin")
plugin = Plugin()
"""
EVERY_NOISE = {"imported", "print", "descriptor", "child", "plugin"}


@pytest.fixture(name="noisy")
def _noisy(tmp_path: Path) -> Shop:
    """Return a shop whose application, listeners and plugins print."""
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", LISTENERS + NOISY)
    shop.write("shop.py", "print('imported')\nimport relevo\napp = relevo.App.from_config()\n")
    shop.write(
        "relevo.toml",
        'plugins = ["shop_listeners:plugin"]\n'
        + CONFIGURATION.replace(
            'main = "sqlite:///shop.db"', 'main = { url = "sqlite:///shop.db", outbox = "sqlite:///shop.db" }'
        ),
    )
    return shop


REPORT = {
    "handled",
    "done",
    "retried",
    "dead",
    "unsettled",
    "seconds",
    "stopped_by",
    "objection",
    "reasons",
    "retry_reasons",
    "paused",
}
FIGURES = {"ready", "leased", "scheduled", "dead", "oldest", "stuck", "lag", "workers", "paused"}
STATUS = FIGURES | {"transport", "queue", "routed", "relays_to", "error"}
PAUSED = {"transport", "queue", "since", "by", "reason"}
LETTER = {"ref", "transport", "queue", "event", "id", "reason", "attempt", "lost_leases", "sent", "died", "error"}
WHOLE = LETTER | {"status", "listeners", "failures", "problem", "headers", "body", "size"}
LISTENER = {"event", "priority", "target", "listener", "runs", "declared"}
LIVING = WHOLE - {"ref", "reason", "died", "error", "failures", "problem", "headers"} | {
    "until",
    "ordering_key",
    "behind",
    "worker",
    "running",
    "begun_by",
    "begun_in",
    "problem",
}
LISTED = LIVING - {"body", "size"} | {"leased", "error", "cursor"}
SCHEMA = {"$schema", "$defs", "title"}

DOCUMENTS: dict[str, tuple[int, type, set[str]]] = {
    # the exit code, and what is on standard output: an object with these keys, or a list of such
    "dispatch mail.read --json": (0, dict, {"id", "targets"}),
    "drain --json": (1, dict, REPORT),
    "worker --max-events 1 --json": (0, dict, REPORT),
    "relay --until-empty --json": (0, dict, REPORT),
    "status --json": (0, list, STATUS),
    "pause -q default --json": (0, list, PAUSED | {"new"}),
    "resume --all --json": (0, list, PAUSED),
    "stop --all --json": (0, list, {"transport", "worker"}),
    "dead list --json": (0, list, LETTER | {"failed_listeners"}),
    "dead list --full --json": (0, list, WHOLE | {"failed_listeners"}),
    "dead show 1 --json": (0, dict, WHOLE),
    "dead revive 1 --json": (0, dict, {"revived", "gone", "unknown", "stayed"}),
    "dead revive none --json": (1, dict, {"revived", "gone", "unknown", "stayed"}),
    "dead discard 1 --yes --json": (0, dict, {"discarded", "gone", "unknown"}),
    "dead discard 1 --json": (0, dict, {"discarded", "gone", "unknown"}),
    "list --json": (0, list, LISTED),
    "list --by event --json": (0, list, {"transport", "event", "count", "first_sent", "last_sent"}),
    "show $ID --json": (0, list, LIVING),
    "show none --json": (1, list, set()),
    "cancel $ID --json": (0, dict, {"cancelled"}),
    "cancel none --json": (1, dict, {"cancelled"}),
    "cancel --all --yes --json": (0, dict, {"cancelled", "held", "elsewhere", "gone"}),
    "cancel --all --json": (0, dict, {"cancelled", "held", "elsewhere", "gone"}),
    "cancel --all --by event --yes --json": (0, dict, {"cancelled", "held", "elsewhere", "gone", "groups"}),
    "move --from main/media --to main/feed --json": (0, dict, {"moved", "stayed", "dead", "reasons"}),
    "purge main/media --yes --json": (0, dict, {"purged"}),
    "purge main/media --json": (0, dict, {"purged"}),
    "transports --json": (
        0,
        list,
        {"name", "scheme", "type", "address", "outbox", "coordinator", "dead_letters", "queues", "capabilities"},
    ),
    "listeners --json": (0, list, LISTENER),
    "listeners --format json": (0, list, LISTENER),
    "check --json": (0, list, {"check", "ok", "detail", "missing_listener"}),
    "config show --json": (0, list, {"key", "value"}),
    "config show --origin --json": (0, list, {"key", "value", "origin"}),
    "schema": (0, dict, SCHEMA),
    "schema --json": (0, dict, SCHEMA),
    "setup --json": (0, list, set()),
}


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("command", DOCUMENTS)
def test_standard_output_holds_one_document_of_known_keys(noisy: Shop, command: str) -> None:
    code, kind, keys = DOCUMENTS[command]
    event_id = json.loads(noisy.run("dispatch mail.read --json").stdout)["id"]
    noisy.run("""dispatch image.created '{"bad": true}'""")
    if "dead" in command:
        noisy.run("drain -q media")

    done = noisy.run(command.replace("$ID", event_id), given=b"n\n")

    document: Any = json.loads(done.stdout)
    rows: list[dict[str, object]] = document if kind is list else [document]
    assert type(document) is kind
    assert [set(row) for row in rows if set(row) != keys] == []
    assert done.returncode == code


@pytest.mark.slow("starts the command line in a process of its own")
@pytest.mark.parametrize("command", ["drain --json", "worker --max-events 1 --json"])
def test_what_listeners_and_their_children_print_goes_to_standard_error(noisy: Shop, command: str) -> None:
    noisy.run("dispatch mail.read")

    done = noisy.process(f"relevo {command}")

    assert json.loads(done.stdout)["handled"] == 1
    assert set(lines(done)) == EVERY_NOISE


@pytest.mark.slow("starts the command line in a process of its own")
def test_without_json_what_listeners_and_their_children_print_stays_where_it_was(noisy: Shop) -> None:
    noisy.run("dispatch mail.read")

    done = noisy.process("relevo drain")

    assert (set(done.stdout.splitlines()), done.stderr) == (EVERY_NOISE, "")


@pytest.mark.slow("starts the command line in a process of its own")
@pytest.mark.parametrize("command", ["schema", "listeners --format mermaid"])
def test_a_document_that_is_no_json_is_alone_too(noisy: Shop, command: str) -> None:
    done = noisy.process(f"relevo {command}")

    assert "imported" not in done.stdout
    assert "imported" in done.stderr


@pytest.mark.slow("starts the command line in a process of its own")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_document_cannot_be_written_where_standard_output_is_closed(noisy: Shop, closed: str) -> None:
    noisy.run("dispatch mail.read")

    done = noisy.process(f"relevo drain --json {closed}")

    assert done.returncode == (74 if ">&-" in closed.split() else 0)
    assert json.loads(noisy.run("status -q main/default --json").stdout)[0]["ready"] == 0
    assert (done.stdout == "") is (">&-" in closed.split())
    assert done.stdout == "" or json.loads(done.stdout)["done"] == 1


@pytest.mark.slow("starts the command line in a process of its own")
def test_a_reader_of_json_that_has_seen_enough_ends_it_without_a_word(noisy: Shop) -> None:
    done: Done = noisy.process("relevo config show --json | head -c 1 > /dev/null; exit ${PIPESTATUS[0]}")

    assert (done.stderr, done.returncode in (0, 141)) == ("", True)
