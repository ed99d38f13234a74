"""Even strategies over three nodes behind nginx: each model gets its own share to within 2 %."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.cluster.calls import Callers
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool

pytestmark = pytest.mark.cluster

#: Of a model's own share.
TOLERANCE = 0.02
#: The same for strategies that go by what is measured, with models that are equally quick.
_MEASURED = 0.25
_REQUESTS = 1200
_MOCKS = ("alpha", "beta", "quiet")
_ROOMS = {"alpha": 60_000, "beta": 30_000, "quiet": 30_000}

SHARED = [
    pool("turns", *_MOCKS, strategy="round-robin"),
    pool("canaries", *_MOCKS, strategy="canary", weights={"canaries.quiet": 0.2}),
    pool(
        "rooms",
        *(Member(mock, limits={"rpm": rpm}) for mock, rpm in _ROOMS.items()),
        strategy="load-balanced",
        balance_mode="absolute",
    ),
]
POOLS = [
    *SHARED,
    pool("fixed", *_MOCKS, strategy="load-balanced", weights={"fixed.alpha": 2.5}),
    pool("free", *_MOCKS, strategy="load-balanced"),
    pool(
        "parts",
        *(Member(mock, limits={"rpm": 30_000}) for mock in _MOCKS),
        strategy="load-balanced",
        balance_mode="relative",
    ),
    pool("level", *_MOCKS, strategy="least-busy"),
    pool("duels", *_MOCKS, strategy="power-of-two"),
    pool(
        "second",
        *_MOCKS,
        "doomed",
        strategy="priority-selection",
        model_priority=["second.doomed"],
        fallback_strategy="round-robin",
    ),
]


@pytest.fixture
async def callers(cluster: Cluster) -> AsyncIterator[Callers]:
    """On the shared cluster's nginx; whatever a test does with them, the books balance afterwards."""
    async with aiohttp.ClientSession(cluster.base_url) as session:
        yield Callers(session)
    await cluster.settled_books()


def parts_of(name: str, weights: dict[str, float], count: int = _REQUESTS) -> dict[str, float]:
    """So many requests in proportion."""
    whole = sum(weights.values())
    return {f"{name}.{model}": count * weight / whole for model, weight in weights.items()}


EVEN = dict.fromkeys(_MOCKS, 1.0)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("turns", EVEN),
        ("fixed", {**EVEN, "alpha": 2.5}),
        ("canaries", {"alpha": 0.4, "beta": 0.4, "quiet": 0.2}),
        ("free", EVEN),
        ("rooms", {**EVEN, "alpha": 2}),
        ("parts", EVEN),
    ],
)
async def test_each_model_gets_its_share(callers: Callers, name: str, weights: dict[str, float]):
    """Three nodes that know nothing of each other's requests keep one sequence of turns."""
    served = await callers.ask_many(name, _REQUESTS)

    assert served == pytest.approx(parts_of(name, weights), rel=TOLERANCE)


async def test_a_fallback_that_goes_round_is_as_even(cluster: Cluster, callers: Callers):
    """The rest of a priority pool, while its first model is away."""
    await cluster.ops("models/second.doomed/deactivate", order={})
    await cluster.await_model("second.doomed", status="standby")
    await callers.ask_many("second", 60)
    served = await callers.ask_many("second", _REQUESTS)

    assert served == pytest.approx(parts_of("second", EVEN), rel=TOLERANCE)


async def test_equally_quick_models_are_about_equally_used(cluster: Cluster, callers: Callers):
    """What goes by measurement follows its noise, and leans on nobody."""
    names = ("level", "duels")
    for name, mock in itertools.product(names, _MOCKS):
        cluster.order(f"{name}.{mock}", "slow-head=30ms")
    served = await asyncio.gather(*(callers.ask_many(name, 900) for name in names))

    for name, counts in zip(names, served, strict=True):
        assert counts == pytest.approx(parts_of(name, EVEN, 900), rel=_MEASURED)
