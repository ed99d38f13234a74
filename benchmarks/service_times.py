"""How long Redis works on each thing that nodes ask of it: a fixed part a call, and a part for each entry. What the model of a fleet is fed with.

    python -m benchmarks.service_times [--seconds 0.15] [--rounds 5]

CPU of the server's whole process (reading, script, writing, its append-only file), and of the calling process; seven windows a request.
The exchange is called as nodes call it, with asks, settlements or both. Calls come from several nodes at once (*busy*: the server does not
sleep), one after the other (*alone*: it wakes up for each) and with pauses (*rare*: others have used its caches meanwhile).
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

from benchmarks.lines import Exchange, fit, fit_exchange
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
IN_PARALLEL: Final = 8
#: Calls of a swing: so many entries of one kind and of the other, then the other way round, so that as many are settled as are admitted.
SWINGS: Final = (
    *((size, 0) for size in (1, 4, 16, 64, 256)),
    *((size, size) for size in (1, 4, 16, 64, 256)),
    *((4, 1), (16, 1), (64, 16)),
)
RARE_SWINGS: Final = ((1, 0), (1, 1), (4, 0), (4, 4), (16, 0), (16, 16))
SUBSCRIBERS: Final = (0, 16, 64, 256)
DOMAINS: Final = (1, 16, 256)
PAUSE_S: Final = 0.01
_MODEL: Final = "mock.bench-unary"
_POOL: Final = "bench-unary"
_REGISTERED: Final = 1000
_ONE: Final = Amounts(1, 500, 200, 300, 0)

#: What an exchange may carry: asks, settlements.
KINDS: Final = (("asks", 1, 0), ("settlements", 0, 1), ("asks and settlements", 1, 1))
_SIDES: Final = ("server", "client")
#: CPU of the server and of the client, microseconds.
Cost = tuple[float, float]

#: One call of a node that may be told apart from others under way, of so many entries.
Call = Callable[[int, int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Point:
    """Microseconds of CPU per call with so many entries, medians over the rounds."""

    entries: int
    server_us: float
    client_us: float


@dataclass(frozen=True, slots=True)
class ExchangePoint:
    """The same per exchange with so many asks and settlements."""

    asks: int
    settlements: int
    server_us: float
    client_us: float


@dataclass(frozen=True, slots=True)
class Mode:
    """How calls come: from so many nodes at once, each with a pause after its call.

    Attributes:
        entries: of one half of a swing at the least, in as many calls as it takes.
    """

    name: str
    nodes: int
    pause_s: float
    swings: Sequence[tuple[int, int]]
    entries: int


MODES: Final = (
    Mode("busy", IN_PARALLEL, 0.0, SWINGS, 64),
    Mode("alone", 1, 0.0, SWINGS, 64),
    Mode("rare", 1, PAUSE_S, RARE_SWINGS, 16),
)


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

    async def exchange(self, node: int, asks: int, settlements: int) -> None:
        """One call of a node: settles what it has admitted longest ago, and admits."""
        names = [f"bench{node}.{next(self._numbers)}" for _ in range(asks)]
        ended, self._admitted[node] = self._admitted[node][:settlements], self._admitted[node][settlements:]
        usage = (Outcome.SUCCESS, 180, 150, 0, 800, 90)
        verdicts, applied = await self._ledgers[node].exchange(
            [Ask(n, _MODEL, _POOL, 200, 300, 0, 600_000) for n in names] if asks else None,
            [Settlement(name, _MODEL, self._pool, *usage, pool_id=_POOL) for name in ended],
        )
        if any(verdict.code for verdict in verdicts) or applied != [True] * settlements:
            raise RuntimeError(f"not applied: {[*verdicts, applied]}")
        self._admitted[node] += names

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

    async def cost(self, call: Call, entries: int, seconds: float, mode: Mode) -> tuple[float, float]:
        """Server and client CPU per call, microseconds."""
        done, until = 0, time.perf_counter() + seconds

        async def loop(node: int) -> None:
            nonlocal done
            while True:
                await call(node, entries)
                done += 1
                if time.perf_counter() >= until:
                    return
                if mode.pause_s:
                    await asyncio.sleep(mode.pause_s)

        server, client = cpu_s(self._server), time.process_time()
        await asyncio.gather(*(loop(node) for node in range(mode.nodes)))
        used = cpu_s(self._server) - server, time.process_time() - client
        return used[0] / done * 1e6, used[1] / done * 1e6

    async def swing(
        self, most: int, least: int, seconds: float, mode: Mode
    ) -> dict[tuple[int, int], tuple[float, float]]:
        """Server and client CPU per exchange: with the more asks than settlements, then with the more settlements than asks."""
        shapes = dict.fromkeys(((most, least), (least, most)))
        spent = {shape: [0.0, 0.0] for shape in shapes}
        each, rounds, until = max(1, mode.entries // most), 0, time.perf_counter() + seconds
        if least:
            await self._all(mode, least, 0)
        while time.perf_counter() < until or not rounds:
            rounds += 1
            for shape in shapes:
                server, client = cpu_s(self._server), time.process_time()
                for _ in range(each):
                    await self._all(mode, *shape)
                spent[shape][0] += cpu_s(self._server) - server
                spent[shape][1] += time.process_time() - client
        if least:
            await self._all(mode, 0, least)
        calls = rounds * each * mode.nodes
        return {shape: (a / calls * 1e6, b / calls * 1e6) for shape, (a, b) in spent.items()}

    async def _all(self, mode: Mode, asks: int, settlements: int) -> None:
        await asyncio.gather(*(self.exchange(node, asks, settlements) for node in range(mode.nodes)))
        if mode.pause_s:
            await asyncio.sleep(mode.pause_s)

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
    setting = describe() | {"seconds": seconds, "rounds": rounds, "pause_s": PAUSE_S}
    with pinned(cores.load), ExitStack() as stack:
        with pinned(cores.subject):
            server = stack.enter_context(closing(ValkeyServer(persistence=True))).start()
        assert server.process is not None
        bench = Bench(server.url, server.process.pid, topology)
        try:
            for mode in MODES:
                found[mode.name] = await _lines(bench, seconds, rounds, mode)
            found["busy"]["publish"] = await _publish(bench, str(server.unix_socket), seconds, rounds)
        finally:
            await bench.aclose()
    return {"setting": setting, **found}


async def _lines(bench: Bench, seconds: float, rounds: int, mode: Mode) -> dict[str, Any]:
    taken: dict[tuple[str, int], list[Cost]] = {}
    exchanged: dict[tuple[int, int], list[Cost]] = {}
    for _ in range(rounds):
        for most, least in mode.swings:
            for shape, cost in (await bench.swing(most, least, seconds, mode)).items():
                exchanged.setdefault(shape, []).append(cost)
        for name, (call, sizes) in bench.calls().items():
            for entries in sizes:
                cost = await bench.cost(call, entries, seconds, mode)
                taken.setdefault((name, entries), []).append(cost)
    return {"exchange": _fitted_exchange(exchanged)} | _fitted(taken)


async def _publish(bench: Bench, path: str, seconds: float, rounds: int) -> dict[str, Any]:
    """By number of subscribers; nobody reads what they get, so their buffers stay within what the server allows."""
    taken: dict[tuple[str, int], list[Cost]] = {}
    listeners: list[asyncio.StreamWriter] = []
    try:
        for wanted in SUBSCRIBERS:
            await bench.listen(wanted, listeners, path)
            for _ in range(rounds):
                cost = await bench.cost(bench.publish, wanted, min(seconds, 0.1), MODES[1])
                taken.setdefault(("publish", wanted), []).append(cost)
    finally:
        for writer in listeners:
            writer.close()
    published: dict[str, Any] = _fitted(taken)["publish"]
    return published


def _fitted(taken: dict[tuple[str, int], list[Cost]]) -> dict[str, Any]:
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


def _fitted_exchange(taken: dict[tuple[int, int], list[Cost]]) -> dict[str, Any]:
    points = [
        ExchangePoint(*shape, median(c[0] for c in costs), median(c[1] for c in costs))
        for shape, costs in taken.items()
    ]
    return {
        "server": asdict(fit_exchange([(p.asks, p.settlements, p.server_us) for p in points])),
        "client": asdict(fit_exchange([(p.asks, p.settlements, p.client_us) for p in points])),
        "points": [asdict(point) for point in points],
    }


def show(document: dict[str, Any]) -> None:
    """One line for each kind of call."""
    print(f"{'':6} {'call':22} {'server us':>34}   {'client us':>34}")
    for mode in MODES:
        lines = dict(document[mode.name])
        exchange = lines.pop("exchange")
        rows = [(name, *(_exchange_cell(exchange[side], *has) for side in _SIDES)) for name, *has in KINDS]
        rows += [(name, *(_cell(line[side]) for side in _SIDES)) for name, line in lines.items()]
        for name, server, client in rows:
            print(f"{mode.name:6} {name:22} {server:>34}   {client:>34}")


def _cell(line: dict[str, float]) -> str:
    return f"{line['fixed_us']:.1f}" + (f" + {line['each_us']:.2f} n" if line["each_us"] else "")


def _exchange_cell(factors: dict[str, float], asks: int, ended: int) -> str:
    cost = Exchange(**factors)
    parts = (f" + {cost.ask_us:.2f} n" if asks else "", f" + {cost.settlement_us:.2f} m" if ended else "")
    return f"{cost.fixed_us(asks, ended):.1f}{''.join(parts)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service_times", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.15, help="of each point in each round")
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
