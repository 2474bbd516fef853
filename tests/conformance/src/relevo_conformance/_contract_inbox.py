"""Scenarios of an inbox: what a listener writes for an event of another transport is committed once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Barrier
from typing import Any

import attrs

from relevo import MAX_STATE, Transport
from relevo.backend import Inbox
from relevo.errors import ConfigurationError, LeaseLostError, SessionError, TransportClosedError, shown
from relevo_conformance import promise
from relevo_conformance._listener import (
    BegunListener,
    begun,
    failed,
    having_written,
    require_failure,
    require_notice,
)
from relevo_conformance.bench import Bench, Thread, finish_all
from relevo_conformance.contract import Contract, proves, raised_by
from relevo_conformance.harness import HookMissing
from relevo_conformance.verdict import error_text

_HOOK = "handling_once"

_STATE = b"\x00 done, in bytes that are not text: \xff"
_STEP = b"\x00 a step, in bytes that are not text: \xff"

_LONGEST = 64
"""Characters of the longest key."""

_MEETINGS = 10
"""How often two listeners with one key meet."""


@attrs.define
class _Ending:
    """How a listener with a key ended that met another one."""

    state: bytes
    listener: BegunListener | None = None
    error: BaseException | None = None


class InboxContract(Contract):
    """
    What a listener wrote with a key is there once, and only if the key is remembered.

    These calls are not recorded: the history of a transport knows nothing of the events of another one.
    """

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_row_and_its_key_commit_together(self) -> None:
        with self._inbox() as bench:
            transport, key = bench.worker().transport, _key()
            assert _remembered(transport, key) is None, "a key is remembered before its first commit"
            with self._listener_once(transport, key) as listener:
                listener.transaction.commit(_STATE)

            assert listener.written() == 1, "the row is missing after commit()"
            for asked in (transport, bench.worker().transport):
                assert _remembered(asked, key) == _STATE

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_what_is_not_committed_leaves_no_row_and_no_key(self) -> None:
        with self._inbox() as bench:
            transport, key = bench.worker().transport, _key()
            with self._listener_once(transport, key, aliases=[_key()]) as listener:
                pass

            assert listener.written() == 0, "a row is there without commit()"
            assert _remembered(transport, key) is None, "a key is remembered without commit()"

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_after_a_commit_that_failed_a_key_is_free(self) -> None:
        with self._inbox() as bench:
            transport, key, alias = bench.worker().transport, _key(), _key()
            unsuccessful = failed(self._opened_once(transport, key, aliases=[alias]), hook=_HOOK)
            remembered = [_remembered(transport, each) for each in (key, alias)]
            with self._listener_once(transport, key, aliases=[alias]) as listener:
                listener.transaction.commit(_STATE)

            assert remembered == [None, None], "a key is remembered although commit() failed"
            assert (unsuccessful.written(), listener.written()) == (0, 1)
            assert [_remembered(transport, each) for each in (key, alias)] == [_STATE, _STATE]

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_key_is_committed_once(self) -> None:
        with self._inbox() as bench:
            transport, key = bench.worker().transport, _key()
            with self._listener_once(transport, key) as first:
                first.transaction.commit(_STATE)
            for again in (transport, bench.worker().transport):
                second = self._refused_once(again, key, state=b"second")

                assert (first.written(), second.written()) == (1, 0), "a second commit with a key left a row"
                assert _remembered(transport, key) == _STATE, "a second commit with a key changed its state"

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_key_that_is_committed_after_a_listener_began_is_noticed(self) -> None:
        with self._inbox() as bench:
            transport, key = bench.worker().transport, _key()
            with self._begun_once(transport, key) as late:
                with self._listener_once(bench.worker().transport, key) as first:
                    first.transaction.commit(_STATE)
                late.writes.add_pending()
                announced: list[bytes] = []
                error = raised_by(partial(late.transaction.commit, b"late", partial(announced.append, b"late")))

            _require_refusal(error, "a key that another listener had committed meanwhile")
            assert announced == [], "committing() was called although the key was committed before"
            assert (first.written(), late.written()) == (1, 0)
            assert _remembered(transport, key) == _STATE

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_of_two_listeners_that_meet_one_commits(self) -> None:
        with self._inbox() as bench:
            transports = [bench.worker().transport for _ in range(2)]
            for meeting in range(_MEETINGS):
                key = _key()
                aliases = [_key()] if meeting % 2 else []
                barrier = Barrier(2, timeout=60)
                endings = [_Ending(b"one"), _Ending(b"other")]
                finish_all(
                    [
                        Thread(partial(self._meet_once, transport, key, aliases, barrier, ending))
                        for transport, ending in zip(transports, endings, strict=True)
                    ]
                )

                committed = [ending.state for ending in endings if ending.error is None]
                errors = [ending.error for ending in endings if ending.error is not None]
                assert len(committed) == 1, f"{len(committed)} of two commits with one key succeeded"
                assert isinstance(errors[0], LeaseLostError), (
                    f"the other one must raise LeaseLostError, not {error_text(errors[0])}"
                )
                assert _remembered(transports[0], key) == committed[0]
                rows = {ending.state: ending.listener.written() for ending in endings if ending.listener is not None}
                assert rows == {ending.state: int(ending.error is None) for ending in endings}

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_an_alias_is_committed_too(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            key, aliases = _key(), [_key(), _key()]
            with self._listener_once(transport, key, aliases=aliases) as first:
                first.transaction.commit(_STATE)
            for alias in aliases:
                earlier = self._refused_once(transport, alias, state=b"earlier")

                assert (first.written(), earlier.written()) == (1, 0)
                assert _remembered(transport, alias) == _STATE

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_committed_alias_refuses_the_key(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            for position in range(2):
                aliases = [_key(), _key()]
                key = _key()
                with self._listener_once(transport, aliases[position]) as earlier:
                    earlier.transaction.commit(_STATE)
                renamed = self._refused_once(transport, key, aliases=aliases, state=b"renamed")

                assert (earlier.written(), renamed.written()) == (1, 0)
                assert _remembered(transport, key) is None, "a key is remembered although its alias refused it"
                assert _remembered(transport, aliases[1 - position]) is None
                assert _remembered(transport, aliases[position]) == _STATE

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_keys_that_are_alike_are_kept_apart(self) -> None:
        with self._inbox() as bench:
            transport, stem = bench.worker().transport, "a" + secrets.token_hex(_LONGEST // 2)[:-2]
            keys = [
                stem,
                stem + "x",
                stem + "X",
                "A" + stem[1:],
                "b" + stem[1:],
                "0" + stem,
                "00" + stem[1:],
                stem[:-1],
            ]
            for number, key in enumerate(keys):
                assert _remembered(transport, key) is None, (
                    f"{key} is remembered, and only {keys[:number]} were committed"
                )
                with self._listener_once(transport, key) as listener:
                    listener.transaction.commit(b"%d" % number)

                assert listener.written() == 1

            assert [_remembered(transport, key) for key in keys] == [b"%d" % number for number in range(len(keys))]

    @proves(promise.EFFECT_HAPPENS_ONCE, promise.STATE_IS_BOUNDED)
    def test_the_state_of_a_key_is_kept_as_it_is(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            for state in (b"", b"\x00", bytes(range(256)), bytes(MAX_STATE)):
                key = _key()
                with self._listener_once(transport, key) as listener:
                    listener.transaction.commit(state)

                assert _remembered(transport, key) == state
            key = _key()
            with self._listener_once(transport, key) as refused:
                error = raised_by(lambda: refused.transaction.commit(bytes(MAX_STATE + 1)))

            assert isinstance(error, ConfigurationError), (
                f"commit() of a state that is too long must raise ConfigurationError, not {error_text(error)}"
            )
            assert (refused.written(), _remembered(transport, key)) == (0, None)

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_commit_with_a_key_is_announced_before_it_once(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            for fails in (True, False):
                seen: list[bytes] = []
                announce = partial(seen.append, _STATE)
                if fails:
                    failed(self._opened_once(transport, _key()), hook=_HOOK, committing=announce)
                else:
                    with self._listener_once(transport, _key()) as listener:
                        listener.transaction.commit(_STATE, announce)

                assert seen == [_STATE], f"committing() was called {len(seen)} times, not once before the commit"

    @proves(promise.EFFECT_HAPPENS_ONCE, promise.JOINS_THE_TRANSACTION)
    def test_what_is_sent_in_a_transaction_with_a_key_exists_if_that_commits(self) -> None:
        for wins in (True, False):
            with self._inbox() as bench:
                transport, key = bench.worker().transport, _key()
                if not wins:
                    with self._listener_once(transport, key) as first:
                        first.transaction.commit(_STATE)
                envelope = bench.envelope()
                with self._listener_once(transport, key) as listener:
                    transport.bound_to(listener.transaction.session).send(lambda: [envelope])  # noqa: B023 - at once
                    error = raised_by(partial(listener.transaction.commit, _STATE))

                assert (error is None) is wins
                came = [each.envelope for each in bench.past_the_recorder(bench.worker(), 2)]
                assert came == ([envelope] if wins else [])

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_listener_with_a_key_does_not_commit_or_end_its_transaction(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            for end in ("commit", "rollback", "close"):
                key = _key()
                with self._listener_once(transport, key) as listener:
                    if not hasattr(listener.writes, end):
                        continue
                    error = raised_by(getattr(listener.writes, end))
                    if error is None:
                        listener.writes.add_pending()
                        error = raised_by(partial(listener.transaction.commit, _STATE))

                assert isinstance(error, SessionError), (
                    f"{end}() of the session, or the commit() after it, must raise SessionError, not "
                    f"{error_text(error)}"
                )
                assert (listener.written(), _remembered(transport, key)) == (0, None)

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_step_commits_with_its_note_and_what_follows_does_not(self) -> None:
        with self._inbox() as bench:
            transport, key = bench.worker().transport, _key()
            before = _inbox(transport).noted(key)
            with self._listener_once(transport, key) as listener:
                listener.transaction.commit_step(_STEP)
                rows = listener.written()
                listener.writes.add_pending()
                listener.transaction.session.flush()

            assert (rows, listener.written()) == (1, 1), "the rows are not those of the step alone"
            for asked in (transport, bench.worker().transport):
                assert (before, _inbox(asked).noted(key)) == (None, _STEP)
            assert _remembered(transport, key) is None, "a key is remembered after a step"

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_the_next_listener_goes_on_with_the_note_and_its_end_forgets_that(self) -> None:
        with self._inbox() as bench:
            transport, key, aliases = bench.worker().transport, _key(), [_key(), _key()]
            with self._listener_once(transport, key, aliases=aliases) as first:
                first.transaction.commit_step(_STEP)
            noted = [_inbox(transport).noted(each) for each in (key, *aliases)]
            known = dict.fromkeys((key, *aliases), _STEP)
            with self._listener_once(transport, key, aliases=aliases, noted=known) as second:
                for state in (b"", _STEP):
                    second.transaction.commit_step(state)
                    second.writes.add_pending()
                second.transaction.commit(_STATE)

            assert noted == [_STEP] * 3, "a note is not there for each key and alias"
            assert (first.written(), second.written()) == (1, 3)
            assert [_inbox(transport).noted(each) for each in (key, *aliases)] == [None] * 3
            assert [_remembered(transport, each) for each in (key, *aliases)] == [_STATE] * 3

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_note_that_is_found_under_an_alias_counts_for_the_key(self) -> None:
        with self._inbox() as bench:
            transport, key, alias = bench.worker().transport, _key(), _key()
            with self._listener_once(transport, alias) as earlier:
                earlier.transaction.commit_step(_STEP)
            with self._listener_once(transport, key, aliases=[alias], noted={alias: _STEP}) as renamed:
                renamed.transaction.commit_step(_STATE)

            assert (earlier.written(), renamed.written()) == (1, 1)
            assert [_inbox(transport).noted(each) for each in (key, alias)] == [_STATE, _STATE]

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_a_step_that_does_not_know_the_note_commits_nothing(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            for is_known in (False, True):
                key = _key()
                with self._listener_once(transport, key) as first:
                    first.transaction.commit_step(_STEP)
                known = {key: b"another one"} if is_known else {}
                with self._listener_once(transport, key, noted=known) as late:
                    error = raised_by(partial(late.transaction.commit_step, b"late"))

                _require_refusal(error, "a note that the listener does not know")
                assert (first.written(), late.written()) == (1, 0)
                assert _inbox(transport).noted(key) == _STEP

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_after_a_further_step_of_another_listener_nothing_is_committed(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            for ends in (False, True):
                for is_done in (False, True):
                    key = _key()
                    with self._listener_once(transport, key) as late:
                        late.transaction.commit_step(_STEP)
                        with self._listener_once(transport, key, noted={key: _STEP}) as other:
                            if is_done:
                                other.transaction.commit(_STATE)
                            else:
                                other.transaction.commit_step(_STATE)
                        late.writes.add_pending()
                        error = raised_by(
                            partial(late.transaction.commit if ends else late.transaction.commit_step, b"late")
                        )

                    _require_refusal(error, "a further step of another listener")
                    assert (late.written(), other.written()) == (1, 1)
                    found = (_inbox(transport).noted(key), _remembered(transport, key))
                    assert found == ((None, _STATE) if is_done else (_STATE, None))

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_after_a_step_with_a_key_that_failed_the_last_note_stays(self) -> None:
        with self._inbox() as bench:
            transport, key = bench.worker().transport, _key()
            with self._listener_once(transport, key) as listener:
                listener.transaction.commit_step(_STEP)
                listener.writes.add_pending()
                require_failure(listener, listener.transaction.commit_step)

            assert (listener.written(), _inbox(transport).noted(key)) == (1, _STEP)
            with self._begun_once(transport, _key()) as noticed:
                require_notice(noticed)

    @proves(promise.EFFECT_HAPPENS_ONCE)
    def test_what_makes_no_session_gets_no_transaction(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            for made in (None, object(), "session"):
                error = raised_by(partial(_inbox(transport).handling_once, _key(), sessions=_returning(made)))

                assert isinstance(error, SessionError), (
                    f"handling_once() with {shown(made)} as its session must raise SessionError, not "
                    f"{error_text(error)}"
                )

    @proves(promise.EFFECT_HAPPENS_ONCE, promise.CLOSE_IS_IDEMPOTENT)
    def test_a_closed_inbox_is_not_asked(self) -> None:
        with self._inbox() as bench:
            transport = bench.worker().transport
            transport.close()
            for name, ask in (
                ("remembered()", lambda: _inbox(transport).remembered(_key())),
                ("handling_once()", lambda: self._opened_once(transport, _key()).__enter__()),
            ):
                error = raised_by(ask)

                assert isinstance(error, TransportClosedError), (
                    f"{name} after close() must raise TransportClosedError, not {error_text(error)}"
                )

    # --- what they have in common ------------------------------------------------------------------------

    @contextmanager
    def _inbox(self) -> Iterator[Bench]:
        if not self.harness.has(_HOOK):
            raise HookMissing(_HOOK)
        with self.bench() as bench:
            bench.recorder.hooks[_HOOK] += 1  # not as other hooks: an error in it is the transport's
            yield bench

    def _opened_once(
        self, transport: Transport, key: str, *, aliases: Sequence[str] = (), noted: Mapping[str, bytes] | None = None
    ) -> Any:
        return self.harness.handling_once(transport, key, aliases, noted or {})

    def _begun_once(self, transport: Transport, key: str) -> AbstractContextManager[BegunListener]:
        """Return a listener that has written nothing yet."""
        return begun(self._opened_once(transport, key), hook=_HOOK)

    def _listener_once(
        self, transport: Transport, key: str, *, aliases: Sequence[str] = (), noted: Mapping[str, bytes] | None = None
    ) -> AbstractContextManager[BegunListener]:
        """Return a listener that has written something."""
        return having_written(self._opened_once(transport, key, aliases=aliases, noted=noted), hook=_HOOK)

    def _refused_once(
        self, transport: Transport, key: str, *, aliases: Sequence[str] = (), state: bytes
    ) -> BegunListener:
        """Return a listener whose commit was refused, since its key or an alias had been committed."""
        with self._listener_once(transport, key, aliases=aliases) as listener:
            error = raised_by(partial(listener.transaction.commit, state))
        _require_refusal(error, "a key, or with an alias, that had been committed before")
        return listener

    def _meet_once(
        self, transport: Transport, key: str, aliases: Sequence[str], barrier: Barrier, ending: _Ending
    ) -> None:
        """Let a listener meet another one, and note how it ended."""
        with begun(self._opened_once(transport, key, aliases=aliases), hook=_HOOK) as listener:
            ending.listener = listener
            barrier.wait()
            listener.writes.add_pending()
            ending.error = raised_by(partial(listener.transaction.commit, ending.state))


def _key() -> str:
    """Return a random key of the largest length: the store may be shared with other tests."""
    return secrets.token_hex(_LONGEST // 2)


def _inbox(transport: Transport) -> Inbox:
    assert isinstance(transport, Inbox)
    return transport


def _remembered(transport: Transport, key: str) -> bytes | None:
    state: object = _inbox(transport).remembered(key)
    assert state is None or isinstance(state, bytes), f"remembered() returned {shown(state)}; expected bytes or None"
    return state


def _require_refusal(error: BaseException | None, what: str) -> None:
    assert isinstance(error, LeaseLostError), f"commit() with {what} must raise LeaseLostError, not {error_text(error)}"


def _returning(made: Any) -> Callable[[], Any]:
    return lambda: made
