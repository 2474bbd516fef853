"""The command line: ``relevo``, or ``python -m relevo``."""

from relevo.cli._main import main

__all__ = ["main"]
