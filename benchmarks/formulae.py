"""A fleet in closed form: how many calls of Redis a request takes, what they cost, and where a Redis core is full.

`model` simulates the same, call by call; each checks the other. `docs/scaling.md` says what follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from benchmarks.model import Costs
from node.batch import SLOTTED_COMPANY_S
from shared_state.ledger import MAX_BATCH


@dataclass(frozen=True, slots=True)
class Calls:
    """Exchanges per request.

    Attributes:
        asking: with asks.
        settling: with settlements.
        alone: of settlements that found no company.
    """

    asking: float
    settling: float
    alone: float

    @property
    def all(self) -> float:
        """Of all kinds."""
        return self.asking + self.alone

    @staticmethod
    def of(per_s: float, cycle_s: float) -> Calls:
        """Of a node with a domain, where requests come at random times.

        Asks that came during a call go with the next, and so one call follows the other until none came; then the next ask begins anew. A
        settlement that waits in such a pause meets the next ask in time, or goes alone; while it does, asks go alone as well.
        """
        came = per_s * cycle_s
        none, late = math.exp(-came), math.exp(-per_s * SLOTTED_COMPANY_S)
        batch = min(MAX_BATCH, came + none)
        # In such a pause: how often settlements go alone, and how often others meet the ask that ends it.
        gone, met = (2 - none) * late / (2 - late), (2 - none) * (1 - late) / (2 - late)
        pauses = none / batch  # per request
        together = 1 / (1 + gone * pauses * came)
        aboard = together * ((1 - none) ** 2 + none * met) / batch
        alone = together * gone * pauses
        return Calls(1 / batch, aboard + alone, alone)


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
        server = self.costs.busy.server
        found = {
            "heartbeats": self.nodes * server["beat"].at(1) if self.is_home else 0.0,
            "polls": self.nodes * server["pulses"].at(self.domains),
            "renewals": self.nodes * self.domains * server["renew"].at(1) / self.renew_s,
            "retry budgets": self.nodes * server["share_retries"].at(1) if self.is_home else 0.0,
        }
        return {name: us / 1e6 for name, us in found.items()}

    @property
    def lone_us(self) -> float:
        """CPU per request where asks and settlements travel alone."""
        cost = self.costs.busy.server_exchange
        return cost.at(1, 0) + cost.at(0, 1)

    def calls(self, per_s: float, cycle_s: float) -> Calls:
        """What exchanges carry at this load, where one is under way for so long."""
        return Calls.of(per_s / (self.nodes * self.domains), cycle_s)

    def redis_us(self, calls: Calls) -> float:
        """CPU per request."""
        cost = self.costs.busy.server_exchange
        parts_us = calls.asking * cost.asking_us + calls.settling * cost.settling_us
        return calls.all * cost.call_us + parts_us + cost.ask_us + cost.settlement_us

    def cycle_s(self, per_s: float) -> float:
        """How long a call is under way at this load: round trip, wait and service. Infinite where the core cannot keep up."""
        idle = 1 - sum(self.background().values())

        def needed(cycle_s: float) -> float:
            calls = self.calls(per_s, cycle_s)
            redis_us = self.redis_us(calls)
            left = idle - per_s * redis_us / 1e6
            if left <= 0:
                return math.inf
            return self.costs.round_trip_s + redis_us / calls.all / 1e6 * (1 + (1 - left) / left / 2)

        low, high = 0.0, 100.0
        if needed(high) > high:
            return math.inf
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if needed(middle) > middle else (low, middle)
        return high

    def capacity(self, within_s: float) -> float:
        """Requests per second at which a call is under way for so long."""
        low, high = 0.0, 1e6
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.cycle_s(middle) <= within_s else (low, middle)
        return low

    def knee(self) -> float:
        """Requests per second that the core could carry if every call travelled alone: from there on batches grow."""
        return max(0.0, 1 - sum(self.background().values())) / self.lone_us * 1e6


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
