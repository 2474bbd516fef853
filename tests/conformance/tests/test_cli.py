"""What the command line is asked, says, and ends with."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree as ET

import pytest

from relevo import Ack, Envelope
from relevo_conformance import PROMISES, cli, dump, history
from relevo_memory import MemoryTransport

from . import forked
from .memory import MemoryHarness

Answer = subprocess.CompletedProcess[str]
Ask = Callable[..., Answer]

STRANGERS = '''
import os
import signal
import subprocess
import sys
from threading import Event, Thread
from typing import ClassVar

import pytest

from relevo import Capabilities, Transport
from relevo.errors import TransportUnavailableError
from relevo_conformance import Harness
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory.conformance import MemoryHarness


class BriefHarness(MemoryHarness):
    """As if each call took time, so that the suite plays few histories and no rows of the table of pairs."""

    is_prompt = False
    is_durable = True


class CountsReleases(MemoryTransport):
    """Counts what is given back unstarted as an attempt."""

    def settle(self, settlements):
        from relevo import Nack, Release
        return super().settle([(one, Nack() if isinstance(out, Release) else out) for one, out in settlements])


class BrokenHarness(MemoryHarness):
    transport = CountsReleases


class SkipsOne(MemoryTransport):
    """Leaves the first dead letter of each further page out."""

    def dead_letters(self, queues, *, after=None, limit=100):
        found = super().dead_letters(queues, after=after, limit=limit + 1)
        return (found[1:] if after and len(found) > 1 else found)[:limit]


class SkipsOneHarness(BriefHarness):
    transport = SkipsOne


class CountsEverywhere(MemoryTransport):
    """Counts receives, of all queues since its harness was opened, as dead letters of each."""

    receives = 0

    def receive(self, *args, **options):
        type(self).receives += 1
        return super().receive(*args, **options)

    def stats(self, queue):
        from attrs import evolve
        return evolve(super().stats(queue), dead=max(0, self.receives - 30))


class CountsEverywhereHarness(MemoryHarness):
    transport = CountsEverywhere

    def __init__(self):
        super().__init__()
        CountsEverywhere.receives = 0


class BareHarness(Harness):
    """Has what every harness has, and a hook that is for nothing."""

    transport = MemoryTransport
    store = MemoryStore()

    def open(self):
        return MemoryTransport(self.store, clock=self.clock)

    def kill(self, transport):
        pass


class Away(MemoryTransport):
    def setup(self, queues, *, dry_run=False):
        raise TransportUnavailableError("away", "nobody answers")


class Fails(MemoryTransport):
    def receive(self, *args, **options):
        raise TransportUnavailableError("fails", "nobody answers")


class FailsHarness(MemoryHarness):
    transport = Fails


class Forgets(MemoryTransport):
    def receive(self, *args, **options):
        return []


class ForgetsHarness(MemoryHarness):
    transport = Forgets


class AwayHarness(MemoryHarness):
    """Drives what cannot be reached, and cannot be cleaned up then."""

    transport = Away

    def open(self):
        return Away(MemoryStore(), clock=self.clock)

    def drop(self, queue):
        raise ConnectionError("no queue to drop")

    def close(self):
        raise ConnectionError("nothing to close")


class MissingHarness(MemoryHarness):
    def __init__(self):
        pytest.skip("there is no server here")


class Noisy(MemoryTransport):
    def receive(self, *args, **options):
        print("I receive")
        os.write(1, b"I write")
        subprocess.run(["echo", "so does my child"])
        Thread(target=lambda: 1 / 0).start()
        return super().receive(*args, **options)


class NoisyHarness(BriefHarness):
    transport = Noisy

class SpoilsHarness(BrokenHarness):
    """Puts files where folders are wanted, when all was begun."""

    def close(self):
        for name in ("out", "kept"):
            open(name, "w").close()


class Closing(MemoryTransport):
    """Closes what it prints to, and stops the clock."""

    def receive(self, *args, **options):
        import time
        sys.stdout.close()
        time.monotonic = None
        return super().receive(*args, **options)


class ClosingHarness(MemoryHarness):
    transport = Closing


class Forks(MemoryTransport):
    """Leaves a process behind."""

    def receive(self, *args, **options):
        if not os.environ.get("FORKED"):
            os.environ["FORKED"] = "1"
            if os.fork() == 0:
                import threading
                threading.Event().wait(1200)
                os._exit(0)
        return super().receive(*args, **options)


class ForksHarness(BriefHarness):
    transport = Forks


class EndsIt(MemoryTransport):
    def receive(self, *args, **options):
        os._exit(0)


class EndsItHarness(MemoryHarness):
    transport = EndsIt


class Killed(MemoryTransport):
    def receive(self, *args, **options):
        os.killpg(0, signal.SIGKILL)


class KilledHarness(MemoryHarness):
    transport = Killed


class CrashesHarness(MemoryHarness):
    def open(self):
        os.abort()


class UnsureHarness(BriefHarness):
    @classmethod
    def may_run_beside(cls):
        raise RuntimeError("I cannot tell")


FIRST = os.getpid()


class CompanionEndsIt(MemoryTransport):
    """Ends its process with the code in ENDS, but not the first one that runs tests, which waits for that."""

    def receive(self, *args, **options):
        while os.getpid() == FIRST and not os.path.exists("ended"):
            pass
        if os.getpid() != FIRST:
            open("ended", "w").close()
            ends = int(os.environ["ENDS"])
            if ends >= 0:
                os._exit(ends)
            os.kill(os.getpid(), -ends)
            Event().wait(60)  # the signal may end another thread first
        return super().receive(*args, **options)


class CompanionEndsItHarness(BriefHarness):
    transport = CompanionEndsIt

thing = 3
'''

SHORT = ("--only", "limit-is-respected")
BRIEF = "strangers:BriefHarness"
"""A harness of the memory transport for tests that need a run to its end, but not all that it tries."""


@pytest.fixture(name="environment")
def _environment(tmp_path: Path) -> Mapping[str, str]:
    """Write the strangers into the folder, and return the environment to ask in."""
    (tmp_path / "strangers.py").write_text(STRANGERS)
    return {name: value for name, value in os.environ.items() if name != "RELEVO_CONFORMANCE_PROFILE"}


@pytest.fixture(name="ask")
def _ask(tmp_path: Path, environment: Mapping[str, str]) -> Ask:
    def ask(*words: str, environ: Mapping[str, str] = MappingProxyType({})) -> Answer:
        return forked.run(words, cwd=tmp_path, env={**environment, **environ})

    return ask


@pytest.fixture(name="start")
def _start(tmp_path: Path, environment: Mapping[str, str]) -> Ask:
    """Give a way to ask the installed program itself, with pipes for its output."""

    def start(*words: str, timeout: float | None = None) -> Answer:
        return subprocess.run(
            [Path(sys.executable).with_name("relevo-conformance"), *words],
            cwd=tmp_path,
            env=environment,
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
        )

    return start


# --- usage -----------------------------------------------------------------------------------------


def test_list_names_the_harnesses_that_are_installed(start: Ask) -> None:
    listed = start("list")

    assert listed.returncode == 0
    assert {"memory", "sql", "amqp"} <= {line.split()[0] for line in listed.stdout.splitlines()[1:]}


def test_list_of_a_type_tells_its_options_and_what_it_promises(ask: Ask) -> None:
    listed = ask("list", "amqp")

    assert listed.returncode == 0
    assert "--option prefetch=…" in listed.stdout
    assert [promise for promise in PROMISES if promise not in listed.stdout] == []
    assert "not claimed" in listed.stdout


def test_a_dry_run_names_the_tests_and_runs_none(ask: Ask) -> None:
    listed = ask("run", "strangers:Away", *SHORT, "--list")

    assert listed.returncode == 0
    assert "test_random_histories_keep_every_promise  all promises" in listed.stdout
    assert "tests of 1 promises" in listed.stdout
    assert "close-is-idempotent" not in listed.stdout


@pytest.mark.parametrize(
    "words, told",
    [
        (["memroy"], 'no harness and no transport is called "memroy"; did you mean "memory"?'),
        (["memory", "--option", "url=x"], 'MemoryHarness takes no option "url"; it takes none'),
        (["amqp", "--option", "prefech=1"], 'did you mean "prefetch"?'),
        (["amqp", "--option", "prefetch=many"], 'prefetch cannot be "many"'),
        (["amqp", "--option", "prefetch"], "not of the form name=value"),
        (["memory", "--only", "ack-is-finl"], 'did you mean "ack-is-final"?'),
        (["memory", "--report", "card.txt"], "card.txt must end with one of .json, .xml, .md"),
        (["memory", "--report", ","], "expected at least one file"),
        (["memory", "--only", ","], "expected at least one promise"),
        (["memory", "--seed", "abc"], "'--seed': \"abc\" must be a whole number, 0 or more, such as 42"),
        (["memory", "--seed", "-1"], '"-1" must be a whole number'),
        (["memory", "--report", "/proc/x/card.md"], "--report: /proc/x/card.md cannot be written: "),
        (["memory", "--report", "folder.md"], "--report: folder.md cannot be written: Is a directory"),
        (["memory", "--report", "strangers.py/card.md"], "--report: strangers.py/card.md cannot be written: "),
        (["memory", "--histories", "/proc/x"], "--histories: /proc/x cannot be written: "),
        (["memory", "--replay", "strangers.py", "--json"], "leave --json and --report out"),
        (["memory", "--replay", "strangers.py", "--report", "card.md"], "leave --json and --report out"),
        (["memory", "--replay", "strangers.py"], "strangers.py is not a recorded history"),
        (["memory", "--against", "sql"], "name one with --replay FILE"),
        (["memory", "--profile", "hasty"], "'hasty' is not one of"),
        (["strangers:Nobody"], "strangers:Nobody cannot be imported"),
        (["strangers:thing"], "strangers:thing is neither a Harness nor a Transport"),
        (["strangers:Noisy", "--option", "colour=red"], 'takes no option "colour"'),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_hint(ask: Ask, words: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "folder.md").mkdir()
    before = sorted(tmp_path.iterdir())

    refused = ask("run", *words, environ={"RELEVO_TEST_AMQP": "amqp://127.0.0.1:1"})

    assert refused.returncode == 2
    assert told in refused.stderr
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr
    assert sorted(one for one in tmp_path.iterdir() if one.name != "__pycache__") == before


@pytest.mark.parametrize(
    "words, told",
    [
        (["amqp", "--option", "url=amqp://me:secret@127.0.0.1:1"], "127.0.0.1:1"),
        (["amqp", "--option", "url=amqp://127.0.0.1:1"], "Connection refused"),
        (["strangers:MissingHarness"], "there is no server here"),
        (["strangers:Away"], "nobody answers"),
        (["strangers:AwayHarness"], "nobody answers"),
    ],
)
def test_a_server_that_is_not_there_is_said_to_be_missing(ask: Ask, words: list[str], told: str) -> None:
    missing = ask("run", *words)

    assert missing.returncode == 69
    assert told in missing.stderr
    assert "secret" not in missing.stderr
    assert missing.stdout == ""


LOADED = {
    "raising": ("raise RuntimeError('at import')", "RuntimeError: at import", 1),
    "unreadable": ("def (", "SyntaxError: invalid syntax", 1),
    "leaving": ("import sys\nsys.exit(0)", "SystemExit: 0", 1),
    "needy": ("import nothing_of_the_kind", "No module named 'nothing_of_the_kind'", 1),
    "empty": ("", "has no attribute 'Any'", 0),
}


@pytest.mark.parametrize("module", LOADED)
def test_what_cannot_be_imported_is_refused_with_the_traceback_of_its_own_code(
    ask: Ask, module: str, tmp_path: Path
) -> None:
    source, told, shown = LOADED[module]
    (tmp_path / f"{module}.py").write_text(source)

    refused = ask("run", f"{module}:Any")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"relevo-conformance: {module}:Any cannot be imported: ")
    assert told in refused.stderr.splitlines()[0]
    assert ("line " in refused.stderr) == bool(shown)
    assert "importlib" not in refused.stderr
    assert "relevo_conformance/" not in refused.stderr


@pytest.mark.parametrize("kind", [":", ":Any", ".:Any", "strangers:", "strangers:a b"])
def test_what_is_no_place_of_a_class_is_refused(ask: Ask, kind: str) -> None:
    refused = ask("run", kind)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f'relevo-conformance: "{kind}" is not of the form module:Class\n'


ANNOUNCED = {
    "absent": ("strangers:Nobody", "has no attribute 'Nobody'"),
    "odd": ("this is no entry", 'is announced as "this is no entry", which is not of the form module:Class'),
    "raises": ("raising:Any", "RuntimeError: at import"),
}


@pytest.mark.parametrize("name", ANNOUNCED)
def test_what_is_announced_and_cannot_be_loaded_is_refused_with_who_announced_it(
    ask: Ask, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "stranger-1.0.dist-info"
    folder.mkdir()
    (tmp_path / "raising.py").write_text("raise RuntimeError('at import')")
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    lines = "\n".join(f"{one} = {value}" for one, (value, _) in ANNOUNCED.items())
    (folder / "entry_points.txt").write_text(f"[relevo.harnesses]\n{lines}\n")

    refused = ask("run", name)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "stranger 1.0" in refused.stderr.splitlines()[0]
    assert ANNOUNCED[name][1] in refused.stderr.splitlines()[0]
    assert ask("list").returncode == 0


@pytest.mark.parametrize(
    "body, told",
    [
        ("class Any(MemoryTransport):\n    Options = int", "Any.Options must be an attrs class"),
        ("class Any(MemoryTransport):\n    Options = None", "Any.Options must be an attrs class"),
        (
            "@attrs.frozen\nclass Odd:\n    url: 'Nowhere'\nclass Any(MemoryTransport):\n    Options = Odd",
            "name 'Nowhere' is not defined",
        ),
        ("class Any(Harness):\n    open = kill = None", "transport must be the class that is tested; got None"),
        ("class Any(MemoryHarness):\n    call_timeout = 'x'", "call_timeout is 'x'; expected a number of seconds"),
        (
            "class Any(MemoryHarness):\n    call_timeout = 0",
            "is 0; expected a number of seconds above 0 and up to",
        ),
        ("class Any(MemoryHarness):\n    patience = float('inf')", "patience is inf; expected None or a number"),
        ("class Any(MemoryHarness):\n    slack = 1e9", "slack is 1000000000.0; expected a number of seconds from 0"),
        ("class Any(MemoryHarness):\n    slack = float('nan')", "slack is nan; expected a number"),
        ("class Any(MemoryHarness):\n    slack = True", "slack is True; expected a number"),
        (
            "@attrs.frozen\nclass Odd:\n    url: str\n    folder: str\nclass Any(MemoryTransport):\n    Options = Odd",
            'Odd: expected the options "url" and "folder"; pass --option url=… --option folder=…',
        ),
        (
            "class Any(MemoryHarness):\n    deviations = {'nobody-starves': 'because'}",
            'deviations["nobody-starves"] must',
        ),
    ],
)
def test_what_a_class_says_of_itself_and_cannot_be_meant_is_refused(
    ask: Ask, body: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(
        "import attrs\n"
        "from relevo_conformance import Harness\n"
        "from relevo_memory import MemoryTransport\n"
        "from relevo_memory.conformance import MemoryHarness\n"
        f"{body}\n"
    )

    refused = ask("run", "odd:Any")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert told in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


# --- the card --------------------------------------------------------------------------------------


@pytest.mark.slow("shrinks failures, and replays one on two transports")
def test_a_broken_transport_gets_a_card_that_shows_how_it_is_broken_and_how_to_see_it_again(
    ask: Ask, tmp_path: Path
) -> None:
    broken = ask(
        "run",
        "strangers:BrokenHarness",
        *("--only", "release-counts-nothing,lost-leases-are-counted", "--seed", "3"),
        *("--report", "out/card.md,out/junit.xml", "--report", "out/result.json"),
    )

    assert broken.returncode == 1
    assert [line.split()[0] for line in broken.stderr.splitlines()] == ["FAIL"] * broken.stderr.count("\n")
    assert "  test_random_histories_keep_every_promise  " in broken.stderr
    assert "A released event is delivered again as if it had never been handed out." in broken.stdout
    assert "state = BrokenMachine()" not in broken.stdout
    assert (
        "--replay relevo-conformance/strangers-BrokenHarness-random_histories_keep_every_promise.jsonl" in broken.stdout
    )
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["verdict"], result["seed"]) == ("not conformant", 3)
    assert "  worker 1: send(" in (tmp_path / "out" / "card.md").read_text().replace("\n", "\n  ")
    failed = [line for line in result["promises"] if line["status"] == "FAIL"]
    told = ET.parse(tmp_path / "out" / "junit.xml").getroot().get("failures")  # noqa: S314 - written here
    assert told == str(len(failed))
    failures = [failure for line in failed for failure in line["failures"] if failure["shrunk"]]
    (shortest,) = failures  # of either promise: shrinking may pass from one to the other
    operations = [line.partition("(")[0].partition(": ")[2] for line in shortest["program"].splitlines()]
    aside = ("", "open", "set_up", "make", "end_transaction", "break")  # "": the remarks on time
    first, *others = (operation for operation in operations if operation not in aside)
    assert first in ("send", "put_raw", "send_bound")
    assert others == ["receive", "settle", "receive"]
    words = shlex.split(shortest["replay"])
    again = ask(*words[1:])
    elsewhere = ask(*words[1:], "--against", "memory")
    assert (again.returncode, elsewhere.returncode) == (1, 0), again.stderr + elsewhere.stderr
    assert "-count" in again.stdout
    assert "memory keeps them" in elsewhere.stdout


def test_a_scenario_that_fails_says_what_it_compared_and_keeps_its_history(ask: Ask, tmp_path: Path) -> None:
    broken = ask("run", "strangers:SkipsOneHarness", "--only", "dead-is-kept-with-reason", "--json")

    (line,) = json.loads(broken.stdout)["promises"]
    scenarios = {
        "test_dead_letters_come_page_by_page_without_gap_or_repetition",
        "test_pages_go_on_after_a_dead_letter_that_was_discarded",
    }
    assert {failure["test"] for failure in line["failures"]} >= scenarios
    for failure in line["failures"]:
        if failure["test"] not in scenarios:
            continue
        assert (
            "AssertionError: dead-is-kept-with-reason: assert " in failure["what"] or "is dead but " in failure["what"]
        )
        assert (tmp_path / failure["written"]).stat().st_size > 0
        again = ask(*shlex.split(failure["replay"])[1:])
        assert again.returncode == 1, again.stdout


def test_the_command_that_is_told_breaks_the_promise_again_also_where_the_history_alone_does_not(ask: Ask) -> None:
    broken = ask("run", "strangers:CountsEverywhereHarness", "--only", "stats-are-true-at-rest", "--json")

    (line,) = json.loads(broken.stdout)["promises"]
    alone = [failure for failure in line["failures"] if not failure["replays"]]
    assert alone
    assert all("--replay" not in failure["replay"] for failure in alone)
    assert ask(*shlex.split(alone[0]["replay"])[1:]).returncode == 1


def test_what_there_is_no_time_to_run_again_is_not_said_to_keep_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    def again() -> bool | None:
        return cli._Again(MemoryHarness, MemoryTransport.capabilities).breaks("ack-is-final", [])

    assert again() is False

    monkeypatch.setattr(cli, "_RUN_AGAIN", 0.0)

    assert again() is None


def test_what_breaks_another_promise_than_the_one_looked_at_is_shown_as_such(ask: Ask) -> None:
    broken = ask("run", "strangers:BrokenHarness", "--only", "nack-returns-later", "--no-shrink", "--json")

    assert broken.returncode == 1
    card = json.loads(broken.stdout)
    lines = {line["id"]: line["status"] for line in card["promises"]}
    assert lines["nack-returns-later"] in ("PASS", "FAIL")
    assert lines["release-counts-nothing"] == "FAIL"
    assert (card["verdict"], card["errors"]) == ("not conformant", [])


def test_the_card_is_shown_even_if_what_is_kept_of_it_cannot_be_written_any_more(ask: Ask) -> None:
    words = ("--only", "release-counts-nothing", "--report", "out/card.md", "--histories", "kept")

    spoilt = ask("run", "strangers:SpoilsHarness", *words)

    assert spoilt.returncode == 1
    assert "FAIL  release-counts-nothing" in spoilt.stdout
    assert "relevo-conformance: out/card.md cannot be written: " in spoilt.stderr
    assert "relevo-conformance: kept/" in spoilt.stderr


@pytest.mark.slow("runs random histories")
def test_what_a_harness_has_no_hook_for_is_unknown_and_so_is_the_verdict(ask: Ask) -> None:
    bare = ask("run", "strangers:BareHarness", "--only", "malformed-is-quarantined,limit-is-respected", "--json")

    assert bare.returncode == 3
    card = json.loads(bare.stdout)
    assert (card["verdict"], card["errors"]) == ("unknown", [])
    assert {line["id"]: line["status"] for line in card["promises"]} == {
        "limit-is-respected": "PASS",
        "malformed-is-quarantined": "UNKNOWN",
    }
    assert "put_raw" in next(line["why"] for line in card["promises"] if line["status"] == "UNKNOWN")


@pytest.mark.slow("runs random histories")
def test_what_a_transport_prints_does_not_get_into_the_json(start: Ask) -> None:
    noisy = start("run", "strangers:NoisyHarness", *SHORT, "--json", "--jobs", "1")

    assert noisy.returncode == 0
    card = json.loads(noisy.stdout)
    assert (card["verdict"], card["only"]) == ("conformant in part", ["limit-is-respected"])
    assert noisy.stderr.count("Traceback") == 3
    assert noisy.stderr.count("they are not shown") == 1


def test_what_a_transport_does_to_the_standard_streams_and_the_clock_does_not_cost_the_card(start: Ask) -> None:
    closing = start("run", "strangers:ClosingHarness", *SHORT, "--json")

    assert "Traceback" not in closing.stderr
    assert json.loads(closing.stdout)["promises"]


def test_a_url_of_no_database_is_a_wrong_use_and_not_a_fault_of_the_harness(ask: Ask) -> None:
    refused = ask("run", "sql", "--option", "url=foo://user:secret@x")

    assert refused.returncode == 2
    assert "foo://" in refused.stderr
    assert "secret" not in refused.stderr
    assert "Harness" not in refused.stderr


def test_a_process_that_a_transport_forks_ends_with_the_run(start: Ask) -> None:
    forked = start("run", "strangers:ForksHarness", *SHORT, "--no-shrink", timeout=600)

    assert forked.returncode == 0, "and nobody holds the output open any more"


@pytest.mark.parametrize(
    "kind, code, told",
    [
        ("strangers:EndsItHarness", 1, "ended with exit code 0, in test_"),
        ("strangers:KilledHarness", 3, "ended by SIGKILL, in test_"),
        ("strangers:CrashesHarness", 1, "ended by SIGABRT, while it was opened"),
        ("ending", 2, "ended with exit code 0 while TYPE was loaded"),
    ],
)
def test_what_ends_the_process_does_not_pass(start: Ask, kind: str, code: int, told: str, tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text("import os\nos._exit(0)\n")

    ended = start("run", f"{kind}:Any" if kind == "ending" else kind, *SHORT)

    assert (ended.returncode, ended.stdout) == (code, "")
    assert told in ended.stderr


@pytest.mark.parametrize(
    "ends, code, told",
    [
        (0, 1, "ended with exit code 0, in test_"),
        (7, 1, "ended with exit code 7, in test_"),
        (-signal.SIGABRT, 1, "ended by SIGABRT, in test_"),
        (-signal.SIGKILL, 3, "ended by SIGKILL, in test_"),
    ],
)
def test_what_ends_a_process_beside_the_first_one_does_not_pass(
    start: Ask, environment: dict[str, str], ends: int, code: int, told: str
) -> None:
    environment["ENDS"] = str(ends)

    ended = start("run", "strangers:CompanionEndsItHarness", *SHORT, "--jobs", "2")

    assert (ended.returncode, ended.stdout) == (code, "")
    assert told in ended.stderr


def test_an_error_that_no_test_expects_is_not_said_to_break_a_promise(ask: Ask) -> None:
    failed = ask("run", "strangers:UnsureHarness", *SHORT)

    assert (failed.returncode, failed.stdout) == (3, "")
    assert "RuntimeError: I cannot tell" in failed.stderr
    assert failed.stderr.endswith("the suite or the harness failed; nothing is known of the transport\n")


@pytest.mark.parametrize("kind", [BRIEF, "strangers:SkipsOneHarness", "strangers:BareHarness"])
def test_two_processes_find_what_one_finds(ask: Ask, kind: str) -> None:
    cards = []
    for jobs in ("1", "2"):
        told = ask("run", kind, "--only", "dead-is-kept-with-reason", "--json", "--jobs", jobs)
        card = json.loads(told.stdout)
        lines = [(each["id"], each["status"], *(one["test"] for one in each["failures"])) for each in card["promises"]]
        cards.append((told.returncode, card["verdict"], lines, card["pairs"]))

    assert cards[0] == cards[1]


@pytest.fixture(name="shell")
def _shell(tmp_path: Path, environment: Mapping[str, str]) -> Ask:
    """Give a way to ask with what a shell does to the standard streams."""

    def shell(words: str, where: str) -> Answer:
        bash = shutil.which("bash")
        assert bash is not None
        command = f"{shlex.quote(sys.executable)} -m relevo_conformance {words} {where}"
        return subprocess.run([bash, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)

    return shell


@pytest.mark.parametrize("words", ["list", "--help", f"run {BRIEF} {' '.join(SHORT)} --no-shrink"])
def test_a_reader_that_goes_away_ends_the_command_without_a_message(shell: Ask, words: str) -> None:
    unread = shell(words, "| true; exit ${PIPESTATUS[0]}")

    assert unread.returncode in (0, 141)
    assert unread.stderr == ""


@pytest.mark.parametrize("where, why", [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")])
@pytest.mark.parametrize("words", ["list", "list memory", "run memory --list", "judge trace.jsonl memory", "--help"])
def test_an_output_that_cannot_be_written_is_reported_in_one_line(
    shell: Ask, tmp_path: Path, *, words: str, where: str, why: str
) -> None:
    (tmp_path / "trace.jsonl").write_text(acked(1))

    full = shell(words, where)

    assert full.returncode == 74
    assert full.stderr == (
        f"relevo-conformance: standard output cannot be written: {why}; what the command did is done\n"
    )


def test_a_card_that_cannot_be_printed_is_in_its_reports(shell: Ask, tmp_path: Path) -> None:
    full = shell(f"run {BRIEF} {' '.join(SHORT)} --report card.json", "> /dev/full")

    assert (full.returncode, len(full.stderr.splitlines())) == (74, 1)
    assert json.loads((tmp_path / "card.json").read_text())["verdict"] == "conformant in part"


def test_standard_error_that_cannot_be_written_leaves_the_exit_code_as_it_is(shell: Ask) -> None:
    assert shell("run memroy", "2> /dev/full").returncode == 2
    assert shell("run memroy", "2>&-").returncode == 2


def test_a_run_leaves_nothing_behind_in_the_working_directory(ask: Ask, tmp_path: Path) -> None:
    ask("list", BRIEF)  # Python writes the module's bytecode
    before = sorted(tmp_path.iterdir())

    assert ask("run", BRIEF, *SHORT).returncode == 0
    assert sorted(tmp_path.iterdir()) == before


# Short sleeps: Python does not notice a signal that comes just before a long one begins.
SLOW = "import time\nopen('begun', 'w').close()\nwhile True:\n    time.sleep(0.01)\n"
STOPPED = b"relevo-conformance: stopped by Ctrl-C; there is no verdict\n"


@pytest.mark.parametrize("module", ["pytest", "hypothesis", "click"])
@pytest.mark.parametrize("program", [["relevo-conformance"], ["python", "-m", "relevo_conformance"]])
def test_an_interruption_while_the_command_is_imported_ends_it_with_one_line(
    module: str, program: list[str], tmp_path: Path
) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / f"{module}.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "slow")}
    words = [str(Path(sys.executable).with_name(program[0])), *program[1:], "run", "memory"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as running:
        while not (tmp_path / "begun").exists():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)

        _, error = running.communicate()

    assert (running.returncode, error) == (130, STOPPED)


def test_an_interruption_while_the_type_is_imported_ends_it_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    words = [sys.executable, "-m", "relevo_conformance", "run", "slow:SlowHarness"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE) as running:
        while not (tmp_path / "begun").exists():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)

        _, error = running.communicate()

    assert (running.returncode, error) == (130, STOPPED)


def test_an_interruption_reaches_the_run_and_ends_it(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from relevo_memory.conformance import MemoryHarness\n"
        "class SlowHarness(MemoryHarness):\n"
        "    def open(self):\n"
        "        open('pid', 'w').write(f'{os.getpid()}\\n')\n"
        "        time.sleep(3600)\n"
    )
    words = [sys.executable, "-m", "relevo_conformance", "run", "slow:SlowHarness"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE) as running:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
            assert running.poll() is None
        running.send_signal(signal.SIGINT)

        _, error = running.communicate()

    assert (running.returncode, error) == (130, STOPPED)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_list_of_a_transport_without_a_harness_tells_the_options_of_its_class(ask: Ask) -> None:
    listed = ask("list", "relevo_sql:SqlTransport")

    assert listed.returncode == 0
    assert "GenericHarness" in listed.stdout
    assert "--option busy_timeout=…  float; optional" in listed.stdout


# --- judging alone ---------------------------------------------------------------------------------


def acked(times: int) -> str:
    """Return the trace of a program that sent one event, received it, and acked it so many times."""
    sent = Envelope(id="7", source="shop", name="image.created", queue="media", body=b"{}")
    handed = history.Handed(number=0, event=sent, queue="media", attempt=1, lost_leases=0, state=b"", enqueued_at=100.0)
    calls: list[tuple[history.Call, history.Value | None]] = [
        (history.Open(), None),
        (history.Send(envelopes=(sent,)), None),
        (history.Receive(queues=("media",), limit=1, lease=60.0, wait=0.0), history.HandedOut((handed,))),
        *[(history.Settle(items=(history.Item(0, Ack()),)), history.Settled())] * times,
    ]
    records: list[history.Record] = []
    for op, (call, value) in enumerate(calls):
        records.append(history.Invoked(op=op, worker="web", at=100.0, call=call))
        records.append(history.Returned(op=op, at=100.0, end="done", value=value))
    return "".join(f"{line}\n" for line in dump(records))


def test_a_trace_is_judged_without_running_anything(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text(acked(1))
    (tmp_path / "twice.jsonl").write_text(acked(2))

    kept, broken = ask("judge", "trace.jsonl", "memory"), ask("judge", "twice.jsonl", "memory")

    assert (kept.returncode, kept.stdout.splitlines()[0]) == (0, "trace.jsonl keeps them")
    assert "not judged, since no history shows them: " in kept.stdout
    assert "setup-is-idempotent" in kept.stdout
    assert broken.returncode == 1
    assert "FAIL  stale-settle-is-refused: " in broken.stdout


def test_a_trace_without_the_end_of_an_event_is_not_said_to_keep_the_promises(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text(acked(0))

    open_ = ask("judge", "trace.jsonl", "memory")

    assert open_.returncode == 3
    assert open_.stdout.splitlines()[:2] == [
        """open  the event '7' in "media": is held by "web" as delivery 0""",
        "unknown: of 1 event the end is not in trace.jsonl",
    ]
    assert "keeps them" not in open_.stdout


def test_a_replay_in_which_an_event_does_not_come_is_not_said_to_keep_the_promises(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text(acked(1))

    forgot = ask("run", "strangers:ForgetsHarness", "--replay", "trace.jsonl")

    assert forgot.returncode == 3
    assert "unknown: on strangers:ForgetsHarness, the end of 1 more event is not known" in forgot.stdout


def test_a_trace_that_sets_nothing_up_is_replayed_on_queues_that_are_there(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text(acked(1))

    kept = ask("run", "memory", "--replay", "trace.jsonl", "--against", "sql")

    assert (kept.returncode, kept.stdout.splitlines()[1:]) == (0, ["sql keeps them"])
    assert "set up first" in kept.stdout


def test_a_replay_whose_calls_fail_that_did_not_then_says_nothing_of_the_transport(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text(acked(1))

    unknown = ask("run", "strangers:FailsHarness", "--replay", "trace.jsonl")

    assert unknown.returncode == 3
    assert "which succeeded in the recording, failed: TransportUnavailableError: " in unknown.stdout
    assert "unknown: 1 call that reached the original store did not reach strangers:FailsHarness" in unknown.stdout


def test_a_trace_in_which_nothing_was_called_is_not_judged(ask: Ask, tmp_path: Path) -> None:
    opened = [history.Invoked(op=0, worker="web", at=100.0, call=history.Open())]
    (tmp_path / "head.jsonl").write_text("".join(f"{line}\n" for line in dump([])))
    (tmp_path / "opened.jsonl").write_text("".join(f"{line}\n" for line in dump(opened)))

    for words in (["judge", "head.jsonl", "memory"], ["run", "memory", "--replay", "head.jsonl"]):
        nothing = ask(*words)

        assert nothing.returncode == 3, words
        assert "unknown: nothing is judged, since no call ends in " in nothing.stdout
        assert "keeps them" not in nothing.stdout
    assert ask("judge", "opened.jsonl", "memory").returncode == 3


def test_what_is_no_trace_is_not_judged(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text("no history\n")

    judged = ask("judge", "trace.jsonl", "memory")

    assert judged.returncode == 2
    assert "trace.jsonl is not a recorded history" in judged.stderr


@pytest.mark.parametrize(
    "written, instead, told",
    [
        ('"limit":1', '"limit":"NaN"', "limit: expected `int`, got `str`"),
        ('"limit":1', '"limit":"ten"', "limit: expected `int`, got `str`"),
        ('"lease":60.0', '"lease":"60"', "lease: expected `float`, got `str`"),
        ('"queues":["media"]', '"queues":"media"', "queues: expected `array`, got `str`"),
    ],
)
def test_a_trace_with_a_value_of_another_type_is_refused_by_its_line_and_field(
    ask: Ask, tmp_path: Path, *, written: str, instead: str, told: str
) -> None:
    (tmp_path / "trace.jsonl").write_text(acked(1).replace(written, instead))

    judged = ask("judge", "trace.jsonl", "memory")

    assert judged.returncode == 2
    assert judged.stdout == ""
    assert judged.stderr == f"relevo-conformance: trace.jsonl is not a recorded history: line 6: call.{told}\n"


def test_a_verdict_on_what_is_no_text_can_be_read(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text(acked(2).replace('"media"', r'"\udfff"'))

    judged = ask("judge", "trace.jsonl", "memory")

    assert judged.returncode == 1
    assert r"""the event '7' in "\udfff" was settled""" in judged.stdout
