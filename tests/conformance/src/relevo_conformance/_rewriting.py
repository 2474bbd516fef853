"""Imported first of all: lets pytest show what a failing scenario compared."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    *(
        f"relevo_conformance.{module}"
        for module in (
            "_contract_close",
            "_contract_receive",
            "_contract_send",
            "_contract_settle",
            "_contract_store",
            "_contract_transaction",
            "bench",
        )
    )
)
