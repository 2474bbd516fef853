"""What `relevo-conformance run` says of every transport."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


# The other transports run the same tests under pytest, in make test too. RabbitMQ's own card is in backends/amqp.
@pytest.mark.card
def test_the_report_card_says_conformant(tmp_path: Path) -> None:
    assert_conformant("memory", "quick", tmp_path)


@pytest.mark.soak  # hundreds of random histories in real time: minutes for each transport
@pytest.mark.parametrize("kind", ["memory", "sql", "amqp", "redis"])
@pytest.mark.usefixtures("rabbitmq_url", "redis_url")
def test_the_report_card_says_conformant_under_the_standard_profile(kind: str, tmp_path: Path) -> None:
    assert_conformant(kind, "standard", tmp_path)


def assert_conformant(kind: str, profile: str, folder: Path) -> None:
    command: list[str | Path] = [
        Path(sys.executable).with_name("relevo-conformance"),
        "run",
        kind,
        "--profile",
        profile,
    ]

    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    print(ran.stdout)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
