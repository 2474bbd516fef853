"""The application: its configuration is in relevo.toml, what an event's subject is stands here."""

from __future__ import annotations

from pathlib import Path

import relevo
from gallery.models import Image
from gallery.store import store
from relevo_sql import orm_subject

CONFIGURATION = Path(__file__).resolve().parent.parent / "relevo.toml"


def make(*, clock: relevo.Clock | None = None) -> relevo.App:
    """Return the application as relevo.toml and the environment describe it."""
    made = relevo.App.from_config(CONFIGURATION, clock=clock)
    made.add_subject(orm_subject(Image, store.session))
    return made


app = make()
