"""A table of photographs, and the application with photographs as subjects."""

import os

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import relevo
from relevo_sql import orm_subject


class Base(DeclarativeBase):
    pass


class Photo(Base):
    __tablename__ = "photo"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    data: Mapped[bytes]
    size: Mapped[int | None]  # a listener fills it in


engine = sa.create_engine(os.environ.get("DATABASE_URL", "sqlite:///pictures.db"))
sessions = sessionmaker(engine)
Base.metadata.create_all(engine)

app = relevo.App.from_config()
app.add_subject(orm_subject(Photo, sessions))
