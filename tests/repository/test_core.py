"""The core stays light to import; what that costs is measured by benchmarks/import_time.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

import relevo

HEAVY = ["asyncio", "click", "hypothesis", "pika", "pytest", "rich", "sqlalchemy", "stevedore"]


@pytest.mark.lengthy("starts processes")
def test_importing_relevo_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import relevo, sys; relevo.App; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert [name for name in HEAVY if name in done.stdout.split()] == []


@pytest.mark.lengthy("starts processes")
def test_what_is_public_is_imported_when_it_is_used() -> None:
    program = (
        "import relevo, sys; before = 'relevo._event.event' in sys.modules; print(before, relevo.Event.__name__)\n"
        "from relevo import *; print(Worker.__name__, 'App' in dir(relevo))\n"
        "import relevo.errors; print(relevo.errors.GiveUp is relevo.GiveUp)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "Event", "Worker", "True", "True"]


def test_what_is_not_public_is_not_there() -> None:
    for name in ("Evnt", "_nothing"):
        with pytest.raises(AttributeError, match=f"module 'relevo' has no attribute '{name}'"):
            getattr(relevo, name)
