"""relevo-conformance: what every relevo transport promises, and the suite that holds it to that."""

import pytest

# Before they are imported, so that a failing scenario shows what it compared.
pytest.register_assert_rewrite(
    "relevo_conformance._contract_receive",
    "relevo_conformance._contract_send",
    "relevo_conformance._contract_settle",
    "relevo_conformance._contract_store",
    "relevo_conformance.bench",
)

from relevo_conformance.promise import PROMISES, Promise
from relevo_conformance.harness import Harness, HookMissing, Savepoint, Transaction
from relevo_conformance.suite import suite
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
    "BrokenPromiseError",
    # judging a history
    "Violation",
    "check",
    "dump",
    "load",
]
