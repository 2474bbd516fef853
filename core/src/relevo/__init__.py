"""
relevo: events that are dispatched now and handled later.

An :class:`Event` is given to a dispatcher, which calls listeners at once or puts the event into an
:class:`Envelope` and that on a :class:`Transport`. Out of there it comes as a :class:`Delivery` to a
:class:`Worker`, which calls the listeners and settles it; a :class:`Runner` hosts the worker.
"""

from relevo._event import Event, event
from relevo._subject import Subject, SubjectType, SubjectTypes
from relevo._listener import Listener, ListenerTable, listener
from relevo._call import Call, SubjectMissingError
from relevo._dispatcher import DeferredDispatcher, Dispatched, Dispatcher, LocalDispatcher
from relevo._route import Routes, Target
from relevo._envelope import Envelope
from relevo._capabilities import Capabilities
from relevo._transport import BoundSender, DeadLetterEntry, Stats, Transport
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
from relevo._decision import Reason
from relevo._retry import Retry
from relevo._executor import Executor, InlineExecutor
from relevo._worker import Worker
from relevo._runner import Report, Runner, RunOptions
from relevo._app import App
from relevo._hook import Hooks, hookimpl
from relevo._clock import Clock, Duration, SystemClock
from relevo._secret import Secret, masked_url
from relevo.errors import (
    CodecError,
    ConfigurationError,
    DecodeError,
    DuplicateEventError,
    DuplicateListenerError,
    EncodeError,
    EventNameError,
    ForbiddenTransitionError,
    GiveUp,
    LeaseLostError,
    PluginError,
    RelevoError,
    RetryLater,
    RouteNotFoundError,
    SendError,
    SessionError,
    SettleError,
    SubjectError,
    TransportClosedError,
    TransportError,
    TransportNotFoundError,
    TransportUnavailableError,
    UnsupportedError,
)

__all__ = [
    # events and whom they concern
    "Event",
    "event",
    "Subject",
    "SubjectType",
    "SubjectTypes",
    # listeners
    "Listener",
    "ListenerTable",
    "listener",
    "Call",
    "RetryLater",
    "GiveUp",
    "Retry",
    # dispatchers
    "Dispatcher",
    "Dispatched",
    "LocalDispatcher",
    "DeferredDispatcher",
    "Routes",
    "Target",
    # the seam
    "Envelope",
    "Capabilities",
    "Transport",
    "BoundSender",
    "DeadLetterEntry",
    "Stats",
    "Delivery",
    "Unreadable",
    "Outcome",
    "Ack",
    "Nack",
    "DeadLetter",
    "Release",
    "Lost",
    "Settlement",
    "Reason",
    "State",
    "Action",
    "Counters",
    "TRANSITIONS",
    "after",
    "MAX_STATE",
    "MAX_ERROR",
    # running
    "Worker",
    "Executor",
    "InlineExecutor",
    "Runner",
    "RunOptions",
    "Report",
    "App",
    "Hooks",
    "hookimpl",
    # values that come in by argument
    "Clock",
    "SystemClock",
    "Duration",
    "Secret",
    "masked_url",
    # errors
    "RelevoError",
    "ConfigurationError",
    "DuplicateEventError",
    "DuplicateListenerError",
    "EventNameError",
    "PluginError",
    "RouteNotFoundError",
    "SessionError",
    "SubjectError",
    "TransportNotFoundError",
    "UnsupportedError",
    "TransportError",
    "LeaseLostError",
    "SendError",
    "SettleError",
    "TransportClosedError",
    "TransportUnavailableError",
    "CodecError",
    "DecodeError",
    "EncodeError",
    "ForbiddenTransitionError",
    "SubjectMissingError",
]
