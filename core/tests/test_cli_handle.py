"""relevo handle, and dead revive --now: one given event is handled now, with all that a worker promises."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from relevo import DeadLetter, Delivery, Envelope, LoopRunner, Report, SystemClock
from relevo_sql import SqlOptions, SqlTransport

from .shop import Shop, lines, opened

LISTENERS = """
import relevo

@relevo.listener("image.created", queue="media", id="thumbnails")
def thumbnails(event):
    if event.get("bad"):
        raise ValueError("a corrupt file")
    print("made", event["image_id"])

@relevo.listener("image.created", queue="media", id="again")
def again(event):
    print("again", event["image_id"])

@relevo.listener("image.created", queue="feed", id="feed")
def feed(event):
    print("fed", event["image_id"])

@relevo.listener("mail.sent", retry=1)
def mail(event):
    raise OSError("no route")
"""


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", LISTENERS)
    return shop


def transport(shop: Shop) -> SqlTransport:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    found = SqlTransport.open(options, name="main", clock=SystemClock())
    found.setup([])
    return found


def dispatched(shop: Shop, arguments: str, options: str = "") -> str:
    done = shop.run(f"dispatch {arguments} --json {options}")
    return str(json.loads(done.stdout)["id"])


def living(shop: Shop) -> set[tuple[str, str]]:
    return {(row["id"], row["queue"]) for row in json.loads(shop.run("list --json").stdout)}


def test_one_event_is_handled_in_all_its_queues_and_the_others_stay(shop: Shop) -> None:
    others = {dispatched(shop, """image.created '{"image_id": 1}'""") for _ in range(3)}
    mine = dispatched(shop, """image.created '{"image_id": 7}'""", "--delay 1h")

    done = shop.run(f"handle {mine}")

    assert done.returncode == 0
    assert lines(done) == [
        f"relevo: handling image.created {mine} in main/media: thumbnails, again",
        f"relevo: handling image.created {mine} in main/feed: feed",
    ]
    assert sorted(done.stdout.splitlines()) == sorted(
        ["made 7", "again 7", "fed 7", *(f"image.created {mine} in main/{queue}: done" for queue in ("media", "feed"))]
    )
    assert living(shop) == {(other, queue) for other in others for queue in ("media", "feed")}


def test_a_queue_can_be_chosen(shop: Shop) -> None:
    mine = dispatched(shop, """image.created '{"image_id": 7}'""")

    done = shop.run(f"handle {mine} -q feed --json")

    assert [(row["queue"], row["outcome"]) for row in json.loads(done.stdout)] == [("feed", "done")]
    assert living(shop) == {(mine, "media")}


def test_only_the_listeners_that_failed_run_again_although_they_are_not_due(shop: Shop) -> None:
    mine = dispatched(shop, """image.created '{"image_id": 7, "bad": true}'""")

    first = shop.run(f"handle {mine} -q media --json")
    second = shop.run(f"handle {mine} -q media --json")

    (row,), (later,) = json.loads(first.stdout), json.loads(second.stdout)
    assert (first.returncode, row["outcome"], second.returncode, later["outcome"]) == (1, "retried", 1, "retried")
    assert "thumbnails failed in run 1, again at " in row["why"]
    assert "ValueError: a corrupt file" in row["why"]
    assert "thumbnails failed in run 2, again at " in later["why"]
    assert "again 7" in first.stderr
    assert "again 7" not in second.stderr
    (listed,) = json.loads(shop.run("list -q media --json").stdout)
    assert (listed["status"], listed["attempt"]) == ("scheduled", 3)


def test_an_event_that_fails_for_the_last_time_is_a_dead_letter_which_can_be_revived_and_run(shop: Shop) -> None:
    mine = dispatched(shop, "mail.sent")

    done, again = shop.run(f"handle {mine} --json"), shop.run(f"handle {mine}")

    (row,) = json.loads(done.stdout)
    assert (done.returncode, row["outcome"]) == (1, "dead")
    assert row["why"].startswith("retries-exhausted: ")
    (letter,) = json.loads(shop.run("dead list --json").stdout)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"the event {mine} is a dead letter; run relevo dead revive {letter['ref']} --now" in again.stderr

    shop.write("shop_listeners.py", LISTENERS.replace('raise OSError("no route")', 'print("sent")'))
    now = shop.run(f"dead revive {letter['ref']} --now")

    assert now.returncode == 0
    assert now.stdout.splitlines() == ["sent", "1 revived", f"mail.sent {mine} in main/default: done"]
    assert living(shop) == set()
    assert shop.run("dead list --json").stdout == "[]\n"


@pytest.mark.lengthy("runs commands")
def test_no_worker_takes_what_is_revived_and_handled_now(shop: Shop) -> None:
    """Workers that run the old code poll as fast as they can."""
    with transport(shop) as store:
        sent = [envelope(f"race-{number}", f"race-{number // 2}" if number < 6 else None) for number in range(20)]
        for batch in (sent[0::2], sent[1::2]):  # of a key only one is handed out
            store.send(batch)
            store.settle([(one, DEAD) for one in store.receive(["media"], limit=10, lease=60, wait=0)])
    with polled(shop, 2) as taken:
        done = shop.run("dead revive --all --now --json")

    result = json.loads(done.stdout)
    assert taken == []
    assert (done.returncode, result["revived"]) == (0, 20)
    assert {(row["id"], row["outcome"]) for row in result["handled"]} == {(one.id, "done") for one in sent}


@contextmanager
def polled(shop: Shop, workers: int) -> Iterator[list[Delivery]]:
    """Receive all that can be received in threads while the block runs."""
    taken: list[Delivery] = []
    begun, over = threading.Barrier(workers + 1), threading.Event()

    def poll() -> None:
        with transport(shop) as store:
            begun.wait(60)
            while not over.is_set():
                taken.extend(store.receive(["media"], limit=10, lease=60, wait=0))

    threads = [threading.Thread(target=poll) for _ in range(workers)]
    for thread in threads:
        thread.start()
    begun.wait(60)
    try:
        yield taken
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_what_is_revived_is_not_lost_if_the_command_ends_before_it_is_handled(shop: Shop) -> None:
    with transport(shop) as store:
        store.send([envelope("early"), envelope("late")])
        store.settle([(one, DEAD) for one in store.receive(["media"], limit=10, lease=60, wait=0)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoopRunner, "run", _killed)
        done = shop.run("dead revive --all --now")
    assert done.returncode == 137

    with transport(shop) as store:
        (found,) = store.find("early")
        (dead,) = store.dead_letters(["media"])
        assert (found.status, dead.envelope) == ("scheduled", envelope("late"))
        assert found.until is not None
        assert found.until <= SystemClock().now() + 60


def _killed(*_: object) -> Report:
    raise SystemExit(137)


def test_what_another_worker_made_a_dead_letter_is_not_said_to_be_gone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transport(shop) as store:
        store.send([envelope("quick")])

        def overtaken(*_: object) -> Report:
            store.dead_letter(store.receive(["media"], limit=1, lease=60, wait=0)[0], reason="retries-exhausted")
            return Report()

        monkeypatch.setattr(LoopRunner, "run", overtaken)

        done = shop.run("handle quick")

        (entry,) = store.dead_letters(["media"])
    said = f"not handled: a worker took it first; it is the dead letter {entry.ref}\n"
    assert (done.returncode, done.stdout) == (75, f"image.created quick in main/media: {said}")


def test_what_another_worker_retries_is_said_to_wait(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with transport(shop) as store:
        store.send([envelope("quick")])

        def overtaken(*_: object) -> Report:
            store.nack(store.receive(["media"], limit=1, lease=60, wait=0)[0], delay=3600)
            return Report()

        monkeypatch.setattr(LoopRunner, "run", overtaken)

        done = shop.run("handle quick")

    assert done.returncode == 75
    assert "quick in main/media: not handled: a worker took it first; it waits until 20" in done.stdout


def test_what_a_worker_holds_is_refused(shop: Shop) -> None:
    mine = dispatched(shop, """image.created '{"image_id": 7}'""")
    with transport(shop) as worker:
        (held,) = worker.receive(["media"], limit=1, lease=3600, wait=0)

        done = shop.run(f"handle {mine} -q media")

        assert (done.returncode, done.stderr) == (75, "")
        assert done.stdout.startswith(f"image.created {mine} in main/media: not handled: a worker holds it until ")
        worker.ack(held)  # nothing has changed for the worker


def test_what_waits_for_its_turn_is_refused_and_stays_as_it_is(shop: Shop) -> None:
    with transport(shop) as store:
        store.send([of_key("first"), of_key("second")])
        before = store.find("second")

        done = shop.run("handle second")

        assert done.returncode == 75
        assert "it waits for first, an earlier event with its ordering key, which is ready" in done.stdout
        assert store.find("second") == before
    assert shop.run("handle first").returncode == 0
    assert shop.run("handle second").returncode == 0


def test_what_waits_for_its_turn_says_for_which_event(shop: Shop) -> None:
    with transport(shop) as store:
        store.send([of_key("first"), of_key("second"), envelope("other", "b")])
        (first, _) = store.receive(["media"], limit=2, lease=600, wait=0)

        held = shop.run("show second --json")
        store.nack(first, delay=3600)
        row, shown = json.loads(shop.run("show second --json").stdout)[0], shop.run("show second").stdout
        table = {line.split()[2]: line for line in shop.run("list").stdout.splitlines()}
        refused = shop.run("handle second")

    waits = "waits for first, an earlier event with its ordering key, which is "
    assert json.loads(held.stdout)[0]["problem"] == waits + "leased"
    assert (row["ordering_key"], row["behind"], row["status"]) == ("a", "first", "ready")
    why = waits + "scheduled, attempt 2"
    assert row["problem"] == why
    assert re.search(r"^ordering key: a$", shown, re.MULTILINE)
    assert why in shown
    assert why[:40] in table["second"]
    assert "waits for" not in table["first"] + table["other"]
    assert f"not handled: it {why}" in refused.stdout


def of_key(event_id: str) -> Envelope:
    return envelope(event_id, "a")


def envelope(event_id: str, key: str | None = None) -> Envelope:
    body = json.dumps({"specversion": "1.0", "id": event_id, "source": "shop", "type": "image.created"} | DATA).encode()
    return Envelope(id=event_id, source="shop", name="image.created", body=body, queue="media", ordering_key=key)


DEAD = DeadLetter(reason="retries-exhausted", error="OSError: no route")
DATA: dict[str, Any] = {"data": {"image_id": 7}}


def test_an_event_that_is_not_there_is_reported(shop: Shop) -> None:
    shop.run("setup")

    done = shop.run("handle nothing")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "relevo: no event has the id nothing; events that are done are not kept\n"


def test_an_event_that_is_done_is_said_to_be_done(shop: Shop) -> None:
    here = shop.folder / "relevo.toml"
    url = '"sqlite:///shop.db"'
    here.write_text(here.read_text().replace(url, f'{{ url = {url}, keep = "7d" }}'))
    sent = json.loads(shop.run("""dispatch image.created '{"image_id": 7}' --json""").stdout)["id"]
    shop.run("drain")

    done = shop.run(f"handle {sent}")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"relevo: the event {sent} was done at 20")


@pytest.mark.lengthy("starts processes")
def test_an_event_is_named_before_its_listener_which_may_end_the_process(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace('raise ValueError("a corrupt file")', "raise relevo.GiveUp('x')"))
    mine = dispatched(shop, """image.created '{"image_id": 7, "bad": true}'""")
    shop.run("drain")
    deadly = LISTENERS.replace('raise ValueError("a corrupt file")', "import os; os._exit(9)")
    shop.write("shop_listeners.py", deadly)

    done = shop.process("relevo dead revive 1 --now")

    assert (done.returncode, done.stdout) == (9, "")
    assert lines(done) == [f"relevo: handling image.created {mine} in main/media: thumbnails"]


def test_the_text_of_a_dead_letter_names_the_listeners_that_are_done(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace('raise ValueError("a corrupt file")', "raise relevo.GiveUp('x')"))
    dispatched(shop, """image.created '{"image_id": 7, "bad": true}'""")
    shop.run("drain")

    shown = shop.run("dead show 1").stdout.splitlines()

    assert [line for line in shown if line.startswith("listener: ")] == ["listener:    again: done after 1 run"]


def test_a_deploy_is_respected(shop: Shop) -> None:
    mine = dispatched(shop, "mail.sent")
    shop.run("deploy begin")

    done = shop.run(f"handle {mine}")

    assert done.returncode == 75
    assert "a deploy is in progress" in done.stdout
    assert living(shop) == {(mine, "default")}


def test_a_signed_state_is_read_and_stays_signed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELEVO_SIGNING", "Vq3TnB7xZk9RwLf2HsJd8Mpy-Vq3TnB7xZk9RwLf2HsJd8Mpy")
    event_id = json.loads(shop.run("""dispatch image.created '{"image_id": 7, "bad": true}' --json""").stdout)["id"]

    first = shop.run(f"handle {event_id} -q media --json")
    second = shop.run(f"handle {event_id} -q media --json")

    assert "failed in run 1" in json.loads(first.stdout)[0]["why"]
    assert "failed in run 2" in json.loads(second.stdout)[0]["why"]


def test_a_transport_that_cannot_lease_by_an_id_says_why(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, take=False, waiting=False)\n"
        "    why_unclaimed = {'take': 'it is plain', 'waiting': 'it is plain too'}\n"
        "app = relevo.App(transports={'main': Plain()}, routes={'*': 'main'})\n",
    )

    done, listed = shop.run("handle 1"), shop.run("list")

    assert (done.returncode, listed.returncode) == (78, 78)
    assert 'the transport "main" cannot handle one given event now (take): it is plain; use a transport' in done.stderr
    assert 'the transport "main" cannot list its waiting events (waiting): it is plain too; use' in listed.stderr


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("cut", ["…", "...", ""])
@pytest.mark.parametrize("command", ["show {} --json", "cancel {}", "handle {}"])
def test_the_end_of_an_id_is_enough_as_a_narrow_table_shows_it(shop: Shop, command: str, cut: str) -> None:
    mine = dispatched(shop, """image.created '{"image_id": 7}'""")

    done = shop.run(command.format(f"{cut}{mine[-12:]}"))

    assert done.returncode == 0
    assert all(line.startswith("relevo: handling ") for line in lines(done))


def test_the_end_of_the_id_of_a_dead_letter_is_enough_too(shop: Shop) -> None:
    event_id = json.loads(shop.run("""dispatch image.created '{"image_id": 7, "bad": true}' --json""").stdout)["id"]
    shop.run("drain")

    shown = json.loads(shop.run(f"show …{event_id[-12:]} --json").stdout)

    assert {row["id"] for row in shown} == {event_id}


def test_a_delayed_dispatch_says_when_the_event_is_due(shop: Shop) -> None:
    done = shop.run("dispatch image.created --delay 5000")

    assert done.stdout.endswith(", due in 1.4 h\n")


def test_an_end_that_several_ids_have_is_refused_and_one_that_none_has_is_not_found(shop: Shop) -> None:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    mine = dispatched(shop, "mail.sent")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        (found,) = transport.find(mine)
        transport.send([attrs.evolve(found.envelope, id=f"{number}-0abcdef") for number in (1, 2)])

    several, none = shop.run("show …0abcdef"), shop.run("show …nothing")

    assert (several.returncode, none.returncode) == (2, 1)
    assert '2 events have an id that ends with "0abcdef"; pass the whole id: 1-0abcdef, 2-0abcdef' in " ".join(
        several.stderr.split()
    )
    assert "no event has the id …nothing" in none.stderr


@pytest.mark.parametrize("given", ["abcdef1", "7abcdef1"])
@pytest.mark.parametrize("others", [["7abcdef1"], ["7abcdef1", "0198c3a4-6e1f-7c52-9d1e-0f6a2abcdef1"]])
def test_an_end_without_dots_is_never_that_of_an_event_of_another_program(
    shop: Shop, given: str, others: list[str]
) -> None:
    with transport(shop) as store:
        store.send([Envelope(id=each, source="other", name="mail.sent", body=b"{}") for each in others])

    done = shop.run(f"show {given} --json")

    meant = {"7abcdef1": "7abcdef1", "abcdef1": others[1] if others[1:] else None}[given]
    assert [row["id"] for row in json.loads(done.stdout)] == [meant] * (meant is not None)


@pytest.mark.parametrize("command", ["cancel", "handle", "show"])
def test_an_end_without_dots_that_two_ids_have_is_refused(shop: Shop, command: str) -> None:
    both = [f"0198c3a4-6e1f-7c52-9d1e-{number}f6a2abcdef1" for number in (1, 2)]
    with transport(shop) as store:
        store.send([Envelope(id=each, source="shop", name="mail.sent", body=b"{}") for each in both])

    done = shop.run(f"{command} abcdef1")

    assert (done.returncode, done.stdout) == (2, "")
    assert f"pass the whole id: {both[0]}, {both[1]};" in " ".join(done.stderr.split())
    assert len(living(shop)) == 2


@pytest.mark.parametrize("end", ["", "five characters"])
@pytest.mark.parametrize("command", ["show", "cancel", "handle"])
def test_an_end_that_is_too_short_means_no_event(shop: Shop, command: str, end: str) -> None:
    mine = dispatched(shop, "mail.sent")

    done = shop.run(f"{command} …{mine[-5:] if end else end}")

    assert (done.returncode, done.stdout) == (2, "")
    assert "expected at least 6 characters of the end of an id" in " ".join(done.stderr.split())
    assert [each for each, _ in living(shop)] == [mine]


def test_an_event_that_may_wait_behind_an_outbox_is_not_said_to_be_none(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, take=False)\n"
        "box = {'main': 'sqlite:///shop.db'}\n"
        "app = relevo.App(transports={'main': Plain()}, outboxes=box, routes={'*': 'main'})\n",
    )

    done = shop.run("handle 1")

    assert (done.returncode, done.stdout) == (78, "")
    assert 'the transport "main" cannot handle one given event now (take)' in done.stderr


def test_an_event_in_an_outbox_that_is_a_transport_too_is_left_to_the_relay(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        'source = "shop"\nlisteners = ["shop_listeners"]\n[transports]\nmain = "sqlite:///shop.db"\n'
        'far = { url = "sqlite:///far.db", outbox = "main" }\n[routes]\n"*" = "far"\n',
    )
    with transport(shop) as store:
        store.setup(["outbox/far"])
        bound, dead = envelope("bound"), envelope("dead")
        store.send([attrs.evolve(each, queue="outbox/far") for each in (bound, dead)])
        held = store.take("outbox/far", "dead", lease=60)[0]
        store.dead_letter(held, reason="refused")

        done, revived = shop.run("handle bound"), shop.run("dead revive --all --now")

        left = {each: store.find(each)[0] for each in ("bound", "dead")}
    for each, said in (("bound", done), ("dead", revived)):
        assert said.returncode == 75
        assert f"{each} in main/outbox/far: not handled: it waits in an outbox; relevo relay moves it" in said.stdout
        assert (left[each].status, left[each].attempt) == ("ready", 1)


def test_dead_letters_of_a_transport_that_cannot_lease_by_an_id_are_not_revived_with_now(shop: Shop) -> None:
    mine = dispatched(shop, "mail.sent")
    shop.run(f"handle {mine}")
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_sql\n"
        "class Plain(relevo_sql.SqlTransport):\n"
        "    def __init__(self, *given, **named):\n"
        "        super().__init__(*given, **named)\n"
        "        self.capabilities = attrs.evolve(self.capabilities, take=False, find=False)\n"
        "app = relevo.App(transports={'main': Plain('sqlite:///shop.db')}, source='shop')\n",
    )

    done = shop.run("dead revive --all --now")
    handled = shop.run(f"handle {mine}")

    assert "relevo dead revive 1@default, then a worker handles it" in handled.stderr
    assert (done.returncode, done.stdout) == (78, "")
    assert 'the transport "main" cannot handle one given event now (take)' in done.stderr
    assert len(json.loads(shop.run("dead list --json").stdout)) == 1


def test_an_event_that_a_worker_holds_is_not_cancelled_and_the_worker_is_named(shop: Shop) -> None:
    mine = dispatched(shop, """image.created '{"image_id": 7}'""")
    with transport(shop) as store:
        store.receive(["media"], limit=1, lease=600, wait=0)

    first, second = shop.run(f"cancel {mine}"), shop.run(f"cancel {mine} --json")

    assert (first.returncode, first.stdout) == (1, "0 cancelled\n"), "nor is the copy in the other queue"
    assert (second.returncode, json.loads(second.stdout)) == (1, {"cancelled": 0})
    for done in (first, second):
        said = lines(done)[-1]
        assert said.startswith(f"relevo: the event {mine} stays in main/media: a worker holds it until 20")
        assert (
            "; to remove it, stop that worker (with a second TERM if it hangs), or wait until then if it has ended, "
            "and cancel again; "
        ) in said
