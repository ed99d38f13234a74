"""Options of nodes and schedulers, as their processes read them."""

from __future__ import annotations

import pytest

from node.options import NodeOptions
from node.options import parse as parse_node
from scheduler.options import SchedulerOptions
from scheduler.options import parse as parse_scheduler


def test_a_node_takes_everything_from_its_arguments():
    """As the supervisor starts it."""
    argv = [
        "-c",
        "mesh.yaml",
        "--redis",
        "unix:///s",
        "--host",
        "::1",
        "--port",
        "0",
        "--fd",
        "5",
        "--name",
        "n1",
        "--insecure",
    ]

    options = parse_node(argv, environ={"MODELMESH_READY_FD": "6", "MODELMESH_REDIS_URL": "redis://other"})

    assert options == NodeOptions("mesh.yaml", "unix:///s", "::1", 0, 5, "n1", True, 6)


def test_the_environment_fills_the_gaps():
    """A URL with a password need not stand in the list of processes."""
    environ = {"MODELMESH_REDIS_URL": "redis://:secret@host"}

    assert parse_node([], environ=environ) == NodeOptions(None, "redis://:secret@host", None, None)
    assert parse_scheduler([], environ=environ) == SchedulerOptions(None, "redis://:secret@host")


def test_a_scheduler_takes_its_arguments():
    """As the supervisor starts it."""
    argv = ["-c", "mesh.yaml", "--redis", "redis://h", "--name", "clock"]

    assert parse_scheduler(argv, environ={}) == SchedulerOptions("mesh.yaml", "redis://h", "clock")


def test_a_typo_is_a_usage_error(capsys):
    """Exit code 2 and a line that names it."""
    with pytest.raises(SystemExit) as ended:
        parse_node(["--prot", "1"], environ={})

    assert ended.value.code == 2
    assert "--prot" in capsys.readouterr().err
