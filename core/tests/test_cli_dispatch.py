"""The command dispatch, and what is probably not meant."""

from __future__ import annotations

import json

import pytest

from .shop import APP, CONFIGURATION, LISTENERS, Shop, lines

KEY = "uBuXx0s6JESGnCIANG0FwdWJMNbTxj_zX7_oM2q_yPI"


# --- dispatch -------------------------------------------------------------------------------------------

DECLARED = """
import attrs, relevo

@relevo.event("image.created", subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    image_id: int
    path: str = ""

    def __attrs_post_init__(self):
        if self.path == "broken":
            {}["path"]

@relevo.listener(ImageCreated)
def thumbnails(event): print("made", event.image_id)

@relevo.listener("mail.sent")
def count(event): ...
"""


@pytest.fixture(name="declared")
def _declared(shop: Shop) -> Shop:
    shop.write("shop_listeners.py", DECLARED)
    shop.write("relevo.toml", CONFIGURATION.replace('"image.*" = ["main/media", "main/feed"]\n', ""))
    return shop


@pytest.mark.parametrize(
    "arguments, why",
    [
        ("{}", "Object missing required field `image_id`"),
        ('{"image_id": "seven"}', "Expected `int`, got `str` - at `$.image_id`"),
        ('{"image_id": 7, "path": null}', "Expected `str`, got `null` - at `$.path`"),
        ("{} --subject user/7", "Object missing required field `image_id`"),
        ("{} --subject image/seven", "Expected `int`, got `str` - at `$.image_id`, from the subject image/seven"),
        ('{"image_id": 7, "path": "broken"}', "KeyError('path')"),
    ],
)
def test_arguments_that_do_not_fit_the_declared_class_are_bad_data(declared: Shop, arguments: str, why: str) -> None:
    command, _, option = arguments.partition(" --")
    done = declared.run(f"dispatch image.created '{command}' {option and '--' + option}")

    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr == f"relevo: the data of 'image.created' does not fit ImageCreated: {why}\n"
    assert declared.run("drain").stdout == ""


@pytest.mark.parametrize("arguments", ["'{\"image_id\": 7}'", "--subject image/7", '\'{"image_id": 7, "more": 1}\''])
def test_arguments_that_fit_the_declared_class_are_dispatched(declared: Shop, arguments: str) -> None:
    done = declared.run(f"dispatch image.created {arguments}")

    assert (done.returncode, done.stderr) == (0, "")
    assert "made 7" in declared.run("drain").stdout


def test_what_was_dispatched_by_name_is_upcast_by_a_later_release(declared: Shop) -> None:
    release = """
import attrs
import relevo
@relevo.event("image.created", version=VERSION)
@attrs.frozen
class ImageCreated:
    SIZE: int
@relevo.listener(ImageCreated)
def hear(event):
    print(event)
"""
    later = "2, upcasters={1: lambda data: {'bytes': data['kilobytes'] * 1024}}"
    declared.write("shop_listeners.py", release.replace("VERSION", "1").replace("SIZE", "kilobytes"))

    done = declared.run("""dispatch image.created '{"kilobytes": 2}'""")
    declared.write("shop_listeners.py", release.replace("VERSION", later).replace("SIZE", "bytes"))
    drained = declared.run("drain")

    assert done.returncode == 0
    assert (drained.returncode, drained.stdout.splitlines()[0]) == (0, "ImageCreated(bytes=2048)")


def test_what_fits_the_declared_class_and_has_no_faithful_form_is_bad_data(declared: Shop) -> None:
    done = declared.run(f"dispatch image.created '{{\"image_id\": {2**70}}}'")

    assert (done.returncode, len(lines(done))) == (65, 1)
    assert "64 bit" in done.stderr


def test_an_event_that_no_class_is_declared_for_takes_any_arguments(declared: Shop) -> None:
    assert declared.run("""dispatch mail.sent '{"image_id": "seven"}'""").returncode == 0


