"""
A page of the documentation as something that runs, in a folder of its own.

===============  =====================================================================================
the block        what is done with it
===============  =====================================================================================
``python``       is run, all blocks of a page in one namespace
``toml``         is read as configuration, without connecting to anything
either, that     is written to that file instead, as a reader would do; a block may hold several files
begins with
``# path``
``console``      each line behind ``$`` is run by bash, as at a terminal; what it prints is what follows, where
                 ``…`` stands for anything and spaces do not count
anything else    is only shown
===============  =====================================================================================

``<!-- skip: next if(without_rabbitmq) -->`` above a block leaves it out where there is no server. Where there is
one, the page's transport ``main`` is there, with names of its own. What no reader needs to see, such as what a block
has to have brought about, stands in ``<!-- invisible-code-block: python … -->``.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import SkipTest

from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser
from sybil.typing import Parser

from relevo._config.opening import read, refuse

_FILE = re.compile(r"^# ([\w/.-]+\.(?:py|toml))$\n", re.MULTILINE)
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_WAIT = 60.0
"""Seconds; a command that takes longer waits for something that does not come."""


class Page:
    """
    A Markdown file and the folder in which its blocks are run.

    Args:
        path: The file.

        folder: An empty one; the working directory meanwhile.
    """

    def __init__(self, path: Path, folder: Path):
        self.folder = folder
        self.rabbitmq: Mapping[str, str] = {}
        """The variables that lead to a server, if there is one."""
        self._python = PythonEvaluator()
        parsers: list[Parser] = [
            CodeBlockParser("python", self._run_python),
            CodeBlockParser("toml", self._read_toml),
            CodeBlockParser("console", self._run_console),
            SkipParser(),
        ]
        self._document = Document.parse(str(path), *parsers)

    @property
    def needs_rabbitmq(self) -> bool:
        """Whether some of it is left out without a server."""
        return "without_rabbitmq" in self._document.text

    @property
    def examples(self) -> list[Example]:
        """What is run, in order."""
        return list(self._document.examples())

    def run(self) -> int:
        """Run every block that can be run here; return how many were left out for want of a server."""
        module = ModuleType("page")
        self._document.namespace = vars(module)
        self._document.namespace["without_rabbitmq"] = not self.rabbitmq
        sys.modules["page"] = module
        sys.path.insert(0, str(self.folder))
        left_out = 0
        try:
            with _logging_kept():
                for example in self._document.examples():
                    try:
                        example.evaluate()
                    except SkipTest:
                        left_out += 1
        finally:
            sys.path.remove(str(self.folder))
            _forget_modules_of(self.folder)
            del sys.modules["page"]
        return left_out

    def environ(self) -> dict[str, str]:
        """Return the environment of a command: no configuration but the page's own."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("RELEVO_")}
        path = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", "")])
        terminal = {"TERM": "xterm", "COLUMNS": "120", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**own, **terminal, **self.server(), "PATH": path, "PYTHONWARNINGS": "error,ignore::ResourceWarning"}

    def server(self) -> Mapping[str, str]:
        """Return what leads to the server that is really there, if the page configures one now."""
        file = self.folder / "relevo.toml"
        uses = file.exists() and "amqp://" in str(tomllib.loads(file.read_text()).get("transports", {}).get("main"))
        return self.rabbitmq if uses else {}

    # --- kinds of blocks --------------------------------------------------------------------------------

    def _run_python(self, example: Example) -> None:
        if not self._written(example):
            self._python(example)

    def _read_toml(self, example: Example) -> None:
        if not self._written(example):
            file = self.folder / ("pyproject.toml" if "[tool.relevo" in example.parsed else "block.toml")
            file.write_text(example.parsed)
            _load(file, os.environ)
            file.unlink()

    def _written(self, example: Example) -> bool:
        """Write the files that a block shows, if it does."""
        first, *rest = _FILE.split(example.parsed)
        if first.strip():
            return False
        for name, text in zip(rest[::2], rest[1::2], strict=True):
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"# {name}\n" + text.lstrip("\n"))  # a reader copies the first line too
            if name == "relevo.toml":
                _load(file, os.environ)
        return bool(rest)

    def _run_console(self, example: Example) -> str | None:
        for command, wanted in commands(example.parsed):
            printed = at_terminal(command, self.folder, self.environ())
            if not matches(wanted, printed):
                return f"$ {command}\nshould print:\n{wanted}\nbut printed:\n{printed}"
        return None


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Restore how this process logs, which a page may set up."""
    root = logging.root
    level, handlers, disabled = root.level, list(root.handlers), root.manager.disable
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)


def commands(text: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with what it should print."""
    _, *parts = re.split(r"^\$ ((?:.*\\\n)*.*)\n?", text, flags=re.MULTILINE)
    return list(zip(parts[::2], parts[1::2], strict=True))


def matches(wanted: str, printed: str) -> bool:
    """Return whether *printed* is *wanted*, where … stands for anything and spaces do not count."""
    parts = (r"\s+".join(map(re.escape, part.split())) for part in wanted.split("…"))
    return re.fullmatch(r"\s*" + r"\s*.*?\s*".join(parts) + r"\s*", printed, re.DOTALL) is not None


def at_terminal(command: str, folder: Path, environ: Mapping[str, str]) -> str:
    """Run *command* so that it prints what somebody at a terminal reads; return that."""
    terminal, its_end = os.openpty()
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=its_end,
        stderr=subprocess.PIPE,  # not at a terminal, so that no bar moves
    ) as process:
        os.close(its_end)
        printed = b"".join(_read_from(terminal))
        os.close(terminal)
        assert process.stderr is not None
        printed = process.stderr.read() + printed  # the log; the summary comes last
        process.wait(_WAIT)
    return _STYLE.sub("", printed.decode().replace("\r\n", "\n"))


def _read_from(terminal: int) -> Iterable[bytes]:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux: nobody has the other end any more
            return
        if not data:
            return
        yield data


def _load(file: Path, environ: Mapping[str, str]) -> None:
    """Read *file* as configuration, down to every option of every transport; nothing is connected to."""
    own = {name: value for name, value in environ.items() if not name.startswith("RELEVO_")}
    refuse(read(file, own, start=file.parent))


def _forget_modules_of(folder: Path) -> None:
    for name, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        if any(str(place).startswith(str(folder)) for place in places):
            del sys.modules[name]
    importlib.invalidate_caches()
