"""The commands that act on what waits: move, purge, cancel."""

from __future__ import annotations

import json
import time
from pathlib import Path

import attrs
import pytest

from relevo import Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport

from .shop import APP, CANARY, CONFIGURATION, LISTENERS, Shop, lines, opened, told_in_one_line

KEY = "uBuXx0s6JESGnCIANG0FwdWJMNbTxj_zX7_oM2q_yPI"
SECOND = CONFIGURATION.replace('main = "sqlite:///shop.db"', 'main = "sqlite:///shop.db"\nother = "sqlite:///other.db"')
SECOND += '"other.*" = "other/feed"\n'


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    return opened(tmp_path)


def kept(shop: Shop) -> dict[str, int]:
    """Return how many living events every queue holds, without the empty ones."""
    rows = json.loads(shop.run("status --json").stdout)
    numbers = {f"{row['transport']}/{row['queue']}": row["ready"] + row["leased"] + row["scheduled"] for row in rows}
    return {queue: number for queue, number in numbers.items() if number}


def transport(shop: Shop) -> SqlTransport:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    found = SqlTransport.open(options, name="main", clock=SystemClock())
    found.setup([])
    return found


# --- move -------------------------------------------------------------------------------------------------


@pytest.mark.lengthy("runs commands")
def test_events_are_moved_to_another_queue_and_handled_there(shop: Shop) -> None:
    for number in range(3):
        shop.run(f"""dispatch image.created '{{"image_id": {number}}}'""")

    some = shop.run("move --from main/media --to main/feed --limit 1")
    rest = shop.run("move --from main/media --to main/feed --json")
    none = shop.run("move --from main/media --to main/feed")

    assert (some.returncode, some.stdout, some.stderr) == (0, "1 moved\n", "")
    assert json.loads(rest.stdout) == {"moved": 2, "stayed": 0, "dead": 0, "reasons": {}}
    assert (none.returncode, none.stdout) == (0, "0 moved\n")
    shop.run("""dispatch image.created '{"image_id": 9}' --delay 1h""")
    late = shop.run("move --from main/media --to main/feed")
    assert late.stdout == "0 moved; 1 is scheduled, and stays until it is due\n"
    # The same event is in the other queue already, and there is one of an id in a queue.
    assert kept(shop) == {"main/feed": 4, "main/media": 1}


def test_a_move_warns_once_of_events_that_no_listener_handles_there(shop: Shop) -> None:
    for name in ("image.created", "image.created", "mail.sent", "a.b"):
        shop.run(f"dispatch {name} '{{}}'")

    moved = shop.run("move --from main/default --to main/feed")
    fitting = shop.run("move --from main/media --to main/feed")

    assert (moved.returncode, moved.stdout) == (0, "2 moved\n")
    assert lines(moved) == [
        'relevo: no listener here for "mail.sent" in main/feed; its listeners are in main/default',
        'relevo: no listener here for "a.b" in main/feed',
    ]
    assert (fitting.stdout, fitting.stderr) == ("2 moved\n", "")


def test_an_application_of_ones_own_moves_with_its_lease(shop: Shop) -> None:
    shop.write(
        "own.py",
        "import relevo, relevo_sql, sqlalchemy\n"
        "class Telling(relevo_sql.SqlTransport):\n"
        "    def receive(self, queues, *, limit, lease, wait):\n"
        "        print('leased for', lease)\n"
        "        return super().receive(queues, limit=limit, lease=lease, wait=wait)\n"
        "main = Telling(sqlalchemy.create_engine('sqlite:///shop.db'))\n"
        "app = relevo.App(transports={'main': main}, routes={'*': ['main/media', 'main/feed']}, lease='7m')\n",
    )
    shop.run("""dispatch image.created '{"image_id": 1}'""")

    done = shop.run("move --app own:app --from main/media --to main/feed")

    assert done.returncode == 0, done.stderr
    assert "leased for 420.0" in done.stdout


def test_events_are_moved_to_another_transport_from_a_queue_that_is_not_routed_any_more(shop: Shop) -> None:
    shop.write("relevo.toml", SECOND)
    for number in range(3):
        shop.run(f"""dispatch image.created '{{"image_id": {number}}}'""")
    shop.write("relevo.toml", SECOND.replace('"main/media", ', ""))

    done = shop.run("move --from main/media --to other/feed")

    assert (done.returncode, done.stdout) == (0, "3 moved\n")
    assert kept(shop) == {"main/feed": 3, "other/feed": 3}


def test_nothing_is_lost_when_the_other_server_is_down(shop: Shop) -> None:
    shop.write("relevo.toml", SECOND)
    shop.run("setup")
    shop.run("dispatch mail.sent")
    shop.write("relevo.toml", SECOND.replace("sqlite:///other.db", "sqlite:////proc/none/x.db"))

    done = shop.run("move --from main/default --to other/feed")
    shop.write("relevo.toml", SECOND)

    assert done.returncode == 69
    assert "unavailable" in told_in_one_line(done)
    assert kept(shop) == {"main/default": 1}


@pytest.mark.slow("kills a process, and waits until its lease is over")
def test_nothing_is_lost_or_doubled_when_a_move_is_killed_between_the_two(shop: Shop) -> None:
    relevo_sql, sqlalchemy = pytest.importorskip("relevo_sql"), pytest.importorskip("sqlalchemy")
    shop.write("relevo.toml", "lease = 3" + SECOND)
    shop.write(
        "shop.py",
        "import os, relevo, relevo_sql, signal\n"
        "app = relevo.App.from_config()\n"
        "other, batches = app.transports['other'], []\n"
        "send = other.send\n"
        "def deadly(envelopes, *, delay=0.0):\n"
        "    send(envelopes, delay=delay)\n"
        "    batches.append(envelopes)\n"
        "    if len(batches) == 3 and not os.path.exists('killed'):\n"
        "        open('killed', 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "other.send = deadly\n",
    )
    event = Envelope(id="", source="shop", name="mail.sent", queue="default", body=b"{}")
    shop.run("setup")
    with relevo_sql.SqlTransport(
        sqlalchemy.create_engine(f"sqlite:///{shop.folder}/shop.db", poolclass=sqlalchemy.NullPool)
    ) as transport:
        transport.send([attrs.evolve(event, id=str(number)) for number in range(30)])

    killed = shop.process("relevo move --from main/default --to other/feed")
    between = kept(shop)
    time.sleep(3.1)  # the lease of what was under way
    again = shop.process("relevo move --from main/default --to other/feed")

    assert killed.returncode in (-9, 137)
    assert between["other/feed"] > 0
    warning, line = lines(again)
    assert again.returncode == 0
    assert "is handled again, alone, after 1 lost lease" in line
    assert warning.startswith('relevo: no listener here for "mail.sent" in other/feed')
    assert kept(shop) == {"other/feed": 30}


