"""Mail to the developers: tells of dead letters, of processes that died, and if asked of every failure."""

from relevo.ext.mail._options import MailOptions
from relevo.ext.mail._plugin import Mail

__all__ = ["Mail", "MailOptions"]
