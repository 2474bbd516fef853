"""relevo list: the events that wait, and those in progress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relevo import Envelope, Lost, Nack, Note, SystemClock
from relevo._worker.announcement import Announcement, HeldEvent
from relevo._worker.decision import Reason
from relevo._worker.progress import STATE_VERSION, ListenerProgress, Progress, Raised, dumped
from relevo_sql import SqlOptions, SqlTransport

from .shop import Shop, lines, opened


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    shop = opened(tmp_path)
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.setup([])
        transport.send([event("held"), event("failed"), event("lost")])
        _, failed, lost = transport.receive(["media"], limit=3, lease=3600, wait=0)
        transport.settle([(failed, Nack(delay=3600, state=STATE)), (lost, Lost())])
        (again,) = transport.receive(["media"], limit=3, lease=3600, wait=0)
        transport.begin(again, Note(by="a1:0b-9c:1:7:9"))
        transport.send([event("ready-1"), event("ready-2", name="image.deleted"), event("mail", queue="default")])
    return shop


STATE = dumped(
    Progress(
        v=STATE_VERSION,
        listeners={"shop_listeners:thumbnails": ListenerProgress(status="due", runs=1, error="OSError: full")},
        raised={"shop_listeners:thumbnails": Raised("OSError")},
    )
)


def event(event_id: str, *, name: str = "image.created", queue: str = "media") -> Envelope:
    return Envelope(id=event_id, source="shop", name=name, body=b"{}", queue=queue)


def listed(shop: Shop, options: str = "") -> list[dict[str, Any]]:
    done = shop.run(f"list --json {options}")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def ids(shop: Shop, options: str = "") -> set[str]:
    return {row["id"] for row in listed(shop, options)}


def test_every_event_is_listed_with_all_that_is_known(shop: Shop) -> None:
    rows = {row["id"]: row for row in listed(shop)}

    assert rows.keys() == {"held", "failed", "lost", "ready-1", "ready-2", "mail"}
    assert {name: rows[name]["status"] for name in ("held", "failed", "ready-1")} == {
        "held": "leased", "failed": "scheduled", "ready-1": "ready"
    }  # fmt: skip
    lost = rows["lost"]
    assert (lost["status"], lost["attempt"], lost["lost_leases"], lost["begun_by"]) == (
        "leased", 2, 1, "a1:0b-9c:1:7:9"
    )  # fmt: skip
    assert "\nbegun by:    pid 7 of boot 0b-9c\n" in shop.run("show lost").stdout
    assert rows["held"]["leased"] <= rows["held"]["until"]
    assert (rows["ready-1"]["leased"], rows["ready-1"]["until"], rows["ready-1"]["begun_by"]) == (None, None, None)
    assert (rows["failed"]["error"], rows["failed"]["listeners"][0]["runs"], lost["error"]) == (
        "OSError: full",
        1,
        None,
    )
    assert (rows["mail"]["transport"], rows["mail"]["queue"]) == ("main", "default")


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize(
    "options, expected",
    [
        ("-q media", {"held", "failed", "lost", "ready-1", "ready-2"}),
        ("-q default", {"mail"}),
        ("--state leased", {"held", "lost"}),
        ("--state leased --state scheduled", {"held", "lost", "failed"}),
        ("--event image.deleted", {"ready-2"}),
        ("--event image.* --state ready -q media", {"ready-1", "ready-2"}),
        ("--event image.*", {"held", "failed", "lost", "ready-1", "ready-2", "mail"}),
        ("--listener shop_listeners:thumbnails", {"failed"}),
        ("--listener 'shop_listeners:*' --error full", {"failed"}),
        ("--listener shop_listeners:feed", set()),
        ("--error full", {"failed"}),
        ("--error Full", set()),
        ("--error full --state ready", set()),
        ("--since 1h", {"held", "failed", "lost", "ready-1", "ready-2", "mail"}),
        ("--until 1h", set()),
        ("--since 2100-01-01", set()),
        ("--until '2100-01-01 12:30+02:00' --state scheduled", {"failed"}),
    ],
)
def test_options_choose(shop: Shop, options: str, expected: set[str]) -> None:
    assert ids(shop, options) == expected


@pytest.mark.parametrize(
    "options, expected",
    [
        ("--by listener", {"shop_listeners:thumbnails": 1, "": 5}),
        ("--by error", {"OSError": 1, "": 5}),
        ("--by error --listener shop_listeners:thumbnails", {"OSError": 1}),
        ("--by event --error full", {"image.created": 1}),
        ("--by queue --error full", {"media": 1}),
        ("--by state --error full", {"scheduled": 1}),
    ],
)
def test_events_are_counted_by_what_failed(shop: Shop, options: str, expected: dict[str, int]) -> None:
    key = options.split()[1]

    assert {row[key]: row["count"] for row in listed(shop, options)} == expected


@pytest.mark.parametrize(
    "options, told",
    [
        ("--event image.cretaed", 'nothing stored here has this name; did you mean "image.created"?'),
        ("--event image.cretaed --by queue", '--event "image.cretaed": no listener'),
        ("--listener thumbnails", 'did you mean "shop_listeners:thumbnails"?'),
    ],
)
def test_a_name_that_nothing_has_is_refused(shop: Shop, options: str, told: str) -> None:
    done = shop.run(f"list {options}")

    assert (done.returncode, done.stdout) == (78, "")
    assert told in done.stderr


def test_a_name_that_a_route_leads_somewhere_is_known(shop: Shop) -> None:
    done = shop.run("list --event image.watermark-for-print --json")

    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_list_of_what_failed_is_continued_too(shop: Shop) -> None:
    (row,) = listed(shop, "--error full --limit 1")

    assert listed(shop, f"--error full --limit 1 --after {row['cursor']}") == []


def test_a_list_is_continued_behind_the_cursor_of_its_last_row(shop: Shop) -> None:
    seen: list[str] = []
    after = ""
    while page := listed(shop, f"--limit 2 {after}"):
        seen += [row["id"] for row in page]
        assert len(page) <= 2
        after = f"--after {page[-1]['cursor']}"

    assert sorted(seen) == ["failed", "held", "lost", "mail", "ready-1", "ready-2"]


def test_json_has_all_events_and_a_table_says_that_there_are_more(shop: Shop) -> None:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.send([event(f"many-{number}") for number in range(450)])

    table = shop.run("list").stdout.splitlines()

    assert len(ids(shop)) == 456
    assert len(ids(shop, "--limit 7")) == 7
    assert (len(table), table[-1]) == (102, "… and more; raise --limit 100")


def announce(shop: Shop, worker: str, *held: HeldEvent) -> None:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.announce(worker, Announcement(1, "web-1", 4242, list(held)).packed(), ttl=20.0)


def test_the_worker_that_holds_an_event_and_the_listener_that_runs_are_listed(shop: Shop) -> None:
    announce(
        shop,
        "a1",
        HeldEvent("media", "shop", "held", "shop_listeners:thumbnails"),
        HeldEvent("media", "shop", "lost"),
        HeldEvent("media", "shop", "ready-1", "shop_listeners:thumbnails"),  # it was given back meanwhile
    )

    rows = {row["id"]: row for row in listed(shop)}
    lines = {line.split()[2]: line for line in shop.run("list").stdout.splitlines()}

    assert {name: (row["worker"], row["running"]) for name, row in rows.items()} == {
        "held": ("web-1:4242", "shop_listeners:thumbnails"),
        "lost": ("web-1:4242", None),
        **dict.fromkeys(("failed", "ready-1", "ready-2", "mail"), (None, None)),
    }
    assert " s by web-1:4242: shop_listeners:thumbnails" in lines["held"]
    assert " s by web-1:4242: waits there" in lines["lost"]
    refused = shop.run("handle held")
    assert (refused.returncode, refused.stderr) == (75, "")
    assert "not handled: the worker web-1:4242 holds it until " in refused.stdout
    assert refused.stdout.endswith(
        "; shop_listeners:thumbnails runs; stop that worker, or wait until then if it has ended\n"
    )


def store_of(shop: Shop) -> SqlTransport:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    return SqlTransport.open(options, name="main", clock=SystemClock())


RUNS = "shop_listeners:thumbnails"


@pytest.mark.parametrize(
    "options, expected",
    [
        ("--state running", {"held"}),
        ("--state running --state scheduled", {"held", "failed"}),
        ("--state running --state leased", {"held", "lost"}),
        ("--state running -q default", set()),
        ("--state running --event image.deleted", set()),
        ("--state running --error full", set()),
        ("--state running --since 1h", {"held"}),
    ],
)
def test_only_events_whose_listener_runs_now_are_running(shop: Shop, options: str, expected: set[str]) -> None:
    announce(
        shop,
        "a1",
        HeldEvent("media", "shop", "held", RUNS),
        HeldEvent("media", "shop", "lost"),  # it waits in the worker
        HeldEvent("media", "shop", "ready-1", RUNS),  # it was given back meanwhile
    )

    found = listed(shop, options)

    assert {row["id"] for row in found} == expected
    assert all((row["status"], row["running"]) == ("leased", RUNS) for row in found if row["id"] == "held")


def test_running_events_are_counted_by_what_they_have_in_common(shop: Shop) -> None:
    announce(shop, "a1", HeldEvent("media", "shop", "held", RUNS), HeldEvent("media", "shop", "lost"))

    by_event = listed(shop, "--state running --by event")
    by_state = listed(shop, "--state running --state scheduled --by state")

    assert {row["event"]: row["count"] for row in by_event} == {"image.created": 1}
    assert {row["state"]: row["count"] for row in by_state} == {"leased": 1, "scheduled": 1}


def test_pages_of_running_events_are_complete_although_many_events_wait_between_them(shop: Shop) -> None:
    every = [f"many-{number:03}" for number in range(450)]
    with store_of(shop) as transport:
        transport.send([event(each, queue="default") for each in every])
        for _ in range(5):
            transport.receive(["default"], limit=100, lease=3600, wait=0)
    run = every[3::100]
    announce(shop, "a1", *(HeldEvent("default", "shop", each, RUNS) for each in run))
    seen, after = list[list[str]](), ""

    while page := listed(shop, f"--state running --limit 2 {after}"):
        seen.append([row["id"] for row in page])
        after = f"--after {page[-1]['cursor']}"
    table = shop.run("list --state running --limit 4").stdout.splitlines()
    whole = shop.run("list --state running --limit 5").stdout.splitlines()

    assert [len(page) for page in seen] == [2, 2, 1]
    assert sorted(each for page in seen for each in page) == run
    assert (len(table), table[-1]) == (6, "… and more; raise --limit 4")
    assert len(whole) == 6


def test_where_nothing_is_announced_the_list_says_what_it_does_not_show(shop: Shop) -> None:
    done, as_json = shop.run("list --state running"), shop.run("list --state running --json")

    assert (done.returncode, done.stdout) == (
        0,
        "no running listener is announced; workers announce those of events that they hold for more than 5 seconds\n",
    )
    assert (as_json.returncode, as_json.stdout) == (0, "[]\n")


PLAIN = """
import attrs, relevo
class Plain(relevo.Transport):
    capabilities = relevo.Capabilities(
        durability="host", lease="timed", extend=True, settlement="confirmed", delay=1.0, waiting=True
    )
    name = "plain"
    def open(self, *_, **__): ...
    def setup(self, queues, *, dry_run=False): return []
    def send(self, envelopes, *, delay=0.0): ...
    def receive(self, *_, **__): return []
    def _settle(self, settlements): return []
    def waiting(self, *_, **__): return []
    def close(self): ...
