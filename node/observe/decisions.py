"""Which decisions are recorded, and their way to Redis: off the requests' path, bounded, and given up rather than waited for."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final

import orjson
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from node.call import Call, Trail
from node.observe.metrics import REPLAYED
from node.observe.record import record_of
from node.watch import StoreWatch
from shared_state.config.root import DecisionsConfig
from shared_state.decisions import MOST_BYTES, pack, write_decisions
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS, Store

log = get_logger(__name__)

_GATHER_S: Final = 0.1
_BATCH: Final = 100
_PAUSE_S: Final = 1.0
_BURST_S: Final = 10.0
#: One record, and all that wait. A mesh of hundreds of candidates fits; what does not is kept without its stages.
_MOST_PACKED: Final = 64 * 1024
_MOST_WAITING: Final = 8 * 1024 * 1024


class DecisionQueue:
    """The records of one node on their way to Redis; as long as the process lives.

    Attributes:
        ttl_s: how long a record is kept.
        written: how many have reached Redis.
        dropped: how many have not, by cause: ``rate``, ``waiting``, ``store``.
    """

    def __init__(self, store: Store, watch: StoreWatch) -> None:
        self._store = store
        self._watch = watch
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self.ttl_s = 0.0
        self.written = 0
        self.dropped: Counter[str] = Counter()

    def add(self, request_id: str, packed: bytes) -> None:
        """Takes a record, unless too many wait."""
        if self._waiting_bytes + len(packed) > _MOST_WAITING:
            self.dropped["waiting"] += 1
            return
        self._waiting.append((request_id, packed))
        self._waiting_bytes += len(packed)
        self._wake.set()

    async def run(self) -> None:
        """Writes what gathers, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            if not self._watch.connected or not await self.flush():
                await asyncio.sleep(_PAUSE_S)

    async def flush(self) -> bool:
        """Writes what waits; False if the store does not take it in time, and what it was given is lost."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._waiting_bytes -= sum(len(packed) for _, packed in batch)
            try:
                await write_decisions(self._store, batch, ttl_s=self.ttl_s)
            except STORE_ERRORS as error:
                # Nobody is told that the store is away for this: a record may be large, and others' calls are small.
                self.dropped["store"] += len(batch)
                log.debug("decisions were not recorded", count=len(batch), error=str(error))
                return False
            self.written += len(batch)
        self._wake.clear()
        return True


class DecisionLog:
    """Which decisions under one configuration are recorded, and how.

    Args:
        version: of the configuration.
        number: by which it is found among the versions; 0 if it was never pushed.
        draw: uniform numbers in [0, 1).
        queue: takes the records; default: one of its own.
    """

    def __init__(
        self,
        store: Store,
        watch: StoreWatch,
        rules: DecisionsConfig,
        *,
        node: str,
        version: str,
        number: int = 0,
        draw: Callable[[], float] = random.random,
        queue: DecisionQueue | None = None,
    ) -> None:
        self.queue = queue or DecisionQueue(store, watch)
        self.queue.ttl_s = rules.ttl
        self._rules = rules
        self._node = node
        self._version = version
        self._number = number
        self._draw = draw
        self._now = asyncio.get_running_loop().time
        self._credit = self._most_credit = max(1.0, rules.max_per_second * _BURST_S)
        self._credited_at = self._now()

    def wants(self, trail: Trail, outcome: str) -> bool:
        """Whether a finished request is to be recorded; for one that repeats another's answer nothing was decided."""
        if outcome == REPLAYED:
            return False
        is_plain = outcome == "ok" and len(trail.steps) == 1
        if not is_plain and self._rules.failures:
            return True
        sample = self._rules.sample
        return sample > 0 and (sample >= 1 or self._draw() < sample)

    def add(self, call: Call, trail: Trail, *, status: int, outcome: str) -> None:
        """Records a finished request, unless there are too many."""
        if not self._may_add():
            self.queue.dropped["rate"] += 1
            return
        record = record_of(
            call,
            trail,
            node=self._node,
            version=self._version,
            number=self._number,
            status=status,
            outcome=outcome,
            ended=self._now(),
        )
        text = orjson.dumps(record)
        packed = pack(text)
        if len(packed) > _MOST_PACKED or len(text) > MOST_BYTES:
            packed = pack(orjson.dumps({**record, "plans": []}))
        self.queue.add(call.request_id, packed)

    def _may_add(self) -> bool:
        now = self._now()
        earned = (now - self._credited_at) * self._rules.max_per_second
        self._credit, self._credited_at = min(self._most_credit, self._credit + earned), now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True


class DecisionMetrics(Collector):
    """What became of the records, for Prometheus."""

    def __init__(self, decisions: DecisionQueue) -> None:
        self._decisions = decisions

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        yield CounterMetricFamily(
            "modelmesh_decisions_recorded", "Decisions written to Redis.", value=self._decisions.written
        )
        dropped = CounterMetricFamily(
            "modelmesh_decisions_dropped",
            "Decisions that were to be recorded and were not, by cause.",
            labels=["cause"],
        )
        for cause in ("rate", "waiting", "store"):
            dropped.add_metric([cause], self._decisions.dropped[cause])
        yield dropped
