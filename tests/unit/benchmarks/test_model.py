"""The model of a fleet: simulation and formulae against arithmetic, and against each other."""

from __future__ import annotations

import math
from dataclasses import asdict, astuple, replace
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from benchmarks.curves import draw_curves
from benchmarks.formulae import Shard, capacity
from benchmarks.lines import Exchange, Line, fit, fit_exchange
from benchmarks.meters import RedisReading
from benchmarks.model import Costs, Fleet, Times, simulate
from benchmarks.model_checks import compare, validate
from benchmarks.model_report import PAGE, main
from benchmarks.model_tables import news_us, sheets
from benchmarks.scale_report import Burst, Rest, ScaleRun
from benchmarks.service_times import measure
from node.batch import SLOTTED_COMPANY_S
from tests.unit.benchmarks.samples import SETTING, sample

_SERVER = {
    "beat": Line(30, 0),
    "pulses": Line(10, 1),
    "renew": Line(200, 0),
    "share_retries": Line(70, 0),
    "read_domain": Line(50, 0),
    "publish": Line(40, 2),
}
_EXCHANGE = Exchange(call_us=60, asking_us=20, settling_us=40, ask_us=3, settlement_us=5)
_TIMES = Times(_SERVER, _EXCHANGE, Exchange(80, 10, 10, 1, 1))
_COSTS = Costs(_TIMES, _TIMES, _TIMES)


def test_a_line_goes_through_its_points() -> None:
    line = fit([(1, 110.0), (4, 140.0), (256, 2660.0)])

    assert (line.fixed_us, line.each_us) == pytest.approx((100.0, 10.0))
    assert fit([(1, 42.0)]).at(7) == pytest.approx(42.0)


def test_an_exchange_is_told_apart_into_its_parts() -> None:
    """What a call costs, what asks and settlements add once, and each of them."""
    shapes = [(1, 0), (64, 0), (0, 1), (0, 64), (1, 1), (16, 4), (4, 16)]
    found = fit_exchange([(*shape, _EXCHANGE.at(*shape)) for shape in shapes])

    assert astuple(found) == pytest.approx(astuple(_EXCHANGE))
    assert [found.fixed_us(*has) for has in ((1, 0), (0, 1), (1, 1))] == pytest.approx([80, 100, 120])


def test_a_lonely_request_travels_alone() -> None:
    """One call to ask and one to settle: what Redis and the node work is the sum of both."""
    told = simulate(Fleet(1, 1, 2.0, node_us=300.0), _COSTS, requests=2000)

    background_us = (30 + 11 + 200 + 70) / 2.0
    assert told.calls == pytest.approx(2.0, rel=0.02)
    assert told.redis_us == pytest.approx(83 + 105 + background_us, rel=0.05)
    assert told.node_us == pytest.approx(300 + 91 + 91, rel=0.02)
    assert told.wait_ms == pytest.approx(0.083 + 0.091 + 0.2, rel=0.05)


def test_a_settlement_travels_with_an_ask_that_comes_in_time() -> None:
    """While requests come one by one every other ask finds somebody to take along; those that would wait longer go alone."""
    times = replace(_TIMES, server_exchange=Exchange(1, 0, 0, 0, 0))
    cost = Costs(times, times, times, round_trip_s=0.0)
    often, seldom = (
        simulate(Fleet(1, 1, rate, 10.0, upstream_s=0.05), cost, requests=6000).calls
        for rate in (3000.0, 750.0)
    )

    late = math.exp(-750 * SLOTTED_COMPANY_S)
    assert often == pytest.approx(1.0, abs=0.06)
    assert seldom == pytest.approx(1 + late / (2 - late), rel=0.04)


def test_requests_in_turn_find_less_company_than_at_random() -> None:
    """Each node of many gets them at even distances, longer than a settlement waits."""
    fleet = Fleet(4, 1, 250.0)
    random, in_turn = (
        simulate(one, _COSTS, requests=3000).calls for one in (fleet, replace(fleet, in_turn=True))
    )

    assert in_turn > 1.9
    assert random < in_turn - 0.1


def test_a_process_that_slept_works_longer() -> None:
    """What is between the modes that were measured is between their times."""
    slow, cold = (replace(_TIMES, server=dict.fromkeys(_SERVER, Line(us, 0))) for us in (100, 300))
    costs = Costs(_TIMES, slow, cold, rare_s=0.05)
    found = [
        costs.after(idle, lambda times: times.server["beat"].at(1)) for idle in (0, 1e-5, 0.005, 0.05, 9)
    ]

    assert found == pytest.approx([30, 100, 200, 300, 300])


def test_batches_grow_with_the_load_of_a_node() -> None:
    quiet = simulate(Fleet(1, 1, 200.0), _COSTS, requests=2000)
    busy = simulate(Fleet(1, 1, 1800.0), _COSTS, requests=4000)

    assert busy.calls < 0.8 * quiet.calls
    assert busy.redis_us < 0.8 * quiet.redis_us


def test_the_same_load_on_more_nodes_travels_in_smaller_batches() -> None:
    """What a request costs Redis grows until every call travels alone."""
    calls = [simulate(Fleet(nodes, 1, 1500.0), _COSTS, requests=3000).calls for nodes in (1, 8, 300)]

    assert calls == sorted(calls)
    assert calls[-1] > 1.9


