"""
One file, no configuration: books are returned, and waiting readers are notified.

    python library.py            # handles the events at once
    python library.py --later    # only dispatches them, for the next call to handle
"""

import sys
from datetime import date, timedelta

from attrs import frozen

import relevo


@relevo.event("book.returned")
@frozen
class BookReturned:
    title: str
    due: date


@relevo.event("fine.charged")
@frozen
class FineCharged:
    days: int


@relevo.listener(BookReturned)
def charge_a_fine(event: BookReturned, call: relevo.Call) -> None:
    late = date.fromisoformat(call.context["today"]) - event.due
    if late > timedelta():
        call.dispatch(FineCharged(late.days))  # sent when this returns, with the same context


@relevo.listener(BookReturned)
def put_on_shelf(event: BookReturned) -> None:
    print(f"{event.title} is on the shelf")


@relevo.listener(FineCharged)
def send_bill(event: FineCharged, call: relevo.Call) -> None:
    print(f"{call.context['reader']} pays for {event.days} days")


def main() -> int:
    app = relevo.App(
        source="library",
        transports={"main": "sqlite:///library.db"},
        listeners=[charge_a_fine, put_on_shelf, send_bill],
    )
    today = date(2026, 5, 8)
    with app:
        with relevo.context(reader="Ada", today=today.isoformat()):
            app.dispatch_many(
                [
                    BookReturned("Emma", due=date(2026, 5, 1)),
                    BookReturned("Ulysses", due=date(2026, 6, 1)),
                ]
            )
        if "--later" in sys.argv:
            return 0
        report = relevo.LoopRunner().run(app, relevo.RunOptions(until_empty=True))
    print(f"{report.done} done")
    return 1 if report.dead else 0


if __name__ == "__main__":
    sys.exit(main())
