"""The commands that only look: config show, transports, check, status, listeners, show."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from relevo import Ack, Capabilities, DeadLetter, Envelope, Nack, QueueOptions, Retry, Secret, Signing, SystemClock
from relevo._config.schema import KEYS, ScheduleConfig, TransportConfig
from relevo._config.table import keys_of

from .shop import CANARY, CONFIGURATION, Shop, lines, opened

PATIENCE = 300.0
KEY = f"{CANARY}-Vq3TnB7xZk9RwLf2HsJd8Mpy"


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    return opened(tmp_path)


# --- config show ----------------------------------------------------------------------------------------


def shown(shop: Shop, **environ: Any) -> dict[str, tuple[object, str]]:
    done = shop.run("config show --origin --json", **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert CANARY not in done.stdout
    return {row["key"]: (row["value"], row["origin"]) for row in json.loads(done.stdout)}


def test_the_configuration_is_shown_with_its_defaults_and_origins(shop: Shop) -> None:
    rows = shown(shop, RELEVO_TRANSPORTS__MAIN__POLL="0.5", RELEVO_SETUP="explicit")

    assert rows == {
        "source": ("shop", "relevo.toml:2"),
        "app": ("shop:app", "relevo.toml:3"),
        "listeners": (["shop_listeners"], "relevo.toml:4"),
        "plugins": ([], "default"),
        "setup": ("explicit", "RELEVO_SETUP"),
        "patience": (3600.0, "default"),
        "lease": (60.0, "default"),
        "execution": ("inline", "default"),
        "concurrency": (1, "default"),
        "time_limit": (900.0, "default"),
        "memory_limit": (None, "default"),
        "recycle_after": (None, "default"),
        "lock": (None, "default"),
        "deploy": (None, "default"),
        "signing": (None, "default"),
        "transports.main.url": ("sqlite:///shop.db", "relevo.toml:7"),
        "transports.main.outbox": (None, "default"),
        "transports.main.coordinator": (None, "default"),
        "transports.main.dead_letters": (None, "default"),
        "transports.main.busy_timeout": (30.0, "default"),
        "transports.main.poll": ("0.5", "RELEVO_TRANSPORTS__MAIN__POLL"),
        "transports.main.notify": (True, "default"),
        "transports.main.schema": (None, "default"),
        "transports.main.tls": (None, "default"),
        "transports.main.file_mode": (None, "default"),
        "transports.main.inbox_keep": (1_209_600.0, "default"),
        "transports.main.keep": (None, "default"),
        "transports.main.dialect": (None, "default"),
        'routes."image.*"': (["main/media", "main/feed"], "relevo.toml:10"),
        'routes."*"': (["main"], "relevo.toml:11"),
    }


def test_every_key_is_shown_with_the_value_that_was_given(shop: Shop) -> None:
    given = {
        "source": '"web"',
        "app": '"shop:app"',
        "listeners": '["shop_listeners"]',
        "setup": '"explicit"',
        "patience": "7",
        "lease": "8",
        "execution": '"process"',
        "concurrency": "2",
        "time_limit": '"5m"',
        "memory_limit": '"64M"',
        "recycle_after": "9",
        "lock": '"run"',
        "deploy": '"run/deploy"',
        "plugins": '["shop_listeners"]',
        "signing": f'"{KEY}"',
        "transports": '{ main = "memory://" }',
        "retries": "{ main = 3 }",
        "queues": '{ default = { accept = ["*"] } }',
        "schedules": '{ nightly = { cron = "0 3 * * *", event = "night.begun" } }',
        "routes": '{ "*" = "main" }',
    }
    shop.write("relevo.toml", "\n".join(f"{key} = {value}" for key, value in given.items()))

    rows = shown(shop)

    lines = {key: f"relevo.toml:{number}" for number, key in enumerate(given, start=1)}
    assert set(given) == set(KEYS)
    for key in KEYS:
        assert lines[key] in [origin for row, (_, origin) in rows.items() if row.split(".")[0] == key]
    assert rows["time_limit"] == (300.0, lines["time_limit"])
    assert rows["memory_limit"] == (64 << 20, lines["memory_limit"])
    assert (rows["execution"][0], rows["concurrency"][0]) == ("process", 2)


def test_every_key_inside_a_table_is_shown_with_the_line_on_which_it_was_given(shop: Shop) -> None:
    given = {
        "signing.keys": f'["{KEY}"]',
        "signing.required": "false",
        "signing.accept": '["bank"]',
        "signing.unsigned": '["partner", "/partner/web"]',
        'retries."main/feed".runs': "8",
        'retries."main/feed".first': '"1s"',
        'retries."main/feed".factor': "2",
        'retries."main/feed".cap': '"5m"',
        'retries."main/feed".jitter': "0.5",
        "queues.feed.accept": '["image.*", "*"]',
        "schedules.nightly.cron": '"0 3 * * *"',
        "schedules.nightly.event": '"night.begun"',
        "schedules.nightly.arguments": "{ full = true }",
        "schedules.nightly.timezone": '"Europe/Madrid"',
        "schedules.nightly.missed": '"skip"',
        "schedules.nightly.grace": '"1h"',
        "transports.main.url": '"sqlite:///shop.db"',
        "transports.main.outbox": '"main"',
        "transports.main.coordinator": '"main"',
        "transports.main.dead_letters": '"main"',
        "transports.main.busy_timeout": "3",
        "transports.main.poll": "0.5",
        "transports.main.notify": "true",
        "transports.main.schema": '"jobs"',
        "transports.main.inbox_keep": "86400",
        "transports.main.keep": '"7d"',
        "transports.main.dialect": '"portable"',
        "transports.main.tls.ca": '"ca.pem"',
        "transports.main.file_mode": '"0660"',
        'routes."*"': '["main/feed"]',
    }
    tables = {
        "signing": Signing,
        'retries."main/feed"': Retry,
        "queues.feed": QueueOptions,
        "schedules.nightly": ScheduleConfig,
        "transports.main": TransportConfig,
    }
    shop.write("relevo.toml", "\n".join(f"{key} = {value}" for key, value in given.items()))

    rows = shown(shop)

    inner = {
        f"{table}.{key.name}" for table, cls in tables.items() for key in keys_of(cls).values() if not key.code_only
    }
    inside = {key: origin for key, (_, origin) in rows.items() if "." in key}
    assert inner <= set(given)
    assert inside == {key: f"relevo.toml:{number}" for number, key in enumerate(given, start=1)}
    assert rows['retries."main/feed".cap'][0] == 300.0
    assert rows["signing.required"][0] is False


def test_listeners_that_run_several_at_once_are_shown_in_threads(shop: Shop) -> None:
    rows = shown(shop, RELEVO_CONCURRENCY="4")

    assert rows["execution"] == ("threads", "default")
    assert rows["concurrency"] == (4, "RELEVO_CONCURRENCY")


def test_a_table_is_shown_with_the_line_of_each_key(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        '[transports.main]\nurl = "sqlite:///shop.db"\n\noutbox = "main"\n'
        '[retries]\nmain = 3\n[signing]\nkeys = ["${KEY}"]\n',
    )

    rows = shown(shop, KEY=KEY)

    assert rows["transports.main.outbox"] == ("main", "relevo.toml:4")
    assert rows["transports.main.poll"] == (0.1, "default")
    assert rows['retries."main/default".runs'] == (3, "relevo.toml:6")
    assert rows['retries."main/default".cap'] == (3600.0, "default")
    assert rows["signing.keys"] == (["***"], "relevo.toml:8")
    assert rows["signing.required"] == (True, "default")
    assert rows['routes."*"'] == (["main"], "default")


def test_the_default_route_that_is_shown_passes_over_the_outbox_of_another(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        'listeners = ["shop_listeners"]\n[transports]\nold = "sqlite:///old.db"\n'
        'main = { url = "sqlite:///shop.db", outbox = "old" }\n',
    )

    assert shown(shop, KEY=KEY)['routes."*"'] == (["main"], "default")


def test_the_options_of_plugins_are_shown_without_their_secrets(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        '[plugins.mail]\nto = ["dev@example.org"]\n\nserver = "smtps://shop:${CANARY}@mail.example.org"\n'
        '[plugins.shop_listeners]\n[transports]\nmain = "sqlite:///shop.db"\n',
    )

    rows = shown(shop, CANARY=CANARY, RELEVO_PLUGINS__MAIL__FROM="shop@example.org")

    assert rows["plugins"] == (["mail", "shop_listeners"], "relevo.toml:1")
    assert rows["plugins.mail.to"] == (["dev@example.org"], "relevo.toml:2")
    assert rows["plugins.mail.from"] == ("shop@example.org", "RELEVO_PLUGINS__MAIL__FROM")
    assert rows["plugins.mail.server"] == ("***", "relevo.toml:4")
    assert rows["plugins.mail.every"] == (600.0, "default")
    assert not [key for key in rows if key.startswith("plugins.shop_listeners")]


def test_a_variable_that_holds_a_table_says_what_is_in_it_and_no_more(shop: Shop) -> None:
    rows = shown(
        shop,
        RELEVO_TRANSPORTS__MAIN='{url = "sqlite:///x.db", poll = 0.5}',
        RELEVO_RETRIES='{"main/feed" = { runs = 8 }}',
        RELEVO_SIGNING=f'["{KEY}"]',
    )

    assert rows["transports.main.url"] == ("sqlite:///x.db", "RELEVO_TRANSPORTS__MAIN")
    assert rows["transports.main.poll"] == (0.5, "RELEVO_TRANSPORTS__MAIN")
    assert rows["transports.main.busy_timeout"] == (30.0, "default")
    assert rows['retries."main/feed".runs'] == (8, "RELEVO_RETRIES")
    assert rows['retries."main/feed".first'] == (2.0, "default")
    assert rows["signing.keys"] == (["***"], "RELEVO_SIGNING")
    assert rows["signing.required"] == (True, "default")


def test_no_secret_is_shown_in_the_configuration(shop: Shop) -> None:
    shop.write(
        "relevo.toml",
        f'signing = "{KEY}"\n[transports]\n'
        f'main = {{ url = "amqp://me:{CANARY}@host/x?key={CANARY}", outbox = "sqlite://me:{CANARY}@host/x" }}\n'
        f'other = {{ url = "strange://me:{CANARY}@host", token = "{CANARY}" }}\n'
        f'third = {{ url = "memory://", unknown = "{CANARY}" }}\n'
        f'fourth = {{ url = "{CANARY}" }}\n',
    )

    rows = shown(shop)
    table = shop.run("config show")

    assert rows["transports.main.url"][0] == "amqp://me:***@host/x?key=***"
    assert rows["transports.main.outbox"][0] == "sqlite://me:***@host/x"
    assert rows["transports.other.token"][0] == rows["transports.third.unknown"][0] == "***"
    assert CANARY not in table.stdout
    assert "default" not in table.stdout


def test_an_address_in_any_option_is_masked_and_a_secret_one_is_not_shown(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    @attrs.frozen
    class Options:
        url: str
        needed: int
        replica: str = ""
        token: Secret | None = None

    monkeypatch.setattr("relevo.cli._config.options_class", lambda _: Options)
    shop.write(
        "relevo.toml",
        f'[transports]\nmain = {{ url = "x://", replica = "x://me:{CANARY}@host", token = "{CANARY}" }}',
    )

    rows = shown(shop)

    assert rows["transports.main.replica"][0] == "x://me:***@host"
    assert rows["transports.main.token"][0] == "***"
    assert "transports.main.needed" not in rows


def test_the_configuration_is_a_table_for_people(shop: Shop) -> None:
    done = shop.run("config show --origin")

    assert done.stdout.splitlines()[1].split() == ["source", "shop", "relevo.toml:2"]
    assert "setup" in done.stdout


def test_a_configuration_with_a_fault_is_not_shown(shop: Shop) -> None:
    shop.write("relevo.toml", "sorce = 1")

    done = shop.run("config show")

    assert (done.returncode, done.stdout, len(lines(done))) == (78, "", 1)


# --- transports -----------------------------------------------------------------------------------------


def test_transports_are_shown_with_what_they_can(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write(
        "relevo.toml",
        '[transports]\nmain = "sqlite:///shop.db"\n'
        f'other = {{ url = "amqp://me:{CANARY}@127.0.0.1:1", outbox = "main" }}\n',
    )

    table = shop.run("transports")
    main, other = json.loads(shop.run("transports --json").stdout)

    assert (main["name"], main["scheme"], main["type"]) == ("main", "sqlite", "relevo_sql.SqlTransport")
    assert (other["address"], other["outbox"], main["outbox"]) == ("amqp://me:***@127.0.0.1:1", "main", None)
    assert (main["queues"], other["queues"]) == (["default"], ["default"])
    assert set(main["capabilities"]) == {field.name for field in attrs.fields(Capabilities)}
    assert "survives: host; delay " in table.stdout
    assert CANARY not in table.stdout
    assert not shop.folder.joinpath("shop.db").exists()


def test_transports_of_an_application_without_configuration_have_no_address(shop: Shop) -> None:
    shop.write("relevo.toml", 'app = "shop:app"\n')
    shop.write(
        "shop.py",
        "import relevo, relevo_memory\n"
        "app = relevo.App(transports={'main': relevo_memory.MemoryTransport()}, routes={'*': 'main'})\n",
    )

    (row,) = json.loads(shop.run("transports --json").stdout)

    assert (row["name"], row["address"], row["type"]) == ("main", None, "relevo_memory.MemoryTransport")


# --- check ----------------------------------------------------------------------------------------------


def found(shop: Shop, options: str = "") -> tuple[int, dict[str, str]]:
    done = shop.run(f"check {options} --json")
    return done.returncode, {row["check"]: row["detail"] if row["ok"] else "WRONG" for row in json.loads(done.stdout)}


def test_a_configuration_beside_an_application_that_does_not_read_it_is_not_ignored_in_silence(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(**environ: Any) -> list[str]:
        caplog.clear()
        assert shop.run("status", **environ).returncode == 0
        return caplog.messages

    for name in ("own.db", "other.db"):
        shop.write(name, "")  # an empty database, in which status creates the tables
    shop.write("shop.py", 'import relevo\napp = relevo.App(transports={"main": "sqlite:///own.db"})\n')
    (line,) = warned()
    assert line == (
        f"{shop.folder}/relevo.toml: source, listeners, transports, routes have no effect, since shop:app "
        f"is made in code; create it with relevo.App.from_config(), or remove them"
    )

    shop.write("relevo.toml", 'app = "shop:app"')
    assert warned() == []
    assert "lease have no effect" in warned(RELEVO_LEASE="2m")[0]

    shop.write("other.toml", '[transports]\nmain = "sqlite:///other.db"')
    shop.write("relevo.toml", 'app = "shop:app"\nsource = "shop"')
    shop.write("shop.py", 'import relevo\napp = relevo.App.from_config("other.toml")')
    assert "source have no effect, since shop:app is made from" in warned()[0]


def test_what_is_right_is_told(shop: Shop) -> None:
    code, findings = found(shop)

    assert code == 0
    assert findings == {
        "configuration": str(shop.folder / "relevo.toml"),
        "listeners": "3 listeners of 2 events",
        "transport main": "a worker can serve media, feed, default",
    }
    assert not shop.folder.joinpath("shop.db").exists()


def test_a_check_says_that_it_did_not_connect_unless_something_is_wrong(shop: Shop) -> None:
    quick, live = shop.run("check"), shop.run("check --live")
    shop.write("shop_listeners.py", "")
    wrong = shop.run("check")

    assert quick.stdout.splitlines()[-1] == "configuration ok; not connected (use --live)"
    assert live.stdout.splitlines()[-1] == "configuration ok; every server was reached"
    assert "configuration ok" not in wrong.stdout


def test_a_check_tells_which_events_have_no_listener(shop: Shop) -> None:
    shop.write("relevo.toml", shop.folder.joinpath("relevo.toml").read_text() + '"image.crated" = "main/media"\n')
    shop.run("dispatch mail.snet")

    rows = json.loads(shop.run("check --json").stdout)
    live = json.loads(shop.run("check --live --json").stdout)
    strict = shop.run("check --strict")

    place = f"{shop.folder}/shop_listeners.py"
    crated = f'no listener here for "image.crated" in main/media; did you mean "image.created" ({place}:4)?'
    snet = f'no listener here for "mail.snet" in main/default; did you mean "mail.sent" ({place}:13)?'
    assert [row["detail"] for row in rows if row["check"] == "events"] == [crated]
    assert [row["detail"] for row in live if row["check"] == "events"] == [crated, snet]
    assert f"relevo: events: {crated}\n" in strict.stderr


def test_a_check_tells_which_events_wait_if_there_is_no_listener_at_all(shop: Shop) -> None:
    shop.run("dispatch mail.sent")
    shop.run("dispatch mail.snet")
    shop.write("relevo.toml", CONFIGURATION.replace('listeners = ["shop_listeners"]', ""))

    quick, live, strict = shop.run("check"), shop.run("check --live"), shop.run("check --live --strict")

    text = "events that wait: 2, such as "
    assert text in live.stdout
    assert '"mail.sent" (1)' in live.stdout
    assert live.returncode == 0
    assert text not in quick.stdout
    assert text not in strict.stderr


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize(
    "parameters, is_wrong",
    [
        ("user_id, order_id", True),
        ("event, call", False),
        ("e, c", False),
        ("order, call", False),
        ("event, info", False),
        ("user_id, order: relevo.Call", False),
        ("user_id, order_id=7", False),
        ("*rest", False),
        ("*args, **kwargs", False),
        ("order_id, *args", False),
        ("order_id, **kwargs", False),
        ("order_id", True),
        ("pk", True),
        ("order_id: object", False),
        ("order", False),
        ("paid", False),
    ],
)
def test_a_check_warns_of_parameters_that_are_named_like_data(shop: Shop, parameters: str, *, is_wrong: bool) -> None:
    shop.write(
        "shop_listeners.py", f"import relevo\n\n@relevo.listener('mail.sent')\ndef mail({parameters}):\n    pass\n"
    )

    done = shop.run("check --json")

    warned = [row["detail"] for row in json.loads(done.stdout) if row["check"] == "parameters"]
    place = f"{shop.folder}/shop_listeners.py:3"
    two = f"shop_listeners:mail ({place}) takes (user_id, order_id), but is called with (event, call); read the data"
    one = f"shop_listeners:mail ({place}) takes ({parameters}), but is called with (event); read the"
    assert [text.startswith(two if ", order_id" in parameters else one) for text in warned] == [True] * is_wrong
    assert done.returncode == 0
    assert shop.run("check --strict").stderr.count("relevo: parameters: ") == is_wrong


def test_a_live_check_connects_and_creates_nothing(shop: Shop) -> None:
    before = found(shop, "--live")
    tables = shop.folder.joinpath("shop.db").exists()
    shop.run("setup")
    after = found(shop, "--live")

    there_is_none = f"there is no database {shop.folder}/shop.db yet; created at first use: "
    assert before[1]["server of main"].startswith(there_is_none)
    assert (before[0], after[0]) == (0, 0)
    assert after[1]["server of main"] == "reached, nothing is missing"
    assert not tables


SICK = """
import relevo
from relevo_memory import MemoryTransport

