"""Rewrite the assertions of the scenarios, so that they show what they compared, under pytest and without it."""

from __future__ import annotations

import importlib
import sys

import pytest
from _pytest.assertion import install_importhook
from _pytest.assertion.rewrite import AssertionRewritingHook
from _pytest.config import get_config

_MODULES = tuple(
    f"relevo_conformance.{module}"
    for module in (
        "_contract_close",
        "_contract_fault",
        "_contract_race",
        "_contract_receive",
        "_contract_send",
        "_contract_settle",
        "_contract_store",
        "_contract_time",
        "_contract_transaction",
        "bench",
    )
)


def _import_rewritten() -> None:
    """Import the scenarios as pytest does, and remove its hook, so that other modules are imported unchanged."""
    config = get_config()
    hook = install_importhook(config)
    try:
        hook.mark_rewrite(*_MODULES)
        for module in _MODULES:
            importlib.import_module(module)
    finally:
        sys.meta_path.remove(hook)


if any(isinstance(hook, AssertionRewritingHook) for hook in sys.meta_path):
    pytest.register_assert_rewrite(*_MODULES)
else:
    _import_rewritten()
