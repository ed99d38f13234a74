"""Gates: what calls pass before their candidates. The mesh, a pool and a client key each may be one, and each is a quota domain.

A gate's domain has one account, which carries its limits, and one stand-in for all models; so the ledger, leases and books of
accounts serve it as they are. Its id says what it is, and no provider may be called so.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from shared_state.catalogue import connector_profile
from shared_state.config.limits import LimitsConfig
from shared_state.config.models import ModelConfig
from shared_state.config.providers import ProviderConfig
from shared_state.specs import DomainSpec, ModelSpec, ProviderSpec

#: Stands for every model in the books of a gate.
ANY_MODEL: Final = "*"


class DomainKind(StrEnum):
    """What a quota domain belongs to; only accounts count the traffic to models, gates count it once more."""

    ACCOUNT = "account"
    MESH = "mesh"
    POOL = "pool"
    KEY = "key"


_GATES: Final = (DomainKind.MESH, DomainKind.POOL, DomainKind.KEY)
#: The domain of the budget of the whole mesh.
MESH_GATE: Final = f"{DomainKind.MESH}:budget"


def pool_gate(pool: str) -> str:
    """The domain of a pool's own limits."""
    return f"{DomainKind.POOL}:{pool}"


def key_gate(key: str) -> str:
    """The domain of a client key."""
    return f"{DomainKind.KEY}:{key}"


def kind_of(domain: str) -> DomainKind:
    """What a domain belongs to, by its id."""
    prefix, colon, _ = domain.partition(":")
    return DomainKind(prefix) if colon and prefix in _GATES else DomainKind.ACCOUNT


def build_gate(domain: str, limits: LimitsConfig) -> DomainSpec:
    """The quota domain of a gate."""
    account = ProviderSpec(
        id=domain,
        domain=domain,
        connector=connector_profile("openai-compatible.v1"),  # nothing is ever sent to a gate
        base_url="",
        api_key=None,
        config=ProviderConfig(limits=limits),
    )
    anything = ModelSpec(
        id=ANY_MODEL,
        provider=domain,
        domain=domain,
        upstream="",
        capabilities=frozenset(),
        config=ModelConfig(provider=domain),
    )
    return DomainSpec(id=domain, providers=(account,), models=(anything,), limits=limits)
