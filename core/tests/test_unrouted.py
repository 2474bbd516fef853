"""Events that wait where no route leads to, as after a change of the transport, are reported and can be moved."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from relevo import Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport

from .shop import CONFIGURATION, Shop, lines, opened

BEHIND = '{ url = "sqlite:///new.db", outbox = "sqlite:///shop.db" }'


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    """Give a shop whose transport was changed while an event waited in two queues of its database."""
    shop = opened(tmp_path)
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    shop.write("relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', BEHIND))
    return shop


@pytest.fixture(name="warned")
def _warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what the runner has warned of so far; not that it created a database."""

    def messages() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "relevo.runner"]
        return [each for each in found if not each.startswith("created the database ")]

    return messages


def says(queue: str) -> str:
    return (
        f'"main.outbox/{queue}" holds events, and no route leads to it; move them: relevo move --from '
        f"main.outbox/{queue} --to main/{queue}; or add a route"
    )


def test_the_status_shows_them_with_the_command_that_moves_them(shop: Shop) -> None:
    shop.run("setup")

    shown, listed = shop.run("status"), shop.run("status --json")

    rows = {f"{row['transport']}/{row['queue']}": (row["ready"], row["routed"]) for row in json.loads(listed.stdout)}
    assert rows == {
        "main/media": (0, True),
        "main/feed": (0, True),
        "main/default": (0, True),
        "main.outbox/outbox/main": (0, True),
        "main.outbox/feed": (1, False),
        "main.outbox/media": (1, False),
    }
    assert shown.stdout.splitlines()[-2:] == [says("feed"), says("media")]
    assert (shown.returncode, listed.returncode) == (0, 0)


def test_the_check_of_the_servers_warns_of_them(shop: Shop) -> None:
    shop.run("setup")

    live, strict = shop.run("check --live"), shop.run("check --live --strict")

    rows = [line.split(maxsplit=3) for line in live.stdout.splitlines() if line.startswith("queue ")]
    assert rows == [["queue", f"main.outbox/{name}", "warning", says(name)] for name in ("feed", "media")]
    assert (live.returncode, strict.returncode) == (0, 78)
    assert f"queue main.outbox/media: {says('media')}" in strict.stderr


@pytest.mark.parametrize("command", ["drain", "worker --max-time 1"])
def test_a_worker_warns_of_them_once(shop: Shop, command: str, warned: Callable[[], list[str]]) -> None:
    done = shop.run(command)

    assert done.returncode == 0
    assert warned() == [says("feed"), says("media")]


def test_they_are_moved_by_the_names_that_the_status_shows(shop: Shop, warned: Callable[[], list[str]]) -> None:
    moved = [shop.run(f"move --from main.outbox/{queue} --to main/{queue}") for queue in ("media", "feed")]
    drained = shop.run("drain --json")
    status = shop.run("status")

    assert [(done.returncode, done.stdout) for done in moved] == [(0, "1 moved\n"), (0, "1 moved\n")]
    assert (json.loads(drained.stdout)["done"], warned()) == (2, [])
    assert "holds events" not in status.stdout


def test_an_outbox_is_no_place_to_move_to(shop: Shop) -> None:
    done = shop.run("move --from main/media --to main.outbox/media")

    assert done.returncode == 78
    assert '--to: no transport is called "main.outbox"' in lines(done)[0]


@pytest.mark.lengthy("runs commands")
def test_a_database_with_two_names_has_its_routes_by_either(shop: Shop, warned: Callable[[], list[str]]) -> None:
    shop.write(
        "relevo.toml",
        CONFIGURATION.replace('main = "sqlite:///shop.db"', f'main = {BEHIND}\nold = "sqlite:///shop.db"').replace(
            "[routes]", '[routes]\n"old" = ["old/media", "old/feed"]'
        ),
    )

    status, drained = shop.run("status"), shop.run("drain -t main")

    assert "no route" not in status.stdout
    assert (drained.returncode, warned()) == (0, [])


@pytest.mark.lengthy("runs commands")
def test_what_another_application_keeps_in_the_same_database_is_not_warned_of(
    shop: Shop, warned: Callable[[], list[str]]
) -> None:
    with sqlite3.connect(shop.folder / "shop.db") as database:
        database.execute("UPDATE relevo_event SET source = 'blog'")
    database.close()

    drained, checked, status = shop.run("drain"), shop.run("check --live"), shop.run("status")

    assert (drained.returncode, warned()) == (0, [])
    assert "no route" not in checked.stdout
    assert says("media") in status.stdout


