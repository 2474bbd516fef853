"""A table of photographs, and the application with photographs as subjects."""

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import relevo
from relevo_sql import database_url, orm_subject


class Base(DeclarativeBase):
    pass


class Photo(Base):
    __tablename__ = "photo"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    data: Mapped[bytes]
    size: Mapped[int | None]  # a listener fills it in


app = relevo.App.from_config()

engine = sa.create_engine(database_url(app))  # that of the outbox, or of the transport if it is a database
sessions = sessionmaker(engine)
Base.metadata.create_all(engine)

app.add_subject(orm_subject(Photo, sessions))
