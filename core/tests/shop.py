"""A folder with an application, and the command line in it: what the tests of the command line share."""

from __future__ import annotations

import importlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from relevo.cli._main import main

CANARY = "hunter2"

CONFIGURATION = """
source = "shop"
app = "shop:app"
listeners = ["shop_listeners"]

[transports]
main = "sqlite:///shop.db"

[routes]
"image.*" = ["main/media", "main/feed"]
"*" = "main"
"""

APP = """
import relevo
app = relevo.App.from_config()
number = 3
def create(): ...
"""

LISTENERS = r"""
import relevo

@relevo.listener("image.created", queue="media")
def thumbnails(event):
    if event.get("bad"):
        raise relevo.GiveUp("a corrupt \x1b[31mfile")
    print("made", event["image_id"])

@relevo.listener("image.created", queue="feed")
def feed(event): ...

@relevo.listener("mail.sent", priority=3)
def count(event): ...
"""


@attrs.frozen
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@attrs.frozen
class Shop:
    """A folder with an application, and the command line in it."""

    folder: Path

    def write(self, name: str, text: str | bytes) -> None:
        self.folder.joinpath(name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def run(self, command: str, *, given: bytes = b"", **environ: str) -> Done:
        """Run *command* in this process, which is quicker; everything is as it was afterwards."""
        out, error = io.BytesIO(), io.BytesIO()
        modules, path = set(sys.modules), list(sys.path)
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("RELEVO_")]:
                patch.delenv(name)
            for name, value in environ.items():
                patch.setenv(name, value)
            before = dict(os.environ)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["relevo", *shlex.split(command)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8", write_through=True))
            patch.setattr(sys, "stderr", io.TextIOWrapper(error, "utf-8", write_through=True))
            handler = signal.getsignal(signal.SIGINT)
            try:
                with pytest.raises(SystemExit) as ended:
                    main()
            finally:
                signal.signal(signal.SIGINT, handler)
            assert (dict(os.environ), sys.path) == (before, path), "the command left something behind"
            done = Done(int(ended.value.code or 0), out.getvalue().decode(), error.getvalue().decode())
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if name.startswith("shop") or (file and Path(file).is_relative_to(self.folder)):
                del sys.modules[name]
        return done

    def process(self, script: str) -> Done:
        """Run the shell's *script*, in which ``relevo`` is the command line."""
        script = script.replace("relevo ", f"{shlex.quote(sys.executable)} -m relevo ")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Done(done.returncode, done.stdout, done.stderr)


def opened(folder: Path) -> Shop:
    """Return a shop in *folder*, with its configuration, application and listeners."""
    pytest.importorskip("relevo_sql")
    importlib.invalidate_caches()
    shop = Shop(folder)
    shop.write("relevo.toml", CONFIGURATION)
    shop.write("shop.py", APP)
    shop.write("shop_listeners.py", LISTENERS)
    return shop


def lines(done: Done) -> list[str]:
    return done.stderr.splitlines()


def told_in_one_line(done: Done) -> str:
    """Return what *done* said, which is one line and not the password."""
    assert len(lines(done)) == 1, done.stderr
    assert done.stderr.startswith("relevo: ")
    assert CANARY not in done.stderr
    assert done.stdout == ""
    return done.stderr


def kept(shop: Shop) -> dict[str, int]:
    """Return how many living events every queue holds, without the empty ones."""
    rows = json.loads(shop.run("status --json").stdout)
    numbers = {f"{row['transport']}/{row['queue']}": row["ready"] + row["leased"] + row["scheduled"] for row in rows}
    return {queue: number for queue, number in numbers.items() if number}
