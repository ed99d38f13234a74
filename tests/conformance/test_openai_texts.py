"""Completions, moderations and rerank by the official client, on both HTTP engines."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from node.engine.contract import EngineName
from shared_state.ledger import ESTIMATED, Outcome
from tests.conformance.openai_node import POOL, answer, served
from tests.unit.node.scripted import COMMENT, DONE, FAILED, Answer, event, refused, stream

COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "text": "four", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}
VERDICT: dict[str, Any] = {"id": "modr-1", "model": "m", "results": [{"flagged": False}]}
RANKING: dict[str, Any] = {"id": "r-1", "results": [{"index": 1, "relevance_score": 0.9}]}


def text(piece: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": piece, "finish_reason": finish, "logprobs": None}
    return event({**COMPLETION, "choices": [choice], "usage": None})


USAGE = event({**COMPLETION, "choices": []})


# -- completions


async def test_a_completion_is_answered(engine: EngineName) -> None:
    """As the provider gave it; what it does not know of here goes on to it all the same."""
    async with served(engine, "text-completion", answer(COMPLETION)) as node:
        given = await node.client.completions.create(
            model=POOL, prompt=["two and two", "is"], best_of=2, max_tokens=7, extra_body={"min_p": 0.1}
        )

    assert given.choices[0].text == "four"
    assert node.asked == ["alpha/v1/completions"]
    assert node.sent == [
        {"model": "m", "prompt": ["two and two", "is"], "best_of": 2, "max_tokens": 7, "min_p": 0.1}
    ]
    assert node.booked == [(5, 1)]
    assert [ask.tokens_out for ask in node.front.place.ledger.asks] == [7 * 2 * 2]


async def test_a_completion_is_streamed(engine: EngineName) -> None:
    """The pieces as they came; usage is for the books unless the caller asks."""
    parts = text("fo"), text("ur", "stop"), USAGE, DONE
    async with served(engine, "text-completion", stream(*parts)) as node:
        quiet = [c async for c in await node.client.completions.create(model=POOL, prompt="2+2", stream=True)]
        told = [
            c
            async for c in await node.client.completions.create(
                model=POOL, prompt="2+2", stream=True, stream_options={"include_usage": True}
            )
        ]

    assert "".join(c.choices[0].text for c in quiet) == "four"
    assert told[-1].usage is not None
    assert [fields["stream_options"] for fields in node.sent] == [{"include_usage": True}] * 2
    assert node.booked == [(5, 1)] * 2


async def test_a_completion_that_fails_before_its_first_text_is_answered_by_another(
    engine: EngineName,
) -> None:
    """An error inside the stream is as good as one in its head."""
    first, second = stream(COMMENT, text(""), FAILED), stream(text("four", "stop"), USAGE, DONE)
    async with served(engine, "text-completion", first, second) as node:
        given = [c async for c in await node.client.completions.create(model=POOL, prompt="2+2", stream=True)]

    assert [c.choices[0].text for c in given] == ["four"]
    assert [s.outcome for s in node.settled] == [Outcome.FAILURE, Outcome.SUCCESS]


async def test_a_completion_that_breaks_off_ends_with_an_error(engine: EngineName) -> None:
    """Nothing is repeated after the first text."""
    async with served(engine, "text-completion", stream(text("fo"), FAILED)) as node:
        given = await node.client.completions.create(model=POOL, prompt="2+2", stream=True)
        first = await anext(given)
        with pytest.raises(openai.APIError, match="overloaded"):
            await anext(given)

    assert first.choices[0].text == "fo"
    assert node.asked == ["alpha/v1/completions"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"best_of": 0}, "best_of"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_bad_completion_is_the_callers_mistake(
    engine: EngineName, fields: dict[str, Any], param: str
) -> None:
    """Told in the API's shape, without asking anybody."""
    async with served(engine, "text-completion", answer(COMPLETION)) as node:
        with pytest.raises(openai.BadRequestError) as refusal:
            await node.client.completions.create(**{"model": POOL, "prompt": "2+2", **fields})

    assert refusal.value.param == param
    assert node.asked == []


@pytest.mark.parametrize(
    "lacking",
    [
        refused(404, kind="invalid_request_error"),
        Answer(b"404 page not found", status=404, headers={"content-type": "text/plain"}),
        Answer(b'{"detail":"Method Not Allowed"}', status=405),
    ],
)
async def test_a_provider_without_the_route_harms_no_record(engine: EngineName, lacking: Answer) -> None:
    """A model that chats may be well and yet not complete: another is asked, and if nobody can, the caller is told."""
    async with served(engine, "chat-completion", lacking, [answer(COMPLETION), lacking]) as node:
        given = await node.client.completions.create(model=POOL, prompt="2+2")
        with pytest.raises(openai.NotFoundError) as refusal:
            await node.client.completions.create(model=POOL, prompt="2+2")

    assert given.choices[0].text == "four"
    assert refusal.value.code == "unsupported_api"
    assert [s.outcome for s in node.settled] == [
        Outcome.NEUTRAL,
        Outcome.SUCCESS,
        Outcome.NEUTRAL,
        Outcome.NEUTRAL,
    ]


