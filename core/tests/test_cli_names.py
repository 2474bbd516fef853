"""What ids, refs and queues mean to the command line, and that all commands agree on it."""

from __future__ import annotations

import json

import pytest

from .shop import CONFIGURATION, Shop, lines, told_in_one_line

TWO = CONFIGURATION.replace('main = "sqlite:///shop.db"', 'main = "sqlite:///shop.db"\nother = "sqlite:///other.db"')
TWO += '"other.*" = ["other/feed", "other/own"]\n'


def dead(shop: Shop, number: int = 1) -> list[str]:
    """Let so many events die; return their refs."""
    for _ in range(number):
        shop.run("""dispatch image.created '{"bad": true}'""")
    shop.run("drain")
    return [row["ref"] for row in json.loads(shop.run("dead list --json").stdout)]


# --- ids and refs -----------------------------------------------------------------------------------------

UNKNOWN = {
    "show nowhere": "relevo: no event has the id nowhere; events that are done are not kept",
    "cancel nowhere": "relevo: no waiting event has the id nowhere",
    "dead show nowhere": "relevo: there is no dead letter 'nowhere'; see relevo dead list",
    "dead revive nowhere": "relevo: there is no dead letter 'nowhere'; see relevo dead list",
    "dead discard nowhere": "relevo: there is no dead letter 'nowhere'; see relevo dead list",
}


@pytest.mark.parametrize("command", UNKNOWN)
def test_an_id_that_is_not_there_is_told_and_ends_with_1(shop: Shop, command: str) -> None:
    shop.run("setup")

    done = shop.run(command, given=b"y\n")

    assert (done.returncode, lines(done)) == (1, [UNKNOWN[command]])


@pytest.mark.parametrize("command", ["revive", "discard --yes"])
def test_what_is_there_is_done_and_each_that_is_not_is_named(shop: Shop, command: str) -> None:
    refs = dead(shop, 2)
    done_word = "revived" if command == "revive" else "discarded"

    told = shop.run(f"dead {command} first {refs[0]} second {refs[1]}")

    assert (told.returncode, told.stdout) == (1, f"2 {done_word}\n")
    assert lines(told) == [
        "relevo: there is no dead letter 'first'; see relevo dead list",
        "relevo: there is no dead letter 'second'; see relevo dead list",
    ]
    assert shop.run("dead list --json").stdout == "[]\n"


def test_programs_are_told_which_were_not_there(shop: Shop) -> None:
    (ref,) = dead(shop)

    revived = shop.run(f"dead revive first {ref} --json")
    shown = shop.run(f"dead show {ref} --json")

    assert (revived.returncode, json.loads(revived.stdout)) == (
        1,
        {"revived": 1, "gone": [], "unknown": ["first"], "stayed": []},
    )
    assert (shown.returncode, json.loads(shown.stdout)) == (1, None)


# --- queues -----------------------------------------------------------------------------------------------

MISSPELT = [
    "purge {} --yes",
    "purge {}",
    "status -q {}",
    "dead list -q {}",
    "dead revive --all -q {}",
    "dead discard --all --yes -q {}",
    "drain -q {}",
    "worker --max-events 1 -q {}",
]


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("queue", ["meida", "main/meida"])
@pytest.mark.parametrize("command", [*MISSPELT, "move --from main/{} --to main", "move --from main --to main/{}"])
def test_a_queue_that_is_not_there_is_told_with_the_one_that_was_meant(shop: Shop, command: str, queue: str) -> None:
    shop.run("setup")

    done = shop.run(command.format(queue).replace("main/main", "main"))

    told = told_in_one_line(done)
    assert 'nothing is routed to the queue "meida" of "main"' in told
    assert 'did you mean "media"?' in told
    assert done.returncode == 78


@pytest.mark.parametrize("queue", ["' '", "''", "'\t'"])
@pytest.mark.parametrize("command", [*MISSPELT, "dead list -t {}", "show {}", "cancel {}", "dead show {}"])
def test_a_blank_name_is_refused(shop: Shop, command: str, queue: str) -> None:
    done = shop.run(command.format(queue))

    assert "it is empty; pass a value" in told_in_one_line(done)
    assert done.returncode == 2


def rows(shop: Shop, options: str) -> list[tuple[str, str]]:
    return [(row["transport"], row["queue"]) for row in json.loads(shop.run(f"status --json {options}").stdout)]


