"""The commands at a deploy, and drains beside one another, as a shell and cron see them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relevo._runner.host_lock import HostLock

from .shop import CONFIGURATION, LISTENERS, Shop, lines

PATIENCE = 300.0

SLOW = """
import pathlib, time
import relevo

@relevo.listener("image.created", queue="media")
def thumbnails(event):
    pathlib.Path(f"begun-{event['image_id']}").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)

@relevo.listener("image.created", queue="feed")
def feed(event): ...
"""


def started(shop: Shop, *words: str) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "relevo", *words],
        cwd=shop.folder,
        env={key: each for key, each in os.environ.items() if not key.startswith("RELEVO_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def appears(path: Path) -> None:
    """Wait until *path* is there."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"there is no {path.name}"
        time.sleep(0.01)


def number(shop: Shop, key: str, queue: str = "media") -> int:
    rows = json.loads(shop.run("status --json").stdout)
    return sum(row[key] for row in rows if row["queue"] == queue)


def test_nothing_is_taken_between_begin_and_end(shop: Shop) -> None:
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    begun = shop.run("deploy begin")
    drained = shop.run("drain")
    ended = shop.run("deploy end")
    after = shop.run("drain")

    place = shop.folder / "shop.deploy"
    assert (begun.returncode, begun.stdout) == (0, f"events wait: {place}\n")
    assert (drained.returncode, drained.stdout, drained.stderr) == (75, "", "")
    assert (ended.returncode, ended.stdout) == (0, f"events are handled again: {place}\n")
    assert after.returncode == 0
    assert number(shop, "ready") == 0


def test_both_may_be_said_twice(shop: Shop) -> None:
    first, again = shop.run("deploy begin"), shop.run("deploy begin")
    end, end_again = shop.run("deploy end"), shop.run("deploy end")

    assert [done.returncode for done in (first, again, end, end_again)] == [0, 0, 0, 0]
    assert again.stdout.startswith("events waited already: ")
    assert end_again.stdout.startswith("no deploy was in progress: ")


def test_both_are_told_to_programs(shop: Shop) -> None:
    begun, ended = shop.run("deploy begin --wait 1s --json"), shop.run("deploy end --json")

    place = str(shop.folder / "shop.deploy")
    assert json.loads(begun.stdout) == {"path": place, "new": True, "finished": True}
    assert json.loads(ended.stdout) == {"path": place, "ended": True}


def test_a_deploy_in_progress_is_shown_by_the_status_and_the_check_of_the_servers(shop: Shop) -> None:
    shop.run("setup")
    before = [shop.run(command) for command in ("status", "check --live")]
    shop.run("deploy begin")
    place = shop.folder / "shop.deploy"
    os.utime(place, (1_000_000_000, 1_000_000_000))

    status, listed = shop.run("status"), shop.run("status --json")
    live, checked, strict = shop.run("check --live"), shop.run("check"), shop.run("check --live --strict --json")

    notice = (
        "a deploy is in progress on this host since 2001-09-09 01:46:40Z, so its workers begin no event; when it is "
        f"over: relevo deploy end, or rm {place}"
    )
    for done in (status, listed):
        assert (done.returncode, lines(done)) == (0, [f"relevo: {notice}"])
    assert json.loads(listed.stdout)
    assert [line.split(maxsplit=2) for line in live.stdout.splitlines() if line.startswith("deploy ")] == [
        ["deploy", "warning", notice]
    ]
    assert live.returncode == 0
    row = {"check": "deploy", "ok": False, "detail": notice, "missing_listener": None}
    assert row in json.loads(strict.stdout)
    assert notice not in strict.stderr
    assert all("a deploy is" not in done.stdout + done.stderr for done in (*before, checked))


def test_the_end_of_no_deploy_says_where_another_release_may_have_begun_one(shop: Shop) -> None:
    elsewhere = shop.run("deploy end")
    shop.write("relevo.toml", 'deploy = "deploying"\n' + CONFIGURATION)
    chosen = shop.run("deploy end")

    first, *hint = elsewhere.stdout.splitlines()
    assert first == f"no deploy was in progress: {shop.folder / 'shop.deploy'}"
    assert "the address of a transport has changed since" in hint[0]
    assert hint[-1].endswith('deploy = "/srv/shop/deploying"')
    assert chosen.stdout == f"no deploy was in progress: {shop.folder / 'deploying'}\n"
    assert (elsewhere.returncode, chosen.returncode) == (0, 0)


