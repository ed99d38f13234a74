"""What one call carries with it through the router."""

from __future__ import annotations

from dataclasses import dataclass, field

from node.call import Call, Reply, Target, Trail
from node.routing.gates import Walk
from node.routing.interrupts import Interrupts
from node.routing.pipeline import Plan
from node.routing.tries import Tries
from node.routing.verdicts import Refusals
from shared_state.ledger import Settlement, Verdict


@dataclass(slots=True)
class Journey:
    """One pass of a call over its targets.

    Attributes:
        walk: its way through the gates; None if there are none.
        tries: how many attempts it may still make.
        others: targets that were not tried yet, best first.
        refusals: why those before have not answered.
        billed: accounts that may have been billed for it already.
    """

    plan: Plan
    reply: Reply
    interrupts: Interrupts
    trail: Trail
    walk: Walk | None
    tries: Tries
    others: list[Target]
    refusals: Refusals = field(default_factory=Refusals)
    billed: set[str] = field(default_factory=set)

    @property
    def call(self) -> Call:
        """The call itself."""
        return self.plan.call

    @property
    def spends_money(self) -> bool:
        """Whether money is limited at a gate that it has passed."""
        return self.walk is not None and self.walk.spends_money

    def pass_over(self, target: Target, verdict: Verdict, *, prefix: str = "") -> None:
        """Notes why a target was not tried."""
        self.refusals.verdicts.append(verdict)
        self.trail.skipped[target.model.id] = prefix + (verdict.name or verdict.code.name.lower())

    def leave_gates(self, target: Target, settlement: Settlement | None) -> None:
        """An attempt is over, or its model did not admit it (None)."""
        if self.walk is not None:
            self.walk.leave(target, settlement)

    def stay_off_billed(self) -> None:
        """Drops targets on accounts that may have been billed for this call already."""
        if not self.billed:
            return
        for target in self.others:
            if target.model.domain in self.billed:
                self.trail.skipped[target.model.id] = "maybe_billed"
        self.others = [target for target in self.others if target.model.domain not in self.billed]

    def prefer(self, provider: str) -> None:
        """Puts the targets of a provider first."""
        self.others.sort(key=lambda target: target.model.provider != provider)
