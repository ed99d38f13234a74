"""What a listed model becomes in the configuration."""

from __future__ import annotations

from typing import Any

from scheduler.jobs.registration import common_capabilities, entry_of
from shared_state.config import MeshConfig
from shared_state.shapes.listing import ListedModel
from shared_state.topology import Topology, build_topology


def topology(*capabilities: list[str], connector: str = "openai-compatible.v1") -> Topology:
    provider = {"connector": connector, "base_url": "http://127.0.0.1:9/v1", "api_key": "k"}
    models = {f"a.m{i}": {"provider": "a", "capabilities": own} for i, own in enumerate(capabilities)}
    return build_topology(MeshConfig.model_validate({"providers": {"a": provider}, "models": models}))


def entry(mesh: Topology, name: str = "new", **said: Any) -> dict[str, Any] | None:
    common = common_capabilities(list(mesh.models.values()))
    return entry_of(ListedModel(id=name, **said), mesh.providers["a"], common)


def test_a_new_model_can_do_what_all_others_of_its_provider_can():
    """Sizes and prices are as listed."""
    mesh = topology(["chat-completion"], ["chat-completion"])
    made = entry(mesh, context_window=8192, price_input=1.0, price_output=2.0)

    assert made == {
        "provider": "a",
        "upstream": "new",
        "capabilities": [next(iter(mesh.models["a.m0"].capabilities))],
        "constraints": {"context_window": 8192},
        "pricing": {"input": 1.0, "output": 2.0},
    }


def test_of_a_mixed_provider_nobody_can_tell():
    """Nor of one without models: an embedding model must not be asked to chat."""
    assert entry(topology(["chat-completion"], ["text-embeddings"])) is None
    assert entry(topology()) is None


def test_what_the_catalogue_knows_needs_no_guess():
    """Its capabilities are inherited, as everywhere."""
    mesh = topology(["chat-completion"], ["text-embeddings"], connector="openai.llm.v1")
    known = mesh.providers["a"].connector.models[0].name

    assert entry(mesh, known) == {"provider": "a", "upstream": known}


def test_what_is_on_its_way_out_is_not_registered():
    """Nor what does not serve."""
    mesh = topology(["chat-completion"])

    assert entry(mesh, is_deprecated=True) is None
    assert entry(mesh, is_active=False) is None
