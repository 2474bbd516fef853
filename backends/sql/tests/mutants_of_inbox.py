"""Bugs of the inbox: which listeners are done with the events of another transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo.backend import HandlingTransaction
from relevo.errors import LeaseLostError
from relevo_conformance import promise
from relevo_sql import SqlTransport, _handling, _transport
from relevo_sql._handling import SqlHandling
from relevo_sql._inbox import InboxTable
from relevo_sql._session import JoinedSessions

from .planting import Patches, commit, planted

Sessions = Callable[[], Any] | None
Noted = Mapping[str, bytes] | None


def storing(those: Callable[[Sequence[str]], Sequence[str]]) -> Patches:
    """Return patches that let only *those* of the keys of a listener be stored."""
    remember = JoinedSessions.remember

    def remember_those(self: JoinedSessions, session: Session, keys: Sequence[str], state: bytes) -> bool:
        return remember(self, session, those(keys), state)

    return {(JoinedSessions, "remember"): remember_those}


def with_keys(change: Callable[[str], str]) -> Patches:
    """Return patches that *change* each key, when it is stored and when it is looked up."""
    state_of = InboxTable.state_of
    return {
        **storing(lambda keys: [change(key) for key in keys]),
        (InboxTable, "state_of"): lambda self, key: state_of(self, change(key)),
    }


# --- when a key is stored ----------------------------------------------------------------------------


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "A key is committed with the rows that are flushed, before the session commits and may fail.",
    by_chance=False,
)
def commits_a_key_before_the_session() -> Patches:
    remember = JoinedSessions.remember

    def remember_at_once(self: JoinedSessions, session: Session, keys: Sequence[str], state: bytes) -> bool:
        new = remember(self, session, keys, state)
        if new:
            commit(self.connection(session))
        return new

    return {(JoinedSessions, "remember"): remember_at_once}


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "Whether a key is new is looked up when its listener begins; at the commit it is stored whatever is there.",
    by_chance=False,
)
def looks_a_key_up_when_a_listener_begins() -> Patches:
    handling_once, remember = SqlTransport.handling_once, JoinedSessions.remember

    def begin(
        self: SqlTransport, key: str, *, aliases: Sequence[str] = (), noted: Noted = None, sessions: Sessions = None
    ) -> HandlingTransaction:
        begun = handling_once(self, key, aliases=aliases, noted=noted, sessions=sessions)
        begun.session.info["new"] = all(self.remembered(each) is None for each in (key, *aliases))
        return begun

    def trust(self: JoinedSessions, session: Session, keys: Sequence[str], state: bytes) -> bool:
        if session.info["new"]:
            for key in keys:
                session.execute(sa.text("DELETE FROM relevo_inbox WHERE key = :key"), {"key": key})
            remember(self, session, keys, state)
        return bool(session.info["new"])

    return {(SqlTransport, "handling_once"): begin, (JoinedSessions, "remember"): trust}


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "That a key was committed before is noticed after the commit, and the rows stay.",
    by_chance=False,
)
def notices_a_committed_key_after_the_commit() -> Patches:
    remember = JoinedSessions.remember

    def remember_too_late(self: JoinedSessions, session: Session, keys: Sequence[str], state: bytes) -> bool:
        new = remember(self, session, keys, state)
        if not new:
            commit(self.connection(session))
        return new

    return {(JoinedSessions, "remember"): remember_too_late}


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "A key that is there replaces its state, and the rows of the listener are committed again.",
    by_chance=False,
)
def replaces_the_state_of_a_key() -> Patches:
    remember = JoinedSessions.remember

    def replace(self: JoinedSessions, session: Session, keys: Sequence[str], state: bytes) -> bool:
        connection = self.connection(session)
        for key in keys:
            connection.exec_driver_sql("DELETE FROM relevo_inbox WHERE key = ?", (key,))
        return remember(self, session, keys, state)

    return {(JoinedSessions, "remember"): replace}


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "A listener whose key was committed before does not learn of it: its rows are dropped, and its commit returns.",
    by_chance=False,
)
def reports_a_refused_key_as_committed() -> Patches:
    commit_once = SqlHandling._commit

    def commit_quietly(self: SqlHandling, state: bytes, committing: Callable[[], object]) -> None:
        try:
            commit_once(self, state, committing)
        except LeaseLostError:
            if not isinstance(self._record.about, str):
                raise

    return {(SqlHandling, "_commit"): commit_quietly}


# --- which keys --------------------------------------------------------------------------------------


@planted(promise.EFFECT_HAPPENS_ONCE, "The aliases of a key are not stored.", by_chance=False)
def forgets_aliases() -> Patches:
    return storing(lambda keys: keys[:1])


@planted(promise.EFFECT_HAPPENS_ONCE, "Of several aliases the first one is stored.", by_chance=False)
def stores_the_first_alias() -> Patches:
    return storing(lambda keys: keys[:2])


@planted(promise.EFFECT_HAPPENS_ONCE, "A key has 32 characters; the rest is cut.", by_chance=False)
def cuts_keys() -> Patches:
    return with_keys(lambda key: key[:32])


@planted(promise.EFFECT_HAPPENS_ONCE, "Keys that differ in letter case are one.", by_chance=False)
def folds_the_case_of_keys() -> Patches:
    return with_keys(str.lower)


@planted(promise.EFFECT_HAPPENS_ONCE, "Zeros at the beginning of a key do not count.", by_chance=False)
def reads_keys_as_numbers() -> Patches:
    return with_keys(lambda key: key.lstrip("0"))


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "If an alias was committed before, the key and the aliases before it are committed alone.",
    by_chance=False,
)
def keeps_the_keys_before_a_refused_alias() -> Patches:
    remember = JoinedSessions.remember

    def remember_some(self: JoinedSessions, session: Session, keys: Sequence[str], state: bytes) -> bool:
        for key in keys:
            if not remember(self, session, [key], state):
                session.expunge_all()
                connection = self.connection(session)
                connection.exec_driver_sql("DELETE FROM conformance_object")
                commit(connection)
                return False
        return True

    return {(JoinedSessions, "remember"): remember_some}


# --- what is remembered ------------------------------------------------------------------------------


@planted(promise.EFFECT_HAPPENS_ONCE, "A key with an empty state is not remembered.", by_chance=False)
def remembers_no_empty_state() -> Patches:
    state_of = InboxTable.state_of
    return {(InboxTable, "state_of"): lambda self, key: state_of(self, key) or None}


@planted(promise.EFFECT_HAPPENS_ONCE, "A state ends at its first zero byte.", by_chance=False)
def ends_a_state_at_a_zero_byte() -> Patches:
    remember = JoinedSessions.remember

    def cut(self: JoinedSessions, session: Session, keys: Sequence[str], state: bytes) -> bool:
        return remember(self, session, keys, state.partition(b"\0")[0])

    return {(JoinedSessions, "remember"): cut}


@planted(promise.EFFECT_HAPPENS_ONCE, "An instance remembers only the keys that it committed itself.", by_chance=False)
def remembers_its_own_keys() -> Patches:
    handling_once, state_of = SqlTransport.handling_once, InboxTable.state_of

    def note(
        self: SqlTransport, key: str, *, aliases: Sequence[str] = (), noted: Noted = None, sessions: Sessions = None
    ) -> HandlingTransaction:
        vars(self._inbox).setdefault("own", set()).update([key, *aliases])
        return handling_once(self, key, aliases=aliases, noted=noted, sessions=sessions)

    def state_of_own(self: InboxTable, key: str) -> bytes | None:
        return state_of(self, key) if key in vars(self).get("own", ()) else None

    return {(SqlTransport, "handling_once"): note, (InboxTable, "state_of"): state_of_own}


# --- the steps ---------------------------------------------------------------------------------------


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "A step replaces the note that is there, whatever it says.",
    by_chance=False,
)
def replaces_any_note() -> Patches:
    def replace(
        self: JoinedSessions, session: Session, _before: Mapping[str, bytes], after: Mapping[str, bytes]
    ) -> bool:
        connection = self.connection(session)
        for key in after:
            connection.exec_driver_sql('DELETE FROM relevo_inbox WHERE "key" = ?', (key,))
        return all(self.remember(session, [key], state) for key, state in after.items())

    return {(JoinedSessions, "replace"): replace}


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "The end of a listener leaves its last note, and does not look whether it is still the last one.",
    by_chance=False,
)
def leaves_the_note_of_a_listener_that_is_done() -> Patches:
    return {(JoinedSessions, "forget"): lambda *_: True}


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "A note is stored with the key of the listener alone, and not with its aliases.",
    by_chance=False,
)
def notes_no_alias() -> Patches:
    replace = JoinedSessions.replace

    def replace_one(
        self: JoinedSessions, session: Session, before: Mapping[str, bytes], after: Mapping[str, bytes]
    ) -> bool:
        key = next(iter(after))
        return replace(self, session, before, {key: after[key]})

    return {(JoinedSessions, "replace"): replace_one}


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "A note is stored with the key itself, so that a listener with one finished step counts as done.",
    by_chance=False,
)
def takes_a_note_for_the_end() -> Patches:
    return {(_handling, "notes_key"): str, (_transport, "notes_key"): str}


@planted(
    promise.EFFECT_HAPPENS_ONCE,
    "The note of a step commits in a transaction of its own, before the rows.",
    by_chance=False,
)
def commits_a_note_before_its_rows() -> Patches:
    replace = JoinedSessions.replace

    def replace_at_once(
        self: JoinedSessions, session: Session, before: Mapping[str, bytes], after: Mapping[str, bytes]
    ) -> bool:
        is_wanted = replace(self, session, before, after)
        if is_wanted:
            commit(self.connection(session))
        return is_wanted

    return {(JoinedSessions, "replace"): replace_at_once}
