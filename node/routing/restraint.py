"""Who is not asked though nothing else forbids it: a crowd must not run over what recovers, nor a storm over what is down."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from node.call import Target
from node.routing.pace import Pace
from node.routing.pipeline import Plan
from shared_state.clock import ServerClock
from shared_state.ledger import Code, How, Verdict

#: A step of the ramp takes at least so long; see ``lua/include/judging.lua``.
_RAMP_STEP_S: Final = 1.0
#: Calls beyond its share that a recovering model gets from this node when nobody else can serve.
_SPARES_PER_S: Final = 10.0
_SPARES_AT_ONCE: Final = 3
#: In panic a model is asked so often on faith alone; what it answers well pays for more. At one success in five nobody is held back.
_FAITH_PER_S: Final = 2.0
_FAITH_AT_MOST: Final = 10
_EARNED_BY_SUCCESS: Final = 5.0


@dataclass(slots=True)
class Faith:
    """What this node has asked of models that are away for their health, by pool: requests, and those that were answered."""

    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)


class Restraint:
    """The paces of one node's models.

    Args:
        draw: uniform numbers in [0, 1): callers come again at different times.
    """

    def __init__(self, clock: ServerClock, draw: Callable[[], float]) -> None:
        self._clock = clock
        self._draw = draw
        self._spares: dict[str, Pace] = {}
        self._faiths: dict[str, Pace] = {}
        self.faith = Faith()

    def verdict(self, plan: Plan, target: Target) -> Verdict | None:
        """When to come again, if the target is not to be asked now."""
        pace = self._pace(plan, target)
        if pace is None or pace.take(asyncio.get_running_loop().time()):
            return None
        # Once a ramp has risen, and not all at once.
        pause_ms = round(_RAMP_STEP_S * 1000 * (1 + self._draw()))
        return Verdict(Code.STANDBY, self._clock.now_ms() + pause_ms, "ramp")

    def note_start(self, target: Target) -> None:
        """A target has admitted a call."""
        if target.how is How.DESPITE:
            self.faith.asked[target.pool.id] += 1

    def note_success(self, target: Target) -> None:
        """A model that was asked despite its illness has answered."""
        if target.how is How.DESPITE:
            self.faith.answered[target.pool.id] += 1
            self._faith(target).earn(_EARNED_BY_SUCCESS)

    def _pace(self, plan: Plan, target: Target) -> Pace | None:
        if target.how is How.DESPITE:
            return self._faith(target)
        if any(
            spare is target for spare in plan.reserve
        ):  # it recovers, and its share of the traffic is used up
            return self._spares.setdefault(target.model.id, Pace(_SPARES_PER_S, _SPARES_AT_ONCE))
        return None

    def _faith(self, target: Target) -> Pace:
        return self._faiths.setdefault(target.model.id, Pace(_FAITH_PER_S, _FAITH_AT_MOST))
