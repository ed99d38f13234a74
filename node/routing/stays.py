"""A gate of this node, and a call's stay there: one reservation in, the sum of its attempts out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from node.batch import DomainBatcher
from node.leases import Allowance
from node.routing.admission import WITHOUT_STORE, ask_for_admission
from node.routing.estimate import Estimate
from node.watch import StoreWatch
from shared_state.config import LimitsConfig, PoolConfig
from shared_state.errors import (
    BudgetExceededError,
    LimitReachedError,
    ModelMeshError,
    StateUnavailableError,
)
from shared_state.gates import ANY_MODEL, DomainKind, kind_of
from shared_state.ledger import ESTIMATED, LEASED, NOT_SENT, UNKNOWN, Ask, Code, Outcome, Settlement, Verdict
from shared_state.state import Reason
from shared_state.topology import ModelSpec

NOTHING: Final = Estimate(0, 0, 0)
#: A gate has no health: nothing that happens behind it is held against it.
_RULES: Final = PoolConfig()
_SETTLE_WAIT_S: Final = 0.1
#: A delay between admission and sending that is worth a note.
_DELAY_MS: Final = 100
_DEFAULT_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of this node.

    Attributes:
        allowance: what may pass without Redis.
        token_room: its smallest token window, None without any.
        output_room: the same of the windows of output tokens.
    """

    id: str
    limits: LimitsConfig
    batcher: DomainBatcher
    allowance: Allowance
    token_room: int | None
    output_room: int | None
    is_limited: bool

    def error(self, verdict: Verdict, now_ms: int) -> ModelMeshError:
        """What a refusal means to the caller."""
        pause_s = wait_s(verdict, now_ms)
        if verdict.code in (Code.STORE_AWAY, Code.HELD):
            return StateUnavailableError(
                "the shared state is away and no allowance is left; limits are kept", retry_after_s=pause_s
            )
        if is_about_money(verdict):
            return BudgetExceededError(
                f"the money of {self._label} does not reach ({verdict.name})",
                window=verdict.name,
                retry_after_s=pause_s,
            )
        if verdict.code is Code.TOO_LARGE:
            return LimitReachedError(
                f"the request needs more than {self._label} ever allows ({verdict.name})",
                code="request_too_large_for_limit",
                retry_after_s=pause_s,
            )
        return LimitReachedError(f"{self._label} is at a limit ({verdict.name})", retry_after_s=pause_s)

    @property
    def _label(self) -> str:
        kind, name = kind_of(self.id), self.id.partition(":")[2]
        if kind is DomainKind.MESH:
            return "the whole mesh"
        return f"client key {name}" if kind is DomainKind.KEY else f"pool {name!r}"


def is_about_money(verdict: Verdict) -> bool:
    """Whether a window of money refused."""
    return verdict.name.startswith("usd_") or verdict.name == Reason.BUDGET_EXCEEDED


@dataclass(frozen=True, slots=True)
class _Held:
    """A reservation at a gate.

    Attributes:
        asked: the id that it was asked for under; out of a lease it is booked under another.
        flags: of its settlement.
    """

    asked: str
    reservation: str
    flags: int
    most: Estimate
    since: float


