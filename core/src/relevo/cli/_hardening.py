"""Checks for the points of the page "Harden a deployment"."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from relevo._app.app import App, parts_of
from relevo._config.bounded_toml import TomlError, loads
from relevo._config.opening import options_class, plugin_options
from relevo._config.table import keys_of
from relevo._config.trust import distrust_of
from relevo._event.validation import MAX_BODY
from relevo._runner.lock_path import deploy_guard, drain_lock
from relevo._secret import masked, names_secret
from relevo._server import is_loopback, is_well_known
from relevo._transport.route import Target
from relevo._transport.transport import Transport
from relevo._user import others, own_groups
from relevo.cli._unseen import folder_of, stores, unknown_files, unknown_servers, unseen
from relevo.errors import ConfigurationError

PAGE = "docs/how-to/harden-a-deployment.md"

Status = Literal["ok", "warning", "not applicable"]


@attrs.frozen
class Verdict:
    """How far a point is met."""

    status: Status
    detail: str


@attrs.frozen
class Point:
    """A point of the page."""

    anchor: str
    """The heading of the page, as the end of its address."""

    judge: Callable[[App], Verdict]


def examined(app: App) -> Iterator[tuple[str, Verdict]]:
    """Yield each point of the page, as its number and anchor, with the verdict about *app*; opens no connection."""
    for number, point in enumerate(POINTS, start=1):
        yield f"{number}. {point.anchor}", point.judge(app)


def _verdict(faults: Sequence[str], ok: str) -> Verdict:
    return Verdict("warning", "; ".join(faults)) if faults else Verdict("ok", ok)


def _absent(why: str) -> Verdict:
    return Verdict("not applicable", why)


# --- events ------------------------------------------------------------------------------------------------


def _signed_events(app: App) -> Verdict:
    signing = parts_of(app).signing
    if signing is None:
        return Verdict(
            "warning", "events are not signed: anyone who can write to a queue can make listeners run; set signing"
        )
    if not signing.required:
        return Verdict("warning", "unsigned events are accepted; remove required = false once none is left")
    if not signing.unsigned:
        return Verdict("ok", f"signed, of {', '.join((app.source, *signing.accept))} alone")
    sources = ", ".join(signing.unsigned)
    return Verdict("ok", f"every event is signed, except for those that claim to be from {sources}")


def _accepted_events(app: App) -> Verdict:
    table = parts_of(app).queue_table
    targets = [Target(name, queue) for name in app.transports for queue in app.queues(name)]
    open_ones = ", ".join(str(target) for target in targets if "*" in table.of(target).accept)
    faults = [f"any event is accepted in {open_ones}; list the names under [queues]"] if open_ones else []
    return _verdict(faults, "each queue accepts only listed events")


def _body_size(app: App) -> Verdict:
    limits = {name: each.capabilities.max_body for name, each in app.transports.items()}
    limited = {name: limit for name, limit in limits.items() if limit is not None}
    faults = [
        f"{name} takes bodies of {limit:,} bytes; set max_body = {2 * MAX_BODY}, and max_message_size on the server"
        for name, limit in limited.items()
        if limit > 2 * MAX_BODY
    ]
    ok = f"at most {2 * MAX_BODY:,} bytes, and relevo sends {MAX_BODY:,}"
    return _verdict(faults, ok) if limited else _absent("no transport has such a limit")


# --- files ---------------------------------------------------------------------------------------------------


def _configuration_file(app: App) -> Verdict:
    path = _file_of(app)
    if path is None:
        return _absent("there is no file")
    try:
        found, text = path.stat(), path.read_text(encoding="utf-8", errors="replace")
        distrust = distrust_of(path)
    except OSError as error:
        return Verdict("warning", f"{path} cannot be read: {error.strerror}")
    faults = [f"{distrust}; only root and the user of the service should own and write it"] if distrust else []
    who = others(found.st_mode, found.st_gid, own_groups=own_groups(found.st_uid), write=False)
    if who and _holds_secret(text, app):
        faults.append(f"{path} holds a secret and {who} can read it; write ${{VARIABLE}}, or chmod go-r")
    return _verdict(faults, f"{path}, mode {stat.S_IMODE(found.st_mode):04o}")


def _file_of(app: App) -> Path | None:
    """Return the file that configures *app*, or only names it."""
    place = parts_of(app).loaded_from
    if place.config is not None:
        return place.config.path
    return Path(place.options[1]) if place.options[:1] == ["--config"] else None


def _holds_secret(text: str, app: App) -> bool:
    """Return whether *text*, the content of the file of *app*, has one of its keys and passwords."""
    try:
        texts = [text, *_texts_in(loads(text))]
    except TomlError:  # the application was made from another file
        texts = [text]
    return any(secret in each for secret in _secrets(app) for each in texts)


def _texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in *value*, of a file, as they are used: there a quote and a dollar sign are escaped."""
    match value:
        case str():
            yield value.replace("$$", "$")
        case Mapping():
            yield from (text for each in value.values() for text in _texts_in(each))
        case list():
            yield from (text for each in value for text in _texts_in(each))


