"""The server starter finds or starts a server, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import rabbitmq
import rabbitmq_node
import server_package
import server_starter
from waiting import eventually

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"
STARTER = Path(rabbitmq.__file__)


@pytest.fixture(name="empty_system")
def _empty_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment of a machine without RabbitMQ and without programs."""
    monkeypatch.setattr(rabbitmq_node, "_SYSTEM_FOLDERS", ())
    programs = tmp_path / "programs"
    programs.mkdir()
    return {"PATH": str(programs), "RELEVO_TEST_AMQP_STANDARD": NOWHERE}


def program(environ: dict[str, str], name: str, script: str) -> Path:
    path = Path(environ["PATH"]) / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# --- finding --------------------------------------------------------------------------------------


def test_a_named_server_is_used(rabbitmq_url: str) -> None:
    with rabbitmq.KIND.server(environ={"RELEVO_TEST_AMQP": rabbitmq_url}) as url:
        assert url == rabbitmq_url


def test_the_standard_place_is_looked_at_next(rabbitmq_url: str) -> None:
    with rabbitmq.KIND.server(environ={"RELEVO_TEST_AMQP_STANDARD": rabbitmq_url}) as url:
        assert url == rabbitmq_url


def test_a_named_server_that_does_not_answer_is_an_error_and_nothing_else_is_tried(rabbitmq_url: str) -> None:
    environ = {"RELEVO_TEST_AMQP": NOWHERE, "RELEVO_TEST_AMQP_STANDARD": rabbitmq_url}

    with (
        pytest.raises(server_starter.NotAnsweringError, match=r"127\.0\.0\.1:1/"),
        rabbitmq.KIND.server(environ=environ),
    ):
        pass


def test_an_open_port_that_speaks_something_else_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answering = subprocess.Popen(
            [sys.executable, "-c", "import socket; socket.socket(fileno=0).accept()[0].send(b'no')"],
            stdin=other.fileno(),
        )

        assert rabbitmq.refusal(f"amqp://guest:guest@127.0.0.1:{port}/")

        answering.wait()


def test_a_wrong_password_is_told_from_a_server_that_answers(rabbitmq_url: str) -> None:
    assert not rabbitmq.refusal(rabbitmq_url)
    assert rabbitmq.refusal(f"amqp://guest:wrong@{rabbitmq_url.partition('@')[2]}")


def test_a_password_is_never_shown() -> None:
    assert rabbitmq.KIND.shown("amqp://me:secret@host/vhost") == "amqp://me@host:5672/vhost"


def test_without_any_server_the_error_says_what_to_type(empty_system: dict[str, str]) -> None:
    with (
        pytest.raises(server_starter.NotFoundError, match="apt-get install"),
        rabbitmq.KIND.server(environ=empty_system),
    ):
        pass


# --- installing -----------------------------------------------------------------------------------


