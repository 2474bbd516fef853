"""
The suite that every transport is held to, on SQLite.

Each server has a module of its own: the database is named in the environment, which is the same for a whole process.
"""

from __future__ import annotations

import attrs

from relevo_conformance import suite
from relevo_conformance.profile import PROFILES
from relevo_sql.conformance import PortableHarness, SqlHarness

from .profiles import SHORTER

TestSqlite = suite(SqlHarness, profile=attrs.evolve(PROFILES["quick"], rows=120))
"""With the rows that hold the most pairs of features."""

TestPortable = suite(PortableHarness, profile=SHORTER)
