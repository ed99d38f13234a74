"""What the tests of strategies share: four models, and rankings as letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from node.routing.strategies import Hints, Request, Signal, Strategy, build_strategy
from shared_state.topology import PoolSpec
from tests.unit.node.house import mesh

NAMES = ("a.m", "b.m", "c.m", "d.m")


class Ranks:
    """A strategy over the models ``a`` to ``d``.

    Args:
        pool: the pool's keys; ids of models in them as letters.
        models: settings of single models, by letter.
    """

    def __init__(
        self, strategy: str, *, models: Mapping[str, dict[str, Any]] | None = None, **pool: Any
    ) -> None:
        differing = {f"{letter}.m": settings for letter, settings in (models or {}).items()}
        topology = mesh(*NAMES, pool={"strategy": strategy, **pool}, differing=differing)
        self.pool: PoolSpec = topology.pools["chat"]
        self.strategy: Strategy = build_strategy(self.pool.config)
        self._by_id = topology.models

    def __call__(
        self,
        letters: str = "abcd",
        *,
        request: Request = Request(),  # noqa: B008 - frozen
        signals: Mapping[str, Signal] | None = None,
        current: str = "",
        held: str = "",
        turn: int = 0,
        draw: float = 0.0,
    ) -> str:
        """Candidates and hints as letters; the ranking as letters."""
        hints = Hints(
            self.pool.models,
            turn=turn,
            current=f"{current}.m" if current else "",
            held=f"{held}.m" if held else "",
            signals={f"{letter}.m": signal for letter, signal in (signals or {}).items()},
            draw=draw,
        )
        ranked = self.strategy.rank([self._by_id[f"{letter}.m"] for letter in letters], request, hints)
        return "".join(spec.id[0] for spec in ranked)
