"""What a request reserves before it is sent."""

from __future__ import annotations

from typing import Any

import pytest

from node.api.surfaces import EMBEDDINGS
from node.call import Call
from node.routing.estimate import Estimate, estimate, output_room, token_room
from shared_state.config import LimitsConfig
from tests.unit.node.house import chat, mesh


async def reserve(
    *, room: int | None = None, model: dict[str, Any] | None = None, call: Call | None = None, **fields: Any
) -> Estimate:
    """The reservation of a call of 100 bytes."""
    call = call or chat(**fields)
    call.body_bytes = 100
    return estimate(call, mesh("alpha.small", model=model).models["alpha.small"], room)


@pytest.mark.parametrize(
    ("fields", "tokens_out"),
    [
        ({}, 4096),
        ({"n": 3}, 3 * 4096),
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 60, "max_tokens": 50}, 60),
        ({"max_tokens": 50, "n": 3}, 150),
        ({"max_tokens": None, "n": None}, 4096),
    ],
)
async def test_output_is_reserved_as_stated_or_by_default(fields: dict[str, Any], tokens_out: int) -> None:
    """Every answer of ``n`` may be as long as the bound."""
    assert (await reserve(**fields)).tokens_out == tokens_out


async def test_the_models_own_bound_replaces_the_default() -> None:
    """A model that is known to write at most so much reserves no more."""
    model = {"constraints": {"max_output_tokens": 1000}}

    assert (await reserve(model=model)).tokens_out == 1000
    assert (await reserve(model=model, n=2)).tokens_out == 2000
    assert (await reserve(model=model, max_tokens=5000)).tokens_out == 5000


async def test_the_prompt_is_estimated_upward() -> None:
    """Two bytes a token, rounded up."""
    call = chat()
    call.body_bytes = 101
    model = mesh("alpha.small").models["alpha.small"]

    assert estimate(call, model, None).tokens_in == 51


async def test_what_was_weighed_at_the_door_counts() -> None:
    """The size in bytes is only for who did not weigh."""
    call = chat()
    call.body_bytes, call.prompt_tokens = 100, 77

    assert (await reserve_of(call)).tokens_in == 77


async def reserve_of(call: Call) -> Estimate:
    """The reservation of a call as it is."""
    return estimate(call, mesh("alpha.small").models["alpha.small"], None)


@pytest.mark.parametrize(("room", "tokens_out"), [(None, 4096), (1000, 950), (5000, 4096), (51, 1), (10, 1)])
async def test_an_unstated_bound_is_cut_to_the_windows(room: int | None, tokens_out: int) -> None:
    """A window of 1000 tokens can never admit 4096; one token is always asked for."""
    assert (await reserve(room=room)).tokens_out == tokens_out


async def test_a_stated_bound_is_never_cut() -> None:
    """What the caller may get is what is reserved."""
    assert (await reserve(room=100, max_tokens=5000)).tokens_out == 5000


async def test_an_api_without_output_reserves_none() -> None:
    """Embeddings answer with numbers."""
    call = chat(surface=EMBEDDINGS, input="x")

    assert (await reserve(call=call)).tokens_out == 0


async def test_money_is_reserved_by_the_prices() -> None:
    """50 tokens in, 100 out, and the price of a request."""
    model = {"pricing": {"input": 1.0, "output": 2.0, "per_request": 0.001}}

    assert (await reserve(model=model, max_tokens=100)).cost_nano == 50_000 + 200_000 + 1_000_000


async def test_absurd_bounds_stay_within_what_the_store_can_hold() -> None:
    """Records keep tokens in 32 bits and Lua counts exactly to 2**53; one caller must not break a whole batch."""
    most = 2**31 - 1
    found = await reserve(model={"pricing": {"output": 1e9}}, max_tokens=most, n=most)

    assert found == Estimate(50, most, 2**53 - 1)


@pytest.mark.parametrize(
    ("model", "account", "room"),
    [
        ({}, {}, None),
        ({"rpm": 1, "concurrency": 2}, {"rpd": 3}, None),
        ({"tpm": 500}, {}, 500),
        ({"tpm": 500}, {"tpd": 400}, 400),
        ({"tpm": 500, "tph": 450, "tpd": 300, "tpw": 350, "tpM": 600}, {"tpm": 1000}, 300),
    ],
)
def test_the_room_is_the_smallest_token_window(
    model: dict[str, int], account: dict[str, int], room: int | None
) -> None:
    """Of the model and of its account."""
    assert token_room(LimitsConfig(**model), LimitsConfig(**account)) == room


async def test_an_unstated_bound_is_cut_to_the_output_windows_too() -> None:
    """Accounts that count input and output apart (Anthropic's) would never admit a model that may write more than a minute's worth."""
    model = mesh("alpha.small", model={"constraints": {"max_output_tokens": 64_000}}).models["alpha.small"]

    assert estimate(chat(), model, None, 8000).tokens_out == 8000
    assert estimate(chat(), model, 1000, 8000).tokens_out < 1000
    assert estimate(chat(max_tokens=9000), model, None, 8000).tokens_out == 9000


def test_the_output_room_is_the_smallest_output_window() -> None:
    """Of the model and its account; windows of all tokens are another matter."""
    assert output_room(LimitsConfig(otpm=500, tpm=100), LimitsConfig(otpd=400)) == 400
    assert output_room(LimitsConfig(tpm=100, itpm=50), LimitsConfig()) is None