app = relevo.App(transports={transports}, routes={routes})
"""


def test_a_transport_without_announcements_cannot_say_what_runs(shop: Shop) -> None:
    announce(shop, "a1", HeldEvent("media", "shop", "held", RUNS))
    shop.write("shop.py", PLAIN.format(transports="{'plain': Plain()}", routes="{'*': 'plain'}"))
    alone = shop.run("list --state running")
    leased = shop.run("list --state leased")
    both = "{'plain': Plain(), 'main': 'sqlite:///shop.db'}"
    shop.write("shop.py", PLAIN.format(transports=both, routes="{'*': 'plain', 'image.*': 'main/media'}"))
    beside = shop.run("list --state running --json")

    for done in (alone, beside):
        assert done.returncode == 78
        assert done.stderr == (
            'relevo: the transport "plain" cannot tell which listeners run now, since workers announce nothing there; '
            "give it a coordinator, or see relevo list --state leased and the logs of the workers\n"
        )
    assert alone.stdout == ""
    assert [row["id"] for row in json.loads(beside.stdout)] == ["held"]
    assert (leased.returncode, leased.stdout, leased.stderr) == (0, "no events\n", "")


def test_announcements_that_cannot_be_read_now_are_an_error_and_not_an_empty_list(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import relevo, relevo_memory\n"
        "class Down(relevo_memory.MemoryTransport):\n"
        "    def workers(self):\n"
        "        raise relevo.TransportUnavailableError('main', 'it is down')\n"
        "app = relevo.App(transports={'main': Down()}, routes={'*': 'main'})\n",
    )

    done = shop.run("list --state running")

    assert (done.returncode, done.stdout) == (69, "")
    assert "it is down" in done.stderr


@pytest.mark.parametrize("order", [1, -1])
def test_the_error_of_an_event_is_that_of_the_failed_listener_that_runs_next(shop: Shop, order: int) -> None:
    soon, later = 2_000_000_000.0, 2_000_000_060.0
    listeners = {
        "shop_listeners:soon": ListenerProgress(status="due", runs=3, due=soon, error="OSError: full"),
        "shop_listeners:later": ListenerProgress(status="due", runs=1, due=later, error="ValueError: wrong"),
        "shop_listeners:dead": ListenerProgress(status="dead", runs=1, why="gave-up", error="GiveUp: corrupt"),
        "shop_listeners:done": ListenerProgress(status="done", runs=2, error="KeyError: skipped"),
        "shop_listeners:fresh": ListenerProgress(),
    }
    state = dumped(Progress(v=STATE_VERSION, listeners=dict([*listeners.items()][::order])))
    with SqlTransport.open(
        SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}"), name="main", clock=SystemClock()
    ) as transport:
        transport.send([event("several", queue="default")])
        taken = transport.take("default", "several", lease=60)
        transport.settle([(each, Nack(delay=3600, state=state)) for each in taken])

    (row,) = [row for row in listed(shop) if row["id"] == "several"]

    assert row["error"] == "OSError: full"
    assert ids(shop, "--error skipped") == set()


def test_a_table_shows_what_an_event_waits_for_rather_than_an_earlier_error(shop: Shop) -> None:
    state = dumped(
        Progress(
            v=STATE_VERSION,
            listeners={"shop_listeners:renamed": ListenerProgress(status="due", runs=2, error="OSError: full")},
            waiting={Reason.LISTENER_MISSING: 2_000_000_000.0},
        )
    )
    with SqlTransport.open(
        SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}"), name="main", clock=SystemClock()
    ) as transport:
        transport.send([event("renamed", queue="default")])
        taken = transport.take("default", "renamed", lease=60)
        transport.settle([(each, Nack(delay=3600, state=state)) for each in taken])

    lines = shop.run("list -q default --state scheduled").stdout.splitlines()

    (line,) = [line for line in lines if "renamed" in line]
    assert "the worker that had it last lacks shop_listeners:renamed" in line
    assert "OSError" not in line
    shown = shop.run("show renamed").stdout
    assert "lacks shop_listeners:renamed, which still has to run; if it was renamed, write @relevo.listener(" in shown
    groups = json.loads(shop.run("list --by error -q default --state scheduled --json").stdout)
    assert {group["error"] for group in groups} == {"listener-missing"}


def test_an_announcement_that_cannot_be_read_is_ignored(shop: Shop) -> None:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.announce("a1", b"\xff[", ttl=20.0)
        transport.announce("a2", b'{"v": 2, "host": ["web"], "pid": 1}', ttl=20.0)

    assert {row["worker"] for row in listed(shop)} == {None}


def test_a_list_is_one_line_an_event_in_a_narrow_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shop.run("list").stdout.splitlines()
    monkeypatch.setattr("relevo.cli._output.at_terminal", lambda _: True)

    narrow = shop.run("list", COLUMNS="80").stdout.splitlines()

    assert len(narrow) == len(whole) == 7
    assert max(map(len, narrow)) <= 80


@pytest.mark.parametrize(
    ("cursor", "named"),
    [
        ("nothing", "nothing"),
        ("main/", ""),
        ("main/media", "main/media"),
        ("main/media/", "main/media"),
        ("other/media/1.2.3@media", "other/media/1.2.3@media"),
        ("main/media/x@media", "x@media"),
    ],
)
def test_a_cursor_that_is_none_is_a_mistake(shop: Shop, cursor: str, named: str) -> None:
    done = shop.run(f"list --after {cursor}")

    assert (done.returncode, done.stdout) == (78, "")
    assert named in done.stderr


def test_a_person_sees_a_table_and_that_there_are_more(shop: Shop) -> None:
    whole, some, none = shop.run("list"), shop.run("list --limit 2"), shop.run("list --event mail.sent --state leased")

    head, *rows = whole.stdout.splitlines()
    assert head.split() == ["queue", "event", "id", "status", "attempt", "age", "until", "leased", "error"]
    assert len(rows) == 6
    assert any("2, 1 lost" in row for row in rows)
    assert some.stdout.splitlines()[-1] == "… and more; raise --limit 2"
    assert none.stdout == "no events\n"


def test_events_are_counted_by_what_they_have_in_common(shop: Shop) -> None:
    by_event = json.loads(shop.run("list --by event --json").stdout)
    by_state = json.loads(shop.run("list --by state -q media --json").stdout)

    assert [(row["transport"], row["event"], row["count"]) for row in by_event] == [
        ("main", "image.created", 5), ("main", "image.deleted", 1)
    ]  # fmt: skip
    assert by_event[0]["first_sent"] <= by_event[0]["last_sent"]
    assert {row["state"]: row["count"] for row in by_state} == {"ready": 2, "leased": 2, "scheduled": 1}
    assert shop.run("list --by queue").stdout.splitlines()[0].split() == [
        "transport", "queue", "count", "first", "sent", "last", "sent"
    ]  # fmt: skip
    assert shop.run("list --by queue --event mail.sent --state leased").stdout == "no events\n"


@pytest.mark.parametrize("time", ["soon", "-1h", "2026-13-01"])
def test_a_time_that_is_none_is_a_mistake(shop: Shop, time: str) -> None:
    done = shop.run(f"list --since={time}")

    assert done.returncode == 2
    assert "--since" in done.stderr
    assert time in done.stderr


def test_the_list_says_which_transport_cannot_list(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, waiting=False)\n"
        "app = relevo.App(transports={'main': Plain(), 'b': relevo_memory.MemoryTransport()}, routes={'*': 'main'})\n",
    )

    every, main, other = shop.run("list"), shop.run("list -t main"), shop.run("list -t b")

    for one in (every, shop.run("list --json"), shop.run("list --by queue"), shop.run("list --by queue --json")):
        assert (one.returncode, one.stdout) == (78, ""), "the other transport may hold events"
    assert (main.returncode, main.stdout) == (78, "")
    assert (other.returncode, other.stdout) == (0, "no events\n")
    (line,) = lines(other)
    assert line.startswith('relevo: the transport "b" keeps events in the memory of the process')
    for done in (every, main):
        assert 'the transport "main" cannot list its waiting events (waiting)' in done.stderr


@pytest.mark.parametrize("options", ["", "-t main"])
def test_the_list_has_what_an_outbox_holds_and_says_that_its_transport_cannot_list(shop: Shop, options: str) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, waiting=False)\n"
        "box = {'main': 'sqlite:///shop.db'}\n"
        "app = relevo.App(transports={'main': Plain()}, outboxes=box, routes={'*': 'main'})\n",
    )
    with SqlTransport(f"sqlite:///{shop.folder / 'shop.db'}") as outbox:
        outbox.send([event("relayed", queue="outbox/main")])

    done, grouped = shop.run(f"list --json {options}"), shop.run(f"list --by queue {options}")

    assert {row["queue"] for row in json.loads(done.stdout)} == {"outbox/main", "media", "default"}
    assert [line.split()[1] for line in grouped.stdout.splitlines()] == ["queue", "media", "default", "outbox/main"]
    for each in (done, grouped):
        assert each.returncode == 78
        assert lines(each)[-1].startswith('relevo: the transport "main" cannot list its waiting events (waiting)')
