"""``relevo schema`` as a user meets it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .shop import Shop, opened

EVENTS = """
import attrs
import relevo

@relevo.event("image.created", subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int
    size: str = "small"

@relevo.event("mail.sent")
@attrs.frozen
class MailSent:
    to: str

@relevo.listener(ImageCreated, queue="media")
def thumbnails(event): ...

@relevo.listener(MailSent)
def count(event): ...

@relevo.listener("image.deleted")
def by_name(event): ...
"""

RICHER = EVENTS.replace('    size: str = "small"\n', '    size: str = "small"\n    width: int = 0\n')
BROKEN = EVENTS.replace('    size: str = "small"\n', "    size: int\n")
MENDED = BROKEN.replace('of="image")', 'of="image", version=2, upcasters={1: dict})')


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", EVENTS)
    return shop


def test_it_shows_every_event_that_a_listener_asks_for_by_its_class(shop: Shop) -> None:
    done = shop.run("schema")

    shown = json.loads(done.stdout)
    assert done.returncode == 0
    assert list(shown["$defs"]) == ["image.created", "mail.sent"]
    assert shown["title"] == "The events of shop"
    assert shown["$defs"]["image.created"]["required"] == ["image_id"]


def test_it_shows_those_that_are_named(shop: Shop) -> None:
    assert list(json.loads(shop.run("schema mail.sent").stdout)["$defs"]) == ["mail.sent"]


@pytest.mark.parametrize(
    "name, why",
    [
        ("mail.send", 'declares "mail.send"; did you mean "mail.sent"?'),
        ("image.deleted", "its listeners take it by name"),
    ],
)
def test_an_event_that_is_not_declared_is_told(shop: Shop, name: str, why: str) -> None:
    done = shop.run(f"schema {name}")

    assert (done.returncode, done.stdout) == (2, "")
    assert why in " ".join(done.stderr.split())


def test_it_is_the_same_every_time_and_goes_to_a_file(shop: Shop) -> None:
    shown = shop.run("schema")

    written = shop.run("schema --out events.json")

    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert shop.folder.joinpath("events.json").read_text() == shown.stdout
    assert json.dumps(json.loads(shown.stdout), indent=2, sort_keys=True) + "\n" == shown.stdout


def test_a_file_that_cannot_be_written_is_told(shop: Shop) -> None:
    done = shop.run("schema --out nowhere/events.json")

    assert done.returncode == 2
    assert "nowhere/events.json cannot be written: No such file" in done.stderr


def test_it_shows_the_channels(shop: Shop) -> None:
    shown = json.loads(shop.run("schema --asyncapi --api-version 2.1").stdout)

    assert (shown["asyncapi"], shown["info"]) == ("3.0.0", {"title": "shop", "version": "2.1"})
    assert sorted(shown["operations"]) == [
        "receive.main.default",
        "receive.main.media",
        "send.main.default",
        "send.main.feed",
        "send.main.media",
    ]


@pytest.mark.parametrize("form", ["", "--asyncapi"])
def test_nothing_changed(shop: Shop, form: str) -> None:
    shop.run(f"schema {form} --out events.json")

    done = shop.run(f"schema {form} --diff events.json")

    assert (done.returncode, done.stdout) == (0, "nothing changed\n")


def test_what_breaks_is_told_with_what_to_do_and_ends_with_1(shop: Shop) -> None:
    shop.run("schema --out events.json")
    shop.write("shop_listeners.py", BROKEN)

    done = shop.run("schema --diff events.json --out events.json")

    assert done.returncode == 1
    mend = "raise the version to 2, with an upcaster from 1"
    assert done.stdout.splitlines() == [
        f"breaking image.created $.size has no default any more (older events); {mend}",
        f"breaking image.created $.size was string, and is integer (older events and newer events); {mend}",
        "2 breaking",
    ]
    assert '"string"' in shop.folder.joinpath("events.json").read_text(), "the earlier output is still there"


def test_a_higher_version_with_an_upcaster_mends_it(shop: Shop) -> None:
    shop.run("schema --out events.json")
    shop.write("shop_listeners.py", MENDED)

    done = shop.run("schema --diff events.json --out events.json")

    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "2 mended"
    assert shop.run("schema --diff events.json").stdout == "nothing changed\n"


def test_what_is_harmless_is_told_too(shop: Shop) -> None:
    shop.run("schema --out events.json")
    shop.write("shop_listeners.py", RICHER)

    done = shop.run("schema --diff events.json")

    assert done.returncode == 0
    assert done.stdout == "harmless image.created $.width is new, with a default\n1 harmless\n"


def test_it_tells_programs(shop: Shop) -> None:
    shop.run("schema --out events.json")
    shop.write("shop_listeners.py", BROKEN)

    done = shop.run("schema --diff events.json --json")

    assert done.returncode == 1
    assert json.loads(done.stdout)[1] == {
        "event": "image.created",
        "path": "$.size",
        "what": "was string, and is integer",
        "breaks": ["older events", "newer events"],
        "mend": "raise the version to 2, with an upcaster from 1",
    }


def test_only_those_that_are_named_are_compared(shop: Shop) -> None:
    shop.run("schema --out events.json")
    shop.write("shop_listeners.py", BROKEN)

    done = shop.run("schema mail.sent --diff events.json")

    assert (done.returncode, done.stdout) == (0, "nothing changed\n")


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", "\xff", "[" * 100_000])
def test_a_file_that_is_no_output_is_told(shop: Shop, content: str) -> None:
    shop.write("events.json", content.encode("latin-1"))

    done = shop.run("schema --diff events.json")

    assert (done.returncode, done.stdout) == (2, "")
    assert "events.json cannot be compared with" in " ".join(done.stderr.split())


def test_a_file_that_is_not_there_is_told(shop: Shop) -> None:
    assert shop.run("schema --diff events.json").returncode == 2


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "huge"])
def test_an_earlier_output_that_is_no_regular_file_is_refused(kind: str, shop: Shop) -> None:
    path = shop.folder / "events.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(100 * 1024**2)

    done = shop.run("schema --diff events.json")

    assert (done.returncode, done.stdout) == (2, "")
    assert "events.json" in done.stderr
    assert kind in done.stderr or "expected a file of at most 64 MiB; got a larger one" in done.stderr
