"""``relevo check --strict``: each point of the page is met, is reported, or does not apply."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from relevo.cli._hardening import POINTS

from .shop import Shop, lines, opened

KEY = "uBuXx0s6JESGnCIANG0FwdWJMNbTxj_zX7_oM2q_yPI"
HARD = """
source = "shop"
app = "shop:app"
listeners = ["shop_listeners"]
setup = "explicit"
execution = "process"
memory_limit = "512M"
signing = "${KEY}"
plugins = { mail = { to = "dev@example.org", arguments = false } }

[transports]
main = "sqlite:///shop.db"
db = "postgresql://shop:${PASSWORD}@db.example/shop?sslmode=verify-full"
mq = { url = "amqps://shop:${PASSWORD}@mq.example/shop", max_body = 2_097_152 }

[queues]
media = ["image.*"]
feed = ["image.*"]
default = ["mail.*", "order.*", "shop.*"]

[routes]
"image.*" = ["main/media", "main/feed"]
"mail.*" = "db"
"order.*" = "mq"
"shop.*" = "main"
"""
SHARED_GROUP = 4321
"""A group that is no user's own."""

ENVIRON: dict[str, Any] = {"KEY": KEY, "PASSWORD": "correct-horse-battery"}


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    pytest.importorskip("relevo_amqp")
    shop = opened(tmp_path)
    shop.write("relevo.toml", HARD)
    shop.folder.joinpath("relevo.toml").chmod(0o600)
    return shop


def verdicts(shop: Shop, **environ: str) -> dict[str, tuple[bool | None, str]]:
    """Return how each point is judged, by its anchor."""
    done = shop.run("check --strict --json --config relevo.toml", **(ENVIRON | environ))
    rows = json.loads(done.stdout)
    points = [row for row in rows if row["check"][0].isdecimal()]
    assert [row["check"] for row in points] == [f"{n}. {each.anchor}" for n, each in enumerate(POINTS, start=1)]
    return {row["check"].partition(" ")[2]: (row["ok"], row["detail"]) for row in points}


def warnings(shop: Shop, **environ: str) -> dict[str, str]:
    """Return the warnings but that about root, as which these tests may run."""
    found = {anchor: detail for anchor, (ok, detail) in verdicts(shop, **environ).items() if ok is False}
    assert ("own-user" in found) is (os.geteuid() == 0)
    found.pop("own-user", None)
    return found


def change(shop: Shop, old: str, new: str) -> None:
    assert old in HARD
    shop.write("relevo.toml", HARD.replace(old, new))


def unsigned(shop: Shop) -> Path:
    """Return the configuration without signatures: with keys, one that others can write is refused at once."""
    change(shop, 'signing = "${KEY}"', "")
    return shop.folder / "relevo.toml"


def test_a_hardened_deployment_has_no_warning(shop: Shop) -> None:
    assert warnings(shop) == {}


def test_without_servers_and_mail_the_points_about_them_do_not_apply(shop: Shop) -> None:
    shop.write("relevo.toml", 'signing = "${KEY}"\n[transports]\nmain = "sqlite:///shop.db"\n')

    found = verdicts(shop)

    absent = {anchor for anchor, (ok, _) in found.items() if ok is None}
    servers = {"encrypted-connections", "passwords", "database-user", "rabbitmq-user", "body-size"}
    assert absent == {*servers, "sqlite-file", "error-mails"}


