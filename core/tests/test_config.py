from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Self

import attrs
import pytest

from relevo import App, Clock, Hooks, Secret, SystemClock, Transport
from relevo._config import opening
from relevo._config.discovery import transport_class, transport_of_scheme
from relevo._config.opening import open_config, read
from relevo._config.schema import KEYS, Config, Settings, TransportConfig
from relevo._config.table import TableReader, keys_of
from relevo._problem import Origin, Origins, Problems
from relevo._retry import Retry
from relevo._synonym import CALLED_KEYS, KEYS as OTHER_KEYS
from relevo.errors import ConfigurationError, PluginError, TransportClosedError, TransportNotFoundError
from relevo_memory import MemoryTransport

CANARY = "hunter2"

WHOLE = """
source = "shop"
app = "shop:app"
listeners = ["shop.listeners"]
plugins = ["shop.plugin"]
setup = "explicit"
patience = "2h"
lease = 30

[transports]
main = "memory://"
other = { url = "memory://", outbox = "main" }

[routes]
"image.*" = ["main/media", "main/feed"]
"*" = "main"
"""

Write = Callable[..., Path]


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Write:
    def write(text: str | bytes, name: str = "relevo.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def config_of(path: Path | None, start: Path, **environ: str) -> Config:
    return read(path, environ, start=start)


def told(path: Path | None, start: Path, **environ: str) -> list[str]:
    """Return the lines of the error that reading, or else opening, ends with."""
    with pytest.raises(ConfigurationError) as caught:
        open_config(config_of(path, start, **environ), clock=SystemClock())
    return str(caught.value).splitlines()


UTF_16 = ("utf-16", "utf-16-le", "utf-16-be")

# --- finding the file ---------------------------------------------------------------------------------


def test_everything_that_a_file_says_is_read(write: Write, tmp_path: Path) -> None:
    path = write(WHOLE)

    config = config_of(path, tmp_path)

    assert (config.source, config.app, config.setup) == ("shop", "shop:app", "explicit")
    assert (config.listeners, list(config.plugins)) == (("shop.listeners",), ["shop.plugin"])
    assert (config.patience, config.lease) == (7200.0, 30.0)
    assert config.transports["main"].url.reveal() == "memory://"
    assert config.transports["other"].outbox == Secret("main")
    assert dict(config.routes) == {"image.*": ("main/media", "main/feed"), "*": ("main",)}
    assert (config.path, config.directory) == (path, tmp_path)


def test_an_empty_file_says_nothing(write: Write, tmp_path: Path) -> None:
    config, default = config_of(write(""), tmp_path), Config(directory=tmp_path)

    assert [getattr(config, key) for key in KEYS] == [getattr(default, key) for key in KEYS]
    assert (config.directory, config.path) == (tmp_path, tmp_path / "relevo.toml")


def test_the_nearest_file_upwards_is_found(write: Write, tmp_path: Path) -> None:
    write('source = "far"')
    write('source = "near"', "a/relevo.toml")
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)

    assert config_of(None, deep).source == "near"
    assert config_of(None, tmp_path).source == "far"


def test_pyproject_counts_if_it_has_a_table_for_relevo(write: Write, tmp_path: Path) -> None:
    write('[tool.relevo]\nsource = "project"\n[tool.relevo.transports]\nmain = "memory://"', "pyproject.toml")
    write("[tool.other]\n", "a/pyproject.toml")
    write("tool = 3\n", "a/b/pyproject.toml")

    config = config_of(None, tmp_path / "a" / "b")

    assert config.source == "project"
    assert config.directory == tmp_path
    assert list(config.transports) == ["main"]


def test_relevo_toml_comes_before_pyproject_in_one_folder(write: Write, tmp_path: Path) -> None:
    write('[tool.relevo]\nsource = "project"', "pyproject.toml")
    write('source = "own"')

    assert config_of(None, tmp_path).source == "own"


def test_the_named_file_comes_before_the_variable_and_that_before_the_search(write: Write, tmp_path: Path) -> None:
    write('source = "found"')
    variable = str(write('source = "variable"', "b/relevo.toml"))
    named = write('source = "named"', "c/any.toml")

    assert config_of(named, tmp_path, RELEVO_CONFIG=variable).source == "named"
    assert config_of(None, tmp_path, RELEVO_CONFIG=variable).source == "variable"
    assert config_of(None, tmp_path, RELEVO_CONFIG="b/relevo.toml").source == "variable"
    assert config_of(None, tmp_path, RELEVO_CONFIG="").source == "found"


def test_without_a_file_the_environment_is_enough(tmp_path: Path) -> None:
    config = config_of(None, tmp_path, RELEVO_TRANSPORTS__MAIN="memory://")

    found = open_config(config, clock=SystemClock())

    assert [type(each) for each in found.transports.values()] == [MemoryTransport]
    assert not any(found.helpers.values())
    assert config.directory == tmp_path


def test_what_would_wait_for_ever_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "relevo.toml")

    with pytest.raises(ConfigurationError, match=r"relevo\.toml: expected a regular file; got a pipe"):
        config_of(tmp_path / "relevo.toml", tmp_path)
    with pytest.raises(ConfigurationError, match=r"relevo\.toml: expected a file; got a pipe"):
        config_of(None, tmp_path)


