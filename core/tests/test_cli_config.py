"""The command config show, and the transports that it names."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from relevo import Capabilities, QueueOptions, Retry, Secret, Signing
from relevo._config.schema import KEYS, ScheduleConfig, TransportConfig
from relevo._config.table import keys_of

from .shop import CANARY, Shop, lines

KEY = f"{CANARY}-Vq3TnB7xZk9RwLf2HsJd8Mpy"


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
        "retries": ({}, "default"),
        "queues": ({}, "default"),
        "schedules": ({}, "default"),
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
        "queues.feed.concurrency": "3",
        "queues.feed.rate": '"10/s"',
        "schedules.nightly.cron": '"0 3 * * *"',
        "schedules.nightly.event": '"night.begun"',
        "schedules.nightly.arguments": "{ full = true }",
        "schedules.nightly.timezone": '"Europe/Madrid"',
        "schedules.nightly.missed": '"skip"',
        "schedules.nightly.grace": '"1h"',
        "schedules.nightly.urgency": '"high"',
        "schedules.nightly.ordering_key": '"nights"',
        "schedules.nightly.expires": '"10m"',
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

    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1] == ["source", "shop", "relevo.toml:2"]
    assert ["retries", "-", "default"] in lines
    assert ["transports.main.inbox_keep", "1209600", "default"] in lines


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
