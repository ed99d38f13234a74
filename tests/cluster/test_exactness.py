"""P1 and P2 from outside: a counting upstream, a load decided by its seed, one fault after the other; `make exactness` is the long run.

One fleet for all tests; each has windows of its own, so that none finds them full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.exactness import examine
from benchmarks.exactness_faults import ALONE, SHORT
from benchmarks.exactness_fleet import Fleet
from benchmarks.exactness_upstream import CountingUpstream

pytestmark = pytest.mark.cluster

_NODES = 3
#: Seconds of load: as long as the fault lasts, and a while to see what it left.
_SECONDS: dict[str, float] = {
    "none": 3.0,
    "node-kill": 4.0,
    "node-freeze": 9.0,
    "scheduler-kill": 4.0,
    "redis-restart": 3.0,
    "redis-loss": 4.0,
    "redis-freeze": 5.0,
    "pubsub-cut": 3.0,
    "script-flush": 3.0,
    "scale": 6.0,
    "all": 10.0,
}
#: Those that take long by their nature are left to `make cluster`; the last one has a bit of all of them.
_LONG = {"node-freeze", "redis-loss", "redis-freeze", "scale", "all"}
#: Where somebody is taken for dead others clean up.
_CLEANED_UP = {"node-kill", "node-freeze", "all"}
#: Calls that a node had admitted while the store was away, and died, are booked only when its allowance ends, in a minute.
_UNBOOKED_YET = {"all": 8}


@pytest.fixture(scope="module")
def upstream() -> Iterator[CountingUpstream]:
    """Books what arrives, in a process of its own."""
    with CountingUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def fleet(upstream: CountingUpstream) -> Iterator[Fleet]:
    """The nodes of all tests."""
    with Fleet(upstream, nodes=_NODES, prefixes=[f"{name}-" for name in _SECONDS]) as fleet:
        yield fleet


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in _LONG else []) for name in _SECONDS]
)
async def test_no_window_is_exceeded_and_the_books_balance(
    fleet: Fleet, upstream: CountingUpstream, name: str
):
    """Under load and amid the fault; what the upstream counted is within all limits and in the books, and nothing stays held."""
    seconds = _SECONDS[name]
    faults: dict[str, Any] = (
        {} if name == "none" else SHORT if name == "all" else {name: (SHORT | ALONE)[name]}
    )

    report = await examine(
        fleet,
        upstream,
        faults,
        prefix=f"{name}-",
        seed=1,
        requests=round(200 * seconds),
        seconds=seconds,
        awaits_allowances=False,
    )
    balance = report.balance

    assert not any(finding.over for finding in report.findings), report.faults()
    assert balance and (balance.double, balance.leaked) == (0, 0), report.faults()
    assert balance.lost <= _UNBOOKED_YET.get(name, 0), report.faults()
    assert name in _CLEANED_UP or not balance.abandoned, report.faults()
    assert report.calls > 0.15 * sum(report.answers.values()), report.answers
