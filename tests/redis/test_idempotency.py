"""`Idempotency-Key` over several nodes and one real store: one execution, one answer for all who repeat."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.api.record import Answer as Kept
from shared_state import idempotency
from shared_state.idempotency import End, Fate, Ticket, end_claim, hold_claim, take_claim
from shared_state.store import Store
from tests.support.processes import wait_until
from tests.unit.node.api.asgi import MESSAGES, Front, Heard, post
from tests.unit.node.api.asgi import ask as send
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import (
    DONE,
    FINISH,
    Answer,
    ScriptedTransport,
    Step,
    chunk,
    refused,
    stream,
    whole,
)

KEY = (b"idempotency-key", b"order-4711")
GOOD = {"model": "chat", "messages": MESSAGES}
STREAM = {**GOOD, "stream": True}


class Gate:
    """Holds answers back until it is opened."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def __call__(self) -> None:
        await self.event.wait()


@pytest.fixture
def store(open_store) -> Store:
    return open_store()


def fleet(store: Store, *steps: Step, nodes: int = 2, **options: Any) -> list[Front]:
    """Nodes that share the store and one provider."""
    transport = ScriptedTransport(alpha=list(steps) or whole())
    topology = mesh("alpha.m", pool={"retry": {"max_attempts": 1}})
    return [Front(place=House(topology, transport), store=store, **options) for _ in range(nodes)]


async def ask(front: Front, body: Any = None, key: bytes = KEY[1], **options: Any) -> Heard:
    headers = [(KEY[0], key), *options.pop("headers", [])]
    return await post(front.app, GOOD if body is None else body, headers=headers, **options)


def asked(fronts: list[Front]) -> int:
    """Calls that reached the provider."""
    return len(fronts[0].place.transport.requests)


async def test_a_repeat_gets_the_answer_of_the_first_on_any_node(store):
    """The same bytes and the same model, under its own request id, marked as a replay."""
    fronts = fleet(store)
    first, second = [await ask(front) for front in fronts]

    assert asked(fronts) == 1
    assert first.status == second.status == 200
    assert first.body == second.body
    assert second.header(b"x-modelmesh-idempotent-replay") == b"true"
    assert first.header(b"x-modelmesh-idempotent-replay") is None
    assert second.header(b"x-modelmesh-model") == b"alpha.m"
    assert first.header(b"x-request-id") != second.header(b"x-request-id")
    assert fronts[1].lines[0]["outcome"] == "replayed"


async def test_many_at_once_are_one_execution(store):
    """All wait for the one that was first."""
    gate = Gate()
    fronts = fleet(store, Answer(*whole().body.parts, wait=gate), nodes=3)
    asking = [asyncio.create_task(ask(fronts[number % 3])) for number in range(12)]
    await wait_until(lambda: asked(fronts) == 1)
    await asyncio.sleep(0.2)
    gate.event.set()
    heard = await asyncio.gather(*asking)

    assert asked(fronts) == 1
    assert {answer.status for answer in heard} == {200}
    assert len({answer.body for answer in heard}) == 1
    assert sum(answer.header(b"x-modelmesh-idempotent-replay") is None for answer in heard) == 1


async def test_a_stream_is_given_again_as_a_stream(store):
    """Event for event, with its end marker and the headers of a stream."""
    fronts = fleet(store, stream(chunk("one"), chunk("two"), FINISH, DONE))
    first, second = [await ask(front, STREAM) for front in fronts]
    own = {b"x-request-id", b"x-modelmesh-idempotent-replay"}

    assert asked(fronts) == 1
    assert b"two" in first.body
    assert first.body == second.body
    assert second.parts == [*(event + b"\n\n" for event in second.body.split(b"\n\n")[:-1]), b""]
    assert len(second.parts) == 5
    assert [h for h in second.headers if h[0] not in own] == [h for h in first.headers if h[0] not in own]
    assert second.header(b"x-modelmesh-idempotent-replay") == b"true"
    assert second.header(b"content-length") is None


async def test_a_stream_under_way_is_waited_for(store):
    """Its repeat on another node gets nothing before the end, then all of it."""
    gate = Gate()
    fronts = fleet(store, stream(chunk("one"), gate, chunk("two"), FINISH, DONE))
    first_heard, second_heard = Heard(), Heard()
    first = asyncio.create_task(ask(fronts[0], STREAM, heard=first_heard))
    await wait_until(lambda: b"one" in first_heard.body)
    second = asyncio.create_task(ask(fronts[1], STREAM, heard=second_heard))
    await asyncio.sleep(0.1)
    assert second_heard.status == 0
    gate.event.set()
    await asyncio.gather(first, second)

    assert asked(fronts) == 1
    assert first_heard.body == second_heard.body
    assert second_heard.header(b"x-modelmesh-idempotent-replay") == b"true"


