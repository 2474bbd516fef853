"""What ``relevo setup`` prints of many things that are alike."""

from __future__ import annotations

from relevo.cli._setup import brief


def test_many_lines_in_a_row_that_differ_in_a_number_are_one() -> None:
    queues = [f'the queue "shop.delay.{number:02}"' for number in range(20)]

    found = brief(['the exchange "shop.q"', *queues, 'the queue "shop.q.default"'])

    assert found == [
        'the exchange "shop.q"',
        'the queue "shop.delay.00" and 19 others that differ in the number',
        'the queue "shop.q.default"',
    ]


def test_a_few_lines_are_printed_as_they_are() -> None:
    lines = [*(f'the queue "part.{number}"' for number in range(5)), 'the table "relevo_event"']

    assert brief(lines) == lines
