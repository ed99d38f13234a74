"""The APIs of a node: which models can answer, and how much a body allows."""

from __future__ import annotations

from typing import Any

import pytest

from node.api.surfaces import CHAT, EMBEDDINGS, SURFACES
from shared_state.capabilities import default_tree

TREE = default_tree()


def leaf(name: str) -> frozenset[str]:
    path = TREE.resolve_name(name)
    assert path is not None
    return frozenset({path})


@pytest.mark.parametrize(
    ("capability", "chats", "embeds"),
    [
        ("chat-completion", True, False),
        ("text-embeddings", False, True),
        ("text-to-image", False, False),
        ("text-to-speech", False, False),
    ],
)
def test_a_model_serves_the_apis_of_its_capabilities(capability: str, chats: bool, embeds: bool) -> None:
    """An image model is not asked to chat."""
    assert CHAT.serves(leaf(capability)) is chats
    assert EMBEDDINGS.serves(leaf(capability)) is embeds


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


def test_paths_are_those_of_the_api() -> None:
    """Behind the provider's base URL, and behind ours."""
    assert [surface.path for surface in SURFACES] == [
        "/chat/completions",
        "/embeddings",
        "/completions",
        "/moderations",
        "/rerank",
    ]
