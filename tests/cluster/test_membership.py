"""What holds over the fleet holds while nodes join, drain and die: the retry budget in a storm, and the shares of even strategies.

And what is done about providers and schedulers that go and come back.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from tests.cluster.calls import Callers
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool
from tests.cluster.test_evenness import EVEN, SHARED, TOLERANCE, parts_of
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_MOCKS = ("alpha", "beta", "quiet")
#: Retries in ten seconds that are free, however few calls there are.
_FLOOR = 20
_STUBBORN = {"retry_limit": 10_000_000, "error_min_requests": 10_000_000}
#: Its models are never put on standby, so that nothing but the budget holds retries back.
_STORM = pool("storm", *_MOCKS, deactivation=_STUBBORN)
_GONE = pool(
    "gone",
    Member("doomed", "first"),
    Member("doomed", "second"),
    "quiet",
    recovery={"cooldown": "500ms", "ramp": [1.0]},
)
_EARLY = pool(
    "early",
    "quiet",
    deactivation={"retry_limit": 1},
    recovery={"cooldown": "10m", "max_cooldown": "10m", "probe_on_start": True, "ramp": [1.0]},
)


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """One that loses nodes, and gets them back."""
    return start_cluster(mesh(*SHARED, _STORM, _GONE, _EARLY), mocks=dict.fromkeys((*_MOCKS, "doomed"), {}))


@pytest.fixture
async def callers(cluster: Cluster) -> AsyncIterator[Callers]:
    """Who never keep a connection: nginx ends those of the set of nodes that it replaces, and a caller may write into the end."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(cluster.base_url, connector=connector) as session:
        yield Callers(session)


async def test_a_storm_stays_a_tenth_above_the_calls_whoever_comes_and_goes(
    cluster: Cluster, callers: Callers
):
    """With every provider at 100 % errors; a fourth node joins amid it, another is killed: over the whole run, and after every second."""
    for mock in _MOCKS:
        cluster.order(f"storm.{mock}", "500")
    load = asyncio.create_task(callers.ask_many("storm", 2400))
    joining = cluster.add_node()
    await joining.process.wait_line(r'"event": ?"ready"')
    _admit(cluster, 0, 1, 2, 3)
    await _sent(callers, 1600)
    cluster.nodes[0].process.kill()
    await load
    arrivals = [entry["t_arrival"] for mock in _MOCKS for entry in cluster.seen(f"storm.{mock}")]
    began, ended = callers.sent[0], callers.sent[-1]
    seconds = [began + second for second in range(1, int(ended - began) + 1)]
    calls = [_between(callers.sent, at, at + 1) for at in seconds[:-1]]
    single = [(n, _between(arrivals, at, at + 1) - n) for n, at in zip(calls, seconds, strict=False)]

    assert 1.05 * 2400 < len(arrivals) <= 1.1 * 2400
    assert all(_between(arrivals, 0, at) <= 1.1 * _between(callers.sent, 0, at) for at in seconds)
    assert len(single) >= 2
    # what follows a call of the second before is counted in this one
    assert all(retries <= 0.15 * calls + _FLOOR for calls, retries in single)


def _between(times: list[float], begin: float, end: float) -> int:
    return sum(begin <= at < end for at in times)


async def test_shares_hold_while_nodes_come_and_go(cluster: Cluster, callers: Callers):
    """Under load a node joins, one drains, one is killed: no share moves, though each takes its turns with it."""
    await _begin_without_the_first(cluster)
    names = ("turns", "canaries", "rooms")
    load = asyncio.gather(*(callers.ask_many(name, 1000, at_once=8) for name in names))
    await cluster.nodes[0].restart()
    _admit(cluster, 0, 1, 2, 3)
    await _sent(callers, 1400)
    _admit(cluster, 0, 2, 3)
    cluster.nodes[1].process.send(signal.SIGTERM)
    await _sent(callers, 2100)
    cluster.nodes[2].process.kill()
    shares = await load
    ideal = {"turns": EVEN, "canaries": {"alpha": 4, "beta": 4, "quiet": 2}, "rooms": {**EVEN, "alpha": 2}}

    for name, served in zip(names, shares, strict=True):
        assert sum(served.values()) >= 976  # a dead node takes what it had under way with it
        assert served == pytest.approx(parts_of(name, ideal[name], sum(served.values())), rel=TOLERANCE)


async def test_an_account_that_nobody_reaches_is_out_and_comes_back(cluster: Cluster, callers: Callers):
    """Five lost connections, of whichever of its models, take it out; one trial brings all of it back."""
    cluster.mocks["doomed"].process.kill()
    served = await callers.ask_many("gone", 20, at_once=2)
    row = await cluster.provider("gone-doomed")
    cluster.mocks["doomed"].restart()

    async def is_back() -> bool:
        await callers.ask_many("gone", 3, at_once=1)
        return (await cluster.provider("gone-doomed"))["status"] == "active"

    await wait_until(is_back, interval=0.1)

    assert served == {"gone.quiet": 20}
    assert (row["status"], row["reason"]) == ("standby", "outage")


async def test_a_scheduler_that_starts_probes_what_waits(cluster: Cluster, callers: Callers):
    """The cooldown would be ten minutes."""
    cluster.order("early.quiet", "500", times=1)
    await callers.ask_many("early", 1)
    await cluster.await_model("early.quiet", status="standby")
    await cluster.schedulers[0].terminate()
    cluster.start_scheduler()
    await cluster.await_model("early.quiet", status="active")

    assert [entry["status"] for entry in cluster.seen("early.quiet")] == [500, 200]


async def _begin_without_the_first(cluster: Cluster) -> None:
    """Four nodes, of which three serve, whatever another test has left."""
    while len(cluster.nodes) < 4:
        cluster.add_node()
    if cluster.nodes[0].is_running:
        cluster.nodes[0].process.kill()
    for node in cluster.nodes[1:]:
        if not node.is_running:
            node.spawn()
        node.await_ready()
    _admit(cluster, 1, 2, 3)


async def _sent(callers: Callers, count: int) -> None:
    await wait_until(lambda: len(callers.sent) >= count, what=f"{count} requests")


def _admit(cluster: Cluster, *places: int) -> None:
    assert cluster.nginx is not None
    cluster.nginx.reload([("127.0.0.1", cluster.nodes[place].port) for place in places])
