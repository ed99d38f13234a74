"""Who belongs to a pool: the node of the tree that it serves, the models under that, those that it lists, and their order."""

from __future__ import annotations

from collections.abc import Mapping

from shared_state.capabilities import CapabilityTree
from shared_state.config.faults import FaultLog, suggest
from shared_state.config.pools import FallbacksConfig, PoolConfig
from shared_state.config.root import MeshConfig
from shared_state.dynamic import choose, is_dynamic, static_facts, takes_all
from shared_state.scores import Score
from shared_state.selection import in_priority
from shared_state.specs import ModelSpec, ProviderSpec


def unknown_capability(name: str, tree: CapabilityTree) -> str:
    """What is wrong with a name that the tree does not have."""
    return f"unknown capability {name!r}{suggest(name, tree.names())} (capabilities.nodes declares new ones)"


def target_of(pool_id: str, pool: PoolConfig, tree: CapabilityTree, log: FaultLog) -> str | None:
    """The node that a pool serves: ``capability``, or the pool's own name if it lists no models either."""
    if pool.capability is None and pool.models:
        return None
    node = tree.resolve_name(pool.capability or pool_id)
    if node is None and pool.capability is None and is_dynamic(pool):
        return None
    if node is None and pool.capability:
        log.add(("pools", pool_id, "capability"), unknown_capability(pool.capability, tree))
    elif node is None:
        hint = suggest(pool_id, tree.names())
        log.add_absence(
            ("pools", pool_id),
            f"names neither a capability nor models, and its own name is no capability{hint}",
        )
    return node


def choose_members(
    pool_id: str,
    pool: PoolConfig,
    node: str | None,
    config: MeshConfig,
    models: dict[str, ModelSpec],
    providers: Mapping[str, ProviderSpec],
    tree: CapabilityTree,
    log: FaultLog,
) -> tuple[list[ModelSpec], Score | None]:
    """The members in the pool's order, and the score of a dynamic pool."""
    members, score = _members(pool, node, models, tree), None
    if is_dynamic(pool):
        facts = {model.id: static_facts(model, config, providers) for model in members}
        members, score = choose(pool_id, pool, members, facts, log)
    return in_priority(pool, members), score


def _members(
    pool: PoolConfig, node: str | None, models: dict[str, ModelSpec], tree: CapabilityTree
) -> list[ModelSpec]:
    """Models under the node that pass the provider filters, then those listed; a listed model needs no filter."""
    members: dict[str, ModelSpec] = {}
    if node is not None or takes_all(pool):
        leaves = frozenset(tree.get_leaves(node)) if node is not None else None
        members = {
            name: spec
            for name, spec in models.items()
            if (leaves is None or spec.capabilities & leaves)
            and (not pool.providers or spec.provider in pool.providers)
            and spec.provider not in pool.excluded_providers
        }
    for name in pool.models:
        if name in models:
            members.setdefault(name, models[name])
    return list(members.values())


def check_references(pool_id: str, pool: PoolConfig, config: MeshConfig, log: FaultLog) -> None:
    """Notes models, providers and pools that a pool names and nobody has."""
    for key, section, kind, known in (
        ("models", "models", "model", list(config.models)),
        ("providers", "providers", "provider", list(config.providers)),
        ("excluded_providers", "providers", "provider", list(config.providers)),
    ):
        for index, name in enumerate(getattr(pool, key)):
            if name not in known and not log.is_excused(section, name):
                log.add(("pools", pool_id, key, index), f"unknown {kind} {name!r}{suggest(name, known)}")
    _check_fallbacks(pool_id, pool, config, log)


def _check_fallbacks(pool_id: str, pool: PoolConfig, config: MeshConfig, log: FaultLog) -> None:
    known = [name for name in (*config.pools, *config.models) if name != pool_id]
    for kind in FallbacksConfig.model_fields:
        for index, name in enumerate(getattr(pool.fallbacks, kind)):
            path = ("pools", pool_id, "fallbacks", kind, index)
            if name == pool_id:
                log.add(path, "a pool cannot fall back to itself")
            elif name not in known and not (log.is_excused("models", name) or log.is_excused("pools", name)):
                log.add(path, f"unknown model or pool {name!r}{suggest(name, known)}")
