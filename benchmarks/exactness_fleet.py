"""The fleet under test: windows of every kind over several models and accounts, and the faults that strike it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import redis.asyncio

from benchmarks.exactness_oracle import Window
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool
from tests.support.processes import free_port
from tests.support.valkey import ValkeyServer

FREEZE_S: Final = 10.0
_LIMITS: Final[dict[str, dict[str, Any]]] = {
    "rpm": {"rpm": 60},
    "rph": {"rph": 150},
    "rpd": {"rpd": 100},
    "tpm": {"tpm": 20_000},
    "tpd": {"tpd": 40_000},
    "itpm": {"itpm": 8_000},
    "otpm": {"otpm": 5_000},
    "slots": {"concurrency": 3},
    "apart": {"min_delta": "100ms"},
    "bucket": {"rpm": 60, "algorithms": {"rpm": "token_bucket"}},
}
_SHARED_RPM: Final = 80
POOLS: Final = (*_LIMITS, "shared-a", "shared-b")


def config() -> dict[str, Any]:
    """Each window on a model of its own, and one on an account that two models share."""
    fragments = [pool(name, Member("upstream", limits=limits)) for name, limits in _LIMITS.items()]
    account = {"limits": {"rpm": _SHARED_RPM}}
    both = pool(
        "shared", Member("upstream", "a", provider=account), Member("upstream", "b", provider=account)
    )
    both["pools"] = {f"shared-{name}": {"models": [f"shared.{name}"]} for name in "ab"}
    return mesh(*fragments, both)


def windows() -> list[Window]:
    """The same limits as an outsider reads them."""
    found = []
    for name, limits in _LIMITS.items():
        kind = next(iter(limits))
        limit = 0.1 if kind == "min_delta" else float(limits[kind])
        allowed = 2 * limit if "algorithms" in limits else limit
        found.append(Window(name, frozenset({f"{name}.upstream"}), kind, limit, allowed))
    shared = frozenset({"shared.a", "shared.b"})
    return [*found, Window("account shared", shared, "rpm", _SHARED_RPM, _SHARED_RPM)]


def fleet(upstream: Any, *, nodes: int) -> Cluster:
    """A cluster that keeps its data through a restart, in front of that upstream."""
    cluster = Cluster(config(), mocks={}, nodes=nodes)
    cluster.valkey = ValkeyServer(port=free_port(), persistence=True)
    cluster.mocks["upstream"] = upstream
    return cluster


async def _kill_node(cluster: Cluster, rng: random.Random) -> None:
    node = rng.choice(cluster.nodes)
    node.process.kill()
    await node.restart()


async def _kill_scheduler(cluster: Cluster, _: random.Random) -> None:
    if cluster.schedulers[0].is_running:
        cluster.schedulers[0].kill()


async def _restart_redis(cluster: Cluster, _: random.Random) -> None:
    # the append-only file is synced each second; what a kill of the process leaves unsynced is still in the page cache
    await asyncio.to_thread(cluster.valkey.kill)
    cluster.valkey.start()


async def _freeze_redis(cluster: Cluster, _: random.Random) -> None:
    cluster.valkey.freeze()
    try:
        await asyncio.sleep(FREEZE_S)
    finally:
        cluster.valkey.thaw()


async def _cut_events(cluster: Cluster, _: random.Random) -> None:
    async with redis.asyncio.Redis.from_url(cluster.valkey.url) as client:
        for _number in range(20):
            await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.1)


FAULTS: Final[dict[str, Callable[[Cluster, random.Random], Awaitable[None]]]] = {
    "node-kill": _kill_node,
    "scheduler-kill": _kill_scheduler,
    "redis-restart": _restart_redis,
    "redis-freeze": _freeze_redis,
    "pubsub-cut": _cut_events,
}
