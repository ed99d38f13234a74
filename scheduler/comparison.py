"""What a provider's list means, compared with the list before it and with the configuration. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from shared_state.config.discovery import SyncConfig
from shared_state.listings import Listing, ModelNews, ModelOrder
from shared_state.shapes.listing import ListedModel

#: A vendor may bring out hundreds at once; the domain's list of events is short.
MOST_DISCOVERED: Final = 20


class Standing(IntEnum):
    """What a list says of a model."""

    LISTED = 0
    ANNOUNCED = 1
    RETIRED = 2
    ABSENT = 3


@dataclass(frozen=True, slots=True)
class Configured:
    """A configured model of the provider, and its sizes by the configuration or the catalogue."""

    id: str
    upstream: str
    context_window: int | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be told and done.

    Attributes:
        new: models that nobody configured.
        mismatches: configured model -> sizes that are listed otherwise; told once, until one of both is another.
    """

    news: tuple[ModelNews, ...]
    orders: tuple[ModelOrder, ...]
    new: tuple[ListedModel, ...] = ()
    mismatches: Mapping[str, str] = field(default_factory=dict)


def compare(
    before: Listing,
    now: Sequence[ListedModel],
    configured: Sequence[Configured],
    rules: SyncConfig,
    *,
    provider: str,
    now_s: float,
) -> Changes:
    """What has changed. Of a first list only what is deprecated or has other sizes is told, for nothing is known to be new.

    A configured model that was on no list yet is never taken for gone: vendors do not list every name that they understand.
    """
    old, new = _by_id(before.models), _by_id(now)
    news: list[ModelNews] = []
    orders: list[ModelOrder] = []
    mismatches: dict[str, str] = {}
    for model in configured:
        was, found = _find(old, model.upstream), _find(new, model.upstream)
        standing = standing_of(found, now_s)
        stood = standing_of(was, before.time_ms / 1000) if before.time_ms else _at_first(standing)
        news += _news_of(model.id, was, found, stood, standing, rules)
        orders += _orders_of(model.id, stood, standing, rules)
        if found is not None and (mismatch := "; ".join(mismatches_of(model, found))):
            mismatches[model.id] = mismatch
            if before.mismatches.get(model.id) != mismatch:
                news.append(ModelNews("model_changed", model.id, mismatch))
    fresh: list[ListedModel] = []
    if before.time_ms and rules.on_new_model != "ignore":
        known = {name for model in configured for name in names_of(model.upstream)}
        fresh = [model for name, model in new.items() if name not in old.keys() | known]
    return Changes((*news, *discovered(fresh, provider)), tuple(orders), tuple(fresh), mismatches)


def standing_of(model: ListedModel | None, now_s: float) -> Standing:
    """What a list of that time says of a model."""
    if model is None:
        return Standing.ABSENT
    if not model.is_active or (model.retires is not None and model.retires <= now_s):
        return Standing.RETIRED
    return Standing.ANNOUNCED if model.is_deprecated else Standing.LISTED


def _at_first(standing: Standing) -> Standing:
    return Standing.ABSENT if standing == Standing.ABSENT else Standing.LISTED


def names_of(upstream: str) -> tuple[str, ...]:
    """Names under which a list may have a model: as it is called, as Gemini and as Ollama list it."""
    return upstream, f"models/{upstream}", f"{upstream}:latest"


def unlisted(now: Iterable[ListedModel], configured: Iterable[Configured]) -> list[str]:
    """Configured models that the list does not have."""
    new = _by_id(now)
    return [model.id for model in configured if _find(new, model.upstream) is None]


def _news_of(
    model: str,
    was: ListedModel | None,
    found: ListedModel | None,
    stood: Standing,
    standing: Standing,
    rules: SyncConfig,
) -> list[ModelNews]:
    if standing > stood and rules.on_deprecated_model != "ignore":
        return [_deprecated(model, found, standing)]
    if stood == Standing.ABSENT and found is not None and rules.on_new_model != "ignore":
        return [ModelNews("model_discovered", model, "listed")]
    if was is not None and found is not None and (changes := differences(was, found)):
        return [ModelNews("model_changed", model, "; ".join(changes))]
    return []


def _deprecated(model: str, found: ListedModel | None, standing: Standing) -> ModelNews:
    until_ms = round(found.retires * 1000) if found is not None and found.retires else 0
    reason = {Standing.ANNOUNCED: "announced", Standing.RETIRED: "retired"}.get(standing, "no longer listed")
    return ModelNews("model_deprecated", model, reason, until_ms)


def _orders_of(model: str, stood: Standing, standing: Standing, rules: SyncConfig) -> list[ModelOrder]:
    """A model that serves again is brought back whatever the rules say now: they may have been others when it was taken out."""
    is_out, was_out = standing >= Standing.RETIRED, stood >= Standing.RETIRED
    if was_out and not is_out:
        return [ModelOrder(model, "activate")]
    if is_out and not was_out and rules.on_deprecated_model == "deactivate":
        return [ModelOrder(model, "deactivate")]
    return []


def differences(was: ListedModel, found: ListedModel) -> list[str]:
    """Sizes and prices that are not what they were; what one of the lists does not say is no difference."""
    pairs = [
        ("context_window", was.context_window, found.context_window),
        ("max_output_tokens", was.max_output_tokens, found.max_output_tokens),
        ("pricing.input", was.price_input, found.price_input),
        ("pricing.output", was.price_output, found.price_output),
    ]
    return [
        f"{name} {old:.15g} -> {new:.15g}"
        for name, old, new in pairs
        if old is not None and new is not None and old != new
    ]


def mismatches_of(configured: Configured, found: ListedModel) -> list[str]:
    """Sizes that the list has and the configuration has otherwise: a text may be refused, or sent for nothing."""
    pairs = [
        ("context_window", configured.context_window, found.context_window),
        ("max_output_tokens", configured.max_output_tokens, found.max_output_tokens),
    ]
    return [
        f"{name} {listed} listed, {ours} configured"
        for name, ours, listed in pairs
        if ours is not None and listed is not None and ours != listed
    ]


def discovered(
    models: Sequence[ListedModel], provider: str, fates: Mapping[str, str] | None = None
) -> list[ModelNews]:
    """What is told of models that nobody configured; ``fates`` says what became of them."""
    shown = models[:MOST_DISCOVERED]
    more = len(models) - len(shown)
    return [
        ModelNews(
            "model_discovered",
            f"{provider}/{model.id}",
            (fates or {}).get(model.id, "new"),
            0,
            {"more": more} if more else {},
        )
        for model in shown
    ]


def _by_id(models: Iterable[ListedModel]) -> dict[str, ListedModel]:
    return {model.id: model for model in models}


def _find(models: Mapping[str, ListedModel], upstream: str) -> ListedModel | None:
    return next((models[name] for name in names_of(upstream) if name in models), None)
