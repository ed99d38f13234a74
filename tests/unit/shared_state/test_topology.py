"""From configuration to topology: inheritance, membership, domains, and faults across sections."""

from __future__ import annotations

import dataclasses

import pytest

from shared_state.config import MeshConfig
from shared_state.config.loader import read_config
from shared_state.config.strategies import OPTIONS
from shared_state.errors import ConfigurationError
from shared_state.topology import Topology, build_topology

COMPATIBLE = {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9001/v1"}
OPENAI = {"connector": "openai.llm.v1", "api_key": "sk-1"}
CHAT = "generation.text-generation.chat-completion"


def build(providers: dict, models: dict, pools: dict | None = None, **sections) -> Topology:
    document = {"providers": providers, "models": models, "pools": pools or {}, **sections}
    return build_topology(MeshConfig.model_validate(document))


def faults_of(*arguments, **sections) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        build(*arguments, **sections)
    return caught.value.faults


def chat_model(provider: str = "alpha", **more) -> dict:
    return {"provider": provider, "capabilities": ["chat-completion"], **more}


def members(topology: Topology, pool: str) -> list[str]:
    return [model.id for model in topology.pools[pool].models]


@pytest.mark.parametrize(
    ("model_id", "more", "upstream"),
    [
        ("alpha.small", {}, "small"),
        ("alpha.small", {"upstream": "small-1"}, "small-1"),
        ("llama-3.3-70b", {}, "llama-3.3-70b"),
        ("alphabet.small", {}, "alphabet.small"),
        ("alpha.alpha.small", {}, "alpha.small"),
    ],
)
def test_upstream_name_is_the_id_without_the_provider_prefix(model_id, more, upstream):
    """Only the provider's own name is a prefix; a dot in a version number is not."""
    topology = build({"alpha": COMPATIBLE}, {model_id: chat_model(**more)})

    assert topology.models[model_id].upstream == upstream


def test_model_inherits_what_it_omits_from_the_catalogue():
    """Capabilities, sizes, prices and known features; what is configured stays."""
    topology = build(
        {"mine": OPENAI},
        {
            "mine.gpt-4o": {"provider": "mine"},
            "cheap": {
                "provider": "mine",
                "upstream": "gpt-4o",
                "capabilities": ["code-generation"],
                "constraints": {"max_output_tokens": 100},
                "pricing": {},
                "features": {"vision": False},
            },
        },
    )
    plain, custom = topology.models["mine.gpt-4o"], topology.models["cheap"]

    assert plain.capabilities == {CHAT}
    assert plain.config.constraints.context_window == 128_000
    assert (plain.config.pricing.input, plain.config.pricing.output) == (2.5, 10.0)
    assert (plain.config.features.vision, plain.config.features.reasoning) == (True, None)
    assert custom.capabilities == {"generation.text-generation.code-generation"}
    assert (custom.config.constraints.context_window, custom.config.constraints.max_output_tokens) == (
        128_000,
        100,
    )
    assert custom.config.pricing.input == 0.0
    assert (custom.config.features.vision, custom.config.features.tool_calling) == (False, True)


def test_model_without_capability_anywhere_is_a_fault_that_names_the_fix():
    """The catalogue cannot know what a private model does."""
    assert faults_of({"alpha": COMPATIBLE}, {"alpha.x": {"provider": "alpha"}}) == [
        "models.alpha.x.capabilities: are needed: the catalogue does not know 'x' of provider 'alpha';"
        " write for instance [chat-completion]"
    ]


def test_a_service_of_the_web_offers_what_it_does_and_nothing_else():
    """A search engine that is to chat would never be asked anything."""
    models = {
        "tavily.x": {"provider": "tavily", "capabilities": ["web-search", "chat-completion"]},
        "jina.y": {"provider": "jina", "capabilities": ["web-search", "reranking"]},
    }

    assert faults_of({"tavily": {"api_key": "k"}, "jina": {"api_key": "k"}}, models) == [
        "models.tavily.x.capabilities: connector tavily.search.v1 offers no"
        " generation.text-generation.chat-completion; it offers: web-search, document-parsing"
    ]


def test_provider_takes_address_and_connector_from_the_catalogue():
    """The entry's own name will do as connector; what is configured wins."""
    topology = build(
        {"openai": {"api_key": "sk-1"}, "proxy": {**OPENAI, "base_url": "http://10.0.0.1/v1/"}},
        {"openai.gpt-4o": {"provider": "openai"}},
    )

    assert topology.providers["openai"].base_url == "https://api.openai.com/v1"
    assert topology.providers["openai"].connector.id == "openai.llm.v1"
    assert topology.providers["proxy"].base_url == "http://10.0.0.1/v1"
    assert topology.providers["proxy"].api_key.get_secret_value() == "sk-1"


def test_members_stand_in_the_order_of_the_models_section():
    """Capability members first, then explicit extras in their own order, none twice."""
    models = {f"m{n}": chat_model() for n in range(3)}
    models["e2"] = models["e1"] = {"provider": "alpha", "capabilities": ["ocr"]}
    topology = build(
        {"alpha": COMPATIBLE},
        models,
        {
            "chat-completion": {},
            "hybrid": {"capability": "text-generation", "models": ["e1", "m1", "e2", "e1"]},
            "listed": {"models": ["m2", "m0"]},
        },
    )

    assert members(topology, "chat-completion") == ["m0", "m1", "m2"]
    assert members(topology, "hybrid") == ["m0", "m1", "m2", "e1", "e2"]
    assert members(topology, "listed") == ["m2", "m0"]
    assert topology.pools["hybrid"].capability == "generation.text-generation"
    assert topology.pools["listed"].capability is None


def test_provider_filters_apply_to_matched_members_only():
    """An explicit entry needs no permission."""
    providers = {"a": COMPATIBLE, "b": COMPATIBLE, "c": COMPATIBLE}
    models = {f"{name}.m": chat_model(name) for name in providers}
    topology = build(
        providers,
        models,
        {
            "only": {"capability": "chat-completion", "providers": ["c", "a"]},
            "but": {"capability": "chat-completion", "excluded_providers": ["a"]},
            "both": {"capability": "chat-completion", "providers": ["b"], "models": ["a.m"]},
        },
    )

    assert members(topology, "only") == ["a.m", "c.m"]
    assert members(topology, "but") == ["b.m", "c.m"]
    assert members(topology, "both") == ["b.m", "a.m"]


def test_inner_nodes_gather_every_leaf_below():
    """A pool on a category holds what any of its leaves would."""
    topology = build(
        {"alpha": COMPATIBLE},
        {"see": {"provider": "alpha", "capabilities": ["ocr", "text-to-image"]}, "talk": chat_model()},
        {"understanding": {}, "generation": {}, "all": {"capability": "generation", "models": ["see"]}},
    )

    assert members(topology, "understanding") == ["see"]
    assert members(topology, "generation") == ["see", "talk"]


def test_disabled_provider_drops_out_with_its_models():
    """Its faults do not matter, and a pool that it leaves empty is explained."""
    topology = build(
        {"alpha": COMPATIBLE, "off": {"enabled": False, "connector": "google.gemini.v1"}},
        {
            "alpha.m": chat_model(),
            "off.m": chat_model("off"),
            "off.eye": {"provider": "off", "capabilities": ["ocr"]},
        },
        {"chat-completion": {}, "ocr": {}, "listed": {"models": ["off.m"]}},
    )

    assert list(topology.providers) == list(topology.domains) == ["alpha"]
    assert list(topology.models) == ["alpha.m"]
    assert members(topology, "chat-completion") == ["alpha.m"]
    assert members(topology, "ocr") == members(topology, "listed") == []


def test_providers_of_one_account_share_a_domain_and_its_limits():
    """What one entry says holds for all that share the account."""
    topology = build(
        {
            "a": {**COMPATIBLE, "quota_domain": "team", "limits": {"rpm": 5}},
            "b": {**COMPATIBLE, "quota_domain": "team", "limits": {"tpm": 100, "rpm": 5}},
            "c": COMPATIBLE,
        },
        {"a.m": chat_model("a"), "b.m": chat_model("b"), "c.m": chat_model("c")},
    )
    team = topology.domains["team"]

    assert list(topology.domains) == ["team", "c"]
    assert [provider.id for provider in team.providers] == ["a", "b"]
    assert [model.id for model in team.models] == ["a.m", "b.m"]
    assert (team.limits.rpm, team.limits.tpm) == (5, 100)
    assert all(provider.config.limits == team.limits for provider in team.providers)
    assert topology.models["b.m"].domain == "team"


def test_conflicting_limits_of_one_account_are_a_fault():
    """An entry that is disabled has no say."""
    shared = {**COMPATIBLE, "quota_domain": "team"}
    providers = {
        "a": {**shared, "limits": {"rpm": 5}},
        "b": {**shared, "limits": {"rpm": 6}},
        "c": {**shared, "limits": {"rpm": 7}, "enabled": False},
    }

    assert faults_of(providers, {}) == [
        "providers.b.limits.rpm: 6 differs from 5 of provider 'a', which shares quota domain 'team'"
    ]


def test_custom_capabilities_and_aliases():
    """New nodes serve like the others; a promoted leaf takes no models any more."""
    extended = {"nodes": ["finance.risk", f"{CHAT}.role-play"], "aliases": {"risk-scoring": "finance.risk"}}
    models = {"m": {"provider": "alpha", "capabilities": ["risk-scoring", "role-play"]}}
    topology = build({"alpha": COMPATIBLE}, models, {"finance": {}}, capabilities=extended)

    assert topology.models["m"].capabilities == {"finance.risk", f"{CHAT}.role-play"}
    assert members(topology, "finance") == ["m"]
    assert faults_of({"alpha": COMPATIBLE}, {"m": chat_model()}, capabilities=extended) == [
        "models.m.capabilities[0]: 'chat-completion' is no leaf of the tree; models offer leaves: role-play"
    ]


@pytest.mark.parametrize(
    ("providers", "models", "pools", "fault"),
    [
        ({"alpha": COMPATIBLE}, {"m": chat_model("alhpa")}, {}, "models.m.provider: unknown provider 'alhpa'; did you mean 'alpha'?"),
        ({}, {"m": chat_model("alpha")}, {}, "models.m.provider: unknown provider 'alpha'; there are none"),
        (
            {"alpha": COMPATIBLE},
            {"m": {"provider": "alpha", "capabilities": ["chat-completio"]}},
            {},
            "models.m.capabilities[0]: unknown capability 'chat-completio'; did you mean 'chat-completion'?"
            " (capabilities.nodes declares new ones)",
        ),
        (
            {"alpha": COMPATIBLE},
            {"m": {"provider": "alpha", "capabilities": ["rag"]}},
            {},
            "models.m.capabilities[0]: 'rag' is no leaf of the tree;"
            " models offer leaves: retrieval-augmented-generation, grounded-generation",
        ),
        ({"alpha": COMPATIBLE}, {"m": chat_model()}, {"p": {"models": ["n"]}}, "pools.p.models[0]: unknown model 'n'; known: m"),
        (
            {"alpha": COMPATIBLE},
            {"m": chat_model()},
            {"chat-completion": {"providers": ["beta"]}},
            "pools.chat-completion.providers[0]: unknown provider 'beta'; known: alpha",
        ),
        (
            {"alpha": COMPATIBLE},
            {"m": chat_model()},
            {"chat-completion": {"excluded_providers": ["zzz"]}},
            "pools.chat-completion.excluded_providers[0]: unknown provider 'zzz'; known: alpha",
        ),
        (
            {"alpha": COMPATIBLE},
            {"m": chat_model()},
            {"p": {"capability": "generation.text-generatoin"}},
            "pools.p.capability: unknown capability 'generation.text-generatoin'; did you mean"
            " 'generation.text-generation'? (capabilities.nodes declares new ones)",
        ),
        (
            {"alpha": COMPATIBLE},
            {"m": chat_model()},
            {"text-genaration": {}},
            "pools.text-genaration: names neither a capability nor models, and its own name is no capability;"
            " did you mean 'text-generation'?",
        ),
        (
            {"alpha": COMPATIBLE},
            {"m": chat_model()},
            {"p": {"capability": "ocr"}},
            "pools.p: has no model: none offers understanding.vision-understanding.ocr",
        ),
        (
            {"alpha": COMPATIBLE},
            {"m": chat_model()},
            {"chat-completion": {"strategy": "random"}},
            f"pools.chat-completion.strategy: unknown strategy 'random'; use one of: {', '.join(OPTIONS)};"
            " or a class path package.module:Class",
        ),
        (
            {"alpha": {"connector": "openai-compatible.v1"}},
            {"m": chat_model()},
            {},
            "providers.alpha.base_url: is needed: connector openai-compatible.v1 has no address of its own",
        ),
        (
            {"alpha": {"connector": "groq.api.v1"}},
            {},
            {},
            "providers.alpha.api_key: is needed by connector groq.api.v1, for instance ${secrets:GROQ_API_KEY}",
        ),
        (
            {"alpha": {"connector": "google.gemini.v1"}},
            {},
            {},
            "providers.alpha.connector: connector 'google.gemini.v1' is known but not spoken by this release yet",
        ),
        ({"alpha": {**COMPATIBLE, "base_url": "http://:80/v1"}}, {}, {}, "providers.alpha.base_url: must be an address such as https://api.example.com/v1"),
        ({"alpha": {**COMPATIBLE, "base_url": "http://x:99999/v1"}}, {}, {}, "providers.alpha.base_url: must be an address such as https://api.example.com/v1"),
        ({"alpha": {**COMPATIBLE, "base_url": "http://x/v1 y"}}, {}, {}, "providers.alpha.base_url: must be an address such as https://api.example.com/v1"),
        ({"alpha": {**COMPATIBLE, "api_key": "a\nb"}}, {}, {}, "providers.alpha.api_key: holds a space, a line break or another character that a header cannot carry"),
        ({"al pha": COMPATIBLE}, {}, {}, "providers.al pha: a name must not hold spaces"),
        ({"al{pha": COMPATIBLE}, {}, {}, "providers.al{pha: a provider's name and a quota domain must not hold braces"),
        ({"alpha": {**COMPATIBLE, "quota_domain": "a b"}}, {}, {}, "providers.alpha.quota_domain: a name must not hold spaces"),
        ({"alpha": COMPATIBLE}, {"m" * 129: chat_model()}, {}, f"models.{'m' * 129}: a name must have 1 to 128 characters, not 129"),
        ({"alpha": COMPATIBLE}, {"m\n": chat_model(), "n": chat_model()}, {}, "models.'m\\n': a name must not hold control characters"),
        ({"alpha": COMPATIBLE}, {"m": chat_model()}, {"a\tb": {"models": ["m"]}}, "pools.'a\\tb': a name must not hold control characters"),
    ],
)  # fmt: skip
def test_faults_across_sections(providers, models, pools, fault):
    """Each names the entry, what was seen, and what would do."""
    assert fault in faults_of(providers, models, pools)


def test_connector_must_be_told_if_the_name_says_nothing():
    """An entry of any name can speak to anything, once it says how."""
    (fault,) = faults_of({"alpha": {}}, {})

    assert fault.startswith("providers.alpha.connector: is missing, and the entry's own name is no connector")
    assert "openai-compatible.v1" in fault


def test_faults_of_custom_capabilities():
    """Malformed nodes and lost aliases have their place."""
    faults = faults_of(
        {}, {}, capabilities={"nodes": ["Finance"], "aliases": {"generation": "ocr", "lost": "nowhere"}}
    )

    assert faults == [
        "capabilities.nodes[0]: 'Finance' is no capability path: use lower-case names joined by dots",
        "capabilities.aliases.generation: 'generation' is a capability of its own and cannot be an alias",
        "capabilities.aliases.lost: 'nowhere' is no capability",
    ]


def test_pool_names_are_free():
    """Spaces and other scripts are fine in a pool's name."""
    assert build({"alpha": COMPATIBLE}, {"m": chat_model()}, {"große Modelle": {"models": ["m"]}}).pools


def test_nothing_configured_is_an_empty_topology():
    """Zero-configuration without a key ends here, and is no fault."""
    topology = build({}, {})

    assert not (topology.models or topology.providers or topology.pools or topology.domains)


def test_topology_cannot_be_changed():
    """It is shared by all requests; specs compare by identity."""
    topology = build({"alpha": COMPATIBLE}, {"m": chat_model()})

    with pytest.raises(dataclasses.FrozenInstanceError):
        topology.models["m"].upstream = "other"
    with pytest.raises(TypeError):
        topology.models["n"] = topology.models["m"]
    assert topology.models["m"] in {topology.models["m"]}


def test_loader_runs_the_same_checks():
    """What the loader lets through, the topology can be built from."""
    document = {"providers": {"alpha": COMPATIBLE}, "models": {"m": chat_model()}}

    topology = build_topology(read_config(document, environ={}))

    assert len(topology.version) == 12


@pytest.mark.parametrize("kind", ["context_window", "content_policy"])
def test_fallbacks_name_models_and_other_pools(kind):
    """What a call may go on to must exist; a pool is no way out of itself."""
    models = {"alpha.small": chat_model(), "alpha.large": chat_model()}

    def pools(*names: str) -> dict:
        return {
            "chat": {"models": ["alpha.small"], "fallbacks": {kind: list(names)}},
            "long": {"models": ["alpha.large"]},
        }

    build({"alpha": COMPATIBLE}, models, pools("long", "alpha.large"))
    assert faults_of({"alpha": COMPATIBLE}, models, pools("long", "alpha.larg", "chat")) == [
        f"pools.chat.fallbacks.{kind}[1]: unknown model or pool 'alpha.larg'; did you mean 'alpha.large'?",
        f"pools.chat.fallbacks.{kind}[2]: a pool cannot fall back to itself",
    ]