@pytest.mark.slow("starts the command line in a process of its own")
def test_what_the_other_queue_refuses_stays(shop: Shop) -> None:
    shop.write("relevo.toml", 'app = "shop:app"')
    shop.write(
        "shop.py",
        "import relevo, relevo_sql, relevo_memory, sqlalchemy, pathlib\n"
        "class Picky(relevo_memory.MemoryTransport):\n"
        "    def send(self, envelopes, *, delay=0.0):\n"
        "        raise relevo.SendError(self.name, refused=range(len(envelopes)), why='not today')\n"
        "here = pathlib.Path(__file__).parent / 'shop.db'\n"
        "app = relevo.App(transports={'main': relevo_sql.SqlTransport(sqlalchemy.create_engine(f'sqlite:///{here}')),\n"
        "    'other': Picky()}, routes={'*': 'main', 'other.*': 'other'})\n",
    )
    shop.run("dispatch mail.sent")

    done = shop.process("relevo move --from main/default --to other/default")

    assert (done.returncode, done.stdout) == (1, "0 moved, 1 stayed, since the other queue did not accept them\n")
    (line,) = lines(done)
    assert "WARNING relevo.relay: mail.sent " in line
    assert line.endswith("0 sent, 1 refused, 0 unknown: not today")
    assert kept(shop) == {"main/default": 1}


def test_what_is_moved_is_signed_for_its_new_queue_and_what_was_not_signed_is_no_event(shop: Shop) -> None:
    relevo_sql, sqlalchemy = pytest.importorskip("relevo_sql"), pytest.importorskip("sqlalchemy")
    shop.write(
        "shop.py",
        "import relevo, relevo_sql, sqlalchemy, pathlib\nfrom relevo._worker.signing import Signing\n"
        "here = pathlib.Path(__file__).parent / 'shop.db'\n"
        "app = relevo.App(transports={'main': relevo_sql.SqlTransport(sqlalchemy.create_engine(f'sqlite:///{here}'))},\n"
        "    routes={'image.*': ['main/media', 'main/feed'], '*': 'main'}, listeners=['shop_listeners'],\n"
        f"    source='shop', signing=Signing('{CANARY}-Vq3TnB7xZk9RwLf2HsJd8Mpy'))\n",
    )
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    forged = Envelope(id="1", source="shop", name="image.created", queue="feed", body=b"{}")
    with relevo_sql.SqlTransport(
        sqlalchemy.create_engine(f"sqlite:///{shop.folder}/shop.db", poolclass=sqlalchemy.NullPool)
    ) as transport:
        transport.send([forged])

    done = shop.run("move --from main/feed --to main/default")
    shop.run("drain -q media")
    drained = shop.run("drain -q default")

    assert (done.returncode, done.stdout.split(";")[0]) == (1, "1 moved, 1 dead (1 forged)")
    assert [row["reason"] for row in json.loads(shop.run("dead list --json").stdout)] == ["forged"]
    assert drained.returncode == 0


@pytest.mark.parametrize(
    "options, code, why",
    [
        ("--from main/a", 2, "missing option '--to'"),
        ("--from main/a --to main/a", 2, "--from and --to are the same queue"),
        ("--from main/default --to main", 2, "--from and --to are the same queue"),
        ("--from now --to main", 2, '"now" is not a queue'),
        ("--from 'main/a b' --to main", 2, "'a b' cannot name a queue"),
        ("--from '' --to main", 2, 'expected a target, "transport", "transport/queue" or "now"; got \'\''),
        ("--from main/outbox/x --to main", 2, "are reserved"),
        ("--from main/a --to main --limit 0", 2, "0 is not in the range"),
        ("--from mian/a --to main", 78, 'no transport is called "mian"; did you mean "main"?'),
        (
            "--from main/a --to main/fed",
            78,
            '--to: nothing is routed to the queue "fed" of "main"; did you mean "feed"?',
        ),
        (
            "--from main/a --to main",
            78,
            '--from: nothing is routed to the queue "a" of "main", and nothing is in it; there',
        ),
        ("--from main/default --to main/feed", 78, "--from: main/default does not exist: "),
        ("--from media --to main", 78, '--from: no transport is called "media"; did you mean "main/media"?'),
        ("--from main --to feed", 78, '--to: no transport is called "feed"; did you mean "main/feed"?'),
    ],
)
def test_a_move_that_cannot_be_is_told(shop: Shop, options: str, code: int, why: str) -> None:
    done = shop.run(f"move {options}")

    assert why in told_in_one_line(done)
    assert done.returncode == code


# --- purge ------------------------------------------------------------------------------------------------


@pytest.mark.lengthy("runs commands")
def test_a_queue_is_purged_when_somebody_says_yes(shop: Shop) -> None:
    for _ in range(2):
        shop.run("dispatch image.created")
    shop.run("dispatch image.created --delay 1h")

    denied = shop.run("purge media", given=b"n\n")
    unanswered = shop.run("purge media")
    purged = shop.run("purge media", given=b"y\n")
    feed = shop.run("purge feed -t main --yes --json")
    nothing = shop.run("purge feed --yes")
    shop.run("dispatch image.created")
    single = shop.run("purge media", given=b"y\n")
    shop.run("purge feed --yes")

    assert (denied.returncode, denied.stdout) == (0, "nothing was deleted\n")
    assert "Delete 3 waiting events of main/media? This cannot be undone." in denied.stderr
    assert "Delete 1 waiting event of main/media? This cannot be undone." in single.stderr
    assert unanswered.returncode == 2
    assert "standard input ended without an answer; pass --yes" in unanswered.stderr
    assert (purged.returncode, purged.stdout) == (0, "3 purged\n")
    assert json.loads(feed.stdout) == {"purged": 3}
    assert (nothing.stdout, nothing.stderr) == ("0 purged\n", "")
    assert kept(shop) == {}


