"""relevo, as `relevo worker` and `relevo unit supervisor` run it; prefetch 1000 on RabbitMQ, like its peers."""

from __future__ import annotations

import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import relevo
from peers import rabbitmq
from peers.meter import note
from peers.peer import EVENT, Immediate, Peer, Place, arguments, void

CONFIGURATION = """\
source = "bench"
listeners = ["peers.relevo"]
[transports]
main = {main}
"""
_AT_ONCE = 1000


@relevo.listener(EVENT)
def nothing(event: relevo.Event) -> None:
    """Do nothing except note the event in the meter."""
    note(event["sent"])


class Relevo(Peer):
    """The parts that are the same on every transport."""

    def __init__(self, place: Place):
        super().__init__(place)
        self._configuration = place.folder / "relevo.toml"
        self._configuration.write_text(CONFIGURATION.format(main=self.main()))
        self.app = relevo.App.from_config(self._configuration, environ={})
        self._resources = ExitStack()

    @abstractmethod
    def main(self) -> str:
        """Return the transport's line of the configuration."""

    def fill(self, number: int) -> None:
        for start in range(0, number, _AT_ONCE):
            self.app.dispatch_many(relevo.Event(EVENT, arguments()) for _ in range(min(_AT_ONCE, number - start)))

    def command(self) -> Sequence[str]:
        return [*self._relevo(), "worker", "--config", str(self._configuration)]

    @staticmethod
    def _relevo() -> Sequence[str]:
        return [sys.executable, "-m", "relevo"]

    def left(self) -> int:
        stats = self.app.transport().stats("default")
        return sum(each or 0 for each in (stats.ready, stats.scheduled, stats.leased, stats.dead))

    def clear(self) -> None:
        self._resources.close()
        self.app.close()


class OnSqlite(Relevo):
    """On SQLite: a dispatch is committed with FULL; handled events are deleted with NORMAL."""

    def main(self) -> str:
        return '"sqlite:///bench.db"'


class Resident(Relevo, Immediate):
    """On a server, where a worker under supervisord is notified of each event."""

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        yield lambda: void(self.app.dispatch(relevo.Event(EVENT, arguments(time.monotonic_ns()))))

    def resident(self) -> Sequence[str]:
        """Return the command of supervisord, with the configuration that relevo writes for it."""
        words = [*self._relevo(), "--config", str(self._configuration), "unit", "supervisor"]
        words += ["--folder", str(self.place.folder)]
        configuration = self.place.folder / "supervisord.conf"
        configuration.write_text(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
        return [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", str(configuration)]


class OnSqliteResident(Resident):
    """On SQLite, where a worker under supervisord looks whether the file has changed."""

    def main(self) -> str:
        return '"sqlite:///bench.db"'


class OnPostgresql(Resident):
    """On PostgreSQL, in a new database: every commit is durable."""

    def __init__(self, place: Place):
        super().__init__(place)
        self.app.setup()

    def main(self) -> str:
        return f'"{self.place.url}"'


class OnMariadb(OnPostgresql):
    """On MariaDB, likewise."""


class OnRabbitMQ(Resident):
    """On RabbitMQ: quorum queues and confirms."""

    def __init__(self, place: Place):
        super().__init__(place)
        self._resources.enter_context(rabbitmq.borrowed(self.app, place.url))

    def main(self) -> str:
        return f'{{ url = "{self.place.url}", prefix = "{self.place.name}", levels = 4, prefetch = 1000 }}'

    def left(self) -> int:
        time.sleep(1.0)  # messages of a worker are returned a moment after its end
        return super().left()
