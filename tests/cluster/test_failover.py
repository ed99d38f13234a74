"""P5: the first request after a provider falls ill is answered by another; nothing is repeated after the first content."""

from __future__ import annotations

import asyncio

import pytest
from openai import APIError, AsyncOpenAI

from tests.cluster.calls import Load, ask, listen
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_IMPATIENT = Member("alpha", provider={"timeouts": {"first_token": "300ms", "total": "300ms"}})
_ILLS = ("500", "reset=0", "stall-after=0", "garbage", "empty", "html502", "error-first", "error-after=3")
_BREAKS = ("error-after=3", "no-done", "no-finish", "truncate=900", "reset=1200")
_PACE = ",slow-token=10ms"  # without it the content would come together with what is wrong, and could be held back


def _name(ill: str, way: str) -> str:
    return f"ill-{way}-{ill.replace('=', '-')}"


POOLS = [
    pool("mortal", "doomed", "beta"),
    *(pool(_name(ill, way), _IMPATIENT, "beta") for ill in _ILLS for way in ("ask", "listen")),
    *(pool(_name(ill, "break"), "alpha", "beta") for ill in _BREAKS),
    pool("hasty", Member("alpha", provider={"timeouts": {"idle": "300ms"}}), "beta"),
]


async def test_a_provider_that_dies_under_load_fails_no_request(cluster: Cluster, client: AsyncOpenAI):
    """Calls in flight and calls to come are answered by the other provider, streamed or not."""
    async with Load(client, "mortal") as load:
        await wait_until(lambda: load.answered > 40)
        cluster.mocks["doomed"].process.kill()
        before = load.answered
        await wait_until(lambda: load.answered > before + 80)

    assert [failure.error for failure in load.failures] == []
    assert 0 < load.streamed < load.answered


@pytest.mark.parametrize("ill", _ILLS)
@pytest.mark.parametrize("call", [ask, listen])
async def test_the_first_request_to_an_ill_provider_is_answered_by_another(
    cluster: Cluster, client: AsyncOpenAI, call, ill
):
    """Whatever goes wrong before the first content, the caller sees one good answer."""
    name = _name(ill, call.__name__)
    cluster.order(f"{name}.alpha", ill)
    answer = await call(client, name)
    row = await cluster.model(f"{name}.alpha")

    assert answer.text.startswith("beta: hello")
    assert answer.model == f"{name}.beta"
    assert answer.headers["x-modelmesh-attempts"] == "2"
    assert row["fails"] == 1
    assert len(cluster.seen(f"{name}.alpha")) == len(cluster.seen(f"{name}.beta")) == 1


@pytest.mark.parametrize("ill", _BREAKS)
async def test_a_stream_that_breaks_after_content_ends_with_an_error(
    cluster: Cluster, client: AsyncOpenAI, ill
):
    """What was said is said once; then the caller is told, and nobody else is asked."""
    name = _name(ill, "break")
    cluster.order(f"{name}.alpha", ill + _PACE)
    told = await listen(client, name)

    assert isinstance(told.error, APIError)
    assert told.text.startswith("alpha: hello")
    assert told.text.count("hello") == 1
    assert cluster.seen(f"{name}.beta") == []
    assert (await cluster.model(f"{name}.alpha"))["fails"] == 1


async def test_a_stream_that_falls_silent_is_ended(cluster: Cluster, client: AsyncOpenAI):
    """A provider that stops in the middle is given up after its idle time, with an error event."""
    cluster.order("hasty.alpha", "stall-after=3" + _PACE)
    async with asyncio.timeout(3):
        told = await listen(client, "hasty")

    assert isinstance(told.error, APIError)
    assert told.text.startswith("alpha: hello")
    assert cluster.seen("hasty.alpha")[0]["client_gone"]
