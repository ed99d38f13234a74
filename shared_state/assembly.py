"""From configuration to specs: references followed, the catalogue's defaults applied, every fault noted with its path.

Disabled providers take part until the end, so that their absence can explain an empty pool; then they drop out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shared_state.capabilities import CapabilityTree, default_tree
from shared_state.catalogue import (
    CatalogueError,
    CatalogueModel,
    ConnectorProfile,
    connector_profile,
)
from shared_state.config.checks import (
    check_api_key,
    check_base_url,
    check_discovery,
    check_names,
    counts_money,
    domain_of,
    merge_limits,
    with_budget,
)
from shared_state.config.faults import FaultLog, suggest
from shared_state.config.limits import LimitsConfig
from shared_state.config.models import ModelConfig, PricingConfig
from shared_state.config.pools import PoolConfig
from shared_state.config.providers import ProviderConfig
from shared_state.config.root import MeshConfig
from shared_state.config.secrets import check_secrets
from shared_state.config.targets import check_observability
from shared_state.dynamic import is_dynamic, strategy_of
from shared_state.gates import MESH_GATE, build_gate, pool_gate
from shared_state.limits import has_limits
from shared_state.membership import check_references, choose_members, target_of, unknown_capability
from shared_state.rotation.duties import put_on_duty
from shared_state.selection import find_strategy, limit_by_pools
from shared_state.specs import DomainSpec, ModelSpec, PoolSpec, ProviderSpec


@dataclass(slots=True)
class Parts:
    """Everything that was built; complete only if the log stayed empty."""

    tree: CapabilityTree
    providers: dict[str, ProviderSpec] = field(default_factory=dict)
    models: dict[str, ModelSpec] = field(default_factory=dict)
    pools: dict[str, PoolSpec] = field(default_factory=dict)
    domains: dict[str, DomainSpec] = field(default_factory=dict)
    gates: dict[str, DomainSpec] = field(default_factory=dict)


def assemble(config: MeshConfig, log: FaultLog) -> Parts:
    """Build all specs; what is wrong goes to ``log``."""
    check_names(config, log)
    check_discovery(config, log)
    check_observability(config, log)
    check_secrets(config.secrets, log)
    parts = Parts(tree=_grow_tree(config, log))
    limits = merge_limits(config, log)
    profiles = _find_profiles(config, log)
    parts.providers = _build_providers(config, profiles, limits, log)
    models = _build_models(config, profiles, parts.tree, log)
    models = _under_rules_of_pools(config, models, parts, limits, log)
    parts.models = {name: spec for name, spec in models.items() if config.providers[spec.provider].enabled}
    parts.pools = _build_pools(config, models, parts, log)
    parts.domains = _build_domains(parts, limits)
    parts.gates = _build_gates(config, parts)
    _check_prices(parts, log)
    return parts


# -- the capability tree


def _grow_tree(config: MeshConfig, log: FaultLog) -> CapabilityTree:
    tree = default_tree()
    for index, path in enumerate(config.capabilities.nodes):
        try:
            tree.register(path)
        except ValueError as error:
            log.add(("capabilities", "nodes", index), str(error))
    for alias, target in config.capabilities.aliases.items():
        try:
            tree.add_alias(alias, target)
        except ValueError as error:
            log.add(("capabilities", "aliases", alias), str(error))
    return tree


# -- providers


def _find_profiles(config: MeshConfig, log: FaultLog) -> dict[str, ConnectorProfile]:
    """The connector of each provider; a disabled provider may name one that is not spoken yet."""
    profiles: dict[str, ConnectorProfile] = {}
    for provider_id, provider in config.providers.items():
        try:
            profiles[provider_id] = connector_profile(provider.connector or provider_id)
        except CatalogueError as error:
            path = ("providers", provider_id, "connector")
            if not provider.enabled:
                continue
            if provider.connector is None:
                log.add_absence(path, f"is missing, and the entry's own name is no connector: {error}")
            else:
                log.add(path, str(error))
    return profiles


def _build_providers(
    config: MeshConfig, profiles: dict[str, ConnectorProfile], limits: dict[str, LimitsConfig], log: FaultLog
) -> dict[str, ProviderSpec]:
    return {
        provider_id: _build_provider(
            provider_id, provider, profiles[provider_id], limits[domain_of(provider_id, provider)], log
        )
        for provider_id, provider in config.providers.items()
        if provider.enabled and provider_id in profiles
    }


def _build_provider(
    provider_id: str, provider: ProviderConfig, profile: ConnectorProfile, limits: LimitsConfig, log: FaultLog
) -> ProviderSpec:
    path = ("providers", provider_id)
    base_url = provider.base_url or profile.base_url
    if base_url is None:
        log.add_absence((*path, "base_url"), f"is needed: connector {profile.id} has no address of its own")
    elif provider.base_url:
        check_base_url(provider.base_url, (*path, "base_url"), log)
    key = provider.api_key if provider.api_key and provider.api_key.get_secret_value() else None
    if key is not None:
        check_api_key(key, (*path, "api_key"), log)
    elif profile.requires_key:
        log.add_absence(
            (*path, "api_key"),
            f"is needed by connector {profile.id}, for instance ${{secrets:{profile.env_var}}}",
        )
    return ProviderSpec(
        id=provider_id,
        domain=domain_of(provider_id, provider),
        connector=profile,
        base_url=base_url or "",
        api_key=key,
        config=provider.model_copy(update={"limits": limits}),
    )


# -- models


def _build_models(
    config: MeshConfig, profiles: dict[str, ConnectorProfile], tree: CapabilityTree, log: FaultLog
) -> dict[str, ModelSpec]:
    models: dict[str, ModelSpec] = {}
    for model_id, model in config.models.items():
        provider = config.providers.get(model.provider)
        if provider is not None:
            profile = profiles.get(model.provider)
            spec = _build_model(model_id, model, domain_of(model.provider, provider), profile, tree, log)
            if not spec.config.capabilities and provider.enabled:
                log.add_absence(("models", model_id, "capabilities"), _no_capability(spec))
            models[model_id] = spec
            continue
        _leaves(model_id, model.capabilities, tree, log)
        if not log.is_excused("providers", model.provider):
            hint = suggest(model.provider, config.providers)
            log.add(("models", model_id, "provider"), f"unknown provider {model.provider!r}{hint}")
    return models


def _build_model(
    model_id: str,
    model: ModelConfig,
    domain: str,
    profile: ConnectorProfile | None,
    tree: CapabilityTree,
    log: FaultLog,
) -> ModelSpec:
    upstream = model.upstream or model_id.removeprefix(f"{model.provider}.")
    inherited = inherit(model, profile.model(upstream) if profile else None)
    inherited = inherited.model_copy(update={"limits": with_budget(inherited.limits, inherited.budget)})
    leaves = _leaves(model_id, inherited.capabilities, tree, log)
    if profile is not None and profile.offers:
        _check_offers(model_id, leaves, profile, tree, log)
    return ModelSpec(
        id=model_id,
        provider=model.provider,
        domain=domain,
        upstream=upstream,
        capabilities=leaves,
        config=inherited,
        web=profile.web if profile is not None else "",
    )


def _check_offers(
    model_id: str, leaves: frozenset[str], profile: ConnectorProfile, tree: CapabilityTree, log: FaultLog
) -> None:
    """What the provider has no API for would never be served."""
    beyond = sorted(leaves - {tree.resolve_name(name) for name in profile.offers})
    if beyond:
        message = (
            f"connector {profile.id} offers no {', '.join(beyond)}; it offers: {', '.join(profile.offers)}"
        )
        log.add(("models", model_id, "capabilities"), message)


def _no_capability(spec: ModelSpec) -> str:
    return (
        f"are needed: the catalogue does not know {spec.upstream!r} of provider {spec.provider!r};"
        " write for instance [chat-completion]"
    )


def inherit(model: ModelConfig, entry: CatalogueModel | None) -> ModelConfig:
    """The model with the catalogue's word wherever the configuration is silent."""
    if entry is None:
        return model
    constraints = {
        key: value
        for key, value in (
            ("context_window", entry.context_window),
            ("max_output_tokens", entry.max_output_tokens),
        )
        if getattr(model.constraints, key) is None
    }
    features = {key: value for key, value in entry.features.items() if getattr(model.features, key) is None}
    update: dict[str, object] = {
        "constraints": model.constraints.model_copy(update=constraints),
        "features": model.features.model_copy(update=features),
    }
    if not model.capabilities:
        update["capabilities"] = list(entry.capabilities)
    if "pricing" not in model.model_fields_set and (
        entry.price_input is not None or entry.price_per_request is not None
    ):
        update["pricing"] = PricingConfig(
            input=entry.price_input or 0.0,
            output=entry.price_output or 0.0,
            per_request=entry.price_per_request or 0.0,
        )
    return model.model_copy(update=update)


