"""The examples of docs/python.md, run as they stand."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

_PAGE = Path(__file__).parents[2] / "docs" / "python.md"
_EXAMPLES = re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL)


async def test_the_examples_run(monkeypatch, tmp_path, valkey_server, namespace, mock_provider, capsys):
    """In order, each on its own, with a mesh.yaml in the current folder that counts for `create` too."""
    provider = mock_provider("alpha", tokens=2)
    monkeypatch.setenv("MODELMESH_CONFIG", "mesh.yaml")
    monkeypatch.setenv("MODELMESH_HOME", str(tmp_path))
    monkeypatch.setenv("MODELMESH_REDIS_URL", valkey_server.url)
    monkeypatch.chdir(tmp_path)
    _write_mesh(tmp_path / "mesh.yaml", provider.base_url, namespace)

    for number, example in enumerate(_EXAMPLES):
        await _run(compile(example, f"example {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))

    told = capsys.readouterr().out
    assert told.count("alpha: hello") == 4
    assert "-> alpha.small [alpha] (active)" in told


async def _run(code: CodeType) -> None:
    done = eval(code, {"__name__": "__main__"})
    if inspect.iscoroutine(done):
        await done


def _write_mesh(path: Path, base_url: str, namespace: str) -> None:
    mesh = {
        "redis": {"namespace": namespace, "timeout": "5s"},
        "providers": {"alpha": {"connector": "openai-compatible.v1", "base_url": base_url}},
        "models": {"alpha.small": {"provider": "alpha", "capabilities": ["chat-completion"]}},
        "pools": {"chat": {"capability": "chat-completion"}},
    }
    path.write_text(json.dumps(mesh))


@pytest.fixture(autouse=True)
def quiet_logging() -> Any:
    """Examples may set levels; they are put back."""
    names = ("modelmesh", "modelmesh.requests")
    levels = [logging.getLogger(name).level for name in names]
    yield
    for name, level in zip(names, levels, strict=True):
        logging.getLogger(name).setLevel(level)
