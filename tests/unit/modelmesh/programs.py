"""Small programs that stand in for nodes and schedulers, and what tests need around them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelmesh.children import ChildSpec
from tests.support.processes import ChildProcess

OBEDIENT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
ANNOUNCING = """
import os, signal
fd = int(os.environ["MODELMESH_READY_FD"])
os.write(fd, b"1"); os.close(fd)
signal.pause()
"""


class Record:
    """What children told, line by line."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def __contains__(self, text: str) -> bool:
        return any(text in line for _, line in self.lines)

    def count(self, text: str) -> int:
        return sum(text in line for _, line in self.lines)


def python(code: str, *, name: str = "child", **options: object) -> ChildSpec:
    """A child that runs this code."""
    return ChildSpec(name=name, argv=(sys.executable, "-I", "-S", "-c", code), **options)  # type: ignore[arg-type]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended, and that nobody has asked about yet, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return sys.platform != "linux"


def drive(*arguments: str) -> ChildProcess:
    """`driver.py` as a process."""
    driver = Path(__file__).with_name("driver.py")
    root = str(Path(__file__).parents[3])
    return ChildProcess([sys.executable, str(driver), *arguments], name="driver", env={"PYTHONPATH": root})
