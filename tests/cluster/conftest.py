"""The cluster that most tests share, clusters of a test's own, and their logs when a test fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.cluster.cluster import Cluster
from tests.cluster.mesh import mesh

_MOCKS: dict[str, dict[str, Any]] = {"alpha": {}, "beta": {}, "doomed": {}, "quiet": {}}
_running: list[Cluster] = []


def _started(cluster: Cluster, stack: ExitStack) -> Cluster:
    stack.enter_context(closing(cluster))
    _running.append(cluster)
    stack.callback(_running.remove, cluster)
    return cluster.start()


@pytest.fixture(scope="package")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One cluster for all tests that kill no node: each test module declares its pools in ``POOLS``."""
    modules = {
        item.getparent(pytest.Module).obj for item in request.session.items if "cluster" in item.keywords
    }
    pools = [pool for module in modules for pool in getattr(module, "POOLS", ())]
    config = mesh(*pools, proxy={"max_body": "1MB"})
    with ExitStack() as stack:
        yield _started(Cluster(config, mocks=_MOCKS, schedulers=2), stack)


@pytest.fixture(scope="module")
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start clusters of a module's own: ``start_cluster(mesh(...), mocks=..., nodes=2)``."""
    with ExitStack() as stack:

        def start(*args: Any, **options: Any) -> Cluster:
            return _started(Cluster(*args, **options), stack)

        yield start


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[AsyncOpenAI]:
    """The official client on the shared cluster's nginx; whatever a test does with it, the books balance afterwards."""
    async with cluster.client() as client:
        yield client
    await cluster.settled_books()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure shows the last lines of every process."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {name}", tail) for cluster in _running for name, tail in cluster.logs()]
    return report
