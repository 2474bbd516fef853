"""The promises of a transport; violations, tests and reports name them by id."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from relevo import Capabilities, Coordinator
from relevo.backend import ControlStore, Inbox, LimitStore, TransactionalHandling

Level = Literal["core", "must", "optional"]

RACED = 10
"""How often two calls must have raced before a promise that only a race can break is known to be kept."""


@attrs.frozen
class Needs:
    """The capability that a transport must claim to make a promise; none by default."""

    capability: str = ""
    value: str | None = None
    """The value that it must claim; by default any value except none."""

    asked_for: bool = True
    """Whether a call or an argument needs it, and must be refused if it is not claimed."""

    def __call__(self, capabilities: Capabilities) -> bool:
        """Return whether a transport with *capabilities* makes the promise."""
        if not self.capability:
            return True
        claimed = getattr(capabilities, self.capability)
        return bool(claimed is not None and claimed is not False) if self.value is None else bool(claimed == self.value)

    def __str__(self) -> str:
        return self.capability if self.value is None else f"{self.capability} = {self.value}"


@attrs.frozen
class Promise:
    """A property of a transport that holds in every situation."""

    id: str
    """It never changes: reports, links and deviations refer to it."""

    sentence: str

    level: Level = "core"
    """*core*: no transport deviates. *must*: one may, with a reason. *optional*: only what is claimed."""

    claimed: Needs = attrs.field(default=Needs(), repr=False)
    """Whether a transport with these capabilities makes it."""

    floors: Mapping[str, int] = attrs.field(factory=dict, repr=False, eq=False)
    """Situations of :func:`relevo_conformance.history.tally`, and how often each must be met for a PASS."""

    interface: type | None = attrs.field(default=None, repr=False)
    """The optional interface that a transport must implement to make it."""

    since: str = "0.1"
    """The first release of the suite that tested it."""

    def is_made_by(self, transport: type) -> bool:
        """Return whether instances of *transport* implement what the promise is about."""
        return self.interface is None or issubclass(transport, self.interface)

    @property
    def unmade(self) -> str:
        """Why a transport does not make it that does not implement its interface."""
        name = getattr(self.interface, "__name__", "Transport")
        return f"the transport is not {'an' if name[0] in 'AEIOU' else 'a'} {name}"

    def __str__(self) -> str:
        return self.id


def _optional(
    promise_id: str,
    sentence: str,
    claimed: Needs = Needs(),
    *,
    floors: Mapping[str, int] = MappingProxyType({}),
    interface: type | None = None,
) -> Promise:
    return Promise(promise_id, sentence, "optional", claimed, floors, interface)


# --- sending ---------------------------------------------------------------------------------------

SENT_IS_RECEIVED = Promise(
    "sent-is-received",
    "A sent event is delivered until it is settled for good.",
    floors={"event handed out": 20, "drain done": 10, "receive raced send": RACED},
)
NO_INVENTION = Promise(
    "no-invention",
    "Only sent events are delivered, each once for each time it was sent.",
    floors={"event handed out": 20},
)
PAYLOAD_IS_UNTOUCHED = Promise(
    "payload-is-untouched",
    "Body, headers and every other field arrive as they were sent, in each delivery.",
    floors={"event handed out": 20, "handed out after a nack": 5},
)
QUEUES_ARE_ISOLATED = Promise(
    "queues-are-isolated",
    "An event is delivered from the queue it was sent to, and from no other.",
    floors={"event handed out": 20},
)
SEND_TELLS_APART = Promise(
    "send-tells-apart",
    "A send that fails reports for each event whether it was sent, refused or is unknown.",
    floors={"event refused": 3, "event unknown": 3},
)
BATCH_IS_ATOMIC = _optional(
    "batch-is-atomic",
    "A batch is sent whole or not at all.",
    Needs("atomic_batch", asked_for=False),
    floors={"batch": 5, "event unknown": 3, "event handed out": 20},
)
DELAY_IS_RESPECTED = _optional(
    "delay-is-respected", "A delayed event is never delivered early.", Needs("delay"), floors={"event delayed": 3}
)
RESENT_IS_ONE = _optional(
    "resent-is-one",
    "Sending an unfinished event again creates no duplicate; if only its dead letter is left, it creates a new event.",
    Needs("dedupe", asked_for=False),
    floors={"event again": 5, "send raced send": RACED},
)
ONE_EVENT_OF_A_KEY_LIVES = _optional(
    "one-event-of-a-key-lives",
    "While an event with a unique key lives, or for the time of its key, another one with that key is not accepted, "
    "and its sender gets the id of the first.",
    Needs("unique"),
)
JOINS_THE_TRANSACTION = _optional(
    "joins-the-transaction",
    "An event that is sent in a transaction exists if the transaction commits, and only then.",
    Needs("transactional"),
    floors={"sendbound done": 10, "endtransaction done": 5},
)
EFFECT_IS_THERE_IF_DONE = _optional(
    "effect-is-there-if-done",
    "What a listener wrote and the state of its delivery commit together or not at all, and only until the event is "
    "handed out again.",
    interface=TransactionalHandling,
)
EFFECT_HAPPENS_ONCE = _optional(
    "effect-happens-once",
    "While a key is remembered, what a listener writes with it, or with an alias of it, is committed once.",
    interface=Inbox,
)

# --- receiving -------------------------------------------------------------------------------------

LIMIT_IS_RESPECTED = Promise(
    "limit-is-respected", "A receive never hands out, or leases, more than its limit.", floors={"limit reached": 5}
)
LEASED_IS_HIDDEN = Promise(
    "leased-is-hidden",
    "An event has one holder at a time.",
    floors={"event handed out": 20, "receive raced receive": RACED},
)
LOST_LEASE_RETURNS = Promise(
    "lost-lease-returns",
    "An event whose holder vanished is delivered again.",
    floors={"kill done": 3, "handed out after a lost lease": 3},
)
LOST_LEASES_ARE_COUNTED = Promise(
    "lost-leases-are-counted",
    "Attempts and lost leases count every delivery that a crash ended, and survive the crash.",
    floors={"handed out after a lost lease": 5},
)
MALFORMED_IS_QUARANTINED = Promise(
    "malformed-is-quarantined",
    "Foreign bytes are delivered as unreadable, unchanged, and block nothing.",
    floors={"unreadable handed out": 5},
)
PREFERENCE_IS_KEPT = Promise(
    "preference-is-kept", "The queue named first is emptied first.", "must", Needs("lost_leases", "exact")
)
ORDER_IS_KEPT = _optional(
    "order-is-kept",
    "An event waits for the earlier ones of its queue and key.",
    Needs("order", "per key"),
    floors={"event with a key": 10, "receive raced receive": RACED},
)
URGENT_OVERTAKES = _optional(
    "urgent-overtakes", "An urgent event overtakes normal ones.", Needs("urgency"), floors={"event urgent": 10}
)

NOBODY_STARVES = Promise(
    "nobody-starves",
    "An event of normal urgency is delivered in bounded time, whatever is sent after it and however often its "
    "neighbour fails.",
    "must",
)
WAIT_IS_KEPT = Promise(
    "wait-is-kept",
    "A receive returns within its wait, at once if the wait is 0, and also returns events that did not wake it.",
    "must",
)

WOKEN_BY_A_SEND = _optional(
    "woken-by-a-send",
    "A waiting receive returns long before its wait is over when another instance sends; whether it slept or polled "
    "until then is not tested.",
    Needs("wakeup", asked_for=False),
)

# --- settling --------------------------------------------------------------------------------------

ACK_IS_FINAL = Promise("ack-is-final", "A done event is never delivered again.", floors={"ack": 20})
NACK_RETURNS_LATER = Promise(
    "nack-returns-later",
    "A nacked event is delivered again with the next attempt and its state, and not early.",
    floors={"handed out after a nack": 5},
)
RELEASE_COUNTS_NOTHING = Promise(
    "release-counts-nothing",
    "A released event is delivered again as if it had never been handed out.",
    floors={"release": 3},
)
STATE_IS_BOUNDED = Promise(
    "state-is-bounded", "A state that is too long is refused with a ConfigurationError, and nothing is changed."
)
STALE_SETTLE_IS_REFUSED = Promise(
    "stale-settle-is-refused",
    "Settling a delivery that is no longer held changes nothing, and reports it as lost.",
    floors={"stale ack": 3, "stale nack": 3, "stale release": 3, "settle raced settle": RACED},
)
DEAD_IS_KEPT_WITH_REASON = _optional(
    "dead-is-kept-with-reason",
    "A dead letter is kept, with its event, reason, error, state and counters, and is not delivered.",
    Needs("dead_letters"),
    floors={"deadletter": 5, "listdead done": 5},
)
REVIVED_IS_RECEIVED = _optional(
    "revived-is-received",
    "A revived dead letter is delivered once, as new.",
    Needs("dead_letters"),
    floors={"revived": 3, "revive raced revive": RACED},
)
DISCARDED_IS_GONE = _optional(
    "discarded-is-gone",
    "A discarded dead letter, and no other, is gone.",
    Needs("dead_letters"),
    floors={"discard done": 2, "discard raced revive": RACED},
)
EXTEND_KEEPS_THE_LEASE = _optional(
    "extend-keeps-the-lease",
    "An extended lease holds.",
    Needs("extend"),
    floors={"extended": 3, "extend raced settle": RACED},
)
CHECKPOINT_SURVIVES_A_LOST_LEASE = _optional(
    "checkpoint-survives-a-lost-lease",
    "The state of the last checkpoint is delivered again.",
    Needs("checkpoint"),
    floors={"checkpoint done": 3, "checkpoint raced settle": RACED},
)
BEGUN_IS_KEPT = _optional(
    "begun-is-kept",
    "The note and the deaths of an event are delivered again after a lost lease and a release; a nack and a reported "
    "death remove the note and keep the deaths.",
    Needs("presence"),
    floors={"begin done": 3, "begin raced settle": RACED},
)
PRESENCE_IS_SEEN = _optional(
    "presence-is-seen",
    "Other instances see each heartbeat of a worker, and none after the worker has vanished.",
    Needs("presence"),
)

# --- operating -------------------------------------------------------------------------------------

TAKEN_BY_ITS_ID = _optional(
    "taken-by-its-id",
    "An event that is not held is leased by its id, even before it is due; no other event is.",
    Needs("take"),
    floors={"take done": 5},
)
CANCELLED_IS_GONE = _optional(
    "cancelled-is-gone",
    "A cancelled event that was not held is gone.",
    Needs("cancel"),
    floors={"cancel done": 2, "cancel raced receive": RACED},
)
PURGED_IS_GONE = _optional(
    "purged-is-gone",
    "A purge removes what is not held, and nothing else.",
    Needs("purge"),
    floors={"purge done": 2, "purge raced receive": RACED},
)
FOUND_AS_IT_IS = _optional(
    "found-as-it-is",
    "An unfinished event is found by its id, in each queue, as it is stored; a done or dead one is not.",
    Needs("find"),
    floors={"find done": 5},
)
QUERIED_AS_IT_IS = _optional(
    "queried-as-it-is",
    "Unfinished events and dead letters are listed and counted by filter as they are stored, page by page without gap "
    "or repetition, and nothing else is.",
    Needs("waiting"),
    floors={"listwaiting done": 5, "countgroups done": 5},
)
STATS_ARE_TRUE_AT_REST = _optional(
    "stats-are-true-at-rest",
    "At rest the figures are exact; an event that waits behind its ordering key counts as ready.",
    Needs("stats", "exact"),
    floors={"count done": 10},
)
LOCK_HAS_ONE_HOLDER = _optional(
    "lock-has-one-holder",
    "A lock has one holder, until it is released or has expired; the same holder takes it over at once, with a new "
    "receipt.",
    floors={"lock done": 20, "lock raced lock": RACED},
    interface=Coordinator,
)
LOCK_IS_KEPT_BY_ITS_RECEIPT = _optional(
    "lock-is-kept-by-its-receipt",
    "A lock is renewed and released by its last receipt, and by no other, even after it has expired.",
    floors={"renewlock done": 10, "unlock done": 10},
    interface=Coordinator,
)
ANNOUNCED_IS_SEEN = _optional(
    "announced-is-seen",
    "Every instance sees the last announcement of each worker, unchanged, until it expires or is removed.",
    floors={"announce done": 10, "listworkers done": 10},
    interface=Coordinator,
)
CONTROL_IS_SEEN = _optional(
    "control-is-seen",
    "Every instance sees the last control of each key, unchanged, until it expires or is removed.",
    floors={"setcontrol done": 10, "listcontrols done": 10},
    interface=ControlStore,
)
LIMIT_IS_COUNTED_ONCE = _optional(
    "limit-is-counted-once",
    "What several callers change under one key is changed one after the other: no change is lost.",
    floors={"changelimit done": 20, "changelimit raced changelimit": RACED},
    interface=LimitStore,
)
SETUP_IS_IDEMPOTENT = Promise(
    "setup-is-idempotent",
    "A second setup, or a dry run, changes nothing; if the setup is missing, the error names the command that runs it.",
    floors={"setup done": 10},
)
FAILURE_LOSES_NOTHING = Promise(
    "failure-loses-nothing",
    "If the store fails in the middle of a call, nothing is lost or done twice; when it is back, the same transport "
    "continues.",
    "must",
    floors={"fault met": 3},
)
CLOSE_IS_IDEMPOTENT = Promise(
    "close-is-idempotent",
    "Closing settles nothing: a held delivery counts as a lost lease, an event that was only fetched ahead does not. "
    "It wakes a blocked receive; afterwards only close succeeds.",
    floors={"close done": 10},
)
SURVIVES_REOPENING = Promise(
    "survives-reopening", "Sent events outlive the transport that sent them.", floors={"open done": 10}
)
UNCLAIMED_IS_REFUSED = Promise(
    "unclaimed-is-refused", "A call that needs an unclaimed capability raises UnsupportedError, and does nothing."
)
ERRORS_ARE_TRANSLATED = Promise(
    "errors-are-translated",
    "Methods raise only RelevoErrors, which name the transport as the application does.",
)

ANSWERS_ARE_WELL_FORMED = Promise(
    "answers-are-well-formed",
    "Return values have the types, and are within the bounds, that the transport interface defines.",
    floors={"event handed out": 20, "settle done": 20},
)
CALLS_COME_BACK = Promise(
    "calls-come-back",
    "Every call returns, within its wait and a generous margin.",
    floors={"receive done": 20, "close done": 5},
)

PROMISES: Mapping[str, Promise] = MappingProxyType(
    {promise.id: promise for promise in tuple(globals().values()) if isinstance(promise, Promise)}
)
"""All promises by id, in the order of the documentation."""
