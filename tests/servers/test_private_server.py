"""A private server has a folder of its own, and another user if root may not run it."""

from __future__ import annotations

import os
import pwd
import signal
import tempfile
from pathlib import Path

import pytest

from private_server import private_server
from server_process import StartError


def test_a_server_is_ended_and_its_folder_deleted() -> None:
    with private_server("Sleep", os.environ, programs=()) as server:
        started = server.folder / "started"
        with server.running("/bin/sh", "-c", f"echo $$ > {started}; exec sleep 60", ready=started.exists):
            process = int(started.read_text())

    assert not Path(f"/proc/{process}").exists()
    assert not server.folder.exists()


def test_a_server_that_waits_for_its_clients_on_term_is_ended_with_the_signal_that_it_needs() -> None:
    with private_server("Patient", os.environ, programs=()) as server:
        started, ended = server.folder / "started", server.folder / "ended"
        script = f"trap '' TERM; trap 'echo > {ended}; exit' INT; echo > {started}; while :; do sleep 0.1; done"
        with server.running("/bin/sh", "-c", script, ready=started.exists, stop=signal.SIGINT):
            pass

        assert ended.exists()


def test_where_memory_has_no_room_the_folder_is_on_the_disk() -> None:
    with private_server("Huge", os.environ, programs=(), room=2**60) as server:
        assert server.folder.parent == Path(tempfile.gettempdir())


def test_files_that_cannot_be_created_are_an_error_with_the_last_words() -> None:
    full = pytest.raises(StartError, match=r"ended with 3\nno space left")

    with private_server("Full", os.environ, programs=()) as server, full:
        server.prepare("/bin/sh", "-c", "echo no space left; exit 3")


def test_a_program_that_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    missing = pytest.raises(StartError, match="initdb, which belongs to PostgreSQL")

    with private_server("PostgreSQL", {"PATH": str(tmp_path)}, programs=()) as server, missing:
        server.program("initdb")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program as another user")
def test_root_starts_it_as_another_user_in_a_folder_of_that_user() -> None:
    with private_server("Wary", os.environ, programs=(), account="no-such-user") as server:
        server.prepare("/bin/sh", "-c", "id -un > who; id -G >> who; pwd >> who")

        groups = str(pwd.getpwnam("nobody").pw_gid)
        assert (server.folder / "who").read_text().splitlines() == ["nobody", groups, str(server.folder)]