def test_where_tables_are_missing_nothing_is_purged_or_cancelled(shop: Shop) -> None:
    for command, said in (("purge media --yes", "0 purged\n"), ("cancel 1", "0 cancelled\n")):
        shop.folder.joinpath("shop.db").write_bytes(b"")  # an empty database
        assert shop.run(command).stdout == said


# --- cancel -----------------------------------------------------------------------------------------------


def test_an_event_is_cancelled_in_every_queue_by_its_id(shop: Shop) -> None:
    event_id = json.loads(shop.run("dispatch image.created --json").stdout)["id"]
    shop.run("dispatch image.created")

    done = shop.run(f"cancel {event_id}")
    again = shop.run(f"cancel {event_id} --json")

    assert (done.returncode, done.stdout, done.stderr) == (0, "2 cancelled\n", "")
    assert (again.returncode, json.loads(again.stdout)) == (1, {"cancelled": 0})
    assert told_last(again.stderr) == f"relevo: no waiting event has the id {event_id}"
    assert kept(shop) == {"main/media": 1, "main/feed": 1}


def told_last(text: str) -> str:
    return text.splitlines()[-1]


def _half_held(shop: Shop) -> str:
    """Dispatch an event to two queues, and hold its copy in one of them; return its id."""
    event_id: str = json.loads(shop.run("dispatch image.created --json").stdout)["id"]
    with transport(shop) as store:
        (held,) = store.receive(["media"], limit=1, lease=600, wait=0)
        assert isinstance(held.envelope, Envelope)
        assert held.envelope.id == event_id
    return event_id


def test_an_event_that_a_worker_has_begun_in_one_queue_stays_in_the_others(shop: Shop) -> None:
    event_id = _half_held(shop)

    done = shop.run(f"cancel {event_id}")

    assert (done.returncode, done.stdout) == (1, "0 cancelled\n")
    (told,) = lines(done)
    assert told.startswith(f"relevo: the event {event_id} stays in main/media: a worker holds it until 20")
    assert "stop that worker (with a second TERM if it hangs), or wait until then if it has ended, and cancel" in told
    assert told.endswith(f"; to remove it only there: relevo cancel {event_id} -q main/feed")
    assert kept(shop) == {"main/media": 1, "main/feed": 1}


@pytest.mark.parametrize("queue", ["main/feed", "feed"])
def test_the_copies_that_no_worker_has_begun_are_cancelled_if_their_queue_is_named(shop: Shop, queue: str) -> None:
    event_id = _half_held(shop)

    done = shop.run(f"cancel {event_id} -q {queue}")

    assert (done.returncode, done.stdout, done.stderr) == (0, "1 cancelled\n", "")
    assert kept(shop) == {"main/media": 1}


@pytest.mark.parametrize(
    ("queues", "why"),
    [
        ("-q media", "stays in main/media: a worker holds it until"),
        ("-q media -q feed", "stays in main/media: a worker holds it until"),
        ("-q default", "stays: it also waits in main/feed, and its copies are cancelled together"),
    ],
)
def test_a_copy_that_a_worker_has_begun_or_that_was_not_named_is_not_cancelled(
    shop: Shop, queues: str, why: str
) -> None:
    event_id = _half_held(shop)

    done = shop.run(f"cancel {event_id} {queues} --json")

    assert (done.returncode, json.loads(done.stdout)) == (1, {"cancelled": 0})
    assert why in done.stderr
    assert kept(shop) == {"main/media": 1, "main/feed": 1}


def test_all_that_match_are_cancelled_but_copies_of_an_event_that_a_worker_has_begun(shop: Shop) -> None:
    _half_held(shop)

    everything = shop.run("cancel --all --yes --event image.created")
    named = shop.run("cancel --all --yes --event image.created -q feed")

    assert (everything.returncode, everything.stdout) == (1, "0 cancelled\n")
    assert told_last(everything.stderr) == "relevo: 2 events stayed: held by a worker"
    assert (named.returncode, named.stdout) == (0, "1 cancelled\n")
    assert kept(shop) == {"main/media": 1}


def test_several_events_are_cancelled_and_those_that_are_gone_are_named(shop: Shop) -> None:
    first, second, third = (json.loads(shop.run("dispatch mail.sent --json").stdout)["id"] for _ in range(3))

    some = shop.run(f"cancel {first} nowhere {second[-8:]} {first} --json")
    last = shop.run(f"cancel {third}")

    assert (some.returncode, json.loads(some.stdout)) == (1, {"cancelled": 2})
    assert lines(some) == ["relevo: no waiting event has the id nowhere"]
    assert (last.returncode, last.stdout) == (0, "1 cancelled\n")


def test_an_event_is_cancelled_in_an_outbox_too(shop: Shop) -> None:
    relevo_sql, sqlalchemy = pytest.importorskip("relevo_sql"), pytest.importorskip("sqlalchemy")
    shop.write(
        "relevo.toml",
        CONFIGURATION.replace('"sqlite:///shop.db"', '{ url = "sqlite:///shop.db", outbox = "sqlite:///outbox.db" }'),
    )
    shop.run("setup")
    waiting = Envelope(id="1", source="shop", name="mail.sent", queue="outbox/main", body=b"{}")
    with relevo_sql.SqlTransport(
        sqlalchemy.create_engine(f"sqlite:///{shop.folder}/outbox.db", poolclass=sqlalchemy.NullPool)
    ) as outbox:
        outbox.send([waiting, attrs.evolve(waiting, id="2")])

    assert shop.run("cancel 1").stdout == "1 cancelled\n"


@pytest.mark.parametrize(
    "command, what", [("cancel 1", "cancel"), ("purge default", "purge"), ("purge main --yes", "purge")]
)
def test_what_a_transport_cannot_do_is_told_before_anything_is_asked(shop: Shop, command: str, what: str) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, cancel=False, purge=False)\n"
        "app = relevo.App(transports={'main': Plain()}, routes={'*': 'main'})\n",
    )

    done = shop.run(command)

    assert done.returncode == 78
    assert (
        told_in_one_line(done)
        == f'relevo: the transport "main" does not support {what}; use a transport that claims it\n'
    )


