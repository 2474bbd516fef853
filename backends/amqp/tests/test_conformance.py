"""The suite that every transport is held to, on a real server: its report card, and one by one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relevo_amqp.conformance import AmqpHarness
from relevo_conformance import suite


@pytest.fixture(autouse=True, scope="module")
def _server(rabbitmq_url: str) -> str:
    """Name the server in RELEVO_TEST_AMQP, where the harness looks."""
    return rabbitmq_url


@pytest.mark.slow("the whole suite on a real server: two minutes")
def test_its_report_card_says_conformant(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("relevo-conformance")

    ran = subprocess.run([command, "run", "amqp"], cwd=tmp_path, capture_output=True, text=True, check=False)

    print(ran.stdout)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"


class OneByOneHarness(AmqpHarness):
    """Fetches one event at a time."""


TestAmqpOneByOne = pytest.mark.soak(suite(OneByOneHarness.with_options({"prefetch": "1"})))
