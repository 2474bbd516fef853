"""The suite that every transport is held to, on a real server: one by one, and its report card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from relevo_amqp.conformance import AmqpHarness
from relevo_conformance import suite
from relevo_conformance.profile import PROFILES


@pytest.fixture(autouse=True, scope="module")
def _server(rabbitmq_url: str) -> str:
    """Name the server in RELEVO_TEST_AMQP, where the harness looks."""
    return rabbitmq_url


TestAmqp = suite(AmqpHarness, profile=attrs.evolve(PROFILES["quick"], slow_rows=40, slow_lives=6, slow_histories=5))
"""With fewer pairs of features and histories than the report card, as on the other servers."""


@pytest.mark.soak
def test_its_report_card_says_conformant(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("relevo-conformance")

    ran = subprocess.run([command, "run", "amqp"], cwd=tmp_path, capture_output=True, text=True, check=False)

    print(ran.stdout)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"


class OneByOneHarness(AmqpHarness):
    """Fetches one event at a time."""


TestAmqpOneByOne = pytest.mark.soak(suite(OneByOneHarness.with_options({"prefetch": "1"})))
