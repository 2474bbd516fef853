"""The memory transport keeps every promise."""

from __future__ import annotations

from hypothesis import settings

from relevo_conformance import suite
from relevo_conformance.profile import PROFILES

from .memory import MemoryHarness

# `make check` runs fewer random histories.
TestMemory = suite(
    MemoryHarness, profile=PROFILES["quick"].part() if settings.get_current_profile_name() == "check" else None
)
