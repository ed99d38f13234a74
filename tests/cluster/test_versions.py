"""P8: the configuration of a running cluster is changed under load; these tests have a cluster of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.cluster.calls import Answer, Load, ask, listen
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, Section, mesh, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_KEYLESS: Section = {"api_key": None}
_POOLS = (
    pool("load", Member("alpha", provider=_KEYLESS)),
    pool("other", Member("beta", provider=_KEYLESS)),
    pool("long", Member("slow", provider=_KEYLESS)),
    pool("minute", Member("beta", limits={"rpm": 300}, provider=_KEYLESS)),
)


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes on one file without secrets; alpha takes its time, so that streams outlive a change."""
    mocks = {"alpha": {"token_delay": "10ms"}, "beta": {}, "slow": {"tokens": 250, "token_delay": "10ms"}}
    config = mesh(
        *_POOLS,
        server={"drain": "10s"},
        discovery={"sync": {"interval": "200ms", "on_new_model": "register"}},
        observability={"decisions": {"sample": 1.0}},
    )
    return start_cluster(config, mocks=mocks)


class Done(NamedTuple):
    """What a command has come to."""

    code: int
    out: str
    err: str


async def config(cluster: Cluster, *words: str) -> Done:
    """Runs ``modelmesh config`` against the cluster's nginx."""
    environ = {**os.environ, "MODELMESH_URL": cluster.base_url, "MODELMESH_ADMIN_TOKEN": ""}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelmesh", "config", *words),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def pushed(cluster: Cluster, tmp_path: Path, document: Section, *flags: str) -> Done:
    path = tmp_path / "mesh.json"
    path.write_text(json.dumps(document))
    return await config(cluster, "push", str(path), *flags)


async def given(cluster: Cluster, path: str, order: Section) -> int:
    """The same over the operators' API; returns once every node runs it."""
    number = int((await cluster.ops(path, order=order))["number"])

    async def everywhere() -> bool:
        return all(node["number"] == number for node in (await cluster.ops("config"))["nodes"])

    await wait_until(everywhere, what=f"version {number} on every node")
    return number


async def current(cluster: Cluster) -> int:
    return int((await cluster.ops("config"))["number"])


async def running(cluster: Cluster) -> set[tuple[int, str]]:
    """Number and digest that each node says to run, by its own ``/ready``."""
    found = set()
    for node in cluster.nodes:
        async with httpx.AsyncClient(verify=False, base_url=node.base_url) as http:
            ready: dict[str, Any] = (await http.get("/ready")).json()
        found.add((ready["config_number"], ready["config_version"]))
    return found


async def _scheduler_runs(cluster: Cluster, number: int) -> bool:
    return bool((await cluster.ops("config"))["scheduler"]["number"] == number)


async def test_a_change_under_load_fails_no_request_and_cuts_no_stream(cluster: Cluster, tmp_path: Path):
    """Traffic moves to another provider and back while it flows; every node says what it runs, and the books balance."""
    moved = deepcopy(cluster.document)
    moved["models"]["load.alpha"]["provider"] = "other-beta"
    async with cluster.client() as client, Load(client, "load", clients=8, pause_s=0.1) as load:
        await wait_until(lambda: load.answered > 30)
        change = await pushed(cluster, tmp_path, moved, "--comment", "to beta")
        after_change = await running(cluster)
        on_beta = await ask(client, "load")
        seen = load.answered
        await wait_until(lambda: load.answered > seen + 60)
        back = await config(cluster, "rollback", "1")
        after_rollback = await running(cluster)
        await wait_until(lambda: _scheduler_runs(cluster, 3), interval=0.05, what="the scheduler to follow")
        on_alpha = await ask(client, "load")
        seen = load.answered
        await wait_until(lambda: load.answered > seen + 30)

    assert [failure.error for failure in load.failures] == []
    assert load.streamed > 30
    assert (change.code, back.code) == (0, 0), (change, back)
    assert "version 2 runs on 3 nodes" in change.out
    assert [number for number, _ in after_change] == [2]
    assert [number for number, _ in after_rollback] == [3]
    assert on_beta.headers["x-modelmesh-provider"] == "other-beta"
    assert on_alpha.headers["x-modelmesh-provider"] == "load-alpha"
    history = json.loads((await config(cluster, "history", "--json")).out)
    assert [(v["number"], v["comment"]) for v in history["versions"]] == [
        (3, "rollback to version 1"),
        (2, "to beta"),
        (1, "what ran before the first push"),
    ]
    await cluster.settled_books()


async def test_a_stream_goes_to_its_end_in_what_it_began_in(cluster: Cluster):
    """Its model, its provider and its pool are gone by then; it is settled all the same."""
    before = await current(cluster) or await given(cluster, "config", {"document": cluster.document})
    without = deepcopy(cluster.document)
    del without["pools"]["long"], without["models"]["long.slow"], without["providers"]["long-slow"]
    async with cluster.client() as client:
        stream = asyncio.create_task(listen(client, "long"))
        await wait_until(lambda: cluster.mocks["slow"].counts()["in_flight"])
        await given(cluster, "config", {"document": without})
        was_running = not stream.done()
        told = await stream
        with pytest.raises(Exception, match="unknown model"):
            await ask(client, "long")
        await given(cluster, "config/rollback", {"number": before})
        again = await ask(client, "long", max_tokens=1)

    assert was_running
    assert (told.error, told.finish) == (None, "stop")
    assert again.model == "long.slow"
    await cluster.settled_books()


