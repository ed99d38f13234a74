"""Strategies of one's own: found by class path or entry point, created with their options, and kept from doing harm."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from node.routing.strategies.base import Hints, Request, Strategy
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import ENTRY_POINTS
from shared_state.logs import get_logger
from shared_state.topology import ModelSpec

log = get_logger(__name__)


class StrategyLoadError(Exception):
    """The strategy cannot be used; the text says what is missing."""


class Contained(Strategy):
    """A strategy whose faults are logged once and answered with the order of the candidates."""

    def __init__(self, name: str, inner: Strategy) -> None:
        self._name = name
        self._inner = inner
        self._told: set[str] = set()
        self.needs = frozenset(getattr(inner, "needs", ()))

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """The inner ranking, if it is one."""
        try:
            ranked = list(self._inner.rank(list(candidates), request, hints))
        except Exception as error:
            self._tell(f"raised {type(error).__name__}", error)
            return list(candidates)
        if len(set(map(id, ranked))) < len(ranked) or any(spec not in candidates for spec in ranked):
            self._tell("returned something else than each candidate at most once", None)
            return list(candidates)
        return ranked

    def _tell(self, fault: str, error: Exception | None) -> None:
        if fault not in self._told:
            self._told.add(fault)
            log.error("strategy failed; pool order is used", strategy=self._name, fault=fault, exc_info=error)


def load_custom(pool: PoolConfig) -> Strategy:
    """The strategy of one's own that a pool names.

    Raises:
        StrategyLoadError: it does not exist, does not rank, or cannot be created with its options.
    """
    name = pool.strategy
    kind = _find(name)
    if not isinstance(kind, type) or not callable(getattr(kind, "rank", None)):
        raise StrategyLoadError(f"{name!r} is no class with a method rank(candidates, request, hints)")
    try:
        return Contained(name, kind(**pool.strategy_options))
    except Exception as error:
        raise StrategyLoadError(f"{name!r} cannot be created with its strategy_options: {error}") from error


def _find(name: str) -> Any:
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        try:
            return entry.load()
        except Exception as error:
            raise StrategyLoadError(
                f"entry point {name!r} ({entry.value}) cannot be loaded: {error}"
            ) from error
    module_name, _, attribute = name.rpartition(":" if ":" in name else ".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise StrategyLoadError(f"module {module_name!r} of {name!r} cannot be imported: {error}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise StrategyLoadError(f"module {module_name!r} has no {attribute!r}") from None
