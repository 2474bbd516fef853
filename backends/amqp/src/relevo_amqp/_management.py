"""
Problems of queues that AMQP does not show, read from the server's management plugin.

Operators apply policies to queues by patterns, and a policy can delete what relevo keeps. A quorum queue can also
have lost its data, and then has no leader. AMQP shows neither; the HTTP API of the management plugin shows both.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import attrs

from relevo.backend.tls import Tls
from relevo_amqp._options import Address
from relevo_amqp._topology import removal

_PORTS: Mapping[bool, int] = MappingProxyType({False: 15672, True: 15671})
"""The plugin's own ports, without and with TLS."""

_KNOWN_WITHIN = 10.0
"""Seconds after a start or a declaration until a queue has a leader and statistics, which are updated every 5 s."""

_PAUSE = 0.5
_LARGEST = 16 * 1024 * 1024
"""Bytes of an answer; the names of 100,000 queues are shorter."""

_BLOCK = 1 << 16
_LONGEST = 300
"""Characters of a text in an answer; names have at most 255 bytes."""

_MOST = 2**63 - 1
"""Messages in a queue."""

_SHOWN = 3
"""The most queues that are named for one policy."""

EFFECTS: Mapping[str, str] = MappingProxyType(
    {
        "message-ttl": "deletes dead letters that are older, and dead-letters events that wait longer",
        "expires": "deletes an unused queue with its content",
        "max-length": "makes a full queue refuse events and dead letters",
        "max-length-bytes": "makes a full queue refuse events and dead letters",
        "overflow": "overrides the reject-publish of the queue, so that a full queue drops the oldest",
        "delivery-limit": "dead-letters events before relevo does, and deletes dead letters that are listed that often",
        "dead-letter-exchange": "moves what the server gives up to a place that relevo does not read",
        "dead-letter-routing-key": "moves what the server gives up to a place that relevo does not read",
        "dead-letter-strategy": "can drop what the server gives up",
    }
)
"""The effect of a policy on relevo's queues, by the key in its definition."""


class ManagementError(Exception):
    """Raised when the management plugin gives no answer; the message has the reason and the remedy."""


_Table = Mapping[str, Any]
_Answer = TypeVar("_Answer")


@attrs.frozen
class _QueueStatus:
    """The plugin's report on one queue."""

    name: str
    policies: tuple[str, ...]
    definition: Mapping[str, Any]
    has_leader: bool


