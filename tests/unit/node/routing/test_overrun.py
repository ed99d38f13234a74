"""Streams by running cost: where money is limited, an answer ends with what was reserved for it."""

from __future__ import annotations

from typing import Any

import pytest

from shared_state.client_keys import ClientKey
from shared_state.config import LimitsConfig
from shared_state.ledger import Outcome
from tests.unit.node.house import House, chat, mesh
from tests.unit.node.scripted import DONE, ROLE, ScriptedTransport, chunk, stream
from tests.unit.node.virtual_time import in_virtual_time

_PRICED = {"pricing": {"input": 1.0, "output": 2.0}}
_ENDLESS = [ROLE, *(chunk("word") for _ in range(500)), DONE]


def _place(*, model: dict[str, Any] | None = None, provider: dict[str, Any] | None = None) -> House:
    topology = mesh("alpha.m", model=_PRICED | (model or {}), provider=provider)
    return House(topology, ScriptedTransport(alpha=stream(*_ENDLESS)))


@pytest.mark.parametrize(
    "limited", [{"model": {"limits": {"usd_per_day": 5.0}}}, {"provider": {"budget": {"monthly_limit": 5.0}}}]
)
@in_virtual_time
async def test_a_stream_that_passes_its_bound_is_ended(limited: dict[str, Any]) -> None:
    """The caller asked for 20 tokens; the provider goes on; what came is charged, and nobody is blamed."""
    place = _place(**limited)
    await place.serve(stream=True, max_tokens=20)

    assert [error.code for error in place.reader.errors] == ["output_overrun"]
    assert b"[DONE]" not in place.reader.body
    assert 20 < place.reader.body.count(b"word") < 100
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert 20 < place.ledger.settled[0].tokens_out < 100
    place.assert_clean()


@in_virtual_time
async def test_money_of_a_client_key_ends_it_as_well() -> None:
    place = _place()
    key = ClientKey(id="k1", name="billing", created=0.0, limits=LimitsConfig(usd_per_day=5.0))
    await place.serve(chat(stream=True, max_tokens=20, key=key))

    assert [error.code for error in place.reader.errors] == ["output_overrun"]


@in_virtual_time
async def test_where_no_money_is_limited_it_goes_on() -> None:
    """Tokens are trued up; a long answer is the caller's own affair."""
    place = _place(model={"limits": {"tpm": 100_000}})
    await place.serve(stream=True, max_tokens=20)

    assert place.reader.body.count(b"word") == 500
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]


@in_virtual_time
async def test_a_stream_within_its_bound_is_left_alone() -> None:
    place = _place(model={"limits": {"usd_per_day": 5.0}})
    await place.serve(stream=True, max_tokens=600)

    assert place.reader.body.count(b"word") == 500
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
