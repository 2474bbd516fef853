"""Tests in memory: no database, no server, no waiting."""

from collections.abc import Iterator

import pytest

import stock
from relevo.testing import AppTesting
from stock import OrderPlaced


@pytest.fixture(autouse=True)
def _ten_pears() -> Iterator[None]:
    stock.stock["pears"] = 10
    yield
    stock.stock.clear()
    stock.letters.clear()


def test_an_order_is_announced_and_nothing_is_done_yet(relevo_app: AppTesting) -> None:
    stock.order("pears", 3)

    relevo_app.dispatched(OrderPlaced, article="pears", quantity=3, times=1)
    assert stock.stock == {"pears": 10}


def test_what_is_ordered_is_taken_from_the_stock_and_a_letter_is_written(relevo_app: AppTesting) -> None:
    stock.order("pears", 3)

    relevo_app.drain()
    assert stock.stock == {"pears": 7}
    assert list(stock.letters.values()) == ["Thank you for 3 pears"]


def test_the_letter_is_written_once_though_its_listener_runs_twice(relevo_app: AppTesting) -> None:
    stock.order("pears", 3)

    relevo_app.drain(twice=True)
    assert len(stock.letters) == 1


@pytest.mark.xfail(strict=True, reason="take_from_stock is not idempotent, which is what twice=True finds out")
def test_the_stock_is_right_though_its_listener_runs_twice(relevo_app: AppTesting) -> None:
    stock.order("pears", 3)

    relevo_app.drain(twice=True)
    assert stock.stock == {"pears": 7}


def test_an_article_that_is_not_there_ends_in_the_dead_letters() -> None:
    with stock.app.testing() as t:
        stock.order("apples", 1)

        for wait in ("0s", "2s", "8s", "32s", "128s"):
            t.travel(wait)
            t.drain(raises=False)

        [dead] = t.dead
        assert dead.reason == "retries-exhausted"
        assert "KeyError: 'apples'" in dead.error
        assert len(stock.letters) == 1  # the other listener was not affected
