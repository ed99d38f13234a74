"""Figures of streams as tables, for the terminal and for the page in ``results/``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from benchmarks.samples import Quantiles
from benchmarks.stream_phases import FirstToken, Idle, Lazy
from benchmarks.stream_run import StreamRun
from benchmarks.tables import Sheet, markdown

_NONE: Final = "-"
_DIRECT: Final = "direct"


def sheets(run: StreamRun) -> list[Sheet]:
    """All tables of a run; without those of phases that were left out."""
    found = [_idle(run.idle), _first(run.first), _lazy(run.lazy)]
    return [sheet for sheet in found if sheet.rows]


def page(run: StreamRun, *, source: str) -> str:
    """The page for people."""
    setting = run.setting
    state = "" if setting["is_clean"] else " with local changes"
    lines = [
        "# Streams\n",
        f"{setting['at']}, commit {setting['commit']}{state}; all figures are in [{source}]({source}), the method in"
        " [../README.md](../README.md).\n",
        f"{setting['cpu']}, {setting['cores']} cores, {setting['kernel']}, {setting['python']}, nginx {setting['nginx']}.\n",
        *(f"- {name} was left out: {reason}\n" for name, reason in run.absent.items()),
        *(f"- fault: {fault}\n" for fault in run.faults),
        *(markdown(sheet) for sheet in sheets(run)),
    ]
    return "\n".join(lines)


def _idle(found: Sequence[Idle]) -> Sheet:
    header = ["subject", "open", "whole", "RSS MB: rest > held > after", "PSS MB: rest > held", "kB / stream"]
    header += ["CPU ms / s", "first content of new ones, p50 / p99 ms: before", "meanwhile"]
    rows = [
        [
            one.subject,
            f"{one.streams:,}",
            f"{one.whole:,}",
            " > ".join(_mb(memory.rss_bytes) for memory in (one.rest, one.held, one.after)),
            " > ".join(_mb(memory.pss_bytes) for memory in (one.rest, one.held)),
            f"{one.stream_bytes / 1000:.1f}",
            f"{one.cpu_ms:.0f}",
            _pair(one.first_before),
            _pair(one.first_held),
        ]
        for one in found
    ]
    return Sheet("Streams of one event in 2.5 s", header, rows)


def _first(found: Sequence[FirstToken]) -> Sheet:
    subjects = list(dict.fromkeys(one.subject for one in found))
    rates = sorted({one.per_s for one in found})
    header = ["new streams / s", *(f"{name}, p50 / p99 ms" for name in subjects)]
    header += [f"added by {name}" for name in subjects if name != _DIRECT]
    rows = []
    for rate in rates:
        of_rate = [one for one in found if one.per_s == rate]
        cells = [_pair(_median(of_rate, name)) for name in subjects]
        cells += [_pair(_added(of_rate, name)) for name in subjects if name != _DIRECT]
        rows.append([f"{rate:.0f}", *cells])
    return Sheet("Time to the first content, streams of 20 events 20 ms apart", header, rows)


def _lazy(found: Sequence[Lazy]) -> Sheet:
    header = ["subject", "readers", "RSS MB: rest > held", "kB / reader"]
    header += [
        "first content of others, p50 / p99 ms: before",
        "once the flood stands",
        "/health amid it",
        "given up after s",
    ]
    rows = [
        [
            one.subject,
            str(one.readers),
            " > ".join(_mb(memory.rss_bytes) for memory in (one.rest, one.held)),
            f"{one.reader_bytes / 1000:.0f}",
            _pair(one.first_before),
            _pair(one.first_held),
            _pair(one.health_flooded),
            _NONE if one.ended_s is None else f"{one.ended_s:.1f}",
        ]
        for one in found
    ]
    return Sheet("Readers that do not read, of streams of 5 MB", header, rows)


def _median(found: Sequence[FirstToken], subject: str) -> Quantiles | None:
    mine = [one.first for one in found if one.subject == subject and one.first]
    if not mine:
        return None
    return Quantiles(
        statistics.median(one.p50_ms for one in mine), statistics.median(one.p99_ms for one in mine)
    )


def _added(found: Sequence[FirstToken], subject: str) -> Quantiles | None:
    """Median over the rounds of the difference to the mock alone in the same round."""
    alone = {one.round: one.first for one in found if one.subject == _DIRECT and one.first}
    pairs = [
        (one.first, alone[one.round])
        for one in found
        if one.subject == subject and one.first and one.round in alone
    ]
    if not pairs:
        return None
    return Quantiles(
        statistics.median(mine.p50_ms - floor.p50_ms for mine, floor in pairs),
        statistics.median(mine.p99_ms - floor.p99_ms for mine, floor in pairs),
    )


def _pair(value: Quantiles | None) -> str:
    return _NONE if value is None else f"{value.p50_ms:.2f} / {value.p99_ms:.2f}"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f}"
