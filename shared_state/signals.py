"""How models do over the whole cluster: speed, attempts under way, room at their limits. The read side of ``read_signals.lua``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ormsgpack

from shared_state.limits import windows_of
from shared_state.store import Store
from shared_state.topology import DomainSpec


@dataclass(frozen=True, slots=True)
class Standing:
    """A model at one moment; None: unknown, or nothing is limited there.

    Attributes:
        measured_ms: server time of the last sample.
        in_flight: attempts under way on all nodes.
        headroom: share left of the tightest limit of model and account.
        requests_left: requests left by the tightest limit that counts them.
        requests_limit: that limit.
    """

    latency_ms: float | None
    first_token_ms: float | None
    peak_ms: float | None
    measured_ms: int | None
    in_flight: int
    headroom: float | None
    requests_left: int | None
    requests_limit: int | None


async def read_signals(store: Store, domain: DomainSpec, *, now_ms: int) -> tuple[int, dict[str, Standing]]:
    """Server time, and every model of a domain; one round trip.

    Args:
        now_ms: server time as known here; only chooses the periods of calendars.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    asked = (
        windows_of(domain.providers[0].config.limits, now_ms),
        [(model.id, windows_of(model.config.limits, now_ms)) for model in domain.models],
    )
    read_at, *rows = await store.run("read_signals", [store.keys.domain(domain.id)], [ormsgpack.packb(asked)])
    return read_at, {model.id: _standing(row) for model, row in zip(domain.models, rows, strict=True)}


def _standing(row: list[Any]) -> Standing:
    latency, first_token, peak, measured, in_flight, room, requests, most = row
    return Standing(
        latency_ms=float(latency) if latency else None,
        first_token_ms=float(first_token) if first_token else None,
        peak_ms=float(peak) if peak else None,
        measured_ms=int(measured) if measured else None,
        in_flight=in_flight,
        headroom=None if room < 0 else room / 1e6,
        requests_left=None if requests < 0 else requests,
        requests_limit=None if requests < 0 else most,
    )
