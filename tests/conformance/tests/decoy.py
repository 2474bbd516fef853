"""The registry of decoys: transports that are unusual, but correct."""

from __future__ import annotations

from typing import TypeVar

from relevo_conformance import Harness

from .memory import BreakableStore, MemoryHarness

Odd = TypeVar("Odd", bound=type)

DECOYS: list[type[Harness]] = []


def decoy(odd: Odd) -> Odd:
    """Register a transport, a store or a harness that is unusual, but correct."""
    if issubclass(odd, MemoryHarness):
        DECOYS.append(odd)
        return odd
    attribute = "store_type" if issubclass(odd, BreakableStore) else "transport"
    DECOYS.append(type(f"{odd.__name__}Harness", (MemoryHarness,), {attribute: odd, "__doc__": odd.__doc__}))
    return odd
