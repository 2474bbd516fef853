"""Take an order in an asynchronous request, and answer before it is confirmed."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import relevo
from relevo_sql import database_url


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    dish: Mapped[str]
    confirmed_by: Mapped[str | None]  # a listener fills it in


class NewOrder(BaseModel):
    dish: str


@relevo.event("order.placed")
class OrderPlaced(BaseModel):
    order_id: int
    dish: str


events = relevo.App.from_config()
drivers = {"sqlite": "aiosqlite", "postgresql": os.environ.get("ASYNC_DRIVER", "asyncpg")}
engine = create_async_engine(database_url(events, driver=drivers))
sessions = async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    events.setup()  # now, so that the first request need not wait for it
    yield
    await engine.dispose()  # it may be used again; events.close() would be for good, and tests start the program often


async def a_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


api = FastAPI(lifespan=lifespan)


@api.post("/orders", status_code=202)
async def place(
    new: NewOrder,
    session: Annotated[AsyncSession, Depends(a_session)],
    x_request_id: Annotated[str | None, Header()] = None,
) -> dict[str, int]:
    order = Order(dish=new.dish)
    session.add(order)
    await session.flush()  # gives the order its id
    with relevo.context(correlation_id=x_request_id):
        events.dispatch(OrderPlaced(order_id=order.id, dish=order.dish), session=session)
    await session.commit()
    return {"id": order.id}


@api.get("/orders/{order_id}")
async def show(order_id: int, session: Annotated[AsyncSession, Depends(a_session)]) -> dict[str, str | None]:
    order = await session.get_one(Order, order_id)
    return {"dish": order.dish, "confirmed_by": order.confirmed_by}