@pytest.mark.parametrize(("nodes", "domains", "part"), [(4, 1, 0.5), (32, 1, 0.8), (100, 4, 0.7)])
def test_formulae_and_simulation_agree(nodes: int, domains: int, part: float) -> None:
    shard = Shard(_COSTS, nodes, domains)
    per_s = part * min(shard.capacity(0.025), nodes * 1500.0)
    told = simulate(Fleet(nodes, domains, per_s, upstream_s=0.02), _COSTS, requests=5000)

    background_us = sum(shard.background().values()) / per_s * 1e6
    calls = shard.calls(per_s, shard.cycle_s(per_s))
    assert told.calls == pytest.approx(calls.all, rel=0.15)
    assert told.redis_us == pytest.approx(shard.redis_us(calls) + background_us, rel=0.1)


def test_a_core_is_full_where_calls_take_too_long() -> None:
    """At its capacity a call is just so long under way; beyond what the core can work it is for ever."""
    shard = Shard(_COSTS, 64, 1)

    assert shard.cycle_s(shard.capacity(0.025)) == pytest.approx(0.025, rel=0.01)
    assert shard.cycle_s(0.9 * shard.knee()) < 0.025
    assert shard.cycle_s(1e6 / 7) == float("inf")


def test_capacity_falls_with_nodes_and_comes_back_with_shards() -> None:
    def of(nodes: int, shards: int) -> float:
        return capacity(_COSTS, nodes=nodes, domains=64, shards=shards, within_s=0.025, renew_s=1.0)

    assert of(1, 1) > of(8, 1) > of(32, 1)
    assert of(8, 64) > of(8, 16) > of(8, 1)
    assert of(8, 128) == of(8, 64)  # a domain lives on one shard


def test_the_background_grows_with_nodes_and_domains() -> None:
    shard = Shard(_COSTS, 1000, 16, renew_s=10.0)

    assert shard.background() == pytest.approx(
        {"heartbeats": 0.03, "polls": 0.026, "renewals": 0.32, "retry budgets": 0.07}
    )
    assert replace(shard, is_home=False).background()["heartbeats"] == 0
    assert news_us(_COSTS, 1000) == (2040, 50_000)


def test_what_others_do_on_its_core_keeps_redis_awake_and_is_not_its_own() -> None:
    cold = replace(_TIMES, server_exchange=replace(_EXCHANGE, call_us=600))
    costs = Costs(_TIMES, _TIMES, cold, rare_s=0.01)
    alone, beside = (
        simulate(Fleet(1, 1, 100.0, beside_us=us, upstream_s=0.0), costs, requests=2000).redis_us
        for us in (0, 1)
    )

    assert beside < 0.8 * alone


def _scale(*samples: tuple[int, str, int, float, float]) -> ScaleRun:
    """A fleet that was measured: nodes, load, requests a second, CPU of nodes and Redis per request."""
    windows = [
        replace(
            sample(f"fleet/{nodes}", load),
            requests=per_s,
            redis=RedisReading(round((2 + nodes * 3 / per_s) * per_s), 0, 0, 0.0),
            cpu_s={
                part: us * per_s / 1e6
                for part, us in (("nodes", node_us), ("valkey", redis_us), ("nginx", 60))
            },
        )
        for nodes, load, per_s, node_us, redis_us in samples
    ]
    rests = [Rest(1, nodes, 2.0, 1.5, 1.0, 14.0) for nodes, *_ in samples]
    bursts = [Burst(1, nodes, 60, 240, 60, 180, 60) for nodes, *_ in samples]
    return ScaleRun(SETTING | {"total_per_s": 4.0, "each_per_s": 2.0}, windows, rests, bursts)


def test_a_fleet_of_one_teaches_the_rest_is_foretold() -> None:
    """A node's own work is learnt at both loads; how many calls there are and what Redis works is not."""
    checks = validate(
        _COSTS,
        _scale((1, "total", 4, 700, 266), (1, "each", 2, 900, 343), (2, "total", 8, 700, 266)),
        requests=2000,
    )

    found = {(check.nodes, check.load, check.figure): check.error for check in checks}
    assert all(abs(error) < 0.06 for error in found.values()), found
    assert found[1, "each", "node_us"] == pytest.approx(0, abs=0.02)


def test_tables_reach_a_thousand_nodes() -> None:
    tables = sheets(_COSTS, [], compare(_COSTS, requests=200))

    assert [table.rows[-1][0] for table in tables if table.rows] == ["1000", *["1,000"] * 4]


def test_a_picture_has_a_line_for_each_curve() -> None:
    drawn = draw_curves("a < b", "nodes", {"one": [(1, 10), (1000, 5)], "two": [(1, 20), (10, 0.0)]})

    paths = ElementTree.fromstring(drawn).findall(".//{http://www.w3.org/2000/svg}path[@stroke-width]")
    assert len(paths) == 2


async def test_service_times_feed_the_model(tmp_path: Path) -> None:
    """Every call that the model needs is measured, on a real server; entries cost something."""
    document = await measure(0.005, 1)
    costs = Costs.read(document)

    assert set(_SERVER) <= set(costs.busy.server)
    assert set(_SERVER) - {"publish"} <= set(costs.alone.server) & set(costs.rare.server)
    assert min(costs.busy.server_exchange.at(1, 0), costs.rare.server_exchange.at(0, 1)) > 0
    assert costs.busy.server_exchange.at(64, 64) > costs.busy.server_exchange.at(1, 1)
    day = document["setting"]["at"][:10]
    (tmp_path / f"{day}-service-times.json").write_bytes(orjson.dumps(document))
    run = _scale((1, "total", 4, 900, 500), (1, "each", 2, 900, 500), (2, "total", 4, 900, 500))
    (tmp_path / f"{day}-scale.json").write_bytes(orjson.dumps(asdict(run)))
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    assert main(["--results", str(tmp_path), "--requests", "200", "--page", str(page)]) == 0
    assert "1,000" in (tmp_path / "model.md").read_text()
    assert "4 requests/s in all" in page.read_text()
