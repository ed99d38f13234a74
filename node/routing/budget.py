"""The fleet's retry budget, as one node spends it: retries are made out of a part that Redis has given out, so a retry asks nobody.

When everything fails, retries cannot multiply the load, whoever joins, leaves or dies: what was not given out is not spent. Parts are
exchanged once a second, and at once when a retry is wanted and none is left. Without Redis a node goes by the same rule on its own counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from node.watch import StoreWatch
from shared_state.config.pools import RetryBudgetConfig
from shared_state.retries import PART_LIFE_S, WINDOW_S, Sent, allowed, share_retries
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import PoolSpec

_EXCHANGE_S: Final = 1.0
#: With nothing left nobody asks more often, and nobody waits longer for the answer.
_ASK_EVERY_S: Final = 0.1
_PATIENCE_S: Final = 0.1


class Counts:
    """What one node has sent in some time."""

    __slots__ = ("good", "requests", "retries")

    def __init__(self, requests: int = 0, retries: int = 0, good: int = 0) -> None:
        self.requests = requests
        self.retries = retries
        self.good = good

    def __bool__(self) -> bool:
        return bool(self.requests or self.retries)


class RetryBudget:
    """The budget of one pool on one node.

    Args:
        is_alone: whether Redis is away.
        exchange: reports to the others, and hears of the part; failures of the store are its own matter.

    Attributes:
        made: retries since the start.
        refused: retries that were not made because the budget was used up.
        hedges: those of them that were made beside an attempt, not after it.
    """

    def __init__(
        self,
        rules: RetryBudgetConfig,
        *,
        nodes: Callable[[], int],
        now: Callable[[], float],
        is_alone: Callable[[], bool],
        exchange: Callable[[RetryBudget], Awaitable[None]],
    ) -> None:
        self.rules = rules
        self.made = 0
        self.refused = 0
        self.hedges = 0
        self._nodes = nodes
        self._now = now
        self._is_alone = is_alone
        self._exchange = exchange
        self._seconds: deque[Counts] = deque([Counts()] * (WINDOW_S - 1), maxlen=WINDOW_S - 1)
        self._second = Counts()
        self._unreported = Counts()
        self._part = 0
        self._part_ends = float("-inf")
        self._report: Sent | None = None
        self._sequence = 0
        self._wants = True
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")

    def note_request(self) -> None:
        """A request has made its first attempt."""
        self._second.requests += 1
        self._unreported.requests += 1

    def note_answer(self) -> None:
        """A request was answered well."""
        self._second.good += 1
        self._unreported.good += 1

    def take(self) -> bool:
        """Takes one retry out of the budget; False if there is none."""
        is_allowed = self._left() >= 1
        self._count(int(is_allowed))
        self.refused += not is_allowed
        return is_allowed

    def give_back(self) -> None:
        """A retry that was taken was not made after all."""
        self._count(-1)

    async def refill(self) -> None:
        """Before a retry is wanted: asks for more if none is left, and waits a moment for the answer."""
        if self._left() >= 1 or self._is_alone():
            return
        self._wants = True
        if self._asking is None and self._now() - self._asked_at >= _ASK_EVERY_S:
            self.ask()
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=_PATIENCE_S)

    def ask(self) -> asyncio.Task[None]:
        """Starts an exchange, unless one is under way."""
        if self._asking is None:
            self._asked_at = self._now()
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            await self._exchange(self)
        finally:
            self._asking = None

    def _count(self, retries: int) -> None:
        self._second.retries += retries
        self._unreported.retries += retries
        self.made += retries

    def _left(self) -> float:
        if self._now() < self._part_ends:
            return self._part - self._unreported.retries
        return self._own_room() if self._is_alone() else 0

    def _own_room(self) -> float:
        """By this node's own counts, with its share of what belongs to all."""
        window = [*self._seconds, self._second]
        retries = sum(second.retries for second in window)
        most = allowed(
            self.rules,
            requests=self._nodes() * sum(second.requests for second in window),
            good=self._nodes() * sum(second.good for second in window),
        )
        return most / max(1, self._nodes()) - retries

    def roll(self) -> bool:
        """Ends a second; whether there is anything to talk about with the others, a part to return included."""
        self._seconds.append(self._second)
        self._second = Counts()
        self._wants = any(self._seconds)
        return self._report is not None or self._wants or self._now() < self._part_ends

    def report(self) -> Sent:
        """What is to be said: the same again until it was heard. Half of what is left is given up, to come back if nobody needs it more."""
        if self._report is None:
            told, self._sequence = self._unreported, self._sequence + 1
            is_valid = self._wants and self._now() < self._part_ends
            self._part = max(0, int(self._left()) // 2) if is_valid else 0
            kept = self._part if self._wants else None
            self._report = Sent(self._sequence, told.requests, max(0, told.retries), told.good, kept)
            self._unreported = Counts(retries=min(0, told.retries))  # given back after it was reported
        return self._report

    def heard(self, part: int, *, asked_at: float) -> None:
        """The answer to a report: retries that may be made from now on."""
        is_over = self._report is not None and self._report.kept is None
        self._report = None
        self._part = part
        self._part_ends = asked_at + PART_LIFE_S
        if is_over:
            self._part_ends = self._asked_at = float("-inf")


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
        self.pools = {pool.id: self._budget(pool) for pool in pools.values()}

    def follow(self, pools: Mapping[str, PoolSpec]) -> None:
        """Follows a configuration; what was sent and counted goes on."""
        for pool in pools.values():
            self.of(pool).rules = pool.config.retry.budget

    def of(self, pool: PoolSpec) -> RetryBudget:
        """A pool's budget; a pool that the configuration does not name, such as that of an exact model, has one of its own."""
        budget = self.pools.get(pool.id)
        if budget is None:
            budget = self.pools[pool.id] = self._budget(pool)
        return budget

    def _budget(self, pool: PoolSpec) -> RetryBudget:
        async def exchange(budget: RetryBudget) -> None:
            await self._exchange(pool.id, budget)

        return RetryBudget(
            pool.config.retry.budget,
            nodes=self._nodes,
            now=self._now,
            is_alone=lambda: not self._watch.connected,
            exchange=exchange,
        )

    async def run(self) -> None:
        """Exchanges once a second while Redis answers, until cancelled."""
        while True:
            await asyncio.sleep(_EXCHANGE_S)
            for budget in list(self.pools.values()):
                if budget.roll() and self._watch.connected:
                    await budget.ask()

    async def _exchange(self, pool: str, budget: RetryBudget) -> None:
        asked_at = self._now()
        try:
            part = await share_retries(
                self._store,
                pool,
                budget.report(),
                node=self._node,
                rules=budget.rules,
                nodes=self._nodes(),
            )
        except STORE_ERRORS as error:
            self._watch.report_failure(error)
        else:
            budget.heard(part, asked_at=asked_at)
