"""``python -m benchmarks.streams``: what open streams cost, how soon new ones start, and what slow readers do to the others."""

from __future__ import annotations

import argparse
import asyncio
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson
import uvloop
from rich.console import Console

from benchmarks.harness import start_mock
from benchmarks.meters import Cores, assign_cores, pinned
from benchmarks.setting import describe
from benchmarks.stream_clients import allow_descriptors
from benchmarks.stream_phases import (
    BRISK,
    FLOOD,
    MODELS,
    READER_S,
    hold_idle,
    hold_lazy,
    open_subject,
    started,
    time_first_tokens,
)
from benchmarks.stream_run import StreamRun
from benchmarks.stream_tables import page, sheets
from benchmarks.subjects import Node, SubjectError
from benchmarks.tables import rich_table
from tests.support.mock import MockProvider

RESULTS: Final = Path(__file__).parent / "results"
PHASES: Final = ("idle", "first-token", "slow-readers")
_RATES: Final = (50.0, 100.0, 200.0, 400.0)
_PER_S: Final = 300.0
_IN_FLIGHT: Final = "modelmesh_in_flight "


class StreamBench:
    """One run; each subject starts afresh for each phase."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self._options = options
        self._console = console
        self._cores: Cores = assign_cores()
        self.run = StreamRun(describe() | {name: vars(options)[name] for name in _SHOWN})

    async def measure(self) -> StreamRun:
        """All phases."""
        with pinned(self._cores.load), closing(start_mock(self._cores)) as mock:
            for load in (BRISK, FLOOD):
                mock.behave(load.order, model=load.model)
            if "idle" in self._options.phase:
                for name in ("nginx", "node/fast"):
                    await self._idle(name, mock)
            if "first-token" in self._options.phase:
                for round_ in range(1, self._options.rounds + 1):
                    for name in ("direct", "nginx", "node/fast"):
                        await self._first(name, mock, round_)
            if "slow-readers" in self._options.phase:
                await self._lazy(mock)
        return self.run

    async def _idle(self, name: str, mock: MockProvider) -> None:
        streams = self._options.streams
        try:
            with started(open_subject(name, streams=streams), mock, self._cores) as subject:
                found = await hold_idle(subject, mock, streams=streams, per_s=_PER_S)
        except SubjectError as error:
            self._absent(name, error)
            return
        self.run.idle.append(found)
        self._console.print(
            f"{name}: {streams} streams open, {found.stream_bytes / 1000:.1f} kB each, {found.whole} whole"
        )

    async def _first(self, name: str, mock: MockProvider, round_: int) -> None:
        try:
            with started(open_subject(name, streams=1000), mock, self._cores) as subject:
                for per_s in self._options.rate:
                    found = await time_first_tokens(
                        subject, per_s=per_s, seconds=self._options.seconds, round_=round_
                    )
                    self.run.first.append(found)
                    shown = f"{found.first.p50_ms:.1f} / {found.first.p99_ms:.1f} ms" if found.first else "-"
                    self._console.print(f"round {round_}  {name}  {per_s:.0f}/s: first content after {shown}")
        except SubjectError as error:
            self._absent(name, error)

    async def _lazy(self, mock: MockProvider) -> None:
        node = Node("fast", models=MODELS, timeouts={"total": f"{READER_S:g}s"})
        with started(node, mock, self._cores) as subject:
            found = await hold_lazy(subject, lambda: _in_flight(subject.port), readers=self._options.readers)
        self.run.lazy.append(found)
        self._console.print(
            f"{found.readers} readers that do not read: {found.reader_bytes / 1000:.0f} kB each, ended after {found.ended_s} s"
        )

    def _absent(self, name: str, error: Exception) -> None:
        self.run.absent[name] = str(error)
        self._console.print(f"{name}: left out: {error}")


_SHOWN: Final = ("streams", "readers", "rounds", "seconds")


def _in_flight(port: int) -> int:
    """Requests that the node works on, by its own metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return round(sum(float(line.split()[-1]) for line in lines if line.startswith(_IN_FLIGHT)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--phase", action="append", choices=PHASES, help="may be repeated; default: all")
    parser.add_argument("--streams", type=int, default=5000, help="open at once (5000)")
    parser.add_argument("--readers", type=int, default=200, help="that do not read (200)")
    parser.add_argument("--rate", action="append", type=float, metavar="N", help="new streams per second")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each rate (3)")
    parser.add_argument("--rounds", type=int, default=3, help="of the rates (3)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; 1 if a stream failed."""
    options = _parser().parse_args(argv)
    options.phase, options.rate = options.phase or list(PHASES), options.rate or list(_RATES)
    console = Console(width=None if sys.stdout.isatty() else 140)
    allow_descriptors(2 * options.streams + 1024)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(StreamBench(options, console).measure())
    for sheet in sheets(run):
        console.print(rich_table(sheet))
    for path in _write(run, options.results):
        console.print(f"written: {path}", highlight=False)
    for fault in run.faults:
        console.print(f"[red]{fault}[/red]")
    return 1 if run.faults or run.absent else 0


def _write(run: StreamRun, directory: Path) -> list[Path]:
    name = f"{run.setting['at'][:10]}-streams"
    directory.mkdir(parents=True, exist_ok=True)
    source, text = directory / f"{name}.json", directory / f"{name}.md"
    source.write_bytes(orjson.dumps(asdict(run), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    text.write_text(page(run, source=source.name))
    return [source, text]


if __name__ == "__main__":
    sys.exit(main())
