"""What the request log says beyond its plain line: of the call and every attempt; and, where that is asked for, what was said."""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Message, Send

from node.call import Call, Trail
from node.observe.record import steps_of
from node.observe.redaction import Redactor
from shared_state.ledger import ESTIMATED

_NANO_PER_USD: Final = 10**9


class Overheard:
    """Stands between an answer and its caller, and keeps its beginning.

    Args:
        most_bytes: of the body.
    """

    def __init__(self, send: Send, *, most_bytes: int) -> None:
        self._send = send
        self._most = most_bytes
        self._parts: list[bytes] = []
        self._kept = 0
        self.size = 0
        self.content_type = ""

    async def __call__(self, message: Message) -> None:
        """The ``send`` of ASGI."""
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message["headers"] if name == b"content-type"]
            self.content_type = kinds[0].decode("latin-1") if kinds else ""
        else:
            self._keep(message.get("body", b""))
        await self._send(message)

    def _keep(self, part: bytes) -> None:
        self.size += len(part)
        if part and self._kept < self._most:
            self._parts.append(bytes(part[: self._most - self._kept]))
            self._kept += len(self._parts[-1])

    @property
    def body(self) -> bytes:
        """The beginning of the answer."""
        return b"".join(self._parts)


def summary_of(call: Call | None, trail: Trail) -> dict[str, Any]:
    """Cost, kind of call, every attempt."""
    ends = [step.settlement for step in trail.steps if step.settlement is not None]
    return {
        "api": call.surface.name if call else None,
        "delivery_mode": ("streaming" if call.is_stream else "synchronous") if call else None,
        "cost_usd": sum(max(0, end.cost_nano) for end in ends) / _NANO_PER_USD,
        "estimated": any(end.flags & ESTIMATED for end in ends),
        "steps": steps_of(trail, call) if call else [],
    }


def payloads_of(
    call: Call | None, trail: Trail, heard: Overheard | None, redactor: Redactor
) -> dict[str, Any]:
    """What was asked and answered, and what providers said when they failed; without secrets."""
    errors = [redactor.text(step.error.message) for step in trail.steps if step.error is not None]
    answer = None
    if heard is not None and heard.size:
        answer = redactor.body(heard.body, content_type=heard.content_type, size=heard.size)
    return {
        "request": redactor.fields(call.fields) if call else None,
        "response": answer,
        "errors": errors,
    }
