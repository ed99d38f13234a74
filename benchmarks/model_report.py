"""The model put to use: checked against a fleet that was measured, then carried on to a thousand nodes. Tables, picture, files.

    python -m benchmarks.model_report

Takes seconds. It reads the newest result files of ``service_times`` and ``scale``, and writes every figure of `docs/scaling.md` as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter
from rich.console import Console

from benchmarks import scale_report
from benchmarks.model import Costs
from benchmarks.model_checks import Check, Comparison, compare, validate
from benchmarks.model_tables import draw, sheets
from benchmarks.scaling_page import Report, filled
from benchmarks.setting import describe
from benchmarks.tables import Sheet, markdown, rich_table

RESULTS: Final = Path(__file__).parent / "results"
PAGE: Final = Path(__file__).parents[1] / "docs" / "scaling.md"
_WIDTH: Final = 150


def measure(directory: Path, *, requests: int) -> Report:
    """The model checked against the newest result files.

    Raises:
        FileNotFoundError: there are none.
    """
    source, scale = newest(directory, "service-times"), newest(directory, "scale")
    times, run = orjson.loads(source.read_bytes()), scale_report.read(scale)
    costs = Costs.read(times)
    checks, compared = validate(costs, run, requests=requests), compare(costs, requests=requests)
    setting = describe() | {"service_times": source.name, "scale": scale.name}
    return Report(setting, times, costs, run, checks, compared)


def read(source: Path) -> Report:
    """What `write` has written, and the files that it was made of."""
    document = orjson.loads(source.read_bytes())
    setting = document["setting"]
    times = orjson.loads((source.parent / setting["service_times"]).read_bytes())
    return Report(
        setting,
        times,
        Costs.read(times),
        scale_report.read(source.parent / setting["scale"]),
        TypeAdapter(list[Check]).validate_python(document["checks"]),
        TypeAdapter(list[Comparison]).validate_python(document["compared"]),
    )


def write(report: Report, directory: Path) -> list[Path]:
    """Checks as JSON, the tables, the picture."""
    source = directory / f"{report.setting['at'][:10]}-model.json"
    document = {
        "setting": report.setting,
        "checks": [asdict(check) for check in report.checks],
        "compared": [asdict(one) for one in report.compared],
    }
    source.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    text, drawn = directory / "model.md", directory / "model.svg"
    text.write_text(page(report))
    drawn.write_text(draw(report.costs))
    return [source, text, drawn]


def page(report: Report) -> str:
    """The page for people."""
    setting = report.setting
    state = "" if setting["is_clean"] else " with local changes"
    sources = (setting["service_times"], setting["scale"], f"{setting['at'][:10]}-model.json")
    named = ", ".join(f"[{name}]({name})" for name in sources)
    lines = [
        "# A fleet modelled\n",
        f"{setting['at']}, commit {setting['commit']}{state}; from {named}."
        " What it means is in [../../docs/scaling.md](../../docs/scaling.md).\n",
        "![what one Redis core carries](model.svg)\n",
        *(markdown(table) for table in tables(report)),
    ]
    return "\n".join(lines)


def tables(report: Report) -> list[Sheet]:
    """All tables."""
    return sheets(report.costs, report.checks, report.compared)


def newest(directory: Path, kind: str) -> Path:
    """The latest result file of a kind.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(directory.glob(f"*-{kind}.json"))
    if not found:
        raise FileNotFoundError(
            f"no {kind} in {directory}: run python -m benchmarks.{kind.replace('-', '_')}"
        )
    return found[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_report", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="what was measured, and where to write"
    )
    parser.add_argument("--requests", type=int, default=6000, help="of each simulation")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="whose blocks of figures are written (docs/scaling.md)"
    )
    options = parser.parse_args(argv)
    report = measure(options.results, requests=options.requests)
    console = Console(width=_WIDTH)
    for table in tables(report):
        console.print(rich_table(table))
    written = write(report, options.results)
    target = options.page or (PAGE if options.results == RESULTS else None)
    if target is not None:
        target.write_text(filled(target.read_text(), report))
        written.append(target)
    for path in written:
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
