"""The part that a user waits for."""

from __future__ import annotations

from pathlib import Path

import relevo
from gallery.models import Image
from gallery.store import store


def upload(app: relevo.App, source: Path) -> Image:
    """
    Store the photograph *source*; thumbnails, rating and feed follow later.

    The image and its event commit together, or neither does.
    """
    image = Image(filename=source.name, path=store.keep(source))
    try:
        with store.session() as session, session.begin():
            session.add(image)
            app.dispatch(relevo.Event("image.created", {"filename": image.filename}, subject=image), session=session)
    except BaseException:
        store.remove(image.path)
        raise
    return image
