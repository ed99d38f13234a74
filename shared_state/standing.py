"""Where a node stands in a quota domain: the epoch it has seen, the term it has asserted, and whether admissions have to wait."""

from __future__ import annotations

from collections.abc import Callable

from shared_state.clock import ServerClock
from shared_state.entries import Note


class Standing:
    """Of one node in one domain, as replies tell it.

    Attributes:
        epoch: of the domain, by the last reply.
        term: the one that this node has asserted, or found when it came; 0 before the first reply.
        is_asserted: False from the moment at which another term was seen until this node has asserted it.
        hold_until_ms: until then (server time) nobody is plainly admitted.
        on_hold: called whenever it is seen that another term is in force, or that plain admissions have to wait.
    """

    def __init__(self, *, clock: ServerClock) -> None:
        self.epoch = -1
        self.term = 0
        self.is_asserted = True
        self.hold_until_ms = 0
        self.on_hold: Callable[[], None] = lambda: None
        self._clock = clock

    def is_held(self) -> bool:
        """Whether plain admissions have to wait: for this node's assertion, or for the others'."""
        if self.is_asserted and not self.hold_until_ms:
            return False
        return not self.is_asserted or self._clock.now_ms() < self.hold_until_ms

    def observe_term(self, term: int) -> bool:
        """Whether a term that was read elsewhere is this node's own; a node that is new here takes it over."""
        if self.term == 0 and term > 0:
            self.term = term
        if term == self.term or self.term == 0:
            return True
        self._lose_term(self.hold_until_ms)
        return False

    def take_term(self, term: int, *, hold_until_ms: int) -> None:
        """This node has asserted what it knows."""
        self.term, self.hold_until_ms, self.is_asserted = term, hold_until_ms, True

    def _observe(self, epoch: int, note: int, value: int) -> None:
        """A batch was received so."""
        if note == Note.FINE:
            if epoch >= 0:
                self.epoch = epoch
            self.term = self.term or value
        elif note == Note.UNASSERTED:
            self._lose_term(value)
        elif note == Note.HELD:
            self.hold_until_ms = value
            self.on_hold()

    def _lose_term(self, hold_until_ms: int) -> None:
        self.is_asserted, self.hold_until_ms = False, hold_until_ms
        self.on_hold()
