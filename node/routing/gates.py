"""Gates: the quota domains that a call passes before its candidates, of the mesh, of its client key, of a pool.

At each gate a call is admitted once, with the most that any of its candidates may need, and settled once, with the sum of what its
attempts have used; whoever got through to no provider gets everything back. A call without gates never comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from node.batch import DomainBatcher
from node.call import Target
from node.leases import Allowance
from node.routing.admission import WITHOUT_STORE, ask_for_admission
from node.routing.estimate import Estimate, estimate
from node.routing.interrupts import Cause, Interrupts
from node.routing.lanes import Lane
from node.routing.pipeline import Plan
from shared_state.client_keys import ClientKey
from shared_state.config import LimitsConfig, PoolConfig
from shared_state.config.checks import spends_money
from shared_state.errors import (
    BudgetExceededError,
    LimitReachedError,
    ModelMeshError,
    StateUnavailableError,
)
from shared_state.gates import ANY_MODEL, MESH_GATE, DomainKind, kind_of, pool_gate
from shared_state.ledger import ESTIMATED, LEASED, NOT_SENT, UNKNOWN, Ask, Code, Outcome, Settlement, Verdict

#: A gate has no health: nothing that happens behind it is held against it.
_RULES: Final = PoolConfig()
_NOTHING: Final = Estimate(0, 0, 0)
_SETTLE_WAIT_S: Final = 0.1
_DEFAULT_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of this node.

    Attributes:
        allowance: what may pass without Redis.
        token_room: its smallest token window, None without any.
    """

    id: str
    limits: LimitsConfig
    batcher: DomainBatcher
    allowance: Allowance
    token_room: int | None
    is_limited: bool

    def error(self, verdict: Verdict, now_ms: int) -> ModelMeshError:
        """What a refusal means to the caller."""
        wait_s = _wait_s(verdict, now_ms)
        if verdict.code is Code.STORE_AWAY:
            return StateUnavailableError(
                "the shared state is away and no allowance is left; limits are kept", retry_after_s=wait_s
            )
        if is_about_money(verdict):
            return BudgetExceededError(
                f"the money of {self._label} does not reach ({verdict.name})",
                window=verdict.name,
                retry_after_s=wait_s,
            )
        if verdict.code is Code.TOO_LARGE:
            return LimitReachedError(
                f"the request needs more than {self._label} ever allows ({verdict.name})",
                code="request_too_large_for_limit",
                retry_after_s=wait_s,
            )
        return LimitReachedError(f"{self._label} is at a limit ({verdict.name})", retry_after_s=wait_s)

    @property
    def _label(self) -> str:
        kind, name = kind_of(self.id), self.id.partition(":")[2]
        if kind is DomainKind.MESH:
            return "the whole mesh"
        return f"client key {name}" if kind is DomainKind.KEY else f"pool {name!r}"


def is_about_money(verdict: Verdict) -> bool:
    """Whether a window of money refused."""
    return verdict.name.startswith("usd_")


class Stay:
    """A call at one gate: what it holds there, what its attempts have used and what those under way may use.

    Args:
        needs: model -> what an attempt on it may use.
        reservations: source of reservation ids.
    """

    def __init__(
        self, gate: Gate, needs: Mapping[str, Estimate], *, lease_ms: int, reservations: Iterator[str]
    ) -> None:
        self.gate = gate
        self._needs = needs
        self._lease_ms = lease_ms
        self._reservations = reservations
        self._most = Estimate(
            max(need.tokens_in for need in needs.values()),
            max(need.tokens_out for need in needs.values()),
            max(need.cost_nano for need in needs.values()),
        )
        self._held: list[tuple[str, int]] = []
        self._used = _NOTHING
        self._under_way: list[str] = []
        self._was_sent = False
        self._flags = 0

    def covers(self, model: str) -> bool:
        """Whether what is held reaches for one more attempt, on this model."""
        wanted = self._used
        for name in (*self._under_way, model):
            wanted = _plus(wanted, self._needs[name])
        most, times = self._most, len(self._held)
        return times > 0 and (
            wanted.tokens_in <= times * most.tokens_in
            and wanted.tokens_out <= times * most.tokens_out
            and wanted.cost_nano <= times * most.cost_nano
        )

    async def admit(self, on_loss: str) -> Verdict:
        """Asks for admission. What earlier attempts have used up is settled first, unless one is still under way."""
        if self._held and not self._under_way:
            self.settle()
            await self.gate.batcher.until_settled(_SETTLE_WAIT_S)
        most, reservation = self._most, next(self._reservations)
        ask = Ask(reservation, ANY_MODEL, "", most.tokens_in, most.tokens_out, most.cost_nano, self._lease_ms)
        verdict = await ask_for_admission(self.gate, ask, _RULES, on_loss=on_loss)
        if verdict is WITHOUT_STORE:
            self._held.append((next(self._reservations), LEASED))
        elif verdict.code is Code.ADMITTED:
            self._held.append((reservation, 0))
        return verdict

    def begin(self, model: str) -> None:
        """An attempt goes out."""
        self._under_way.append(model)

    def finish(self, model: str, attempt: Settlement | None) -> None:
        """It has ended; what it used and nobody knows counts in full. None: it never went out."""
        self._under_way.remove(model)
        if attempt is None or attempt.flags & NOT_SENT:
            return
        self._was_sent = True
        self._flags |= attempt.flags & ESTIMATED
        if attempt.cost_nano == UNKNOWN:
            self._used = _plus(self._used, self._needs[model])
        else:
            own = Estimate(attempt.tokens_in, attempt.tokens_out, attempt.cost_nano)
            self._used = _plus(self._used, own)

    def settle(self) -> None:
        """Hands in the sum, or gives back what was never used."""
        used = self._used
        for reservation, leased in self._held:
            if self._was_sent or not leased:  # what was paid in advance was never booked as admitted
                flags = self._flags | leased if self._was_sent else NOT_SENT
                self.gate.batcher.settle(
                    Settlement(
                        reservation,
                        ANY_MODEL,
                        _RULES,
                        Outcome.NEUTRAL,
                        used.tokens_in,
                        used.tokens_out,
                        used.cost_nano,
                        flags=flags,
                    )
                )
                used = _NOTHING
        self._held, self._used = [], _NOTHING
        self._was_sent, self._flags = False, 0


