"""Gates: the quota domains that a call passes before its candidates, of the mesh, of its client key, of a pool.

At each gate a call is admitted once, with the most that any of its candidates may need, and settled once, with the sum of what its
attempts have used; whoever got through to no provider gets everything back. A call without gates never comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from node.call import Target
from node.routing.admission import WITHOUT_STORE
from node.routing.estimate import Estimate, estimate
from node.routing.interrupts import Cause, Interrupts
from node.routing.lanes import Lane
from node.routing.pipeline import Plan
from node.routing.stays import NOTHING, Gate, Stay, is_about_money, larger, wait_s
from node.watch import StoreWatch
from shared_state.client_keys import ClientKey
from shared_state.config import LimitsConfig, PoolConfig
from shared_state.config.checks import spends_money
from shared_state.errors import BudgetExceededError
from shared_state.gates import MESH_GATE, pool_gate
from shared_state.ledger import Code, Settlement, Verdict
from shared_state.limits import money_periods
from shared_state.state import Reason
from shared_state.topology import ModelSpec, PoolSpec

_LEAST_LEASE_MS: Final = 60_000
_UNPRICED: Final = Verdict(Code.TOO_LARGE, -1, "unpriced")


class Walk:
    """A call's way through its gates.

    Args:
        everywhere: at gates that every attempt passes.
        of_pool: begins the stay at a pool's own gate; None if it has none.
        needs_price: whether only models with a price may serve.
    """

    def __init__(
        self,
        everywhere: Sequence[Stay],
        of_pool: Callable[[PoolSpec], Stay | None],
        *,
        needs_price: bool,
        now_ms: Callable[[], int],
        on_loss: str,
    ) -> None:
        self._everywhere = everywhere
        self._of_pool = of_pool
        self._of_pools: dict[str, Stay | None] = {}
        self._needs_price = needs_price
        self._closed: dict[str, Verdict] = {}
        self._now_ms = now_ms
        self._on_loss = on_loss

    @property
    def spends_money(self) -> bool:
        """Whether money is limited at a gate that was passed."""
        stays = (*self._everywhere, *self._of_pools.values())
        return any(stay is not None and spends_money(stay.gate.limits) for stay in stays)

    def reopen(self) -> None:
        """A pool that was closed may have room again: the call has waited."""
        self._closed.clear()

    async def admit(self, target: Target, interrupts: Interrupts, deadline: float) -> Verdict | None:
        """Passes the gates before an attempt; a verdict if the target must not serve and another may.

        Raises:
            LimitReachedError, BudgetExceededError, StateUnavailableError: a gate refuses the whole call.
            Interrupted: the caller left, or the deadline passed.
        """
        if self._needs_price and not target.model.is_priced:
            return _UNPRICED
        if target.pool.id in self._closed:
            return self._closed[target.pool.id]
        for stay in self._stays(target):
            verdict = await self._pass(stay, target, interrupts, deadline)
            if verdict is not None:
                return verdict
        for stay in self._stays(target):
            stay.begin(target.model)
        return None

    async def _pass(
        self, stay: Stay, target: Target, interrupts: Interrupts, deadline: float
    ) -> Verdict | None:
        if stay.covers(target.model):
            return None
        interrupts.set_clock(deadline, Cause.DEADLINE)
        with interrupts:
            verdict = await stay.admit(target.model, self._on_loss)
        if verdict.code is Code.ADMITTED:
            return None
        pool = target.pool
        if stay is not self._of_pools[pool.id] or _ends_the_call(verdict, pool.config):
            raise stay.gate.error(verdict, self._now_ms())
        self._closed[pool.id] = verdict
        return verdict

    def beside(self) -> Walk:
        """A way of its own through the same gates, for an attempt beside another: what it reserves is settled, or given back, apart."""

        def of_pool(pool: PoolSpec) -> Stay | None:
            own = self._of_pool(pool)
            return None if own is None else own.beside()

        return Walk(
            [stay.beside() for stay in self._everywhere],
            of_pool,
            needs_price=self._needs_price,
            now_ms=self._now_ms,
            on_loss=self._on_loss,
        )

    async def admits_beside(self, target: Target, interrupts: Interrupts, deadline: float) -> bool:
        """Passes the gates if Redis lets an attempt through now; a refusal is no error, for nobody has to make this attempt.

        Raises:
            Interrupted: the caller left, or the deadline passed.
        """
        if self._needs_price and not target.model.is_priced:
            return False
        stays = self._stays(target)
        for stay in stays:
            interrupts.set_clock(deadline, Cause.DEADLINE)
            with interrupts:
                verdict = await stay.admit(target.model, self._on_loss, may_wait=False)
            if verdict.code is not Code.ADMITTED or verdict is WITHOUT_STORE:
                return False
        for stay in stays:
            stay.begin(target.model)
        return True

    def leave(self, target: Target, attempt: Settlement | None) -> None:
        """After each `admit` without a verdict: the attempt is over, or its model did not admit it."""
        for stay in self._stays(target):
            stay.finish(target.model, attempt)

    def end(self) -> None:
        """Settles at every gate, once."""
        for stay in (*self._everywhere, *self._of_pools.values()):
            if stay is not None:
                stay.settle()

    def _stays(self, target: Target) -> list[Stay]:
        pool = target.pool
        if pool.id not in self._of_pools:
            self._of_pools[pool.id] = self._of_pool(pool)
        own = self._of_pools[pool.id]
        return [*self._everywhere, own] if own is not None else [*self._everywhere]


def _ends_the_call(verdict: Verdict, pool: PoolConfig) -> bool:
    """Whether a pool's own refusal is the caller's answer, though another pool might serve."""
    return is_about_money(verdict) and pool.on_budget_exceeded != "rotate"


def check_money(verdict: Verdict, target: Target, account: LimitsConfig, now_ms: int) -> None:
    """Where the pool says so, money spent on one candidate ends the call.

    Args:
        account: limits of the candidate's account.

    Raises:
        BudgetExceededError: it does.
    """
    if target.pool.config.on_budget_exceeded == "error" and is_about_money(verdict):
        raise BudgetExceededError(
            f"the money of {target.model.id} does not reach ({verdict.name})",
            window=_money_window(verdict, (target.model.config.limits, account), now_ms),
            retry_after_s=wait_s(verdict, now_ms),
        )


def _money_window(verdict: Verdict, scopes: Iterable[LimitsConfig], now_ms: int) -> str:
    """The window of money that refused; a cap, and a standby for spent money, is one of the period that ends when it does."""
    if verdict.name != Reason.BUDGET_EXCEEDED:
        return verdict.name
    periods = [period for limits in scopes for period in money_periods(limits, now_ms)]
    return next((name for name, ends_ms in periods if ends_ms == verdict.at_ms), periods[0][0])


class Gates:
    """The gates of one node.

    Args:
        configured: gates of the mesh and of pools, by the id of their domain.
        of_key: the gate of a client key.
    """

    def __init__(
        self,
        configured: Mapping[str, Gate],
        lanes: Mapping[str, Lane],
        *,
        of_key: Callable[[ClientKey], Gate],
        watch: StoreWatch,
        reservations: Iterator[str],
        now_ms: Callable[[], int],
        on_loss: str,
    ) -> None:
        self._configured = configured
        self._lanes = lanes
        self._of_key = of_key
        self._watch = watch
        self._reservations = reservations
        self._now_ms = now_ms
        self._on_loss = on_loss

    def walk(self, plan: Plan) -> Walk | None:
        """The way of a call; None if it has no gate to pass. Drops candidates whose cost the caller's money cannot be charged with.

        Raises:
            BudgetExceededError: no candidate is left.
        """
        key = plan.call.key
        if key is None and not self._configured:
            return None
        gates = [self._configured[MESH_GATE]] if MESH_GATE in self._configured else []
        needs_price = key is not None and spends_money(key.limits)
        if key is not None:
            gates.append(self._of_key(key))
        if needs_price:
            drop_unpriced(plan)
        return Walk(
            [self._stay(plan, gate, plan.targets) for gate in gates],
            lambda pool: self._at_pool(plan, pool),
            needs_price=needs_price,
            now_ms=self._now_ms,
            on_loss=self._on_loss,
        )

    def _at_pool(self, plan: Plan, pool: PoolSpec) -> Stay | None:
        gate = self._configured.get(pool_gate(pool.id))
        if gate is None:
            return None
        return self._stay(plan, gate, [target for target in plan.targets if target.pool is pool])

    def _stay(self, plan: Plan, gate: Gate, targets: Sequence[Target]) -> Stay:
        needs: dict[str, Estimate] = {}

        def need_of(model: ModelSpec) -> Estimate:
            if model.id not in needs:
                lane = self._lanes[model.id]
                needs[model.id] = estimate(
                    plan.call,
                    model,
                    _smaller(gate.token_room, lane.token_room),
                    _smaller(gate.output_room, lane.output_room),
                )
            return needs[model.id]

        most, lease_ms = NOTHING, _LEAST_LEASE_MS
        for target in targets:
            most = larger(most, need_of(target.model))
            longest_ms = self._lanes[target.model.id].lease_ms + round(
                target.pool.config.retry.deadline * 1000
            )
            lease_ms = max(lease_ms, longest_ms)
        return Stay(
            gate,
            need_of,
            most,
            lease_ms=lease_ms,
            reservations=self._reservations,
            watch=self._watch,
        )


def drop_unpriced(plan: Plan) -> None:
    """Configured money has its prices checked; a key's money meets whatever is configured now.

    Raises:
        BudgetExceededError: no candidate is left.
    """
    unpriced = [target.model.id for target in plan.targets if not target.model.is_priced]
    if not unpriced:
        return
    plan.skipped.update(dict.fromkeys(unpriced, "unpriced"))
    plan.targets = [target for target in plan.targets if target.model.is_priced]
    if not plan.targets:
        raise BudgetExceededError(
            f"the client key's money is limited, and no model of {plan.call.name!r} has a price",
            window="usd_per_request",
        )


def _smaller(one: int | None, other: int | None) -> int | None:
    rooms = [room for room in (one, other) if room is not None]
    return min(rooms, default=None)
