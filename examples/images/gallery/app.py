"""The application: its configuration is in relevo.toml, what an event's subject is stands here."""

from __future__ import annotations

from pathlib import Path

import relevo
from gallery.models import Image
from gallery.store import store

CONFIGURATION = Path(__file__).resolve().parent.parent / "relevo.toml"


def _name(image: Image) -> str | None:
    return str(image.id) if image.id else None  # it has none before the flush


def _load(image_id: str) -> Image | None:
    with store.session() as session:
        return session.get(Image, int(image_id))


def make(*, clock: relevo.Clock | None = None) -> relevo.App:
    """Return the application as relevo.toml and the environment describe it."""
    made = relevo.App.from_config(CONFIGURATION, clock=clock)
    made.add_subject(relevo.SubjectType(type="image", cls=Image, name=_name, load=_load))
    return made


app = make()
