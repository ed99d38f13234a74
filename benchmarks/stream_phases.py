"""What is asked of streams: that many may be open, that a new one starts soon, and that readers who do not read cost little."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.driver import Driver
from benchmarks.meters import Cores, cpu_s, pinned, pss_bytes, rss_bytes
from benchmarks.samples import Quantiles, quantiles
from benchmarks.scenarios import HEADS, SCENARIOS, Scenario
from benchmarks.stream_clients import Streams
from benchmarks.subjects import Direct, Nginx, Node, Subject
from tests.support.mock import MockProvider

_GAP_S: Final = 2.5
_HOLD_S: Final = 12.0
_SETTLE_S: Final = 2.0
_PROBE_S: Final = 2.0
_GRACE_S: Final = 30.0
#: CPU per second of a node that does little besides looking after itself.
_STILL_MS: Final = 60.0
_PROBE: Final = replace(SCENARIOS[HEADS], name="probe", connections=1)
#: Four hundred milliseconds of a talking model.
BRISK: Final = Scenario("brisk", "20 chunks, 20 ms apart", "bench-brisk", "tokens=20,slow-token=20ms", 0, 20)
#: Some 5 MB at once: more than all buffers of the kernel between mock and reader hold.
FLOOD: Final = Scenario(
    "flood", "24,000 chunks at once", "bench-flood", "tokens=24000", 0, 24_000, max_tokens=100_000
)
_IDLE_MODEL: Final = "bench-idle"
MODELS: Final = (_IDLE_MODEL, BRISK.model, FLOOD.model, _PROBE.model)
#: When a reader who does not read is given up.
READER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a subject's first part: the node, or nginx."""

    rss_bytes: int
    pss_bytes: int


