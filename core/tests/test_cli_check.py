"""The command check."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from .shop import CANARY, CONFIGURATION, Shop, lines


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


@pytest.mark.lengthy("runs a command")
def test_a_check_tells_which_listener_a_plugin_cannot_wrap(shop: Shop) -> None:
    shop.write(
        "shop_listeners.py",
        "import relevo\n\n"
        '@relevo.listener("mail.sent")\nasync def count(event): ...\n\n'
        "class Tenants:\n"
        "    @relevo.hookimpl\n    def relevo_around_listener(self, proceed): return proceed()\n",
    )
    shop.write("relevo.toml", f'plugins = ["shop_listeners:Tenants"]\n{CONFIGURATION}')

    done = shop.run("check")

    assert done.returncode == 78
    assert (
        "shop_listeners:count is async, and the plugin shop_listeners.Tenants has only relevo_around_listener; add "
        "async def relevo_around_async_listener(self, proceed): return await proceed()"
    ) in done.stderr
