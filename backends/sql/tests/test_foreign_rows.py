"""A program without relevo inserts CloudEvents with the documented statement: they are handled like relevo's own."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]  # it has no types
import pytest
import sqlalchemy as sa

import relevo
from relevo import Ack, DeadLetter, Delivery, Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport, event

from .command_line import configure, relevo as run_relevo, run_script
from .on_server import DATABASES, an_engine, with_driver

Opener = Callable[..., SqlTransport]

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "exchange-cloudevents.md"


@pytest.fixture(name="url", params=DATABASES)
def _url(request: pytest.FixtureRequest, path: Path) -> str:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue(f"{request.param}_database")
    return url


@pytest.fixture(name="store")
def _store(url: str, opener: Opener) -> SqlTransport:
    return opener(SystemClock(), url=url)


def document(**changes: Any) -> str:
    attributes = {"specversion": "1.0", "id": "17", "source": "/cam", "type": "image.created", **changes}
    return json.dumps({name: value for name, value in attributes.items() if value is not ...}, ensure_ascii=False)


def insert(url: str, store: SqlTransport, *documents: str, queue: str = "default") -> None:
    """Run the statement for each document, as plain SQL."""
    statement = store.insert_statement()
    assert statement is not None
    run_script(url, "".join(with_values(statement, url, queue=queue, event=each) for each in documents))


def with_values(statement: str, url: str, **values: str) -> str:
    """Return *statement* with literals in place of its parameters."""

    def literal(name: re.Match[str]) -> str:
        text = values[name[1]]
        text = text.replace("\\", "\\\\") if url.startswith("mariadb") else text
        return "'" + text.replace("'", "''") + "'"

    return re.sub(r":(queue|event)\b", literal, statement)


def received(store: SqlTransport, **options: Any) -> list[Delivery]:
    return list(store.receive(["default"], **{"limit": 100, "lease": 60, "wait": 0, **options}))


def ids(deliveries: list[Delivery]) -> list[str]:
    return [each.envelope.id for each in deliveries if isinstance(each.envelope, Envelope)]


def test_an_inserted_event_is_handled(url: str, store: SqlTransport) -> None:
    app = relevo.App(transports={"main": store}, routes={"*": "main"}, source="shop")
    seen: list[Any] = []

    @app.listen
    @relevo.listener("image.created")
    def handle(event: relevo.Event, call: relevo.Call) -> None:
        seen.append((event.id, dict(event.arguments), call.source, call.time, call.attributes.get("subject")))

    insert(
        url,
        store,
        document(time="2026-11-18T11:06:40Z", subject="it's \\ é", data={"image_id": 7, "name": "caf\\'é\n"}),
        document(id="18", data=["a"]),
        document(id="19", data_base64="/w==", datacontenttype="image/png"),
        document(id="19", data="a duplicate, which is ignored"),
    )
    assert [found.envelope.id for found in store.find("17")] == ["17"]
    report = app.worker(relevo.RunOptions(until_empty=True)).run()

    assert (report.done, report.dead) == (3, 0)
    assert seen == [
        ("17", {"image_id": 7, "name": "caf\\'é\n"}, "/cam", "2026-11-18T11:06:40Z", "it's \\ é"),
        ("18", {"data": ["a"]}, "/cam", "", None),
        ("19", {"data": b"\xff"}, "/cam", "", None),
    ]


def test_extensions_are_the_urgency_and_the_expiry(url: str, store: SqlTransport) -> None:
    insert(
        url,
        store,
        document(id="normal", relevourgency="normal"),
        document(id="high", relevourgency="high", expirytime="2026-11-18T11:06:40Z"),
    )

    high, normal = received(store)

    assert ids([high, normal]) == ["high", "normal"]
    assert isinstance(high.envelope, Envelope)
    assert isinstance(normal.envelope, Envelope)
    assert (high.envelope.urgency, normal.envelope.urgency) == ("high", "normal")
    assert high.envelope.expires == pytest.approx(1_795_000_000.0, abs=0.001)
    assert normal.envelope.expires is None
    assert store.stats("default").leased == 2


def run_with_parameters(url: str, statement: str, **values: str) -> None:
    """Run *statement* with the parameters of the driver, as the page says, and without literals."""
    parsed = sa.make_url(url)
    named = re.sub(r":(queue|event)\b", r"%(\1)s", statement)
    match parsed.get_backend_name():
        case "sqlite":
            with closing(sqlite3.connect(str(parsed.database))) as file, file:
                file.execute(statement, values)
        case "postgresql":
            plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(plain) as connection:
                assert connection.execute(named.encode(), values).rowcount == 1
        case _:
            with closing(pymysql.connect(**parsed.translate_connect_args(username="user"))) as driver:
                driver.cursor().execute(re.sub(r"%(?!\()", "%%", named), values)
                driver.commit()


def test_the_statement_is_one_which_takes_the_parameters_of_a_driver(url: str, store: SqlTransport) -> None:
    statement = store.insert_statement()
    assert statement is not None

    run_with_parameters(url, statement, queue="default", event=document(data={"name": "it's :event 100 %"}))

    (delivery,) = received(store)
    assert isinstance(delivery.envelope, Envelope)
    assert b"it's :event 100 %" in delivery.envelope.body


def test_the_statement_takes_the_parameters_of_sqlalchemy_and_counts_rows(url: str, store: SqlTransport) -> None:
    statement = store.insert_statement()
    assert statement is not None
    engine = sa.create_engine(with_driver(url))

    with engine.begin() as connection:
        counts = [
            connection.execute(sa.text(statement), {"queue": "default", "event": document()}).rowcount for _ in "ab"
        ]
    engine.dispose()

    assert counts == [1, 1 if url.startswith("mariadb") else 0]  # SQLAlchemy lets it count the row that was found
    assert ids(received(store)) == ["17"]


@pytest.mark.parametrize(
    "flaw", [{"relevourgency": "soon"}, {"relevourgency": 7}, {"expirytime": "soon"}, {"id": "i" * 256}], ids=range(4)
)
def test_what_is_refused_is_refused_whatever_the_mode_of_the_session_is(
    opener: Opener, mariadb_database: str, flaw: dict[str, object]
) -> None:
    store = opener(SystemClock(), url=mariadb_database)
    statement = sa.text(store.insert_statement() or "")

    with (
        an_engine(mariadb_database, connect_args={"init_command": "SET sql_mode = ''"}) as engine,
        engine.begin() as connection,
    ):
        with pytest.raises(sa.exc.DBAPIError):
            connection.execute(statement, {"queue": "default", "event": document(**flaw)})
        connection.execute(statement, {"queue": "default", "event": document()})

    (delivery,) = received(store)
    assert isinstance(delivery.envelope, Envelope)
    assert (delivery.envelope.id, delivery.envelope.urgency) == ("17", "normal")


@pytest.mark.parametrize("urgency", ["High", "HIGH", "urgent", "high ", "", 1, True])
def test_an_unknown_urgency_is_refused(url: str, store: SqlTransport, urgency: object) -> None:
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError, pymysql.Error), match="urgency"):
        insert(url, store, document(relevourgency=urgency))

    assert received(store) == []


def test_an_urgency_that_is_null_is_normal(url: str, store: SqlTransport) -> None:
    insert(url, store, document(relevourgency=None))

    (delivery,) = received(store)
    assert isinstance(delivery.envelope, Envelope)
    assert delivery.envelope.urgency == "normal"


def test_an_expiry_that_is_no_time_is_refused_but_on_sqlite(url: str, store: SqlTransport) -> None:
    if url.startswith("sqlite"):
        insert(url, store, document(expirytime="soon"))
        (delivery,) = received(store)
        assert isinstance(delivery.envelope, Envelope)
        assert delivery.envelope.expires is None
        return

    with pytest.raises((psycopg.errors.InvalidDatetimeFormat, pymysql.Error), match="soon"):
        insert(url, store, document(expirytime="soon"))


def test_events_of_one_key_are_handled_in_order_among_those_that_relevo_sent(url: str, store: SqlTransport) -> None:
    own = Envelope(id="2", source="shop", name="image.created", body=b"{}", ordering_key="cat")
    insert(url, store, document(id="1", partitionkey="cat"))
    store.send([own])
    insert(url, store, document(id="3", partitionkey="cat"), document(id="other", partitionkey="dog"))
    insert(url, store, document(id="4", partitionkey="cat"), document(id="free", partitionkey=""))

    seen: list[list[str]] = []
    while batch := received(store):
        seen.append(sorted(ids(batch)))
        for each in batch:
            assert isinstance(each.envelope, Envelope)
            assert each.envelope.ordering_key == {"other": "dog", "free": None}.get(each.envelope.id, "cat")
        assert not store.settle([(each, Ack()) for each in batch])

    assert seen == [["1", "free", "other"], ["2"], ["3"], ["4"]]


def test_an_inserted_event_is_ready_since_now_so_that_it_overtakes_none(url: str, store: SqlTransport) -> None:
    insert(url, store, document())

    (row,) = store._database.read(lambda c: c.execute(sa.select(event.c.ready_at, event.c.enqueued_at)).all())

    assert row.ready_at == row.enqueued_at
    assert row.ready_at / 1_000_000 == pytest.approx(time.time(), abs=60.0)


MALFORMED = {
    "no id": document(id=...),
    "an id that is null": document(id=None),
    "an empty type": document(type=""),
    "a number as id": document(id=5),
    "another version": document(id="o", specversion="0.3"),
    "no version": document(id="n", specversion=...),
    "a list": "[1]",
    "text": '"text"',
    "a nested source": document(id="s", source={"a": 1}),
    "both kinds of data": document(id="b", data=1, data_base64="YQ=="),
}


def test_a_malformed_event_is_a_dead_letter_and_stops_no_other(url: str, store: SqlTransport) -> None:
    app = relevo.App(transports={"main": store}, routes={"*": "main"}, source="shop")
    seen: list[str | None] = []
    app.listen(relevo.listener("image.created")(lambda event: seen.append(event.id)))

    for number, each in enumerate(MALFORMED.values()):
        insert(url, store, document(id=f"good {number}"), each)
    report = app.worker(relevo.RunOptions(until_empty=True)).run()

    assert seen == [f"good {number}" for number in range(len(MALFORMED))]
    assert set(report.reasons) <= {"unreadable", "malformed", "unknown-event"}
    assert len(store.dead_letters(["default"], limit=100)) == len(MALFORMED)
    assert store.stats("default").ready == 0


@pytest.mark.parametrize("text", ["", "{", "x" * 10])
def test_what_is_no_json_is_refused_at_once_or_a_dead_letter(url: str, store: SqlTransport, text: str) -> None:
    if url.startswith("mariadb"):
        insert(url, store, text)
    else:
        with pytest.raises((sqlite3.OperationalError, psycopg.errors.InvalidTextRepresentation), match=r"(?i)json"):
            insert(url, store, text)
    app = relevo.App(transports={"main": store}, routes={"*": "main"}, source="shop")

    app.worker(relevo.RunOptions(until_empty=True)).run()

    assert len(store.dead_letters(["default"])) == url.startswith("mariadb")


@pytest.mark.parametrize("source", ["/listed", "/other", "shop"])
def test_with_signatures_only_events_of_listed_sources_are_accepted(url: str, store: SqlTransport, source: str) -> None:
    signing = relevo.Signing(secrets.token_urlsafe(32), unsigned=["/listed"])
    app = relevo.App(transports={"main": store}, routes={"*": "main"}, source="shop", signing=signing)
    seen: list[str | None] = []
    app.listen(relevo.listener("image.created")(lambda event: seen.append(event.id)))

    insert(url, store, document(id="inserted", source=source))
    app.dispatch(relevo.Event("image.created", id="own"))
    report = app.worker(relevo.RunOptions(until_empty=True)).run()

    if source == "/listed":
        assert (set(seen), report.reasons) == ({"inserted", "own"}, {})
        return
    assert (seen, report.reasons) == (["own"], {"forged": 1})
    (dead,) = store.dead_letters(["default"])
    assert (dead.reason, dead.error.startswith("it is not signed")) == ("forged", True)


def test_an_inserted_event_cannot_claim_a_signature(url: str, store: SqlTransport) -> None:
    """The column of the headers is not in the document, so an extension of that name is no signature."""
    key = secrets.token_urlsafe(32)
    signed = relevo.Signing(key).signed(Envelope(id="17", source="shop", name="image.created", body=b"{}"))
    app = relevo.App(transports={"main": store}, routes={"*": "main"}, source="shop", signing=key)

    insert(url, store, document(source="shop", **signed.headers))
    report = app.worker(relevo.RunOptions(until_empty=True)).run()

    assert report.reasons == {"forged": 1}


def test_a_worker_that_waits_is_woken(url: str) -> None:
    options = SqlOptions(url=url, poll=0.1 if url.startswith("mariadb") else 60.0)
    found: list[Delivery] = []
    with closing(SqlTransport.open(options, name="main", clock=SystemClock())) as store:
        store.setup([])
        thread = threading.Thread(target=lambda: found.extend(received(store, wait=50.0)))
        thread.start()
        notifications = store._notifications
        while notifications is not None and not notifications.is_listening:
            thread.join(0.01)
        insert(url, store, document())
        thread.join(40.0)

    assert ids(found) == ["17"]


@pytest.mark.postgresql
def test_the_statement_notifies_on_postgresql(postgresql_database: str, opener: Opener) -> None:
    store = opener(SystemClock(), url=postgresql_database)
    plain = sa.make_url(postgresql_database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as listening:
        listening.execute("LISTEN relevo")

        insert(postgresql_database, store, document())
        listening.execute("NOTIFY relevo, 'the last'")

        assert [found.payload for found in listening.notifies(timeout=40.0, stop_after=2)] == ["", "the last"]


def test_the_statement_is_printed_and_documented(url: str, tmp_path: Path, store: SqlTransport) -> None:
    configure(tmp_path, url)

    printed = run_relevo(tmp_path, "setup", "--print-insert")

    statement = store.insert_statement()
    assert statement is not None
    assert (printed.returncode, printed.stdout, printed.stderr) == (0, statement, "")
    assert f"```sql\n{statement}```" in PAGE.read_text()


@pytest.mark.postgresql
def test_the_statement_names_the_schema(postgresql_database: str, opener: Opener) -> None:
    store = opener(SystemClock(), url=postgresql_database, schema="jobs")

    insert(postgresql_database, store, document())

    assert "INSERT INTO jobs.relevo_event (" in (store.insert_statement() or "")
    assert ids(received(store)) == ["17"]


def test_the_portable_dialect_has_no_statement(url: str, opener: Opener) -> None:
    assert opener(SystemClock(), url=url, dialect="portable").insert_statement() is None


def test_a_row_without_a_source_is_revived_once(url: str, store: SqlTransport) -> None:
    store.setup(["default"])
    with an_engine(url) as engine, engine.begin() as connection:
        connection.execute(
            sa.insert(event).values(queue="default", target="default", event_id="a", name="n", body=b"{}")
        )
    (held,) = store.receive(["default"], limit=10, lease=60, wait=0)
    store.settle([(held, DeadLetter(reason="undecodable"))])
    (entry,) = store.dead_letters(["default"])

    missing = store.revive({entry.ref: b""})

    assert missing == []
    assert len(store.receive(["default"], limit=10, lease=60, wait=0)) == 1
    assert store.dead_letters(["default"]) == []
