"""The configuration of supervisor: a number of workers, restarted when they end."""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from relevo._event.codec import DEFAULT_SOURCE
from relevo._runner.command import command, folder_of, unprintable_in
from relevo._worker.run import RunOptions
from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    from relevo._app.app import App

_SOCKET = "supervisor.sock"

_BOUND_AS = ".4194304"
"""The suffix that supervisord adds to the name while it binds: its process id; this is the largest on Linux."""

_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""The longest path of a socket in bytes, without the final NUL: unix(7), ``sun_path``; 104 with it on BSD and macOS."""

_MARGIN = 30.0
"""Seconds after the longest listener until supervisor kills the process: the time to release and settle deliveries."""

_LIVES = 5
"""
Seconds after which a worker has started. One that ends earlier waits a second longer each time, as with a wrong
configuration; one that may reach a limit that early does not, or its events would wait too.
"""

_PROGRAM = """\
[program:{name}]
command={command}
process_name=%(program_name)s-%(process_num)02d
numprocs={processes}
directory={directory}
autostart=true
; after every exit, even 0 at a limit; {startsecs_reason}
autorestart=true
startsecs={startsecs}
startretries=1000000
; TERM finishes what runs and gives back the rest, which may take as long as a listener may
stopsignal=TERM
stopwaitsecs={patience}
stopasgroup=false
killasgroup=true
{log_reason}stdout_logfile={logs}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=5
redirect_stderr=true
"""

_WHOLE = """\
; For supervisord -c, and supervisorctl -c. They use a socket that only this user can open; there is no port.
[unix_http_server]
file={folder}/{socket}
chmod=0700

[supervisord]
pidfile={folder}/supervisord.pid
logfile={folder}/supervisord.log
logfile_maxbytes=10MB
logfile_backups=5

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{folder}/{socket}

"""


def supervisor(app: App, options: RunOptions, *, processes: int = 1, folder: Path | None = None) -> str:
    """
    Return the section of a program, or a complete configuration if *folder* is given.

    Args:
        app: The application whose events it handles.

        options: Transport, queues, and the limits after which a process is restarted; at once, if a limit may be
            reached within seconds.

        processes: The number of processes that supervisor keeps running.

        folder: The folder of supervisor's socket and logs, for a complete configuration; by default the text is one
            section, to be included in the configuration of the system's supervisor.

    Raises:
        ConfigurationError: A path contains characters that supervisor's configuration cannot hold, or is too long for
            a socket.
    """
    folder = None if folder is None else folder.absolute()
    if folder is not None:
        _refuse_a_long_path(folder)
    here = folder_of(app)
    source = app.source if app.source != DEFAULT_SOURCE else f"{DEFAULT_SOURCE}-{_digest(here)}"
    kind = ["relay"] if options.relay_only else []
    words = [source, app.transport(options.transport).name, *options.queues, *kind]
    name = re.sub(r"[^\w.-]+", "-", "-".join(words))
    logs = "AUTO"
    log_reason = "; supervisor deletes an AUTO log at its next start; write a path here to keep it\n"
    if folder is not None:  # supervisor expands this value twice, and no other
        log_reason = ""
        logs = f"{_value(_value(folder))}/%(program_name)s-%(process_num)02d.log"
    ends_soon = options.ends_within(_LIVES)
    program = _PROGRAM.format(
        startsecs=0 if ends_soon else _LIVES,
        startsecs_reason="its limit may be reached at any time, so startsecs is 0"
        if ends_soon
        else "if it ends within startsecs, supervisor waits a second longer each time",
        name=name,
        command=_value(shlex.join(command(app, options))),
        processes=processes,
        directory=_value(here),
        patience=math.ceil((0.0 if options.relay_only else app.execution.longest(app.listeners)) + _MARGIN),
        logs=logs,
        log_reason=log_reason,
    )
    return program if folder is None else _WHOLE.format(folder=_value(folder), socket=_SOCKET) + program


def _refuse_a_long_path(folder: Path) -> None:
    """Refuse a path that supervisord cannot bind: it would retry for ever, and report it only in its log."""
    spare = _LONGEST_SOCKET - len(os.fsencode(folder / _SOCKET)) - len(_BOUND_AS)
    if spare < 0:
        raise ConfigurationError(
            f"supervisor cannot create its socket in {str(folder)!r}: the path is {-spare} bytes too long; "
            "choose a folder with a shorter path"
        )


def _digest(here: Path) -> str:
    return sha256(os.fsencode(here)).hexdigest()[:8]


def _value(text: object) -> str:
    """Return *text* escaped as a value for supervisor."""
    value = str(text)
    comment = re.search(r"(?:^|\s)[;#]", value)
    if found := unprintable_in(value) or (comment and comment[0]):
        raise ConfigurationError(f"supervisor would misread {found!r} in {value!r}; give the folder another name")
    return value.replace("%", "%%")
