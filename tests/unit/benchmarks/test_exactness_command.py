"""The outside test as an operator runs it: here the endpoint is the counting upstream itself, which limits nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import free_port

_PLAN = "windows: [{models: [m, n], kind: rpm, limit: %d}, {models: m, kind: concurrency, limit: 1000}]"


def _examine(tmp_path: Path, *, limit: int, url: str = "", **options: str):
    """Exit code, what was printed, and the report."""
    limits, port = tmp_path / "limits.yaml", free_port()
    limits.write_text(_PLAN % limit)
    asked = {
        "url": url or f"http://127.0.0.1:{port}/v1",
        "upstream-port": str(port),
        "limits": str(limits),
        "requests": "40",
        "seconds": "0.5",
        "seeds": "1",
        "results": str(tmp_path),
        "name": "report",
    } | options
    words = [word for name, value in asked.items() for word in (f"--{name}", value)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.exactness", *words], capture_output=True, text=True, check=False
    )
    path = tmp_path / "report.json"
    return done.returncode, done.stdout, json.loads(path.read_text()) if path.exists() else None


def test_an_endpoint_that_exceeds_a_limit_is_found_out(tmp_path: Path):
    """Exit code 1; the report says by how much, the page as well."""
    code, printed, (report,) = _examine(tmp_path, limit=7)
    minute, slots = report["windows"]

    assert code == 1
    assert "http://127.0.0.1" in printed and "m, n" in printed
    assert minute["maximum"] == report["calls"] > 30
    assert minute["over"] == report["calls"] - 7
    assert (slots["over"], report["balance"]) == (0, None)
    assert "| m, n | rpm sliding | 7 |" in (tmp_path / "report.md").read_text()


def test_an_endpoint_within_its_limits_is_exact(tmp_path: Path):
    """Exit code 0, and the operator's command has struck meanwhile."""
    mark = tmp_path / "struck"
    options = {"fault-command": f"touch {mark}", "fault-every": "0.01"}
    code, _, (report,) = _examine(tmp_path, limit=1000, **options)

    assert code == 0
    assert sum(report["answers"].values()) == 40
    assert mark.exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://127.0.0.1:9"])
def test_an_endpoint_that_never_calls_the_upstream_is_not_judged(tmp_path: Path, url: str):
    """Nothing arrived, so nothing was proved: exit code 2."""
    code, printed, report = _examine(tmp_path, limit=7, url=url)

    assert code == 2
    assert "Nothing arrived" in printed
    assert report is None