def test_without_the_listeners_an_event_is_dispatched_unchecked_and_that_is_told(declared: Shop) -> None:
    declared.write("shop_listeners.py", "import nothing_like_that\n")

    done = declared.run("dispatch image.created")

    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert lines(done) == [
        "relevo: the arguments were not checked, since the listeners cannot be imported; see relevo check"
    ]


def test_an_event_has_the_terms_that_the_command_line_says(shop: Shop) -> None:
    shop.write("relevo.toml", '[transports]\nmain = "memory://"\n')
    shop.write(
        "terms.py",
        "import relevo\n"
        "from relevo_memory import MemoryTransport\n"
        "class Telling(MemoryTransport):\n"
        "    def send(self, envelopes, *, delay=0.0):\n"
        "        for each in envelopes: print(each.urgency, each.ordering_key, each.expires, delay)\n"
        "clock = relevo.testing.FakeClock(1000.0)\n"
        "app = relevo.App(transports={'main': Telling(clock=clock)}, routes={'*': 'main'}, clock=clock)\n",
    )

    done = shop.run("dispatch a.b -a terms:app --urgency high --ordering-key k --expires 1h --delay 5s")

    assert done.stdout.startswith("high k 4600.0 5.0\n")


def test_an_event_is_sent_to_the_targets_that_the_command_line_names(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION + '"fast.*" = "main/fast"\n')

    done = shop.run("dispatch mail.sent --to main/fast")
    both = shop.run("dispatch image.created --to main/media --to main/feed --json")
    now = shop.run("dispatch mail.sent --to now")

    assert (done.returncode, done.stdout.split()[1:], done.stderr) == (0, ["→", "main/fast"], "")
    assert json.loads(both.stdout)["targets"] == ["main/media", "main/feed"]
    assert now.stdout.split()[1:] == ["→", "now"]


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("mail.sent --to main/fats", 78, 'the queue \'fats\' of "main", so no worker serves it; did you mean "fast"?'),
        ("mail.sent --to ''", 2, "--to"),
        ("image.created --to main/feed", 78, "shop_listeners:thumbnails ("),
        ("mail.snet --to main/fast", 0, 'no listener here for "mail.snet" in main/fast; a worker retries it for 1 h'),
    ],
)
def test_what_cannot_be_sent_to_a_target_is_told(shop: Shop, command: str, code: int, told: str) -> None:
    shop.write("relevo.toml", CONFIGURATION + '"fast.*" = "main/fast"\n')

    done = shop.run(f"dispatch {command}")

    assert done.returncode == code
    assert told in done.stderr


def test_the_lines_of_a_file_are_sent_to_a_target_and_continued_only_there(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION + '"fast.*" = "main/fast"\n')
    shop.write("rows.jsonl", "{}\n{}\n")

    done = shop.run("dispatch mail.sent --lines rows.jsonl --resume position --to main/fast")
    elsewhere = shop.run("dispatch mail.sent --lines rows.jsonl --resume position")

    assert done.returncode == 0
    assert shop.run("status").stdout.split("fast")[1].split()[0] == "2"
    assert elsewhere.returncode == 2
    assert "main/fast" in elsewhere.stderr


# --- what is probably not meant ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("image.crated", 'main/media, main/feed{later}; did you mean "image.created" ({folder}/shop_listeners.py:4)?'),
        ("user.registered", "main/default{later}"),
        ("feed.read", "main/feed{later}"),
        ("image.created", ""),
        ("order.paid", ""),
    ],
)
def test_an_event_without_a_listener_is_sent_with_a_hint_unless_its_queue_is_of_another_program(
    name: str, told: str, shop: Shop
) -> None:
    shop.write("relevo.toml", CONFIGURATION + '"order.paid" = "main/orders"\n"feed.read" = "main/feed"\n')

    done = shop.run(f"dispatch {name}")

    later = "; a worker retries it for 1 h, then it is a dead letter"
    expected = f'relevo: no listener here for "{name}" in {told.format(later=later, folder=shop.folder)}\n'
    assert (done.returncode, done.stderr) == (0, expected if told else "")
    assert "→ main" in done.stdout


