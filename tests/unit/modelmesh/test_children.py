"""A supervised child: restarts, readiness, output, and its ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable

import pytest

from modelmesh.children import Backoff, Child, ChildSpec, describe_exit
from tests.support.processes import wait_until
from tests.unit.modelmesh.programs import ANNOUNCING, OBEDIENT, STUBBORN, Record, drive, is_alive, python


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
async def start(record: Record) -> AsyncIterator[Callable[..., object]]:
    """Start children; what is still alive ends with the test."""
    children: list[Child] = []

    async def start(spec: ChildSpec, **options: object) -> Child:
        children.append(Child(spec, tell=record, **options))  # type: ignore[arg-type]
        await children[-1].start()
        return children[-1]

    yield start
    for child in children:
        await child.end_now()


def test_pauses_double_up_to_a_cap():
    """A child that keeps dying is restarted ever more slowly."""
    backoff = Backoff(first_s=0.2, longest_s=5.0)

    pauses = [backoff.next_pause_s(alive_s=0.1) for _ in range(7)]

    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_long_life_is_a_new_start():
    """After a good run the next restart is quick again."""
    backoff = Backoff(first_s=0.2, forget_after_s=30.0)
    backoff.next_pause_s(alive_s=0.0)
    backoff.next_pause_s(alive_s=29.9)

    assert backoff.next_pause_s(alive_s=30.0) == 0.2


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with code 0"),
        (3, "ended with code 3"),
        (-9, "ended by SIGKILL"),
        (-99, "ended by signal 99"),
    ],
)
def test_ends_are_put_in_words(code, words):
    """Codes and signals are told apart."""
    assert describe_exit(code) == words


async def test_a_child_is_restarted_whatever_its_exit_code(start, record):
    """Even a clean exit is no reason to stay away."""
    await start(python("print('lived')"), backoff=Backoff(first_s=0.01, longest_s=0.01))

    await wait_until(lambda: record.count("lived") >= 3)

    assert "ended with code 0; restart in 0.01 s" in record


async def test_a_killed_child_comes_back(start, record):
    """A crash is answered by a new process."""
    child = await start(python(OBEDIENT), backoff=Backoff(first_s=0.01))
    await wait_until(lambda: "up" in record)
    first = child.pid
    os.kill(first, signal.SIGKILL)

    await wait_until(lambda: record.count("up") == 2)

    assert child.pid != first
    assert "ended by SIGKILL" in record


async def test_readiness_is_announced_over_a_descriptor(start):
    """A byte on MODELMESH_READY_FD makes the child ready."""
    child = await start(python(ANNOUNCING, announces_ready=True))

    async with asyncio.timeout(30):
        await child.wait_ready()


async def test_a_child_that_dies_before_its_announcement_is_not_ready(start, record):
    """The end of the pipe is not the byte."""
    child = await start(python("pass", announces_ready=True), backoff=Backoff(first_s=0.01))
    await wait_until(lambda: record.count("restart") >= 2)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await child.wait_ready()


async def test_readiness_by_a_line_of_output(start, record):
    """The line that announces is not passed on, the others are."""
    child = await start(
        python("print('hello\\nlistening 127.0.0.1:1', flush=True); input()", ready_line="listening ")
    )

    async with asyncio.timeout(30):
        await child.wait_ready()

    assert ("child", "hello") in record.lines
    assert "listening" not in record


async def test_output_is_passed_on_line_by_line(start, record):
    """Standard output and error, with the child's name, broken UTF-8 and endless lines included."""
    code = "import os, sys; os.write(1, b'a\\xff\\n'); sys.stderr.write('b\\n'); os.write(1, b'x' * 200_000 + b'\\nend')"
    await start(python(code, name="node-1"), backoff=Backoff(first_s=60))

    await wait_until(lambda: "end" in record and "restart" in record)

    told = [line for name, line in record.lines if name == "node-1"]
    assert {"a\ufffd", "b", "end"} < set(told)
    assert sum(line.count("x") for line in told) == 200_000


async def test_a_stopped_child_ends_in_good_order_and_stays_away(start, record):
    """SIGTERM ends it; no restart follows."""
    child = await start(python(OBEDIENT))
    await wait_until(lambda: "up" in record)
    pid = child.pid

    await child.stop()

    assert not is_alive(pid)
    assert "restart" not in record


async def test_a_stubborn_child_is_killed_after_its_grace(start, record):
    """A child that ignores SIGTERM cannot hold up the end."""
    child = await start(python(STUBBORN, grace_s=0.05))
    await wait_until(lambda: "up" in record)
    pid = child.pid

    await child.stop()

    assert not is_alive(pid)
    assert "still running after 0.05 s, killed" in record


async def test_stop_during_the_pause_before_a_restart(start, record):
    """Nothing is started after the order to stop."""
    child = await start(python("pass"), backoff=Backoff(first_s=60))
    await wait_until(lambda: "restart in 60 s" in record)

    async with asyncio.timeout(30):
        await child.stop()


async def test_a_missing_program_is_told_and_tried_again(start, record):
    """What cannot be started is reported like what dies."""
    await start(ChildSpec(name="ghost", argv=("/nonexistent/program",)), backoff=Backoff(first_s=0.01))

    await wait_until(lambda: record.count("restart") >= 2)

    assert "cannot run /nonexistent/program: No such file or directory" in record


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has parent death signals")
async def test_a_child_dies_with_its_parent():
    """SIGKILL of the supervisor leaves no orphan behind."""
    parent = drive("child")
    try:
        match = await parent.wait_line(r"pid (\d+)")
        pid = int(match[1])
        parent.kill()

        await wait_until(lambda: not is_alive(pid), timeout=2)
    finally:
        parent.close()