@dataclass(slots=True)
class Idle:
    """Many streams that say little.

    Attributes:
        rest, held, after: memory before, with all streams open, and when all have ended.
        cpu_ms: per second while all are open.
        first_before, first_held: time to the first content of a new stream, one at a time, before and meanwhile.
    """

    subject: str
    streams: int
    rest: Memory
    held: Memory
    after: Memory
    cpu_ms: float
    first_before: Quantiles
    first_held: Quantiles
    whole: int
    faults: list[str] = field(default_factory=list)

    @property
    def stream_bytes(self) -> float:
        """Memory per open stream."""
        return (self.held.rss_bytes - self.rest.rss_bytes) / self.streams


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Time to the first content where so many streams begin each second."""

    round: int
    subject: str
    per_s: float
    streams: int
    first: Quantiles | None
    faults: list[str]


@dataclass(slots=True)
class Lazy:
    """Readers who do not read, while a provider floods them.

    Attributes:
        first_before, first_held: of others, as above.
        health_flooded: time to an answer of the node's own while everything flows. The mock, too, is busy then, and
            answers others late.
        ended_s: from their start until the node held none of them any more; None if it still did.
    """

    subject: str
    readers: int
    rest: Memory
    held: Memory
    first_before: Quantiles
    health_flooded: Quantiles
    first_held: Quantiles
    ended_s: float | None
    faults: list[str] = field(default_factory=list)

    @property
    def reader_bytes(self) -> float:
        """Memory per reader."""
        return (self.held.rss_bytes - self.rest.rss_bytes) / self.readers


def open_subject(name: str, *, streams: int) -> Subject:
    """A subject by its name, with room for so many streams."""
    if name == Direct.name:
        return Direct()
    if name == Nginx.name:
        return Nginx(connections=2 * streams + 1024)
    return Node(
        name.removeprefix("node/"), models=MODELS, timeouts={"total": f"{READER_S + _GRACE_S + 60:g}s"}
    )


@contextmanager
def started(subject: Subject, mock: MockProvider, cores: Cores) -> Iterator[Subject]:
    """A subject on its core in front of the mock."""
    with closing(subject):
        with pinned(cores.subject):
            subject.start(mock.port)
        yield subject


async def hold_idle(subject: Subject, mock: MockProvider, *, streams: int, per_s: float) -> Idle:
    """Open many streams at a bounded rate, look while all are open, and see each of them to its end."""
    chunks = math.ceil((streams / per_s + _HOLD_S) / _GAP_S)
    load = Scenario("idle", "", _IDLE_MODEL, f"tokens={chunks},slow-token={_GAP_S}s", 0, chunks)
    mock.behave(load.order, model=load.model)
    await asyncio.sleep(_SETTLE_S)
    rest, before = memory(subject), await _first(subject)
    group = Streams(subject.port, load.request(subject.target), events=load.events)
    with closing(group):
        await group.open(streams, per_s=per_s)
        await group.wait(lambda: group.speaking + group.failed >= streams, within_s=_GRACE_S)
        cpu_ms = await _cpu_ms(subject)
        early = streams - group.speaking
        held, meanwhile = memory(subject), await _first(subject)
        await group.finish(within_s=chunks * _GAP_S + _GRACE_S)
    faults = group.faults + ([f"only {streams - early} were open at once"] if early else [])
    await asyncio.sleep(_SETTLE_S)
    return Idle(
        subject.name,
        streams,
        rest,
        held,
        memory(subject),
        cpu_ms,
        before,
        meanwhile,
        group.whole,
        faults,
    )


async def time_first_tokens(subject: Subject, *, per_s: float, seconds: float, round_: int) -> FirstToken:
    """Streams that begin at a steady rate, whatever became of those before."""
    warm_up = Streams(subject.port, BRISK.request(subject.target), events=BRISK.events)
    group = Streams(subject.port, BRISK.request(subject.target), events=BRISK.events)
    with closing(warm_up), closing(group):
        await warm_up.open(round(per_s * 0.5), per_s=per_s)
        await group.open(round(per_s * seconds), per_s=per_s)
        await warm_up.finish(within_s=_GRACE_S)
        await group.finish(within_s=_GRACE_S)
    first = quantiles(group.first_s) if group.first_s else None
    return FirstToken(round_, subject.name, per_s, group.asked, first, group.faults + warm_up.faults)


async def hold_lazy(subject: Subject, in_flight: Callable[[], int], *, readers: int) -> Lazy:
    """Readers who read their first bytes and no more, until the node gives them up.

    Args:
        in_flight: requests that the node works on.
    """
    await asyncio.sleep(_SETTLE_S)
    rest, before = memory(subject), await _first(subject)
    group = Streams(subject.port, FLOOD.request(subject.target), events=FLOOD.events)
    loop = asyncio.get_running_loop()
    with closing(group):
        began = loop.time()
        await group.open(readers, per_s=readers / 2, is_lazy=True)
        flooded = await _health(subject)
        if not await _is_still(subject, within_s=READER_S - 10):
            group.faults.append("the flood did not come to a stop")
        held, meanwhile = memory(subject), await _first(subject)
        faults = list(group.faults)
        is_ended = await group.wait(lambda: in_flight() == 0, within_s=READER_S + _GRACE_S)
        ended_s = loop.time() - began if is_ended else None
    return Lazy(subject.name, readers, rest, held, before, flooded, meanwhile, ended_s, faults)


def memory(subject: Subject) -> Memory:
    """Of the subject's first part now."""
    pid = _own_pid(subject)
    return Memory(rss_bytes(pid), pss_bytes(pid))


def _own_pid(subject: Subject) -> int:
    """The subject itself, not its store."""
    return next(pids[0] for part, pids in subject.parts.items() if part != "valkey")


async def _is_still(subject: Subject, *, within_s: float) -> bool:
    """Whether the subject has come to have next to nothing to do: everything that flowed has come to a stop."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + within_s
    while loop.time() < give_up_at:
        if await _cpu_ms(subject) < _STILL_MS:
            return True
    return False


async def _first(subject: Subject) -> Quantiles:
    async with Driver(subject.target, _PROBE) as driver:
        window = await driver.run(_PROBE_S)
    return quantiles(window.first_s) if window.first_s else Quantiles(math.nan, math.nan)


async def _health(subject: Subject) -> Quantiles:
    """Times to ``GET /health``, each on a new connection."""
    loop, times = asyncio.get_running_loop(), []
    until = loop.time() + _PROBE_S
    while loop.time() < until:
        began = loop.time()
        reader, writer = await asyncio.open_connection("127.0.0.1", subject.port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
        await reader.read()
        times.append(loop.time() - began)
        writer.close()
    return quantiles(times)


async def _cpu_ms(subject: Subject) -> float:
    pid, loop = _own_pid(subject), asyncio.get_running_loop()
    used, began = cpu_s(pid), loop.time()
    await asyncio.sleep(_SETTLE_S)
    return (cpu_s(pid) - used) / (loop.time() - began) * 1000
