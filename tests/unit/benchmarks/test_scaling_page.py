"""The figures of docs/scaling.md: what the committed results give, block by block."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.model_report import PAGE, RESULTS, newest, page, read
from benchmarks.scaling import steps
from benchmarks.scaling_page import Report, blocks, filled, most_pairs
from benchmarks.subjects import ROOT


@pytest.fixture(scope="module")
def report() -> Report:
    return read(newest(RESULTS, "model"))


def test_every_figure_is_what_the_committed_results_give(report: Report) -> None:
    """Nobody types them, and nobody forgets them: `make bench-scale` writes both."""
    text = PAGE.read_text()

    assert filled(text, report) == text
    assert (RESULTS / "model.md").read_text() == page(report)


def test_words_around_the_blocks_stay(report: Report) -> None:
    text = PAGE.read_text()
    spoilt = text.replace(blocks(report)["capacities"], "| 1 | 2 |")

    assert spoilt != text
    assert filled(spoilt, report) == text


def test_a_page_without_a_block_is_refused(report: Report) -> None:
    with pytest.raises(ValueError, match="blocks of figures are"):
        filled(PAGE.read_text().replace("figures: errors", "figures: mistakes"), report)


def test_claims_follow_what_was_measured(report: Report) -> None:
    """A limit that was passed is told as such, and a model that errs does not hide it."""
    bursts = [replace(burst, counted=61) for burst in report.scale.bursts[:1]] + report.scale.bursts[1:]
    checks = [replace(check, modelled=2 * check.measured) for check in report.checks]
    texts = blocks(replace(report, scale=replace(report.scale, bursts=bursts), checks=checks))

    assert "the provider saw 60 to 61." in texts["short"]
    assert "+100% to +100%" in texts["errors"]


def test_a_slower_redis_carries_fewer_pairs(report: Report) -> None:
    exchange = report.costs.busy.server_exchange
    times = replace(report.costs.busy, server_exchange=replace(exchange, call_us=4 * exchange.call_us))

    assert 1 < most_pairs(replace(report.costs, busy=times)) < most_pairs(report.costs)


def test_one_command_makes_everything_in_order() -> None:
    """Each step writes where the next one reads, and its help says how long it takes."""
    words = steps(1, 2.0, Path("results"), Path("page.md"))
    help_text = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert [step[0] for step in words] == [
        "benchmarks.service_times",
        "benchmarks.scale",
        "benchmarks.model_report",
        "benchmarks",
    ]
    assert all(step[step.index("--results") + 1] == "results" for step in words)
    assert "six minutes" in help_text
