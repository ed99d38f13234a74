"""How fast a fleet turns away from a model: the time from the first failure, or from an operator's order, to the last stray request.

    python -m benchmarks.failover [--nodes 3] [--rounds 20]

Clients ask without a pause through nginx; the model's own ledger at its provider says when the last request reached it. An order
counts from the moment that the operator has its answer; a request that was already admitted then may still arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.setting import describe
from tests.cluster.calls import Load
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool

RESULTS: Final = Path(__file__).parent / "results"
MODEL: Final = "fleet.alpha"
ORDER: Final = "operator's order"
#: What the provider does to the model -> the clock of ours that ends an attempt on it, where one has to.
ILLS: Final = {"500": "30s", "reset=0": "30s", "garbage": "30s", "stall-after=0": "200ms"}
_CLIENTS: Final = 12
_WARM_UP: Final = 60
_AFTER_S: Final = 0.8
_PATIENCE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One turning away.

    Attributes:
        stray_ms: from the first failure or the order to the last request that still went to the model.
        strays: how many did.
        failed: clients' requests that were not answered.
    """

    cause: str
    stray_ms: float
    strays: int
    failed: int


async def measure(cause: str, *, nodes: int, rounds: int, progress: Progress) -> list[Turn]:
    """A fleet of its own for each cause, and the same model brought back after each round."""
    clock = ILLS.get(cause, "30s")
    member = Member("alpha", provider={"timeouts": {"first_token": clock, "total": clock}})
    config = mesh(pool("fleet", member, "beta", strategy="round-robin", recovery={"cooldown": "10m"}))
    task = progress.add_task(cause, total=rounds)
    turns = []
    async with Cluster(config, mocks={"alpha": {}, "beta": {}}, nodes=nodes) as cluster:
        for _ in range(rounds):
            turns.append(await _turn(cluster, cause))
            progress.advance(task)
    return turns


async def _turn(cluster: Cluster, cause: str) -> Turn:
    async with cluster.client() as client, Load(client, "fleet", clients=_CLIENTS, pause_s=0) as load:
        await _until_served(load, _WARM_UP)
        began_s = await _strike(cluster, cause)
        await asyncio.sleep(_AFTER_S)  # nothing tells that no stray will come any more
        seen = [entry["t_arrival"] for entry in await asyncio.to_thread(cluster.seen, MODEL)]
    await _heal(cluster)
    strays = [at_s for at_s in seen if at_s > began_s]
    return Turn(cause, (max(strays, default=began_s) - began_s) * 1000, len(strays), len(load.failures))


async def _strike(cluster: Cluster, cause: str) -> float:
    """Unix time of the first failure, or of the answer to the order."""
    if cause == ORDER:
        await cluster.ops(f"models/{MODEL}/deactivate", order={"reason": "benchmark"})
        return time.time()
    await asyncio.to_thread(cluster.order, MODEL, cause)
    give_up_at = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up_at:
        for entry in await asyncio.to_thread(cluster.seen, MODEL):
            if entry["behaviour"] != "ok":
                return float(entry["t_arrival"])
        await asyncio.sleep(0.01)
    raise TimeoutError(f"nobody met {cause!r}")


async def _heal(cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.mocks["alpha"].reset)
    for name in ("models/fleet.alpha", "models/fleet.beta", "providers/fleet-alpha"):
        await cluster.ops(f"{name}/activate", order={})


async def _until_served(load: Load, count: int) -> None:
    give_up_at = time.monotonic() + _PATIENCE_S
    while load.answered < count:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"only {load.answered} of {count} were answered: {load.failures[:2]}")
        await asyncio.sleep(0.01)


def table(turns: Sequence[Turn]) -> Table:
    """Medians and extremes by cause."""
    shown = Table(
        "cause", "rounds", "last stray ms, median", "p99", "strays, median", "most", "failed requests"
    )
    for cause in dict.fromkeys(turn.cause for turn in turns):
        mine = [turn for turn in turns if turn.cause == cause]
        times, strays = sorted(turn.stray_ms for turn in mine), [turn.strays for turn in mine]
        p99 = times[min(len(times) - 1, round(0.99 * len(times)))]
        figures = [statistics.median(times), p99, statistics.median(strays), max(strays)]
        row = [str(len(mine)), *(f"{figure:.1f}" for figure in figures)]
        shown.add_row(cause, *row, str(sum(turn.failed for turn in mine)))
    return shown


def document(turns: Sequence[Turn], *, nodes: int) -> dict[str, Any]:
    """Everything that was measured, and where."""
    return {"setting": describe(), "nodes": nodes, "clients": _CLIENTS, "turns": list(map(asdict, turns))}


async def _measure_all(options: argparse.Namespace, console: Console) -> list[Turn]:
    with Progress(console=console) as progress:
        found = []
        for cause in (ORDER, *ILLS):
            found += await measure(cause, nodes=options.nodes, rounds=options.rounds, progress=progress)
    return found


def main() -> int:
    """Measures, prints the table, keeps the figures; 1 if any request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console()
    turns = asyncio.run(_measure_all(options, console))
    console.print(table(turns))
    path = options.results / f"{datetime.now(UTC):%Y-%m-%d}-failover.json"
    path.write_bytes(
        orjson.dumps(
            document(turns, nodes=options.nodes), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        )
    )
    console.print(f"written: {path}", highlight=False)
    return 1 if any(turn.failed for turn in turns) else 0


if __name__ == "__main__":
    sys.exit(main())