def _secrets(app: App) -> set[str]:
    """Return the keys and passwords of the configuration."""
    signing, config = parts_of(app).signing, parts_of(app).config
    found = {key.reveal() for key in signing.keys} if signing else set()
    for _, address in _addresses(app):
        found.update(_passwords_in(address))
    for entry in config.transports.values() if config else ():
        found.update(_secrets_in(entry.options, _class_from(partial(options_class, entry))))
    for name, plugin in config.plugins.items() if config else ():
        found.update(_secrets_in(plugin.options, _class_from(partial(plugin_options, name))))
    return found


def _class_from(find: Callable[[], type | None]) -> type | None:
    with suppress(ConfigurationError):
        return find()
    return None


def _secrets_in(value: Any, table: type | None, *, is_secret: bool = False) -> Iterator[str]:
    """
    Yield the secrets in *value*: passwords of addresses, and what is secret by its name or its type.

    Args:
        value: The value of an option, or a table of options.

        table: The class of the table, or of the tables in it; ``None`` if it is unknown.

        is_secret: Whether *value* is secret.
    """
    match value:
        case str() if "://" in value:
            yield from _passwords_in(value)
            if is_secret and value.startswith("http"):  # such as the address of a webhook
                yield value
        case str() if is_secret and value:
            yield value
        case list() | tuple():
            for each in value:
                yield from _secrets_in(each, table, is_secret=is_secret)
        case Mapping():
            known = keys_of(table) if table else {}
            for name, each in value.items():
                key = known.get(name)
                is_declared = key is not None and key.is_secret
                is_named = is_secret or is_declared or (names_secret(name) and not _NAMES_PLACE.search(name))
                yield from _secrets_in(each, key.table if key else table, is_secret=is_named)


_NAMES_PLACE = re.compile(r"_(?:file|path|url|env|name|header)$")
"""The end of the name of an option that says where a secret is, as ``password_file`` does."""


def _passwords_in(address: str) -> Iterator[str]:
    """Yield the passwords of *address*, in its query too, and how they are written in it, percent-encoded."""
    with suppress(ValueError):  # no address; each backend has checked its own
        parts = urlsplit(address)
        pairs = [pair.partition("=") for pair in parts.query.split("&")]
        found = [parts.password or "", *(value for name, _, value in pairs if names_secret(unquote(name)))]
        yield from {text for each in found if each for text in (each, unquote(each))}


def _distrusted(folder: Path) -> list[str]:
    """Return why other users can change what is in *folder*, which may be shared, as /tmp is, or replace it."""
    distrust = distrust_of(folder.absolute())
    return [f"{distrust}; choose a folder of the service"] if distrust else []


_SQLITE_FILES = ("", "-wal", "-shm", "-journal")
"""What follows the name of the database in the names of its files; a journal has pages, and is applied to them."""


