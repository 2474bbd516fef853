"""relevo-conformance: what every relevo transport promises, and the suite that holds it to that."""

import relevo_conformance._rewriting  # noqa: F401 - before what it concerns
from relevo_conformance.promise import PROMISES, Promise
from relevo_conformance.harness import Harness, HookMissing, Savepoint, Transaction
from relevo_conformance.suite import suite
from relevo_conformance.machine import machine_for
from relevo_conformance.examination import Finding, examine
from relevo_conformance.recorder import BrokenPromiseError
from relevo_conformance.checker import Violation, check
from relevo_conformance._jsonline import dump, load

__all__ = [
    # what is promised
    "PROMISES",
    "Promise",
    # what an author writes
    "Harness",
    "HookMissing",
    "Savepoint",
    "Transaction",
    # what an author gets
    "suite",
    "machine_for",
    "examine",
    "Finding",
    "BrokenPromiseError",
    # judging a history
    "Violation",
    "check",
    "dump",
    "load",
]
