"""The memory transport keeps every promise."""

from __future__ import annotations

from relevo_conformance import suite

from .memory import MemoryHarness

TestMemory = suite(MemoryHarness)
