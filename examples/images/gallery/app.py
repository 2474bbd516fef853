"""The application, with its kind of subject; its configuration is relevo.toml or the file that RELEVO_CONFIG names."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL

import relevo
from gallery.models import Image
from gallery.store import store
from relevo_sql import SqlTransport, orm_subject

CONFIGURATION = Path(os.environ.get("RELEVO_CONFIG") or Path(__file__).resolve().parent.parent / "relevo.toml")


def make(configuration: Path = CONFIGURATION, *, clock: relevo.Clock | None = None) -> relevo.App:
    """Return the application as *configuration* and the environment describe it."""
    made = relevo.App.from_config(configuration, clock=clock)
    made.add_subject(orm_subject(Image, store.session))
    store.use(_database(made))
    return made


def _database(made: relevo.App) -> URL | None:
    """Return the address of the database that stores the events or their outbox, so that images commit with them."""
    joined = made.outboxes.get(made.transport().name, made.transport())
    return joined.url if isinstance(joined, SqlTransport) else None


app = make()
