"""
A private RabbitMQ node: loopback only, free ports, a folder of its own, ended by its process id.

The launcher is the one in RabbitMQ's own folder. The one on the PATH of a Debian system changes
to the user "rabbitmq" and drops the variables that make the node private.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

START_LIMIT = 90.0
"""Seconds for a node to answer; three are usual."""

STOP_LIMIT = 20.0
"""Seconds for a node to end after TERM, before it is killed; one is usual."""

_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
disk_free_limit.absolute = 50MB
"""


class StartError(Exception):
    """Raised when a private node cannot be started; shows the end of its log."""


def launcher(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the program that starts RabbitMQ itself, or ``None`` if it is not installed."""
    found = shutil.which("rabbitmq-server", path=_search_path(environ))
    if found is None:
        return None
    beside = Path(found).resolve().parent
    real = beside / "rabbitmq-server"
    return real if real.exists() and (beside / "rabbitmq-env").exists() else None


class PrivateNode:
    """
    One RabbitMQ node for the length of a ``with`` block.

    Args:
        launcher: What :func:`launcher` found.

        environ: The environment that the node inherits, but for RabbitMQ's and Erlang's own.
    """

    def __init__(self, launcher: Path, environ: Mapping[str, str] = os.environ):
        self._launcher = launcher
        self._environ = environ
        self._resources = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(_temporary_folder()))
            port, distribution_port, epmd_port = _free_ports(3)
            environ = self._private_environment(port, distribution_port, epmd_port)
            epmd = shutil.which("epmd", path=_search_path(environ))
            if epmd is None:
                raise StartError("epmd, which belongs to Erlang, is not on the PATH")
            stack.callback(_end, _spawn([epmd, "-port", str(epmd_port), "-address", "127.0.0.1"], environ, self._log))
            self._process = _spawn([str(self._launcher)], environ, self._log)
            stack.callback(_end, self._process)
            self._resources = stack.pop_all()
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._resources.close()

    def wait_until(self, ready: Callable[[], bool], *, limit: float = START_LIMIT) -> None:
        """
        Return when *ready* says so.

        Args:
            ready: Asked five times a second.

            limit: Seconds until it is given up.

        Raises:
            StartError: The node ended, or *limit* is over.
        """
        deadline = time.monotonic() + limit
        while not ready():
            if self._process.poll() is not None:
                raise StartError(f"the private RabbitMQ ended with {self._process.returncode}\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise StartError(f"the private RabbitMQ did not answer within {limit:g} s\n{self._last_words()}")
            time.sleep(0.2)

    @property
    def _log(self) -> Path:
        return self.folder / "output.log"

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])

    def _private_environment(self, port: int, distribution_port: int, epmd_port: int) -> dict[str, str]:
        (self.folder / "home").mkdir()
        (self.folder / "rabbitmq.conf").write_text(_CONFIGURATION.format(port=port))
        (self.folder / "enabled_plugins").write_text("[].\n")
        inherited = {
            name: value
            for name, value in self._environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "NOTIFY_"))
        }
        return inherited | {
            "HOME": str(self.folder / "home"),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"relevo{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,  # not the system's rabbitmq-env.conf
        }


def _search_path(environ: Mapping[str, str]) -> str:
    # An ordinary user's PATH may lack the folders where systems put servers.
    return os.pathsep.join([environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="relevo-rabbitmq-", ignore_cleanup_errors=True)


def _free_ports(count: int) -> list[int]:
    # All are held at the same time, so that no two are the same.
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def _spawn(command: Sequence[str], environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    # In a session of its own, since Ctrl-C is for the tests; the node is ended after them. If we
    # are killed ourselves, Linux ends it for us.
    setpriv = shutil.which("setpriv", path=_search_path(environ))
    tied = [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else command
    with log.open("ab") as output:
        return subprocess.Popen(
            tied, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
