"""Count writes until the one that fails."""

from __future__ import annotations

from typing import Literal

import attrs

Breakage = Literal["before", "after"]
"""When a write fails: *before* it has its effect, or *after*, when only the answer is lost."""


@attrs.frozen
class Fault:
    """One write to the store that fails, in any call."""

    moment: Breakage = "before"

    at: int | None = 1
    """Its number from now on, the first is 1; ``None``: the one that publishes the others, such as a commit."""


class Countdown:
    """Decides for each write whether it fails; one of them does."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._left = fault.at
        self._over = False

    def begins(self, *, lasting: bool) -> bool:
        """
        Count a write; return whether it fails without an effect.

        Args:
            lasting: Whether this write publishes the earlier ones, as a commit does, or the rename of a complete file.
                A write that only a later one publishes passes False. If each write has its effect at once, pass True
                each time.
        """
        if self._left is not None:
            self._left -= 1
        return self._fails("before", lasting=lasting)

    def ends(self, *, lasting: bool) -> bool:
        """
        Return whether the write that has had its effect fails.

        Args:
            lasting: As for :meth:`begins`.
        """
        return self._fails("after", lasting=lasting)

    def _fails(self, moment: Breakage, *, lasting: bool) -> bool:
        meant = lasting if self._left is None else self._left == 0
        fails = meant and not self._over and moment == self.fault.moment
        self._over = self._over or fails
        return fails
