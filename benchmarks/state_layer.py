"""What admission and settlement cost: server and client time per request by batch, how much one hot domain carries, how long an admission takes.

    python -m benchmarks.state_layer [--seconds 2] [--json FILE] [--beside CHECKOUT [--rounds 5]]

Starts a server of its own on a unix socket. Every request is admitted through five windows (three of the model, two of
the account), counted in flight, settled with its usage and booked in the statistics. A batch is settled by the exchange that admits the next one.
With --beside another checkout is measured in turns with this one, by its own code; the figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from node.batch import DomainBatcher
from node.watch import StoreWatch
from shared_state.clock import ServerClock
from shared_state.config import MeshConfig
from shared_state.ledger import Ask, DomainLedger, Outcome, Settlement
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.support.valkey import ValkeyServer

BATCHES = (1, 8, 32, 128)
HOT_BATCH = 128
IN_PARALLEL = 4
#: Requests per second at which the latency of an admission is measured: half of what one client core should carry.
PACE = 20_000
_TICK_S = 0.001
_SCRIPTS = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")
_PERCENTILES = {"p50_ms": 0.5, "p99_ms": 0.99}
_HUGE = 10**9
_CONFIG = {
    "providers": {
        "hot": {
            "connector": "openai-compatible.v1",
            "base_url": "http://127.0.0.1:9/v1",
            "limits": {"rpm": _HUGE, "concurrency": _HUGE},
        }
    },
    "models": {
        "hot.model": {
            "provider": "hot",
            "capabilities": ["chat-completion"],
            "limits": {"rph": _HUGE, "tpm": _HUGE * 1000, "tpd": _HUGE * 1000},
        }
    },
    "pools": {"chat": {"capability": "chat-completion"}},
}


@dataclass(frozen=True)
class Cost:
    """Of one request, admitted and settled, in microseconds."""

    batch: int
    server_us: float
    client_cpu_us: float
    round_trip_us: float


class Load:
    """One client process that admits and settles in batches."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self.pool = topology.pools["chat"].config
        clock = ServerClock()
        # a node has one batch of a kind under way, so what runs in parallel belongs to several nodes
        self._idle = [
            DomainLedger(store, topology.domains["hot"], node=f"bench{i}", clock=clock)
            for i in range(IN_PARALLEL)
        ]
        self._numbers = itertools.count(1)

    def ask(self) -> Ask:
        """One more request."""
        return Ask(f"bench.{next(self._numbers)}", "hot.model", "chat", 200, 300, 4_000_000, 600_000)

    def settlement(self, reservation: str) -> Settlement:
        """Its end, with less than was reserved."""
        return Settlement(
            reservation, "hot.model", self.pool, Outcome.SUCCESS, 180, 150, 2_000_000, 800, 90, pool_id="chat"
        )

    def batcher(self, watch: StoreWatch) -> DomainBatcher:
        """The group commit of a node."""
        return DomainBatcher(self._idle[0], watch, on_reply=lambda _: None)

    async def admit(self, size: int) -> list[str]:
        """Admits a batch; its reservations."""
        asks = [self.ask() for _ in range(size)]
        ledger = self._idle.pop()
        verdicts = await ledger.admit(asks)
        self._idle.append(ledger)
        if any(verdict.code for verdict in verdicts):
            raise RuntimeError(f"a request was refused: {next(v for v in verdicts if v.code)}")
        return [ask.reservation for ask in asks]

    async def settle(self, reservations: list[str]) -> None:
        """Settles a batch with less than was reserved."""
        ledger = self._idle.pop()
        applied = await ledger.settle([self.settlement(reservation) for reservation in reservations])
        self._idle.append(ledger)
        if not all(applied):
            raise RuntimeError("a settlement was not applied")

    async def serve(self, size: int) -> None:
        """Admits and settles a batch."""
        await self.settle(await self.admit(size))

    async def exchange(self, size: int, ended: list[str]) -> list[str]:
        """Admits a batch and settles the one before it, in one call; the new reservations."""
        asks = [self.ask() for _ in range(size)]
        settlements = [self.settlement(reservation) for reservation in ended]
        verdicts, applied = await self._idle[0].exchange(asks, settlements)
        if any(verdict.code for verdict in verdicts) or not all(applied or ()):
            raise RuntimeError("a request was refused, or a settlement was not applied")
        return [ask.reservation for ask in asks]

    async def server_us(self) -> int:
        """Time that the server has spent in scripts so far."""
        stats = await self._store.client.info("commandstats")
        return sum(int(stats[name]["usec"]) for name in _SCRIPTS if name in stats)


async def measure_cost(load: Load, batch: int, seconds: float) -> Cost:
    """One batch after the other."""
    ended = await load.admit(batch)
    server_us, cpu_s, began_s, requests = await load.server_us(), time.process_time(), time.monotonic(), 0
    while time.monotonic() - began_s < seconds:
        ended = await load.exchange(batch, ended)
        requests += batch
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    server_us = await load.server_us() - server_us
    await load.settle(ended)
    return Cost(
        batch,
        round(server_us / requests, 2),
        round(cpu_s * 1e6 / requests, 2),
        round(took_s * 1e6 / requests, 2),
    )


async def measure_rate(step: Callable[[int], Awaitable[object]], seconds: float) -> int:
    """Requests per second with several batches under way at once."""
    done, began_s = 0, time.monotonic()

    async def loop() -> None:
        nonlocal done
        while time.monotonic() - began_s < seconds:
            await step(HOT_BATCH)
            done += HOT_BATCH

    await asyncio.gather(*(loop() for _ in range(IN_PARALLEL)))
    return round(done / (time.monotonic() - began_s))