def test_a_transport_that_cannot_cancel_is_named_if_nothing_was_found(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, cancel=False)\n"
        "app = relevo.App(transports={'main': Plain(), 'b': relevo_memory.MemoryTransport()}, routes={'*': 'main'})\n",
    )

    done = shop.run("cancel 1")

    assert done.returncode == 1
    assert lines(done) == [
        'relevo: no waiting event has the id 1; "main" cannot cancel events: the event may still wait there'
    ]


# --- cancel what the options choose -------------------------------------------------------------------------


@pytest.fixture(name="imported")
def _imported(shop: Shop) -> Shop:
    """Open a shop whose default queue holds good events and those of a wrong import."""
    shop.write("rows.jsonl", "".join(f'{{"id": {number}}}\n' for number in range(5)))
    shop.run("dispatch mail.sent")
    shop.run("dispatch product.imported --lines rows.jsonl")
    shop.run("dispatch mail.sent --delay 1h")
    return shop


def test_a_wrong_import_is_cancelled_among_good_events_after_a_question(imported: Shop) -> None:
    command = "cancel --all --event product.imported --since 1h -q main/default"

    denied = imported.run(f"{command} --by event", given=b"n\n")
    unanswered = imported.run(command)
    done = imported.run(command, given=b"y\n")
    again = imported.run(f"{command} --json")

    assert (denied.returncode, denied.stdout.splitlines()[-1]) == (0, "nothing was cancelled")
    assert denied.stdout.splitlines()[1].split()[:3] == ["main", "product.imported", "5"]
    assert "Cancel 5 events in main/default? This cannot be undone. [y/N]: " in denied.stderr
    assert unanswered.returncode == 2
    assert "standard input ended without an answer; pass --yes" in unanswered.stderr
    assert (done.returncode, done.stdout) == (0, "5 cancelled\n")
    assert again.returncode == 78, "no event has this name any more"
    assert kept(imported) == {"main/default": 2}


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize(
    "options, left",
    [
        ("--event 'product.*'", 2),
        ("--state scheduled", 6),
        ("--state ready --until 1h", 7),
        ("--until 0s", 0),
        ("-q main", 0),
        ("-t main", 0),
        ("--error anything", 7),
    ],
)
def test_the_options_choose_what_is_cancelled(imported: Shop, options: str, left: int) -> None:
    done = imported.run(f"cancel --all --yes {options}")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{7 - left} cancelled\n", "")
    assert sum(kept(imported).values()) == left


def test_what_a_worker_holds_is_not_cancelled_and_counted(imported: Shop) -> None:
    with transport(imported) as store:
        store.receive(["default"], limit=3, lease=600, wait=0)

    done = imported.run("cancel --all --yes --event product.imported --by state --json")
    as_text = imported.run("cancel --all --event product.imported")

    found = json.loads(done.stdout)
    groups = found.pop("groups")
    assert (done.returncode, found) == (1, {"cancelled": 3, "held": 2, "elsewhere": 0, "gone": 0})
    assert [(group["state"], group["count"]) for group in groups] == [("ready", 3)]
    assert told_last(done.stderr) == "relevo: 2 events stayed: held by a worker"
    assert (as_text.returncode, as_text.stdout) == (1, "0 cancelled\n")


def test_an_event_that_waits_in_a_queue_that_was_not_chosen_stays_whole(shop: Shop) -> None:
    shop.run("dispatch image.created")

    one = shop.run("cancel --all --yes -q media --json")
    both = shop.run("cancel --all --yes -q media -q feed")

    assert (one.returncode, json.loads(one.stdout)) == (1, {"cancelled": 0, "held": 0, "elsewhere": 1, "gone": 0})
    assert "relevo: 1 event stayed: also waiting in a queue" in one.stderr
    assert (both.returncode, both.stdout) == (0, "2 cancelled\n")


def test_an_event_of_another_name_with_the_same_id_stays(shop: Shop) -> None:
    with transport(shop) as store:
        for name, source in (("mail.sent", "shop"), ("row.seen", "another")):
            store.send([Envelope(id="1", source=source, name=name, body=b"{}")])

    done = shop.run("cancel --all --yes --event row.seen")

    assert (done.returncode, done.stdout) == (1, "0 cancelled\n")
    assert kept(shop) == {"main/default": 2}


def test_several_events_are_cancelled_by_their_ids(imported: Shop) -> None:
    first, second, *_ = [row["id"] for row in json.loads(imported.run("list --json").stdout)]

    done = imported.run(f"cancel {first} nowhere {second}")

    assert (done.returncode, done.stdout) == (1, "2 cancelled\n")
    assert lines(done) == ["relevo: no waiting event has the id nowhere"]
    assert kept(imported) == {"main/default": 5}


@pytest.mark.parametrize(
    "options, why",
    [
        ("", "expected IDs of events, or --all"),
        ("1 --all", "expected IDs of events, or --all"),
        ("1 --event a.b", "options that choose events go with --all, not with an ID"),
        ("1 --state ready", "options that choose events go with --all, not with an ID"),
        ("--all --state leased", "'leased' is not one of 'ready', 'scheduled'; a worker holds these, and"),
        ("--all --state running", "'running' is not one of 'ready', 'scheduled'; a worker holds these, and"),
    ],
)
def test_ids_and_options_that_choose_exclude_each_other(shop: Shop, options: str, why: str) -> None:
    done = shop.run(f"cancel {options}")

    assert (done.returncode, done.stdout) == (2, "")
    assert why in told_in_one_line(done)


def test_where_events_cannot_be_listed_nothing_is_cancelled_by_options(shop: Shop) -> None:
    plain = (
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, waiting=False)\n"
        "    why_unclaimed = {'waiting': 'it is plain'}\n"
    )
    shop.write("shop.py", f"{plain}app = relevo.App(transports={{'main': Plain()}}, routes={{'*': 'main'}})\n")
    alone = shop.run("cancel --all --yes")
    others = "{'main': Plain(), 'b': 'sqlite:///shop.db'}"
    shop.write("shop.py", f"{plain}app = relevo.App(transports={others}, routes={{'*': 'main', 'b.*': 'b'}})\n")
    shop.run("dispatch b.done")
    beside = shop.run("cancel --all --yes")

    for done, cancelled in ((alone, ""), (beside, "1 cancelled\n")):
        assert (done.returncode, done.stdout) == (78, cancelled)
        assert 'the transport "main" cannot list its waiting events (waiting): it is plain; use' in done.stderr


