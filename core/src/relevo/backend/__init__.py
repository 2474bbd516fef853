"""The kit for authors of transports: code that backends share in addition to the interface."""

from relevo._event.codec import DEFAULT_SOURCE
from relevo._event.context import awaiting_task
from relevo._fork import ForkAware, ForkLock, notice_fork
from relevo.backend._foreign import foreign_envelope
from relevo._transport.control_store import ControlStore
from relevo._transport.keeper import DeadLetterKeeper, DeadLetterOwner, KeptDeadLetters
from relevo._transport.limit_store import LimitStore
from relevo._transport.schedule_store import Firing, ScheduleStore
from relevo._transport.made import made_delivery, made_envelope
from relevo._transport.optional import (
    INHERITED,
    Archive,
    FileStore,
    HandlingTransaction,
    IdentifiedStore,
    Inbox,
    ParallelSettlement,
    QueueCatalog,
    SchemaUpgrade,
    SessionSetup,
    SetupScript,
    TransactionalHandling,
)

# forks
__all__ = ["ForkAware", "ForkLock", "notice_fork"]
# dispatches that are awaited
__all__ += ["awaiting_task"]
# events of other programs
__all__ += ["foreign_envelope"]
# optional interfaces, and options
__all__ += ["SessionSetup", "FileStore", "ParallelSettlement", "IdentifiedStore", "QueueCatalog", "SchemaUpgrade"]
__all__ += ["SetupScript", "TransactionalHandling", "HandlingTransaction", "Inbox", "Archive", "INHERITED"]
# dead letters that another transport keeps
__all__ += ["DeadLetterOwner", "DeadLetterKeeper", "KeptDeadLetters"]
# schedules
__all__ += ["ScheduleStore", "Firing"]
# what operators ask of workers
__all__ += ["ControlStore"]
# what counts against the limits of queues
__all__ += ["LimitStore"]
# the source of an application without one, which several may share
__all__ += ["DEFAULT_SOURCE"]
# values, made in half the time
__all__ += ["made_delivery", "made_envelope"]
