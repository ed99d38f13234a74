"""Forks of a template are processes like others: they log, end, and can be killed."""

from __future__ import annotations

import os
import signal
from contextlib import closing

import pytest

from tests.support.preloaded import PreloadedProcess

_MOCK = "benchmarks.mock_upstream"


async def test_a_fork_is_a_process_of_its_own():
    """Its words, its environment and its log are its own; it ends by itself and with a signal's code."""
    env = {"MM_PRELOADED": "here"}
    with (
        closing(PreloadedProcess(_MOCK, ["--port", 0], name="one", env=env)) as one,
        closing(PreloadedProcess(_MOCK, ["--port", 0], name="two")) as two,
    ):
        ports = {process.wait_line_blocking(r"^listening \S+:(\d+)$")[1] for process in (one, two)}
        code = await one.terminate()
        two.send(signal.SIGKILL)
        killed = await two.wait()

    assert len(ports) == 2
    assert (code, killed) == (0, -signal.SIGKILL)
    assert "MM_PRELOADED" not in os.environ


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--nonsense"], 2)])
async def test_a_fork_that_ends_tells_its_exit_code(words: list[str], code: int):
    """As a program that was started by its name; what it printed is in its log."""
    with closing(PreloadedProcess(_MOCK, words, name="brief")) as process:
        assert await process.wait() == code
        assert "usage: python -m benchmarks.mock_upstream" in process.log()