async def test_events_are_cut_as_they_were_written():
    """Whatever ends their lines, and also what nothing ends."""
    answer = Kept(
        200, [(b"content-type", b"text/event-stream")], b": hi\r\n\r\ndata: 1\n\ndata: 2\r\rdata: 3"
    )

    assert answer.events() == [b": hi\r\n\r\n", b"data: 1\n\n", b"data: 2\r\r", b"data: 3"]


async def test_a_key_stands_for_one_request(store):
    """Another body, or another API, under the same key is a mistake of the caller."""
    fronts = fleet(store)
    await ask(fronts[0])
    other = await ask(fronts[1], {**GOOD, "temperature": 0.5})
    elsewhere = await ask(fronts[1], path="/v1/completions", body={"model": "chat", "prompt": "hi"})

    assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")
    assert other.header(b"x-should-retry") == b"false"
    assert elsewhere.status in (404, 422)
    assert asked(fronts) == 1


async def test_callers_do_not_share_keys(store):
    """Two tokens, one key: two executions."""
    fronts = fleet(store, tokens=["one", "two"])
    for token in (b"one", b"two", b"one"):
        await ask(fronts[0], headers=[(b"authorization", b"Bearer " + token)])

    assert asked(fronts) == 2


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_that_cost_nothing_is_not_kept(store, status):
    """A repeat is carried out."""
    fronts = fleet(store, refused(status), whole())
    first, second = [await ask(front) for front in fronts]

    assert first.status >= 400
    assert second.status == 200
    assert second.header(b"x-modelmesh-idempotent-replay") is None


async def test_what_may_have_been_billed_is_not_carried_out_again(store):
    """The provider broke off: nobody knows what it has done."""
    fronts = fleet(store, Answer(b"garbage"), whole())
    first, second = [await ask(front) for front in fronts]

    assert first.status == 502
    assert (second.status, second.error["code"]) == (409, "idempotency_answer_lost")
    assert second.header(b"x-should-retry") == b"false"
    assert asked(fronts) == 1


async def test_the_execution_outlives_its_caller(store):
    """Who gave up and asks again gets the answer of the first."""
    gate, leaves = Gate(), asyncio.Event()
    fronts = fleet(store, Answer(*whole().body.parts, wait=gate))
    first = asyncio.create_task(ask(fronts[0], leaves=leaves))
    await wait_until(lambda: asked(fronts) == 1)
    leaves.set()
    again = asyncio.create_task(ask(fronts[1]))
    await asyncio.sleep(0.1)
    gate.event.set()
    heard = await again
    await first

    assert heard.status == 200
    assert heard.header(b"x-modelmesh-idempotent-replay") == b"true"
    assert asked(fronts) == 1


async def test_who_waits_may_leave(store):
    """It disturbs nobody."""
    gate, leaves = Gate(), asyncio.Event()
    fronts = fleet(store, Answer(*whole().body.parts, wait=gate))
    first = asyncio.create_task(ask(fronts[0]))
    await wait_until(lambda: asked(fronts) == 1)
    second = asyncio.create_task(ask(fronts[1], leaves=leaves))
    await asyncio.sleep(0.05)
    leaves.set()
    await second
    gate.event.set()

    assert (await first).status == 200
    assert fronts[1].lines[0]["outcome"] == "client_disconnected"


async def test_who_waits_too_long_is_told(store):
    """With its own deadline; SDKs may try again."""
    gate = Gate()
    fronts = fleet(store, Answer(*whole().body.parts, wait=gate))
    first = asyncio.create_task(ask(fronts[0]))
    await wait_until(lambda: asked(fronts) == 1)
    second = await ask(fronts[1], headers=[(b"x-modelmesh-deadline", b"0.2")])
    gate.event.set()
    await first

    assert (second.status, second.error["code"]) == (409, "idempotency_key_in_use")
    assert second.header(b"retry-after") == b"1"


async def test_a_large_answer_is_not_kept(store):
    """It was given once; a repeat is told, and nothing is executed again."""
    fronts = fleet(store, whole("x" * 1_000_001))
    first, second = [await ask(front) for front in fronts]

    assert first.status == 200
    assert (second.status, second.error["code"]) == (409, "idempotency_answer_too_large")
    assert asked(fronts) == 1


async def test_without_the_store_nothing_is_promised(store):
    """A keyed request is refused; one without a key is served."""
    (front,) = fleet(store, nodes=1)
    front.place.watch.connected = False
    keyed, plain = await ask(front), await post(front.app, GOOD)

    assert (keyed.status, keyed.header(b"retry-after")) == (503, b"1")
    assert plain.status == 200
    assert asked([front]) == 1


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"caf\xe9", b"a\x01b"])
async def test_a_key_must_be_plain(store, key):
    """One to 255 printable characters."""
    (front,) = fleet(store, nodes=1)
    heard = await ask(front, key=key)

    assert (heard.status, heard.error["param"]) == (400, "Idempotency-Key")


