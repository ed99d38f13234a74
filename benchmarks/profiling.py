"""Where a node's CPU time goes, function by function, under the load of one scenario.

py-spy samples from outside, without stopping the node: a stop would wait for system calls and make them look dear. cProfile is always there, but it makes calls dear and counts waiting as
time of the event loop. Both book the time of compiled modules on their Python callers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pstats
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.driver import Driver, Window
from benchmarks.harness import start_mock
from benchmarks.meters import assign_cores, cpu_s, pinned
from benchmarks.scenarios import SCENARIOS
from benchmarks.subjects import ROOT, Node, SubjectError
from tests.support.processes import ProcessFailedError, wait_until

_RATE_HZ: Final = 500
_WARM_UP_S: Final = 1.0
_SITE_PACKAGES: Final = "site-packages/"


@dataclass(frozen=True, slots=True)
class Line:
    """One function.

    Attributes:
        own: share of the node's CPU time in the function itself.
        total: share in the function and what it calls.
        calls: number of calls, if they were counted.
    """

    function: str
    own: float
    total: float
    calls: int | None = None


class Tool(Protocol):
    """A way to profile a node."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def launcher(self) -> tuple[str, ...]:
        """How the node is started for it."""

    def begin(self, pid: int, seconds: float) -> None:
        """Start to look."""

    async def lines(self) -> list[Line]:
        """Stop, and what was seen, the most expensive function first."""


class PySpy:
    """Samples with py-spy, the Python side only."""

    name = "py-spy"
    launcher = ("-m", "node")

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._path = directory / "stacks.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, pid: int, seconds: float) -> None:
        command = [self._binary, "record", "--pid", str(pid), "--duration", str(max(1, round(seconds)))]
        command += [
            "--rate",
            str(_RATE_HZ),
            "--format",
            "raw",
            "--function",
            "--nonblocking",
            "--output",
            str(self._path),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    async def lines(self) -> list[Line]:
        assert self._process is not None
        _, complaint = await asyncio.to_thread(self._process.communicate)
        if self._process.returncode:
            raise ProcessFailedError(complaint.decode(errors="replace"))
        return lines_of_stacks(self._path.read_text().splitlines())


class CProfile:
    """Counts every call with cProfile."""

    name = "cProfile"

    def __init__(self, directory: Path) -> None:
        self._path = directory / "profile"
        self.launcher = ("-m", "benchmarks.profiled_node", str(self._path))
        self._pid = 0

    def begin(self, pid: int, seconds: float) -> None:
        self._pid = pid
        os.kill(pid, signal.SIGUSR1)

    async def lines(self) -> list[Line]:
        os.kill(self._pid, signal.SIGUSR2)
        await wait_until(self._path.exists, 10.0, what="the profile to be written")
        return lines_of_statistics(self._path)


def lines_of_stacks(stacks: Iterable[str]) -> list[Line]:
    """Functions from folded stacks: frames from the outermost in, joined by semicolons, and a count."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stack in stacks:
        frames, _, count = stack.rpartition(" ")
        names = [_short(frame) for frame in frames.split(";")]
        own[names[-1]] += int(count)
        for name in set(names):
            total[name] += int(count)
    samples = sum(own.values())
    return [Line(name, count / samples, total[name] / samples) for name, count in own.most_common()]


def lines_of_statistics(path: Path) -> list[Line]:
    """Functions from a file of cProfile."""
    entries = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    whole = sum(own for _, _, own, _, _ in entries.values())
    lines = [
        Line(_short(f"{name} ({file}:{line})"), own / whole, cumulative / whole, calls)
        for (file, line, name), (_, calls, own, cumulative, _) in entries.items()
    ]
    return sorted(lines, key=lambda line: line.own, reverse=True)


def _short(function: str) -> str:
    """``name (package/file.py:line)`` without the way to the checkout or to the installed packages."""
    name, bracket, place = function.partition(" (")
    if _SITE_PACKAGES in place:
        place = place.partition(_SITE_PACKAGES)[2]
    return f"{name}{bracket}{place.removeprefix(f'{ROOT}/')}".removesuffix(" (~:0)")


def profile(arguments: argparse.Namespace, console: Console) -> int:
    """The command ``profile``; its exit code."""
    with tempfile.TemporaryDirectory(prefix="mm-bench-") as directory:
        tool = _tool(arguments.tool, Path(directory))
        if tool is None:
            console.print("py-spy is not installed: pip install py-spy, or --tool cprofile")
            return 1
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                window, used_s, lines = runner.run(_look(arguments, tool))
        except SubjectError as error:
            console.print(str(error))
            return 1
    if window.is_void:
        console.print(f"void: {'; '.join(window.faults)}")
        return 1
    console.print(_table(lines[: arguments.top], window, used_s, title=_title(arguments, tool)))
    return 0


def _tool(wanted: str, directory: Path) -> Tool | None:
    binary = None if wanted == "cprofile" else shutil.which("py-spy")
    if binary:
        return PySpy(binary, directory)
    return None if wanted == "py-spy" else CProfile(directory)


async def _look(arguments: argparse.Namespace, tool: Tool) -> tuple[Window, float, list[Line]]:
    """Load a node while the tool looks: the window, the node's CPU seconds in it, the functions."""
    cores = assign_cores()
    scenario = SCENARIOS[arguments.scenario]
    with pinned(cores.load), ExitStack() as stack:
        mock = stack.enter_context(closing(start_mock(cores)))
        node = stack.enter_context(
            closing(Node(arguments.engine, has_limits=not arguments.no_limits, launcher=tool.launcher))
        )
        with pinned(cores.subject):
            node.start(mock.port)
        # on the node's core it would run while the node sends to it, and pass for the cost of sending
        os.sched_setaffinity(node.parts["valkey"][0], {cores.load})
        pid = node.parts["node"][0]
        async with Driver(node.target, scenario) as driver:
            await driver.run(_WARM_UP_S)
            tool.begin(pid, arguments.seconds)
            before = cpu_s(pid)
            window = await driver.run(arguments.seconds)
            used_s = cpu_s(pid) - before
            lines = await tool.lines()
    return window, used_s, lines


def _title(arguments: argparse.Namespace, tool: Tool) -> str:
    return f"node/{arguments.engine}, {arguments.scenario}, {tool.name}"


def _table(lines: list[Line], window: Window, used_s: float, *, title: str) -> Table:
    request_us = used_s / window.requests * 1e6
    table = Table(title=f"{title}: {request_us:.0f} us of the node's CPU per request", title_justify="left")
    are_counted = any(line.calls is not None for line in lines)
    for name in ("own %", "own us / request", "total %", *(["calls / request"] if are_counted else [])):
        table.add_column(name, justify="right")
    table.add_column("function", no_wrap=True)
    for line in lines:
        calls = [f"{(line.calls or 0) / window.requests:.2f}"] if are_counted else []
        own_us = f"{line.own * request_us:.1f}"
        table.add_row(f"{line.own:.1%}", own_us, f"{line.total:.1%}", *calls, line.function)
    return table
