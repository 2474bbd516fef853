"""Replies: what a callback sets, and a thread waits for."""

from __future__ import annotations

from typing import Generic, TypeVar

from relevo_amqp._poller import Wake

T = TypeVar("T")


class Reply(Generic[T]):
    """
    The reply to one question: not set yet, a value, or an error.

    Unlike a future of ``concurrent.futures`` it has no lock that a waiting thread takes. An interrupt can keep such a
    lock from being released. Then the callback that sets the future waits for ever, and all callbacks behind it.
    """

    def __init__(self) -> None:
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._woken = Wake()

    def is_set(self) -> bool:
        """Return whether it is a value or an error."""
        return bool(self._value) or self._error is not None

    def set(self, value: T) -> None:
        """Make it *value*, unless it is set."""
        if not self.is_set():
            self._value.append(value)
            self._woken.set()

    def fail(self, error: BaseException) -> None:
        """Make it *error*, unless it is set."""
        if not self.is_set():
            self._error = error
            self._woken.set()

    def result(self, timeout: float = 0.0) -> T:
        """
        Return the value, or raise the error; blocking.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: It was not set in time.
        """
        if not self.is_set():
            self._woken.wait(timeout)
            if not self.is_set():
                raise TimeoutError
            self._woken.set()  # for the next one that waits
        if self._error is not None:
            raise self._error
        return self._value[0]
