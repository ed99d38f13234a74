"""What processes cost: CPU time to the nanosecond, memory, and what Redis says of itself. Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

_PROC: Final = Path("/proc")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
#: Commands that run a script; all others that the statistics count may have run within one.
_SCRIPTS: Final = frozenset({"eval", "evalsha", "fcall"})
_OURS: Final = frozenset({"info", "hello", "auth", "select", "client|setinfo", "client|setname"})


def tree(pid: int) -> list[int]:
    """A process and all its descendants that live."""
    found = [pid]
    for parent in found:
        try:
            for task in (_PROC / str(parent) / "task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except FileNotFoundError:
            continue  # it has ended meanwhile
    return found


def cpu_s(*pids: int) -> float:
    """User and system time of processes and their living descendants.

    Read from the processes' own CPU clocks: they count nanoseconds where ``/proc/PID/stat`` counts hundredths of a second.
    """
    return sum(time.clock_gettime(_cpu_clock(member)) for pid in pids for member in tree(pid))


def _cpu_clock(pid: int) -> int:
    """The clock id that ``clock_getcpuclockid(3)`` gives for a process."""
    scheduler_clock = 2
    return (~pid << 3) | scheduler_clock


def machine_cpu_s() -> float:
    """What all cores together have worked, in hundredths of a second."""
    line, _, _ = (_PROC / "stat").read_text().partition("\n")
    user, nice, system, _idle, _wait, *interrupts = map(int, line.split()[1:9])
    return (user + nice + system + sum(interrupts)) / _TICKS_PER_S


def rss_bytes(*pids: int) -> int:
    """Resident memory of processes and their living descendants."""
    members = (member for pid in pids for member in tree(pid))
    return (
        sum(int((_PROC / str(member) / "statm").read_text().split()[1]) for member in members) * _PAGE_BYTES
    )


def pss_bytes(pid: int) -> int:
    """The same, with what processes share divided among them."""
    return sum(_pss_bytes(member) for member in tree(pid))


def _pss_bytes(pid: int) -> int:
    lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


@dataclass(frozen=True, slots=True)
class RedisReading:
    """Counters of a Redis server, or their growth.

    Attributes:
        scripts: script calls; with group commit, one serves many requests.
        commands: all commands, those that scripts run included.
        reads: socket reads that found something.
        cpu_s: what the server says it has used.
    """

    scripts: int
    commands: int
    reads: int
    cpu_s: float

    def since(self, earlier: RedisReading) -> RedisReading:
        """Growth since an earlier reading."""
        return RedisReading(
            self.scripts - earlier.scripts,
            self.commands - earlier.commands,
            self.reads - earlier.reads,
            self.cpu_s - earlier.cpu_s,
        )


class RedisMeter:
    """Reads the counters of one server; its own questions are not counted."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._questions = 0

    def read(self) -> RedisReading:
        """The counters now."""
        self._questions += 1  # each reading is one socket read, and the first one has already said hello
        info: dict[str, Any] = self._client.info("everything")
        calls = {
            name.removeprefix("cmdstat_"): entry["calls"]
            for name, entry in info.items()
            if name.startswith("cmdstat_")
        }
        return RedisReading(
            scripts=sum(count for name, count in calls.items() if name in _SCRIPTS),
            commands=sum(count for name, count in calls.items() if name not in _OURS),
            reads=info["total_reads_processed"] - self._questions,
            cpu_s=info["used_cpu_user"] + info["used_cpu_sys"],
        )

    def version(self) -> str:
        """Name and version of the server."""
        info: dict[str, Any] = self._client.info("server")
        self._questions += 1
        name = info.get("server_name", "redis")
        return f"{name} {info.get(f'{name}_version', info['redis_version'])}"

    def close(self) -> None:
        """Hang up."""
        self._client.close()


@dataclass(frozen=True, slots=True)
class Reading:
    """All meters at one moment: the subject's parts, driver and mock, everything that runs on the machine."""

    cpu_s: Mapping[str, float]
    load_cpu_s: float
    machine_cpu_s: float
    redis: RedisReading | None


def read(parts: Mapping[str, Sequence[int]], *, load: list[int], redis_meter: RedisMeter | None) -> Reading:
    """Reads all meters.

    Args:
        parts: name and processes of each part of the subject.
        load: processes of the load side, besides this one.
    """
    return Reading(
        {part: cpu_s(*pids) for part, pids in parts.items()},
        time.process_time() + cpu_s(*load),
        machine_cpu_s(),
        redis_meter.read() if redis_meter else None,
    )


@dataclass(frozen=True, slots=True)
class Cores:
    """Where everything runs: the subject has a core of its own, if the machine has two."""

    load: int
    mock: int
    subject: int


def assign_cores() -> Cores:
    """Cores for the load driver, the mock and the subject, from those that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(load=usable[0], mock=usable[1] if len(usable) > 2 else usable[0], subject=usable[-1])


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run on one core; children that are started meanwhile stay there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