def test_an_application_of_its_own_and_the_file_that_names_it_are_judged_too(shop: Shop) -> None:
    shop.write("relevo.toml", 'app = "shop:app"\n')
    shop.write(
        "shop.py",
        "import relevo, relevo_memory\n"
        "app = relevo.App(transports={'main': relevo_memory.MemoryTransport()}, routes={'*': 'main'})\n",
    )

    found = verdicts(shop)

    assert found["configuration-file"] == (True, f"{shop.folder / 'relevo.toml'}, mode 0600")
    assert found["encrypted-connections"][0] is None
    assert found["signed-events"][0] is False


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize(
    ("old", "new", "anchor", "why"),
    [
        ('signing = "${KEY}"', "", "signed-events", "events are not signed"),
        ('"${KEY}"', '{ keys = "${KEY}", required = false }', "signed-events", "unsigned events are accepted"),
        ('media = ["image.*"]', "", "accepted-events", "any event is accepted in main/media; list"),
        ("?sslmode=verify-full", "", "encrypted-connections", "db: the connection to db.example is unencrypted"),
        ("verify-full", "require", "encrypted-connections", "db: the connection to db.example"),
        ("verify-full", "verify-ca", "encrypted-connections", "db: a certificate for any host is accepted from db.ex"),
        (
            "@db.example/shop?sslmode=verify-full",
            "@localhost/shop?host=db.example",
            "encrypted-connections",
            "connection to db.example is",
        ),
        (
            "@db.example/shop?sslmode=verify-full",
            "@/shop?host=/run/a,b.example",
            "encrypted-connections",
            "the connection to b.example is",
        ),
        (
            "@db.example/shop?sslmode=verify-full",
            "@/shop?host=c.example:5432",
            "encrypted-connections",
            "the connection to c.example is",
        ),
        (
            "@db.example/shop?sslmode=verify-full",
            "@localhost/shop?hostaddr=10.0.0.1",
            "encrypted-connections",
            "connection to 10.0.0.1 is",
        ),
        (
            "shop:${PASSWORD}@db.example/shop?",
            "db.example/shop?user=shop&password=shop&",
            "passwords",
            "db: the password is the name of the user; set",
        ),
        (
            "shop:${PASSWORD}@db.example/shop?",
            "db.example/shop?user=root&password=${PASSWORD}&",
            "database-user",
            'db: "root" administers',
        ),
        (
            "max_body",
            "tls = { check_host = false }, max_body",
            "encrypted-connections",
            "mq: a certificate for any host",
        ),
        ("amqps://", "amqp://", "encrypted-connections", "mq: the connection to mq.example"),
        ("shop:${PASSWORD}@db", "shop:shop@db", "passwords", "db: the password is the name of the user; set"),
        ("shop:${PASSWORD}@db", "shop:@db", "passwords", "db: the password is empty; set"),
        ("shop:${PASSWORD}@db", "shop@db", "passwords", "db: the address has no password for db.example; set one"),
        ("shop:${PASSWORD}@mq", "shop@mq", "passwords", "mq: the password is missing; set"),
        ("shop:${PASSWORD}@mq", "shop:password@mq", "passwords", "mq: the password is well known; set"),
        ("shop:${PASSWORD}@db", "postgres:${PASSWORD}@db", "database-user", 'db: "postgres" administers'),
        ('setup = "explicit"', "", "database-user", "the user needs the privilege to create tables"),
        ("shop:${PASSWORD}@mq", "guest:${PASSWORD}@mq", "rabbitmq-user", "mq: the user guest"),
        ("@mq.example/shop", "@mq.example", "rabbitmq-user", "mq: the default virtual host"),
        (", max_body = 2_097_152", "", "body-size", "mq takes bodies of 16,777,216 bytes"),
        ('execution = "process"\nmemory_limit = "512M"', "", "child-processes", 'with execution = "inline"'),
        ('memory_limit = "512M"', "", "child-processes", "may take all memory"),
        (", arguments = false", "", "error-mails", "mails show the arguments"),
    ],
)
def test_what_is_left_open_is_a_warning_of_its_point_alone(
    shop: Shop, old: str, new: str, anchor: str, why: str
) -> None:
    change(shop, old, new)

    found = warnings(shop)

    assert list(found) == [anchor]
    assert why in found[anchor]


def test_the_option_tls_encrypts_and_verifies_too(shop: Shop) -> None:
    change(
        shop,
        '"postgresql://shop:${PASSWORD}@db.example/shop?sslmode=verify-full"',
        '{ url = "postgresql://shop:${PASSWORD}@db.example/shop", tls = {} }',
    )

    assert warnings(shop) == {}


def test_sources_without_signatures_are_named(shop: Shop) -> None:
    change(shop, 'signing = "${KEY}"', 'signing = { keys = "${KEY}", unsigned = ["/cam"] }')

    found = verdicts(shop)

    assert found["signed-events"] == (True, "every event is signed, except for those that claim to be from /cam")


