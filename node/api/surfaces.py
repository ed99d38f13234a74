"""The APIs that a node serves: what each needs of a body, and which models can answer it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson

from node.api.checks import (
    check_chat,
    check_completion,
    check_image,
    check_input,
    check_message,
    check_messages,
    check_rerank,
    check_response,
    check_speech,
    check_transcription,
    check_variation,
)
from node.api.web_checks import check_scrape, check_search
from node.call import EventShape, Fields, Kind, Surface, Voice
from node.routing.web_needs import scrape_wants, search_wants
from node.routing.weight import weigh_text
from shared_state.capabilities.catalogue import PAGE_READING, WEB_SEARCH

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
    "retrieval.search.",
    "evaluation.content-moderation",
    "evaluation.toxicity-detection",
)
_EMBEDDINGS: Final = ("representation.embeddings.",)
_MODERATION: Final = ("evaluation.content-moderation", "evaluation.toxicity-detection")
_RERANKING: Final = ("retrieval.reranking",)
_SPEAKS: Final = ("generation.audio-generation.",)
_HEARS: Final = ("understanding.audio-understanding.",)
_DRAWS: Final = ("generation.image-generation.",)
_EDITS: Final = ("generation.image-generation.", "transformation.image-editing.")
#: Formats of a transcription that are no JSON.
_TEXTS: Final = frozenset({"text", "srt", "vtt"})
_ANTHROPICS_HEADERS: Final = frozenset({b"anthropic-version", b"anthropic-beta"})


def _chats(capabilities: frozenset[str]) -> bool:
    return any(not path.startswith(_NOT_CHAT) for path in capabilities)


class _Any:
    """Whether one of the capabilities is at or below one of these places in the tree."""

    def __init__(self, places: tuple[str, ...]) -> None:
        self._places = places

    def __call__(self, capabilities: frozenset[str]) -> bool:
        return any(path.startswith(self._places) for path in capabilities)


def _never(_: frozenset[str]) -> bool:
    return False


def _no_output(_: Fields) -> int | None:
    return 0


# -- chat, completions


def _most_chat_output(fields: Fields) -> int | None:
    stated = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return None if stated is None else int(stated) * int(fields.get("n") or 1)


def _completions_asked(fields: Fields) -> int:
    """Every prompt has answers of its own, and of ``best_of`` all but ``n`` are thrown away unseen, but billed."""
    prompt = fields.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    return prompts * max(int(fields.get("n") or 1), int(fields.get("best_of") or 1))


def _most_completion_output(fields: Fields) -> int | None:
    stated = fields.get("max_tokens")
    return None if stated is None else int(stated) * _completions_asked(fields)


# -- responses

_OPENING: Final = frozenset(
    f"response.{name}"
    for name in ("created", "queued", "in_progress", "output_item.added", "content_part.added")
)


def _response_usage(event: Fields) -> Any:
    response = event.get("response")
    return response.get("usage") if isinstance(response, dict) else None


# -- messages


def _message_usage(event: Fields) -> Any:
    """Of the first event it stands in the message, of the last ones beside it."""
    message = event.get("message")
    return message.get("usage") if isinstance(message, dict) else event.get("usage")


# -- rerank


def _query_again(fields: Fields) -> int:
    """The query is read once with each document."""
    query, documents = fields.get("query"), fields.get("documents")
    if not isinstance(documents, list):
        return 0
    return weigh_text(orjson.dumps(query)) * (len(documents) - 1)


def _rerank_usage(answer: Fields) -> Any:
    """Jina and its like count all tokens together; Cohere what it bills, which may be searches instead of tokens."""
    usage = answer.get("usage")
    if isinstance(usage, dict):
        return {"prompt_tokens": usage.get("total_tokens", usage.get("prompt_tokens"))}
    meta = answer.get("meta")
    for name in ("billed_units", "tokens"):
        counts = meta.get(name) if isinstance(meta, dict) else None
        tokens = counts.get("input_tokens") if isinstance(counts, dict) else None
        if isinstance(tokens, int | float):
            return {"prompt_tokens": int(tokens)}
    return None


# -- sound and images


def _unstated(_: Fields) -> int | None:
    return None


def _transcription_kind(fields: Fields) -> Kind:
    return Kind.TEXT if fields.get("response_format") in _TEXTS else Kind.OBJECT


def _transcription_usage(answer: Fields) -> Any:
    """What is billed by its length has no tokens."""
    usage = answer.get("usage")
    if isinstance(usage, dict) and usage.get("type") == "duration":
        return {"prompt_tokens": 0}
    return usage


#: The Messages API as the one that others are asked by.
_TO_CLAUDE: Final = Surface(
    "messages",
    "/messages",
    "content",
    True,
    _chats,
    check_message,
    lambda fields: fields.get("max_tokens"),
    answers=lambda _: 1,
    usage_of=_message_usage,
    events=EventShape(
        ends=frozenset({"message_stop"}),
        opening=frozenset({"message_start", "content_block_start"}),
        usage_of=_message_usage,
        reports=frozenset({"message_start", "message_delta"}),
        idle=frozenset({"ping"}),
    ),
    api="messages",
    voice=Voice.ANTHROPIC,
    passes=_ANTHROPICS_HEADERS,
)
CHAT: Final = Surface(
    "chat completions",
    "/chat/completions",
    "choices",
    True,
    _chats,
    check_chat,
    _most_chat_output,
    asks_usage=True,
    api="chat",
    stand_in=_TO_CLAUDE,
)
EMBEDDINGS: Final = Surface(
    "embeddings", "/embeddings", "data", False, _Any(_EMBEDDINGS), check_input, _no_output
)
RESPONSES: Final = Surface(
    "responses",
    "/responses",
    "output",
    True,
    _chats,
    check_response,
    lambda fields: fields.get("max_output_tokens"),
    events=EventShape(
        ends=frozenset({"response.completed", "response.incomplete"}),
        fails=frozenset({"error", "response.failed"}),
        opening=_OPENING,
        usage_of=_response_usage,
    ),
    is_sure=_never,
    api="responses",
    stand_in=CHAT,
)
MESSAGES: Final = replace(_TO_CLAUDE, stand_in=CHAT)
#: No completion, and so none of `SURFACES`.
COUNT: Final = Surface(
    "token counts",
    "/messages/count_tokens",
    "input_tokens",
    False,
    _chats,
    check_messages,
    _no_output,
    api="messages",
    voice=Voice.ANTHROPIC,
    passes=_ANTHROPICS_HEADERS,
)
COMPLETIONS: Final = Surface(
    "completions",
    "/completions",
    "choices",
    True,
    _chats,
    check_completion,
    _most_completion_output,
    answers=_completions_asked,
    is_sure=_Any(("generation.text-generation.text-completion",)),
    asks_usage=True,
)
MODERATIONS: Final = Surface(
    "moderations",
    "/moderations",
    "results",
    False,
    _Any(_MODERATION),
    check_input,
    _no_output,
    default_model="content-moderation",
)
RERANK: Final = Surface(
    "rerank",
    "/rerank",
    "results",
    False,
    _Any(_RERANKING),
    check_rerank,
    _no_output,
    more_tokens=_query_again,
    usage_of=_rerank_usage,
)
SPEECH: Final = Surface(
    "speech",
    "/audio/speech",
    "",
    True,
    _Any(_SPEAKS),
    check_speech,
    _unstated,
    kind=lambda _: Kind.BYTES,
    stream_mark=("stream_format", "sse"),
    events=EventShape(ends=frozenset({"speech.audio.done"})),
    is_metered=False,
)
IMAGES: Final = Surface(
    "image generations",
    "/images/generations",
    "data",
    True,
    _Any(_DRAWS),
    check_image,
    _unstated,
    default_model="text-to-image",
    events=EventShape(ends=frozenset({"image_generation.completed"})),
    is_metered=False,
)
IMAGE_EDITS: Final = Surface(
    "image edits",
    "/images/edits",
    "data",
    True,
    _Any(_EDITS),
    check_image,
    _unstated,
    default_model="image-generation",
    events=EventShape(ends=frozenset({"image_edit.completed"})),
    is_sure=_Any(
        (
            "generation.image-generation.image-to-image",
            "generation.image-generation.inpainting",
            "transformation.image-editing.",
        )
    ),
    files=frozenset({"image"}),
    is_metered=False,
)
IMAGE_VARIATIONS: Final = Surface(
    "image variations",
    "/images/variations",
    "data",
    False,
    _Any(_EDITS),
    check_variation,
    _unstated,
    default_model="image-generation",
    is_sure=_never,
    files=frozenset({"image"}),
    is_metered=False,
)
TRANSCRIPTIONS: Final = Surface(
    "transcriptions",
    "/audio/transcriptions",
    "text",
    True,
    _Any(_HEARS),
    check_transcription,
    _unstated,
    usage_of=_transcription_usage,
    kind=_transcription_kind,
    events=EventShape(ends=frozenset({"transcript.text.done"}), usage_of=_transcription_usage),
    files=frozenset({"file", "url"}),
    is_metered=False,
)
TRANSLATIONS: Final = Surface(
    "translations",
    "/audio/translations",
    "text",
    False,
    _Any(_HEARS),
    check_transcription,
    _unstated,
    usage_of=_transcription_usage,
    kind=_transcription_kind,
    is_sure=_never,
    files=frozenset({"file", "url"}),
    is_metered=False,
)
SEARCH: Final = Surface(
    "search",
    "/search",
    "results",
    False,
    _Any(("retrieval.search.",)),
    check_search,
    _unstated,
    default_model="web-search",
    is_sure=_Any((WEB_SEARCH,)),
    is_metered=False,
    is_read=False,
    is_web=True,
    wants=search_wants,
)
SCRAPE: Final = Surface(
    "scrape",
    "/scrape",
    "content",
    False,
    _Any((PAGE_READING,)),
    check_scrape,
    _unstated,
    default_model="document-parsing",
    is_sure=_never,  # a model that reads documents may want them in a conversation
    is_metered=False,
    is_read=False,
    is_web=True,
    wants=scrape_wants,
)
SURFACES: Final = (
    CHAT,
    EMBEDDINGS,
    COMPLETIONS,
    RESPONSES,
    MESSAGES,
    MODERATIONS,
    RERANK,
    SPEECH,
    IMAGES,
    IMAGE_EDITS,
    IMAGE_VARIATIONS,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    SEARCH,
    SCRAPE,
)