def test_the_package_is_installed_where_that_is_allowed(
    empty_system: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    asked = tmp_path / "asked"
    program(empty_system, "apt-get", f'echo "$*" >> {asked}')

    with pytest.raises(server_starter.NotFoundError), rabbitmq.KIND.server(environ=empty_system, install=True):
        pass

    update, install = asked.read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("rabbitmq-server")


def test_an_ordinary_user_installs_by_sudo_without_being_asked(
    empty_system: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    asked = tmp_path / "asked"
    program(empty_system, "apt-get", "exit 1")
    program(empty_system, "sudo", f'echo "$*" >> {asked}')

    server_package.install("rabbitmq-server", "RabbitMQ", empty_system)

    assert all(line.startswith("-n ") for line in asked.read_text().splitlines())


def test_old_lists_do_not_prevent_an_installation(
    empty_system: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    program(empty_system, "apt-get", 'case "$*" in *update) exit 100;; esac')

    server_package.install("rabbitmq-server", "RabbitMQ", empty_system)


def test_a_program_of_the_system_is_installed_with_its_package(
    empty_system: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    analyze = Path(empty_system["PATH"]) / "systemd-analyze"
    program(empty_system, "apt-get", f'case "$*" in *systemd) : > {analyze}; /bin/chmod +x {analyze};; esac')

    with pytest.raises(server_starter.NotFoundError, match="apt-get install -y systemd"):
        server_starter.system_program("systemd-analyze", "systemd", empty_system)

    assert server_starter.system_program("systemd-analyze", "systemd", empty_system | {"CI": "true"}) == analyze


def test_one_installation_waits_for_another(
    empty_system: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    running = tmp_path / "running"
    program(
        empty_system, "apt-get", f"[ ! -e {running} ] || exit 100; : > {running}; /bin/sleep 0.2; /bin/rm {running}"
    )

    with ThreadPoolExecutor(3) as pool:
        installed = [pool.submit(server_package.install, "cron", "cron", empty_system) for _ in range(3)]

    assert [each.result() for each in installed] == [None] * 3


def test_a_failed_installation_says_what_apt_get_said(
    empty_system: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    program(empty_system, "apt-get", "echo no space left; exit 100")

    with pytest.raises(server_package.InstallError, match="no space left"):
        server_package.install("rabbitmq-server", "RabbitMQ", empty_system)


def test_programs_that_a_failed_installation_left_are_used(
    empty_system: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    programs = empty_system["PATH"]
    program(empty_system, "epmd", "exec /bin/sleep 60")
    program(
        empty_system,
        "apt-get",
        f"""
        printf '#!/bin/sh\nexit 5\n' > {programs}/rabbitmq-server
        : > {programs}/rabbitmq-env
        /bin/chmod +x {programs}/rabbitmq-server
        exit 100
        """,
    )
    starting = pytest.raises(rabbitmq_node.StartError, match="ended with 5")

    with starting, rabbitmq.KIND.server(environ=empty_system, install=True):
        pass


def test_where_there_is_no_apt_get_the_error_says_so(empty_system: dict[str, str]) -> None:
    with pytest.raises(server_package.InstallError, match="apt-get"):
        server_package.install("rabbitmq-server", "RabbitMQ", empty_system)


# --- the private node -----------------------------------------------------------------------------


@pytest.fixture(name="launcher", scope="module")
def _launcher() -> Path:
    found = rabbitmq_node.launcher()
    if found is None:
        pytest.skip("no RabbitMQ is installed from which a private node could be started")
    return found


@pytest.mark.amqp
@pytest.mark.slow("starts a RabbitMQ")
def test_a_private_node_answers_and_leaves_nothing_behind(launcher: Path) -> None:
    assert launcher.name == "rabbitmq-server"

    with rabbitmq.KIND.server(
        environ={**os.environ, "RELEVO_TEST_AMQP": "", "RELEVO_TEST_AMQP_STANDARD": NOWHERE}
    ) as url:
        (folder,) = _folders_with(url)
        processes = _processes_under(folder)
        assert not rabbitmq.refusal(url)
        assert len(processes) >= 2  # the node, and epmd, which has the addresses of nodes

    assert rabbitmq.refusal(url)
    assert not folder.exists()
    assert eventually(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


@pytest.mark.amqp
@pytest.mark.slow("starts a RabbitMQ")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="only util-linux ties a process to its parent")
def test_a_private_node_ends_with_a_starter_that_is_killed(
    launcher: Path, signum: signal.Signals, tmp_path: Path
) -> None:
    url = tmp_path / "url"
    environ = {**os.environ, "RELEVO_TEST_AMQP": "", "RELEVO_TEST_AMQP_STANDARD": NOWHERE}
    starter = subprocess.Popen(
        [sys.executable, STARTER, "run", "--", "sh", "-c", f'echo "$RELEVO_TEST_AMQP" > {url}; exec sleep 60'],
        env={**environ, "TMPDIR": str(tmp_path)},
    )
    assert eventually(lambda: url.exists() and url.read_text().strip() != "")
    processes = _processes_under(tmp_path)

    starter.send_signal(signum)

    starter.wait()
    assert len(processes) >= 2
    assert eventually(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def test_a_node_that_dies_at_once_shows_its_last_words(empty_system: dict[str, str]) -> None:
    program(empty_system, "rabbitmq-server", "echo the cookie is stale; exit 3")
    program(empty_system, "rabbitmq-env", "")
    program(empty_system, "epmd", "exec /bin/sleep 60")

    stale = pytest.raises(rabbitmq_node.StartError, match=r"ended with 3\n.*the cookie is stale")

    with stale, rabbitmq.KIND.server(environ=empty_system):
        pass


def test_the_wrapper_that_changes_the_user_is_never_the_launcher(empty_system: dict[str, str], tmp_path: Path) -> None:
    real = tmp_path / "lib"
    real.mkdir()
    for name in ("rabbitmq-script-wrapper", "rabbitmq-server", "rabbitmq-env"):
        (real / name).write_text("")
        (real / name).chmod(0o755)
    (Path(empty_system["PATH"]) / "rabbitmq-server").symlink_to(real / "rabbitmq-script-wrapper")

    assert rabbitmq_node.launcher(empty_system) == real / "rabbitmq-server"


def _processes_under(folder: Path) -> list[int]:
    """Return the processes whose HOME is in *folder*."""
    home = f"HOME={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if any(variable.startswith(home) for variable in entry.read_bytes().split(b"\0")):
                found.append(int(entry.parent.name))
        except OSError:
            continue  # it ended, or is not ours
    return found


def _folders_with(url: str) -> list[Path]:
    port = url.rpartition(":")[2].rstrip("/")
    found = []
    for configuration in Path(tempfile.gettempdir()).glob("relevo-rabbitmq-*/rabbitmq.conf"):
        with suppress(OSError):  # a node of another test has just ended
            if f":{port}\n" in configuration.read_text():
                found.append(configuration.parent)
    return found


# --- the command line -----------------------------------------------------------------------------


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, STARTER, "run", "--", *command],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_gets_the_url_and_its_exit_code_is_passed_on(rabbitmq_url: str) -> None:
    done = run("sh", "-c", 'echo "$RELEVO_TEST_AMQP"; exit 7', RELEVO_TEST_AMQP=rabbitmq_url)

    assert done.stdout.strip() == rabbitmq_url
    assert done.returncode == 7


def test_a_command_that_a_signal_ended_exits_as_in_a_shell(rabbitmq_url: str) -> None:
    assert run("sh", "-c", "kill -9 $$", RELEVO_TEST_AMQP=rabbitmq_url).returncode == 128 + signal.SIGKILL


def test_a_named_server_that_does_not_answer_stops_the_run() -> None:
    done = run("echo", "ran", RELEVO_TEST_AMQP=NOWHERE, CI="")

    assert done.returncode == server_starter.UNAVAILABLE
    assert "ran" not in done.stdout


@pytest.mark.parametrize("ci, code, output", [("", 0, "ran"), ("true", server_starter.UNAVAILABLE, "")])
def test_without_a_server_the_command_runs_all_the_same_but_not_in_ci(
    empty_system: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    ci: str,
    code: int,
    output: str,
) -> None:
    monkeypatch.setattr(server_starter, "may_install", lambda: False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delenv("RELEVO_TEST_AMQP", raising=False)
    for name, value in (empty_system | {"CI": ci}).items():
        monkeypatch.setenv(name, value)

    assert server_starter.main(rabbitmq.KIND, ["run", "--", "/bin/echo", "ran"]) == code
    assert capfd.readouterr().out.strip() == output
