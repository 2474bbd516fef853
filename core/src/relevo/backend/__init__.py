"""The kit for authors of transports: what backends have in common beside the interface."""

from relevo._fork import ForkAware, ForkLock, notice_fork

# forks
__all__ = ["ForkAware", "ForkLock", "notice_fork"]