def test_the_deploy_may_be_another_file(shop: Shop) -> None:
    shop.write("relevo.toml", 'deploy = "var/deploying"\n' + CONFIGURATION)
    (shop.folder / "var").mkdir()

    shop.run("deploy begin")

    assert (shop.folder / "var" / "deploying").exists()
    assert shop.run("drain").returncode == 75
    (shop.folder / "var" / "deploying").unlink()
    assert shop.run("drain").returncode == 0


@pytest.mark.slow("starts a worker, and more processes beside it")
def test_begin_waits_for_what_runs_and_the_worker_goes_on_afterwards(shop: Shop) -> None:
    shop.write("shop_listeners.py", SLOW)
    for image in (1, 2):
        shop.run(f"""dispatch image.created '{{"image_id": {image}}}'""")
    with started(shop, "worker", "-q", "media") as worker:
        appears(shop.folder / "begun-1")

        in_vain = shop.run("deploy begin --wait 200ms")
        waiting = started(shop, "deploy", "begin", "--wait", "300s")
        (shop.folder / "go").touch()
        stdout, _ = waiting.communicate(timeout=PATIENCE)
        during = {key: number(shop, key) for key in ("ready", "leased")}
        has_begun = (shop.folder / "begun-2").exists()
        shop.run("deploy end")
        appears(shop.folder / "begun-2")
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=PATIENCE)

    assert in_vain.returncode == 75
    (line,) = lines(in_vain)
    assert "a worker is still busy after 0.2 s" in line
    assert (waiting.returncode, stdout.partition(":")[0]) == (0, "events waited already")
    assert (during, has_begun) == ({"ready": 1, "leased": 0}, False)
    assert (worker.returncode, errors) == (0, "")


@pytest.mark.slow("starts a worker in a process of its own")
@pytest.mark.parametrize("command", ["worker", "drain"])
def test_a_guard_that_is_something_else_is_an_error_at_the_start(shop: Shop, command: str) -> None:
    shop.write("relevo.toml", 'deploy = "var"\n' + CONFIGURATION)
    (shop.folder / "var").mkdir(exist_ok=True)

    done = shop.run(command)

    assert done.returncode == 78
    assert f"the deploy guard {shop.folder / 'var'}: expected an empty file" in done.stderr


@pytest.mark.lengthy("runs commands")
def test_a_worker_that_waits_for_the_end_of_a_deploy_ends_at_a_signal(shop: Shop) -> None:
    shop.run("deploy begin")
    with started(shop, "worker", "-l", "info") as worker:
        assert worker.stderr is not None
        assert "waiting for its end" in worker.stderr.readline()

        worker.send_signal(signal.SIGTERM)

        assert worker.wait(timeout=PATIENCE) == 0


@pytest.mark.slow("starts two workers, each in a process of its own")
def test_a_deploy_that_was_forgotten_is_told_once(shop: Shop) -> None:
    shop.run("deploy begin")
    old = time.time() - 2 * 3600
    os.utime(shop.folder / "shop.deploy", (old, old))

    done = [started(shop, "drain") for _ in range(2)]
    told = [each.communicate(timeout=PATIENCE) for each in done]

    assert [each.returncode for each in done] == [75, 75]
    # The two may look at the same time.
    assert "for 2.0 hours; if it is over: relevo deploy end, or rm " in told[0][1] + told[1][1]
    again = started(shop, "drain")
    assert again.communicate(timeout=PATIENCE) == ("", "")


# --- drains beside one another ------------------------------------------------------------------------------------


