"""The commands that show listeners and events: listeners, show."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import datetime

import pytest

from .shop import CONFIGURATION, Shop, lines

# --- listeners --------------------------------------------------------------------------------------------


def test_listeners_are_shown_with_the_runs_that_their_queue_allows(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION + '[retries]\n"main/feed" = 8\nmain = { first = 3 }\n')

    rows = json.loads(shop.run("listeners --json").stdout)

    assert {row["target"]: row["runs"] for row in rows} == {"main/media": 5, "main/feed": 8, "main/default": 5}


def test_the_listeners_of_one_event_are_shown(shop: Shop) -> None:
    rows = json.loads(shop.run("listeners mail.sent --json").stdout)

    assert {row["event"] for row in rows} == {"mail.sent"}
    assert "image.created" not in shop.run("listeners mail.sent").stdout
    assert "image.created" not in shop.run("listeners mail.sent --format mermaid").stdout


def test_an_event_without_a_listener_is_not_found(shop: Shop) -> None:
    done = shop.run("listeners mail.snet")

    assert done.returncode == 1
    assert done.stdout == ""
    assert 'no listener here for "mail.snet"; did you mean "mail.sent" (' in done.stderr


def test_listeners_are_drawn_as_a_flowchart(shop: Shop) -> None:
    done = shop.run("listeners --format mermaid")

    assert done.stdout.splitlines() == [
        "flowchart LR",
        '    queue0[("main/media")]',
        '    queue1[("main/feed")]',
        '    event0(["image.created"])',
        '    queue2[("main/default")]',
        '    event1(["mail.sent"])',
        '    listener0["shop_listeners:thumbnails"]',
        '    listener1["shop_listeners:feed"]',
        '    listener2["shop_listeners:count"]',
        "    event0 --> queue0",
        "    event0 --> queue1",
        "    event1 --> queue2",
        '    queue0 -- "image.created" --> listener0',
        '    queue1 -- "image.created" --> listener1',
        '    queue2 -- "mail.sent" --> listener2',
    ]


def test_names_cannot_break_out_of_the_flowchart(shop: Shop) -> None:
    shop.write(
        "shop_listeners.py",
        "import relevo\n@relevo.listener('a.b', id='x\"]; click x \"javascript:`1` <b>#')\ndef f(e): ...\n",
    )

    done = shop.run("listeners --format mermaid")

    (line,) = [line for line in done.stdout.splitlines() if "click" in line]
    assert line == ('    listener0["x#34;#93;#59; click x #34;javascript:#96;1#96; #60;b#62;#35;"]')


def test_a_listener_without_a_route_is_drawn_where_no_event_comes(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"*" = "main"', ""))

    drawn = shop.run("listeners --format mermaid").stdout
    table = json.loads(shop.run("listeners --format json").stdout)

    assert '[("no route")]' in drawn
    assert table[-1]["target"] == "no route"


# --- show -------------------------------------------------------------------------------------------------


def test_an_event_is_shown_wherever_it_is_and_how_far_its_listeners_are(shop: Shop) -> None:
    shop.write("shop_listeners.py", FAILING)
    event_id = json.loads(shop.run("""dispatch image.created '{"bad": true}' --delay 1h --json""").stdout)["id"]
    scheduled = json.loads(shop.run(f"show {event_id} --json").stdout)
    other = json.loads(shop.run("""dispatch image.created '{"bad": true}' --json""").stdout)["id"]
    ready = json.loads(shop.run(f"show {other} --json").stdout)
    shop.run("drain")

    both = json.loads(shop.run(f"show {other} --json").stdout)
    text = shop.run(f"show {other}").stdout

    assert [(row["status"], row["queue"]) for row in scheduled] == [("scheduled", "media"), ("scheduled", "feed")]
    assert all(row["until"] for row in scheduled)
    assert [(row["status"], row["listeners"]) for row in ready] == [("ready", []), ("ready", [])]
    assert [(row["status"], row["queue"], row["id"]) for row in both] == [
        ("scheduled", "feed", other),
        ("dead", "media", other),
    ]
    assert [(each["listener"], each["status"], each["runs"]) for each in both[0]["listeners"]] == [
        ("shop_listeners:feed", "due", 1),
    ]
    due, until = (datetime.fromisoformat(each) for each in (both[0]["listeners"][0]["due"], both[0]["until"]))
    assert abs((due - until).total_seconds()) <= 1.0  # in whole seconds; the row is written a moment later
    assert '"bad":true' in both[1]["body"]
    assert "GiveUp: a corrupt" in both[1]["error"]
    assert "listener:    shop_listeners:thumbnails: done after 1 run\n" in text
    assert "listener:    shop_listeners:broken: dead after 1 run, gave-up, " in text
    assert "\n\nref:         1" in text
    assert "\x1b" not in text


FAILING = r"""
import relevo

