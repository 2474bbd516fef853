"""A server that is killed and comes back, while a worker drains and an application dispatches: nothing is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import Ack, App, Envelope, Event
from relevo.errors import SendError, TransportError, TransportUnavailableError
from relevo_sql import SqlTransport
from restarting import Server, a_database, restarting

from .command import UNAVAILABLE, configure, relevo, running
from .on_server import an_engine, execute, ids, in_a_thread, query, wait_until
from .test_outages import _Running, _running

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

pytestmark = pytest.mark.slow("starts a server")


@pytest.fixture(
    name="server",
    scope="module",
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def _server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with restarting(request.param) as server:
        yield server


@pytest.fixture(name="private")
def _private(server: Server) -> Iterator[str]:
    """Give the URL of a new database on the private server."""
    with a_database(server) as url:
        yield url


@attrs.define
class Application:
    """Dispatches in a thread, with a number in each event; its sets hold what became of them."""

    app: App
    accepted: set[int] = attrs.field(factory=set)
    unknown: set[int] = attrs.field(factory=set)
    refused: set[int] = attrs.field(factory=set)
    problems: list[str] = attrs.field(factory=list)
    _over: threading.Event = attrs.field(factory=threading.Event)

    def run(self) -> None:
        number = 0
        while not self._over.wait(0.001):
            number += 1
            try:
                self.app.dispatch(Event("number.drawn", {"number": number}))
            except TransportError as error:
                self.problems.append(str(error))
                is_unknown = isinstance(error, SendError) and error.unknown
                (self.unknown if is_unknown else self.refused).add(number)
            else:
                self.accepted.add(number)

    def stop(self) -> None:
        self._over.set()


def numbers(running: _Running) -> set[int]:
    """Return the numbers of the events that were handled."""
    return {json.loads(envelope.body)["data"]["number"] for envelope in list(running.envelopes)}


def test_what_an_application_dispatched_is_handled_although_the_server_crashes(
    opener: Opener, server: Server, private: str
) -> None:
    work = Application(App(transports={"main": opener(url=private)}, routes={"*": "main"}))
    with _running(opener(url=private), lease=2.0) as running, in_a_thread(work.run):
        try:
            for _ in range(3):
                seen, failed = len(running.handled), len(work.problems)
                running.wait_until(lambda: len(running.handled) > seen + 20)  # noqa: B023 - called here
                server.kill()
                running.wait_until(lambda: len(work.problems) > failed)  # noqa: B023 - likewise
                server.start()
        finally:
            work.stop()
        running.wait_until(lambda: work.accepted <= numbers(running))

    assert numbers(running) <= work.accepted | work.unknown, "what was refused is not there"
    assert not work.accepted & work.refused
    assert all("cannot be reached, or ended the connection" in problem for problem in work.problems)


def test_a_worker_goes_on_after_a_crash_of_the_server(
    opener: Opener, server: Server, private: str, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    sender = opener(url=private)
    with _running(opener(url=private)) as running:
        for crash in range(2):
            sender.send([an_envelope(10 * crash)])
            running.wait_until(lambda: running.handled[-1:] == [f"id-{10 * crash}"])  # noqa: B023 - called here
            server.kill()
            with pytest.raises(TransportUnavailableError, match="cannot be reached, or ended the connection"):
                sender.send([an_envelope(10 * crash + 1)])
            running.wait_until(lambda: "cannot be reached" in caplog.text)  # it reminds seldom, so of the first alone

            server.start()
            sender.send([an_envelope(10 * crash + 1)])
            running.wait_until(lambda: running.handled[-1:] == [f"id-{10 * crash + 1}"])  # noqa: B023 - likewise

    assert running.handled == ["id-0", "id-1", "id-10", "id-11"]


def test_a_worker_that_waits_does_not_notice_that_the_server_was_restarted(
    opener: Opener, server: Server, private: str, an_envelope: Maker
) -> None:
    sender = opener(url=private)
    with _running(opener(url=private)) as running:
        sender.send([an_envelope(1)])
        running.wait_until(lambda: running.handled == ["id-1"])

        server.restart()
        sender.send([an_envelope(2)])

        running.wait_until(lambda: running.handled == ["id-1", "id-2"])


def test_what_was_sent_and_what_was_held_is_there_after_a_crash(
    opener: Opener, server: Server, private: str, an_envelope: Maker
) -> None:
    transport = opener(url=private)
    transport.send([an_envelope(number) for number in range(3)])
    held, *_ = transport.receive(["default"], limit=1, lease=600, wait=0)

    server.restart()

    assert not transport.settle([(held, Ack())])
    assert ids(opener(url=private, setup=False)) == ["id-1", "id-2"]


def test_a_session_makes_the_tables_after_the_server_was_started_again(
    opener: Opener, server: Server, private: str
) -> None:
    app = App(transports={"main": opener(url=private, setup=False)}, routes={"*": "main"})
    with an_engine(private) as engine:
        for end_of in ("rollback", "commit", "commit"):
            with Session(engine) as session:
                app.dispatch(Event("image.created"), session=session)
                getattr(session, end_of)()
            engine.dispose()
            server.restart()

    assert app.transport().stats("default").ready == 2


def test_a_session_that_the_crash_ended_commits_nothing_and_the_next_one_works(
    opener: Opener, server: Server, private: str
) -> None:
    app = App(transports={"main": opener(url=private)}, routes={"*": "main"})
    execute(private, "CREATE TABLE image (id INTEGER)")
    with an_engine(private) as engine:
        with Session(engine) as session:
            session.execute(sa.text("INSERT INTO image VALUES (1)"))
            app.dispatch(Event("image.created"), session=session)
            server.restart()
            with pytest.raises(SendError, match="the session's database cannot be reached, or ended the") as caught:
                session.commit()
        with Session(engine) as session:
            session.execute(sa.text("INSERT INTO image VALUES (2)"))
            app.dispatch(Event("image.created"), session=session)
            session.commit()

    assert caught.value.refused == (0,)
    assert query(private, "SELECT id FROM image") == [(2,)]
    assert app.transport().stats("default").ready == 1


def test_a_dispatch_in_a_session_says_that_the_server_is_away(opener: Opener, server: Server, private: str) -> None:
    app = App(transports={"main": opener(url=private)}, routes={"*": "main"})
    with an_engine(private) as engine:
        with Session(engine) as session:  # the session's database is known from here on
            app.dispatch(Event("image.created"), session=session)
            session.commit()
        engine.dispose()
        server.kill()
        with (
            Session(engine) as session,
            pytest.raises(TransportUnavailableError, match="the session's database cannot be reached, or ended the"),
        ):
            app.dispatch(Event("image.created"), session=session)
        server.start()

    assert app.transport().stats("default").ready == 1


def test_a_worker_waits_for_a_server_that_is_away_when_it_starts(
    opener: Opener, server: Server, private: str, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    opener(url=private).send([an_envelope(1)])
    server.kill()
    with _running(opener(url=private, setup=False)) as running:
        running.wait_until(lambda: "cannot be reached" in caplog.text)
        server.start()

        running.wait_until(lambda: running.handled == ["id-1"])


@pytest.mark.parametrize(
    "words", [("drain",), ("dispatch", "image.created", "{}"), ("worker", "--fail-fast"), ("status",)]
)
def test_a_command_says_that_the_server_is_away_and_works_when_it_is_back(
    opener: Opener, server: Server, private: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    opener(url=private).close()
    (tmp_path / "heard.py").write_text('import relevo\n\n@relevo.listener("image.created")\ndef note(event): ...\n')
    configure(tmp_path, f'"{private}"', listeners="heard")

    server.kill()
    away = relevo(tmp_path, *words)
    server.start()
    back = relevo(tmp_path, *words) if "worker" not in words else relevo(tmp_path, *words, "--max-time", "1s")

    assert away.returncode == UNAVAILABLE
    assert "cannot be reached, or ended the connection" in away.stderr
    assert "Traceback" not in away.stderr
    assert (back.returncode, back.stderr) == (0, "")


LISTENERS = """
import pathlib
import relevo

