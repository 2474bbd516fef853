"""What only the portable dialect has: plain SQL, and changes of rows by compare-and-set."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from relevo import Ack, Envelope, SystemClock
from relevo.errors import RelevoError
from relevo.testing import FakeClock
from relevo_sql import SqlOptions, SqlTransport
from relevo_sql._dialect import portable
from relevo_sql._dialect.portable import PortableDialect
from relevo_sql._prepared import Prepared
from relevo_sql._statement import Statements

Maker = Callable[..., Envelope]
Opener = Callable[..., SqlTransport]

UNPORTABLE = re.compile(
    r"RETURNING|OUTPUT|SKIP LOCKED|FOR UPDATE|FOR SHARE|ON CONFLICT|ON DUPLICATE|MERGE|REPLACE|json|ARRAY|\bANY\b|"
    r"LATERAL|substr|INDEXED BY|FORCE INDEX|IS (NOT )?(true|1\b)|CHECK|GENERATED ALWAYS|COMPUTED|"
    r"CREATE (UNIQUE )?INDEX .* WHERE",
    re.IGNORECASE,
)
"""What not every database has."""


@pytest.fixture(params=["sqlite", *(pytest.param(each, marks=pytest.mark.soak) for each in ("postgresql", "mariadb"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    found: str = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture
def open_portable(url: str) -> Iterator[Opener]:
    """Open transports in the portable dialect on one database, and close them in the end."""
    opened: list[SqlTransport] = []

    def open_one(clock: Any = None, **options: Any) -> SqlTransport:
        said = SqlOptions(url=url, dialect="portable", **options)
        transport = SqlTransport.open(said, name="main", clock=clock or SystemClock())
        opened.append(transport)
        transport.setup([])
        return transport

    yield open_one
    for transport in opened:
        transport.close()


def texts(dialect: sa.Dialect) -> Iterator[str]:
    """Yield everything that is run on a database of *dialect*, as text."""
    ours = PortableDialect(dialect)
    for table in ours.metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=dialect))
        yield from (str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)
    for found in vars(Statements(ours)).values():
        for each in found.values() if isinstance(found, dict) else (found,):
            if isinstance(each, Prepared):
                yield each.compile()


@pytest.mark.parametrize("kind", [mssql, oracle, sqlite, postgresql, mysql])
def test_every_statement_is_plain_sql_on_every_database(kind: Any) -> None:
    found = list(texts(kind.dialect()))

    assert len(found) > 50
    assert [text for text in found if UNPORTABLE.search(text)] == []


def test_what_is_run_is_what_was_compiled(open_portable: Opener, an_envelope: Maker) -> None:
    transport = open_portable()
    seen: list[str] = []
    sa.event.listen(transport._database.engine, "before_cursor_execute", lambda *call: seen.append(call[2]))

    transport.send([an_envelope(1), an_envelope(2, ordering_key="k"), an_envelope(3, ordering_key="k")])
    for _ in range(2):
        for delivery in transport.receive(["default"], limit=10, lease=60, wait=0):
            transport.dead_letter(delivery, reason="broken")
    transport.revive({entry.ref: b"" for entry in transport.dead_letters(["default"])})
    transport.cancel("id-1")
    transport.purge("default")

    assert len(seen) > 30
    assert [text for text in seen if UNPORTABLE.search(text)] == []
    assert transport.stats("default").dead == transport.stats("default").ready == 0


def between(transport: SqlTransport, statement: str, act: Callable[[], object]) -> None:
    """Call *act* once, before *transport* runs a statement that begins with *statement*."""
    done: list[bool] = []

    def before(_: Any, __: Any, text: str, *___: Any) -> None:
        if text.startswith(statement) and not done:
            done.append(True)
            act()

    sa.event.listen(transport._database.engine, "before_cursor_execute", before)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_what_another_worker_claimed_meanwhile_is_not_claimed(
    open_portable: Opener, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr(portable, "_BEST", level)
    one, other = open_portable(), open_portable()
    one.send([an_envelope(number) for number in range(4)])
    taken: list[Any] = []
    claim = "UPDATE relevo_event SET state=1"
    between(one, claim, lambda: taken.extend(other.receive(["default"], limit=3, lease=60, wait=0)))

    left = one.receive(["default"], limit=10, lease=60, wait=0)

    assert len(taken) == 3
    assert [each.envelope for each in left] == [an_envelope(3)]
    assert other.settle([(delivery, Ack()) for delivery in taken]) == []
    assert one.settle([(delivery, Ack()) for delivery in left]) == []


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize(("number", "change"), [(1, "DELETE FROM relevo_event"), (2, "UPDATE relevo_event SET mark=")])
def test_a_settlement_that_another_claim_overtakes_is_refused(
    open_portable: Opener, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch, level: str, number: int, change: str
) -> None:
    monkeypatch.setattr(portable, "_BEST", level)
    clock, later = FakeClock(), FakeClock()
    later.sleep(61)
    one, other = open_portable(clock), open_portable(later)
    one.send([an_envelope(each) for each in range(number)])
    first = one.receive(["default"], limit=number, lease=60, wait=0)
    taken: list[Any] = []
    between(one, change, lambda: taken.extend(other.receive(["default"], limit=number, lease=60, wait=0)))

    assert one.settle([(each, Ack()) for each in first]) == first
    assert [each.lost_leases for each in taken] == [1] * number
    assert other.settle([(each, Ack()) for each in taken]) == []


def test_threads_hand_out_each_event_once(open_portable: Opener, an_envelope: Maker) -> None:
    transports = [open_portable() for _ in range(3)]
    transports[0].send([an_envelope(number, ordering_key=str(number) if number % 3 else None) for number in range(150)])
    seen: Counter[str] = Counter()

    def work(transport: SqlTransport) -> None:
        while deliveries := transport.receive(["default"], limit=4, lease=60, wait=0.5):
            seen.update(each.envelope.id for each in deliveries if isinstance(each.envelope, Envelope))
            assert transport.settle([(each, Ack()) for each in deliveries]) == []

    threads = [threading.Thread(target=work, args=[transport]) for transport in transports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 150
    assert set(seen.values()) == {1}


WORKER = """
import sys
from relevo import Ack, SystemClock
from relevo_sql import SqlOptions, SqlTransport

