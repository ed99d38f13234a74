"""Even strategies over three nodes behind nginx: each model gets its own share to within 2 %, also while nodes come and go."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from tests.cluster.calls import HELLO
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

#: Of a model's own share.
_TOLERANCE = 0.02
#: The same for strategies that go by what is measured, with models that are equally quick.
_MEASURED = 0.25
_REQUESTS = 1500
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


class Callers:
    """Callers who are quick and note who served them."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.served = Counter[str]()
        self._session = session

    async def ask(self, name: str, count: int = _REQUESTS, *, at_once: int = 24) -> dict[str, int]:
        """Who served so many requests, so many at once."""
        numbers, before = itertools.count(), self._of(name)

        async def keep_asking() -> None:
            while next(numbers) < count:
                await self._ask_once(name)

        await asyncio.gather(*(keep_asking() for _ in range(at_once)))
        return dict(self._of(name) - before)

    def _of(self, name: str) -> Counter[str]:
        return Counter({model: n for model, n in self.served.items() if model.partition(".")[0] == name})

    async def _ask_once(self, name: str) -> None:
        body = {"model": name, "messages": HELLO}
        async with self._session.post("/v1/chat/completions", json=body) as answer:
            await answer.read()
            if answer.status == 200:
                self.served[answer.headers["x-modelmesh-model"]] += 1


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


_EVEN = dict.fromkeys(_MOCKS, 1.0)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("turns", _EVEN),
        ("fixed", {**_EVEN, "alpha": 2.5}),
        ("canaries", {"alpha": 0.4, "beta": 0.4, "quiet": 0.2}),
        ("free", _EVEN),
        ("rooms", {**_EVEN, "alpha": 2}),
        ("parts", _EVEN),
    ],
)
async def test_each_model_gets_its_share(callers: Callers, name: str, weights: dict[str, float]):
    """Three nodes that know nothing of each other's requests keep one sequence of turns."""
    served = await callers.ask(name)

    assert served == pytest.approx(parts_of(name, weights), rel=_TOLERANCE)


async def test_a_fallback_that_goes_round_is_as_even(cluster: Cluster, callers: Callers):
    """The rest of a priority pool, while its first model is away."""
    await cluster.ops("models/second.doomed/deactivate", order={})
    await cluster.await_model("second.doomed", status="standby")
    await callers.ask("second", 60)
    served = await callers.ask("second")

    assert served == pytest.approx(parts_of("second", _EVEN), rel=_TOLERANCE)


async def test_equally_quick_models_are_about_equally_used(cluster: Cluster, callers: Callers):
    """What goes by measurement follows its noise, and leans on nobody."""
    names = ("level", "duels")
    for name, mock in itertools.product(names, _MOCKS):
        cluster.order(f"{name}.{mock}", "slow-head=30ms")
    served = await asyncio.gather(*(callers.ask(name, 900) for name in names))

    for name, counts in zip(names, served, strict=True):
        assert counts == pytest.approx(parts_of(name, _EVEN, 900), rel=_MEASURED)


async def test_shares_hold_while_nodes_come_and_go(start_cluster: Callable[..., Cluster]):
    """Under load a fourth node joins, one drains, one is killed: no share moves, though each takes its turns with it."""
    cluster = start_cluster(mesh(*SHARED), mocks=dict.fromkeys(_MOCKS, {}))
    # nginx ends the connections of the set that it replaces, and a caller who keeps one may write into its end
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(cluster.base_url, connector=connector) as session:
        callers = Callers(session)
        names = ("turns", "canaries", "rooms")
        load = asyncio.gather(*(callers.ask(name, 1000, at_once=8) for name in names))
        joining = cluster.add_node()
        await _served(callers, 700)
        await joining.process.wait_line(r'"event": ?"ready"')
        _admit(cluster, 0, 1, 2, 3)
        await _served(callers, 1400)
        _admit(cluster, 1, 2, 3)
        cluster.nodes[0].process.send(signal.SIGTERM)
        await _served(callers, 2100)
        cluster.nodes[1].process.kill()
        shares = await load
    ideal = {"turns": _EVEN, "canaries": {"alpha": 4, "beta": 4, "quiet": 2}, "rooms": {**_EVEN, "alpha": 2}}

    for name, served in zip(names, shares, strict=True):
        assert sum(served.values()) >= 976  # a dead node takes what it had under way with it
        assert served == pytest.approx(parts_of(name, ideal[name], sum(served.values())), rel=_TOLERANCE)


async def _served(callers: Callers, count: int) -> None:
    await wait_until(lambda: callers.served.total() >= count, 20, what=f"{count} answers")


def _admit(cluster: Cluster, *places: int) -> None:
    assert cluster.nginx is not None
    cluster.nginx.reload([("127.0.0.1", cluster.nodes[place].port) for place in places])