class Stay:
    """A call at one gate: what it holds there, what its attempts have used and what those under way may use.

    Args:
        need_of: what an attempt on a model may use.
        most: most that any candidate may need, as far as they are known.
        watch: whether Redis answers.
    """

    def __init__(
        self,
        gate: Gate,
        need_of: Callable[[ModelSpec], Estimate],
        most: Estimate,
        *,
        lease_ms: int,
        reservations: Iterator[str],
        watch: StoreWatch,
    ) -> None:
        self.gate = gate
        self._need_of = need_of
        self._most = most
        self._lease_ms = lease_ms
        self._reservations = reservations
        self._watch = watch
        self._now = asyncio.get_running_loop().time
        self._held: list[_Held] = []
        self._used = NOTHING
        self._under_way: list[ModelSpec] = []
        self._began = 0.0
        self._was_sent = False
        self._flags = 0

    def covers(self, model: ModelSpec) -> bool:
        """Whether what is held reaches for one more attempt, on this model."""
        wanted = self._used
        for other in (*self._under_way, model):
            wanted = _plus(wanted, self._need_of(other))
        reach = NOTHING
        for held in self._held:
            reach = _plus(reach, held.most)
        return bool(self._held) and (
            wanted.tokens_in <= reach.tokens_in
            and wanted.tokens_out <= reach.tokens_out
            and wanted.cost_nano <= reach.cost_nano
        )

    def beside(self) -> Stay:
        """A stay of its own at the same gate, for an attempt beside those of this one."""
        return Stay(
            self.gate,
            self._need_of,
            NOTHING,
            lease_ms=self._lease_ms,
            reservations=self._reservations,
            watch=self._watch,
        )

    async def admit(self, model: ModelSpec, on_loss: str, *, may_wait: bool = True) -> Verdict:
        """Asks for admission. What earlier attempts have used up is settled first, unless one is still under way."""
        if self._held and not self._under_way:
            self.settle()
            await self.gate.batcher.until_settled(_SETTLE_WAIT_S)
        # A candidate that joined the plan later may need more.
        most, asked, since = larger(self._most, self._need_of(model)), next(self._reservations), self._now()
        ask = Ask(asked, ANY_MODEL, "", most.tokens_in, most.tokens_out, most.cost_nano, self._lease_ms)
        verdict = await ask_for_admission(self.gate, ask, _RULES, watch=self._watch, on_loss=on_loss)
        if verdict.code is Code.HELD and may_wait:
            await self._watch.until_open()
            verdict = await ask_for_admission(self.gate, ask, _RULES, watch=self._watch, on_loss=on_loss)
        if verdict is WITHOUT_STORE:
            self._held.append(_Held(asked, next(self._reservations), LEASED, most, since))
        elif verdict.code is Code.ADMITTED:
            self._held.append(_Held(asked, asked, 0, most, since))
        return verdict

    def begin(self, model: ModelSpec) -> None:
        """An attempt goes out."""
        self._under_way.append(model)
        self._began = self._now()

    def finish(self, model: ModelSpec, attempt: Settlement | None) -> None:
        """It has ended; what it used and nobody knows counts in full. None: it never went out."""
        self._under_way.remove(model)
        if attempt is None or attempt.flags & NOT_SENT:
            return
        self._was_sent = True
        self._flags |= attempt.flags & ESTIMATED
        if attempt.cost_nano == UNKNOWN:
            self._used = _plus(self._used, self._need_of(model))
        else:
            own = Estimate(attempt.tokens_in, attempt.tokens_out, attempt.cost_nano)
            self._used = _plus(self._used, own)

    def settle(self) -> None:
        """Hands in the sum, or gives back what was never used."""
        used = self._used
        for held in self._held:
            self.gate.allowance.end(held.asked)
            if self._was_sent or not held.flags:  # what was paid in advance was never booked as admitted
                self.gate.batcher.settle(self._settlement(held, used))
                used = NOTHING
        self._held, self._used = [], NOTHING
        self._was_sent, self._flags = False, 0

    def _settlement(self, held: _Held, used: Estimate) -> Settlement:
        delay_ms = round((self._began - held.since) * 1000)
        return Settlement(
            held.reservation,
            ANY_MODEL,
            _RULES,
            Outcome.NEUTRAL,
            used.tokens_in,
            used.tokens_out,
            used.cost_nano,
            flags=self._flags | held.flags if self._was_sent else NOT_SENT,
            # A call that went out late counts from then on.
            dispatch_delay_ms=delay_ms if delay_ms >= _DELAY_MS else 0,
        )


def wait_s(verdict: Verdict, now_ms: int) -> float:
    """Seconds until a refusal could turn out otherwise."""
    return max(0.001, (verdict.at_ms - now_ms) / 1000) if verdict.at_ms > 0 else _DEFAULT_WAIT_S


def larger(one: Estimate, other: Estimate) -> Estimate:
    """The most of both, amount by amount."""
    return Estimate(
        max(one.tokens_in, other.tokens_in),
        max(one.tokens_out, other.tokens_out),
        max(one.cost_nano, other.cost_nano),
    )


def _plus(one: Estimate, other: Estimate) -> Estimate:
    return Estimate(
        one.tokens_in + other.tokens_in,
        one.tokens_out + other.tokens_out,
        one.cost_nano + other.cost_nano,
    )
