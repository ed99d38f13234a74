"""What the reply to an exchange says of each ask: it names only those that were not plainly admitted."""

from __future__ import annotations

from typing import Any, Final

from shared_state.entries import Code, Verdict

#: Where particulars begin: behind time, epoch, notes and what belongs to them, and the settlements that changed nothing.
_PARTICULARS: Final = 7

_ADMITTED: Final = Verdict(Code.ADMITTED)
_TRIAL: Final = Verdict(Code.ADMITTED, trial=True)
_FROM_LEASE: Final = Verdict(Code.ADMITTED, from_lease=True)


def verdicts_in(reply: list[Any], count: int) -> tuple[list[Verdict], tuple[int, ...]]:
    """A verdict for each of so many asks, in their order; and the places, from 0, of those that were refused."""
    verdicts = [_ADMITTED] * count
    for i in range(_PARTICULARS, len(reply), 4):
        verdicts[reply[i] - 1] = _exception(*reply[i + 1 : i + 4])
    if len(reply) <= _PARTICULARS:
        return verdicts, ()
    return verdicts, tuple(place for place, verdict in enumerate(verdicts) if verdict.code != Code.ADMITTED)


def _exception(code: int, at_ms: int, name: bytes) -> Verdict:
    if code == Code.ADMITTED:
        return _TRIAL if at_ms == 1 else _FROM_LEASE
    return Verdict(Code(code), at_ms, name.decode())
