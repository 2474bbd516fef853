"""The files on the page "Run in Docker" fit together. Docker is not needed: its files are only read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import relevo
from relevo._config.opening import read, refuse
from relevo.cli._main import group
from relevo.unit import systemd

from .workspace import ROOT

PAGE = (ROOT / "docs" / "how-to" / "run-in-docker.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMPOSE = ("compose.yaml", "compose.rabbitmq.yaml")
SECRETS = {"SHOP_PASSWORD": "7d0b65d0c4a7", "MQ_PASSWORD": "1f6a0e9b83d2"}


def filled(text: str) -> str:
    """Return *text* as compose reads it, with the variables of the file .env."""
    return re.sub(r"\$\{(\w+):\?\}", lambda found: SECRETS[found[1]], text)


def services(*files: str) -> dict[str, dict[str, Any]]:
    """Return the services of *files*; each file adds to the ones before it."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, service in yaml.safe_load(filled(FILES[file]))["services"].items():
            found[name] = {**found.get(name, {}), **service}
    return found


def commands() -> Iterator[str]:
    """Yield every command of relevo that a container runs."""
    yield from (each["command"] for each in services(*COMPOSE).values() if "command" in each)
    yield from (each["healthcheck"]["test"] for each in services(*COMPOSE).values() if "healthcheck" in each)
    yield " ".join(json.loads(re.findall(r"^CMD (\[.*\])$", FILES["Dockerfile"], re.MULTILINE)[0]))
    yield from re.findall(r"^docker compose (?:run|exec) .*?worker (relevo .*)$", PAGE, re.MULTILINE)


RUN = sorted({each.partition(" || ")[0] for each in commands() if each.startswith("relevo ")})


@pytest.mark.parametrize("command", RUN)
def test_a_container_runs_a_command_that_exists(command: str) -> None:
    _, *args = shlex.split(command)
    with group.make_context("relevo", list(args)) as context:
        name, found, rest = group.resolve_command(context, args)

        assert found is not None
        found.make_context(name, rest, parent=context).close()


def test_containers_set_up_work_and_are_checked() -> None:
    assert {"relevo setup", "relevo worker", "relevo check --live"} <= set(RUN)


@pytest.mark.parametrize(("files", "scheme"), [(COMPOSE[:1], "postgresql"), (COMPOSE, "amqp")])
@pytest.mark.parametrize("service", ["setup", "web", "worker"])
def test_the_variables_of_a_container_are_a_valid_configuration(
    files: tuple[str, ...], scheme: str, service: str, tmp_path: Path
) -> None:
    file = tmp_path / "relevo.toml"
    file.write_text(FILES["relevo.toml"])

    config = read(file, services(*files)[service]["environment"], start=tmp_path)

    refuse(config)
    assert config.transports["main"].url.reveal().startswith(f"{scheme}://")


def test_a_worker_has_the_time_that_a_unit_of_systemd_gives_it(tmp_path: Path) -> None:
    (tmp_path / "relevo.toml").write_text(FILES["relevo.toml"].replace('app = "shop:app"\n', ""))
    with relevo.App.from_config(tmp_path / "relevo.toml") as app:
        unit = systemd(app, relevo.RunOptions())

    seconds = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)

    assert [services(*COMPOSE)["worker"]["stop_grace_period"]] == [f"{each}s" for each in seconds]
    assert f"terminationGracePeriodSeconds: {seconds[0]}`" in PAGE


def test_only_the_web_process_has_a_port_and_only_on_this_machine() -> None:
    ports = {name: service["ports"] for name, service in services(*COMPOSE).items() if "ports" in service}

    assert ports == {"web": ["127.0.0.1:8000:8000"]}


def test_no_file_holds_a_password() -> None:
    written = re.findall(r"(?:PASS(?:WORD)?: |://\w+:)(.*)", "".join(FILES.values()))

    assert written
    assert [each for each in written if not re.match(r"\$\{\w+:\?\}", each)] == []


def test_the_image_does_not_run_as_root() -> None:
    assert re.findall(r"^USER (.+)$", FILES["Dockerfile"], re.MULTILINE) == ["shop"]


def test_the_image_has_every_file_of_the_program() -> None:
    copied = re.findall(r"^COPY (.+) \./$", FILES["Dockerfile"], re.MULTILINE)

    assert copied[0].split() == [name for name in FILES if name.endswith((".toml", ".py"))]


def test_what_a_service_waits_for_is_a_service() -> None:
    found = services(*COMPOSE)

    assert {other for each in found.values() for other in each.get("depends_on", ())} <= set(found)
