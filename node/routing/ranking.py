"""SelectionStrategy, the stage: gathers what a pool's strategy needs, has it rank, and hands on what the ranking moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from node.call import Call
from node.routing.sources import Belonging, Gauge, LookingPointers, LookingSessions, Pointers, View
from node.routing.strategies import Hints, Need, Request, Signal, Strategy, build_strategy
from node.routing.strategies.rate_limit_aware import RateLimitAware, away_from_limits
from shared_state.config.strategies import RateLimitConfig
from shared_state.errors import SessionModelUnavailableError
from shared_state.topology import ModelSpec, PoolSpec

_NO_SIGNALS: Final[Mapping[str, Signal]] = {}


@dataclass(frozen=True, slots=True)
class Facts:
    """Where hints come from."""

    cursors: Pointers
    sessions: Belonging
    signals: Gauge


class Ranked(NamedTuple):
    """One ranking as it came about: all that the strategy was told, and what it answered.

    Attributes:
        was_drawn: whether the hints' draw was taken; without a choice none is.
    """

    pool: PoolSpec
    members: Sequence[ModelSpec]
    request: Request
    hints: Hints
    was_drawn: bool
    order: Sequence[ModelSpec]
    is_exclusive: bool


class Spare(NamedTuple):
    """Models of a pool that recover: active with a share of the traffic that is used up, or due for their one trial."""

    ramping: Sequence[ModelSpec] = ()
    on_trial: Sequence[ModelSpec] = ()


_NO_SPARE: Final = Spare()


class Ranking(NamedTuple):
    """Candidates, best first, and whether nothing else may be tried."""

    order: list[ModelSpec]
    is_exclusive: bool


class Ranker:
    """Ranks the candidates of a pool.

    Args:
        strategies: by pool; those of pools that only a request's name implies are made when they are met.
        draw: uniform numbers in [0, 1).
    """

    def __init__(
        self,
        strategies: Mapping[str, Strategy],
        snapshot: View,
        facts: Facts,
        *,
        draw: Callable[[], float],
    ) -> None:
        self._strategies = dict(strategies)
        self._snapshot = snapshot
        self._facts = facts
        self._draw = draw

    @property
    def strategies(self) -> Mapping[str, Strategy]:
        """By pool; those of implied pools that were met are among them."""
        return self._strategies

    @property
    def signals(self) -> Gauge:
        """How models do over the cluster."""
        return self._facts.signals

    def looking(self) -> Ranker:
        """The same, for one who only wants to see: it moves nothing."""
        facts = Facts(
            LookingPointers(self._facts.cursors), LookingSessions(self._facts.sessions), self._facts.signals
        )
        return Ranker(self._strategies, self._snapshot, facts, draw=self._draw)

    async def rank(
        self,
        pool: PoolSpec,
        members: Sequence[ModelSpec],
        call: Call,
        request: Request,
        *,
        spare: Spare = _NO_SPARE,
        notes: list[Ranked] | None = None,
    ) -> Ranking:
        """Candidates of a pool, best first.

        Args:
            members: candidates in pool order.
            request: what the call will probably use.
            spare: models that recover; a session that belongs to one may still use it.
            notes: where the ranking is written down, also one that comes to nothing.

        Raises:
            SessionModelUnavailableError: the session may use one model only, and that is on standby.
        """
        strategy = self._strategies.get(pool.id)
        if strategy is None:
            strategy = self._strategies[pool.id] = build_strategy(pool.config)
        was_drawn = len(members) > 1
        hints = await self._hints(pool, strategy, members)
        if Need.SESSION in strategy.needs and call.session:
            fit = members or spare.ramping or spare.on_trial
            hints = await self._with_session(pool, strategy, fit, request, hints)
        is_exclusive = bool(hints.held) and pool.config.affinity_mode == "strict"
        returning = [*spare.ramping, *spare.on_trial] if is_exclusive else spare.ramping
        if returning:
            members = [*members, *(spec for spec in returning if spec.id == hints.held)]
        order = strategy.rank(members, request, hints)
        if notes is not None:
            notes.append(Ranked(pool, members, request, hints, was_drawn, order, is_exclusive))
        if is_exclusive and not order:
            raise SessionModelUnavailableError(f"the session's model {hints.held} is on standby")
        self._follow(pool, strategy, members, call, order, hints)
        rules = limit_rules(pool)
        if rules and rules.action == "switch_model" and not isinstance(strategy, RateLimitAware):
            order = away_from_limits(order, rules, hints)
        return Ranking(order, is_exclusive)

    def hints_of(self, pool: PoolSpec) -> Hints:
        """What is known of a pool's members without asking anybody."""
        return Hints(pool.models, signals={spec.id: self._facts.signals.of(spec.id) for spec in pool.models})

    async def _hints(self, pool: PoolSpec, strategy: Strategy, members: Sequence[ModelSpec]) -> Hints:
        is_choice, needs = len(members) > 1, strategy.needs
        has_signals = is_choice and wants_signals(pool, strategy)
        return Hints(
            pool.models,
            turn=await self._facts.cursors.turn(pool.id) if Need.TURN in needs and is_choice else 0,
            current=self._facts.cursors.current.get(pool.id, ""),
            signals={spec.id: self._facts.signals.of(spec.id) for spec in members}
            if has_signals
            else _NO_SIGNALS,
            draw=self._draw() if is_choice else 0.0,
        )

    async def _with_session(
        self,
        pool: PoolSpec,
        strategy: Strategy,
        members: Sequence[ModelSpec],
        request: Request,
        hints: Hints,
    ) -> Hints:
        """The hints with the session's model; a new session gets the one that would be chosen for it now."""
        wish = strategy.rank(members, request, hints)
        if not wish:
            return hints
        held = await self._facts.sessions.model_of(pool, request.session, wish[0].id)
        return hints._replace(held=held)

    def _follow(
        self,
        pool: PoolSpec,
        strategy: Strategy,
        members: Sequence[ModelSpec],
        call: Call,
        order: Sequence[ModelSpec],
        hints: Hints,
    ) -> None:
        """Pointer and session follow the first of the ranking."""
        if not order:
            return
        best = order[0].id
        if Need.POINTER in strategy.needs and hints.current != best and self._is_gone(pool, hints.current):
            self._facts.cursors.point_at(pool.id, best)
        if hints.held and hints.held != best:
            was_passed_over = any(spec.id == hints.held for spec in members)
            if was_passed_over or self._is_gone(pool, hints.held):
                self._facts.sessions.move(pool, call.session, seen=hints.held, model=best)

    def _is_gone(self, pool: PoolSpec, model: str) -> bool:
        """Whether a model is no member any more or on standby; not when it was merely left out of this draw."""
        spec = self._snapshot.topology.models.get(model)
        if spec is None or spec not in pool.models:
            return True
        return not (
            self._snapshot.model(spec).status == "active" and self._snapshot.provider(spec).status == "active"
        )


def reads_signals(pool: PoolSpec, strategy: Strategy) -> bool:
    """Whether somebody has to read the signals of a pool's models."""
    return wants_signals(pool, strategy) or (pool.score is not None and pool.score.needs_signals)


def wants_signals(pool: PoolSpec, strategy: Strategy) -> bool:
    """Whether the ranking goes by signals."""
    return Need.SIGNALS in strategy.needs or pool.config.rate_limit is not None


def limit_rules(pool: PoolSpec) -> RateLimitConfig | None:
    """How a pool keeps away from limits; None if it does not."""
    if pool.config.rate_limit is None and pool.strategy == RateLimitAware.id:
        return RateLimitConfig()
    return pool.config.rate_limit
