"""``python -m benchmarks``: measure nodes beside nginx, or look where a node's time goes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from benchmarks.figures import disturbance, summarise
from benchmarks.harness import Harness, RunOptions
from benchmarks.peers import PEERS
from benchmarks.plot import draw
from benchmarks.results import file_name, page, write_json
from benchmarks.samples import Run
from benchmarks.scenarios import SCENARIOS
from benchmarks.subjects import SUBJECTS, SubjectError
from benchmarks.tables import rich_table, sheets
from tests.support.processes import ProcessFailedError

RESULTS: Final = Path(__file__).parent / "results"
_DEFAULT_SUBJECTS: Final = ("direct", "nginx", "node/stock", "node/fast")
#: Peers in one run with nodes: the loads that all of them can be given, fewer rounds, for they start slowly.
_PEER_SUBJECTS: Final = ("direct", "nginx", "node/fast", "node/fast-nolimits", *PEERS)
_PEER_SCENARIOS: Final = ("unary1", "unary32", "unary128", "mixed", "heads", "burst")
#: Fleets behind nginx, every node on the one core of the subject: what is left of it for each request.
_FLEET_SUBJECTS: Final = ("direct", "node/fast", "fleet/1", "fleet/2", "fleet/4")
_FLEET_SCENARIOS: Final = ("unary1", "unary32", "unary128", "mixed")
#: What each command measures by default: subjects, scenarios; the name of its page.
_USUAL: Final = {
    "run": (_DEFAULT_SUBJECTS, tuple(SCENARIOS), "latest"),
    "peers": (_PEER_SUBJECTS, _PEER_SCENARIOS, "peers"),
    "fleets": (_FLEET_SUBJECTS, _FLEET_SCENARIOS, "fleets"),
}
_FILE_WIDTH: Final = 150
_SMOKE_SUBJECTS: Final = ("direct", "node/fast")
_SMOKE_SCENARIOS: Final = ("unary1", "unary32", "heads", "burst")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 1 if a window was void or a subject was missing."""
    arguments = _parser().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    try:
        if arguments.command == "peers":
            install_peers(console)
        if arguments.command == "profile":
            from benchmarks.profiling import profile

            return profile(arguments, console)
        return _run(arguments, console)
    except ProcessFailedError as error:
        console.print(f"[red]{error}[/red]")
        return 1


def install_peers(console: Console) -> None:
    """Install every peer that is missing; one that cannot be is left out of the run, which says so."""
    for name, peer in PEERS.items():
        with console.status(f"installing {name}"):
            try:
                peer().install()
            except SubjectError as error:
                console.print(f"[yellow]{name}: {error}[/yellow]")


def _run(arguments: argparse.Namespace, console: Console) -> int:
    options = _options(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(Harness(options, report=lambda line: console.print(line, highlight=False)).run())
    figures = summarise(run)
    for sheet in sheets(figures):
        console.print(rich_table(sheet))
    console.print(
        f"other processes used {disturbance(run.samples, cores=run.setting['cores']):.0%} of the cores meanwhile"
    )
    for path in _write(run, arguments):
        console.print(f"written: {path}", highlight=False)
    return 1 if run.absent or any(sample.is_void for sample in run.samples) else 0


def _write(run: Run, arguments: argparse.Namespace) -> list[Path]:
    """The result files; a smoke run leaves only what was asked for."""
    written = []
    if arguments.json is not None:
        write_json(run, arguments.json)
        written.append(arguments.json)
    if not arguments.smoke:
        directory: Path = arguments.results
        name = _USUAL[arguments.command][2]
        source = directory / file_name(run.setting, kind=None if arguments.command == "run" else name)
        write_json(run, source)
        figures = summarise(run)
        picture, text = directory / f"{name}.svg", directory / f"{name}.md"
        picture.write_text(draw(figures))
        text.write_text(page(run, figures, source=source.name, picture=picture.name))
        written += [source, text, picture]
    return written


def _options(arguments: argparse.Namespace) -> RunOptions:
    is_smoke = arguments.smoke
    default = (_SMOKE_SUBJECTS, _SMOKE_SCENARIOS) if is_smoke else _USUAL[arguments.command][:2]
    subjects, scenarios = arguments.subject or default[0], arguments.scenario or default[1]
    return RunOptions(
        subjects=list(subjects),
        scenarios=[SCENARIOS[name] for name in SCENARIOS if name in scenarios],
        seconds=arguments.seconds or (0.1 if is_smoke else 0.8),
        rounds=arguments.rounds or (1 if is_smoke else 3),
        warm_up_s=0.02 if is_smoke else 0.25,
        rest_s=0.05 if is_smoke else 0.5,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in (
        ("run", "measure, and write results/"),
        ("peers", "the same beside other gateways, which are installed first"),
        ("fleets", "the same for one, two and four nodes behind nginx"),
    ):
        _add_run(commands.add_parser(name, help=help_text))
    look = commands.add_parser("profile", help="where a node's CPU time goes, by function")
    look.add_argument("--engine", choices=("fast", "stock"), default="fast")
    look.add_argument("--scenario", choices=tuple(SCENARIOS), default="unary32")
    look.add_argument("--seconds", type=_positive, metavar="S", default=5.0)
    look.add_argument("--top", type=int, metavar="N", default=25)
    look.add_argument("--no-limits", action="store_true")
    look.add_argument(
        "--tool", choices=("auto", "py-spy", "cprofile"), default="auto", help="py-spy where it is installed"
    )
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    _repeatable(run, "--scenario", SCENARIOS, "default: all")
    _repeatable(run, "--subject", [*SUBJECTS, *PEERS], f"default: {', '.join(_DEFAULT_SUBJECTS)}")
    run.add_argument("--seconds", type=_positive, metavar="S", help="of each window (0.8)")
    run.add_argument("--rounds", type=int, metavar="N", help="each with a fresh process of every subject (3)")
    run.add_argument("--json", type=Path, metavar="FILE", help="write every sample there too")
    run.add_argument("--results", type=Path, metavar="DIR", default=RESULTS)
    run.add_argument(
        "--smoke", action="store_true", help="two seconds, to see that it works; no result files"
    )


def _repeatable(parser: argparse.ArgumentParser, flag: str, choices: Iterable[str], text: str) -> None:
    parser.add_argument(flag, action="append", choices=tuple(choices), help=f"may be repeated; {text}")


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
