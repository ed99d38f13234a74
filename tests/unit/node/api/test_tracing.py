"""Traces as a collector receives them: a span for each request, one for each attempt, and nobody's words."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from node.observe.tracing import Tracing
from shared_state.config.observability import TracingConfig
from tests.support.webhooks import Receiver
from tests.unit.node.api.asgi import Front, ask, post
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import DONE, ROLE, USAGE, ScriptedTransport, chunk, refused, stream, whole

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


MOVES_ON = {"retry": {"scope": "any", "initial_delay": 0}}


class Collector:
    """A real receiver, and a tracing that sends to it."""

    def __init__(self, receiver: Receiver, place: House, **options: Any) -> None:
        self.receiver = receiver
        config = TracingConfig.model_validate({"endpoint": receiver.url, **options})
        self.tracing = Tracing(config, node="node-1", providers=place.topology.providers)
        self.node = Front(place=place, tracing=self.tracing)

    async def spans(self) -> list[Any]:
        """Everything that was traced, in the order of its beginning; ends the tracing."""
        await asyncio.to_thread(self.tracing.close)
        found = []
        for call in self.receiver.calls:
            message = ExportTraceServiceRequest.FromString(call.body)
            found += [s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


def facts(span: Any) -> dict[str, Any]:
    """Attributes of a span."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


async def test_a_request_that_moved_on_has_a_span_for_each_attempt(receiver: Receiver) -> None:
    """The first failed, the second answered; all in the caller's trace, and the provider is told its own span."""
    scripted = ScriptedTransport(alpha=[refused(429)], beta=[whole()])
    place = House(mesh("alpha.m", "beta.m", pool=MOVES_ON), scripted)
    collector = Collector(receiver, place, headers={"x-key": "collector-key"})
    parent = f"00-{TRACE}-{PARENT}-01".encode()
    await post(collector.node.app, headers=[(b"traceparent", parent)])
    root, first, second = await collector.spans()

    assert {span.trace_id.hex() for span in (root, first, second)} == {TRACE}
    assert (root.parent_span_id.hex(), first.parent_span_id, second.parent_span_id) == (
        PARENT,
        root.span_id,
        root.span_id,
    )
    assert (root.name, first.name, second.name) == ("chat chat", "chat m", "chat m")
    assert (root.status.code, first.status.code, second.status.code) == (0, 2, 0)
    sent = dict(scripted.requests[-1].headers.raw)[b"traceparent"]
    assert sent == f"00-{TRACE}-{second.span_id.hex()}-01".encode()
    call = receiver.calls[0]
    assert (call.path, call.headers["x-key"]) == ("/v1/traces", "collector-key")


async def test_spans_say_what_the_conventions_ask_for(receiver: Receiver) -> None:
    """Names, usage, server, error; and what leads on to the books and the decision. Not what was said."""
    scripted = ScriptedTransport(alpha=[refused(429)], beta=[whole("the secret answer")])
    collector = Collector(receiver, House(mesh("alpha.m", "beta.m", pool=MOVES_ON), scripted))
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": "the secret question"}],
        "temperature": 0.5,
    }
    await post(collector.node.app, body, headers=[(b"x-request-id", b"req-1")])
    root, first, second = map(facts, await collector.spans())

    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "chat",
        "gen_ai.response.model": "m",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "http.response.status_code": 200,
        "modelmesh.request_id": "req-1",
        "modelmesh.pool": "chat",
        "modelmesh.provider": "beta",
        "modelmesh.attempts": 2,
    }.items() <= root.items()
    assert (first["http.response.status_code"], first["modelmesh.outcome"]) == (429, "failure")
    assert first["error.type"]
    assert {"gen_ai.usage.input_tokens": 7, "modelmesh.outcome": "success"}.items() <= second.items()
    assert second["server.address"]
    assert second["modelmesh.reservation"] != first["modelmesh.reservation"]
    assert not [call for call in receiver.calls if b"secret" in call.body]


async def test_streams_and_requests_that_went_nowhere_are_traced(receiver: Receiver) -> None:
    """A stream ends its spans with its last byte; a name that means nothing has no attempt."""
    scripted = ScriptedTransport(alpha=[stream(ROLE, chunk("hi"), USAGE, DONE)])
    collector = Collector(receiver, House(mesh("alpha.m"), scripted))
    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "stream": True}
    await post(collector.node.app, body)
    await post(collector.node.app, {**body, "model": "nobody"})
    await ask(collector.node.app, "POST", "/v1/chat/completions", b"no json")
    spans = await collector.spans()
    roots = [facts(span) for span in spans if not span.parent_span_id]

    assert [root.get("error.type") for root in roots] == [None, "model_not_found", "invalid_json"]
    assert len(spans) == 4


async def test_the_callers_decision_goes_before_the_sample(receiver: Receiver) -> None:
    """Nothing is sent of a trace that its caller does not keep, but the provider may still join it."""
    scripted = ScriptedTransport(alpha=[whole(), whole()])
    collector = Collector(receiver, House(mesh("alpha.m"), scripted), sample=0)
    for flag in ("00", "01"):
        await post(collector.node.app, headers=[(b"traceparent", f"00-{TRACE}-{PARENT}-{flag}".encode())])
    spans = await collector.spans()
    told = [dict(request.headers.raw)[b"traceparent"] for request in scripted.requests]

    assert len(spans) == 2
    assert [text.rpartition(b"-")[2] for text in told] == [b"00", b"01"]


async def test_a_collector_that_is_away_disturbs_nobody() -> None:
    """Neither the request nor, for long, the end of the node."""
    place = House(mesh("alpha.m"), ScriptedTransport(alpha=[whole()]))
    config = TracingConfig(endpoint="http://127.0.0.1:9", timeout=0.2)
    tracing = Tracing(config, node="n", providers=place.topology.providers)
    heard = await post(Front(place=place, tracing=tracing).app)
    await asyncio.to_thread(tracing.close)

    assert heard.status == 200


def test_without_a_section_the_library_is_not_loaded() -> None:
    """Nobody pays for what nobody asked for."""
    text = (
        "import sys\nfrom shared_state.lean import lean_imports\nwith lean_imports():\n    import node.service\n"
        "print('opentelemetry.sdk' in sys.modules, 'requests' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)

    assert done.stdout == "False False\n"