def test_an_application_that_only_dispatches_gets_no_warning(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"shop_listeners"', ""))

    assert shop.run("dispatch image.crated").stderr == ""


def test_a_drain_of_events_in_memory_says_that_there_are_none(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))

    done = shop.run("drain")

    assert (done.returncode, done.stdout) == (0, "")
    assert 'the transport "main" keeps events in the memory of the process that dispatched them' in done.stderr
    assert len(lines(done)) == 1


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("worker --max-time 0", "handle them in that process, or use another transport"),
        ("dispatch mail.sent", "so the event is lost when this command ends; use another transport"),
    ],
)
def test_a_command_that_shares_no_memory_with_other_processes_says_so(shop: Shop, command: str, remedy: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))

    done = shop.run(command)

    assert done.returncode == 0
    (line,) = lines(done)
    assert line.endswith(f"where no other process sees them; {remedy}")


@pytest.mark.parametrize("options", ["", "-t main", "-q media", "--json"])
@pytest.mark.parametrize("command", ["list", "status", "dead list"])
def test_a_command_that_shows_the_memory_of_its_own_process_says_so_once(
    shop: Shop, command: str, options: str
) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))

    done = shop.run(f"{command} {options}")

    assert done.returncode == 0
    (line,) = lines(done)
    assert line == (
        'relevo: the transport "main" keeps events in the memory of the process that dispatched them, where no other '
        "process sees them; look at them in that process, or use another transport"
    )
    if options == "--json":
        assert [row["ready"] for row in json.loads(done.stdout)] == ([0, 0, 0] if command == "status" else [])


@pytest.mark.parametrize("command", ["list", "list --by event", "dead list --by event", "status --max-ready 5"])
def test_each_way_to_show_the_memory_of_its_own_process_says_so(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"sqlite:///shop.db"', '"memory://"\nother = "memory://"'))

    done = shop.run(command)

    assert [line.partition(" keeps ")[0] for line in lines(done)] == [
        'relevo: the transport "main"',
        'relevo: the transport "other"',
    ]


@pytest.mark.parametrize("command", ["list", "status", "dead list"])
def test_a_command_that_shows_another_transport_says_nothing_of_memory(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("[routes]", 'other = "memory://"\n[routes]'))
    shop.run("setup")

    assert shop.run(f"{command} -t main").stderr == ""


@pytest.mark.parametrize("command", ["list", "status", "dead list"])
def test_a_process_with_events_in_its_memory_shows_them_without_a_warning(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))
    shop.write("shop.py", f"{APP}app.dispatch('mail.sent')\n")

    done = shop.run(command)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_check_warns_once_of_a_queue_in_which_no_listener_of_the_event_runs(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace('"*" =', '"mail.sent" = ["now", "main"]\n"*" ='))

    done = shop.run("check")

    (line,) = [each for each in done.stdout.splitlines() if '"mail.sent" is routed to main' in each]
    assert done.returncode == 0
    assert line.startswith('listeners       warning  "mail.sent" is routed to main/default, but no listener here runs')
    assert not [each for each in caplog.messages if "mail.sent" in each]
    assert line.endswith("or remove the target")


