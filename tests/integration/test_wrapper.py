"""Plugins that wrap listeners, in the processes of each execution and on each store."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa

import relevo
from relevo._worker.progress import failures_of

PATIENCE = 300.0

SHOP = """
import os, time
import relevo
import sqlalchemy as sa

RESULTS = sa.table("results", sa.column("listener"), sa.column("result"))
RUNS = sa.table("runs", sa.column("attempt"))


def note(*words):
    with open("log", "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")


class Tenants:
    def begin(self, event, call):
        note("begin", event["tenant"], call.listener_id, os.getpid())
        if event["tenant"] == "gone":
            raise relevo.GiveUp("no such tenant")
        if event["tenant"] == "stuck":
            time.sleep(600)

    @relevo.hookimpl
    def relevo_around_listener(self, event, call, proceed):
        self.begin(event, call)
        result = proceed()
        note("end", event["tenant"], call.listener_id, result)
        if call.listener_id == "bill":
            call.session.execute(sa.insert(RESULTS).values(listener=call.listener_id, result=result))
            if call.attempt == 1:
                raise ValueError("not committed")
        return result

    @relevo.hookimpl
    async def relevo_around_async_listener(self, event, call, proceed):
        self.begin(event, call)
        result = await proceed()
        note("end", event["tenant"], call.listener_id, result)
        return result


@relevo.listener("image.created", id="resize", time_limit="20s")
def resize(event):
    note("resize", event["tenant"], os.getpid())
    return 1


@relevo.listener("image.created", id="feed")
async def feed(event, call):
    note("feed", event["tenant"], os.getpid())
    await call.dispatch("image.fed", {"tenant": event["tenant"]})
    return 2


@relevo.listener("image.fed", id="last")
def last(event):
    note("last", event["tenant"], os.getpid())
    return 3


@relevo.listener("order.paid", id="bill", transactional=True, retry=relevo.Retry(2, first=0))
def bill(event, call):
    call.session.execute(sa.insert(RUNS).values(attempt=call.attempt))
    return 4


@relevo.listener("image.stuck", id="hang", time_limit="2s", retry=1)
def hang(event):
    note("called")
"""

EXECUTIONS = ("inline", "threads", "process", "async")


@attrs.frozen
class Place:
    """An application in a folder of its own."""

    folder: Path
    app: relevo.App
    rows: str
    """The address of the database in which transactional listeners write."""

    def drain(self, *words: str) -> str:
        """Drain in a process of its own; return what that wrote to its standard error."""
        done = subprocess.run(
            [sys.executable, "-m", "relevo", "drain", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.stderr

    def lines(self) -> list[list[str]]:
        """Return what plugin and listeners wrote."""
        log = self.folder / "log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def dead(self) -> list[relevo.Failure]:
        """Return the failures of all dead letters."""
        letters = self.app.transport().dead_letters(["default"], limit=100)
        return [failure for letter in letters for failure in failures_of(letter)]


@pytest.fixture(name="place")
def _place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[relevo.App], None],
    store: str,
    execution: str,
) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    rows = "sqlite:///shop.db" if store in ("sqlite", "amqp") else request.getfixturevalue(f"{store}_database")
    main = f'"{rows}"'
    if store == "amqp":
        options = f'prefix = "wrap-{uuid.uuid4().hex[:8]}", levels = 8, settle_in = 0, outbox = "{rows}"'
        main = f'{{ url = "{request.getfixturevalue("rabbitmq_url")}", {options} }}'
    (tmp_path / "shop.py").write_text(SHOP)
    file = tmp_path / "relevo.toml"
    file.write_text(
        f'source = "shop"\nlisteners = ["shop"]\nplugins = ["shop:Tenants"]\nexecution = "{execution}"\n'
        f"concurrency = 1\n\n[transports]\nmain = {main}\n"
    )
    file.chmod(0o600)
    app = relevo.App.from_config(file, environ={})
    app.setup()
    yield Place(tmp_path, app, rows)
    forget(app)
    app.close()
    sys.modules.pop("shop", None)  # monkeypatch would put it back


SERVERS = [
    pytest.param(
        store, execution, marks=[getattr(pytest.mark, store), pytest.mark.slow("about a server, not Python"), *more]
    )
    for store, execution, *more in (
        ("amqp", "inline", pytest.mark.soak),
        ("amqp", "process"),
        ("postgresql", "inline"),
        ("postgresql", "process", pytest.mark.soak),
        ("mariadb", "async"),
    )
]
EVERYWHERE = pytest.mark.parametrize(
    ("store", "execution"), [*(("sqlite", execution) for execution in EXECUTIONS), *SERVERS]
)


@pytest.mark.lengthy("starts processes")
@EVERYWHERE
def test_each_call_is_wrapped_where_the_listener_runs_and_a_refused_one_sends_nothing(place: Place) -> None:
    for tenant in ("anna", "gone", "ben"):
        place.app.dispatch("image.created", {"tenant": tenant})

    err = place.drain("--settle", "20s")
    lines = place.lines()

    assert Counter(" ".join(line[:3]) for line in lines if line[0] in ("begin", "end")) == Counter(
        f"{moment} {tenant} {listener}"
        for moment, tenants in (("begin", ("anna", "ben", "gone")), ("end", ("anna", "ben")))
        for tenant in tenants
        for listener in ("resize", "feed", "last")
        if (tenant, listener) != ("gone", "last")
    ), err
    assert {tuple(line[2:]) for line in lines if line[0] == "end"} == {("resize", "1"), ("feed", "2"), ("last", "3")}
    pids = {line[3] for line in lines if line[0] == "begin"}
    assert pids == {line[2] for line in lines if line[0] in ("resize", "feed", "last")}
    failures = place.dead()
    assert sorted(each.listener for each in failures) == ["feed", "resize"]
    for each in failures:
        assert each.error == "GiveUp: no such tenant (raised by the plugin shop.Tenants)"
        assert each.reason == "gave-up"
    assert "raised by the plugin shop.Tenants" in err


@pytest.mark.lengthy("starts processes")
@EVERYWHERE
def test_what_a_plugin_writes_commits_with_the_rows_of_the_listener_or_not_at_all(place: Place) -> None:
    engine = sa.create_engine(place.rows, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE results (listener VARCHAR(50), result INTEGER)"))
        connection.execute(sa.text("CREATE TABLE runs (attempt INTEGER)"))
    place.app.dispatch("order.paid", {"tenant": "anna"})

    err = place.drain("--settle", "20s")

    with engine.connect() as connection:
        results = connection.execute(sa.text("SELECT listener, result FROM results")).all()
        runs = connection.execute(sa.text("SELECT attempt FROM runs")).all()
    assert [tuple(row) for row in results] == [("bill", 4)], err
    assert [tuple(row) for row in runs] == [(2,)]
    assert len([line for line in place.lines() if line[0] == "end"]) == 2


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize(("store", "execution"), [("sqlite", "process")])
def test_a_plugin_that_hangs_is_ended_at_the_time_limit_of_the_listener(place: Place) -> None:
    place.app.dispatch("image.stuck", {"tenant": "stuck"})
    place.app.dispatch("image.fed", {"tenant": "anna"})

    err = place.drain("--settle", "20s")

    (failure,) = place.dead()
    assert (failure.listener, failure.kind) == ("hang", "TimeLimitExceededError"), err
    assert "in begin" in failure.traceback
    assert ["called"] not in place.lines()
    assert [line for line in place.lines() if line[0] == "last"]
