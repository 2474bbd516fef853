"""A child process as its parent sees it: its pipe, its output, and how it ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from relevo._execution.cell import TRACE_SIGNAL, Cell
from relevo._execution.descendants import MARK, kill_marked
from relevo._execution.pipe import CUT_OFF, GarbledError, Hello, Pipe
from relevo._process_identity import process_identity
from relevo._secret import masked

TAIL = 4096
"""Bytes of a child's output that are kept, to show why it died."""

_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 16
_EOF_PATIENCE = 0.5
_REAP_PATIENCE = 5.0
_TRACE_PATIENCE, _TRACE_EVERY = 0.5, 0.01


class Spawned:
    """
    One child process, in a session and a process group of its own.

    Args:
        hello: Tells it which application to create.

        print_line: Takes each line that it, or a process that it started, prints.
    """

    def __init__(self, hello: Hello, print_line: Callable[[str], None]):
        self._print_line = print_line
        self._line = bytearray()
        self._tail = bytearray()
        self._is_tail_cut = False
        """Whether the tail begins in the middle of a line."""

        self.served = 0
        self.since = time.monotonic()
        """When it was started, in monotonic seconds."""

        self.is_ready = False
        self.gone: str | None = None
        """Why no further message can come, if that is so; empty if its end was just closed."""
        self.output_ended = False
        self.base_memory = 0
        self._mark = secrets.token_hex(8)
        with contextlib.ExitStack() as stack:
            here, there = socket.socketpair()
            stack.callback(there.close)
            lifeline, self._lifeline = os.pipe()
            stack.callback(os.close, lifeline)
            self.output, printed = os.pipe()
            stack.callback(os.close, printed)
            os.set_blocking(self.output, False)
            self.pipe = Pipe(here)
            self.cell = Cell.create()
            fds = (there.fileno(), self.cell.fd, lifeline)
            # -P: a file in the working directory must not replace a module of the standard library.
            words = [sys.executable, "-P", "-u", "-m", "relevo._app.child", *map(str, fds)]
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                words,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env={**os.environ, MARK: self._mark},
                pass_fds=fds,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.identity = process_identity(self.pid)
        with contextlib.suppress(OSError):  # it died already, which is noticed later
            self.pipe.send(hello)

    def has_ended(self) -> bool:
        """Return whether it has ended, without freeing its id: processes that it started may still be in its group."""
        if not hasattr(os, "waitid"):  # macOS, before Python 3.13
            return self._process.poll() is not None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def memory(self) -> int:
        """Return the bytes that it occupies; 0 if that is unknown."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def listen(self, *, wait: bool = True) -> None:
        """Receive its messages; without *wait* only those that are there already."""
        self.pipe.socket.setblocking(wait)
        try:
            while self.gone is None:
                if not self.pipe.feed():
                    self.gone = ""
                if wait:
                    return
        except BlockingIOError:
            pass
        except GarbledError:
            self.gone = "sent an invalid message"

    def read_output(self) -> bool:
        """Pass on its output; return whether there may be more."""
        try:
            data = os.read(self.output, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.output_ended = True
            return False
        self._tail += data
        if len(self._tail) > TAIL:
            self._is_tail_cut = True
            del self._tail[:-TAIL]
        self._line += data
        *lines, rest = self._line.split(b"\n")
        for line in lines:
            self._print_line(line.decode("utf-8", "backslashreplace"))
        if len(rest) > _LONGEST_LINE:
            self._print_line(rest.decode("utf-8", "backslashreplace"))
            rest = bytearray()
        self._line = bytearray(rest)
        return True

    def printed(self) -> str:
        """Return its last output, without passwords."""
        return end_of_output(bytes(self._tail).decode("utf-8", "backslashreplace"), is_cut=self._is_tail_cut)

    def forget_output(self) -> None:
        """Forget the output so far, since the next event begins."""
        self._tail.clear()
        self._is_tail_cut = False

    def dismiss(self) -> None:
        """Let it end once it has finished its work."""
        with contextlib.suppress(OSError):
            self.pipe.socket.shutdown(socket.SHUT_WR)

    def frames(self) -> list[tuple[str, int, str]]:
        """Return where it is: file, line and function, the innermost last; empty if it does not answer."""
        self.cell.forget_frames()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, TRACE_SIGNAL)
        deadline = time.monotonic() + _TRACE_PATIENCE
        before: list[tuple[str, int, str]] = []
        while time.monotonic() < deadline and not self.has_ended():
            time.sleep(_TRACE_EVERY)
            if (found := self.cell.frames()) and found == before:  # it is written line by line
                return found
            before = found
        return before

    def kill(self) -> None:
        """Kill it with its process group, and what was started from it in another session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        kill_marked(f"{MARK}={self._mark}")

    def bury(self) -> str:
        """End what is left of it, and return how it ended."""
        deadline = time.monotonic() + _EOF_PATIENCE
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(0.005)  # its end of the pipe is closed: it ends in a moment, unless a listener closed the pipe
        by_itself = self.has_ended()
        self.kill()
        try:
            code = self._process.wait(_REAP_PATIENCE)
        except subprocess.TimeoutExpired:  # the kernel holds it, in a file system that hangs
            code = None
        while self.read_output():
            pass
        if self._line:
            self._print_line(self._line.decode("utf-8", "backslashreplace"))
        self.pipe.close()
        self.committed = self.cell.committed  # only now that it cannot commit any more
        self.cell.close()
        os.close(self.output)
        os.close(self._lifeline)
        if not by_itself or code is None or code == CUT_OFF:
            return "closed the connection to its parent"
        return _how(code)


def end_of_output(text: str, *, is_cut: bool) -> str:
    """
    Return *text* without passwords.

    If its beginning *is_cut* off, it begins with the next line, or with the next word if there is only one line: half
    an address is not recognised as one.
    """
    if is_cut:
        _, _, rest = text.partition("\n")
        text = rest if rest.strip() else text.rstrip().partition(" ")[2]
    return masked(text).strip()


def _how(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
