"""How long Redis works on each thing that nodes ask of it: a fixed part a call, and a part for each entry. What the model of a fleet is fed with.

    python -m benchmarks.service_times [--seconds 0.3] [--rounds 5]

CPU of the server's whole process (reading, script, writing, its append-only file), and of the calling process; seven windows a request.
Calls come one at a time (*alone*: the server wakes up for each) and from several nodes at once (*busy*: it does not sleep).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
import uvloop

from benchmarks.meters import assign_cores, cpu_s, pinned
from benchmarks.setting import describe
from benchmarks.subjects import node_config
from shared_state.clock import ServerClock
from shared_state.config import MeshConfig
from shared_state.domains import read_domain, read_pulses
from shared_state.ledger import Amounts, Ask, DomainLedger, LeaseWish, Outcome, Settlement
from shared_state.registry import NodeInfo, Registry
from shared_state.retries import Sent, share_retries
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.support.valkey import ValkeyServer

RESULTS: Final = Path(__file__).parent / "results"
BATCHES: Final = (1, 4, 16, 64, 256)
IN_PARALLEL: Final = 8
SUBSCRIBERS: Final = (0, 16, 64, 256)
DOMAINS: Final = (1, 16, 256)
_MODEL: Final = "mock.bench-unary"
_POOL: Final = "bench-unary"
_REGISTERED: Final = 1000
_ONE: Final = Amounts(1, 500, 200, 300, 0)

#: One call of a node that may be told apart from others under way, of so many entries.
Call = Callable[[int, int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Point:
    """Microseconds of CPU per call with so many entries, medians over the rounds."""

    entries: int
    server_us: float
    client_us: float


@dataclass(frozen=True, slots=True)
class Line:
    """Cost of a call: ``fixed_us + each_us * entries``, fitted so that relative errors are least."""

    fixed_us: float
    each_us: float

    def at(self, entries: float) -> float:
        """The cost of a call with so many entries."""
        return self.fixed_us + self.each_us * entries


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line through (entries, cost) that errs least in proportion; a single point has no slope."""
    weights = [1 / cost**2 for _, cost in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    lean = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True))
    slope = lean / spread if spread else 0.0
    return Line(mean_y - slope * mean_x, slope)