async def test_a_lowered_limit_is_obeyed_at_once(cluster: Cluster):
    """Also what nodes had paid in advance under the old one; raising it lets more through."""
    before = await current(cluster) or await given(cluster, "config", {"document": cluster.document})
    async with cluster.client() as client:
        first = await asyncio.gather(*(ask(client, "minute") for _ in range(40)), return_exceptions=True)
        await asyncio.sleep(1.1)  # leases are renewed each second: every node holds some by now
        lowered = deepcopy(cluster.document)
        lowered["models"]["minute.beta"]["limits"] = {"rpm": 50}
        await given(cluster, "config", {"document": lowered})
        second = await asyncio.gather(*(ask(client, "minute") for _ in range(60)), return_exceptions=True)
        at_upstream = len(cluster.seen("minute.beta"))
        await given(cluster, "config/rollback", {"number": before})
        third = await asyncio.gather(*(ask(client, "minute") for _ in range(60)), return_exceptions=True)

    assert sum(isinstance(one, Answer) for one in first) == 40
    assert sum(isinstance(one, Answer) for one in second) == 10
    assert at_upstream == 50
    assert sum(isinstance(one, Answer) for one in third) == 60
    await cluster.settled_books()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"pools": {"load": {"models": ["nobody"]}}}, "pools.load.models[0]: unknown model 'nobody'"),
        ({"providers": {"p": {"connector": "openai.llm.v1", "api_key": "sk-1234"}}}, "${secrets:NAME}"),
        (
            {"providers": {"p": {"connector": "openai.llm.v1", "api_key": "${secrets:NOWHERE}"}}},
            "the secret NOWHERE is missing",
        ),
    ],
)
async def test_a_refused_version_changes_nothing(
    cluster: Cluster, tmp_path: Path, change: Section, fault: str
):
    """The command says what is wrong, and ends with 1."""
    before = await current(cluster), await running(cluster)
    refused = await pushed(cluster, tmp_path, {**cluster.document, **change})

    assert refused.code == 1
    assert fault in refused.err
    assert "sk-1234" not in refused.err + refused.out
    assert (await current(cluster), await running(cluster)) == before


async def test_who_starts_later_runs_what_is_in_force(cluster: Cluster, tmp_path: Path):
    """Whatever its own file says; its own file says where it listens and how it drains."""
    changed = deepcopy(cluster.document)
    changed["proxy"] = {"max_body": "2MB", "port": 1}
    change = await pushed(cluster, tmp_path, changed)
    number = await current(cluster)
    await cluster.nodes[0].restart()
    shown = await config(cluster, "show")

    assert change.code == 0, change
    assert "left out" in change.out
    assert [n for n, _ in await running(cluster)] == [number]
    assert "max_body: 2MB" in shown.out
    assert "port" not in shown.out


async def test_a_decision_is_replayed_on_the_configuration_of_then(cluster: Cluster):
    """Though the pool has another model by now, and the one of then is gone."""
    async with cluster.client() as client:
        then = await ask(client, "other", extra_headers={"x-request-id": "of-then"})

        async def recorded() -> bool:
            async with httpx.AsyncClient(verify=False, base_url=cluster.nodes[1].base_url) as http:
                return (await http.get("/ops/requests/of-then")).status_code == 200

        await wait_until(recorded)
        before = await cluster.ops("requests/of-then")
        changed = deepcopy(cluster.document)
        changed["models"]["other.else"] = {**changed["models"].pop("other.beta"), "upstream": "else"}
        changed["pools"]["other"]["models"] = ["other.else"]
        await given(cluster, "config", {"document": changed})
        now = await ask(client, "other")
        again = await cluster.ops("requests/of-then/replay")

    assert (then.model, now.model) == ("other.beta", "other.else")
    assert (again["same"], again["replayed"], again["missing"]) == (True, "other.beta", [])
    assert again["config_version"] == again["recorded_version"] == before["config_version"]
    assert again["config_version"] not in {version for _, version in await running(cluster)}


async def test_a_new_model_is_registered_and_serves(cluster: Cluster):
    """The scheduler has it pushed like an operator; every node knows it, and the history says who it was."""
    mock = cluster.mocks["alpha"]
    mock.list_models({"id": "load.alpha"})
    for name in ("brand-new", "brand-new", "brand-newer"):  # a first list is no news
        await asyncio.sleep(0.5)
        mock.list_models({"id": "load.alpha"}, {"id": name, "context_window": 8192})

    async def registered() -> bool:
        return "load-alpha.brand-newer" in (await cluster.ops("config"))["document"]["models"]

    await wait_until(registered, interval=0.1)

    async def everywhere() -> bool:
        view = await cluster.ops("config")
        return all(node["number"] == view["number"] for node in view["nodes"])

    await wait_until(everywhere, interval=0.1)
    async with cluster.client() as client:
        answer = await ask(client, "load-alpha.brand-newer")
    history = json.loads((await config(cluster, "history", "--json")).out)

    assert answer.headers["x-modelmesh-provider"] == "load-alpha"
    assert history["versions"][0]["author"] == "scheduler"
    assert history["versions"][0]["comment"].startswith("listed by load-alpha")
