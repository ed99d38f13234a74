"""Python processes that begin with everything imported: forks of a template, for a node spends most of its start on imports.

``python -m tests.support.preloaded node`` is the template of ``python -m node``: what it forks is a process of its own in all other respects.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from shared_state.lean import lean_imports
from tests.support.processes import POLL_S, ChildProcess, death_pact

_ROOT = Path(__file__).resolve().parents[2]
#: What each of them imports once it has read its options.
_IMPORTS = {
    "node": "node.app",
    "scheduler": "scheduler.app",
    "benchmarks.mock_upstream": "benchmarks.mock_upstream",
}


class PreloadedProcess(ChildProcess):
    """``python -m module *words`` in the root of the repository, without the imports; ended by what ends a `ChildProcess`."""

    def __init__(
        self, module: str, words: Sequence[object], *, name: str, env: Mapping[str, str] | None = None
    ) -> None:
        self._module = module
        super().__init__([str(word) for word in words], name=name, env=env)

    def _launch(self, args: Sequence[Any], log: BinaryIO, **options: Any) -> Any:
        return _Fork(_template(self._module), args, log, options["env"])


class _Fork:
    """What a ``Popen`` is to its process; its exit code is known to its parent, the template."""

    def __init__(
        self, template: _Template, words: Sequence[str], log: BinaryIO, env: Mapping[str, str] | None
    ) -> None:
        self.returncode: int | None = None
        self._template = template
        self.pid = template.ask({"words": words, "env": env or {}, "log": log.name})

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._template.ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        ends = time.monotonic() + (timeout or float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > ends:
                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class _Template:
    """The parent of all forks of one module; ends with this process, and they with it."""

    def __init__(self, module: str) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,
            preexec_fn=death_pact(signal.SIGKILL),
        )
        assert self._process.stdin and self._process.stdout
        self._orders, self._answers = self._process.stdin, self._process.stdout
        atexit.register(self.close)

    def ask(self, order: dict[str, Any]) -> Any:
        with self._lock:
            self._orders.write(json.dumps(order).encode() + b"\n")
            self._orders.flush()
            return json.loads(self._answers.readline())

    def close(self) -> None:
        with self._process:
            self._process.kill()


@cache
def _template(module: str) -> _Template:
    return _Template(module)


def _serve(module: str) -> None:
    """Forks on order and tells exit codes; returns in a fork, which then is what was ordered, and at the end of whoever orders."""
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "pid" in order:
            ended, status = os.waitpid(order["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            parent = os.getpid()
            answer = os.fork()
            if not answer:
                _become(order, parent=parent)
                sys.argv = [module, *order["words"]]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
                return
        os.write(1, json.dumps(answer).encode() + b"\n")


def _become(order: dict[str, Any], *, parent: int) -> None:
    os.setsid()
    death_pact(signal.SIGKILL, parent=parent)()
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(order["env"])


if __name__ == "__main__":
    with lean_imports():
        importlib.import_module(_IMPORTS[sys.argv[1]])
    _serve(sys.argv[1])