def _sqlite_file(app: App) -> Verdict:
    unknown = unseen(unknown_files(app))
    files = [path for path in _sqlite_paths(app) if path.exists()]
    if not files and not unknown:
        return _absent("there is no file yet" if any(_sqlite_paths(app)) else "no transport is on SQLite")
    try:
        faults = [fault for path in files for fault in _faults_of_file(path)]
        faults += [fault for folder in sorted({path.parent for path in files}) for fault in _distrusted(folder)]
    except (ConfigurationError, OSError) as error:
        return Verdict("warning", str(error))
    return _verdict([*faults, *unknown], ", ".join(map(str, files)))


def _faults_of_file(path: Path) -> Iterator[str]:
    with suppress(FileNotFoundError):  # a journal goes with the last connection
        if fault := _open_file(path):
            yield fault


def _open_file(path: Path) -> str | None:
    """Return which other users can read or write the file at *path*."""
    found = path.stat()
    groups = own_groups(found.st_uid)
    for can, write in (("write", True), ("read", False)):
        if who := others(found.st_mode, found.st_gid, own_groups=groups, write=write):
            return f"{who} can {can} {path}, mode {stat.S_IMODE(found.st_mode):04o}; chmod go-rwx"
    return None


def _sqlite_paths(app: App) -> Iterator[Path]:
    """Yield the files of databases: those in the folders of stores that have the name in an address."""
    addresses = dict(_addresses(app))
    for name, store in stores(app):
        folder = folder_of(store)
        file = addresses.get(name, "").partition("?")[0].rpartition("/")[2].removeprefix("file:")
        if folder is not None and file:
            yield from (folder / f"{file}{suffix}" for suffix in _SQLITE_FILES)


def _lock_folder(app: App) -> Verdict:
    try:
        folders = {deploy_guard(app).path.parent, *(drain_lock(app, name, ()).path.parent for name in app.transports)}
        faults = [fault for folder in sorted(folders) for fault in _distrusted(folder)]
    except (ConfigurationError, OSError) as error:
        return Verdict("warning", str(error))
    return _verdict(faults, ", ".join(map(str, sorted(folders))))


# --- servers -------------------------------------------------------------------------------------------------

_ENCRYPTED = {"amqps", "rediss"}
_VERIFIES: tuple[tuple[str, Sequence[str]], ...] = (
    ("sslmode", ("verify-ca", "verify-full")),
    ("ssl_ca", ()),
    ("ssl_verify_cert", ("true",)),
)
"""Parameters of an address with which the server's certificate is verified, and their values; without any, all."""

_ANY_HOST = {"sslmode": ("verify-ca",), "ssl_check_hostname": ("false", "0")}
"""Parameters and values with which a certificate for any host is accepted."""

_ADMINISTRATORS = {"root", "postgres", "sa", "system", "sys", "admin", "administrator", "mysql"}


@attrs.frozen(kw_only=True)
class _Server:
    name: str
    store: Transport
    scheme: str
    host: str
    """As it stands before the path; parameters may name others."""

    user: str
    password: str | None
    path: str
    query: dict[str, list[str]]
    tls: Mapping[str, Any] | None
    """The option ``tls``, as it is written."""

    @property
    def far(self) -> Sequence[str]:
        """The hosts that are other machines; a path is a socket of this one."""
        if "unix_socket" in self.query:
            return ()
        named = self.query.get("hostaddr") or self.query.get("host") or [self.host]
        hosts = [_without_port(each) for text in named for each in text.split(",")]
        return [host for host in hosts if host and not host.startswith(("/", "@")) and not is_loopback(host)]

    @property
    def is_sql(self) -> bool:
        return "tls" in keys_of(type(self.store).Options)

    @property
    def is_known(self) -> bool:
        """Whether its address says how it is connected; another scheme may name a folder in the place of the host."""
        return self.is_sql or self.scheme.startswith(("amqp", "redis"))

    @property
    def is_verified(self) -> bool:
        return (
            self.tls is not None
            or self.scheme in _ENCRYPTED
            or any(name in self.query and (not values or self.query[name][-1] in values) for name, values in _VERIFIES)
        )

    @property
    def accepts_any_host(self) -> bool:
        if self.tls is not None:
            return str(self.tls.get("check_host", True)).lower() in ("false", "0")
        return any(self.query.get(name, [""])[-1].lower() in values for name, values in _ANY_HOST.items())


