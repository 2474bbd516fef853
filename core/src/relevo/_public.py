"""The public names, in the order in which an event meets them."""

from relevo._event.event import Event
from relevo._listener.decorator import event, lifespan, listener
from relevo._event.subject import Gone, Subject, SubjectType, SubjectTypes
from relevo._listener.listener import Listener, ListenerTable
from relevo._listener.call import Call, DispatchOptions
from relevo._listener.journal import Cursor
from relevo._listener.wrapper import AsyncProceed, Proceed
from relevo._dispatch.deferred import DeferredDispatcher
from relevo._dispatch.dispatched import Dispatched
from relevo._dispatch.dispatcher import Dispatcher
from relevo._dispatch.in_process import LocalDispatcher
from relevo._dispatch.deferred_function import DeferredFunction
from relevo._event.context import context
from relevo._transport.route import Routes, Target
from relevo._transport.acceptance import QueueOptions
from relevo._transport.envelope import Envelope, ForeignEnvelope
from relevo._transport.capabilities import Capabilities
from relevo._transport.query import DeadLetterFilter, EventFilter, EventGroup, Found, StuckKey, StuckKeys, WaitingEntry
from relevo._transport.query import DoneEntry
from relevo._transport.transport import BoundSender, DeadLetterEntry, Presence, Stats, Transport, UniqueSender
from relevo._transport.coordinator import MAX_ANNOUNCEMENT, Coordinator
from relevo._transport.delivery import (
    Ack,
    DeadLetter,
    Delivery,
    Failure,
    Lost,
    Nack,
    Note,
    Outcome,
    Release,
    Settlement,
    Unreadable,
)
from relevo._transport.delivery import MAX_DEATHS, MAX_ERROR, MAX_LEASE, MAX_STATE
from relevo._process_identity import ProcessIdentity
from relevo._transport.life import TRANSITIONS, Action, Counters, ForbiddenTransitionError, State, action_of, after
from relevo._worker.decision import Reason
from relevo._retry import Retry
from relevo._worker.executor import Executor, InlineExecutor
from relevo._worker.stall import StalledError
from relevo._worker.worker import Worker
from relevo._worker.execution import Execution
from relevo._worker.time_limit import TimeLimitExceededError
from relevo._runner.runner import Runner
from relevo._worker.run import Report, RunOptions
from relevo._app.app import App
from relevo._schedule.schedule import Schedule
from relevo._runner.loop import LoopRunner
from relevo._runner.systemd import SystemdRunner
from relevo._hook import Hooks, hookimpl
from relevo._clock import Clock, Duration, Moment, SystemClock
from relevo._secret import Secret, masked, masked_url
from relevo._worker.signing import Signing
from relevo.errors import RelevoError, GiveUp, RetryLater
from relevo.errors import ConfigurationError, DuplicateEventError, DuplicateListenerError, EventNameError, PluginError
from relevo.errors import NotAcceptedError, StepError, SubjectMissingError
from relevo.errors import RouteNotFoundError, SessionError, SubjectError, TransportNotFoundError, UnsupportedError
from relevo.errors import LeaseLostError, SendError, SettleError, TransportClosedError, TransportError
from relevo.errors import CommitUnknownError, TransportUnavailableError, CodecError, DecodeError, EncodeError

# events and their subjects
__all__ = ["Event", "event", "Subject", "SubjectType", "SubjectTypes", "Gone"]
# listeners
__all__ += ["Listener", "ListenerTable", "listener", "lifespan", "Call", "Cursor", "RetryLater", "GiveUp", "Retry"]
# dispatchers
__all__ += ["Dispatcher", "Dispatched", "LocalDispatcher", "DeferredDispatcher", "DispatchOptions", "Routes", "Target"]
__all__ += ["DeferredFunction", "context", "QueueOptions"]
# the transport interface
__all__ += [
    "Envelope",
    "Capabilities",
    "Transport",
    "BoundSender",
    "UniqueSender",
    "DeadLetterEntry",
    "Found",
    "Stats",
    "Coordinator",
]
__all__ += ["EventFilter", "DeadLetterFilter", "WaitingEntry", "DoneEntry", "EventGroup", "StuckKey", "StuckKeys"]
__all__ += ["Delivery", "Note", "Presence", "ProcessIdentity"]
__all__ += ["Unreadable", "Outcome", "Ack", "Nack", "DeadLetter", "Release", "Lost", "Settlement", "Reason"]
__all__ += ["Failure", "ForeignEnvelope"]
__all__ += ["State", "Action", "Counters", "TRANSITIONS", "after", "action_of", "MAX_STATE", "MAX_ERROR"]
__all__ += ["MAX_LEASE", "MAX_DEATHS", "MAX_ANNOUNCEMENT"]
# running
__all__ += ["Worker", "Executor", "InlineExecutor", "Execution", "Runner", "RunOptions", "Report"]
__all__ += ["App", "Schedule", "LoopRunner", "SystemdRunner", "Hooks", "hookimpl", "Proceed", "AsyncProceed"]
# values that come in by argument
__all__ += ["Clock", "SystemClock", "Duration", "Moment", "Secret", "masked", "masked_url", "Signing"]
# errors: of the program, of the world, of the event
__all__ += ["RelevoError", "ConfigurationError", "DuplicateEventError", "DuplicateListenerError", "EventNameError"]
__all__ += ["PluginError", "RouteNotFoundError", "SessionError", "StepError", "SubjectError"]
__all__ += ["TransportNotFoundError", "NotAcceptedError"]
__all__ += ["UnsupportedError", "TransportError", "LeaseLostError", "SendError", "SettleError"]
__all__ += ["TransportClosedError", "TransportUnavailableError", "CommitUnknownError"]
__all__ += ["CodecError", "DecodeError", "EncodeError"]
__all__ += ["ForbiddenTransitionError", "StalledError", "SubjectMissingError", "TimeLimitExceededError"]
