"""One line of JSON per request, written off the request's path."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import IO, Final

import orjson

from node.call import Trail

_FLUSH_S: Final = 0.2
_MOST_LINES: Final = 10_000


class RequestLog:
    """Gathers lines and writes them a few times a second; drops the newest when nobody takes them."""

    def __init__(self, node: str, out: IO[bytes] | None = None) -> None:
        self._node = node
        self._out = out or sys.stderr.buffer
        self._lines: list[bytes] = []
        self._handle: asyncio.TimerHandle | None = None
        self.dropped = 0

    def write(
        self,
        request_id: str,
        *,
        path: str,
        name: str,
        status: int,
        outcome: str,
        started: float,
        ended: float,
        trail: Trail,
    ) -> None:
        """Logs a finished request; ``started`` and ``ended`` are loop time."""
        if len(self._lines) >= _MOST_LINES:
            self.dropped += 1
            return
        target = trail.target
        self._lines.append(
            orjson.dumps(
                {
                    "event": "request",
                    "time": time.time(),
                    "node": self._node,
                    "request_id": request_id,
                    "path": path,
                    "asked": name,
                    "key": trail.key or None,
                    "status": status,
                    "outcome": outcome,
                    "pool": target.pool.id if target else None,
                    "model": target.model.id if target else None,
                    "provider": target.model.provider if target else None,
                    "attempts": trail.attempts,
                    "fallback": trail.fallback,
                    "panic": trail.is_panic,
                    "skipped": trail.skipped,
                    "mode": trail.mode,
                    "ms": round((ended - started) * 1000, 1),
                    "first_content_ms": round((trail.first_content - started) * 1000, 1)
                    if trail.first_content
                    else None,
                    "tokens_in": trail.tokens_in,
                    "tokens_out": trail.tokens_out,
                }
            )
        )
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Writes what has gathered."""
        self._handle = None
        lines, self._lines = self._lines, []
        if lines:
            self._out.write(b"\n".join(lines) + b"\n")
            self._out.flush()
