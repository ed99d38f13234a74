"""A decision as plain data, in the shape of ``DecisionView``: numbers, names and states, never the text of a request."""

from __future__ import annotations

import time
from dataclasses import asdict, fields
from typing import Any, Final

from node.call import Call, Caps, Step, Target, Trail
from node.routing.fitness import Members
from node.routing.needs import Needs
from node.routing.pipeline import STAGES, Plan
from node.routing.ranking import Ranked
from node.routing.strategies import Signal
from node.routing.web_needs import ALL_NAMES
from shared_state.entries import How
from shared_state.errors import ModelMeshError
from shared_state.ledger import UNKNOWN, Code
from shared_state.sessions import session_digest
from shared_state.state import ACTIVE, EntityState
from shared_state.topology import ModelSpec

Record = dict[str, Any]

_NANO_PER_USD: Final = 10**9
#: What a stage that notes no reason of its own looks at.
_LACKING: Final = {"PoolSelection": "capability", "DeliveryFilter": "delivery"}
_LONGEST_CODE: Final = 100
_ORDINARY: Final = {field.name: getattr(ACTIVE, field.name) for field in fields(EntityState)}


def record_of(
    call: Call,
    trail: Trail,
    *,
    node: str,
    version: str,
    number: int = 0,
    status: int,
    outcome: str,
    ended: float,
) -> Record:
    """The record of a finished request; ``ended`` is loop time."""
    plan: Plan | None = trail.plan
    steps = trail.steps
    return {
        "request_id": call.request_id,
        "node": node,
        "time": round(time.time(), 3),
        "config_version": version,
        "config_number": number,
        **_asked(call),
        "outcome": outcome[:_LONGEST_CODE],
        "status": status,
        "mode": trail.mode,
        "ms": _ms(call.started, ended),
        "picked": next((step.target.model.id for step in steps if step.verdict.code is Code.ADMITTED), None),
        "served": steps[-1].target.model.id if steps and outcome == "ok" else None,
        "plans": plans_of(plan) if plan else [],
        "steps": steps_of(trail, call),
    }


def error_name(error: ModelMeshError) -> str:
    """What an error is called in a record: providers make up codes, and no message is kept, for it may quote the request."""
    return (error.code or type(error).__name__)[:_LONGEST_CODE]


def plans_of(plan: Plan) -> list[Record]:
    """A plan, and those that its fallbacks led to."""
    return [_plan(one) for one in (plan, *plan.further)]


def steps_of(trail: Trail, call: Call) -> list[Record]:
    """Every target that was turned to, and how that ended."""
    return [_step(step, call) for step in trail.steps]


def _asked(call: Call) -> Record:
    return {
        "api": call.surface.name,
        "asked": call.name,
        "is_stream": call.is_stream,
        "session": session_digest(call.session),
        "provider": call.provider,
        "caps": _caps(call.caps) if call.caps else None,
        "key": {"id": call.key.id, "models": call.key.models} if call.key else None,
    }


def _caps(caps: Caps) -> Record:
    most = caps.max_price_nano
    return {
        "max_price_usd": None if most is None else most / _NANO_PER_USD,
        "providers": sorted(caps.providers),
        "regions": sorted(caps.regions),
    }


def _plan(plan: Plan) -> Record:
    return {
        "asked": plan.resolution.name,
        "because": plan.kind,
        "now_ms": plan.now_ms,
        "needs": _needs(plan.text.needs),
        "words": plan.text.counted,
        "costs": plan.text.costs,
        "states": {
            model.id: {"model": _state(state), "account": _state(account)}
            for model, (state, account) in plan.states.items()
            if state is not ACTIVE or account is not ACTIVE
        },
        "draws": plan.draws,
        "signals": {model: _signal(signal) for model, signal in plan.signals.items()} if plan.signals else {},
        "stages": _stages(plan),
        "rankings": [_ranking(ranked) for ranked in plan.rankings],
        # After a refusal the targets are those of a fallback, which has a plan of its own.
        "targets": [] if plan.error else [_target(target, plan) for target in plan.targets],
        "error": error_name(plan.error) if plan.error else None,
    }


def _needs(needs: Needs) -> Record:
    wanted = [name for value, name in ALL_NAMES.items() if needs.wants & value]
    return {"features": wanted, **{name: value for name, value in needs._asdict().items() if name != "wants"}}


