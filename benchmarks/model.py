"""A model of a fleet: what Redis and nodes work per request, from recorded service times, up to 1,000 nodes.

    python -m benchmarks.model

Two ways that check each other: a small simulation of every call (`simulate`), and formulae (`Shard`). The newest result files of
``service_times`` and ``scale`` feed and validate them; `docs/scaling.md` says what follows.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final

from benchmarks.service_times import Line

#: Entries that one call carries at the most.
MOST: Final = 256
#: Parts of a node's own work on a request: before it asks, before it sends upstream, after the answer.
_PARTS: Final = (0.45, 0.2, 0.35)

Begin = Callable[[bool], tuple[float, Callable[[], None]]]


@dataclass(frozen=True, slots=True)
class Costs:
    """Service times in microseconds: of Redis, and of a node for its calls.

    Attributes:
        server, client: by kind of call, for calls that meet a busy process.
        server_idle, client_idle: the same for one that has to wake up.
        round_trip_s: on the network, both ways.
    """

    server: Mapping[str, Line]
    server_idle: Mapping[str, Line]
    client: Mapping[str, Line]
    client_idle: Mapping[str, Line]
    round_trip_s: float = 0.0002

    @staticmethod
    def read(document: Mapping[str, Any]) -> Costs:
        """From a result file of ``benchmarks.service_times``."""

        def lines(mode: str, side: str) -> dict[str, Line]:
            return {name: Line(**line[side]) for name, line in document[mode].items()}

        return Costs(
            lines("busy", "server"),
            lines("alone", "server"),
            lines("busy", "client"),
            lines("alone", "client"),
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """Nodes that share the quota domains of one Redis.

    Attributes:
        per_s: requests per second of all nodes, spread evenly over nodes and domains.
        node_us: a node's own work on a request, its calls of Redis not included.
        upstream_s: how long a provider takes.
        cores: that the nodes share; 0: each has its own.
        renew_s: between two renewals of a lease, see `renewal_s`.
    """

    nodes: int
    domains: int
    per_s: float
    node_us: float = 350.0
    upstream_s: float = 0.001
    cores: int = 0
    renew_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fleet's requests cost.

    Attributes:
        calls: script calls per request, those of the background not included.
        redis_us, node_us: CPU per request.
        wait_ms: for an admission, the mean.
        p99_ms: of the same.
        redis_busy: share of the Redis core.
    """

    calls: float
    redis_us: float
    node_us: float
    wait_ms: float
    p99_ms: float
    redis_busy: float