OUTBOX = """
source = "shop"

[transports]
main = "sqlite:///shop.db"
other = {{ url = "sqlite:///other.db", outbox = "main" }}

[routes]
"order.*" = ["main", "other"]
"*" = "main"
"""


def test_a_copy_on_another_transport_than_the_chosen_one_stays(shop: Shop) -> None:
    shop.write("relevo.toml", OUTBOX.format())
    shop.run("setup")
    order = Envelope(id="1", source="shop", name="order.placed", body=b"{}")
    with transport(shop) as store:
        store.send([order, attrs.evolve(order, queue="outbox/other")])

    done = shop.run("cancel --all --yes -t other")
    both = shop.run("cancel --all --yes")

    assert (done.returncode, done.stdout) == (1, "0 cancelled\n")
    assert "relevo: 1 event stayed: also waiting in a queue" in done.stderr
    assert (both.returncode, both.stdout, both.stderr) == (0, "2 cancelled\n", "")


def test_events_of_another_application_in_the_same_database_stay(shop: Shop) -> None:
    mine = Envelope(id="1", source="shop", name="mail.sent", body=b"{}")
    others = attrs.evolve(mine, id="2", source="billing", queue="billing")
    with transport(shop) as store:
        store.send([mine, others, attrs.evolve(mine, id="3", queue="former")])

    denied = shop.run("cancel --all", given=b"n\n")
    done = shop.run("cancel --all --yes")
    left = kept(shop)
    named = shop.run("cancel --all --yes -q billing")

    assert "Cancel 2 events in main/default, main/former? This cannot be undone. [y/N]: " in denied.stderr
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 cancelled\n", "")
    assert left == {"main/billing": 1}
    assert (named.returncode, named.stdout) == (0, "1 cancelled\n"), "a queue that was named is meant"


PLAIN = """
import attrs, relevo, relevo_sql, sqlalchemy
class Plain(relevo_sql.SqlTransport):
    capabilities = attrs.evolve(relevo_sql.SqlTransport.capabilities, find=False)
    why_unclaimed = {{{why}}}
    def held_queues(self):
        return []
main = Plain(sqlalchemy.create_engine('sqlite:///shop.db', poolclass=sqlalchemy.NullPool))
app = relevo.App(transports={{'main': main}}, routes={{'*': 'main'}}, source='shop')
"""


@pytest.mark.parametrize(
    "options, why, said", [("", "'find': 'it is plain'", "it is plain; "), ("--state ready", "", "")]
)
def test_nothing_is_cancelled_by_options_where_other_copies_are_not_found(
    shop: Shop, options: str, why: str, said: str
) -> None:
    shop.write("shop.py", PLAIN.format(why=why))
    mail = Envelope(id="1", source="shop", name="mail.sent", body=b"{}")
    with transport(shop) as store:
        store.send([mail, attrs.evolve(mail, queue="former"), attrs.evolve(mail, queue="billing", source="billing")])

    everything = shop.run(f"cancel --all --yes {options}")
    with transport(shop) as store:
        left = len(store.find("1"))
    one = shop.run("cancel 1")

    assert (everything.returncode, everything.stdout) == (78, "")
    assert everything.stderr == (
        f'relevo: the transport "main" cannot find one event by its id (find): {said}cancel --all would also remove '
        "copies of its events that were not chosen; cancel an event by its id, with all its copies: relevo cancel ID; "
        "use a transport that claims it\n"
    )
    assert (left, one.returncode, one.stdout) == (3, 0, "3 cancelled\n")


def test_transports_with_one_database_are_cancelled_as_one(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        CONFIGURATION.replace(
            'main = "sqlite:///shop.db"', 'main = "sqlite:///shop.db"\nother = "sqlite:///shop.db"'
        ).replace('["main/media", "main/feed"]', '["main/media", "other/feed"]'),
    )
    image = Envelope(id="1", source="shop", name="image.created", body=b"{}")
    with transport(shop) as store:
        store.send([attrs.evolve(image, queue="media"), attrs.evolve(image, queue="feed")])

    one = shop.run("cancel --all --yes -t other")
    both = shop.run("cancel --all --yes")

    assert (one.returncode, one.stdout) == (1, "0 cancelled\n")
    assert (both.returncode, both.stdout, both.stderr) == (0, "2 cancelled\n", "")


@pytest.mark.parametrize(
    "error, code", [("KeyboardInterrupt", 130), ("relevo.TransportUnavailableError('main', 'it is down')", 69)]
)
def test_an_end_in_the_middle_reports_how_many_were_cancelled(imported: Shop, error: str, code: int) -> None:
    imported.write(
        "shop.py",
        "import relevo, relevo_sql, sqlalchemy\n"
        "class Ending(relevo_sql.SqlTransport):\n"
        "    number = 0\n"
        "    def cancel(self, event_id):\n"
        "        self.number += 1\n"
        f"        if self.number > 2: raise {error}\n"
        "        return super().cancel(event_id)\n"
        "engine = sqlalchemy.create_engine('sqlite:///shop.db', poolclass=sqlalchemy.NullPool)\n"
        "app = relevo.App(transports={'main': Ending(engine)}, routes={'*': 'main'})\n",
    )

    done = imported.run("cancel --all --yes")

    assert (done.returncode, done.stdout) == (code, "")
    assert "relevo: 2 of 7 events cancelled; to cancel the others, run the command again" in done.stderr
    assert sum(kept(imported).values()) == 5


# --- revive over several stores -------------------------------------------------------------------------------


TWO = """
listeners = ["shop_listeners"]
[transports]
one = "sqlite:///one.db"
two = "sqlite:///two.db"
[routes]
"a.*" = "one"
"b.*" = "two"
"""

