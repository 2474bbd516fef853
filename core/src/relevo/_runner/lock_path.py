"""The paths of an application's locks and its deploy guard on a host."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from relevo._app.app import parts_of
from relevo._event.codec import DEFAULT_SOURCE
from relevo._runner.deploy import DeployGuard
from relevo._runner.host_lock import HostLock
from relevo._runner.single_flight import SingleFlight
from relevo._runner.state_folder import home_of, state_folder
from relevo._secret import masked_url
from relevo._transport.optional import FileStore

if TYPE_CHECKING:
    from relevo._app.app import App

_SHARED = Path("/tmp")  # noqa: S108 - the folder inside is checked before use
_LONGEST = 60


def drain_lock(app: App, transport: str, queues: Sequence[str]) -> HostLock:
    """
    Return the lock that lets one process at a time drain *queues* of *transport*; all queues if empty.

    Raises:
        ConfigurationError: There is no folder for it.
    """
    names = [_source(app), transport, *sorted(queues)]
    return HostLock(_folder(app) / f"{_file_name('/'.join(names), _address(app, transport))}.lock")


def single_flight(app: App, transport: str, queues: Sequence[str]) -> SingleFlight:
    """
    Return the single flight that lets one process at a time drain *queues* of *transport*; all queues if empty.

    The coordinator is the one that was chosen, else the transport itself if it is one, else its outbox.

    Raises:
        ConfigurationError: There is no folder for its lock.
    """
    coordinator = parts_of(app).coordinator(app.transport(transport))
    name = _file_name("/".join(["drain", _source(app), transport, *sorted(queues)]))
    return SingleFlight(name, drain_lock(app, transport, queues), coordinator, app.clock)


def schedule_file(app: App, transport: str) -> Path:
    """
    Return the file of this host that stores up to when the schedules of *transport* have fired.

    Raises:
        ConfigurationError: There is no folder for it.
    """
    names = ["schedules", _source(app), transport]
    return _folder(app) / f"{_file_name('/'.join(names), _address(app, transport))}.db"


def deploy_guard(app: App) -> DeployGuard:
    """
    Return the guard that keeps the workers of *app* from taking events during a deploy.

    Raises:
        ConfigurationError: There is no folder for it.
    """
    if app.deploy is not None:
        return DeployGuard(app.deploy, app.clock)
    folder = _folder_of_store(app)
    if folder is not None:
        return DeployGuard(folder / f"{_file_name(_source(app))}.deploy", app.clock)
    # A folder for all applications of this user, perhaps a staging system with the same name.
    return DeployGuard(_own_folder() / f"{_file_name(_source(app), _servers(app))}.deploy", app.clock)


def own_file(name: str, further: str = "") -> Path:
    """
    Return the file *name* of this user on this host; *further* distinguishes files with the same name.

    Raises:
        ConfigurationError: There is no folder for it.
    """
    return _own_folder() / _file_name(name, further)


def _source(app: App) -> str:
    """Return the application's name; if it has none, a name that is unlikely to clash."""
    config = parts_of(app).config
    if app.source != DEFAULT_SOURCE or config is None:
        return app.source
    return f"app.{_digest(str(config.directory.resolve()))}"


def _address(app: App, transport: str) -> str:
    """
    Return a text that distinguishes this transport from others with its name, as that of a staging system.

    A transport that was made in code has no known address. There, the name and the folder of the application count.
    """
    parts = parts_of(app)
    entry = parts.config.transports.get(transport) if parts.config is not None else None
    if entry is None:
        return " ".join(filter(None, (str(parts.loaded_from.folder or ""), parts.loaded_from.name)))
    from relevo._config.opening import options_class  # noqa: PLC0415 - App(…) does not need it
    from relevo._config.table import keys_of  # noqa: PLC0415 - App(…) does not need it

    hidden = {key.name for key in keys_of(options_class(entry)).values() if key.is_secret}
    open_to_all = sorted((key, str(value)) for key, value in entry.options.items() if key not in hidden)
    return f"{masked_url(entry.url.reveal())} {open_to_all}"


def _servers(app: App) -> str:
    """Return the addresses of the configured transports, without passwords and options, which a release may change."""
    config = parts_of(app).config
    entries = config.transports.values() if config is not None else ()
    return " ".join(sorted(masked_url(entry.url.reveal()) for entry in entries))


def _folder(app: App) -> Path:
    """
    Return the folder: the chosen one, else that of the first store which keeps files, else one of this user's own.

    Environment variables are not used: cron does not set those of a shell, and both must find the same folder.
    """
    return _folder_of_store(app) or _own_folder()


def _folder_of_store(app: App) -> Path | None:
    if app.lock is not None:
        return app.lock
    for store in parts_of(app).stores():
        folder = store.folder if isinstance(store, FileStore) else None
        if folder is not None and folder.is_dir():
            return folder
    return None


def _own_folder() -> Path:
    user = os.geteuid()
    return state_folder(home_of(user), _SHARED, user)


def _file_name(text: str, further: str = "") -> str:
    """Return a readable file name for *text*, unique for *text* and *further*."""
    plain = re.sub(r"[^\w.-]+", ".", text, flags=re.ASCII)[:_LONGEST]
    return plain if plain == text and not further else f"{plain}.{_digest(f'{text} {further}')}"


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