async def measure_latency(load: Load, watch: StoreWatch, seconds: float) -> dict[str, float]:
    """Percentiles (ms) of an admission through the group commit of a node, at a steady pace of requests that are settled as well."""
    batcher, clock = load.batcher(watch), time.perf_counter  # the loop's own clock counts whole milliseconds
    taken_ms: list[float] = []

    async def request() -> None:
        began, ask = clock(), load.ask()
        verdict = await batcher.admit(ask, load.pool)
        taken_ms.append((clock() - began) * 1000)
        if verdict.code:
            raise RuntimeError(f"a request was refused: {verdict}")
        batcher.settle(load.settlement(ask.reservation))

    began, sent = clock(), 0
    async with asyncio.TaskGroup() as group:
        while (now := clock()) < began + seconds:
            due = round((now - began) * PACE)
            for _ in range(due - sent):
                group.create_task(request())
            sent = due
            await asyncio.sleep(_TICK_S)
    await batcher.flush()
    ranked = sorted(taken_ms)
    at = {name: ranked[int(share * (len(ranked) - 1))] for name, share in _PERCENTILES.items()}
    return {"per_s": round(sent / seconds), **{name: round(value, 3) for name, value in at.items()}}


async def measure_admissions(load: Load, seconds: float) -> int:
    """Admissions per second alone; what they left in flight is settled afterwards, off the clock."""
    left: list[list[str]] = []

    async def admit(size: int) -> None:
        left.append(await load.admit(size))

    rate = await measure_rate(admit, seconds)
    for reservations in left:
        await load.settle(reservations)
    return rate


async def measure(url: str, seconds: float) -> dict[str, object]:
    """All figures."""
    store = Store(url, namespace="bench", timeout_s=10.0)
    load = Load(store, build_topology(MeshConfig.model_validate(_CONFIG)))
    watch = StoreWatch(store, on_loss="closed")
    watch.connected = True
    try:
        server = await store.client.info("server")
        costs = [await measure_cost(load, batch, seconds) for batch in BATCHES]
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
            "server": f"{server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])}",
            "costs": [asdict(cost) for cost in costs],
            "admissions_per_s": await measure_admissions(load, seconds),
            "requests_per_s": await measure_rate(load.serve, seconds),
            "admission": await measure_latency(load, watch, seconds),
            "server_limit_per_s": round(1e6 / costs[-1].server_us),
        }
    finally:
        await store.aclose()


def measure_beside(other: Path, seconds: float, rounds: int) -> dict[str, object]:
    """This checkout and another one by turns, each with a server of its own: the median cost by batch of both."""
    checkouts = {"before": other.resolve(), "now": Path(__file__).resolve().parents[1]}
    runs: dict[str, list[dict[str, object]]] = {name: [] for name in checkouts}
    for _ in range(rounds):
        for name, checkout in checkouts.items():
            runs[name].append(_measure_checkout(checkout, seconds))
    costs = {name: _median_costs(results) for name, results in runs.items()}
    return {key: runs["now"][-1][key] for key in ("date", "machine", "server")} | {"rounds": rounds, **costs}


def _measure_checkout(checkout: Path, seconds: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.state_layer",
            "--seconds",
            str(seconds),
            "--json",
            str(file),
        ]
        subprocess.run(
            command,
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        figures: dict[str, object] = json.loads(file.read_text())
        return figures


def _median_costs(results: list[dict[str, object]]) -> list[dict[str, float]]:
    by_batch: dict[int, list[dict[str, float]]] = {}
    for result in results:
        for cost in result["costs"]:  # type: ignore[attr-defined]
            by_batch.setdefault(cost["batch"], []).append(cost)
    return [
        {key: round(statistics.median(cost[key] for cost in costs), 2) for key in costs[0]}
        for costs in by_batch.values()
    ]


def show_beside(result: dict[str, object]) -> None:
    """Both, one above the other."""
    print(f"{result['machine']}; {result['server']}; {result['date']}; medians of {result['rounds']} rounds")
    print(f"{'batch':>6} {'server us':>10} {'client CPU us':>14} {'elapsed us':>11}")
    for name in ("before", "now"):
        for cost in result[name]:  # type: ignore[attr-defined]
            print(
                "{batch:>6} {server_us:>10} {client_cpu_us:>14} {round_trip_us:>11}".format(**cost), "", name
            )


def show(result: dict[str, object]) -> None:
    """The figures as a table."""
    print(f"{result['machine']}; {result['server']}; {result['date']}")
    print(
        f"{'batch':>6} {'server us':>10} {'client CPU us':>14} {'elapsed us':>11}   per request, admit + settle"
    )
    for cost in result["costs"]:  # type: ignore[attr-defined]
        print("{batch:>6} {server_us:>10} {client_cpu_us:>14} {round_trip_us:>11}".format(**cost))
    print(
        "an admission at {per_s} requests/s: p50 {p50_ms} ms, p99 {p99_ms} ms".format(**result["admission"])  # type: ignore[arg-type]
    )
    print(f"admissions/s, one hot domain, one client process:          {result['admissions_per_s']:>8}")
    print(f"requests/s admitted and settled, one client process:       {result['requests_per_s']:>8}")
    print(f"requests/s that the server's time alone would allow:       {result['server_limit_per_s']:>8}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.state_layer", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="measure this one as well, by turns")
    parser.add_argument("--rounds", type=int, default=5, help="turns with --beside")
    options = parser.parse_args()
    if options.beside:
        result = measure_beside(options.beside, options.seconds, options.rounds)
        show_beside(result)
    else:
        result = _measure_here(options.seconds)
        show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _measure_here(seconds: float) -> dict[str, object]:
    with closing(ValkeyServer()) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure(server.start().url, seconds))


if __name__ == "__main__":
    main()
