"""Why an event waits that no listener has failed on: drain, list and show say it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from .shop import LISTENERS, Shop, opened

APP = """
import relevo
orders = relevo.SubjectType(type="order", cls=list, name=str, load=lambda name: None)
app = relevo.App.from_config()
app.add_subject(orders)
"""

WITH_SUBJECT = LISTENERS.replace("def count(event): ...", "def count(event, call): call.subject")


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    shop = opened(tmp_path)
    shop.write("shop.py", APP)
    shop.write("shop_listeners.py", WITH_SUBJECT)
    return shop


@pytest.fixture(name="from_cron")
def _from_cron() -> Iterator[None]:
    """Set the level that a drain without a terminal sets; it sets none where a program configured logging."""
    log = logging.getLogger("relevo.listener")
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(logging.NOTSET)


def warnings(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == name]


@pytest.mark.lengthy("runs commands")
def test_an_event_without_its_subject_is_logged_once_and_shown(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    event_id = shop.run("dispatch mail.sent --subject order/9999 --json").stdout

    shop.run("drain -l warning --settle 1.2s")
    listed, shown = shop.run("list"), shop.run(f"show {json.loads(event_id)['id']}")

    (line,) = warnings(caplog, "relevo.listener")
    assert " in default waits until 20" in line
    assert line.endswith(" for its subject order/9999, which was not found: it may not be committed yet")
    assert "waits for its subject order/9999 until 20" in listed.stdout
    assert "\nproblem:     waits for its subject order/9999 until 20" in shown.stdout


@pytest.mark.usefixtures("from_cron")
def test_an_event_without_its_subject_is_not_mailed_by_cron(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.run("dispatch mail.sent --subject order/9999")

    shop.run("drain")

    assert caplog.messages == []


@pytest.mark.lengthy("runs commands")
@pytest.mark.usefixtures("from_cron")
def test_a_misspelt_event_is_logged_by_the_first_drain_from_cron_and_by_no_other(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.run("dispatch mail.snet")

    shop.run("drain --settle 1.2s")

    (line,) = warnings(caplog, "relevo.worker")
    assert line.startswith('no listener here for "mail.snet" in the queue "default"; ')
    assert 'did you mean "mail.sent"' in line


@pytest.mark.usefixtures("from_cron")
def test_another_event_of_the_same_misspelt_name_is_logged_too(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        shop.run("dispatch mail.snet")
        shop.run("drain")

    assert len(warnings(caplog, "relevo.worker")) == 2


def test_a_list_and_show_say_that_no_listener_is_here_and_which_event_was_meant(shop: Shop) -> None:
    event_id = json.loads(shop.run("dispatch mail.snet --json").stdout)["id"]
    shop.run("drain")

    (row,) = json.loads(shop.run("list --json").stdout)
    shown = shop.run(f"show {event_id}")

    assert row["problem"].startswith('no listener here; did you mean "mail.sent" (')
    assert row["error"] is None
    assert '\nproblem:     no listener here; did you mean "mail.sent" (' in shown.stdout