@relevo.listener("image.created", queue="media", priority=1)
def thumbnails(event): ...

@relevo.listener("image.created", queue="media")
def broken(event): raise relevo.GiveUp("a corrupt \x1b[31mfile")

@relevo.listener("image.created", queue="feed")
def feed(event): raise ValueError("later")
"""


STEPS = """
import relevo

@relevo.listener("mail.sent", id="mail")
def mail(event, call):
    call.step("render", lambda: call.step("fetch", int))
    for row in call.cursor("rows", range(5)):
        call.step("add", int)
        if row == 3:
            raise relevo.RetryLater("1h")
"""


def test_the_finished_steps_of_a_listener_are_shown(shop: Shop) -> None:
    shop.write("shop_listeners.py", STEPS)
    sent = json.loads(shop.run("""dispatch mail.sent '{"to": "ann"}' --json""").stdout)["id"]
    shop.run("drain")

    (row,) = json.loads(shop.run(f"show {sent} --json").stdout)
    text = shop.run(f"show {sent}").stdout

    (listener,) = row["listeners"]
    assert (listener["steps"], listener["rows"]) == (["render", "rows / 3 / add"], {"rows": 3})
    assert "finished:    render, rows / 3 / add, 3 rows of rows\n" in text


KEEPING = CONFIGURATION.replace('main = "sqlite:///shop.db"', 'main = { url = "sqlite:///shop.db", keep = "7d" }')


def test_an_event_that_is_done_is_shown_while_it_is_kept(shop: Shop) -> None:
    shop.write("relevo.toml", KEEPING)
    sent = json.loads(shop.run("""dispatch mail.sent '{"to": "ann"}' --json""").stdout)["id"]
    shop.run("drain")

    shown = shop.run(f"show {sent}")
    as_json = shop.run(f"show {sent} --json")
    nowhere = shop.run("show 1")

    assert (shown.returncode, shown.stderr) == (0, "")
    told = dict(line.split(":", 1) for line in shown.stdout.splitlines())
    assert {key: told[key].strip() for key in ("status", "queue", "event", "attempt")} == {
        "status": "done",
        "queue": "default",
        "event": "mail.sent",
        "attempt": "1",
    }
    (row,) = json.loads(as_json.stdout)
    assert (row["status"], row["id"], row["listeners"]) == ("done", sent, [])
    assert datetime.fromisoformat(row["sent"]) <= datetime.fromisoformat(row["done"])
    assert json.loads(row["body"])["data"] == {"to": "ann"}
    assert lines(nowhere) == [
        "relevo: no event has the id 1; events that are done are kept for 7.0 d, and found by a whole id"
    ]


def change(shop: Shop, statement: str) -> None:
    """Change rows by hand."""
    with closing(sqlite3.connect(shop.folder / "shop.db")) as connection, connection:
        assert connection.execute(statement).rowcount > 0


@pytest.mark.parametrize("is_done", [False, True])
def test_a_row_that_cannot_be_read_is_not_passed_over_silently(
    shop: Shop, caplog: pytest.LogCaptureFixture, *, is_done: bool
) -> None:
    shop.write("relevo.toml", KEEPING)
    sent = json.loads(shop.run("""dispatch mail.sent '{"to": "ann"}' --json""").stdout)["id"]
    if is_done:
        shop.run("drain")
    change(shop, "UPDATE relevo_done SET body = 'text'" if is_done else "UPDATE relevo_event SET body = 'text'")

    shown = shop.run(f"show {sent}")

    assert (shown.returncode, shown.stdout) == (1, "")
    assert (
        f"'{sent}' in the queue 'default' is unreadable, so it is not shown: the column body holds text" in caplog.text
    )


def test_unreadable_dead_letters_are_counted_where_an_event_is_not_found(shop: Shop) -> None:
    shop.run("""dispatch mail.sent '{"to": "ann"}'""")
    change(shop, "UPDATE relevo_event SET body = 'text'")
    shop.run("drain")

    nowhere = shop.run("show 1")

    assert nowhere.returncode == 1
    assert lines(nowhere)[-1].endswith("; 1 unreadable dead letter has no id; see relevo dead list --reason unreadable")


def test_an_event_that_was_changed_is_shown_as_one_that_no_worker_trusts(shop: Shop) -> None:
    shop.write("relevo.toml", 'signing = "Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd"\n' + CONFIGURATION)
    shop.write("shop_listeners.py", FAILING)
    sent = json.loads(shop.run("""dispatch image.created '{"bad": true}' --json""").stdout)["id"]
    shop.run("drain")
    sound = json.loads(shop.run(f"show {sent} --json").stdout)
    change(shop, "UPDATE relevo_event SET name = 'image.deleted'")
    change(shop, "UPDATE relevo_dead SET progress = replace(progress, 'gave-up', 'gave_up')")

    changed = json.loads(shop.run(f"show {sent} --json").stdout)
    text = shop.run("dead show 1").stdout
    (full,) = json.loads(shop.run("dead list --json --full").stdout)

    assert [row["problem"] for row in sound] == [None, None]
    assert [(row["status"], row["problem"][:18]) for row in changed] == [
        ("scheduled", "it may be forged: "),
        ("dead", "it may be forged: "),
    ]
    assert "the state of the delivery was not signed" in full["problem"]
    assert f"problem:     {full['problem']}\n" in text


def test_an_event_that_is_done_and_kept_cannot_be_cancelled(shop: Shop) -> None:
    shop.write("relevo.toml", KEEPING)
    sent = json.loads(shop.run("""dispatch mail.sent '{"to": "ann"}' --json""").stdout)["id"]
    shop.run("drain")

    refused = shop.run(f"cancel {sent}")
    nowhere = shop.run("cancel 1")

    assert (refused.returncode, refused.stdout) == (1, "0 cancelled\n")
    (told,) = lines(refused)
    assert told.startswith(f"relevo: the event {sent} was done at ")
    assert told.endswith("; an event that is kept after that cannot be cancelled")
    assert lines(nowhere) == ["relevo: no waiting event has the id 1"]


def test_an_event_that_was_moved_is_not_shown_as_done(shop: Shop) -> None:
    shop.write("relevo.toml", KEEPING)
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    shop.run("purge main/feed --yes")
    (sent,) = [row["id"] for row in json.loads(shop.run("list --json").stdout)]

    moved = shop.run("move --from main/media --to main/feed")

    assert moved.returncode == 0
    rows = json.loads(shop.run(f"show {sent} --json").stdout)
    assert [(row["status"], row["queue"]) for row in rows] == [("ready", "feed")]


def test_what_is_nowhere_is_told_with_where_it_could_not_be_looked_for(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, find=False)\n"
        "app = relevo.App(transports={'main': Plain(), 'b': relevo_memory.MemoryTransport()}, routes={'*': 'main'})\n",
    )

    nowhere = shop.run("show 1 -t b")
    partly = shop.run("show 1 --json")

    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert lines(nowhere) == ["relevo: no event has the id 1; events that are done are not kept"]
    assert (partly.returncode, json.loads(partly.stdout)) == (1, [])
    assert lines(partly) == [
        'relevo: no event has the id 1; "main" cannot search waiting events: the event may still wait there'
    ]
