"""Events that listeners dispatch: validated at once, sent after the listeners, with the same ids on a second run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

from relevo._dispatch.gathering import ReadyEvent
from relevo._dispatch.sender import Sender
from relevo._event.context import ambient
from relevo._identity import made
from relevo._listener.call import DispatchOptions


@attrs.frozen(eq=False, repr=False)
class FollowUps:
    """
    Takes the events that a listener dispatches by its call, while a worker handles an event.

    The listener may be called again for the same event. The events that it dispatches again have the same ids.

    Args:
        sender: Validates each event at once, and sends those of one call together.
    """

    _sender: Sender

    def hold(self, event: object, *, key: str, options: DispatchOptions, session: Any = None) -> object:
        """Validate *event* and return it for :meth:`send_held`."""
        parent = ambient().causation
        made_id = partial(derived, parent, key) if parent else None
        return self._sender.check(event, options, session, made_id)

    def send_held(self, held: Sequence[ReadyEvent], session: Any = None) -> None:
        """Send the events that :meth:`hold` returned, inside the transaction of *session* if there is one."""
        self._sender.send(held, session)


def derived(parent: str, key: str, content: bytes) -> str:
    """
    Return the id of an event that a listener dispatched; the same arguments give the same id.

    So an event that a listener dispatches again, in a second run, is a duplicate of the first. The id is a UUID of
    version 8 (RFC 9562, section 5.8): the time of the parent's id, if that is a UUID with one, and 74 bits of SHA-256.

    Args:
        parent: The id of the event that was handled.

        key: The listener's id and the index of the event within the call.

        content: The name, subject and data of the event. If they differ in the second run, it is another event: with
            the same id it would be ignored as a duplicate, and lost.
    """
    from hashlib import sha256  # noqa: PLC0415 - it loads OpenSSL

    head = parent.replace("-", "")[:12]
    moment = int(head, 16) if len(head) == 12 and set(head) <= set("0123456789abcdefABCDEF") else 0
    return made(
        moment,
        8,
        sha256(f"{len(parent)} {parent} {len(key)} {key} ".encode("utf-8", "backslashreplace") + content).digest(),
    )
