"""
A small transport on files, which processes share: one that claims an event by a rename, and one that copies it.

It has no time: a lease never ends. That is enough for calls that race.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from relevo import Ack, Capabilities, Clock, Delivery, Envelope, Lost, Nack, Outcome, Settlement, Transport
from relevo.errors import TransportClosedError
from relevo.wire import pack, unpack
from relevo_conformance import Harness


class RenamingTransport(Transport):
    """Claims an event by a rename, which one of several claims can do."""

    capabilities = Capabilities(durability="host", lease="timed")

    def __init__(self, root: Path, clock: Clock) -> None:
        self.name, self.root, self._clock, self._closed = "folder", root, clock, False

    @classmethod
    def open(cls, options: Any, *, name: str, clock: Clock) -> Self:
        raise NotImplementedError

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        self._require_open()
        for place in (place for queue in queues for place in (self._ready(queue), self._held(queue))):
            place.mkdir(parents=True, exist_ok=True)
        return []

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        self._require_open()
        for envelope in envelopes:
            head = {"sent": self._clock.now(), "attempt": 1, "lost_leases": 0, "state": ""}
            self._put(self._ready(envelope.queue), head, pack(envelope))

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        self._require_open()
        taken: list[Delivery] = []
        for queue in queues:
            for path in sorted(self._ready(queue).iterdir()):
                if len(taken) < limit:
                    held = self._held(queue) / f"{path.name}-{secrets.token_hex(4)}"
                    with suppress(FileNotFoundError):  # another one was faster
                        self._claim(path, held)
                        taken.append(self._delivery(queue, held))
        return taken

    def _claim(self, path: Path, held: Path) -> None:
        path.rename(held)

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        self._require_open()
        return [delivery for delivery, outcome in settlements if not self._settled(delivery, outcome)]

    def _settled(self, delivery: Delivery, outcome: Outcome) -> bool:
        assert isinstance(delivery.receipt, Path)
        own = self.root / f"{delivery.receipt.name}-{secrets.token_hex(4)}"
        try:
            self._give_up(delivery.receipt, own)
        except FileNotFoundError:
            return False
        head, blob = self._read(own)
        head["attempt"] += isinstance(outcome, Nack | Lost)
        head["lost_leases"] += isinstance(outcome, Lost)
        state = getattr(outcome, "state", None)
        head["state"] = head["state"] if state is None else state.hex()
        if not isinstance(outcome, Ack):
            self._put(self._ready(delivery.queue), head, blob)
        own.unlink()
        return True

    def _give_up(self, held: Path, own: Path) -> None:
        held.rename(own)

    def close(self) -> None:
        self._closed = True

    def _delivery(self, queue: str, held: Path) -> Delivery:
        head, blob = self._read(held)
        return Delivery(
            envelope=unpack(blob),
            queue=queue,
            attempt=head["attempt"],
            lost_leases=head["lost_leases"],
            receipt=held,
            state=bytes.fromhex(head["state"]),
            enqueued_at=head["sent"],
        )

    def _put(self, place: Path, head: Any, blob: bytes) -> None:
        new = self.root / secrets.token_hex(8)
        new.write_bytes(json.dumps(head).encode() + b"\n" + blob)
        new.rename(place / new.name)

    def _read(self, path: Path) -> tuple[Any, bytes]:
        head, _, blob = path.read_bytes().partition(b"\n")
        return json.loads(head), blob

    def _ready(self, queue: str) -> Path:
        return self.root / f"{queue}.ready"

    def _held(self, queue: str) -> Path:
        return self.root / f"{queue}.held"

    def _require_open(self) -> None:
        if self._closed:
            raise TransportClosedError(self.name)


class CopyingTransport(RenamingTransport):
    """Claims an event by a copy, and then removes the file, which may be gone."""

    def _claim(self, path: Path, held: Path) -> None:
        held.write_bytes(path.read_bytes())
        path.unlink(missing_ok=True)


class SettlesACopyTransport(RenamingTransport):
    """Settles a copy of the event that is held, and then removes the file, which may be gone."""

    def _give_up(self, held: Path, own: Path) -> None:
        own.write_bytes(held.read_bytes())
        held.unlink(missing_ok=True)


class RenamingHarness(Harness):
    """Drives the transport that renames."""

    transport: ClassVar[type[RenamingTransport]] = RenamingTransport
    call_timeout = 600.0  # processes that race share it, however slow the machine is

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()

    def open(self) -> Transport:
        return self.transport(Path(self._folder.name), self.clock)

    def kill(self, transport: Transport) -> None:
        """Do nothing: a lease never ends."""

    def close(self) -> None:
        self._folder.cleanup()


class CopyingHarness(RenamingHarness):
    """Drives the transport that copies."""

    transport = CopyingTransport


class SettlesACopyHarness(RenamingHarness):
    """Drives the transport that settles a copy."""

    transport = SettlesACopyTransport
