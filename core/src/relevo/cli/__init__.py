"""The command line: ``relevo``, or ``python -m relevo``."""

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line as a process of its own, and exit."""
    # What is imported stays until the end, so a search for garbage among it finds nothing: it would take a third of
    # the time of a short command (benchmarks/command_line.py). The search begins when the application is open.
    gc.disable()
    from relevo.cli import _main  # noqa: PLC0415 - imported without that search

    _main.main()


__all__ = ["main"]
