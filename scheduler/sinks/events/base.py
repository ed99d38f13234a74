"""The contract of a target of events, and the record that all of them are told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shared_state.errors import ModelMeshError
from shared_state.event_kinds import gravity_of
from shared_state.events import Event

Record = dict[str, Any]


class TargetError(ModelMeshError):
    """A target did not take what it was told.

    Attributes:
        is_final: it will not take it later either.
        wait_s: how long it wants to be left alone; 0 if it does not say.
    """

    default_code = "target_failed"

    def __init__(self, message: str, *, is_final: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.wait_s = wait_s


class EventTarget(ABC):
    """Somebody who is told events.

    Attributes:
        most: how many events it takes at once.
    """

    most: int = 500

    @abstractmethod
    async def tell(self, records: Sequence[Record]) -> None:
        """Hands over records, oldest first, and returns once they were taken; they may be told again after a crash, with the same ``id``.

        Raises:
            TargetError: they were not taken, as far as we know.
        """

    async def aclose(self) -> None:
        """Releases what it holds. May be called twice."""
        return


def record_of(event: Event, event_id: str, *, has_metadata: bool = True) -> Record:
    """An event as targets are told it."""
    record: Record = {
        "type": "event",
        "id": event_id,
        "event_type": event.type,
        "timestamp": iso(event.time_ms),
        "severity": gravity_of(event.type, event.reason).word,
        "message": _message(event),
        "domain": event.domain,
        "model_id": event.id if event.kind == "model" else None,
        "provider_id": event.id if event.kind == "provider" else None,
        "pool_id": event.id if event.kind == "pool" else None,
        "reason": event.reason or None,
    }
    if has_metadata:
        record["metadata"] = {
            "kind": event.kind,
            "subject": event.id,
            "until": iso(event.until_ms) if event.until_ms > 0 else None,
            "node": event.node or None,
            "epoch": event.epoch,
            **event.numbers,
        }
    return record


def iso(time_ms: int) -> str:
    """UTC, to the millisecond."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _message(event: Event) -> str:
    """One line for people."""
    reason = f" ({event.reason})" if event.reason else ""
    until = f" until {iso(event.until_ms)}" if event.until_ms > 0 else ""
    return f"{event.kind} {event.id}: {event.type}{reason}{until}"
