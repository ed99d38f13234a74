"""All of `docs/scaling.md` made anew: service times, a growing fleet, the model, fleets in a closed loop.

    python -m benchmarks.scaling [--rounds 3] [--seconds 3]

Takes some six minutes; two with ``--rounds 1 --seconds 2``. The figures are those of a quiet machine only if it is one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.model_report import PAGE, RESULTS

_ROOT: Final = Path(__file__).parents[1]


def steps(rounds: int, seconds: float, results: Path, page: Path) -> list[list[str]]:
    """Each command's words; every one reads what the earlier ones have written."""
    many = ["--rounds", str(rounds)]
    kept = ["--results", str(results)]
    return [
        ["benchmarks.service_times", "--rounds", str(2 * rounds + 1), *kept],
        ["benchmarks.scale", *many, "--seconds", str(seconds), "--rest", str(min(3.0, seconds)), *kept],
        ["benchmarks.model_report", *kept, "--page", str(page)],
        ["benchmarks", "fleets", "--rounds", str(min(2, rounds)), *kept],
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; stops at the first step that fails, for what follows would speak of other figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="of a growing fleet; the other steps have as many as they need (3)",
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each window of a growing fleet (3)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="whose figures are written")
    options = parser.parse_args(argv)
    began = time.monotonic()
    for words in steps(options.rounds, options.seconds, options.results.resolve(), options.page.resolve()):
        print(f"== {words[0]} ({time.monotonic() - began:.0f} s)", flush=True)
        code = subprocess.run([sys.executable, "-m", *words], cwd=_ROOT, check=False).returncode
        if code:
            print(f"{words[0]} has failed; what it found is above, nothing further is measured", flush=True)
            return code
    print(f"done in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
