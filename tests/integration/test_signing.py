"""Signed events on their way between a database and RabbitMQ: by a relay, a move and a revival; and forged ones."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa

import relevo
import waiting
from relevo._runner.loop import LoopRunner
from relevo.cli._main import main

pytestmark = [pytest.mark.slow("about a server, not Python"), pytest.mark.amqp]

OLD = "ICl1y4JgHHCMPzFuR0eDBVcNmsBqKtd_4-wYpJw2oT8"
NEW = "9tZr7dX0bQ3mWkLhE5vYgUa1SfJc6RnOiP2TqHxKs8M"

CONFIGURATION = """
source = "shop"
patience = 1

[transports]
main = {{ url = "{url}", prefix = "{prefix}", levels = 4, settle_in = 0, outbox = "box" }}
box = "sqlite:///shop.db"

[routes]
"image.*" = "{route}"
"*" = "main/media"

[queues.media]
accept = ["image.created", "image.rated"]

[signing]
keys = {keys}
"""


@attrs.frozen
class Place:
    """A folder with a database, and a server with queues of its own."""

    folder: Path
    url: str
    prefix: str
    seen: list[str]
    apps: list[relevo.App]

    def app(self, *keys: str, route: str = "main/media") -> relevo.App:
        """Return an application that has *keys* instead of the one before; its listener notes what it handles."""
        for former in self.apps:
            former.close()  # or it would still receive
        file = self.folder / "relevo.toml"
        text = CONFIGURATION.format(url=self.url, prefix=self.prefix, route=route, keys=list(keys))
        file.write_text(text.replace("'", '"'))
        file.chmod(0o600)
        app = relevo.App.from_config(file, environ={})
        app.listen(relevo.listener("image.created", id="see")(lambda event: self.seen.append(event["path"])))
        self.apps.append(app)
        return app

    def drain(self, app: relevo.App) -> relevo.Report:
        """Let *app* relay and handle what is there."""
        options = relevo.RunOptions(transport="main", until_empty=True, settle=2.0)
        return LoopRunner(signals=False).run(app, options)

    def change(self, what: str) -> int:
        """Change the event of forged.jpg as something does that has no key; return the number of rows."""
        statement = "UPDATE relevo_event SET WHAT WHERE instr(body, CAST('forged.jpg' AS BLOB))".replace("WHAT", what)
        with closing(sqlite3.connect(self.folder / "shop.db")) as database, database:
            return database.execute(statement).rowcount

    def run(self, *words: str) -> object:
        """Return the exit code of the command line with *words*."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr("sys.argv", ["relevo", *words])
            with pytest.raises(SystemExit) as ended:
                main()
        return ended.value.code


@pytest.fixture(name="place")
def _place(tmp_path: Path, rabbitmq_url: str, forget: Callable[[relevo.App], None]) -> Iterator[Place]:
    place = Place(tmp_path, rabbitmq_url, f"signing-{uuid.uuid4().hex[:8]}", [], [])
    yield place
    forget(place.apps[-1])
    for app in place.apps:
        app.close()


def upload(place: Place, app: relevo.App, *paths: str) -> None:
    """Dispatch an event for each of *paths* inside a transaction of the database."""
    engine = sa.create_engine(f"sqlite:///{place.folder / 'shop.db'}")
    with engine.begin() as connection:
        for path in paths:
            app.dispatch(relevo.Event("image.created", {"path": path}), session=connection)
    engine.dispose()


def dead(app: relevo.App, transport: str, queue: str) -> list[tuple[str, str]]:
    """Return the reason and the name of each dead letter."""
    store = app.transport(transport)
    entries = store.dead_letters([queue], after=None, limit=9)
    return [(each.reason, each.envelope.name) for each in entries if isinstance(each.envelope, relevo.Envelope)]


def test_what_a_relay_brings_to_rabbitmq_is_signed_with_the_new_key(place: Place) -> None:
    earlier = place.app(OLD)
    earlier.setup()
    upload(place, earlier, "sea.jpg")
    relaying = place.app(NEW, OLD)
    relay = relaying.relay("main", relevo.RunOptions(until_empty=True))
    assert relay is not None
    relay.run()

    report = place.drain(place.app(NEW))

    assert place.seen == ["sea.jpg"]
    assert (report.done, report.dead) == (1, 0)


