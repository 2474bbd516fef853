"""Imported first of all: lets a failing scenario show what it compared, under pytest and without it."""

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
    """Import the scenarios as pytest would, and leave its hook nowhere: what else is imported is as it is."""
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
