"""What the tests of PostgreSQL share, besides what they share with those of MariaDB."""

from __future__ import annotations

import sqlalchemy as sa

from .on_server import an_engine, execute, ids, scalar, wait_until

__all__ = ["address", "an_engine", "execute", "ids", "scalar", "wait_until", "wait_until_gone"]


def address(database: str, driver: str = "psycopg", **options: str) -> sa.URL:
    """Return the URL of *database* for *driver*; *options* are settings of the server, as in ``timezone="UTC"``."""
    url = sa.make_url(database).set(drivername=f"postgresql+{driver}")
    if not options:
        return url
    return url.update_query_dict({"options": " ".join(f"-c {name}={value}" for name, value in options.items())})


def wait_until_gone(database: str, pid: int) -> None:
    """Return when the session *pid* has ended."""
    wait_until(lambda: not scalar(database, f"SELECT pid FROM pg_stat_activity WHERE pid = {pid}"))  # noqa: S608