class Bench:
    """Several nodes of one process on one server."""

    def __init__(self, url: str, server: int, topology: Topology) -> None:
        self._server = server
        self._store = Store(url, namespace="bench", timeout_s=10.0)
        self._topology = topology
        domain = next(iter(topology.domains.values()))
        clock = ServerClock()
        self._ledgers = [
            DomainLedger(self._store, domain, node=f"bench{i}", clock=clock) for i in range(IN_PARALLEL)
        ]
        self._pool = topology.pools[_POOL].config
        self._numbers = itertools.count(1)
        self._admitted: list[list[str]] = [[] for _ in range(IN_PARALLEL)]
        self._registry = Registry(self._store)

    async def aclose(self) -> None:
        """Hangs up."""
        await self._store.aclose()

    def calls(self) -> dict[str, tuple[Call, Sequence[int]]]:
        """What is measured under which name, with how many entries."""
        return {
            "beat": (self.beat, (1,)),
            "pulses": (self.pulses, DOMAINS),
            "read_domain": (self.read, (1,)),
            "renew": (self.renew, (1,)),
            "share_retries": (self.share, (1,)),
        }

    async def admit(self, node: int, entries: int) -> None:
        """Admits a batch of a node."""
        names = [f"bench{node}.{next(self._numbers)}" for _ in range(entries)]
        verdicts = await self._ledgers[node].admit(
            [Ask(n, _MODEL, _POOL, 200, 300, 0, 600_000) for n in names]
        )
        if any(verdict.code for verdict in verdicts):
            raise RuntimeError(f"refused: {next(v for v in verdicts if v.code)}")
        self._admitted[node] += names

    async def settle(self, node: int, entries: int) -> None:
        """Settles what the node has admitted longest ago."""
        names, self._admitted[node] = self._admitted[node][:entries], self._admitted[node][entries:]
        usage = (Outcome.SUCCESS, 180, 150, 0, 800, 90)
        batch = [Settlement(name, _MODEL, self._pool, *usage, pool_id=_POOL) for name in names]
        if not all(await self._ledgers[node].settle(batch)):
            raise RuntimeError("a settlement was not applied")

    async def renew(self, node: int, entries: int) -> None:
        """Renews the lease of a node that has spent one request of it."""
        wish = LeaseWish(_MODEL, _ONE, Amounts(*(4 * amount for amount in _ONE)), 5, _ONE, Amounts())
        await self._ledgers[node].renew_leases([wish], sequence=next(self._numbers), life_ms=60_000, share=16)

    async def beat(self, node: int, entries: int) -> None:
        """A heartbeat among a thousand nodes."""
        await self._registry.beat(_described(f"bench{next(self._numbers) % _REGISTERED}"))

    async def pulses(self, node: int, entries: int) -> None:
        """What an idle node asks once a second: the epochs of all domains, in one pipeline."""
        await read_pulses(self._store, [f"domain{i}" for i in range(entries)])

    async def read(self, node: int, entries: int) -> None:
        """What every node reads after news."""
        await read_domain(self._store, next(iter(self._topology.domains.values())))

    async def share(self, node: int, entries: int) -> None:
        """The exchange of retry budgets of one pool."""
        sent = Sent(next(self._numbers), 50, 1, good=50)
        await share_retries(
            self._store, _POOL, sent, node=f"bench{node}", rules=self._pool.retry.budget, nodes=8
        )

    async def publish(self, node: int, entries: int) -> None:
        """An event to whoever listens."""
        await self._store.command("PUBLISH", "bench:news", b"x" * 120)

    async def cost(self, call: Call, entries: int, seconds: float, *, nodes: int) -> tuple[float, float]:
        """Server and client CPU per call, microseconds, with so many calls under way."""
        done, until = 0, time.perf_counter() + seconds

        async def loop(node: int) -> None:
            nonlocal done
            while True:
                await call(node, entries)
                done += 1
                if time.perf_counter() >= until:
                    return

        server, client = cpu_s(self._server), time.process_time()
        await asyncio.gather(*(loop(node) for node in range(nodes)))
        used = cpu_s(self._server) - server, time.process_time() - client
        return used[0] / done * 1e6, used[1] / done * 1e6

    async def pairs(self, entries: int, seconds: float, *, nodes: int) -> dict[str, tuple[float, float]]:
        """Server and client CPU per admission call and per settlement call."""
        await asyncio.gather(*(self.admit(node, entries) for node in range(nodes)))
        spent = {"admit": [0.0, 0.0], "settle": [0.0, 0.0]}
        rounds, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until or not rounds:
            rounds += 1
            for name, call in (("admit", self.admit), ("settle", self.settle)):
                server, client = cpu_s(self._server), time.process_time()
                for _ in range(max(1, 64 // entries)):
                    await asyncio.gather(*(call(node, entries) for node in range(nodes)))
                spent[name][0] += cpu_s(self._server) - server
                spent[name][1] += time.process_time() - client
        await asyncio.gather(*(self.settle(node, entries) for node in range(nodes)))
        calls = rounds * max(1, 64 // entries) * nodes
        return {name: (a / calls * 1e6, b / calls * 1e6) for name, (a, b) in spent.items()}

    async def listen(self, wanted: int, listeners: list[asyncio.StreamWriter], path: str) -> None:
        """Adds subscribers until there are so many. Plain sockets: what they read is thrown away by the kernel's other end."""
        while len(listeners) < wanted:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"*2\r\n$9\r\nSUBSCRIBE\r\n$10\r\nbench:news\r\n")
            await reader.read(64)
            listeners.append(writer)


def _described(name: str) -> NodeInfo:
    return NodeInfo(name, "10.0.0.1", 8080, 4711, 1.7e9, "alive", "0.1.0", "sha256:0123456789", "exact", 12)


async def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """All lines: for each kind of call alone and busy."""
    topology = build_topology(MeshConfig.model_validate(node_config(9, engine="fast", has_limits=True)))
    cores, found = assign_cores(), {}
    setting = describe() | {"seconds": seconds, "rounds": rounds}
    with pinned(cores.load), ExitStack() as stack:
        with pinned(cores.subject):
            server = stack.enter_context(closing(ValkeyServer(persistence=True))).start()
        assert server.process is not None
        bench = Bench(server.url, server.process.pid, topology)
        try:
            for mode, nodes in (("alone", 1), ("busy", IN_PARALLEL)):
                found[mode] = await _lines(bench, seconds, rounds, nodes=nodes)
            found["busy"]["publish"] = await _publish(bench, str(server.unix_socket), seconds, rounds)
        finally:
            await bench.aclose()
    return {"setting": setting, **found}


async def _lines(bench: Bench, seconds: float, rounds: int, *, nodes: int) -> dict[str, Any]:
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for entries in BATCHES:
            for name, cost in (await bench.pairs(entries, seconds, nodes=nodes)).items():
                taken.setdefault((name, entries), []).append(cost)
        for name, (call, sizes) in bench.calls().items():
            for entries in sizes:
                cost = await bench.cost(call, entries, seconds, nodes=nodes)
                taken.setdefault((name, entries), []).append(cost)
    return _fitted(taken)


async def _publish(bench: Bench, path: str, seconds: float, rounds: int) -> dict[str, Any]:
    """By number of subscribers; nobody reads what they get, so their buffers stay within what the server allows."""
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    listeners: list[asyncio.StreamWriter] = []
    try:
        for wanted in SUBSCRIBERS:
            await bench.listen(wanted, listeners, path)
            for _ in range(rounds):
                cost = await bench.cost(bench.publish, wanted, min(seconds, 0.1), nodes=1)
                taken.setdefault(("publish", wanted), []).append(cost)
    finally:
        for writer in listeners:
            writer.close()
    published: dict[str, Any] = _fitted(taken)["publish"]
    return published


def _fitted(taken: dict[tuple[str, int], list[tuple[float, float]]]) -> dict[str, Any]:
    lines: dict[str, Any] = {}
    for name in dict.fromkeys(name for name, _ in taken):
        points = [
            Point(entries, median(c[0] for c in costs), median(c[1] for c in costs))
            for (other, entries), costs in taken.items()
            if other == name
        ]
        lines[name] = {
            "server": asdict(fit([(p.entries, p.server_us) for p in points])),
            "client": asdict(fit([(p.entries, p.client_us) for p in points])),
            "points": [asdict(point) for point in points],
        }
    return lines


def show(document: dict[str, Any]) -> None:
    """One line for each kind of call."""
    print(f"{'':6} {'call':14} {'server us':>20}   {'client us':>20}")
    for mode in ("alone", "busy"):
        for name, line in document[mode].items():
            cells = [
                f"{line[side]['fixed_us']:8.1f} + {line[side]['each_us']:6.2f} n"
                for side in ("server", "client")
            ]
            print(f"{mode:6} {name:14} {cells[0]:>20}   {cells[1]:>20}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service_times", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each point in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        document = runner.run(measure(options.seconds, options.rounds))
    show(document)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{document['setting']['at'][:10]}-service-times.json"
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
