"""The attempt passport: what one router tells the next of a request that goes through both.

``x-modelmesh-passport: hops=1; attempts=3; ms=11876``: routers passed so far, attempts that may still be made, time left. It can only
narrow what a router would do by itself, so it may come from anybody. A router that has other candidates allows the next one a single
attempt: who fails over is the one who knows most ways. So attempts never multiply, and a circle of routers has an end.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

HEADER: Final = b"x-modelmesh-passport"
#: More routers in a row than anybody builds on purpose.
MOST_HOPS: Final = 5
#: Pools fall back to each other, but a request does not try the whole world.
MOST_ATTEMPTS: Final = 10
_STAMP: Final = re.compile(r"hops=(\d{1,3}); ?attempts=(\d{1,3}); ?ms=(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Passport:
    """What a request brings along.

    Attributes:
        hops: routers that it has passed.
        attempts: attempts that may be made here.
        left_s: time left when it came.
        is_repeat: its caller's SDK sends it again by itself.
    """

    hops: int = 0
    attempts: int = MOST_ATTEMPTS
    left_s: float = math.inf
    is_repeat: bool = False


FRESH: Final = Passport()


def parse(text: str) -> tuple[int, int, float]:
    """Hops, attempts and seconds left of a stamp.

    Raises:
        ValueError: it is none.
    """
    match = _STAMP.fullmatch(text)
    if match is None or match[2].strip("0") == "":
        raise ValueError("must be as in 'hops=1; attempts=3; ms=11876', with at least one attempt")
    return int(match[1]), int(match[2]), int(match[3]) / 1000


def stamp(passport: Passport, *, attempts: int, left_s: float) -> bytes:
    """The header for the next router, if the provider is one."""
    left_ms = min(999_999_999, max(1, round(left_s * 1000))) if left_s < 1e6 else 999_999_999
    return b"hops=%d; attempts=%d; ms=%d" % (passport.hops + 1, attempts, left_ms)
