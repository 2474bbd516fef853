from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from relevo._hook import Hooks
from relevo._runner.deploy import STALE, DeployGuard
from relevo._runner.host_lock import HostLock
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock


@pytest.fixture(name="guard")
def _guard(tmp_path: Path, clock: FakeClock) -> DeployGuard:
    return DeployGuard(tmp_path / "shop.deploy", clock)


def test_it_objects_from_the_beginning_of_a_deploy_to_its_end(guard: DeployGuard) -> None:
    hooks = Hooks([guard])

    before = hooks.objection()
    began = guard.begin()
    during = hooks.objection()
    ended = guard.end()
    after = hooks.objection()

    assert (before, during, after) == (None, "deploy", None)
    assert (began, ended) == (True, True)


def test_it_remembers_that_it_objected_until_it_is_asked(guard: DeployGuard) -> None:
    guard.begin()
    guard.relevo_may_run()
    guard.end()

    assert (guard.take_objection(), guard.take_objection()) == (True, False)


def test_touch_and_rm_do_as_well(guard: DeployGuard) -> None:
    guard.path.touch()
    assert guard.relevo_may_run() == "deploy"
    guard.path.unlink()
    assert guard.relevo_may_run() is None


def test_a_deploy_may_begin_again_and_end_twice(guard: DeployGuard) -> None:
    assert [guard.begin(), guard.begin()] == [True, False]
    assert [guard.end(), guard.end()] == [True, False]


def test_beginning_again_makes_it_young_again(guard: DeployGuard, clock: FakeClock) -> None:
    guard.begin()
    clock.advance(100.0)
    aged = guard.age()
    guard.begin()

    assert (aged, guard.age()) == (100.0, 0.0)


def test_what_is_not_writable_is_told_with_the_mend(tmp_path: Path, clock: FakeClock) -> None:
    guard = DeployGuard(tmp_path / "nowhere" / "shop.deploy", clock)

    with pytest.raises(ConfigurationError, match=r'shop\.deploy cannot be created: No such file.*: deploy = "…"'):
        guard.begin()


# --- waiting ------------------------------------------------------------------------------------------------


def test_nobody_works_where_nobody_began(guard: DeployGuard) -> None:
    assert guard.wait(0.0)


def test_it_waits_in_vain_for_one_that_works_on(guard: DeployGuard, clock: FakeClock) -> None:
    another = DeployGuard(guard.path, clock)
    before = clock.monotonic()

    with another.working():
        assert not guard.wait(60.0)

    assert clock.monotonic() - before == pytest.approx(60.0)
    assert guard.wait(0.0)


def test_it_waits_until_the_last_one_has_finished(guard: DeployGuard, clock: FakeClock) -> None:
    workers = [DeployGuard(guard.path, clock) for _ in range(2)]
    begun = [worker.working() for worker in workers]
    for each in begun:
        each.__enter__()

    begun[0].__exit__(None, None, None)
    one_is_left = guard.wait(1.0)
    begun[1].__exit__(None, None, None)

    assert not one_is_left
    assert guard.wait(1.0)


def test_whoever_begins_to_work_is_seen_or_sees_the_deploy(guard: DeployGuard, clock: FakeClock) -> None:
    """Work that begins beside a deploy is either waited for, or not begun: there is no moment between the two."""
    went_wrong: list[int] = []
    at_work = threading.Event()
    ended = threading.Event()

    def work() -> None:
        worker = DeployGuard(guard.path, clock)
        while not ended.is_set():
            with worker.working():
                if not worker.is_up():
                    at_work.set()
                    at_work.clear()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(200):
        guard.begin()
        while not guard.wait(0.0):
            pass
        if at_work.is_set():
            went_wrong.append(number)
        guard.end()
    ended.set()
    for thread in threads:
        thread.join()

    assert went_wrong == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_worker_that_cannot_be_waited_for_says_so_and_works(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o500)

    with DeployGuard(tmp_path / "shop.deploy", clock).working():
        pass

    assert "relevo deploy begin --wait will not wait for this process" in caplog.text


def test_a_worker_without_a_folder_to_be_seen_in_says_so_and_works(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    worked = []

    with DeployGuard(tmp_path / "nowhere" / "shop.deploy", clock).working():
        worked.append(1)

    assert worked == [1]
    assert "relevo deploy begin --wait will not wait for this process" in caplog.text


def test_a_worker_that_cannot_be_counted_begins_nothing_and_can_be_stopped(
    guard: DeployGuard, clock: FakeClock
) -> None:
    holder = HostLock(guard.path.with_name("shop.deploy.working"))
    holder.acquire()
    stops = iter([False, False, True])

    with guard.working(lambda: next(stops)) as may_begin:
        assert not may_begin
    holder.release()
    with guard.working(lambda: True) as may_begin:
        assert may_begin

    assert next(stops, None) is None


def test_an_error_inside_is_not_taken_for_one_of_the_lock(guard: DeployGuard, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match="no such queue"), guard.working():
        raise ConfigurationError("no such queue")

    assert caplog.text == ""
    assert guard.wait(0.0)


# --- one that was forgotten -----------------------------------------------------------------------------------


def test_a_deploy_that_goes_on_for_long_is_told_once_an_hour_by_all_together(
    guard: DeployGuard, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    others = [DeployGuard(guard.path, clock) for _ in range(3)]
    guard.begin()
    told = []

    for _ in range(5):
        for each in others:
            each.warn_if_stale()
        told.append(len(caplog.records))
        clock.advance(STALE / 2)

    assert told == [0, 0, 1, 1, 2]
    assert caplog.records[0].levelno == logging.WARNING
    assert "for 1.0 hours; if it is over: relevo deploy end, or rm " in caplog.text


def test_a_new_deploy_is_not_taken_for_the_forgotten_one(
    guard: DeployGuard, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    guard.begin()
    clock.advance(STALE)
    guard.warn_if_stale()
    guard.begin()
    guard.warn_if_stale()
    clock.advance(STALE)
    guard.warn_if_stale()

    assert len(caplog.records) == 2


def _link(path: Path) -> None:
    path.with_name("target").touch()
    path.symlink_to("target")


def _file(path: Path) -> None:
    path.write_text("[transports]\n")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_file, "a file of 13 bytes"),
        (_link, "a link"),
        (lambda path: path.symlink_to("nowhere"), "a link"),
        (os.mkfifo, "a pipe"),
        (os.mkdir, "a directory"),
    ],
)
def test_what_a_deploy_did_not_create_is_neither_changed_nor_removed(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    guard = DeployGuard(tmp_path / "shop.toml", FakeClock())
    make(guard.path)
    before = guard.path.lstat()

    for step in (guard.begin, guard.end, guard.require_usable):
        with pytest.raises(ConfigurationError) as caught:
            step()
        assert str(caught.value) == (
            f"the deploy guard {guard.path}: expected an empty file, as relevo deploy begin creates it; got {kind}, "
            f'which is left as it is; set another path: deploy = "…", or remove it yourself'
        )

    assert guard.is_up()
    assert guard.path.lstat() == before


def test_a_file_of_the_user_with_the_name_of_the_report_stays(guard: DeployGuard) -> None:
    report = guard.path.with_name("shop.deploy.told")
    report.write_text("what I was told")

    guard.begin()
    guard.end()

    assert report.exists()


def test_the_report_does_not_follow_a_link(guard: DeployGuard, clock: FakeClock) -> None:
    guard.begin()
    guard.path.with_name("shop.deploy.told").symlink_to("elsewhere")
    clock.advance(STALE)

    guard.warn_if_stale()

    assert not guard.path.with_name("elsewhere").exists()