def test_a_queue_is_named_as_in_routes_or_alone(shop: Shop) -> None:
    shop.write("relevo.toml", TWO)
    shop.run("setup")

    assert rows(shop, "-q main/media") == [("main", "media")]
    assert rows(shop, "-q feed") == [("main", "feed"), ("other", "feed")]
    assert rows(shop, "-q other/feed -q main") == [("main", "default"), ("other", "feed")]
    assert rows(shop, "-q own -t other") == [("other", "own")]
    assert rows(shop, "-q own") == [("other", "own")]


def test_a_queue_of_another_transport_than_was_said_is_a_matter_of_usage(shop: Shop) -> None:
    shop.write("relevo.toml", TWO)

    for command, why in {
        "status -t main -q other/feed": '"other/feed" is a queue of "other", but -t is "main"',
        "purge other/feed -t main --yes": '"other/feed" is a queue of "other", but -t is "main"',
        "drain -q main/feed -q other/feed": 'a worker serves one transport; got "main" and "other"',
        "worker -t other -q main/feed": 'a worker serves one transport; got "other" and "main"',
    }.items():
        done = shop.run(command)
        assert (done.returncode, why in told_in_one_line(done)) == (2, True), done.stderr


def test_a_queue_that_several_transports_have_is_not_purged_before_it_is_said_which(shop: Shop) -> None:
    shop.write("relevo.toml", TWO)
    shop.run("dispatch other.made")

    unclear = shop.run("purge feed --yes")
    clear = shop.run("purge other/feed --yes")
    alone = shop.run("purge own --yes")

    assert (unclear.returncode, clear.returncode, alone.returncode) == (78, 0, 0)
    assert 'several transports have a queue "feed": write one of main/feed, other/feed' in told_in_one_line(unclear)
    assert (clear.stdout, alone.stdout) == ("1 purged\n", "1 purged\n")


def test_a_worker_takes_a_queue_with_the_name_of_its_transport(shop: Shop) -> None:
    shop.write("relevo.toml", TWO)
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    assert shop.run("drain -q main/media").stdout == "made 7\n"


@pytest.mark.lengthy("runs commands")
def test_what_is_left_in_a_queue_that_nothing_is_routed_to_any_more_is_looked_after(shop: Shop) -> None:
    for data in ('{"bad": true}', "{}"):
        shop.run(f"dispatch image.created '{data}'")
    shop.run("drain -q media --max-events 1")
    shop.write("relevo.toml", CONFIGURATION.replace('"main/media", ', ""))
    shop.write("shop_listeners.py", "")

    listed = json.loads(shop.run("dead list -q main/media --json").stdout)
    discarded = shop.run("dead discard --all --yes -q media")
    status = rows(shop, "-q media")
    purged = shop.run("purge media --yes")
    nothing = shop.run("status -q media")

    assert (status, len(listed)) == ([("main", "media")], 1)
    assert (purged.stdout, discarded.stdout) == ("1 purged\n", "1 discarded\n")
    assert 'nothing is routed to the queue "media" of "main", and nothing is in it' in told_in_one_line(nothing)


def test_the_queue_of_an_outbox_is_named_too(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        CONFIGURATION.replace('"sqlite:///shop.db"', '{ url = "sqlite:///shop.db", outbox = "sqlite:///box.db" }'),
    )
    shop.run("setup")

    assert rows(shop, "-q outbox/main") == [("main.outbox", "outbox/main")]
    assert rows(shop, "-q main.outbox/outbox/main") == [("main.outbox", "outbox/main")]
    assert shop.run("purge outbox/main --yes").stdout == "0 purged\n"


def test_a_transport_that_is_only_an_outbox_is_not_chosen_from(shop: Shop) -> None:
    shop.write(
        "relevo.toml", '[transports]\nold = "sqlite:///old.db"\nmain = { url = "sqlite:///shop.db", outbox = "old" }\n'
    )

    sent = shop.run("dispatch a.b --json")
    drained = shop.run("drain -t main --json")
    chosen = shop.run("drain")
    checked = shop.run("check")
    places = [(row["transport"], row["queue"]) for row in json.loads(shop.run("status --json").stdout)]

    assert places == [("main", "default"), ("old", "outbox/main")]
    assert json.loads(sent.stdout)["targets"] == ["main/default"]
    assert (drained.returncode, chosen.returncode) == (0, 0)
    assert "transport old ok stores the outbox of main" in " ".join(checked.stdout.split())
