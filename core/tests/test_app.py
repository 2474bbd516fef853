"""An application: its parts, setting it up, its configuration, its end."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

import relevo
from relevo import (
    App,
    Call,
    Envelope,
    Event,
    Execution,
    Retry,
    RunOptions,
    Subject,
    SubjectType,
    Target,
    TransportUnavailableError,
    listener,
)
from relevo._app.app import parts_of
from relevo._fork import ForkLock
from relevo.backend import SchemaUpgrade
from relevo.errors import ConfigurationError, PluginError, SubjectError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

from .application import Make, Plain, drain, waiting

KEY = "Vq3TnB7xZk9RwLf2HsJd8Mpy0123abcd"

# --- the parts fit together ---------------------------------------------------------------------------


def test_an_event_goes_where_its_route_says_and_is_handled_there(make: Make) -> None:
    heard: list[Event] = []

    @listener("image.created")
    def hear(event: Event) -> None:
        heard.append(event)

    app = make(hear)
    done = app.dispatch(Event("image.created", {"image_id": 7}))
    report = drain(app)

    assert done.targets == (Target("main", "default"),)
    assert heard == [Event("image.created", {"image_id": 7}, id=done.id)]
    assert (report.done, report.dead) == (1, 0)


def test_a_transport_is_called_what_the_application_calls_it(make: Make, clock: FakeClock) -> None:
    transport = MemoryTransport(clock=clock, name="something else")

    app = make(transports={"main": transport})

    assert transport.name == "main"
    assert app.transport() is app.transport("main") is transport


@pytest.mark.parametrize(
    "how, why",
    [
        (
            {"transports": {"main": 3}},
            "'main': expected an address such as sqlite:///shop.db, or a relevo.Transport such as .*; got int",
        ),
        ({"transports": {"now": MemoryTransport()}}, "transports: 'now' cannot be the name of a transport"),
        ({"transports": {"a/b": MemoryTransport()}}, "transports: 'a/b' cannot be the name of a transport"),
        ({"transports": {}}, "no transport is called 'main'"),
        ({"routes": {"*": "mian"}}, "no transport is called 'mian'; did you mean \"main\""),
        ({"routes": {"*": 3}}, 'expected a target, "transport", "transport/queue" or "now"; got 3'),
        ({"setup": "Auto"}, 'setup: expected "auto" or "explicit"'),
        ({"patience": "soon"}, "patience: expected seconds as a number, or text such as .*; got 'soon'"),
        ({"lease": -1}, "lease: expected 0 s or more; got -1"),
        ({"plugins": "shop.plugin"}, "plugins: expected a list; got the text"),
        ({"routes": {"*": "sync"}}, "no transport is called 'sync'; write \"now\""),
        ({"routes": {"*": "sync://"}}, '"transport/queue" or "now"; got \'sync://\'; write "now"'),
        ({"outboxes": {"mian": MemoryTransport()}}, 'outboxes: no transport is called "mian"; did you mean "main"'),
        (
            {"outboxes": {"main": "maim"}},
            "outboxes: 'main': expected an address such as .*, or the name of a transport; got 'maim'; did you mean",
        ),
        ({"outboxes": {"main": Plain()}}, "cannot join a session, so it cannot keep the events of"),
        ({"outboxes": "main"}, "outboxes: expected a mapping; got 'main'; write {key: value, …}"),
        ({"transports": None}, "transports: expected a mapping; got None"),
        ({"routes": 3}, "routes: expected a mapping; got 3"),
        ({"retries": [3]}, r"retries: expected a mapping; got \[3\]"),
        (
            {"plugins": ["mail"]},
            "plugins: expected an object or a module that has hooks; got the text 'mail'",
        ),
        ({"plugins": None}, "plugins: expected a list; got None"),
        ({"signing": b"x" * 40}, "signing: expected a key as text, or a list of keys; got bytes"),
        ({"signing": [KEY, 3]}, "signing: expected a key as text, or a list of keys; got int"),
        ({"signing": 3}, "signing: expected a key as text, or a list of keys; got int"),
        (
            {"execution": "thread"},
            "execution: expected inline, threads, process or async; got 'thread'; did you mean \"threads\"",
        ),
        ({"execution": 4}, r"execution: expected relevo\.Execution\(…\) or the name of its kind, .*; got 4"),
        ({"clock": 4}, r"clock: expected an object with now\(\), monotonic\(\) and sleep\(\); got 4"),
        ({"lock": 4}, "lock: expected a path as text or pathlib.Path; got 4"),
        ({"deploy": ["x"]}, r"deploy: expected a path as text or pathlib.Path; got \['x'\]"),
        ({"chance": 0.5}, "chance: expected a function; got 0.5"),
        ({"ids": "x"}, "ids: expected a function; got 'x'; pass the function itself"),
        ({"subjects": 3}, "subjects: expected a list; got 3; put it into a list"),
    ],
    ids=range(32),
)
def test_parts_that_do_not_fit_are_refused_at_once(make: Make, how: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        make(**how)


def test_all_that_does_not_fit_is_told_at_once(make: Make) -> None:
    transports = {"main": MemoryTransport(), "plain": Plain(), "box": Plain()}
    routes = {"a": "mian", "b": ["main", "plain"], "c": ["box", "main"]}

    with pytest.raises(ConfigurationError) as caught:
        make(transports=transports, outboxes={"box": Plain(name="file")}, routes=routes, retries={"main/x": 3})

    assert [line.partition(";")[0] for line in str(caught.value).splitlines()] == [
        'the outbox "file" cannot join a session, so it cannot keep the events of "box"',
        "routes.a: no transport is called 'mian'",
        'retries."main/x": nothing is routed to that queue',
    ]


def test_what_is_wrong_with_the_parts_one_by_one_is_told_with_the_rest(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(routes={"a*b": "main", "c": "mian", "d": []}, retries={"main/x": 3, "main/y": 0}, lease=0, setup="no")

    assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == {
        'routes."a*b"',
        "routes.c",
        "routes.d",
        'retries."main/y"',
        "lease",
        "setup",
    }


def test_an_invalid_policy_does_not_hide_that_nothing_leads_to_its_queue(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(retries={"mian/x": 0, "main/y": "often"})

    assert [line.partition("; ")[0] for line in str(caught.value).splitlines()] == [
        'retries."mian/x": Retry.runs: expected a whole number from 1',
        'retries."main/y": expected relevo.Retry(…) or a whole number',
        "retries.\"mian/x\": no transport is called 'mian'",
        'retries."main/y": nothing is routed to that queue',
    ]


async def _asynchronous(thing: object) -> None: ...


def test_where_listeners_run_can_be_said_by_itself(make: Make) -> None:
    assert make(execution="threads").execution == Execution("threads")


@pytest.mark.parametrize(
    "given, why",
    [
        (
            Plain,
            r"subjects: expected a relevo\.SubjectType; got <class '.*Plain'>; create .*relevo_sql\.orm_subject",
        ),
        ("image", "subjects: expected a relevo.SubjectType; got 'image'"),
        ({"type": 3}, "subjects: expected text such as image as type= of a SubjectType; got 3"),
        ({"cls": "Image"}, "subjects: expected a class as cls= of a SubjectType; got 'Image'"),
        (
            {"aliases": ["", 3]},
            r"subjects: expected earlier names, each a text, as aliases= of a SubjectType; got \('', 3\)",
        ),
        (
            {"name": "id"},
            "a function from an instance to its id as name= of a SubjectType; got 'id'",
        ),
        (
            {"load": None},
            "a function from an id to the instance as load= of a SubjectType; got None",
        ),
        *(
            ({name: _asynchronous}, f'subjects: the {name}= of the subject type "image" is async, and is not awaited')
            for name in ("name", "load", "release")
        ),
    ],
    ids=range(10),
)
def test_what_is_no_kind_of_subject_is_refused_where_it_is_registered(make: Make, given: Any, why: str) -> None:
    parts: dict[str, Any] = {"type": "image", "cls": Plain, "name": str, "load": str}
    kind = SubjectType(**{**parts, **given}) if isinstance(given, dict) else given

    with pytest.raises(SubjectError, match=why):
        make().add_subject(kind)
    with pytest.raises(SubjectError, match=why):
        make(subjects=[kind])


def test_the_source_is_checked_and_listeners_are_several() -> None:
    with pytest.raises(
        ConfigurationError, match=r"source: expected the application's name as text without spaces, .*; got 'my shop'"
    ):
        App(transports={}, routes={}, source="my shop")
    with pytest.raises(ConfigurationError, match=r"listeners: expected a list; got the text 'shop.listeners'"):
        App(transports={}, routes={}, listeners="shop.listeners")
    with pytest.raises(ConfigurationError, match=r"listeners: expected a list; got None; put it into a list"):
        App(transports={}, routes={}, listeners=None)  # type: ignore[arg-type]


def test_one_transport_has_one_name(make: Make) -> None:
    transport = MemoryTransport()

    with pytest.raises(
        ConfigurationError,
        match="'main': the same object is already a transport under another name; create a second one",
    ):
        make(transports={"main": transport, "other": transport})


def test_a_transport_is_chosen_by_name(make: Make) -> None:
    app = make(transports={"main": MemoryTransport(), "other": MemoryTransport()}, routes={"*": ["main", "other"]})

    assert app.transport("other").name == "other"
    with pytest.raises(ConfigurationError, match=r"there are several transports \(main, other\); choose one"):
        app.transport()
    with pytest.raises(
        ConfigurationError, match=r'no transport is called "othr"; did you mean "other"\?; there are: main, other'
    ):
        app.transport("othr")


def test_a_transport_that_is_only_an_outbox_need_not_be_chosen_from(make: Make) -> None:
    transports = {"db": MemoryTransport(), "main": Plain()}
    outboxes = {"main": transports["db"]}

    app = make(transports=transports, outboxes=outboxes, routes={"*": "main"})
    both = make(transports={**transports}, outboxes=outboxes, routes={"*": "main", "a.b": "db"})

    assert app.transport() is transports["main"]
    with pytest.raises(ConfigurationError, match=r"there are several transports \(db, main\); choose one"):
        both.transport()


def test_the_name_of_an_outbox_is_refused_with_what_to_write(make: Make) -> None:
    box = MemoryTransport(name="main.outbox")
    app = make(transports={"main": Plain()}, outboxes={"main": box}, routes={"*": "main"})

    with pytest.raises(ConfigurationError, match=r'"main.outbox" is the outbox of "main".*app\.outboxes\["main"\]$'):
        app.transport("main.outbox")

    assert app.outboxes["main"] is box


def test_a_transport_without_a_route_need_not_be_chosen_from(make: Make) -> None:
    transports = {"old": MemoryTransport(), "main": MemoryTransport(), "other": MemoryTransport()}

    one = make(transports=transports, routes={"*": "main"})
    none = make(transports=transports, routes={"*": "now"})

    assert one.transport() is transports["main"]
    assert one.transport("old") is transports["old"]
    with pytest.raises(ConfigurationError, match=r"there are several transports \(old, main, other\); choose one"):
        none.transport()


def test_keys_alone_are_enough_for_signing(make: Make) -> None:
    assert make(signing=KEY).signing == relevo.Signing(KEY)


def test_a_queue_has_a_policy_for_listeners_that_have_none(make: Make) -> None:
    runs: list[str] = []

    def fail(event: Event, call: Call) -> None:
        runs.append(call.listener_id)
        raise ValueError

    plain = listener("a.b", id="plain")(functools.partial(fail))
    own = listener("a.b", id="own", retry=1)(functools.partial(fail))
    app = make(plain, own, routes={"*": "main/media"}, retries={"main/media": Retry(3, first=0)})
    app.dispatch(Event("a.b"))
    app.worker(RunOptions(until_empty=True, settle=1)).run()

    assert sorted(runs) == ["own", "plain", "plain", "plain"]


@pytest.mark.parametrize(
    "retries, why",
    [
        ({"mian/media": 3}, r"""retries."mian/media": no transport is called 'mian'; did you mean "main"\?"""),
        (
            {"image.created": 3},
            'there are: main; name a queue, as in "main/media"; for one listener, use @relevo.listener',
        ),
        ({"main/a b": 3}, "cannot name a queue"),
        ({"main": "often"}, "expected relevo.Retry"),
        ({"main/mdia": 3}, "nothing is routed to that queue"),
    ],
)
def test_a_policy_of_no_queue_is_refused(make: Make, retries: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        make(retries=retries)


# --- setting up ---------------------------------------------------------------------------------------


class Counting(MemoryTransport):
    """It notes how it is set up, and fails as often as it is told."""

    failures = 0

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        self.__dict__.setdefault("setups", []).append((tuple(queues), dry_run))
        if self.failures:
            self.failures -= 1
            raise TransportUnavailableError(self.name, "no route to it")
        return super().setup(queues, dry_run=dry_run)


def test_what_is_missing_is_created_once_at_first_use(make: Make) -> None:
    transport = Counting()
    app = make(transports={"main": transport}, routes={"image.*": "main/media", "*": "main"})
    before = dict(transport.__dict__).get("setups")

    for _ in range(3):
        app.dispatch(Event("a.b"))

    assert before is None
    assert transport.__dict__["setups"] == [(("media", "default"), False)]


def test_setting_up_is_tried_again_after_it_failed(make: Make) -> None:
    transport = Counting()
    transport.failures = 1
    app = make(transports={"main": transport})

    with pytest.raises(TransportUnavailableError):
        app.dispatch(Event("a.b"))
    app.dispatch(Event("a.b"))

    assert waiting(app) == 1


class Slow(Counting):
    """Its setup takes until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        assert self.may_go_on.wait(60.0)
        return super().setup(queues, dry_run=dry_run)


