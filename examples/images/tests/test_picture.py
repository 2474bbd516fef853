from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from gallery import picture


def test_an_interrupted_upload_is_unreadable(photos: Path) -> None:
    with Image.open(photos / "broken.jpg") as header:
        assert header.size == (600, 400)

    with pytest.raises(picture.UnreadablePictureError, match=r"truncated|broken"):
        picture.opened(photos / "broken.jpg")


def test_what_is_no_picture_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>413 Request Entity Too Large</html>")
    (tmp_path / "empty.jpg").touch()

    for name in ("page.jpg", "empty.jpg"):
        with pytest.raises(picture.UnreadablePictureError, match="cannot identify"):
            picture.opened(tmp_path / name)


def test_a_missing_file_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        picture.opened(tmp_path / "late.jpg")


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    lying = Image.new("RGB", (40, 20))
    exif = lying.getexif()
    exif[0x0112] = 6  # turned by a quarter, as cameras note it
    lying.save(tmp_path / "lying.jpg", exif=exif)

    assert picture.opened(tmp_path / "lying.jpg").size == (20, 40)


@pytest.mark.parametrize(("size", "expected"), [(160, (160, 107)), (320, (320, 213)), (640, (600, 400))])
def test_a_picture_shrinks_in_proportion_and_never_grows(photos: Path, size: int, expected: tuple[int, int]) -> None:
    full = picture.opened(photos / "coffee.jpg")

    small = picture.shrunk(full, size)

    assert small.size == expected
    assert full.size == (600, 400)
