"""
django-tasks-db on PostgreSQL: Django 5.2 over psycopg (6 needs Python 3.12), one worker process, its connection kept.

A send is committed. Tasks are fetched, run and marked as done one by one, each by commits of its own; rows of finished
tasks stay until the command `prune_db_task_results`. The worker picks only rows that are READY, and nothing puts one
that is RUNNING back: so the task of a dead worker stays (read in `db_worker` and `DBTaskResultQuerySet.ready`, and
tried with a kill). This file is both the settings and the `manage.py` of a project.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import django  # type: ignore[import-not-found] # only make bench installs it
import sqlalchemy as sa
from django.conf import settings  # type: ignore[import-not-found] # likewise
from django.core.management import call_command, execute_from_command_line  # type: ignore[import-not-found] # likewise
from django.db import connection, transaction  # type: ignore[import-not-found] # likewise

from peers import database
from peers.meter import note
from peers.peer import Place, Sender, arguments


def database_settings(url: str) -> dict[str, Any]:
    """Return what Django needs to know of the database at *url*."""
    parts = sa.make_url(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": parts.host or "",
        "PORT": parts.port or "",
        "NAME": parts.database,
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "CONN_MAX_AGE": None,  # the default, 0, is a new connection for each task
    }


if not settings.configured:  # the worker runs this file, and imports it for its task
    settings.configure(
        INSTALLED_APPS=["django_tasks", "django_tasks_db"],
        DATABASES={"default": database_settings(Place.here().url)},
        TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}},
        USE_TZ=True,
    )
    django.setup()

from django_tasks import task  # type: ignore[import-not-found] # noqa: E402 - it needs the settings

_FILLING = 1000


@task()  # type: ignore[untyped-decorator] # it has no types here
def image_created(event: dict[str, int]) -> None:
    """Do nothing except note the event in the meter."""
    note(event["sent"])


class Django(Sender):
    """It has no interface for several tasks at once: they are filled in one by one, a thousand in a transaction."""

    def __init__(self, place: Place):
        super().__init__(place)
        call_command("migrate", verbosity=0)

    def fill(self, number: int) -> None:
        for start in range(0, number, _FILLING):
            with transaction.atomic():
                for _ in range(min(_FILLING, number - start)):
                    image_created.enqueue(arguments())

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        yield lambda: image_created.enqueue(arguments(time.monotonic_ns()))

    def command(self) -> Sequence[str]:
        program = [sys.executable, "-m", "peers.django_tasks_db", "db_worker"]
        return [*program, "--no-startup-delay", "--verbosity", "0"]

    def left(self) -> int:
        query = "SELECT count(*) FROM django_tasks_database_dbtaskresult WHERE status <> 'SUCCESSFUL'"
        return database.scalar(self.place.url, query)

    def clear(self) -> None:
        connection.close()


if __name__ == "__main__":
    execute_from_command_line(sys.argv)
