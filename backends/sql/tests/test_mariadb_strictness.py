"""MariaDB outside strict mode, which shortens what is too long: an event is stored as it is, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from relevo import Ack, Envelope
from relevo.errors import SendError
from relevo_sql import SqlTransport

from .on_mariadb import an_engine, execute
from .on_server import received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

LENIENT = "SET sql_mode = ''"
TOO_MUCH = {
    "id": {"id": "i" * 256},
    "source": {"source": "s" * 256},
    "name": {"name": "n" * 256},
    "key": {"ordering_key": "k" * 256},
    "queue": {"queue": "q" * 256},
}


def send(transport: SqlTransport, url: str, envelope: Envelope, charset: str = "utf8mb4") -> None:
    """Send *envelope* with a session that is not in strict mode."""
    arguments = {"init_command": LENIENT, "charset": charset}
    with an_engine(url, connect_args=arguments) as engine, Session(engine) as session:
        transport.bound_to(session).send(lambda: [envelope])
        session.commit()


@pytest.mark.parametrize("dialect", [None, "portable"])
@pytest.mark.parametrize("changes", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_text_that_is_too_long_is_refused_and_not_shortened(
    opener: Opener, mariadb_database: str, an_envelope: Maker, changes: dict[str, str], dialect: str | None
) -> None:
    transport = opener(url=f"{mariadb_database}?init_command={LENIENT}", dialect=dialect)

    with pytest.raises(SendError) as own:
        transport.send([an_envelope(1, **changes)])
    with pytest.raises(SendError) as joined:
        send(transport, mariadb_database, an_envelope(1, **changes))
    send(transport, mariadb_database, an_envelope(2, **{name: text[1:] for name, text in changes.items()}))

    assert (own.value.refused, joined.value.refused) == ((0,), (0,))
    assert "is too long: 256 characters; at most 255 fit" in joined.value.why
    queue = changes.get("queue", "default")[:255]
    assert [each.envelope for each in received(transport, queue)] == [
        an_envelope(2, **{name: text[1:] for name, text in changes.items()})
    ]


def test_a_character_that_the_connection_cannot_send_is_refused_and_not_replaced(
    opener: Opener, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)
    smile = an_envelope(1, ordering_key="\U0001f600")

    with pytest.raises(SendError, match=r"a character that the session's connection cannot send.*charset=utf8mb4"):
        send(transport, mariadb_database, smile, charset="utf8mb3")
    send(transport, mariadb_database, an_envelope(2, ordering_key="\uffff\xe9"), charset="utf8mb3")
    send(transport, mariadb_database, smile)

    assert {each.envelope for each in received(transport)} == {smile, an_envelope(2, ordering_key="\uffff\xe9")}


@pytest.mark.parametrize(
    "values", ["", ", urgency = DEFAULT", ", urgency = 1, attempt = DEFAULT, lost_leases = DEFAULT, target = NULL"]
)
def test_a_row_of_another_program_without_an_urgency_is_a_normal_event(
    opener: Opener, mariadb_database: str, values: str
) -> None:
    transport = opener(url=mariadb_database)

    execute(
        mariadb_database,
        LENIENT,
        "INSERT INTO relevo_event SET queue = 'default', event_id = '1', source = 'cam', name = 'a.b', body = '{}'"
        + values,
    )

    (delivery,) = received(transport)
    assert delivery.envelope == Envelope(id="1", source="cam", name="a.b", body=b"{}")
    assert transport.settle([(delivery, Ack())]) == []
