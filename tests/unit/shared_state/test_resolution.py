"""What the name in a request means, in the order that the contract gives."""

from __future__ import annotations

import time

import pytest

from shared_state.config import MeshConfig
from shared_state.errors import ModelNotFoundError
from shared_state.topology import Topology, build_topology

PROVIDER = {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9001/v1"}


def build(models: dict[str, list[str] | dict], pools: dict) -> Topology:
    entries = {
        name: {"provider": name.partition(".")[0], "capabilities": leaves}
        if isinstance(leaves, list)
        else leaves
        for name, leaves in models.items()
    }
    providers = {entry["provider"]: PROVIDER for entry in entries.values()}
    return build_topology(
        MeshConfig.model_validate({"providers": providers, "models": entries, "pools": pools})
    )


def meaning(topology: Topology, name: str) -> tuple[list[str], list[str] | None]:
    """Ids of the pools, and of the models that alone fit."""
    resolution = topology.resolve(name)
    models = resolution.models
    return [pool.id for pool in resolution.pools], None if models is None else [model.id for model in models]


def members(topology: Topology, name: str) -> list[str]:
    return [model.id for pool in topology.resolve(name).pools for model in pool.models]


@pytest.fixture
def topology() -> Topology:
    return build(
        {
            "a.chat": ["chat-completion"],
            "a.code": ["chat-completion", "code-generation"],
            "b.image": ["text-to-image"],
            "b.embed": ["text-embeddings"],
            "b.lonely": ["ocr"],
            "b.seer": ["ocr", "image-captioning"],
        },
        {
            "generation": {},
            "text": {"capability": "text-generation", "strategy": "round-robin"},
            "coders": {"capability": "code-generation"},
            "chat": {"capability": "chat-completion"},
            "favourites": {"models": ["b.embed", "a.chat"]},
        },
    )


def test_pool_id_comes_first(topology):
    """Even before a capability or model of the same name."""
    confusing = build(
        {"a.m": ["ocr"], "a.n": ["chat-completion"]},
        {"chat-completion": {"models": ["a.m"]}, "a.n": {"models": ["a.m"]}},
    )

    assert meaning(topology, "generation") == (["generation"], None)
    assert members(confusing, "chat-completion") == ["a.m"]
    assert members(confusing, "a.n") == ["a.m"]


def test_model_is_served_through_the_first_pool_that_holds_it(topology):
    """With that pool's rules, and no other model."""
    assert meaning(topology, "a.chat") == (["generation"], ["a.chat"])
    assert meaning(topology, "b.embed") == (["favourites"], ["b.embed"])


def test_model_in_no_pool_gets_one_of_its_own(topology):
    """With default rules."""
    resolution = topology.resolve("b.lonely")

    assert meaning(topology, "b.lonely") == (["b.lonely"], ["b.lonely"])
    assert members(topology, "b.lonely") == ["b.lonely"]
    assert resolution.pools[0].strategy == "modelmesh.stick-until-failure.v1"
    assert resolution.pools[0].config.retry.max_attempts == 3


def test_provider_and_upstream_name_the_model():
    """Whatever the upstream name holds, slashes included."""
    topology = build(
        {
            "short": {"provider": "or", "upstream": "vendor/model:free", "capabilities": ["chat-completion"]},
            "or.plain": ["chat-completion"],
        },
        {"chat-completion": {}},
    )

    assert meaning(topology, "or/vendor/model:free") == (["chat-completion"], ["short"])
    assert meaning(topology, "or/plain") == (["chat-completion"], ["or.plain"])


def test_model_id_comes_before_provider_and_upstream():
    """An id may look like another model's long name."""
    topology = build(
        {"a.x": ["ocr"], "a/x": {"provider": "b", "capabilities": ["ocr"]}},
        {},
    )

    assert meaning(topology, "a/x")[1] == ["a/x"]
    assert meaning(topology, "b/a/x")[1] == ["a/x"]


@pytest.mark.parametrize(
    "name", ["chat-completion", "generation.text-generation.chat-completion"], ids=["alias", "path"]
)
def test_leaf_means_pools_at_and_above_most_specific_first(topology, name):
    """Pools above offer only their models that fit."""
    assert meaning(topology, name) == (["chat", "text", "generation"], ["a.chat", "a.code"])


def test_inner_node_means_pools_at_above_and_then_below(topology):
    """Pools below follow in the order of the configuration."""
    pools, models = meaning(topology, "text-generation")

    assert pools == ["text", "generation", "coders", "chat"]
    assert models == ["a.chat", "a.code"]


def test_category_without_a_pool_of_its_own_means_the_pools_below():
    """All their models fit, so nothing is excluded."""
    topology = build(
        {"a.say": ["text-to-speech"], "a.draw": ["text-to-image"]},
        {"speech": {"capability": "text-to-speech"}, "images": {"capability": "image-generation"}},
    )

    assert meaning(topology, "generation") == (["speech", "images"], None)


def test_pool_above_without_any_fitting_model_still_serves():
    """As the contract says: the pool's node covers the name, and it is all there is."""
    topology = build({"a.chat": ["chat-completion"]}, {"text-generation": {}})

    assert meaning(topology, "code-generation") == (["text-generation"], None)


def test_pool_above_without_any_fitting_model_yields_to_one_that_has_some():
    """It would only be asked in vain."""
    topology = build(
        {"a.chat": ["chat-completion"], "b.draw": ["text-to-image"]},
        {"generation": {"providers": ["a"]}, "images": {"capability": "image-generation"}},
    )

    assert meaning(topology, "text-to-image") == (["images"], ["b.draw"])


def test_capability_without_a_pool_means_every_model_under_it(topology):
    """Served by an implied pool with default rules."""
    resolution = topology.resolve("vision-understanding")

    assert members(topology, "vision-understanding") == ["b.lonely", "b.seer"]
    assert resolution.models is None
    assert resolution.pools[0].id == resolution.pools[0].capability == "understanding.vision-understanding"
    assert members(topology, "image-to-text") == ["b.seer"]


def test_plain_lists_of_models_serve_no_capability(topology):
    """``favourites`` holds the only embedding model, but stands at no node."""
    assert meaning(topology, "text-embeddings") == (["representation.embeddings.text-embeddings"], None)


def test_answers_are_kept(topology):
    """The same name yields the same objects, so that implied pools keep their identity."""
    assert topology.resolve("ocr") is topology.resolve("ocr")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("a.chatt", "a.chat"),
        ("gpt-4o", None),
        ("lonely", "b.lonely"),
        ("A.CHAT", "a.chat"),
        ("chat-complete", "chat-completion"),
        ("", None),
    ],
)
def test_unknown_name_is_not_found_with_near_names(topology, name, near):
    """404, the parameter named, and a few names that could have been meant."""
    with pytest.raises(ModelNotFoundError) as caught:
        topology.resolve(name)

    assert (caught.value.http_status, caught.value.code, caught.value.param) == (
        404,
        "model_not_found",
        "model",
    )
    assert ("near names" in str(caught.value)) == (near is not None)
    assert near is None or near in str(caught.value)


def test_known_capability_that_nobody_offers_is_not_found(topology):
    """The name is right, the mesh cannot do it."""
    with pytest.raises(ModelNotFoundError, match=r"no model here offers .*speech-to-text"):
        topology.resolve("speech-to-text")


def test_nonsense_costs_little_and_is_not_kept():
    """Anyone may ask for anything: the answer is bounded in size and time, and leaves nothing behind."""
    topology = build(
        {f"p.model-{n}-{n * n}": ["chat-completion"] for n in range(3000)}, {"chat-completion": {}}
    )
    started = time.process_time()
    for n in range(20):
        with pytest.raises(ModelNotFoundError) as caught:
            topology.resolve(f"model{n}-{'x' * 100_000}\n")

    assert time.process_time() - started < 1.0
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    assert not topology._resolutions
