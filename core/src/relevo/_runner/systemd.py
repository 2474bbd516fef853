"""The runner for systemd: a service that reports when it is ready, restarted when it ends."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from relevo._runner.command import command, folder_of, unprintable_in
from relevo._runner.loop import LoopRunner
from relevo._worker.run import RunOptions
from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    from relevo._app.app import App

_MARGIN = 30.0
"""Seconds after the longest listener until systemd kills the process: the time to release and settle deliveries."""

_LIVES = 5.0
"""Seconds; a worker that may reach a limit earlier is restarted without a growing delay, since its events wait."""

_DELAYED = """\
# the delay grows up to 5 minutes; systemd before 254 warns that it ignores the last two lines, and waits 5 s
RestartSec=5
RestartSteps=6
RestartMaxDelaySec=300"""

_SOON = """\
# its limit may be reached at any time, so the delay is short
RestartSec=1"""

_UNIT = """\
[Unit]
Description=relevo {kind} of {what}
Wants=network-online.target
After=network-online.target
# never given up, however often it ends
StartLimitIntervalSec=0

[Service]
Type={type}
ExecStart={command}
WorkingDirectory={directory}
# after every exit: 0 at a limit, 78 while the server refuses its user
Restart=always
{restart}
{watchdog}# TERM goes to the {kind}, which finishes what runs and gives back the rest; what is left afterwards is killed
KillMode=mixed
TimeoutStopSec={patience}
NoNewPrivileges=yes
ProtectSystem=full
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
UMask=0027

[Install]
WantedBy=multi-user.target
"""


def systemd(app: App, options: RunOptions) -> str:
    """
    Return the unit of a service.

    Args:
        app: The application whose events it handles.

        options: Transport, queues, and the limits after which the service is restarted.

    Raises:
        ConfigurationError: A path contains characters that a unit cannot hold.
    """
    is_relay = options.relay_only
    return _UNIT.format(
        kind="relay" if is_relay else "worker",
        type="exec" if is_relay else "notify",  # a relay is ready once it runs: it has no listeners to check
        watchdog="" if is_relay else "WatchdogSec=60\n",
        what=_value("/".join([app.source, app.transport(options.transport).name, *options.queues])),
        command=" ".join(map(_word, command(app, options))),
        directory=_value(folder_of(app)),
        restart=_SOON if options.ends_within(_LIVES) else _DELAYED,
        patience=math.ceil((0.0 if is_relay else app.execution.longest(app.listeners)) + _MARGIN),
    )


class SystemdRunner(LoopRunner):
    """
    Handles events until it is stopped, and waits for a server that is down.

    Args:
        signals: Handle TERM and INT, if this is the main thread; otherwise the program handles them.
    """

    def __init__(self, *, signals: bool = True):
        super().__init__(patient=True, signals=signals)

    def unit(self, app: App, options: RunOptions) -> str:
        """Return the result of :func:`relevo.unit.systemd`."""
        return systemd(app, options)


def _word(text: str) -> str:
    """Return *text* quoted as one word of a command for systemd."""
    value = _value(text).replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _value(text: object) -> str:
    """Return *text* escaped as a value for systemd."""
    value = str(text)
    if unprintable_in(value) or value != value.strip() or value.endswith("\\"):
        raise ConfigurationError(f"a unit of systemd cannot hold {value!r}; give the folder another name")
    return value.replace("%", "%%")
