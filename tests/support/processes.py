"""Child processes of tests: they die with the test run, log to a file, and can be frozen."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")
POLL_S = 0.01
#: What is waited for without a promise of when it comes: on a machine that is slow and busy as well.
PATIENCE_S = 30.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ProcessFailedError(AssertionError):
    """A child process ended, or said nothing, when it should have been of service."""


class ChildProcess:
    """A process in a session of its own; standard output and error go to `log_path`.

    The kernel ends it when the thread that started it ends, so start it from the main thread.

    Args:
        args: the command.
        name: shown in failures, and part of the log's name.
        env: added to the environment of this process.
        cwd: working folder.
        death_signal: sent to the child when this process dies.
    """

    def __init__(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name or Path(args[0]).name
        self._is_closed = False
        descriptor, path = tempfile.mkstemp(prefix=f"mm-{self.name}-", suffix=".log")
        self.log_path = Path(path)
        os.close(descriptor)
        # opened for appending: children that reopen /dev/stdout must not overwrite one another
        with self.log_path.open("ab") as log:
            self._popen = self._launch(args, log, env=env, cwd=cwd, death_signal=death_signal)

    def _launch(self, args: Sequence[Any], log: BinaryIO, **options: Any) -> Any:
        env = options["env"]
        return subprocess.Popen(
            args,
            env={**os.environ, **env} if env else None,
            cwd=options["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=death_pact(options["death_signal"]),
        )

    @property
    def pid(self) -> int:
        return int(self._popen.pid)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        code: int | None = self._popen.poll()
        return code

    @property
    def is_running(self) -> bool:
        return self.returncode is None

    def log(self) -> str:
        """Everything that was written so far."""
        return self.log_path.read_text(errors="replace")

    def tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        return "\n".join(self.log().splitlines()[-lines:])

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process, not to its children."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.send(signal.SIGKILL)
        self._popen.wait()

    def stop(self) -> None:
        """Freeze it (SIGSTOP)."""
        self.send(signal.SIGSTOP)

    def cont(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self.send(signal.SIGCONT)

    async def wait(self, timeout: float = PATIENCE_S) -> int:
        """The exit code, once the process has ended."""
        await wait_until(lambda: not self.is_running, timeout, what=lambda: self._complaint("still runs"))
        assert self.returncode is not None
        return self.returncode

    async def terminate(self, timeout: float = PATIENCE_S) -> int:
        """SIGTERM, and the exit code."""
        self.send(signal.SIGTERM)
        return await self.wait(timeout)

    async def wait_line(self, pattern: str, timeout: float = PATIENCE_S) -> re.Match[str]:
        """The first match of `pattern` in a line of the log, waiting for it if need be."""
        return await wait_until(
            lambda: self._match(pattern),
            timeout,
            what=lambda: self._complaint(f"no line matches {pattern!r}"),
        )

    def wait_line_blocking(self, pattern: str, timeout: float = PATIENCE_S) -> re.Match[str]:
        """`wait_line` for fixtures: blocks the event loop, if there is one."""
        deadline = time.monotonic() + timeout
        while not (match := self._match(pattern)):
            if time.monotonic() > deadline:
                raise ProcessFailedError(self._complaint(f"no line matches {pattern!r}"))
            time.sleep(POLL_S)
        return match

    def close(self, timeout: float = 5.0) -> None:
        """End it and what it has left behind in its session, and remove the log. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if self.is_running:
            self.cont()
            self.send(signal.SIGTERM)
            try:
                self._popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.log_path.unlink(missing_ok=True)

    def _match(self, pattern: str) -> re.Match[str] | None:
        # alive is asked before the log is read, so that a last line is never missed
        is_alive = self.is_running
        match = re.search(pattern, self.log(), re.MULTILINE)
        if not match and not is_alive:
            raise ProcessFailedError(self._complaint(f"ended before a line matched {pattern!r}"))
        return match

    def _complaint(self, what: str) -> str:
        return f"{self.name} (pid {self.pid}, exit code {self.returncode}): {what}\n{self.tail()}"


def death_pact(number: signal.Signals, *, parent: int = 0) -> Callable[[], None]:
    """To be called in a child: it gets the signal when its parent ends, by default this process."""
    parent = parent or os.getpid()

    def pact() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(1)

    return pact


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


async def wait_until(
    predicate: Callable[[], T | None] | Callable[[], Awaitable[T | None]],
    timeout: float = PATIENCE_S,
    *,
    interval: float = POLL_S,
    what: str | Callable[[], str] = "the condition",
) -> T:
    """The first true value of `predicate` (which may be async), asked every 10 ms.

    Raises:
        ProcessFailedError: none came in time; the message says `what` was waited for.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = predicate()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if time.monotonic() > deadline:
            raise ProcessFailedError(f"not within {timeout} s: {what() if callable(what) else what}")
        await asyncio.sleep(interval)
