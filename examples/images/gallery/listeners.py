"""The listeners of an upload. Each may run again at any time: its earlier results are replaced or kept."""

from __future__ import annotations

import attrs

import relevo
from gallery import picture, rating
from gallery.diary import recorded
from gallery.events import ImageCreated
from gallery.models import FeedEntry, Image, Notification, Rating, Thumbnail
from gallery.store import store

SIZES = (160, 320, 640)

UNLUCKY = "rocket.jpg"
"""In this example the push service does not answer the first request for this photograph."""


@relevo.listener(ImageCreated, priority=10, queue="media")
@recorded
def create_thumbnails(_: ImageCreated, call: relevo.Call) -> None:
    image = call.subject
    full = _decoded(image)
    with store.session() as session, session.begin():
        for size in SIZES:
            small = picture.shrunk(full, size)
            path = f"thumbs/{image.id}/thumb-{size}.jpg"
            store.write(path, picture.jpeg(small))
            session.merge(Thumbnail(image_id=image.id, size=size, width=small.width, height=small.height, path=path))


@relevo.listener(ImageCreated, queue="media")
@recorded
def rate_image(_: ImageCreated, call: relevo.Call) -> None:
    image = call.subject
    scores = rating.rate(_decoded(image))
    with store.session() as session, session.begin():
        session.merge(Rating(image_id=image.id, stars=scores.stars, **attrs.asdict(scores)))


@relevo.listener(ImageCreated, priority=10, queue="feed")
@recorded
def update_feed(event: ImageCreated, call: relevo.Call) -> None:
    image = call.subject
    with store.session() as session, session.begin():
        if session.get(FeedEntry, image.id) is None:
            session.add(FeedEntry(image_id=image.id, text=f"{event.filename} is new"))


@relevo.listener(ImageCreated, queue="feed", retry=relevo.Retry(5, first="1s"))
@recorded
def notify_followers(event: ImageCreated, call: relevo.Call) -> None:
    image = call.subject
    if event.filename == UNLUCKY and call.attempt == 1:
        raise ConnectionError("the push service did not answer")
    with store.session() as session, session.begin():
        if session.get(Notification, image.id) is None:
            session.add(Notification(image_id=image.id, attempt=call.attempt))


def _decoded(image: Image) -> picture.Picture:
    try:
        return picture.opened(store.absolute(image.path))
    except picture.UnreadablePictureError as error:
        raise relevo.GiveUp(str(error)) from error  # a retry cannot repair an incomplete file
