"""Transports that are not what their configuration suggests: without a route, or one store with two names."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from relevo._runner import loop

from .shop import CONFIGURATION, Shop, lines, opened

OLD = 'main = "sqlite:///shop.db"\nold = "sqlite:///old.db"'


def rewritten(shop: Shop, transports: str, **others: str) -> None:
    text = CONFIGURATION.replace('main = "sqlite:///shop.db"', transports)
    for before, after in others.items():
        assert before in text
        text = text.replace(before, after)
    shop.write("relevo.toml", text)


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    """Give a shop with a second transport that no route leads to."""
    shop = opened(tmp_path)
    rewritten(shop, OLD)
    return shop


def send_to_old(shop: Shop) -> None:
    """Dispatch an event that waits in the queue "default" of "old", where no route leads."""
    shop.write("before.toml", CONFIGURATION.replace("shop.db", "old.db"))
    assert shop.run("--config before.toml dispatch mail.sent").returncode == 0


# --- without a route ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["drain", "worker --max-time 0.01", "unit cron", "unit systemd", "unit supervisor"])
def test_a_transport_without_a_route_need_not_be_chosen_from(shop: Shop, command: str) -> None:
    done = shop.run(command)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["drain", "worker --max-events 1"])
def test_events_that_wait_where_no_route_leads_are_warned_of(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(loop, "_LEFT", 300.0)  # however slow the look is
    send_to_old(shop)
    shop.run("dispatch mail.sent")  # so that the worker ends

    done = shop.run(command)

    (line,) = [each.getMessage() for each in caplog.records if each.name == "relevo.runner"]
    assert line.startswith('"old/default" holds events, and no route leads to it; move them: relevo move --from old/')
    assert done.returncode == 0


def test_a_transport_without_a_route_is_not_created_by_the_look_at_it(shop: Shop) -> None:
    shop.run("drain")

    assert not (shop.folder / "old.db").exists()


@pytest.mark.lengthy("runs commands")
def test_a_server_without_a_route_that_does_not_answer_holds_up_a_run_for_a_moment_only(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_LEFT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rewritten(shop, OLD.replace("sqlite:///old.db", f"postgresql://127.0.0.1:{silent.getsockname()[1]}/old"))
        shop.run("dispatch mail.sent")

        done = shop.run("drain --json")

        (look,) = [each for each in threading.enumerate() if each.name == "relevo-left"]
    look.join()
    assert (done.returncode, json.loads(done.stdout)["done"]) == (0, 1)


def test_a_transport_without_a_route_is_used_by_its_name(shop: Shop) -> None:
    send_to_old(shop)

    drained = shop.run("drain -t old --json")

    assert (drained.returncode, json.loads(drained.stdout)["retried"]) == (0, 1)


def test_its_events_are_moved_by_its_name(shop: Shop) -> None:
    send_to_old(shop)

    moved = shop.run("move --from old --to main")

    assert (moved.returncode, moved.stdout) == (0, "1 moved\n")


def test_the_check_warns_of_a_transport_without_a_route(shop: Shop) -> None:
    checked, strict = shop.run("check"), shop.run("check --strict")

    rows = [line.split(maxsplit=3) for line in checked.stdout.splitlines() if line.startswith("transport old")]
    advice = "no route leads to it; add one, or remove the transport once it is empty"
    assert rows == [["transport", "old", "warning", advice]]
    assert (checked.returncode, strict.returncode) == (0, 78)


def test_the_check_suggests_the_transport_that_was_meant(shop: Shop) -> None:
    shop.write("relevo.toml", CONFIGURATION)

    checked = shop.run("check", RELEVO_TRANSPORTS__MIAN="sqlite:///other.db")

    assert 'or remove the transport once it is empty; did you mean "main"?' in checked.stdout
    assert checked.returncode == 0


def test_the_status_shows_its_queue_once(shop: Shop) -> None:
    send_to_old(shop)

    shown, listed = shop.run("status"), shop.run("status --json")

    assert [line.split()[:3] for line in shown.stdout.splitlines() if line.startswith("old ")] == [
        ["old", "default", "1"]
    ]
    rows = [row for row in json.loads(listed.stdout) if row["transport"] == "old"]
    assert [(row["queue"], row["ready"], row["routed"]) for row in rows] == [("default", 1, False)]
    assert '"old/default" holds events, and no route leads to it' in shown.stdout


@pytest.mark.parametrize("target", ["old", "old/foo"])
def test_no_event_is_moved_to_where_no_route_leads(shop: Shop, target: str) -> None:
    done = shop.run(f"move --from main --to {target}")

    queue = target.partition("/")[2] or "default"
    assert done.returncode == 78
    assert lines(done) == [f'relevo: --to: nothing is routed to the queue "{queue}" of "old"; add a route']


# --- several with a route -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, code",
    [
        ("", 78),
        ("-q media", 78),
        ("-c 4 --max-time 1h", 78),
        ("-t old", 0),
        ("--transport=main -c 4", 0),
        ("-q main/media", 0),
        ("--queue=main/media", 0),
    ],
)
def test_a_worker_of_supervisor_says_which_of_several_transports_it_serves(shop: Shop, options: str, code: int) -> None:
    rewritten(shop, OLD, **{"[routes]": '[routes]\n"old.*" = "old"'})
    shop.write("supervisord.conf", f"[program:shop]\ncommand=relevo worker {options}\nstopwaitsecs=930\n")

    checked = shop.run("check --supervisor supervisord.conf")

    assert checked.returncode == code
    if code:
        assert lines(checked)[0].endswith(
            "supervisord.conf: [program:shop] command: a worker serves one transport, and there are several (main, "
            "old); write a section for each, with -t main and so on"
        )


# --- the list -------------------------------------------------------------------------------------------


def test_the_list_has_the_events_of_queues_without_a_route(shop: Shop) -> None:
    send_to_old(shop)
    shop.write("before.toml", CONFIGURATION.replace("shop.db", "old.db").replace('"*" = "main"', '"*" = "main/gone"'))
    shop.run("--config before.toml dispatch mail.sent")
    shop.run("setup")

    listed, shown, grouped = shop.run("list --json"), shop.run("list"), shop.run("list --by queue --json")

    places = {(row["transport"], row["queue"]) for row in json.loads(listed.stdout)}
    assert places == {("old", "default"), ("old", "gone")}
    assert shown.stdout.splitlines()[0].split()[:3] == ["transport", "queue", "event"]
    assert [row["queue"] for row in json.loads(grouped.stdout)] == ["default", "gone"]
    assert (listed.returncode, shown.returncode) == (0, 0)


def test_a_list_is_continued_after_a_queue_without_a_route_that_became_empty(shop: Shop) -> None:
    send_to_old(shop)
    for queue in ("a/b", "gone"):
        route = f'"*" = "main/{queue}"'
        shop.write("before.toml", CONFIGURATION.replace("shop.db", "old.db").replace('"*" = "main"', route))
        shop.run("--config before.toml dispatch mail.sent")
    first = json.loads(shop.run("list --json --limit 2").stdout)
    purged = shop.run("purge --yes old/a/b")

    rest = shop.run(f"list --json --after {first[-1]['cursor']}")

    assert [row["queue"] for row in first] == ["default", "a/b"]
    assert purged.returncode == 0
    assert [row["queue"] for row in json.loads(rest.stdout)] == ["gone"]


def test_the_list_of_one_transport_does_not_repeat_its_name(shop: Shop) -> None:
    shop.run("dispatch mail.sent")

    shown = shop.run("list -t main")

    assert shown.stdout.splitlines()[0].split()[:2] == ["queue", "event"]


# --- one store with two names ---------------------------------------------------------------------------

TWO = 'high = "sqlite:///shop.db"\nasync = "sqlite:///../{folder}/shop.db"'


def test_the_check_of_the_servers_warns_of_two_transports_that_are_one_store(shop: Shop) -> None:
    routes = {'["main/media", "main/feed"]': '["high", "async/media", "async/feed"]', '"*" = "main"': '"*" = "async"'}
    rewritten(shop, TWO.format(folder=shop.folder.name), **routes)
    shop.run("setup")

    checked, strict = shop.run("check --live"), shop.run("check --live --strict")

    told = (
        '"high" and "async" are the same store: both use its queue "default", so a worker of one also takes the events '
        "of the other; use one transport with two queues, as in a route to high/async"
    )
    assert told in checked.stdout
    assert f"transports high, async: {told}" in strict.stderr
    assert (checked.returncode, strict.returncode) == (0, 78)


@pytest.mark.parametrize("address, is_one", [("sqlite:///shop.db", True), ("sqlite:///./shop.db", False)])
def test_a_check_without_the_servers_compares_addresses(shop: Shop, address: str, is_one: bool) -> None:  # noqa: FBT001
    rewritten(shop, f'main = "sqlite:///shop.db"\nold = "{address}"', **{"[routes]": '[routes]\n"old.*" = "old"'})

    checked = shop.run("check")

    assert ('"main" and "old" are the same store' in checked.stdout) is is_one
    assert checked.returncode == 0


def test_two_transports_that_share_no_queue_may_be_one_store(shop: Shop) -> None:
    routes = {'["main/media", "main/feed"]': '["high", "async/media", "async/feed"]', '"*" = "main"': '"*" = "async/a"'}
    rewritten(shop, TWO.format(folder=shop.folder.name), **routes)
    shop.run("setup")

    checked = shop.run("check --live")

    assert "same store" not in checked.stdout
