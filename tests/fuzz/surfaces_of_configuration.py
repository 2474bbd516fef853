"""Surfaces of the configuration: a file, the environment, and the parsers of single values."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mutation import packed, parts
from oversized import MANY, PARTS, of_json, of_lines, of_texts
from relevo import Retry, Routes, masked_url
from relevo._clock import seconds
from relevo._config.bounded_toml import TomlError, loads
from relevo._config.opening import read as read_configuration
from relevo._config.toml_line import lines_of
from relevo._event.codec import checked_source
from relevo._event.event import checked_name
from relevo._event.subject import Subject
from relevo._secret import masked, without_secrets
from relevo._size import size
from relevo._transport.query import DeadLetterFilter, EventFilter
from relevo._transport.route import checked_queue
from relevo.cli._arguments import arguments_of
from relevo.errors import ConfigurationError, RelevoError
from surface import DifferentError, Surface


@cache
def folder() -> Path:
    """Return a folder that exists until the process ends."""
    made = tempfile.TemporaryDirectory(prefix="relevo-fuzz-")
    atexit.register(made.cleanup)
    return Path(made.name)


# --- a file and the environment ---------------------------------------------------------------------------------


def configuration(data: bytes) -> None:
    """Read a file and variables; each line of an error is printable, and names neither key nor password."""
    given = parts(data, list[Any])
    if given is None or len(given) != 2 or not isinstance(given[0], bytes) or not isinstance(given[1], dict):
        return
    content, variables = given
    environ = {
        str(name): str(value)
        for name, value in variables.items()
        if "\0" not in str(value) and str(name) not in ("RELEVO_CONFIG", "")
    }
    path = folder() / "relevo.toml"
    path.write_bytes(content)
    try:
        read_configuration(path, environ, start=folder())
    except ConfigurationError as error:
        if "s3cret-s3cret" in str(error) and b"s3cret-s3cret" not in content.replace(_SECRET, b""):
            raise DifferentError(str(error)) from None


_SECRET = b"amqp://shop:s3cret-s3cret@mq.example/"
FILE = b"""\
source = "shop"
app = "shop:app"
listeners = ["shop.listeners"]
setup = "explicit"
patience = "1h"
lease = 60.0
execution = "process"
concurrency = 4
time_limit = "15m"
memory_limit = "512M"
recycle_after = 100
lock = "lock"
deploy = "deploy"
signing = { keys = ["${KEY}"], required = false, accept = ["bank"], unsigned = ["/partner"] }

[retries]
main = 3
"main/feed" = { runs = 8, first = "10s", cap = "1h", factor = 2.5, jitter = 0.1 }

[queues.media]
accept = ["image.*", "mail.sent"]

[transports.main]
url = "amqp://shop:s3cret-s3cret@mq.example/"
outbox = "db"
prefix = "shop"
prefetch = 10

[transports]
db = "sqlite:///shop.db"

