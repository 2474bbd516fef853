"""Arguments and keys of other tools, such as Celery and Symfony Messenger, and what relevo has instead."""

from __future__ import annotations

from collections.abc import Mapping
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
