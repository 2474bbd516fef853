"""Words of other tools, such as Celery and Symfony Messenger, and what they are called here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "consume": "worker",
        "work": "worker",
        "retry": "dead revive",
        "requeue": "dead revive",
        "replay": "dead revive",
        "failed:retry": "dead revive",
        "failed": "dead list",
        "failed:show": "dead show",
        "failed:remove": "dead discard",
        "forget": "dead discard",
        "remove": "dead discard",
        "publish": "dispatch",
        "enqueue": "dispatch",
        "stats": "status",
        "inspect": "list",
        "debug:messenger": "listeners",
        "debug:event-dispatcher": "listeners",
        "registered": "listeners",
        "control": "status",
        "revoke": "cancel",
        "stop-workers": "deploy begin",
        "setup-transports": "setup",
    }
)
_PREFIXES = ("messenger:", "queue:")
"""Some tools have commands of this form, as in ``messenger:consume``."""

_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "--limit": "--max-events",
        "--time-limit": "--max-time",
        "--memory-limit": "--max-memory",
        "--failure-limit": "--max-failures",
        "--queues": "--queue",
        "--loglevel": "--log-level",
        "-Q": "-q",
        "-A": "-a",
        "-m": "--max-events",
    }
)


def command_for(word: str) -> str | None:
    """Return the command that other tools call *word*; ``None`` if there is none."""
    for prefix in _PREFIXES:
        word = word.removeprefix(prefix)
    found = _COMMANDS.get(word)
    return f"relevo {found}" if found else None


def option_for(word: str) -> str | None:
    """Return the option that other tools call *word*; ``None`` if there is none."""
    return _OPTIONS.get(word)
