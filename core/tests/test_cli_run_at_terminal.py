"""What `relevo worker` and `relevo drain` show at a terminal."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import relevo
from relevo import Envelope
from relevo.cli._terminal import _Progress
from relevo.testing import FakeClock

from .shop import APP, Shop, opened

LISTENERS = """
import relevo

@relevo.listener("image.created", queue="media", retry=relevo.Retry(5, first="9m", jitter=0))
def thumbnails(event):
    raise ValueError("no such file")

@relevo.listener("image.created", queue="feed")
def feed(event):
    print("in the feed")
"""


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    shop = opened(tmp_path)
    shop.write("shop_listeners.py", LISTENERS)
    return shop


def at_terminal(shop: Shop, command: str) -> list[str]:
    """Return the lines that *command* prints at a terminal, without colours; those of a bar are several."""
    terminal, its_end = os.openpty()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "relevo", *shlex.split(command)],
        cwd=shop.folder,
        env={**environ, "TERM": "xterm", "COLUMNS": "100"},
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
    )
    os.close(its_end)
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # the process has ended
        pass
    os.close(terminal)
    process.wait()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.mark.slow("a command in a process of its own")
def test_a_worker_says_that_it_waits_for_the_end_of_a_deploy(shop: Shop) -> None:
    shop.run("deploy begin")

    (line,) = at_terminal(shop, "worker --max-time 0.3")[:1]

    assert line.startswith("relevo worker: waiting: a deploy is in progress on this host since ")


@pytest.mark.slow("two commands, each in a process of its own")
def test_a_worker_says_what_it_serves_how_to_stop_it_and_which_listener_failed(shop: Shop) -> None:
    shop.run("dispatch image.created")

    lines = at_terminal(shop, "worker --max-events 2 -c 2")

    assert lines[:4] == [
        "relevo worker: main: media, feed, default; 2 listeners, 2 threads",
        "  media  image.created  shop_listeners:thumbnails",
        "  feed   image.created  shop_listeners:feed",
        "Ctrl-C finishes the current events and ends; a second Ctrl-C ends at once. Tracebacks: -l info",
    ]
    (warning,) = [line for line in lines if " WARNING " in line]
    assert "shop_listeners:thumbnails failed on image.created " in warning
    assert warning.endswith(" in media (run 1 of 5, again in 9 min): ValueError: no such file (shop_listeners.py:6)")
    assert re.fullmatch(r"1 done in .* s, 1 retry \(1 listener-failed\)", lines[-1])


OWN_LOGGING = """
import logging, relevo
logging.basicConfig(force=True, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
app = relevo.App.from_config()
"""


@pytest.mark.slow("two commands, each in a process of its own")
@pytest.mark.parametrize("application", [APP, OWN_LOGGING], ids=["relevo's logging", "logging of its own"])
def test_what_is_logged_or_printed_during_a_drain_is_above_a_bar_with_a_total(shop: Shop, application: str) -> None:
    shop.run("dispatch image.created")
    shop.write("shop.py", application)

    lines = at_terminal(shop, "drain")

    bars = [line for line in lines if "draining" in line]
    assert bars
    assert any(re.search(r" [012]/2\b", line) for line in bars), bars
    assert not any("WARNING" in line or "in the feed" in line for line in bars)
    assert "in the feed" in lines
    assert len([line for line in lines if " WARNING relevo.listener: shop_listeners:thumbnails failed " in line]) == 1


@pytest.mark.slow("a command in a process of its own")
def test_a_worker_without_listeners_says_so_and_that_it_relays(shop: Shop) -> None:
    text = (shop.folder / "relevo.toml").read_text().replace('"shop_listeners"', "")
    shop.write(
        "relevo.toml",
        text.replace('"sqlite:///shop.db"', '{ url = "sqlite:///shop.db", outbox = "sqlite:///shop.db" }'),
    )
    shop.run("setup")

    lines = at_terminal(shop, "worker --max-time 1s")

    assert lines[0] == "relevo worker: main: media, feed, default, and the outbox of main; 0 listeners"


@pytest.mark.slow("a command in a process of its own")
def test_the_status_explains_its_columns_at_a_terminal(shop: Shop) -> None:
    shop.run("setup")

    lines = at_terminal(shop, "status")

    assert [line.split()[0] for line in lines[:4]] == ["transport", "main", "main", "main"]
    assert lines[4:] == [
        "ready: can be handled now; leased: a worker has it; scheduled: due later, or a retry",
        "dead: see relevo dead list; oldest: the age of the oldest ready event; -: not known",
    ]
    assert len(shop.run("status").stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("ready", "shown"), [([4, 3], "4/7"), ([4, 0], "4/4"), ([None], "4/?")], ids=["more", "all", "unknown"]
)
def test_the_total_is_what_is_ready_and_grows_with_what_becomes_ready(ready: list[int | None], shown: str) -> None:
    progress = pytest.importorskip("rich.progress")
    console = pytest.importorskip("rich.console").Console(file=io.StringIO())
    clock, left = FakeClock(), iter(ready)
    columns = (progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[rate]}"))
    bar = progress.Progress(*columns, console=console)
    row = bar.add_task("draining", total=None, rate="")
    plugin = _Progress(lambda: next(left), clock.monotonic, bar, row)
    settled = relevo.Delivery(
        envelope=Envelope(id="1", source="shop", name="a.b", body=b"{}"), queue="q", receipt=1, enqueued_at=0.0
    )

    plugin.relevo_around_run()
    clock.advance(2)
    plugin.relevo_around_settle([(settled, relevo.Ack())] * 3 + [(settled, relevo.Release())])
    plugin.relevo_around_settle([(settled, relevo.Nack())])

    console.print(bar)
    assert console.file.getvalue().split() == [shown, "2/s"]