options = SqlOptions(url=sys.argv[1], dialect="portable")
transport = SqlTransport.open(options, name="main", clock=SystemClock())
while deliveries := transport.receive(["default"], limit=5, lease=60, wait=1):
    assert not transport.settle([(each, Ack()) for each in deliveries])
    print(*(each.envelope.id for each in deliveries), flush=True)
transport.close()
"""


def test_processes_hand_out_each_event_once(open_portable: Opener, url: str, an_envelope: Maker) -> None:
    open_portable().send([an_envelope(number) for number in range(200)])
    command = [sys.executable, "-c", WORKER, url]

    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [worker.communicate()[0] for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0]
    assert Counter(" ".join(outputs).split()) == Counter(f"id-{number}" for number in range(200))


def test_texts_are_compared_byte_for_byte(open_portable: Opener, an_envelope: Maker) -> None:
    transport = open_portable()
    alike = ["a", "A", "a ", "a  ", "á", "a\u0301", "\N{FULLWIDTH LATIN SMALL LETTER A}", "ss", "ß"]
    transport.send([an_envelope(id=text) for text in alike])
    transport.send([an_envelope(queue=text) for text in alike])
    transport.send([an_envelope(source=text) for text in alike])

    assert transport.stats("default").ready == 2 * len(alike)
    for text in alike:
        assert [each.envelope.id for each in transport.find(text)] == [text]
        (delivery,) = transport.receive([text], limit=10, lease=60, wait=0)
        assert delivery.queue == text
        transport.dead_letter(delivery, reason="broken")
        assert transport.stats(text).dead == 1
    assert transport.cancel("a ") == 1
    assert transport.cancel("a ") == 0


def test_a_dead_letter_replaces_no_other_one(open_portable: Opener, an_envelope: Maker) -> None:
    transport = open_portable()
    for text in ("a", "a ", "A", "a"):
        transport.send([an_envelope(id=text)])
        transport.dead_letter(transport.receive(["default"], limit=1, lease=60, wait=0)[0], reason="broken")

    entries = transport.dead_letters(["default"])

    assert [each.envelope.id for each in entries if isinstance(each.envelope, Envelope)] == ["a ", "A", "a"]
    assert transport.revive({entry.ref: b"" for entry in entries}) == []
    transport.send([an_envelope(id=text) for text in ("a", "a ", "A")])  # duplicates of what was revived
    assert transport.stats("default").ready == 3


def test_more_rows_than_a_list_can_hold_are_changed(open_portable: Opener, an_envelope: Maker) -> None:
    transport = open_portable()
    transport.send([an_envelope(number, ordering_key=str(number % 600)) for number in range(1200)])

    deliveries = transport.receive(["default"], limit=1200, lease=60, wait=0)

    assert len({delivery.receipt for delivery in deliveries}) == 600
    assert transport.extend(deliveries, lease=90) == []
    assert transport.settle([(delivery, Ack()) for delivery in deliveries]) == []
    assert transport.stats("default").leased == 0
    assert len(transport.receive(["default"], limit=1200, lease=60, wait=0)) == 600


def test_ordering_keys_that_look_alike_do_not_wait_for_each_other(open_portable: Opener, an_envelope: Maker) -> None:
    transport = open_portable()
    alike = ["a", "A", "a ", " a", "", " ", "á", "a\u0301"]
    for turn in range(2):
        transport.send([an_envelope(id=f"{turn}-{number}", ordering_key=key) for number, key in enumerate(alike)])

    for _ in range(2):
        deliveries = transport.receive(["default"], limit=100, lease=60, wait=0)
        assert len(deliveries) == len(alike)
        assert transport.settle([(each, Ack()) for each in deliveries]) == []


def test_sends_of_the_same_events_in_another_order_make_one_of_each(open_portable: Opener, an_envelope: Maker) -> None:
    transports = [open_portable() for _ in range(4)]
    failed: list[RelevoError] = []
    start = threading.Barrier(len(transports))

    def send(transport: SqlTransport, step: int) -> None:
        try:
            for turn in range(10):
                start.wait()
                transport.send([an_envelope(2 * turn + number) for number in (0, 1)[::step]])
        except RelevoError as error:
            failed.append(error)
            start.abort()

    threads = [threading.Thread(target=send, args=[each, (1, -1)[i % 2]]) for i, each in enumerate(transports)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert transports[0].stats("default").ready == 20
