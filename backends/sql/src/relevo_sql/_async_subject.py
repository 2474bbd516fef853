"""Rows that are subjects, from the sessions of an asynchronous application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import attrs
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from relevo import ConfigurationError
from relevo.errors import shown
from relevo_sql._subject_key import Key
from relevo_sql._subject_source import RowSource, warn_of_lost

T = TypeVar("T")


@attrs.define(eq=False)
class AsyncSessions(RowSource):
    """
    Loads each object with a session that is closed at once: listeners are synchronous, and could not use it.

    It is used in an event loop of its own, in a thread of its own: the thread of the listener may have an event loop,
    which waits for the listener.
    """

    _make: async_sessionmaker[AsyncSession]

    def _loaded(self, key: Key) -> object | None:
        return self._with_session(partial(self._in, key=key))

    def load_many(self, texts: Sequence[str]) -> Mapping[str, object]:
        found = self._with_session(partial(self._all_in, texts=texts))
        return {text: _copied(found[text]) for text in texts if text in found}

    def release(self, instance: object) -> None:
        if any(each.history.has_changes() for each in sa.inspect(instance).attrs):
            warn_of_lost(type(instance).__name__)

    def _with_session(self, get: Callable[[Session], T]) -> T:
        """Return what *get* returns for a session."""
        with ThreadPoolExecutor(1, "relevo-subject") as thread:
            return thread.submit(copy_context().run, asyncio.run, self._in_loop(get)).result()

    async def _in_loop(self, get: Callable[[Session], T]) -> T:
        shared = self._make.kw.get("bind")
        if not isinstance(shared, AsyncEngine):
            raise ConfigurationError(
                f"orm_subject: expected an engine in the async_sessionmaker that loads {self._cls.__name__}; got "
                f"{shown(shared)}; write async_sessionmaker(engine), or configure(bind=engine) before the first event"
            )
        engine = _of_this_loop(shared)
        try:
            async with self._make(bind=engine) as session:
                return await session.run_sync(get)
        finally:
            if engine is not shared:
                await engine.dispose()


def _copied(row: object) -> object:
    """Return a copy of *row*, with copies of what was loaded with it: other objects may have loaded the same."""
    with Session() as session:
        return session.merge(row, load=False)


def _of_this_loop(shared: AsyncEngine) -> AsyncEngine:
    """
    Return an engine like *shared*, with connections of its own: those in a pool belong to the loop that opened them.

    https://docs.sqlalchemy.org/en/20/orm/extensions/asyncio.html#using-multiple-asyncio-event-loops
    """
    engine = shared.sync_engine
    if isinstance(engine.pool, sa.StaticPool):
        return shared  # the program wants one connection for everything, as to a database in memory
    options = engine.get_execution_options()
    return AsyncEngine(sa.Engine(engine.pool.recreate(), engine.dialect, engine.url, execution_options=options))
