"""The events of the gallery."""

from __future__ import annotations

import attrs

import relevo


@relevo.event("image.created", version=1)
@attrs.frozen
class ImageCreated:
    """A photograph was uploaded; its subject is the :class:`gallery.models.Image`."""

    filename: str
