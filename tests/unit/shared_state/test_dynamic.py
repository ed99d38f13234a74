"""Dynamic pools: members and order by expression, and what is wrong with them."""

from __future__ import annotations

import sys
import types

import pytest
from structlog.testing import capture_logs

from shared_state.config import MeshConfig
from shared_state.config.loader import read_config
from shared_state.errors import ConfigurationError
from shared_state.topology import Topology, build_topology

LOCAL = {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9001/v1"}
MODELS = {
    "alpha.small": {
        "features": {"tool_calling": True},
        "constraints": {"context_window": 8000},
        "pricing": {"input": 1.0, "output": 2.0},
    },
    "alpha.large": {"constraints": {"context_window": 128_000}, "pricing": {"input": 5.0}},
    "beta.free": {"features": {"tool_calling": False}, "pricing": {"input": 0}},
    "beta.vectors": {"capabilities": ["text-embeddings"]},
    "gamma.off": {"constraints": {"context_window": 9000}},
}


def document(**pool) -> dict:
    return {
        "providers": {
            "alpha": {**LOCAL, "region": "eu"},
            "beta": LOCAL,
            "gamma": {**LOCAL, "enabled": False},
        },
        "models": {
            name: {"provider": name.partition(".")[0], "capabilities": ["chat-completion"], **more}
            for name, more in MODELS.items()
        },
        "pools": {"mine": pool},
    }


def build(**pool) -> Topology:
    return build_topology(MeshConfig.model_validate(document(**pool)))


def members(**pool) -> list[str]:
    return [model.id for model in build(**pool).pools["mine"].models]


def faults(**pool) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_config(document(**pool))
    return caught.value.faults


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("True", ["alpha.small", "alpha.large", "beta.free", "beta.vectors"]),
        ("features.tool_calling", ["alpha.small"]),
        ("features.tool_calling is not False", ["alpha.small", "alpha.large", "beta.vectors"]),
        ("constraints.context_window >= 100000", ["alpha.large"]),
        ("region == 'eu'", ["alpha.small", "alpha.large"]),
        ("provider in ['beta'] and 'chat-completion' in capabilities", ["beta.free"]),
        ("'representation' in capabilities", ["beta.vectors"]),
        ("'representation.embeddings.text-embeddings' in capabilities", ["beta.vectors"]),
        ("pricing.input == 0", ["beta.free"]),
        ("pricing.input is None", ["beta.vectors"]),
        ("upstream == 'large' or id == 'beta.free'", ["alpha.large", "beta.free"]),
        ("connector == 'openai-compatible.v1' and delivery.streaming and not delivery.batch and id != 'x'",
         ["alpha.small", "alpha.large", "beta.free", "beta.vectors"]),
    ],
)  # fmt: skip
def test_members_are_the_models_for_which_where_holds(where, expected):
    """In the order of the configuration; disabled providers stay out."""
    assert members(where=where) == expected


def test_where_narrows_a_capability_and_leaves_listed_models_alone():
    """As the provider filters do."""
    narrow = "pricing.input > 0"

    assert members(capability="text-generation", where=narrow) == ["alpha.small", "alpha.large"]
    assert members(capability="text-generation", where=narrow, models=["beta.free"])[-1] == "beta.free"
    assert members(where=narrow, models=["beta.vectors"]) == ["alpha.small", "alpha.large", "beta.vectors"]
    assert members(where=narrow, excluded_providers=["alpha"], models=["beta.free"]) == ["beta.free"]


def test_a_pool_named_after_a_capability_keeps_to_it():
    """Its own name is the capability, as ever."""
    config = document()
    config["pools"] = {"embeddings": {"where": "True"}}
    pool = build_topology(MeshConfig.model_validate(config)).pools["embeddings"]

    assert [model.id for model in pool.models] == ["beta.vectors"]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("1 / pricing.input", ["alpha.small", "alpha.large"]),
        ("constraints.context_window", ["alpha.large", "alpha.small"]),
        ("5", ["alpha.small", "alpha.large", "beta.free", "beta.vectors"]),
        ("features.tool_calling", ["alpha.small"]),
        ("10 - pricing.input", ["beta.free", "alpha.small", "alpha.large"]),
        ("pricing.input - 1", ["alpha.large"]),
        ("1e308 * 10 if id == 'alpha.small' else 1", ["alpha.large", "beta.free", "beta.vectors"]),
    ],
)
def test_a_score_of_the_configuration_orders_the_pool_when_it_is_built(score, expected):
    """Higher first, ties as they came; nothing, zero or less, or no number is no member."""
    pool = build(score=score).pools["mine"]

    assert [model.id for model in pool.models] == expected
    assert pool.strategy == "modelmesh.score.v1"
    assert pool.score is not None
    assert pool.score.live == {}