def _without_port(host: str) -> str:
    return host.partition(":")[0] if host.count(":") == 1 else host


def _addresses(app: App) -> Iterator[tuple[str, str]]:
    """Yield the addresses of the configuration, by the names of transports; what helps one may have its own."""
    config = parts_of(app).config
    for name, entry in config.transports.items() if config else ():
        yield name, entry.url.reveal()
        yield from ((f"{name}.{key}", text) for key, text in entry.helpers().items() if "://" in text)


def _servers(app: App) -> Iterator[_Server]:
    """Yield the servers that the configuration names, by the addresses of transports and outboxes."""
    config = parts_of(app).config
    entries = config.transports if config else {}
    found = dict(stores(app))
    for name, address in _addresses(app):
        with suppress(ValueError):  # each backend has checked its own addresses
            parts = urlsplit(address)
            scheme = parts.scheme.partition("+")[0].lower()
            if scheme not in ("sqlite", "memory"):
                query = parse_qs(parts.query, keep_blank_values=True)
                raw = {pair.partition("=")[0]: pair.partition("=")[2] for pair in parts.query.split("&")}
                password = parts.password if "password" not in query else raw["password"]
                tls = entries[name].options.get("tls") if name in entries else None
                yield _Server(
                    name=name,
                    store=found[name],
                    scheme=scheme,
                    host=(parts.hostname or "").lower(),
                    user=query["user"][-1] if "user" in query else unquote(parts.username or ""),
                    password=None if password is None else unquote(password),
                    path=unquote(parts.path[1:]),
                    query=query,
                    tls=tls if isinstance(tls, Mapping) else None,
                )


def _encrypted_connections(app: App) -> Verdict:
    unknown = unknown_servers(app)
    servers = [each for each in _servers(app) if each.far and each.is_known]
    others = {**unknown, **{each.name: each.store for each in _servers(app) if not each.is_known}}
    faults = [f"{name}: {masked(risk)}" for name, store in others.items() for risk in store.risks()]
    faults += [
        f"{each.name}: the connection to {_hosts(each)} is unencrypted, or its certificate is not verified; "
        + (
            "set tls, or add sslmode=verify-full or ssl_ca=… to the address"
            if each.is_sql
            else f"write {each.scheme}s:// in the address"
        )
        for each in servers
        if not each.is_verified
    ]
    faults += [
        f"{each.name}: a certificate for any host is accepted from {_hosts(each)}; "
        + (
            "remove check_host = false"
            if each.tls is not None
            else "write sslmode=verify-full or ssl_check_hostname=true"
        )
        for each in servers
        if each.is_verified and each.accepts_any_host
    ]
    faults += unseen(unknown)
    is_judged = servers or unknown or faults
    return _verdict(faults, "verified with TLS") if is_judged else _absent("no server on another machine is known")


def _hosts(server: _Server) -> str:
    return masked(", ".join(server.far))


def _passwords(app: App) -> Verdict:
    servers, unknown = list(_servers(app)), unknown_servers(app)
    faults = unseen(unknown)
    for each in servers:
        if fault := _weak_password(each):
            faults.append(f"{each.name}: the password is {fault}; set a random one")
        elif each.password is None and each.is_known:  # a database may know its user in another way
            faults += [f"{each.name}: {masked(risk)}" for risk in each.store.risks()]
    return _verdict(faults, "no password is well known") if servers or unknown else _absent("no transport has a server")


