"""Words of other tools, such as Celery and Symfony Messenger, and their equivalents here."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from types import MappingProxyType

_COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "consume": "worker",
        "consumer": "worker",
        "work": "worker",
        "retry": "dead revive",
        "requeue": "dead revive",
        "replay": "dead revive",
        "failed:retry": "dead revive",
        "failed": "dead list",
        "failed:remove": "dead discard",
        "forget": "dead discard",
        "delete": "dead discard",
        "remove": "dead discard",
        "publish": "dispatch",
        "enqueue": "dispatch",
        "call": "dispatch",
        "delay": "dispatch",
        "apply_async": "dispatch",
        "stats": "status",
        "queues": "status",
        "purge-all": "purge",
        "purge_all": "purge",
        "inspect stats": "status",
        "inspect": "list",
        "inspect active": "list",
        "inspect registered": "listeners",
        "debug:messenger": "listeners",
        "debug:event-dispatcher": "listeners",
        "registered": "listeners",
        "revoke": "cancel",
        "control revoke": "cancel",
        "report": "config show",
        "setup-transports": "setup",
        "setup-fabric": "setup",
        "hold": "pause",
        "suspend": "pause",
        "quiet": "pause",
        "pause_queue": "pause",
        "queue pause": "pause",
        "control cancel_consumer": "pause",
        "cancel_consumer": "pause",
        "queue resume": "resume",
        "resume_queue": "resume",
        "unpause": "resume",
        "control add_consumer": "resume",
        "add_consumer": "resume",
        "control shutdown": "stop",
        "shutdown": "stop",
        "stop-workers": "stop",
        "control pool_restart": "stop",
    }
)
_PREFIXES = ("messenger:", "queue:", "rabbitmq:")
"""Some tools have commands of this form, as in ``messenger:consume``."""

_SCHEDULE = "the workers fire schedules; `relevo schedules` lists them"
_STOPS = "`relevo stop` asks workers on any host to end; supervisor and systemd start them again"
_RUN = "`relevo worker` runs until it is stopped; `relevo drain` handles what is due, and exits"
_PING = "relevo sends no messages to workers; ask systemd or supervisor whether they run"
_COMMAND_ANSWERS: Mapping[str, str] = MappingProxyType(
    {
        "beat": _SCHEDULE,
        "control": "`relevo pause`, `relevo resume` and `relevo stop` control the workers of all hosts",
        "events": "`relevo list` lists the events that wait; `relevo worker -l debug` also logs each that it handles",
        "failed:show": "write `relevo dead list` for all dead letters, and `relevo dead show REF` for one",
        "flower": "relevo has no web interface; `relevo status`, `relevo list` and `relevo dead list` show the events",
        "help": "write `relevo --help`, or `relevo COMMAND --help`",
        "inspect ping": _PING,
        "amqp": "`relevo status` and `relevo list` read the transport; rabbitmqctl shows what the server has",
        "migrate": "`relevo setup --upgrade` changes the tables of an older release; "
        "`relevo move` moves events to another queue",
        "multi": "a worker is one process; `relevo unit systemd` and `relevo unit supervisor` print what runs several",
        "ping": _PING,
        "restart": _STOPS,
        "reload": _STOPS,
        "run": _RUN,
        "start": _RUN,
        "shell": "relevo has no shell; start Python, and import your application",
        "result": "relevo stores no results; a listener writes its result to your database, or dispatches an event",
    }
)
"""Sentences for the words that no command answers to; what is typed is in backquotes."""

_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "--limit": "--max-events",
        "--memory-limit": "--max-memory",
        "--failure-limit": "--max-failures",
        "--queues": "--queue",
        "--loglevel": "--log-level",
        "--countdown": "--delay",
        "--force": "--yes",
        "-f": "--yes",
        "-Q": "-q",
        "-A": "-a",
        "-m": "--max-events",
        "--class-filter": "--event",
        "--concurrent": "--concurrency",
        "--max": "--limit",
        "--messages": "--max-events",
        "--workers": "--concurrency",
    }
)

_EXECUTION = "write `--execution threads`, or `--execution process` for processes (prefork)"
_ROUTED = "the routes in the configuration choose the queue of an event"
_ARGUMENTS = "write the arguments as JSON after the name: `relevo dispatch NAME '{…}'`"
_MADE_ID = "relevo makes the id; `relevo dispatch` prints it"
_MORE_LOG = "write `-l info` or `-l debug` for more log lines"
_ADAPTS = "there is nothing to set; a worker adapts how many events it receives at once"
_BURST = "`relevo drain` handles what is due, and exits"
_NO_NAME = "leave it out; a worker is known by its host and its process"
_EVENTS = "leave it out; `relevo status` and `relevo list` read the transport"
_BACKGROUND = "`relevo unit systemd` and `relevo unit supervisor` print what runs a worker in the background"
_QUEUES = "write `-q QUEUE` for each queue that this worker handles"
_LOGS = "a worker logs to standard error; systemd and supervisor keep that"
_PID = "leave it out; systemd and supervisor know the process"
_PURGES = "`relevo purge QUEUE` removes the waiting events of a queue"
_ALONE = "leave it out; workers do not talk to each other"
_RENEWED = "there is nothing to set; a worker renews its leases while listeners run"
_ONE_APP = "leave it out; the application, relevo.App, is the only bus"
_PROCESS = "write `--execution process`"
_THREADS = "write `--execution threads`"
_LISTS_ALL = "it lists all queues; a table stops after 100 lines, and `--limit N` changes that"
_OPTION_ANSWERS: Mapping[str, str] = MappingProxyType(
    {
        "-v": _MORE_LOG,
        "--verbose": _MORE_LOG,
        "dead list --all": _LISTS_ALL,
        "dead revive --force": "leave it out; this command does not ask",
        "dispatch --args": _ARGUMENTS,
        "dispatch --at": "write the time from now: `--delay 5m`; Python also takes a date: `app.dispatch(…, at=…)`",
        "dispatch --eta": "write the time from now: `--delay 5m`; Python also takes a date: `app.dispatch(…, at=…)`",
        "dispatch --id": _MADE_ID,
        "dispatch --kwargs": _ARGUMENTS,
        "dispatch --priority": "write `--urgency high` for an event that overtakes others",
        "dispatch --queue": _ROUTED,
        "dispatch -q": _ROUTED,
        "dispatch --task-id": _MADE_ID,
        "list --all": _LISTS_ALL,
        "purge -q": "write the queue without an option: `relevo purge QUEUE`",
        "purge --queue": "write the queue without an option: `relevo purge QUEUE`",
        "unit systemd --user": "it prints a unit of the system; set `User=` in it",
        "worker --all": "a worker handles all queues of its transport; start one worker for each transport",
        "worker --autoscale": "a worker does not change its size; `-c N` sets it",
        "worker -B": _SCHEDULE,
        "worker --beat": _SCHEDULE,
        "--execution eventlet": _THREADS,
        "--execution gevent": _THREADS,
        "--execution prefork": _PROCESS,
        "--execution processes": _PROCESS,
        "--execution solo": "write `--execution inline`",
        "--state active": "write `--state running`",
        "--state dead": "write `relevo dead list`",
        "--state delayed": "write `--state scheduled`",
        "--state failed": "write `relevo dead list`",
        "--state pending": "write `--state ready`",
        "--state reserved": "write `--state leased`",
        "--state waiting": "write `--state ready`",
        "--bus": _ONE_APP,
        "--env": "write `--config PATH` to choose another configuration, or set its variables in the environment",
        "dead list --stats": "write `--by reason`",
        "worker --burst": _BURST,
        "worker --detach": _BACKGROUND,
        "worker -D": _BACKGROUND,
        "worker --discard": _PURGES,
        "worker --exclude-queues": _QUEUES,
        "worker -X": _QUEUES,
        "worker -E": _EVENTS,
        "worker --task-events": _EVENTS,
        "worker --fetch-size": _ADAPTS,
        "worker --hostname": _NO_NAME,
        "worker -n": _NO_NAME,
        "worker --keepalive": _RENEWED,
        "worker --logfile": _LOGS,
        "worker -f": _LOGS,
        "worker --no-reset": "leave it out; a worker resets nothing between two events",
        "worker -O": _ADAPTS,
        "worker --once": _BURST,
        "worker --pidfile": _PID,
        "worker --prefetch": _ADAPTS,
        "worker --prefetch-count": _ADAPTS,
        "worker --purge": _PURGES,
        "worker --without-gossip": _ALONE,
        "worker --without-heartbeat": _ALONE,
        "worker --without-mingle": _ALONE,
        "worker --max-memory-per-child": "set `memory_limit` in the configuration",
        "worker --max-tasks-per-child": "set `recycle_after` in the configuration",
        "worker -P": _EXECUTION,
        "worker --pool": _EXECUTION,
        "worker --prefetch-multiplier": _ADAPTS,
        "worker --sleep": "a worker without events waits; `poll` of a SQL transport in the configuration sets how long",
        "worker --soft-time-limit": "relevo has one limit; set `time_limit` in the configuration",
        "worker --time-limit": "for a run of a listener, set `time_limit` in the configuration; for the whole process, "
        "write `--max-time`",
    }
)
"""The same for options, after the command that they are written for; without one, for all."""

_RUNS = ("worker", "drain", "unit cron", "unit supervisor", "unit systemd")
"""Commands with the options of a run; what is written for the first is right for all."""


def command_for(words: Sequence[str]) -> tuple[str, str] | None:
    """
    Return the first or the first two of *words* if other tools have such a command, and the answer to it.

    Args:
        words: What was typed after the name of the group.
    """
    first, *others = words
    for prefix in _PREFIXES:
        first = first.removeprefix(prefix)
    for word, typed in ((" ".join([first, *others[:1]]), " ".join(words[:2])), (first, words[0])):
        if word in _COMMANDS:
            return typed, _called(f"relevo {_COMMANDS[word]}")
        if word in _COMMAND_ANSWERS:
            return typed, _sentence(_COMMAND_ANSWERS[word])
    return None


def option_for(word: str, command: str, options: Container[str] = ()) -> str | None:
    """
    Return the answer to an option of other tools; ``None`` if there is none.

    Args:
        word: The option, also with a value.

        command: The command that it was passed to, such as ``dead list``.

        options: The options of this command.
    """
    if _OPTIONS.get(word) in options:
        return _called(_OPTIONS[word])
    ways = (f"{command} {word}", f"{_RUNS[0]} {word}" if command in _RUNS else word, word)
    found = next((_OPTION_ANSWERS[way] for way in ways if way in _OPTION_ANSWERS), None)
    return _sentence(found) if found else None


def _called(name: str) -> str:
    return f'it is called "{name}" here'


def _sentence(text: str) -> str:
    return text.replace("`", '"')