FAILING = """
import os, relevo

def run(who, event):
    if who == {"a.made": "first", "b.made": "second"}[event.name] and "HEALED" not in os.environ:
        raise relevo.GiveUp("not yet")
    print(who, event.name)

@relevo.listener("a.made", id="first")
@relevo.listener("b.made", id="first")
def first(event): run("first", event)

@relevo.listener("a.made", id="second")
@relevo.listener("b.made", id="second")
def second(event): run("second", event)
"""


@pytest.mark.lengthy("runs commands")
def test_dead_letters_of_two_stores_with_one_number_are_revived_each_with_its_own_state(shop: Shop) -> None:
    shop.write("relevo.toml", TWO)
    shop.write("shop_listeners.py", FAILING)
    for name, transport in (("a.made", "one"), ("b.made", "two")):
        shop.run(f"dispatch {name}")
        shop.run(f"drain -t {transport}")
    refs = [row["ref"] for row in json.loads(shop.run("dead list --json").stdout)]

    revived = shop.run("dead revive --all")
    done = [shop.run(f"drain -t {transport}", HEALED="1").stdout for transport in ("one", "two")]

    assert refs == ["1@default", "1@default"]
    assert (revived.returncode, revived.stdout) == (0, "2 revived\n")
    assert [text.splitlines()[:1] for text in done] == [["first a.made"], ["second b.made"]]


def test_a_list_shows_what_an_error_begins_with(shop: Shop) -> None:
    shop.write(
        "shop_listeners.py",
        "import relevo\n@relevo.listener('mail.sent', retry=1)\ndef count(event):\n"
        "    error = ExceptionGroup('several', [ValueError('one'), KeyError('two')])\n"
        "    error.add_note('a note')\n    raise error\n",
    )
    shop.run("dispatch mail.sent")
    shop.run("drain")

    listed = shop.run("dead list")

    assert "ExceptionGroup: several (2 sub-exceptions)" in listed.stdout


# --- dispatch -------------------------------------------------------------------------------------------

DECLARED = """
import attrs, relevo

@relevo.event("image.created", subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int
    path: str = ""

    def __attrs_post_init__(self):
        if self.path == "broken":
            {}["path"]

@relevo.listener(ImageCreated)
def thumbnails(event): print("made", event.image_id)

@relevo.listener("mail.sent")
def count(event): ...
"""


@pytest.fixture(name="declared")
def _declared(shop: Shop) -> Shop:
    shop.write("shop_listeners.py", DECLARED)
    shop.write("relevo.toml", CONFIGURATION.replace('"image.*" = ["main/media", "main/feed"]\n', ""))
    return shop


@pytest.mark.parametrize(
    "arguments, why",
    [
        ("{}", "Object missing required field `image_id`"),
        ('{"image_id": "seven"}', "Expected `int`, got `str` - at `$.image_id`"),
        ('{"image_id": 7, "path": null}', "Expected `str`, got `null` - at `$.path`"),
        ("{} --subject user/7", "Object missing required field `image_id`"),
        ("{} --subject image/seven", "Expected `int`, got `str` - at `$.image_id`, from the subject image/seven"),
        ('{"image_id": 7, "path": "broken"}', "KeyError('path')"),
    ],
)
def test_arguments_that_do_not_fit_the_declared_class_are_bad_data(declared: Shop, arguments: str, why: str) -> None:
    command, _, option = arguments.partition(" --")
    done = declared.run(f"dispatch image.created '{command}' {option and '--' + option}")

    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr == f"relevo: the data of 'image.created' does not fit ImageCreated: {why}\n"
    assert declared.run("drain").stdout == ""


@pytest.mark.parametrize("arguments", ["'{\"image_id\": 7}'", "--subject image/7", '\'{"image_id": 7, "more": 1}\''])
def test_arguments_that_fit_the_declared_class_are_dispatched(declared: Shop, arguments: str) -> None:
    done = declared.run(f"dispatch image.created {arguments}")

    assert (done.returncode, done.stderr) == (0, "")
    assert "made 7" in declared.run("drain").stdout


def test_what_was_dispatched_by_name_is_upcast_by_a_later_release(declared: Shop) -> None:
    release = """
import attrs
import relevo
@relevo.event("image.created", version=VERSION)
@attrs.frozen
class ImageCreated:
    SIZE: int
@relevo.listener(ImageCreated)
def hear(event):
    print(event)
"""
    later = "2, upcasters={1: lambda data: {'bytes': data['kilobytes'] * 1024}}"
    declared.write("shop_listeners.py", release.replace("VERSION", "1").replace("SIZE", "kilobytes"))

    done = declared.run("""dispatch image.created '{"kilobytes": 2}'""")
    declared.write("shop_listeners.py", release.replace("VERSION", later).replace("SIZE", "bytes"))
    drained = declared.run("drain")

    assert done.returncode == 0
    assert (drained.returncode, drained.stdout.splitlines()[0]) == (0, "ImageCreated(bytes=2048)")


def test_what_fits_the_declared_class_and_has_no_faithful_form_is_bad_data(declared: Shop) -> None:
    done = declared.run(f"dispatch image.created '{{\"image_id\": {2**70}}}'")

    assert (done.returncode, len(lines(done))) == (65, 1)
    assert "64 bit" in done.stderr


def test_an_event_that_no_class_is_declared_for_takes_any_arguments(declared: Shop) -> None:
    assert declared.run("""dispatch mail.sent '{"image_id": "seven"}'""").returncode == 0


def test_without_the_listeners_an_event_is_dispatched_unchecked_and_that_is_told(declared: Shop) -> None:
    declared.write("shop_listeners.py", "import nothing_like_that\n")

    done = declared.run("dispatch image.created")

    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert lines(done) == [
        "relevo: the arguments were not checked, since the listeners cannot be imported; see relevo check"
    ]


