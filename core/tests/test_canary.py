"""No password is shown, wherever it stands: each command and each key gets one, and all output is searched for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from relevo import App, DeadLetter, Delivery, Envelope, Event, Failure, RelevoError, RunOptions, Subject, listener
from relevo._config.opening import draft_config
from relevo._config.schema import KEYS
from relevo._config.table import keys_of
from relevo._execution.spawned import end_of_output
from relevo.cli._main import group
from relevo.ext.mail import Mail, MailOptions
from relevo_memory import MemoryTransport

from .shop import CONFIGURATION, Done, Shop
from .smtp import Inbox, serving

CANARY = "c4n4ry"
"""At both ends of each password: what is cut off by one of its special characters has it too."""

ENCODED = f"{CANARY}%40%3A%2F%3F%23%25%20{CANARY}"
RAW = f"{CANARY}@:/?#%&+{CANARY}"
SPACED = f"{CANARY} '{CANARY}"

TEXTS = {
    "an address": f"amqp://me:{ENCODED}@127.0.0.1:1/",
    "an address with reserved characters": f"amqp://me:{RAW}@127.0.0.1:1/",
    "an address with a space and a quote": f"amqp://me:{SPACED}@127.0.0.1:1/",
    "a query": f"postgresql://127.0.0.1:1/x?password={ENCODED}",
    "a token": f"https://{CANARY}@127.0.0.1:1/",
    "an address without a host": f"amqp://me:{CANARY}",
    "an address without a scheme": f"me:{RAW}@127.0.0.1:1",
    "an address in a sentence": f"use amqp://me:{ENCODED}@127.0.0.1:1/ or sqlite:///x.db",
    "an address whose password begins like a port": f"amqp://me:12/{CANARY}@127.0.0.1:1/",
    "an address that is percent-encoded": f"amqp%3A%2F%2Fme%3A{CANARY}%40127.0.0.1%3A1",
    "the arguments of a driver": f"host=127.0.0.1 password={CANARY} dbname=shop",
    "a table": f"{{'api_key': '{CANARY}'}}",
    "a header": f"Authorization: Bearer {CANARY}",
}
"""All ways to write a password into a text from which it can be told to be one."""

URL = TEXTS["an address with reserved characters"]

HARDEST = ("an address without a scheme", "an address in a sentence")
"""Those that are tried in each place in ``make test``; ``make test-all`` tries all."""

SAMPLES = [
    pytest.param(
        text,
        marks=[
            *([] if text == URL else [pytest.mark.slow("runs hundreds of commands")]),
            *([] if text == URL or what in HARDEST else [pytest.mark.soak]),
        ],
        id=what,
    )
    for what, text in TEXTS.items()
]


def _commands(found: click.Command = group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command."""
    if not isinstance(found, click.Group):
        yield path
        return
    context = click.Context(found)
    for name in found.list_commands(context):
        command = found.get_command(context, name)
        assert command is not None
        yield from _commands(command, (*path, name))


def _command(words: tuple[str, ...]) -> click.Command:
    command: Any = group
    for word in words:
        command = command.get_command(click.Context(command), word)
    assert isinstance(command, click.Command)
    return command


COMMANDS = {" ".join(each): each for each in _commands()}


def _line(words: tuple[str, ...], **given: str) -> str:
    """Return a command line with the *given* options, with its required arguments, and that ends soon."""
    parts = list(words)
    for param in _command(words).params:
        value = given.get(param.name or "", f"'{URL}'" if param.required else "")
        flags = {"fail_fast", "yes", "live"}
        if "--max-time" in param.opts and not value:
            value = "0.1s"
        if value:
            parts += [param.opts[-1], value] if isinstance(param, click.Option) else [value]
        elif param.name in flags:
            parts.append(param.opts[-1])
    return " ".join(parts)


def _assert_silent(done: Done, what: object = "") -> None:
    for text in (done.stdout, done.stderr):
        assert CANARY not in text, f"{what}\n{text}"


