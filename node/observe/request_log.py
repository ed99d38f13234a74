"""One line per request, written off the request's path; by default of JSON, on standard error."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Send

from node.call import Call, Trail
from node.observe.details import Overheard, payloads_of, summary_of
from node.observe.log_writer import LogWriter
from node.observe.redaction import Redactor, secrets_of
from shared_state.config.observability import LOG_FILES, RequestLogConfig
from shared_state.config.root import MeshConfig
from shared_state.log_files import LogFile

_FLUSH_S: Final = 0.2
_MOST_LINES: Final = 10_000
_CLOSE_S: Final = 2.0
#: An answer is read to its end, if it is no longer than this; else what can be shown of it.
_HEARD: Final = 64 * 1024


class Out(Protocol):
    """Where lines go."""

    def write(self, data: bytes, /) -> Any:
        """Takes whole lines."""

    def flush(self) -> Any:
        """Lets them out."""


class RequestLog:
    """Gathers lines and writes them a few times a second; drops the newest when nobody takes them.

    Args:
        out: default: standard error.
        redactor: for the payloads, at the level that has them.
    """

    def __init__(
        self,
        node: str,
        out: Out | None = None,
        *,
        config: RequestLogConfig | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        config = config or RequestLogConfig()
        self._node = node
        self._out: Out = out or sys.stderr.buffer
        self._is_off = config.connector == "modelmesh.null.v1"
        self._has_details = config.level != "metadata"
        self._redactor = redactor if config.level == "full" and not self._is_off else None
        self._most_heard = max(_HEARD, 4 * config.max_payload_size)
        text = config.connector == "modelmesh.file.v1"
        self._encode: Callable[[dict[str, Any]], bytes] = _as_text if text else orjson.dumps
        self._lines: list[bytes] = []
        self._handle: asyncio.TimerHandle | None = None
        self.dropped = 0

    def overhear(self, send: Send) -> Overheard | None:
        """Listens to an answer whose payload is to be logged; None for all others."""
        return None if self._redactor is None else Overheard(send, most_bytes=self._most_heard)

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
        call: Call | None = None,
        heard: Overheard | None = None,
    ) -> None:
        """Logs a finished request; ``started`` and ``ended`` are loop time."""
        if self._is_off:
            return
        if len(self._lines) >= _MOST_LINES:
            self.dropped += 1
            return
        target = trail.target
        line: dict[str, Any] = {
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
        if self._has_details:
            line |= summary_of(call, trail)
            if self._redactor is not None:
                line |= payloads_of(call, trail, heard, self._redactor)
        self._lines.append(self._encode(line))
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Writes what has gathered."""
        self._handle = None
        lines, self._lines = self._lines, []
        if lines:
            self._out.write(b"\n".join(lines) + b"\n")
            self._out.flush()


class RequestLogs(Collector):
    """The request logs of one node: one for each way of writing it that a configuration asks for.

    Args:
        console: in place of standard error.
    """

    def __init__(self, node: str, console: Out | None = None) -> None:
        self._node = node
        self._console = console
        self._dropped = 0  # by logs that are no more
        self._logs: list[RequestLog] = []
        self._writers: dict[tuple[object, ...], LogWriter] = {}

    def open(self, config: MeshConfig) -> RequestLog:
        """The log of a configuration; two that name the same file share it."""
        wanted = config.observability.logging
        redactor = Redactor(
            most_bytes=wanted.max_payload_size,
            names=wanted.redact_keys,
            known=secrets_of(config) if wanted.level == "full" else (),
            is_on=wanted.redact,
        )
        made = RequestLog(self._node, self._writer(wanted), config=wanted, redactor=redactor)
        self._logs.append(made)
        return made

    def release(self, log: RequestLog) -> None:
        """No more lines come to that log: its last ones go out."""
        log.flush()
        if log in self._logs:
            self._logs.remove(log)
            self._dropped += log.dropped

    def _writer(self, config: RequestLogConfig) -> Out | None:
        if config.connector not in LOG_FILES:
            return self._console
        path = Path(config.path or LOG_FILES[config.connector]).expanduser().absolute()
        key = (path, config.max_size, config.keep)
        if key not in self._writers:
            self._writers[key] = LogWriter(LogFile(path, max_size=config.max_size, keep=config.keep))
        return self._writers[key]

    def close(self) -> None:
        """Writes what has gathered; for a node that ends."""
        for log in self._logs:
            log.flush()
        for writer in self._writers.values():
            writer.close(within_s=_CLOSE_S)

    def collect(self) -> Iterator[Metric]:
        """What was not written."""
        dropped = self._dropped + sum(log.dropped for log in self._logs)
        dropped += sum(writer.dropped for writer in self._writers.values())
        yield CounterMetricFamily(
            "modelmesh_request_log_dropped", "Pieces of the request log that were not written.", value=dropped
        )


def _as_text(line: dict[str, Any]) -> bytes:
    """For people; one line, whatever callers have put into their names."""
    at = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds")
    words = [f"{name}={value}" for name, value in line.items() if name not in ("event", "time") and value]
    text = " ".join([at, *words])
    return (text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)).encode()
