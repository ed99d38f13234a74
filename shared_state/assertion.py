"""After a loss: a node asserts to the server what it knows and the server may have forgotten.

    begin     opens the term if nobody has, and tells what the server has of this node
    replay    batches that it lacks are applied again, in order: what was admitted is charged now, later than true
    finish    standbys that it has forgotten are set again, and the node counts as asserted

Every step may be repeated; if another term comes in between, all begins again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import ormsgpack

from shared_state.errors import TermChangedError
from shared_state.ledger import Amounts, DomainLedger, Note


class Standby(NamedTuple):
    """A standby as a node knows it."""

    kind: str
    id: str
    reason: str
    mode: str
    until_ms: int


@dataclass(slots=True)
class Correction:
    """What had been lost and was said again.

    Attributes:
        cause: ``restart``, ``failover`` or ``empty``, as far as the server can tell.
        tokens, cost_nano: what the admissions reserve, and what was spent of leases.
        leased: requests spent of leases.
        states: standbys set again.
        is_whole: False if this node had given up remembering a part of what the server lacks.
    """

    cause: str = ""
    admissions: int = 0
    settlements: int = 0
    leased: int = 0
    tokens: int = 0
    cost_nano: int = 0
    states: int = 0
    is_whole: bool = True


class Assertion:
    """One node's assertion in one domain, through as many failures as it takes."""

    def __init__(self, ledger: DomainLedger) -> None:
        self.correction = Correction()
        self.term = 0
        self.hold_until_ms = 0
        self.renewals_known = 0
        self._ledger = ledger
        self._known = (0, 0)

    async def begin(self, *, epoch: int) -> bool:
        """Asks what the server has; False while a durable copy may still come.

        Args:
            epoch: the largest that this node has seen.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        await self._ledger.until_quiet()
        _, _, note, _, *facts = await self._ledger.say("begin", term=self._ledger.term, epoch=epoch)
        if note != Note.FINE:
            return False
        term, self.hold_until_ms, cause, *known = facts
        admissions, settlements, self.renewals_known = known
        self._known = (admissions, settlements)
        if term != self.term:
            self.term = term
            self.correction = self._count(cause.decode(), admissions, settlements)
        return True

    def _count(self, cause: str, admissions: int, settlements: int) -> Correction:
        journal = self._ledger.journal
        correction = Correction(cause, is_whole=journal.is_whole(admissions, settlements))
        for part in journal.admissions_above(admissions):
            correction.admissions += part.size
            correction.tokens += part.tokens
            correction.cost_nano += part.cost_nano
        correction.settlements = sum(part.size for part in journal.settlements_above(settlements))
        return correction

    async def replay(self) -> None:
        """Says again what the server lacks.

        Raises:
            TermChangedError: another term has begun: begin again.
            RedisError, OSError, TimeoutError: the store is away.
        """
        ledger, (admissions, settlements) = self._ledger, self._known
        for part in ledger.journal.admissions_above(admissions):
            await ledger.replay("admit", part.batch, sequence=part.sequence, term=self.term)
        for part in ledger.journal.settlements_above(settlements):
            await ledger.replay("settle", part.batch, sequence=part.sequence, term=self.term)

    def note_leases(self, used: Amounts) -> None:
        """What was spent of leases and has been charged with this assertion."""
        self.correction.leased += used.requests
        self.correction.tokens += used.tokens
        self.correction.cost_nano += used.cost_nano

    async def finish(self, standbys: Sequence[Standby] = (), *, epoch: int) -> Correction:
        """Takes the term over: from now on everything of this node is applied again.

        Args:
            standbys: what this node knew to be on standby at `epoch`.

        Raises:
            TermChangedError: another term has begun: begin again.
            RedisError, OSError, TimeoutError: the store is away.
        """
        ledger, correction = self._ledger, self.correction
        numbers = {
            "admissions": correction.admissions,
            "settlements": correction.settlements,
            "leased": correction.leased,
            "tokens": correction.tokens,
            "cost_nano": correction.cost_nano,
            "is_whole": correction.is_whole,
        }
        last = (ledger.sequences["admit"], ledger.sequences["settle"])
        said = ormsgpack.packb((last, epoch, tuple(map(tuple, standbys)), numbers))
        _, now_epoch, note, _, *facts = await ledger.say("finish", term=self.term, epoch=epoch, said=said)
        if note != Note.FINE:
            raise TermChangedError(ledger.domain.id)
        _, self.hold_until_ms, correction.states = facts
        ledger.epoch = now_epoch
        ledger.take_term(self.term, hold_until_ms=self.hold_until_ms)
        return correction
