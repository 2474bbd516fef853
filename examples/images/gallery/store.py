"""The storage of the gallery: its files in one folder, and its database."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from gallery.models import Base

HOME = Path(__file__).resolve().parent.parent / "var"


class Store:
    """
    The gallery's folder and database, opened at first use.

    Args:
        folder: Holds ``images/`` and ``thumbs/``, and ``gallery.db`` unless another database is used.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._url: URL | None = None
        self._sessions: sessionmaker[Session] | None = None

    @property
    def url(self) -> URL:
        """The address of the database."""
        return self._url or URL.create("sqlite", database=str(self.folder / "gallery.db"))

    def move(self, folder: Path) -> None:
        """Use *folder* from now on."""
        self.close()
        self.folder = folder

    def use(self, url: URL | None) -> None:
        """Use the database at *url* from now on; by default a file in the folder."""
        self.close()
        self._url = url

    def empty(self) -> None:
        """Delete all files and rows, and create the folder and the tables."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        with self.session() as session:
            Base.metadata.drop_all(session.connection())
            Base.metadata.create_all(session.connection())
            session.commit()

    def session(self) -> Session:
        """Return a new session on the gallery's database."""
        if self._sessions is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            engine = _engine(self.url)
            Base.metadata.create_all(engine)
            self._sessions = sessionmaker(engine, expire_on_commit=False)
        return self._sessions()

    def close(self) -> None:
        """Close the database."""
        if self._sessions is not None:
            self._sessions.kw["bind"].dispose()
            self._sessions = None

    def absolute(self, path: str) -> Path:
        """Return the full path of *path*, which is relative as in the database."""
        return self.folder / path

    def keep(self, source: Path) -> str:
        """Copy the uploaded *source* into the gallery; return its relative path for the database."""
        path = f"images/{uuid4().hex}{source.suffix.lower()}"
        self.write(path, source.read_bytes())
        return path

    def write(self, path: str, content: bytes) -> None:
        """Write *content* to *path*, durably and atomically: readers never see a part of a file."""
        target = self.absolute(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    def remove(self, path: str) -> None:
        """Delete the file at *path*, if it exists."""
        self.absolute(path).unlink(missing_ok=True)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url)
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")  # readers and the one writer do not wait for each other
        connection.execute("PRAGMA foreign_keys = ON")

    return engine


store = Store(HOME)
"""The store that the application uses."""