async def test_a_model_that_should_complete_fails_if_it_cannot(engine: EngineName) -> None:
    """What the configuration promises is owed."""
    lost = Answer(b"404 page not found", status=404, headers={"content-type": "text/plain"})
    async with served(engine, "text-completion", lost, answer(COMPLETION)) as node:
        await node.client.completions.create(model=POOL, prompt="2+2")

    assert [s.outcome for s in node.settled] == [Outcome.FAILURE, Outcome.SUCCESS]


# -- moderations


@pytest.mark.parametrize("model", [{}, {"model": POOL}])
async def test_a_moderation_is_answered(engine: EngineName, model: dict[str, str]) -> None:
    """Without a model the capability is meant. Providers report no usage: it is estimated."""
    async with served(engine, "content-moderation", answer(VERDICT)) as node:
        given = await node.client.moderations.create(input="I love you", **model)  # type: ignore[arg-type]

    assert given.results[0].flagged is False
    assert node.asked == ["alpha/v1/moderations"]
    assert node.sent == [{"model": "m", "input": "I love you"}]
    assert [bool(s.flags & ESTIMATED) for s in node.settled] == [True]
    assert [(ask.tokens_in > 0, ask.tokens_out) for ask in node.front.place.ledger.asks] == [(True, 0)]


async def test_a_picture_to_be_moderated_is_weighed_as_one(engine: EngineName) -> None:
    """Whatever its bytes."""
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "x" * 1_000_000}}
    async with served(engine, "content-moderation", answer(VERDICT)) as node:
        await node.client.moderations.create(model=POOL, input=[picture])

    assert 2_000 <= node.front.place.ledger.asks[0].tokens_in < 2_200


@pytest.mark.parametrize(
    "first", [refused(503), answer({"error": {"message": "no"}}), answer({"results?": 1})]
)
async def test_a_moderation_goes_to_another_model_after_a_failure(engine: EngineName, first: Any) -> None:
    """An answer of 200 that is none is a failure as well."""
    async with served(engine, "content-moderation", first, answer(VERDICT)) as node:
        await node.client.moderations.create(model=POOL, input="x")

    assert node.asked == ["alpha/v1/moderations", "beta/v1/moderations"]


async def test_a_chat_model_does_not_moderate(engine: EngineName) -> None:
    """The name is known, but nobody behind it serves the API."""
    async with served(engine, "chat-completion", answer(VERDICT)) as node:
        with pytest.raises(openai.NotFoundError, match="serves the moderations API"):
            await node.client.moderations.create(model=POOL, input="x")


# -- rerank


async def rerank(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    body = {"model": POOL, "query": "who?", "documents": ["a", "b"], **fields}
    return await client.post("/rerank", body=body, cast_to=object)


@pytest.mark.parametrize(
    ("counted", "booked"),
    [
        ({"usage": {"total_tokens": 42}}, 42),
        ({"usage": {"total_tokens": 42, "prompt_tokens": 40}}, 42),
        ({"meta": {"billed_units": {"input_tokens": 41.0}}}, 41),
        ({"meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 40}}}, 40),
    ],
)
async def test_a_ranking_is_answered(engine: EngineName, counted: dict[str, Any], booked: int) -> None:
    """In Jina's or Cohere's words."""
    async with served(engine, "reranking", answer({**RANKING, **counted})) as node:
        given = await rerank(node.client, top_n=1, return_documents=False)

    assert given["results"] == RANKING["results"]
    assert node.asked == ["alpha/v1/rerank"]
    assert node.sent == [
        {"model": "m", "query": "who?", "documents": ["a", "b"], "top_n": 1, "return_documents": False}
    ]
    assert node.booked == [(booked, 0)]


async def test_a_query_is_weighed_with_each_document(engine: EngineName) -> None:
    """For so it is read, and billed. Who bills searches reports no tokens: they are estimated."""
    billed = answer({**RANKING, "meta": {"billed_units": {"search_units": 1}}})
    async with served(engine, "reranking", billed) as node:
        await rerank(node.client, query="word " * 100, documents=["a"])
        await rerank(node.client, query="word " * 100, documents=["a"] * 50)

    alone, often = (ask.tokens_in for ask in node.front.place.ledger.asks)
    assert often > 40 * alone
    assert all(s.flags & ESTIMATED for s in node.settled)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"top_n": 0}, "top_n"),
    ],
)
async def test_a_bad_ranking_is_the_callers_mistake(
    engine: EngineName, fields: dict[str, Any], param: str
) -> None:
    """Told in the API's shape, without asking anybody."""
    async with served(engine, "reranking", answer(RANKING)) as node:
        with pytest.raises(openai.BadRequestError) as refusal:
            await rerank(node.client, **fields)

    assert refusal.value.param == param
    assert node.asked == []


async def test_models_of_every_kind_are_listed(engine: EngineName) -> None:
    """A name is a name, whatever its model does."""
    async with served(engine, "reranking", answer(RANKING)) as node:
        listed = {model.id: model async for model in await node.client.models.list()}
        one = await node.client.models.retrieve("alpha.m")

    assert list(listed) == [POOL, "alpha.m", "beta.m"]
    assert one == listed["alpha.m"]
