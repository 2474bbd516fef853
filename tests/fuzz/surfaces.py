"""All surfaces."""

from __future__ import annotations

from collections.abc import Sequence

import surfaces_of_backends
import surfaces_of_commands
import surfaces_of_configuration
import surfaces_of_events
from surface import Surface

SURFACES: Sequence[Surface] = (
    *surfaces_of_events.SURFACES,
    *surfaces_of_backends.SURFACES,
    *surfaces_of_configuration.SURFACES,
    *surfaces_of_commands.SURFACES,
)
