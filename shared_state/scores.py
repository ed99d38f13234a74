"""Dynamic pools: who is a member, by an expression over what is known of a model, and who comes first, by a score.

A score is an expression or a function of ours or the operator's; higher is better, and who has none, or none above zero, is
no member. What does not depend on live state is computed once per configuration.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_state.config.models import (
    ConstraintsConfig,
    DeliveryConfig,
    FeaturesConfig,
    ModelConfig,
    PricingConfig,
)
from shared_state.config.values import Section
from shared_state.expressions import Expression, ExpressionError, Facts
from shared_state.logs import get_logger

log = get_logger(__name__)

#: Strategy of a pool with a score: its members come in order already.
SCORE_STRATEGY: Final = "modelmesh.score.v1"

_SECTIONS: Final[Mapping[str, type[Section]]] = {
    "features": FeaturesConfig,
    "constraints": ConstraintsConfig,
    "delivery": DeliveryConfig,
    "pricing": PricingConfig,
}
STATIC: Final = frozenset(
    {"id", "provider", "connector", "region", "upstream", "capabilities"}
    | {f"{section}.{key}" for section, model in _SECTIONS.items() for key in model.model_fields}
)
"""What is known of a model as long as the configuration stands; None for what it does not say."""
SIGNALS: Final = frozenset({"latency_ms", "first_token_ms", "in_flight", "headroom"})
"""How it does over the cluster; nodes read that only for scores that ask."""
LIVE: Final = SIGNALS | {"active", "recovering"}
"""What nodes know of it at the moment; of the state: it takes traffic; it is in its ramp after a trial."""

_FUNCTION: Final = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)[.:]([A-Za-z_]\w*)")


def facts_of(
    model: ModelConfig,
    *,
    id: str,
    connector: str,
    region: str | None,
    upstream: str,
    capabilities: frozenset[str],
) -> dict[str, Any]:
    """The static facts of a model."""
    facts: dict[str, Any] = {
        f"{section}.{key}": getattr(getattr(model, section), key)
        for section, config in _SECTIONS.items()
        for key in config.model_fields
    }
    if "pricing" not in model.model_fields_set:
        facts.update({f"pricing.{key}": None for key in PricingConfig.model_fields})
    return facts | {
        "id": id,
        "provider": model.provider,
        "connector": connector,
        "region": region,
        "upstream": upstream,
        "capabilities": frozenset(_names_of(capabilities)),
    }


def _names_of(leaves: frozenset[str]) -> set[str]:
    """Leaves and the nodes above them, by their full paths and their last names."""
    names = set()
    for leaf in leaves:
        parts = leaf.split(".")
        names |= {".".join(parts[: depth + 1]) for depth in range(len(parts))} | set(parts)
    return names


def compile_where(text: str) -> Callable[[Facts], bool]:
    """The membership test that a pool's ``where`` says.

    Raises:
        ExpressionError: it is none, or asks for live state.
    """
    expression = Expression(text, known=STATIC | LIVE)
    live = sorted(expression.names & LIVE)
    if live:
        raise ExpressionError(
            f"members cannot depend on {', '.join(live)}, which change all the time; a score can"
        )
    return lambda facts: bool(expression.bind(facts).value({}))


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """The score of a pool.

    Attributes:
        fixed: model -> score that the configuration decides; complete if ``live`` is empty.
        live: model -> score for the live facts, where these matter.
        needs_signals: whether ``SIGNALS`` are among them.
    """

    fixed: Mapping[str, float | None]
    live: Mapping[str, Callable[[Facts], float | None]]
    needs_signals: bool = False

    def of(self, model: str, live: Facts) -> float | None:
        """The score of a member; None if it is none now. Never raises."""
        score = self.live.get(model)
        return self.fixed.get(model) if score is None else score(live)

    def rank(self, models: Sequence[tuple[str, Facts]]) -> list[str]:
        """Members by score, best first; ties stay as they came."""
        scores = {model: self.of(model, live) for model, live in models}
        members = [model for model, score in scores.items() if score is not None]
        return sorted(members, key=lambda model: -(scores[model] or 0.0))


def compile_score(text: str) -> Callable[[Mapping[str, Facts]], Score]:
    """From static facts by model to the score that ``text`` says: an expression, or the path of a function.

    Raises:
        ExpressionError: it is neither.
    """
    match = _FUNCTION.fullmatch(text.strip())
    if match is not None and match[0] not in STATIC | LIVE and match[1].partition(".")[0] not in _SECTIONS:
        return _by_function(_import(*match.groups()), text.strip())
    expression = Expression(text, known=STATIC | LIVE)

    def bind(facts: Mapping[str, Facts]) -> Score:
        bound = {model: expression.bind(known) for model, known in facts.items()}
        return Score(
            fixed={model: _as_score(one.value({})) for model, one in bound.items() if one.is_constant},
            live={model: _then_score(one.value) for model, one in bound.items() if not one.is_constant},
            needs_signals=not expression.names.isdisjoint(SIGNALS),
        )

    return bind


def _then_score(value: Callable[[Facts], Any]) -> Callable[[Facts], float | None]:
    return lambda live: _as_score(value(live))


def _as_score(value: Any) -> float | None:
    """A number greater than zero, or nothing."""
    if not isinstance(value, int | float):
        return None
    try:
        score = float(value)
    except OverflowError:
        return None
    return score if score > 0 and math.isfinite(score) else None


def _import(module: str, name: str) -> Callable[[dict[str, Any]], Any]:
    path = f"{module}:{name}"
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module may fail in any way while it is imported
        hint = "; a score is an expression, or the path of a function such as package.module:function"
        raise ExpressionError(f"{path!r} cannot be imported ({type(error).__name__}){hint}") from None
    if not callable(function):
        raise ExpressionError(f"{path!r} is no function")
    checked: Callable[[dict[str, Any]], Any] = function
    return checked


def _by_function(
    function: Callable[[dict[str, Any]], Any], path: str
) -> Callable[[Mapping[str, Facts]], Score]:
    """A function gets all facts, static and live, in one mapping; what it raises costs the model its membership.

    It gets signals if it says so as strategies do: ``needs``, a collection with ``"signals"`` in it.
    """
    needs = getattr(function, "needs", ())
    needs_signals = isinstance(needs, Collection) and "signals" in needs
    told: set[str] = set()

    def scored(known: Facts) -> Callable[[Facts], float | None]:
        def score(live: Facts) -> float | None:
            try:
                return _as_score(function({**known, **live}))
            except Exception as error:
                if path not in told:
                    told.add(path)
                    log.warning("a score function failed; told once", function=path, error=repr(error))
                return None

        return score

    return lambda facts: Score(
        fixed={}, live={model: scored(known) for model, known in facts.items()}, needs_signals=needs_signals
    )
