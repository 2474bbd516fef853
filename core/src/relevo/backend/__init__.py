"""The kit for authors of transports: what backends share in addition to the interface."""

from relevo._fork import ForkAware, ForkLock, notice_fork
from relevo._transport.optional import INHERITED, FileStore, ParallelSettlement, SessionSetup, SetupScript

# forks
__all__ = ["ForkAware", "ForkLock", "notice_fork"]
# optional interfaces, and options
__all__ += ["SessionSetup", "FileStore", "ParallelSettlement", "SetupScript", "INHERITED"]
