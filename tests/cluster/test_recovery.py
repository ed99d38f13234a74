"""P6: one trial in the whole cluster tests a model that failed; each failed trial doubles the wait; success ramps it up."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest
from openai import AsyncOpenAI

from tests.cluster.calls import Load, ask
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_TRIAL_S = 0.2  # long enough for the other nodes to want a trial as well
_RECOVERY = {"cooldown": "500ms", "max_cooldown": "4s", "ramp": [0.2, 1.0]}
POOLS = [
    pool(
        "patient",
        "alpha",
        "beta",
        strategy="round-robin",
        deactivation={"retry_limit": 1},
        recovery=_RECOVERY,
    )
]


async def test_a_model_comes_back_by_single_trials_and_a_ramp(cluster: Cluster, client: AsyncOpenAI):
    """Three nodes under load send a failing model one request per cooldown, 0.5, 1 and 2 s apart; then it climbs."""
    model = "patient.alpha"
    cluster.order(model, f"500,slow-head={_TRIAL_S}s")
    await ask(client, "patient")
    await ask(client, "patient")
    async with Load(client, "patient", clients=12, pause_s=0.005) as load:
        await wait_until(lambda: len(cluster.seen(model)) == 3, interval=0.05)
        cluster.order(model, "ok")
        await wait_until(lambda: _has_climbed(cluster, model), interval=0.05, what="the end of the ramp")
    after = await asyncio.gather(*(ask(client, "patient") for _ in range(20)))
    began, ended = await _ramp(cluster, model)
    on_ramp = Counter(
        entry["model"]
        for name in (model, "patient.beta")
        for entry in cluster.seen(name)
        if began < entry["t_arrival"] < ended
    )
    seen = cluster.seen(model)
    gaps = [later["t_arrival"] - earlier["t_arrival"] for earlier, later in pairwise(seen[:4])]

    assert [entry["status"] for entry in seen[:4]] == [500, 500, 500, 200]
    for gap_s, cooldown_s in zip(gaps, (0.5, 1.0, 2.0), strict=True):
        assert cooldown_s <= gap_s - _TRIAL_S < cooldown_s + 2
    assert load.failures == []
    assert 0 < on_ramp[model] < 0.3 * on_ramp.total()
    assert 8 <= sum(answer.model == model for answer in after) <= 12


async def _has_climbed(cluster: Cluster, model: str) -> bool:
    events = (await cluster.ops("status"))["events"]
    return any((event["model"], event["type"]) == (model, "model_ramp") for event in events)


async def _ramp(cluster: Cluster, model: str) -> tuple[float, float]:
    """When the model became active again, and when its share was no longer bounded."""
    events = [event for event in (await cluster.ops("status"))["events"] if event["model"] == model]
    began, ended = (
        next(event["time"] for event in events if event["type"] == name)
        for name in ("model_activated", "model_ramp")
    )
    return began, ended
