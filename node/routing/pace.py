"""So many a second, and a few at once."""

from __future__ import annotations


class Pace:
    """A token bucket on a clock that its user reads."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, rate: float, most: int) -> None:
        self._rate = rate
        self._most = float(most)
        self._left = float(most)
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Takes one, if there is one."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def earn(self, amount: float) -> None:
        """Puts some in."""
        self._left = min(self._most, self._left + amount)