@pytest.mark.parametrize(
    "place",
    [
        "localhost/shop",
        "127.0.0.1/shop",
        "[::1]/shop",
        "/shop",
        "db.example/shop?host=/run/postgresql",
        "db.example/shop?hostaddr=127.0.0.1",
        "/shop?host=localhost:5432",
    ],
)
def test_a_server_on_this_machine_needs_no_encryption(shop: Shop, place: str) -> None:
    shop.write("relevo.toml", HARD.replace("@db.example/shop?sslmode=verify-full", f"@{place}"))

    assert warnings(shop) == {}


def test_the_option_for_encryption_counts(shop: Shop) -> None:
    address = '"postgresql://shop:${PASSWORD}@db.example/shop?sslmode=verify-full"'
    change(shop, address, "{ url = " + address.partition("?")[0] + '", tls = {} }')

    assert warnings(shop) == {}


def test_the_address_of_an_outbox_is_looked_at_too(shop: Shop) -> None:
    change(shop, ", max_body", ', outbox = "postgresql://root:root@other.example/shop", max_body')

    found = warnings(shop)

    assert set(found) == {"encrypted-connections", "passwords", "database-user"}
    assert "mq.outbox: " in found["passwords"]


def test_a_transport_of_another_package_judges_its_connection_itself(shop: Shop) -> None:
    shop.write(
        "spool.py",
        "import attrs, relevo_memory\n"
        "@attrs.frozen\n"
        "class Options:\n"
        "    url: str\n"
        "class Spool(relevo_memory.MemoryTransport):\n"
        "    Options = Options\n"
        "    @classmethod\n"
        "    def open(cls, options, *, name, clock):\n"
        "        return cls(name=name, clock=clock)\n"
        "    def risks(self):\n"
        "        return ['the folder is open'] if self.name == 'open' else []\n",
    )
    described = shop.folder / "spool-1.dist-info"
    described.mkdir()
    described.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: spool\nVersion: 1\n")
    described.joinpath("entry_points.txt").write_text(
        "[relevo.transports]\nspool = spool:Spool\n[relevo.schemes]\nspool = spool\n"
    )
    shop.write("relevo.toml", '[transports]\nmain = "spool://var.db"\n')

    found = verdicts(shop)
    shop.write("relevo.toml", '[transports]\nopen = "spool://var.db"\n')
    warned = warnings(shop)

    assert found["encrypted-connections"] == (None, "no server on another machine is known")
    assert found["database-user"][0] is None
    assert found["passwords"] == (True, "no password is well known")
    assert warned["encrypted-connections"] == "open: the folder is open"
    assert "passwords" not in warned


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o644, False), (0o660, False), (0o646, True)])
def test_a_configuration_that_others_can_write_is_reported(shop: Shop, mode: int, is_open: bool) -> None:  # noqa: FBT001 - pytest passes it by name
    file = unsigned(shop)
    file.chmod(mode)

    assert ("configuration-file" in warnings(shop, RELEVO_CONFIG=str(file))) is is_open


def test_a_secret_in_a_configuration_that_everyone_can_read_is_reported_and_not_shown(shop: Shop) -> None:
    change(shop, "shop:${PASSWORD}@db", "shop:p%40ssw0rd@db")
    file = shop.folder / "relevo.toml"
    file.chmod(0o644)

    done = shop.run("check --strict", **ENVIRON)
    file.chmod(0o640)
    closed = warnings(shop)

    assert "holds a secret and every user can read it" in done.stderr
    assert "ssw0rd" not in done.stdout + done.stderr
    assert closed == {}


OPTIONS = """
import attrs
from relevo._secret import Secret

@attrs.frozen
class Inner:
    key: Secret | None = None

@attrs.frozen
class Options:
    hook: Secret | None = None
    pin: Secret | None = None
    place: str = ""
    names: tuple[str, ...] = ()
    inner: Inner | None = None
    password: str = ""
    password_file: str = ""
    token_url: str = ""
    extra: dict[str, str] = {}

class Plugin:
    Options = Options
    @classmethod
    def open(cls, options, *, source, clock):
        return cls()
"""


