"""What every transport promises: the ids that violations, tests and reports name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from relevo import Capabilities

Level = Literal["core", "must", "optional"]


def _always(capabilities: Capabilities) -> bool:
    return True


@attrs.frozen
class Promise:
    """One thing that a transport keeps, whatever happens."""

    id: str
    """Stable: reports, links and deviations refer to it."""

    sentence: str

    level: Level = "core"
    """*core*: no transport deviates. *must*: one may, with a reason. *optional*: only what is claimed."""

    claimed: Callable[[Capabilities], bool] = attrs.field(default=_always, repr=False)
    """Whether a transport with these capabilities makes it."""

    def __str__(self) -> str:
        return self.id


def _optional(promise_id: str, sentence: str, claimed: Callable[[Capabilities], bool]) -> Promise:
    return Promise(promise_id, sentence, "optional", claimed)


# --- sending ---------------------------------------------------------------------------------------

SENT_IS_RECEIVED = Promise("sent-is-received", "What was sent is handed out until it is settled for good.")
NO_INVENTION = Promise("no-invention", "What is handed out was sent, once for each time it was sent.")
PAYLOAD_IS_UNTOUCHED = Promise(
    "payload-is-untouched", "Body, headers and every other field arrive as they were sent, at each hand-over."
)
QUEUES_ARE_ISOLATED = Promise("queues-are-isolated", "An event comes out of the queue it was sent to, and of no other.")
SEND_TELLS_APART = Promise(
    "send-tells-apart", "A send that fails says of each event whether it was sent, refused, or may be either."
)
BATCH_IS_ATOMIC = _optional("batch-is-atomic", "A batch is sent whole or not at all.", lambda c: c.atomic_batch)
DELAY_IS_RESPECTED = _optional(
    "delay-is-respected", "A delayed event is never handed out early.", lambda c: c.delay is not None
)
RESENT_IS_ONE = _optional(
    "resent-is-one",
    "Sending an event again that is not done yet makes no second one; beside its dead letter it makes a new one.",
    lambda c: c.dedupe,
)
JOINS_THE_TRANSACTION = _optional(
    "joins-the-transaction",
    "What is sent in a transaction is there if it commits and only then.",
    lambda c: c.transactional,
)

# --- receiving -------------------------------------------------------------------------------------

LIMIT_IS_RESPECTED = Promise("limit-is-respected", "No more is handed out, or leased, than was asked for.")
LEASED_IS_HIDDEN = Promise("leased-is-hidden", "An event has one holder at a time.")
LOST_LEASE_RETURNS = Promise("lost-lease-returns", "What a vanished holder held is handed out again.")
LOSSES_ARE_COUNTED = Promise(
    "losses-are-counted", "Attempts and losses count every hand-over that a crash ended, and survive it."
)
MALFORMED_IS_QUARANTINED = Promise(
    "malformed-is-quarantined", "Foreign bytes are handed out as unreadable, whole, and hold nothing up."
)
PREFERENCE_IS_KEPT = Promise(
    "preference-is-kept", "The queue named first is emptied first.", "must", lambda c: c.losses == "exact"
)
ORDER_IS_KEPT = _optional(
    "order-is-kept", "Of one queue and key, an event waits for the earlier ones.", lambda c: c.order == "per key"
)
URGENT_OVERTAKES = _optional("urgent-overtakes", "An urgent event overtakes normal ones.", lambda c: c.urgency)

# --- settling --------------------------------------------------------------------------------------

ACK_IS_FINAL = Promise("ack-is-final", "What is done is never handed out again.")
NACK_RETURNS_LATER = Promise(
    "nack-returns-later", "What is given back comes again with the next attempt, its state kept, and not early."
)
RELEASE_COUNTS_NOTHING = Promise("release-counts-nothing", "What is released comes again as if it had never been out.")
STATE_IS_BOUNDED = Promise(
    "state-is-bounded", "A state that is too long is refused as an error of the program, and nothing is changed."
)
STALE_SETTLE_IS_REFUSED = Promise(
    "stale-settle-is-refused", "Settling what is no longer held changes nothing, and says so."
)
DEAD_IS_KEPT_WITH_REASON = _optional(
    "dead-is-kept-with-reason",
    "A dead letter is kept, with its event, reason, error, state and counters, and is not handed out.",
    lambda c: c.dead_letters,
)
REVIVED_IS_RECEIVED = _optional(
    "revived-is-received", "A revived dead letter is handed out as new, once.", lambda c: c.dead_letters
)
DISCARDED_IS_GONE = _optional(
    "discarded-is-gone", "A discarded dead letter, and no other, is gone.", lambda c: c.dead_letters
)
EXTEND_KEEPS_THE_LEASE = _optional("extend-keeps-the-lease", "An extended lease holds.", lambda c: c.extend)
CHECKPOINT_SURVIVES_A_LOSS = _optional(
    "checkpoint-survives-a-loss", "The state of the last checkpoint is handed out again.", lambda c: c.checkpoint
)

# --- operating -------------------------------------------------------------------------------------

CANCELLED_IS_GONE = _optional("cancelled-is-gone", "A cancelled event that nobody held is gone.", lambda c: c.cancel)
PURGED_IS_GONE = _optional("purged-is-gone", "A purge takes out what nobody holds, no more.", lambda c: c.purge)
STATS_ARE_TRUE_AT_REST = _optional(
    "stats-are-true-at-rest",
    "When nothing moves, the figures are right; what waits behind its ordering key is ready.",
    lambda c: c.stats == "exact",
)
SETUP_IS_IDEMPOTENT = Promise(
    "setup-is-idempotent",
    "Setting up again, or asking what it would do, changes nothing; what lacks it names the command that does it.",
)
CLOSE_IS_IDEMPOTENT = Promise(
    "close-is-idempotent",
    "Closing settles nothing: what is held counts as lost, what was only fetched ahead does not. It wakes a blocked "
    "receive, and ends everything but closing.",
)
SURVIVES_REOPENING = Promise("survives-reopening", "What was sent outlives the transport that sent it.")
UNCLAIMED_IS_REFUSED = Promise("unclaimed-is-refused", "What is not claimed raises, and does nothing.")
ERRORS_ARE_TRANSLATED = Promise(
    "errors-are-translated",
    "No method raises anything but a RelevoError, and it names the transport as the application does.",
)

PROMISES: Mapping[str, Promise] = MappingProxyType(
    {promise.id: promise for promise in tuple(globals().values()) if isinstance(promise, Promise)}
)
"""All of them by id, in the order of the story."""


def made_by(capabilities: Capabilities) -> tuple[Promise, ...]:
    """Return the promises that a transport with *capabilities* makes."""
    return tuple(promise for promise in PROMISES.values() if promise.claimed(capabilities))
