"""The application: its configuration is in relevo.toml, what an event's subject is stands here."""

from __future__ import annotations

from pathlib import Path

import relevo
from gallery.models import Image
from gallery.store import store

CONFIGURATION = Path(__file__).resolve().parent.parent / "relevo.toml"


def _load(image_id: str) -> Image | None:
    with store.session() as session:
        return session.get(Image, int(image_id))


app = relevo.App.from_config(CONFIGURATION)
app.add_subject(
    relevo.SubjectType(
        type="image", cls=Image, name=lambda image: None if image.id is None else str(image.id), load=_load
    )
)
