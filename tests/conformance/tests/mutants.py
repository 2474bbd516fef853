"""
Memory transports with one bug each, and the promise that every one of them breaks.

Most are bugs that real transports had. The results of the suite are in docs/reference/mutants.md.
"""

from . import (
    mutants_of_arguments,
    mutants_of_bounds,
    mutants_of_conditions,
    mutants_of_coordinators,
    mutants_of_counters,
    mutants_of_dead_letters,
    mutants_of_foreign_bytes,
    mutants_of_handling,
    mutants_of_identity,
    mutants_of_mechanisms,
    mutants_of_meetings,
    mutants_of_names,
    mutants_of_operating,
    mutants_of_order,
    mutants_of_queries,
    mutants_of_revivals,
    mutants_of_sentences,
    mutants_of_sessions,
    mutants_of_single_features,
    mutants_of_size,
    mutants_of_state,
    mutants_of_time,
    mutants_of_unique_events,
    mutants_of_waiting,
)
from .planting import MUTANTS

__all__ = [
    "MUTANTS",
    "mutants_of_arguments",
    "mutants_of_bounds",
    "mutants_of_conditions",
    "mutants_of_coordinators",
    "mutants_of_counters",
    "mutants_of_dead_letters",
    "mutants_of_foreign_bytes",
    "mutants_of_handling",
    "mutants_of_identity",
    "mutants_of_mechanisms",
    "mutants_of_meetings",
    "mutants_of_names",
    "mutants_of_operating",
    "mutants_of_order",
    "mutants_of_queries",
    "mutants_of_revivals",
    "mutants_of_sentences",
    "mutants_of_sessions",
    "mutants_of_single_features",
    "mutants_of_size",
    "mutants_of_state",
    "mutants_of_time",
    "mutants_of_unique_events",
    "mutants_of_waiting",
]
