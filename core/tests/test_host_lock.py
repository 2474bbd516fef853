from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relevo._runner.host_lock import HostLock
from relevo.errors import ConfigurationError

HOLDER = """
import sys, time
from pathlib import Path
from relevo._runner.host_lock import HostLock
lock = HostLock(Path(sys.argv[1]))
print(lock.acquire(shared="shared" in sys.argv), flush=True)
time.sleep(60)
"""


def holder(path: Path, *how: str) -> subprocess.Popen[str]:
    """Start a process that takes the lock and stays; return it when it has."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path, *how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_one_of_two_has_it_until_it_gives_it_up(tmp_path: Path) -> None:
    one, other = HostLock(tmp_path / "a.lock"), HostLock(tmp_path / "a.lock")

    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    assert not one.acquire()


def test_it_is_given_up_once(tmp_path: Path) -> None:
    one, other = HostLock(tmp_path / "a.lock"), HostLock(tmp_path / "a.lock")
    one.acquire()
    one.release()
    other.acquire()

    one.release()

    assert not one.acquire()


def test_many_share_it_and_nobody_has_it_alone_meanwhile(tmp_path: Path) -> None:
    locks = [HostLock(tmp_path / "a.lock") for _ in range(3)]

    assert locks[0].acquire(shared=True)
    assert locks[1].acquire(shared=True)
    assert not locks[2].acquire()
    locks[0].release()
    assert not locks[2].acquire()
    locks[1].release()
    assert locks[2].acquire()
    assert not locks[0].acquire(shared=True)


@pytest.mark.parametrize("how", ["alone", "shared"])
def test_a_holder_that_is_killed_leaves_nothing_behind(how: str, tmp_path: Path) -> None:
    lock = HostLock(tmp_path / "a.lock")
    with holder(lock.path, how) as process:
        assert not lock.acquire()

        process.send_signal(signal.SIGKILL)
        process.wait()

        assert lock.acquire()


def test_a_child_of_a_fork_does_not_hold_it_on(tmp_path: Path) -> None:
    ours, another = HostLock(tmp_path / "a.lock"), HostLock(tmp_path / "a.lock")
    ours.acquire()
    ended, end = os.pipe()
    begun, begin = os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        os.close(begin)
        os.read(ended, 1)  # until the parent closes its side
        os._exit(0)
    os.close(ended)
    os.close(begin)
    os.read(begun, 1)  # until the child lives

    try:
        assert not another.acquire()
        ours.release()
        assert another.acquire()
    finally:
        os.close(end)
        os.close(begun)
        os.waitpid(child, 0)


@pytest.mark.parametrize("content", [b"", b"1\n", b"no number\n"], ids=["nothing", "a process id", "nonsense"])
def test_what_is_in_the_file_does_not_matter(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_bytes(content)

    assert HostLock(path).acquire()
    assert path.read_bytes() == content


def test_a_file_that_somebody_deletes_is_made_again(tmp_path: Path) -> None:
    first, second, third = (HostLock(tmp_path / "a.lock") for _ in range(3))
    first.acquire()
    first.path.unlink()

    assert second.acquire()
    assert not third.acquire()


def test_a_file_that_goes_while_it_is_locked_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, another = HostLock(tmp_path / "a.lock"), HostLock(tmp_path / "a.lock")
    opened = lock._open
    gone = [True]

    def opened_and_gone() -> int:
        file = opened()
        if gone and gone.pop():
            lock.path.unlink()
        return file

    monkeypatch.setattr(lock, "_open", opened_and_gone)

    assert lock.acquire()
    assert not another.acquire()


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(
        ConfigurationError, match=r"a\.lock cannot be opened: .*; it is a link, remove it or set another"
    ):
        HostLock(path).acquire()

    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_of_another_user_names_what_several_users_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may open every file

    with pytest.raises(
        ConfigurationError, match=r"give the folder a group of theirs and mode 2770, and remove the lock"
    ):
        HostLock(tmp_path / "a.lock").acquire()


def test_a_missing_folder_is_told_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'No such file or directory; set a folder .*: lock = "…"'):
        HostLock(tmp_path / "nowhere" / "a.lock").acquire()


def test_only_its_owner_can_open_the_file(tmp_path: Path) -> None:
    lock = HostLock(tmp_path / "a.lock")

    lock.acquire()

    assert lock.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o666, 0o700])
def test_a_file_of_an_earlier_release_is_closed_to_others(mode: int, tmp_path: Path) -> None:
    lock = HostLock(tmp_path / "a.lock")
    lock.path.touch()
    lock.path.chmod(mode)

    assert lock.acquire()
    assert lock.path.stat().st_mode & 0o777 == 0o600


def test_the_mode_of_a_file_is_changed_even_while_another_one_holds_it(tmp_path: Path) -> None:
    holder, lock = HostLock(tmp_path / "a.lock"), HostLock(tmp_path / "a.lock")
    holder.acquire()
    lock.path.chmod(0o640)

    assert not lock.acquire()
    assert lock.path.stat().st_mode & 0o777 == 0o600


def test_a_group_that_can_write_to_the_folder_can_share_the_lock(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    lock = HostLock(tmp_path / "a.lock")

    lock.acquire()

    assert lock.path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another group")
def test_a_group_that_is_not_that_of_the_folder_cannot_share_the_lock(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 4321)
    tmp_path.chmod(0o770)  # without the setgid bit a new file has the group of its user
    lock = HostLock(tmp_path / "a.lock")

    lock.acquire()

    assert lock.path.stat().st_gid != 4321
    assert lock.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_keeps_its_mode(tmp_path: Path) -> None:
    lock = HostLock(tmp_path / "a.lock")
    lock.path.touch()
    lock.path.chmod(0o640)
    os.chown(lock.path, 65534, 65534)

    assert lock.acquire()
    assert lock.path.stat().st_mode & 0o777 == 0o640


def test_a_file_system_that_locks_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)  # a network file system is not at hand

    with pytest.raises(ConfigurationError, match=r"cannot be taken: No locks available, .*; set a folder on a local"):
        HostLock(tmp_path / "lock").acquire()
