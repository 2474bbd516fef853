"""Arguments, attributes and configuration keys of other tools, such as Celery, and their equivalents in relevo."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType

_MAPPING = 'the arguments of an event are one mapping: dispatch("image.created", {"path": "sea.jpg"})'
_OWN_ID = 'an event gets its id at the dispatch; relevo.Event("image.created", {…}, id=…) has its own'
_ROUTED = 'routes choose the queue: App(routes={"image.*": "main/media"})'
_SENT = 'write to="main/media", or let routes choose the queue: App(routes={"image.*": "main/media"})'
_NO_RESULTS = "leave it out; relevo stores no results"
_NO_FORMAT = "leave it out; events are JSON"
_UTC = "leave it out; times are in UTC"
_ACKNOWLEDGED = "leave it out; an event is always acknowledged after its listeners"
_TO_TRANSPORT = "leave it out; the application has its transports: App(transports={…})"
_RETRIED = "leave it out; the listener has the retry policy: @relevo.listener(…, retry=8)"
_LIMITED = "a listener has the limit: @relevo.listener(…, time_limit=…)"
DISPATCH: Mapping[str, str] = MappingProxyType(
    {
        "_defer_by": "it is called delay= here",
        "_defer_until": "it is called at= here",
        "_expires": "it is called expires= here",
        "_job_id": _OWN_ID,
        "_queue_name": _SENT,
        "args": _MAPPING,
        "bus": "leave it out; the application, relevo.App, is the only bus",
        "compression": _NO_FORMAT,
        "connection": _TO_TRANSPORT,
        "countdown": "it is called delay= here",
        "dedup_key": "it is called unique= here",
        "eta": "it is called at= here",
        "exchange": _SENT,
        "headers": "put them into the arguments, or dispatch inside relevo.context(…)",
        "id": f'{_OWN_ID}; an argument is in the mapping: dispatch("image.created", {{"id": …}})',
        "ignore_result": _NO_RESULTS,
        "kwargs": _MAPPING,
        "link": "a listener dispatches the next event: call.dispatch(…)",
        "link_error": "the hook relevo_dead_lettered is called for an event that is given up",
        "priority": 'write urgency="high" for an event that overtakes others',
        "producer": _TO_TRANSPORT,
        "queue": _SENT,
        "reply_to": _NO_RESULTS,
        "retry": _RETRIED,
        "retry_policy": _RETRIED,
        "routing_key": _SENT,
        "serializer": _NO_FORMAT,
        "shadow": "leave it out; an event has one name",
        "soft_time_limit": _LIMITED,
        "stamps": "write delay=, at=, urgency= or expires=",
        "task_id": _OWN_ID,
        "time_limit": _LIMITED,
        "transport": _SENT,
        "transports": _SENT,
        "unique_for": "it is called within= here",
        "unique_key": "it is called unique= here",
    }
)
"""By the arguments of a dispatch."""

SCHEDULE: Mapping[str, str] = MappingProxyType(
    {
        "args": "the data is one mapping after the name of the event",
        "at": "leave it out; the expression says when",
        "catchup": 'write missed="all" or missed="skip"',
        "coalesce": 'write missed="once" or missed="all"',
        "delay": "leave it out; the expression says when",
        "id": "it is called name= here",
        "key": "it is called ordering_key= here",
        "kwargs": "the data is one mapping after the name of the event",
        "misfire_grace_time": 'write missed="skip" and grace=',
        "priority": 'write urgency="high" for an event that overtakes others',
        "queue": _ROUTED,
        "relative": "leave it out; the expression says when",
        "session": "leave it out; a worker fires it, in a transaction of its own",
        "subject": 'pass an event: relevo.Event("image.created", {…}, subject=…)',
        "tz": "it is called timezone= here",
        "unique": "leave it out; a tick fires once, but also while the event of an earlier one still waits",
        "urgent": 'write urgency="high"',
        "within": "leave it out; a tick fires once",
        "zone": "it is called timezone= here",
    }
)
"""By the arguments of a schedule."""

EVENT: Mapping[str, str] = MappingProxyType(
    {
        "args": "it is called arguments= here",
        "data": "it is called arguments= here",
        "event_id": "it is called id= here",
        "kwargs": "it is called arguments= here",
        "payload": "it is called arguments= here",
        "task": "it is called name= here",
        "task_id": "it is called id= here",
        "countdown": "the dispatch has it: dispatch(…, delay=…)",
        "eta": "the dispatch has it: dispatch(…, at=…)",
        "expires": "the dispatch has it: dispatch(…, expires=…)",
        "priority": 'the dispatch has it: dispatch(…, urgency="high")',
        "queue": _ROUTED,
        "version": "a declared class has versions: @relevo.event(…, version=2)",
    }
)
"""By the arguments of ``Event``."""

_RATE = (
    'a limit is that of a queue: write rate = "10/s" under [queues.api], or App(queues={"api": '
    'relevo.QueueOptions(rate="10/s")}), and route the event to that queue'
)
_CONCURRENCY = (
    'a limit is that of a queue: write concurrency = 3 under [queues.api], or App(queues={"api": '
    "relevo.QueueOptions(concurrency=3)}), and route the event to that queue"
)
_BACKOFF = "write retry=relevo.Retry(first=…, factor=…, cap=…)"
_RETRIED_ALL = "leave it out; every error is retried, except those of retry=relevo.Retry(give_up_on=…)"
_JITTER = "write retry=relevo.Retry(jitter=…), a share from 0 to 1"
_GIVE_UP_ON = "write retry=relevo.Retry(give_up_on=…)"
_WHEN = 'write the condition at the start of the function: if event["size"] < 100: return'
LISTENER: Mapping[str, str] = MappingProxyType(
    {
        "actor_name": "the first argument is the event; write id= for the name of the listener",
        "acks_late": _ACKNOWLEDGED,
        "autoretry_for": _RETRIED_ALL,
        "base": "leave it out; a listener is a function, or a method of your own object",
        "bind": "leave it out; a second parameter, call, has the attempt and the event's id",
        "bus": "leave it out; register the listener with the application: app.listen(…)",
        "concurrency": _CONCURRENCY,
        "concurrency_limit": _CONCURRENCY,
        "condition": _WHEN,
        "default_retry_delay": _BACKOFF,
        "dont_autoretry_for": _GIVE_UP_ON,
        "expires": "the dispatch has it: dispatch(…, expires=…)",
        "filter": _WHEN,
        "from_transport": "it is called queue= here",
        "ignore_result": _NO_RESULTS,
        "max_age": "the dispatch has it: dispatch(…, expires=…)",
        "max_backoff": _BACKOFF,
        "max_retries": "write retry=4: the first run, and 3 more",
        "max_tries": "it is called retry= here; it counts the runs",
        "min_backoff": _BACKOFF,
        "name": "the first argument is the event; write id= for the name of the listener",
        "queue_name": "it is called queue= here",
        "rate": _RATE,
        "rate_limit": _RATE,
        "reject_on_worker_lost": "leave it out; after a crash an event is always delivered again",
        "retries": "it is called retry= here; it counts the runs",
        "retry_for": _RETRIED_ALL,
        "retry_on": _RETRIED_ALL,
        "retry_backoff": _BACKOFF,
        "retry_backoff_max": _BACKOFF,
        "retry_jitter": _JITTER,
        "retry_kwargs": "write retry=4 for 4 runs, or retry=relevo.Retry(…)",
        "serializer": _NO_FORMAT,
        "soft_time_limit": "relevo has one limit; write time_limit=",
        "throws": f"leave it out; {_GIVE_UP_ON} for errors that are not retried",
        "track_started": _NO_RESULTS,
        "transport": _ROUTED,
        "when": _WHEN,
    }
)
"""By the arguments of a listener."""

RETRY_LATER: Mapping[str, str] = MappingProxyType(
    {
        "countdown": "it is called delay= here",
        "eta": "write delay= with the time from now",
        "exc": "write: raise relevo.RetryLater(…) from error",
        "max_retries": "the retry policy of the listener counts the runs: retry=4",
    }
)
"""By the arguments of ``RetryLater``."""

GIVE_UP: Mapping[str, str] = MappingProxyType(
    {
        "exc": "write: raise relevo.GiveUp(…) from error",
        "message": "it is called reason= here",
        "requeue": "leave it out; to run the listener again later, raise relevo.RetryLater(delay)",
    }
)
"""By the arguments of ``GiveUp``."""

_RETRIED_BUT = "leave it out; every error is retried, except those of give_up_on="
RETRY: Mapping[str, str] = MappingProxyType(
    {
        "autoretry_for": _RETRIED_BUT,
        "backoff": "it is called factor= here",
        "countdown": "it is called first= here",
        "default_retry_delay": "it is called first= here",
        "delay": "it is called first= here; a number is in seconds",
        "dont_autoretry_for": "it is called give_up_on= here",
        "interval_max": "it is called cap= here",
        "interval_start": "it is called first= here",
        "interval_step": "write factor=, which multiplies the wait",
        "max_delay": "it is called cap= here; a number is in seconds",
        "max_retries": "write runs=4: the first run, and 3 more",
        "multiplier": "it is called factor= here",
        "retries": "write runs=4: the first run, and 3 more",
        "retry_backoff": "it is called factor= here",
        "retry_backoff_max": "it is called cap= here",
        "retry_for": _RETRIED_BUT,
        "retry_jitter": "it is called jitter= here, a share from 0 to 1",
        "retry_on": _RETRIED_BUT,
    }
)
"""By the arguments of ``Retry``."""

RUN_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "failure_limit": "it is called max_failures= here",
        "limit": "it is called max_events= here",
        "max_tasks": "it is called max_events= here",
        "max_time": "it is called max_seconds= here",
        "memory_limit": "it is called max_memory= here; relevo.Execution(memory_limit=…) limits child processes",
        "queue": "it is called queues= here",
        "time_limit": "it is called max_seconds= here; a listener has a time_limit of its own",
        "timeout": "it is called max_seconds= here",
    }
)
"""By the arguments of ``RunOptions``."""

_NO_KEYS = "a limit holds for the whole queue; route what has a limit of its own to a queue of its own"
QUEUE_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "concurrency_limit": "it is called concurrency= here",
        "events": "it is called accept= here",
        "global_limit": "it is called concurrency= here",
        "key": _NO_KEYS,
        "limit": "it is called concurrency= here",
        "max_concurrency": "it is called concurrency= here",
        "partition": _NO_KEYS,
        "per": _NO_KEYS,
        "rate_limit": "it is called rate= here",
        "throttle": "it is called rate= here",
    }
)
"""By the arguments of ``QueueOptions``."""

CALLED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "delay": "first",
        "dsn": "url",
        "imports": "listeners",
        "include": "listeners",
        "max_delay": "cap",
        "multiplier": "factor",
        "redeliver_timeout": "lease",
        "routing": "routes",
        "subscribers": "listeners",
        "task_routes": "routes",
        "task_time_limit": "time_limit",
        "visibility_timeout": "lease",
        "worker_concurrency": "concurrency",
        "worker_max_tasks_per_child": "recycle_after",
        "worker_pool": "execution",
    }
)
"""What keys of the configuration are called here, in a table that has this key."""

_POLICY = "retry policies are those of queues: [retries]"
_FAILED = "leave it out; a transport keeps its dead letters itself"
_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "accept_content": _NO_FORMAT,
        "backend": _NO_RESULTS,
        "beat_schedule": "schedules have a table of their own: [schedules]",
        "bus": "leave it out; the application, relevo.App, is the only bus",
        "buses": "leave it out; the application, relevo.App, is the only bus",
        "default_bus": "leave it out; the application, relevo.App, is the only bus",
        "enable_utc": _UTC,
        "failure_transport": _FAILED,
        "framework": "leave it out; transports and routes are tables at the top level",
        "middleware": "write plugins, which have hooks",
        "middlewares": "write plugins, which have hooks",
        "result_backend": _NO_RESULTS,
        "result_expires": _NO_RESULTS,
        "result_serializer": _NO_RESULTS,
        "serializer": _NO_FORMAT,
        "task_acks_late": _ACKNOWLEDGED,
        "task_reject_on_worker_lost": "leave it out; after a crash an event is always delivered again",
        "task_serializer": _NO_FORMAT,
        "task_soft_time_limit": "relevo has one limit, time_limit",
        "timezone": _UTC,
        "worker_hijack_root_logger": "leave it out; relevo changes no logger of yours",
        "worker_prefetch_multiplier": "leave it out; a worker adapts how many events it receives at once",
    }
)
"""What to do instead of settings of other tools, in Python and in a file."""

STORES = 'write transports={"main": "sqlite:///shop.db"}'
"""What to write instead of an argument of ``App`` that is the address of a server."""

_EXECUTION = "write execution=relevo.Execution({}=…)"
APP: Mapping[str, str] = MappingProxyType(
    {
        **_SETTINGS,
        "broker": STORES,
        "broker_url": STORES,
        "concurrency": _EXECUTION.format("concurrency"),
        "config_source": 'App.from_config("relevo.toml") reads a file',
        "dsn": STORES,
        "main": "it is called source= here",
        "memory_limit": _EXECUTION.format("memory_limit"),
        "name": "it is called source= here",
        "recycle_after": _EXECUTION.format("recycle_after"),
        "retry_strategy": 'write retries={"main": relevo.Retry(…)}',
        "task_always_eager": 'write routes={"*": "now"}; or test with app.testing()',
        "task_cls": "leave it out; a listener is a function, or a method of your own object",
        "task_default_queue": _ROUTED,
        "task_time_limit": _EXECUTION.format("time_limit"),
        "time_limit": _EXECUTION.format("time_limit"),
        "url": STORES,
        "worker_concurrency": _EXECUTION.format("concurrency"),
        "worker_max_memory_per_child": _EXECUTION.format("memory_limit"),
        "worker_max_tasks_per_child": _EXECUTION.format("recycle_after"),
    }
)
"""By the arguments of ``App`` that are not in :data:`CALLED_KEYS`."""

_ROUTED_IN_FILE = 'routes choose the queue: write it under [routes]: "*" = "main/media"'
KEYS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "": {
            **_SETTINGS,
            "broker_url": 'write it under [transports]: main = "sqlite:///shop.db"',
            "dsn": 'write it under [transports]: main = "sqlite:///shop.db"',
            "retry_strategy": _POLICY,
            "task_always_eager": 'write it under [routes]: "*" = "now"; or test with app.testing()',
            "task_default_queue": _ROUTED_IN_FILE,
            "worker_max_memory_per_child": 'write memory_limit = "512M"',
        },
        "queues": {
            "limit": "write concurrency = 3",
            "max_concurrency": "write concurrency = 3",
            "per": _NO_KEYS,
            "rate_limit": 'write rate = "10/s"',
            "throttle": 'write rate = "10/s"',
        },
        "retries": {
            "max_retries": "write runs = 4 for 3 retries",
        },
        "transports": {
            "auto_setup": 'write setup = "explicit" outside of the transports, or leave it out',
            "delay": _POLICY,
            "failure_transport": _FAILED,
            "max_retries": _POLICY,
            "options": "write the options beside url",
            "queue": _ROUTED_IN_FILE,
            "queue_name": _ROUTED_IN_FILE,
            "rate_limit": _RATE,
            "redeliver_timeout": "write lease outside of the transports",
            "retry_strategy": _POLICY,
            "serializer": _NO_FORMAT,
            "visibility_timeout": "write lease outside of the transports",
        },
    }
)
"""What to do instead of other keys, by the first key of their table."""

_LISTENS = 'write @relevo.listener("order.paid") above a function'
_LISTENED = 'write app.listen(function), or @app.listener("order.paid") above it'
_SENDS = 'write app.dispatch("order.paid", {"order": 7})'
_DEFERS = 'it is called defer here: defer(7, delay="1m")'
_RESULT = "relevo stores no results; a listener writes its result to your database, or dispatches an event"
_STEPS = "relevo has no workflows; a listener dispatches the next event: call.dispatch(…)"
_DATA = "write event.arguments"
_STOPS = "write call.stop_propagation(); call is the second parameter of a listener"
_CONFIGURES = "write App(…) with the settings, or App.from_config() to read relevo.toml"
_RUNS = "write app.drain(), or app.worker().run(); on the command line: relevo worker"
_CRON = 'write @app.schedule("0 8 * * *") above @app.deferred'

_ENTRIES = "write main = app.transport(); main.{}(app.queues(main.name))"
_CONTROL = "`relevo pause`, `relevo resume` and `relevo stop` control the workers of all hosts"
_DISPATCHED = "it is called dispatched here: t.dispatched(…) raises an error if no event matches"
_REFUTED = "it is called refute_dispatched here: t.refute_dispatched(…)"
_DRAINED = "it is called drain here: t.drain()"
ATTRIBUTES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "App": {
            "AsyncResult": _RESULT,
            "Task": _LISTENS,
            "actor": _LISTENED,
            "add_event_listener": "write app.add_listener(event, function)",
            "add_handler": "write app.add_listener(event, function)",
            "addListener": "write app.add_listener(event, function)",
            "addSubscriber": "write app.listen(subscriber)",
            "add_periodic_task": _CRON,
            "add_subscriber": "write app.listen(subscriber)",
            "apply_async": _SENDS,
            "autodiscover_tasks": 'write App(listeners=["shop.listeners"])',
            "backend": _RESULT,
            "chain": _STEPS,
            "chord": _STEPS,
            "conf": _CONFIGURES,
            "config_from_object": _CONFIGURES,
            "control": _CONTROL,
            "dead_letters": _ENTRIES.format("dead_letters"),
            "delay": _SENDS,
            "emit": _SENDS,
            "enqueue": _SENDS,
            "enqueue_job": _SENDS,
            "fire": _SENDS,
            "group": _STEPS,
            "handler": _LISTENED,
            "on": _LISTENED,
            "on_after_configure": _CRON,
            "on_after_finalize": _CRON,
            "publish": _SENDS,
            "register": _LISTENED,
            "register_task": _LISTENED,
            "revive": "write t = app.transport(); t.revive({each.ref: app.revived(each)}) for each of its dead_letters",
            "run": _RUNS,
            "send": _SENDS,
            "send_task": _SENDS,
            "signature": _STEPS,
            "start": _RUNS,
            "status": "write app.transport().stats(queue); on the command line: relevo status",
            "subscribe": _LISTENED,
            "task": 'write @app.deferred above the function, or @app.listener("order.paid") if it follows an event',
            "tasks": "write app.listeners",
            "trigger": _SENDS,
            "waiting": _ENTRIES.format("waiting"),
            "worker_main": _RUNS,
        },
        "DeferredFunction": {
            "apply": "call it",
            "apply_async": _DEFERS,
            "delay": _DEFERS,
            "enqueue": _DEFERS,
            "kiq": _DEFERS,
            "s": _STEPS,
            "schedule": _DEFERS,
            "send": _DEFERS,
            "send_with_options": _DEFERS,
            "si": _STEPS,
            "signature": _STEPS,
        },
        "AppTesting": {
            "advance": 'it is called travel here: t.travel("1h")',
            "assert_called": _DISPATCHED,
            "assert_dispatched": _DISPATCHED,
            "assert_not_called": _REFUTED,
            "assert_not_dispatched": _REFUTED,
            "assert_nothing_dispatched": _REFUTED,
            "assert_sent": _DISPATCHED,
            "dead_letters": "it is called dead here: t.dead",
            "dispatch": "write app.dispatch(…), as in the program",
            "events": _DISPATCHED,
            "flush": _DRAINED,
            "move_to": "it is called travel here: t.travel(to=…)",
            "refute": _REFUTED,
            "retry": "move the clock, and handle the event again: t.travel(…), t.drain()",
            "run": _DRAINED,
            "sent": _DISPATCHED,
            "sleep": 'it is called travel here: t.travel("1h")',
            "tick": 'it is called travel here: t.travel("1h")',
            "work": _DRAINED,
        },
        "Call": {
            "ack": "return, and the event is acknowledged when all its listeners have succeeded",
            "apply_async": "write call.dispatch(…)",
            "delay": "write call.dispatch(…)",
            "id": "write call.event_id",
            "isPropagationStopped": "write call.stopped",
            "message": "it is the first argument of the listener, the event",
            "nack": "raise relevo.RetryLater(delay)",
            "reject": "raise relevo.GiveUp(reason)",
            "replace": "write call.dispatch(…), and return",
            "request": "write call.event_id, call.attempt, call.queue or call.context",
            "retries": "write call.attempt - 1",
            "retry": "write: raise relevo.RetryLater(delay)",
            "stopPropagation": "write call.stop_propagation()",
            "task_id": "write call.event_id",
            "update_state": _RESULT,
        },
        "Dispatched": dict.fromkeys(
            (
                "children",
                "collect",
                "failed",
                "forget",
                "get",
                "ready",
                "result",
                "state",
                "status",
                "successful",
                "wait",
            ),
            _RESULT,
        )
        | {
            "event_id": "it is called id here",
            "revoke": "write on the command line: relevo cancel ID",
            "task_id": "it is called id here",
        },
        "Event": {
            "body": _DATA,
            "data": _DATA,
            "getArgument": 'write event["path"]',
            "getArguments": _DATA,
            "getSubject": "write call.subject; call is the second parameter of a listener",
            "isPropagationStopped": "write call.stopped; call is the second parameter of a listener",
            "kwargs": _DATA,
            "payload": _DATA,
            "stopPropagation": _STOPS,
            "stop_propagation": _STOPS,
        },
        "relevo": {
            "AsEventListener": _LISTENS,
            "AsMessageHandler": _LISTENS,
            "AsyncResult": _RESULT,
            "Celery": "it is called relevo.App here",
            "DelayStamp": 'write app.dispatch("order.paid", {"order": 7}, delay="5m")',
            "Ignore": "return, and the event is acknowledged when all its listeners have succeeded",
            "RecoverableMessageHandlingException": "it is called relevo.RetryLater here",
            "Reject": "raise relevo.GiveUp(reason), or relevo.RetryLater(delay) to run the listener again",
            "Task": _LISTENS,
            "UnrecoverableMessageHandlingException": "it is called relevo.GiveUp here",
            "actor": _LISTENS,
            "chain": _STEPS,
            "chord": _STEPS,
            "crontab": _CRON,
            "dispatch": _SENDS,
            "emit": _SENDS,
            "group": _STEPS,
            "handler": _LISTENS,
            "publish": _SENDS,
            "send": _SENDS,
            "shared_task": _LISTENS,
            "signature": _STEPS,
            "subscribe": _LISTENS,
            "task": _LISTENS,
        },
    }
)
"""What to write instead of attributes of other tools, by the class, or the module, that has no such attribute."""


def attribute_answer(owner: str, name: str) -> str:
    """
    Return the text of the error for an attribute of other tools; empty if nothing is known of it.

    Args:
        owner: A key of :data:`ATTRIBUTES`.

        name: The attribute.
    """
    answer = ATTRIBUTES[owner].get(name)
    return f"{owner} has no {name}; {answer}" if answer else ""


def missing_attribute(thing: object, owner: str, name: str) -> object:
    """
    Raise the error for the attribute *name* of *thing*, which Python has not found.

    A property of it may have raised :class:`AttributeError`, which Python has dropped: that one is raised again.

    Args:
        thing: The object.

        owner: A key of :data:`ATTRIBUTES`.

        name: The attribute.

    Raises:
        AttributeError: There is no such attribute.
    """
    __tracebackhide__ = True  # pytest shows the line that asked for it
    text = attribute_answer(owner, name)
    if text and not any(name in vars(each) for each in type(thing).__mro__):
        raise AttributeError(text, name=name, obj=None)  # Python would add "did you mean" for another object
    return object.__getattribute__(thing, name)


def counted(answers: Mapping[str, str], given: Mapping[str, object]) -> Mapping[str, str]:
    """
    Return *answers* with the number of runs where another tool counts retries.

    Args:
        answers: Those of a listener or of ``Retry``.

        given: The arguments.
    """
    argument = "retry" if answers is LISTENER else "runs"
    retries = given.get("max_retries", -1)
    if retries is None:
        text = f"relevo retries no event forever; write a large number of runs: {argument}=1000"
    elif type(retries) is int and retries >= 0:
        text = f"write {argument}={retries + 1}: the first run, and {retries} more"
    else:
        return answers
    return {**answers, "max_retries": text}


def key_answer(name: str, known: Container[str], *, table: str) -> str:
    """
    Return what relevo has instead of a key of other tools; empty if nothing is known of it.

    Args:
        name: The key.

        known: The keys of its table.

        table: The first key of its table; empty outside of tables.
    """
    if CALLED_KEYS.get(name) in known:
        return f'it is called "{CALLED_KEYS[name]}" here'
    return KEYS.get(table, {}).get(name, "")
