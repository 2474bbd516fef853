"""MariaDB and MySQL, through PyMySQL."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

from relevo.errors import ConfigurationError
from relevo_sql._dialect.dialect import Dialect, Line, Stored, filled
from relevo_sql._dialect.error_kind import ErrorKind
from relevo_sql._dialect.mariadb_tables import AT, LINES, OF_LINE, OF_STATE, STRAY_QUEUE, TURN, tables_with
from relevo_sql._dialect.row_change import RowChange
from relevo_sql._dialect.server import UnnamedLocation, error_kind_before_the_driver, has_input, number_of
from relevo_sql._row import Sent
from relevo_sql._schema import BY_LINE, BY_STATE, READY, STRAYS, event

_FOUND_ROWS = 2
"""The flag of a connection on which an UPDATE counts rows that it found, changed or not; SQLAlchemy sets it."""

_SETUP_LOCK = "CONCAT('relevo/', SHA1(DATABASE()))"
_SETTING_UP = "relevo_sql.setting_up"

_PATIENCE = 60
"""Seconds that a setup waits for another one."""

_LOCK_WAIT = 1
"""Seconds that the server waits for a lock before relevo checks whether to continue waiting: the fewest it allows."""

_CHARACTER_SET = "utf8mb4"
_LAST_OF_THREE_BYTES = "\uffff"
"""The last character that utf8mb3 has."""

_LINES = 1024
"""How many locks the ordering keys share."""

_TEXTS = ("queue", "target", "event_id", "source", "name", "ordering_key")
_LONGEST_TEXT = 255
"""Characters that each of the columns :data:`_TEXTS` holds; the others hold more than a packet."""

Home = tuple[str, int, str]
"""The host, the port and the database, as the server names them: another server may have the same."""


@attrs.frozen
class ServerKind:
    """What differs between MariaDB and MySQL."""

    name: str
    oldest: tuple[int, ...]
    """The first version with all that relevo needs."""

    collation: str
    """Compares texts byte for byte, with the spaces at their ends."""

    settings: Sequence[str] = ()


MARIADB = ServerKind(
    "MariaDB",
    (10, 6),  # SKIP LOCKED
    "utf8mb4_nopad_bin",
    (
        # A row that breaks a constraint is handed out as unreadable; if updating it were an error, it would hold up
        # all rows that the same statement updates. On MySQL no row can break one.
        "check_constraint_checks = 0",
        "max_statement_time = 0",  # relevo's own patience ends a wait, and says so
        "in_predicate_conversion_threshold = 0",  # or a long list of keys becomes a table, which may be walked through
    ),
)
MYSQL = ServerKind("MySQL", (8, 0, 19), "utf8mb4_0900_bin")

_EITHER = ServerKind("MariaDB or MySQL", (), f"/*M!100600 {MARIADB.collation} */ /*!80019 {MYSQL.collation} */")
"""
A server that was not reached yet, for a script: each of the two ignores the comments of the other.