@pytest.mark.slow("starts a worker, and more processes beside it")
def test_a_drain_beside_another_is_silent_and_says_later_to_whoever_asks(shop: Shop) -> None:
    shop.write("shop_listeners.py", SLOW)
    shop.run("""dispatch image.created '{"image_id": 1}'""")
    with started(shop, "drain") as first:
        appears(shop.folder / "begun-1")

        seconds = [started(shop, "drain") for _ in range(4)]
        told = [second.communicate(timeout=PATIENCE) for second in seconds]
        asking = started(shop, "drain", "-l", "info").communicate(timeout=PATIENCE)
        other_queue = shop.run("drain -q feed")
        as_json = shop.run("drain --json")
        (shop.folder / "go").touch()
        first_told = first.communicate(timeout=PATIENCE)

    assert [second.returncode for second in seconds] == [75] * 4
    assert told == [("", "")] * 4
    assert re.search(
        r" INFO relevo\.runner: nothing is drained: another drain handles the same queues: .+\n", asking[1]
    )
    assert other_queue.returncode == 0
    assert (as_json.returncode, json.loads(as_json.stdout)["stopped_by"]) == (75, "lock")
    assert (first.returncode, first_told) == (0, ("", ""))


@pytest.mark.slow("kills a worker, and waits until its lease is over")
def test_a_drain_that_is_killed_leaves_the_next_one_the_way(shop: Shop) -> None:
    shop.write("shop_listeners.py", SLOW)
    shop.write("relevo.toml", 'lease = "1s"\n' + CONFIGURATION)
    shop.run("""dispatch image.created '{"image_id": 1}'""")
    with started(shop, "drain") as first:
        appears(shop.folder / "begun-1")
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=PATIENCE)

    (shop.folder / "go").touch()
    done = shop.run("drain --settle 20s")

    assert done.returncode == 0
    assert number(shop, "ready") == number(shop, "leased") == 0


def test_a_lock_that_cannot_be_made_is_the_configurations_fault(shop: Shop) -> None:
    shop.write("relevo.toml", 'lock = "nowhere"\n' + CONFIGURATION)

    done = shop.run("drain")

    assert done.returncode == 78
    assert 'No such file or directory; set a folder that is writable: lock = "…"' in done.stderr


def test_the_lock_is_where_configuration_says(shop: Shop) -> None:
    shop.write("relevo.toml", 'lock = "var"\n' + CONFIGURATION)
    (shop.folder / "var").mkdir()
    shop.run("drain")
    (path,) = (shop.folder / "var").glob("shop.main.*.lock")
    lock = HostLock(path)

    assert lock.acquire()
    assert shop.run("drain").returncode == 75
    lock.release()
    assert shop.run("drain").returncode == 0


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow("ten dispatches, and ten listeners that take a moment")
@pytest.mark.parametrize("command", ["drain", "worker"])
def test_a_run_may_be_limited_by_memory_and_failures(command: str, shop: Shop) -> None:
    failing = LISTENERS.replace("raise relevo.GiveUp", "import time; time.sleep(0.15); raise ValueError")
    shop.write("shop_listeners.py", failing)
    for image in range(10):
        shop.run(f"""dispatch image.created '{{"image_id": {image}, "bad": true}}'""")

    failures = shop.run(f"{command} -q media --max-events 10 --max-failures 1 --json")
    memory = shop.run(f"{command} -q feed --max-time 20s --max-memory 2M --json")

    assert (failures.returncode, json.loads(failures.stdout)["stopped_by"]) == (0, "failures")
    assert 1 <= json.loads(failures.stdout)["retried"] < 10
    assert (memory.returncode, json.loads(memory.stdout)["stopped_by"]) == (78, "memory")
    assert "before its first event, and the limit is 2M, so no event is handled; set a higher limit" in memory.stderr


@pytest.mark.parametrize("command", ["drain", "worker", "unit cron", "unit supervisor"])
def test_a_limit_of_the_memory_without_its_unit_is_refused(command: str, shop: Shop) -> None:
    done = shop.run(f"{command} --max-memory 128")

    assert done.returncode == 2
    assert """at least 1M; got '128'; did you mean "128M"?""" in done.stderr


@pytest.mark.parametrize("text", ["much", "0", "-5", "5X"])
def test_a_size_that_is_none_is_told(text: str, shop: Shop) -> None:
    done = shop.run(f"drain --max-memory={text}")

    assert done.returncode == 2
    assert "expected a number of bytes or text such as" in done.stderr
