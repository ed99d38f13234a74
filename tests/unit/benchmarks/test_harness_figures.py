"""From samples to figures, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from benchmarks.figures import Figures, summarise
from benchmarks.plot import draw
from benchmarks.results import file_name, page, write_json
from benchmarks.samples import quantiles
from benchmarks.scenarios import BODY_BYTES, SCENARIOS
from benchmarks.tables import sheets
from tests.unit.benchmarks.samples import SETTING, run, sample


def _by_subject(*samples: object) -> dict[str, Figures]:
    return {one.subject: one for one in summarise(run(list(samples)))}  # type: ignore[arg-type]


def test_figures_are_medians_over_the_rounds() -> None:
    """One slow round does not move a figure."""
    found = _by_subject(
        *(
            sample("node/fast", "unary32", round_=n, cpu_us=us)
            for n, us in ((1, 90.0), (2, 900.0), (3, 100.0))
        )
    )

    load = found["node/fast"].loads["unary32"]
    assert load.cpu_us == pytest.approx(100.0)
    assert load.parts_us == pytest.approx({"node": 75.0, "valkey": 25.0})
    assert load.scripts == pytest.approx(0.2)
    assert load.redis_cpu_us == pytest.approx(10.0)


def test_a_chunk_costs_what_a_long_stream_costs_beyond_a_short_one() -> None:
    """The stream of one chunk of the same round is taken off, and 99 chunks share the rest."""
    found = _by_subject(
        sample("node/fast", "heads", round_=1, cpu_us=300.0),
        sample("node/fast", "burst", round_=1, cpu_us=300.0 + 99 * 8),
        sample("node/fast", "heads", round_=2, cpu_us=3000.0),
        sample("node/fast", "burst", round_=2, cpu_us=3000.0 + 99 * 8),
    )

    assert found["node/fast"].loads["burst"].chunk_us == pytest.approx(8.0)
    assert found["node/fast"].loads["heads"].chunk_us is None


def test_latency_is_compared_within_the_round() -> None:
    """A slow round of the machine is slow with and without the subject."""
    found = _by_subject(
        *(sample("direct", "unary1", round_=n, p50_ms=ms) for n, ms in ((1, 0.1), (2, 5.0))),
        *(sample("nginx", "unary1", round_=n, p50_ms=ms) for n, ms in ((1, 0.3), (2, 5.2))),
    )

    load = found["nginx"].loads["unary1"]
    assert load.added_p50_ms == pytest.approx(0.2)
    assert load.added_p99_ms == pytest.approx(0.4)
    assert found["direct"].loads["unary1"].added_p50_ms is None


def test_void_windows_count_for_nothing_but_are_told() -> None:
    """A window with a bad answer is in no figure."""
    found = _by_subject(
        sample("nginx", "unary32", round_=1, cpu_us=20.0),
        sample("nginx", "unary32", round_=2, cpu_us=1.0, faults=("status 502",)),
        sample("node/fast", "unary32", round_=1, faults=("status 500",)),
    )

    assert found["nginx"].loads["unary32"].cpu_us == pytest.approx(20.0)
    assert found["nginx"].voids == 1
    assert found["node/fast"].loads == {}


def test_a_load_that_always_fails_is_printed_as_such() -> None:
    """It must not pass for one that was not measured."""
    failed = sample("portkey", "burst", faults=("status 500",))
    figures = summarise(run([sample("nginx", "burst"), sample("nginx", "unary32"), failed]))

    cost = sheets(figures)[1]
    assert cost.header == ["subject", "unary32", "burst"]
    assert cost.rows[1] == ["portkey", "-", "void"]


def test_quantiles_are_values_that_were_measured() -> None:
    """Nearest rank, in milliseconds."""
    found = quantiles([0.001 * n for n in range(1, 102)])

    assert (found.p50_ms, found.p99_ms) == pytest.approx((51.0, 100.0))


def test_tables_compare_with_the_floor_and_leave_out_what_was_not_measured() -> None:
    """The ratio is to nginx in the same run; a scenario that did not run has no column."""
    figures = summarise(
        run([sample("nginx", "unary32", cpu_us=20.0), sample("node/fast", "unary32", cpu_us=90.0)])
    )

    summary, cost = sheets(figures)[:2]
    by_name = [dict(zip(summary.header, row, strict=True)) for row in summary.rows]
    assert [row["x nginx"] for row in by_name] == ["1.0", "4.5"]
    assert cost.header == ["subject", "unary32"]
    assert cost.rows[1] == ["node/fast", "90 (68 + 22)"]


def test_result_files_hold_every_sample_and_the_tables(tmp_path: Path) -> None:
    """The JSON is whole, the page names its source, the picture is well-formed."""
    found = run(
        [sample(subject, name) for subject in ("nginx", "node/fast") for name in SETTING["scenarios"]]
    )
    figures = summarise(found)
    write_json(found, tmp_path / "new" / "run.json")

    document = orjson.loads((tmp_path / "new" / "run.json").read_bytes())
    assert len(found.samples) == len(document["samples"])
    assert document["setting"]["commit"] == "abc"
    text = page(found, figures, source="run.json", picture="latest.svg")
    assert "[run.json](run.json)" in text
    assert "| node/fast |" in text
    assert "used 25% of the cores" in text
    bars = ElementTree.fromstring(draw(figures)).findall(".//{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + 2 + 1 + 1  # requests: nginx, node and its Valkey; chunks: one each


def test_the_file_is_named_for_the_day_and_what_was_measured() -> None:
    """A part of the scenarios does not pass for the whole."""
    assert file_name(SETTING) == "2026-01-02-unary1+unary32+heads+burst.json"
    assert file_name(SETTING | {"scenarios": list(SCENARIOS)}) == "2026-01-02-all.json"


def test_every_body_has_the_stated_size() -> None:
    """Subjects and scenarios differ, bodies do not."""
    assert {BODY_BYTES} == {len(scenario.body()) for scenario in SCENARIOS.values()}
