"""The files that a run leaves: every sample as JSON, the tables as ``latest.md``, the picture as ``latest.svg``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks.figures import Figures, disturbance
from benchmarks.samples import Run
from benchmarks.scenarios import SCENARIOS
from benchmarks.tables import markdown, sheets


def write_json(run: Run, path: Path) -> None:
    """Everything that was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(run.document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def file_name(setting: dict[str, Any], *, kind: str | None = None) -> str:
    """``<UTC date>-<scenarios>.json``, or ``<UTC date>-<kind>.json``."""
    if kind is not None:
        return f"{setting['at'][:10]}-{kind}.json"
    scenarios = setting["scenarios"]
    is_whole = set(scenarios) == set(SCENARIOS)
    return f"{setting['at'][:10]}-{'all' if is_whole else '+'.join(scenarios)}.json"


def page(run: Run, figures: Sequence[Figures], *, source: str, picture: str) -> str:
    """The page for people: where, how, what."""
    setting = run.setting
    versions = ", ".join(f"{name} {version}" for name, version in setting["packages"].items() if version)
    state = "" if setting["is_clean"] else " with local changes"
    notes = [f"- {name} was left out: {reason}" for name, reason in run.absent.items()]
    notes += [f"- {one.subject}: {one.voids} void windows" for one in figures if one.voids]
    lines = [
        "# Benchmark results\n",
        f"{setting['at']}, commit {setting['commit']}{state}; {setting['rounds']} rounds of {setting['seconds']:g} s windows;"
        f" every sample is in [{source}]({source}), the method in [../README.md](../README.md).\n",
        f"{setting['cpu']}, {setting['cores']} cores, {setting['kernel']}, {setting['python']},"
        f" nginx {setting['nginx']}, {versions}.\n",
        f"Other processes used {disturbance(run.samples, cores=setting['cores']):.0%} of the cores meanwhile.\n",
        *(["\n".join(notes) + "\n"] if notes else []),
        f"![cost of every subject]({picture})\n",
        *(markdown(sheet) for sheet in sheets(figures)),
    ]
    return "\n".join(lines)
