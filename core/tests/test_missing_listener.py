"""Listeners that stored events still need and that are not here, such as renamed ones, in relevo check --live."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest

import relevo
from relevo import DeadLetter, Envelope, EventFilter, Nack, SystemClock, WaitingEntry
from relevo._app.app import parts_of
from relevo._app.missing import LOOK_TIME, SAMPLE, MissingListener, missing_listeners
from relevo._worker.progress import ListenerProgress, Progress, Status, dumped
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_sql import SqlOptions, SqlTransport

from .shop import Shop, opened

LISTENERS = """
import relevo

@relevo.listener("mail.sent")
def send(event):
    raise relevo.RetryLater("1h")

@relevo.listener("mail.sent")
def count(event): ...
"""


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    """Return a shop with three events whose listener send() runs again later, and whose listener count() is done."""
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", LISTENERS)
    for _ in range(3):
        shop.run("dispatch mail.sent")
    shop.run("drain")
    return shop


def warned(shop: Shop, options: str = "") -> list[str]:
    """Return what a live check says about listeners that are not here."""
    done = shop.run(f"check --live --json {options}")
    return [row["detail"] for row in json.loads(done.stdout) if row["missing_listener"]]


# --- on the command line, with SQLite ---------------------------------------------------------------------

RENAMED = (
    '3 of the 3 events that were looked at in main/default wait for the listener shop_listeners:send of "mail.sent", '
    'which is not here, and become dead letters; did you mean "shop_listeners:send_mail"?; if it was renamed, write '
    '@relevo.listener(…, aliases=["shop_listeners:send"]) above the function'
)


def test_a_live_check_warns_of_a_renamed_listener_that_events_wait_for(shop: Shop) -> None:
    before = warned(shop)
    shop.write("shop_listeners.py", LISTENERS.replace("def send", "def send_mail"))

    quick, live, strict = shop.run("check"), shop.run("check --live"), shop.run("check --live --strict")

    assert before == []
    (row,) = [line for line in live.stdout.splitlines() if line.startswith("queue ")]
    assert row.split(maxsplit=3) == ["queue", "main/default", "warning", RENAMED]
    assert (quick.returncode, live.returncode, live.stderr) == (0, 0, "")
    assert "send_mail" not in quick.stdout
    assert (strict.returncode, f"relevo: queue main/default: {RENAMED}\n" in strict.stderr) == (78, True)


def test_a_program_gets_it_as_data(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace("def send", "def send_mail"))

    rows = json.loads(shop.run("check --live --json").stdout)

    (row,) = [each for each in rows if each["missing_listener"] is not None]
    assert (row["check"], row["ok"], row["detail"]) == ("queue main/default", False, RENAMED)
    assert row["missing_listener"] == {
        "transport": "main",
        "queue": "default",
        "event": "mail.sent",
        "listener": "shop_listeners:send",
        "need": "waits",
        "dead": False,
        "count": 3,
        "looked_at": 3,
        "meant": "shop_listeners:send_mail",
    }


@pytest.mark.parametrize(
    "code",
    [
        LISTENERS.replace('"mail.sent")\ndef send', '"mail.sent", aliases=["shop_listeners:send"])\ndef send_mail'),
        LISTENERS.replace('"mail.sent")\ndef send', '"mail.sent", id="shop_listeners:send")\ndef send_mail'),
    ],
    ids=["alias", "id"],
)
def test_a_renamed_listener_with_its_former_id_is_right(shop: Shop, code: str) -> None:
    shop.write("shop_listeners.py", code)

    assert warned(shop) == []


def test_a_renamed_listener_that_is_done_would_run_again(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace("def count", "def count_mails"))

    (text,) = warned(shop)
    assert text == (
        "3 of the 3 events that were looked at in main/default have finished with the listener shop_listeners:count of "
        '"mail.sent", which is not here, and would run "shop_listeners:count_mails"; if it was renamed, write '
        '@relevo.listener(…, aliases=["shop_listeners:count"]) above the function'
    )
    assert shop.run("check --live --strict").returncode == shop.run("check --strict").returncode


def test_a_listener_that_was_removed_when_it_was_done_is_not_missed(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.partition("@relevo.listener")[0] + send_alone())

    assert warned(shop) == []


def send_alone() -> str:
    return "@relevo.listener" + LISTENERS.split("@relevo.listener")[1]


def test_dead_letters_are_looked_at_too_and_are_no_error_of_a_strict_check(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace('RetryLater("1h")', "GiveUp()"))
    shop.run("dispatch mail.sent")
    shop.run("drain")
    shop.write("shop_listeners.py", LISTENERS.replace("def send", "def send_mail"))

    waiting, dead = warned(shop)
    strict = shop.run("check --live --strict")

    assert waiting.startswith("3 of the 3 events")
    assert dead == (
        "the only dead letter that was looked at in main/default has not finished with the listener "
        'shop_listeners:send of "mail.sent", which is not here, and would become a dead letter again if revived; '
        'did you mean "shop_listeners:send_mail"?; if it was renamed, write @relevo.listener(…, '
        'aliases=["shop_listeners:send"]) above the function'
    )
    assert "dead letters that" not in strict.stderr


def test_a_live_check_changes_no_event(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace("def send", "def send_mail"))
    before = shop.run("list --json").stdout

    shop.run("check --live")

    assert shop.run("list --json").stdout == before


# --- which ids are of this application --------------------------------------------------------------------


@relevo.listener("mail.sent")
def send_mail(event: relevo.Event) -> None: ...


@relevo.listener("mail.sent", queue="fast", id="fast")
def send_fast(event: relevo.Event) -> None: ...


HERE = __name__
SEND_MAIL = f"{HERE}:send_mail"


@relevo.listener("mail.sent", queue="fast", id=f"{SEND_MAIL}_fast")
def send_mail_fast(event: relevo.Event) -> None: ...


Store = MemoryTransport | SqlTransport


@pytest.fixture(name="store", params=["memory", "sqlite"])
def _store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Yield a store with one queue."""
    if request.param == "memory":
        made: Store = MemoryTransport()
    else:
        made = SqlTransport.open(SqlOptions(url=f"sqlite:///{tmp_path}/x.db"), name="main", clock=SystemClock())
    with made as store:
        store.setup(["default"])
        yield store


