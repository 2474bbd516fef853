"""The programs as their users would run them: each in a separate folder, in separate processes."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pika
import pytest

from relevo_amqp import AmqpOptions, AmqpTransport

pytestmark = pytest.mark.slow("each starts programs and workers, alike on every Python, as the pages of the docs")

PROGRAMS = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@attrs.frozen
class Program:
    """A copy of one of the programs, and its environment variables."""

    folder: Path
    environ: dict[str, str]

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        """Start a command in the program's folder."""
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0, **environ: str) -> str:
        """Run a command, which exits with *code*; return its output."""
        with self.start(*words, **environ) as process:
            output, errors = process.communicate(timeout=300)
        assert process.returncode == code, f"{words}: {process.returncode}\n{output}\n{errors}"
        return output + errors

    def python(self, code: str, *words: str) -> str:
        """Run *code* in the program's folder, every warning an error."""
        return self.run(sys.executable, "-W", "error", "-c", code, *words)

    def until_it_speaks(self, *words: str, code: int) -> str:
        """Run a command, which exits with 0, until it prints something and exits with *code*."""
        deadline = time.monotonic() + 60
        while True:
            with self.start(*words) as process:
                output, errors = process.communicate(timeout=300)
            if output or errors:
                assert process.returncode == code, output + errors
                return output + errors
            assert process.returncode == 0
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def json(self, *words: str) -> Any:
        """Return the output of a command of relevo with ``--json``."""
        return json.loads(self.run("relevo", *words, "--json"))


Programs = Callable[..., Program]


