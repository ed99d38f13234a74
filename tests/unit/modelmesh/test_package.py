"""What `import modelmesh` brings, and what it does not."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.resources import files

import pytest

import modelmesh
from modelmesh.request_lines import REQUESTS, RequestLines


def test_importing_it_costs_nothing():
    """None of its libraries is loaded before something is asked for."""
    code = (
        "import sys, modelmesh; print([m for m in sys.modules if m.partition('.')[0] in set(sys.argv[1:])])"
    )
    heavy = ("asyncio", "httpx", "pydantic", "node", "scheduler", "shared_state", "openai", "uvloop", "redis")
    told = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)

    assert told.stdout == "[]\n"


@pytest.mark.parametrize("name", [*modelmesh.__all__, "MeshClient"])
def test_every_name_is_there(name):
    """And nothing else."""
    assert getattr(modelmesh, name)


def test_other_names_are_not():
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        modelmesh.nonsense  # noqa: B018


def test_it_is_typed():
    """Type checkers take its annotations."""
    assert files("modelmesh").joinpath("py.typed").is_file()


def test_request_lines_are_records(caplog):
    """One each, where somebody wants them."""
    with caplog.at_level(logging.INFO, logger=REQUESTS):
        RequestLines().write(b'{"a": 1}\n{"b": "%s"}\n')

    assert [record.getMessage() for record in caplog.records] == ['{"a": 1}', '{"b": "%s"}']