https://mariadb.com/kb/en/comment-syntax/
"""


def kind_of(version: str) -> ServerKind:
    """
    Return which of the two the server with *version* is.

    Raises:
        ConfigurationError: It is too old.
    """
    kind = MARIADB if "mariadb" in version.lower() else MYSQL
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if numbers < kind.oldest:
        raise ConfigurationError(
            f"{kind.name} is {'.'.join(map(str, numbers))}; relevo needs {'.'.join(map(str, kind.oldest))} or newer"
        )
    return kind


class MariadbDialect(Dialect):
    """
    MariaDB and MySQL: many writers at a time, each under READ COMMITTED, which locks no gaps between rows.

    A change of rows is two statements: a query that locks them, without those that another transaction has locked
    (SKIP LOCKED), and a change by primary key. Neither database can return the rows of an UPDATE, nor limit a subquery
    of it. Every locking statement names its index: one that walks through a table locks rows of other transactions.

    The statements are the same for both databases, whichever of the two schemes the address has; the server's version
    tells which it is.
    """

    name = "mariadb"
    creates_in_transaction = False
    random_id = "REPLACE(UUID(), '-', '')"
    stray = f"relevo_event.{STRAY_QUEUE} IS NOT NULL"
    stray_queue = f"relevo_event.{STRAY_QUEUE}"
    stray_index = STRAYS
    max_autocommit_rows = 1  # the driver may split several into several statements
    commits_statements = True
    leaves_deleted_rows = True

    def __init__(self) -> None:
        self.compiler = MySQLDialect_pymysql(paramstyle="format")
        self._marked = MySQLDialect_pymysql(paramstyle="qmark")
        self._kind = _EITHER

    def serves(self, name: str) -> bool:
        return name in ("mariadb", "mysql")

    def compiler_for(self, connection: sa.Connection) -> sa.Dialect:
        return self._marked if connection.dialect.paramstyle == "qmark" else self.compiler

    # --- connections ------------------------------------------------------------------------------

    def location(self, url: sa.URL) -> UnnamedLocation:
        return UnnamedLocation(url)

    def prepare(self, connection: sa.Connection, *, own: bool) -> Home:
        used = connection.dialect.driver
        if used != self.compiler.driver:
            raise ConfigurationError(
                f'relevo\'s own connections to MariaDB and MySQL use PyMySQL, not "{used}"; give it an engine of '
                f"mysql+pymysql://…; sessions with other drivers can still be joined"
            )
        # From here on relevo executes BEGIN and COMMIT itself; to SQLAlchemy everything is one transaction.
        driver = self.driver(connection)
        if not driver.client_flag & _FOUND_ROWS:
            raise ConfigurationError(
                "the connections of the engine do not count the rows that an UPDATE finds; "
                "pass client_flag=pymysql.constants.CLIENT.FOUND_ROWS where they are opened"
            )
        driver.rollback()
        driver.autocommit(True)  # noqa: FBT003 - the driver's method
        version, database = connection.exec_driver_sql("SELECT VERSION(), DATABASE()").one()
        if database is None:
            raise ConfigurationError("the address names no database; write mariadb://user@host/shop")
        self._kind = kind_of(str(version))
        driver.set_character_set(_CHARACTER_SET, self._kind.collation)
        self.be_strict(connection)
        settings = (
            "time_zone = '+00:00'",  # an hour of local time happens twice a year
            "sql_safe_updates = 0",
            "sql_select_limit = DEFAULT",
            "sql_big_selects = 1",
            "completion_type = NO_CHAIN",  # or a commit begins a transaction in which the next statements stay
            f"innodb_lock_wait_timeout = {_LOCK_WAIT}",
            f"lock_wait_timeout = {_LOCK_WAIT}",  # of tables
            *self._kind.settings,
        )
        connection.exec_driver_sql("SET " + ", ".join(f"SESSION {setting}" for setting in settings))
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return self.home(connection)

    def is_alive(self, connection: sa.Connection) -> bool:
        driver = self.driver(connection)
        if not driver.open:
            return False
        # An idle session hears from the server only that it is ended.
        own = getattr(driver, "_sock", None)  # the driver has no other way to its socket
        return own is None or not has_input(own.fileno())

    def home(self, connection: sa.Connection) -> Home:
        host, port, database = connection.exec_driver_sql("SELECT @@hostname, @@port, DATABASE()").one()
        return str(host), int(port), str(database)

    def begin(self, connection: sa.Connection, *, durable: bool) -> None:
        connection.exec_driver_sql("BEGIN")

    def undurable(self, connection: sa.Connection) -> Sequence[str]:
        flushes = connection.exec_driver_sql(f"SELECT @@{_FLUSHES}").scalar()
        return () if str(flushes) == "1" else (f"{_FLUSHES} = {flushes}",)

    def begin_to_create(self, connection: sa.Connection) -> None:
        # A lock of the session: each CREATE commits the transaction.
        if connection.exec_driver_sql(f"SELECT GET_LOCK({_SETUP_LOCK}, {_PATIENCE})").scalar() != 1:
            words = f"another setup took longer than {_PATIENCE} s"
            busy = connection.dialect.loaded_dbapi.OperationalError(_LOCK_WAIT_TIMEOUT, words)
            raise sa.exc.OperationalError("GET_LOCK", (), busy)
        connection.info[_SETTING_UP] = True

    def commit(self, connection: sa.Connection) -> None:
        super().commit(connection)
        self._set_up(connection)

    def rollback(self, connection: sa.Connection) -> None:
        if self.is_alive(connection):
            connection.exec_driver_sql("ROLLBACK")
            self._set_up(connection)

    def _set_up(self, connection: sa.Connection) -> None:
        if connection.info.pop(_SETTING_UP, False):
            connection.exec_driver_sql(f"SELECT RELEASE_LOCK({_SETUP_LOCK})")

    def in_transaction(self, connection: sa.Connection) -> bool:
        return bool(self.driver(connection).server_status & _IN_TRANSACTION)

    def joined(self, connection: sa.Connection) -> bool:
        # The driver's own connection: what SQLAlchemy 2.0 puts around an asynchronous one cannot say it.
        driver = self.driver(connection)
        ask = getattr(driver, "get_autocommit", None)  # two drivers have an attribute instead
        return not (ask() if ask else getattr(driver, "autocommit", False))

    def be_strict(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'")

    def check_joined(self, connection: sa.Connection, rows: Sequence[Sent]) -> None:
        # The mode of the session is the application's: it may shorten a text that is too long, and write ? for a
        # character that the connection cannot send.
        wide = False
        for row in rows:
            for column in _TEXTS:
                text = getattr(row, column)
                if text is not None and len(text) > _LONGEST_TEXT:
                    raise OverflowError(
                        f"its {column} is too long: {len(text)} characters; at most {_LONGEST_TEXT} fit"
                    )
                wide = wide or (text is not None and not text.isascii() and max(text) > _LAST_OF_THREE_BYTES)
        if wide:
            used = connection.exec_driver_sql("SELECT @@character_set_client, @@character_set_connection").one()
            if set(used) != {_CHARACTER_SET}:
                raise UnicodeError(
                    f"one of its texts has a character that the session's connection cannot send, since its character "
                    f"set is {used[0]}; connect with charset={_CHARACTER_SET}"
                )

    # --- time -------------------------------------------------------------------------------------

    def ahead(self, connection: sa.Connection) -> int:
        before = time()
        there: Any = connection.exec_driver_sql("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)").scalar()
        return int(there) - round((before + time()) * 500_000)

    # --- the catalog ------------------------------------------------------------------------------

    @property
    def metadata(self) -> sa.MetaData:
        return tables_with(self._kind.collation)

    def catalog(self, connection: sa.Connection) -> Mapping[str, Stored]:
        # First, since another setup may be at work: a table that is seen has its constraints.
        tables = connection.exec_driver_sql(
            "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE()"
        ).all()
        constraints: defaultdict[str, set[str]] = defaultdict(set)
        for table, constraint in connection.exec_driver_sql(
            "SELECT table_name, constraint_name FROM information_schema.table_constraints "
            "WHERE table_schema = DATABASE() AND constraint_type = 'CHECK'"
        ):
            constraints[str(table)].add(str(constraint))
        found = {
            str(name): Stored(kind=_KINDS.get(kind, "relation"), constraints=frozenset(constraints[str(name)]))
            for name, kind in tables
        }
        indexes = connection.exec_driver_sql(
            "SELECT DISTINCT index_name, non_unique FROM information_schema.statistics "
            "WHERE table_schema = DATABASE() AND LEFT(table_name, 7) = 'relevo_' AND index_name <> 'PRIMARY'"
        )
        return found | {str(name): Stored(kind="index", unique=not shared) for name, shared in indexes}

    def columns(self, connection: sa.Connection, tables: Sequence[str]) -> Mapping[str, Mapping[str, bool]]:
        found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        for table, column, nullable in connection.exec_driver_sql(
            "SELECT table_name, column_name, is_nullable FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND table_name IN %s",
            (self.listed(tables),),
        ):
            found[str(table)][str(column)] = nullable == "YES"
        return found

    # --- statements -------------------------------------------------------------------------------

    def by_index(self, select: sa.Select[Any], table: sa.FromClause, index: sa.Index) -> sa.Select[Any]:
        name = OF_LINE if index is BY_LINE else index.name
        for state, of_state in BY_STATE.items():
            if index is of_state:
                name = OF_STATE
                if state != READY:  # so that the next column of the index is the time
                    select = select.where(sa.literal_column(f"{table.description}.{TURN}") == _ZERO)
        return select.with_hint(table, f"FORCE INDEX ({name})", "mysql")

    def by_key(self, select: sa.Select[Any], table: sa.FromClause) -> sa.Select[Any]:
        # In the order in which the tables are named: it joins a small table first, however many rows it has later.
        return select.with_hint(table, _BY_KEY, "mysql").prefix_with("STRAIGHT_JOIN", dialect="mysql")

    def in_order(self) -> Sequence[sa.ColumnElement[Any]]:
        return _computed(TURN), _computed(AT), event.c.seq

    def end_of(self, state: int) -> sa.ColumnElement[Any]:
        return _computed(AT)

    def steps(self, change: RowChange) -> Sequence[sa.ClauseElement]:
        values = change.values or {}
        # As they are afterwards: no value depends on another one that changes.
        reported = [values[each.name].label(each.name) if each.name in values else each for each in change.reported]
        found = change.query
        if change.found is None:
            if change.by is None:
                found = self.by_key(found, change.table)
            else:
                found = self.by_index(found, change.table, change.by)
        rest = reported[1:] if change.reports_key else reported  # the driver takes a microsecond for each value
        query = found.add_columns(*rest).with_for_update(skip_locked=change.skips_locked)
        chosen = self.among(change.key, "keys")
        if change.values is None:
            return query, self.delete(change.table, chosen)
        return query, change.statement(chosen).with_hint(_BY_KEY, dialect_name="mysql")

    def delete(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ClauseElement:
        # The form for several tables, the only one that can name its index.
        return sa.delete(table).prefix_with(table.name).with_hint(_BY_KEY, dialect_name="mysql").where(*where)

    def among(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        return column.bool_op("IN")(sa.bindparam(parameter, type_=sa.types.NullType()))

    def listed(self, values: Iterable[object]) -> object:
        return tuple(values) or (None,)  # which the driver writes in parentheses; none is equal to NULL

    def lock_waiting(self, select: sa.Select[Any]) -> sa.Select[Any]:
        # At its default isolation level a transaction reads its snapshot, unless it locks what it reads. There is no
        # weaker lock: who holds an event cannot extend its lease meanwhile.
        return select.with_for_update(read=True)

    def insert_new(
        self,
        table: sa.Table,
        values: Mapping[str, Any],
        key: Sequence[str],
        *,
        where: sa.ColumnElement[bool] | None = None,
    ) -> sa.Insert:
        insert = filled(mysql.insert(table), values, where)
        # INSERT IGNORE would also ignore that a value is too long.
        return insert.on_duplicate_key_update({key[0]: table.c[key[0]]})

    def insert_first(self, table: sa.Table, values: Mapping[str, Any], key: Sequence[str]) -> sa.Insert:
        # The number of rows is 1 in both cases, since FOUND_ROWS counts a row that stays as it is.
        is_there = sa.func.if_(sa.func.last_insert_id(sa.literal_column("1")), *[table.c[key[0]]] * 2)
        return filled(mysql.insert(table), values, None).on_duplicate_key_update({key[0]: is_there})

    def has_inserted(self, result: sa.CursorResult[Any]) -> bool:
        return not result.lastrowid

    def lock_lines(self, connection: sa.Connection, lines: Iterable[Line]) -> None:
        # In one order, so that no two transactions wait for each other. An INSERT locks a row whether it is there or
        # not; the lock ends with the transaction, while one of GET_LOCK() would end before the commit or long after.
        slots = sorted({number_of(line) % _LINES for line in lines})
        if slots:
            rows = ", ".join(f"({slot})" for slot in slots)
            connection.exec_driver_sql(
                f"INSERT INTO {LINES} (slot) VALUES {rows} ON DUPLICATE KEY UPDATE slot = {LINES}.slot"  # noqa: S608 - numbers
            )

    # --- errors -----------------------------------------------------------------------------------

    def error_kind(self, error: sa.exc.SQLAlchemyError) -> ErrorKind:
        if not isinstance(error, sa.exc.DBAPIError):
            return error_kind_before_the_driver(error)
        code = _code(error.orig)
        if code == _GONE and _size(error.params) > _LARGE:
            return ErrorKind.TOO_BIG  # the server does not read the rest of a statement that is too long
        if code in _BY_CODE:
            return _BY_CODE[code]
        if error.connection_invalidated or isinstance(error, sa.exc.InterfaceError):
            return ErrorKind.LOST
        if isinstance(error, sa.exc.DataError) or (code < 0 and isinstance(error, sa.exc.ProgrammingError)):
            return ErrorKind.TOO_BIG  # or a float such as NaN, which the driver does not send
        return ErrorKind.OTHER

    def engine_for_listeners(self, engine: sa.Engine) -> sa.Engine:
        # Under a stronger one it could not write to the row of its event once the lease was renewed.
        return engine.execution_options(isolation_level="READ COMMITTED")

    def is_refusal(self, error: sa.exc.SQLAlchemyError) -> bool:
        if self.error_kind(error) is ErrorKind.LOST:
            return False
        code = _code(getattr(error, "orig", None))
        if code < 0:
            return isinstance(error, (sa.exc.DataError, sa.exc.ProgrammingError))  # of the driver, which sent nothing
        return code != _DURING_COMMIT

    def reason(self, kind: ErrorKind) -> str | None:
        return _REASONS.get(kind)

    def right(self, error: sa.exc.DBAPIError) -> str | None:
        if not (error.statement or "").lstrip().startswith("CREATE"):
            return None
        return (
            "grant this user CREATE, INDEX, SELECT and INSERT on the database, or, if the tables exist, a privilege on "
            "each of them: the server hides the others"
        )


_ZERO: sa.ColumnClause[Any] = sa.literal_column("0")
_BY_KEY = "FORCE INDEX (PRIMARY)"


def _computed(name: str) -> sa.ColumnElement[Any]:
    return sa.literal_column(f"{event.name}.{name}")


def _code(error: BaseException | None) -> int:
    """Return the server's number of *error*, whichever driver raised it; -1 if it has none."""
    code = getattr(error, "errno", None) or next(iter(getattr(error, "args", ())), None)
    return code if isinstance(code, int) else -1


