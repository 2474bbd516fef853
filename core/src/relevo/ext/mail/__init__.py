"""Mail to the developers about dead letters, processes that died and, as an option, every failure."""

from relevo.ext.mail._options import MailOptions
from relevo.ext.mail._plugin import Mail

__all__ = ["Mail", "MailOptions"]
