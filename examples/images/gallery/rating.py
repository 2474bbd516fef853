"""
The technical quality of a photograph: pure functions of pixels.

Sharpness is the variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in brightfield
microscopy", ICPR 2000). Colourfulness is M^(3) of Hasler and Süsstrunk, "Measuring colourfulness in natural
images", Human Vision and Electronic Imaging VIII, SPIE 5007, 2003. Exposure is a measure of this example: the share of
clipped pixels, and the distance of the mean from the middle. Each becomes a score from 0 to 1.
"""

from __future__ import annotations

import math

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gallery.picture import shrunk

Pixels = NDArray[np.float64]

SIZE = 512
"""Pixels of the longer edge for all measurements, since the variance of neighbours depends on the scale."""

SHARPNESS_RANGE = (10.0, 1000.0)
"""Variances of the Laplacian that score 0 and 1, logarithmically between: out of focus, and crisp."""

HIGHLY_COLOURFUL = 82.0
"""The M that Hasler and Süsstrunk's observers called highly colourful; it and more scores 1."""

CLIPPED = (4.0, 251.0)
"""Luminances up to the first and from the second on show no detail."""

SHARPNESS, EXPOSURE, COLOURFULNESS = 0.45, 0.35, 0.2
"""The weight of each score in the stars; together 1."""


@attrs.frozen
class Scores:
    """The measured scores, each from 0 (bad) to 1 (good)."""

    sharpness: float
    exposure: float
    colourfulness: float

    @property
    def stars(self) -> float:
        """0 to 5, in halves."""
        total = SHARPNESS * self.sharpness + EXPOSURE * self.exposure + COLOURFULNESS * self.colourfulness
        return round(10.0 * total) / 2.0


def rate(picture: Image.Image) -> Scores:
    """Return the scores of *picture*, an RGB image of any size."""
    small = shrunk(picture, SIZE)
    colours = np.asarray(small, dtype=np.float64)
    luminance = np.asarray(small.convert("L"), dtype=np.float64)
    return Scores(sharpness(luminance), exposure(luminance), colourfulness(colours))


def sharpness(luminance: Pixels) -> float:
    """Return the sharpness of *luminance*, rows of 0 to 255."""
    low, high = SHARPNESS_RANGE
    variance = laplacian_variance(luminance)
    return _limited(math.log(max(variance, low) / low) / math.log(high / low))


def exposure(luminance: Pixels) -> float:
    """Return the exposure of *luminance*, rows of 0 to 255: few clipped pixels, and a mean near the middle."""
    dark, bright = CLIPPED
    kept = 1.0 - float(np.mean((luminance <= dark) | (luminance >= bright)))
    off_centre = float(luminance.mean()) / 127.5 - 1.0
    return _limited(kept * (1.0 - off_centre**2))


def colourfulness(colours: Pixels) -> float:
    """Return the colourfulness of *colours*, rows of red, green, blue from 0 to 255."""
    return _limited(hasler_suesstrunk(colours) / HIGHLY_COLOURFUL)


def laplacian_variance(luminance: Pixels) -> float:
    """Return the variance of each inner pixel's four neighbours less four times itself; 0 if there is none."""
    if min(luminance.shape) < 3:
        return 0.0
    centre = luminance[1:-1, 1:-1]
    neighbours = luminance[:-2, 1:-1] + luminance[2:, 1:-1] + luminance[1:-1, :-2] + luminance[1:-1, 2:]
    return float(np.var(neighbours - 4.0 * centre))


def hasler_suesstrunk(colours: Pixels) -> float:
    """Return M^(3): the spread of the opponent colours plus 0.3 times the length of their mean; 0 for grey."""
    red, green, blue = colours[..., 0], colours[..., 1], colours[..., 2]
    red_green = red - green
    yellow_blue = (red + green) / 2.0 - blue
    spread = math.hypot(float(red_green.std()), float(yellow_blue.std()))
    mean = math.hypot(float(red_green.mean()), float(yellow_blue.mean()))
    return spread + 0.3 * mean


def _limited(score: float) -> float:
    return min(1.0, max(0.0, score))
