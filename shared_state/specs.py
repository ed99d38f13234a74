"""What a configuration comes to: models, providers, pools and quota domains with everything resolved.

Specs compare by identity: one configuration builds each of them once.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from shared_state.catalogue import ConnectorProfile
from shared_state.config.limits import LimitsConfig
from shared_state.config.models import ModelConfig
from shared_state.config.pools import MaintenanceConfig, PoolConfig
from shared_state.config.providers import ProviderConfig
from shared_state.scores import Score


@dataclass(frozen=True, slots=True, eq=False)
class ModelSpec:
    """A model of an enabled provider.

    Attributes:
        domain: quota domain of its provider.
        upstream: the name sent upstream.
        capabilities: full paths of leaves.
        config: as configured; what was left out is inherited from the catalogue, and its pools' caps are among the limits.
        maintenance: windows of all its pools, each with its time zone.
        web: whose words its provider understands as a service of the web; empty where it does not know more of that than others.
    """

    id: str
    provider: str
    domain: str
    upstream: str
    capabilities: frozenset[str]
    config: ModelConfig
    maintenance: tuple[MaintenanceConfig, ...] = ()
    web: str = ""

    @property
    def is_priced(self) -> bool:
        """Whether its prices are known; a free model says so with prices of 0."""
        return "pricing" in self.config.model_fields_set


@dataclass(frozen=True, slots=True, eq=False)
class ProviderSpec:
    """An enabled provider account; the limits in ``config`` are those of its whole quota domain."""

    id: str
    domain: str
    connector: ConnectorProfile
    base_url: str
    api_key: SecretStr | None
    config: ProviderConfig

    @property
    def apis(self) -> frozenset[str]:
        """Its APIs for conversations: as its connector is known to have them, but for what the configuration says."""
        config, known = self.config, self.connector.apis
        if config.responses is None and config.messages is None:
            return known
        stated = {"responses": config.responses, "messages": config.messages}
        added = {api for api, has in stated.items() if has}
        return (known - {api for api, has in stated.items() if has is False}) | added


@dataclass(frozen=True, slots=True, eq=False)
class PoolSpec:
    """A pool, configured or implied by a request's name.

    Attributes:
        capability: full path of the node that the pool serves; None for a plain list of models.
        strategy: full id.
        models: members in the order that decides ties: as in the configuration's ``models``, then explicit extras; by
            score where the configuration alone decides that.
        score: of a dynamic pool; None otherwise.
    """

    id: str
    capability: str | None
    strategy: str
    models: tuple[ModelSpec, ...]
    config: PoolConfig
    score: Score | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DomainSpec:
    """A quota domain: what shares one account's limits, and one slot in Redis."""

    id: str
    providers: tuple[ProviderSpec, ...]
    models: tuple[ModelSpec, ...]
    limits: LimitsConfig
