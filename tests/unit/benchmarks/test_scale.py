"""A growing fleet: its figures from invented samples, and a small fleet that is really measured."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from benchmarks.samples import Sample
from benchmarks.scale import ScaleOptions, config, limited_model
from benchmarks.scale_report import Burst, Rest, ScaleRun, costs, draw, page, sheets
from benchmarks.subjects import ROOT
from shared_state.config import MeshConfig
from tests.unit.benchmarks.samples import SETTING, sample

_SETTING = SETTING | {"nodes": [1, 2], "total_per_s": 100.0, "each_per_s": 50.0}
_EXACT = Burst(1, 1, limit=60, asked=240, admitted=60, refused=180, counted=60)


def _window(nodes: int, load: str, *, node_us: float, redis_us: float = 100.0, round_: int = 1) -> Sample:
    """A thousand requests of a fleet."""
    cpu_s = {"valkey": redis_us / 1000, "nodes": node_us / 1000, "nginx": 0.05}
    return replace(sample(f"fleet/{nodes}", load, round_=round_), cpu_s=cpu_s)


def _run(*samples: Sample, bursts: tuple[Burst, ...] = (_EXACT,)) -> ScaleRun:
    rests = [Rest(1, nodes, 2.0, 1.5, 1.0, 14.0) for nodes in (1, 2)]
    return ScaleRun(dict(_SETTING), list(samples), rests, list(bursts))


def test_cost_is_compared_with_a_fleet_of_one_in_the_same_round() -> None:
    """nginx is not ours and not in the ratio; a slow round is slow for all sizes."""
    run = _run(
        *(_window(1, "total", node_us=us, round_=n) for n, us in ((1, 400.0), (2, 900.0))),
        *(_window(2, "total", node_us=us, round_=n) for n, us in ((1, 500.0), (2, 1100.0))),
    )

    one, two = costs(run, "total")
    assert (one.node_us, one.redis_us, one.ratio) == pytest.approx((650.0, 100.0, 1.0))
    assert two.ratio == pytest.approx(1.2)
    assert two.scripts == pytest.approx(0.2)


def test_where_both_loads_are_the_same_one_measurement_serves_for_both() -> None:
    """Two nodes with fifty a second each are a hundred in all."""
    run = _run(
        _window(1, "total", node_us=400), _window(1, "each", node_us=600), _window(2, "total", node_us=500)
    )

    assert [cost.node_us for cost in costs(run, "each")] == pytest.approx([600.0, 500.0])
    assert ScaleOptions(total_per_s=100.0, each_per_s=50.0).loads(2) == {"total": 100.0}


@pytest.mark.parametrize(
    ("burst", "is_exact"),
    [
        (_EXACT, True),
        (replace(_EXACT, admitted=58, refused=182, counted=58), True),
        (replace(_EXACT, admitted=61, refused=179, counted=61), False),
        (replace(_EXACT, counted=61), False),
        (replace(_EXACT, refused=170), False),
    ],
    ids=["to the last one", "less", "one too many", "one more upstream", "somebody was not answered"],
)
def test_a_limit_is_judged_by_what_the_upstream_has_seen(burst: Burst, is_exact: bool) -> None:
    run = _run(_window(1, "total", node_us=400), bursts=(burst,))

    assert (burst.is_exact, run.is_sound) == (is_exact, is_exact)
    assert sheets(run)[-1].rows[0][-1] == ("yes" if is_exact else "NO")


def test_a_void_window_is_told_and_counts_for_nothing() -> None:
    bad = replace(_window(2, "total", node_us=1), faults=["status 502"])
    run = _run(_window(1, "total", node_us=400), bad)

    assert not run.is_sound
    assert [cost.nodes for cost in costs(run, "total")] == [1]
    assert "round 1, fleet/2: status 502" in page(run, source="s.json", drawn="s.svg")


def test_the_picture_has_a_bar_for_nodes_and_one_for_redis() -> None:
    assert draw(_run(_window(1, "total", node_us=400))).count("<rect") == 2


def test_every_size_of_the_fleet_has_a_limited_model_of_its_own() -> None:
    """What one size has used up must not be missing for the next."""
    document = MeshConfig.model_validate(config(9, (1, 2)))

    assert {limited_model(1), limited_model(2)} <= set(document.pools)


@pytest.mark.long
def test_a_small_fleet_is_measured(tmp_path: Path) -> None:
    """The command grows a fleet, tries its limits and leaves its files."""
    words = ["--nodes", "1", "2", "--total", "60", "--each", "30", "--seconds", "0.3", "--rest", "0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", *words, "--rounds", "1", "--results", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (source,) = tmp_path.glob("*-scale.json")
    document = orjson.loads(source.read_bytes())
    assert [(s["subject"], s["scenario"]) for s in document["samples"]] == [
        ("fleet/1", "total"),
        ("fleet/1", "each"),
        ("fleet/2", "total"),
    ]
    assert [burst["counted"] for burst in document["bursts"]] == [60, 60]
    assert "| 2 |" in (tmp_path / "scale.md").read_text()
