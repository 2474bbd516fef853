"""A listener in its transaction, as the scenarios of transactional listeners use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import attrs
import pytest

from relevo.backend import HandlingTransaction
from relevo_conformance.harness import CommitFailedError, HookMissing, Transaction

Opened = AbstractContextManager[tuple[HandlingTransaction, Transaction]]
"""What a hook of the harness returned: see :meth:`Harness.handling`."""


@attrs.frozen
class BegunListener:
    """A listener in its transaction."""

    transaction: HandlingTransaction
    writes: Any
    """What the harness writes with."""

    def written(self) -> int:
        """Return how much of it is committed; not to be called in the transaction."""
        found: int = self.writes.count_written()
        return found


@contextmanager
def begun(opened: Opened, *, hook: str) -> Iterator[BegunListener]:
    """Yield a listener that has written nothing yet, in what *hook* of the harness returned."""
    with opened as (transaction, writes):
        for name in ("add_pending", "count_written"):
            if not hasattr(writes, name):
                raise HookMissing(hook)
        yield BegunListener(transaction, writes)


@contextmanager
def having_written(opened: Opened, *, hook: str) -> Iterator[BegunListener]:
    """Yield a listener that has written something."""
    with begun(opened, hook=hook) as listener:
        listener.writes.add_pending()
        listener.transaction.session.flush()
        yield listener


def failed(opened: Opened, *, hook: str, committing: Callable[[], object] = lambda: None) -> BegunListener:
    """Return a listener whose commit has failed."""
    with having_written(opened, hook=hook) as listener:
        require_failure(listener, partial(listener.transaction.commit, committing=committing))
    return listener


def require_failure(listener: BegunListener, commit: Callable[[bytes], object]) -> None:
    """Let the session of *listener* fail when *commit* commits it, and require the error of that."""
    if not hasattr(listener.writes, "fail_commit"):
        pytest.skip("its Transaction has no fail_commit()")
    listener.writes.fail_commit()
    try:
        commit(b"failed")
    except CommitFailedError:
        return
    raise AssertionError("a commit returned, although that of the session had failed")


def require_notice(listener: BegunListener) -> None:
    """Require of *listener*, which has written nothing yet, that it is noticed when it has."""
    transaction = listener.transaction
    fresh = transaction.has_written
    for _ in range(2):
        listener.writes.add_pending()
        pending = transaction.has_written
        transaction.session.flush()
        flushed = transaction.has_written
        transaction.commit_step(b"")

        assert (fresh, pending, flushed, transaction.has_written) == (False, True, True, False), (
            "has_written is not whether something was written since the beginning, or the last step"
        )
