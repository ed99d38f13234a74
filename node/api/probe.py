"""Probes: one tiny request of the right kind to one model, by the same way as everybody's, to learn how it is.

It is admitted, charged and settled like any other; a model on standby takes it as its one trial.
"""

from __future__ import annotations

import asyncio

from node.api.probe_calls import probe_call
from node.call import Call, Trail
from node.observe.request_log import RequestLog
from node.routing.interrupts import Interrupts
from node.routing.router import Router
from shared_state.entries import How
from shared_state.errors import ModelMeshError, RejectedRequestError
from shared_state.shapes.status import ProbeView
from shared_state.topology import ModelSpec


class Prober:
    """Sends probes through a node's router."""

    def __init__(self, router: Router, request_log: RequestLog) -> None:
        self._router = router
        self._log = request_log

    async def probe(
        self, model: ModelSpec, *, is_startup: bool = False, within_s: float | None = None
    ) -> ProbeView:
        """Asks a model once; whatever becomes of it is the answer."""
        call = probe_call(model, How.STARTUP_PROBE if is_startup else How.PROBE, within_s)
        if call is None:
            return ProbeView(id=model.id, verdict="no_probe", message="there is no probe for what it does")
        reply, trail = _Silence(), Trail()
        error = await self._send(call, reply, trail)
        ended = asyncio.get_running_loop().time()
        verdict = _verdict(error, trail)
        trail.outcome = "ok" if error is None else error.code or "provider_error"
        self._log.write(
            call.request_id,
            path=f"/ops/models/{model.id}/probe",
            name=model.id,
            status=200 if error is None else error.http_status,
            outcome=trail.outcome,
            started=call.started,
            ended=ended,
            trail=trail,
        )
        return ProbeView(
            id=model.id,
            verdict=verdict,
            latency_ms=round((ended - call.started) * 1000, 3) if trail.attempts else None,
            code=None if error is None else error.code,
            cause=_cause(error, trail),
            message="" if error is None else error.message,
        )

    async def _send(self, call: Call, reply: _Silence, trail: Trail) -> ModelMeshError | None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._router.serve(call, reply, Interrupts(task), trail)
        except ModelMeshError as error:
            return error
        return reply.error


def _verdict(error: ModelMeshError | None, trail: Trail) -> str:
    if error is None:
        return "well"
    if not trail.attempts:
        return "not_asked"
    return "rejected" if isinstance(error, RejectedRequestError) else "failed"


def _cause(error: ModelMeshError | None, trail: Trail) -> str | None:
    """The code of the attempt's own error; the caller's is one about all attempts."""
    failures = [step.error for step in trail.steps if step.error is not None]
    last = failures[-1] if failures else error
    return None if error is None or last is None or not trail.attempts else last.code


class _Silence:
    """Nobody listens: what was learned is in the trail and in the books."""

    def __init__(self) -> None:
        self.is_started = False
        self.error: ModelMeshError | None = None

    async def whole(self, status: int, content_type: bytes, body: bytes, trail: Trail) -> None:
        self.is_started = True

    async def begin(self, trail: Trail, content_type: bytes = b"") -> None:
        self.is_started = True

    async def part(self, data: bytes) -> None:
        """Not kept."""

    async def end(self) -> None:
        """Nothing to close."""

    async def break_off(self, error: ModelMeshError) -> None:
        self.error = error
