"""relevo-conformance: what every relevo transport promises, and the suite that holds it to that."""

from relevo_conformance.promise import PROMISES, Promise
from relevo_conformance.harness import Harness, HookMissing, Savepoint, Transaction

__all__ = [
    # what is promised
    "PROMISES",
    "Promise",
    # what an author writes
    "Harness",
    "HookMissing",
    "Savepoint",
    "Transaction",
]
