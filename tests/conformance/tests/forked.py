"""
The command line in a process forked from one that has imported it, which saves a second of imports each time.

The process is a child with its own arguments, folder, environment and output, and ends as the program itself would.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PRELOADED = ["pytest", "relevo_conformance.cli", "relevo_memory.conformance"]


def run(words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``relevo-conformance`` with *words*, and return how it ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    program = str(Path(sys.executable).with_name("relevo-conformance"))
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        request = {"ARGV": [program, *words], "CWD": str(cwd), "ENV": dict(env), "OUT": out.name, "ERR": err.name}
        # a built-in function, since the server cannot import the modules of the tests
        child = context.Process(target=runpy.run_path, args=(__file__, request, "__main__"))
        child.start()
        child.join()
        code = child.exitcode
        child.close()
        assert code is not None
        return subprocess.CompletedProcess([program, *words], code, _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    return file.read().decode()


def _be_the_program(argv: Sequence[str], cwd: str, env: Mapping[str, str], out: str, err: str) -> None:
    from relevo_conformance.cli import main  # noqa: PLC0415 - the parent does not need it

    for number, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv[:] = argv
    sys.path[0] = str(Path(argv[0]).parent)
    main()


if __name__ == "__main__":
    given = globals()
    _be_the_program(*(given[name] for name in ("ARGV", "CWD", "ENV", "OUT", "ERR")))
