"""What `relevo-conformance run` says of every transport."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


# In make test too, each transport runs the same tests under the quick profile: RabbitMQ by its report card, which is in
# backends/amqp, and the others under pytest.
@pytest.mark.soak  # hundreds of random histories in real time: minutes for each transport
@pytest.mark.parametrize("kind", ["memory", "sql", "amqp", "redis"])
@pytest.mark.usefixtures("rabbitmq_url", "redis_url")
def test_the_report_card_says_conformant_under_the_standard_profile(kind: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("relevo-conformance")

    ran = subprocess.run(
        [program, "run", kind, "--profile", "standard"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    print(ran.stdout)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
