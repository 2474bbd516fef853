from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from gallery import picture, rating

COLOUR = ["astronaut.jpg", "chelsea.jpg", "coffee.jpg", "hubble.jpg", "retina.jpg", "rocket.jpg"]
GREY = ["camera.jpg", "clock.jpg"]

each_photo = pytest.mark.parametrize("name", COLOUR + GREY)
each_colour_photo = pytest.mark.parametrize("name", COLOUR)


@pytest.fixture
def photo(photos: Path, name: str) -> Image.Image:
    return picture.opened(photos / name)


@each_photo
def test_a_blurred_copy_is_less_sharp(photo: Image.Image) -> None:
    blurred = photo.filter(ImageFilter.GaussianBlur(4))

    assert rating.laplacian_variance(grey(blurred)) < rating.laplacian_variance(grey(photo))
    assert rating.rate(blurred).stars <= rating.rate(photo).stars


@each_colour_photo
def test_a_grey_copy_has_no_colourfulness(photo: Image.Image) -> None:
    assert rating.rate(photo).colourfulness > 0.1

    assert rating.rate(photo.convert("L").convert("RGB")).colourfulness == 0


@each_colour_photo
def test_a_paler_copy_is_less_colourful(photo: Image.Image) -> None:
    pale = ImageEnhance.Color(photo).enhance(0.4)

    assert rating.hasler_suesstrunk(colours(pale)) < rating.hasler_suesstrunk(colours(photo))


@each_photo
def test_an_underexposed_copy_is_worse_exposed(photo: Image.Image) -> None:
    dark = photo.point(lambda value: 2.6 * value - 300)

    assert rating.rate(dark).exposure < rating.rate(photo).exposure


@pytest.mark.parametrize("name", [name for name in COLOUR + GREY if name != "hubble.jpg"])  # the night gains by light
def test_an_overexposed_copy_is_worse_exposed(photo: Image.Image) -> None:
    bright = photo.point(lambda value: 2.6 * value + 90)

    assert rating.rate(bright).exposure < rating.rate(photo).exposure


def test_what_is_clipped_counts_against_the_exposure_whatever_the_mean() -> None:
    board = np.indices((8, 8), dtype=np.float64).sum(axis=0) % 2

    assert rating.exposure(64.0 + 127.0 * board) == pytest.approx(1.0, abs=0.001)
    assert rating.exposure(255.0 * board) == 0


@each_photo
def test_size_hardly_matters(photo: Image.Image) -> None:
    large = photo.resize((photo.width * 2, photo.height * 2), Image.Resampling.LANCZOS)

    assert rating.rate(large).exposure == pytest.approx(rating.rate(photo).exposure, abs=0.05)
    assert rating.rate(large).colourfulness == pytest.approx(rating.rate(photo).colourfulness, abs=0.05)


@each_photo
def test_stars_are_halves_from_0_to_5(photo: Image.Image) -> None:
    stars = rating.rate(photo).stars

    assert 0 <= stars <= 5
    assert stars * 2 == int(stars * 2)


@pytest.mark.parametrize(("level", "stars"), [(0, 0), (255, 0), (128, 1.5)])
def test_a_blank_picture_earns_what_its_exposure_is_worth(level: int, stars: float) -> None:
    assert rating.rate(Image.new("RGB", (64, 64), (level,) * 3)).stars == stars


def test_perfect_scores_are_five_stars_and_none_are_zero() -> None:
    assert rating.Scores(1.0, 1.0, 1.0).stars == 5
    assert rating.Scores(0.0, 0.0, 0.0).stars == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3), (4000, 1)])
def test_tiny_pictures_are_rated_too(size: tuple[int, int]) -> None:
    assert 0 <= rating.rate(Image.new("RGB", size, (200, 20, 20))).stars <= 5


def test_the_laplacian_of_a_known_picture_is_known() -> None:
    point = np.zeros((5, 5))
    point[2, 2] = 9.0

    # The nine inner values are -36 once, 9 four times and 0 four times: mean 0, mean square 180.
    assert rating.laplacian_variance(point) == pytest.approx(180.0)


def test_colourfulness_is_that_of_the_paper() -> None:
    red_and_blue = np.array([[[255.0, 0.0, 0.0], [0.0, 0.0, 255.0]]])

    # red - green: 255, 0; (red + green) / 2 - blue: 127.5, -255.
    spread = np.hypot(127.5, 191.25)
    mean = np.hypot(127.5, -63.75)
    assert rating.hasler_suesstrunk(red_and_blue) == pytest.approx(spread + 0.3 * mean)


def test_the_motion_blurred_clock_has_the_fewest_stars(photos: Path) -> None:
    stars = {name: rating.rate(picture.opened(photos / name)).stars for name in COLOUR + GREY}

    assert min(stars, key=lambda name: stars[name]) == "clock.jpg"
    assert stars["coffee.jpg"] >= 4


def grey(photo: Image.Image) -> rating.Pixels:
    return np.asarray(photo.convert("L"), dtype=np.float64)


def colours(photo: Image.Image) -> rating.Pixels:
    return np.asarray(photo, dtype=np.float64)