class SickTransport(MemoryTransport):
    def problems(self, queues):
        return [f'the queue "{queue}": it is sick; heal it' for queue in queues]

app = relevo.App(transports={"main": SickTransport()}, routes={"*": ["main/mail", "main/feed"]}, source="shop")
"""


def test_what_a_transport_finds_wrong_on_its_server_is_told_with_all_its_lines(shop: Shop) -> None:
    shop.write("sick.py", SICK)
    shop.write("relevo.toml", 'app = "sick:app"\n')

    done = shop.run("check --live")

    assert (shop.run("check").returncode, done.returncode) == (0, 78)
    assert "WRONG" in done.stdout
    for queue in ("mail", "feed"):
        assert f'the transport "main": the queue "{queue}": it is sick; heal it' in done.stderr


def made_in(folder: Path) -> list[Path]:
    """Return what lies in *folder* but for what Python keeps there of a module that it imported."""
    return sorted(path for path in folder.iterdir() if path.name != "__pycache__")


@pytest.mark.parametrize(
    "place, why",
    [
        ("nowhere/deep/x.db", "there is no folder {folder}/nowhere/deep; create it, or fix the address"),
        ("shop.py/x.db", "{folder}/shop.py is not a folder; fix the address"),
        (
            "closed/x.db",
            "this user cannot write to the folder {folder}/closed; grant access, or fix the address",
        ),
    ],
)
@pytest.mark.parametrize("command", ["check --live", "setup --plan", "setup"])
def test_a_database_that_could_not_be_made_is_not_reached(shop: Shop, place: str, why: str, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("shop.db", place))
    closed = shop.folder / "closed"
    closed.mkdir(mode=0o555)
    if place.startswith("closed") and os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    before = made_in(shop.folder)

    done = shop.run(command)

    assert done.returncode == 69
    assert lines(done) == [f'relevo: the transport "main" is unavailable: {why.format(folder=shop.folder)}']
    assert made_in(shop.folder) == before


def test_what_is_missing_where_nothing_may_be_created_is_wrong(shop: Shop) -> None:
    shop.write("relevo.toml", 'setup = "explicit"' + CONFIGURATION)

    done = shop.run("check --live")

    assert done.returncode == 78
    assert 'relevo: the transport "main" is not set up; run relevo setup' in done.stderr
    assert "run relevo setup" in done.stderr
    assert "WRONG" in done.stdout


def test_check_live_fails_for_missing_tables_if_the_application_has_explicit_setup(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import relevo, relevo_sql, sqlalchemy\n"
        "engine = sqlalchemy.create_engine('sqlite:///shop.db')\n"
        "main = relevo_sql.SqlTransport(engine)\n"
        "app = relevo.App(transports={'main': main}, routes={'*': 'main'}, setup='explicit')\n",
    )

    done = shop.run("check --live --app shop:app")

    assert done.returncode == 78
    assert 'relevo: the transport "main" is not set up; run relevo setup' in done.stderr


def test_a_listener_that_no_worker_could_serve_is_wrong(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("main/feed", "main/fed"))

    done = shop.run("check")

    assert done.returncode == 78
    assert len(lines(done)) == 1
    assert '/shop_listeners.py:10): it runs in the queue "feed"' in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if "WRONG" in line] == ["listeners"]


def test_a_module_that_fails_is_told_once_and_the_servers_are_looked_at_all_the_same(shop: Shop) -> None:
    shop.write("shop_listeners.py", "import nothing_like_that\n")

    done = shop.run("check --live")

    assert done.returncode == 78
    assert done.stderr.count("nothing_like_that") == 3  # its line, what Python says of it, and what relevo does
    assert f"there is no database {shop.folder}/shop.db yet; created at first use" in done.stdout


def test_servers_that_are_down_are_told_all_together(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write(
        "relevo.toml",
        'listeners = ["shop_listeners"]\n[transports]\n'
        f'one = {{ url = "amqp://me:{CANARY}@127.0.0.1:1", outbox = "sqlite:///box.db" }}\n'
        'two = "amqp://127.0.0.1:2"\n[routes]\n"image.*" = ["one/media", "one/feed"]\n"*" = "two"\n',
    )

    code, findings = found(shop, "--live")
    quick = shop.run("check")
    done = shop.run("check --live")

    assert (code, quick.returncode) == (69, 0)
    assert [what for what, detail in findings.items() if detail == "WRONG"] == ["server of one", "server of two"]
    assert findings["outbox of one"].startswith(f"there is no database {shop.folder}/box.db yet; created at first use")
    assert len(lines(done)) == 2
    assert CANARY not in done.stdout + done.stderr


def test_what_the_program_must_mend_counts_more_than_a_server_that_is_down(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "amqp://127.0.0.1:1").replace("/feed", "/fed"))

    done = shop.run("check --live")

    assert (done.returncode, len(lines(done))) == (78, 2)


def test_what_can_be_set_up_is_although_servers_are_down(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write(
        "relevo.toml",
        '[transports]\none = { url = "amqp://127.0.0.1:1", outbox = "sqlite:///box.db" }\n'
        'two = "amqp://127.0.0.1:2"\nthree = "sqlite:///nowhere/x.db"\n[routes]\n"*" = "one"\n',
    )

    done = shop.run("setup")
    again = shop.run("setup --plan")

    assert (done.returncode, again.returncode) == (69, 69)
    assert "table relevo_event" in done.stdout.splitlines()
    assert [line.partition('"')[2].partition('"')[0] for line in lines(done)] == ["one", "two", "three"]
    assert shop.folder.joinpath("box.db").exists()
    assert again.stdout == "nothing is missing in the others\n"


def test_a_setup_that_reaches_no_server_claims_nothing(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", '[transports]\none = "amqp://127.0.0.1:1"\n')

    for command in ("setup", "setup --plan", "setup --check"):
        done = shop.run(command)

        assert (done.returncode, done.stdout) == (69, "")
        assert len(lines(done)) == 1


# --- status, and what looks at an outbox -----------------------------------------------------------------

DOWN = f"""
source = "shop"
[transports]
main = {{ url = "amqp://me:{CANARY}@127.0.0.1:1/", connect_timeout = 1, outbox = "sqlite:///box.db" }}
local = "sqlite:///shop.db"
[routes]
"*" = "main"
"mail.*" = "local"
"""


@pytest.fixture(name="half")
def _half(shop: Shop) -> Shop:
    """Return a shop whose server is down, with an event in the outbox and a dead letter beside it."""
    pytest.importorskip("relevo_amqp")
    relevo_sql = pytest.importorskip("relevo_sql")
    shop.write("relevo.toml", DOWN)
    shop.run("setup")
    waiting = Envelope(id="1", source="shop", name="a.b", queue="outbox/main", body=b"{}")
    options = relevo_sql.SqlOptions(url=f"sqlite:///{shop.folder}/box.db")
    with relevo_sql.SqlTransport.open(options, name="box", clock=SystemClock()) as outbox:
        outbox.send([waiting, attrs.evolve(waiting, id="2")])
        (delivery,) = outbox.receive(["outbox/main"], limit=1, lease=60, wait=0)
        outbox.settle([(delivery, DeadLetter(reason="rejected", error="too big"))])
    return shop


def test_the_status_shows_what_answers_where_a_server_is_down(half: Shop) -> None:
    done = half.run("status")

    assert done.returncode == 69
    (line,) = lines(done)
    assert line.startswith('relevo: the transport "main" is unavailable')
    assert [row.split()[:6] for row in done.stdout.splitlines()[1:3]] == [
        ["main.outbox", "outbox/main", "1", "0", "0", "1"],
        ["local", "default", "0", "0", "0", "0"],
    ]
    assert CANARY not in done.stdout + done.stderr


def test_the_status_for_programs_has_a_row_with_an_error_for_what_does_not_answer(half: Shop) -> None:
    done = half.run("status --json")

    assert (done.returncode, len(lines(done))) == (69, 1)
    down, outbox, local = json.loads(done.stdout)
    assert down.keys() == outbox.keys() == local.keys()
    assert (down["transport"], down["queue"], down["ready"]) == ("main", None, None)
    assert down["error"].startswith('the transport "main" is unavailable')
    assert (outbox["transport"], outbox["ready"], outbox["dead"], outbox["error"]) == ("main.outbox", 1, 1, None)
    assert (local["transport"], local["error"]) == ("local", None)


def test_the_lag_of_a_relay_is_shown_although_its_target_is_down(half: Shop) -> None:
    done = half.run("status")
    _, outbox, local = json.loads(half.run("status --json").stdout)

    shown = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"1 event waits in main\.outbox for the relay to main, the oldest for .+ s", shown)
    assert (outbox["relays_to"], local["relays_to"], local["lag"]) == ("main", None, None)
    assert 0.0 < outbox["lag"] < PATIENCE


@pytest.mark.parametrize("state", ["ready", "leased", "given back"])
def test_a_monitor_sees_an_event_that_waits_for_its_relay_for_too_long(half: Shop, state: str) -> None:
    relevo_sql = pytest.importorskip("relevo_sql")
    options = relevo_sql.SqlOptions(url=f"sqlite:///{half.folder}/box.db")
    with relevo_sql.SqlTransport.open(options, name="box", clock=SystemClock()) as outbox:
        if state != "ready":
            (delivery,) = outbox.receive(["outbox/main"], limit=1, lease=600.0, wait=0.0)
            outbox.settle([(delivery, Nack(delay=600.0))] if state == "given back" else [])

    within = half.run("status -t main.outbox --max-lag 1h")
    over = half.run("status -t main.outbox --max-lag 0")

    assert (within.returncode, within.stdout) == (0, "1 queue is within the limits\n")
    assert over.returncode == 1
    assert re.fullmatch(r"main\.outbox/outbox/main: one has waited for its relay for .+ s, at most 0 s\n", over.stdout)


def test_an_event_that_is_not_due_yet_is_no_lag(half: Shop) -> None:
    relevo_sql = pytest.importorskip("relevo_sql")
    options = relevo_sql.SqlOptions(url=f"sqlite:///{half.folder}/box.db")
    with relevo_sql.SqlTransport.open(options, name="box", clock=SystemClock()) as outbox:
        (delivery,) = outbox.receive(["outbox/main"], limit=1, lease=600.0, wait=0.0)
        outbox.settle([(delivery, Ack())])
        late = Envelope(id="9", source="shop", name="a.b", queue="outbox/main", body=b"{}")
        outbox.send([late], delay=600.0)

    done = half.run("status -t main.outbox")
    judged = half.run("status -t main.outbox --max-lag 0")

    assert done.stdout.splitlines()[-1] == "1 event waits in main.outbox for the relay to main"
    assert judged.returncode == 0


def test_a_limit_of_the_lag_needs_an_outbox(half: Shop) -> None:
    done = half.run("status -t local --max-lag 1h")

    assert done.returncode == 78
    assert done.stdout.startswith("--max-lag cannot be judged, since there is no outbox")


def test_the_status_shows_no_table_where_nothing_answers(half: Shop) -> None:
    done = half.run("status -t main -q default")

    assert (done.returncode, done.stdout, len(lines(done))) == (69, "", 1)


def test_an_outbox_without_tables_is_completed_and_shown_although_its_server_is_down(shop: Shop) -> None:
    pytest.importorskip("relevo_amqp")
    shop.write("relevo.toml", DOWN)
    shop.write("box.db", "")

    done = shop.run("status -t main")

    assert (done.returncode, len(lines(done))) == (69, 1)
    assert [row.split()[:3] for row in done.stdout.splitlines()[1:]] == [["main.outbox", "outbox/main", "0"]]


def test_what_the_program_must_mend_counts_more_in_the_status_too(half: Shop) -> None:
    with sqlite3.connect(half.folder / "box.db") as database:
        database.execute("UPDATE relevo_meta SET value = '999' WHERE key = 'schema'")
    database.close()

    done = half.run("status")

    assert (done.returncode, len(lines(done))) == (78, 2)
    assert "local" in done.stdout


def test_a_queue_over_a_limit_is_named_for_a_monitor(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    within = shop.run("status --max-ready 1 --max-dead 0 --max-oldest 1h")
    over = shop.run("status --max-ready 0")
    old = shop.run("status --max-oldest 0 -q media")
    listed = shop.run("status --max-ready 0 --json")

    assert (within.returncode, within.stdout, within.stderr) == (0, "3 queues are within the limits\n", "")
    assert (over.returncode, over.stdout) == (1, "main/media: 1 ready, at most 0; main/feed: 1 ready, at most 0\n")
    assert (old.returncode, old.stdout.split(" for ")[0]) == (1, "main/media: the oldest")
    assert (listed.returncode, len(json.loads(listed.stdout)), lines(listed)) == (1, 3, [over.stdout.rstrip()])


def test_a_monitor_sees_an_event_that_a_worker_has_held_for_too_long(shop: Shop) -> None:
    relevo_sql = pytest.importorskip("relevo_sql")
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    idle = shop.run("status --max-leased 10m")
    options = relevo_sql.SqlOptions(url=f"sqlite:///{shop.folder}/shop.db")
    with relevo_sql.SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        assert transport.receive(["media"], limit=1, lease=600.0, wait=0.0)

    within = shop.run("status --max-leased 10m")
    over = shop.run("status --max-leased 0")

    for done in (idle, within):
        assert (done.returncode, done.stdout, done.stderr) == (0, "3 queues are within the limits\n", "")
    assert (over.returncode, over.stderr) == (1, "")
    assert re.fullmatch(r"main/media: one leased for .+, at most 0 s; see relevo list --state running\n", over.stdout)


def test_a_monitor_creates_no_database_where_a_disk_is_not_mounted(shop: Shop) -> None:
    done = shop.run("status --max-ready 9")

    assert done.returncode == 69
    assert f"there is no database {shop.folder / 'shop.db'} yet" in done.stdout
    assert not (shop.folder / "shop.db").exists()


def test_a_server_that_does_not_answer_is_within_no_limit(half: Shop) -> None:
    done = half.run("status --max-ready 9")

    assert done.returncode == 69
    assert len(done.stdout.splitlines()) == 1
    assert "is unavailable" in done.stdout


def test_an_outbox_is_looked_at_by_the_name_that_the_status_shows(half: Shop) -> None:
    status = half.run("status -t main.outbox")
    listed = half.run("dead list -t main.outbox --json")
    ref = json.loads(listed.stdout)[0]["ref"]
    shown = half.run(f"dead show {ref} -t main.outbox")
    found = half.run("show 1 -t main.outbox")
    revived = half.run("dead revive --all -t main.outbox")
    nothing = half.run("dead discard --all --yes -t main.outbox -q outbox/main")
    discarded = half.run("dead list -t main.outbox")

    assert (status.returncode, status.stderr) == (0, "")
    assert [row.split()[:3] for row in status.stdout.splitlines()[1:2]] == [["main.outbox", "outbox/main", "1"]]
    assert (listed.returncode, shown.returncode, found.returncode) == (0, 0, 0)
    assert "too big" in shown.stdout
    assert (revived.returncode, revived.stdout) == (0, "1 revived\n")
    assert (nothing.returncode, nothing.stdout) == (0, "0 discarded\n")
    assert discarded.stdout == "no dead letters\n"


def test_an_outbox_without_tables_is_completed_when_it_is_looked_at(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = { url = "sqlite:///shop.db", outbox = "sqlite:///box.db" }\n')
    shop.write("box.db", "")

    done = shop.run("status -t main.outbox")

    assert (done.returncode, done.stderr) == (0, "")
    assert [row.split()[:3] for row in done.stdout.splitlines()[1:]] == [["main.outbox", "outbox/main", "0"]]


# --- where there is no database file ----------------------------------------------------------------------

LOOKS = [
    "status",
    "status --max-dead 0",
    "list",
    "list --by event",
    "show 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e",
    "dead list",
    "dead list --by reason",
    "dead show 1",
    "dead revive --all",
    "dead discard --all --yes",
    "cancel 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e",
    "cancel --all --yes",
    "handle 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e",
    "purge media --yes",
]


@pytest.mark.parametrize("address", ["sqlite:///shpo.db", "sqlite:///file:shpo.db?uri=true"])
@pytest.mark.parametrize("command", LOOKS)
def test_a_command_that_looks_names_a_missing_file_and_creates_none(shop: Shop, command: str, address: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", address))

    done = shop.run(command)

    assert done.returncode == 69
    (line,) = (done.stdout if "--max-dead" in command else done.stderr).splitlines()  # the first is for a monitor
    assert line.removeprefix("relevo: ") == (
        f'the transport "main" is unavailable: there is no database {shop.folder}/shpo.db yet; the first dispatch, a '
        f"worker or relevo setup creates it; if events were dispatched already, check its path, and whether its disk "
        f"is mounted"
    )
    assert not list(shop.folder.glob("*.db*"))


@pytest.mark.parametrize("command", ["status", "list", "dead list", "check --live", "purge media --yes"])
def test_a_missing_file_is_named_as_not_set_up_where_nothing_is_created_at_first_use(shop: Shop, command: str) -> None:
    done = shop.run(command, RELEVO_SETUP="explicit")

    assert done.returncode == 78
    (line,) = lines(done)
    assert 'the transport "main" is not set up; run relevo setup' in line
    assert line.endswith(f"; there is no database {shop.folder}/shop.db")
    assert not list(shop.folder.glob("*.db*"))


@pytest.mark.parametrize("command", ["check --live", "setup --plan", "setup --check", "setup --print"])
def test_what_setup_would_create_is_shown_without_a_file(shop: Shop, command: str) -> None:
    assert "relevo_event" in shop.run(command).stdout
    assert not list(shop.folder.glob("*.db*"))


@pytest.mark.parametrize("command", ["status", "list"])
def test_a_folder_that_is_missing_is_named_before_its_file(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("shop.db", "nowhere/shop.db"))

    done = shop.run(command)

    assert done.returncode == 69
    assert f"there is no folder {shop.folder}/nowhere; create it" in done.stderr
    assert not (shop.folder / "nowhere").exists()


@pytest.mark.parametrize("command, code", [("list", 0), ("dead list", 0), ("show 1", 1)])
def test_a_missing_file_is_reported_once_beside_what_the_others_hold(shop: Shop, command: str, code: int) -> None:
    other = '"sqlite:///shop.db"\nother = { url = "sqlite:///other.db", outbox = "sqlite:///box.db" }'
    shop.write(
        "relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', other).replace('"*" = "main"', '"*"="other"')
    )
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    done = shop.run(command)

    assert [line.split(" yet; ")[0] for line in lines(done)][:2] == [
        f'relevo: the transport "other" is unavailable: there is no database {shop.folder}/other.db',
        f'relevo: the transport "other.outbox" is unavailable: there is no database {shop.folder}/box.db',
    ]
    assert (done.returncode, lines(done)[2:]) == (
        code,
        ["relevo: no event has the id 1; events that are done are not kept"] * code,
    )
    assert not (shop.folder / "other.db").exists()
    assert not (shop.folder / "box.db").exists()


def test_the_status_shows_a_transport_whose_outbox_has_no_file(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = { url = "sqlite:///shop.db", outbox = "sqlite:///box.db" }\n')
    shop.write("shop.db", "")

    done = shop.run("status")

    assert (done.returncode, len(lines(done))) == (69, 1)
    assert 'the transport "main.outbox" is unavailable: there is no database' in done.stderr
    assert [row.split()[:3] for row in done.stdout.splitlines()[1:]] == [["main", "default", "0"]]
    assert not (shop.folder / "box.db").exists()


def test_a_name_that_is_neither_a_transport_nor_an_outbox_is_told_with_both(half: Shop) -> None:
    done = half.run("status -t main.outbx")

    assert (done.returncode, done.stdout) == (78, "")
    assert lines(done) == [
        'relevo: no transport is called "main.outbx"; did you mean "main.outbox"?; there are: main, local, main.outbox'
    ]


def test_a_worker_does_not_take_an_outbox_for_a_transport(half: Shop) -> None:
    done = half.run("drain -t main.outbox")

    assert done.returncode == 78
    assert '"main.outbox" is the outbox of "main", which no worker serves' in done.stderr


# --- listeners --------------------------------------------------------------------------------------------


def test_listeners_are_shown_with_the_runs_that_their_queue_allows(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION + '[retries]\n"main/feed" = 8\nmain = { first = 3 }\n')

    rows = json.loads(shop.run("listeners --json").stdout)

    assert {row["target"]: row["runs"] for row in rows} == {"main/media": 5, "main/feed": 8, "main/default": 5}


def test_the_listeners_of_one_event_are_shown(shop: Shop) -> None:
    rows = json.loads(shop.run("listeners mail.sent --json").stdout)

    assert {row["event"] for row in rows} == {"mail.sent"}
    assert "image.created" not in shop.run("listeners mail.sent").stdout
    assert "image.created" not in shop.run("listeners mail.sent --format mermaid").stdout


def test_an_event_without_a_listener_is_not_found(shop: Shop) -> None:
    done = shop.run("listeners mail.snet")

    assert done.returncode == 1
    assert done.stdout == ""
    assert 'no listener here for "mail.snet"; did you mean "mail.sent" (' in done.stderr


def test_listeners_are_drawn_as_a_flowchart(shop: Shop) -> None:
    done = shop.run("listeners --format mermaid")

    assert done.stdout.splitlines() == [
        "flowchart LR",
        '    queue0[("main/media")]',
        '    queue1[("main/feed")]',
        '    event0(["image.created"])',
        '    queue2[("main/default")]',
        '    event1(["mail.sent"])',
        '    listener0["shop_listeners:thumbnails"]',
        '    listener1["shop_listeners:feed"]',
        '    listener2["shop_listeners:count"]',
        "    event0 --> queue0",
        "    event0 --> queue1",
        "    event1 --> queue2",
        '    queue0 -- "image.created" --> listener0',
        '    queue1 -- "image.created" --> listener1',
        '    queue2 -- "mail.sent" --> listener2',
    ]


def test_names_cannot_break_out_of_the_flowchart(shop: Shop) -> None:
    shop.write(
        "shop_listeners.py",
        "import relevo\n@relevo.listener('a.b', id='x\"]; click x \"javascript:`1` <b>#')\ndef f(e): ...\n",
    )

    done = shop.run("listeners --format mermaid")

    (line,) = [line for line in done.stdout.splitlines() if "click" in line]
    assert line == ('    listener0["x#34;#93;#59; click x #34;javascript:#96;1#96; #60;b#62;#35;"]')


def test_a_listener_without_a_route_is_drawn_where_no_event_comes(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"*" = "main"', ""))

    drawn = shop.run("listeners --format mermaid").stdout
    table = json.loads(shop.run("listeners --format json").stdout)

    assert '[("no route")]' in drawn
    assert table[-1]["target"] == "no route"


# --- show -------------------------------------------------------------------------------------------------


def test_an_event_is_shown_wherever_it_is_and_how_far_its_listeners_are(shop: Shop) -> None:
    shop.write("shop_listeners.py", FAILING)
    event_id = json.loads(shop.run("""dispatch image.created '{"bad": true}' --delay 1h --json""").stdout)["id"]
    scheduled = json.loads(shop.run(f"show {event_id} --json").stdout)
    other = json.loads(shop.run("""dispatch image.created '{"bad": true}' --json""").stdout)["id"]
    ready = json.loads(shop.run(f"show {other} --json").stdout)
    shop.run("drain")

    both = json.loads(shop.run(f"show {other} --json").stdout)
    text = shop.run(f"show {other}").stdout

    assert [(row["status"], row["queue"]) for row in scheduled] == [("scheduled", "media"), ("scheduled", "feed")]
    assert all(row["until"] for row in scheduled)
    assert [(row["status"], row["listeners"]) for row in ready] == [("ready", []), ("ready", [])]
    assert [(row["status"], row["queue"], row["id"]) for row in both] == [
        ("scheduled", "feed", other),
        ("dead", "media", other),
    ]
    assert [(each["listener"], each["status"], each["runs"]) for each in both[0]["listeners"]] == [
        ("shop_listeners:feed", "due", 1),
    ]
    due, until = (datetime.fromisoformat(each) for each in (both[0]["listeners"][0]["due"], both[0]["until"]))
    assert abs((due - until).total_seconds()) <= 1.0  # in whole seconds; the row is written a moment later
    assert '"bad":true' in both[1]["body"]
    assert "GiveUp: a corrupt" in both[1]["error"]
    assert "listener:    shop_listeners:thumbnails: done after 1 run\n" in text
    assert "listener:    shop_listeners:broken: dead after 1 run, gave-up, " in text
    assert "\n\nref:         1" in text
    assert "\x1b" not in text


FAILING = r"""
import relevo

