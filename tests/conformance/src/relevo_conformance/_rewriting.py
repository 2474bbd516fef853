"""Rewrite the assertions of the scenarios, so that they show what they compared, under pytest and without it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from _pytest.assertion import install_importhook
from _pytest.assertion.rewrite import AssertionRewritingHook
from _pytest.config import get_config

_SCENARIOS = sorted(path.stem for path in Path(__file__).parent.glob("_contract_*.py"))
_MODULES = tuple(f"relevo_conformance.{module}" for module in (*_SCENARIOS, "bench"))


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
