"""The application itself, in this process, with events in memory: only one variable is different."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as Pillow
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import relevo
from gallery import app as application, diary
from gallery.models import Base, FeedEntry, Image, Notification, Rating, Thumbnail
from gallery.store import store
from gallery.upload import upload
from relevo.testing import FakeClock


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[relevo.App]:
    monkeypatch.setenv("RELEVO_TRANSPORTS__MAIN", "memory://")
    home = store.folder
    store.move(tmp_path / "var")
    with application.make(clock=FakeClock()) as app:
        yield app
    store.move(home)


def work(app: relevo.App) -> relevo.Report:
    """Handle all events, including retries; the clock that stands still makes the waits short."""
    return app.worker(relevo.RunOptions(until_empty=True, settle=60)).run()


def waiting(app: relevo.App) -> int:
    return sum(app.transport().stats(queue).ready or 0 for queue in app.queues("main"))


def test_an_upload_answers_before_anything_is_made(app: relevo.App, photos: Path) -> None:
    image = upload(app, photos / "coffee.jpg")

    assert store.absolute(image.path).read_bytes() == (photos / "coffee.jpg").read_bytes()
    assert waiting(app) == 2  # one for the media, one for the feed
    with store.session() as session:
        assert session.get_one(Image, image.id).rating is None


def test_thumbnails_rating_feed_and_notification_follow_an_upload(app: relevo.App, photos: Path) -> None:
    image = upload(app, photos / "coffee.jpg")

    report = work(app)

    assert (report.done, report.retried, report.dead) == (2, 0, 0)
    with store.session() as session:
        thumbnails = session.get_one(Image, image.id).thumbnails
        assert [(each.size, each.width, each.height) for each in thumbnails] == [
            (160, 160, 107),
            (320, 320, 213),
            (640, 600, 400),
        ]
        for each in thumbnails:
            with Pillow.open(store.absolute(each.path)) as picture:
                assert (picture.format, picture.size) == ("JPEG", (each.width, each.height))
            assert "thumb" in each.path
        assert session.get_one(Rating, image.id).stars >= 4
        assert session.get_one(FeedEntry, image.id).text == "coffee.jpg is new"
        assert session.get_one(Notification, image.id).attempt == 1


def test_an_upload_that_fails_leaves_neither_event_nor_file(app: relevo.App, photos: Path) -> None:
    with store.session() as session, session.begin():
        session.execute(text("DROP TABLE gallery_image"))

    with pytest.raises(OperationalError, match="no such table"):
        upload(app, photos / "coffee.jpg")

    assert waiting(app) == 0
    assert list(store.absolute("images").iterdir()) == []


def test_the_listener_that_failed_is_run_again_alone(app: relevo.App, photos: Path) -> None:
    image = upload(app, photos / "rocket.jpg")

    report = work(app)

    assert (report.done, report.retried, report.dead) == (2, 1, 0)
    assert [(run.listener, run.attempt, run.error) for run in diary.runs()] == [
        ("create_thumbnails", 1, ""),
        ("rate_image", 1, ""),
        ("update_feed", 1, ""),
        ("notify_followers", 1, "ConnectionError: the push service did not answer"),
        ("notify_followers", 2, ""),
    ]
    with store.session() as session:
        assert session.get_one(Notification, image.id).attempt == 2


def test_a_retry_is_not_early(app: relevo.App, photos: Path) -> None:
    upload(app, photos / "rocket.jpg")
    app.worker(relevo.RunOptions(until_empty=True)).run()

    assert isinstance(app.clock, FakeClock)
    app.clock.advance(0.99)
    app.worker(relevo.RunOptions(until_empty=True)).run()
    early = [run.attempt for run in diary.runs() if run.listener == "notify_followers"]
    app.clock.advance(0.2)
    app.worker(relevo.RunOptions(until_empty=True)).run()
    late = [run.attempt for run in diary.runs() if run.listener == "notify_followers"]

    assert (early, late) == ([1], [1, 2])


def test_a_broken_file_is_dead_lettered_with_its_reason_while_others_go_on(app: relevo.App, photos: Path) -> None:
    broken = upload(app, photos / "broken.jpg")
    whole = upload(app, photos / "chelsea.jpg")

    report = work(app)

    assert (report.done, report.retried, report.dead) == (3, 0, 1)
    (entry,) = app.transport().dead_letters(app.queues("main"))
    assert (entry.queue, entry.reason) == ("media", "gave-up")
    assert "create_thumbnails" in entry.error
    assert "rate_image" in entry.error
    assert "truncated" in entry.error
    with store.session() as session:
        assert session.get_one(Image, broken.id).thumbnails == []
        assert session.get(FeedEntry, broken.id) is not None
        assert len(session.get_one(Image, whole.id).thumbnails) == 3


def test_a_file_that_is_missing_for_a_while_is_waited_for(app: relevo.App, photos: Path) -> None:
    image = upload(app, photos / "chelsea.jpg")
    late = store.absolute(image.path)
    late.rename(late.with_suffix(".elsewhere"))
    app.worker(relevo.RunOptions(until_empty=True)).run()

    late.with_suffix(".elsewhere").rename(late)
    report = work(app)

    assert (report.done, report.dead) == (1, 0)
    with store.session() as session:
        assert session.get(Rating, image.id) is not None


@pytest.mark.parametrize("name", ["chelsea.jpg", "clock.jpg"])
def test_listeners_that_run_twice_do_what_one_run_does(app: relevo.App, photos: Path, name: str) -> None:
    image = upload(app, photos / name)
    again = relevo.LocalDispatcher(app.listeners, subjects=app.subjects)
    work(app)
    before = everything()

    again.dispatch(relevo.Event("image.created", {"filename": image.filename}, subject=image))

    assert len(diary.runs()) == 8
    assert everything() == before
    assert len(before[Thumbnail.__tablename__]) == 3
    assert len(before["files"]) == 4


def everything() -> dict[str, list[object]]:
    """Return all rows of all tables, and all pictures by their hash."""
    with store.session() as session:
        found: dict[str, list[object]] = {
            table.name: [tuple(row) for row in session.execute(table.select().order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        }
    found["files"] = [
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(store.folder.rglob("*.jpg"))
    ]
    return found
