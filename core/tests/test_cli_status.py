"""The command status, and what other commands say where there is no database file."""

from __future__ import annotations

import json
import re
import sqlite3

import attrs
import pytest

from relevo import Ack, DeadLetter, Envelope, Nack, SystemClock

from .shop import CANARY, CONFIGURATION, Shop, lines

PATIENCE = 300.0


# --- status, and what looks at an outbox -----------------------------------------------------------------

DOWN = f"""
source = "shop"
[transports]
main = {{ url = "amqp://me:{CANARY}@127.0.0.1:1/", connect_timeout = 1, outbox = "sqlite:///box.db" }}
local = "sqlite:///shop.db"
[routes]
"*" = "main"
"mail.*" = "local"
"""


@pytest.fixture(name="half")
def _half(shop: Shop) -> Shop:
    """Return a shop whose server is down, with an event in the outbox and a dead letter beside it."""
    pytest.importorskip("relevo_amqp")
    relevo_sql = pytest.importorskip("relevo_sql")
    shop.write("relevo.toml", DOWN)
    shop.run("setup")
    waiting = Envelope(id="1", source="shop", name="a.b", queue="outbox/main", body=b"{}")
    options = relevo_sql.SqlOptions(url=f"sqlite:///{shop.folder}/box.db")
    with relevo_sql.SqlTransport.open(options, name="box", clock=SystemClock()) as outbox:
        outbox.send([waiting, attrs.evolve(waiting, id="2")])
        (delivery,) = outbox.receive(["outbox/main"], limit=1, lease=60, wait=0)
        outbox.settle([(delivery, DeadLetter(reason="rejected", error="too big"))])
    return shop


def test_the_status_shows_what_answers_where_a_server_is_down(half: Shop) -> None:
    done = half.run("status")

    assert done.returncode == 69
    (line,) = lines(done)
    assert line.startswith('relevo: the transport "main" is unavailable')
    assert [row.split()[:6] for row in done.stdout.splitlines()[1:3]] == [
        ["main.outbox", "outbox/main", "1", "0", "0", "1"],
        ["local", "default", "0", "0", "0", "0"],
    ]
    assert CANARY not in done.stdout + done.stderr


def test_the_status_for_programs_has_a_row_with_an_error_for_what_does_not_answer(half: Shop) -> None:
    done = half.run("status --json")

    assert (done.returncode, len(lines(done))) == (69, 1)
    down, outbox, local = json.loads(done.stdout)
    assert down.keys() == outbox.keys() == local.keys()
    assert (down["transport"], down["queue"], down["ready"]) == ("main", None, None)
    assert down["error"].startswith('the transport "main" is unavailable')
    assert (outbox["transport"], outbox["ready"], outbox["dead"], outbox["error"]) == ("main.outbox", 1, 1, None)
    assert (local["transport"], local["error"]) == ("local", None)


def test_the_lag_of_a_relay_is_shown_although_its_target_is_down(half: Shop) -> None:
    done = half.run("status")
    _, outbox, local = json.loads(half.run("status --json").stdout)

    shown = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"1 event waits in main\.outbox for the relay to main, the oldest for .+ s", shown)
    assert (outbox["relays_to"], local["relays_to"], local["lag"]) == ("main", None, None)
    assert 0.0 < outbox["lag"] < PATIENCE


@pytest.mark.parametrize("state", ["ready", "leased", "given back"])
def test_a_monitor_sees_an_event_that_waits_for_its_relay_for_too_long(half: Shop, state: str) -> None:
    relevo_sql = pytest.importorskip("relevo_sql")
    options = relevo_sql.SqlOptions(url=f"sqlite:///{half.folder}/box.db")
    with relevo_sql.SqlTransport.open(options, name="box", clock=SystemClock()) as outbox:
        if state != "ready":
            (delivery,) = outbox.receive(["outbox/main"], limit=1, lease=600.0, wait=0.0)
            outbox.settle([(delivery, Nack(delay=600.0))] if state == "given back" else [])

    within = half.run("status -t main.outbox --max-lag 1h")
    over = half.run("status -t main.outbox --max-lag 0")

    assert (within.returncode, within.stdout) == (0, "1 queue is within the limits\n")
    assert over.returncode == 1
    assert re.fullmatch(r"main\.outbox/outbox/main: one has waited for its relay for .+ s, at most 0 s\n", over.stdout)


def test_an_event_that_is_not_due_yet_is_no_lag(half: Shop) -> None:
    relevo_sql = pytest.importorskip("relevo_sql")
    options = relevo_sql.SqlOptions(url=f"sqlite:///{half.folder}/box.db")
    with relevo_sql.SqlTransport.open(options, name="box", clock=SystemClock()) as outbox:
        (delivery,) = outbox.receive(["outbox/main"], limit=1, lease=600.0, wait=0.0)
        outbox.settle([(delivery, Ack())])
        late = Envelope(id="9", source="shop", name="a.b", queue="outbox/main", body=b"{}")
        outbox.send([late], delay=600.0)

    done = half.run("status -t main.outbox")
    judged = half.run("status -t main.outbox --max-lag 0")

    assert done.stdout.splitlines()[-1] == "1 event waits in main.outbox for the relay to main"
    assert judged.returncode == 0


