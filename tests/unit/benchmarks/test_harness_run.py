"""A whole run in small: processes, meters, result file, profile."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from benchmarks.meters import RedisMeter, cpu_s, pinned, rss_bytes, tree
from benchmarks.profiling import lines_of_stacks
from benchmarks.subjects import ROOT
from tests.support.processes import ChildProcess
from tests.support.valkey import ValkeyServer

_BURNER = """
import subprocess, sys, time
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, __file__])
while time.process_time() < 0.2:
    pass
print("burnt", flush=True)
time.sleep(60)
"""


def test_a_smoke_run_measures_a_node(tmp_path: Path) -> None:
    """The command starts everything, finds no fault, and leaves the samples."""
    path = tmp_path / "smoke.json"
    _command("run", "--subject", "direct", "--subject", "node/fast", "--smoke", "--json", str(path))

    document = orjson.loads(path.read_bytes())
    samples = [one for one in document["samples"] if one["subject"] == "node/fast"]
    assert [one["scenario"] for one in samples] == ["unary1", "unary32", "heads", "burst"]
    assert all(one["requests"] > 0 and not one["faults"] for one in samples)
    assert all(set(one["cpu_s"]) == {"node", "valkey"} for one in samples)
    assert all(one["redis"]["scripts"] > 0 for one in samples)
    assert document["lives"][1]["start_s"] > 0


def test_a_profile_names_the_functions_of_a_node() -> None:
    """Only what happens under load is in it, per request."""
    printed = _command("profile", "--tool", "cprofile", "--seconds", "0.2", "--top", "200")

    served = re.search(r"([\d.]+) │ __call__ \(node/api/endpoint.py", printed)
    assert served, printed
    assert float(served[1]) >= 1.0  # calls per request; a coroutine is entered again after each wait
    assert "run (node/app.py" not in printed


def _command(*words: str) -> str:
    """What ``python -m benchmarks`` prints, once it has succeeded."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_cpu_and_memory_of_a_tree_include_its_children(tmp_path: Path) -> None:
    """A process and its child are read as one, to better than the tick of the kernel's tables."""
    script = tmp_path / "burner.py"
    script.write_text(_BURNER)
    with closing(ChildProcess([sys.executable, script, "parent"])) as process:
        process.wait_line_blocking(r"burnt\nburnt\n")

        members = tree(process.pid)
        assert len(members) == 2
        assert 0.4 <= cpu_s(process.pid) < 1.0
        assert rss_bytes(process.pid) > sum(map(rss_bytes, members[1:]))


def test_cpu_clocks_agree_with_our_own() -> None:
    """The clock of a process read from outside is the one that it reads itself; children, if any, come on top."""
    before = time.process_time()
    found = cpu_s(os.getpid())
    after = time.process_time()

    assert before <= found
    assert len(tree(os.getpid())) > 1 or found <= after


def test_a_redis_reading_leaves_out_the_meter() -> None:
    """Two readings in a row show no commands; a script counts, and so do the commands in it."""
    with closing(ValkeyServer()) as server, closing(RedisMeter(server.start().url)) as meter:
        assert meter.version().startswith("valkey ")
        first = meter.read()
        quiet = meter.read().since(first)
        meter._client.eval("redis.call('SET', KEYS[1], 1)", 1, "k")
        busy = meter.read().since(first)

    assert (quiet.scripts, quiet.commands, quiet.reads) == (0, 0, 0)
    assert (busy.scripts, busy.commands, busy.reads) == (1, 2, 1)


def test_pinning_is_for_a_while_and_for_children() -> None:
    """Children started meanwhile stay on the core, this process does not."""
    usable = os.sched_getaffinity(0)
    core = max(usable)
    with pinned(core):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    try:
        assert usable == os.sched_getaffinity(0)
        assert os.sched_getaffinity(child.pid) == {core}
    finally:
        child.communicate(b"\n")


def test_own_time_of_stacks_is_that_of_the_innermost_frame() -> None:
    """Recursion counts once in the total."""
    lines = lines_of_stacks(
        ["main (a.py:1);f (b.py:2) 3", "main (a.py:1);f (b.py:2);f (b.py:2) 1", "main (a.py:1) 6"]
    )

    assert [(line.function, line.own, line.total) for line in lines] == [
        ("main (a.py:1)", pytest.approx(0.6), pytest.approx(1.0)),
        ("f (b.py:2)", pytest.approx(0.4), pytest.approx(0.4)),
    ]