# --- the command line ----------------------------------------------------------------------------------


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_a_password_that_is_its_argument(shop: Shop, command: str) -> None:
    words = COMMANDS[command]

    for param in _command(words).params:
        if not (isinstance(param, click.Option) and (param.is_flag or param.count)):
            for text in (TEXTS["an address"], TEXTS["an address without a scheme"], URL):
                line = _line(words, **{param.name or "": f"'{text}'"})
                _assert_silent(shop.run(line), line)
    bare = TEXTS["an address without a scheme"]
    for further in (f"'{URL}'", f"'--option={URL}'", f"'--{URL}'", f"'{bare}'", f"'--{bare}'"):
        _assert_silent(shop.run(f"{command} {further}"), further)
    _assert_silent(shop.run(f"--config '{URL}' {command}"))
    for text in (URL, bare):
        _assert_silent(shop.run(f"'{text}'"))


@pytest.mark.parametrize("command", ["worker -t", "dead list -t", "worker -q", "dead list -q", "status -q"])
def test_the_name_of_a_transport_or_a_queue_is_masked_as_a_whole(shop: Shop, command: str) -> None:
    for between in (" ", '"', "`", "<", "\n"):
        _assert_silent(shop.run(f"""{command} 'me:{CANARY}{between}{CANARY}@127.0.0.1:1'"""), between)


WORLD = f"""
source = "shop"
listeners = ["shop_listeners"]
plugins.mail = {{ to = "dev@example.org", server = "smtp://me:{CANARY}@localhost:1", book = "book" }}
[transports]
main = {{ url = "sqlite:///shop.db", busy_timeout = 1 }}
down = {{ url = "amqp://me:{ENCODED}@127.0.0.1:1/", connect_timeout = 1, outbox = "sqlite:///box.db" }}
[routes]
"mail.*" = "main"
"*" = ["main/feed", "main/media", "down"]
"""
LISTENERS = f"""
import relevo

@relevo.listener("mail.sent")
def fail(event):
    raise relevo.GiveUp("see {TEXTS["an address"]}, {TEXTS["the arguments of a driver"]}")

@relevo.listener("mail.failed", retry=1)
def fail_too(event):
    url = "{TEXTS["an address"]}"
    raise OSError(f"no connection to {{url}}")
"""


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_a_password_of_the_configuration_or_of_a_dead_letter(shop: Shop, command: str) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("shop_listeners.py", LISTENERS)
    shop.write("relevo.toml", WORLD)
    for name in ("mail.sent", "mail.failed"):
        sent = shop.run(f"""dispatch {name} '{{"url": "{TEXTS["an address"]}"}}'""")
        assert sent.returncode == 0, sent.stderr
        _assert_silent(sent)
    drained = shop.run("drain -t main")
    assert drained.returncode == 1, drained.stderr
    first, _ = json.loads(shop.run("dead list --json -t main").stdout)
    wanted = {"event_id": first["id"], "reference": first["ref"], "refs": first["ref"], "ref": first["ref"]}
    known = {param.name for param in _command(COMMANDS[command]).params}
    line = _line(COMMANDS[command], **{name: value for name, value in wanted.items() if name in known})

    for further in ("", " -t main", " -t down", " -t main --json"):
        _assert_silent(shop.run(line + further), line + further)
    _assert_silent(shop.run(f"--debug {line}"), line)


def test_what_is_stored_of_an_error_has_no_password(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS)
    shop.run("dispatch mail.sent")
    shop.run("dispatch mail.failed")

    shop.run("drain")

    for file in shop.folder.glob("shop.db*"):
        assert CANARY.encode() not in file.read_bytes()


# --- the configuration ---------------------------------------------------------------------------------