def hold(
    store: Store,
    listeners: Mapping[str, Status],
    *,
    source: str = "shop",
    name: str = "mail.sent",
    number: int = 1,
    stopped: bool = False,
    is_dead: bool = False,
    delay: float = 3600.0,
) -> None:
    """Put events with the progress of *listeners* into *store*."""
    progress = Progress(1, listeners={each: ListenerProgress(status) for each, status in listeners.items()})
    progress.stopped = stopped
    made = [Envelope(id=str(uuid4()), source=source, name=name, body=b"{}") for _ in range(number)]
    store.send(made)
    outcome = DeadLetter(reason="x", state=dumped(progress)) if is_dead else Nack(delay=delay, state=dumped(progress))
    while number > 0:
        held = store.receive(["default"], limit=number, lease=60, wait=0)
        assert held
        store.settle([(each, outcome) for each in held])
        number -= len(held)


def found(store: Store, *things: object, **options: Any) -> list[MissingListener]:
    app = relevo.App(
        transports={"main": store},
        routes={"mail.*": ["main", "main/fast"], "*": "main"},
        listeners=things or [send_mail],
        source="shop",
        **options,
    )
    return missing_listeners(parts_of(app), app.listeners)


def missed(store: Store, *things: object) -> list[tuple[str, str, int]]:
    return [(each.need, each.listener, each.count) for each in found(store, *things)]


def test_an_id_of_an_event_of_this_application_is_missed(store: Store) -> None:
    hold(store, {"renamed:everything": "due"}, number=2)

    assert missed(store) == [("waits", "renamed:everything", 2)]


def test_an_id_of_an_event_of_another_application_is_not_missed(store: Store) -> None:
    hold(store, {"blog.mail:send": "due"}, source="blog")
    hold(store, {"blog.mail:send": "done"}, source="blog")
    hold(store, {"blog.mail:send": "due", "blog.mail:stop": "done"}, source="blog", stopped=True)

    assert missed(store) == []


@pytest.mark.parametrize("state", [{f"{HERE}:send": "due"}, {"old:send": "due", SEND_MAIL: "done"}])
def test_an_id_that_must_be_of_this_application_is_missed_in_an_event_of_another(
    store: Store, state: Mapping[str, Status]
) -> None:
    hold(store, state, source="blog")

    assert missed(store) == [("waits", next(iter(state)), 1)]


def test_an_event_without_a_listener_here_is_left_to_others(store: Store) -> None:
    hold(store, {"shop.user:welcome": "due"}, name="user.added")
    hold(store, {"fast": "due"})

    assert missed(store, send_fast) == []


def test_a_listener_that_runs_in_another_queue_now_is_missed(store: Store) -> None:
    hold(store, {"fast": "due"})

    (each,) = found(store, send_mail, send_fast)

    assert str(each) == (
        "the only event that was looked at in main/default waits for the listener fast of "
        '"mail.sent", which now runs in main/fast, and becomes a dead letter; let it run in main/default until there '
        "are none"
    )