def test_a_byte_order_mark_is_not_in_the_way(write: Write, tmp_path: Path) -> None:
    assert config_of(write(b'\xef\xbb\xbfsource = "shop"'), tmp_path).source == "shop"


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize(
    "text, why",
    [
        (b'source = "shop', "relevo.toml:1: source: "),
        (b"source == 3", "relevo.toml:1: Invalid value .column 9"),
        (b"source = = 3", "relevo.toml:1: source: Invalid value .column 10"),
        (b"signing = [\n'hunter2==' 'hunter2']", "relevo.toml:2: Unclosed array .column 13"),
        (b'signing = """\nhunter2==', "relevo.toml:2: Unterminated string .end"),
        (b"a = 1\na.b = 2", "relevo.toml:2: a.b is set twice; remove one of them"),
        (
            b"[transports]\nmain = 'a'\n main  = 'hunter2'\n",
            "relevo.toml:3: main is set twice; remove one of them",
        ),
        (b"[transports]\n[routes]\n[transports]\n", r"relevo.toml:3: \[transports\] is set twice; remove one"),
        (
            b"[transports]\nmain = hunter2",
            'relevo.toml:2: main: Invalid value .column 8.; expected "text" in quotes, a number',
        ),
        (b'\n\nsource = """', "relevo.toml:3: source: Unterminated string .end of document"),
        (b"a = " + b"[" * 100_000, "it is nested too deeply"),
        (b"source = '\xe9'", "relevo.toml:1: expected text in UTF-8; got the byte 0xe9; save the file as UTF-8"),
        (b"\xef\xbb\xbfsetup = 'auto'\nsource = '\xe9'", "relevo.toml:2: expected text in UTF-8; got the byte 0xe9"),
        *(('source = "shop"'.encode(each), "expected text in UTF-8; got UTF-16 or no text") for each in UTF_16),
        (b"lease = " + b"1" * 5000, ":1: a number or a key has more than 1000 characters"),
        (b"\nlease = 0x" + b"F" * 50_000, ":2: a number or a key has more than 1000 characters"),
        (b"[routes]\n" + b"a." * 20_000 + b"a = 1", ":2: a key has too many parts; expected at most 32"),
        (b"[" + b"a." * 300_000 + b"a]", ":1: a key has too many parts; expected at most 32"),
        (b"a = " + b"{b = " * 400 + b"1" + b"}" * 400, ":1: it is nested too deeply; expected at most 32"),
        (b"a = " + b"{b.b.b = " * 20 + b"1" + b"}" * 20, "it is nested too deeply; expected at most 32 levels"),
        (b'"\\"' * 300_000, ":1: "),
        (b'"""\\' * 200_000, ":1: "),
        (b"a = 1\n" * 100_000, ":2: a is set twice; remove one of them"),
        (b"".join(b"k%d = 1\n" % each for each in range(80_000)), "it has too many keys; expected at most 10000"),
        (b"listeners = [" + b"1," * 80_000 + b"]", "it has too many keys; expected at most 10000"),
        (b"a = 1\n" + b"#" * 1024 * 1024, "expected a file of at most 1 MiB; got a larger one"),
    ],
    ids=range(28),
)
def test_a_file_that_cannot_be_read_is_told_with_its_path(write: Write, tmp_path: Path, text: bytes, why: str) -> None:
    path = write(text)

    with pytest.raises(ConfigurationError, match=why) as caught:
        config_of(path, tmp_path)

    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize(
    "text",
    [
        "".join(f"key{each} = 1\n" for each in range(9_990)),
        "[transports]\n" + "".join(f"key{each} = 'x'\n" for each in range(3_000)),
        "[retries]\n" + "".join(f"key{each} = 1\n" for each in range(9_990)),
        "[routes]\n" + "".join(f"key{each} = 'x'\n" for each in range(9_990)),
        "listeners = [" + "'${A}'," * 9_990 + "]",
        "plugins = [" + "1," * 9_990 + "]",
    ],
    ids=range(6),
)
def test_of_many_problems_the_first_ones_are_told(write: Write, tmp_path: Path, text: str) -> None:
    lines = told(write(text + '\n[transports]\nmain = "memory://"' * ("[transports]" not in text)), tmp_path)

    assert len(lines) == 101
    assert lines[-1] == "only the first 100 problems are shown; fix them, and check again"


@pytest.mark.parametrize(
    "variable, value, why",
    [
        ("RELEVO_LISTENERS", "[" * 5_000, "it is nested too deeply; expected at most 32"),
        ("RELEVO_LISTENERS", "[" * 400 + "]" * 400, "it is nested too deeply; expected at most 32"),
        ("RELEVO_TRANSPORTS__MAIN", "{ a = " + "1" * 5_000 + "}", "a number or a key has more than 1000 characters"),
        ("RELEVO_TRANSPORTS__MAIN", "{" + "a." * 20_000 + "a = 1}", "a key has too many parts; expected at most 32"),
        ("RELEVO_TRANSPORTS__MAIN", "{ a = 1900-02-30 }", "the value begins like TOML and is invalid: "),
        ("RELEVO_TRANSPORTS" + "__A" * 20_000, "1", "expected at most 32 keys between two underscores each; got 20001"),
        ("RELEVO_PLUGINS" + "__A" * 20_000, "1", "expected at most 32 keys between two underscores each; got 20001"),
        ("RELEVO_SOURCE", "a\udcff", "RELEVO_SOURCE: expected text in UTF-8; got other bytes"),
        ("RELEVO_LOCK", "\udcff", "RELEVO_LOCK: expected text in UTF-8; got other bytes"),
        ("RELEVO_TRANSPORTS__\udcff", "x", r"RELEVO_TRANSPORTS__\udcff: expected text in UTF-8; got other bytes"),
        ("RELEVO_SOURCE\udcff", "x", r'RELEVO_SOURCE\udcff: there is no such variable; did you mean "RELEVO_SOURCE"?'),
        ("RELEVO_CONCURRENCY", "1" * 5_000, "concurrency: expected a whole number"),
        ("RELEVO_MEMORY_LIMIT", "1" * 5_000, "memory_limit: expected a number of bytes"),
        ("RELEVO_MEMORY_LIMIT", "1" * 15 + "G", "memory_limit: expected a number of bytes"),
        *(("RELEVO_CONCURRENCY", each, "expected a whole number") for each in (" 5 ", "1_000", "\u0663", "+5", "5\n")),
        *(("RELEVO_LEASE", each, "expected seconds") for each in (" 5 ", "1_000", "\u0663s", "+5", "5s ", "\t5s")),
        *(
            ("RELEVO_MEMORY_LIMIT", each, "expected a number of bytes")
            for each in (" 5G", "1_0M", "\u0665G", "5 \u212a")
        ),
        *(("RELEVO_RETRIES__MAIN__FACTOR", each, "expected a number") for each in (" 2 ", "1_0.5", "\u0663", "2.")),
    ],
    ids=range(33),
)
def test_a_hostile_variable_is_told_in_one_short_line(
    write: Write, tmp_path: Path, variable: str, value: str, why: str
) -> None:
    file = write('[transports]\nmain = "memory://"')

    (line,) = told(file, tmp_path, **{variable: value})

    assert why in line
    assert len(line) < 500


