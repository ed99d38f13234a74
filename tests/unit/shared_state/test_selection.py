"""A pool's selection keys: obeyed, or refused with what would do."""

from __future__ import annotations

from typing import Any

import pytest

from shared_state.config.loader import read_config
from shared_state.errors import ConfigurationError
from shared_state.topology import Topology, build_topology

ACCOUNT = {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}


def document(*, models: dict[str, dict[str, Any]] | None = None, **pools: dict[str, Any]) -> dict[str, Any]:
    """Models ``a.m``, ``b.m`` and ``c.m`` on accounts of their own, and pools with all of them unless they say otherwise."""
    names = ("a.m", "b.m", "c.m")
    return {
        "providers": {name[0]: ACCOUNT for name in names},
        "models": {
            name: {"provider": name[0], "capabilities": ["chat-completion"], **(models or {}).get(name, {})}
            for name in names
        },
        "pools": {name: {"models": list(names), **pool} for name, pool in pools.items()},
    }


def topology(**sections: Any) -> Topology:
    return build_topology(read_config(document(**sections), environ={}))


def faults(**pool: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        topology(chat=pool)
    return caught.value.faults


def test_the_contracts_pool_is_accepted():
    """A round robin with weights, priorities and limits of its own, every key obeyed."""
    pool = topology(
        chat={
            "strategy": "round-robin",
            "weights": {"a.m": 3},
            "model_priority": ["b.m"],
            "rate_limit": {"threshold": 0.8, "min_delta": "0s", "max_rpm": 0, "action": "switch_model"},
        }
    ).pools["chat"]

    assert [spec.id for spec in pool.models] == ["b.m", "a.m", "c.m"]
    assert pool.strategy == "modelmesh.round-robin.v1"


@pytest.mark.parametrize(
    ("pool", "fault"),
    [
        (
            {"weights": {"a.m": 1}},
            "pools.chat.weights: is not used by strategy modelmesh.stick-until-failure.v1; it belongs to"
            " modelmesh.round-robin.v1, modelmesh.load-balanced.v1, modelmesh.canary.v1",
        ),
        (
            {"strategy": "round-robin", "affinity_mode": "strict"},
            "pools.chat.affinity_mode: is not used by strategy modelmesh.round-robin.v1; it belongs to"
            " modelmesh.session-stickiness.v1",
        ),
        (
            {"strategy": "cost-first", "strategy_options": {"x": 1}},
            "pools.chat.strategy_options: is not used by strategy modelmesh.cost-first.v1; it belongs to strategies"
            " given as a class",
        ),
        (
            {"strategy": "priority-selection", "fallback_strategy": "cost-first", "balance_mode": "absolute"},
            "pools.chat.balance_mode: is not used by strategy modelmesh.priority-selection.v1; it belongs to"
            " modelmesh.load-balanced.v1",
        ),
        (
            {"strategy": "priority-selection", "fallback_strategy": "priority-selection"},
            "pools.chat.fallback_strategy: cannot be priority-selection itself",
        ),
        (
            {"strategy": "round-robin", "weights": {"a.mm": 1}},
            "pools.chat.weights.a.mm: 'a.mm' is no member of the pool; did you mean 'a.m'?",
        ),
        (
            {"model_priority": ["a.m", "x"]},
            "pools.chat.model_priority[1]: 'x' is no member of the pool; known: a.m, b.m, c.m",
        ),
        (
            {"provider_priority": ["z"]},
            "pools.chat.provider_priority[0]: 'z' is no provider of a member of the pool; known: a, b, c",
        ),
        (
            {"strategy": "round-robin", "weights": {"a.m": -1}},
            "pools.chat: weights must be numbers from 0 to 1000000",
        ),
        (
            {"strategy": "canary", "weights": {"a.m": 0.6, "b.m": 0.5}},
            "pools.chat.weights: must name the part of each canary, such as 0.05, at most 1 together",
        ),
        (
            {"strategy": "canary"},
            "pools.chat.weights: must name the part of each canary, such as 0.05, at most 1 together",
        ),
        (
            {"rate_limit": {"action": "switch_model", "queue_size": 5}},
            "pools.chat.rate_limit: queue_size mean nothing with action switch_model",
        ),
        (
            {"rate_limit": {"action": "wait"}},
            "pools.chat.rate_limit.action: must be 'switch_model', 'delay_request' or 'queue', not 'wait'",
        ),
        (
            {"model_weights": {"a.m": 1}},
            "pools.chat.model_weights: is an older spelling; write weights",
        ),
    ],
)
def test_what_would_not_be_obeyed_is_refused(pool: dict[str, Any], fault: str):
    """One fault, where it is, with what would do."""
    assert faults(**pool) == [fault]


def test_priority_selection_hands_options_to_its_fallback():
    """They stand in the same pool."""
    pool = {
        "strategy": "priority-selection",
        "fallback_strategy": "load-balanced",
        "balance_mode": "absolute",
    }

    assert topology(chat=pool).pools["chat"].config.balance_mode == "absolute"


def test_a_strategy_of_ones_own_takes_its_options_by_name():
    """Whether they fit is found out by the nodes."""
    pool = topology(chat={"strategy": "mine.strategies:Best", "strategy_options": {"depth": 3}}).pools["chat"]

    assert (pool.strategy, pool.config.strategy_options) == ("mine.strategies:Best", {"depth": 3})


def test_a_pools_caps_are_windows_of_its_models():
    """The strictest word holds; models of other pools stay as they are."""
    models = topology(
        models={"a.m": {"limits": {"rpm": 5, "rpd": 9}}, "b.m": {"limits": {"rpm": 50, "min_delta": "9s"}}},
        chat={"models": ["a.m", "b.m"], "rate_limit": {"max_rpm": 10, "min_delta": "2s"}},
    ).models
    seen = {
        name: (m.config.limits.rpm, m.config.limits.min_delta, m.config.limits.rpd)
        for name, m in models.items()
    }

    assert seen == {"a.m": (5, 2.0, 9), "b.m": (10, 9.0, None), "c.m": (None, None, None)}


def test_a_pools_models_are_those_with_its_caps():
    """One spec for each model, wherever it is looked up."""
    built = topology(chat={"rate_limit": {"max_rpm": 10}})

    assert list(built.pools["chat"].models) == list(built.models.values())
    assert [spec for domain in built.domains.values() for spec in domain.models] == list(
        built.models.values()
    )


def test_a_pool_with_a_score_has_no_other_order():
    """Neither weights nor priorities beside it."""
    assert faults(score="1", weights={"a.m": 1}, model_priority=["a.m"]) == [
        "pools.chat.model_priority: is not used together with score, which decides the order itself",
        "pools.chat.weights: is not used together with score, which decides the order itself",
    ]


def test_a_dynamic_pool_caps_its_members_only():
    """Those that its expression leaves out are none of its business."""
    built = topology(
        models={"b.m": {"pricing": {"input": 1.0}}},
        chat={"models": [], "where": "pricing.input == 1.0", "rate_limit": {"max_rpm": 10}},
    )

    assert [spec.id for spec in built.pools["chat"].models] == ["b.m"]
    assert [spec.config.limits.rpm for spec in built.models.values()] == [None, 10, None]
