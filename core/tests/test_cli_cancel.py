"""The command cancel: one event, and those that options choose."""

from __future__ import annotations

import json

import attrs
import pytest

from relevo import Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport

from .shop import CONFIGURATION, Shop, kept, lines, told_in_one_line


def transport(shop: Shop) -> SqlTransport:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    found = SqlTransport.open(options, name="main", clock=SystemClock())
    found.setup([])
    return found


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
