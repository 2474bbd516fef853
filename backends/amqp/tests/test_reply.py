"""Replies: set once, by a callback, for any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from relevo_amqp._reply import Reply

from .conftest import PATIENCE


def test_the_first_value_or_error_stays() -> None:
    value, error = Reply[int](), Reply[int]()

    value.set(1)
    value.set(2)
    value.fail(ValueError())
    error.fail(KeyError())
    error.fail(ValueError())
    error.set(1)

    assert value.result() == 1
    with pytest.raises(KeyError):
        error.result()


def test_none_is_a_value() -> None:
    reply = Reply[None]()
    before = reply.is_set()

    reply.set(None)

    assert (before, reply.is_set()) == (False, True)
    assert reply.result() is None


def test_one_that_is_not_set_in_time_is_an_error() -> None:
    with pytest.raises(TimeoutError):
        Reply[int]().result(0.01)


def test_all_that_wait_get_it() -> None:
    reply = Reply[int]()

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(reply.result, PATIENCE) for _ in range(3)]
        reply.set(7)

        assert [each.result(PATIENCE / 2) for each in waiting] == [7, 7, 7]
