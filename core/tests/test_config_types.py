"""Each key of the configuration with a value of each type: what fits is read, what does not is told in one form."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from relevo import ConfigurationError, QueueOptions, Retry, Signing
from relevo._config.opening import draft_config
from relevo._config.schema import KEYS, PluginConfig, ScheduleConfig, TransportConfig
from relevo._config.table import keys_of
from relevo._problem import Problems

VALUES = {
    "text": '"main"',
    "empty text": '""',
    "digits": '"7"',
    "whole": "7",
    "negative": "-1",
    "number": "1.5",
    "whole as a number": "2.0",
    "huge": "1" + 30 * "0",
    "nan": "nan",
    "infinite": "inf",
    "boolean": "true",
    "list": '["main"]',
    "list of numbers": "[1]",
    "empty list": "[]",
    "table": "{}",
    "date": "2026-01-31",
    "moment": "2026-01-31T12:00:00Z",
    "time": "12:00:00",
}
TEXTS = {"text", "digits"}
DURATIONS = {"whole", "number", "whole as a number"}


@attrs.frozen
class Place:
    """A file with a hole for the value of one key, on its first line, and the names of the values that fit."""

    text: str
    fits: set[str]
    also: str = ""


KEY = "Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd"
MAIN = '[transports]\nmain = "memory://"\n'
NIGHTLY = 'schedules.nightly.event = "night.begun"'
NIGHTLY_WHOLE = f'{NIGHTLY}\nschedules.nightly.cron = "0 3 * * *"'
PLACES = {
    "source": Place("source = {}", TEXTS),
    "app": Place("app = {}", set()),
    "listeners": Place("listeners = {}", {"list", "empty list"}),
    "plugins": Place("plugins = {}", {"list", "empty list", "table"}),
    "plugins.mail": Place("plugins.mail = {}", {"table"}),
    "setup": Place("setup = {}", set()),
    "patience": Place("patience = {}", DURATIONS),
    "lease": Place("lease = {}", DURATIONS),
    "execution": Place("execution = {}", set()),
    "concurrency": Place("concurrency = {}", {"whole"}),
    "time_limit": Place("time_limit = {}", DURATIONS),
    "memory_limit": Place("memory_limit = {}", set()),
    "recycle_after": Place("recycle_after = {}", {"whole", "huge"}),
    "lock": Place("lock = {}", TEXTS),
    "deploy": Place("deploy = {}", TEXTS),
    "signing": Place("signing = {}", set()),
    "signing.keys": Place("signing.keys = {}", set()),
    "signing.required": Place("signing.required = {}", {"boolean"}, f'signing.keys = "{KEY}"'),
    "signing.accept": Place("signing.accept = {}", {"text", "digits", "list", "empty list"}, f'signing.keys = "{KEY}"'),
    "signing.unsigned": Place(
        "signing.unsigned = {}", {"text", "digits", "list", "empty list"}, f'signing.keys = "{KEY}"'
    ),
    "retries": Place("retries = {}", {"table"}),
    "retries.main": Place("retries.main = {}", {"whole", "huge", "table"}),
    "retries.main.runs": Place("retries.main.runs = {}", {"whole", "huge"}),
    "retries.main.first": Place("retries.main.first = {}", DURATIONS),
    "retries.main.cap": Place("retries.main.cap = {}", {"whole", "whole as a number"}),
    "retries.main.factor": Place("retries.main.factor = {}", DURATIONS | {"huge"}),
    "retries.main.jitter": Place("retries.main.jitter = {}", set()),
    "queues": Place("queues = {}", {"table"}),
    "queues.default": Place("queues.default = {}", {"text", "digits", "list", "table"}),
    "queues.default.accept": Place("queues.default.accept = {}", {"text", "digits", "list"}),
    "queues.default.concurrency": Place("queues.default.concurrency = {}", {"whole"}),
    "queues.default.rate": Place("queues.default.rate = {}", set()),
    "schedules": Place("schedules = {}", {"table"}),
    "schedules.nightly.cron": Place("schedules.nightly.cron = {}", set(), NIGHTLY),
    "schedules.nightly.event": Place(
        "schedules.nightly.event = {}", {"text", "digits"}, 'schedules.nightly.cron = "0 3 * * *"'
    ),
    "schedules.nightly.arguments": Place("schedules.nightly.arguments = {}", {"table"}, NIGHTLY_WHOLE),
    "schedules.nightly.timezone": Place("schedules.nightly.timezone = {}", set(), NIGHTLY_WHOLE),
    "schedules.nightly.missed": Place("schedules.nightly.missed = {}", set(), NIGHTLY_WHOLE),
    "schedules.nightly.grace": Place("schedules.nightly.grace = {}", DURATIONS, NIGHTLY_WHOLE),
    "schedules.nightly.urgency": Place("schedules.nightly.urgency = {}", set(), NIGHTLY_WHOLE),
    "schedules.nightly.ordering_key": Place("schedules.nightly.ordering_key = {}", TEXTS, NIGHTLY_WHOLE),
    "schedules.nightly.expires": Place("schedules.nightly.expires = {}", DURATIONS, NIGHTLY_WHOLE),
    "transports": Place("transports = {}", {"table"}),
    "transports.main": Place("transports.main = {}", {*TEXTS, "empty text"}),
    "transports.main.url": Place("transports.main.url = {}", {*TEXTS, "empty text"}),
    "transports.main.outbox": Place("transports.main.outbox = {}", {"text"}, 'transports.main.url = "memory://"'),
    "transports.main.coordinator": Place(
        "transports.main.coordinator = {}", {"text"}, 'transports.main.url = "memory://"'
    ),
    "transports.main.dead_letters": Place(
        "transports.main.dead_letters = {}", {"text"}, 'transports.main.url = "memory://"'
    ),
    "routes": Place("routes = {}", {"table"}),
    'routes."*"': Place('routes."*" = {}', {"text", "list"}),
}


PROBLEM = re.compile(r'.+: (expected .+; got .+|the option "\w+" is missing|no transport is called .+)')
NAME_OF_A_TYPE = re.compile(r"`|\b(str|int|float|bool|dict|object|array|NoneType)\b|; got (list|date|datetime|time)$")


def said_of(key: str, value: str, path: Path) -> str:
    """Return the error for a file with *value* for *key*, from the key on; empty if there is none."""
    place = PLACES[key]
    transports = "" if key.startswith("transports") else MAIN
    path.write_text(f"{place.text.replace('{}', value)}\n{place.also}\n{transports}")
    config = draft_config(path, {}, start=path.parent)
    try:
        Problems(config.problems).raise_any(config.origins)
    except ConfigurationError as error:
        return str(error).removeprefix(f"{path}:1: ")
    return ""


def test_every_key_of_the_schema_is_tried() -> None:
    tables = {
        "transports.main": TransportConfig,
        "plugins.mail": PluginConfig,
        "retries.main": Retry,
        "queues.default": QueueOptions,
        "schedules.nightly": ScheduleConfig,
        "signing": Signing,
    }

    inner = {f"{name}.{key.name}" for name, cls in tables.items() for key in keys_of(cls).values() if not key.code_only}

    assert {*KEYS, *inner} <= set(PLACES)


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize("key", PLACES)
def test_a_value_fits_or_its_error_says_what_was_expected_and_what_there_was(key: str, tmp_path: Path) -> None:
    said = {name: said_of(key, value, tmp_path / "relevo.toml") for name, value in VALUES.items()}

    assert {name for name, error in said.items() if not error} == PLACES[key].fits
    for error in filter(None, said.values()):
        assert error.startswith((key, f"{key.rpartition('.')[0]}: "))
        assert PROBLEM.fullmatch(error)
        assert not NAME_OF_A_TYPE.search(error)
