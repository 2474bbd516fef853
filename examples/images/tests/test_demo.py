"""The demo as a user runs it: a separate process, on each backend, and the commands that it prints."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pika
import pytest
import sqlalchemy as sa

import relevo
from database_server import DatabaseServer

EXAMPLE = Path(__file__).resolve().parent.parent
VARIABLE = "RELEVO_TRANSPORTS__MAIN"
ON_A_SERVER = pytest.mark.slow("the same demo again, about a server")


@attrs.frozen
class Demo:
    """A copy of the example in a folder as in a repository, and the outcome of its demo."""

    root: Path
    environ: dict[str, str]
    outcome: subprocess.CompletedProcess[str]
    server: str = ""
    """The address of its database on a server."""

    @property
    def var(self) -> Path:
        return self.root / "examples" / "images" / "var"

    @property
    def commands(self) -> list[str]:
        return [line.strip() for line in self.outcome.stdout.partition("Try next:\n")[2].splitlines()]

    def rows(self, query: str) -> list[Any]:
        """Return what *query* finds in the gallery's database."""
        url = sa.make_url(self.server or f"sqlite:///{self.var / 'gallery.db'}")
        drivers = {"postgresql": "postgresql+psycopg", "sqlite": "sqlite"}
        engine = sa.create_engine(url.set(drivername=drivers.get(url.get_backend_name(), "mariadb+pymysql")))
        with engine.connect() as connection:
            rows = connection.exec_driver_sql(query).all()
        engine.dispose()
        return [tuple(row) for row in rows]

    def relevo(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run([sys.executable, "-m", "relevo", "--config", "examples/images/relevo.toml", *words], self)

    def json(self, *words: str) -> Any:
        return json.loads(self.relevo(*words, "--json").stdout)


def run(command: list[str] | str, demo: Demo) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        shell=isinstance(command, str),
        cwd=demo.root,
        env=demo.environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


def copied(root: Path, **variables: str) -> Demo:
    """Copy the example under *root*."""
    shutil.copytree(EXAMPLE, root / "examples" / "images", ignore=shutil.ignore_patterns("var", "tests", "__pycache__"))
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "MAKE", "MFLAGS"))
    }
    return Demo(root, {**inherited, **variables}, subprocess.CompletedProcess("", 0, "", ""))


def played(root: Path, **variables: str) -> Demo:
    """Copy the example under *root* and run its demo there."""
    demo = copied(root, **variables)
    return attrs.evolve(demo, outcome=run([sys.executable, "examples/images/demo.py"], demo))


def played_on(server: str, root: Path) -> Demo:
    """Copy the example under *root* and run its demo there as ``make demo TRANSPORT=…`` does, in this environment."""
    demo = copied(root)
    make = ["make", "-f", str(EXAMPLE.parents[1] / "Makefile"), "demo"]
    make += [f"VENV={sys.prefix}", f"--old-file={sys.prefix}/.example"]  # it is not installed again
    outcome = run([*make, f"TRANSPORT={server}"], demo)
    return attrs.evolve(demo, outcome=outcome, server=server, environ={**demo.environ, VARIABLE: server})


