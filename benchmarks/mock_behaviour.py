"""What the mock provider may be ordered to do, and the book of standing orders.

A behaviour is text: ``name`` or ``name=value``, several joined by commas, as in
``slow-head=100ms,status=503``. `VOCABULARY` has every name.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|)")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a provider answers; `tokens` is the number of content chunks of an answer."""

    head_s: float = 0.0
    token_s: float = 0.0
    tokens: int = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an answer; the default is an answer without fault."""

    status: int = 200
    code: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    retry_after_date_s: float | None = None
    is_html: bool = False
    is_garbage: bool = False
    is_empty: bool = False
    is_error_first: bool = False
    error_after: int | None = None
    stall_after: int | None = None
    has_finish: bool = True
    has_done: bool = True
    truncate_bytes: int | None = None
    reset_bytes: int | None = None
    closes_idle: bool = False


NO_FAULT = Fault()


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One way to answer a request.

    Attributes:
        text: the order as it was given; the ledger shows it.
        chance: share of the requests that meet the fault; the pace holds for all.
    """

    text: str = "ok"
    pace: Pace = Pace()
    fault: Fault = NO_FAULT
    chance: float = 1.0

    def drawn(self, draw: Callable[[], float]) -> Behaviour:
        """This behaviour for one request: the fault strikes, or it does not."""
        if self.chance >= 1.0 or draw() < self.chance:
            return self
        return replace(self, text="ok", fault=NO_FAULT)


class BehaviourError(ValueError):
    """The text of a behaviour cannot be understood."""


def parse_duration(text: str) -> float:
    """Seconds from ``250ms``, ``2s``, ``1m`` or a bare number of seconds."""
    if not (match := _DURATION.fullmatch(text)):
        raise ValueError(f"not a duration: {text!r}; write 250ms, 2s or 1m")
    return float(match[1]) * _UNITS_S[match[2]]


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"not a count: {text!r}")
    return int(text)


def _status(text: str) -> int:
    status = _count(text)
    if not 200 <= status <= 599:
        raise ValueError(f"not a final HTTP status: {text!r}")
    return status


def _share(text: str) -> float:
    share = float(text)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"not a share between 0 and 1: {text!r}")
    return share


def _rate_headers(remaining: str) -> tuple[tuple[str, str], ...]:
    left = _count(remaining or "59")
    return (
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", str(left)),
        ("x-ratelimit-reset-requests", "1s"),
        ("x-ratelimit-limit-tokens", "90000"),
        ("x-ratelimit-remaining-tokens", str(left * 1500)),
        ("x-ratelimit-reset-tokens", "120ms"),
    )


def _retry_after(text: str) -> tuple[tuple[str, str], ...]:
    return () if text == "none" else (("retry-after", text),)


Changes = dict[str, Any]
"""Fields to set: of `Pace`, of `Fault`, or `chance`; `headers` are appended."""

VOCABULARY: Mapping[str, Callable[[str], Changes]] = {
    "ok": lambda _: {},
    # pace
    "slow-head": lambda text: {"head_s": parse_duration(text)},
    "slow-token": lambda text: {"token_s": parse_duration(text)},
    "tokens": lambda text: {"tokens": max(1, _count(text))},
    # errors with a status
    "status": lambda text: {"status": _status(text)},
    "insufficient_quota": lambda _: {"status": 429, "code": "insufficient_quota"},
    "content_filter": lambda _: {"status": 400, "code": "content_filter"},
    "context_length_exceeded": lambda _: {"status": 400, "code": "context_length_exceeded"},
    "html502": lambda _: {"status": 502, "is_html": True},
    # response headers
    "retry-after": lambda text: {"headers": _retry_after(text)},
    "retry-after-ms": lambda text: {"headers": (("retry-after-ms", text),)},
    "retry-after-date": lambda text: {"retry_after_date_s": parse_duration(text)},
    "ratelimit-headers": lambda text: {"headers": _rate_headers(text)},
    # a 200 that is none
    "error-first": lambda _: {"is_error_first": True},
    "error-after": lambda text: {"error_after": _count(text)},
    "garbage": lambda _: {"is_garbage": True},
    "empty": lambda _: {"is_empty": True},
    "no-done": lambda _: {"has_done": False},
    "no-finish": lambda _: {"has_finish": False, "has_done": False},
    # the connection
    "stall-after": lambda text: {"stall_after": _count(text)},
    "truncate": lambda text: {"truncate_bytes": _count(text)},
    "reset": lambda text: {"reset_bytes": _count(text)},
    "close-idle": lambda _: {"closes_idle": True},
    # chance
    "fail": lambda text: {"chance": _share(text)},
}

