"""Ways to break what lies beneath a transport: a wrapper around it could provoke no swallowed error."""

from relevo_conformance.fault._countdown import Breakage, Countdown, Fault

__all__ = ["Breakage", "Countdown", "Fault"]
