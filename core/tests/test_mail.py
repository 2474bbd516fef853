"""The plugin that mails failures to the developers, against real mail servers."""

from __future__ import annotations

import json
import logging
import os
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import relevo
from relevo import App, ConfigurationError, Event, Retry, RunOptions
from relevo._process_identity import this_process
from relevo._transport.delivery import DeadLetter, Delivery, Failure, Unreadable
from relevo._transport.envelope import Envelope
from relevo._worker.decision import traced
from relevo._worker.evidence import in_words
from relevo._worker.executor import SecondSignal
from relevo._worker.progress import STATE_VERSION, ListenerProgress, Progress
from relevo.errors import described
from relevo.ext.mail import Mail, MailOptions, _post
from relevo.ext.mail._book import MAX_ENTRIES, Book, FailureGroup, Shelf
from relevo.ext.mail._incident import (
    frame_in,
    incidents_of,
    key_of_failure,
    location_of,
    loss,
    packed,
    retried_incident,
    unpacked,
)
from relevo.ext.mail._post import deliver
from relevo.ext.mail._text import WIDTH, Letterhead, MailSection, compose, line, masked, summary
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

from .smtp import PATIENCE, Inbox, down, hanging, serving, talking

CANARY = "hunter2"
DRAIN = RunOptions(until_empty=True)
Made = Callable[..., App]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Refuse to leave what tries again later, and complains in the log of another test then."""
    yield
    _until_the_posts_end()


def _posts() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "relevo-mail"]


def _until_the_posts_end() -> None:
    for each in _posts():
        each.join(PATIENCE)
    assert not _posts()


@pytest.fixture(name="inbox")
def _inbox() -> Iterator[Inbox]:
    with serving(Inbox()) as inbox:
        yield inbox


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="made")
def _made(tmp_path: Path, clock: FakeClock) -> Iterator[Made]:
    """Make applications whose failures are mailed to a port."""
    apps: list[App] = []

    def made(port: int, *listeners: object, **options: Any) -> App:
        terms: dict[str, Any] = {"to": "dev@example.org", "book": tmp_path / "book", "timeout": PATIENCE, **options}
        terms.setdefault("server", f"smtp://127.0.0.1:{port}")
        app = App(
            transports={"main": MemoryTransport(clock=clock)},
            routes={"*": "main"},
            listeners=listeners,
            plugins=[Mail(MailOptions(**terms), source="shop", clock=clock)],
            source="shop",
            clock=clock,
        )
        apps.append(app)
        return app

    yield made
    for app in apps:
        app.close()


@relevo.listener("image.created", id="make_thumbnail", retry=Retry(1))
def make_thumbnail(event: Event) -> None:
    raise ValueError(f"no image at {event['path']}, see amqp://shop:{CANARY}@mq/ with password={CANARY}")


@relevo.listener("image.rated", id="rate", retry=Retry(1))
def rate(event: Event) -> None:
    raise KeyError("rating")


def body_of(mail: Any) -> str:
    return str(mail.get_content())


def drained(app: App, *events: Event) -> relevo.Report:
    for event in events:
        app.dispatch(event)
    return app.worker(DRAIN).run()


# --- what it says -------------------------------------------------------------------------------------


def test_a_dead_letter_is_mailed_with_all_that_a_developer_needs(made: Made, inbox: Inbox) -> None:
    app = made(inbox.port, make_thumbnail)
    with relevo.context(user=7, session_token=CANARY):
        drained(app, Event("image.created", {"path": "sea.jpg", "password": CANARY}))

    (mail,) = inbox.mails
    text = body_of(mail)
    assert mail["Subject"].startswith("shop: make_thumbnail: ValueError: no image at sea.jpg")
    assert (mail["To"], mail["From"].split("@")[0]) == ("dev@example.org", "relevo")
    assert mail["Auto-Submitted"] == "auto-generated"
    for said in (
        "image.created is dead: retries-exhausted.",
        "listener  make_thumbnail",
        "attempt   run 1",
        "queue     default",
        "next      nothing by itself",
        "relevo dead revive",
        "sent by   ",
        f", process {os.getpid()}\r\n",
        "user = 7",
        'path = "sea.jpg"',
        "password = ***",
        "session_token = ***",
        "raise ValueError",
    ):
        assert said in text, text
    assert "in make_thumbnail" in " ".join(text.split()), "a long path has it in the next line"
    assert "_worker/caller.py" not in text, "how relevo calls a listener is no news"
    assert CANARY not in text.replace("{CANARY}", "")
    assert max(map(len, text.splitlines())) <= WIDTH


def test_arguments_can_be_left_out(made: Made, inbox: Inbox) -> None:
    drained(made(inbox.port, make_thumbnail, arguments=False), Event("image.created", {"path": "sea.jpg", "b": "pear"}))

    assert "pear" not in body_of(inbox.mails[0])


def test_what_no_listener_is_to_blame_for_is_mailed_too(inbox: Inbox, tmp_path: Path) -> None:
    url = f"smtp://127.0.0.1:{inbox.port}"
    plugin = Mail(MailOptions(to="dev@example.org", server=url, book=tmp_path / "book"))
    delivery = Delivery(
        envelope=Unreadable(raw=b"\xff", why="not\na document"), queue="default", receipt=1, enqueued_at=0.0
    )
    plugin.relevo_dead_lettered(delivery, DeadLetter(reason="unreadable", error="not\na document"))
    plugin.close()

    assert inbox.wait_for(1)[0]["Subject"] == "app: unreadable: unreadable: not"


def test_what_is_put_off_for_want_of_dead_letters_is_mailed_with_the_time_of_the_next_try(
    made: Made, inbox: Inbox
) -> None:
    app = made(inbox.port, make_thumbnail)
    transport = app.transport("main")
    transport.capabilities = attrs.evolve(transport.capabilities, dead_letters=False)
    drained(app, Event("image.created", {"path": "sea.jpg"}))

    (mail,) = inbox.mails
    text = " ".join(body_of(mail).split())
    assert "image.created cannot be handled: retries-exhausted." in text
    assert "its transport keeps no dead letters, so it is tried again at 2026-01-01 01:00:00 UTC" in text
    assert "ValueError: no image at sea.jpg" in text


def test_an_error_that_reads_like_the_text_of_a_dead_letter_is_one_failure(made: Made, inbox: Inbox) -> None:
    @relevo.listener("image.created", id="quoting", retry=Retry(1))
    def quoting(event: Event) -> None:
        raise ValueError("the other one said\nmake: gave-up after 3 runs: KeyError: path")

    drained(made(inbox.port, quoting), Event("image.created"))

    (mail,) = inbox.mails
    assert "(and" not in mail["Subject"]
    assert mail["Subject"].startswith("shop: quoting: ValueError: the other one said")


def test_two_listeners_of_one_event_are_told_in_one_mail(made: Made, inbox: Inbox) -> None:
    @relevo.listener("image.created", id="other", retry=Retry(1))
    def other(event: Event) -> None:
        raise OSError("disk full")

    drained(made(inbox.port, make_thumbnail, other), Event("image.created", {"path": "sea.jpg"}))

    (mail,) = inbox.mails
    assert mail["Subject"].endswith("(and 1 more)")
    assert "OSError: disk full" in body_of(mail)
    assert "2 different failures, 2 in all." in body_of(mail)


def test_every_failure_is_told_if_asked_and_when_it_is_run_again(made: Made, inbox: Inbox, clock: FakeClock) -> None:
    calls: list[int] = []

    @relevo.listener("image.created", id="flaky", retry=Retry(2, first="1m", jitter=0))
    def flaky(event: Event) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("not yet")

    app = made(inbox.port, flaky, failures=True)
    drained(app, Event("image.created"))

    (mail,) = inbox.mails
    assert "flaky failed on image.created." in body_of(mail)
    assert "the listener is run again at 2026-01-01 00:01:00 UTC" in " ".join(body_of(mail).split())


def test_failures_that_are_tried_again_are_not_told_unless_asked(made: Made, inbox: Inbox) -> None:
    @relevo.listener("image.created", id="flaky", retry=Retry(2, first="1m"))
    def flaky(event: Event) -> None:
        raise ValueError("not yet")

    drained(made(inbox.port, flaky), Event("image.created"))

    assert inbox.mails == []


# --- how often ----------------------------------------------------------------------------------------


@pytest.mark.slow("thousands of events")
def test_thousands_of_failures_in_a_drain_are_one_mail(made: Made, inbox: Inbox) -> None:
    app = made(inbox.port, make_thumbnail, rate)

    report = drained(
        app, *(Event("image.rated" if n % 10 == 0 else "image.created", {"path": str(n)}) for n in range(3_000))
    )

    (mail,) = inbox.mails
    assert report.dead == 3_000 > 10 * MAX_ENTRIES
    assert "2 different failures, 3000 in all." in body_of(mail)
    assert "2700 times" in body_of(mail)
    assert len(inbox.raw[0]) < 20_000


def test_a_burst_in_a_worker_is_a_mail_at_once_and_the_rest_waits_for_its_time(
    made: Made, inbox: Inbox, clock: FakeClock
) -> None:
    app = made(inbox.port, make_thumbnail, every=600)
    plugin = Mail(
        MailOptions(to="dev@example.org", server=f"smtp://127.0.0.1:{inbox.port}", book=app_book(app)), clock=clock
    )
    drained(app, Event("image.created", {"path": "1"}))
    for number in range(50):
        clock.advance(10)
        drained(app, Event("image.created", {"path": str(number)}))
    assert len(inbox.mails) == 1

    clock.advance(100)
    drained(app, Event("image.created", {"path": "last"}))
    plugin.close()

    first, second = inbox.mails
    assert "51 times" in body_of(second)
    assert first["In-Reply-To"] == second["In-Reply-To"] == second["References"], "they are one thread"
    assert first["Message-ID"] != second["Message-ID"]


def test_a_failure_that_waits_for_its_time_is_mailed_whole_by_a_later_process(
    made: Made, inbox: Inbox, clock: FakeClock
) -> None:
    first = made(inbox.port, make_thumbnail, every=600)
    drained(first, Event("image.created", {"path": "1"}))
    clock.advance(60)
    waiting = Event("image.created", {"path": "2"}, id="the-second")
    drained(first, waiting)
    first.close()
    assert len(inbox.mails) == 1

    clock.advance(600)
    drained(made(inbox.port, make_thumbnail, every=600))

    text = " ".join(body_of(inbox.mails[1]).split())
    assert "image.created is dead: retries-exhausted." in text
    assert "id the-second " in text
    assert 'path = "2"' in text


def app_book(app: App) -> Path:
    (plugin,) = app.hooks._manager.get_plugins()
    assert isinstance(plugin, Mail)
    return plugin._book()


def test_there_are_so_many_mails_in_an_hour_however_different_the_failures_are(
    made: Made, inbox: Inbox, clock: FakeClock
) -> None:
    listeners = []
    for number in range(9):

        @relevo.listener(f"number{number}.counted", id=f"count{number}", retry=Retry(1))
        def count(event: Event) -> None:
            raise ValueError("miscounted")

        listeners.append(count)
    app = made(inbox.port, *listeners, most=3)
    for number in range(9):
        clock.advance(60)
        drained(app, Event(f"number{number}.counted"))
    assert len(inbox.mails) == 3

    clock.advance(3600)
    drained(app)

    assert len(inbox.mails) == 4
    assert "6 different failures, 6 in all." in body_of(inbox.mails[3])


@pytest.mark.lengthy("waits")
def test_a_worker_tells_of_the_first_failure_at_once(made: Made, inbox: Inbox) -> None:
    app = made(inbox.port, make_thumbnail)
    worker = app.worker(RunOptions())
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        app.dispatch(Event("image.created", {"path": "sea.jpg"}))

        assert inbox.wait_for(1)[0]["Subject"].startswith("shop: make_thumbnail: ValueError")
    finally:
        worker.stop()
        thread.join()


# --- processes that died --------------------------------------------------------------------------------


def test_a_hand_over_that_was_lost_is_told_once_and_a_crash_loop_too(
    made: Made, inbox: Inbox, clock: FakeClock
) -> None:
    @relevo.listener("image.created", id="slow", retry=Retry(9, first="1s", jitter=0))
    def slow(event: Event, call: relevo.Call) -> None:
        if call.attempt < 3:
            raise ValueError("not yet")

    app = made(inbox.port, slow)
    app.dispatch(Event("image.created", {"path": "sea.jpg"}))
    transport = app.transport()
    transport.receive(["default"], limit=1, lease=60, wait=0)
    clock.advance(61)
    drained(app)

    (mail,) = inbox.mails
    assert "A lease of image.created was lost:" in body_of(mail)
    assert mail["Subject"] == "shop: image.created: a lease was lost"
    assert "1 lease lost before" in body_of(mail)

    clock.advance(600)
    drained(app)
    assert len(inbox.mails) == 1, "the loss is known"

    app.dispatch(Event("image.created"))
    (delivery,) = transport.receive(["default"], limit=1, lease=60, wait=0)
    deaths = tuple(str(this_process().as_witnessed()) for _ in range(3))
    transport.begin(delivery, relevo.Note(by="nobody", deaths=deaths))
    clock.advance(61)
    drained(app)
    assert "image.created is dead: crash-loop." in body_of(inbox.mails[1])


def test_a_loss_is_mailed_before_the_event_is_handled_again_which_may_end_the_process(
    made: Made, inbox: Inbox, clock: FakeClock
) -> None:
    mails: list[int] = []

    @relevo.listener("image.created")
    def crash(event: Event) -> None:
        mails.append(len(inbox.mails))

    app = made(inbox.port, crash)
    app.dispatch(Event("image.created", {"path": "sea.jpg"}))
    app.transport().receive(["default"], limit=1, lease=60, wait=0)
    clock.advance(61)
    drained(app)

    assert mails == [1]
    assert len(inbox.mails) == 1, "its settlement reports nothing new"
    assert "A lease of image.created was lost:" in body_of(inbox.mails[0])


def test_a_lost_lease_of_an_event_without_a_listener_is_mailed_once(made: Made, inbox: Inbox, clock: FakeClock) -> None:
    app = made(inbox.port)
    app.dispatch(Event("mail.sent"))
    app.transport().receive(["default"], limit=1, lease=60, wait=0)
    clock.advance(61)

    for _ in range(6):
        drained(app)
        clock.advance(480)

    assert [mail["Subject"] for mail in inbox.mails] == ["shop: mail.sent: a lease was lost"]


@pytest.mark.parametrize("excused", [False, True])
def test_a_process_that_began_the_event_and_has_ended_died(
    *, excused: bool, made: Made, inbox: Inbox, clock: FakeClock
) -> None:
    app = made(inbox.port, relevo.listener("image.created")(lambda event: None))
    app.dispatch(Event("image.created"))
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60, wait=0)
    ended = attrs.evolve(this_process(), worker="ab", started=this_process().started + 1)
    note = relevo.Note(by=str(ended), listener="shop:make")
    app.transport().begin(delivery, note)
    if excused:
        app.transport().excuse(delivery, note)
    clock.advance(61)
    drained(app)

    what = "image.created: a lease was lost" if excused else "shop:make: a process died while it held the event"
    (mail,) = inbox.mails
    assert mail["Subject"] == f"shop: {what}"
    text = " ".join(body_of(mail).split())
    assert ("died pid" not in text) == excused
    assert excused or f"died {in_words(ended)} in shop:make " in text
    assert ("listener shop:make " in text) == (not excused)
    assert "attempt 2, 1 lease lost before" in text


def test_the_mail_of_a_missing_listener_is_about_it_and_not_about_its_earlier_failure() -> None:
    progress = Progress(STATE_VERSION, listeners={"gone": ListenerProgress("due", 1, error="OSError: full")})
    outcome = progress.conclude([], 1e9, patience=0.0)
    assert isinstance(outcome, DeadLetter)

    (incident,) = incidents_of(delivery_of("image.rated"), outcome, at=0.0)

    assert summary(incident).startswith("gone: no worker has this listener; if it was renamed, write @relevo.listener")


def test_the_mail_of_an_interruption_names_the_listener(made: Made, inbox: Inbox) -> None:
    @relevo.listener("image.created", id="slow")
    def slow(event: Event) -> None:
        worker._suspects.excuse()  # as the worker does after the first signal
        worker.interrupt()  # as the handler of the second one does
        raise SecondSignal(15)

    app = made(inbox.port, slow)
    app.dispatch(Event("image.created"))
    worker = app.worker()

    with pytest.raises(SecondSignal):
        worker.run()
    app.close()

    (mail,) = inbox.wait_for(1)
    assert "image.created was interrupted." in body_of(mail)
    assert "listener slow attempt" in " ".join(body_of(mail).split())


PROCESSES = """
source = "shop"
listeners = ["{name}"]
execution = "process"

