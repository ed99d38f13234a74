"""Asking for admission, with Redis or without it: the one rule for models and gates."""

from __future__ import annotations

from typing import Final, Protocol

from node.batch import DomainBatcher
from node.leases import Allowance
from node.watch import StoreWatch
from shared_state.config import PoolConfig
from shared_state.ledger import Ask, Code, Verdict

#: Admitted while Redis is away: out of a lease, or because nothing is limited.
WITHOUT_STORE: Final = Verdict(Code.ADMITTED)
_AWAY: Final = Verdict(Code.STORE_AWAY)
#: How long a request waits, once Redis is back, until it knows what was spent meanwhile.
_REPORT_S: Final = 0.25


class Door(Protocol):
    """What admits: a model's lane or a gate."""

    @property
    def batcher(self) -> DomainBatcher:
        """The way to its quota domain."""

    @property
    def allowance(self) -> Allowance:
        """What may be admitted without Redis."""

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited there."""


async def ask_for_admission(
    door: Door, ask: Ask, rules: PoolConfig, *, watch: StoreWatch, on_loss: str
) -> Verdict:
    """The verdict on an ask; ``WITHOUT_STORE`` if Redis is away and the call may go out all the same."""
    verdict = await _ask(door, ask, rules, watch)
    if verdict.code is Code.ADMITTED:
        door.allowance.note(ask)
        if verdict.from_lease:
            door.allowance.shrink(ask)
    elif verdict.code in (Code.STORE_AWAY, Code.HELD):
        if verdict.in_doubt:
            door.allowance.shrink(ask)
        if _may_go_without(door, ask, on_loss):
            return WITHOUT_STORE
    return verdict


async def _ask(door: Door, ask: Ask, rules: PoolConfig, watch: StoreWatch) -> Verdict:
    """Asks Redis, once it knows what was spent while it was away."""
    if watch.connected and not watch.held and not door.allowance.is_reported:
        await door.allowance.until_reported(_REPORT_S)
        if not door.allowance.is_reported:
            return _AWAY
    return await door.batcher.admit(ask, rules)


def _may_go_without(door: Door, ask: Ask, on_loss: str) -> bool:
    """Whether a call may go out while Redis is away or held after a loss: nothing to exceed, paid in advance, or the deployment prefers availability."""
    if on_loss == "leased":
        return not door.is_limited or door.allowance.spend(ask)
    return on_loss == "open"
