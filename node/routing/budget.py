"""The fleet's retry budget, as one node spends it: its part is at hand, so a retry asks nobody; parts are exchanged once a second.

When everything fails, retries cannot multiply the load: over ten seconds they are a share of the requests. Without Redis, or before the
first exchange, each node keeps to its own share of the same rule.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from node.watch import StoreWatch
from shared_state.config.pools import RetryBudgetConfig
from shared_state.retries import PART_LIFE_S, WINDOW_S, Sent, share_retries
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import PoolSpec

_EXCHANGE_S: Final = 1.0


class RetryBudget:
    """The budget of one pool on one node.

    Attributes:
        made: retries since the start.
        refused: retries that were not made because the budget was used up.
        hedges: those of them that were made beside an attempt, not after it.
    """

    def __init__(
        self, rules: RetryBudgetConfig, *, nodes: Callable[[], int], now: Callable[[], float]
    ) -> None:
        self.rules = rules
        self.made = 0
        self.refused = 0
        self.hedges = 0
        self._nodes = nodes
        self._now = now
        self._seconds: deque[tuple[int, int]] = deque([(0, 0)] * (WINDOW_S - 1), maxlen=WINDOW_S - 1)
        self._requests = 0
        self._retries = 0
        self._part = 0
        self._part_ends = float("-inf")
        self._report: Sent | None = None
        self._sequence = 0
        self._unreported = [0, 0]

    def note_request(self) -> None:
        """A request has made its first attempt."""
        self._requests += 1

    def take(self) -> bool:
        """Takes one retry out of the budget; False if there is none."""
        if self._now() < self._part_ends:
            is_allowed = self._part >= 1
            self._part -= is_allowed
        else:
            is_allowed = self._own_room() >= 1
        self._retries += is_allowed
        self.made += is_allowed
        self.refused += not is_allowed
        return is_allowed

    def give_back(self) -> None:
        """A retry that was taken was not made after all."""
        self._retries -= 1
        self.made -= 1
        self._part += 1

    def _own_room(self) -> float:
        requests = self._requests + sum(second[0] for second in self._seconds)
        retries = self._retries + sum(second[1] for second in self._seconds)
        floor = self.rules.floor * WINDOW_S / max(1, self._nodes())
        return max(self.rules.share * requests, floor) - retries

    def roll(self) -> bool:
        """Ends a second; whether there is anything to talk about with the others."""
        self._seconds.append((self._requests, self._retries))
        self._unreported[0] += self._requests
        self._unreported[1] += self._retries
        self._requests = self._retries = 0
        return self._report is not None or any(requests or retries for requests, retries in self._seconds)

    def report(self) -> Sent:
        """What is to be said: the same again until it was heard."""
        if self._report is None:
            self._sequence += 1
            requests, retries = self._unreported
            self._report = Sent(self._sequence, requests, max(0, retries))
            self._unreported = [0, min(0, retries)]  # given back after it was reported: off the next report
        return self._report

    def heard(self, part: int, *, asked_at: float) -> None:
        """The answer to a report: retries that may be made from now on."""
        self._report = None
        self._part = part - self._retries - self._unreported[1]  # what was taken since that report
        self._part_ends = asked_at + PART_LIFE_S


class RetryBudgets:
    """The budgets of all pools of a node."""

    def __init__(
        self,
        store: Store,
        pools: Mapping[str, PoolSpec],
        watch: StoreWatch,
        *,
        node: str,
        nodes: Callable[[], int],
    ) -> None:
        self._store = store
        self._watch = watch
        self._node = node
        self._nodes = nodes
        self._now = asyncio.get_running_loop().time
        self.pools = {
            pool.id: RetryBudget(pool.config.retry.budget, nodes=nodes, now=self._now)
            for pool in pools.values()
        }

    def follow(self, pools: Mapping[str, PoolSpec]) -> None:
        """Follows a configuration; what was sent and counted goes on."""
        for pool in pools.values():
            self.of(pool).rules = pool.config.retry.budget

    def of(self, pool: PoolSpec) -> RetryBudget:
        """A pool's budget; a pool that the configuration does not name, such as that of an exact model, has one of its own."""
        budget = self.pools.get(pool.id)
        if budget is None:
            budget = self.pools[pool.id] = RetryBudget(
                pool.config.retry.budget, nodes=self._nodes, now=self._now
            )
        return budget

    async def run(self) -> None:
        """Exchanges once a second while Redis answers, until cancelled."""
        while True:
            await asyncio.sleep(_EXCHANGE_S)
            for pool, budget in list(self.pools.items()):
                if budget.roll() and self._watch.connected:
                    try:
                        await self._exchange(pool, budget)
                    except STORE_ERRORS as error:
                        self._watch.report_failure(error)

    async def _exchange(self, pool: str, budget: RetryBudget) -> None:
        asked_at, rules = self._now(), budget.rules
        part = await share_retries(
            self._store,
            pool,
            budget.report(),
            node=self._node,
            share=rules.share,
            floor=rules.floor,
            nodes=self._nodes(),
        )
        budget.heard(part, asked_at=asked_at)
