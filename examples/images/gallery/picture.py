"""Photographs as pixels: opened safely, and made smaller."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

Picture = Image.Image


class UnreadablePictureError(ValueError):
    """Raised when a file is not a picture, or only a part of one; a retry cannot help."""


def opened(path: Path) -> Picture:
    """
    Return the picture in the file at *path*, decoded, upright, as RGB.

    Raises:
        UnreadablePictureError: The file's bytes are not a whole picture.

        OSError: The file cannot be read now; a retry may help.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture).convert("RGB")
    except OSError as error:
        if error.errno is not None:  # an error of the operating system; Pillow's own errors have no errno
            raise
        raise UnreadablePictureError(str(error)) from error
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise UnreadablePictureError(str(error)) from error


def shrunk(picture: Picture, size: int) -> Picture:
    """Return a copy of *picture* that fits into a square of *size* pixels; never enlarged."""
    copy = picture.copy()
    copy.thumbnail((size, size), Image.Resampling.LANCZOS)
    return copy


def jpeg(picture: Picture) -> bytes:
    """Return *picture* as the bytes of a JPEG."""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
