"""The official SDKs of CloudEvents, for Python and JavaScript, and the programs of the page that shows them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

import relevo
from relevo_amqp import AmqpOptions, AmqpTransport
from server_starter import in_ci

ROOT = Path(__file__).parents[2]
SDK = ROOT / "backends" / "amqp" / "tests" / "sdk"
PAGE = ROOT / "docs" / "how-to" / "exchange-cloudevents.md"
PACKAGES = ("cloudevents@10", "amqplib@2")
PATIENCE = 120.0

pytestmark = [pytest.mark.amqp, pytest.mark.soak]  # npm installs the packages, from a registry


@pytest.fixture(name="node", scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the packages for JavaScript."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        if in_ci(os.environ):
            pytest.fail("node and npm are not installed")
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    subprocess.run([npm, "install", "--no-audit", "--no-fund", *PACKAGES], cwd=folder, check=True, timeout=600)
    return folder


@pytest.fixture(name="options")
def _options(rabbitmq_url: str) -> Iterator[AmqpOptions]:
    """Give options with names of their own, which are deleted at the end."""
    options = AmqpOptions(url=rabbitmq_url, prefix=f"sdk-{secrets.token_hex(4)}", levels=6, settle_in=0.0)
    transport = AmqpTransport(options)
    declared = "\n".join(transport.setup(["default", "feed"]))
    transport.close()
    yield options
    time.sleep(1)  # RabbitMQ 4.0.5 may fail if a queue is deleted just after it was declared
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    channel = connection.channel()
    for kind, name in re.findall(rf'(queue|exchange) "({options.prefix}[^"]*)"', declared):
        (channel.queue_delete if kind == "queue" else channel.exchange_delete)(name)
    connection.close()


def run(options: AmqpOptions, number: int) -> dict[str, relevo.Event]:
    """Handle *number* events of other programs; return them by their ids."""
    seen: dict[str, relevo.Event] = {}
    with AmqpTransport(options) as transport:
        app = relevo.App(transports={"main": transport}, routes={"*": "main"}, source="shop")

        @app.listen
        @relevo.listener("image.created", retry=relevo.Retry(2, first="0.1s"))
        def handle(event: relevo.Event, call: relevo.Call) -> None:
            if call.attempt == 1:
                raise ValueError("again, so that it is published again")
            seen[call.event_id] = event

        deadline = time.monotonic() + PATIENCE
        while len(seen) < number and time.monotonic() < deadline:
            report = app.worker(relevo.RunOptions(until_empty=True, settle=1.0)).run()
            assert report.reasons == {}
    return seen


def published(options: AmqpOptions, *program: str, cwd: Path) -> int:
    """Run *program*, which publishes; return how many events."""
    queue = f"{options.prefix}.q.default"
    environ = {**os.environ, "NODE_PATH": str(cwd / "node_modules")}
    command = [*program, options.url, "", queue]
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return int(done.stdout)


def test_what_the_sdk_for_python_publishes_is_handled(options: AmqpOptions, tmp_path: Path) -> None:
    number = published(options, sys.executable, str(SDK / "publish.py"), cwd=tmp_path)

    seen = run(options, number)

    assert len(seen) == number == 16
    assert seen["object amqp"].arguments == {"image_id": 7, "ratio": 1.5}
    assert seen["bytes structured"]["data"] == seen["bytes binary"]["data"] == b"\x89PNG\x00\xff"


def test_what_the_sdk_for_javascript_publishes_is_handled(options: AmqpOptions, node: Path) -> None:
    number = published(options, "node", str(SDK / "publish.js"), cwd=node)

    seen = run(options, number)

    assert len(seen) == number == 18
    assert seen["object kafka"].arguments == {"image_id": 7, "ratio": 1.5}
    assert seen["bytes structured"]["data"] == seen["bytes binary"]["data"] == b"\x89PNG\x00\xff"


def test_the_programs_of_the_page_publish_and_receive(options: AmqpOptions, node: Path) -> None:
    for name, text in re.findall(r"```js\n// (\w+\.js)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (node / name).write_text(text)
    queue = f"{options.prefix}.q."
    subprocess.run(["node", "publish.js", options.url, f"{queue}default"], cwd=node, check=True, timeout=PATIENCE)
    with AmqpTransport(options) as transport:
        app = relevo.App(transports={"main": transport}, routes={"*": "main/feed"}, source="shop")
        app.dispatch(relevo.Event("order.placed", {"total": 12}, subject=relevo.Subject("order", "7")))

    (event,) = run(options, 1).values()
    with subprocess.Popen(
        ["node", "receive.js", options.url, f"{queue}feed"], cwd=node, stdout=subprocess.PIPE, text=True
    ) as receiver:
        assert receiver.stdout is not None
        line = receiver.stdout.readline()
        receiver.kill()

    assert event.arguments == {"path": "dune.jpg"}
    assert line == 'order.placed order/7 {"total":12}\n'


def test_the_program_of_the_page_fails_if_there_is_no_queue(options: AmqpOptions, node: Path) -> None:
    (text,) = re.findall(r"```js\n// publish\.js\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (node / "publish.js").write_text(text)
    missing = f"{options.prefix}.q.missing"

    command = ["node", "publish.js", options.url, missing]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, check=False, timeout=PATIENCE)

    assert done.returncode == 1
    assert f"{missing}: no such queue" in done.stderr
