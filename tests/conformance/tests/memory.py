"""The harness that ships with the memory transport, on which the suite itself is tested."""

from __future__ import annotations

from relevo_memory.conformance import BreakableStore, MemoryHarness

__all__ = ["BreakableStore", "MemoryHarness"]
