"""What a request costs as the fleet grows: at one load in all, and at one load for each node, with limits exact and on.

    python -m benchmarks.scale [--rounds 3] [--seconds 4]

All nodes share one core, so a fleet is measured by its CPU per request, not by its throughput; the load stays below what that core
can carry. The upstream counts as well: it must have seen every answered request once, and of a limited model never more than its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop

from benchmarks.driver import Driver
from benchmarks.harness import start_mock
from benchmarks.meters import RedisMeter, assign_cores, pinned, read
from benchmarks.samples import Sample, sample
from benchmarks.scale_report import Burst, Rest, ScaleRun, show, write
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.setting import describe
from benchmarks.subjects import Fleet, node_config
from tests.support.mock import MockProvider

RESULTS: Final = Path(__file__).parent / "results"
NODES: Final = (1, 2, 4, 8)
_CONNECTIONS: Final = 64
_WARM_UP_S: Final = 1.0
_REST_S: Final = 3.0
#: Requests that a limited model takes in a minute, and how many ask for it at once.
_LIMIT: Final = 60
_ASKED: Final = 240
_ASKERS: Final = 24
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ScaleOptions:
    """How much to measure.

    Attributes:
        nodes: sizes of the fleet, growing.
        total_per_s: the load in all, for every size.
        each_per_s: the load for each node.
        seconds: of each window.
    """

    nodes: Sequence[int] = NODES
    total_per_s: float = 400.0
    each_per_s: float = 50.0
    seconds: float = 4.0
    rounds: int = 3
    rest_s: float = _REST_S

    @property
    def warm_up_s(self) -> float:
        return min(_WARM_UP_S, self.seconds)

    def loads(self, nodes: int) -> dict[str, float]:
        """Requests per second of each kind of load; where both are the same, it is measured once."""
        found = {"total": self.total_per_s, "each": self.each_per_s * nodes}
        return found if found["total"] != found["each"] else {"total": self.total_per_s}


async def measure(options: ScaleOptions, report: Report) -> ScaleRun:
    """All rounds, each with a fleet that grows from its first node."""
    cores = assign_cores()
    setting = describe() | {"nodes": list(options.nodes), "total_per_s": options.total_per_s}
    setting |= {"each_per_s": options.each_per_s, "seconds": options.seconds, "rounds": options.rounds}
    run = ScaleRun(setting, [], [], [])
    with pinned(cores.load), ExitStack() as stack:
        mock = stack.enter_context(closing(start_mock(cores)))
        for number in range(1, options.rounds + 1):
            await _Round(options, run, mock, number, report).go()
    return run


class _Round:
    def __init__(
        self, options: ScaleOptions, run: ScaleRun, mock: MockProvider, number: int, report: Report
    ) -> None:
        self._options = options
        self._run = run
        self._mock = mock
        self._number = number
        self._report = report
        self._core = assign_cores().subject

    async def go(self) -> None:
        with closing(Fleet(0)) as fleet:
            fleet.found(config(self._mock.port, self._options.nodes))
            assert fleet.redis_url is not None
            with closing(RedisMeter(fleet.redis_url)) as meter:
                for nodes in self._options.nodes:
                    with pinned(self._core):
                        fleet.grow(nodes)
                    fleet.front()
                    await self._step(fleet, meter, nodes)

    async def _step(self, fleet: Fleet, meter: RedisMeter, nodes: int) -> None:
        rest = await self._rest(fleet, meter, nodes)
        self._run.rests.append(rest)
        for kind, rate in self._options.loads(nodes).items():
            found = await self._load(fleet, meter, nodes, kind, rate)
            self._run.samples.append(found)
            self._report(f"round {self._number}  {nodes} nodes  {_headline(found)}")
        burst = await self._burst(fleet, nodes)
        self._run.bursts.append(burst)
        self._report(
            f"round {self._number}  {nodes} nodes  limit of {burst.limit}: {burst.counted} seen upstream"
        )

    async def _rest(self, fleet: Fleet, meter: RedisMeter, nodes: int) -> Rest:
        await asyncio.sleep(self._options.rest_s / 3)  # what belongs to the start of a node is over then
        before = read(fleet.parts, load=[], redis_meter=meter)
        await asyncio.sleep(self._options.rest_s)
        after = read(fleet.parts, load=[], redis_meter=meter)
        assert before.redis is not None
        assert after.redis is not None
        used = {part: after.cpu_s[part] - before.cpu_s[part] for part in fleet.parts}
        redis = after.redis.since(before.redis)
        return Rest(
            self._number,
            nodes,
            node_ms_per_s=used["nodes"] / nodes / self._options.rest_s * 1000,
            redis_ms_per_s=used["valkey"] / self._options.rest_s * 1000,
            scripts_per_s=redis.scripts / self._options.rest_s,
            commands_per_s=redis.commands / self._options.rest_s,
        )

    async def _load(self, fleet: Fleet, meter: RedisMeter, nodes: int, kind: str, rate: float) -> Sample:
        scenario = _scenario(rate)
        async with Driver(fleet.target, scenario, seed=self._number) as driver:
            counted = -self._counted(scenario.model)
            warm_up = await driver.run(self._options.warm_up_s)
            gc.collect()
            before = read(fleet.parts, load=[self._mock.process.pid], redis_meter=meter)
            window = warm_up if warm_up.is_void else await driver.run(self._options.seconds)
            after = read(fleet.parts, load=[self._mock.process.pid], redis_meter=meter)
        counted += self._counted(scenario.model)
        found = sample(window, before, after, round_=self._number, subject=f"fleet/{nodes}", scenario=kind)
        answered = warm_up.requests + window.requests
        if not found.is_void and counted != answered:
            found.faults.append(f"{answered} requests were answered and {counted} were seen upstream")
        return found

    async def _burst(self, fleet: Fleet, nodes: int) -> Burst:
        model = limited_model(nodes)
        before = self._counted(model)  # the mock outlives the fleet of a round
        statuses = await ask_at_once(fleet.port, model, asked=_ASKED)
        return Burst(
            self._number, nodes, _LIMIT, _ASKED, statuses[200], statuses[429], self._counted(model) - before
        )

    def _counted(self, model: str) -> int:
        found: int = self._mock.counts()["by_model"].get(model, 0)
        return found


def config(mock_port: int, nodes: Sequence[int]) -> dict[str, Any]:
    """Nodes as they are always measured, and a limited model for each size of the fleet."""
    document = node_config(mock_port, engine="fast", has_limits=True)
    for count in nodes:
        name = limited_model(count)
        document["models"][f"mock.{name}"] = {
            "provider": "mock",
            "upstream": name,
            "capabilities": ["chat-completion"],
            "limits": {"rpm": _LIMIT},
        }
        document["pools"][name] = {"models": [f"mock.{name}"]}
    return document


def limited_model(nodes: int) -> str:
    """The model whose limit is tried with so many nodes."""
    return f"limited-{nodes}"


def _scenario(rate: float) -> Scenario:
    return replace(SCENARIOS["unary32"], connections=_CONNECTIONS, rate_per_s=rate)


async def ask_at_once(port: int, model: str, *, asked: int) -> Counter[int]:
    """Many requests for one model, through nginx and so over all nodes; how often each status came."""
    statuses: Counter[int] = Counter()
    waiting = iter(range(asked))
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30.0
    ) as client:

        async def ask() -> None:
            for _ in waiting:
                statuses[(await client.post("/v1/chat/completions", json=body)).status_code] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(_ASKERS):
                group.create_task(ask())
    return statuses


def _headline(found: Sample) -> str:
    if found.is_void:
        return f"VOID: {'; '.join(found.faults)}"
    parts = " + ".join(f"{part} {found.part_us(part):.0f}" for part in found.cpu_s)
    return f"{found.requests / found.elapsed_s:5.0f}/s  {parts} us/request"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit code is 1 if a window was void or a limit was passed."""
    usual = ScaleOptions()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=usual.nodes, help="sizes of the fleet")
    parser.add_argument(
        "--total", type=float, default=usual.total_per_s, metavar="RATE", help="requests/s in all"
    )
    parser.add_argument(
        "--each", type=float, default=usual.each_per_s, metavar="RATE", help="requests/s a node"
    )
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of each window")
    parser.add_argument("--rest", type=float, default=usual.rest_s, help="seconds without load at each size")
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    given = parser.parse_args(argv)
    options = ScaleOptions(given.nodes, given.total, given.each, given.seconds, given.rounds, given.rest)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(measure(options, print))
    show(run)
    for path in write(run, given.results):
        print(f"written: {path}")
    return 0 if run.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