def test_a_limit_of_the_lag_needs_an_outbox(half: Shop) -> None:
    done = half.run("status -t local --max-lag 1h")

    assert done.returncode == 78
    assert done.stdout.startswith("--max-lag cannot be judged, since there is no outbox")


def test_the_status_shows_no_table_where_nothing_answers(half: Shop) -> None:
    done = half.run("status -t main -q default")

    assert (done.returncode, done.stdout, len(lines(done))) == (69, "", 1)


def test_an_outbox_without_tables_is_completed_and_shown_although_its_server_is_down(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", DOWN)
    shop.write("box.db", "")

    done = shop.run("status -t main")

    assert (done.returncode, len(lines(done))) == (69, 1)
    assert [row.split()[:3] for row in done.stdout.splitlines()[1:]] == [["main.outbox", "outbox/main", "0"]]


def test_what_the_program_must_mend_counts_more_in_the_status_too(half: Shop) -> None:
    with sqlite3.connect(half.folder / "box.db") as database:
        database.execute("UPDATE relevo_meta SET value = '999' WHERE key = 'schema'")
    database.close()

    done = half.run("status")

    assert (done.returncode, len(lines(done))) == (78, 2)
    assert "local" in done.stdout


def test_a_queue_over_a_limit_is_named_for_a_monitor(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    within = shop.run("status --max-ready 1 --max-dead 0 --max-oldest 1h")
    over = shop.run("status --max-ready 0")
    old = shop.run("status --max-oldest 0 -q media")
    listed = shop.run("status --max-ready 0 --json")

    assert (within.returncode, within.stdout, within.stderr) == (0, "3 queues are within the limits\n", "")
    assert (over.returncode, over.stdout) == (1, "main/media: 1 ready, at most 0; main/feed: 1 ready, at most 0\n")
    assert (old.returncode, old.stdout.split(" for ")[0]) == (1, "main/media: the oldest")
    assert (listed.returncode, len(json.loads(listed.stdout)), lines(listed)) == (1, 3, [over.stdout.rstrip()])


def test_a_monitor_sees_an_event_that_a_worker_has_held_for_too_long(shop: Shop) -> None:
    relevo_sql = pytest.importorskip("relevo_sql")
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    idle = shop.run("status --max-leased 10m")
    options = relevo_sql.SqlOptions(url=f"sqlite:///{shop.folder}/shop.db")
    with relevo_sql.SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        assert transport.receive(["media"], limit=1, lease=600.0, wait=0.0)

    within = shop.run("status --max-leased 10m")
    over = shop.run("status --max-leased 0")

    for done in (idle, within):
        assert (done.returncode, done.stdout, done.stderr) == (0, "3 queues are within the limits\n", "")
    assert (over.returncode, over.stderr) == (1, "")
    assert re.fullmatch(r"main/media: one leased for .+, at most 0 s; see relevo list --state running\n", over.stdout)


def test_a_monitor_creates_no_database_where_a_disk_is_not_mounted(shop: Shop) -> None:
    done = shop.run("status --max-ready 9")

    assert done.returncode == 69
    assert f"there is no database {shop.folder / 'shop.db'} yet" in done.stdout
    assert not (shop.folder / "shop.db").exists()


def test_a_server_that_does_not_answer_is_within_no_limit(half: Shop) -> None:
    done = half.run("status --max-ready 9")

    assert done.returncode == 69
    assert len(done.stdout.splitlines()) == 1
    assert "is unavailable" in done.stdout


def test_an_outbox_is_looked_at_by_the_name_that_the_status_shows(half: Shop) -> None:
    status = half.run("status -t main.outbox")
    listed = half.run("dead list -t main.outbox --json")
    ref = json.loads(listed.stdout)[0]["ref"]
    shown = half.run(f"dead show {ref} -t main.outbox")
    found = half.run("show 1 -t main.outbox")
    revived = half.run("dead revive --all -t main.outbox")
    nothing = half.run("dead discard --all --yes -t main.outbox -q outbox/main")
    discarded = half.run("dead list -t main.outbox")

    assert (status.returncode, status.stderr) == (0, "")
    assert [row.split()[:3] for row in status.stdout.splitlines()[1:2]] == [["main.outbox", "outbox/main", "1"]]
    assert (listed.returncode, shown.returncode, found.returncode) == (0, 0, 0)
    assert "too big" in shown.stdout
    assert (revived.returncode, revived.stdout) == (0, "1 revived\n")
    assert (nothing.returncode, nothing.stdout) == (0, "0 discarded\n")
    assert discarded.stdout == "no dead letters\n"


def test_an_outbox_without_tables_is_completed_when_it_is_looked_at(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = { url = "sqlite:///shop.db", outbox = "sqlite:///box.db" }\n')
    shop.write("box.db", "")

    done = shop.run("status -t main.outbox")

    assert (done.returncode, done.stderr) == (0, "")
    assert [row.split()[:3] for row in done.stdout.splitlines()[1:]] == [["main.outbox", "outbox/main", "0"]]


# --- where there is no database file ----------------------------------------------------------------------

LOOKS = [
    "status",
    "status --max-dead 0",
    "list",
    "list --by event",
    "show 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e",
    "dead list",
    "dead list --by reason",
    "dead show 1",
    "dead revive --all",
    "dead discard --all --yes",
    "cancel 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e",
    "cancel --all --yes",
    "handle 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e",
    "purge media --yes",
]


@pytest.mark.parametrize("address", ["sqlite:///shpo.db", "sqlite:///file:shpo.db?uri=true"])
@pytest.mark.parametrize("command", LOOKS)
def test_a_command_that_looks_names_a_missing_file_and_creates_none(shop: Shop, command: str, address: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", address))

    done = shop.run(command)

    assert done.returncode == 69
    (line,) = (done.stdout if "--max-dead" in command else done.stderr).splitlines()  # the first is for a monitor
    assert line.removeprefix("relevo: ") == (
        f'the transport "main" is unavailable: there is no database {shop.folder}/shpo.db yet; the first dispatch, a '
        f"worker or relevo setup creates it; if events were dispatched already, check its path, and whether its disk "
        f"is mounted"
    )
    assert not list(shop.folder.glob("*.db*"))


@pytest.mark.parametrize("command", ["status", "list", "dead list", "check --live", "purge media --yes"])
def test_a_missing_file_is_named_as_not_set_up_where_nothing_is_created_at_first_use(shop: Shop, command: str) -> None:
    done = shop.run(command, RELEVO_SETUP="explicit")

    assert done.returncode == 78
    (line,) = lines(done)
    assert 'the transport "main" is not set up; run relevo setup' in line
    assert line.endswith(f"; there is no database {shop.folder}/shop.db")
    assert not list(shop.folder.glob("*.db*"))


@pytest.mark.parametrize("command", ["check --live", "setup --plan", "setup --check", "setup --print"])
def test_what_setup_would_create_is_shown_without_a_file(shop: Shop, command: str) -> None:
    assert "relevo_event" in shop.run(command).stdout
    assert not list(shop.folder.glob("*.db*"))


@pytest.mark.parametrize("command", ["status", "list"])
def test_a_folder_that_is_missing_is_named_before_its_file(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("shop.db", "nowhere/shop.db"))

    done = shop.run(command)

    assert done.returncode == 69
    assert f"there is no folder {shop.folder}/nowhere; create it" in done.stderr
    assert not (shop.folder / "nowhere").exists()


@pytest.mark.parametrize("command, code", [("list", 0), ("dead list", 0), ("show 1", 1)])
def test_a_missing_file_is_reported_once_beside_what_the_others_hold(shop: Shop, command: str, code: int) -> None:
    other = '"sqlite:///shop.db"\nother = { url = "sqlite:///other.db", outbox = "sqlite:///box.db" }'
    shop.write(
        "relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', other).replace('"*" = "main"', '"*"="other"')
    )
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    done = shop.run(command)

    assert [line.split(" yet; ")[0] for line in lines(done)][:2] == [
        f'relevo: the transport "other" is unavailable: there is no database {shop.folder}/other.db',
        f'relevo: the transport "other.outbox" is unavailable: there is no database {shop.folder}/box.db',
    ]
    assert (done.returncode, lines(done)[2:]) == (
        code,
        ["relevo: no event has the id 1; events that are done are not kept"] * code,
    )
    assert not (shop.folder / "other.db").exists()
    assert not (shop.folder / "box.db").exists()


def test_the_status_shows_a_transport_whose_outbox_has_no_file(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = { url = "sqlite:///shop.db", outbox = "sqlite:///box.db" }\n')
    shop.write("shop.db", "")

    done = shop.run("status")

    assert (done.returncode, len(lines(done))) == (69, 1)
    assert 'the transport "main.outbox" is unavailable: there is no database' in done.stderr
    assert [row.split()[:3] for row in done.stdout.splitlines()[1:]] == [["main", "default", "0"]]
    assert not (shop.folder / "box.db").exists()


def test_a_name_that_is_neither_a_transport_nor_an_outbox_is_told_with_both(half: Shop) -> None:
    done = half.run("status -t main.outbx")

    assert (done.returncode, done.stdout) == (78, "")
    assert lines(done) == [
        'relevo: no transport is called "main.outbx"; did you mean "main.outbox"?; there are: main, local, main.outbox'
    ]


def test_a_worker_does_not_take_an_outbox_for_a_transport(half: Shop) -> None:
    done = half.run("drain -t main.outbox")

    assert done.returncode == 78
    assert '"main.outbox" is the outbox of "main", which no worker serves' in done.stderr
