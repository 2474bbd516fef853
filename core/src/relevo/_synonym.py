"""Arguments and configuration keys of other tools, such as Celery and Symfony, and what relevo has instead."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType

_DATA = 'the data of an event is one mapping: dispatch("image.created", {"path": "sea.jpg"})'
_OWN_ID = 'an event gets its id at the dispatch; relevo.Event("image.created", {…}, id=…) has its own'
_ROUTED = 'routes choose the queue: App(routes={"image.*": "main/media"})'
DISPATCH: Mapping[str, str] = MappingProxyType(
    {
        "args": _DATA,
        "countdown": "it is called delay= here",
        "eta": "it is called at= here",
        "headers": "put them into the data, or dispatch inside relevo.context(…)",
        "id": f'{_OWN_ID}; data is one mapping: dispatch("image.created", {{"id": …}})',
        "kwargs": _DATA,
        "priority": 'write urgency="high" for an event that overtakes others',
        "queue": _ROUTED,
        "routing_key": _ROUTED,
        "stamps": "write delay=, at=, urgency= or expires=",
        "task_id": _OWN_ID,
    }
)
"""By the arguments of a dispatch."""

_BACKOFF = "write retry=relevo.Retry(first=…, factor=…, cap=…)"
LISTENER: Mapping[str, str] = MappingProxyType(
    {
        "acks_late": "leave it out; an event is always acknowledged after its listeners",
        "autoretry_for": "leave it out; every error is retried, except those of retry=relevo.Retry(give_up_on=…)",
        "bind": "leave it out; a second parameter, call, has the attempt and the event's id",
        "default_retry_delay": _BACKOFF,
        "from_transport": "it is called queue= here",
        "ignore_result": "leave it out; relevo stores no results",
        "max_retries": "write retry=4 for 4 runs, which are 3 retries",
        "name": "the first argument is the event; write id= for the name of the listener",
        "rate_limit": "relevo has no rate limit; a listener can raise relevo.RetryLater(delay)",
        "retry_backoff": _BACKOFF,
        "retry_backoff_max": _BACKOFF,
        "soft_time_limit": "relevo has one limit; write time_limit=",
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

_STORES = 'write transports={"main": "sqlite:///shop.db"}'
APP: Mapping[str, str] = MappingProxyType(
    {
        "backend": "leave it out; relevo stores no results",
        "broker": _STORES,
        "include": 'write listeners=["shop.listeners"]',
        "main": "it is called source= here",
        "name": "it is called source= here",
        "result_backend": "leave it out; relevo stores no results",
        "url": _STORES,
    }
)
"""By the arguments of ``App``."""

CALLED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "delay": "first",
        "dsn": "url",
        "imports": "listeners",
        "include": "listeners",
        "max_delay": "cap",
        "multiplier": "factor",
        "task_routes": "routes",
        "task_time_limit": "time_limit",
        "visibility_timeout": "lease",
        "worker_concurrency": "concurrency",
        "worker_max_tasks_per_child": "recycle_after",
        "worker_pool": "execution",
    }
)
"""What keys of the configuration are called here, in a table that has this key."""

_NO_RESULTS = "leave it out; relevo stores no results"
_NO_FORMAT = "leave it out; events are JSON"
_UTC = "leave it out; times are in UTC"
_POLICY = "retry policies are those of queues: [retries]"
_FAILED = "leave it out; a transport keeps its dead letters itself"
KEYS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "": {
            "accept_content": _NO_FORMAT,
            "beat_schedule": "relevo has no schedules; let cron run: relevo dispatch NAME",
            "broker_url": 'write it under [transports]: main = "sqlite:///shop.db"',
            "dsn": 'write it under [transports]: main = "sqlite:///shop.db"',
            "enable_utc": _UTC,
            "failure_transport": _FAILED,
            "result_backend": _NO_RESULTS,
            "result_expires": _NO_RESULTS,
            "task_acks_late": "leave it out; an event is always acknowledged after its listeners",
            "task_always_eager": 'write it under [routes]: "*" = "now"; or test with app.testing()',
            "task_default_queue": 'routes choose the queue: write it under [routes]: "*" = "main/media"',
            "task_serializer": _NO_FORMAT,
            "task_soft_time_limit": "relevo has one limit, time_limit",
            "timezone": _UTC,
            "worker_max_memory_per_child": 'write memory_limit = "512M"',
            "worker_prefetch_multiplier": "leave it out; a worker adapts how many events it receives at once",
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
            "queue": 'routes choose the queue: write it under [routes]: "*" = "main/media"',
            "queue_name": 'routes choose the queue: write it under [routes]: "*" = "main/media"',
            "rate_limit": "relevo has no rate limit; a listener can raise relevo.RetryLater(delay)",
            "retry_strategy": _POLICY,
            "serializer": _NO_FORMAT,
            "visibility_timeout": "write lease outside of the transports",
        },
    }
)
"""What to do instead of other keys, by the first key of their table."""


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
