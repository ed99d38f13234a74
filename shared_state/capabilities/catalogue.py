"""The default hierarchy: 7 categories, 16 sub-categories, 58 leaves.

A category maps a sub-category to its leaves; ``LEAVES`` holds the leaves that stand directly under the category.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LEAVES: Final = ""

#: Leaves of services of the web, which are no models: what finds pages, and what reads one.
WEB_SEARCH: Final = "retrieval.search.web-search"
PAGE_READING: Final = "understanding.document-understanding.document-parsing"
WEB_LEAVES: Final = frozenset({WEB_SEARCH, PAGE_READING})

DEFAULT_HIERARCHY: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "generation": {
        "text-generation": ("chat-completion", "text-completion", "code-generation"),
        "structured-generation": ("json-generation", "schema-constrained-output", "function-call-generation"),
        "image-generation": ("text-to-image", "image-to-image", "inpainting"),
        "audio-generation": ("text-to-speech", "music-generation"),
        "video-generation": ("text-to-video", "image-to-video"),
    },
    "understanding": {
        "text-understanding": ("summarization", "classification", "sentiment-analysis", "entity-extraction"),
        "vision-understanding": ("image-captioning", "object-detection", "ocr"),
        "audio-understanding": ("speech-to-text", "speaker-identification", "audio-classification"),
        "document-understanding": ("document-parsing", "table-extraction", "form-extraction"),
    },
    "transformation": {
        LEAVES: ("translation", "rewriting", "style-transfer"),
        "image-editing": ("background-removal", "upscaling", "format-conversion"),
        "audio-processing": ("noise-reduction", "voice-cloning", "audio-separation"),
    },
    "representation": {
        "embeddings": ("text-embeddings", "image-embeddings", "multimodal-embeddings"),
        LEAVES: ("tokenization", "feature-extraction"),
    },
    "retrieval": {
        "search": ("semantic-search", "web-search", "image-search", "code-search"),
        "knowledge-graph": ("graph-query", "entity-linking", "relation-extraction"),
        "rag": ("retrieval-augmented-generation", "grounded-generation"),
        LEAVES: ("reranking",),
    },
    "interaction": {
        LEAVES: ("tool-calling", "multi-turn-conversation"),
        "agent-execution": ("single-step-agent", "multi-step-agent"),
    },
    "evaluation": {
        LEAVES: ("content-moderation", "toxicity-detection", "factuality-checking", "quality-scoring"),
    },
}


def default_paths() -> list[str]:
    """Full paths of all default leaves, in the order of the hierarchy."""
    return [
        ".".join(part for part in (category, branch, leaf) if part)
        for category, branches in DEFAULT_HIERARCHY.items()
        for branch, leaves in branches.items()
        for leaf in leaves
    ]
