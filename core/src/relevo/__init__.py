"""relevo: events that are dispatched now and handled later."""

from relevo._envelope import Envelope
from relevo._capabilities import Capabilities
from relevo._delivery import (
    MAX_ERROR,
    MAX_STATE,
    TRANSITIONS,
    Ack,
    Action,
    Counters,
    DeadLetter,
    Delivery,
    Lost,
    Nack,
    Outcome,
    Release,
    Settlement,
    State,
    Unreadable,
    after,
)
from relevo._transport import BoundSender, DeadLetterEntry, Stats, Transport
from relevo._clock import Clock, SystemClock
from relevo._secret import Secret, masked_url
from relevo.errors import *
