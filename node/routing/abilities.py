"""What a model declares that it can do, and the first thing that keeps it from serving a request. Pure."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Final, NamedTuple

from node.routing.needs import NAMES, Feature, Needs, language_of
from node.routing.web_needs import ALL_NAMES, bits_of
from shared_state.catalogue.profiles import CHAT_ONLY
from shared_state.config.models import ModelConfig

#: What a model may lack, by its provider, where the request cannot be translated.
APIS: Final = frozenset({"chat", "responses", "messages"})

#: What a chat can ask for and Anthropic's API has no words for; whoever is asked by that API itself never asks for it.
_UNHEARD: Final = sum(
    feature.value
    for feature in (
        Feature.AUDIO,
        Feature.JSON_MODE,
        Feature.GROUNDING,
        Feature.LOGPROBS,
        Feature.REASONING,
    )
)
_UNKNOWN: Final = 1 << 62
#: Stands for several languages of which no two models have the same; no tag of a language comes to it.
_NONE_IN_COMMON: Final = frozenset({"-"})


class Abilities(NamedTuple):
    """What a model declares, ready to be compared; what it does not declare stands in nobody's way.

    Attributes:
        lacks: features that are declared to be missing.
        apis: the provider's APIs for conversations.
    """

    lacks: int
    window: int
    output: int
    images: int
    file_bytes: int
    languages: frozenset[str]
    apis: frozenset[str] = CHAT_ONLY


def abilities_of(
    model: ModelConfig, *, apis: frozenset[str] = CHAT_ONLY, web_lacks: frozenset[str] = frozenset()
) -> Abilities:
    """What a configured model declares, and what its provider is known to lack as a service of the web."""
    sizes = model.constraints
    lacks = sum(feature for feature, name in NAMES.items() if getattr(model.features, name) is False)
    if "chat" not in apis:
        lacks |= _UNHEARD
    return Abilities(
        lacks=lacks | bits_of(web_lacks),
        window=sizes.context_window or _UNKNOWN,
        output=sizes.max_output_tokens or _UNKNOWN,
        images=_UNKNOWN if sizes.max_images is None else sizes.max_images,
        file_bytes=_UNKNOWN if sizes.max_file_size is None else sizes.max_file_size,
        languages=frozenset(map(language_of, sizes.supported_languages)),
        apis=apis,
    )


def floor_of(models: Sequence[Abilities]) -> Abilities:
    """The abilities that all of them have."""
    languages = [model.languages for model in models if model.languages]
    common = frozenset[str].intersection(*languages) if languages else frozenset[str]()
    return Abilities(
        lacks=functools.reduce(operator.or_, (model.lacks for model in models), 0),
        window=min((model.window for model in models), default=_UNKNOWN),
        output=min((model.output for model in models), default=_UNKNOWN),
        images=min((model.images for model in models), default=_UNKNOWN),
        file_bytes=min((model.file_bytes for model in models), default=_UNKNOWN),
        languages=common or (_NONE_IN_COMMON if languages else common),
        apis=frozenset[str].intersection(*(model.apis for model in models)) if models else frozenset[str](),
    )


def unfit(model: Abilities, needs: Needs, api: str = "") -> str | None:
    """The first thing that the model lacks, by its key in the configuration; None if it can serve.

    Args:
        api: by which it is asked; ``needs.beyond`` has no words in another.

    ``context_window`` comes last and is only likely: ``words_in`` confirms it.
    """
    missing = model.lacks & needs.wants
    if missing:
        return ALL_NAMES[missing & -missing]
    if needs.output > model.output:
        return "max_output_tokens"
    if needs.images > model.images:
        return "max_images"
    if needs.file_bytes > model.file_bytes:
        return "max_file_size"
    if model.languages and needs.language and needs.language not in model.languages:
        return "supported_languages"
    if needs.beyond and api not in model.apis:
        return api
    return "context_window" if needs.input_least > model.window else None


def is_roomy(model: Abilities, needs: Needs) -> bool:
    """Whether the request fits into the context window whatever its text is like."""
    return needs.input_most + needs.output <= model.window
