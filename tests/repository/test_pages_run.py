"""What the README and the documentation show is so: their blocks are run, page by page."""

from __future__ import annotations

import gc
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from relevo_amqp import AmqpOptions, AmqpTransport

from .page import Page
from .workspace import ROOT, files

DOCS = [path for path in files() if path.suffix == ".md" and path.is_relative_to(ROOT / "docs")]
PAGES = [path for path in (ROOT / "README.md", ROOT / "core" / "README.md", *DOCS) if Page(path, ROOT).examples]
pytestmark = pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # the engines of a page are its own

QUEUES = ("default", "media", "feed")
"""All that a page routes to on RabbitMQ."""

WITH_RABBITMQ = [path for path in PAGES if Page(path, ROOT).needs_rabbitmq]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect what a page leaves before another test begins, which would be blamed for it."""
    yield
    gc.collect()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(name="server")
def _server(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Give the variables that lead to a server, under names that nobody else has; none where there is no server."""
    try:
        url: str = request.getfixturevalue("rabbitmq_url")
    except pytest.skip.Exception:
        yield {}
        return
    options = AmqpOptions(url=url, prefix=f"page-{secrets.token_hex(4)}", levels=8)
    transport = AmqpTransport(options)
    declared = "\n".join(transport.setup(QUEUES, dry_run=True))
    transport.close()
    variables = {"URL": url, "PREFIX": str(options.prefix), "LEVELS": str(options.levels), "SETTLE_IN": "0"}
    yield {f"RELEVO_TRANSPORTS__MAIN__{key}": value for key, value in variables.items()}
    time.sleep(1)  # RabbitMQ 4.0.5 is not up to a queue that goes just after it came
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for kind, name in re.findall(rf'(queue|exchange) "({options.prefix}[^"]*)"', declared):
        (channel.queue_delete if kind == "queue" else channel.exchange_delete)(name)
    connection.close()


def marked(path: Path) -> object:
    """Return *path*, marked as slow, the README as lengthy."""
    slow = pytest.mark.slow("starts many processes, alike on every Python")
    lengthy = pytest.mark.lengthy("starts processes")
    return pytest.param(path, marks=lengthy if path == ROOT / "README.md" else slow)


@pytest.mark.parametrize("path", [marked(path) for path in PAGES if path not in WITH_RABBITMQ], ids=relative)
def test_a_page_runs(path: Path, folder: Path) -> None:
    assert Page(path, folder).run() == 0


@pytest.mark.amqp
@pytest.mark.slow("a page starts many processes, alike on every Python")
@pytest.mark.parametrize("path", WITH_RABBITMQ, ids=relative)
def test_a_page_that_goes_on_to_rabbitmq_runs(path: Path, folder: Path, server: dict[str, str]) -> None:
    page = Page(path, folder)
    page.rabbitmq = server

    left_out = page.run()

    if left_out:
        pytest.skip(f"but for {left_out} blocks it does; they need RabbitMQ")
