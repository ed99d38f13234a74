"""Options of the selection strategies: which keys of a pool each of them obeys, with their defaults.

A pool holds the keys of all strategies side by side; what the chosen one does not use is refused.
"""

from __future__ import annotations

import re
from collections.abc import Set
from importlib.metadata import entry_points
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from shared_state.config.values import DurationS, Section

#: Entry points of this group are strategies by name.
ENTRY_POINTS: Final = "modelmesh.strategies"
_CLASS_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")


class OrderOptions(Section):
    """What every strategy obeys: the order of a pool's members decides ties and the fallback chain."""

    model_priority: list[str] = Field(
        default_factory=list, description="models that come first in the pool's order"
    )
    provider_priority: list[str] = Field(default_factory=list, description="providers whose models come next")


class PriorityOptions(OrderOptions):
    """Of priority-selection."""

    fallback_strategy: str = Field(
        "round-robin",
        description="priority-selection: what ranks the models that no list names; `error`: they are not tried",
    )


class WeightOptions(OrderOptions):
    """Of the strategies with static shares."""

    weights: dict[str, float] = Field(
        default_factory=dict,
        description="round-robin, load-balanced: model -> share relative to the others, 1 if not named; "
        "canary: model -> part of the traffic, the others divide the rest",
    )

    @model_validator(mode="after")
    def _weights_are_shares(self) -> WeightOptions:
        if any(not 0 <= weight < 1e6 for weight in self.weights.values()):
            raise ValueError("weights must be numbers from 0 to 1000000")
        if self.weights and not any(self.weights.values()):
            raise ValueError("weights must hold one greater than 0")
        return self


class BalanceOptions(WeightOptions):
    """Of load-balanced."""

    balance_mode: Literal["absolute", "relative"] = Field(
        "relative",
        description="load-balanced without weights: by requests left (absolute) or by the share left of the tightest limit",
    )


class SessionOptions(OrderOptions):
    """Of session-stickiness."""

    affinity_mode: Literal["strict", "fallback"] = Field(
        "fallback",
        description="session-stickiness: whether a session moves when its model is on standby, or gets an error",
    )
    session_timeout: DurationS = Field(
        1800.0,
        gt=0,
        description="session-stickiness: a session is forgotten after this long without a request",
    )


class CustomOptions(OrderOptions):
    """Of a strategy of one's own."""

    strategy_options: dict[str, Any] = Field(
        default_factory=dict,
        description="keyword arguments of a strategy that is given as a class or entry point",
    )


class RateLimitConfig(Section):
    """How a pool keeps away from its members' limits, whatever its strategy; without this section only rate-limit-aware does."""

    threshold: float = Field(
        0.8, gt=0, le=1, description="used share of a model's tightest limit from which `action` applies"
    )
    min_delta: DurationS = Field(0.0, description="least time between two calls of a model; 0: none")
    max_rpm: int = Field(
        0, ge=0, description="most calls of a model per minute; 0: no more than its limits say"
    )
    action: Literal["switch_model", "delay_request", "queue"] = Field(
        "switch_model",
        description="rank the model last, hold the request until there is room, or hold it in order of arrival",
    )
    max_wait: DurationS = Field(30.0, gt=0, description="longest hold of delay_request and queue")
    queue_size: int = Field(100, ge=1, description="most requests that a node holds in the queue of a pool")

    @model_validator(mode="after")
    def _waits_only_where_asked(self) -> RateLimitConfig:
        idle = {"switch_model": {"max_wait", "queue_size"}, "delay_request": {"queue_size"}, "queue": set()}
        unused = sorted(idle[self.action] & self.model_fields_set)
        if unused:
            raise ValueError(f"{' and '.join(unused)} mean nothing with action {self.action}")
        return self


#: Options by strategy.
OPTIONS: Final[dict[str, type[OrderOptions]]] = {
    "modelmesh.stick-until-failure.v1": OrderOptions,
    "modelmesh.priority-selection.v1": PriorityOptions,
    "modelmesh.round-robin.v1": WeightOptions,
    "modelmesh.cost-first.v1": OrderOptions,
    "modelmesh.latency-first.v1": OrderOptions,
    "modelmesh.session-stickiness.v1": SessionOptions,
    "modelmesh.rate-limit-aware.v1": OrderOptions,
    "modelmesh.load-balanced.v1": BalanceOptions,
    "modelmesh.least-busy.v1": OrderOptions,
    "modelmesh.power-of-two.v1": OrderOptions,
    "modelmesh.canary.v1": WeightOptions,
}


def short_name(name: str) -> str:
    """``round-robin`` for ``modelmesh.round-robin.v1``."""
    return name.removeprefix("rotation.").removeprefix("modelmesh.").removesuffix(".v1")


def full_id(name: str) -> str:
    """``modelmesh.round-robin.v1`` for ``round-robin``; whether there is such a strategy is another question."""
    return f"modelmesh.{short_name(name)}.v1"


def is_custom(name: str) -> bool:
    """Whether the name is a class path or an installed entry point."""
    if full_id(name) in OPTIONS:
        return False
    return bool(_CLASS_PATH.fullmatch(name)) or any(entry_points(group=ENTRY_POINTS, name=name))


def option_keys(strategy: str) -> Set[str]:
    """The pool's keys that a strategy obeys."""
    return OPTIONS.get(strategy, CustomOptions).model_fields.keys()
