"""What the scheduler's tests stand on: a small topology, nodes that make traffic, minutes that have passed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from scheduler.sinks.base import Sink, SinkError, StoredCopy, Totals
from shared_state.assertion import Assertion, Correction
from shared_state.clock import ServerClock
from shared_state.config.root import MeshConfig
from shared_state.ledger import Ask, Code, DomainLedger, Outcome, Settlement
from shared_state.registry import NodeInfo
from shared_state.statistics import MinuteRow
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.support.processes import wait_until

DOMAIN, MODEL, POOL = "alpha", "alpha.small", "chat"


def make_config(
    *,
    lease_s: float = 0.6,
    flush_interval_s: float = 30.0,
    copy_interval_s: float = 10.0,
    namespace: str = "mm",
) -> dict[str, object]:
    """A configuration with one model, as a document."""
    return {
        "redis": {"namespace": namespace, "timeout": "250ms"},
        "providers": {
            "alpha": {
                "connector": "openai-compatible.v1",
                "base_url": "http://127.0.0.1:9/v1",
                "api_key": "none",
            }
        },
        "models": {MODEL: {"provider": "alpha", "capabilities": ["chat-completion"]}},
        "pools": {POOL: {"capability": "chat-completion"}},
        "scheduler": {
            "lease": lease_s,
            "flush_interval": flush_interval_s,
            "copy_interval": copy_interval_s,
        },
    }


def make_topology(**options: float) -> Topology:
    """The topology of `make_config`."""
    return build_topology(MeshConfig.model_validate(make_config(**options)))  # type: ignore[arg-type]


class Node:
    """The part of a router node that the scheduler sees: reservations, settlements, a heartbeat."""

    def __init__(self, store: Store, topology: Topology, name: str) -> None:
        self.name = name
        self._store = store
        self._pool = topology.pools[POOL].config
        self._ledger = DomainLedger(store, topology.domains[DOMAIN], node=name, clock=ServerClock())
        self._numbers = itertools.count(1)

    async def admit(self) -> str:
        """A reservation of 10 + 20 tokens, held for ten minutes."""
        reservation = f"{self.name}.{next(self._numbers)}"
        (verdict,) = await self._ledger.admit([Ask(reservation, MODEL, POOL, 10, 20, 1000, 600_000)])
        assert verdict.code == Code.ADMITTED, verdict
        return reservation

    async def settle(
        self, reservation: str, outcome: Outcome = Outcome.SUCCESS, *, retry_after_ms: int = 0
    ) -> bool:
        """Ends an attempt; whether it was still open."""
        settlement = Settlement(reservation, MODEL, self._pool, outcome, 10, 5, 700, 120, 40, retry_after_ms)
        (applied,) = await self._ledger.settle([settlement])
        return applied

    async def assert_known(self) -> Correction:
        """Says again what a server has lost, as soon as no copy is waited for."""
        assertion = Assertion(self._ledger)
        await wait_until(lambda: assertion.begin(epoch=self._ledger.epoch), what="no copy is waited for")
        await assertion.replay()
        return await assertion.finish((), epoch=self._ledger.epoch)

    async def rate_limit(self, *, for_ms: int) -> None:
        """The provider asks everybody to keep away from the model for a while."""
        await self.settle(await self.admit(), Outcome.RATE_LIMITED, retry_after_ms=for_ms)

    async def beat(self, *, seconds_ago: float = 0) -> None:
        """A heartbeat, now or in the past."""
        info = NodeInfo(
            self.name,
            "127.0.0.1",
            1,
            1,
            time.time(),
            "alive",
            version="",
            config_version="",
            mode="exact",
            in_flight=0,
        )
        nodes = self._store.keys.nodes
        await self._store.client.hset(nodes, self.name, orjson.dumps(asdict(info)))
        await self._store.client.zadd(f"{nodes}:seen", {self.name: round((time.time() - seconds_ago) * 1000)})


async def put_minute(store: Store, minute: int, **metrics: int) -> None:
    """A minute of statistics as settlements would have left it."""
    fields = {f"{MODEL}\t{POOL}\t{metric}": amount for metric, amount in metrics.items()}
    await store.client.hset(store.keys.statistics(DOMAIN, minute), mapping=fields)
    await store.client.zadd(store.keys.minutes(DOMAIN), {str(minute): minute})


async def news_of(store: Store, kind: str) -> list[dict[str, object]]:
    """The events of one type that were published in the domain, oldest first."""
    raw = await store.client.lrange(store.keys.news(DOMAIN), 0, -1)
    return [event for event in map(orjson.loads, reversed(raw)) if event["type"] == kind]


class FlakySink(Sink):
    """Hands on to another sink, and fails on demand: before it has written, or after."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner
        self.fails_before = self.fails_after = False
        self.writes = 0

    async def open(self) -> None:
        await self.inner.open()

    async def write(self, rows: Sequence[MinuteRow]) -> None:
        if self.fails_before:
            raise SinkError("no space left")
        self.writes += 1
        await self.inner.write(rows)
        if self.fails_after:
            raise SinkError("the answer was lost")

    async def totals(self, since_s: float, until_s: float) -> list[Totals]:
        return await self.inner.totals(since_s, until_s)

    async def save_copy(self, domain: str, taken_ms: int, blob: bytes) -> None:
        if self.fails_before:
            raise SinkError("no space left")
        await self.inner.save_copy(domain, taken_ms, blob)
        if self.fails_after:
            raise SinkError("the answer was lost")

    async def latest_copy(self, domain: str, *, until_ms: int | None = None) -> StoredCopy | None:
        return await self.inner.latest_copy(domain, until_ms=until_ms)

    async def prune(self, before_s: float) -> None:
        await self.inner.prune(before_s)

    async def aclose(self) -> None:
        await self.inner.aclose()


def write_config(folder: Path, *, namespace: str, lease_s: float) -> Path:
    """A configuration file for a real process."""
    path = folder / "mesh.json"
    path.write_bytes(orjson.dumps(make_config(lease_s=lease_s, namespace=namespace)))
    return path
