"""How much of the conformance suite `make test` runs on each database; `make test-all` runs the standard profile."""

from __future__ import annotations

import attrs

from relevo_conformance.profile import PROFILES

SHORT = attrs.evolve(PROFILES["quick"], rows=40, durable_histories=12)
"""The quick profile with fewer pairs of features and histories: on a server all of them take minutes."""

SHORTER = attrs.evolve(SHORT, operations=1, durable_histories=6, durable_schedules=1)
"""The same with less of all, for the database and the dialect on which each operation takes longest."""
