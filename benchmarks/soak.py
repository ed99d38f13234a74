"""``python -m benchmarks.soak``: an hour of mixed load on a small cluster; nothing may grow with time.

Two nodes, a scheduler, nginx and a Valkey. Every ten seconds memory, descriptors, threads, tasks, connections and books are
read. After the load the nodes must hold as little as before it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks.meters import pss_bytes, rss_bytes, tree
from benchmarks.setting import describe
from benchmarks.soak_findings import Soak
from benchmarks.soak_load import Load, config
from benchmarks.soak_report import shown, write
from tests.cluster.cluster import Cluster, Node

RESULTS: Final = Path(__file__).parent / "results"
_EVERY_S: Final = 10.0
_QUIET_S: Final = 60.0
#: Of a node's own account -> the name of a series.
_GAUGES: Final = {
    "modelmesh_tasks": "tasks",
    "modelmesh_in_flight": "in flight",
    "modelmesh_unsettled": "unsettled",
    "modelmesh_upstream_connections": "connections",
}
#: What may be more after the load than before it: sixteen kept connections to Redis, a few of nginx and of the scheduler, and
#: those that probes have left.
_SPARE: Final = {
    "descriptors": 24.0,
    "threads": 4.0,
    "tasks": 3.0,
    "in flight": 0.0,
    "unsettled": 0.0,
    "connections": 4.0,
}


class Sampler:
    """Reads the processes of a cluster, from outside and by what they tell."""

    def __init__(self, cluster: Cluster, client: httpx.AsyncClient) -> None:
        self._cluster = cluster
        self._client = client

    async def read(self) -> dict[str, float]:
        """Everything now, by ``process: what``."""
        found: dict[str, float] = {}
        processes = {node.name: node.process.pid for node in self._cluster.nodes}
        processes["scheduler"] = self._cluster.schedulers[0].pid
        for name, pid in processes.items():
            found |= {f"{name}: {what}": value for what, value in _of_process(pid).items()}
        in_flight = 0.0
        for node in self._cluster.nodes:
            told = await self._of_node(node)
            in_flight += told["in flight"]
            found |= {f"{node.name}: {what}": value for what, value in told.items()}
        books = await self._cluster.ops("books")
        found["cluster: books' drift"] = books["totals"]["in_flight"] - in_flight
        return found

    async def _of_node(self, node: Node) -> dict[str, float]:
        answer = await self._client.get(f"{node.base_url}/metrics")
        found = dict.fromkeys(_GAUGES.values(), 0.0)
        for family in text_string_to_metric_families(answer.text):
            if (what := _GAUGES.get(family.name)) is not None:
                found[what] += sum(sample.value for sample in family.samples)
        return found


def _of_process(pid: int) -> dict[str, float]:
    members = [Path("/proc") / str(member) for member in tree(pid)]
    return {
        "RSS MB": rss_bytes(pid) / 1e6,
        "PSS MB": pss_bytes(pid) / 1e6,
        "descriptors": sum(len(list((member / "fd").iterdir())) for member in members),
        "threads": sum(len(list((member / "task").iterdir())) for member in members),
    }


async def soak(options: argparse.Namespace, console: Console) -> Soak:
    """One run."""
    found = Soak(describe() | {"minutes": options.minutes, "callers": options.callers})
    mocks = {name: {"uvloop": True, "no_ledger": True} for name in ("alpha", "beta")}
    async with (
        Cluster(config(), mocks=mocks, nodes=2, persistence=True) as cluster,
        httpx.AsyncClient(timeout=10.0) as client,
    ):
        sampler = Sampler(cluster, client)
        await asyncio.sleep(options.rest)
        before = await sampler.read()
        await _load(cluster, sampler, found, options=options, console=console)
        await _compare(cluster, sampler, before, found, rest_s=options.rest)
    found.judge(warm_up_s=options.minutes * 60 * options.warm_up)
    return found


async def _load(
    cluster: Cluster, sampler: Sampler, found: Soak, *, options: argparse.Namespace, console: Console
) -> None:
    assert cluster.nginx is not None
    load = Load([cluster.nginx.port, *(node.port for node in cluster.nodes)], callers=options.callers)
    began = time.monotonic()
    load.start()
    while (at_s := time.monotonic() - began) < options.minutes * 60:
        await asyncio.sleep(min(_EVERY_S, options.minutes * 60 - at_s))
        found.note(time.monotonic() - began, await sampler.read())
        console.print(_progress(found, load, time.monotonic() - began), highlight=False)
    await load.stop()
    found.ends = {f"{kind}: {end}": count for (kind, end), count in sorted(load.tally.ends.items())}
    found.wrong += load.tally.strange


async def _compare(
    cluster: Cluster, sampler: Sampler, before: Mapping[str, float], found: Soak, *, rest_s: float
) -> None:
    """Waits until the nodes are as they were before the load; what they still hold then is left over."""
    give_up_at = time.monotonic() + _QUIET_S + rest_s
    while True:
        await asyncio.sleep(2.0)
        after = await sampler.read()
        left = [
            f"{name}: {before[name]:g} before, {after[name]:g} after"
            for name in before
            if after[name] > before[name] + _SPARE.get(name.partition(": ")[2], float("inf"))
        ]
        if not left or time.monotonic() > give_up_at:
            break
    found.left = left
    books = await cluster.ops("books")
    if not books["balanced"] or books["totals"]["in_flight"]:
        found.wrong.append(f"books: balanced {books['balanced']}, {books['totals']}")


def _progress(found: Soak, load: Load, at_s: float) -> str:
    last = {name: points[-1][1] for name, points in found.series.items()}
    nodes = sorted({name.partition(": ")[0] for name in last if name.endswith(": tasks")})
    told = "  ".join(
        f"{node} {last[f'{node}: RSS MB']:.1f} MB {last[f'{node}: descriptors']:.0f} fds {last[f'{node}: tasks']:.0f} tasks"
        for node in nodes
    )
    return f"{at_s:5.0f} s  {load.tally.requests:7} requests  {told}  strange {len(load.tally.strange)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Soaks, prints, writes; 1 if anything rises, is left over or is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--callers", type=int, default=24)
    parser.add_argument("--warm-up", type=float, default=0.25, metavar="SHARE", help="of the time (0.25)")
    parser.add_argument("--rest", type=float, default=5.0, metavar="S", help="before the load (5)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    found = asyncio.run(soak(options, console))
    console.print(shown(found))
    for path in write(found, options.results):
        console.print(f"written: {path}", highlight=False)
    for what, names in (("rises", found.rising), ("left over", found.left), ("wrong", found.wrong)):
        for name in names:
            console.print(f"[red]{what}: {name}[/red]")
    return 0 if found.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