def test_what_no_worker_would_run_is_not_missed(store: Store) -> None:
    hold(store, {"shop:done": "done", SEND_MAIL: "due"})
    hold(store, {"shop:done": "done"}, stopped=True)
    hold(store, {"shop:dead": "dead", SEND_MAIL: "done"})

    assert missed(store) == []


def test_a_listener_that_is_done_and_runs_in_another_queue_now_is_not_missed(store: Store) -> None:
    hold(store, {f"{SEND_MAIL}_fast": "done"})

    assert missed(store, send_mail, send_mail_fast) == []


def test_a_dead_letter_that_would_miss_its_listener_again_is_found(store: Store) -> None:
    hold(store, {f"{HERE}:send": "dead", "old:quite_different": "done"}, is_dead=True)
    hold(store, {SEND_MAIL: "dead"}, is_dead=True)

    (each,) = found(store)

    assert (each.need, each.is_dead, each.count, each.looked_at) == ("waits", True, 1, 2)
    assert each.meant == SEND_MAIL


def test_an_event_that_is_ready_is_found_behind_many_that_are_scheduled(store: Store) -> None:
    hold(store, {SEND_MAIL: "due"}, number=SAMPLE // 2 + 10)
    hold(store, {f"{HERE}:send": "due"}, delay=0.0)

    (each,) = found(store)

    assert (each.count, each.looked_at) == (1, SAMPLE // 2 + 1)


def test_states_that_cannot_be_read_are_passed_over(store: Store) -> None:
    newer = b'{"v":99,"listeners":{"old:send":["due"]}}'
    for state in (b"nonsense", newer):
        store.send([Envelope(id=str(uuid4()), source="shop", name="mail.sent", body=b"{}")])
        (held,) = store.receive(["default"], limit=1, lease=60, wait=0)
        store.settle([(held, Nack(delay=60.0, state=state))])

    assert missed(store) == []


def test_the_ids_that_most_events_need_are_shown_and_the_others_counted(shop: Shop) -> None:
    with SqlTransport.open(
        SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}"), name="main", clock=SystemClock()
    ) as store:
        for number in range(8):
            hold(store, {f"a:old\x1b{number}{'x' * 400}": "due"}, number=number + 1)

    texts = [row for row in shop.run("check --live").stdout.splitlines() if row.startswith("queue ")]

    assert [row.split()[3] for row in texts] == ["8", "7", "6", "5", "4", "and"]
    assert all("\x1b" not in row and len(row) < 1000 for row in texts)


# --- what it costs ----------------------------------------------------------------------------------------


class Counting(MemoryTransport):
    """Counts the pages that are read; each takes as long as *reading* takes."""

    pages = 0
    reading: Callable[[], None] = staticmethod(lambda: None)

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        self.pages += 1
        self.reading()
        return super().waiting(queues, where=where, after=after, limit=limit)


def test_the_events_of_a_queue_that_are_looked_at_are_bounded() -> None:
    clock = FakeClock()  # on a busy machine the time of looking would be over first
    with Counting(clock=clock) as store:
        hold(store, {f"{HERE}:send": "due"}, number=2 * SAMPLE)
        hold(store, {f"{HERE}:send": "due"}, number=2 * SAMPLE, delay=0.0)

        (each,) = found(store, clock=clock)

    assert (each.count, each.looked_at) == (SAMPLE, SAMPLE)
    assert store.pages <= 10


def test_the_time_of_looking_is_bounded() -> None:
    clock = FakeClock()
    with Counting(clock=clock) as store:
        hold(store, {f"{HERE}:send": "due"}, number=SAMPLE // 2)
        store.reading = lambda: clock.advance(LOOK_TIME)

        (each,) = found(store, clock=clock)

    assert 0 < each.looked_at < SAMPLE // 2
    assert store.pages == 1


def test_a_program_without_listeners_looks_at_nothing() -> None:
    with Counting() as store:
        hold(store, {"shop:send": "due"})
        app = relevo.App(transports={"main": store}, routes={"*": "main"}, source="shop")

        assert missing_listeners(parts_of(app), app.listeners) == []

    assert store.pages == 0


class Plain(MemoryTransport):
    capabilities = attrs.evolve(MemoryTransport.capabilities, waiting=False)


def test_a_transport_that_cannot_list_is_left_out() -> None:
    with Plain() as store:
        hold(store, {f"{HERE}:send": "due"})

        assert found(store) == []