def _state(state: EntityState) -> Record:
    """Only what is out of the ordinary; most models are active."""
    if state is ACTIVE:
        return {}
    return {name: value for name, value in asdict(state).items() if value != _ORDINARY[name]}


# -- stages


def _stages(plan: Plan) -> list[Record]:
    """Who was left after each stage, and why the others were not; a stage that refused the call has left nobody."""
    meant = plan.resolution.models
    before = [
        model for pool in plan.resolution.pools for model in pool.models if meant is None or model in meant
    ]
    before = list(dict.fromkeys(before))
    stages = [_stage(plan, "CapabilityResolver", before, before)]
    for place, name in enumerate(STAGES):
        was_refused = place >= len(plan.left)
        after = [] if was_refused else _models(plan.left[place])
        stages.append(_stage(plan, name, before, after))
        if was_refused:
            return stages
        before = after
    return [*stages, _stage(plan, "SelectionStrategy", before, [target.model for target in plan.targets])]


def _models(members: Members) -> list[ModelSpec]:
    return [model for _, models in members for model in models]


def _stage(plan: Plan, name: str, before: list[ModelSpec], after: list[ModelSpec]) -> Record:
    kept = set(after)
    return {
        "name": name,
        "left": [model.id for model in after],
        "skipped": [
            {"model": model.id, "reason": _reason(plan, name, model)} for model in before if model not in kept
        ],
    }


def _reason(plan: Plan, stage: str, model: ModelSpec) -> str:
    if stage in _LACKING:
        return _LACKING[stage]
    if model.id in plan.skipped:
        return plan.skipped[model.id]
    if any(target.model is model for target in plan.trials):
        return "on trial: goes first"
    if any(target.model is model for target in plan.reserve):
        return "ramp: its share is used up, goes last"
    return plan.error.code or "" if plan.error else "session" if stage == "SelectionStrategy" else ""


def _ranking(ranked: Ranked) -> Record:
    hints, request = ranked.hints, ranked.request
    return {
        "pool": ranked.pool.id,
        "strategy": ranked.pool.strategy if ranked.pool.score is None else "score",
        "candidates": [model.id for model in ranked.members],
        "order": [model.id for model in ranked.order],
        "is_exclusive": ranked.is_exclusive,
        "turn": hints.turn,
        "current": hints.current,
        "held": hints.held,
        "draw": hints.draw if ranked.was_drawn else None,
        "signals": {model: _signal(signal) for model, signal in hints.signals.items()},
        "expected": {
            "tokens_in": request.tokens_in,
            "tokens_out": request.tokens_out,
            "tokens_known": request.tokens_known,
            "is_stream": request.is_stream,
        },
    }


def _signal(signal: Signal) -> dict[str, float]:
    return {name: value for name, value in asdict(signal).items() if value is not None}


def _target(target: Target, plan: Plan) -> Record:
    role = "trial" if target in plan.trials else "reserve" if target in plan.reserve else "ranked"
    if target.how is How.DESPITE:
        role = "despite"
    return {**_whom(target), "role": role}


def _whom(target: Target) -> Record:
    return {"model": target.model.id, "pool": target.pool.id, "provider": target.model.provider}


# -- attempts


def _step(step: Step, call: Call) -> Record:
    verdict, error = step.verdict, step.error
    record = {
        **_whom(step.target),
        "reservation": step.reservation,
        "verdict": verdict.code.name.lower(),
        "window": f"pool:{verdict.name}" if step.is_gate else verdict.name,
        "at": verdict.at_ms / 1000 if verdict.at_ms > 0 else None,
        "asked_ms": _ms(call.started, step.asked),
    }
    if error is not None:
        record |= {"error": error_name(error), "status": error.status or None}
    return record | _end(step)


def _end(step: Step) -> Record:
    end = step.settlement
    if end is None:
        return {}
    is_known = end.tokens_in != UNKNOWN
    return {
        "outcome": end.outcome.name.lower(),
        "ms": end.latency_ms,
        "first_content_ms": end.first_token_ms or None,
        "tokens_in": end.tokens_in if is_known else None,
        "tokens_out": end.tokens_out if is_known else None,
        "cost_usd": end.cost_nano / _NANO_PER_USD if is_known else None,
    }


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
