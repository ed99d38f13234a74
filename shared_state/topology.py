"""The topology: everything that a configuration comes to, and what the names in requests mean.

Built once per configuration and shared by all requests; it never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from shared_state.assembly import assemble
from shared_state.capabilities import CapabilityTree
from shared_state.config.faults import Fault, FaultLog, Path
from shared_state.config.pools import PoolConfig
from shared_state.config.root import MeshConfig
from shared_state.config.version import config_version
from shared_state.errors import ConfigurationError, ModelNotFoundError
from shared_state.specs import DomainSpec, ModelSpec, PoolSpec, ProviderSpec

__all__ = [
    "DomainSpec",
    "ModelSpec",
    "PoolSpec",
    "ProviderSpec",
    "Resolution",
    "Topology",
    "build_topology",
    "find_faults",
]

_MAX_SHOWN: Final = 128
_MAX_COMPARED: Final = 400
_NEAR_NAMES: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Resolution:
    """What a name in a request means.

    Attributes:
        pools: pools to choose from, in order of preference.
        models: the only models that fit the name; None if every model of the pools does.
    """

    name: str
    pools: tuple[PoolSpec, ...]
    models: tuple[ModelSpec, ...] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the name is that of one model, and of nothing else."""
        return self.models is not None and any(
            self.name in (model.id, _upstream_name(model)) for model in self.models
        )


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """A configuration with everything resolved. Disabled providers and their models are not in it.

    Attributes:
        gates: quota domains that calls pass before their candidates; those of client keys are not configured, so not here.
    """

    config: MeshConfig
    version: str
    tree: CapabilityTree
    models: Mapping[str, ModelSpec]
    providers: Mapping[str, ProviderSpec]
    pools: Mapping[str, PoolSpec]
    domains: Mapping[str, DomainSpec]
    gates: Mapping[str, DomainSpec]
    _resolutions: dict[str, Resolution] = field(default_factory=dict, init=False, repr=False)

    def resolve(self, name: str) -> Resolution:
        """What ``name`` means: a pool, a model, ``provider/upstream``, or a capability, in this order.

        Raises:
            ModelNotFoundError: nothing; the message holds near names.
        """
        known = self._resolutions.get(name)
        if known is None:
            # Only names that mean something are kept, so the configuration bounds the cache.
            known = self._resolutions[name] = self._resolve(name)
        return known

    def exactly(self, model: ModelSpec) -> Resolution:
        """One model and nothing else, whatever else may have its name."""
        return Resolution(model.id, (self._pool_with(model),), (model,))

    def _resolve(self, name: str) -> Resolution:
        if name in self.pools:
            return Resolution(name, (self.pools[name],))
        model = self.models.get(name) or self._by_upstream(name)
        if model is not None:
            return Resolution(name, (self._pool_with(model),), (model,))
        node = self.tree.resolve_name(name)
        if node is None:
            raise ModelNotFoundError(f"unknown model {_shown(name)}{self._near(name)}", param="model")
        return self._serving(node, name)

    def _by_upstream(self, name: str) -> ModelSpec | None:
        return next((model for model in self.models.values() if _upstream_name(model) == name), None)

    def _pool_with(self, model: ModelSpec) -> PoolSpec:
        """The first pool that holds the model, or one made of it alone."""
        for pool in self.pools.values():
            if model in pool.models:
                return pool
        return _implied(model.id, PoolConfig(models=[model.id]), capability=None, models=(model,))

    def _serving(self, node: str, name: str) -> Resolution:
        """Pools at or above the node, the most specific first, then those below it.

        A pool above serves the name with those of its models that offer something under the node, as long as there
        are any: the others would be asked for what they do not claim to do.
        """
        leaves = frozenset(self.tree.get_leaves(node))
        near = [
            pool
            for pool in self.pools.values()
            if pool.capability and self._is_at_or_above(node, pool.capability)
        ]
        above = [pool for ancestor in self.tree.get_ancestors(node) for pool in self._at(ancestor)]
        pools = (*self._at(node), *above, *(pool for pool in near if pool.capability != node))
        if not pools:
            return Resolution(name, (self._all_under(node, leaves),))
        fit = dict.fromkeys(
            [model for pool in near for model in pool.models]
            + [model for pool in above for model in _offering(pool.models, leaves)]
        )
        if not fit or all(model in fit for pool in pools for model in pool.models):
            return Resolution(name, pools)
        return Resolution(name, tuple(p for p in pools if not fit.keys().isdisjoint(p.models)), tuple(fit))

    def _at(self, node: str) -> list[PoolSpec]:
        return [pool for pool in self.pools.values() if pool.capability == node]

    def _is_at_or_above(self, node: str, other: str) -> bool:
        return node == other or self.tree.is_ancestor_of(node, other)

    def _all_under(self, node: str, leaves: Set[str]) -> PoolSpec:
        models = _offering(self.models.values(), leaves)
        if not models:
            raise ModelNotFoundError(f"no model here offers {node}", param="model")
        return _implied(node, PoolConfig(capability=node), capability=node, models=models)

    def _near(self, name: str) -> str:
        """Near names, found without comparing endlessly: anyone may ask for any nonsense."""
        wanted = name[:_MAX_SHOWN].casefold()
        upstreams = [_upstream_name(model) for model in self.models.values()]
        names = list(dict.fromkeys([*self.pools, *self.models, *upstreams, *self.tree.aliases()]))
        near = [known for known in names if wanted and wanted in known.casefold()]
        if len(near) < _NEAR_NAMES:
            near += get_close_matches(wanted, names[:_MAX_COMPARED], n=_NEAR_NAMES, cutoff=0.6)
        unique = list(dict.fromkeys(near))[:_NEAR_NAMES]
        return f"; near names: {', '.join(unique)}" if unique else ""


def build_topology(config: MeshConfig) -> Topology:
    """Resolve a configuration.

    Raises:
        ConfigurationError: with every fault.
    """
    log = FaultLog()
    parts = assemble(config, log)
    if log.faults:
        raise ConfigurationError([str(fault) for fault in log.faults])
    return Topology(
        config=config,
        version=config_version(config),
        tree=parts.tree,
        models=MappingProxyType(parts.models),
        providers=MappingProxyType(parts.providers),
        pools=MappingProxyType(parts.pools),
        domains=MappingProxyType(parts.domains),
        gates=MappingProxyType(parts.gates),
    )


def find_faults(config: MeshConfig, *, refused: Set[Path] = frozenset()) -> list[Fault]:
    """Every fault that would keep `build_topology` from its work.

    Args:
        refused: what was cut out of the configuration before; its consequences are not told.
    """
    log = FaultLog(refused)
    assemble(config, log)
    return log.faults


def _implied(
    name: str, config: PoolConfig, *, capability: str | None, models: tuple[ModelSpec, ...]
) -> PoolSpec:
    return PoolSpec(id=name, capability=capability, strategy=config.strategy, models=models, config=config)


def _offering(models: Iterable[ModelSpec], leaves: Set[str]) -> tuple[ModelSpec, ...]:
    return tuple(model for model in models if not leaves.isdisjoint(model.capabilities))


def _upstream_name(model: ModelSpec) -> str:
    return f"{model.provider}/{model.upstream}"


def _shown(name: str) -> str:
    return repr(name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "...")