[routes]
"image.*" = ["main/media", "main/feed", "now"]
"*" = "main"
"""
ENVIRON = {
    "KEY": "_twslM30yJi1IYV-qOFqH0LB9Y-NG43Jalf-xVoh_Co",
    "RELEVO_SOURCE": "shop",
    "RELEVO_TRANSPORTS__MAIN": '{ url = "amqp://localhost", outbox = "sqlite:///shop.db" }',
    "RELEVO_TRANSPORTS__MAIN__PREFIX": "shop",
    "RELEVO_LISTENERS": "a, b",
    "RELEVO_LEASE": "2m",
}


def lines(data: bytes) -> None:
    """Find the lines of the keys of a document that a configuration may be; each key has one."""
    text = data.decode("utf-8", "replace")
    try:
        values = loads(text)
    except (TomlError, ValueError):
        return
    missing = values.keys() - {keys[0] for keys in lines_of(text)}
    if missing:
        raise DifferentError(missing)


# --- values ----------------------------------------------------------------------------------------------------


def value(data: bytes) -> None:
    """Pass a text, and a number, to each parser of a value."""
    given = parts(data, list[Any])
    for each in given or ():
        for parse in _PARSERS:
            try:
                parse(each)
            except RelevoError as error:
                if not all(line.isprintable() for line in str(error).split("\n")):
                    raise DifferentError(str(error)) from None


def _routed(given: Any) -> None:
    routes = Routes({given: [given, "main"], "*": given}) if isinstance(given, str) else Routes({"*": given})
    routes.targets("image.created")


def _text(parse: Callable[[str], object]) -> Callable[[Any], object]:
    return lambda given: parse(given) if isinstance(given, str) else None


_PARSERS: tuple[Callable[[Any], object], ...] = (
    seconds,
    checked_name,
    checked_source,
    lambda given: checked_queue(given, where="here"),
    _routed,
    lambda given: size(given, what="memory_limit"),
    Retry,
    lambda given: Retry(first=given),
    lambda given: Retry(factor=given, jitter=given),
    lambda given: Retry(cap=given),
    lambda given: EventFilter(names=(given,), states=(given,)),
    lambda given: DeadLetterFilter(names=(given,), until=given),
    _text(Subject.parsed),
    _text(masked_url),
    _text(masked),
    without_secrets,
)


def arguments(data: bytes) -> None:
    """Parse the arguments of an event on the command line."""
    arguments_of("image.created", data.decode("utf-8", "surrogateescape"))


def _in_object(data: bytes) -> bytes:
    return b'{"a":' + data + b"}"


SURFACES = (
    Surface(
        name="configuration",
        target=configuration,
        shape="msgpack",
        seeds={
            "every key": packed(FILE, {}),
            "variables": packed(FILE, ENVIRON),
            "variables alone": packed(b"", {"RELEVO_TRANSPORTS__MAIN": "memory://", "RELEVO_RETRIES__MAIN": "3"}),
            "a variable nested too deeply": packed(FILE, {"RELEVO_TRANSPORTS__MAIN": "[" * 5000}),
            "a variable with 5,000 digits": packed(FILE, {"RELEVO_CONCURRENCY": "9" * 5000}),
            "TOML with 5,000 digits in a variable": packed(FILE, {"RELEVO_RETRIES": "{ main = " + "9" * 5000 + " }"}),
            "a variable with 2,000 parts": packed(FILE, {"RELEVO_TRANSPORTS" + "__A" * 2000: "1"}),
            "a key with 2,000 parts": packed(b"a." * 2000 + b"b = 1", {}),
            "a number with 5,000 digits": packed(b"concurrency = " + b"9" * 5000, {}),
            "UTF-16": packed(FILE.decode().encode("utf-16"), {}),
            "bytes that are not UTF-8": packed(b'source = "\xff"', {}),
            "nested too deeply": packed(b"a = " + b"[" * 5000, {}),
            "a table in a route": packed(b'[routes]\nmain = { url = "amqp://shop:s3cret-s3cret@mq.example/" }', {}),
            "2,000 unknown keys": packed(b"".join(b"k%d = 1\n" % number for number in range(2000)), {}),
        },
        weight=0.15,
        oversized={
            **of_lines(lambda content: packed(content, {})),
            **{
                f"{name}, after a file": make
                for name, make in of_lines(lambda content: packed(FILE + content, {})).items()
            },
            "80,000 variables": lambda: packed(FILE, {f"RELEVO_K{each}": "1" for each in range(MANY)}),
            "80,000 keys of variables": lambda: packed(
                FILE, {f"RELEVO_TRANSPORTS__K{each}": "1" for each in range(MANY)}
            ),
            "a variable of 20,000 parts": lambda: packed(FILE, {"RELEVO_TRANSPORTS" + "__A" * PARTS: "1"}),
            **{
                f"{name}, in a variable": make
                for name, make in of_lines(
                    lambda content: packed(FILE, {"RELEVO_ROUTES": content.decode().partition("=")[2]})
                ).items()
            },
            **of_texts(
                lambda text: packed(FILE, {"RELEVO_SOURCE": text, "RELEVO_LISTENERS": text, "RELEVO_LEASE": text})
            ),
        },
    ),
    Surface(
        name="lines",
        target=lines,
        shape="text",
        seeds={"every key": FILE, "nothing": b"", "lists of tables": b"[[a]]\nb = [1, {c = 2}]\n[[a.b]]\n'c' = 3\n"},
        weight=0.3,
        oversized=of_lines(),
    ),
    Surface(
        name="value",
        target=value,
        shape="msgpack",
        seeds={
            "durations": packed("5m", "1.5h", "500ms", "-1s", 60, 0.5, " 5 s "),
            "names": packed("image.created", "a:b/c", "image.*", "main/feed", "now", "image/7"),
            "digits of other alphabets": packed("٣s", "٣", "1_000", " 5 "),
            "5,000 digits": packed("9" * 5000 + "s", "9" * 5000, "1e400"),
            "the sign of Kelvin as a unit": packed("5\u212a"),
            "an address": packed("see amqp://shop:s3cret@mq.example/ and password=s3cret", "shop:s3cret@mq.example"),
            "an address without a scheme": packed("no shop:s3cret@mq.example/ here", ":s3cret@://", "a:b@c:/d@e"),
            "control characters": packed("a\nb", "a\x1b[31m", "a\0", "\ud7ff"),
        },
        weight=0.5,
        oversized=of_texts(packed),
    ),
    Surface(
        name="arguments",
        target=arguments,
        shape="json",
        errors=(RelevoError,),
        seeds={
            "an object": b'{"image_id": 7, "sizes": [1.5, null, {"a": "b"}]}',
            "a duplicate": b'{"a": 1, "a": 2}',
            "no number": b'{"a": NaN, "b": 1e999}',
            "nested too deeply": b'{"a":' * 5000,
            "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
            "invalid bytes": b'{"a": "\xff"}',
        },
        weight=0.5,
        oversized={**of_json(), **{f"{name}, in an object": make for name, make in of_json(_in_object).items()}},
    ),
)