[plugins.mail]
to = "dev@example.org"
server = "smtp://127.0.0.1:{port}"
book = "book"
failures = true

[transports]
main = "sqlite:///shop.db"
"""

LISTENERS = """
import os, relevo

@relevo.listener("image.created", id="crash")
def crash(event):
    os._exit(9)

@relevo.listener("image.rated", id="flaky", retry=relevo.Retry(2, first="1h"))
def flaky(event):
    raise ValueError("not yet")
"""


def drained_by_children(folder: Path, inbox: Inbox, listeners: str, *names: str) -> None:
    """Dispatch events of these *names*, and let children handle them, one of which ends in a dead letter."""
    (folder / f"{listeners}.py").write_text(LISTENERS)
    (folder / "relevo.toml").write_text(PROCESSES.format(name=listeners, port=inbox.port))
    for name in names:
        subprocess.run([sys.executable, "-m", "relevo", "dispatch", name, "{}"], cwd=folder, check=True)

    done = subprocess.run(
        [sys.executable, "-m", "relevo", "drain"], cwd=folder, check=False, capture_output=True, text=True
    )

    assert done.returncode == 1, done.stderr


@pytest.mark.slow("starts a worker and its children")
def test_the_death_of_a_child_and_a_failure_inside_one_are_mailed(tmp_path: Path, inbox: Inbox) -> None:
    drained_by_children(tmp_path, inbox, "mailing_listeners", "image.created", "image.rated")

    text = " ".join("\n".join(map(body_of, inbox.wait_for(2))).split())
    assert "flaky failed on image.rated." in text
    assert "A process died while it held image.created." in text
    assert "while crash ran" in text, "how it died is told"
    assert "image.created is dead: crash-loop." in text
    died, dead = (
        " ".join(body_of(mail).partition(begins)[2].split())
        for begins in ("A process died while it held image.created.", "image.created is dead: crash-loop.")
        for mail in inbox.mails
        if begins in body_of(mail)
    )
    assert "listener crash attempt" in died
    assert "listener crash attempt" in dead


@pytest.mark.slow("starts a worker and its children")
def test_what_failed_in_a_child_that_dies_at_the_next_event_is_told_by_its_parent(tmp_path: Path, inbox: Inbox) -> None:
    drained_by_children(tmp_path, inbox, "dying_listeners", "image.rated", "image.created")

    text = " ".join("\n".join(map(body_of, inbox.wait_for(1))).split())
    assert "flaky failed on image.rated." in text
    assert 'raise ValueError("not yet") ValueError: not yet' in text
    assert "image.created is dead: crash-loop" in text


@pytest.mark.lengthy("starts processes")
def test_the_child_of_a_fork_mails_what_it_meets_itself(made: Made, inbox: Inbox) -> None:
    app = made(inbox.port, make_thumbnail)
    drained(app, Event("image.created", {"path": "1"}))
    program = """
