"""The model that has answered fastest of late, as the whole cluster has seen it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import ClassVar, Final

from node.routing.strategies.base import Hints, Need, Request, Signal, Strategy
from shared_state.topology import ModelSpec

#: A measure older than this is worth a look, and so is a model that was never measured: it gets one turn in so many.
_STALE_S: Final = 30.0
_LOOK_EVERY: Final = 10


class LatencyFirst(Strategy):
    """Streams go by the time to the first token, other requests by the whole time.

    Whoever is slow gets no traffic, and so would never be seen to have become fast: now and then a turn goes to the model that was
    measured longest ago. One answer is enough, so on a busy pool this is a fraction of a percent.
    """

    id: ClassVar[str] = "modelmesh.latency-first.v1"
    needs = frozenset({Need.SIGNALS, Need.TURN})

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """Fastest first; one that was never measured counts as the median; ties in the order of the candidates."""
        times = [_time_ms(hints.signal(spec), request) for spec in candidates]
        known = [time_ms for time_ms in times if time_ms is not None]
        usual = median(known) if known else 0.0
        by_id = {
            spec.id: usual if time_ms is None else time_ms
            for spec, time_ms in zip(candidates, times, strict=True)
        }
        ranked = sorted(candidates, key=lambda spec: by_id[spec.id])
        if hints.turn % _LOOK_EVERY == 0 and ranked:
            looked_at = _longest_unseen(candidates, hints)
            ranked.sort(key=lambda spec: spec is not looked_at)
        return ranked


def _longest_unseen(candidates: Sequence[ModelSpec], hints: Hints) -> ModelSpec | None:
    """The model that was measured longest ago, if that is long ago; those that never were take turns."""
    ages = [_age_s(hints.signal(spec)) for spec in candidates]
    oldest = max(ages)
    if oldest <= _STALE_S:
        return None
    unseen = [spec for spec, age_s in zip(candidates, ages, strict=True) if age_s == oldest]
    return unseen[hints.turn // _LOOK_EVERY % len(unseen)]


def _time_ms(signal: Signal, request: Request) -> float | None:
    if request.is_stream and signal.first_token_ms is not None:
        return signal.first_token_ms
    return signal.latency_ms


def _age_s(signal: Signal) -> float:
    return float("inf") if signal.age_s is None else signal.age_s
