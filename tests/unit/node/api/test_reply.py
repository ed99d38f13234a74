"""The caller's end over ASGI: order of messages, headers of the contract, nothing after the end."""

from __future__ import annotations

import orjson
import pytest

from node.api.record import Recorder
from node.api.reply import AsgiReply, trail_headers
from node.call import Fallback, Target, Trail, Voice
from shared_state.errors import LimitReachedError, ModelMeshError
from shared_state.specs import ModelSpec, PoolSpec
from tests.unit.node.api.asgi import Heard
from tests.unit.node.house import mesh


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def reply(heard: Heard) -> AsgiReply:
    return AsgiReply(heard.send, "req-1")


def trail() -> Trail:
    topology = mesh("alpha.m")
    return Trail(attempts=2, target=Target(topology.models["alpha.m"], topology.pools["chat"]))


async def test_a_whole_answer(heard: Heard, reply: AsgiReply) -> None:
    """Head and body, and who served it."""
    await reply.whole(200, b"application/json", b"{}", trail())

    assert (heard.status, heard.body, heard.is_complete) == (200, b"{}", True)
    assert dict(heard.headers) == {
        b"content-type": b"application/json",
        b"content-length": b"2",
        b"x-request-id": b"req-1",
        b"x-modelmesh-mode": b"exact",
        b"x-modelmesh-attempts": b"2",
        b"x-modelmesh-pool": b"chat",
        b"x-modelmesh-model": b"alpha.m",
        b"x-modelmesh-provider": b"alpha",
    }
    assert (reply.is_started, reply.status) == (True, 200)


async def test_a_stream(heard: Heard, reply: AsgiReply) -> None:
    """No length, no buffering in between, bytes as they are given."""
    await reply.begin(trail())
    await reply.part(b"data: 1\n\n")
    await reply.part(b"data: 2\n\n")
    await reply.end()

    assert heard.body == b"data: 1\n\ndata: 2\n\n"
    assert heard.is_complete
    assert heard.header(b"content-type") == b"text/event-stream; charset=utf-8"
    assert heard.header(b"cache-control") == b"no-cache"
    assert (reply.is_started, reply.status) == (True, 200)
    assert heard.header(b"x-accel-buffering") == b"no"
    assert heard.header(b"content-length") is None
    assert heard.header(b"x-modelmesh-model") == b"alpha.m"


async def test_an_error_before_the_stream_is_an_answer(heard: Heard, reply: AsgiReply) -> None:
    """With its true status, and without a target if there was none."""
    await reply.fail(LimitReachedError("full", retry_after_s=2), Trail(mode="leased"))

    assert heard.status == 429
    assert heard.error["code"] == "rate_limit_exceeded"
    assert heard.header(b"retry-after") == b"2"
    assert heard.header(b"content-length") == b"%d" % len(heard.body)
    assert heard.header(b"x-modelmesh-mode") == b"leased"
    assert heard.header(b"x-modelmesh-model") is None
    assert reply.status == 429


async def test_an_error_in_a_stream_is_its_last_event(heard: Heard, reply: AsgiReply) -> None:
    """One event, no end marker, a clean end."""
    await reply.begin(trail())
    await reply.fail(ModelMeshError("boom"), trail())

    assert heard.status == 200
    assert heard.is_complete
    assert heard.body.startswith(b"data: {")
    assert heard.body.endswith(b"}\n\n")
    assert orjson.loads(heard.body[6:])["error"]["message"] == "boom"
    assert b"[DONE]" not in heard.body
    assert reply.status == 200


def test_names_in_headers_are_plain_ascii() -> None:
    """A name that is not is escaped, not dropped."""
    topology = mesh("alpha.m")
    model, pool = topology.models["alpha.m"], topology.pools["chat"]
    named = Target(
        ModelSpec("modèl", "prövider", "d", "u", frozenset(), model.config),
        PoolSpec("pööl", None, "s", (), pool.config),
    )
    headers = dict(trail_headers(Trail(target=named), "req-1"))

    assert headers[b"x-modelmesh-model"] == b"mod\\xe8l"
    assert headers[b"x-modelmesh-provider"] == b"pr\\xf6vider"
    assert headers[b"x-modelmesh-pool"] == b"p\\xf6\\xf6l"


def test_a_fallback_shows() -> None:
    """Somebody else than was asked for: the header says why; otherwise there is none."""
    named = dict(trail_headers(Trail(fallback=Fallback.CONTENT_POLICY), "req-1"))

    assert named[b"x-modelmesh-fallback"] == b"content_policy"
    assert b"x-modelmesh-fallback" not in dict(trail_headers(Trail(), "req-1"))


def test_a_panic_shows() -> None:
    """A model was asked that is on standby for its health."""
    assert dict(trail_headers(Trail(is_panic=True), "req-1"))[b"x-modelmesh-panic"] == b"true"
    assert b"x-modelmesh-panic" not in dict(trail_headers(Trail(), "req-1"))


async def test_anthropics_clients_find_the_id_under_their_own_name(heard: Heard) -> None:
    """Each answer has its own, one that is given again as well."""
    recorder = Recorder(heard.send, limit_bytes=100)
    await AsgiReply(recorder, "req-1", voice=Voice.ANTHROPIC).whole(200, b"application/json", b"{}", trail())
    again = Heard()
    await AsgiReply(again.send, "req-2", voice=Voice.ANTHROPIC).replay(recorder.answer())

    assert (heard.header(b"request-id"), heard.header(b"x-request-id")) == (b"req-1", b"req-1")
    assert (again.header(b"request-id"), again.header(b"x-request-id")) == (b"req-2", b"req-2")
