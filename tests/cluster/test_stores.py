"""P1, P2 and P4 on Sentinel and Redis Cluster: real nodes, a slot that moves, a primary that dies, judged from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import httpx
import pytest

from benchmarks.exactness_fleet import LEASE_S, Fleet, plan
from benchmarks.exactness_load import Load
from benchmarks.exactness_oracle import Balance, Finding, judge
from benchmarks.exactness_upstream import CountingUpstream
from tests.support.processes import ProcessFailedError, wait_until
from tests.support.valkey_fleet import ClusterFleet, SentinelFleet

pytestmark = pytest.mark.cluster

_NODES: Final = 2
_RATE: Final = 120
#: The account that three models share, and what its keys have in common.
_HOT: Final = "{shared-upstream}"
#: How long a primary may be missing: until the others agree that it is, and have chosen another.
_OUTAGE_S: Final = 5.0
#: Another server is another term: it admits when every node has asserted what it knows, or after two seconds.
_HOLD_S: Final = 2.5
_AWAY: Final = "503 state_unavailable"

Stores = SentinelFleet | ClusterFleet
Event = Callable[[Stores], Awaitable[None]]


@dataclass(frozen=True)
class Rules:
    """What must hold.

    Attributes:
        outage_s: how long after the event the store may be away, or hold admissions until all nodes have said what they know.
        lost_calls: by how many calls the books and the windows may be behind: a promoted replica lacks its primary's last moments.
    """

    outage_s: float
    lost_calls: int = 0


_NOTHING_IS_LOST: Final = Rules(_HOLD_S)
_TAIL_MAY_BE_LOST: Final = Rules(_OUTAGE_S + _HOLD_S, lost_calls=4)


async def move_hot_slot(stores: Stores) -> None:
    """As Valkey 9 moves slots: all at once."""
    assert isinstance(stores, ClusterFleet)
    await stores.move(_HOT)


async def move_hot_slot_there_and_back(stores: Stores) -> None:
    """Ten times, so that some batch is always under way."""
    for _ in range(10):
        await move_hot_slot(stores)


async def reshard_hot_slot(stores: Stores) -> None:
    """Key by key, as ``--cluster reshard`` does it."""
    assert isinstance(stores, ClusterFleet)
    for _ in range(5):
        await stores.move(_HOT, atomically=False)


async def kill_primary(stores: Stores) -> None:
    """That of the hot account."""
    server = await (stores.primary() if isinstance(stores, SentinelFleet) else stores.owner(_HOT))
    server.kill()


@pytest.fixture
def upstream() -> Iterator[CountingUpstream]:
    """Books what arrives, in a process of its own."""
    with CountingUpstream() as upstream:
        yield upstream


async def _examine(
    stores: Stores, upstream: CountingUpstream, event: Event, rules: Rules, *, seconds: float
) -> None:
    await stores.start()
    with closing(stores), Fleet(upstream, nodes=_NODES, store_url=stores.url) as fleet:
        asked = plan()
        load = Load(
            fleet.cluster.base_url, asked.asks, seed=1, requests=round(_RATE * seconds), seconds=seconds
        )
        loading = asyncio.create_task(load.run())
        await asyncio.sleep(seconds / 4)
        struck_at = asyncio.get_running_loop().time()
        await event(stores)
        over_at = asyncio.get_running_loop().time()
        await loading
        balance = await _balance(fleet, asked.models)
        arrivals, _ = await upstream.ledger()
        _check_service(load, struck_at, over_at + rules.outage_s)
        _check_books(balance, rules)
        _check_windows([judge(window, arrivals) for window in asked.windows], rules)


def _check_service(load: Load, struck_at: float, well_at: float) -> None:
    """Nobody is turned away for want of the store but during the outage, and everybody is answered."""
    away = [asked for asked, _, kind in load.log if kind == _AWAY]
    back_at = max(away, default=struck_at)
    well = [asked for asked, _, kind in load.log if kind == "200" and asked > back_at]

    assert [asked - struck_at for asked in away if not struck_at <= asked <= well_at] == []
    assert load.answers["broken"] == 0
    assert len(well) > 5, load.answers


def _check_books(balance: Balance, rules: Rules) -> None:
    assert (balance.double, balance.leaked) == (0, 0), balance
    assert balance.lost <= rules.lost_calls, balance


def _check_windows(findings: list[Finding], rules: Rules) -> None:
    assert [one for one in findings if one.over > _forgiven(one, rules)] == []


def _forgiven(finding: Finding, rules: Rules) -> float:
    """What the calls of a lost tail may amount to, in the window's own unit."""
    if not rules.lost_calls:
        return 0.0
    window = finding.window
    return rules.lost_calls if window.kind[0] in "rc" else 0.5 * window.limit


async def _balance(fleet: Fleet, models: frozenset[str]) -> Balance:
    """As soon as nothing is in flight; whatever is then, after one lease time."""

    async def settled() -> Balance | None:
        try:
            balance = await fleet.balance(models)
        except (httpx.HTTPError, OSError):
            return None  # the store is still away
        return None if balance.leaked else balance

    try:
        return await wait_until(settled, LEASE_S + 2, interval=0.2, what="nothing to be in flight")
    except ProcessFailedError:
        return await fleet.balance(models)


@pytest.mark.long
async def test_a_slot_moves_under_load(upstream: CountingUpstream):
    """Several accounts on three primaries; all limits hold, nothing is lost, only the account that moves is held for a moment."""
    await _examine(ClusterFleet(), upstream, move_hot_slot, _NOTHING_IS_LOST, seconds=5)


@pytest.mark.long
async def test_a_failover_under_load_is_an_outage_of_seconds(upstream: CountingUpstream):
    """Sentinel: the replica takes over, the nodes find it, the books balance."""
    await _examine(SentinelFleet(), upstream, kill_primary, _TAIL_MAY_BE_LOST, seconds=8)


@pytest.mark.topologies
async def test_slots_move_again_and_again_under_load(upstream: CountingUpstream):
    """Whatever is under way when the slot goes."""
    await _examine(ClusterFleet(), upstream, move_hot_slot_there_and_back, _NOTHING_IS_LOST, seconds=12)


@pytest.mark.topologies
async def test_slots_are_resharded_key_by_key_under_load(upstream: CountingUpstream):
    """As older servers do it."""
    await _examine(ClusterFleet(), upstream, reshard_hot_slot, _NOTHING_IS_LOST, seconds=8)


@pytest.mark.topologies
async def test_a_primary_of_a_cluster_dies_under_load(upstream: CountingUpstream):
    """Its replica takes over its accounts; the accounts of the others are served meanwhile."""
    await _examine(ClusterFleet(), upstream, kill_primary, _TAIL_MAY_BE_LOST, seconds=15)


@pytest.mark.topologies
async def test_a_failover_by_sentinels_amid_a_longer_load(upstream: CountingUpstream):
    """With time enough for every window to be full again."""
    await _examine(SentinelFleet(), upstream, kill_primary, _TAIL_MAY_BE_LOST, seconds=20)
