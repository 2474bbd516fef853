"""The kit for authors of transports: the code that backends share beside the interface."""

from relevo._fork import ForkAware, ForkLock, notice_fork
from relevo._transport.optional import INHERITED, FileStore, SessionSetup

# forks
__all__ = ["ForkAware", "ForkLock", "notice_fork"]
# optional interfaces, and options
__all__ += ["SessionSetup", "FileStore", "INHERITED"]
