"""What a client of the official SDK gets from a cluster when all is well."""

from __future__ import annotations

import pytest
from openai import AsyncOpenAI, NotFoundError

from tests.cluster.calls import ask, listen
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool

pytestmark = pytest.mark.cluster

_CHAT = {"capability": "chat-completion", "models": [], "providers": ["chat-alpha", "chat-beta"]}
_VECTORS = Member("alpha", model={"capabilities": ["text-embeddings"]})
POOLS = [pool("chat", "alpha", "beta", **_CHAT), pool("vectors", _VECTORS)]


async def test_a_capability_is_answered_in_one_piece(client: AsyncOpenAI):
    """The answer is the provider's own, usage included."""
    answer = await ask(client, "chat-completion")

    assert answer.text is not None
    assert answer.text.startswith("alpha: hello")
    assert answer.body.usage is not None
    assert answer.body.usage.completion_tokens > 0


async def test_a_capability_is_answered_as_a_stream(client: AsyncOpenAI):
    """The pieces of a stream make the text of the whole answer; usage comes only to those who ask."""
    whole = await ask(client, "chat-completion")
    told = await listen(client, "chat-completion")
    with_usage = await listen(client, "chat-completion", stream_options={"include_usage": True})

    assert told.text == with_usage.text == whole.text
    assert (told.finish, told.error, told.usage) == ("stop", None, None)
    assert with_usage.usage.completion_tokens > 0


async def test_embeddings_are_answered(client: AsyncOpenAI):
    """Vectors come back in the order of the texts."""
    answer = await client.embeddings.create(model="vectors", input=["one", "two"])

    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == 8


async def test_models_are_listed_and_retrieved(client: AsyncOpenAI):
    """Pools and models have one table behind both routes."""
    listed = {model.id: model async for model in await client.models.list()}

    for name in ("chat", "chat.alpha", "chat.beta", "vectors"):
        assert await client.models.retrieve(name) == listed[name]


async def test_an_unknown_model_is_answered_with_near_names(client: AsyncOpenAI):
    """A typing error is answered with what was probably meant, on both routes."""
    with pytest.raises(NotFoundError, match=r"chat\.alpha") as asked:
        await ask(client, "chat.alfa")
    with pytest.raises(NotFoundError) as retrieved:
        await client.models.retrieve("chat.alfa")

    assert asked.value.code == retrieved.value.code == "model_not_found"
    assert asked.value.param == "model"


@pytest.mark.parametrize("call", [ask, listen])
async def test_an_answer_says_who_served_it(cluster: Cluster, client: AsyncOpenAI, call):
    """The headers of the contract stand on whole answers and on streams, and the request's id goes all the way."""
    request_id = f"my-own-id.{call.__name__}"
    answer = await call(client, "chat-completion", extra_headers={"x-request-id": request_id})

    told = {name: answer.headers[f"x-modelmesh-{name}"] for name in ("pool", "model", "provider")}
    assert told == {"pool": "chat", "model": "chat.alpha", "provider": "chat-alpha"}
    assert answer.headers["x-modelmesh-attempts"] == "1"
    assert answer.headers["x-modelmesh-mode"] == "exact"
    assert answer.headers["x-request-id"] == request_id
    assert [e["status"] for e in cluster.seen("chat.alpha") if e["request_id"] == request_id] == [200]


async def test_a_preferred_provider_is_asked_first(client: AsyncOpenAI):
    """A caller may name a provider without giving up the others."""
    answer = await ask(client, "chat-completion", extra_headers={"x-modelmesh-provider": "chat-beta"})

    assert answer.model == "chat.beta"
