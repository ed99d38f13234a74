"""The client for tests of programs."""

from __future__ import annotations

import openai
import pytest

from modelmesh.testing import MockClient, MockResponse, mock_client

HI = [{"role": "user", "content": "hi"}]


def ask(client: MockClient, **more: object) -> object:
    return client.chat.completions.create(model="chat", messages=HI, **more)


def test_answers_come_in_order_and_the_last_repeats():
    """Text alone will do for one; calls are noted."""
    client = mock_client(["one", MockResponse("two", model="m", tokens=30)])

    answers = [ask(client, temperature=0.5) for _ in range(3)]

    assert [answer.choices[0].message.content for answer in answers] == ["one", "two", "two"]
    assert (answers[1].model, answers[1].usage.prompt_tokens, answers[1].usage.completion_tokens) == (
        "m",
        10,
        20,
    )
    assert client.calls[0] == {
        "model": "chat",
        "messages": HI,
        "kwargs": {"temperature": 0.5},
        "response": MockResponse("one"),
    }


def test_without_answers_it_has_one():
    """The documented default."""
    assert ask(mock_client()).choices[0].message.content == "Mock response"


def test_it_streams():
    """Word by word, with a reason at the end."""
    chunks = list(ask(mock_client(["one two one"]), stream=True))

    assert [chunk.choices[0].delta.content for chunk in chunks] == ["one", " two", " one", None]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_errors_are_those_of_the_sdk():
    """By status; without one it is a 500."""
    client = mock_client([MockResponse(error="slow down", status_code=429), MockResponse(error="broken")])

    with pytest.raises(openai.RateLimitError, match="slow down"):
        ask(client)
    with pytest.raises(openai.InternalServerError, match="broken"):
        ask(client)


def test_failures_and_delays_are_by_chance():
    """Chance is an argument."""
    draws = iter([0.0, 0.1, 0.0, 0.9])
    client = mock_client(failure_rate=0.5, latency_range=(0.0, 0.001), draw=lambda: next(draws))

    with pytest.raises(openai.InternalServerError, match="by chance"):
        ask(client)
    assert ask(client)


def test_other_apis_are_not_there():
    """It says so."""
    with pytest.raises(openai.NotFoundError, match="chat completions alone"):
        mock_client().embeddings.create(model="m", input="x")
