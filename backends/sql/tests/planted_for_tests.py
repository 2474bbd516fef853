"""
Bugs in what the suite does not look at: upgrades, the archive, batches of subjects, and SQL as text.

Each names the test of this package that has to fail. As a plugin of pytest, this module plants the bug that
``RELEVO_TEST_PLANTED`` names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import attrs
import pytest
import sqlalchemy as sa

from relevo import DeadLetter
from relevo.backend import session
from relevo.backend.session import ListenerSession
from relevo.errors import SessionError
from relevo_sql import _subject_source, _upgrade
from relevo_sql._archive import DoneTable
from relevo_sql._prepared import Prepared
from relevo_sql._row import Receipt
from relevo_sql._settle import Settler
from relevo_sql._subject_source import OwnSessions

from .planting import Patches

PLANTED = "RELEVO_TEST_PLANTED"


@attrs.frozen
class Bug:
    """A bug, and the test that has to find it."""

    wrong: str
    found_by: str
    """The file of the test and its name."""

    patches: Callable[[], Patches]


BUGS: dict[str, Bug] = {}


def planted(wrong: str, found_by: str) -> Callable[[Callable[[], Patches]], Callable[[], Patches]]:
    """Add a bug: what is decorated returns the patches."""

    def add(bug: Callable[[], Patches]) -> Callable[[], Patches]:
        BUGS[bug.__name__] = Bug(wrong, found_by, bug)
        return bug

    return add


@pytest.fixture(autouse=True, scope="session")
def _planted() -> Iterator[None]:
    """Plant the bug for all tests of this run."""
    with ExitStack() as stack:
        for (owner, attribute), replacement in BUGS[os.environ[PLANTED]].patches().items():
            stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield


# --- listeners -------------------------------------------------------------------------------------


@planted(
    "Nothing marks the transaction of a listener, so COMMIT as text is not noticed.",
    "test_handling.py::test_a_listener_that_commits_in_words_has_failed",
)
def marks_no_transaction() -> Patches:
    def note(self: ListenerSession, _connection: sa.Connection) -> None:
        if not self._is_ours:
            raise SessionError(session._NOT_ITS_COMMIT)
        self.has_begun_commit = True

    return {(ListenerSession, "_note"): note}


# --- upgrades --------------------------------------------------------------------------------------


@planted(
    "An upgrade does not look for leases.",
    "test_upgrade.py::test_an_upgrade_waits_for_the_end_of_a_lease",
)
def upgrades_what_is_leased() -> Patches:
    return {(_upgrade, "_require_unleased"): lambda _database, _connection, _now: None}


@planted(
    "The version is not recorded after the steps.",
    "test_upgrade.py::test_an_upgrade_changes_no_row",
)
def records_no_version() -> Patches:
    statements = _upgrade._statements
    return {(_upgrade, "_statements"): lambda database, plan: statements(database, plan)[:-1]}


# --- the archive -----------------------------------------------------------------------------------


@planted(
    "A batch is moved to the archive although a lease of it was lost.",
    "test_archive.py::test_a_lost_lease_keeps_nothing",
)
def archives_without_a_lease() -> Patches:
    grouped = Settler._run_grouped

    def run(
        self: Settler, connection: sa.Connection, statement: Prepared, receipts: Iterable[Receipt], **values: object
    ) -> set[Receipt]:
        chosen = list(receipts)
        found = grouped(self, connection, statement, chosen, **values)
        return set(chosen) if statement is self._statements.held else found

    return {(Settler, "_run_grouped"): run}


@planted(
    "A dead letter is archived too.",
    "test_archive.py::test_only_what_is_done_is_kept",
)
def archives_what_did_not_succeed() -> Patches:
    bury = Settler._bury

    def keep_too(self: Settler, connection: sa.Connection, ended: Sequence[Any], now: int) -> None:
        for (seq, token), _, _ in ended:
            seqs = self._database.dialect.listed([seq])
            self._statements.archive.rows(connection, held=token, seqs=seqs, now=now)
        bury(self, connection, ended, now)

    return {(Settler, "_one_by_one"): {**Settler._one_by_one, DeadLetter: keep_too}}


@planted(
    "What was kept for long enough is kept for ever.",
    "test_archive.py::test_events_are_deleted_in_time",
)
def forgets_nothing() -> Patches:
    return {(DoneTable, "forget"): lambda _self: False}


@planted(
    "The archive counts as dispensable, so an event is handled and cannot be done.",
    "test_archive.py::test_without_the_table_nothing_is_handed_out",
)
def hands_out_without_an_archive() -> Patches:
    return {(DoneTable, "require"): lambda _self: None}


# --- batches of subjects ---------------------------------------------------------------------------


@planted(
    "The objects of a batch keep the session that loaded them all.",
    "test_subject_batches.py::test_objects_of_a_batch_share_nothing_that_was_loaded_with_them",
)
def leaves_a_batch_in_one_session() -> Patches:
    return {(OwnSessions, "_moved"): lambda _self, row: row}


@planted(
    "Each object of a batch is loaded with a query of its own.",
    "test_subject_batches.py::test_a_batch_costs_one_query",
)
def loads_a_batch_one_by_one() -> Patches:
    def load(self: OwnSessions, texts: Sequence[str]) -> dict[str, object]:
        found = {text: self.load(text) for text in texts}
        return {text: each for text, each in found.items() if each is not None}

    return {(OwnSessions, "load_many"): load}


@planted(
    "A key that the driver refuses ends the whole batch.",
    "test_subject_batches.py::test_a_number_that_a_driver_refuses_leaves_each_to_be_loaded_alone",
)
def ends_a_batch_for_one_key() -> Patches:
    return {(_subject_source, "_refuses_value"): lambda _error: False}
