"""The APIs of a node: which models can answer, and how much a body allows."""

from __future__ import annotations

from typing import Any

import pytest

from node.api.surfaces import CHAT, COMPLETIONS, EMBEDDINGS, SURFACES
from shared_state.capabilities import default_tree
from tests.unit.node.house import mesh

TREE = default_tree()


def leaf(name: str) -> frozenset[str]:
    path = TREE.resolve_name(name)
    assert path is not None
    return frozenset({path})


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("chat-completion", {"chat completions", "completions", "responses", "messages"}),
        ("text-completion", {"chat completions", "completions", "responses", "messages"}),
        ("text-embeddings", {"embeddings"}),
        ("content-moderation", {"moderations"}),
        ("reranking", {"rerank"}),
        ("text-to-speech", {"speech"}),
        ("speech-to-text", {"transcriptions", "translations"}),
        ("text-to-image", {"image generations", "image edits", "image variations"}),
        ("upscaling", {"image edits", "image variations"}),
        ("web-search", {"search"}),
        ("semantic-search", {"search"}),
        ("text-to-video", set()),
    ],
)
def test_a_model_serves_the_apis_of_its_capabilities(capability: str, expected: set[str]) -> None:
    """An image model is not asked to chat."""
    assert {surface.name for surface in SURFACES if surface.serves(leaf(capability))} == expected


def test_a_service_of_the_web_holds_no_conversation() -> None:
    """It reads documents as some chat models do; it is not asked to talk about them. What else it does it is asked for."""
    topology = mesh(
        "tavily.x",
        "jina.x",
        "alpha.x",
        differing={
            "tavily.x": {"capabilities": ["document-parsing", "web-search"]},
            "jina.x": {"capabilities": ["document-parsing", "reranking"]},
            "alpha.x": {"capabilities": ["document-parsing"]},
        },
        providers={
            "tavily": {"connector": "tavily", "api_key": "k"},
            "jina": {"connector": "jina", "api_key": "k"},
            "alpha": {"connector": "openai-compatible.v1", "base_url": "http://alpha/v1"},
        },
    )
    served = {
        name: {surface.name for surface in SURFACES if surface.suits(model)}
        for name, model in topology.models.items()
    }

    assert served["tavily.x"] == {"search", "scrape"}
    assert served["jina.x"] == {"scrape", "rerank"}
    assert {"chat completions", "scrape"} < served["alpha.x"]


def test_one_capability_is_enough() -> None:
    """A model may do many things."""
    both = leaf("chat-completion") | leaf("text-embeddings")

    assert CHAT.serves(both)
    assert EMBEDDINGS.serves(both)
    assert not CHAT.serves(frozenset())


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, None),
        ({"n": 4}, None),
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "n": 4}, 40),
        ({"max_completion_tokens": 20, "max_tokens": 10}, 20),
        ({"max_completion_tokens": None, "max_tokens": 10, "n": None}, 10),
    ],
)
def test_a_chat_says_how_much_may_come(fields: dict[str, Any], most: int | None) -> None:
    """For each of its answers, by either name."""
    assert CHAT.most_output(fields) == most


@pytest.mark.parametrize(
    ("fields", "most", "answers"),
    [
        ({"prompt": "a"}, None, 1),
        ({"prompt": "a", "max_tokens": 0}, 0, 1),
        ({"prompt": "a", "max_tokens": 10, "n": 2}, 20, 2),
        ({"prompt": "a", "max_tokens": 10, "n": 2, "best_of": 5}, 50, 5),
        ({"prompt": ["a", "b"], "max_tokens": 10, "n": 2}, 40, 4),
        ({"prompt": [1, 2, 3], "max_tokens": 10}, 10, 1),
        ({"prompt": [[1, 2], [3]], "max_tokens": 10}, 20, 2),
    ],
)
def test_a_completion_says_how_much_may_come(fields: dict[str, Any], most: int | None, answers: int) -> None:
    """For each prompt, and for those that are thrown away as well."""
    assert COMPLETIONS.most_output(fields) == most
    assert COMPLETIONS.answers(fields) == answers


def test_paths_are_those_of_the_api() -> None:
    """Behind the provider's base URL, and behind ours."""
    assert {surface.path for surface in SURFACES} == {
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/images/generations",
        "/images/edits",
        "/images/variations",
        "/audio/speech",
        "/audio/transcriptions",
        "/audio/translations",
        "/messages",
        "/moderations",
        "/rerank",
        "/responses",
        "/search",
        "/scrape",
    }
