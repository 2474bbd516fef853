"""The suite that every transport is held to, on SQLite."""

from __future__ import annotations

from relevo_conformance import suite
from relevo_sql.conformance import SqlHarness

TestSqlite = suite(SqlHarness)
