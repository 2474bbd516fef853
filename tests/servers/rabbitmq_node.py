"""
A private RabbitMQ node: loopback only.

The launcher is the one in RabbitMQ's own folder. The one on the PATH of a Debian system changes
to the user "rabbitmq" and drops the variables that make the node private.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from memory import ENOUGH, memory_folder
from server_process import StartError, end, free_ports, search_path, spawn, temporary_folder, wait_until

__all__ = ["PrivateNode", "StartError", "launcher"]

CONTROL_LIMIT = 90.0
"""Seconds for ``rabbitmqctl``; two are usual."""

_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
disk_free_limit.absolute = 50MB
"""
_MANAGEMENT = """\
management.tcp.ip = 127.0.0.1
management.tcp.port = {port}
"""


def launcher(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the program that starts RabbitMQ itself, or ``None`` if it is not installed."""
    found = shutil.which("rabbitmq-server", path=search_path(environ, _SYSTEM_FOLDERS))
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

        environ: The environment that the node inherits, without the variables of RabbitMQ and Erlang.

        management: Start the management plugin too.

        tls: Settings of RabbitMQ under ``ssl_options``; with any, it also listens at ``tls_port``, encrypted.
    """

    def __init__(
        self,
        launcher: Path,
        environ: Mapping[str, str] = os.environ,
        *,
        management: bool = False,
        tls: Mapping[str, str] = MappingProxyType({}),
    ):
        self._tls = tls
        self.tls_port = 0
        self._launcher = launcher
        self._environ = environ
        self._management = management
        self._resources = ExitStack()
        self._private: Mapping[str, str] = {}
        self.url = ""
        self.management_url = ""

    def __enter__(self) -> Self:
        memory = None if "TMPDIR" in self._environ else memory_folder(ENOUGH)
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(temporary_folder("rabbitmq", under=memory)))
            port, distribution_port, epmd_port, management_port, self.tls_port = free_ports(5)
            self._private = self._private_environment(port, distribution_port, epmd_port, management_port)
            epmd = shutil.which("epmd", path=search_path(self._private, _SYSTEM_FOLDERS))
            if epmd is None:
                raise StartError("epmd, which belongs to Erlang, is not on the PATH")
            path = search_path(self._private, _SYSTEM_FOLDERS)
            mapper = [epmd, "-port", str(epmd_port), "-address", "127.0.0.1"]
            stack.callback(end, spawn(mapper, self._private, self._log, path=path))
            self.start()
            stack.callback(lambda: end(self._process))
            self._resources = stack.pop_all()
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/"
        self.management_url = f"http://127.0.0.1:{management_port}" if self._management else ""
        return self

    def start(self) -> None:
        """Start the node with its existing data, initially and after :meth:`kill`; this takes some seconds."""
        path = search_path(self._private, _SYSTEM_FOLDERS)
        self._process = spawn([str(self._launcher)], self._private, self._log, path=path)

    def kill(self) -> None:
        """End the node with SIGKILL: data that is not in a file is lost."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def control(self, *words: str) -> str:
        """Run ``rabbitmqctl`` with *words* and return its output; raises what ``subprocess`` raises when it fails."""
        command = [str(self._launcher.with_name("rabbitmqctl")), *words]
        environ = {**self._private, "PATH": search_path(self._private, _SYSTEM_FOLDERS)}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=300).stdout

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._resources.close()

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return when *ready* returns true; raises what :func:`server_process.wait_until` raises."""
        wait_until(ready, self._process, self._log, name="RabbitMQ")

    @property
    def _log(self) -> Path:
        return self.folder / "output.log"

    def _private_environment(
        self, port: int, distribution_port: int, epmd_port: int, management_port: int
    ) -> dict[str, str]:
        (self.folder / "home").mkdir()
        configuration = _CONFIGURATION.format(port=port)
        configuration += _MANAGEMENT.format(port=management_port) if self._management else ""
        if self._tls:
            configuration += f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            configuration += "".join(f"ssl_options.{name} = {value}\n" for name, value in self._tls.items())
        (self.folder / "rabbitmq.conf").write_text(configuration)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n" if self._management else "[].\n")
        inherited = {
            name: value
            for name, value in self._environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "NOTIFY_"))
        }
        return inherited | {
            "HOME": str(self.folder / "home"),  # where Erlang keeps its cookie
            "ERL_CRASH_DUMP": str(self.folder / "erl_crash.dump"),  # and not where the tests run
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
