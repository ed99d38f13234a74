"""Lists of models as vendors write them, in one shape; and what it means if there is none."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from node.providers.connector import Connector
from node.providers.listing import NOT_LISTED, list_models, normalise, read_listing
from shared_state.errors import (
    AuthenticationError,
    ProviderError,
    ProviderProtocolError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from shared_state.shapes.listing import ListedModel
from tests.unit.node.house import mesh
from tests.unit.node.scripted import HTML_PAGE, Answer, ScriptedTransport, for_ever, refused
from tests.unit.node.virtual_time import in_virtual_time

OPENAI = {"id": "gpt-4o-mini", "object": "model", "created": 1721172741, "owned_by": "system"}
OPENROUTER = {
    "id": "openai/gpt-4o-mini",
    "canonical_slug": "openai/gpt-4o-mini",
    "name": "OpenAI: GPT-4o-mini",
    "created": 1721260800,
    "context_length": 128000,
    "architecture": {"modality": "text+image->text", "tokenizer": "GPT"},
    "pricing": {"prompt": "0.00000015", "completion": "0.0000006", "request": "0", "image": "0.000217"},
    "top_provider": {"context_length": 128000, "max_completion_tokens": 16384, "is_moderated": True},
    "expiration_date": None,
}
MISTRAL = {
    "id": "open-mistral-7b",
    "object": "model",
    "created": 1729000000,
    "owned_by": "mistralai",
    "capabilities": {"completion_chat": True, "vision": False},
    "max_context_length": 32768,
    "aliases": ["mistral-tiny"],
    "deprecation": "2025-03-30T12:00:00Z",
    "type": "base",
}
GROQ = {
    "id": "gemma2-9b-it",
    "object": "model",
    "created": 1693721698,
    "owned_by": "Google",
    "active": False,
    "context_window": 8192,
    "public_apps": None,
    "max_completion_tokens": 8192,
}
TOGETHER = {
    "id": "deepseek-ai/DeepSeek-V3",
    "object": "model",
    "created": 1735000000,
    "type": "chat",
    "organization": "DeepSeek",
    "context_length": 131072,
    "pricing": {"hourly": 0, "input": 1.25, "output": 1.25, "base": 0, "finetune": 0},
}
VLLM = {
    "id": "Qwen/Qwen2.5-7B-Instruct",
    "object": "model",
    "created": 1731000000,
    "owned_by": "vllm",
    "root": "Qwen/Qwen2.5-7B-Instruct",
    "parent": None,
    "max_model_len": 32768,
    "permission": [{"id": "modelperm-1"}],
}
OLLAMA = {"id": "llama3:latest", "object": "model", "created": 1714000000, "owned_by": "library"}

SHAPES = [
    ("openai", OPENAI, {"created": 1721172741, "owned_by": "system"}),
    (
        "openrouter",
        OPENROUTER,
        {
            "created": 1721260800,
            "context_window": 128000,
            "max_output_tokens": 16384,
            "price_input": 0.15,
            "price_output": 0.6,
        },
    ),
    (
        "mistral",
        MISTRAL,
        {
            "created": 1729000000,
            "owned_by": "mistralai",
            "context_window": 32768,
            "is_deprecated": True,
            "retires": 1743336000,
        },
    ),
    (
        "groq",
        GROQ,
        {
            "created": 1693721698,
            "owned_by": "Google",
            "context_window": 8192,
            "max_output_tokens": 8192,
            "is_active": False,
        },
    ),
    (
        "together",
        TOGETHER,
        {"created": 1735000000, "context_window": 131072, "price_input": 1.25, "price_output": 1.25},
    ),
    ("none", VLLM, {"created": 1731000000, "owned_by": "vllm", "context_window": 32768}),
    ("none", OLLAMA, {"created": 1714000000, "owned_by": "library"}),
]


@pytest.mark.parametrize(("dialect", "row", "wanted"), SHAPES, ids=[row["id"] for _, row, _ in SHAPES])
def test_each_vendors_entry_is_understood(dialect: str, row: dict[str, object], wanted: dict[str, object]):
    """What the vendor says is taken, what it does not say stays open."""
    assert normalise(row, dialect=dialect) == ListedModel(id=str(row["id"]), **wanted)  # type: ignore[arg-type]


def test_prices_in_an_unknown_unit_are_left_alone():
    """A gateway that writes prices as OpenRouter does, or not, is not guessed at."""
    found = normalise(OPENROUTER, dialect="openai")

    assert found is not None
    assert (found.price_input, found.price_output) == (None, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("created", "yesterday"),
        ("created", True),
        ("created", float("inf")),
        ("context_length", -1),
        ("context_length", {"tokens": 5}),
        ("pricing", {"prompt": "-1", "completion": "-1"}),
        ("pricing", ["free"]),
        ("top_provider", "somebody"),
        ("expiration_date", "soon"),
        ("owned_by", ["a", "b"]),
    ],
)
def test_nonsense_in_one_field_costs_only_that_field(key: str, value: object):
    """An entry stays an entry."""
    found = normalise({"id": "m", key: value}, dialect="openrouter")

    assert found == ListedModel(id="m")


@pytest.mark.parametrize("row", [None, "m", {}, {"id": 5}, {"id": ""}, {"id": "a\nb"}, {"id": "x" * 300}])
def test_an_entry_without_a_usable_id_is_none(row: object):
    """Ids reach events and terminals."""
    assert normalise(row, dialect="openai") is None


def test_a_bare_array_is_a_list_too_and_ids_come_once():
    """Together writes no ``data`` around it."""
    body = orjson.dumps([OPENAI, TOGETHER, OPENAI, None])

    assert [m.id for m in read_listing(body, provider="p", dialect="together")] == [
        OPENAI["id"],
        TOGETHER["id"],
    ]


@pytest.mark.parametrize("body", [b"", HTML_PAGE, b'{"data": 5}', b'"models"', b'{"models": []}'])
def test_what_is_no_list_has_a_code_of_its_own(body: bytes):
    """The provider has answered: it is not down."""
    with pytest.raises(ProviderProtocolError) as caught:
        read_listing(body, provider="p", dialect="openai")

    assert caught.value.code == NOT_LISTED


def connect(*steps: object) -> tuple[Connector, ScriptedTransport]:
    transport = ScriptedTransport(alpha=list(steps))  # type: ignore[arg-type]
    return Connector(mesh("alpha.small").providers["alpha"], transport), transport


LIST = Answer(orjson.dumps({"object": "list", "data": [OPENAI]}))


async def test_claudes_list_is_asked_for_as_a_whole():
    """It would come in pages of twenty, and the rest look as if it were gone."""
    transport = ScriptedTransport(alpha=LIST)
    claude = {"connector": "anthropic.claude.v1"}
    await list_models(Connector(mesh("alpha.m", provider=claude).providers["alpha"], transport), timeout_s=1)

    (request,) = transport.requests
    assert str(request.url) == "http://alpha/v1/models?limit=1000"
    assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == ("sk-secret", "2023-06-01")
    assert "authorization" not in request.headers


async def test_the_list_is_asked_for_with_the_accounts_credentials():
    """One GET beside the other routes, without a body."""
    connector, transport = connect(LIST)

    assert [m.id for m in await list_models(connector, timeout_s=1)] == ["gpt-4o-mini"]
    (request,) = transport.requests
    assert (request.method, str(request.url)) == ("GET", "http://alpha/v1/models")
    assert request.content == b""
    assert "content-type" not in request.headers
    assert transport.answers[0].body.closed == 1


@pytest.mark.parametrize(
    ("step", "error", "code"),
    [
        (refused(500), ProviderUnavailableError, "provider_unavailable"),
        (refused(401), AuthenticationError, "provider_authentication"),
        (refused(404), ProviderProtocolError, NOT_LISTED),
        (Answer(HTML_PAGE, status=404), ProviderProtocolError, NOT_LISTED),
        (refused(405), ProviderProtocolError, NOT_LISTED),
        (ConnectionRefusedError(), ProviderUnavailableError, "provider_unavailable"),
        (Answer(b"x" * 9 * 2**20), ProviderProtocolError, "provider_protocol"),
    ],
)
async def test_a_failure_tells_down_from_different(step: object, error: type[ProviderError], code: str):
    """Not having such a page is an answer; there is no second try."""
    connector, transport = connect(step)

    with pytest.raises(error) as caught:
        await list_models(connector, timeout_s=1)
    assert caught.value.code == code
    assert len(transport.requests) == 1


async def test_a_kept_connection_that_had_died_is_no_failure():
    """It says nothing about the provider, so a new one is tried at once."""
    dead = ConnectionResetError()
    dead.was_stale = True  # type: ignore[attr-defined]
    connector, _ = connect(dead, LIST)

    assert len(await list_models(connector, timeout_s=1)) == 1


@in_virtual_time
async def test_the_list_has_a_deadline_of_its_own():
    """The clocks of ordinary calls are far too long for it."""
    connector, _ = connect(Answer(b"[]", wait=for_ever))
    began_s = asyncio.get_running_loop().time()

    with pytest.raises(ProviderTimeoutError):
        await list_models(connector, timeout_s=2)
    assert asyncio.get_running_loop().time() - began_s == 2
