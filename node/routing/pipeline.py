"""The way from a name to ranked candidates: named stages in order, each a function of what the one before left.

    CapabilityResolver   what the name means: pools, most specific first
    PoolSelection        the pools that have members for this kind of call
    DeliveryFilter       drops models that cannot deliver in the asked mode
    NeedsFilter          drops models that cannot do what the request needs, or break the caller's caps
    StateFilter          drops models that are on standby, or whose provider is
    Scoring              orders the members of dynamic pools by their score, and drops those that have none
    SelectionStrategy    ranks the rest; the rest of the ranking is the fallback chain

RetryPolicy, the sixth, judges errors while the call is carried out (``retry.py``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.call import Call, Fallback, Target, Trail
from node.routing.access import resolve_for
from node.routing.fitness import Members, TextFacts
from node.routing.panic import Ward, let_in, patient_of
from node.routing.prospects import Prospect, Prospects
from node.routing.ranking import Ranked, Ranker, Spare
from node.routing.scoring import signal_facts
from node.routing.sources import Gauge, View
from node.signals import Signal
from shared_state.entries import How
from shared_state.errors import ContextLengthError, ModelMeshError, ModelNotFoundError, RequestError
from shared_state.expressions import Facts
from shared_state.rotation.maintenance import Calendars
from shared_state.state import LIMITS, EntityState, Mode, Reason, Status
from shared_state.topology import ModelSpec, PoolSpec, Resolution

_NO_SPARE: Final = Spare()

#: The stages between the name and the ranking.
STAGES: Final = ("PoolSelection", "DeliveryFilter", "NeedsFilter", "StateFilter", "Scoring")


@dataclass(slots=True)
class Plan:
    """A call's way through the stages.

    Attributes:
        prospect: who may serve by the configuration alone.
        members: candidates that are left, by pool.
        skipped: model -> why it is no candidate.
        let_in: models that are on standby for their health and take part all the same.
        last: the same where nobody of their pool is well; they come last of all.
        reserve: models that recover and whose share of the traffic is used up for this draw; tried last.
        on_admitted: told once a target has admitted the call.
        opens_ms: the earliest server time at which a model on standby could serve; 0 if unknown.
        fallback: why the targets are others than those that the name stands for.
        within_s: the deadline that a fallback keeps: that of the pool which it stands in for.

    The rest is for the record: what came in, so that the same stages lead to the same targets again.

    Attributes:
        left: what each stage has left, in their order; fewer than there are stages if one of them refused the call.
        states: model -> state of the model and of its account, as seen at ``now_ms``.
        draws: numbers that decided whether recovering models take part.
        signals: model -> how it does over the cluster, where a score asked.
        rankings: of each pool.
        further: plans for names that a fallback led to.
        error: what ended the plan.
    """

    call: Call
    resolution: Resolution
    prospect: Prospect
    text: TextFacts
    now_ms: int
    kind: Fallback | None = None
    left: list[Members] = field(default_factory=list)
    states: dict[ModelSpec, tuple[EntityState, EntityState]] = field(default_factory=dict)
    draws: list[float] = field(default_factory=list)
    signals: Mapping[str, Signal] | None = None
    rankings: list[Ranked] = field(default_factory=list)
    further: list[Plan] = field(default_factory=list)
    error: ModelMeshError | None = None
    members: Members = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    trials: list[Target] = field(default_factory=list)
    let_in: set[ModelSpec] = field(default_factory=set)
    last: list[Target] = field(default_factory=list)
    reserve: list[Target] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    on_admitted: Callable[[], None] | None = None
    opens_ms: int = 0
    only_rate_limits: bool = True
    fallback: Fallback | None = None
    within_s: float = math.inf

    def take_over(self, other: Plan) -> None:
        """What another plan has learned of models that cannot serve now."""
        self.skipped.update(other.skipped)
        self.only_rate_limits = self.only_rate_limits and other.only_rate_limits
        times = [opens_ms for opens_ms in (self.opens_ms, other.opens_ms) if opens_ms]
        self.opens_ms = min(times, default=0)


class Pipeline:
    """Plans calls against the snapshot.

    Args:
        draw: uniform numbers in [0, 1): decides whether a recovering model takes part.
        read: what the stages know of a call's text.
        gauge: where scores hear how models do; as a rule from where rankings do.
    """

    def __init__(
        self,
        snapshot: View,
        ranker: Ranker,
        *,
        draw: Callable[[], float] = random.random,
        read: Callable[[Call], TextFacts] = TextFacts,
        gauge: Gauge | None = None,
    ) -> None:
        self._snapshot = snapshot
        self.ranker = ranker
        self._draw = draw
        self._read = read
        self._gauge = gauge or ranker.signals
        self._prospects = Prospects(snapshot.topology)
        self._calendars = Calendars(snapshot.topology)
        stages = (
            self._select_pools,
            self._filter_delivery,
            self._filter_needs,
            self._filter_state,
            self._score,
        )
        self.stages: list[tuple[str, Callable[[Plan], None]]] = list(zip(STAGES, stages, strict=True))

    @property
    def is_ready(self) -> bool:
        """Whether the snapshot was read once."""
        return self._snapshot.is_complete.is_set()

    def is_open(self, model: ModelSpec) -> bool:
        """Whether the model takes traffic, as far as this node has seen."""
        now_ms = self._snapshot.clock.now_ms()
        return all(
            state.is_open(now_ms) for state in (self._snapshot.model(model), self._snapshot.provider(model))
        )

    async def plan(self, call: Call, trail: Trail | None = None) -> Plan:
        """Ranked targets for a call; may be empty if everything is on standby.

        Args:
            trail: is told the plan before it is made, and so knows also one that comes to nothing.

        Raises:
            ModelNotFoundError: the name means nothing, or nothing that this API can use.
            ModelNotAllowedError: it means nothing that the client key may use.
            RequestError: no model can deliver in the asked mode, or do what the request needs.
        """
        plan = self.draft(call, call.name)
        if trail is not None:
            trail.plan = plan
        try:
            await self.fill(plan)
        except ContextLengthError:
            for pool in plan.resolution.pools:
                plan.targets = await self.fall_back(plan, pool, Fallback.CONTEXT_WINDOW)
                if plan.targets:
                    return plan
            raise
        return plan

    def _resolve(self, call: Call, name: str) -> Resolution:
        """What a name means to the caller: that of the call, or one of a fallback."""
        topology = self._snapshot.topology
        if call.is_probe:
            return topology.exactly(topology.models[name])
        return topology.resolve(name) if call.key is None else resolve_for(call.key, topology, name)

    def draft(self, call: Call, name: str) -> Plan:
        """A plan for what a name means, to be filled.

        Raises:
            ModelNotFoundError: the name means nothing.
        """
        if self._prospects.topology is not self._snapshot.topology:
            self._prospects = Prospects(self._snapshot.topology)
        resolution = self._resolve(call, name)
        prospect = self._prospects.of(call, resolution)
        return Plan(call, resolution, prospect, self._read(call), self._snapshot.clock.now_ms())

    async def fill(self, plan: Plan) -> None:
        """Takes a plan through the stages."""
        try:
            for _, stage in self.stages:
                stage(plan)
                plan.left.append(plan.members)
            await self._rank(plan)
        except ModelMeshError as error:
            plan.error = error
            raise

    async def fall_back(self, plan: Plan, pool: PoolSpec, kind: Fallback) -> list[Target]:
        """Targets of a pool's fallback list, in its order; a name that nobody fit stands behind is passed over."""
        if plan.resolution.is_exact:
            return []
        targets: list[Target] = []
        for name in getattr(pool.config.fallbacks, kind):
            try:
                further = self.draft(plan.call, name)
                further.kind = kind
                plan.further.append(further)
                await self.fill(further)
            except RequestError:
                continue
            targets += further.targets
            plan.take_over(further)
        if targets and plan.fallback is None:
            plan.within_s = pool.config.retry.deadline
        if targets:
            plan.fallback = kind
        return targets

    def _select_pools(self, plan: Plan) -> None:
        plan.members = plan.prospect.serving
        if not plan.members:
            api = plan.call.surface.name
            raise ModelNotFoundError(f"no model of {plan.call.name!r} serves the {api} API", param="model")

    def _filter_delivery(self, plan: Plan) -> None:
        plan.members = plan.prospect.delivering
        if not plan.prospect.is_deliverable:
            mode = "streaming" if plan.call.is_stream else "synchronous"
            raise RequestError(
                f"no model of {plan.call.name!r} supports {mode} delivery",
                param="stream",
                code="unsupported_delivery",
            )

    def _filter_needs(self, plan: Plan) -> None:
        plan.members = self._prospects.fitness.sift(
            plan.call, plan.members, plan.skipped, plan.text, plan.prospect.floor
        )

    def _filter_state(self, plan: Plan) -> None:
        if self._calendars.topology is not self._snapshot.topology:
            self._calendars = Calendars(self._snapshot.topology)
        kept: Members = []
        for pool, members in plan.members:
            ward = Ward()
            active = [model for model in members if self._is_candidate(plan, pool, model, ward)]
            kept.append((pool, _with_patients(plan, pool, active, members, ward)))
        plan.members = kept

    def _is_candidate(self, plan: Plan, pool: PoolSpec, model: ModelSpec, ward: Ward) -> bool:
        """Whether the model takes part in the ranking; trials, spent shares and patients are kept aside."""
        state, provider = self._snapshot.model(model), self._snapshot.provider(model)
        plan.states[model], now_ms = (state, provider), plan.now_ms
        if state.is_plain and provider.is_plain and model.id not in self._calendars.of_models:
            ward.well += 1
            return True
        if closed := _closed(plan.call, provider, state, now_ms):
            if _must_be_told(pool, closed[0]):
                return True
            _note_standby(plan, model, closed[0])
            patient = patient_of(model, closed, now_ms)
            if patient is not None and self._calendars.rest_of(model.id, state, now_ms) is None:
                ward.patients.append(patient)
            return False
        resting = self._calendars.rest_of(model.id, state, now_ms)
        if resting is not None:
            _note_standby(plan, model, resting)
            return False
        if state.needs_trial(now_ms) or provider.needs_trial(now_ms):
            plan.trials.append(Target(model, pool, plan.call.how))
            ward.due += 1
            return False
        ward.well += 1
        ramp = pool.config.recovery.ramp
        if state.phase == "ramp" and state.step < len(ramp) and not plan.call.is_probe:
            draw = self._draw()
            plan.draws.append(draw)
            if draw >= ramp[state.step]:
                plan.reserve.append(Target(model, pool))
                return False
        return True

    def _score(self, plan: Plan) -> None:
        """Scores of the configuration alone have ordered the pool when it was built; a trial is due whatever the score."""
        if not plan.prospect.is_scored:
            return
        plan.members = list(plan.members)
        for place, (pool, members) in enumerate(plan.members):
            if pool.score is None or not pool.score.live:
                continue
            if pool.score.needs_signals:
                self._gauge_models(plan, members)
            ranked = pool.score.rank([(model.id, self._live_facts(plan, model)) for model in members])
            known = {model.id: model for model in members}
            plan.members[place] = (pool, [known[name] for name in ranked])
            if len(ranked) < len(members):
                plan.skipped.update(dict.fromkeys(known.keys() - set(ranked), "score"))
                plan.only_rate_limits = False

    def _gauge_models(self, plan: Plan, members: Sequence[ModelSpec]) -> None:
        """Each model once: the record of the plan has one answer for all pools that score it."""
        known = plan.signals or {}
        gauged = {model.id: self._gauge.of(model.id) for model in members if model.id not in known}
        plan.signals = {**known, **gauged}

    def _live_facts(self, plan: Plan, model: ModelSpec) -> Facts:
        state, provider, now_ms = self._snapshot.model(model), self._snapshot.provider(model), plan.now_ms
        facts: Facts = {
            "active": state.is_open(now_ms) and provider.is_open(now_ms),
            "recovering": state.phase == "ramp",
        }
        signal = plan.signals.get(model.id) if plan.signals else None
        return facts if signal is None else {**facts, **signal_facts(signal)}

    async def _rank(self, plan: Plan) -> None:
        """A trial goes first, for the one request that gets it; a model that recovers with its share spent goes last."""
        ranked: list[Target] = []
        for pool, members in plan.members:
            if plan.resolution.is_exact:  # the caller has chosen
                ranked += [Target(model, pool, plan.call.how) for model in members]
                continue
            spare = _NO_SPARE
            if plan.reserve or plan.trials:
                spare = Spare(_of(pool, plan.reserve), _of(pool, plan.trials))
            order, is_exclusive = await self.ranker.rank(
                pool, members, plan.call, plan.text.expected(), spare=spare, notes=plan.rankings
            )
            if is_exclusive or spare is not _NO_SPARE or len(order) < len(members):
                _leave_out(plan, pool, [model for model in members if model not in order], is_exclusive)
            let_in = plan.let_in
            ranked += [Target(model, pool, How.DESPITE if model in let_in else How.NORMAL) for model in order]
        ranked = self._prospects.fitness.roomy_first(
            _prefer(plan.call.provider, ranked), plan.text.needs, plan.prospect.floor
        )
        if plan.reserve:
            chosen = {target.model.id for target in ranked}
            plan.reserve = [target for target in plan.reserve if target.model.id not in chosen]
        plan.targets = [*plan.trials, *ranked, *plan.reserve, *plan.last]


