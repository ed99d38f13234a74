"""The OpenAI APIs that a node serves: what each needs of a body, and which models can answer it."""

from __future__ import annotations

from typing import Any, Final

from node.call import Surface
from shared_state.errors import RequestError

#: Nodes of the capability tree whose models do not hold a conversation.
_NOT_CHAT: Final = (
    "representation.",
    "generation.image-generation.",
    "generation.audio-generation.",
    "generation.video-generation.",
    "understanding.audio-understanding.",
    "transformation.image-editing.",
    "transformation.audio-processing.",
    "retrieval.reranking",
)
_EMBEDDINGS: Final = "representation.embeddings."


def _chats(capabilities: frozenset[str]) -> bool:
    return any(not path.startswith(_NOT_CHAT) for path in capabilities)


def _embeds(capabilities: frozenset[str]) -> bool:
    return any(path.startswith(_EMBEDDINGS) for path in capabilities)


def _check_chat(fields: dict[str, Any]) -> None:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("'messages' must be a non-empty array", param="messages")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise RequestError("each of 'messages' must be an object with a 'role'", param="messages")
    if not isinstance(fields.get("stream"), bool | None):
        raise RequestError("'stream' must be a boolean", param="stream")
    if not isinstance(fields.get("stream_options"), dict | None):
        raise RequestError("'stream_options' must be an object", param="stream_options")
    for name in ("max_tokens", "max_completion_tokens", "n"):
        value = fields.get(name)
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31
        ):
            raise RequestError(f"'{name}' must be a positive integer", param=name)


def _most_chat_output(fields: dict[str, Any]) -> int | None:
    stated = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return None if stated is None else int(stated) * int(fields.get("n") or 1)


def _check_embeddings(fields: dict[str, Any]) -> None:
    given = fields.get("input")
    if not isinstance(given, (str, list)) or not given:
        raise RequestError("'input' must be a non-empty string or array", param="input")


def _no_output(_: dict[str, Any]) -> int | None:
    return 0


CHAT: Final = Surface(
    "chat completions", "/chat/completions", "choices", True, _chats, _check_chat, _most_chat_output
)
EMBEDDINGS: Final = Surface(
    "embeddings", "/embeddings", "data", False, _embeds, _check_embeddings, _no_output
)
SURFACES: Final = (CHAT, EMBEDDINGS)
