"""Zero-configuration: what the environment holds becomes providers, models and pools."""

from __future__ import annotations

import pytest

from shared_state.catalogue import spoken_profiles
from shared_state.catalogue.vendors import UNSPOKEN
from shared_state.config.environment import base_url_of
from shared_state.config.loader import config_from_environment
from shared_state.errors import ConfigurationError
from shared_state.topology import build_topology


def test_keys_bring_providers_models_and_pools():
    """One pool for each capability found, members in catalogue order."""
    config, notices = config_from_environment(
        {"MISTRAL_API_KEY": "key-m", "OPENAI_API_KEY": "key-o", "OTHER": "x"}
    )
    topology = build_topology(config)

    assert notices == []
    assert config.providers["openai"].api_key.get_secret_value() == "key-o"
    assert {name: [model.id for model in pool.models] for name, pool in topology.pools.items()} == {
        "chat-completion": [
            "openai.gpt-4o",
            "openai.gpt-4o-mini",
            "mistral.mistral-large-latest",
            "mistral.mistral-small-latest",
        ],
        "text-embeddings": ["openai.text-embedding-3-small", "mistral.mistral-embed"],
    }
    assert topology.models["openai.gpt-4o"].config.pricing.input == 2.5


def test_every_spoken_provider_at_once_is_a_sound_configuration():
    """The whole catalogue can be served from the environment alone."""
    environ = {
        profile.env_var: "10.0.0.1" if profile.is_local else "key"
        for profile in spoken_profiles()
        if profile.env_var
    }

    topology = build_topology(config_from_environment(environ).config)

    assert (
        len(topology.providers)
        == len(environ)
        == sum(profile.env_var is not None for profile in spoken_profiles())
    )
    assert topology.resolve("chat-completion").pools


def test_nothing_found_is_an_empty_configuration():
    """Blank variables count as absent, as compose files pass them."""
    config, notices = config_from_environment(
        {"OPENAI_API_KEY": " ", "OLLAMA_HOST": "", "GOOGLE_API_KEY": ""}
    )

    assert (config.providers, config.models, config.pools, notices) == ({}, {}, {}, [])


def test_providers_with_a_format_of_their_own_are_reported_as_skipped():
    """The user sees why the key has no effect."""
    environ = {variable: "key" for variable in UNSPOKEN.values() if variable}

    config, notices = config_from_environment(environ)

    assert config.providers == {}
    assert len(notices) == len(environ)
    assert notices[0] == (
        "GOOGLE_API_KEY is skipped: google.gemini.v1 is known but not spoken by this release yet"
    )


def test_keys_of_services_of_the_web_bring_pools_of_what_they_do():
    """Two searches and a reader, with what they cost."""
    environ = dict.fromkeys(("TAVILY_API_KEY", "SERPER_API_KEY", "FIRECRAWL_API_KEY"), "key")
    topology = build_topology(config_from_environment(environ).config)

    assert {name: [model.id for model in pool.models] for name, pool in topology.pools.items()} == {
        "web-search": ["tavily.tavily-search", "serper.serper-google-search"],
        "document-parsing": ["firecrawl.firecrawl-scrape"],
    }
    assert topology.models["tavily.tavily-search"].config.pricing.per_request == 0.01
    assert topology.resolve("content-extraction").pools == topology.resolve("document-parsing").pools


def test_local_server_without_default_models_is_reported():
    """Which models a vLLM serves, only its owner knows."""
    config, notices = config_from_environment({"VLLM_HOST": "gpu-1"})

    assert config.providers["vllm"].base_url == "http://gpu-1:8000/v1"
    assert notices == ["VLLM_HOST is set, but which models vllm serves must be configured"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("gpu-1", "http://gpu-1:11434/v1"),
        ("gpu-1:8000", "http://gpu-1:8000/v1"),
        ("http://gpu-1", "http://gpu-1/v1"),
        ("http://gpu-1:8000/", "http://gpu-1:8000/v1"),
        ("https://gpu.example.org/ollama/v1", "https://gpu.example.org/ollama/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000/v1"),
        (":8000", "http://127.0.0.1:8000/v1"),
        ("::1", "http://[::1]:11434/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("[::]:8000", "http://127.0.0.1:8000/v1"),
    ],
)
def test_host_variables_take_hosts_ports_and_urls(host, expected):
    """As Ollama reads its own variable; an address to listen on is no address to call."""
    assert base_url_of(host, default="http://127.0.0.1:11434/v1") == expected


@pytest.mark.parametrize("host", ["ftp://gpu-1", "gpu-1:port", "gpu-1:99999", "http://", "[::1", "gpu\x07"])
def test_host_that_is_none_is_skipped_with_a_notice(host):
    """One bad variable does not keep the others from being used."""
    config, notices = config_from_environment({"OLLAMA_HOST": host, "OPENAI_API_KEY": "key"})

    assert list(config.providers) == ["openai"]
    assert notices == ["OLLAMA_HOST is skipped: it is no host, host:port or http:// address"]


def test_key_that_cannot_be_one_is_refused():
    """A key with a space inside was pasted wrongly."""
    with pytest.raises(ConfigurationError, match=r"providers\.openai\.api_key"):
        config_from_environment({"OPENAI_API_KEY": "export OPENAI"})