def test_a_score_may_depend_on_live_state():
    """Then every candidate stays, for its time may come."""
    pool = build(where="provider == 'alpha'", score="(5 if recovering else 7) if active else 0").pools["mine"]
    score = pool.score
    assert score is not None

    assert [model.id for model in pool.models] == ["alpha.small", "alpha.large"]
    well, recovering = {"active": True, "recovering": False}, {"active": True, "recovering": True}
    assert score.of("alpha.small", well) == 7
    assert score.of("alpha.small", {"active": False}) is None
    live = [("alpha.small", recovering), ("alpha.large", well)]
    assert score.rank(live) == ["alpha.large", "alpha.small"]


@pytest.mark.parametrize(
    ("score", "needs"),
    [
        ("headroom / (latency_ms + first_token_ms) - in_flight", True),
        ("1 if recovering else 1 / pricing.input", False),
        ("1 / pricing.input", False),
        ("1 / latency_ms if active else 0", True),
    ],
)
def test_a_score_says_whether_it_goes_by_signals(score, needs):
    """Only then somebody has to read them."""
    built = build(where="provider == 'alpha'", score=score).pools["mine"].score
    assert built is not None

    assert built.needs_signals is needs


def test_a_score_goes_by_speed_load_and_room():
    """As they are told for each request."""
    score = (
        build(where="provider == 'alpha'", score="headroom / (latency_ms * (1 + in_flight))")
        .pools["mine"]
        .score
    )
    assert score is not None
    quick = {"latency_ms": 100.0, "in_flight": 3.0, "headroom": 1.0}
    slow = {"latency_ms": 300.0, "in_flight": 0.0, "headroom": 1.0}

    assert score.rank([("alpha.small", quick), ("alpha.large", slow)]) == ["alpha.large", "alpha.small"]
    assert score.rank([("alpha.small", quick), ("alpha.large", {**slow, "headroom": 0.0})]) == ["alpha.small"]


def test_members_cannot_depend_on_signals():
    """They change all the time."""
    assert "members cannot depend on in_flight" in str(faults(where="in_flight < 3")[0])


@pytest.fixture
def module(monkeypatch):
    """A module of the operator's."""
    made = types.ModuleType("operators_scores")
    made.thrifty = lambda facts: 10 - facts["pricing.input"] - facts["recovering"]  # type: ignore[attr-defined]
    made.broken = lambda facts: 1 / 0  # type: ignore[attr-defined]
    made.eager = lambda facts: 1 / facts["latency_ms"]  # type: ignore[attr-defined]
    made.eager.needs = {"signals"}  # type: ignore[attr-defined]
    made.constant = 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)


@pytest.mark.parametrize(("name", "needs"), [("thrifty", False), ("eager", True)])
def test_a_function_says_whether_it_goes_by_signals(module, name, needs):
    """By its attribute ``needs``, as strategies do."""
    score = build(score=f"operators_scores:{name}").pools["mine"].score
    assert score is not None

    assert score.needs_signals is needs


@pytest.mark.parametrize("path", ["operators_scores:thrifty", "operators_scores.thrifty"])
def test_a_score_may_be_a_function(module, path):
    """It gets all facts in one mapping."""
    score = build(score=path).pools["mine"].score

    assert score is not None
    assert score.of("alpha.large", {"recovering": True}) == 4


def test_a_function_that_fails_gives_no_score(module):
    """And is told of once, not for every request."""
    score = build(score="operators_scores:broken").pools["mine"].score
    assert score is not None

    with capture_logs() as logs:
        assert [score.of(name, {}) for name in ("alpha.small", "alpha.large")] == [None, None]
    assert len(logs) == 1


@pytest.mark.parametrize(
    ("pool", "fault"),
    [
        ({"where": "feature.vision"}, "pools.mine.where: column 1: unknown name 'feature.vision'; did you mean 'features.vision'?"),
        ({"where": "active"}, "pools.mine.where: members cannot depend on active"),
        ({"where": "1 +"}, "pools.mine.where: column"),
        ({"where": "constraints.context_window > 1000000"}, "pools.mine: has no model, or where and score"),
        ({"score": "0"}, "pools.mine: has no model, or where and score"),
        ({"score": "open('x')"}, "pools.mine.score: column 1: 'open', called like this"),
        ({"score": "features.visio"}, "pools.mine.score: column 1: unknown name"),
        ({"score": "nowhere.to.be:found"}, "pools.mine.score: 'nowhere.to.be:found' cannot be imported (ModuleNotFoundError)"),
        ({"score": "operators_scores:constant"}, "pools.mine.score: 'operators_scores:constant' is no function"),
        ({"score": "1", "strategy": "round-robin"}, "pools.mine.strategy: cannot be given together with score"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_path(module, pool, fault):
    """By `config check`, before a node runs with it; and only once."""
    told = faults(**pool)

    assert len(told) == 1
    assert told[0].startswith(fault)
