"""Limits as an outsider reads them, and the file that describes them: nothing in here knows whose limits they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import yaml

#: What is counted, as the first letters of a window's kind.
COUNTED: Final = {"r": "requests", "t": "tokens", "it": "input tokens", "ot": "output tokens"}
PERIODS_S: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0, "M": 30 * 86_400.0}
MONEY: Final = {"usd_per_day": "d", "usd_per_month": "M"}
ALGORITHMS: Final = ("sliding", "calendar", "token_bucket")
_KINDS: Final = frozenset(f"{what}p{period}" for what in COUNTED for period in PERIODS_S)
#: The way from admission to a provider's own clock, as far as it is forgiven where a limit is a distance or a rate.
_WAY_S: Final = 0.25


class PlanError(ValueError):
    """The file of limits is refused; the message names the place and what is accepted."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float = 0.0
    output: float = 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """One limit.

    Attributes:
        scope: what people call the model or the account that is limited.
        models: the upstream's names of what it covers.
        kind: ``rpm``, ``otpd``, ``usd_per_day``, ``concurrency``, ``min_delta``.
        limit: requests, tokens, USD or calls; for ``min_delta`` seconds.
        algorithm: ``sliding``: no interval of that length holds more; ``calendar``: no period of the zone's calendar does;
            ``token_bucket``: a bucket of that size, drained evenly, never runs over.
            Default: sliding up to an hour, calendar from a day on.
        reset_hour: local hour at which days, weeks and months begin.
        slack: what may be beyond the limit, in its own unit; a default of its own for distances and rates.
        prices: by upstream's name, for limits of money.
    """

    scope: str
    models: frozenset[str]
    kind: str
    limit: float
    algorithm: str = ""
    timezone: str = "UTC"
    reset_hour: int = 0
    slack: float = -1.0
    prices: Mapping[str, Price] = field(default_factory=dict, hash=False)

    @property
    def period(self) -> str:
        """The last letter of a counting kind: ``m``, ``h``, ``d``, ``w``, ``M``."""
        return MONEY.get(self.kind) or self.kind[-1]

    @property
    def period_s(self) -> float:
        """Length of the window; a rolling month has 30 days."""
        return PERIODS_S[self.period]

    @property
    def way(self) -> str:
        """How it is judged: an algorithm, or the kind itself where there is only one way."""
        if self.kind in ("concurrency", "min_delta"):
            return self.kind
        if self.kind in MONEY:
            return "calendar"
        return self.algorithm or ("sliding" if self.period in "mh" else "calendar")

    @property
    def tolerance(self) -> float:
        """What is forgiven: nothing where calls are counted, the way to the provider where their pace is judged."""
        if self.slack >= 0:
            return self.slack
        if self.way == "token_bucket":
            return self.limit * _WAY_S / self.period_s
        # less than one distance, so that a single call too many is found
        return min(_WAY_S, 0.9 * self.limit) if self.way == "min_delta" else 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for, and what must hold.

    Attributes:
        asks: names for clients to ask for, each as often as the others.
    """

    asks: tuple[str, ...]
    windows: tuple[Window, ...]

    @property
    def models(self) -> frozenset[str]:
        """All upstream's names that are limited."""
        return frozenset().union(*(window.models for window in self.windows))


def read_plan(path: Path) -> Plan:
    """A plan from a YAML or JSON file.

    Raises:
        PlanError: it does not describe one.
    """
    said = yaml.safe_load(path.read_text())
    if not isinstance(said, dict) or not isinstance(said.get("windows"), list) or not said["windows"]:
        raise PlanError(f"{path}: a mapping with a list of `windows` is expected")
    _refuse_unknown(said, {"asks", "windows", "prices"}, str(path))
    prices = {name: Price(**price) for name, price in (said.get("prices") or {}).items()}
    windows = tuple(
        _window(entry, prices, f"{path}: windows.{place}") for place, entry in enumerate(said["windows"])
    )
    return Plan(tuple(said.get("asks") or sorted(Plan((), windows).models)), windows)


def _window(said: Any, prices: Mapping[str, Price], where: str) -> Window:
    if not isinstance(said, dict):
        raise PlanError(f"{where}: a mapping is expected")
    _refuse_unknown(said, {one.name for one in fields(Window)} - {"prices"}, where)
    missing = [name for name in ("models", "kind", "limit") if name not in said]
    if missing:
        raise PlanError(f"{where}: {', '.join(missing)} is missing")
    models = frozenset([said["models"]] if isinstance(said["models"], str) else said["models"])
    window = Window(**{"scope": ", ".join(sorted(models)), "prices": prices} | said | {"models": models})
    _check(window, where)
    return window


def _check(window: Window, where: str) -> None:
    accepted = _KINDS | MONEY.keys() | {"concurrency", "min_delta"}
    if window.kind not in accepted:
        raise PlanError(f"{where}: kind {window.kind!r} is none of {', '.join(sorted(accepted))}")
    if window.algorithm and window.algorithm not in ALGORITHMS:
        raise PlanError(f"{where}: algorithm {window.algorithm!r} is none of {', '.join(ALGORITHMS)}")
    if window.kind in MONEY and not window.models <= window.prices.keys():
        raise PlanError(f"{where}: {window.kind} needs `prices` of {', '.join(sorted(window.models))}")


def _refuse_unknown(said: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(said.keys() - known)
    if unknown:
        raise PlanError(f"{where}: {', '.join(unknown)} unknown; known are {', '.join(sorted(known))}")
