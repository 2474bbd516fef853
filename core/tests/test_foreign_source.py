"""Two applications that handle one queue take each other's events; both are told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from relevo import App, Event, RunOptions, Signing
from relevo_memory import MemoryStore, MemoryTransport

from .shop import opened

KEY = "Zr3kQ0vW8tYx1LpN5mHs7dFgJb2cA9eUo4iTq6"

WITH_LISTENERS = ["main/media", "main/feed"]


def _app(store: MemoryStore, source: str, **parts: object) -> App:
    app = App(transports={"main": MemoryTransport(store)}, routes={"*": "main"}, source=source, **parts)  # type: ignore[arg-type]
    app.add_listener("order.placed", lambda _: None, id="hear")
    return app


@pytest.mark.parametrize("source, accept, number", [("analytics", "", 1), ("shop", "", 0), ("analytics", "shop", 0)])
@pytest.mark.parametrize("until_empty", [True, False])
def test_the_first_event_of_another_application_is_logged(
    *, source: str, accept: str, number: int, until_empty: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    signing = {"signing": Signing(KEY)} if accept else {}
    shop = _app(store, "shop", **signing)
    shop.dispatch_many([Event("order.placed") for _ in range(5)])
    signing = {"signing": Signing(KEY, accept=[accept])} if accept else {}
    other = _app(store, source, **signing)

    with caplog.at_level(logging.INFO, "relevo.worker"):
        report = other.worker(RunOptions(until_empty=until_empty, max_events=5)).run()

    assert report.done == 5
    lines = [each for each in caplog.records if "an event of" in each.getMessage()]
    assert len(lines) == number
    for line in lines:
        assert line.levelno == (logging.INFO if until_empty else logging.WARNING)
        assert "order.placed" in line.getMessage()
        assert "in default, an event of the application 'shop'; if that" in line.getMessage()


def test_a_live_check_warns_of_waiting_events_of_another_application(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    config = shop.folder.joinpath("relevo.toml").read_text()
    assert shop.run("dispatch image.created").returncode == 0
    own = shop.run("check --live")
    shop.write("relevo.toml", config.replace('source = "shop"', 'source = "analytics"'))
    for _ in range(2):
        assert shop.run("dispatch image.created").returncode == 0
    shop.write("relevo.toml", config)

    live, strict, quick = shop.run("check --live"), shop.run("check --live --strict"), shop.run("check")

    assert "analytics" not in own.stdout + quick.stdout
    texts = [row for row in live.stdout.splitlines() if "analytics" in row]
    assert len(texts) == len(WITH_LISTENERS)
    for queue, text in zip(WITH_LISTENERS, texts, strict=True):
        assert text.startswith(f"queue {queue} ")
        assert "the 3 events that were looked at, 2 are of 'analytics', and not of this application; if" in text
    assert (live.returncode, strict.returncode) == (own.returncode, shop.run("check --strict").returncode)
