"""
The listener that `relevo drain` calls for an order.

Listeners are plain functions, so they use a plain engine on the same database.
"""

import sqlalchemy as sa
from sqlalchemy.orm import Session

import relevo
from orders import Order, OrderPlaced, events
from relevo_sql import database_url

engine = sa.create_engine(database_url(events))


@relevo.listener(OrderPlaced)
def confirm(event: OrderPlaced, call: relevo.Call) -> None:
    with Session(engine) as session:
        session.get_one(Order, event.order_id).confirmed_by = call.correlation_id
        session.commit()
