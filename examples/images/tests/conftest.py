from __future__ import annotations

import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLE))


@pytest.fixture(scope="session")
def photos() -> Path:
    return EXAMPLE / "photos"
