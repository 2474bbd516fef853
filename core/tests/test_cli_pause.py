"""``relevo pause``, ``resume`` and ``stop``, and where they are shown."""

from __future__ import annotations

import getpass
import json
import os
import re
import sqlite3

import pytest

from relevo import App
from relevo._worker.control import Stop, controls_in

from .shop import CONFIGURATION, Done, Shop, lines

SINCE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"
ME = f"{getpass.getuser()}@{os.uname().nodename}"


def stops(shop: Shop) -> list[Stop]:
    """Return the requests to stop that are stored."""
    with App(transports={"main": f"sqlite:///{shop.folder / 'shop.db'}"}) as app:
        store = app.transport("main")
        return [each for each in controls_in(store.controls().values()) if isinstance(each, Stop)]  # type: ignore[attr-defined]


@pytest.fixture(name="paused")
def _paused(shop: Shop) -> Shop:
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    shop.run("pause -q main/feed --reason 'the API is \x1b[31mdown'")
    return shop


def test_a_paused_queue_waits_until_it_is_resumed(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    done = [shop.run(command) for command in ("pause -q feed", "pause -q main/feed", "drain --json", "resume -q feed")]
    after = shop.run("drain --json")

    assert [each.returncode for each in (*done, after)] == [0] * 5
    assert done[0].stdout == "main/feed is paused; that takes effect within 2 seconds\n"
    assert re.fullmatch(rf"main/feed has been paused since {SINCE} by {ME}; that stays\n", done[1].stdout)
    assert (json.loads(done[2].stdout)["done"], json.loads(done[2].stdout)["paused"]) == (1, ["feed"])
    assert re.fullmatch(rf"main/feed is resumed; it had been paused since {SINCE}\n", done[3].stdout)
    assert (json.loads(after.stdout)["done"], json.loads(after.stdout)["paused"]) == (1, [])


def test_all_queues_are_paused_and_resumed_at_once_and_a_drain_is_silent(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    paused, drained, resumed, none = (
        shop.run(command) for command in ("pause --all", "drain", "resume --all", "resume --all")
    )

    assert [line.partition(" is paused")[0] for line in paused.stdout.splitlines()] == [
        "main/media", "main/feed", "main/default"
    ]  # fmt: skip
    assert drained == Done(0, "", "")
    assert len(resumed.stdout.splitlines()) == 3
    assert none.stdout == "no queue was paused\n"


def test_who_paused_a_queue_when_and_why_is_shown(paused: Shop) -> None:
    rows = {row["queue"]: row["paused"] for row in json.loads(paused.run("status --json").stdout)}
    status, check = paused.run("status"), paused.run("check --live")
    strict = paused.run("check --live --strict --json")

    assert (rows["media"], rows["feed"]["by"], rows["feed"]["reason"]) == (None, ME, "the API is \x1b[31mdown")
    said = rf"main/feed has been paused since {SINCE} by {ME}: the API is \\x1b\[31mdown; "
    assert re.search(rf"^{said}to resume it: relevo resume -q main/feed$", status.stdout, re.MULTILINE)
    assert re.search(
        rf"^queue main/feed +warning +{said}its events wait; to resume it: relevo resume", check.stdout, re.MULTILINE
    )
    assert check.returncode == 0
    (row,) = [each for each in json.loads(strict.stdout) if each["check"] == "queue main/feed"]
    assert row["ok"] is False
    assert "is paused" not in strict.stderr


def test_who_pauses_all_queues_and_resumes_them_leaves_one_that_was_paused_before(paused: Shop) -> None:
    (before,) = json.loads(paused.run("pause -q feed --json").stdout)

    rows = json.loads(paused.run("pause --all --reason deploy --json").stdout)
    said = paused.run("pause -q feed").stdout
    resumed = json.loads(paused.run("resume --all --reason deploy --json").stdout)
    left = paused.run("resume -q feed -q media").stdout

    assert [row["new"] for row in rows if row["queue"] != "feed"] == [True] * (len(rows) - 1)
    assert next(row for row in rows if row["queue"] == "feed") == before
    assert said.startswith(f"main/feed has been paused since {before['since']} by {ME}: ")
    assert [row["queue"] for row in resumed] == [row["queue"] for row in rows if row["queue"] != "feed"]
    assert "main/feed is resumed" in left
    assert "not paused: media" in left


def test_a_pause_outlives_the_route_of_its_queue(paused: Shop) -> None:
    paused.run("resume -q feed")
    paused.run("drain")
    paused.run("pause -q main/feed")
    paused.write("relevo.toml", CONFIGURATION.replace('["main/media", "main/feed"]', '"main/media"'))
    paused.write("shop_listeners.py", "")

    wrong, live, done = (
        paused.run(command) for command in ("resume -q main/fed", "check --live", "resume -q main/feed")
    )

    assert (wrong.returncode, done.returncode) == (78, 0)
    assert 'nothing is routed to the queue "fed" of "main"' in wrong.stderr
    assert "main/feed has been paused" in live.stdout
    assert "main/feed is resumed" in done.stdout


def test_what_is_not_paused_is_told(shop: Shop) -> None:
    shop.run("setup")

    done = shop.run("resume -q media")

    assert done == Done(0, "not paused: media\n", "")


def test_a_queue_of_an_outbox_is_paused_only_by_its_name(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace(
        '"sqlite:///shop.db"', '{ url = "sqlite:///shop.db", outbox = "sqlite:///outbox.db" }'
    ))  # fmt: skip
    shop.run("setup")

    every, one = shop.run("pause --all --json"), shop.run("pause -t main.outbox -q outbox/main --json")
    status = {row["queue"]: row["paused"] for row in json.loads(shop.run("status --json").stdout)}

    assert [row["queue"] for row in json.loads(every.stdout)] == ["media", "feed", "default"]
    assert [row["queue"] for row in json.loads(one.stdout)] == ["outbox/main"]
    assert all(status.values())
    assert len(json.loads(shop.run("resume --all --json").stdout)) == 4


def test_workers_are_asked_to_stop_by_name_or_all(shop: Shop) -> None:
    shop.run("setup")

    one = shop.run("stop --worker web-1:4711 --worker web-2:17")
    every = shop.run("stop --all --json")

    assert (
        one.stdout == "asked web-1:4711, web-2:17 of main to stop, which takes effect within 2 seconds where they run\n"
    )
    assert json.loads(every.stdout) == [{"transport": "main", "worker": None}]
    assert {(each.worker, each.by) for each in stops(shop)} == {(who, ME) for who in ("web-1:4711", "web-2:17", "")}
    assert len({each.request for each in stops(shop)}) == 3


def test_a_reason_has_a_limit(shop: Shop) -> None:
    done = shop.run(f"pause --all --reason {'x' * 501}")

    assert (done.returncode, lines(done)) == (
        2,
        ["relevo: pause: --reason: expected at most 500 characters; got 501; see relevo pause --help"],
    )


@pytest.mark.parametrize("command", ["pause -q media", "resume --all", "stop --all"])
def test_a_transport_without_a_coordinator_names_the_remedy(shop: Shop, command: str) -> None:
    shop.write("plain.py", PLAIN)
    shop.write("shop.py", 'import relevo\nfrom plain import Plain\napp = relevo.App(transports={"main": Plain()},\n'
    '    routes={"*": "main/media"}, source="shop")\n')  # fmt: skip
    shop.write("relevo.toml", 'app = "shop:app"')

    done = shop.run(command)

    assert done.returncode == 78
    (line,) = lines(done)
    assert line == (
        'relevo: the transport "main" does not support control: it has no coordinator, so its workers cannot see a '
        "pause or a request to stop; set one that all hosts reach, as in coordinator = "
        '"postgresql://…" under [transports.…]; '
        "use a transport that claims it"
    )


PLAIN = """
from relevo import Capabilities, Transport

class Plain(Transport):
    capabilities = Capabilities(durability="host", lease="timed", delay=0.001)
    name = "main"

    @classmethod
    def open(cls, options, *, name, clock): ...
    def setup(self, queues, *, dry_run=False): return ()
    def send(self, envelopes, *, delay=0.0): ...
    def receive(self, queues, *, limit, lease, wait): return ()
    def _settle(self, settlements): return ()
    def close(self): ...
"""


def test_a_database_of_an_earlier_release_is_told_how_to_get_the_table(paused: Shop) -> None:
    paused.write("relevo.toml", 'setup = "explicit"\n' + CONFIGURATION)
    with sqlite3.connect(paused.folder / "shop.db") as connection:
        connection.execute("DROP TABLE relevo_announcement")
    connection.close()

    pause, drain, status = (paused.run(command) for command in ("pause -q media", "drain --json", "status"))

    assert pause.returncode == 78
    assert "lacks tables that relevo needs; run: relevo setup" in pause.stderr
    assert json.loads(drain.stdout)["done"] == 2, "what is not known pauses nothing"
    assert "whether a queue is paused is unknown" in status.stderr
