"""The core stays light to import; what that costs is measured by benchmarks/import_time.py."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ["asyncio", "click", "hypothesis", "pika", "pytest", "rich", "sqlalchemy", "stevedore"]


def test_importing_relevo_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import relevo, sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )

    assert [name for name in HEAVY if name in done.stdout.split()] == []