def _toml(value: object) -> str:
    match value:
        case dict():
            return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + " }"
        case list():
            return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _options() -> Iterator[tuple[str, str, str]]:
    """Yield the options of all installed transports and of a plugin: the table, what else it needs, and the key."""
    from relevo_amqp import AmqpTransport  # noqa: PLC0415 - skipped where it is not installed
    from relevo_sql import SqlTransport  # noqa: PLC0415 - as above

    for cls, own in ((SqlTransport.Options, "sqlite:///shop.db"), (AmqpTransport.Options, "amqp://localhost")):
        for key in keys_of(cls):
            yield "transports.main", f"url = {json.dumps(own)}", key
        yield "transports.main", f"url = {json.dumps(own)}", "outbox"
    for key in keys_of(MailOptions):
        yield "plugins.mail", 'to = "dev@example.org"', key


def _placed(text: str) -> Iterator[str]:
    """Yield configurations with *text* in all places, right and wrong."""
    forms: list[object] = [text, [text], {"url": text}, {text: "x"}, {"x": {"y": [text]}}, [["x", {text: text}]]]
    for key, form in itertools.product(KEYS, forms):
        yield f"{key} = {_toml(form)}\n"
    for key in ("transports", "routes", "retries", "plugins"):
        for form in (*forms[:3], 3):
            yield f"{key} = {_toml({'main': form})}\n"
            yield f"{key} = {_toml({text: form})}\n"
    yield f"{_toml(text)} = 3\n"
    yield f"{_toml(text)}\n"
    yield f"{_toml(text)} = 1\n{_toml(text)} = 2\n"
    yield f"[routes]\n{_toml(text)} = 1\n[routes.{_toml(text)}]\n"
    yield f"app = {text}\n"
    yield f"# {text}\napp = \n"
    for table, needed, option in _options():
        pairs = "" if needed.startswith(f"{option} ") else f"{needed}, "
        yield f"{table} = {{ {pairs}{option} = {_toml(text)} }}\n"
        yield f"{table} = {{ {pairs}{option} = {_toml([text])} }}\n"


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("text", SAMPLES)
def test_no_key_shows_a_password_that_is_in_it(shop: Shop, text: str) -> None:
    pytest.importorskip("relevo_amqp")
    for written in _placed(text):
        shop.write("relevo.toml", written)
        for command in ("config show --origin", "check"):
            _assert_silent(shop.run(command), written)


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("text", SAMPLES)
def test_no_variable_shows_a_password_that_is_in_it(shop: Shop, text: str) -> None:
    keys = (*KEYS, "transports__main", "routes__main", "sorce")
    for key, form in itertools.product(keys, ("{}", '{{ "{}" = 1 }}', '["{}"]')):
        variable: dict[str, Any] = {f"RELEVO_{key.upper()}": form.format(text)}
        for command in ("config show --origin", "check", "transports"):
            _assert_silent(shop.run(command, **variable), variable)
    _assert_silent(shop.run("check", RELEVO_CONFIG=text))


# --- objects, logs, processes --------------------------------------------------------------------------


