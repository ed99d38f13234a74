"""A simulated fleet: every call of Redis that its nodes make, from recorded service times.

The newest result files of ``service_times`` and ``scale`` feed and validate it (`model_report`); `formulae` say the same in closed form.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from benchmarks.lines import Exchange, Line
from node.batch import SLOTTED_COMPANY_S
from shared_state.ledger import MAX_BATCH

#: Parts of a node's own work on a request: before it asks, before it sends upstream, after the answer.
_PARTS: Final = (0.45, 0.2, 0.35)
#: How long Redis sleeps between calls that come one after the other: what the service times named *alone* stand for.
_ALONE_S: Final = 0.0005

#: What nodes ask without a script.
_COMMANDS: Final = ("pulses",)

#: Work of a core that has done nothing for so long: how long it takes, and what follows.
Begin = Callable[[float], tuple[float, Callable[[], None]]]


@dataclass(frozen=True, slots=True)
class Times:
    """Service times in microseconds under one mode of `benchmarks.service_times`.

    Attributes:
        server: of Redis, by kind of call.
        server_exchange, client_exchange: of the exchange, for Redis and for a node.
    """

    server: Mapping[str, Line]
    server_exchange: Exchange
    client_exchange: Exchange

    @staticmethod
    def read(lines: Mapping[str, Any]) -> Times:
        """From the lines of one mode."""
        exchange = lines["exchange"]
        return Times(
            {name: Line(**line["server"]) for name, line in lines.items() if name != "exchange"},
            Exchange(**exchange["server"]),
            Exchange(**exchange["client"]),
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """All service times.

    Attributes:
        busy: of a process that does not sleep.
        alone: of one that wakes up for each call.
        rare: of one that has slept for `rare_s`, and finds its caches used by others.
        round_trip_s: on the network, both ways.
    """

    busy: Times
    alone: Times
    rare: Times
    rare_s: float = 0.01
    round_trip_s: float = 0.0002

    @staticmethod
    def read(document: Mapping[str, Any]) -> Costs:
        """From a result file of ``benchmarks.service_times``."""
        busy, alone, rare = (Times.read(document[mode]) for mode in ("busy", "alone", "rare"))
        return Costs(busy, alone, rare, rare_s=document["setting"]["pause_s"])

    def after(self, idle_s: float, cost: Callable[[Times], float]) -> float:
        """What a call costs a process that has slept for so long, by the logarithm of that time."""
        if idle_s <= 0:
            return cost(self.busy)
        part = math.log(max(1.0, idle_s / _ALONE_S)) / math.log(self.rare_s / _ALONE_S)
        alone_us = cost(self.alone)
        return alone_us + min(1.0, part) * (cost(self.rare) - alone_us)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Nodes that share the quota domains of one Redis.

    Attributes:
        per_s: requests per second of all nodes, spread evenly over nodes and domains.
        node_us: a node's own work on a request, its calls of Redis not included.
        upstream_s: how long a provider takes.
        cores: that the nodes share; 0: each has its own.
        renew_s: between two renewals of a lease, see `renewal_s`.
        beside_us: what others do for a request on the core of Redis, if it is not alone there.
        in_turn: whether a load balancer gives each node the next request; else chance does.
    """

    nodes: int
    domains: int
    per_s: float
    node_us: float = 350.0
    upstream_s: float = 0.001
    cores: int = 0
    renew_s: float = 1.0
    beside_us: float = 0.0
    in_turn: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fleet's requests cost.

    Attributes:
        calls: exchanges per request.
        scripts: the same with the scripts that nodes run without any request.
        redis_us, node_us: CPU per request.
        wait_ms: for an admission, the mean.
        p99_ms: of the same.
        redis_busy: share of the Redis core.
    """

    calls: float
    scripts: float
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
        self._idle_since = 0.0

    def submit(self, begin: Begin) -> None:
        self._waiting.append(begin)
        if not self._is_busy:
            self._is_busy = True
            self._next(max(1e-9, self._clock.now - self._idle_since))

    def _next(self, idle_s: float) -> None:
        seconds, then = self._waiting.popleft()(idle_s)
        self.busy_s += seconds

        def done() -> None:
            then()
            if self._waiting:
                self._next(0.0)
            else:
                self._is_busy = False
                self._idle_since = self._clock.now

        self._clock.after(seconds, done)


_Waiting = tuple[float, Callable[[], None]]


class _Lane:
    """The exchanges of a node with a domain, as `node.batch` makes them: one under way for asks, and the settlements that wait go with it.
    Those that find no company for a moment go in one of their own."""

    def __init__(self, world: _World, node: int) -> None:
        self._world = world
        self._core = world.core_of(node)
        self._asks: deque[_Waiting] = deque()
        self._outbox = 0
        self._is_asking = self._is_settling = False
        self._wait: object | None = None

    def ask(self, then: Callable[[], None]) -> None:
        self._asks.append((self._world.clock.now, then))
        if not self._is_asking:
            self._is_asking = True
            self._core.submit(lambda _: (0.0, self._take_turn))

    def settle(self) -> None:
        self._outbox += 1
        if not self._is_asking:
            self._await_company()

    def _take_turn(self) -> None:
        """Whoever waits for the core goes first, and may ask as well."""
        self._core.submit(self._send_asks)

    def _send_asks(self, idle_s: float) -> tuple[float, Callable[[], None]]:
        batch = [self._asks.popleft() for _ in range(min(MAX_BATCH, len(self._asks)))]
        aboard = 0 if self._is_settling else min(MAX_BATCH, self._outbox)
        if not self._is_settling:
            self._wait = None

        def answered() -> None:
            self._outbox -= aboard
            self._world.note(batch)
            for _, then in batch:
                then()
            if self._asks:
                self._take_turn()
            else:
                self._is_asking = False
                self._await_company()

        return self._exchange(len(batch), aboard, idle_s, answered)

    def _await_company(self) -> None:
        if self._outbox >= MAX_BATCH:
            self._settle_now()
        elif self._outbox and self._wait is None and not self._is_settling:
            waiting = self._wait = object()

            def is_over() -> None:
                if self._wait is waiting:
                    self._settle_now()

            self._world.clock.after(SLOTTED_COMPANY_S, is_over)

    def _settle_now(self) -> None:
        self._wait = None
        if self._outbox and not self._is_settling:
            self._is_settling = True
            self._core.submit(self._send_settlements)

    def _send_settlements(self, idle_s: float) -> tuple[float, Callable[[], None]]:
        count = min(MAX_BATCH, self._outbox)

        def answered() -> None:
            self._outbox -= count
            if self._outbox and not self._is_asking:
                self._core.submit(self._send_settlements)
            else:
                self._is_settling = False

        return self._exchange(0, count, idle_s, answered)

    def _exchange(
        self, asks: int, settlements: int, idle_s: float, answered: Callable[[], None]
    ) -> tuple[float, Callable[[], None]]:
        world = self._world
        half_s = world.client_s(asks, settlements, idle_s) / 2
        way_s = world.costs.round_trip_s / 2

        def travel() -> None:
            world.clock.after(way_s, lambda: world.redis.submit(serve))

        def serve(idle_s: float) -> tuple[float, Callable[[], None]]:
            return world.server_s(asks, settlements, idle_s), back

        def back() -> None:
            world.clock.after(way_s, lambda: self._core.submit(lambda _: (half_s, answered)))

        return half_s, travel


class _World:
    """One run of the simulation."""

    def __init__(self, fleet: Fleet, costs: Costs, seed: int) -> None:
        self.clock = _Clock()
        self.costs = costs
        self.redis = _Station(self.clock)
        self.calls = self.scripts = self.requests = self._turn = 0
        self.waits_s: list[float] = []
        self._beside_s = 0.0
        self._fleet = fleet
        self._draw = random.Random(seed)
        self._cores = [_Station(self.clock) for _ in range(fleet.cores or fleet.nodes)]
        self._lanes: dict[tuple[int, int], _Lane] = {}

    @property
    def node_busy_s(self) -> float:
        return sum(core.busy_s for core in self._cores)

    @property
    def redis_busy_s(self) -> float:
        return self.redis.busy_s - self._beside_s

    def core_of(self, node: int) -> _Station:
        return self._cores[node % len(self._cores)]

    def client_s(self, asks: int, settlements: int, idle_s: float) -> float:
        return self.costs.after(idle_s, lambda times: times.client_exchange.at(asks, settlements)) / 1e6

    def server_s(self, asks: int, settlements: int, idle_s: float) -> float:
        self.calls += 1
        return self.costs.after(idle_s, lambda times: times.server_exchange.at(asks, settlements)) / 1e6

    def note(self, batch: list[_Waiting]) -> None:
        self.waits_s += [self.clock.now - since for since, _ in batch]
        self.requests += len(batch)

    def arrive(self) -> None:
        """The next request comes somewhere, and the one after it is due."""
        self.clock.after(self._draw.expovariate(self._fleet.per_s), self.arrive)
        self._turn += 1
        chosen = self._turn if self._fleet.in_turn else self._draw.randrange(self._fleet.nodes)
        node, domain = chosen % self._fleet.nodes, self._draw.randrange(self._fleet.domains)
        lane, core = self._lane(node, domain), self.core_of(node)
        own_s = [part * self._fleet.node_us / 1e6 for part in _PARTS]

        def admitted() -> None:
            core.submit(lambda _: (own_s[1], sent))

        def sent() -> None:
            self._work_beside()
            self.clock.after(self._fleet.upstream_s, lambda: core.submit(lambda _: (own_s[2], lane.settle)))

        self._work_beside()
        core.submit(lambda _: (own_s[0], lambda: lane.ask(admitted)))

    def _work_beside(self) -> None:
        """Half of what others do for a request: it keeps the core of Redis awake."""
        seconds = self._fleet.beside_us / 2e6
        if seconds:
            self._beside_s += seconds
            self.redis.submit(lambda _: (seconds, _nothing))

    def repeat(self, kind: str, entries: int, every_s: float) -> None:
        """Background calls of Redis, spread evenly over time."""

        def call() -> None:
            self.redis.submit(lambda idle_s: (self._background_s(kind, entries, idle_s), _nothing))
            self.clock.after(every_s, call)

        self.clock.after(self._draw.random() * every_s, call)

    def _background_s(self, kind: str, entries: int, idle_s: float) -> float:
        self.scripts += kind not in _COMMANDS
        return self.costs.after(idle_s, lambda times: times.server[kind].at(entries)) / 1e6

    def _lane(self, node: int, domain: int) -> _Lane:
        lane = self._lanes.get((node, domain))
        if lane is None:
            lane = self._lanes[node, domain] = _Lane(self, node)
        return lane


def _nothing() -> None:
    """Nobody waits for it."""


def simulate(fleet: Fleet, costs: Costs, *, requests: int = 10_000, seed: int = 1) -> Outcome:
    """Runs so many requests through a fleet, after some that are not counted, until the first have long been settled."""
    world = _World(fleet, costs, seed)
    world.repeat("beat", 1, 1 / fleet.nodes)
    world.repeat("pulses", fleet.domains, 1 / fleet.nodes)
    world.repeat("renew", 1, fleet.renew_s / (fleet.nodes * fleet.domains))
    world.repeat("share_retries", 1, 1 / fleet.nodes)
    world.arrive()
    warm_s, seconds = requests / 10 / fleet.per_s + 2 * fleet.upstream_s, requests / fleet.per_s
    world.clock.run(warm_s)
    skipped = len(world.waits_s)
    before = world.redis_busy_s, world.node_busy_s, world.calls, world.requests, world.scripts
    world.clock.run(warm_s + seconds)
    done = max(1, world.requests - before[3])
    waits = sorted(world.waits_s[skipped:]) or [math.inf]
    return Outcome(
        calls=(world.calls - before[2]) / done,
        scripts=(world.calls + world.scripts - before[2] - before[4]) / done,
        redis_us=(world.redis_busy_s - before[0]) / done * 1e6,
        node_us=(world.node_busy_s - before[1]) / done * 1e6,
        wait_ms=fmean(waits) * 1000,
        p99_ms=waits[int(0.99 * (len(waits) - 1))] * 1000,
        redis_busy=(world.redis_busy_s - before[0]) / seconds,
    )
