"""The commands move and purge, and revive over several stores."""

from __future__ import annotations

import json
import time

import attrs
import pytest

from relevo import Envelope

from .shop import CANARY, CONFIGURATION, Shop, kept, lines, told_in_one_line

SECOND = CONFIGURATION.replace('main = "sqlite:///shop.db"', 'main = "sqlite:///shop.db"\nother = "sqlite:///other.db"')
SECOND += '"other.*" = "other/feed"\n'


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


CHOSEN = CONFIGURATION + '"bulk.*" = "main/bulk"\n'

BOTH = """
import relevo

@relevo.listener("image.created")
def resize(event):
    print("resized")

@relevo.listener("image.created", queue="feed")
def show(event):
    print("shown")
"""


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("origin, target", [("bulk", "feed"), ("feed", "bulk")])
def test_an_event_that_was_sent_to_both_queues_stays_until_the_other_copy_is_done(
    shop: Shop, origin: str, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.write("relevo.toml", CHOSEN)
    shop.write("shop_listeners.py", BOTH)
    shop.run("dispatch image.created '{}' --to main/bulk --to main/feed")

    moved = shop.run(f"move --from main/{origin} --to main/{target}")
    done = shop.run("drain --settle 20s")

    assert (moved.returncode, moved.stdout) == (1, "0 moved, 1 stayed, since the other queue did not accept them\n")
    assert f"main/{target} has another copy of it" in caplog.text
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == ["resized", "shown"]
    assert kept(shop) == {}


@pytest.mark.lengthy("runs commands")
def test_an_event_that_was_sent_to_two_queues_is_moved_to_a_third_and_each_listener_runs_once(shop: Shop) -> None:
    shop.write("relevo.toml", CHOSEN)
    shop.write("shop_listeners.py", BOTH)
    shop.run("dispatch image.created '{}' --to main/bulk --to main/feed")

    moved = shop.run("move --from main/bulk --to main/default")
    done = shop.run("drain")

    assert moved.stdout == "1 moved\n"
    assert sorted(done.stdout.split()) == ["resized", "shown"]
    assert kept(shop) == {}


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
    with relevo_sql.SqlTransport(
        sqlalchemy.create_engine(f"sqlite:///{shop.folder}/shop.db", poolclass=sqlalchemy.NullPool)
    ) as transport:
        while transport.stats("default").leased:  # the lease of what was under way
            time.sleep(0.1)
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