_GONE = 2006

_LARGE = 2**20
"""Bytes that the buffers between client and server may hold; the rest of a statement waits for the server to read."""


def _size(parameters: object) -> int:
    """Return how many bytes and characters *parameters* have; of several rows the longest, since they are split."""
    if isinstance(parameters, (bytes, str)):
        return len(parameters)
    if isinstance(parameters, list):
        return max(map(_size, parameters), default=0)
    return sum(map(_size, parameters)) if isinstance(parameters, tuple) else 0


_KINDS = {"BASE TABLE": "table", "SYSTEM VERSIONED": "table", "VIEW": "view", "SYSTEM VIEW": "view"}

_LOCK_WAIT_TIMEOUT = 1205
_DURING_COMMIT = 1180
_IN_TRANSACTION = 1
"""A bit of the status that comes with each answer: SERVER_STATUS_IN_TRANS."""
_FLUSHES = "innodb_flush_log_at_trx_commit"

_CODES = {
    # a lock; a query that was killed, or took longer than max_statement_time or max_execution_time
    ErrorKind.BUSY: (_LOCK_WAIT_TIMEOUT, 1317, 1969, 3024),
    # a deadlock, also over the numbers of rows, a record that changed; a table or a row that another has just created
    ErrorKind.CONFLICT: (1213, 1467, 1020, 1050, 1061, 1062, 1412),
    ErrorKind.NO_TABLE: (1146, 1054, 1176, 1288, 1347, 1471, 1932),
    ErrorKind.CROWDED: (1040, 1203, 1226),
    ErrorKind.DENIED: (1044, 1045, 1130, 1142, 1143, 1227, 1251, 1370, 1698, 1820, 1862, 3118, 4151),
    ErrorKind.NOT_FOUND: (1049,),
    ErrorKind.READ_ONLY: (1036, 1290, 1792, 1836, 1874, 3989),
    ErrorKind.FULL: (1021, 1114, 3675),
    # a packet, a value, a row, a transaction; a text that is not UTF-8, a number out of range
    ErrorKind.TOO_BIG: (1118, 1153, 1162, 1197, 1264, 1366, 1406, 1534, 1690),
    ErrorKind.IO: (1030,),
    ErrorKind.MALFORMED: (1034, 1194, 1195, 1712),
    # not reached, ended by the server, by an administrator, or for its shutdown; not ready, as a node of a cluster
    ErrorKind.LOST: (
        0, 1047, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1927, 2002, 2003, 2005, 2006, 2012, 2013, 2014,
        2026, 2055, 4031,
    ),
}  # fmt: skip
"""
By the numbers of both databases and, from 2000 on, of their clients.

https://mariadb.com/kb/en/mariadb-error-code-reference/ and
https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html
"""

_BY_CODE = {code: kind for kind, codes in _CODES.items() for code in codes}

_REASONS = {
    ErrorKind.READ_ONLY: "{place} is read-only: it is a replica, or read_only is on; name the primary server",
    ErrorKind.NOT_FOUND: "{place} does not exist; create it with CREATE DATABASE, or fix the address",
    ErrorKind.TOO_BIG: "{place} cannot hold a value: {error}; max_allowed_packet of the server limits a statement",
    ErrorKind.FULL: "{place} cannot grow, since the disk of the server is full; free space",
    ErrorKind.IO: "{place} cannot be read or written: {error}; see the log of the server",
    ErrorKind.BUSY: "{place}: a row or a table is locked by another transaction{waited} ({error}); look for a "
    "transaction that is left open",
}
