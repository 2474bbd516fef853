"""The paths of an application's locks and of its deploy guard on a host."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from relevo._runner.deploy import DeployGuard
from relevo._runner.host_lock import HostLock
from relevo._runner.single_flight import SingleFlight
from relevo._secret import masked_url
from relevo._transport.coordinator import Coordinator
from relevo._transport.optional import FileStore
from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    from relevo._app.app import App

_SHARED = Path("/tmp")  # noqa: S108 - the folder inside is looked at before it is used
_LONGEST = 60


def drain_lock(app: App, transport: str, queues: Sequence[str]) -> HostLock:
    """
    Return the lock that lets one process at a time drain *queues* of *transport*; all of them if empty.

    Raises:
        ConfigurationError: There is no folder for it.
    """
    names = [_source(app), transport, *sorted(queues)]
    return HostLock(_folder(app) / f"{_file_name('/'.join(names), _address(app, transport))}.lock")


def single_flight(app: App, transport: str, queues: Sequence[str]) -> SingleFlight:
    """
    Return what lets one process at a time drain *queues* of *transport*; all of them if empty.

    The coordinator is the transport itself if it is one, else its outbox.

    Raises:
        ConfigurationError: There is no folder for its lock.
    """
    coordinator = _coordinator_among(app.transport(transport), app.outboxes.get(transport))
    name = _file_name("/".join(["drain", _source(app), transport, *sorted(queues)]))
    return SingleFlight(name, drain_lock(app, transport, queues), coordinator, app.clock)


def deploy_guard(app: App) -> DeployGuard:
    """
    Return what keeps the programs of *app* from taking events during a deploy.

    Raises:
        ConfigurationError: There is no folder for it.
    """
    path = app.deploy or _folder(app) / f"{_file_name(_source(app))}.deploy"
    return DeployGuard(path, app.clock)


def own_file(name: str, further: str = "") -> Path:
    """
    Return the file of this user on this host that is called *name*; *further* tells apart what shares that.

    Raises:
        ConfigurationError: There is no folder for it.
    """
    return _own_folder(_SHARED / f"relevo-{os.geteuid()}") / _file_name(name, further)


def _coordinator_among(*stores: object) -> Coordinator | None:
    return next((each for each in stores if isinstance(each, Coordinator)), None)


def _source(app: App) -> str:
    """Return the application's name; of those that have none, one that others are not likely to have."""
    if app.source != "app" or app.config is None:
        return app.source
    return f"app.{_digest(str(app.config.directory.resolve()))}"


def _address(app: App, transport: str) -> str:
    """Return what tells this transport from one of the same name elsewhere, as that of a staging system."""
    entry = app.config.transports.get(transport) if app.config is not None else None
    if entry is None:
        return str(app.loaded_from.folder or "")
    from relevo._config.opening import options_class  # noqa: PLC0415 - an application put together in code does without
    from relevo._config.table import keys_of  # noqa: PLC0415 - the same

    hidden = {key.name for key in keys_of(options_class(entry)).values() if key.is_secret}
    open_to_all = sorted((key, str(value)) for key, value in entry.options.items() if key not in hidden)
    return f"{masked_url(entry.url.reveal())} {open_to_all}"


def _folder(app: App) -> Path:
    """
    Return the folder: the chosen one, else that of the first store which keeps files, else one of this user's own.

    No variable of the environment has a say: cron sets none of those that a shell has, and both must meet.
    """
    stores = [*app.transports.values(), *app.outboxes.values()]
    if app.lock is not None:
        return app.lock
    for store in stores:
        folder = store.folder if isinstance(store, FileStore) else None
        if folder is not None and folder.is_dir():
            return folder
    return _own_folder(_SHARED / f"relevo-{os.geteuid()}")


def _own_folder(path: Path) -> Path:
    """Return *path*, which is made if need be, after a look whether it is really ours."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigurationError(
            f'there is no folder for locks: {path}: {error.strerror}; name one: lock = "…"'
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigurationError(f'{path} is not a folder of this user alone; remove it, or name another: lock = "…"')
    return path


def _file_name(text: str, further: str = "") -> str:
    """Return a name that a reader knows *text* by; where that or *further* differ, the names do."""
    plain = re.sub(r"[^\w.-]+", ".", text, flags=re.ASCII)[:_LONGEST]
    return plain if plain == text and not further else f"{plain}.{_digest(f'{text} {further}')}"


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
