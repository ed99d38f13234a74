"""Documented short names, and paths of older releases that drifted from the tree; all point into the default tree.

Every node's own name is an alias besides, as long as no other node bears it (`CapabilityTree.resolve_name`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SHORT_NAMES: Final[Mapping[str, str]] = {
    "chat-completion": "generation.text-generation.chat-completion",
    "text-generation": "generation.text-generation",
    "code-generation": "generation.text-generation.code-generation",
    "text-embeddings": "representation.embeddings.text-embeddings",
    "text-to-speech": "generation.audio-generation.text-to-speech",
    "speech-to-text": "understanding.audio-understanding.speech-to-text",
    "text-to-image": "generation.image-generation.text-to-image",
    "image-to-text": "understanding.vision-understanding.image-captioning",
}

DRIFTED_PATHS: Final[Mapping[str, str]] = {
    "generation.audio.text-to-speech": "generation.audio-generation.text-to-speech",
    "understanding.audio.speech-to-text": "understanding.audio-understanding.speech-to-text",
    "generation.image.text-to-image": "generation.image-generation.text-to-image",
    "representation.image.image-to-text": "understanding.vision-understanding.image-captioning",
    "retrieval.semantic-search.web-search": "retrieval.search.web-search",
    "retrieval.grounded-generation.web-search": "retrieval.rag.grounded-generation",
    "understanding.document-understanding.content-extraction": "understanding.document-understanding.document-parsing",
}

#: The last name of a drifted path, where no node bears it.
_DRIFTED_NAMES: Final[Mapping[str, str]] = {
    "content-extraction": "understanding.document-understanding.document-parsing",
}

DEFAULT_ALIASES: Final[Mapping[str, str]] = {**SHORT_NAMES, **DRIFTED_PATHS, **_DRIFTED_NAMES}
