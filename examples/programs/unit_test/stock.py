"""A shop with two listeners. One of them gives a wrong result when it runs twice."""

from dataclasses import dataclass

import relevo


@relevo.event("order.placed")
@dataclass
class OrderPlaced:
    article: str
    quantity: int


stock: dict[str, int] = {}
letters: dict[str, str] = {}


@relevo.listener(OrderPlaced)
def take_from_stock(event: OrderPlaced) -> None:
    stock[event.article] -= event.quantity  # not idempotent: a second run takes the articles again


@relevo.listener(OrderPlaced)
def write_letter(event: OrderPlaced, call: relevo.Call) -> None:
    letters[call.event_id] = f"Thank you for {event.quantity} {event.article}"


app = relevo.App.from_config()


def order(article: str, quantity: int) -> None:
    app.dispatch(OrderPlaced(article, quantity))
