"""How long is unusually long: what the models of hedging pools take to their first content, learned by all nodes together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from node.watch import StoreWatch
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import PoolSpec
from shared_state.waits import Wait, share_waits

_SHARE_S: Final = 1.0
#: All nodes together ask for a model about so often a second; a node not more rarely than after so long.
_ASKED_PER_S: Final = 100
_RAREST_S: Final = 10.0
#: Of each model all nodes together tell about so many a second: two hundred are kept, and should not all be of the same moment. While
#: nobody knows anything each node tells so many.
_TOLD: Final = 20


def watched(pools: Iterable[PoolSpec]) -> dict[str, list[str]]:
    """By quota domain the models whose p95 somebody goes by."""
    domains: dict[str, dict[str, None]] = {}
    for pool in pools:
        if pool.config.hedge is not None and pool.config.hedge.after == "p95":
            for model in pool.models:
                domains.setdefault(model.domain, {})[model.id] = None
    return {domain: list(models) for domain, models in domains.items()}


def share_s(nodes: int) -> float:
    """How long a node of so many waits before it tells and asks again."""
    return min(_RAREST_S, max(_SHARE_S, nodes / _ASKED_PER_S))


class Slowness:
    """What this node knows of it: told and read about once a second, of these models and no others.

    Args:
        domains: models by quota domain.
        nodes: number of nodes that tell.
    """

    def __init__(
        self,
        store: Store,
        domains: Mapping[str, Sequence[str]],
        watch: StoreWatch,
        *,
        nodes: Callable[[], int],
    ) -> None:
        self._store = store
        self._domains = domains
        self._watch = watch
        self._nodes = nodes
        self._seen = {model: deque[Wait](maxlen=_TOLD) for models in domains.values() for model in models}
        self._p95: dict[str, float | None] = {}
        self._wake = asyncio.Event()
        watch.on_return(self._wake.set)

    def note(self, model: str, reservation: str, seconds: float) -> None:
        """A model has answered, or was given up after so long."""
        seen = self._seen.get(model)
        if seen is not None:
            seen.append(Wait(reservation, round(seconds * 1000)))

    def p95(self, model: str) -> float | None:
        """What nineteen of twenty answers of the cluster stayed below, in seconds; None while nobody knows."""
        return self._p95.get(model)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody goes by it."""
        return bool(self._domains)

    async def run(self) -> None:
        """Shares once a second while Redis answers, in large fleets less often, until cancelled; at once when Redis is back."""
        while True:
            if self._watch.connected:
                try:
                    await self.share()
                except STORE_ERRORS as error:
                    self._watch.report_failure(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(share_s(self._nodes())):
                    await self._wake.wait()
            self._wake.clear()

    async def share(self) -> None:
        """Tells and reads once. What does not arrive is lost: the next second has more of it.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        most = max(1, _TOLD // max(1, self._nodes()))
        for domain, models in self._domains.items():
            told = {model: self._take(model, most) for model in models}
            self._p95 |= await share_waits(self._store, domain, told)

    def _take(self, model: str, most: int) -> list[Wait]:
        seen = self._seen[model]
        told = list(seen) if self.p95(model) is None else list(seen)[-most:]
        seen.clear()
        return told
