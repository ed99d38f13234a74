"""Become another program that dies with its parent: `tether.py PARENT_PID SIGNAL PROGRAM ARG...`.

Run as a file, not imported. A wrapper instead of a `preexec_fn`, because that one may deadlock in a process
with threads. Where the kernel has no such order (macOS), the program just runs.
"""

from __future__ import annotations

import os
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ask the kernel for SIGNAL at the parent's death, then replace this process."""
    parent_pid, signal_number, *program = arguments
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal_number))
        if os.getppid() != int(parent_pid):  # it died before we asked
            os._exit(1)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