@relevo.listener("number.drawn")
def note(event):
    with (pathlib.Path(__file__).parent / "numbers").open("a") as file:
        print(event["number"], file=file)
"""


def test_a_worker_process_outlives_the_server_and_reports_the_outage_once(
    opener: Opener, server: Server, private: str, tmp_path: Path
) -> None:
    app = App(transports={"main": opener(url=private)}, routes={"*": "main"})
    configure(tmp_path, f'"{private}"', listeners="shop_listeners")
    (tmp_path / "shop_listeners.py").write_text(LISTENERS)
    numbers, log = tmp_path / "numbers", tmp_path / "log"

    with log.open("w") as errors, running(tmp_path, "worker", errors=errors) as worker:
        app.dispatch(Event("number.drawn", {"number": 1}))
        wait_until(lambda: numbers.exists() and numbers.read_text() == "1\n")
        server.kill()
        wait_until(lambda: "waiting until it is back" in log.read_text())
        server.start()
        app.dispatch(Event("number.drawn", {"number": 2}))
        wait_until(lambda: numbers.read_text() == "1\n2\n")
        worker.terminate()
        code = worker.wait(60)

    lines = log.read_text().splitlines()
    assert code == 0
    assert [line for line in lines if "Traceback" in line] == []
    assert len([line for line in lines if "cannot be reached, or ended the connection" in line]) == 1
