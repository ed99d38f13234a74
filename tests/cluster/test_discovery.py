"""Discovery in a whole cluster: the scheduler asks the nodes, the nodes ask the providers, operators see what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.cluster.calls import ask
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import mesh, pool
from tests.support.processes import PATIENCE_S, ProcessFailedError, wait_until

pytestmark = pytest.mark.cluster

_TOLD_BY = "scheduler"


@pytest.fixture(scope="module")
def watched(start_cluster: Callable[..., Cluster]) -> Cluster:
    """Two providers whose lists are read and which are judged ten times a second."""
    discovery = {
        "sync": {"interval": "100ms", "on_deprecated_model": "deactivate"},
        "health": {"interval": "100ms", "failure_threshold": 3},
    }
    return start_cluster(
        mesh(pool("chat", "alpha", "beta"), discovery=discovery), mocks={"alpha": {}, "beta": {}}, nodes=1
    )


@pytest.fixture
async def lists(watched: Cluster) -> AsyncIterator[None]:
    """Both providers list their models, and have been read once."""
    for name, mock in watched.mocks.items():
        mock.list_models({"id": f"chat.{name}", "context_window": 8192})

    async def known() -> bool:
        return (await watched.provider("chat-alpha"))["health"] == "healthy"

    await wait_until(known, interval=0.05, what="alpha to be healthy")
    await _settled_list(watched)
    yield


async def _settled_list(cluster: Cluster) -> None:
    """Waits until the list of now is the one that is compared with: a first list is no news, so a model is new in the second at the latest."""
    for number in range(1, 11):
        marker = f"marker-{number}-{os.urandom(4).hex()}"
        cluster.mocks["alpha"].list_models({"id": "chat.alpha", "context_window": 8192}, {"id": marker})
        try:
            await _known(cluster, "model_discovered", f"chat-alpha/{marker}", within_s=2)
        except ProcessFailedError:
            continue
        return
    raise ProcessFailedError("no list is compared with the one before it")


async def _known(cluster: Cluster, kind: str, model: str, *, within_s: float = PATIENCE_S) -> None:
    """An event about a model has been told."""

    async def is_known() -> bool:
        events = (await cluster.ops("status"))["events"]
        return any((event["type"], event["model"]) == (kind, model) for event in events)

    await wait_until(is_known, within_s, interval=0.05, what=f"{kind} of {model}")


async def _told(cluster: Cluster, kind: str, model: str) -> dict[str, Any]:
    """An event about a model, as the command shows it."""
    await _known(cluster, kind, model)
    events = await asyncio.to_thread(_events, cluster)
    return next(e for e in reversed(events) if (e["type"], e["model"]) == (kind, model))


def _events(cluster: Cluster) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "modelmesh", "events", "--json"]
    address = {"MODELMESH_URL": cluster.nodes[0].base_url, "MODELMESH_ADMIN_TOKEN": ""}
    done = subprocess.run(command, env={**os.environ, **address}, capture_output=True, check=True, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


async def test_operators_hear_of_changes_and_a_retired_model_rests(watched: Cluster, lists: None) -> None:
    """New, changed and gone are events; what is gone takes no traffic until it is listed again."""
    alpha = watched.mocks["alpha"]
    alpha.list_models({"id": "chat.alpha", "context_window": 16384}, {"id": "brand-new"})
    new = await _told(watched, "model_discovered", "chat-alpha/brand-new")
    changed = await _told(watched, "model_changed", "chat.alpha")
    alpha.list_models({"id": "brand-new"})
    gone = await watched.await_model("chat.alpha", status="standby")
    async with watched.client() as client:
        answer = await ask(client, "chat")
    told = await _told(watched, "model_deprecated", "chat.alpha")
    alpha.list_models({"id": "chat.alpha"})
    await watched.await_model("chat.alpha", status="active")

    assert (new["node"], changed["reason"]) == (_TOLD_BY, "context_window 8192 -> 16384")
    assert (gone["reason"], told["reason"]) == ("retired by its provider", "no longer listed")
    assert answer.model == "chat.beta"


async def test_a_provider_that_fails_its_probes_rests_and_comes_back(watched: Cluster, lists: None) -> None:
    """Without any traffic; operators are told both times."""
    beta = watched.mocks["beta"]
    beta.behave("503", path="/v1/models")

    async def state(status: str) -> dict[str, Any] | None:
        row = await watched.provider("chat-beta")
        return row if row["status"] == status else None

    out = await wait_until(lambda: state("standby"), interval=0.05, what="beta to be put out")
    beta.clear()
    back = await wait_until(lambda: state("active"), interval=0.05, what="beta to come back")

    told = [e["type"] for e in await asyncio.to_thread(_events, watched) if e["provider"] == "chat-beta"]

    assert [kind for kind in told if kind != "provider_health_changed"] == [
        "provider_deactivated",
        "provider_activated",
    ]
    assert "provider_health_changed" in told
    assert (out["reason"], out["health"]) == ("outage", "unavailable")
    assert 0 <= out["availability"] < 0.5
    assert out["probed"] is not None
    assert back["availability"] > out["availability"]


async def test_the_standard_way_finds_what_a_list_does_not_show(
    start_cluster: Callable[..., Cluster],
) -> None:
    """The list of models is fine, every answer is an error; the probes are in the books like all requests."""
    health = {"interval": "100ms", "failure_threshold": 3, "method": "standard"}
    cluster = start_cluster(
        mesh(pool("chat", "alpha"), discovery={"health": health, "sync": {"enabled": False}}),
        mocks={"alpha": {}},
        nodes=1,
    )

    async def healthy() -> bool:
        row = await cluster.provider("chat-alpha")
        return (row["status"], row["health"]) == ("active", "healthy") and row["probed"] is not None

    await wait_until(healthy, interval=0.05, what="a probe to go well")
    cluster.order("chat.alpha", "500")
    out = await cluster.await_provider("chat-alpha", status="standby")
    cluster.order("chat.alpha", "ok")
    await wait_until(healthy, interval=0.05, what="probes to bring it back")

    assert (out["reason"], out["health"]) == ("outage", "unavailable")
    assert (await cluster.books_of("chat"))["admitted"] >= len(cluster.seen("chat.alpha")) - 1 > 3
