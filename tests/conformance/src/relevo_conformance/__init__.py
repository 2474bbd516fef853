"""relevo-conformance: the promises of every relevo transport, and the suite that tests them."""

import relevo_conformance._interruption  # first, since the other imports take half a second
import relevo_conformance._rewriting  # noqa: F401 - before the modules that it affects
from relevo_conformance.promise import PROMISES, Promise
from relevo_conformance.harness import CommitFailedError, Deviation, Harness, HookMissing, Savepoint, Transaction
from relevo_conformance.suite import suite
from relevo_conformance.machine import machine_for
from relevo_conformance.examination import Finding, examine
from relevo_conformance.verdict import BrokenPromiseError, HarnessError
from relevo_conformance.checker import Unaccounted, Violation, check, unaccounted
from relevo_conformance._jsonline import dump, load

__all__ = [
    # what is promised
    "PROMISES",
    "Promise",
    # what an author writes
    "Harness",
    "Deviation",
    "HookMissing",
    "CommitFailedError",
    "Savepoint",
    "Transaction",
    # what an author gets
    "suite",
    "machine_for",
    "examine",
    "Finding",
    "BrokenPromiseError",
    "HarnessError",
    # judging a history
    "Violation",
    "check",
    "Unaccounted",
    "unaccounted",
    "dump",
    "load",
]