def test_no_repr_shows_a_password(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", WORLD)
    config = draft_config(shop.folder / "relevo.toml", {}, start=shop.folder)
    plain = msgspec.structs.replace(config, app=URL, listeners=(URL,))

    with App.from_config(shop.folder / "relevo.toml") as app:
        things: list[object] = [config, plain, app, *app.transports.values(), *app.outboxes.values(), vars(app)]
        things += [vars(each) for each in app.transports.values() if hasattr(each, "__dict__")]
        for thing in things:
            assert CANARY not in f"{thing!r} {thing}"


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_error_of_an_application_shows_a_password(text: str) -> None:
    make: Any = App
    main = {"main": MemoryTransport()}
    arguments: list[Any] = [
        {"transports": {"main": text}},
        {"transports": {text: main["main"]}},
        *({"transports": main, name: text} for name in ("source", "lease", "setup", "execution", "patience", "clock")),
        *({"transports": main, "routes": routes} for routes in (text, {"*": text}, {text: {"url": text}})),
        *({"transports": main, name: {text: text}} for name in ("outboxes", "retries")),
        *({"transports": main, name: [text]} for name in ("subjects", "plugins", "listeners")),
    ]

    for each in arguments:
        found = ""
        try:
            app = make(**{"routes": {"*": "main"}, **each})
            app.worker()
            app.dispatch(Event(text))
        except RelevoError as error:
            found = f"{error} {error!r}"
        assert CANARY not in found, each


@pytest.mark.slow("starts the command line in processes of its own")
@pytest.mark.parametrize("execution", ["inline", "threads", "process"])
def test_neither_the_log_nor_the_arguments_of_a_process_have_a_password(shop: Shop, execution: str) -> None:
    shop.write("shop_listeners.py", LISTENERS + _LOOKS_AROUND)
    shop.write("relevo.toml", CONFIGURATION.replace('app = "shop:app"', f'execution = "{execution}"'))

    done = shop.process(
        "relevo dispatch mail.sent; relevo dispatch mail.failed; relevo dispatch mail.looked; relevo drain -l debug"
    )

    assert "looked at" in done.stdout + done.stderr
    assert done.returncode == 1
    _assert_silent(done)


_LOOKS_AROUND = """
@relevo.listener("mail.looked")
def look(event):
    import os, pathlib
    pid = os.getpid()
    for each in (pid, os.getppid()):
        print("looked at", *(pathlib.Path(f"/proc/{each}/{name}").read_bytes() for name in ("cmdline", "comm")))
"""


# --- mails ---------------------------------------------------------------------------------------------


@pytest.fixture(name="inbox")
def _inbox() -> Iterator[Inbox]:
    with serving(Inbox()) as inbox:
        yield inbox


def _assert_mailed_without(inbox: Inbox) -> str:
    """Return the text of the mail in *inbox*, in which no password is, also not across the ends of its lines."""
    (mail,) = inbox.wait_for(1)
    text = str(mail.get_content())
    for each in (text, *map(str, mail.values())):
        assert CANARY not in "".join(each.split()), each
    return text


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("padding", [0, 300, 2980, 70_000])
def test_no_mail_shows_a_password(inbox: Inbox, tmp_path: Path, text: str, padding: int) -> None:
    long = f"{'x ' * (padding // 2)}{text}"
    around = {"text": text, "long": long, text: "key", "list": [text, {text: [text]}]}
    body = {"id": "1", "source": "shop", "type": text, "specversion": "1.0", "subject": text, "data": around}
    body |= {"relevocontext": json.dumps(around), "correlationid": text, "causationid": long}
    envelope = Envelope(id=text, source="shop", name=text, body=json.dumps(body).encode())
    delivery = Delivery(envelope=envelope, queue=text, receipt=1, enqueued_at=0.0)
    failure = Failure(
        listener=long, kind=text, error=f"{text}\n{long}", traceback=f"{long}\n{text}", reason=text, output=long
    )
    options = MailOptions(to="dev@example.org", server=f"smtp://127.0.0.1:{inbox.port}", book=tmp_path / "book")
    plugin = Mail(options, source=text)

    plugin.relevo_dead_lettered(delivery, DeadLetter(reason=text, error=text, failures=(failure,)))
    plugin.close()

    assert "Arguments" in _assert_mailed_without(inbox)


def test_the_subject_of_an_event_is_mailed_without_a_password(inbox: Inbox, shop: Shop) -> None:
    @listener("image.created", retry=1)
    def fail(event: Event) -> None:
        raise ValueError("no")

    options = MailOptions(to="dev@example.org", server=f"smtp://127.0.0.1:{inbox.port}", book=shop.folder / "book")
    with App(
        transports={"main": MemoryTransport()},
        routes={"*": "main"},
        listeners=[fail],
        plugins=[Mail(options)],
    ) as app:
        app.dispatch(Event("image.created", subject=Subject("image", URL)))
        app.worker(RunOptions(until_empty=True)).run()

    assert "me:***@127.0.0.1" in _assert_mailed_without(inbox)


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("text", SAMPLES)
def test_what_a_child_process_prints_is_mailed_without_a_password(inbox: Inbox, shop: Shop, text: str) -> None:
    shop.write("shop_listeners.py", _PRINTS.format(text=text))
    server = f"smtp://127.0.0.1:{inbox.port}"
    mail = f'plugins.mail = {{ to = "dev@example.org", server = "{server}", book = "book" }}\n'
    shop.write("relevo.toml", mail + CONFIGURATION.replace('app = "shop:app"', 'execution = "process"'))

    done = shop.process("relevo dispatch mail.sent; relevo drain")

    assert done.returncode == 1, done.stderr
    assert "a printed line" in _assert_mailed_without(inbox)
    dead = shop.run("dead list --json -t main")
    assert "a printed line" in dead.stdout
    _assert_silent(dead)


_PRINTS = """
import relevo

TEXT = {text!r}

@relevo.listener("mail.sent")
def fail(event):
    print("x" * 5000, TEXT)
    print("a printed line")
    print(TEXT)
    raise relevo.GiveUp("no")
"""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_output_that_is_cut_off_in_a_password_shows_no_part_of_it(text: str) -> None:
    printed = f"see {text}\nand {text}"

    for place in range(len(text) + 4):
        assert CANARY not in end_of_output(printed[place:], is_cut=True)
    if " " not in text:  # otherwise the rest of it has a word that is a whole one
        for place in range(1, len(text)):
            assert CANARY not in end_of_output(f"{text[place:]} is on the only line", is_cut=True)
    assert end_of_output("begun\n", is_cut=False) == "begun"
    assert end_of_output("gun\n", is_cut=True) == ""


# --- connections in the clear --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address, expected",
    [
        ("amqp://me:pw@broker.example/", ["not encrypted"]),
        ("amqp://me:@broker.example/", ["not encrypted", "has no password"]),
        ("amqps://me:@10.0.0.1/", ["has no password"]),
        ("amqps://me:pw@broker.example/", []),
        ("amqp://localhost", []),
        ("amqp://me:@[::1]/", []),
        ("postgresql://me@db.example/shop", ["has no password"]),
        ("mariadb://me@10.0.0.1/shop", ["has no password"]),
        ("postgresql://me:pw@db.example/shop", []),
        ("postgresql://me@db.example/shop?passfile=x", []),
        ("postgresql://me@/shop?host=/run/postgresql", []),
        ("postgresql://me@127.0.0.1/shop", []),
        ("sqlite:///shop.db", []),
    ],
)
def test_a_connection_that_is_unsafe_is_warned_about_once(
    shop: Shop, caplog: pytest.LogCaptureFixture, address: str, expected: list[str]
) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", f'source = "shop"\nlisteners = ["shop_listeners"]\n[transports]\nmain = "{address}"\n')
    shop.write("shop_listeners.py", 'import relevo\n@relevo.listener("a.b")\ndef f(event): ...\n')

    done = shop.run("check")

    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert done.returncode == 0, done.stderr
    assert len(warnings) == len(expected)
    assert all(part in warning for part, warning in zip(expected, warnings, strict=True))
    assert "pw" not in caplog.text


class Risky(MemoryTransport):
    """Its server is reached in the clear, with a password that stands in its address."""

    def risks(self) -> list[str]:
        return [f"amqp://me:{CANARY}@broker.example/ is not encrypted"]


def test_an_outbox_that_is_unsafe_is_warned_about_when_a_worker_starts(caplog: pytest.LogCaptureFixture) -> None:
    app = App(
        transports={"main": MemoryTransport(name="main"), "other": Risky(name="other")},
        outboxes={"main": Risky(name="box")},
        routes={"a.*": "main", "*": "other"},
    )

    app.worker(RunOptions(transport="main"))

    (warning,) = [each.getMessage() for each in caplog.records if "not encrypted" in each.getMessage()]
    assert warning == 'the transport "box": amqp://me:***@broker.example/ is not encrypted'
