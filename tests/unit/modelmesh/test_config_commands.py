"""`modelmesh config push`, `show`, `history`, `rollback` against a stub of the operators' API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from modelmesh.cli.app import app
from tests.unit.modelmesh.ops_stub import OpsStub

Invoke = Callable[..., Result]
MESH = "providers: {a: {connector: openai.llm.v1, api_key: '${secrets:K}'}}\nserver: {drain: 1s}\n"
PUSHED = {"number": 7, "version": "c0ffee12", "is_new": True, "left_out": []}


def config(*nodes: tuple[str, int, str], number: int = 7, scheduler: int | None = None) -> dict[str, Any]:
    rows = [{"id": n, "state": "alive", "number": v, "version": "c", "fault": f} for n, v, f in nodes]
    told = {"number": number, "time": 1.8e9, "author": "ann", "comment": "why", "version": "c0ffee12"}
    leads = {"id": "s", "state": "leads", "number": scheduler, "version": "", "fault": ""}
    return {
        "number": number,
        "proposed": 0,
        "told": {**told, "is_current": True} if number else None,
        "document": {"pools": {"chat": {"models": ["a.b"]}}},
        "nodes": rows,
        "scheduler": None if scheduler is None else leads,
    }


@pytest.fixture
def stub() -> Iterator[OpsStub]:
    with closing(OpsStub()) as stub:
        stub.answers["GET /ops/config"] = (200, config(("n1", 7, ""), ("n2", 7, "")))
        stub.answers["POST /ops/config"] = (200, PUSHED)
        stub.answers["POST /ops/config/rollback"] = (200, PUSHED)
        yield stub


@pytest.fixture
def invoke(stub: OpsStub, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command against the stub."""
    monkeypatch.setenv("MODELMESH_URL", stub.url)
    return lambda *words: CliRunner().invoke(app, ["config", *words], catch_exceptions=False)


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(MESH)
    return path


def test_a_push_tells_who_runs_it(invoke: Invoke, stub: OpsStub, mesh: Path):
    """References go as they are written, on the version that is in force; a process's own parts stay here."""
    result = invoke("push", str(mesh), "--comment", "more")
    ((_, body),) = [asked for asked in stub.asked if asked[0] == "POST /ops/config"]

    assert result.exit_code == 0, result.output
    assert "version 7 is in force (c0ffee12)" in result.stdout
    assert "n1 runs it" in result.stdout
    assert "version 7 runs on 2 nodes" in result.stdout
    assert "left out, for they are each process's own: server" in result.stdout
    assert body["document"] == {"providers": {"a": {"connector": "openai.llm.v1", "api_key": "${secrets:K}"}}}
    assert (body["base"], body["comment"], body["force"]) == (7, "more", False)
    assert "@" in body["author"]


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (config(("n1", 7, ""), ("n2", 6, "lacks a key")), "n2 runs version 6: lacks a key"),
        (config(("n1", 0, "")), "n1 runs its own file"),
        (config(("n1", 7, ""), scheduler=6), "s runs version 6"),
    ],
)
def test_who_lags_is_named(invoke: Invoke, stub: OpsStub, mesh: Path, view: dict[str, Any], line: str):
    """Exit code 1: the change is not done. The scheduler counts, too."""
    stub.answers["GET /ops/config"] = (200, view)
    result = invoke("push", str(mesh), "--timeout", "200ms")

    assert result.exit_code == 1
    assert "version 7 is in force, but not on every node after 0.2 s" in result.stderr
    assert line in result.stderr


def test_a_refusal_is_passed_on(invoke: Invoke, stub: OpsStub, mesh: Path):
    """As the node says it; exit code 1."""
    error = {
        "error": {"message": "nothing was changed\nn2: the secret K is missing", "code": "version_refused"}
    }
    stub.answers["POST /ops/config"] = (409, error)
    result = invoke("push", str(mesh))

    assert result.exit_code == 1
    assert "n2: the secret K is missing" in result.stderr


def test_a_secret_never_leaves_the_machine(invoke: Invoke, stub: OpsStub, mesh: Path):
    """It is refused before anything is sent, and not repeated."""
    mesh.write_text(MESH.replace("${secrets:K}", "hunter2"))
    result = invoke("push", str(mesh))

    assert result.exit_code == 1
    assert "providers.a.api_key: holds a value that is a secret" in result.stderr
    assert "hunter2" not in result.output
    assert stub.asked == []


def test_a_rollback_waits_for_every_node(invoke: Invoke, stub: OpsStub):
    """It is a push of an old document; programs get all of it."""
    result = invoke("rollback", "3", "--json")
    ((_, body),) = [asked for asked in stub.asked if asked[0].startswith("POST")]
    told = json.loads(result.stdout)

    assert result.exit_code == 0
    assert (body["number"], body["base"]) == (3, 7)
    assert (told["number"], [node["id"] for node in told["nodes"]]) == (7, ["n1", "n2"])


def test_what_is_shown_can_be_pushed(invoke: Invoke, stub: OpsStub):
    """YAML, with what is told of the version in comments, and who does not run it."""
    stub.answers["GET /ops/config"] = (200, config(("n1", 7, ""), ("n2", 6, "lacks a key")))
    text = invoke("show").stdout

    assert yaml.safe_load(text) == {"pools": {"chat": {"models": ["a.b"]}}}
    assert "# version 7 (c0ffee12) of 2027-01-15 08:00:00 UTC by ann: why" in text
    assert "# n2 runs 6 lacks a key" in text
    assert "n1" not in text


def test_without_a_version_that_is_said(invoke: Invoke, stub: OpsStub):
    """The file of a node is shown."""
    stub.answers["GET /ops/config"] = (200, config(("n1", 0, ""), number=0))

    assert "# no version was pushed" in invoke("show").stdout


def test_the_history_says_what_is_in_force(invoke: Invoke, stub: OpsStub):
    """Newest first, one line each."""
    told = {"time": 1.8e9, "author": "ann", "comment": "why", "version": "c0ffee12"}
    versions = [{**told, "number": n, "is_current": n == 7} for n in (7, 6)]
    stub.answers["GET /ops/config/history"] = (200, {"current": 7, "versions": versions})
    lines = [line for line in invoke("history").stdout.splitlines() if "ann" in line]

    assert [("in force" in line, line.split()[0]) for line in lines] == [(True, "7"), (False, "6")]


def test_an_old_version_is_shown(invoke: Invoke, stub: OpsStub):
    """By its number."""
    told = {"number": 3, "time": 1.8e9, "author": "ann", "comment": "", "version": "c", "is_current": False}
    stub.answers["GET /ops/config/3"] = (200, {**told, "document": {"pools": {}}})

    assert invoke("show", "3").stdout.splitlines()[0].startswith("# version 3 (c) of 2027")
