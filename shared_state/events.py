"""Events that nodes tell each other. An event is a hint: the truth is the state and its epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state.

    Attributes:
        type: ``model_deactivated``, ``model_activated``, ``model_trial``, ``model_ready``, ``model_ramp``,
            ``model_trial_over``, and the same for ``provider_``; ``model_discovered``, ``model_deprecated``,
            ``model_changed``, ``provider_health_changed`` (discovery); ``model_rotated`` (a pool has moved on to it by an order); ``pool_panic``, ``pool_panic_over``; ``state_restored``.
        time_ms: server time.
        epoch: the domain's epoch after the change.
        kind: ``model``, ``provider``, ``pool``, ``account`` or ``domain``.
        numbers: those that belong to the event; ``state_corrected`` has what was said again, ``state_restored`` ``age_ms`` of the copy, ``reservations`` and ``books`` (admissions).
    """

    type: str
    time_ms: int
    epoch: int
    domain: str
    kind: str
    id: str
    reason: str
    until_ms: int
    node: str
    numbers: Mapping[str, int] = field(default_factory=dict, hash=False)


def decode_event(data: bytes) -> Event | None:
    """The event, or None for a message of another release that cannot be understood."""
    try:
        raw = orjson.loads(data)
        return Event(
            type=str(raw["type"]),
            time_ms=int(raw["time"]),
            epoch=int(raw["epoch"]),
            domain=str(raw["domain"]),
            kind=str(raw["kind"]),
            id=str(raw["id"]),
            reason=str(raw["reason"]),
            until_ms=int(raw["until"]),
            node=str(raw["node"]),
            numbers={str(name): int(number) for name, number in raw.get("numbers", {}).items()},
        )
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        return None