@pytest.mark.parametrize(("failures", "waiting_events"), [(1, 0), (0, 4)])
def test_threads_that_wait_for_a_setup_share_its_end(make: Make, failures: int, waiting_events: int) -> None:
    transport = Slow()
    transport.failures = failures
    app = make(transports={"main": transport})
    errors: list[TransportUnavailableError] = []

    def dispatch() -> None:
        try:
            app.dispatch(Event("a.b"))
        except TransportUnavailableError as error:
            errors.append(error)

    threads = [threading.Thread(target=dispatch) for _ in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60.0
    while sum(_waits_for_a_lock(thread) for thread in threads) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    transport.may_go_on.set()
    for thread in threads:
        thread.join()

    assert len(transport.__dict__["setups"]) == 1
    assert [str(error) for error in errors] == ['the transport "main" is unavailable: no route to it'] * (4 * failures)
    assert waiting(app) == waiting_events


def _waits_for_a_lock(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is ForkLock.__enter__.__code__


def test_explicit_setup_only_looks_and_says_what_is_missing(make: Make) -> None:
    app = make(setup="explicit")

    with pytest.raises(
        ConfigurationError,
        match=r'"main" is not set up; run relevo setup, or set setup = "auto"; it lacks queue "default" in memory',
    ):
        app.dispatch(Event("a.b"))
    created = app.setup()
    app.dispatch(Event("a.b"))

    assert created == ['queue "default" in memory']
    assert waiting(app) == 1


def test_a_dry_run_tells_what_would_be_created_outboxes_included(make: Make) -> None:
    app = make(outboxes={"main": MemoryTransport(name="box")})

    assert app.setup(dry_run=True) == ['queue "default" in memory', 'queue "outbox/main" in memory']
    assert len(app.setup()) == 2
    assert app.setup() == []


class Aged(Counting, SchemaUpgrade):
    """A store that an older release has set up."""

    def upgrade(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        return [f"an upgrade for {', '.join(queues)}", *self.setup(queues, dry_run=dry_run)]

    def upgrade_script(self, queues: Sequence[str]) -> str:
        return ""


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_upgrade_is_asked_of_those_that_have_one_and_the_others_are_set_up(make: Make, *, dry_run: bool) -> None:
    transports = {"old": Aged(name="old"), "new": Counting(name="new")}
    app = make(transports=transports, routes={"*": ["old", "new"]})

    done = app.setup(upgrade=True, dry_run=dry_run)

    assert done == ["an upgrade for default", *['queue "default" in memory'] * 2]
    assert [each.__dict__["setups"] for each in transports.values()] == [[(("default",), dry_run)]] * 2


def test_nothing_is_upgraded_unless_that_is_asked(make: Make) -> None:
    app = make(transports={"main": Aged()})

    app.dispatch(Event("a.b"))

    assert app.setup() == []
    assert waiting(app) == 1


def test_what_can_be_set_up_is_although_a_server_is_down_and_every_failure_is_told(make: Make) -> None:
    transports = {"one": Counting(), "two": Counting(), "three": MemoryTransport()}
    boxes = {"one": MemoryTransport(name="one.outbox")}
    app = make(transports=transports, outboxes=boxes, routes={"a": "one", "b": "two", "c": "three"})
    transports["one"].__dict__["failures"] = transports["two"].__dict__["failures"] = 2

    with pytest.raises(TransportUnavailableError) as several:
        app.setup()
    transports["one"].__dict__["failures"] = 0
    with pytest.raises(TransportUnavailableError) as single:
        app.setup()

    assert str(several.value).splitlines() == [
        'the transport "one" is unavailable: no route to it',
        'the transport "two" is unavailable: no route to it',
    ]
    assert several.value.transport == "one"
    assert [str(each) for each in several.value.__dict__["errors"]] == str(several.value).splitlines()
    assert str(single.value) == 'the transport "two" is unavailable: no route to it'
    assert app.setup() == ['queue "default" in memory']


def test_what_the_program_must_mend_is_the_kind_of_an_error_that_tells_several(make: Make) -> None:
    class Unfit(MemoryTransport):
        def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
            raise ConfigurationError("the tables are of a newer release")

    down = Counting()
    down.failures = 1

    with pytest.raises(ConfigurationError, match=r"no route to it\nthe tables are of a newer release"):
        make(transports={"down": down, "unfit": Unfit()}, routes={}).setup()


def test_an_outbox_is_made_ready_although_its_server_is_down(make: Make) -> None:
    down, box = Counting(), MemoryTransport()
    app = make(transports={"main": down}, outboxes={"main": box})
    down.failures = 1

    with pytest.raises(TransportUnavailableError, match="no route to it"):
        app.prepare("main")

    assert box.setup(["outbox/main"], dry_run=True) == []
    app.prepare("main")
    assert len(down.__dict__["setups"]) == 2


def test_closing_closes_every_transport_even_if_one_fails() -> None:
    class Failing(MemoryTransport):
        def close(self) -> None:
            super().close()
            raise TransportUnavailableError(self.name, "gone")

    transports = {"a": Failing(), "b": Failing(), "c": MemoryTransport()}

    with pytest.raises(TransportUnavailableError), App(transports=transports, routes={}):
        pass

    for transport in transports.values():
        with pytest.raises(relevo.TransportClosedError):
            transport.stats("default")


# --- from configuration -------------------------------------------------------------------------------


def test_an_application_comes_from_configuration(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "relevo.toml"
    path.write_text(
        'source = "shop"\nlease = "5s"\n[transports]\nmain = "memory://"\nbox = {url = "memory://", outbox = "main"}\n'
    )

    with App.from_config(path, environ={"RELEVO_ROUTES": '{"*" = "main/media"}'}, clock=clock) as app:
        app.dispatch(Event("a.b"))

        (delivery,) = app.transport("main").receive(["media"], limit=1, lease=1.0, wait=0.0)
        assert isinstance(delivery.envelope, Envelope)
        assert delivery.envelope.source == "shop"
        assert app.outboxes == {"box": app.transport("main")}
        config = parts_of(app).config
        assert config is not None
        assert config.path == path


def test_a_class_of_its_own_comes_from_configuration_too(tmp_path: Path) -> None:
    path = tmp_path / "relevo.toml"
    path.write_text('[transports]\nmain = "memory://"\n')

    class Shop(App):
        pass

    with Shop.from_config(path, environ={}) as app:
        assert type(app) is Shop


def test_signing_and_retries_come_from_configuration(tmp_path: Path) -> None:
    tmp_path.joinpath("relevo.toml").write_text(
        f'signing = ["{KEY}", "{KEY[::-1]}"]\n[transports]\nmain = "memory://"\n[retries]\n"main" = 7\n'
    )

    with App.from_config(tmp_path / "relevo.toml", environ={}) as app:
        app.dispatch(Event("a.b"))
        (one,) = app.transport().receive(["default"], limit=1, lease=60.0, wait=0.0)

    assert app.signing is not None
    assert app.signing.required
    assert len(app.signing.keys) == 2
    assert isinstance(one.envelope, Envelope)
    app.signing.verify(one.envelope, queue="default", source="app")
    assert app.retries[Target("main")].runs == 7


def test_everything_goes_to_the_first_transport_if_no_route_is_said(tmp_path: Path) -> None:
    (tmp_path / "relevo.toml").write_text('[transports]\nmain = "memory://"\n')

    with App.from_config(str(tmp_path / "relevo.toml"), environ={}) as app:
        assert app.routes.targets("anything") == (Target("main"),)


def test_plugins_are_imported_and_one_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "enriching_plugin.py").write_text(
        "import relevo\n@relevo.hookimpl\ndef relevo_enrich(event): return {'by': 'plugin'}\n"
    )
    (tmp_path / "relevo.toml").write_text('plugins = ["enriching_plugin"]\n[transports]\nmain = "memory://"\n')

    with App.from_config(tmp_path / "relevo.toml", environ={}) as app:
        assert app.hooks.enrichment(Event("a.b")) == {"by": "plugin"}
    with pytest.raises(ConfigurationError, match='plugins: there is no module "no_plugin"'):
        App.from_config(tmp_path / "relevo.toml", environ={"RELEVO_PLUGINS": "no_plugin"})


def test_opening_an_application_imports_no_listener_and_connects_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "relevo.toml").write_text(
        'listeners = ["no.such.module"]\n[transports]\nmain = "sqlite:///nowhere/x.db"\n'
    )

    with App.from_config(tmp_path / "relevo.toml", environ={}):
        assert list(tmp_path.iterdir()) == [tmp_path / "relevo.toml"]


# --- what importing costs -----------------------------------------------------------------------------

UNWANTED = [
    "asyncio",
    "click",
    "pathlib",
    "pika",
    "random",
    "rich",
    "sqlalchemy",
    "stevedore",
    "tomllib",
    "urllib.parse",
]


@pytest.mark.lengthy("starts processes")
def test_importing_relevo_and_dispatching_in_memory_loads_nothing_that_is_not_needed() -> None:
    program = """
import sys
import attrs, pluggy, msgspec
before = set(sys.modules)
import relevo
relevo.App
print(*sorted(set(sys.modules) - before))
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert [name for name in UNWANTED if name in done.stdout.split()] == []


def test_subjects_that_are_objects_are_named_and_loaded(make: Make) -> None:
    @attrs.frozen
    class Image:
        id: int

    found: list[object] = []

    @listener("image.created")
    def look(event: Event, call: Call) -> None:
        found.extend([event.subject, call.subject])

    app = make(look)
    app.add_subject(
        SubjectType(type="image", cls=Image, name=lambda image: str(image.id), load=lambda name: Image(int(name)))
    )
    app.dispatch(Event("image.created", subject=Image(7)))
    drain(app)

    assert found == [Subject("image", "7"), Image(7)]


def test_a_subject_of_a_type_that_looks_like_a_slip_is_dispatched_and_told_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    image = SubjectType(type="image", cls=dict, name=lambda _: None, load=lambda _: None)
    app = make(subjects=[image])

    for kind in ("imgae", "imgae", "image", "order"):
        app.dispatch(Event("a.b", subject=Subject(kind, "1")))
    make().dispatch(Event("a.b", subject=Subject("imgae", "1")))

    assert waiting(app) == 4
    assert [each.getMessage() for each in caplog.records] == [
        "an event has a subject of the type 'imgae', which is not registered; did you mean \"image\"?"
    ]


def test_a_relay_is_there_where_an_outbox_is(make: Make) -> None:
    assert make().relay("main") is None
    assert make(outboxes={"main": MemoryTransport(name="box")}).relay("main") is not None


# --- closing ------------------------------------------------------------------------------------------


def test_a_plugin_is_told_around_the_close_and_one_that_fails_keeps_no_transport_open() -> None:
    said: list[str] = []

    class Said(MemoryTransport):
        def close(self) -> None:
            said.append("closed")
            super().close()

    class Watching:
        @relevo.hookimpl
        @contextlib.contextmanager
        def relevo_around_close(self) -> Iterator[None]:
            said.append("before")
            yield
            said.append("after")

    class Failing:
        @relevo.hookimpl
        def relevo_around_close(self) -> None:
            raise OSError("disk full")

    class Wrapping:
        @relevo.hookimpl(wrapper=True)
        def relevo_around_close(self) -> Iterator[None]:
            return (yield)

    def app(*plugins: object) -> App:
        return App(transports={"main": Said()}, routes={"*": "main"}, plugins=plugins)

    app(Watching(), Failing()).close()
    with pytest.raises(PluginError, match="return a context manager"):
        app(Wrapping()).close()

    assert said == ["before", "closed", "after", "closed"]