@relevo.listener("image.created", queue="media", priority=1)
def thumbnails(event): ...

@relevo.listener("image.created", queue="media")
def broken(event): raise relevo.GiveUp("a corrupt \x1b[31mfile")

@relevo.listener("image.created", queue="feed")
def feed(event): raise ValueError("later")
"""


KEEPING = CONFIGURATION.replace('main = "sqlite:///shop.db"', 'main = { url = "sqlite:///shop.db", keep = "7d" }')


def test_an_event_that_is_done_is_shown_while_it_is_kept(shop: Shop) -> None:
    shop.write("relevo.toml", KEEPING)
    sent = json.loads(shop.run("""dispatch mail.sent '{"to": "ann"}' --json""").stdout)["id"]
    shop.run("drain")

    shown = shop.run(f"show {sent}")
    as_json = shop.run(f"show {sent} --json")
    nowhere = shop.run("show 1")

    assert (shown.returncode, shown.stderr) == (0, "")
    told = dict(line.split(":", 1) for line in shown.stdout.splitlines())
    assert {key: told[key].strip() for key in ("status", "queue", "event", "attempt")} == {
        "status": "done",
        "queue": "default",
        "event": "mail.sent",
        "attempt": "1",
    }
    (row,) = json.loads(as_json.stdout)
    assert (row["status"], row["id"], row["listeners"]) == ("done", sent, [])
    assert datetime.fromisoformat(row["sent"]) <= datetime.fromisoformat(row["done"])
    assert json.loads(row["body"])["data"] == {"to": "ann"}
    assert lines(nowhere) == [
        "relevo: no event has the id 1; events that are done are kept for 7.0 d, and found by a whole id"
    ]


def change(shop: Shop, statement: str) -> None:
    """Change rows by hand."""
    with closing(sqlite3.connect(shop.folder / "shop.db")) as connection, connection:
        assert connection.execute(statement).rowcount > 0


@pytest.mark.parametrize("is_done", [False, True])
def test_a_row_that_cannot_be_read_is_not_passed_over_silently(
    shop: Shop, caplog: pytest.LogCaptureFixture, *, is_done: bool
) -> None:
    shop.write("relevo.toml", KEEPING)
    sent = json.loads(shop.run("""dispatch mail.sent '{"to": "ann"}' --json""").stdout)["id"]
    if is_done:
        shop.run("drain")
    change(shop, "UPDATE relevo_done SET body = 'text'" if is_done else "UPDATE relevo_event SET body = 'text'")

    shown = shop.run(f"show {sent}")

    assert (shown.returncode, shown.stdout) == (1, "")
    assert (
        f"'{sent}' in the queue 'default' is unreadable, so it is not shown: the column body holds text" in caplog.text
    )


def test_unreadable_dead_letters_are_counted_where_an_event_is_not_found(shop: Shop) -> None:
    shop.run("""dispatch mail.sent '{"to": "ann"}'""")
    change(shop, "UPDATE relevo_event SET body = 'text'")
    shop.run("drain")

    nowhere = shop.run("show 1")

    assert nowhere.returncode == 1
    assert lines(nowhere)[-1].endswith("; 1 unreadable dead letter has no id; see relevo dead list --reason unreadable")


def test_an_event_that_was_changed_is_shown_as_one_that_no_worker_trusts(shop: Shop) -> None:
    shop.write("relevo.toml", 'signing = "Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd"\n' + CONFIGURATION)
    shop.write("shop_listeners.py", FAILING)
    sent = json.loads(shop.run("""dispatch image.created '{"bad": true}' --json""").stdout)["id"]
    shop.run("drain")
    sound = json.loads(shop.run(f"show {sent} --json").stdout)
    change(shop, "UPDATE relevo_event SET name = 'image.deleted'")
    change(shop, "UPDATE relevo_dead SET progress = replace(progress, 'gave-up', 'gave_up')")

    changed = json.loads(shop.run(f"show {sent} --json").stdout)
    text = shop.run("dead show 1").stdout
    (full,) = json.loads(shop.run("dead list --json --full").stdout)

    assert [row["problem"] for row in sound] == [None, None]
    assert [(row["status"], row["problem"][:18]) for row in changed] == [
        ("scheduled", "it may be forged: "),
        ("dead", "it may be forged: "),
    ]
    assert "the state of the delivery was not signed" in full["problem"]
    assert f"problem:     {full['problem']}\n" in text


def test_an_event_that_is_done_and_kept_cannot_be_cancelled(shop: Shop) -> None:
    shop.write("relevo.toml", KEEPING)
    sent = json.loads(shop.run("""dispatch mail.sent '{"to": "ann"}' --json""").stdout)["id"]
    shop.run("drain")

    refused = shop.run(f"cancel {sent}")
    nowhere = shop.run("cancel 1")

    assert (refused.returncode, refused.stdout) == (1, "0 cancelled\n")
    (told,) = lines(refused)
    assert told.startswith(f"relevo: the event {sent} was done at ")
    assert told.endswith("; an event that is kept after that cannot be cancelled")
    assert lines(nowhere) == ["relevo: no waiting event has the id 1"]


def test_an_event_that_was_moved_is_not_shown_as_done(shop: Shop) -> None:
    shop.write("relevo.toml", KEEPING)
    shop.run("""dispatch image.created '{"image_id": 7}'""")
    shop.run("purge main/feed --yes")
    (sent,) = [row["id"] for row in json.loads(shop.run("list --json").stdout)]

    moved = shop.run("move --from main/media --to main/feed")

    assert moved.returncode == 0
    rows = json.loads(shop.run(f"show {sent} --json").stdout)
    assert [(row["status"], row["queue"]) for row in rows] == [("ready", "feed")]


def test_what_is_nowhere_is_told_with_where_it_could_not_be_looked_for(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_memory\n"
        "class Plain(relevo_memory.MemoryTransport):\n"
        "    capabilities = attrs.evolve(relevo_memory.MemoryTransport.capabilities, find=False)\n"
        "app = relevo.App(transports={'main': Plain(), 'b': relevo_memory.MemoryTransport()}, routes={'*': 'main'})\n",
    )

    nowhere = shop.run("show 1 -t b")
    partly = shop.run("show 1 --json")

    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert lines(nowhere) == ["relevo: no event has the id 1; events that are done are not kept"]
    assert (partly.returncode, json.loads(partly.stdout)) == (1, [])
    assert lines(partly) == [
        'relevo: no event has the id 1; "main" cannot search waiting events: the event may still wait there'
    ]
