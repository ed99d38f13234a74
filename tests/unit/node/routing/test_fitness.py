"""Who takes part in a plan: by what the request needs, by the caller's caps, and what is said if nobody does."""

from __future__ import annotations

from typing import Any

import pytest

from node.api.surfaces import EMBEDDINGS
from node.call import Caps
from node.routing.pipeline import Plan
from shared_state.errors import ContextLengthError, RequestError, UnsupportedFeatureError
from shared_state.state import EntityState
from tests.unit.node.house import House, chat, mesh
from tests.unit.node.scripted import ScriptedTransport

TOOLS = [{"type": "function", "function": {"name": "f"}}]
NO_TOOLS = {"features": {"tool_calling": False}}


def place_of(*models: str, **options: Any) -> House:
    return House(mesh(*models, **options), ScriptedTransport())


def small(window: int) -> dict[str, Any]:
    return {"constraints": {"context_window": window}}


def text(words: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "lorem-ipsum " * words}]


async def plan_of(place: House, caps: Caps | None = None, **fields: Any) -> Plan:
    call = chat(**fields)
    call.caps = caps
    return await place.pipeline.plan(call)


def names(plan: Plan) -> list[str]:
    return [target.model.id for target in plan.targets]


async def refusal(place: House, caps: Caps | None = None, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await plan_of(place, caps, **fields)
    return caught.value


# -- needs


async def test_a_request_goes_only_to_models_that_can_do_it() -> None:
    """Who cannot is skipped with the reason; without the need everybody takes part."""
    place = place_of(
        "a.m", "b.m", "c.m", differing={"a.m": NO_TOOLS, "c.m": {"features": {"tool_calling": True}}}
    )

    assert names(await plan_of(place)) == ["a.m", "b.m", "c.m"]
    plan = await plan_of(place, tools=TOOLS)
    assert names(plan) == ["b.m", "c.m"]
    assert plan.skipped == {"a.m": "tool_calling"}


async def test_a_feature_that_nobody_has_is_the_callers_mistake() -> None:
    """400 that names feature, field and models."""
    error = await refusal(place_of("a.m", "b.m", model=NO_TOOLS), tools=TOOLS)

    assert isinstance(error, UnsupportedFeatureError)
    assert (error.http_status, error.code, error.param) == (400, "unsupported_feature", "tools")
    assert all(word in error.message for word in ("tool_calling", "a.m", "b.m", "'chat'"))


async def test_every_reason_is_told_and_the_first_feature_leads() -> None:
    """A mixed pool: too small here, no tools there."""
    differing = {"a.m": small(10), "b.m": NO_TOOLS}
    error = await refusal(place_of("a.m", "b.m", differing=differing), tools=TOOLS, messages=text(100))

    assert (error.code, error.param) == ("unsupported_feature", "tools")
    assert "context_window ('messages'): a.m" in error.message


async def test_many_models_are_not_all_named() -> None:
    """The message stays readable."""
    error = await refusal(place_of(*(f"p{i}.m" for i in range(9)), model=NO_TOOLS), tools=TOOLS)

    assert "p4.m and 4 more" in error.message


async def test_a_fit_model_on_standby_is_no_reason_to_blame_the_caller() -> None:
    """Fitness comes before state: 503, not 400."""
    place = place_of("a.m", "b.m", differing={"a.m": NO_TOOLS})
    place.view.models = {"b.m": EntityState(status="standby", reason="error_threshold", mode="manual")}
    plan = await plan_of(place, tools=TOOLS)

    assert names(plan) == []
    assert plan.skipped == {"a.m": "tool_calling", "b.m": "error_threshold"}


# -- the context window


async def test_a_text_that_cannot_fit_goes_to_a_larger_model() -> None:
    """More words than the window has tokens."""
    place = place_of("a.m", "b.m", differing={"a.m": small(1000), "b.m": small(8000)})
    plan = await plan_of(place, messages=text(1100))

    assert names(plan) == ["b.m"]
    assert plan.skipped == {"a.m": "context_window"}


async def test_a_text_that_fits_nowhere_is_answered_in_openais_shape() -> None:
    """Clients look for this code and these words."""
    place = place_of("a.m", "b.m", differing={"a.m": small(1000), "b.m": small(2000)})
    error = await refusal(place, messages=text(3000))

    assert isinstance(error, ContextLengthError)
    assert (error.http_status, error.type, error.code, error.param) == (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "messages",
    )
    assert "maximum context length of 'chat' is 2000 tokens" in error.message


@pytest.mark.parametrize("content", ["x " + " " * 100_000, "=" * 100_000, "漢" * 4000])
async def test_what_may_fit_is_never_refused(content: str) -> None:
    """Long runs fold into few tokens, and of scripts without spaces little is known: the provider decides."""
    place = place_of("a.m", model=small(2000))

    assert names(await plan_of(place, messages=[{"role": "user", "content": content}])) == ["a.m"]


async def test_models_that_surely_hold_the_text_go_first() -> None:
    """The others come last, in their order."""
    differing = {"a.m": small(1000), "b.m": small(1001), "c.m": small(100_000)}
    place = place_of("a.m", "b.m", "c.m", "d.m", differing=differing)

    assert names(await plan_of(place, messages=text(400))) == ["c.m", "d.m", "a.m", "b.m"]
    assert names(await plan_of(place, messages=text(20), max_tokens=990)) == ["c.m", "d.m", "a.m", "b.m"]
    assert names(await plan_of(place, messages=text(20))) == ["a.m", "b.m", "c.m", "d.m"]


async def test_an_embedding_of_many_texts_needs_a_window_for_the_longest_only() -> None:
    """Ten texts that fit are ten requests that fit."""
    place = place_of("a.m", model={"capabilities": ["text-embeddings"], **small(1000)})

    plan = await plan_of(place, surface=EMBEDDINGS, messages=None, input=["lorem-ipsum " * 800] * 10)
    assert names(plan) == ["a.m"]
    with pytest.raises(ContextLengthError, match="input"):
        await plan_of(place, surface=EMBEDDINGS, messages=None, input=["lorem-ipsum " * 1200])


# -- caps

REGIONAL = {"a": "eu-west-1", "b": "US", "c": None}


def regional() -> House:
    providers = {
        name: {
            "connector": "openai-compatible.v1",
            "base_url": f"http://{name}/v1",
            **({"region": region} if region else {}),
        }
        for name, region in REGIONAL.items()
    }
    return place_of("a.m", "b.m", "c.m", providers=providers)


async def test_only_the_allowed_providers_serve() -> None:
    """An allow-list may name who is not here."""
    plan = await plan_of(regional(), Caps(providers=frozenset({"b", "elsewhere"})))

    assert names(plan) == ["b.m"]
    assert plan.skipped == {"a.m": "provider", "c.m": "provider"}


async def test_only_the_allowed_regions_serve() -> None:
    """Case does not matter; a provider that does not say where it is stays out."""
    plan = await plan_of(regional(), Caps(regions=frozenset({"us", "eu-west-1"})))

    assert names(plan) == ["a.m", "b.m"]
    assert plan.skipped == {"c.m": "region"}


async def test_only_models_that_are_cheap_enough_serve() -> None:
    """By the estimate that is reserved; a model without a price promises nothing, one of price 0 everything."""
    differing = {
        "a.m": {"pricing": {"input": 1.0, "output": 100.0}},
        "b.m": {"pricing": {"input": 1.0, "output": 1.0}},
        "c.m": {"pricing": {"input": 0.0}},
    }
    place = place_of("a.m", "b.m", "c.m", "d.m", differing=differing)
    plan = await plan_of(place, Caps(max_price_nano=5_000_000), max_tokens=100)

    assert names(plan) == ["b.m", "c.m"]
    assert plan.skipped == {"a.m": "max_price", "d.m": "max_price"}
    assert names(await plan_of(place, Caps(max_price_nano=0), max_tokens=100)) == ["c.m"]


@pytest.mark.parametrize(
    ("caps", "header"),
    [
        (Caps(providers=frozenset({"z"})), "x-modelmesh-allow-providers"),
        (Caps(regions=frozenset({"z"})), "x-modelmesh-regions"),
        (Caps(max_price_nano=1), "x-modelmesh-max-price"),
    ],
)
async def test_caps_that_leave_nobody_are_named(caps: Caps, header: str) -> None:
    """400 with the header."""
    error = await refusal(regional(), caps)

    assert (error.http_status, error.code, error.param) == (400, "no_model_within_caps", header)
    assert header in error.message
