"""Faults beneath a transport; a wrapper around it could not provoke an error that the transport swallows."""

from relevo_conformance.fault._countdown import Breakage, Countdown, Fault

__all__ = ["Breakage", "Countdown", "Fault"]