def _leaves(model_id: str, names: list[str], tree: CapabilityTree, log: FaultLog) -> frozenset[str]:
    leaves = set()
    for index, name in enumerate(names):
        path = tree.resolve_name(name)
        if path is not None and tree.get_node(path).is_leaf:
            leaves.add(path)
            continue
        message = unknown_capability(name, tree)
        if path is not None:
            below = ", ".join(leaf.rpartition(".")[2] for leaf in tree.get_leaves(path))
            message = f"{name!r} is no leaf of the tree; models offer leaves: {below}"
        log.add(("models", model_id, "capabilities", index), message)
    return frozenset(leaves)


# -- pools


def _build_pools(
    config: MeshConfig, models: dict[str, ModelSpec], parts: Parts, log: FaultLog
) -> dict[str, PoolSpec]:
    pools = {}
    for pool_id, pool in config.pools.items():
        check_references(pool_id, pool, config, log)
        node = target_of(pool_id, pool, parts.tree, log)
        members, score = choose_members(pool_id, pool, node, config, models, parts.providers, parts.tree, log)
        if not members and log.is_sound(("pools", pool_id), ("models",), ("providers",), ("capabilities",)):
            lacking = f": none offers {node}" if node else ""
            choosy = ", or where and score leave none of them" if is_dynamic(pool) else ""
            log.add_absence(("pools", pool_id), f"has no model{lacking}{choosy}")
        pools[pool_id] = PoolSpec(
            id=pool_id,
            capability=node,
            strategy=strategy_of(pool, find_strategy(pool_id, pool, members, log)),
            models=tuple(member for member in members if member.id in parts.models),
            config=pool.model_copy(update={"limits": with_budget(pool.limits, pool.budget)}),
            score=score,
        )
    return pools


