"""A short run of the outside test; `make exactness` is the long one."""

from __future__ import annotations

import pytest

from benchmarks.exactness import examine

pytestmark = pytest.mark.cluster


async def test_no_window_is_exceeded_and_no_call_is_lost_when_a_node_is_killed():
    """Every window is full, a node dies under load, and what the upstream counted is within limits and in the books."""
    report = await examine("node-kill", 1, nodes=2, requests=1500)

    assert report.calls > 100
    assert report.is_exact, report.document()
