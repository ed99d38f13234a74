"""A recorded decision made again: the very stages and strategies that serve, told what the record says instead of what is true now."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from node.api.surfaces import SURFACES
from node.call import Call, Caps
from node.observe.record import error_name
from node.routing.fitness import TextFacts
from node.routing.needs import Needs
from node.routing.pipeline import Pipeline, Plan
from node.routing.ranking import Facts, Ranker
from node.routing.strategies import Request, Signal, Strategy
from node.routing.web_needs import ALL_NAMES
from node.signals import UNKNOWN
from shared_state.client_keys import ClientKey
from shared_state.config import LimitsConfig
from shared_state.errors import ModelMeshError
from shared_state.shapes.decision import (
    DecisionView,
    DifferenceOfReplay,
    KeyScopeView,
    PlanView,
    RankingView,
    ReplayView,
    TargetView,
)
from shared_state.state import ACTIVE, EntityState
from shared_state.topology import ModelSpec, PoolSpec, Topology

_NANO_PER_USD: Final = 10**9
_BITS: Final = {name: value for value, name in ALL_NAMES.items()}
_ADMITTED: Final = "admitted"


class MissingInputError(Exception):
    """The replay asks for something that the record does not hold."""


class _Clock:
    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms


class _RecordedView:
    """States as the record has them."""

    def __init__(self, topology: Topology, plan: PlanView) -> None:
        self.topology = topology
        self.clock = _Clock(plan.now_ms)
        self.is_complete = asyncio.Event()
        self._states = plan.states

    def model(self, spec: ModelSpec) -> EntityState:
        state = self._states.get(spec.id)
        return EntityState(**state.model) if state else ACTIVE  # type: ignore[arg-type]

    def provider(self, spec: ModelSpec) -> EntityState:
        state = self._states.get(spec.id)
        return EntityState(**state.account) if state else ACTIVE  # type: ignore[arg-type]


class _RecordedHints:
    """Turns, pointers, sessions and signals as the record has them; moves lead nowhere."""

    def __init__(self, rankings: Sequence[RankingView]) -> None:
        self._rankings = {ranking.pool: ranking for ranking in rankings}
        self._signals = {m: Signal(**s) for ranking in rankings for m, s in ranking.signals.items()}
        self.current = {ranking.pool: ranking.current for ranking in rankings}

    def of_pool(self, pool: str, what: str) -> RankingView:
        if pool not in self._rankings:
            raise MissingInputError(f"{what} of pool {pool}")
        return self._rankings[pool]

    async def turn(self, pool: str) -> int:
        return self.of_pool(pool, "turn").turn

    peek = turn

    def point_at(self, pool: str, model: str) -> None:
        pass

    def of(self, model: str) -> Signal:
        return self._signals.get(model, UNKNOWN)


class _RecordedGauge:
    """What scores were told."""

    def __init__(self, plan: PlanView) -> None:
        self._signals = plan.signals

    def of(self, model: str) -> Signal:
        if model not in self._signals:
            raise MissingInputError(f"the signals of {model}")
        return Signal(**self._signals[model])


class _RecordedSessions:
    def __init__(self, hints: _RecordedHints) -> None:
        self._hints = hints

    async def model_of(self, pool: PoolSpec, session: str, wish: str) -> str:
        return self._hints.of_pool(pool.id, "session").held

    peek = model_of

    def move(self, pool: PoolSpec, session: str, *, seen: str, model: str) -> None:
        pass


class _RecordedText(TextFacts):
    """The numbers that the record has in place of the text."""

    def __init__(self, plan: PlanView, session: str) -> None:
        needs = plan.needs.model_dump(exclude={"features"})
        self.needs = Needs(wants=sum(_BITS.get(name, 0) for name in plan.needs.features), **needs)
        self.counted = plan.words
        self.costs = dict(plan.costs)
        self._expected = [ranking.expected for ranking in plan.rankings]
        self._session = session

    def look_beyond(self) -> None:
        """It is among the numbers."""

    def words(self, most: int) -> int:
        if self.counted is None:
            raise MissingInputError("the count of words")
        return self.counted

    def cost_nano(self, model: ModelSpec) -> int:
        if model.id not in self.costs:
            raise MissingInputError(f"what {model.id} may cost")
        return self.costs[model.id]

    def expected(self) -> Request:
        if not self._expected:
            raise MissingInputError("the size of the request")
        seen = self._expected[0]
        return Request(seen.tokens_in, seen.tokens_out, seen.tokens_known, seen.is_stream, self._session)


class Replayer:
    """Replays decisions on one configuration.

    Args:
        strategies: by pool, as the node uses them; they keep nothing between calls.
    """

    def __init__(self, topology: Topology, strategies: Mapping[str, Strategy]) -> None:
        self._topology = topology
        self._strategies = strategies

    async def replay(self, decision: DecisionView) -> ReplayView:
        """The decision again, and where it comes to something else."""
        missing: list[str] = []
        differences: list[DifferenceOfReplay] = []
        targets: list[TargetView] = []
        for plan in decision.plans:
            again = await self._plan(decision, plan, missing)
            differences += [] if again is None else _compare(plan, again)
            targets += [] if again is None else _targets_of(again, plan)
        picked = _pick(targets, decision)
        if not decision.plans:
            missing.append("the plan")
        if not missing and picked != decision.picked:
            differences.append(_difference("pick", decision.picked, picked))
        return ReplayView(
            request_id=decision.request_id,
            same=not (missing or differences),
            recorded=decision.picked,
            replayed=picked,
            config_version=self._topology.version,
            recorded_version=decision.config_version,
            missing=missing,
            differences=differences,
            decision=decision,
        )

    async def _plan(self, decision: DecisionView, recorded: PlanView, missing: list[str]) -> Plan | None:
        """The plan again, finished or refused; None if something is missing."""
        try:
            pipeline = self._pipeline(decision, recorded)
            plan = pipeline.draft(_call(decision), recorded.asked)
        except ModelMeshError:
            missing.append(f"the name {recorded.asked!r}, which means nothing in this configuration")
            return None
        except MissingInputError as error:
            missing.append(str(error))
            return None
        try:
            await pipeline.fill(plan)
        except ModelMeshError:
            return plan
        except MissingInputError as error:
            missing.append(f"{error} (asked for {recorded.asked!r})")
            return None
        return plan

    def _pipeline(self, decision: DecisionView, recorded: PlanView) -> Pipeline:
        view, hints = _RecordedView(self._topology, recorded), _RecordedHints(recorded.rankings)
        facts = Facts(hints, _RecordedSessions(hints), hints)
        draws = _Draws(recorded.draws, "a draw for a recovering model")
        chances = [ranking.draw for ranking in recorded.rankings if ranking.draw is not None]
        ranker = Ranker(self._strategies, view, facts, draw=_Draws(chances, "a draw for the ranking"))
        text = _RecordedText(recorded, decision.session)
        return Pipeline(view, ranker, draw=draws, read=lambda call: text, gauge=_RecordedGauge(recorded))


class _Draws:
    """Recorded chance, in the order in which it was asked for."""

    def __init__(self, numbers: Sequence[float], what: str) -> None:
        self._numbers = deque(numbers)
        self._what = what

    def __call__(self) -> float:
        if not self._numbers:
            raise MissingInputError(self._what)
        return self._numbers.popleft()


def _call(decision: DecisionView) -> Call:
    """A call that has everything but its text."""
    surface = next((surface for surface in SURFACES if surface.name == decision.api), None)
    if surface is None:
        raise MissingInputError(f"the API {decision.api!r}, which this release does not know")
    mark, value = surface.stream_mark
    fields: dict[str, Any] = {"model": decision.asked, mark: value if decision.is_stream else None}
    return Call(
        surface=surface,
        request_id=decision.request_id,
        fields=fields,
        body_bytes=0,
        started=0.0,
        provider=decision.provider,
        caps=_caps(decision),
        key=_key(decision.key) if decision.key else None,
        session=decision.session,
    )


def _key(scope: KeyScopeView) -> ClientKey:
    """All of a client key that routing looks at."""
    return ClientKey(
        id=scope.id, name="", created=0.0, expires=None, models=tuple(scope.models), limits=LimitsConfig()
    )


def _caps(decision: DecisionView) -> Caps | None:
    caps = decision.caps
    if caps is None:
        return None
    most = caps.max_price_usd
    return Caps(
        max_price_nano=None if most is None else round(most * _NANO_PER_USD),
        providers=frozenset(caps.providers),
        regions=frozenset(caps.regions),
    )


def _compare(recorded: PlanView, again: Plan) -> list[DifferenceOfReplay]:
    """Rankings, targets and error, one after the other."""
    found = [
        ("error", recorded.error or "", error_name(again.error) if again.error else ""),
        *(
            (f"ranking of {old.pool}", " > ".join(old.order), " > ".join(model.id for model in new.order))
            for old, new in zip(recorded.rankings, again.rankings, strict=False)
        ),
        ("rankings", str(len(recorded.rankings)), str(len(again.rankings))),
        ("targets", _chain(recorded.targets), _chain(_targets_of(again, recorded))),
    ]
    return [_difference(what, old, new) for what, old, new in found if old != new]


def _targets_of(again: Plan, recorded: PlanView) -> list[TargetView]:
    """The targets; those that the money of the caller's key could not be charged with were left out afterwards."""
    unpriced = {
        skip.model for stage in recorded.stages for skip in stage.skipped if skip.reason == "unpriced"
    }
    return [
        TargetView(model=target.model.id, pool=target.pool.id, provider=target.model.provider)
        for target in again.targets
        if target.model.id not in unpriced
    ]


def _chain(targets: Sequence[TargetView]) -> str:
    return " > ".join(f"{target.model} ({target.pool})" for target in targets)


def _pick(targets: Sequence[TargetView], decision: DecisionView) -> str | None:
    """The first target that admitted the call, by what admission said to each."""
    admitted = {(step.model, step.pool) for step in decision.steps if step.verdict == _ADMITTED}
    return next((target.model for target in targets if (target.model, target.pool) in admitted), None)


def _difference(what: str, recorded: str | None, replayed: str | None) -> DifferenceOfReplay:
    return DifferenceOfReplay(what=what, recorded=recorded or "nobody", replayed=replayed or "nobody")