class Walk:
    """A call's way through its gates.

    Args:
        everywhere: gates that every attempt passes.
        of_pools: gates by pool.
        stay: begins a stay at a gate for these targets.
    """

    def __init__(
        self,
        plan: Plan,
        everywhere: Sequence[Gate],
        of_pools: Mapping[str, Gate],
        *,
        stay: Callable[[Gate, list[Target]], Stay],
        now_ms: Callable[[], int],
        on_loss: str,
    ) -> None:
        targets = plan.targets
        self._everywhere = [stay(gate, targets) for gate in everywhere] if targets else []
        self._of_pools = {
            pool: stay(gate, [target for target in targets if target.pool.id == pool])
            for pool, gate in of_pools.items()
        }
        self._closed: dict[str, Verdict] = {}
        self._now_ms = now_ms
        self._on_loss = on_loss

    async def admit(self, target: Target, interrupts: Interrupts, deadline: float) -> Verdict | None:
        """Passes the gates before an attempt; a verdict if the target's pool is closed and another may serve.

        Raises:
            LimitReachedError, BudgetExceededError, StateUnavailableError: a gate refuses the whole call.
            Interrupted: the caller left, or the deadline passed.
        """
        pool = target.pool.id
        if pool in self._closed:
            return self._closed[pool]
        for stay in self._stays(target):
            if stay.covers(target.model.id):
                continue
            interrupts.set_clock(deadline, Cause.DEADLINE)
            with interrupts:
                verdict = await stay.admit(self._on_loss)
            if verdict.code is Code.ADMITTED:
                continue
            if stay is not self._of_pools.get(pool) or _ends_the_call(verdict, target.pool.config):
                raise stay.gate.error(verdict, self._now_ms())
            self._closed[pool] = verdict
            return verdict
        for stay in self._stays(target):
            stay.begin(target.model.id)
        return None

    def leave(self, target: Target, attempt: Settlement | None) -> None:
        """After each `admit` without a verdict: the attempt is over, or its model did not admit it."""
        for stay in self._stays(target):
            stay.finish(target.model.id, attempt)

    def end(self) -> None:
        """Settles at every gate, once."""
        for stay in (*self._everywhere, *self._of_pools.values()):
            stay.settle()

    def _stays(self, target: Target) -> list[Stay]:
        own = self._of_pools.get(target.pool.id)
        return [*self._everywhere, own] if own is not None else self._everywhere


def _ends_the_call(verdict: Verdict, pool: PoolConfig) -> bool:
    """Whether a pool's own refusal is the caller's answer, though another pool might serve."""
    return is_about_money(verdict) and pool.on_budget_exceeded != "rotate"


def check_money(verdict: Verdict, target: Target, now_ms: int) -> None:
    """Where the pool says so, money spent on one candidate ends the call.

    Raises:
        BudgetExceededError: it does.
    """
    if target.pool.config.on_budget_exceeded == "error" and is_about_money(verdict):
        raise BudgetExceededError(
            f"the money of {target.model.id} does not reach ({verdict.name})",
            window=verdict.name,
            retry_after_s=_wait_s(verdict, now_ms),
        )


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
        reservations: Iterator[str],
        now_ms: Callable[[], int],
        on_loss: str,
    ) -> None:
        self._configured = configured
        self._lanes = lanes
        self._of_key = of_key
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
        everywhere = [self._configured[MESH_GATE]] if MESH_GATE in self._configured else []
        if key is not None:
            everywhere.append(self._of_key(key))
            if spends_money(key.limits):
                _drop_unpriced(plan)
        pools = {target.pool.id for target in plan.targets}
        of_pools = {pool: gate for pool in pools if (gate := self._configured.get(pool_gate(pool)))}
        if not (everywhere or of_pools):
            return None
        return Walk(
            plan,
            everywhere,
            of_pools,
            stay=lambda gate, targets: self._stay(plan, gate, targets),
            now_ms=self._now_ms,
            on_loss=self._on_loss,
        )

    def _stay(self, plan: Plan, gate: Gate, targets: list[Target]) -> Stay:
        needs = {
            target.model.id: estimate(
                plan.call, target.model, _smaller(gate.token_room, self._lanes[target.model.id].token_room)
            )
            for target in targets
        }
        longest_s = max(target.pool.config.retry.deadline for target in targets)
        lease_ms = max(self._lanes[model].lease_ms for model in needs) + round(longest_s * 1000)
        return Stay(gate, needs, lease_ms=lease_ms, reservations=self._reservations)


def _drop_unpriced(plan: Plan) -> None:
    """Configured money has its prices checked; a key's money meets whatever is configured now."""
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


def _wait_s(verdict: Verdict, now_ms: int) -> float:
    return max(0.001, (verdict.at_ms - now_ms) / 1000) if verdict.at_ms > 0 else _DEFAULT_WAIT_S


def _plus(one: Estimate, other: Estimate) -> Estimate:
    return Estimate(
        one.tokens_in + other.tokens_in,
        one.tokens_out + other.tokens_out,
        one.cost_nano + other.cost_nano,
    )


def _smaller(one: int | None, other: int | None) -> int | None:
    rooms = [room for room in (one, other) if room is not None]
    return min(rooms, default=None)