@pytest.mark.parametrize(
    "option",
    [
        'password_file = "/run/secrets/shop"',
        'token_url = "https://a.example/"',
        'extra = { password_file = "/run/secrets/shop" }',
    ],
)
def test_an_option_that_says_where_a_secret_is_is_none(option: str, shop: Shop) -> None:
    shop.write("shop_plugin.py", OPTIONS)
    shop.folder.joinpath("shop_plugin.py").chmod(0o600)
    change(shop, "arguments = false }", f'arguments = false }}, "shop_plugin:Plugin" = {{ {option} }}')
    shop.folder.joinpath("relevo.toml").chmod(0o644)

    assert warnings(shop) == {}


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("mail", 'server = "smtp://me:p%40ssw0rd@localhost"'),
        ("shop_plugin:Plugin", 'hook = "https://chat.example/p4ssw0rd"'),
        ("shop_plugin:Plugin", 'pin = "p4ssw0rd"'),
        ("shop_plugin:Plugin", 'pin = "p4$$sw0rd"'),
        ("shop_plugin:Plugin", r'pin = "p4\"ssw0rd"'),
        ("shop_plugin:Plugin", 'names = ["a", "https://me:p4ssw0rd@a.example"]'),
        ("shop_plugin:Plugin", 'place = "https://a.example/?api_token=p4ssw0rd"'),
        ("shop_plugin:Plugin", 'inner = { key = "p4ssw0rd" }'),
        ("shop_plugin:Plugin", 'password = "p4ssw0rd"'),
        ("shop_plugin:Plugin", 'extra = { api_token = "p4ssw0rd" }'),
    ],
)
def test_a_secret_of_a_plugin_in_a_configuration_that_others_can_read_is_reported(
    name: str, option: str, shop: Shop
) -> None:
    shop.write("shop_plugin.py", OPTIONS)
    shop.folder.joinpath("shop_plugin.py").chmod(0o600)
    plugin = f'"{name}" = {{ {option} }}'
    if name == "mail":
        change(shop, "arguments = false }", f"arguments = false, {option} }}")
    else:
        change(shop, "arguments = false }", f"arguments = false }}, {plugin}")
    file = shop.folder / "relevo.toml"
    file.chmod(0o644)

    done = shop.run("check --strict --config relevo.toml", **ENVIRON)
    file.chmod(0o600)
    closed = warnings(shop)

    assert f"{file} holds a secret and every user can read it; write ${{VARIABLE}}, or chmod go-r" in done.stderr
    assert "w0rd" not in done.stdout + done.stderr
    assert closed == {}


@pytest.mark.parametrize("option", ['server = "smtp://localhost"', 'server = "smtp://me:${PASSWORD}@localhost"'])
def test_an_option_without_a_secret_of_its_own_may_be_read(option: str, shop: Shop) -> None:
    change(shop, "arguments = false }", f"arguments = false, {option} }}")
    shop.folder.joinpath("relevo.toml").chmod(0o644)

    assert warnings(shop) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
@pytest.mark.parametrize(("mode", "is_open"), [(0o640, True), (0o600, False)])
def test_a_secret_that_a_shared_group_can_read_is_reported(mode: int, *, is_open: bool, shop: Shop) -> None:
    change(shop, "shop:${PASSWORD}@db", "shop:p%40ssw0rd@db")
    file = shop.folder / "relevo.toml"
    os.chown(file, 0, SHARED_GROUP)
    file.chmod(mode)

    found = warnings(shop).get("configuration-file", "")

    assert (f"the group {SHARED_GROUP} can read it" in found) is is_open


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_in_which_others_can_put_modules_is_reported(shop: Shop, mode: int) -> None:
    file = unsigned(shop)
    shop.folder.chmod(mode)

    found = warnings(shop, RELEVO_CONFIG=str(file))["configuration-file"]

    assert f"{shop.folder} can be written by every user (owner " in found


