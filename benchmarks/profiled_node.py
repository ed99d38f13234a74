"""A node that can be profiled from outside: SIGUSR1 begins, SIGUSR2 ends and writes cProfile's statistics to a file.

``python -m benchmarks.profiled_node STATISTICS_FILE [options of python -m node]``
"""

from __future__ import annotations

import cProfile
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from node.app import run
from node.options import parse


def main() -> int:
    """Run the node; its exit code."""
    path = Path(sys.argv[1])
    # By the wall clock: the CPU clock is a system call, which would distort far more.
    profiler = cProfile.Profile()

    def begin(number: int, frame: FrameType | None) -> None:
        profiler.enable()

    def end(number: int, frame: FrameType | None) -> None:
        profiler.disable()
        unfinished = path.with_suffix(".part")
        profiler.dump_stats(unfinished)
        os.replace(unfinished, path)  # whoever waits for the file finds it whole

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    return run(parse(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