def _closed(call: Call, provider: EntityState, state: EntityState, now_ms: int) -> list[EntityState]:
    """Which of the two keeps the call away."""
    if provider.status == state.status == Status.ACTIVE:
        return []
    is_open = EntityState.is_probable if call.is_probe else EntityState.is_open
    return [entity for entity in (provider, state) if not is_open(entity, now_ms)]


def _must_be_told(pool: PoolSpec, entity: EntityState) -> bool:
    """Whether spent money ends the call: then the model is asked for all the same, and its refusal is the answer."""
    return entity.reason == Reason.BUDGET_EXCEEDED and pool.config.on_budget_exceeded == "error"


def _with_patients(
    plan: Plan, pool: PoolSpec, active: list[ModelSpec], members: Sequence[ModelSpec], ward: Ward
) -> list[ModelSpec]:
    """The candidates together with those that are let in; where nobody is well these are kept for the end."""
    if not ward.patients or plan.resolution.is_exact or len(pool.models) < 2:
        return active
    chosen = let_in(pool.config.deactivation, ward)
    if ward.well == 0:
        plan.last += [Target(model, pool, How.DESPITE) for model in chosen]
        return active
    plan.let_in.update(chosen)
    return [model for model in members if model in active or model in chosen]


def _note_standby(plan: Plan, model: ModelSpec, entity: EntityState) -> None:
    plan.skipped[model.id] = entity.reason or "standby"
    if entity.reason not in LIMITS or entity.mode == Mode.MANUAL:
        plan.only_rate_limits = False
    opens_ms = max(entity.until_ms, entity.trial_until_ms if entity.phase == "trial" else 0)
    if opens_ms and (not plan.opens_ms or opens_ms < plan.opens_ms):
        plan.opens_ms = opens_ms


def _prefer(provider: str | None, ranked: list[Target]) -> list[Target]:
    if provider is None:
        return ranked
    return sorted(ranked, key=lambda target: target.model.provider != provider)


def _of(pool: PoolSpec, targets: list[Target]) -> list[ModelSpec]:
    return [target.model for target in targets if target.pool is pool]


def _leave_out(plan: Plan, pool: PoolSpec, models: list[ModelSpec], is_exclusive: bool) -> None:
    """What the strategy does not want is not tried; one that allows a single model wants no recovering ones either."""
    if models and LIMITS.isdisjoint(plan.skipped.values()):
        plan.only_rate_limits = False
    plan.skipped.update((model.id, "strategy") for model in models)
    if is_exclusive:
        plan.trials = [target for target in plan.trials if target.pool is not pool]
        plan.reserve = [target for target in plan.reserve if target.pool is not pool]
        plan.last = [target for target in plan.last if target.pool is not pool]
