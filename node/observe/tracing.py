"""Traces: a span for each request and one for each attempt, by the conventions of OpenTelemetry for generative AI; never a text of anybody.

The library is an extra and is imported when the first configuration asks for it. A request that is not traced pays for one look at None.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from starlette.types import Scope

from node.call import Call, Step, Trail
from shared_state.config.observability import TracingConfig
from shared_state.ledger import UNKNOWN
from shared_state.topology import ModelSpec, ProviderSpec, Topology

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

#: What each API is called there; any other keeps its own name.
_OPERATIONS: Final = {
    "chat completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
}
_PARAMETERS: Final = ("temperature", "top_p", "max_tokens", "frequency_penalty", "presence_penalty", "seed")
_NANO_PER_USD: Final = 10**9
_CLOSE_S: Final = 2.0
_EXPORT_S: Final = 1.0


class Tracing:
    """Traces of one node under one configuration.

    Args:
        providers: accounts of the configuration.
    """

    def __init__(self, config: TracingConfig, *, node: str, providers: Mapping[str, ProviderSpec]) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider = _open(config, node)
        self._tracer = self.provider.get_tracer("modelmesh")
        self._propagator = TraceContextTextMapPropagator()
        self._servers = {name: _server(spec) for name, spec in providers.items()}

    def begin(self, scope: Scope, started: float) -> RequestTrace:
        """A request has come; ``started`` is loop time. Its caller's trace goes on in it."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        parent = self._propagator.extract(carrier) if carrier else None
        return RequestTrace(self._tracer, parent, self._propagator, self._servers, scope["path"], started)

    def close(self) -> None:
        """Sends what has gathered, for a moment at most."""
        closing = threading.Thread(target=self.provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def open_tracing(topology: Topology, *, node: str) -> Tracing | None:
    """What a configuration asks for; None if it asks for nothing."""
    config = topology.config.observability.tracing
    return None if config.endpoint is None else Tracing(config, node=node, providers=topology.providers)


class _Server(NamedTuple):
    """Where a provider is asked: vendor, host, port."""

    vendor: str
    host: str
    port: int


class RequestTrace:
    """The spans of one request."""

    def __init__(
        self,
        tracer: Tracer,
        parent: Context | None,
        propagator: Any,
        servers: Mapping[str, _Server],
        path: str,
        started: float,
    ) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._tracer = tracer
        self._propagator = propagator
        self._servers = servers
        self._path = path
        # Spans are dated by the wall clock, everything else here by that of the loop.
        self._offset_ns = time.time_ns() - round(asyncio.get_running_loop().time() * 1e9)
        self._root = tracer.start_span(
            path, context=parent, kind=SpanKind.SERVER, start_time=self._ns(started)
        )
        self._context = set_span_in_context(self._root)
        self._attempts: dict[str, Span] = {}

    def begin(self, reservation: str, model: ModelSpec) -> bytes:
        """An attempt begins: what its provider is told of the trace."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        span = self._tracer.start_span(model.upstream, context=self._context, kind=SpanKind.CLIENT)
        self._attempts[reservation] = span
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=set_span_in_context(span))
        return carrier.get("traceparent", "").encode()

    def finish(
        self, request_id: str, name: str, call: Call | None, trail: Trail, *, status: int, outcome: str
    ) -> None:
        """The request is over: both kinds of spans get what is known now, and end."""
        now = asyncio.get_running_loop().time()
        operation = _operation(call)
        for step in trail.steps:
            end = step.settlement
            span = self._attempts.pop(end.reservation, None) if end else None
            if span is not None:
                self._end_attempt(span, step, operation, now)
        for span in self._attempts.values():  # nothing is known of it but that it was begun
            span.end(self._ns(now))
        if self._root.is_recording():
            self._root.update_name(f"{operation} {name}".strip())
            _describe(self._root, _of_request(request_id, name, call, trail, operation))
            self._root.set_attribute("http.response.status_code", status)
            self._root.set_attribute("url.path", self._path)
        _judge(self._root, "" if outcome in ("ok", "replayed") else outcome)
        self._root.end(self._ns(now))

    def _end_attempt(self, span: Span, step: Step, operation: str, now: float) -> None:
        end, model = step.settlement, step.target.model
        assert end is not None
        if span.is_recording():
            span.update_name(f"{operation} {model.upstream}")
            server = self._servers.get(model.provider)
            _describe(span, _of_attempt(step, operation, server))
        error = step.error
        _judge(span, (error.code or type(error).__name__) if error is not None else "")
        started_ns = getattr(span, "start_time", None) or self._ns(now)
        span.end(min(self._ns(now), started_ns + max(0, end.latency_ms) * 1_000_000))

    def _ns(self, loop_time: float) -> int:
        return self._offset_ns + round(loop_time * 1e9)


def _open(config: TracingConfig, node: str) -> TracerProvider:
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    session = requests.Session()
    session.trust_env = False
    exporter = OTLPSpanExporter(
        endpoint=config.traces_url,
        headers={name.lower(): value.get_secret_value() for name, value in config.headers.items()},
        timeout=config.timeout,
        session=session,
    )
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(config.sample)),
        resource=Resource.create({"service.name": config.service_name, "service.instance.id": node}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_S * 1000))
    return provider


def _server(spec: ProviderSpec) -> _Server:
    parts = urlsplit(spec.base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return _Server(spec.connector.id.split(".")[0], parts.hostname or "", port)


def _operation(call: Call | None) -> str:
    if call is None:
        return ""
    return _OPERATIONS.get(call.surface.name, call.surface.name)


def _of_request(
    request_id: str, name: str, call: Call | None, trail: Trail, operation: str
) -> dict[str, Any]:
    target = trail.target
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation or None,
        "gen_ai.request.model": name or None,
        "modelmesh.request_id": request_id,
        "modelmesh.attempts": trail.attempts,
        "modelmesh.mode": trail.mode,
        "modelmesh.client_key": trail.key or None,
    }
    for parameter in _PARAMETERS:
        value = call.fields.get(parameter) if call else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[f"gen_ai.request.{parameter}"] = value
    if target is not None:
        found |= {
            "gen_ai.response.model": target.model.upstream,
            "gen_ai.usage.input_tokens": trail.tokens_in,
            "gen_ai.usage.output_tokens": trail.tokens_out,
            "modelmesh.pool": target.pool.id,
            "modelmesh.model": target.model.id,
            "modelmesh.provider": target.model.provider,
        }
    return found


def _of_attempt(step: Step, operation: str, server: _Server | None) -> dict[str, Any]:
    end, model = step.settlement, step.target.model
    assert end is not None
    is_known = end.tokens_in != UNKNOWN
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation or None,
        "gen_ai.request.model": model.upstream,
        "gen_ai.response.model": model.upstream if step.error is None else None,
        "gen_ai.usage.input_tokens": end.tokens_in if is_known else None,
        "gen_ai.usage.output_tokens": end.tokens_out if is_known else None,
        "http.response.status_code": (step.error.status or None) if step.error is not None else None,
        "modelmesh.pool": step.target.pool.id,
        "modelmesh.model": model.id,
        "modelmesh.provider": model.provider,
        "modelmesh.reservation": end.reservation,
        "modelmesh.outcome": end.outcome.name.lower(),
        "modelmesh.first_content_ms": end.first_token_ms or None,
        "modelmesh.cost_usd": end.cost_nano / _NANO_PER_USD if is_known else None,
    }
    if server is not None:
        found |= {
            "gen_ai.provider.name": server.vendor,
            "server.address": server.host,
            "server.port": server.port,
        }
    return found


def _describe(span: Span, attributes: Mapping[str, Any]) -> None:
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def _judge(span: Span, error: str) -> None:
    if error:
        from opentelemetry.trace import Status, StatusCode

        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
