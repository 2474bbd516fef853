"""The parts of an application that are made in code, and that no configuration describes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from relevo._app.app import App, parts_of
from relevo._transport.optional import FileStore
from relevo._transport.transport import Transport


def stores(app: App) -> Iterator[tuple[str, Transport]]:
    """Yield the transports of *app*, and what helps them, by the names that problems show."""
    yield from app.transports.items()
    yield from ((f"{name}.outbox", store) for name, store in app.outboxes.items())
    yield from ((f"{name}.coordinator", store) for name, store in app.coordinators.items())
    yield from ((f"{name}.dead_letters", store) for name, store in app.keepers.items())


def folder_of(store: Transport) -> Path | None:
    """Return the folder of the files of *store*, if it is known."""
    return store.folder if isinstance(store, FileStore) else None


def made_in_code(app: App) -> Mapping[str, Transport]:
    """Return the stores of *app* whose addresses are unknown, except for those that end with the process."""
    if parts_of(app).config is not None:
        return {}
    found: dict[int, tuple[str, Transport]] = {}
    for name, store in stores(app):  # an outbox is often a transport, too
        found.setdefault(id(store), (name, store))
    return {name: store for name, store in found.values() if store.capabilities.durability != "process"}


def unknown_servers(app: App) -> Mapping[str, Transport]:
    """Return the stores of *app* that may have a server whose address is unknown; one with a folder has none."""
    return {name: store for name, store in made_in_code(app).items() if folder_of(store) is None}


def unknown_files(app: App) -> Mapping[str, Transport]:
    """Return the stores of *app* that may have files whose names are unknown."""
    return {name: store for name, store in made_in_code(app).items() if isinstance(store, FileStore)}


def unseen(names: Iterable[str]) -> list[str]:
    """Return why a point is not met for the parts called *names*, which are made in code."""
    return [
        f"cannot be checked for {name}, which is made in code; configure it in a file, or check it yourself"
        for name in names
    ]