def test_a_folder_that_a_link_leads_to_is_judged_too(shop: Shop) -> None:
    file = unsigned(shop)
    target = shop.folder / "shared" / "relevo.toml"
    target.parent.mkdir()
    target.parent.chmod(0o777)
    file.rename(target)
    file.symlink_to(target)

    assert f"{target.parent} can be written by every user" in warnings(shop)["configuration-file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_configuration_of_another_user_is_reported(shop: Shop) -> None:
    file = unsigned(shop)
    os.chown(file, 65534, 65534)

    found = warnings(shop, RELEVO_CONFIG=str(file))["configuration-file"]
    assert f"{file} belongs to another user (owner nobody, group 65534, mode 0600); only root and the user" in found


def test_a_database_file_that_others_can_open_is_reported(shop: Shop) -> None:
    shop.run("setup -t main", **ENVIRON)
    file = shop.folder / "shop.db"
    file.touch()
    file.chmod(0o644)

    found = warnings(shop)
    file.chmod(0o640)

    assert found["sqlite-file"] == f"every user can read {file}, mode 0644; chmod go-rwx"
    assert verdicts(shop)["sqlite-file"][0] is True


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize(("mode", "can"), [(0o646, "every user can write"), (0o604, "every user can read")])
def test_each_file_of_a_database_is_looked_at(suffix: str, mode: int, can: str, shop: Shop) -> None:
    shop.folder.joinpath("shop.db").touch(mode=0o600)
    file = shop.folder / f"shop.db{suffix}"
    file.touch()
    file.chmod(mode)

    assert f"{can} {file}, mode {mode:04o}" in warnings(shop)["sqlite-file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
@pytest.mark.parametrize(("mode", "can"), [(0o640, "read"), (0o660, "write"), (0o600, None)])
def test_a_database_file_that_a_shared_group_can_open_is_reported(mode: int, can: str | None, shop: Shop) -> None:
    file = shop.folder / "shop.db"
    file.touch()
    os.chown(file, 0, SHARED_GROUP)
    file.chmod(mode)

    found = warnings(shop).get("sqlite-file")

    assert found == (can and f"the group {SHARED_GROUP} can {can} {file}, mode {mode:04o}; chmod go-rwx")


def test_a_folder_in_which_others_can_replace_a_database_is_reported(shop: Shop) -> None:
    folder = shop.folder / "data"
    folder.mkdir()
    folder.chmod(0o777)
    folder.joinpath("shop.db").touch(mode=0o600)
    change(shop, "sqlite:///shop.db", "sqlite:///data/shop.db")

    found = warnings(shop)

    assert f"{folder} can be written by every user" in found["sqlite-file"]
    assert found["sqlite-file"].endswith("; choose a folder of the service")


def test_a_folder_of_locks_that_others_can_write_is_reported(shop: Shop) -> None:
    locks = shop.folder / "locks"
    locks.mkdir()
    locks.chmod(0o777)
    shop.write("relevo.toml", f'lock = "locks"\ndeploy = "locks/deploy"\n{HARD}')

    found = warnings(shop)

    assert list(found) == ["lock-folder"]
    assert found["lock-folder"].startswith(f"{locks} can be written by every user (owner ")
    assert found["lock-folder"].endswith("mode 0777); choose a folder of the service")


@pytest.mark.parametrize("mode", [0o700, 0o777, 0o1777])
def test_a_folder_above_the_locks_that_others_can_replace_is_reported(mode: int, shop: Shop) -> None:
    locks = shop.folder / "above" / "locks"
    locks.mkdir(parents=True)
    locks.parent.chmod(mode)
    shop.write("relevo.toml", f'lock = "above/locks"\ndeploy = "above/locks/deploy"\n{HARD}')

    found = warnings(shop)

    if mode == 0o777:  # otherwise others cannot rename what is in it
        assert f"{locks.parent} can be written by every user (owner " in found["lock-folder"]
    else:
        assert found == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_above_the_locks_of_another_user_is_reported(shop: Shop) -> None:
    locks = shop.folder / "above" / "locks"
    locks.mkdir(parents=True)
    os.chown(locks.parent, 65534, 65534)
    shop.write("relevo.toml", f'lock = "above/locks"\ndeploy = "above/locks/deploy"\n{HARD}')

    assert f"{locks.parent} belongs to another user" in warnings(shop)["lock-folder"]


def test_the_table_and_the_lines_name_the_point_and_the_exit_code_is_that_of_a_configuration(shop: Shop) -> None:
    change(shop, "amqps://", "amqp://")

    done = shop.run("check --strict", **ENVIRON)
    usual = shop.run("check", **ENVIRON)

    assert (done.returncode, usual.returncode) == (78, 0)
    assert "4. encrypted-connections  warning  see below" in " ".join(done.stdout.split("\n"))
    assert lines(done)[0].startswith("relevo: 4. encrypted-connections: mq: ")
    assert lines(done)[0].endswith("; see docs/how-to/harden-a-deployment.md#encrypted-connections")


def in_code(shop: Shop, transport: str, *arguments: str) -> dict[str, tuple[bool | None, str]]:
    """Return the verdicts about an application that is made in code, with *transport*."""
    given = ", ".join([f"transports={{'main': {transport}}}", "routes={'*': 'main'}", *arguments])
    shop.write("relevo.toml", 'app = "shop:app"\n')
    shop.write(
        "shop.py",
        "import relevo\nfrom relevo.ext.mail import Mail, MailOptions\n"
        "from relevo_amqp import AmqpOptions, AmqpTransport\n"
        "from relevo_sql import SqlTransport\nfrom sqlalchemy import create_engine\n"
        f"app = relevo.App({given})\n",
    )
    return verdicts(shop)


SERVER_POINTS = ("encrypted-connections", "passwords", "database-user", "rabbitmq-user")
UNSEEN = "cannot be checked for main, which is made in code"


@pytest.mark.parametrize(
    "transport",
    [
        'SqlTransport(create_engine("postgresql+psycopg://postgres:postgres@db.example.org/shop"))',
        'AmqpTransport(AmqpOptions(url="amqps://x:guest@mq.example.org"))',
    ],
)
def test_the_server_of_a_transport_made_in_code_is_not_claimed_to_be_checked(shop: Shop, transport: str) -> None:
    found = in_code(shop, transport)

    for anchor in SERVER_POINTS:
        assert found[anchor][0] is False
        assert UNSEEN in found[anchor][1]


def test_the_risks_that_a_transport_made_in_code_reports_are_warnings(shop: Shop) -> None:
    found = in_code(shop, 'AmqpTransport(AmqpOptions(url="amqp://x:hunter2@mq.example.org"))')

    ok, why = found["encrypted-connections"]
    assert ok is False
    assert why.startswith("main: connections to mq.example.org are not encrypted")
    assert "hunter2" not in str(found)


def test_the_file_of_a_transport_made_in_code_is_not_claimed_to_be_checked(shop: Shop) -> None:
    file = shop.folder / "code.db"
    file.touch()
    file.chmod(0o666)

    found = in_code(shop, f'SqlTransport(create_engine("sqlite:///{file}"))')

    assert found["sqlite-file"][0] is False
    assert UNSEEN in found["sqlite-file"][1]
    assert {found[anchor][0] for anchor in SERVER_POINTS} == {None}


def test_an_outbox_made_in_code_is_named_and_one_that_is_the_transport_is_named_once(shop: Shop) -> None:
    outbox = 'SqlTransport(create_engine("postgresql+psycopg://x@db.example.org/shop"))'

    found = in_code(
        shop, 'AmqpTransport(AmqpOptions(url="amqps://x:y@mq.example.org"))', f"outboxes={{'main': {outbox}}}"
    )

    assert found["passwords"][1].count("cannot be checked for main") == 2
    assert "cannot be checked for main.outbox, " in found["passwords"][1]


def test_error_mails_of_a_plugin_made_in_code_are_not_claimed_to_be_checked(shop: Shop) -> None:
    memory = '__import__("relevo_memory").MemoryTransport()'

    found = in_code(shop, memory, 'plugins=[Mail(MailOptions(to="dev@example.org"))]')

    assert found["error-mails"][0] is False
    assert "cannot be checked for the plugin mail, which is made in code" in found["error-mails"][1]


def test_a_met_point_says_what_was_checked(shop: Shop) -> None:
    found = verdicts(shop)

    assert found["database-user"] == (
        True,
        "the user is not an administrator, judging by its name, and needs no privilege to create tables",
    )
    assert found["body-size"] == (True, "at most 2,097,152 bytes, and relevo sends 1,048,576")


@pytest.mark.parametrize("address", ["postgresql://shop@localhost/shop", "mariadb://shop@/shop?unix_socket=/run/s"])
def test_a_database_on_this_machine_may_know_its_user_without_a_password(shop: Shop, address: str) -> None:
    change(shop, "postgresql://shop:${PASSWORD}@db.example/shop?sslmode=verify-full", address)

    assert "passwords" not in warnings(shop)
