"""The tables of the gallery. The primary keys make each listener idempotent: a second run has no further effect."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    type_annotation_map = {str: String(255)}  # noqa: RUF012 - SQLAlchemy's own form; MariaDB needs a length


class Image(Base):
    """A photograph as it was uploaded."""

    __tablename__ = "gallery_image"

    id: Mapped[int] = mapped_column(primary_key=True)
    filename: Mapped[str]
    path: Mapped[str] = mapped_column(unique=True)
    """Relative to the gallery's folder, like all paths here."""

    uploaded_at: Mapped[datetime] = mapped_column(default=_now)

    thumbnails: Mapped[list[Thumbnail]] = relationship(order_by="Thumbnail.size")
    rating: Mapped[Rating | None] = relationship()
    feed_entry: Mapped[FeedEntry | None] = relationship()
    notification: Mapped[Notification | None] = relationship()


class Thumbnail(Base):
    """A smaller copy: one for each image and size."""

    __tablename__ = "gallery_thumbnail"

    image_id: Mapped[int] = mapped_column(ForeignKey(Image.id), primary_key=True)
    size: Mapped[int] = mapped_column(primary_key=True)
    """The maximum of width and height in pixels."""

    width: Mapped[int]
    height: Mapped[int]
    path: Mapped[str]


class Rating(Base):
    """How good a photograph is, technically: one for each image."""

    __tablename__ = "gallery_rating"

    image_id: Mapped[int] = mapped_column(ForeignKey(Image.id), primary_key=True)
    sharpness: Mapped[float]
    exposure: Mapped[float]
    colourfulness: Mapped[float]
    stars: Mapped[float]


class FeedEntry(Base):
    """A line in the feed of new images: one for each image."""

    __tablename__ = "gallery_feed"

    image_id: Mapped[int] = mapped_column(ForeignKey(Image.id), primary_key=True)
    text: Mapped[str]
    published_at: Mapped[datetime] = mapped_column(default=_now)


class Notification(Base):
    """Proof that the followers were notified: once for each image."""

    __tablename__ = "gallery_notification"

    image_id: Mapped[int] = mapped_column(ForeignKey(Image.id), primary_key=True)
    attempt: Mapped[int]
    sent_at: Mapped[datetime] = mapped_column(default=_now)
