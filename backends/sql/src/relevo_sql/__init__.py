"""relevo-sql: events as rows of SQLite, PostgreSQL, MariaDB or MySQL, committed together with the application's own."""

from relevo_sql._transport import SqlTransport
from relevo_sql._options import SqlOptions
from relevo_sql._cron import CronRunner
from relevo_sql._subject import orm_subject
from relevo_sql._address import database_url
from relevo_sql._schema import dead, event, lock, meta, metadata, worker

__all__ = [
    # the transport
    "SqlTransport",
    "SqlOptions",
    # the runner for cron
    "CronRunner",
    # mapped classes as subjects
    "orm_subject",
    # the application's own engine
    "database_url",
    # its tables
    "metadata",
    "event",
    "dead",
    "meta",
    "lock",
    "worker",
]