class _Clock:
    """Simulated time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), then))

    def run(self, until_s: float) -> None:
        while self._due and self._due[0][0] <= until_s:
            self.now, _, then = heapq.heappop(self._due)
            then()


class _Station:
    """A core that does one thing after the other; what it does is decided when its turn comes."""

    def __init__(self, clock: _Clock) -> None:
        self.busy_s = 0.0
        self._clock = clock
        self._waiting: deque[Begin] = deque()
        self._is_busy = False

    def submit(self, begin: Begin) -> None:
        self._waiting.append(begin)
        if not self._is_busy:
            self._is_busy = True
            self._next(was_idle=True)

    def _next(self, *, was_idle: bool) -> None:
        seconds, then = self._waiting.popleft()(was_idle)
        self.busy_s += seconds

        def done() -> None:
            then()
            if self._waiting:
                self._next(was_idle=False)
            else:
                self._is_busy = False

        self._clock.after(seconds, done)


class _Lane:
    """The calls of one kind of a node for a domain: one under way, the next batch gathers meanwhile."""

    def __init__(self, world: _World, node: int, kind: str) -> None:
        self._world = world
        self._core = world.core_of(node)
        self._kind = kind
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._is_under_way = False

    def put(self, then: Callable[[], None]) -> None:
        self._waiting.append((self._world.clock.now, then))
        if not self._is_under_way:
            self._is_under_way = True
            self._core.submit(self._send)

    def _send(self, was_idle: bool) -> tuple[float, Callable[[], None]]:
        batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
        half_s = self._world.client_s(self._kind, len(batch), was_idle) / 2
        way_s = self._world.costs.round_trip_s / 2

        def travel() -> None:
            self._world.clock.after(way_s, lambda: self._world.redis.submit(serve))

        def serve(was_idle: bool) -> tuple[float, Callable[[], None]]:
            return self._world.server_s(self._kind, len(batch), was_idle), back

        def back() -> None:
            self._world.clock.after(
                way_s, lambda: self._core.submit(lambda _: (half_s, lambda: self._answer(batch)))
            )

        return half_s, travel

    def _answer(self, batch: list[tuple[float, Callable[[], None]]]) -> None:
        self._world.note(self._kind, batch)
        for _, then in batch:
            then()
        if self._waiting:
            self._core.submit(self._send)
        else:
            self._is_under_way = False


class _World:
    """One run of the simulation."""

    def __init__(self, fleet: Fleet, costs: Costs, seed: int) -> None:
        self.clock = _Clock()
        self.costs = costs
        self.redis = _Station(self.clock)
        self.calls = self.requests = 0
        self.waits_s: list[float] = []
        self._fleet = fleet
        self._draw = random.Random(seed)
        self._cores = [_Station(self.clock) for _ in range(fleet.cores or fleet.nodes)]
        self._lanes: dict[tuple[int, int, str], _Lane] = {}

    @property
    def node_busy_s(self) -> float:
        return sum(core.busy_s for core in self._cores)

    def core_of(self, node: int) -> _Station:
        return self._cores[node % len(self._cores)]

    def client_s(self, kind: str, entries: int, is_idle: bool) -> float:
        lines = self.costs.client_idle if is_idle else self.costs.client
        return lines[kind].at(entries) / 1e6

    def server_s(self, kind: str, entries: int, is_idle: bool) -> float:
        self.calls += kind in ("admit", "settle")
        lines = self.costs.server_idle if is_idle else self.costs.server
        return lines[kind].at(entries) / 1e6

    def note(self, kind: str, batch: list[tuple[float, Callable[[], None]]]) -> None:
        if kind == "admit":
            self.waits_s += [self.clock.now - since for since, _ in batch]
            self.requests += len(batch)

    def arrive(self) -> None:
        """The next request comes somewhere, and the one after it is due."""
        self.clock.after(self._draw.expovariate(self._fleet.per_s), self.arrive)
        node, domain = self._draw.randrange(self._fleet.nodes), self._draw.randrange(self._fleet.domains)
        asks, settles = self._lane(node, domain, "admit"), self._lane(node, domain, "settle")
        core = self.core_of(node)
        own_s = [part * self._fleet.node_us / 1e6 for part in _PARTS]

        def admitted() -> None:
            core.submit(lambda _: (own_s[1], sent))

        def sent() -> None:
            self.clock.after(self._fleet.upstream_s, lambda: core.submit(lambda _: (own_s[2], answered)))

        def answered() -> None:
            settles.put(_nothing)

        core.submit(lambda _: (own_s[0], lambda: asks.put(admitted)))

    def repeat(self, kind: str, entries: int, every_s: float) -> None:
        """Background calls of Redis, spread evenly over time."""

        def call() -> None:
            self.redis.submit(lambda is_idle: (self.server_s(kind, entries, is_idle), _nothing))
            self.clock.after(every_s, call)

        self.clock.after(self._draw.random() * every_s, call)

    def _lane(self, node: int, domain: int, kind: str) -> _Lane:
        key = (node, domain, kind)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self, node, kind)
        return lane


def _nothing() -> None:
    """Nobody waits for it."""


def simulate(fleet: Fleet, costs: Costs, *, requests: int = 10_000, seed: int = 1) -> Outcome:
    """Runs so many requests through a fleet, after a tenth as many that are not counted."""
    world = _World(fleet, costs, seed)
    world.repeat("beat", 1, 1 / fleet.nodes)
    world.repeat("pulses", fleet.domains, 1 / fleet.nodes)
    world.repeat("renew", 1, fleet.renew_s / (fleet.nodes * fleet.domains))
    world.repeat("share_retries", 1, 1 / fleet.nodes)
    world.arrive()
    warm_s, seconds = requests / 10 / fleet.per_s, requests / fleet.per_s
    world.clock.run(warm_s)
    skipped = len(world.waits_s)
    before = world.redis.busy_s, world.node_busy_s, world.calls, world.requests
    world.clock.run(warm_s + seconds)
    done = max(1, world.requests - before[3])
    waits = sorted(world.waits_s[skipped:]) or [math.inf]
    return Outcome(
        calls=(world.calls - before[2]) / done,
        redis_us=(world.redis.busy_s - before[0]) / done * 1e6,
        node_us=(world.node_busy_s - before[1]) / done * 1e6,
        wait_ms=fmean(waits) * 1000,
        p99_ms=waits[int(0.99 * (len(waits) - 1))] * 1000,
        redis_busy=(world.redis.busy_s - before[0]) / seconds,
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """The formulae: one Redis core with some of the quota domains, all nodes asking for all of them.

    Attributes:
        is_home: whether the registry lives here.
        renew_s: between two renewals of a lease.
    """

    costs: Costs
    nodes: int
    domains: int
    is_home: bool = True
    renew_s: float = 1.0

    def background(self) -> dict[str, float]:
        """Share of the core for what nodes ask without any request, each second."""
        server = self.costs.server
        found = {
            "heartbeats": self.nodes * server["beat"].at(1) if self.is_home else 0.0,
            "polls": self.nodes * server["pulses"].at(self.domains),
            "renewals": self.nodes * self.domains * server["renew"].at(1) / self.renew_s,
            "retry budgets": self.nodes * server["share_retries"].at(1) if self.is_home else 0.0,
        }
        return {name: us / 1e6 for name, us in found.items()}

    def batch(self, per_s: float, cycle_s: float) -> float:
        """Mean entries of a call: what came to a lane while its last call was under way, and one at the least."""
        came = per_s / (self.nodes * self.domains) * cycle_s
        return min(MOST, came + math.exp(-came))

    def redis_us(self, batch: float) -> float:
        """CPU per request where calls carry so many entries."""
        admit, settle = self.costs.server["admit"], self.costs.server["settle"]
        return (admit.fixed_us + settle.fixed_us) / batch + admit.each_us + settle.each_us

    def busy(self, per_s: float, batch: float) -> float:
        """Share of the core."""
        return per_s * self.redis_us(batch) / 1e6 + sum(self.background().values())

    def cycle_s(self, per_s: float) -> float:
        """How long a call is under way at this load: round trip, wait and service. Infinite where the core cannot keep up."""

        def needed(cycle_s: float) -> float:
            batch = self.batch(per_s, cycle_s)
            busy = self.busy(per_s, batch)
            if busy >= 1:
                return math.inf
            return self.costs.round_trip_s + self.redis_us(batch) * batch / 2e6 * (1 + busy / (1 - busy) / 2)

        low, high = 0.0, 100.0
        if needed(high) > high:
            return math.inf
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if needed(middle) > middle else (low, middle)
        return high

    def capacity(self, within_s: float) -> float:
        """Requests per second at which a call is under way for so long."""
        low, high = 0.0, 1e6
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.cycle_s(middle) <= within_s else (low, middle)
        return low

    def knee(self) -> float:
        """Requests per second that the core could carry if every call travelled alone: from there on batches grow."""
        return max(0.0, 1 - sum(self.background().values())) / self.redis_us(1) * 1e6


def capacity(
    costs: Costs, *, nodes: int, domains: int, shards: int, within_s: float, renew_s: float
) -> float:
    """Requests per second of a cluster of so many Redis cores; a domain lives on one of them."""
    used = min(domains, shards)
    one = Shard(costs, nodes, math.ceil(domains / used), is_home=True, renew_s=renew_s)
    return (
        used * one.capacity(within_s)
        if used == 1
        else (one.capacity(within_s) + (used - 1) * replace(one, is_home=False).capacity(within_s))
    )
