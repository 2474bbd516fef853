"""What a transport answers is looked at as far as that takes no time."""

from __future__ import annotations

import pytest

from relevo_conformance import history
from relevo_conformance.answer import MisfitError, require


class Shown:
    """Counts how often it is shown."""

    times = 0

    def __repr__(self) -> str:
        type(self).times += 1
        return "shown"


def test_of_an_answer_without_an_end_the_first_is_shown() -> None:
    call = history.Receive(queues=("q",), limit=10, lease=60.0, wait=0.0)

    with pytest.raises(MisfitError, match=r"shown.* and so on, which is longer than 10000"):
        require(call, [Shown()] * 1_000_000)

    assert Shown.times == 1