def test_events_on_a_disk_that_may_not_survive_a_crash_are_not_said_to_be_in_memory(shop: Shop) -> None:
    shop.write("relevo.toml", "")
    shop.write(
        "spool.py",
        "import attrs, relevo, relevo_sql, sqlalchemy\n"
        "class Spool(relevo_sql.SqlTransport):\n"
        "    capabilities = attrs.evolve(relevo_sql.SqlTransport.capabilities, durability='process')\n"
        "main = Spool(sqlalchemy.create_engine('sqlite:///spool.db'))\n"
        "app = relevo.App(transports={'main': main}, routes={'*': 'main'})\n"
        "@app.listener('mail.sent')\n"
        "def note(event): ...\n",
    )

    sent, worked, checked = (
        shop.run(f"{command} -a spool:app") for command in ("dispatch mail.sent", "worker --max-time 0", "check")
    )

    assert (sent.returncode, lines(sent)) == (0, [])
    assert (worked.returncode, lines(worked)) == (0, [])
    (line,) = [each for each in checked.stdout.splitlines() if "events of main" in each]
    assert line.endswith(
        'the transport "main" claims the durability "process": its events may end with the process that dispatched '
        "them, or with a crash of the host; use another transport"
    )


def test_a_check_warns_of_a_class_without_a_registered_instance(shop: Shop) -> None:
    shop.write(
        "shop_listeners.py",
        LISTENERS + "class Base:\n"
        '    @relevo.listener("mail.sent")\n'
        "    def note(self, event): ...\n\n"
        "    @staticmethod\n"
        '    @relevo.listener("mail.read", id="read")\n'
        "    def read(event): ...\n\n"
        "class Own(Base): ...\n\n"
        "class Forgotten(Base): ...\n\n"
        "own = Own()\n",
    )

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr, strict.returncode) == (0, "", 78)
    (line,) = [each for each in done.stdout.splitlines() if "no instance" in each]
    assert "warning  shop_listeners.Forgotten has listeners and no instance is registered; " in line


METRICS = """
import attrs, relevo

class Metrics:
    def __init__(self, prefix=""):
        self.prefix = prefix

    @relevo.hookimpl
    def relevo_around_settle(self, settlements): ...

@attrs.frozen
class ToldOptions:
    to: str

class Told:
    Options = ToldOptions

    def __init__(self, options):
        self._options = options

    @classmethod
    def open(cls, options, *, source, clock):
        return cls(options)

    @relevo.hookimpl
    def relevo_around_settle(self, settlements): ...

class OtherTold(Told): ...
"""
PLUGINS = CONFIGURATION.replace("listeners =", "plugins = {plugins}\nlisteners =")


@pytest.mark.parametrize(
    ("plugins", "own", "places"),
    [
        ('["shop_metrics:Metrics", "shop_again:Metrics"]', "", ['"shop_metrics:Metrics" (', '"shop_again:Metrics" (']),
        ('["shop_metrics:Metrics"]', "Metrics()", ['"shop_metrics:Metrics" (', "hooks.add() in ", "shop_own.py:3"]),
        ('["shop_metrics:Metrics"]', "Metrics('own')", []),
        (
            '{ mail = { to = "a@b.c" }, "relevo.ext.mail:Mail" = { to = "a@b.c" } }',
            "",
            ['"mail" (', '"relevo.ext.mail:Mail" ('],
        ),
        ('{ mail = { to = "a@b.c" }, "relevo.ext.mail:Mail" = { to = "d@b.c" } }', "", []),
        ('["shop_metrics:Metrics", "shop_metrics:Metrics"]', "", []),  # the name is one plugin
        ('{ "shop_metrics:Told" = { to = "a" }, "shop_again:Told" = { to = "b" } }', "", []),
        ('{ "shop_metrics:Told" = { to = "a" }, "shop_metrics:OtherTold" = { to = "a" } }', "", []),
        (
            '{ "shop_metrics:Told" = { to = "a" }, "shop_again:Told" = { to = "a" } }',
            "",
            ['"shop_metrics:Told" (', '"shop_again:Told" ('],
        ),
    ],
)
def test_a_check_warns_of_a_plugin_that_is_there_twice(shop: Shop, plugins: str, own: str, places: list[str]) -> None:
    shop.write("relevo.toml", PLUGINS.replace("{plugins}", plugins).replace('"shop_listeners"]', '"shop_own"]'))
    shop.write("shop_metrics.py", METRICS)
    shop.write("shop_again.py", "from shop_metrics import *\n")
    register = f"from shop import app\nfrom shop_metrics import Metrics\napp.hooks.add({own})\n" if own else ""
    shop.write("shop_own.py", register + LISTENERS)

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr) == (0, "")
    found = [each for each in done.stdout.splitlines() if "is there twice" in each]
    assert len(found) == bool(places)
    assert all(place in found[0] for place in places)
    assert ("is there twice" in strict.stderr) is bool(places)
    for line in found:
        assert line.startswith("plugins ")
        assert f"{shop.folder / 'relevo.toml'}:4)" in line


