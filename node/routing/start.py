"""An attempt that was admitted and has not begun: all that it needs but whom it answers."""

from __future__ import annotations

from typing import NamedTuple

from node.call import Call, Reply, Step, Target, Trail
from node.routing.attempt import Attempt
from node.routing.interrupts import Interrupts
from node.routing.lanes import Lane


class Start(NamedTuple):
    """An admitted attempt.

    Attributes:
        charged: the reservation by which the allowance knows it.
        step: where its end is noted.
    """

    call: Call
    target: Target
    lane: Lane
    reservation: str
    deadline: float
    asked: float
    passport: bytes
    is_reserved: bool
    charged: str
    step: Step
    most_out: int | None

    def attempt(self, reply: Reply, interrupts: Interrupts, trail: Trail) -> Attempt:
        """The attempt, answering there."""
        return Attempt(
            self.call,
            self.target,
            self.lane,
            self.reservation,
            reply,
            interrupts,
            trail,
            deadline=self.deadline,
            asked=self.asked,
            passport=self.passport,
            is_reserved=self.is_reserved,
            most_out=self.most_out,
        )