class Management:
    """
    The management plugin of one server.

    Args:
        address: The server's address, with the user and the password.

        url: The plugin's address, such as ``http://localhost:15672``; ``None`` for its default port on that host.

        timeout: Seconds for an answer.

        tls: How the connection is encrypted, if it is.

        known_within: Seconds to wait for what the plugin does not know about a new queue yet.
    """

    def __init__(
        self,
        address: Address,
        url: str | None,
        *,
        timeout: float,
        tls: Tls | None = None,
        known_within: float = _KNOWN_WITHIN,
    ):
        self._known_within = known_within
        self._tls = tls or Tls()
        self._address = address
        self._timeout = timeout
        parts = urlsplit(url or f"http{'s' if address.encrypted else ''}://{_bracketed(address.host)}")
        self._encrypted = parts.scheme == "https"
        self._host = parts.hostname or address.host
        self._port = parts.port or _PORTS[self._encrypted]
        self._path = parts.path.rstrip("/")

    def problems(self, names: Sequence[str]) -> list[str]:
        """
        Return a text for each problem of the server's queues *names*; missing queues are ignored.

        Raises:
            ManagementError: The plugin did not answer.
        """
        deadline = time.monotonic() + self._known_within
        statuses = [status for name in names if (status := self._look(name, deadline)) is not None]
        found = [_lost(status.name, self._address.vhost) for status in statuses if not status.has_leader]
        matched: dict[tuple[str, str, str], list[str]] = {}
        for status in statuses:
            for key, value in status.definition.items():
                if key in EFFECTS and (key, value) != ("overflow", "reject-publish"):
                    matched.setdefault((" and ".join(status.policies), key, _shown(value)), []).append(status.name)
        return found + [_set(policies, key, value, queues) for (policies, key, value), queues in matched.items()]

    def held(self, prefixes: Sequence[str]) -> dict[str, int]:
        """
        Return what follows one of *prefixes* in the names of the server's queues that hold messages, and their number.

        Raises:
            ManagementError: The plugin did not answer.
        """
        found: dict[str, int] = {}
        queues = self._get(f"/api/queues/{quote(self._address.vhost, safe='')}?columns=name,messages", _tables)
        for queue in queues or ():
            name, number = _text(queue, "name"), queue.get("messages")
            for prefix in prefixes:
                if name.startswith(prefix) and isinstance(number, int) and 0 < number <= _MOST:
                    rest = name.removeprefix(prefix)
                    found[rest] = found.get(rest, 0) + number
        return found

    def _look(self, name: str, deadline: float) -> _QueueStatus | None:
        place = f"{quote(self._address.vhost, safe='')}/{quote(name, safe='')}"
        while True:
            members = self._get(f"/api/queues/quorum/{place}/status", _tables)
            queue = self._get(f"/api/queues/{place}", _table)
            if members is None or queue is None:
                return None
            has_leader = any(member.get("Raft State") == "leader" for member in members)
            definition = queue.get("effective_policy_definition")
            if has_leader and definition is not None:
                break
            if time.monotonic() >= deadline:
                if has_leader:
                    raise ManagementError(
                        f'its management plugin has no statistics of the queue "{name}" yet; try again later'
                    )
                break
            time.sleep(_PAUSE)
        policies = [
            f'the {kind} "{named}"'
            for kind, key in (("policy", "policy"), ("operator policy", "operator_policy"))
            if (named := _text(queue, key))
        ]
        return _QueueStatus(name, tuple(policies), definition if isinstance(definition, dict) else {}, has_leader)

    def _get(self, path: str, kind: Callable[[object], _Answer]) -> _Answer | None:
        """
        Return what *kind* makes of the answer, or ``None`` if the path does not exist; redirections are not followed.

        Any program may answer. So the answer is read up to a limit, and checked.
        """
        status, reason, body = self._fetch(path)
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            raise ManagementError(
                f'its management plugin refuses the user "{self._address.user}"; set the tag management: '
                f"rabbitmqctl set_user_tags {self._address.user} management"
            )
        what = f"{status} {reason[:_LONGEST]}"
        if status == http.HTTPStatus.OK and len(body) <= _LARGEST:
            try:
                return kind(json.loads(body))
            except (ValueError, RecursionError):
                what = "its answer is not about queues"
        elif status == http.HTTPStatus.OK:
            what = f"its answer has more than {_LARGEST >> 20} MiB"
        raise ManagementError(
            f"the server at {self._host}:{self._port} is not a management plugin: {what}; "
            f"set the option management to its address"
        )

    def _fetch(self, path: str) -> tuple[int, str, bytes]:
        """Return the status of the answer, its reason, and its body."""
        connection: http.client.HTTPConnection
        if self._encrypted:
            context = self._tls.context()
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("GET", self._path + path, headers={"Authorization": self._credentials()})
            response = connection.getresponse()
            return response.status, response.reason, _limited(response)
        except (OSError, http.client.HTTPException) as error:
            why = str(error)[:_LONGEST]
            raise ManagementError(
                f"its management plugin at {self._host}:{self._port} does not answer: {why}; enable it with "
                f"rabbitmq-plugins enable rabbitmq_management, or set the option management to its address"
            ) from error
        finally:
            connection.close()

    def _credentials(self) -> str:
        pair = f"{self._address.user}:{self._address.password.reveal()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()


def _limited(response: http.client.HTTPResponse) -> bytes:
    """
    Return the body of *response*, or the beginning of one that is too large.

    It is read into a buffer, since ``read(size)`` reads everything after a chunk of a negative length.
    """
    body, block = bytearray(), bytearray(_BLOCK)
    while len(body) <= _LARGEST and (count := response.readinto(block)):
        body += block[:count]
    if response.length and len(body) <= _LARGEST:  # unlike read(), readinto() does not notice it
        raise http.client.IncompleteRead(bytes(body), response.length)
    return bytes(body)


def _table(answer: object) -> _Table:
    """Return *answer* if it is a table; raise ``ValueError`` otherwise."""
    if not isinstance(answer, dict):
        raise ValueError("expected a table")  # noqa: TRY004 - as for text that is not JSON
    return answer


def _tables(answer: object) -> Sequence[_Table]:
    """Return *answer* if it is a list of tables; raise ``ValueError`` otherwise."""
    if not isinstance(answer, list):
        raise ValueError("expected a list")  # noqa: TRY004 - as above
    return [_table(each) for each in answer]


def _text(table: _Table, key: str) -> str:
    """Return the beginning of the text under *key*; empty if there is none."""
    value = table.get(key)
    return value[:_LONGEST] if isinstance(value, str) else ""


def _shown(value: object) -> str:
    """Return the *value* of a policy, which is a number or a text."""
    return str(value)[:_LONGEST] if isinstance(value, (str, int, float)) else "a value of another type"


def _lost(name: str, vhost: str) -> str:
    return (
        f'the queue "{name}": it has no leader and does not answer; its data was lost, or too few nodes of the '
        f"cluster are up; start all nodes; if that does not help, delete it with {removal(name, vhost)} "
        f"and run relevo setup"
    )


def _set(policies: str, key: str, value: str, queues: Sequence[str]) -> str:
    named = ", ".join(f'"{name}"' for name in queues[:_SHOWN])
    more = f" and {len(queues) - _SHOWN} more" if len(queues) > _SHOWN else ""
    return (
        f"{policies or 'a policy'}: {key} = {value} {EFFECTS[key]}; it matches {named}{more}; "
        f"change its pattern so that it matches no queue of relevo"
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
