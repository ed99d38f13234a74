"""What a run over streams has measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.stream_phases import FirstToken, Idle, Lazy


@dataclass(slots=True)
class StreamRun:
    """Everything that was measured, and where."""

    setting: dict[str, Any]
    idle: list[Idle] = field(default_factory=list)
    first: list[FirstToken] = field(default_factory=list)
    lazy: list[Lazy] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """What must not be: failed streams, readers who are held for ever."""
        measured: list[Idle | FirstToken | Lazy] = [*self.idle, *self.first, *self.lazy]
        found = [fault for one in measured for fault in one.faults]
        return found + [f"{one.subject} still held slow readers" for one in self.lazy if one.ended_s is None]