@pytest.mark.parametrize(
    "change",
    ["name = 'image.rated'", "source = 'bank'", "headers = '{}'", "expires = 4e9", "event_id = 'another'"],
)
def test_a_relay_brings_no_forged_event_to_rabbitmq_and_neither_does_its_revival(place: Place, change: str) -> None:
    app = place.app(NEW)
    app.setup()
    upload(place, app, "sea.jpg", "forged.jpg")

    assert place.change(change) == 1
    place.drain(app)
    before = dead(app, "box", "outbox/main")
    revived = place.run("dead", "revive", "--all")
    place.drain(app)

    assert place.seen == ["sea.jpg"]
    assert revived == 1
    assert (
        before
        == dead(app, "box", "outbox/main")
        == [("forged", "image.rated" if "name" in change else "image.created")]
    )


def test_a_move_to_rabbitmq_takes_what_is_signed_and_leaves_what_is_forged(place: Place) -> None:
    filling = place.app(OLD, route="box/old")
    filling.setup()
    for path in ("sea.jpg", "forged.jpg", "copied.jpg"):
        filling.dispatch(relevo.Event("image.created", {"path": path}))
    filling.dispatch(relevo.Event("image.deleted", {"path": "not-accepted.jpg"}))
    place.change("name = 'image.rated'")
    place.app(NEW, OLD).setup()

    moved = place.run("move", "--from", "box/old", "--to", "main/media")
    app = place.app(NEW)
    report = place.drain(app)

    assert moved == 1, "one event is dead, and one stayed"
    assert sorted(place.seen) == ["copied.jpg", "sea.jpg"]
    assert (report.done, report.dead) == (2, 0)
    assert dead(app, "box", "old") == [("forged", "image.rated")]
    stats = app.transport("box").stats("old")
    assert (stats.ready or 0) + (stats.scheduled or 0) == 1, "the one that the other queue does not accept"


def test_a_dead_letter_of_rabbitmq_whose_key_was_missing_is_handled_after_its_revival(place: Place) -> None:
    later = place.app(NEW)
    later.setup()
    later.dispatch(relevo.Event("image.created", {"path": "sea.jpg"}))
    earlier = place.app(OLD)
    assert waiting.eventually(lambda: place.drain(earlier).dead == 1)  # it waits in a delay first
    before = dead(earlier, "main", "media")
    refused = place.run("dead", "revive", "--all")

    place.app(NEW, OLD)
    revived = place.run("dead", "revive", "--all")
    place.drain(place.apps[-1])

    assert before == [("forged", "image.created")]
    assert (refused, revived) == (1, 0)
    assert place.seen == ["sea.jpg"]


def test_a_dead_letter_of_rabbitmq_that_was_not_accepted_is_handled_after_its_revival(place: Place) -> None:
    producer = place.app(NEW)
    producer.setup()
    signed = relevo.Signing(NEW).signed
    body = b'{"specversion":"1.0","id":"1","source":"shop","type":"image.deleted","data":{"path":"sea.jpg"}}'
    envelope = relevo.Envelope(id="1", source="shop", name="image.deleted", queue="media", body=body)
    producer.transport("main").send([signed(envelope)])
    assert waiting.eventually(lambda: place.drain(producer).dead == 1)  # as above
    before = dead(producer, "main", "media")

    text = (place.folder / "relevo.toml").read_text()
    (place.folder / "relevo.toml").write_text(text.replace('"image.rated"]', '"image.rated", "image.deleted"]'))
    producer.close()
    changed = relevo.App.from_config(place.folder / "relevo.toml", environ={})
    place.apps.append(changed)
    changed.listen(relevo.listener("image.deleted", id="see")(lambda event: place.seen.append(event["path"])))
    revived = place.run("dead", "revive", "--all")
    place.drain(changed)

    assert before == [("not-accepted", "image.deleted")]
    assert revived == 0
    assert place.seen == ["sea.jpg"]