async def test_a_request_without_a_key_never_asks_the_store(store):
    """The store is not even touched."""
    (front,) = fleet(store, nodes=1)
    await post(front.app, GOOD)

    assert await store.client.dbsize() >= 0
    assert [key async for key in store.client.scan_iter(f"{store.keys.claim('*')[:-2]}*")] == []


async def test_neither_key_nor_token_reaches_the_store(store):
    """Only digests do."""
    fronts = fleet(store, tokens=["secret-token"])
    await ask(fronts[0], headers=[(b"authorization", b"Bearer secret-token")])
    (key,) = [key async for key in store.client.scan_iter("*claim*") if store.keys._prefix.encode() in key]
    kept = await store.client.hgetall(key)

    assert b"order-4711" not in key
    assert not any(b"secret-token" in value or b"order-4711" in value for value in kept.values())
    assert 86_000_000 < await store.client.pttl(key) <= 86_400_000


# -- the claim itself


async def test_the_claim_of_a_silent_owner_is_free_again(store, monkeypatch):
    """Signs of life keep it; without them it dies."""
    monkeypatch.setattr(idempotency, "CLAIM_LIFE_S", 0.3)
    one, two = Ticket("d", "f", "one"), Ticket("d", "f", "two")
    assert (await take_claim(store, one)).fate is Fate.MINE
    for _ in range(3):
        await asyncio.sleep(0.15)
        assert await hold_claim(store, one)
    assert (await take_claim(store, two)).fate is Fate.RUNNING
    await wait_until(lambda: _is_free(store, two), interval=0.02)

    assert not await hold_claim(store, one)
    assert not await end_claim(store, one, End.KEPT, ttl_s=60)
    assert (await take_claim(store, two)).fate is Fate.MINE


async def _is_free(store: Store, ticket: Ticket) -> bool:
    return (await take_claim(store, ticket)).fate is Fate.MINE


async def test_every_step_may_be_said_twice(store):
    """A timeout means that nobody knows whether it was heard."""
    one = Ticket("d", "f", "one")
    assert [(await take_claim(store, one)).fate for _ in range(2)] == [Fate.MINE] * 2
    ended = [await end_claim(store, one, End.KEPT, ttl_s=60, head=b"h", body=b"b") for _ in range(2)]
    found = await take_claim(store, Ticket("d", "f", "two"))

    assert ended == [True, True]
    assert (found.fate, found.head, found.body) == (Fate.KEPT, b"h", b"b")


async def test_a_key_that_was_freed_can_be_taken(store):
    """As if nothing had been."""
    one, two = Ticket("d", "f", "one"), Ticket("d", "other", "two")
    await take_claim(store, one)
    await end_claim(store, one, End.FREE, ttl_s=60)

    assert (await take_claim(store, two)).fate is Fate.MINE


async def test_the_answer_waits_for_its_claim(store):
    """Whoever has read the last byte and asks again at once gets a replay, not a second execution."""
    fronts = fleet(store, stream(chunk("one"), FINISH, DONE))
    for front in fronts * 3:
        await ask(front, STREAM)

    assert asked(fronts) == 1


async def test_the_store_dies_while_a_keyed_request_is_carried_out(store):
    """Its answer is given all the same."""
    gate = Gate()
    fronts = fleet(store, Answer(*whole().body.parts, wait=gate))
    first = asyncio.create_task(ask(fronts[0]))
    await wait_until(lambda: asked(fronts) == 1)
    fronts[0].place.watch.connected = False
    gate.event.set()
    heard = await first
    fronts[0].place.watch.connected = True

    assert heard.status == 200
    second = await ask(fronts[1])  # handed in late, in the background
    assert second.header(b"x-modelmesh-idempotent-replay") == b"true"
    assert asked(fronts) == 1


def form(boundary: bytes, content: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A transcription as a body and its headers."""
    parts = (
        (b'form-data; name="model"', b"chat"),
        (b'form-data; name="file"; filename="a.wav"', content),
    )
    body = b"".join(b"--%b\r\ncontent-disposition: %b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts)
    return body + b"--%b--" % boundary, [(b"content-type", b"multipart/form-data; boundary=" + boundary), KEY]


async def test_a_form_is_the_same_under_another_boundary(store):
    """Clients draw one for each repeat; another file is another request."""
    topology = mesh("alpha.m", model={"capabilities": ["speech-to-text"]})
    front = Front(place=House(topology, ScriptedTransport(alpha=Answer(b'{"text": "hello"}'))), store=store)
    heard = []
    for boundary, content in ((b"aaa", b"RIFF"), (b"bbb", b"RIFF"), (b"ccc", b"FFIR")):
        body, headers = form(boundary, content)
        heard.append(await send(front.app, "POST", "/v1/audio/transcriptions", body, headers=headers))

    assert [answer.status for answer in heard] == [200, 200, 422]
    assert asked([front]) == 1