def _weak_password(server: _Server) -> str | None:
    """Return what the password of *server* is, if it can be guessed."""
    if server.password is None:
        return "missing" if server.scheme.startswith("amqp") else None
    password = server.password.lower()
    if not password:
        return "empty"
    if password == server.user.lower():
        return "the name of the user"
    return "well known" if is_well_known(password) else None


def _database_user(app: App) -> Verdict:
    servers, unknown = [each for each in _servers(app) if each.is_sql], unknown_servers(app)
    faults = unseen(unknown)
    faults += [
        f'{each.name}: "{each.user}" administers the server; give relevo a user of its own, with rights on its tables'
        for each in servers
        if each.user.lower() in _ADMINISTRATORS
    ]
    if servers and parts_of(app).creates:
        faults.append(
            'with setup = "auto" the user needs the privilege to create tables; '
            'write setup = "explicit", and run relevo setup as the owner of the tables'
        )
    fine = "the user is not an administrator, judging by its name, and needs no privilege to create tables"
    return _verdict(faults, fine) if servers or unknown else _absent("no database server")


def _rabbitmq_user(app: App) -> Verdict:
    servers, unknown = [each for each in _servers(app) if each.scheme.startswith("amqp")], unknown_servers(app)
    faults = unseen(unknown)
    for each in servers:
        if each.user in ("", "guest"):
            faults.append(
                f"{each.name}: the user guest administers the server; add a user with permissions on relevo's names"
            )
        if each.path in ("", "/"):
            faults.append(f"{each.name}: the default virtual host is shared; add one of its own")
    return (
        _verdict(faults, "a user and a virtual host of its own")
        if servers or unknown
        else _absent("no transport is on RabbitMQ")
    )


# --- processes -----------------------------------------------------------------------------------------------


def _child_processes(app: App) -> Verdict:
    execution = app.execution
    if execution.chosen != "process":
        return Verdict(
            "warning",
            f'with execution = "{execution.chosen}" one listener can stop the whole worker, '
            'by hanging or by taking all memory; write execution = "process"',
        )
    missing = "" if execution.memory_limit else 'a child process may take all memory; set memory_limit = "512M"'
    return _verdict(
        [missing] if missing else [], f"at most {execution.time_limit:g} s and {execution.memory_limit} bytes"
    )


def _own_user(_: App) -> Verdict:
    if os.geteuid() == 0:
        return Verdict("warning", "this is root; run the service, and this check, as a user of its own")
    return Verdict("ok", f"the user {os.geteuid()}")


def _error_mails(app: App) -> Verdict:
    config = parts_of(app).config
    if config is None and any(
        type(each).__module__.startswith("relevo.ext.mail.") for each in parts_of(app).hooks.plugins
    ):
        return Verdict("warning", *unseen(["the plugin mail"]))
    mail: Any = config.plugins.get("mail") if config else None
    if mail is None:
        return _absent("the plugin mail is not configured")
    faults = []
    if mail.options.get("arguments", True) is not False:
        faults.append("mails show the arguments of events, masked only by their names; set arguments = false")
    host = urlsplit(str(mail.options.get("server", ""))).hostname
    if mail.options.get("starttls") is False and host and not is_loopback(host):
        faults.append("mails are sent unencrypted; remove starttls = false")
    return _verdict(faults, "without arguments, encrypted")


POINTS = (
    Point("signed-events", _signed_events),
    Point("accepted-events", _accepted_events),
    Point("configuration-file", _configuration_file),
    Point("encrypted-connections", _encrypted_connections),
    Point("passwords", _passwords),
    Point("database-user", _database_user),
    Point("rabbitmq-user", _rabbitmq_user),
    Point("body-size", _body_size),
    Point("sqlite-file", _sqlite_file),
    Point("lock-folder", _lock_folder),
    Point("child-processes", _child_processes),
    Point("own-user", _own_user),
    Point("error-mails", _error_mails),
)
"""In the order of the page; a test compares them with its headings."""
