"""One supervised child process: started tied to this one, restarted when it ends, its output passed on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

READY_FD_VARIABLE = "MODELMESH_READY_FD"
_TETHER = str(Path(__file__).with_name("tether.py"))
_LINE_MAX_BYTES = 64 * 1024
_LAST_OUTPUT_S = 1.0

Tell = Callable[[str, str], None]
"""Takes a name and one line of text."""


class Service(Protocol):
    """Something that the supervisor starts and ends."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None:
        """Begin; return without waiting until it is ready."""

    async def wait_ready(self) -> None:
        """Wait until it can do its work for the first time."""

    async def stop(self) -> None:
        """End in good order: finish what runs, within the service's own grace."""

    async def end_now(self) -> None:
        """End at once, whatever is running; also while `stop` is under way."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run, and how.

    Attributes:
        announces_ready: it writes a byte to the descriptor in MODELMESH_READY_FD when it is ready.
        ready_line: else, how the line of its output begins that says so; without either it is ready when started.
        grace_s: how long it may take to end after SIGTERM.
        death_signal: what it gets when this process is gone.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    pass_fds: tuple[int, ...] = ()
    announces_ready: bool = False
    ready_line: str | None = None
    grace_s: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL


class Backoff:
    """Pauses between restarts: doubled each time, capped, forgotten after a long life."""

    def __init__(self, *, first_s: float = 0.2, longest_s: float = 5.0, forget_after_s: float = 30.0) -> None:
        self._first_s, self._longest_s, self._forget_after_s = first_s, longest_s, forget_after_s
        self._next_s = first_s

    def next_pause_s(self, *, alive_s: float) -> float:
        """The pause after a life of `alive_s`."""
        if alive_s >= self._forget_after_s:
            self._next_s = self._first_s
        pause_s = self._next_s
        self._next_s = min(pause_s * 2, self._longest_s)
        return pause_s


class Child:
    """A child process that lives until it is stopped: whatever ends it, it is started again.

    Must be started from the main thread: on Linux the death signal is bound to the thread that forks.
    """

    def __init__(self, spec: ChildSpec, *, tell: Tell, backoff: Backoff | None = None) -> None:
        self.spec = spec
        self.pid: int | None = None
        self._tell = tell
        self._backoff = backoff or Backoff()
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ordered: signal.Signals | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    async def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def stop(self) -> None:
        self._order(signal.SIGTERM)
        if not await self._has_ended(within_s=self.spec.grace_s):
            self._tell(self.name, f"still running after {self.spec.grace_s:g} s, killed")
            await self.end_now()

    async def end_now(self) -> None:
        self._order(signal.SIGKILL)
        await self._has_ended(within_s=None)

    def _order(self, order: signal.Signals) -> None:
        self._stopping.set()
        self._ordered = order
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, order)

    async def _has_ended(self, *, within_s: float | None) -> bool:
        if self._keeper is None:
            return True
        done, _ = await asyncio.wait({self._keeper}, timeout=within_s)
        return bool(done)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started = clock()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            pause_s = self._backoff.next_pause_s(alive_s=clock() - started)
            self._tell(self.name, f"{describe_exit(code)}; restart in {pause_s:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    async def _run_once(self) -> int:
        with self._ready_pipe() as ready_fd:
            try:
                process = await self._spawn(ready_fd)
            except OSError as error:
                self._tell(self.name, f"cannot be started: {error.strerror}")
                return 126
            finally:
                if ready_fd is not None:
                    os.close(ready_fd)
            return await self._attend(process)

    async def _attend(self, process: asyncio.subprocess.Process) -> int:
        assert process.stdout is not None
        self.pid = process.pid
        if self._ordered is not None:  # the order came while the process was being made
            self._order(self._ordered)
        if not (self.spec.announces_ready or self.spec.ready_line):
            self._ready.set()
        output = asyncio.create_task(self._pass_on(process.stdout))
        try:
            return await process.wait()
        finally:
            self.pid = None
            await asyncio.wait({output}, timeout=_LAST_OUTPUT_S)
            output.cancel()

    async def _spawn(self, ready_fd: int | None) -> asyncio.subprocess.Process:
        environ = dict(self.spec.environ)
        pass_fds = self.spec.pass_fds
        if ready_fd is not None:
            environ[READY_FD_VARIABLE] = str(ready_fd)
            pass_fds += (ready_fd,)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _TETHER, str(os.getpid()), str(int(self.spec.death_signal))),
            *self.spec.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environ,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which ends its children in order
            limit=_LINE_MAX_BYTES,
        )

    @contextlib.contextmanager
    def _ready_pipe(self) -> Iterator[int | None]:
        """The write end of a pipe for the child's byte, if it announces its readiness that way."""
        if not self.spec.announces_ready:
            yield None
            return
        loop = asyncio.get_running_loop()
        read_fd, write_fd = os.pipe()

        def receive() -> None:
            loop.remove_reader(read_fd)
            if os.read(read_fd, 1):
                self._ready.set()

        loop.add_reader(read_fd, receive)
        try:
            yield write_fd
        finally:
            loop.remove_reader(read_fd)
            os.close(read_fd)

    async def _pass_on(self, output: asyncio.StreamReader) -> None:
        while line := await _read_line(output):
            text = line.decode(errors="replace").rstrip("\r\n")
            if self.spec.ready_line is not None and text.startswith(self.spec.ready_line):
                self._ready.set()
            else:
                self._tell(self.name, text)


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or the next piece of one that is too long; empty at the end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