def test_more_variables_than_a_configuration_has_are_refused(tmp_path: Path) -> None:
    environ = {f"RELEVO_K{each}": "x" for each in range(1_001)}

    assert told(None, tmp_path, **environ) == ["the environment: expected at most 1000 variables RELEVO_…"]


@pytest.mark.parametrize(
    "name, why",
    [
        ("", "expected a regular file; got a directory"),
        ("missing.toml", "does not exist; give another with --config"),
        ("a\0b", "cannot be found"),
    ],
)
def test_what_is_no_file_is_told(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        config_of(tmp_path / name, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(write: Write, tmp_path: Path) -> None:
    path = write("")
    path.chmod(0)

    with pytest.raises(ConfigurationError, match=r"cannot be read: .*Permission denied"):
        config_of(path, tmp_path)


@pytest.mark.parametrize("text", ["[tool]\nrelevo = 3", "[[tool.relevo]]"])
def test_a_table_for_relevo_that_is_none_is_told(write: Write, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"tool.relevo: expected a table; got"):
        config_of(write(text, "pyproject.toml"), tmp_path)


# --- the environment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ, key, expected",
    [
        ({"RELEVO_SOURCE": "other"}, "source", "other"),
        ({"RELEVO_SETUP": "auto"}, "setup", "auto"),
        ({"RELEVO_PATIENCE": "60"}, "patience", 60.0),
        ({"RELEVO_PATIENCE": "1.5"}, "patience", 1.5),
        ({"RELEVO_PATIENCE": "5m"}, "patience", 300.0),
        ({"RELEVO_LISTENERS": "a.b, c.d"}, "listeners", ("a.b", "c.d")),
        ({"RELEVO_LISTENERS": '["a.b", "c.d"]'}, "listeners", ("a.b", "c.d")),
        ({"RELEVO_PLUGINS": "[]"}, "plugins", {}),
        ({"RELEVO_ROUTES": '{"*" = ["main/a", "main"]}'}, "routes", {"*": ("main/a", "main")}),
        ({"RELEVO_SOURCE": ""}, "source", "shop"),
        ({"RELEVO_TEST_AMQP": "amqp://localhost", "RELEVO_CONFIG": ""}, "source", "shop"),
    ],
)
def test_the_environment_wins_over_the_file(
    write: Write, tmp_path: Path, environ: Mapping[str, str], key: str, expected: object
) -> None:
    assert getattr(config_of(write(WHOLE), tmp_path, **environ), key) == expected


def test_a_transport_is_overridden_by_an_address_a_table_or_one_option(write: Write, tmp_path: Path) -> None:
    path = write('[transports]\nmain = "sqlite:///shop.db"\n')

    address = config_of(path, tmp_path, RELEVO_TRANSPORTS__MAIN="memory://").transports["main"]
    table = config_of(path, tmp_path, RELEVO_TRANSPORTS__MAIN='{url = "memory://", outbox = "main"}').transports["main"]
    option = config_of(path, tmp_path, RELEVO_TRANSPORTS__MAIN__POLL="0.5").transports["main"]
    further = config_of(path, tmp_path, RELEVO_TRANSPORTS__OTHER="memory://").transports
    whole = config_of(path, tmp_path, RELEVO_TRANSPORTS='{other = "memory://"}').transports

    assert (address.url.reveal(), address.outbox) == ("memory://", None)
    assert (table.url.reveal(), table.outbox) == ("memory://", Secret("main"))
    assert (option.url.reveal(), option.options) == ("sqlite:///shop.db", {"poll": "0.5"})
    assert sorted(further) == ["main", "other"]
    assert sorted(whole) == ["other"]


def test_what_cannot_hold_a_key_gives_way_to_the_variable(write: Write, tmp_path: Path) -> None:
    path = write("transports = 3")

    transports = config_of(path, tmp_path, RELEVO_TRANSPORTS__MAIN="memory://").transports

    assert list(transports) == ["main"]


def test_names_with_capitals_can_be_overridden_too(write: Write, tmp_path: Path) -> None:
    path = write('[transports]\nMain = "sqlite:///shop.db"\n')

    transports = config_of(path, tmp_path, RELEVO_TRANSPORTS__MAIN="memory://").transports

    assert {name: each.url.reveal() for name, each in transports.items()} == {"Main": "memory://"}


@pytest.mark.parametrize(
    "environ, why",
    [
        (
            {"RELEVO_TRANSPORTS_MAIN": f"amqp://me:{CANARY}@host"},
            'RELEVO_TRANSPORTS_MAIN: there is no such variable; did you mean "RELEVO_TRANSPORTS__MAIN"?',
        ),
        (
            {"RELEVO_TRANSPORT__MAIN": f"amqp://me:{CANARY}@host"},
            'RELEVO_TRANSPORT__MAIN: there is no such variable; did you mean "RELEVO_TRANSPORTS"?',
        ),
        ({"RELEVO_LISTENER": "a"}, 'RELEVO_LISTENER: there is no such variable; did you mean "RELEVO_LISTENERS"?'),
        (
            {"RELEVO_TRANSPORTS__MAIN": '{url = "' + CANARY},
            "RELEVO_TRANSPORTS__MAIN: the value begins like TOML and is invalid: ",
        ),
        ({"RELEVO_LISTENERS": "[a"}, "RELEVO_LISTENERS: the value begins like TOML and is invalid: "),
    ],
)
def test_a_variable_that_is_not_understood_is_told(
    write: Write, tmp_path: Path, environ: Mapping[str, str], why: str
) -> None:
    (line,) = told(write(WHOLE), tmp_path, **environ)

    assert line.startswith(why)
    assert CANARY not in line


def test_the_known_keys_are_listed_once_for_a_table(write: Write, tmp_path: Path) -> None:
    text = 'zzz = 1\nyyy = 2\n[transports]\nmain = { url = "sqlite:///shop.db", zzz = 1, yyy = 2 }\n'

    lines = told(write(text), tmp_path)

    assert [("; known: " in line) for line in lines] == [True, False, True, False]


@pytest.mark.parametrize("key", sorted({key for table in OTHER_KEYS.values() for key in table} | CALLED_KEYS.keys()))
def test_a_key_of_another_tool_is_none_of_ours(key: str) -> None:
    assert key not in {*keys_of(Settings), *keys_of(Retry), *keys_of(TransportConfig)}
    assert CALLED_KEYS.get(key, "url") in {*keys_of(Settings), *keys_of(Retry), *keys_of(TransportConfig)}


OF_A_QUEUE = 'write the options of a policy under the name of a queue: [retries."main/media"]'


@pytest.mark.parametrize(
    "key, why",
    [
        ("max_retries", f"write runs = 4 for 3 retries; {OF_A_QUEUE}"),
        ("delay", f'it is called "first" here; {OF_A_QUEUE}'),
        ("multiplier", f'it is called "factor" here; {OF_A_QUEUE}'),
        ("runs", f"there are: main; {OF_A_QUEUE}"),
    ],
)
def test_an_option_of_a_retry_policy_belongs_to_a_queue(write: Write, tmp_path: Path, key: str, why: str) -> None:
    (outside,) = told(write(f'[transports]\nmain = "sqlite:///shop.db"\n[retries]\n{key} = 3\n'), tmp_path)

    assert why in outside


@pytest.mark.parametrize("key", ["max_retries", "delay", "multiplier"])
def test_an_option_of_a_retry_policy_is_called_otherwise(write: Write, tmp_path: Path, key: str) -> None:
    (line,) = told(write(f'[transports]\nmain = "sqlite:///x.db"\n[retries."main/default"]\n{key} = 3\n'), tmp_path)

    assert f'unknown option "{key}"; ' in line
    assert "known: " not in line


# --- what is wrong in it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, why",
    [
        ("sorce = 'shop'", 'unknown key "sorce"; did you mean "source"?'),
        (f"{'k' * 900} = 1", f'unknown key "{"k" * 79}…"; known: source'),
        (
            "broker_url = 'redis://a'",
            'unknown key "broker_url"; write it under [transports]: main = "sqlite:///shop.db"',
        ),
        ("imports = ['shop']", 'unknown key "imports"; it is called "listeners" here'),
        ("worker_max_tasks_per_child = 9", 'unknown key "worker_max_tasks_per_child"; it is called "recycle_after"'),
        ("timezone = 'UTC'", 'unknown key "timezone"; leave it out; times are in UTC'),
        ("beat_schedule = {}", 'unknown key "beat_schedule"; schedules have a table of their own: [schedules]'),
        ("lease = { password = 'hunter2' }", "lease: expected seconds"),
        (
            "zzz = 1",
            'unknown key "zzz"; known: source, app, listeners, plugins, setup, patience, lease, execution, ',
        ),
        (
            "source = 3",
            "source: expected the application's name as text without spaces, such as shop or /shop/web; got 3",
        ),
        ("source = 'my shop'", "source: expected the application's name as text without spaces"),
        ("app = 3", 'app: expected "module:name", as in "shop:app"; got 3'),
        ("app = ''", 'app: expected "module:name", as in "shop:app"; got \'\''),
        ("listeners = 'shop'", 'listeners: expected a list such as ["shop.listeners"]; got text'),
        ("listeners = [1]", "listeners.0: expected text; got a whole number"),
        ("listeners = ['']", "listeners.0: expected text; got empty text"),
        ("setup = 'Auto'", 'setup: expected "auto" or "explicit"; got \'Auto\''),
        ("setup = true", 'setup: expected "auto" or "explicit"; got True'),
        ("lock = 3", "lock: expected a path as text; got a whole number"),
        ("deploy = ''", "deploy: expected a path as text; got empty text"),
        ("patience = 'soon'", "patience: expected seconds as a number, or text such as"),
        ("patience = -1", "patience: expected 0 s or more; got -1"),
        ("patience = nan", "patience: expected seconds as a number, or text such as"),
        ("lease = true", "lease: expected seconds as a number, or text such as"),
        ("transports = 3", 'transports: expected a table such as [transports] main = "sqlite:///shop.db"; got a whole'),
        (
            "[transports]\nmain = 3",
            "transports.main: expected text such as sqlite:///shop.db; got a whole number",
        ),
        ("[transports]\nmain = {}", 'transports.main: the option "url" is missing'),
        (
            "[transports]\nnow = 'memory://'",
            "transports: 'now' cannot be the name of a transport; expected text such as",
        ),
        ("[transports]\n'a/b' = 'memory://'", "transports: 'a/b' cannot be the name of a transport"),
        (
            "[transports]\nmain = {url = 'memory://', outbox = 3}",
            "transports.main.outbox: expected text; got a whole number",
        ),
        (
            "[transports]\nmain = {url = 'memory://', outbox = 'mian'}",
            "transports.main.outbox: expected the name of a transport, or an address such as sqlite:///shop.db; got ",
        ),
        ("[transports]\nmain = 'memory'", "transports.main: expected an address such as sqlite:///shop.db, "),
        ("[transports]\nmain = '://x'", "transports.main: expected an address such as sqlite:///shop.db, "),
        ("[transports]\nmain = ''", "transports.main: expected an address such as sqlite:///shop.db, "),
        ("[transports]\nmain = 'memroy://'", 'transports.main: no transport for "memroy"; available: '),
        (
            "[transports]\nmain = {url = 'memory://', urll = 'x'}",
            'transports.main: unknown option "urll"; did you mean "url"?',
        ),
        ("routes = 3", "routes: expected a table such as"),
        ("[routes]\n'*' = 3", 'routes."*": expected a target, "transport", "transport/queue" or "now"; got 3'),
        (
            "[routes]\n'*' = ['main', 3]",
            'routes."*": expected a target, "transport", "transport/queue" or "now"; got 3',
        ),
        ("[transports]\n'' = 'memory://'", "transports: '' cannot be the name of a transport; expected text such as"),
        ("[transports]\nmain = {urll = 'x://hunter2'}", 'transports.main: unknown option "urll"; did you mean "url"?'),
        ("[routes]\n'*' = []", 'routes."*": expected at least one target; got none'),
        ("[routes]\n'a b' = 'main'", "routes: 'a b' cannot match an event"),
        ("[routes]\n'*' = 'main/a b'", "routes.\"*\": 'a b' cannot name a queue"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_its_own(write: Write, tmp_path: Path, text: str, why: str) -> None:
    path = write(text)

    (line,) = told(path, tmp_path)

    assert line.startswith(f"{path}:{len(text.splitlines())}: {why}")


def test_what_is_missing_is_told_without_a_line(write: Write, tmp_path: Path) -> None:
    path = write("source = 'shop'")

    (line,) = told(path, tmp_path)

    assert line == f'{path}: no transport; add one, for example [transports] main = "sqlite:///shop.db"'


def test_several_problems_are_told_together_in_the_order_of_the_file(write: Write, tmp_path: Path) -> None:
    path = write("[transports]\na = 4\nb = {}\n[routes]\n'a b' = 'x'\n[sorce]\n[setup]\n[listeners]\n")

    lines = told(path, tmp_path)

    assert [line.split(": ")[0] for line in lines] == [f"{path}:{number}" for number in (2, 3, 5, 6, 7, 8)]


def test_problems_of_the_file_and_of_the_environment_are_told_together(write: Write, tmp_path: Path) -> None:
    path = write("sorce = 1\n[transports]\nmain = 4\n")

    lines = told(path, tmp_path, RELEVO_SETUP="x", RELEVO_TRANSPORTS__OTHER="{", RELEVO_LISTENER="a")

    assert [line.split(": ")[0] for line in lines] == [
        f"{path}:1",
        f"{path}:3",
        "RELEVO_LISTENER",
        "RELEVO_TRANSPORTS__OTHER",
        "RELEVO_SETUP",
    ]


def test_an_outbox_that_cannot_be_opened_is_told_once(write: Write, tmp_path: Path) -> None:
    path = write("[transports]\na = 'x://'\nb = {url = 'memory://', outbox = 'a'}\n")

    (line,) = told(path, tmp_path)

    assert line.startswith(f"{path}:2: transports.a: ")


def test_several_transports_that_cannot_be_opened_are_told_together(write: Write, tmp_path: Path) -> None:
    path = write("[transports]\na = 'x://'\nb = 'memory'\nc = {url = 'memory://', one = 1, two = 2, outbox = 'y://'}\n")

    lines = told(path, tmp_path)

    assert [line.removeprefix(f"{path}:").split(":")[:2] for line in lines] == [
        ["2", " transports.a"],
        ["3", " transports.b"],
        ["4", " transports.c"],
        ["4", " transports.c"],
        ["4", " transports.c.outbox"],
    ]


def test_an_option_that_is_refused_is_told_with_its_own_line(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("relevo_sql")
    text = "[transports.main]\nurl = 'sqlite:///x.db'\npoll = 0\n[transports.other]\nurl = 'sqlite:///'\npol = 1\n"

    lines = told(write(text), tmp_path)

    assert [line.split(":")[1] for line in lines] == ["3", "6"]


def test_one_problem_keeps_its_class(write: Write, tmp_path: Path) -> None:
    with pytest.raises(TransportNotFoundError) as caught:
        open_config(config_of(write("[transports]\na = 'x://'"), tmp_path), clock=SystemClock())

    assert caught.value.wanted == "x"


def test_without_any_configuration_it_is_said_where_it_was_looked_for(tmp_path: Path) -> None:
    (line,) = told(None, tmp_path)

    assert line.startswith(f"the environment, since there is no relevo.toml in {tmp_path} or above: no transport")


# --- everything together -------------------------------------------------------------------------------


class Plain(MemoryTransport):
    """It joins no session."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, transactional=False)

    @classmethod
    def open(cls, options: object, *, name: str, clock: Clock) -> Self:
        return cls(name=name, clock=clock)


@pytest.fixture(name="plain")
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the scheme ``plain``."""
    monkeypatch.setattr(opening, "transport_of_scheme", lambda s: s if s == "plain" else transport_of_scheme(s))
    monkeypatch.setattr(opening, "transport_class", lambda n: Plain if n == "plain" else transport_class(n))


EVERYTHING: list[tuple[str, str]] = [
    # a line of the file; what is told of it, if anything
    ('source = "my shop"', "source: expected the application's name as text without spaces"),
    ('app = "nope"', 'app: expected "module:name", as in "nope:app"; got \'nope\''),
    ('listeners = "shop"', "listeners: expected a list such as"),
    ('plugins = ["relevo", "no.such.plugin"]', 'plugins: there is no module "no"'),
    ('setup = "Auto"', 'setup: expected "auto" or "explicit"'),
    ('patience = "soon"', "patience: expected seconds as a number, or text such as"),
    ("lease = 0.1", "lease: too short to be renewed; expected 1.0 s or more; got 0.1 s"),
    ('sorce = "shop"', 'unknown key "sorce"; did you mean "source"?'),
    ('signing = "short"', "signing: expected keys of at least 32 characters; got one with 5 characters"),
    ("[transports]", ""),
    ('main = "memory://"', ""),
    ("typo = 4", "transports.typo: expected text"),
    ('scheme = "memroy://"', 'transports.scheme: no transport for "memroy"; available: '),
    ('bare = "memory"', "transports.bare: expected an address such as sqlite:///shop.db, "),
    (
        'password = "memory://guest:guest@broker.example"',
        "transports.password: memory://guest:***@broker.example has a publicly known default password",
    ),
    ('variable = "memory://${NO_SUCH_VARIABLE}"', "transports.variable: the variable NO_SUCH_VARIABLE is not set"),
    ('box = { url = "plain://", outbox = "mian" }', "transports.box.outbox: expected the name of a transport, or an"),
    ('joining = { url = "plain://", outbox = "plain://" }', 'the outbox "joining.outbox" cannot join a session, so it'),
    ('opening = { url = "plain://", outbox = "x://" }', 'transports.opening.outbox: no transport for "x"; available: '),
    ('[transports.other]\nurl = "plain://"', ""),
    ("urll = 1", 'transports.other: unknown option "urll"; did you mean "url"?'),
    ("[transports.plain]", ""),
    ('url = "plain://"', ""),
    ("[routes]", ""),
    ('"a" = []', "routes.a: expected at least one target; got none"),
    ('"b" = "mian"', "routes.b: no transport is called 'mian'; did you mean \"main\"?"),
    ('"c" = ["main", "plain"]', '"c" is routed to several transports ("main", "plain"); a crash could leave'),
    ('"known" = ["main", "joining"]', ""),
    ('"guessed" = ["plain", "other", "typo", "mine"]', "routes.guessed: no transport is called 'mine'"),
    ('"guessed.too" = ["plain", "scheme"]', ""),
    ('"and.this" = ["plain", "box"]', ""),
    ("[retries]", ""),
    ("main = 0", "retries.main.runs: expected a whole number from 1; got 0"),
    ('"mian" = 3', "retries.mian: no transport is called 'mian'; did you mean \"main\"?"),
    ('"main/guessed" = 3', ""),
    ('"main/c" = { frist = 1 }', 'retries."main/c": unknown option "frist"; did you mean "first"?'),
]


@pytest.mark.usefixtures("plain")
def test_one_problem_of_each_kind_are_told_in_one_error_in_order_each_with_its_line(
    write: Write, tmp_path: Path
) -> None:
    path = write("\n".join(line for line, _ in EVERYTHING))
    expected = []
    number = 1
    for line, why in EVERYTHING:
        expected += [f"{path}:{number}: {why}"] if why else []
        number += len(line.splitlines())

    with pytest.raises(ConfigurationError) as caught:
        App.from_config(path, environ={})

    told = str(caught.value).splitlines()
    assert [line[: len(why)] for line, why in zip_longest(told, expected, fillvalue="-")] == expected


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    "text, lines",
    [
        # what a reference is missing for says nothing of what is there
        ('[transports]\nmain = "x://"\nplain = "plain://"\n[routes]\n"*" = ["main", "plain"]', [2]),
        ('[transports]\nmain = 4\n[routes]\n"*" = "main"\n[retries]\nmain = 3', [2]),
        ('transports = 4\n[routes]\n"*" = "main"\n[retries]\nmain = 3', [1]),
        ('[transports]\nmain = "memory://"\n[routes]\n"*" = []\n[retries]\n"main/a" = 3', [4]),
        ('app = "nope"\n[routes]\n"*" = "main"', [1]),
        (
            '[transports]\nb = { url = "plain://", outbox = "x://" }\nm = "memory://"\n[routes]\n"*" = ["b", "m"]',
            [2],
        ),
        ('[transports]\nmain = "plain://${NO}"\n[routes]\n"*" = "main"', [2]),
        ('[transport]\nmain = "memory://"', [1]),
        ('source = "${NO}"', [1, None]),
    ],
    ids=range(9),
)
def test_of_what_needs_something_that_is_broken_nothing_is_said(
    write: Write, tmp_path: Path, text: str, lines: list[int | None]
) -> None:
    path = write(text)

    with pytest.raises(ConfigurationError) as caught:
        App.from_config(path, environ={})

    places = [f"{path}:{line}: " if line else f"{path}: no transport" for line in lines]
    told = str(caught.value).splitlines()
    assert [line[: len(place)] for line, place in zip_longest(told, places, fillvalue="-")] == places


def test_what_is_only_read_has_its_transports_looked_at_if_something_else_is_wrong(
    write: Write, tmp_path: Path
) -> None:
    text = '[transports]\nmain = "memroy://"\n'

    with pytest.raises(ConfigurationError) as caught:
        config_of(write(f"{text}[sorce]\n"), tmp_path)

    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["2", "3"]
    assert list(config_of(write(text), tmp_path).transports) == ["main"]


def test_a_plugin_that_does_not_fit_is_told_with_its_line(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write("import relevo\n@relevo.hookimpl\ndef relevo_enrihc(event): ...\n", "unfit_plugin.py")
    path = write('plugins = [\n  "relevo",\n  "unfit_plugin",\n]\n[transports]\nmain = "memory://"\n')

    with pytest.raises(PluginError, match=":3: the plugin unfit_plugin: there is no hook relevo_enrihc") as caught:
        App.from_config(path, environ={})

    assert str(caught.value).startswith(f"{path}:3: ")


AUDIT = """
import attrs, relevo

@attrs.frozen(kw_only=True)
class AuditOptions:
    folder: str
    from_: str = "nobody"
    token: relevo.Secret | None = None
    keep: float = 60.0

class Audit:
    Options = AuditOptions

    @classmethod
    def open(cls, options, *, source, clock):
        made = cls()
        made.told = options, source, clock
        return made

plain = object()
"""


@pytest.fixture(name="audit")
def _audit(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"audit_{tmp_path.name}"
    write(AUDIT, f"{name}.py")
    return name


def plugins_of(path: Path, **environ: str) -> list[Any]:
    config = config_of(path, path.parent, **environ)
    return open_config(config, clock=SystemClock()).plugins


PLUGIN_CLASSES = """
import relevo

class Bare:
    def __init__(self, user=7):
        self.user = user

    @relevo.hookimpl
    def relevo_enrich(self):
        return {"user": self.user}

class Needy:
    def __init__(self, user):
        self.user = user
"""


def test_a_plugin_that_is_a_class_is_made_without_options(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"classes_{tmp_path.name}"
    write(PLUGIN_CLASSES, f"{name}.py")

    (made,) = plugins_of(write(f'plugins = ["{name}:Bare"]\n[transports]\nmain = "memory://"\n'))
    assert Hooks([made]).enrichment(object()) == {"user": 7}

    with pytest.raises(ConfigurationError, match=r'plugins."classes_.*:Needy": Needy is a class that needs arguments'):
        plugins_of(write(f'plugins = ["{name}:Needy"]\n[transports]\nmain = "memory://"\n'))
    with pytest.raises(PluginError, match=r"the plugin <class .*Bare.*> is a class; pass an instance: Bare\(\)"):
        Hooks([type(made)])


def test_a_plugin_is_made_of_its_options(write: Write, audit: str) -> None:
    path = write(
        f"""
source = "shop"
[plugins]
"{audit}:plain" = {{}}
[plugins."{audit}:Audit"]
folder = "${{FOLDER}}"
from = "me"
token = "{CANARY}"
keep = "5m"
[transports]
main = "memory://"
"""
    )

    plain, made = plugins_of(path, FOLDER="var")

    options, source, _ = made.told
    assert (options.folder, options.from_, options.token.reveal(), options.keep) == ("var", "me", CANARY, 300.0)
    assert (source, type(plain)) == ("shop", object)
    assert CANARY not in repr(config_of(path, path.parent, FOLDER="var"))


@pytest.mark.parametrize(
    "text, line",
    [
        ('[plugins."{audit}:Audit"]\nfolder = "x"\n\nfolders = 1', 'unknown option "folders"; did you mean "folder"?'),
        ('[plugins."{audit}:Audit"]\nfolder = "x"\n\nkeep = "five"', "keep"),
        ('\n\n\n[plugins."{audit}:Audit"]', 'the option "folder" is missing'),
        ('plugins = [\n\n\n"{audit}:Audit"]', 'plugins."{audit}:Audit": the option "folder" is missing'),
        ('[plugins."{audit}:plain"]\n\n\nfolder = 1', "this plugin takes no options; remove folder"),
        ('[plugins]\n\n\n"{audit}" = "hunter2"', "expected a table such as {{}}; got text"),
        ("\n\n\nplugins = 7", "expected a table such as {{ mail = {{}} }}, or a list of names; got a whole number"),
        ('\n\n\nplugins = ["no_such"]', 'there is no module "no_such"'),
    ],
)
def test_what_a_plugin_does_not_understand_is_told_with_its_line(
    text: str, line: str, write: Write, audit: str
) -> None:
    path = write(f'{text.format(audit=audit)}\n[transports]\nmain = "memory://"\n')

    with pytest.raises(ConfigurationError) as caught:
        plugins_of(path)

    assert str(caught.value).startswith(f"{path}:")
    assert line.format(audit=audit) in str(caught.value)
    assert str(caught.value).split(":")[1] in {"1", "4"}
    assert CANARY not in str(caught.value)


def test_each_member_of_a_list_of_plugins_that_is_not_a_name_is_told_with_its_line(write: Write, audit: str) -> None:
    path = write(f'plugins = [\n1,\n"{audit}:plain",\n["mail"],\n"no_such"\n]\n[transports]\nmain = "memory://"\n')

    with pytest.raises(ConfigurationError) as caught:
        App.from_config(path, environ={})

    assert [line.removeprefix(f"{path}:").partition("; Python")[0] for line in str(caught.value).splitlines()] == [
        "2: plugins.0: expected text such as mail; got a whole number",
        "4: plugins.2: expected text such as mail; got a list",
        '5: plugins: there is no module "no_such"',
    ]


def test_a_plugin_that_is_listed_twice_is_made_once(write: Write, audit: str) -> None:
    path = write(f'plugins = ["relevo", "{audit}:plain",\n"{audit}:plain"]\n[transports]\nmain = "memory://"\n')

    assert len(plugins_of(path)) == 2


@pytest.mark.parametrize(
    "text, key",
    [
        ("lock = 'run'", "lock"),
        ("deploy = 'run'", "deploy"),
    ],
)
def test_paths_in_settings_start_from_the_file(write: Write, tmp_path: Path, text: str, key: str) -> None:
    config = config_of(write(text, "deep/relevo.toml"), tmp_path)

    assert getattr(config, key) == tmp_path / "deep" / "run"


def test_the_environment_adds_options_to_plugins_of_a_list(write: Write) -> None:
    path = write('plugins = ["relevo"]\n[transports]\nmain = "memory://"\n')

    config = config_of(path, path.parent, RELEVO_PLUGINS__MAIL__TO="dev@example.org", RELEVO_PLUGINS__RELEVO__LOUD="1")

    assert {name: each.options for name, each in config.plugins.items()} == {
        "relevo": {"loud": "1"},
        "mail": {"to": "dev@example.org"},
    }


def test_a_lease_of_more_than_a_week_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^lease: too long; expected 604800\.0 s or less; got 691200\.0 s; "):
        App(transports={}, routes={}, lease=691200.0)


def test_parts_that_are_put_together_by_hand_are_told_without_a_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'^"\*" is routed to several transports'):
        App(transports={"a": Plain(), "b": Plain()}, routes={"*": ["a", "b"]})
    with pytest.raises(ConfigurationError, match=r"^lease: too short to be renewed; .*; got 0\.1 s$"):
        App(transports={}, routes={}, lease=0.1)


def test_what_was_opened_is_closed_again_if_something_else_is_wrong(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Plain] = []

    class Noting(Plain):
        def __init__(self, *arguments: Any, **how: Any) -> None:
            super().__init__(*arguments, **how)
            made.append(self)

    monkeypatch.setattr(opening, "transport_class", lambda _: Noting)
    path = write('[transports]\na = "memory://"\nb = { url = "memory://", outbox = "memory://" }\n')

    with pytest.raises(ConfigurationError, match="cannot join a session"):
        App.from_config(path, environ={})

    assert len(made) == 3
    for transport in made:
        with pytest.raises(TransportClosedError):
            transport.stats("default")


# --- options of transports ----------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class OddOptions:
    url: str
    needed: int
    directory: Path
    password: Secret | None = None
    place: Path | None = None
    many: int = attrs.field(default=1, validator=attrs.validators.gt(0))
    few: int = attrs.field(default=0)
    flag: bool = False
    wait: float = 1.0
    mode: Literal["fast", "safe"] = "safe"
    words: tuple[str, ...] = ()

    @few.validator
    def _few_are_many(self, _: object, few: int) -> None:
        if few not in (0, self.many):
            raise ConfigurationError("'few' must be 0 or as many as 'many'")


def options_of(given: Mapping[str, Any], directory: Path, *, is_text: bool = False) -> OddOptions:
    problems = Problems()
    keys = ("transports", "main")
    origins = Origins(Origin("here"), {keys: Origin("here", is_text=is_text)})
    found = TableReader(problems, directory=directory, origins=origins).make(OddOptions, given, keys)
    problems.raise_any(Origins(Origin("here")))
    assert isinstance(found, OddOptions)
    return found


def test_options_are_of_their_types_also_from_the_environment(tmp_path: Path) -> None:
    typed = {
        "needed": 3,
        "many": 5,
        "flag": True,
        "wait": 2,
        "mode": "fast",
        "words": ["a"],
        "place": "a/b",
        "password": "x",
    }
    texts = {
        "needed": "3",
        "many": "5",
        "flag": "true",
        "wait": "2",
        "mode": "fast",
        "words": ["a"],
        "place": "a/b",
        "password": "x",
    }

    options = options_of({"url": "odd://", **typed}, tmp_path)

    assert options == options_of({"url": "odd://", **texts}, tmp_path, is_text=True)
    assert (options.needed, options.many, options.flag, options.wait, options.words) == (3, 5, True, 2.0, ("a",))
    assert (options.directory, options.place) == (tmp_path, tmp_path / "a" / "b")
    assert options.password == Secret("x")
    assert options_of({"url": "odd://", "needed": 1, "wait": "5m"}, tmp_path).wait == 300.0


@pytest.mark.parametrize(
    "given, why",
    [
        ({"needed": "x"}, "transports.main.needed: expected a whole number; got text"),
        ({"needed": 1.5}, "transports.main.needed: expected a whole number; got a number"),
        ({"needed": [CANARY]}, "transports.main.needed: expected a whole number; got a list"),
        ({"needed": 1, "flag": "maybe"}, "transports.main.flag: expected true or false; got text"),
        (
            {"needed": 1, "wait": "soon"},
            "transports.main.wait: expected seconds as a number, or text such as .*; got 'soon'",
        ),
        (
            {"needed": 1, "mode": "quick"},
            'transports.main.mode: expected "fast" or "safe"; got \'quick\'',
        ),
        ({"needed": 1, "words": "a"}, "transports.main.words: expected a list; got text"),
        ({"needed": 1, "password": 3}, "transports.main.password: "),
        ({"needed": 1, "many": 0}, "transports.main: 'many' must be > 0: 0"),
        ({"needed": 1, "directory": "/"}, 'transports.main: unknown option "directory"; known: '),
        ({"needed": 1, "mani": 2}, 'transports.main: unknown option "mani"; did you mean "many"'),
        ({}, 'transports.main: the option "needed" is missing'),
    ],
    ids=range(12),
)
def test_options_that_do_not_fit_are_told(tmp_path: Path, given: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        options_of({"url": f"odd://{CANARY}", **given}, tmp_path)

    assert CANARY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_problems_of_options_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options_of({"url": "odd://", "mani": 2, "flag": "maybe", "many": 0, "few": 3}, tmp_path)

    assert [line.partition("; ")[0] for line in str(caught.value).splitlines()] == [
        'here: transports.main: unknown option "mani"',
        "here: transports.main.flag: expected true or false",
        "here: transports.main: 'many' must be > 0: 0",
        'here: transports.main: the option "needed" is missing',
    ]


def test_a_validator_that_reads_other_options_runs_when_all_are_there(tmp_path: Path) -> None:
    given = {"url": "odd://", "needed": 1, "many": 2}

    assert options_of({**given, "few": 2}, tmp_path).few == 2
    with pytest.raises(ConfigurationError, match=r"^here: transports.main: 'few' must be 0 or as many as 'many'$"):
        options_of({**given, "few": 1}, tmp_path)


def test_relative_paths_start_from_the_file_and_not_from_the_working_directory(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("relevo_sql")
    path = write('[transports]\nmain = "sqlite:///data.db"', "deep/relevo.toml")

    with App.from_config(path, environ={}) as app:
        app.setup()

    assert (tmp_path / "deep" / "data.db").is_file()


# --- passwords of examples ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "memory://guest:guest@broker.example/",
        "memory://guest:guest@10.0.0.1:5672",
        "memory://guest:guest@[2001:db8::1]:5672/x",
        "memory://shop:changeme@broker?x=1",
        "memory://root:YourPasswordHere@localhost.example",
        "memory://guest:guest@127.example.org",
    ],
)
def test_a_password_that_stands_in_every_example_is_refused(write: Write, tmp_path: Path, address: str) -> None:
    path = write(f"[transports]\nmain = '{address}'")

    (line,) = told(path, tmp_path)

    assert line.startswith(f"{path}:2: transports.main: memory://")
    assert line.endswith("is not this machine; give relevo a user of its own")
    assert not any(word in line for word in (":guest", "changeme", "YourPassword"))


@pytest.mark.parametrize(
    "address",
    [
        "sqlite://guest:guest@localhost/",
        "sqlite://guest:guest@127.0.0.1:5672/",
        "sqlite://guest:guest@[::1]:5672/",
        "sqlite://guest:guest@/",
        "sqlite://guest:better@broker/",
        "sqlite://changeme@broker/",
        "sqlite:///changeme",
        "sqlite://broker/guest:guest@there",
    ],
)
def test_on_this_machine_or_in_another_place_the_same_words_are_no_matter(
    write: Write, tmp_path: Path, address: str
) -> None:
    pytest.importorskip("relevo_sql")
    text = f"[transports]\nmain = '{address}'\nother = 'x://'"

    assert not any("every example" in line for line in told(write(text), tmp_path))


# --- secrets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "main",
    [
        f'"amqp://me:{CANARY}@host:nonsense/"',
        f'"amqp://me:{CANARY}@[::1/"',
        f'"sqlite://me:{CANARY}@host/x.db"',
        f'"sqlite:///a\\u0000{CANARY}"',
        f'"memory://me:{CANARY}@host/"',
        f'"x://me:{CANARY}@host/"',
        f'"me:{CANARY}@host"',
        f'{{ url = "memory://", password = "{CANARY}" }}',
        f'{{ url = "memory://", outbox = "me:{CANARY}@host" }}',
        f'{{ url = "memory://", outbox = "x://me:{CANARY}@host" }}',
        f'{{ url = ["{CANARY}"] }}',
        f'["{CANARY}"]',
    ],
    ids=range(12),
)
def test_no_secret_is_shown_whatever_is_wrong(write: Write, tmp_path: Path, main: str) -> None:
    path = write(f"[transports]\nmain = {main}\n")

    with pytest.raises(ConfigurationError) as caught:
        open_config(config_of(path, tmp_path), clock=SystemClock())

    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error} {error!r}"
        error = None if error.__suppress_context__ and error.__cause__ is None else error.__cause__ or error.__context__


def test_no_secret_is_in_the_repr_of_what_was_read(write: Write, tmp_path: Path) -> None:
    text = (
        f'[transports]\nmain = {{ url = "amqp://me:{CANARY}@host", outbox = "sqlite://{CANARY}", token = "{CANARY}" }}'
    )

    config = config_of(write(text), tmp_path)

    assert CANARY not in repr(config) + str(config)
    assert config.transports["main"].url.reveal() == f"amqp://me:{CANARY}@host"


def test_what_is_offered_as_a_transport_must_be_one(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impostor:
        Options = OddOptions

        @classmethod
        def open(cls, options: object, *, name: str, clock: object) -> object:
            return cls()

    monkeypatch.setattr(opening, "transport_class", lambda _: Impostor)
    path = write("[transports]\nmain = { url = 'memory://', needed = 1 }")

    assert not issubclass(Impostor, Transport)
    assert told(path, tmp_path)[0].endswith("Impostor is not a relevo Transport")