def test_a_check_warns_of_a_time_limit_that_is_not_enforced(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace("priority=3", 'time_limit="1s"'))

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr, strict.returncode) == (0, "", 78)
    assert "time limits     warning  shop_listeners:count: time_limit=1 s is not enforced inline; set " in done.stdout


@pytest.mark.parametrize(("source", "is_warned"), [('source = "shop"', False), ('source = "app"', True), ("", True)])
def test_a_check_warns_of_signatures_without_a_source(
    source: str,
    is_warned: bool,  # noqa: FBT001 - a parameter of pytest
    shop: Shop,
) -> None:
    signed = 'signing = "${KEY}"\n' + CONFIGURATION.replace('source = "shop"', source)
    shop.write("relevo.toml", signed)

    done, strict = (shop.run(command, KEY=KEY) for command in ("check", "check --strict"))

    assert (done.returncode, done.stderr) == (0, "")
    assert ('signing source  warning  the source is "app"' in done.stdout) is is_warned
    assert ('relevo: signing source: the source is "app"' in strict.stderr) is is_warned
    assert strict.returncode == 78


def test_a_check_warns_of_a_transport_without_dead_letters(shop: Shop) -> None:
    shop.write(
        "shop.py",
        "import attrs, relevo, relevo_sql\n"
        "class Plain(relevo_sql.SqlTransport):\n"
        "    capabilities = attrs.evolve(relevo_sql.SqlTransport.capabilities, dead_letters=False)\n"
        "app = relevo.App(transports={'main': Plain('sqlite:///shop.db')}, routes={'*': 'main'})\n",
    )

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr, strict.returncode) == (0, "", 78)
    assert 'events of main  warning  the transport "main" keeps no dead letters: an event that' in done.stdout
    assert 'relevo: events of main: the transport "main" keeps no dead letters' in strict.stderr


def test_a_check_warns_of_a_transport_that_no_other_process_sees(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION.replace("sqlite:///shop.db", "memory://"))

    done, strict = shop.run("check"), shop.run("check --strict")

    assert (done.returncode, done.stderr, strict.returncode) == (0, "", 78)
    assert "events of main  warning  the transport" in done.stdout
    assert "events of main" in strict.stderr


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("how", ["order.placed", "order.placed --lines rows.jsonl"])
def test_an_event_that_its_route_does_not_bring_to_a_listener_is_sent_with_a_warning(how: str, shop: Shop) -> None:
    routes = CONFIGURATION.partition("[routes]")[0] + '[routes]\n"ordr.*" = ["main", "main/search"]\n"*" = "main"\n'
    shop.write("relevo.toml", routes)
    shop.write(
        "shop_listeners.py",
        "import relevo\n"
        "@relevo.listener('order.placed')\ndef bill(event): ...\n"
        "@relevo.listener('order.placed', queue='search')\ndef index(event): ...\n",
    )
    shop.write("rows.jsonl", "{}\n{}\n")

    done = shop.process(f"relevo dispatch {how}")  # so that its log is on standard error

    assert (done.returncode, "main/default" in done.stdout) == (0, True)
    (told,) = lines(done)
    assert told.partition(" ")[2] == (
        'WARNING relevo.app: shop_listeners:index will not get this event: it runs in the queue "search", but '
        '"order.placed" is routed to main/default; write under [routes]: "order.placed" = ["main/default", '
        '"main/search"]'
    )
