"""Who may serve by the configuration alone: worked out once for each name, API and mode, and looked up by every request."""

from __future__ import annotations

from typing import Final, NamedTuple

from node.call import Call
from node.routing.abilities import Abilities
from node.routing.fitness import Fitness, Members
from shared_state.topology import ModelSpec, Resolution, Topology

#: Names come from the configuration, but a client key may give one a narrower meaning of its own.
_MOST_KEPT: Final = 1024


class Prospect(NamedTuple):
    """The members behind a name.

    Attributes:
        serving: those that serve the API, by pool.
        delivering: those of them that deliver in the asked mode.
        is_deliverable: whether there are any of the latter.
        is_scored: whether scores that live facts move decide about some of them.
        floor: abilities that every one of them has.
    """

    serving: Members
    delivering: Members
    is_deliverable: bool
    is_scored: bool
    floor: Abilities


class Prospects:
    """The prospects of one topology."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.fitness = Fitness(topology)
        self._known: dict[tuple[Resolution, str, bool], Prospect] = {}

    def of(self, call: Call, resolution: Resolution) -> Prospect:
        """What a name comes to for a call."""
        key = (resolution, call.surface.path, call.is_stream)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            known = self._known[key] = self._work_out(call, resolution)
        return known

    def _work_out(self, call: Call, resolution: Resolution) -> Prospect:
        serving = _serving(call, resolution)
        mode = "streaming" if call.is_stream else "synchronous"
        delivering = [
            (pool, [model for model in members if getattr(model.config.delivery, mode)])
            for pool, members in serving
        ]
        return Prospect(
            serving,
            delivering,
            is_deliverable=any(members for _, members in delivering),
            is_scored=any(pool.score is not None and pool.score.live for pool, _ in delivering),
            floor=self.fitness.floor(delivering),
        )


def _serving(call: Call, resolution: Resolution) -> Members:
    """Each model once, in the first pool that holds it."""
    kept: Members = []
    seen: set[ModelSpec] = set()
    for pool in resolution.pools:
        members = []
        for model in pool.models:
            if model in seen or (resolution.models is not None and model not in resolution.models):
                continue
            seen.add(model)
            if call.surface.suits(model):
                members.append(model)
        if members:
            kept.append((pool, members))
    return kept
