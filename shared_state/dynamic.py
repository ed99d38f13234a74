"""Dynamic pools as they are built: members by ``where``, order by ``score``; what is wrong with either is noted with its path."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared_state.config.faults import FaultLog, Path
from shared_state.config.pools import PoolConfig
from shared_state.config.root import MeshConfig
from shared_state.expressions import ExpressionError, Facts
from shared_state.scores import SCORE_STRATEGY, Score, compile_score, compile_where, facts_of
from shared_state.specs import ModelSpec, ProviderSpec


def is_dynamic(pool: PoolConfig) -> bool:
    """Whether an expression has a say in who is a member."""
    return pool.where is not None or pool.score is not None


def takes_all(pool: PoolConfig) -> bool:
    """Whether a pool without a capability begins with every model there is."""
    return pool.where is not None or (pool.score is not None and not pool.models)


def choose(
    pool_id: str,
    pool: PoolConfig,
    candidates: list[ModelSpec],
    facts: Mapping[str, Facts],
    log: FaultLog,
) -> tuple[list[ModelSpec], Score | None]:
    """The members among the candidates, and their score; where the configuration decides the order, in that order.

    A model that the pool lists by its name needs no ``where``, but a score like the others.
    """
    path: Path = ("pools", pool_id)
    matches = _where(pool, (*path, "where"), log)
    members = [model for model in candidates if model.id in pool.models or matches(facts[model.id])]
    score = _score(pool, {model.id: facts[model.id] for model in members}, (*path, "score"), log)
    if score is None:
        return members, None
    if "strategy" in pool.model_fields_set:
        log.add((*path, "strategy"), "cannot be given together with score, which decides the order itself")
    fixed = {member: score.fixed[member.id] or 0.0 for member in members if member.id in score.fixed}
    members = [member for member in members if fixed.get(member, 1.0) > 0]
    return (members if score.live else sorted(members, key=lambda member: -fixed[member])), score


def strategy_of(pool: PoolConfig, configured: str) -> str:
    """The strategy of a pool: its score, if it has one."""
    return configured if pool.score is None else SCORE_STRATEGY


def static_facts(model: ModelSpec, config: MeshConfig, providers: Mapping[str, ProviderSpec]) -> Facts:
    """What expressions may know of a model."""
    entry, provider = config.providers[model.provider], providers.get(model.provider)
    return facts_of(
        model.config,
        id=model.id,
        connector=provider.connector.id if provider else entry.connector or model.provider,
        region=entry.region,
        upstream=model.upstream,
        capabilities=model.capabilities,
    )


def _where(pool: PoolConfig, path: Path, log: FaultLog) -> Callable[[Facts], bool]:
    if pool.where is not None:
        try:
            return compile_where(pool.where)
        except ExpressionError as error:
            log.add(path, str(error))
    return lambda _: True


def _score(pool: PoolConfig, facts: Mapping[str, Facts], path: Path, log: FaultLog) -> Score | None:
    if pool.score is None:
        return None
    try:
        return compile_score(pool.score)(facts)
    except ExpressionError as error:
        log.add(path, str(error))
        return None