_PACE_FIELDS = frozenset(Pace.__dataclass_fields__)


def _read_word(word: str) -> Changes:
    name, _, value = word.strip().partition("=")
    if name.isdecimal():
        name, value = "status", name
    if name not in VOCABULARY:
        raise BehaviourError(f"unknown behaviour {name!r}; known: {', '.join(VOCABULARY)}, or a bare status")
    try:
        return VOCABULARY[name](value.strip())
    except ValueError as error:
        raise BehaviourError(f"behaviour {name!r}: {error}") from error


@lru_cache(maxsize=4096)
def parse_behaviour(text: str, *, pace: Pace = Pace()) -> Behaviour:
    """The behaviour that `text` orders; what it leaves open keeps `pace`.

    Raises:
        BehaviourError: a name is unknown, or a value does not fit it.
    """
    changes: Changes = {}
    headers: tuple[tuple[str, str], ...] = ()
    for word in text.split(","):
        found = _read_word(word)
        headers += found.pop("headers", ())
        changes |= found
    chance = changes.pop("chance", 1.0)
    new_pace = replace(pace, **{name: changes.pop(name) for name in _PACE_FIELDS & changes.keys()})
    fault = Fault(headers=headers, **changes)
    if chance < 1.0 and fault == NO_FAULT:
        fault = replace(fault, status=500)
    # the same object, so that the quick path needs no comparison
    return Behaviour(text, new_pace, NO_FAULT if fault == NO_FAULT else fault, chance)


def split_model(model: str) -> tuple[str, str | None]:
    """``gpt-x!slow-head=2s`` is the model ``gpt-x`` and an order."""
    name, mark, order = model.partition("!")
    return name, order if mark else None


@dataclass(slots=True)
class Order:
    """A standing order: `after` good requests it holds for `times` requests, or for ever."""

    behaviour: Behaviour
    model: str | None = None
    path: str | None = None
    times: int | None = None
    after: int = 0

    def take(self) -> Behaviour | None:
        """The behaviour of the next request, None if this one is spared."""
        if self.after > 0:
            self.after -= 1
            return None
        if self.times is not None:
            if self.times <= 0:
                return None
            self.times -= 1
        return self.behaviour


class OrderBook:
    """Standing orders, one for each path and model; the most specific one that has something to say wins."""

    def __init__(self, default: Behaviour, *, seed: int = 0) -> None:
        self.default = default
        self._orders: dict[tuple[str | None, str | None], Order] = {}
        self._random = random.Random(seed)

    def give(self, order: Order) -> None:
        """Take an order; it replaces an older one for the same path and model."""
        self._orders[order.path, order.model] = order

    def clear(self) -> None:
        """Forget every order; the default stays."""
        self._orders.clear()

    def choose(
        self, path: str, model: str, *, direct: str | None = None, is_counted: bool = True
    ) -> Behaviour:
        """The behaviour of one request.

        Args:
            path: the route that was called.
            model: the model name without its order.
            direct: an order that came with the request itself; it beats the book.
            is_counted: False for routes that only an order for their own path may disturb.

        Raises:
            BehaviourError: `direct` cannot be understood.
        """
        if direct is not None:
            return parse_behaviour(direct, pace=self.default.pace).drawn(self._random.random)
        if self._orders:
            for key in ((path, model), (path, None), (None, model), (None, None)):
                order = self._orders.get(key) if key[0] or is_counted else None
                if order and (behaviour := order.take()):
                    return behaviour.drawn(self._random.random)
        return self.default.drawn(self._random.random) if is_counted else Behaviour()