def _check_prices(parts: Parts, log: FaultLog) -> None:
    """Money can be limited only where prices are known; a free model says so with prices of 0."""
    everywhere = MESH_GATE in parts.gates
    dear_pools = {
        model.id for pool in parts.pools.values() for model in pool.models if counts_money(pool.config.limits)
    }
    for model in parts.models.values():
        provider = parts.providers.get(model.provider)
        if model.is_priced:
            continue
        if counts_money(model.config.limits) or (provider and counts_money(provider.config.limits)):
            where = "here or on its provider"
        elif everywhere or model.id in dear_pools:
            where = "on a pool that holds it" if model.id in dear_pools else "by the budget of the mesh"
        else:
            continue
        log.add_absence(("models", model.id, "pricing"), f"is needed: money is limited {where}")


# -- gates


def _build_gates(config: MeshConfig, parts: Parts) -> dict[str, DomainSpec]:
    """The domains of the mesh's budget and of pools that limit anything."""
    limits = {pool_gate(pool.id): pool.config.limits for pool in parts.pools.values()}
    limits[MESH_GATE] = with_budget(LimitsConfig(), config.budget)
    return {domain: build_gate(domain, own) for domain, own in limits.items() if has_limits(own)}


def _under_rules_of_pools(
    config: MeshConfig,
    models: dict[str, ModelSpec],
    parts: Parts,
    limits: dict[str, LimitsConfig],
    log: FaultLog,
) -> dict[str, ModelSpec]:
    """The models with what pools ask of their members; who is one is looked up only where that matters, and complained of later."""

    def members(name: str, pool: PoolConfig) -> list[ModelSpec]:
        node = target_of(name, pool, parts.tree, FaultLog())
        return choose_members(name, pool, node, config, models, parts.providers, parts.tree, FaultLog())[0]

    limited = limit_by_pools(config.pools, models, members)
    return put_on_duty(config.pools, limited, members, limits, log)


# -- quota domains


def _build_domains(parts: Parts, limits: dict[str, LimitsConfig]) -> dict[str, DomainSpec]:
    names = dict.fromkeys(provider.domain for provider in parts.providers.values())
    return {
        name: DomainSpec(
            id=name,
            providers=tuple(provider for provider in parts.providers.values() if provider.domain == name),
            models=tuple(model for model in parts.models.values() if model.domain == name),
            limits=limits[name],
        )
        for name in names
    }