@pytest.fixture(name="program")
def _program(tmp_path: Path) -> Programs:
    """Return a function that copies the program of a name to a temporary folder."""

    def program(name: str, **environ: str) -> Program:
        folder = tmp_path / name
        shutil.copytree(PROGRAMS / name, folder, ignore=shutil.ignore_patterns("__pycache__", "*.db", "disk"))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RELEVO_", "PYTEST_"))}
        return Program(folder, inherited | {"PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])} | environ)

    return program


@pytest.fixture(name="rabbitmq")
def _rabbitmq(rabbitmq_url: str) -> Iterator[dict[str, str]]:
    """Yield the variables that connect a program to RabbitMQ, with names of its own."""
    options = AmqpOptions(url=rabbitmq_url, prefix=f"program-{secrets.token_hex(4)}", levels=8)
    transport = AmqpTransport(options)
    declared = "\n".join(transport.setup(["default"], dry_run=True))
    transport.close()
    variables = {
        "URL": rabbitmq_url,
        "PREFIX": str(options.prefix),
        "LEVELS": str(options.levels),
        "SETTLE_IN": "0",
    }
    yield {f"RELEVO_TRANSPORTS__MAIN__{key}": value for key, value in variables.items()}
    time.sleep(1)  # RabbitMQ 4.0.5 fails if a queue is deleted just after it was declared
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    channel = connection.channel()
    for kind, name in re.findall(rf'(queue|exchange) "({options.prefix}[^"]*)"', declared):
        (channel.queue_delete if kind == "queue" else channel.exchange_delete)(name)
    connection.close()


# --- flask_upload ---------------------------------------------------------------------------------

UPLOAD = """
from pictures import app, engine
from web import site

client = site.test_client()
sent = client.post("/photos/sea.jpg", data=b"12345")
print(sent.status_code, sent.json["id"], client.post("/photos/empty.jpg").status_code)
app.close()
engine.dispose()
"""

SIZES = """
import sys

from pictures import engine
from web import site

print([site.test_client().get(f"/photos/{number}").json["size"] for number in sys.argv[1:]])
engine.dispose()
"""


@pytest.fixture(name="site", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def _site(request: pytest.FixtureRequest, program: Programs, rabbitmq: dict[str, str]) -> Program:
    if request.param == "sqlite":
        return program("flask_upload", **rabbitmq)
    url: str = request.getfixturevalue("postgresql_database")
    outbox = {"RELEVO_TRANSPORTS__MAIN__OUTBOX": url}
    return program("flask_upload", **rabbitmq, **outbox)


def waiting(program: Program) -> dict[str, int]:
    """Return how many events are ready in each queue."""
    return {line["queue"]: line["ready"] for line in program.json("status")}


def test_an_upload_lies_in_the_outbox_until_a_drain_handles_it(site: Program) -> None:
    assert site.python(UPLOAD) == "202 1 400\n"
    assert waiting(site) == {"default": 0, "outbox/main": 1}  # no event of the one that was rolled back
    assert site.python(SIZES, "1") == "[None]\n"

    site.run("relevo", "drain")

    assert site.python(SIZES, "1") == "[5]\n"
    assert waiting(site) == {"default": 0, "outbox/main": 0}


def test_an_upload_is_handled_by_a_worker_that_waits_for_it(site: Program) -> None:
    site.run("relevo", "setup")
    with site.start("relevo", "worker", "--max-events", "1") as worker:
        site.python(UPLOAD)

        _, errors = worker.communicate(timeout=300)

    assert (worker.returncode, errors) == (0, "")
    assert site.python(SIZES, "1") == "[5]\n"


def test_an_upload_needs_no_broker_beside_postgresql(program: Programs, postgresql_database: str) -> None:
    site = program("flask_upload", RELEVO_TRANSPORTS__MAIN=postgresql_database)

    assert site.python(UPLOAD) == "202 1 400\n"
    assert waiting(site) == {"default": 1}
    site.run("relevo", "drain")

    assert site.python(SIZES, "1") == "[5]\n"


def test_an_upload_needs_no_rabbitmq(program: Programs) -> None:
    site = program("flask_upload", RELEVO_TRANSPORTS__MAIN__URL="amqp://127.0.0.1:1")

    assert site.python(UPLOAD) == "202 1 400\n"
    assert "Connection refused" in site.run("relevo", "drain", code=69)


# --- fastapi_orders -------------------------------------------------------------------------------

ORDERS = """
import asyncio

import httpx

from orders import api


async def main() -> None:
    here = httpx.ASGITransport(api)
    async with api.router.lifespan_context(api), httpx.AsyncClient(transport=here, base_url="http://test") as client:
        {}


asyncio.run(main())
"""


@pytest.fixture(
    name="shop",
    params=[
        "sqlite",
        pytest.param("asyncpg", marks=pytest.mark.postgresql),
        pytest.param("psycopg", marks=[pytest.mark.postgresql, pytest.mark.soak]),
    ],
)
def _shop(request: pytest.FixtureRequest, program: Programs) -> Program:
    if request.param == "sqlite":
        return program("fastapi_orders")
    url: str = request.getfixturevalue("postgresql_database")
    return program("fastapi_orders", ASYNC_DRIVER=request.param, RELEVO_TRANSPORTS__MAIN=url)


def test_an_order_is_confirmed_by_a_drain(shop: Program) -> None:
    placed = 'print((await client.post("/orders", json={"dish": "soup"}, headers={"X-Request-Id": "r-1"})).json())'
    assert shop.python(ORDERS.format(placed)) == "{'id': 1}\n"
    shown = 'print((await client.get("/orders/1")).json())'
    assert shop.python(ORDERS.format(shown)) == "{'dish': 'soup', 'confirmed_by': None}\n"

    shop.run("relevo", "drain")

    assert shop.python(ORDERS.format(shown)) == "{'dish': 'soup', 'confirmed_by': 'r-1'}\n"


TWO_STARTS = """
import asyncio

import httpx

from orders import api


async def start_and_order(dish: str) -> None:
    here = httpx.ASGITransport(api)
    async with api.router.lifespan_context(api), httpx.AsyncClient(transport=here, base_url="http://test") as client:
        print((await client.post("/orders", json={"dish": dish})).json())


for dish in ("soup", "bread"):
    asyncio.run(start_and_order(dish))  # as `with TestClient(api)` does
"""


def test_the_orders_can_be_started_twice_in_one_process_as_tests_do(shop: Program) -> None:
    assert shop.python(TWO_STARTS) == "{'id': 1}\n{'id': 2}\n"
    assert len(shop.json("list")) == 2


# --- unit_test ------------------------------------------------------------------------------------

PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]


def test_the_unit_tests_pass(program: Programs) -> None:
    assert "4 passed, 1 xfailed" in program("unit_test").run(sys.executable, *PYTEST)


def test_handling_twice_finds_the_listener_that_may_not_run_twice(program: Programs) -> None:
    output = program("unit_test").run(sys.executable, *PYTEST, "--runxfail", code=1)

    assert "1 failed, 4 passed" in output
    assert "{'pears': 4} == {'pears': 7}" in output


# --- cron_box -------------------------------------------------------------------------------------


@pytest.fixture(name="box")
def _box(program: Programs) -> Program:
    box = program("cron_box")
    (box.folder / "july.txt").write_text("it was hot")
    box.run("relevo", "dispatch", "report.written", '{"path": "july.txt"}')
    return box


def test_cron_says_nothing_when_all_is_well(box: Program) -> None:
    (box.folder / "disk").mkdir()

    assert box.run("./every-minute.sh") == ""
    assert (box.folder / "disk" / "july.txt").read_text() == "it was hot"


def test_cron_tells_of_a_dead_letter_which_can_be_revived(box: Program) -> None:
    assert box.until_it_speaks("./every-minute.sh", code=1)

    [dead] = box.json("dead", "list")
    assert (dead["event"], dead["reason"], dead["attempt"]) == ("report.written", "retries-exhausted", 2)
    assert "archive:copy_to_disk: retries-exhausted after 2 runs: FileNotFoundError" in dead["error"]

    (box.folder / "disk").mkdir()
    assert box.run("relevo", "dead", "revive", dead["ref"]) == "1 revived\n"
    assert box.run("./every-minute.sh") == ""
    assert (box.folder / "disk" / "july.txt").exists()
    assert (box.folder / "journal.txt").read_text() == "july.txt\n"  # this listener was not run again
    assert box.json("dead", "list") == []


def test_cron_tells_of_a_mistake_in_the_configuration_and_of_a_database_that_is_not_there(box: Program) -> None:
    assert "RELEVO_SETUP" in box.run("./every-minute.sh", code=78, RELEVO_SETUP="perhaps")
    assert "there is no folder" in box.run(
        "./every-minute.sh", code=69, RELEVO_TRANSPORTS__MAIN="sqlite:///no/where.db"
    )


# --- plain_script ---------------------------------------------------------------------------------


def test_the_plain_script_handles_what_it_dispatches_and_what_follows(program: Programs) -> None:
    lines = program("plain_script").run(sys.executable, "library.py").splitlines()

    assert sorted(lines[:2]) == ["Emma is on the shelf", "Ulysses is on the shelf"]
    assert lines[2:] == ["Ada pays for 7 days", "3 done"]


def test_the_plain_script_handles_what_was_only_dispatched_before(program: Programs) -> None:
    script = program("plain_script")

    assert script.run(sys.executable, "library.py", "--later") == ""
    assert script.run(sys.executable, "library.py").endswith("6 done\n")
