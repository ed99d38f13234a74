"""The connector catalogue: sound as data, helpful when asked for what it lacks."""

from __future__ import annotations

import pytest

from shared_state.capabilities import default_tree
from shared_state.catalogue import CatalogueError, connector_profile, selection_strategy, spoken_profiles
from shared_state.catalogue.vendors import OTHER_SPELLINGS, UNSPOKEN
from shared_state.config.models import FeaturesConfig


@pytest.mark.parametrize("profile", spoken_profiles(), ids=lambda profile: profile.id)
def test_entries_are_sound(profile):
    """Capabilities are leaves, features exist, addresses end without a slash, names are unique."""
    tree = default_tree()
    names = [model.name for model in profile.models]

    assert len(set(names)) == len(names)
    for model in profile.models:
        assert model.capabilities
        assert all(tree.get_node(tree.resolve_name(name)).is_leaf for name in model.capabilities)
        assert set(model.features) <= set(FeaturesConfig.model_fields)
    assert (
        set(profile.offers) >= {name for model in profile.models for name in model.capabilities}
        or not profile.offers
    )
    assert all(tree.get_node(tree.resolve_name(name)).is_leaf for name in profile.offers)
    assert profile.base_url is None or not profile.base_url.endswith("/")
    assert profile.requires_key == (profile.env_var is not None and not profile.is_local)


def test_ids_are_unique_and_never_both_spoken_and_not():
    """Every id has one meaning."""
    spoken = [profile.id for profile in spoken_profiles()]

    assert len(set(spoken)) == len(spoken)
    assert not set(spoken) & set(UNSPOKEN)
    assert all(known in {*spoken, *UNSPOKEN} for known in OTHER_SPELLINGS.values())


@pytest.mark.parametrize("name", ["openai.llm.v1", "provider.openai.llm.v1", "openai"])
def test_profiles_are_found_by_id_long_id_and_vendor(name):
    """Three spellings of one entry."""
    profile = connector_profile(name)

    assert (profile.id, profile.base_url) == ("openai.llm.v1", "https://api.openai.com/v1")


def test_older_ids_of_a_provider_still_lead_to_it():
    """Some pages print other ids for the same provider."""
    assert connector_profile("xai.api.v1").id == "xai.grok.v1"


def test_prices_are_per_million_tokens():
    """The documents give them per thousand."""
    model = connector_profile("openai.llm.v1").model("gpt-4o-mini")

    assert (model.price_input, model.price_output) == (0.15, 0.6)
    assert (model.context_window, model.max_output_tokens) == (128_000, 16_384)
    assert connector_profile("openai.llm.v1").model("gpt-99") is None


@pytest.mark.parametrize("name", ["google.gemini.v1", "cohere.api.v1", "google"])
def test_wire_formats_of_their_own_are_known_but_not_spoken(name):
    """A translated provider is no typing error."""
    with pytest.raises(CatalogueError, match="known but not spoken by this release yet"):
        connector_profile(name)


def test_claude_is_asked_by_its_own_api():
    """With its own header for the key; prices are per million tokens."""
    claude = connector_profile("anthropic")
    sonnet = claude.model("claude-sonnet-4-20250514")

    assert (claude.id, claude.base_url) == ("anthropic.claude.v1", "https://api.anthropic.com/v1")
    assert (claude.auth, claude.apis) == ("x-api-key", frozenset({"messages"}))
    assert (sonnet.context_window, sonnet.max_output_tokens) == (200_000, 16_384)
    assert (sonnet.price_input, sonnet.price_output) == (3.0, 15.0)


def test_unknown_connector_lists_the_known_ones():
    """The nearest first, then all."""
    with pytest.raises(CatalogueError, match=r"did you mean 'groq\.api\.v1'\?.*openai-compatible\.v1"):
        connector_profile("grok.api.v1")


@pytest.mark.parametrize(
    "name", ["round-robin", "modelmesh.round-robin.v1", "rotation.modelmesh.round-robin.v1"]
)
def test_strategies_have_short_names(name):
    """The short name is the id without vendor and version."""
    assert selection_strategy(name) == "modelmesh.round-robin.v1"


@pytest.mark.parametrize("name", ["my_package.strategies.Cheapest", "my_package.strategies:Cheapest"])
def test_a_class_path_is_its_own_id(name):
    """Whether there is such a class is found out by the nodes."""
    assert selection_strategy(name) == name


@pytest.mark.parametrize("name", ["round-robbin", "random", "", "a:b:c", "9.9"])
def test_unknown_strategies_are_refused_with_what_would_do(name):
    """The answer lists what is accepted."""
    with pytest.raises(
        CatalogueError, match=r"unknown strategy .*modelmesh\.stick-until-failure\.v1.*class path"
    ):
        selection_strategy(name)


def test_a_misspelt_strategy_is_told_the_nearest():
    """Before the list of all."""
    with pytest.raises(CatalogueError, match=r"did you mean 'modelmesh\.round-robin\.v1'\?"):
        selection_strategy("round-robbin")