def test_an_event_has_the_terms_that_the_command_line_says(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = "memory://"\n')
    shop.write(
        "terms.py",
        "import relevo\n"
        "from relevo_memory import MemoryTransport\n"
        "class Telling(MemoryTransport):\n"
        "    def send(self, envelopes, *, delay=0.0):\n"
        "        for each in envelopes: print(each.urgency, each.ordering_key, each.expires, delay)\n"
        "clock = relevo.testing.FakeClock(1000.0)\n"
        "app = relevo.App(transports={'main': Telling(clock=clock)}, routes={'*': 'main'}, clock=clock)\n",
    )

    done = shop.run("dispatch a.b -a terms:app --urgency high --ordering-key k --expires 1h --delay 5s")

    assert done.stdout.startswith("high k 4600.0 5.0\n")


# --- what is probably not meant ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("image.crated", 'main/media, main/feed{later}; did you mean "image.created" ({folder}/shop_listeners.py:4)?'),
        ("user.registered", "main/default{later}"),
        ("feed.read", "main/feed{later}"),
        ("image.created", ""),
        ("order.paid", ""),
    ],
)
def test_an_event_without_a_listener_is_sent_with_a_hint_unless_its_queue_is_of_another_program(
    name: str, told: str, shop: Shop
) -> None:
    shop.write("relevo.toml", CONFIGURATION + '"order.paid" = "main/orders"\n"feed.read" = "main/feed"\n')

    done = shop.run(f"dispatch {name}")

    later = "; a worker retries it for 1 h, then it is a dead letter"
    expected = f'relevo: no listener here for "{name}" in {told.format(later=later, folder=shop.folder)}\n'
    assert (done.returncode, done.stderr) == (0, expected if told else "")
    assert "→ main" in done.stdout


def test_an_application_that_only_dispatches_gets_no_warning(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"shop_listeners"', ""))

    assert shop.run("dispatch image.crated").stderr == ""


def test_a_drain_of_events_in_memory_says_that_there_are_none(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))

    done = shop.run("drain")

    assert (done.returncode, done.stdout) == (0, "")
    assert 'the transport "main" keeps events in the memory of the process that dispatched them' in done.stderr
    assert len(lines(done)) == 1


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("worker --max-time 0", "handle them in that process, or use another transport"),
        ("dispatch mail.sent", "so the event is lost when this command ends; use another transport"),
    ],
)
def test_a_command_that_shares_no_memory_with_other_processes_says_so(shop: Shop, command: str, remedy: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))

    done = shop.run(command)

    assert done.returncode == 0
    (line,) = lines(done)
    assert line.endswith(f"where no other process sees them; {remedy}")


@pytest.mark.parametrize("options", ["", "-t main", "-q media", "--json"])
@pytest.mark.parametrize("command", ["list", "status", "dead list"])
def test_a_command_that_shows_the_memory_of_its_own_process_says_so_once(
    shop: Shop, command: str, options: str
) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))

    done = shop.run(f"{command} {options}")

    assert done.returncode == 0
    (line,) = lines(done)
    assert line == (
        'relevo: the transport "main" keeps events in the memory of the process that dispatched them, where no other '
        "process sees them; look at them in that process, or use another transport"
    )
    if options == "--json":
        assert [row["ready"] for row in json.loads(done.stdout)] == ([0, 0, 0] if command == "status" else [])


@pytest.mark.parametrize("command", ["list", "list --by event", "dead list --by event", "status --max-ready 5"])
def test_each_way_to_show_the_memory_of_its_own_process_says_so(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', '"memory://"\nother = "memory://"'))

    done = shop.run(command)

    assert [line.partition(" keeps ")[0] for line in lines(done)] == [
        'relevo: the transport "main"',
        'relevo: the transport "other"',
    ]


@pytest.mark.parametrize("command", ["list", "status", "dead list"])
def test_a_command_that_shows_another_transport_says_nothing_of_memory(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("[routes]", 'other = "memory://"\n[routes]'))
    shop.run("setup")

    assert shop.run(f"{command} -t main").stderr == ""


@pytest.mark.parametrize("command", ["list", "status", "dead list"])
def test_a_process_with_events_in_its_memory_shows_them_without_a_warning(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))
    shop.write("shop.py", f"{APP}app.dispatch('mail.sent')\n")

    done = shop.run(command)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_check_warns_once_of_a_queue_in_which_no_listener_of_the_event_runs(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"*" =', '"mail.sent" = ["now", "main"]\n"*" ='))

    done = shop.run("check")

    (line,) = [each for each in done.stdout.splitlines() if '"mail.sent" is routed to main' in each]
    assert done.returncode == 0
    assert line.startswith('listeners       warning  "mail.sent" is routed to main/default, but no listener here runs')
    assert not [each for each in caplog.messages if "mail.sent" in each]
    assert line.endswith("or remove the target")


def test_events_on_a_disk_that_may_not_survive_a_crash_are_not_said_to_be_in_memory(shop: Shop) -> None:
    shop.write("relevo.toml", "")
    shop.write(
        "spool.py",
        "import attrs, relevo, relevo_sql, sqlalchemy\n"
        "class Spool(relevo_sql.SqlTransport):\n"
        "    capabilities = attrs.evolve(relevo_sql.SqlTransport.capabilities, durability='process')\n"
        "main = Spool(sqlalchemy.create_engine('sqlite:///spool.db'))\n"
        "app = relevo.App(transports={'main': main}, routes={'*': 'main'})\n"
        "@app.listener('mail.sent')\n"
        "def note(event): ...\n",
    )

    sent, worked, checked = (
        shop.run(f"{command} -a spool:app") for command in ("dispatch mail.sent", "worker --max-time 0", "check")
    )

    assert (sent.returncode, lines(sent)) == (0, [])
    assert (worked.returncode, lines(worked)) == (0, [])
    (line,) = [each for each in checked.stdout.splitlines() if "events of main" in each]
    assert line.endswith(
        'the transport "main" claims the durability "process": its events may end with the process that dispatched '
        "them, or with a crash of the host; use another transport"
    )


def test_a_check_warns_of_a_class_without_a_registered_instance(shop: Shop) -> None:
    shop.write(
        "shop_listeners.py",
        LISTENERS + "class Base:\n"
        '    @relevo.listener("mail.sent")\n'
        "    def note(self, event): ...\n\n"
        "    @staticmethod\n"
        '    @relevo.listener("mail.read", id="read")\n'
        "    def read(event): ...\n\n"
        "class Own(Base): ...\n\n"
        "class Forgotten(Base): ...\n\n"
        "own = Own()\n",
    )

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr, strict.returncode) == (0, "", 78)
    (line,) = [each for each in done.stdout.splitlines() if "no instance" in each]
    assert "warning  shop_listeners.Forgotten has listeners and no instance is registered; " in line


