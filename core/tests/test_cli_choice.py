"""The options of relevo dead that choose dead letters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from relevo import DeadLetter, DeadLetterEntry, DeadLetterFilter, Envelope, SystemClock
from relevo._worker.progress import STATE_VERSION, ListenerProgress, Progress, blamed, dumped, loaded
from relevo.cli._choice import DeadLetterChoice
from relevo_memory import MemoryTransport
from relevo_sql import SqlOptions, SqlTransport

from .shop import LISTENERS, Shop, opened


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    shop = opened(tmp_path)
    shop.run("""dispatch image.created '{"bad": true, "image_id": 1}'""")
    shop.run("drain")
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        bury(transport, "expired-1", "expired", queue="media")
        bury(transport, "expired-2", "expired", name="mail.sent", queue="feed")
    return shop


def bury(transport: SqlTransport | MemoryTransport, event_id: str, reason: str, **fields: str) -> None:
    fields = {"name": "image.created", "queue": "default"} | fields
    transport.send([Envelope(id=event_id, source="shop", body=b"{}", **fields)])  # type: ignore[arg-type]
    held = transport.receive([fields["queue"]], limit=1, lease=60, wait=0)
    transport.settle([(each, DeadLetter(reason=reason)) for each in held])


def reasons(shop: Shop, options: str = "") -> list[tuple[str, str, str]]:
    done = shop.run(f"dead list --json {options}")
    assert (done.returncode, done.stderr) == (0, "")
    return sorted((row["reason"], row["event"], row["queue"]) for row in json.loads(done.stdout))


GAVE_UP = ("gave-up", "image.created", "media")
EXPIRED, MAIL = ("expired", "image.created", "media"), ("expired", "mail.sent", "feed")


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize(
    "options, expected",
    [
        ("", [EXPIRED, MAIL, GAVE_UP]),
        ("--reason gave-up", [GAVE_UP]),
        ("--reason gave-up --reason expired -q media", [EXPIRED, GAVE_UP]),
        ("--event 'mail.*'", [MAIL]),
        ("--since 1h", [EXPIRED, MAIL, GAVE_UP]),
        ("--until 1h", []),
        ("--listener LISTENER", [GAVE_UP]),
        ("--listener 'shop_listeners:*'", [GAVE_UP]),
        ("--listener '*'", [GAVE_UP]),
        ("--listener shop_listeners:feed", []),
        ("--error corrupt", [GAVE_UP]),
        ("--error Corrupt", []),
        ("--error 'GiveUp: a corrupt'", [GAVE_UP]),
        ("--error 'relevo.GiveUp('", []),  # a line of the source, in the traceback
        ("--error corrupt --listener shop_listeners:feed", []),
        ("--error nothing --error corrupt --listener LISTENER", [GAVE_UP]),
        ("--listener LISTENER --reason expired", []),
    ],
)
def test_options_choose_dead_letters(shop: Shop, options: str, expected: list[tuple[str, str, str]]) -> None:
    assert reasons(shop, options.replace("LISTENER", listener_of(shop))) == expected


def listener_of(shop: Shop) -> str:
    (row,) = json.loads(shop.run("dead list --by listener --reason gave-up --json").stdout)
    listener = row["listener"]
    assert isinstance(listener, str)
    return listener


def test_a_revival_warns_of_a_failed_listener_that_was_renamed(shop: Shop) -> None:
    shop.write("shop_listeners.py", LISTENERS.replace("def thumbnails", "def previews"))

    renamed = shop.run("dead revive --all --reason gave-up")
    others = shop.run("dead revive --all")

    assert (renamed.returncode, renamed.stdout) == (0, "1 revived\n")
    assert renamed.stderr == (
        'relevo: no listener here has the id "shop_listeners:thumbnails", which failed in 1 of them; give the '
        "renamed one aliases=, or they become dead letters again, listener-missing\n"
    )
    assert (others.stdout, others.stderr) == ("2 revived\n", "")


@pytest.mark.parametrize(
    ("listeners", "told"),
    [
        (LISTENERS, 'no listener here for "image.crated" in main/media, which 1 of them need; without one they become'),
        ("", ""),
    ],
)
def test_a_revival_warns_of_an_event_that_still_has_no_listener(shop: Shop, listeners: str, told: str) -> None:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        bury(transport, "unknown-1", "unknown-event", name="image.crated", queue="media")
        bury(transport, "unknown-2", "unknown-event", name="image.created", queue="media")
    shop.write("shop_listeners.py", listeners)

    done = shop.run("dead revive --all --reason unknown-event")

    assert (done.returncode, done.stdout) == (0, "2 revived\n")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == bool(told)
    assert not told or 'dead letters again, unknown-event; did you mean "image.created" (' in done.stderr


def test_dead_letters_of_a_missing_listener_are_grouped_by_that(shop: Shop) -> None:
    state = dumped(Progress(STATE_VERSION, listeners={"shop:old": ListenerProgress("due", 1, error="OSError: full")}))
    outcome = loaded(state).conclude([], 1e9, patience=0.0)
    assert isinstance(outcome, DeadLetter)
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.send([Envelope(id="1", source="shop", name="image.created", queue="feed", body=b"{}")])
        held = transport.receive(["feed"], limit=1, lease=60, wait=0)
        transport.settle([(each, outcome) for each in held])

    rows = json.loads(shop.run("dead list --by error --reason listener-missing --json").stdout)

    assert [(row["error"], row["count"]) for row in rows] == [("listener-missing", 1)]


@pytest.mark.lengthy("runs commands")
def test_dead_letters_are_counted_by_what_they_have_in_common(shop: Shop) -> None:
    def counts(options: str) -> dict[str, int]:
        rows = json.loads(shop.run(f"dead list {options} --json").stdout)
        key = options.split()[1]
        return {row[key]: row["count"] for row in rows}

    assert counts("--by reason") == {"expired": 2, "gave-up": 1}
    assert counts("--by event --reason expired") == {"image.created": 1, "mail.sent": 1}
    assert counts("--by queue") == {"media": 2, "feed": 1}
    assert counts("--by listener") == {listener_of(shop): 1, "": 2}
    assert counts("--by error") == {"GiveUp": 1, "": 2}
    assert " (none) " in shop.run("dead list --by error").stdout
    assert counts("--by error --error corrupt") == {"GiveUp": 1}
    assert counts("--by queue --error corrupt") == {"media": 1}
    assert "thumbnails" in listener_of(shop)
    assert counts(f"--by reason --listener {listener_of(shop)}") == {"gave-up": 1}
    assert shop.run("dead list --by reason").stdout.splitlines()[0].split() == [
        "transport", "reason", "count", "first", "died", "last", "died"
    ]  # fmt: skip


def test_what_the_options_choose_is_revived_and_the_others_stay(shop: Shop) -> None:
    done = shop.run("dead revive --all --reason expired -q media --json")

    assert json.loads(done.stdout)["revived"] == 1
    assert reasons(shop) == [MAIL, GAVE_UP]


def test_what_the_options_choose_is_deleted_and_the_others_stay(shop: Shop) -> None:
    done = shop.run(f"dead discard --all --listener {listener_of(shop)} --yes --json")

    assert json.loads(done.stdout)["discarded"] == 1
    assert reasons(shop) == [EXPIRED, MAIL]


@pytest.mark.parametrize("command", ["revive", "discard --yes"])
def test_what_is_revived_or_deleted_is_counted_by_what_it_has_in_common(shop: Shop, command: str) -> None:
    word = {"revive": "revived"}.get(command, "discarded")

    table = shop.run(f"dead {command} --all --reason expired --event mail.* --by event").stdout.splitlines()
    document = json.loads(shop.run(f"dead {command} --all --by reason --json").stdout)

    assert [line.split()[:3] for line in table[:2]] == [["transport", "event", "count"], ["main", "mail.sent", "1"]]
    assert table[2] == f"1 {word}"
    assert (document[word], {row["reason"]: row["count"] for row in document["groups"]}) == (
        2, {"expired": 1, "gave-up": 1}
    )  # fmt: skip


def test_dead_letters_are_shown_by_group_before_the_question_whether_to_delete_them(shop: Shop) -> None:
    done = shop.run("dead discard --all --by reason", given=b"n\n")

    assert done.stdout.splitlines()[0].split()[:3] == ["transport", "reason", "count"]
    assert done.stdout.splitlines()[-1] == "nothing was deleted"
    assert len(reasons(shop)) == 3


@pytest.mark.parametrize("command", ["revive", "discard --yes"])
def test_options_that_choose_go_with_all(shop: Shop, command: str) -> None:
    with_refs, alone = (
        shop.run(f"dead {command} 1@media --reason expired"),
        shop.run(f"dead {command} --reason expired"),
    )

    assert (with_refs.returncode, alone.returncode) == (2, 2)
    assert "go with --all, not with REFS" in with_refs.stderr
    assert "expected REFS of dead letters, or --all" in alone.stderr
    assert len(reasons(shop)) == 3


@pytest.mark.parametrize("command", ["revive --all", "discard --all --yes"])
def test_dead_letters_with_a_text_in_their_error_are_revived_or_deleted_and_counted_by_error(
    shop: Shop, command: str
) -> None:
    done = shop.run(f"dead {command} --error corrupt --by error --json")

    (group,) = json.loads(done.stdout)["groups"]
    assert (group["error"], group["count"]) == ("GiveUp", 1)
    assert reasons(shop) == [EXPIRED, MAIL]


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("command", ["list", "list --by event", "revive --all", "discard --all --yes"])
@pytest.mark.parametrize(
    "option, code, told",
    [
        (
            "--reason gaveup",
            2,
            '--reason: no dead letter has the reason "gaveup"; did you mean "gave-up"?; there are: unreadable, ',
        ),
        (
            "--event image.cretaed --event mail.sent",
            78,
            '--event "image.cretaed": no listener, no route and nothing ',
        ),
        ("--event image.cretaed", 78, 'stored here has this name; did you mean "image.created"?'),
        (
            "--event 'imgae.*'",
            78,
            '--event "imgae.*": no listener, no route and nothing stored here has this name',
        ),
        (
            "--listener thumbnails",
            78,
            '--listener "thumbnails": no listener has this id, and nothing stored here names ',
        ),
        ("--listener '*thumbnails'", 78, '"*" can only be the last character, as in "shop.*"'),
        ("--event '*.created'", 78, '"*" can only be the last character, as in "shop.*"'),
        ("--listener thumbnails", 78, 'it; did you mean "shop_listeners:thumbnails"?'),
        ("--listener shop_listener:thumbnail", 78, 'did you mean "shop_listeners:thumbnails"?'),
    ],
)
def test_a_name_that_nothing_has_is_refused_with_the_one_that_was_meant(
    shop: Shop, command: str, option: str, code: int, told: str
) -> None:
    done = shop.run(f"dead {command} {option}")

    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert reasons(shop) == [EXPIRED, MAIL, GAVE_UP]


@pytest.mark.lengthy("runs commands")
@pytest.mark.parametrize("option", ["--reason of-a-plugin", "--event of.another", "--event 'of.*'"])
def test_a_name_that_only_a_dead_letter_has_is_known_while_it_is_there(shop: Shop, option: str) -> None:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        bury(transport, "mine", "of-a-plugin", name="of.another")

    other, done = shop.run(f"dead list --json --until 1h {option}"), shop.run(f"dead revive --all {option}")
    again = shop.run(f"dead list {option}")

    assert (other.returncode, other.stdout) == (0, "[]\n")
    assert (done.returncode, done.stdout) == (0, "1 revived\n")
    assert again.returncode in (2, 78)


def test_programs_can_have_the_failures_and_the_body_of_each_dead_letter(shop: Shop) -> None:
    (row,) = json.loads(shop.run("dead list --json --full --reason gave-up").stdout)
    misused = [shop.run(f"dead list {options}") for options in ("--full", "--full --json --by event")]

    (failure,) = row["failures"]
    assert (failure["listener"], failure["exception"], failure["attempt"]) == ("shop_listeners:thumbnails", "GiveUp", 1)
    assert "a corrupt" in failure["traceback"]
    assert json.loads(row["body"])["data"] == {"bad": True, "image_id": 1}
    assert row == json.loads(shop.run(f"dead show {row['ref']} --json").stdout) | {
        "failed_listeners": ["shop_listeners:thumbnails"]
    }
    assert [done.returncode for done in misused] == [2, 2]


def bury_many(shop: Shop, count: int) -> None:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.send(
            [Envelope(id=f"many-{n}", source="shop", name="mail.sent", queue="feed", body=b"{}") for n in range(count)]
        )
        while held := transport.receive(["feed"], limit=200, lease=60, wait=0):
            transport.settle([(each, DeadLetter(reason="expired")) for each in held])


def test_json_has_all_dead_letters_and_a_table_says_that_there_are_more(shop: Shop) -> None:
    bury_many(shop, 450)

    table = shop.run("dead list").stdout.splitlines()

    assert len(reasons(shop)) == 453
    assert len(reasons(shop, "--limit 7")) == 7
    assert (len(table), table[-1]) == (102, "… and more; raise --limit 100")


def test_a_dead_letter_is_one_line_with_its_event_and_its_listener(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shop.run("dead list").stdout.splitlines()
    monkeypatch.setattr("relevo.cli._output.at_terminal", lambda _: True)
    narrow = shop.run("dead list", COLUMNS="80").stdout.splitlines()
    wide = shop.run("dead list", COLUMNS="400").stdout.splitlines()

    assert whole[0].split() == ["ref", "event", "id", "listener", "reason", "died", "error"]
    assert "shop_listeners:thumbnails" in whole[1]
    assert "expired-1" in whole[2]
    assert [line.split()[:4] for line in wide] == [line.split()[:4] for line in whole]
    assert len(narrow) == len(whole) == 4
    assert max(map(len, narrow)) <= 80
    assert [line.split()[0] for line in narrow] == [line.split()[0] for line in whole]
    assert "umbnails" in narrow[1]
    (row,) = json.loads(shop.run("dead list --reason gave-up --json").stdout)
    assert row["failed_listeners"] == ["shop_listeners:thumbnails"]


def test_the_listener_of_a_crash_loop_is_in_its_column(shop: Shop) -> None:
    options = SqlOptions(url=f"sqlite:///{shop.folder / 'shop.db'}")
    error = "3 processes died while they held it"
    state = blamed(b"", "shop_listeners:feed", error)
    with SqlTransport.open(options, name="main", clock=SystemClock()) as transport:
        transport.send([Envelope(id="killer", source="shop", name="image.created", queue="feed", body=b"{}")])
        (held,) = transport.receive(["feed"], limit=1, lease=60, wait=0)
        transport.settle([(held, DeadLetter(reason="crash-loop", error=error, state=state))])

    head, row = shop.run("dead list --reason crash-loop").stdout.splitlines()
    groups = json.loads(shop.run("dead list --reason crash-loop --by listener --json").stdout)

    assert head.split()[3] == "listener"
    assert row.split()[3] == "shop_listeners:feed"
    assert [group["listener"] for group in groups] == ["shop_listeners:feed"]


class Plain(MemoryTransport):
    capabilities = attrs.evolve(MemoryTransport.capabilities, waiting=False)

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        raise self._unsupported("waiting")


@pytest.mark.parametrize("transport_type", [MemoryTransport, Plain])
def test_the_dead_letters_of_a_transport_that_cannot_filter_are_filtered_here(
    transport_type: type[MemoryTransport],
) -> None:
    with transport_type() as transport:
        for number in range(3):
            bury(transport, f"e{number}", "expired" if number else "gave-up")
        choice = DeadLetterChoice(where=DeadLetterFilter(reasons=("expired",), names=("image.*",)))

        assert [entry.envelope.id for entry in choice.entries(transport, ["default"])] == ["e1", "e2"]  # type: ignore[union-attr]