import os, sys, threading
from relevo._transport.delivery import DeadLetter, Delivery, Unreadable
from relevo.ext.mail import Mail, MailOptions
plugin = Mail(MailOptions(to="dev@example.org", server=sys.argv[1], book=sys.argv[2]))
def die(reason):
    delivery = Delivery(envelope=Unreadable(raw=b"", why=""), queue="default", receipt=1, enqueued_at=0.0)
    plugin.relevo_dead_lettered(delivery, DeadLetter(reason=reason))
    plugin.flush()
with plugin.relevo_around_run(until_empty=False):  # so that the thread lives
    die("parent")
    if os.fork() == 0:
        die("child")
        os._exit(0)
    os.wait()
"""
    book = str(app_book(app)) + ".fork"
    url = f"smtp://127.0.0.1:{inbox.port}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, url, book], check=True)

    assert [mail["Subject"] for mail in inbox.mails[1:]] == ["app: unreadable: parent", "app: unreadable: child"]


def test_processes_of_a_host_count_together(made: Made, inbox: Inbox, clock: FakeClock) -> None:
    for number in range(5):
        drained(made(inbox.port, make_thumbnail), Event("image.created", {"path": str(number)}))

    assert len(inbox.mails) == 1
    clock.advance(600)
    drained(made(inbox.port, make_thumbnail))
    assert "4 times" in body_of(inbox.mails[1]), "a run that has nothing to tell tells what is left"


def test_a_closed_application_leaves_no_thread_and_what_was_not_told_yet_is_told_by_the_next(
    made: Made, clock: FakeClock
) -> None:
    with down() as port:
        app = made(port, make_thumbnail)
        drained(app, Event("image.created", {"path": "1"}))
        assert _posts(), "it would try again"
        app.close()
        app.close()

        _until_the_posts_end()

    with serving(Inbox()) as inbox:
        clock.advance(600)
        drained(made(inbox.port, make_thumbnail))
        assert "no image at 1" in body_of(inbox.wait_for(1)[0])


@pytest.mark.lengthy("waits")
def test_a_close_that_a_slow_server_outlasted_keeps_nothing_back_that_fails_afterwards(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(reason: str) -> None:
        delivery = Delivery(envelope=Unreadable(raw=b"", why=""), queue="default", receipt=1, enqueued_at=0.0)
        plugin.relevo_dead_lettered(delivery, DeadLetter(reason=reason))

    url = f"smtp://127.0.0.1:{inbox.port}"
    plugin = Mail(MailOptions(to="dev@example.org", server=url, book=tmp_path / "book", timeout=5.0))
    # Each step of the mail is within its limit, however long it takes, and the whole mail is not.
    monkeypatch.setattr(_post, "deliver", lambda *what, timeout: deliver(*what, timeout=PATIENCE))
    inbox.takes_mail.clear()
    with monkeypatch.context() as patch:
        patch.setattr(_post, "_GATHER", PATIENCE)  # it is the close that asks for the mail
        die("first")
        plugin.close()
    inbox.takes_mail.set()
    inbox.wait_for(1)
    _until_the_posts_end()

    die("second")

    inbox.wait_for(2)
    plugin.close()


def test_what_fails_after_the_close_is_told_still(inbox: Inbox, tmp_path: Path) -> None:
    url = f"smtp://127.0.0.1:{inbox.port}"
    plugin = Mail(MailOptions(to="dev@example.org", server=url, book=tmp_path / "book"))
    plugin.close()
    with plugin.relevo_around_run(until_empty=False):
        plugin.close()
        delivery = Delivery(envelope=Unreadable(raw=b"", why=""), queue="default", receipt=1, enqueued_at=0.0)
        plugin.relevo_dead_lettered(delivery, DeadLetter(reason="unreadable"))

    assert inbox.wait_for(1)
    plugin.close()


# --- servers that are not well ------------------------------------------------------------------------------


def refusing(connection: Any) -> None:
    connection.sendall(b"554 go away\r\n")


def nonsense(connection: Any) -> None:
    connection.sendall(b"\x00\xff" * 5000)


@pytest.mark.lengthy("waits")
def test_a_server_that_is_down_costs_a_line_in_the_log_and_the_work_goes_on(
    made: Made, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    with down() as port:
        app = made(port, make_thumbnail)
        for number in range(5):
            report = drained(app, Event("image.created", {"path": str(number)}))
            assert report.dead == 1

    lines = [each for each in caplog.records if each.name == "relevo.ext.mail"]
    assert [each.levelname for each in lines] == ["WARNING"]
    assert "no mail to the developers by 127.0.0.1:" in lines[0].getMessage()
    drained(made(inbox.port, make_thumbnail))
    assert "5 times" in body_of(inbox.mails[0]), "they wait in the book"


@pytest.mark.parametrize("talk", [refusing, nonsense])
def test_a_server_that_talks_nonsense_or_refuses_does_not_hide_the_error(
    talk: Callable[[Any], None], made: Made, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    with talking(talk) as port:
        app = made(port, make_thumbnail)
        drained(app, Event("image.created", {"path": "sea.jpg"}))

    assert caplog.text.count("no mail to the developers") == 1
    (dead,) = app.transport().dead_letters(["default"], limit=10)
    assert "no image at sea.jpg" in dead.error
    drained(made(inbox.port, make_thumbnail))
    assert len(inbox.mails) == 1


def test_a_mail_that_is_refused_is_kept_for_later(made: Made, inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    with serving(Inbox("451 later")) as unwell:
        drained(made(unwell.port, make_thumbnail), Event("image.created", {"path": "sea.jpg"}))

    assert "451" in caplog.text
    drained(made(inbox.port, make_thumbnail))
    assert inbox.mails[0]["Subject"].startswith("shop: make_thumbnail: ValueError")


@pytest.mark.lengthy("waits")
def test_a_server_that_hangs_is_waited_for_no_longer_than_allowed(
    made: Made, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    with hanging() as port:
        app = made(port, make_thumbnail, timeout=0.2)
        reports = [drained(app, Event("image.created", {"path": str(number)})) for number in range(3)]

        assert [report.dead for report in reports] == [1, 1, 1]
        assert caplog.text.count("no mail to the developers") == 1
    drained(made(inbox.port, make_thumbnail))
    assert "3 times" in body_of(inbox.mails[0])


@pytest.mark.lengthy("waits")
def test_a_server_that_never_comes_to_an_end_is_waited_for_no_longer_either(
    made: Made, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()

    def go_on(connection: Any) -> None:
        while not over.is_set():
            connection.sendall(b"220-x\r\n" * 10_000)  # there is always a further line to read

    with talking(go_on) as port:
        report = drained(made(port, make_thumbnail, timeout=0.5), Event("image.created", {"path": "sea.jpg"}))
        over.set()

    assert report.dead == 1
    assert "no answer within 0.5 s" in caplog.text


# --- how the server is spoken to ------------------------------------------------------------------------------


@pytest.fixture(name="certificate", scope="module")
def _certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate of ``localhost``; return the file that holds it and its key."""
    path = tmp_path_factory.mktemp("certificate")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        ["openssl", *words.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", "key", "-out", "cert"],
        cwd=path,
        check=True,
        capture_output=True,
    )
    both = path / "both.pem"
    both.write_text((path / "key").read_text() + (path / "cert").read_text())
    return both