METRICS = """
import attrs, relevo

class Metrics:
    def __init__(self, prefix=""):
        self.prefix = prefix

    @relevo.hookimpl
    def relevo_around_settle(self, settlements): ...

@attrs.frozen
class ToldOptions:
    to: str

class Told:
    Options = ToldOptions

    def __init__(self, options):
        self._options = options

    @classmethod
    def open(cls, options, *, source, clock):
        return cls(options)

    @relevo.hookimpl
    def relevo_around_settle(self, settlements): ...

class OtherTold(Told): ...
"""
PLUGINS = CONFIGURATION.replace("listeners =", "plugins = {plugins}\nlisteners =")


@pytest.mark.parametrize(
    ("plugins", "own", "places"),
    [
        ('["shop_metrics:Metrics", "shop_again:Metrics"]', "", ['"shop_metrics:Metrics" (', '"shop_again:Metrics" (']),
        ('["shop_metrics:Metrics"]', "Metrics()", ['"shop_metrics:Metrics" (', "hooks.add() in ", "shop_own.py:3"]),
        ('["shop_metrics:Metrics"]', "Metrics('own')", []),
        (
            '{ mail = { to = "a@b.c" }, "relevo.ext.mail:Mail" = { to = "a@b.c" } }',
            "",
            ['"mail" (', '"relevo.ext.mail:Mail" ('],
        ),
        ('{ mail = { to = "a@b.c" }, "relevo.ext.mail:Mail" = { to = "d@b.c" } }', "", []),
        ('["shop_metrics:Metrics", "shop_metrics:Metrics"]', "", []),  # the name is one plugin
        ('{ "shop_metrics:Told" = { to = "a" }, "shop_again:Told" = { to = "b" } }', "", []),
        ('{ "shop_metrics:Told" = { to = "a" }, "shop_metrics:OtherTold" = { to = "a" } }', "", []),
        (
            '{ "shop_metrics:Told" = { to = "a" }, "shop_again:Told" = { to = "a" } }',
            "",
            ['"shop_metrics:Told" (', '"shop_again:Told" ('],
        ),
    ],
)
def test_a_check_warns_of_a_plugin_that_is_there_twice(shop: Shop, plugins: str, own: str, places: list[str]) -> None:
    shop.write("relevo.toml", PLUGINS.replace("{plugins}", plugins).replace('"shop_listeners"]', '"shop_own"]'))
    shop.write("shop_metrics.py", METRICS)
    shop.write("shop_again.py", "from shop_metrics import *\n")
    register = f"from shop import app\nfrom shop_metrics import Metrics\napp.hooks.add({own})\n" if own else ""
    shop.write("shop_own.py", register + LISTENERS)

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr) == (0, "")
    found = [each for each in done.stdout.splitlines() if "is there twice" in each]
    assert len(found) == bool(places)
    assert all(place in found[0] for place in places)
    assert ("is there twice" in strict.stderr) is bool(places)
    for line in found:
        assert line.startswith("plugins ")
        assert f"{shop.folder / 'relevo.toml'}:4)" in line


def test_a_check_warns_of_a_time_limit_that_is_not_enforced(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace("priority=3", 'time_limit="1s"'))

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr, strict.returncode) == (0, "", 78)
    assert "time limits     warning  shop_listeners:count: time_limit=1 s is not enforced inline; set " in done.stdout


@pytest.mark.parametrize(("source", "is_warned"), [('source = "shop"', False), ('source = "app"', True), ("", True)])
def test_a_check_warns_of_signatures_without_a_source(
    source: str,
    is_warned: bool,  # noqa: FBT001 - a parameter of pytest
    shop: Shop,
) -> None:
    signed = 'signing = "${KEY}"\n' + CONFIGURATION.replace('source = "shop"', source)
    shop.write("relevo.toml", signed)

    done, strict = (shop.run(command, KEY=KEY) for command in ("check", "check --strict"))

    assert (done.returncode, done.stderr) == (0, "")
    assert ('signing source  warning  the source is "app"' in done.stdout) is is_warned
    assert ('relevo: signing source: the source is "app"' in strict.stderr) is is_warned
    assert strict.returncode == 78


def test_a_check_warns_of_a_transport_without_dead_letters(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_sql\n"
        "class Plain(relevo_sql.SqlTransport):\n"
        "    capabilities = attrs.evolve(relevo_sql.SqlTransport.capabilities, dead_letters=False)\n"
        "app = relevo.App(transports={'main': Plain('sqlite:///shop.db')}, routes={'*': 'main'})\n",
    )

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr, strict.returncode) == (0, "", 78)
    assert 'events of main  warning  the transport "main" keeps no dead letters: an event that' in done.stdout
    assert 'relevo: events of main: the transport "main" keeps no dead letters' in strict.stderr


def test_a_check_warns_of_a_transport_that_no_other_process_sees(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr, strict.returncode) == (0, "", 78)
    assert "events of main  warning  the transport" in done.stdout
    assert "events of main" in strict.stderr


@pytest.mark.parametrize("how", ["order.placed", "order.placed --lines rows.jsonl"])
def test_an_event_that_its_route_does_not_bring_to_a_listener_is_sent_with_a_warning(how: str, shop: Shop) -> None:
    routes = CONFIGURATION.partition("[routes]")[0] + '[routes]\n"ordr.*" = ["main", "main/search"]\n"*" = "main"\n'
    shop.write("relevo.toml", routes)
    shop.write(
        "shop_listeners.py",
        "import relevo\n"
        "@relevo.listener('order.placed')\ndef bill(event): ...\n"
        "@relevo.listener('order.placed', queue='search')\ndef index(event): ...\n",
    )
    shop.write("rows.jsonl", "{}\n{}\n")

    done = shop.process(f"relevo dispatch {how}")  # so that its log is on standard error

    assert (done.returncode, "main/default" in done.stdout) == (0, True)
    (told,) = lines(done)
    assert told.partition(" ")[2] == (
        'WARNING relevo.app: shop_listeners:index will not get this event: it runs in the queue "search", but '
        '"order.placed" is routed to main/default; write under [routes]: "order.placed" = ["main/default", '
        '"main/search"]'
    )
