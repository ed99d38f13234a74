"""Every API beside chat through nginx and three nodes: answered, taken over by another model, probed, and booked."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
]

_KINDS = {
    "completing": "text-completion",
    "moderating": "content-moderation",
    "ranking": "reranking",
    "speaking": "text-to-speech",
    "hearing": "speech-to-text",
    "drawing": "text-to-image",
    "responding": "chat-completion",
    "searching": "web-search",
    "reading": "document-parsing",
    "messaging": "chat-completion",
}
_PATHS = {
    "completing": "/v1/completions",
    "moderating": "/v1/moderations",
    "ranking": "/v1/rerank",
    "speaking": "/v1/audio/speech",
    "hearing": "/v1/audio/transcriptions",
    "drawing": "/v1/images/edits",
    "responding": "/v1/chat/completions",
    "searching": "/v1/search",
    "reading": "/v1/scrape",
    "messaging": "/v1/chat/completions",
}


def _able(mock: str, capability: str) -> Member:
    return Member(mock, model={"capabilities": [capability]})


POOLS = [
    *(pool(name, _able("alpha", kind), _able("beta", kind)) for name, kind in _KINDS.items()),
    *(
        pool(
            f"probed-{kind}",
            _able("alpha", kind),
            deactivation={"retry_limit": 1},
            recovery={"cooldown": "300ms", "probe_interval": "200ms", "ramp": [1.0]},
        )
        for kind in ("speech-to-text", "text-to-speech")
    ),
]
SOUND = bytes(range(256)) * 2000


async def _complete(client: AsyncOpenAI) -> str:
    return (await client.completions.create(model="completing", prompt="hello")).choices[0].text


async def _moderate(client: AsyncOpenAI) -> str:
    return str((await client.moderations.create(model="moderating", input="a bomb")).results[0].flagged)


async def _rank(client: AsyncOpenAI) -> str:
    body = {"model": "ranking", "query": "who", "documents": ["a", "b"]}
    given: Any = await client.post("/rerank", body=body, cast_to=object)
    return f"{given['model']}: {len(given['results'])}"


async def _speak(client: AsyncOpenAI) -> str:
    given = await client.audio.speech.create(model="speaking", input="hello", voice="alloy")
    return given.content[:12].decode()


async def _hear(client: AsyncOpenAI) -> str:
    file = ("a.wav", SOUND, "audio/wav")
    return (await client.audio.transcriptions.create(model="hearing", file=file)).text


async def _draw(client: AsyncOpenAI) -> str:
    given = await client.images.edit(model="drawing", image=("a.png", SOUND, "image/png"), prompt="a cat")
    assert given.data is not None
    return base64.b64decode(given.data[0].b64_json or "").decode()


async def _respond(client: AsyncOpenAI) -> str:
    return (await client.responses.create(model="responding", input="hello")).output_text


async def _search(client: AsyncOpenAI) -> str:
    given: Any = await client.post("/search", body={"model": "searching", "query": "hello"}, cast_to=object)
    return str(given["results"][0]["content"])


async def _read(client: AsyncOpenAI) -> str:
    body = {"model": "reading", "url": "https://example.com/"}
    given: Any = await client.post("/scrape", body=body, cast_to=object)
    return str(given["content"])


async def _message(client: AsyncOpenAI) -> str:
    body = {"model": "messaging", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    given: Any = await client.post("/messages", body=body, cast_to=object)
    assert (given["type"], given["stop_reason"]) == ("message", "end_turn")
    return str(given["content"][0]["text"])


CALLS: dict[str, tuple[Callable[[AsyncOpenAI], Awaitable[str]], str]] = {
    "completing": (_complete, "alpha: hello"),
    "moderating": (_moderate, "True"),
    "ranking": (_rank, "alpha: 2"),
    "speaking": (_speak, "alpha: hello"),
    "hearing": (_hear, "alpha: heard"),
    "drawing": (_draw, "alpha: picture"),
    "responding": (_respond, "alpha: hello"),
    "searching": (_search, "alpha: hello"),
    "reading": (_read, "alpha: https"),
    "messaging": (_message, "alpha: hello"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_every_api_is_answered_and_taken_over(cluster: Cluster, client: AsyncOpenAI, name: str) -> None:
    """The first model answers; when it fails the other does, in the same request. All is in the books."""
    call, expected = CALLS[name]
    first = await call(client)
    cluster.order(f"{name}.alpha", "500", times=1)
    second = await call(client)
    seen = {mock: cluster.seen(f"{name}.{mock}") for mock in ("alpha", "beta")}

    assert first.startswith(expected)
    assert second.startswith(expected.replace("alpha", "beta"))
    assert [entry["status"] for entry in seen["alpha"]] == [200, 500]
    assert [entry["status"] for entry in seen["beta"]] == [200]
    assert {entry["path"] for entries in seen.values() for entry in entries} == {_PATHS[name]}
    assert (await cluster.books_of(name))["settled"] == 3


@pytest.mark.parametrize(
    ("pool_id", "call"),
    [
        (
            "probed-speech-to-text",
            lambda client, model: client.audio.transcriptions.create(model=model, file=SOUND),
        ),
        (
            "probed-text-to-speech",
            lambda client, model: client.audio.speech.create(model=model, input="x", voice="y"),
        ),
    ],
)
async def test_a_model_is_probed_in_its_own_kind(
    cluster: Cluster, client: AsyncOpenAI, pool_id: str, call: Callable[..., Awaitable[Any]]
) -> None:
    """By one prober in the cluster, and charged."""
    model = f"{pool_id}.alpha"
    cluster.order(model, "500", times=1)
    with pytest.raises(APIStatusError):
        await call(client, pool_id)
    await cluster.await_model(model, status="active")
    seen = cluster.seen(model)

    assert [entry["status"] for entry in seen] == [500, 200]
    assert len({entry["path"] for entry in seen}) == 1
    assert seen[1]["request_id"].startswith("probe-")
    assert (await cluster.books_of(pool_id))["admitted"] == 2


async def test_large_uploads_come_through_side_by_side(cluster: Cluster, client: AsyncOpenAI) -> None:
    """A body that is too large is told so by a node; others are not held up."""
    large = ("a.wav", b"x" * 1_100_000, "audio/wav")
    results = await asyncio.gather(
        *(_hear(client) for _ in range(6)),
        client.audio.transcriptions.create(model="hearing", file=large),
        return_exceptions=True,
    )

    assert {str(result)[-7:] for result in results[:6]} == {": heard"}
    assert isinstance(results[6], APIStatusError)
    assert results[6].status_code == 413
    await wait_until(lambda: len(cluster.seen("hearing.alpha") + cluster.seen("hearing.beta")) >= 6)
