"""The rules of admission once more, in plain Python and without any haste: what the scripts are compared with."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from shared_state.config import LimitsConfig
from shared_state.ledger import UNKNOWN
from shared_state.limits import Algorithm, Dimension, Window, calendar_periods, windows_of

#: What is admitted this shortly before the end of a calendar period counts in the next one as well.
CARRY_MS = 250


@dataclass
class Held:
    """A reservation in flight."""

    model: str
    at_ms: int
    expires_ms: int
    tokens: int


@dataclass
class Meter:
    """One window: amounts by the moment or period that they count for."""

    window: Window
    zone: str
    spent: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    last_ms: int | None = None

    @property
    def name(self) -> str:
        return self.window[1]

    @property
    def is_sliding(self) -> bool:
        return self.window[0] == Algorithm.SLIDING

    def place(self, now_ms: int) -> int:
        """The bucket or period that a moment belongs to."""
        if self.is_sliding:
            return now_ms // self.window[5]
        return calendar_periods(self.name[-1], self.zone, now_ms)[0]

    def leaves_ms(self, place: int) -> int:
        """When a bucket or period does not count any more."""
        _, _, _, _, length_ms, bucket_ms, guard_ms, _ = self.window
        if self.is_sliding:
            return (place + 1) * bucket_ms + length_ms + guard_ms
        return calendar_periods(self.name[-1], self.zone, place)[1]

    def used(self, now_ms: int) -> int:
        """What counts now."""
        here = self.place(now_ms)
        return sum(
            amount
            for place, amount in self.spent.items()
            if now_ms < self.leaves_ms(place) and (self.is_sliding or place <= here)
        )

    def room_at(self, amount: int, now_ms: int) -> int:
        """The first moment from now on at which the amount fits; -1 never."""
        algorithm, _, _, limit, a, *_ = self.window
        if algorithm == Algorithm.SPACING:
            return now_ms if self.last_ms is None else max(now_ms, self.last_ms + a)
        if amount > limit:
            return -1
        moments = [now_ms, *sorted(leaves for p in self.spent if (leaves := self.leaves_ms(p)) > now_ms)]
        return next(moment for moment in moments if self.used(moment) + amount <= limit)

    def take(self, amount: int, now_ms: int) -> None:
        """Counts the amount now."""
        self.last_ms = now_ms
        if self.window[0] == Algorithm.SPACING:
            return
        place = self.place(now_ms)
        self.spent[place] += amount
        if not self.is_sliding and now_ms >= self.leaves_ms(place) - CARRY_MS:
            self.spent[self.leaves_ms(place)] += amount  # the provider may see it in the next period

    def true_up(self, was: int, used: int, *, at_ms: int, sent_ms: int, now_ms: int) -> None:
        """Replaces what was reserved by what was used; what has left cannot come back."""
        if self.window[0] == Algorithm.SPACING:
            return
        origin, here = self.place(at_ms), self.place(now_ms)
        if now_ms >= self.leaves_ms(origin):
            if not self.is_sliding and at_ms >= here - CARRY_MS:
                self.spent[here] += used - was
            elif not self.is_sliding and sent_ms >= here:
                self.spent[here] += used
            else:
                self.spent[here] += max(0, used - was)
        else:
            self.spent[origin] -= was
            self.spent[self.place(sent_ms) if self.is_sliding else origin] += used


class Reference:
    """A quota domain of one account and its models."""

    def __init__(self, limits: dict[str, LimitsConfig], now_ms: int) -> None:
        """`limits` by scope, the account's under the empty name."""
        self.meters = {
            scope: [
                Meter(window, limit.timezone)
                for window in windows_of(limit, now_ms)
                if window[0] != Algorithm.CONCURRENCY
            ]
            for scope, limit in limits.items()
        }
        self.slots = {scope: limit.concurrency for scope, limit in limits.items()}
        self.flight: dict[str, Held] = {}
        self.admitted = self.settled = self.abandoned = 0

    def in_flight(self, scope: str) -> int:
        """How many calls of the account or of a model are in flight."""
        return sum(not scope or held.model == scope for held in self.flight.values())

    def is_full(self, scope: str) -> bool:
        """Whether all slots for calls in flight are taken."""
        slots = self.slots[scope]
        return slots is not None and self.in_flight(scope) >= slots

    def expire(self, now_ms: int) -> None:
        """What an admission does first: leases that ran out are abandoned."""
        self.abandon([rid for rid, held in self.flight.items() if held.expires_ms <= now_ms])

    def abandon(self, reservations: list[str]) -> None:
        """Takes reservations out of flight, charged in full."""
        for reservation in reservations:
            self.abandoned += self.flight.pop(reservation, None) is not None

    def admit(self, reservation: str, model: str, tokens: int, *, lease_ms: int, now_ms: int) -> int | None:
        """None if admitted, else when it could be: -1 never, 0 when a call ends."""
        amounts = {Dimension.REQUESTS: 1, Dimension.TOKENS: tokens}
        meters = self.meters[""] + self.meters[model]
        rooms = [meter.room_at(amounts[Dimension(meter.window[2])], now_ms) for meter in meters]
        waits = [room for room in rooms if room != now_ms]
        if -1 in waits:
            return -1
        if waits:
            return max(waits)
        if any(self.is_full(scope) for scope in ("", model)):
            return 0
        for meter in meters:
            meter.take(amounts[Dimension(meter.window[2])], now_ms)
        self.flight[reservation] = Held(model, now_ms, now_ms + lease_ms, tokens)
        self.admitted += 1
        return None

    def settle(self, reservation: str, tokens: int, *, is_sent: bool, delay_ms: int, now_ms: int) -> bool:
        """Whether the reservation was in flight."""
        held = self.flight.pop(reservation, None)
        if held is None:
            return False
        self.settled += 1
        used = 0 if not is_sent else held.tokens if tokens == UNKNOWN else tokens
        amounts = {Dimension.REQUESTS: (1, int(is_sent)), Dimension.TOKENS: (held.tokens, used)}
        for meter in self.meters[""] + self.meters[held.model]:
            was, is_ = amounts[Dimension(meter.window[2])]
            sent_ms = min(held.at_ms + delay_ms, now_ms)
            meter.true_up(was, is_, at_ms=held.at_ms, sent_ms=sent_ms, now_ms=now_ms)
        return True