@pytest.fixture(name="on_sqlite", scope="module")
def _on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return played(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(name="on_postgresql", scope="module")
def _on_postgresql(tmp_path_factory: pytest.TempPathFactory, postgresql_databases: DatabaseServer) -> Iterator[Demo]:
    with postgresql_databases.fresh_database() as server:
        yield played_on(server, tmp_path_factory.mktemp("postgresql"))


@pytest.fixture(name="on_mariadb", scope="module")
def _on_mariadb(tmp_path_factory: pytest.TempPathFactory, mariadb_databases: DatabaseServer) -> Iterator[Demo]:
    with mariadb_databases.fresh_database() as server:
        yield played_on(server, tmp_path_factory.mktemp("mariadb"))


@pytest.fixture(name="on_rabbitmq", scope="module")
def _on_rabbitmq(tmp_path_factory: pytest.TempPathFactory, rabbitmq_url: str) -> Iterator[Demo]:
    prefix = f"gallery-{secrets.token_hex(4)}"
    place = f'url = "{rabbitmq_url}", outbox = "sqlite:///var/gallery.db"'
    table = f'{{ {place}, prefix = "{prefix}", levels = 8, settle_in = 0 }}'
    root = tmp_path_factory.mktemp("rabbitmq")
    with relevo.App.from_config(EXAMPLE / "relevo.toml", environ={VARIABLE: table}) as app:
        made = app.transport().setup(app.queues("main"), dry_run=True)
    yield played(root, **{VARIABLE: table})
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    channel = connection.channel()
    for kind, name in re.findall(rf'(queue|exchange) "({prefix}[^"]*)"', "\n".join(made)):
        (channel.queue_delete if kind == "queue" else channel.exchange_delete)(name)
    connection.close()


@pytest.fixture(
    name="demo",
    params=[
        "on_sqlite",
        pytest.param("on_postgresql", marks=[ON_A_SERVER, pytest.mark.postgresql]),
        pytest.param("on_mariadb", marks=[ON_A_SERVER, pytest.mark.mariadb]),
        pytest.param("on_rabbitmq", marks=[ON_A_SERVER, pytest.mark.amqp]),
    ],
)
def _demo(request: pytest.FixtureRequest) -> Demo:
    demo: Demo = request.getfixturevalue(request.param)
    return demo


def test_the_demo_goes_as_it_says(demo: Demo) -> None:
    assert (demo.outcome.returncode, demo.outcome.stderr) == (0, "")

    for name in ("create_thumbnails", "rate_image", "update_feed", "notify_followers"):
        assert re.search(rf"^{name} +9/9$", demo.outcome.stdout, re.MULTILINE)
    assert "Unexpected" not in demo.outcome.stdout
    assert "\x1b" not in demo.outcome.stdout  # no colours without a terminal


def test_an_upload_costs_less_than_its_listeners(demo: Demo) -> None:
    deferred, inline = (float(each) for each in re.findall(r"([\d.]+) ms", demo.outcome.stdout)[:2])

    assert deferred < inline


def test_there_are_thumbnails_and_ratings_of_all_but_the_broken_one(demo: Demo) -> None:
    thumbnails = sorted(demo.var.glob("thumbs/*/thumb-*.jpg"))

    assert len(thumbnails) == 3 * 8
    unrated = "SELECT filename FROM gallery_image LEFT JOIN gallery_rating ON image_id = id WHERE stars IS NULL"
    assert demo.rows(unrated) == [("broken.jpg",)]
    assert demo.rows("SELECT count(*) FROM gallery_feed") == [(9,)]
    assert demo.rows("SELECT max(attempt), count(*) FROM gallery_notification") == [(2, 9)]


def test_every_link_of_the_contact_sheet_leads_to_a_file(demo: Demo) -> None:
    sheet = demo.var / "contact-sheet.html"
    html = sheet.read_text("utf-8")

    links = re.findall(r'(?:href|src)="([^"]+)"', html)
    links += [each.split()[0] for found in re.findall(r'srcset="([^"]+)"', html) for each in found.split(", ")]

    assert len([link for link in links if "thumb" in link]) >= 3 * 8
    assert [link for link in links if urlsplit(link).scheme or not (sheet.parent / link).is_file()] == []
    assert html.count('class="stars"') == 8
    assert html.count('class="broken"') == 1
    assert "image file is truncated" in html


def test_nothing_is_left_to_drain(demo: Demo) -> None:
    assert demo.json("drain")["handled"] == 0


@pytest.mark.lengthy("runs the demo")
def test_the_broken_file_is_the_one_dead_letter_and_has_its_reason(demo: Demo) -> None:
    (row,) = demo.json("dead", "list")

    assert (row["queue"], row["reason"]) == ("media", "gave-up")
    assert "image file is truncated" in row["error"]
    assert '"broken.jpg"' in demo.json("dead", "show", row["ref"])["body"]


@pytest.mark.lengthy("runs the demo")
def test_the_printed_commands_work_from_the_root(demo: Demo) -> None:
    status, dead, again = demo.commands
    plain = attrs.evolve(demo, environ={name: value for name, value in demo.environ.items() if name != VARIABLE})

    shown = run(status, plain)  # without variables of the environment
    listed = run(dead, plain)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r"main +media +0 +\S+ +\S+ +1\b", shown.stdout)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "gave-up" in listed.stdout
    assert again.endswith("examples/images/demo.py")
    assert ('url = "amqp://localhost"' in again) == (VARIABLE not in demo.environ)


@pytest.mark.lengthy("runs the demo")
def test_a_revived_dead_letter_runs_what_failed_and_dies_again(demo: Demo) -> None:
    revived = demo.relevo("dead", "revive", "--all")
    before = len((demo.var / "diary.jsonl").read_text().splitlines())
    drained = demo.relevo("drain")
    after = [json.loads(line)["listener"] for line in (demo.var / "diary.jsonl").read_text().splitlines()[before:]]

    assert revived.stdout == "1 revived\n"
    assert drained.returncode == 1  # an event died
    assert after == ["create_thumbnails", "rate_image"]
    assert len(demo.json("dead", "list")) == 1


def test_the_demo_refuses_memory_which_two_processes_cannot_share(tmp_path: Path) -> None:
    demo = played(tmp_path, **{VARIABLE: "memory://"})

    assert demo.outcome.returncode == 2
    assert "memory" in demo.outcome.stdout


@pytest.mark.parametrize(
    "nowhere",
    [
        '{ url = "amqp://127.0.0.1:9", outbox = "sqlite:///var/gallery.db" }',
        "postgresql://127.0.0.1:9/gallery",
        "mariadb://127.0.0.1:9/gallery",
    ],
)
@pytest.mark.lengthy("runs the demo")
def test_the_demo_says_so_if_the_server_is_down(tmp_path: Path, nowhere: str) -> None:
    demo = played(tmp_path, **{VARIABLE: nowhere})

    assert demo.outcome.returncode == 1
    assert "unavailable" in demo.outcome.stderr
    assert "Traceback" not in demo.outcome.stderr