def test_a_worker_warns_of_them_only_if_one_can_be_moved_now(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    shop = opened(tmp_path)
    shop.run("""dispatch image.created '{"image_id": 7}' --delay 1h""")
    shop.write("relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', BEHIND))

    drained, checked, status = shop.run("drain"), shop.run("check --live"), shop.run("status")

    assert (drained.returncode, warned()) == (0, [])
    assert "no route" in checked.stdout
    assert says("media") in status.stdout


@pytest.mark.lengthy("runs commands")
def test_dead_letters_are_reported_with_what_can_be_done_about_them(
    shop: Shop, warned: Callable[[], list[str]]
) -> None:
    with sqlite3.connect(shop.folder / "shop.db") as database:
        database.execute(
            "INSERT INTO relevo_dead (queue, target, event_id, source, name, urgency, attempt, lost_leases,"
            " enqueued_at, headers, body, reason, died_at)"
            " SELECT queue, target, event_id, source, name, urgency, 1, 0, 1, headers, body, 'gave-up', 1"
            " FROM relevo_event"
        )
        database.execute("DELETE FROM relevo_event")
    database.close()

    drained, checked, status = shop.run("drain"), shop.run("check --live"), shop.run("status")
    revived = shop.run("dead revive -t main.outbox -q media --all")
    moved = shop.run("move --from main.outbox/media --to main/media")

    told = (
        '"main.outbox/media" holds dead letters, and no route leads to it; handle them again: relevo dead revive -t '
        "main.outbox -q media --all, then relevo move --from main.outbox/media --to main/media; or delete them: relevo "
        "dead discard -t main.outbox -q media --all"
    )
    assert (drained.returncode, warned()) == (0, [])
    assert told in checked.stdout
    assert told in status.stdout
    assert (revived.stdout, moved.stdout) == ("1 revived\n", "1 moved\n")


@pytest.mark.lengthy("runs commands")
def test_a_dead_letter_of_a_queue_that_became_an_outbox_is_revived_as_the_status_says(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.run("""dispatch image.created '{"image_id": 7, "bad": true}'""")
    shop.run("drain -q media")
    shop.write("relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', BEHIND))

    status = shop.run("status")
    revived = shop.run("dead revive -t main.outbox -q media --all")
    moved = shop.run("move --from main.outbox/media --to main/media")

    assert "relevo dead revive -t main.outbox -q media --all, then relevo move" in status.stdout
    assert (revived.stdout, moved.stdout) == ("1 revived\n", "1 moved\n")


@pytest.fixture(name="stranded")
def _stranded(tmp_path: Path) -> Shop:
    """Give a shop whose transport was changed while a dead letter was in a queue of its database."""
    shop = opened(tmp_path)
    shop.run("""dispatch image.created '{"image_id": 7, "bad": true}'""")
    shop.run("drain")
    shop.write("relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', BEHIND))
    shop.run("setup")
    return shop


DEAD = (
    '"main.outbox/media" holds dead letters, and no route leads to it; handle them again: relevo dead revive -t '
    "main.outbox -q media --all, then relevo move --from main.outbox/media --to main/media; or delete them: relevo "
    "dead discard -t main.outbox -q media --all"
)


def test_the_list_of_dead_letters_tells_of_those_that_no_route_leads_to(stranded: Shop) -> None:
    status, listed, grouped = (stranded.run(f"{each}") for each in ("status", "dead list", "dead list --by event"))

    assert status.stdout.splitlines()[-1] == DEAD
    for done in (listed, grouped):
        assert (done.returncode, lines(done)) == (0, [f"relevo: {DEAD}"])
        assert done.stdout == "no dead letters in queues with a route\n"


@pytest.mark.parametrize("options", ["", "--by event", "-t main", "-t main.outbox"])
def test_the_json_list_of_dead_letters_stays_a_document(stranded: Shop, options: str) -> None:
    done = stranded.run(f"dead list --json {options}")

    assert (done.returncode, json.loads(done.stdout), lines(done)) == (0, [], [f"relevo: {DEAD}"])


def test_a_queue_that_is_named_is_listed_without_a_warning(stranded: Shop) -> None:
    done = stranded.run("dead list --json -q main.outbox/media")

    assert ([row["queue"] for row in json.loads(done.stdout)], done.stderr) == (["media"], "")


def test_the_list_of_dead_letters_does_not_tell_of_other_events(shop: Shop) -> None:
    shop.run("setup")

    done = shop.run("dead list")

    assert (done.returncode, done.stdout, done.stderr) == (0, "no dead letters\n", "")


def test_the_list_tells_of_dead_letters_among_events_that_no_route_leads_to(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.run("""dispatch image.created '{"image_id": 7, "bad": true}'""")
    shop.run("drain")
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    shop.write("relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', BEHIND))
    shop.run("setup")

    listed, status = shop.run("dead list"), shop.run("status")

    assert lines(listed) == [f"relevo: {DEAD}"]
    assert status.stdout.splitlines()[-2:] == [says("feed"), says("media")]


@pytest.mark.parametrize(("command", "told"), [("revive", "0 revived\n"), ("discard --yes", "0 discarded\n")])
def test_all_are_not_those_that_no_route_leads_to(stranded: Shop, command: str, told: str) -> None:
    done = stranded.run(f"dead {command} --all")
    counted = stranded.run(f"dead {command} --all --by event")

    assert (done.returncode, done.stdout, lines(done)) == (0, told, [f"relevo: {DEAD}"])
    assert counted.stdout == f"no dead letters in queues with a route\n{told}"


def test_a_named_outbox_tells_of_dead_letters_that_no_route_leads_to(stranded: Shop) -> None:
    named = 'main = { url = "sqlite:///new.db", outbox = "db" }\ndb = "sqlite:///shop.db"'
    stranded.write("relevo.toml", CONFIGURATION.replace('main = "sqlite:///shop.db"', named))

    status, listed = stranded.run("status"), stranded.run("dead list")

    (line,) = lines(listed)
    assert line == f"relevo: {status.stdout.splitlines()[-1]}"
    assert line.startswith('relevo: "db/media" holds dead letters, and no route leads to it')


@pytest.mark.parametrize("transport", ["", "-t main.outbox"])
@pytest.mark.parametrize(
    ("command", "told"), [("show", "image.created"), ("revive", "1 revived"), ("discard --yes", "1 discarded")]
)
def test_a_dead_letter_that_no_route_leads_to_is_found_by_its_ref(
    stranded: Shop, command: str, told: str, transport: str
) -> None:
    (row,) = json.loads(stranded.run("dead list --json -q main.outbox/media").stdout)

    done = stranded.run(f"dead {command} {row['ref']} {transport}")

    assert (done.returncode, done.stderr) == (0, "")
    assert told in done.stdout


def test_the_number_of_a_dead_letter_that_no_route_leads_to_is_not_enough(stranded: Shop) -> None:
    (row,) = json.loads(stranded.run("dead list --json -q main.outbox/media").stdout)
    number = row["ref"].partition("@")[0]

    done = stranded.run(f"dead discard --yes {number}")

    assert (done.returncode, done.stdout) == (1, "0 discarded\n")
    assert lines(done) == [f"relevo: there is no dead letter '{number}'; see relevo dead list"]


def test_a_ref_means_the_dead_letter_that_a_route_leads_to(stranded: Shop) -> None:
    (left,) = json.loads(stranded.run("dead list --json -q main.outbox/media").stdout)
    stranded.run("""dispatch image.created '{"image_id": 8, "bad": true}'""")
    stranded.run("relay -t main --until-empty")
    stranded.run("drain -t main")
    (row,) = json.loads(stranded.run("dead list --json").stdout)

    shown = json.loads(stranded.run(f"dead show --json {row['ref']}").stdout)

    assert row["ref"] == left["ref"]
    assert (shown["transport"], shown["id"]) == ("main", row["id"])


def test_an_outbox_that_was_removed_is_given_back(shop: Shop, warned: Callable[[], list[str]]) -> None:
    with sqlite3.connect(shop.folder / "shop.db") as database:
        database.execute("UPDATE relevo_event SET queue = 'outbox/main'")
    database.close()
    shop.write("relevo.toml", CONFIGURATION)

    shop.run("drain")

    (line,) = warned()
    assert '"main/outbox/main" holds events of an outbox that "main" no longer has; give it that outbox again' in line
    assert line.endswith("and run: relevo relay -t main --until-empty")


RENAMED = """
source = "shop"
listeners = []
transports.rabbit = { url = "sqlite:///new.db", outbox = "sqlite:///shop.db" }
"""


@pytest.fixture(name="renamed")
def _renamed(shop: Shop) -> Shop:
    """Give a shop whose transport was renamed while two events waited in its outbox."""
    with sqlite3.connect(shop.folder / "shop.db") as database:
        database.execute("UPDATE relevo_event SET queue = 'outbox/main', event_id = event_id || queue")
    database.close()
    shop.write("relevo.toml", RENAMED)
    return shop


@pytest.mark.parametrize("command", ["relay --until-empty", "relay --max-time 0.1s"])
def test_a_relay_alone_tells_of_an_outbox_that_no_transport_has(
    renamed: Shop, warned: Callable[[], list[str]], command: str
) -> None:
    renamed.run(command)

    (line,) = warned()
    assert '"rabbit.outbox/outbox/main" holds events of an outbox that "main" no longer has' in line


def test_events_of_an_outbox_that_no_transport_has_are_over_a_limit_of_the_lag(renamed: Shop) -> None:
    renamed.run("setup")

    within, over = renamed.run("status --max-lag 1h"), renamed.run("status --max-lag 0")
    rows = json.loads(renamed.run("status --json").stdout)

    assert (within.returncode, over.returncode) == (0, 1)
    assert over.stdout.startswith("rabbit.outbox/outbox/main: one has waited for its relay for ")
    (row,) = [each for each in rows if each["queue"] == "outbox/main"]
    assert (row["routed"], row["relays_to"], row["lag"] > 0) == (False, None, True)


def test_a_queue_with_a_misspelt_name_is_shown_with_the_near_one(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.run("setup")
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.send([Envelope(id="1", source="shop", name="image.created", queue="mdia", body=b"{}")])

    shown = shop.run("status")

    (line,) = [line for line in shown.stdout.splitlines() if "main/mdia" in line and "holds" in line]
    assert line.startswith(
        '"main/mdia" holds events, and no route leads to it; did you mean "main/media"?; move them: relevo move '
        "--from main/mdia --to main/media; or add a route"
    )


def test_a_queue_that_lost_its_route_is_reported_too(shop: Shop, warned: Callable[[], list[str]]) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('["main/media", "main/feed"]', '"main/feed"'))
    shop.write("shop_listeners.py", "import relevo\n@relevo.listener('image.created')\ndef feed(event): ...\n")

    shop.run("drain")

    (line,) = warned()
    assert line.startswith(
        '"main/media" holds events, and no route leads to it; move them: relevo move --from main/media '
        "--to main/feed; or add a route"
    )


@pytest.mark.parametrize(
    "routes, told",
    [
        ('"image.created" = "main/second"\n"*" = "main"', "--to main/second; or add a route"),
        (
            '"image.created" = ["main/first", "main/second"]',
            "--to …; or add a route; its events are routed to main/first, main/second, and move takes all to one",
        ),
        ('"*" = "now"', "--to …; or add a route"),
        ('"mail.sent" = "main/feed"', "--to …; or add a route"),
    ],
)
def test_the_command_has_the_target_to_which_the_events_are_routed(tmp_path: Path, routes: str, told: str) -> None:
    shop = opened(tmp_path)
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    begin = CONFIGURATION.replace('"sqlite:///shop.db"', '"sqlite:///new.db"\nold = "sqlite:///shop.db"')
    shop.write("relevo.toml", begin.partition("[routes]")[0] + f"[routes]\n{routes}\n")

    shown = shop.run("status")

    assert shown.stdout.splitlines()[-1] == (
        f'"old/media" holds events, and no route leads to it; move them: relevo move --from old/media {told}'
    )


def test_a_worker_of_a_transport_without_routes_is_not_warned_of_what_it_serves(
    shop: Shop, warned: Callable[[], list[str]]
) -> None:
    shop.write(
        "relevo.toml",
        CONFIGURATION.replace('main = "sqlite:///shop.db"', 'main = "sqlite:///new.db"\nold = "sqlite:///shop.db"'),
    )

    shop.run("drain -t old -q media")

    assert [line.partition(" ")[0] for line in warned()] == ['"old/feed"']
