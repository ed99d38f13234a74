"""Which gates a configuration builds, and what their quota domains are called."""

from __future__ import annotations

from typing import Any

import pytest

from shared_state.config import MeshConfig
from shared_state.errors import ConfigurationError
from shared_state.gates import DomainKind, key_gate, kind_of, pool_gate
from shared_state.topology import Topology, build_topology

PRICES = {"pricing": {"input": 1.0, "output": 2.0}}


def build(pool: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **more: Any) -> Topology:
    document = {
        "providers": {"alpha": {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}},
        "models": {"alpha.m": {"provider": "alpha", "capabilities": ["chat-completion"], **(model or {})}},
        "pools": {"chat": {"models": ["alpha.m"], **(pool or {})}},
        **more,
    }
    return build_topology(MeshConfig.model_validate(document))


def test_only_what_limits_something_is_a_gate() -> None:
    """A pool without limits costs nobody a thing."""
    assert dict(build().gates) == {}
    assert set(build({"limits": {"rpm": 5}}).gates) == {"pool:chat"}
    assert set(build(model=PRICES, budget={"monthly_limit": 50}).gates) == {"mesh:budget"}


def test_a_pools_budget_is_a_limit_of_its_gate() -> None:
    """In the spelling of budgets or of limits; the budget's word holds."""
    topology = build(
        {"limits": {"rpm": 5, "usd_per_day": 9}, "budget": {"daily_limit": 3, "alert_threshold": 0.5}},
        model=PRICES,
    )
    gate = topology.gates["pool:chat"]

    assert (gate.limits.rpm, gate.limits.usd_per_day, gate.limits.alert_threshold) == (5, 3, 0.5)
    assert gate.providers[0].config.limits is gate.limits
    assert [model.id for model in gate.models] == ["*"]


@pytest.mark.parametrize(
    ("pool", "sections", "where"),
    [
        ({"budget": {"daily_limit": 5}}, {}, "on a pool that holds it"),
        ({"limits": {"usd_per_request": 1}}, {}, "on a pool that holds it"),
        ({}, {"budget": {"daily_limit": 5}}, "by the budget of the mesh"),
        ({}, {"budget": {"daily_limit": 5, "enforce": False}}, "by the budget of the mesh"),
    ],
)
def test_money_needs_prices(pool: dict[str, Any], sections: dict[str, Any], where: str) -> None:
    """A budget that counts nothing would be no budget."""
    with pytest.raises(ConfigurationError) as caught:
        build(pool, **sections)

    assert caught.value.faults == [f"models.alpha.m.pricing: is needed: money is limited {where}"]


@pytest.mark.parametrize("name", ["pool:chat", "key:abc", "mesh:budget"])
def test_an_account_cannot_take_the_name_of_a_gate(name: str) -> None:
    """Else two quota domains would share their keys."""
    provider = {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(ConfigurationError, match="must not begin with mesh:, pool: or key:"):
        build(providers={"alpha": {**provider, "quota_domain": name}})


def test_a_domain_says_what_it_belongs_to() -> None:
    """Reports count accounts only."""
    names = ["alpha", "poolside", "pool", pool_gate("a b"), key_gate("k1"), "mesh:budget", "odd:name"]

    assert [kind_of(name) for name in names] == [
        DomainKind.ACCOUNT,
        DomainKind.ACCOUNT,
        DomainKind.ACCOUNT,
        DomainKind.POOL,
        DomainKind.KEY,
        DomainKind.MESH,
        DomainKind.ACCOUNT,
    ]
