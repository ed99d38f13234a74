"""A store that comes back with nothing: what it held is put back, and what is wrong with it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import httpx
from openai import AsyncOpenAI, InternalServerError, RateLimitError

from scheduler.sinks import SqliteSink
from shared_state.copies import decode_copy
from shared_state.keys import Keys
from tests.cluster.calls import ask
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, Section, mesh, pool
from tests.support.processes import wait_until

_LIMIT = 6
_POOL = pool("day", Member("alpha", limits={"rpd": _LIMIT}))


async def test_limits_survive_a_store_that_lost_everything(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """A day's limit is kept over the loss, the books balance, operators see what happened and what to mend."""
    storage = tmp_path / "statistics.db"
    config = mesh(_POOL, scheduler={"copy_interval": 0.1}, storage={"path": str(storage)})
    cluster = start_cluster(config, mocks={"alpha": {}}, nodes=2)
    async with cluster.client() as client:
        await asyncio.gather(*(ask(client, "day") for _ in range(_LIMIT - 1)))
        before = await cluster.settled_books()
        await wait_until(lambda: _is_copied(storage, before), what="a copy of all of it")
        cluster.valkey.restart(keep_data=False)

        async def is_restored() -> bool:
            try:
                events = (await cluster.ops("status"))["events"]
            except httpx.HTTPStatusError:
                return False
            return "state_restored" in {event["type"] for event in events}

        await wait_until(is_restored, what="the copy to be back")
        await wait_until(lambda: _is_served(client), what="the last one of the day to be admitted")
        results = await asyncio.gather(*(ask(client, "day") for _ in range(3)), return_exceptions=True)

    assert sum(isinstance(result, RateLimitError) for result in results) == 3
    assert len(cluster.seen("day.alpha")) == _LIMIT
    assert (await cluster.settled_books())["totals"]["admitted"] == _LIMIT
    await wait_until(lambda: _has_finding(cluster, "persistence"), what="the new server to be examined")
    async with httpx.AsyncClient(verify=False, base_url=cluster.nodes[0].base_url) as web:
        assert {"code": "persistence", "severity": "warning"} in (await web.get("/ready")).json()["store"]
        assert 'modelmesh_store_findings{severity="warning"} ' in (await web.get("/metrics")).text


async def _is_served(client: AsyncOpenAI) -> bool:
    """False while nodes still say again what they know."""
    try:
        await ask(client, "day")
    except InternalServerError:
        return False
    return True


async def _has_finding(cluster: Cluster, code: str) -> bool:
    findings = (await cluster.ops("status"))["store"]["findings"]
    return code in {finding["code"] for finding in findings}


async def _is_copied(path: Path, books: Section) -> bool:
    """Whether the newest copy holds these books."""
    async with aclosing(SqliteSink(path)) as sink:
        await sink.open()
        stored = await sink.latest_copy(Keys("mm").domain("day-alpha"))
    if stored is None:
        return False
    copied = decode_copy(stored.blob).books
    return all(
        copied.get(f"day.alpha\tday\t{verb}", 0) == books["totals"][verb] for verb in ("admitted", "settled")
    )
