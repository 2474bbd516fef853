"""A disk that is full: sends are refused with the remedy, and everything goes on when there is space again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import server_starter
from relevo import App, Envelope, Event
from relevo.errors import SendError, TransportError
from relevo_sql import SqlTransport
from restarting import Server, restarting
from small_disk import SmallDisk, small_disk

from .command import UNAVAILABLE, configure, relevo
from .on_server import DATABASES, an_engine, execute, query
from .test_outages import _running

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

pytestmark = pytest.mark.slow("starts a server")

SAID = r"cannot grow, since the disk (is|of the server is) full( or a limit is reached)?; free space"


@attrs.frozen
class Place:
    """A database on a small disk."""

    url: str
    disk: SmallDisk
    sizes: Sequence[int] = (100_000, 1_000, 10)
    """
    How long the bodies are that fill it. MariaDB 11.8 ends itself if it has no space to roll back an INSERT of a value
    that is longer than a page: "Error (Out of disk space) in rollback".
    """


@contextmanager
def on_sqlite(folder: Path) -> Iterator[Place]:
    folder.mkdir()
    with small_disk(folder, size=2 << 20) as disk:
        yield Place(f"sqlite:///{folder}/shop.db", disk)


@contextmanager
def on_postgresql(server: Server) -> Iterator[Place]:
    """Put a database into a tablespace; the write-ahead log is elsewhere, and without it the server would end."""
    folder = server.data.parent / "small"
    folder.mkdir()
    with small_disk(folder, size=32 << 20, owner=server.owner) as disk:
        (folder / "space").mkdir()
        os.chown(folder / "space", server.owner.pw_uid, server.owner.pw_gid)
        execute(
            server.url,
            f"CREATE TABLESPACE small LOCATION '{folder}/space'",
            "CREATE DATABASE small TEMPLATE template0 TABLESPACE small",
        )
        yield Place(sa.make_url(server.url).set(database="small").render_as_string(hide_password=False), disk)
        disk.free()
        execute(server.url, "DROP DATABASE small WITH (FORCE)", "DROP TABLESPACE small")


@contextmanager
def on_mariadb(server: Server) -> Iterator[Place]:
    """Put a database, whose tables are files in a folder of its own, on the disk; the logs are elsewhere."""
    execute(server.url, "CREATE DATABASE small CHARACTER SET utf8mb4")
    folder = server.data / "small"
    with small_disk(folder, size=32 << 20, owner=server.owner) as disk:
        url = sa.make_url(server.url).set(database="small").render_as_string(hide_password=False)
        yield Place(url, disk, sizes=(1_000, 10))
        disk.free()
        execute(server.url, *(f"DROP TABLE small.{path.stem}" for path in folder.glob("*.ibd")))


@pytest.fixture(
    name="place",
    scope="module",
    params=DATABASES,
)
def _place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            made = on_sqlite(tmp_path_factory.mktemp("full") / "disk")
        else:
            server = stack.enter_context(restarting(request.param))
            made = (on_postgresql if request.param == "postgresql" else on_mariadb)(server)
        try:
            yield stack.enter_context(made)
        except server_starter.NotFoundError as error:
            if server_starter.in_ci() and os.geteuid() == 0:
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))


def crammed(place: Place, transport: SqlTransport, an_envelope: Maker) -> tuple[list[str], list[SendError]]:
    """Send until not even a small event is accepted; return the ids of those that were, and the errors."""
    accepted: list[str] = []
    errors: list[SendError] = []
    for size in place.sizes:
        while True:
            envelope = an_envelope(len(accepted) + len(errors), body=b"x" * size)
            try:
                transport.send([envelope])
            except SendError as error:
                errors.append(error)
                break
            accepted.append(envelope.id)
    return accepted, errors


def test_a_send_to_a_full_disk_is_refused_and_nothing_that_was_accepted_is_lost(
    opener: Opener, place: Place, an_envelope: Maker
) -> None:
    transport = opener(url=place.url)
    place.disk.fill()
    accepted, errors = crammed(place, transport, an_envelope)

    with _running(opener(url=place.url, setup=False)) as running:
        place.disk.free()
        transport.send([an_envelope(10**6)])
        running.wait_until(lambda: "id-1000000" in running.handled)

    assert [error.refused for error in errors] == [(0,)] * len(errors)
    for error in errors:
        assert re.search(SAID, str(error))
    assert sorted(running.handled) == sorted([*accepted, "id-1000000"])


def dispatch_and_commit(app: App, event: Event, session: Session) -> None:
    app.dispatch(event, session=session)
    session.commit()


def test_a_session_on_a_full_disk_commits_neither_the_row_nor_its_event(
    opener: Opener, place: Place, an_envelope: Maker
) -> None:
    transport = opener(url=place.url)
    app = App(transports={"main": transport}, routes={"*": "main"})
    execute(place.url, "CREATE TABLE IF NOT EXISTS image (id INTEGER PRIMARY KEY)")
    place.disk.fill()
    before, _ = crammed(place, transport, lambda number, **fields: an_envelope(5000 + number, **fields))
    event = Event("image.created", {"path": "x" * place.sizes[0]})

    with an_engine(place.url) as engine, Session(engine) as session:
        with pytest.raises(TransportError, match=SAID):  # on SQLite from the dispatch, which opens the database
            dispatch_and_commit(app, event, session)
        session.rollback()
        place.disk.free()
        session.execute(sa.text("INSERT INTO image VALUES (1)"))
        dispatch_and_commit(app, event, session)

    assert transport.stats("default").ready == len(before) + 1
    assert query(place.url, "SELECT id FROM image") == [(1,)]
    transport.purge("default")


def test_a_worker_on_a_full_disk_goes_on_when_there_is_space(
    opener: Opener, place: Place, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    transport = opener(url=place.url)
    transport.send([an_envelope(number) for number in range(20)])
    place.disk.fill()
    extra, _ = crammed(place, transport, lambda number, **fields: an_envelope(100 + number, **fields))

    with _running(opener(url=place.url, setup=False)) as running:
        if place.url.startswith("sqlite"):  # the servers have space for this: in free pages, and in their logs
            running.wait_until(lambda: "cannot grow, since the disk is full" in caplog.text)
        place.disk.free()
        running.wait_until(lambda: len(running.handled) == 20 + len(extra))

    assert sorted(running.handled) == sorted([*(f"id-{number}" for number in range(20)), *extra])


def test_the_commands_say_that_the_disk_is_full(
    opener: Opener, place: Place, tmp_path: Path, an_envelope: Maker
) -> None:
    configure(tmp_path, f'"{place.url}"')
    transport = opener(url=place.url)
    place.disk.fill()
    accepted, _ = crammed(place, transport, lambda number, **fields: an_envelope(1000 + number, **fields))

    done = relevo(tmp_path, "dispatch", "image.created", json.dumps({"path": "x" * place.sizes[0]}))
    if place.url.startswith("sqlite"):
        drained = relevo(tmp_path, "drain")
        assert (drained.returncode, "free space" in drained.stderr) == (UNAVAILABLE, True)
    place.disk.free()
    again = relevo(tmp_path, "dispatch", "image.created", "{}")

    assert done.returncode == UNAVAILABLE
    assert "free space" in done.stderr
    assert "Traceback" not in done.stderr
    assert again.returncode == 0
    assert transport.stats("default").ready == len(accepted) + 1
    transport.purge("default")
