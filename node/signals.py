"""This node's view of how models do over the cluster: read once a second, corrected in between by what the node does itself.

All nodes see the same numbers for a second, and would all run to the same model. So a node counts what it has sent since the last reading
once for every node of the cluster: behind a load balancer the others have just done the same. What they had under way beyond that when it
was read has ended after about the time that the model takes to answer, and so has its weight.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from node.watch import StoreWatch
from shared_state.clock import ServerClock
from shared_state.signals import Standing, read_signals
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import DomainSpec

_POLL_S: Final = 1.0
#: A reading older than this says nothing any more about what is in flight or left.
_FRESH_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Signal:
    """How a model does over the whole cluster; None: nothing is known.

    Attributes:
        latency_ms: moving average of successful attempts.
        first_token_ms: the same up to the first content of streams.
        peak_ms: time to the first content, quick to rise and slow to fall.
        age_s: how long ago it was measured last.
        in_flight: attempts under way on all nodes.
        headroom: share left of the tightest limit of the model and its account, 1 without limits.
        requests_left: requests left by the tightest limit that counts requests.
    """

    latency_ms: float | None = None
    first_token_ms: float | None = None
    peak_ms: float | None = None
    age_s: float | None = None
    in_flight: float = 0.0
    headroom: float | None = None
    requests_left: float | None = None


UNKNOWN: Final = Signal()


@dataclass(frozen=True, slots=True)
class _Reading:
    """A model as it was read, and what this node itself had under way and sent up to then."""

    standing: Standing
    read_at: float
    own_in_flight: int
    own_sent: int


class Signals:
    """Signals of the models of some domains.

    Args:
        domains: those whose pools want signals; others are not read.
        nodes: number of nodes in the cluster.
    """

    def __init__(
        self,
        store: Store,
        domains: Sequence[DomainSpec],
        watch: StoreWatch,
        *,
        clock: ServerClock,
        nodes: Callable[[], int],
    ) -> None:
        self._store = store
        self._domains = domains
        self._watch = watch
        self._clock = clock
        self._nodes = nodes
        self._now = asyncio.get_running_loop().time
        self._readings: dict[str, _Reading] = {}
        self._in_flight: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._wanted = frozenset(model.id for domain in domains for model in domain.models)
        self._told: dict[str, tuple[float, float]] = {}
        self._wake = asyncio.Event()
        watch.on_return(self._wake.set)

    def begin(self, model: str) -> None:
        """An attempt of this node begins."""
        self._in_flight[model] += 1
        self._sent[model] += 1

    def end(self, model: str) -> None:
        """It ends."""
        self._in_flight[model] -= 1

    def wants(self, model: str) -> bool:
        """Whether anybody looks at a model's signals."""
        return model in self._wanted

    def tell(self, model: str, told: tuple[float, float] | None) -> None:
        """The share of its limits that a provider says is left, and for how many seconds that holds unless it says more."""
        if told is not None:
            share, life_s = told
            self._told[model] = share, self._now() + life_s

    def of(self, model: str) -> Signal:
        """A model, as far as this node can tell now."""
        signal, told = self._of(model), self._told.get(model)
        if told is None or self._now() >= told[1]:
            return signal
        return replace(signal, headroom=told[0] if signal.headroom is None else min(signal.headroom, told[0]))

    def _of(self, model: str) -> Signal:
        reading = self._readings.get(model)
        if reading is None:
            return Signal(in_flight=float(self._in_flight[model] * self._nodes()))
        seen = reading.standing
        age_s = None if seen.measured_ms is None else (self._clock.now_ms() - seen.measured_ms) / 1000
        speed = (seen.latency_ms, seen.first_token_ms, seen.peak_ms, age_s)
        if self._now() - reading.read_at > _FRESH_S:
            return Signal(*speed, in_flight=float(self._in_flight[model] * self._nodes()))
        in_flight = self._fleet_in_flight(model, reading)
        sent = (self._sent[model] - reading.own_sent) * self._nodes()
        return Signal(*speed, in_flight, *_room(seen, sent))

    def _fleet_in_flight(self, model: str, reading: _Reading) -> float:
        """This node's own times the nodes, and what was read beyond that, as far as it may still be under way: whole attempts, for a rest of
        one would decide between equals for the whole second.
        """
        beyond, latency_ms = reading.standing.in_flight, reading.standing.latency_ms
        beyond -= reading.own_in_flight * self._nodes()
        left = math.exp((reading.read_at - self._now()) * 1000 / latency_ms) if latency_ms else 1.0
        return max(0.0, float(self._in_flight[model] * self._nodes() + round(beyond * left)))

    async def run(self) -> None:
        """Reads once a second while Redis answers, until cancelled; at once when it is back, for a node that knows nothing chooses blindly."""
        while True:
            if self._watch.connected:
                try:
                    await self.read()
                except STORE_ERRORS as error:
                    self._watch.report_failure(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._wake.wait()
            self._wake.clear()

    async def read(self) -> None:
        """Reads all domains once.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        for domain in self._domains:
            now_ms, standings = await read_signals(self._store, domain, now_ms=self._clock.now_ms())
            self._clock.observe(now_ms)
            for model, standing in standings.items():
                self._readings[model] = _Reading(
                    standing, self._now(), self._in_flight[model], self._sent[model]
                )


def _room(seen: Standing, sent: int) -> tuple[float | None, float | None]:
    """Headroom and requests left, after so many more requests of the cluster."""
    if seen.requests_left is None or not seen.requests_limit:
        return seen.headroom, None
    left = max(0.0, seen.requests_left - sent)
    headroom = seen.headroom
    return None if headroom is None else min(headroom, left / seen.requests_limit), left