@pytest.fixture(name="tls")
def _tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_connection_is_encrypted_before_the_log_in(made: Made, tls: ssl.SSLContext, scheme: str) -> None:
    how: dict[str, Any] = {"starttls": tls} if scheme == "smtp" else {"smtps": tls}
    with serving(Inbox(), login=("shop@x", "p:w/d"), **how) as inbox:
        url = f"{scheme}://shop%40x:p%3Aw%2Fd@localhost:{inbox.port}"
        drained(made(0, make_thumbnail, server=url, starttls=scheme == "smtp"), Event("image.created", {"path": "1"}))

        assert (len(inbox.mails), inbox.logins) == (1, 1)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_certificate_that_is_not_known_gets_neither_password_nor_mail(
    made: Made, tls: ssl.SSLContext, scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    how: dict[str, Any] = {"starttls": tls} if scheme == "smtp" else {"smtps": tls}
    with serving(Inbox(), **how) as inbox:
        url = f"{scheme}://shop:{CANARY}@localhost:{inbox.port}"
        drained(made(0, make_thumbnail, server=url, starttls=scheme == "smtp"), Event("image.created", {"path": "1"}))

    assert inbox.mails == []
    assert "certificate" in caplog.text.lower()


def test_a_server_that_cannot_encrypt_gets_nothing_if_it_has_to(
    made: Made, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    drained(made(inbox.port, make_thumbnail, starttls=True), Event("image.created", {"path": "1"}))

    assert inbox.mails == []
    assert "STARTTLS" in caplog.text


def test_a_wrong_password_is_told_and_not_shown(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(Inbox(), login=("shop", "right")) as inbox:
        url = f"smtp://shop:{CANARY}@127.0.0.1:{inbox.port}"
        drained(made(0, make_thumbnail, server=url), Event("image.created", {"path": "1"}))

    said = [each.getMessage() for each in caplog.records if each.name == "relevo.ext.mail"]
    assert "SMTPAuthenticationError" in said[0]
    assert CANARY not in " ".join(said)


# --- what it may be told ----------------------------------------------------------------------------------------


CONFIGURATION = """
source = "shop"

[plugins.mail]
to = ["Developers <dev@example.org>", "ops@example.org"]
from = "shop@example.org"
{more}
[transports]
main = "memory://"
"""


def from_file(tmp_path: Path, more: str, **environ: str) -> App:
    path = tmp_path / "relevo.toml"
    path.write_text(CONFIGURATION.format(more=more))
    return App.from_config(path, environ=environ)


def test_the_file_says_it_all_and_nothing_is_done_before_there_is_something_to_tell(tmp_path: Path) -> None:
    more = 'server = "smtps://user:${PASSWORD}@mail.example.org"\nevery = "5m"\nmost = 3\narguments = false\nbook = "b"'

    with from_file(tmp_path, more, PASSWORD=CANARY) as app:
        (plugin,) = app.hooks._manager.get_plugins()
        assert isinstance(plugin, Mail)
        options = plugin._options

    server = options.parsed_server()
    assert (server.host, server.port, server.user, server.password.reveal()) == (
        "mail.example.org",
        465,
        "user",
        CANARY,
    )
    assert (options.every, options.most, options.arguments, options.book) == (300.0, 3, False, tmp_path / "b")
    assert options.recipients == ("Developers <dev@example.org>", "ops@example.org")
    assert CANARY not in repr(options)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "more, told",
    [
        ("tto = 1", '7: plugins.mail: unknown option "tto"; did you mean "to"?'),
        ('server = "smpt://localhost"', "7: plugins.mail: server: expected smtp://host:port"),
        (f'server = "user:{CANARY}@localhost"', "7: plugins.mail: server: expected smtp://host:port"),
        (f'server = "smtp://user:{CANARY}@localhost:many"', "7: plugins.mail: server: "),
        (f'server = "smtp://user:{CANARY}@example.org"\nstarttls = false', "7: plugins.mail: server: "),
        ("most = 0", "7: plugins.mail: most: expected a number above 0; got 0"),
        ("every = nan", "7: plugins.mail: every: expected a number above 0; got nan"),
        ("timeout = inf", "7: plugins.mail: timeout: expected a number above 0; got inf"),
        ('every = "soon"', "7: plugins.mail.every: expected seconds as a number, or text such as"),
        ("failures = 3", "7: plugins.mail.failures: "),
    ],
)
def test_what_is_not_understood_is_told_with_its_line_and_no_secret(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_file(tmp_path, more)

    assert f"relevo.toml:{told}" in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("wrong", ["", "dev", "dev@", "a@b\nBcc: c@d", "d\u00e9v@example.org", "a@b c@d", "a..b@c"])
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="to: "):
        MailOptions(to=[wrong])
    with pytest.raises(ConfigurationError, match="from: "):
        MailOptions(to="dev@example.org", from_=wrong)


def test_addresses_are_one_text_or_several() -> None:
    assert MailOptions(to="a@b.org, c@d.org").recipients == ("a@b.org", "c@d.org")
    with pytest.raises(ConfigurationError, match="to: expected at least one mail address; got none"):
        MailOptions(to=())


@pytest.mark.parametrize(
    "url, starttls",
    [
        ("smtp://localhost", False),
        ("smtp://127.0.0.2:2525", False),
        ("smtp://[::1]", False),
        ("smtp://mail.example.org", True),
        ("smtp://127.0.0.1.example.org", True),
        ("smtps://mail.example.org", False),
    ],
)
def test_what_leaves_the_machine_is_encrypted(url: str, starttls: bool) -> None:  # noqa: FBT001 - of the table
    assert MailOptions(to="a@b.org", server=url).parsed_server().starttls == starttls


@pytest.mark.lengthy("starts processes")
def test_nothing_of_it_is_imported_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "relevo.toml").write_text('[transports]\nmain = "memory://"\n')
    program = "import sys, relevo; relevo.App.from_config(); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert not {"relevo.ext", "relevo.ext.mail", "smtplib", "ssl"} & set(done.stdout.split())


# --- the pieces -----------------------------------------------------------------------------------------------


def delivery_of(name: str = "image.created", body: bytes = b"{}") -> Delivery:
    envelope = Envelope(id="1", source="shop", name=name, body=body)
    return Delivery(envelope=envelope, queue="default", receipt=1, enqueued_at=0.0)


def caught(error: Exception) -> Exception:
    with pytest.raises(type(error)) as found:
        fail(error)
    return found.value


def fail(error: Exception) -> None:
    raise error


def failure_of(listener: str, error: Exception) -> Failure:
    """Return the failure of *listener* that *error* makes."""
    return Failure(
        listener=listener, attempt=1, kind=type(error).__name__, error=described(error), traceback=traced(error)
    )


TEXT = st.text(st.characters(codec=None), max_size=300) | st.text('\r\n\u2028\x85\x0b: \t=?.,<>@"', max_size=40)
LETTERHEAD = Letterhead(
    source="shop", host="web1", process=1, sender="relevo@web1", recipients=["dev@example.org"], arguments=True
)


@pytest.mark.lengthy("tries many cases")
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine it is
@given(source=TEXT, name=TEXT, listener=TEXT, error=TEXT, value=TEXT, host=TEXT)
def test_headers_are_one_line_and_the_text_is_narrow_whatever_anybody_wrote(
    source: str, name: str, listener: str, error: str, value: str, host: str
) -> None:
    body = {"id": "1", "source": "s", "type": "t", "specversion": "1.0", "data": {value: [value]}, "subject": value}
    delivery = delivery_of(name, json.dumps(body).encode())
    printed = Failure(listener=listener, error=error, output=value)
    incidents = [
        retried_incident(delivery, failure_of(listener, caught(ValueError(error))), "test_mail.py:fail", at=0.0),
        *incidents_of(delivery, DeadLetter(reason=listener, error=error), at=0.0),
        *incidents_of(delivery, DeadLetter(reason=value, failures=(printed,)), at=0.0),
        loss(delivery, error, at=0.0),
    ]
    letterhead = Letterhead(
        source=source, host=host, process=1, sender="r@web1", recipients=["Dev <dev@example.org>"], arguments=True
    )
    for incident in incidents:
        group = FailureGroup(summary(incident), 0.0, 0.0, 1)
        mail = compose([MailSection(key=incident.key, group=group, incident=incident)], letterhead, now=0.0)

        assert not [name for name, each in mail.items() if len(str(each).splitlines()) > 1]
        again = message_from_bytes(mail.as_bytes(), policy=policy.default)
        assert sorted(again.keys()) == sorted(mail.keys()), "no header came in by any text"
        assert set(mail.keys()) == {
            *("Subject", "From", "To", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"),
            *("X-Auto-Response-Suppress", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
        }
        assert again["To"] == "Dev <dev@example.org>"
        assert max(map(len, again.get_content().splitlines())) <= WIDTH
        # Where encoded words meet, Python 3.13.0 puts one space more.
        assert again["Subject"].replace(" ", "") == mail["Subject"].replace(" ", "")
        assert len(mail["Subject"]) <= 160


@given(text=TEXT, limit=st.integers(1, 100))
def test_a_line_is_one_and_no_longer_than_asked(text: str, limit: int) -> None:
    assert len(line(text, limit)) <= limit
    assert line(text, limit).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        f"amqp://shop:{CANARY}@mq/vhost",
        f"could not connect to postgresql+psycopg://u:{CANARY}@db:5432/shop?x=1",
        f"password={CANARY}",
        f"DB_PASSWORD: '{CANARY}'",
        f"{{'api_key': '{CANARY}'}}",
        f"Authorization: Bearer {CANARY}",
        f'{{"access_token": "{CANARY}"}}',
        f"pwd={CANARY}",
        f"api-key={CANARY}",
        f"passphrase={CANARY}",
        f"mysqldump --password {CANARY} shop",
        f"Command '['mysqldump', '--password', '{CANARY}', 'shop']' returned non-zero exit status 2.",
        f"curl -api-key {CANARY}",
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    assert CANARY not in masked(text)
    assert CANARY not in line(text)


@pytest.mark.parametrize(
    "text",
    [
        "the author: Ada; spin=3",
        "a password was missing",
        "--password --verbose is no way to say it",
        "auth: connection refused",
    ],
)
def test_what_only_sounds_like_a_secret_is_left(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("name", ["pwd", "dbPwd", "passphrase", "api-key", "auth", "basic_auth", "pin", "card-pin"])
def test_an_argument_that_is_called_like_a_secret_is_masked(name: str, made: Made, inbox: Inbox) -> None:
    drained(made(inbox.port, make_thumbnail), Event("image.created", {"path": "x", name: CANARY, "author": "Ada"}))

    text = body_of(inbox.mails[0])
    assert f"{name} = ***" in text
    assert 'author = "Ada"' in text


def test_a_long_traceback_is_cut_at_its_beginning() -> None:
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1) if depth % 2 else deeper(depth - 1)
        raise ValueError("bottom " + "x" * 5000)

    def deeper(depth: int) -> None:
        deep(depth)

    with pytest.raises(ValueError, match="bottom") as found:
        deep(60)
    incident = retried_incident(delivery_of(), failure_of("deep", found.value), location_of(found.value), at=0.0)
    mail = compose(
        [MailSection(key=incident.key, group=FailureGroup("x", 0.0, 0.0, 1), incident=incident)], LETTERHEAD, now=0.0
    )

    text = body_of(mail)
    assert "The end of a longer traceback" in text
    assert len(text) < 8000


def test_the_same_fault_has_one_fingerprint_however_it_is_told() -> None:
    error = caught(ValueError("one"))
    other = caught(ValueError("two"))
    incident = retried_incident(delivery_of(), failure_of("make", error), location_of(error), at=0.0)
    died = attrs.evolve(failure_of("make", caught(ValueError("three"))), attempt=2, reason="gave-up")
    (death,) = incidents_of(delivery_of("image.rated"), DeadLetter(reason="gave-up", failures=(died,)), at=0.0)

    assert location_of(error) == frame_in(incident.trace) == "test_mail.py:fail"
    assert key_of_failure(failure_of("make", other), location_of(other)) == incident.key
    assert death.fingerprint == incident.fingerprint
    assert (death.listener, death.runs, death.error) == ("make", 2, "ValueError: three")
    assert key_of_failure(failure_of("rate", error), location_of(error)) != incident.key
    key_error = caught(KeyError("one"))
    assert key_of_failure(failure_of("make", key_error), location_of(key_error)) != incident.key


def test_a_failure_has_the_frame_of_its_exception_whatever_its_text_says() -> None:
    error = caught(ValueError('no\n  File "/srv/x.sql", line 3, in query'))
    failure = failure_of("make", error)

    incident = retried_incident(delivery_of(), failure, location_of(error), at=0.0)

    assert incident.frame == "test_mail.py:fail"
    assert incident.key == key_of_failure(failure, location_of(error))


def test_the_frame_is_the_innermost_that_is_the_applications() -> None:
    with pytest.raises(ValueError, match="Expecting") as found:
        json.loads("{")

    assert location_of(found.value) == "test_mail.py:test_the_frame_is_the_innermost_that_is_the_applications"


@pytest.mark.parametrize("arguments", [True, False])
def test_an_incident_that_another_process_mails_is_the_same(*, arguments: bool) -> None:
    body = b'{"id":"1","source":"shop","type":"a.b","specversion":"1.0","data":{"path":"sea.jpg"}}'
    envelope = Envelope(id="1", source="shop", name="a.b", body=body)
    delivery = Delivery(envelope=envelope, queue="feed", attempt=3, lost_leases=1, receipt=7, enqueued_at=1.0)
    failure = relevo.Failure(listener="f", attempt=2, kind="ValueError", error="no", traceback="T", due=9.0, output="o")
    incident = retried_incident(delivery, failure, "f.py:f", at=5.0)

    found = unpacked(packed(incident, arguments=arguments) or b"")

    assert found is not None
    assert attrs.evolve(found, delivery=delivery) == incident
    assert (found.delivery.queue, found.delivery.attempt, found.delivery.lost_leases) == ("feed", 3, 1)
    assert isinstance(found.delivery.envelope, Envelope)
    assert (b"sea.jpg" in found.delivery.envelope.body) is arguments


def test_an_incident_that_is_unreadable_or_too_large_is_not_kept_for_another_process() -> None:
    body = b'{"id":"1","source":"shop","type":"a.b","specversion":"1.0","data":{"a":"%b"}}' % (b"x" * 65536)
    envelope = Envelope(id="1", source="shop", name="a.b", body=body)
    large, broken, unreadable = (
        loss(Delivery(envelope=each, queue="feed", receipt=7, enqueued_at=1.0), "", at=5.0)
        for each in (
            envelope,
            attrs.evolve(envelope, body=b"nonsense"),
            relevo.Unreadable(raw=b"\xff", headers={}, why="bytes"),
        )
    )

    assert packed(large, arguments=True) is None
    assert packed(large, arguments=False) is not None
    assert packed(broken, arguments=False) is None
    assert packed(unreadable, arguments=True) is None
    assert unpacked(b"nonsense") is None
    assert unpacked(msgspec.msgpack.encode({"envelope": b"", "queue": "", "attempt": 1, "lost_leases": 0})) is None


def test_a_book_that_is_broken_or_cannot_be_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "book"
    path.write_text('{"entries": {"half')
    with Shelf(lambda: path).open() as book:
        book.note("key", "what", 1, since=0.0, last=0.0)
    with Shelf(lambda: path).open() as book:
        assert book.entries["key"].count == 1

    shelf = Shelf(lambda: tmp_path / "no" / "book")
    for _ in range(2):
        with shelf.open() as book:
            book.note("key", "what", 1, since=0.0, last=0.0)
    assert book.entries["key"].count == 2
    assert caplog.text.count("cannot be stored") == 1


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_book_that_is_no_regular_file_is_kept_in_memory(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "book"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")

    with Shelf(lambda: path).open() as book:
        book.note("key", "what", 1, since=0.0, last=0.0)

    assert book.entries["key"].count == 1
    assert "expected a regular file" in caplog.text


def test_what_was_told_is_for_the_user_alone(tmp_path: Path) -> None:
    with Shelf(lambda: tmp_path / "book").open():
        pass

    assert stat.filemode((tmp_path / "book").stat().st_mode) == "-rw-------"


def test_a_book_does_not_grow_and_loses_no_count() -> None:
    book = Book()
    for number in range(MAX_ENTRIES * 3):
        book.note(str(number), "what", 1, since=0.0, last=0.0)
        book.is_news(f"{number % 5}", number)

    assert len(book.entries) == MAX_ENTRIES + 1
    assert sum(each.count for each in book.entries.values()) == MAX_ENTRIES * 3
    book.claim(1.0, every=600, most=1)
    for number in range(MAX_ENTRIES * 3):
        book.note(f"new {number}", "what", 1, since=0.0, last=0.0)
    assert len(book.entries) <= MAX_ENTRIES + 1
    assert sum(each.count for each in book.entries.values()) == MAX_ENTRIES * 3


STEPS = st.lists(
    st.tuples(st.sampled_from(["note", "claim", "fail"]), st.integers(0, 3), st.floats(0, 1000)), max_size=60
)


@given(steps=STEPS)
def test_nothing_that_is_noted_is_lost_and_no_hour_has_more_mails_than_allowed(
    steps: list[tuple[str, int, float]],
) -> None:
    book, now, noted, told, sent = Book(), 0.0, 0, 0, list[float]()
    last: dict[str, float] = {}
    for step, which, wait in steps:
        now += wait
        if step == "note":
            noted += 1
            book.note(str(which), "what", 1, since=now, last=now)
            continue
        claimed = book.claim(now, every=600, most=2)
        if claimed and step == "fail":
            book.give_back(claimed, now)
            assert book.wait(now, every=600, most=2) == 0.0
            continue
        told += sum(each.count for each in claimed.values())
        for key in claimed:
            assert now - last.get(key, -1000.0) >= 600 - 1e-6
            last[key] = now
        sent += [now] if claimed else []
        assert len([each for each in sent if each > now - 3600]) <= 2

    assert told + sum(each.count for each in book.entries.values()) == noted
