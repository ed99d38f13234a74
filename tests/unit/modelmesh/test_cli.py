"""The command line: operators' commands against a stub, exit codes, help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from typer.testing import CliRunner, Result

from modelmesh import __version__
from modelmesh.cli.app import app
from tests.support.processes import free_port
from tests.unit.modelmesh.ops_stub import OpsStub
from tests.unit.modelmesh.samples import books, explained, replayed, stats, status, usage

Invoke = Callable[..., Result]


@pytest.fixture
def stub() -> Iterator[OpsStub]:
    with closing(OpsStub()) as stub:
        stub.answers["GET /ops/status"] = (200, status())
        yield stub


@pytest.fixture
def invoke(stub: OpsStub, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command against the stub."""
    monkeypatch.setenv("MODELMESH_URL", stub.url)
    monkeypatch.delenv("MODELMESH_ADMIN_TOKEN", raising=False)
    return lambda *arguments: CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize("command", ["status", "nodes", "pools", "models", "providers"])
def test_views_end_well(invoke, command):
    """Each view shows something it knows."""
    result = invoke(command)

    assert result.exit_code == 0
    assert {"status": "c0ffee12", "nodes": "n1", "pools": "chat"}.get(command, "alpha") in result.stdout


@pytest.mark.parametrize("command", ["nodes", "pools", "models", "providers"])
def test_json_is_the_answer_itself(invoke, command):
    """Programs get the very shapes of the API."""
    assert json.loads(invoke(command, "--json").stdout) == status()[command]


def test_status_json_is_the_whole_answer(invoke):
    """Nothing is left out."""
    assert json.loads(invoke("status", "--json").stdout) == status()


def test_the_audit_passes_when_the_books_balance(invoke, stub):
    """Exit code 0."""
    stub.answers["GET /ops/books"] = (200, books())

    assert invoke("audit").exit_code == 0
    assert json.loads(invoke("audit", "--json").stdout) == books()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_audit_fails_when_one_balance_is_off(invoke, stub, flags):
    """Exit code 1, with or without --json."""
    stub.answers["GET /ops/books"] = (200, books(difference=1))

    assert invoke("audit", *flags).exit_code == 1


def test_usage_and_statistics(invoke, stub):
    """A view for people, the answer itself for programs; the options go along."""
    stub.answers["GET /ops/usage"] = (200, usage())
    stub.answers["GET /ops/stats?minutes=2&by=pool"] = (200, stats())
    stub.answers["GET /ops/stats?minutes=5&by=model"] = (200, stats())

    assert "chat  1 of 2 active" in invoke("usage").stdout
    assert json.loads(invoke("usage", "--json").stdout) == usage()
    assert "1,234" in invoke("stats").stdout
    assert json.loads(invoke("stats", "--minutes", "2", "--by", "pool", "--json").stdout) == stats()
    assert invoke("stats", "--minutes", "61").exit_code == 2


def feed(*events: dict[str, object]) -> bytes:
    """Events as a node sends them, with a heartbeat in between."""
    return b": beat\n\n".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


def test_events_are_lines_or_json(invoke, stub):
    """The latest, oldest first."""
    event = status()["events"][0]
    stub.answers["GET /ops/events?follow=false&last=7"] = (
        200,
        feed(event, {**event, "model": "alpha.small"}),
    )
    lines = invoke("events", "--last", "7").stdout.splitlines()

    assert [line.split()[3:5] for line in lines] == [
        ["deactivated", name] for name in ("beta.large", "alpha.small")
    ]
    assert json.loads(invoke("events", "-n", "7", "--json").stdout)[0] == event


def test_events_refused_are_told(invoke, stub):
    """As with every command."""
    stub.answers["GET /ops/events?follow=true&last=50"] = (
        401,
        {"error": {"message": "admin token required"}},
    )

    assert "MODELMESH_ADMIN_TOKEN" in invoke("events", "--follow").stderr


def test_deactivate_takes_a_model(invoke, stub):
    """Reason and duration go along; the answer is put in words."""
    answer = {"id": "alpha/x.small", "status": "standby", "reason": "tests", "until": time.time() + 600.5}
    stub.answers["POST /ops/models/alpha%2Fx.small/deactivate"] = (200, answer)

    result = invoke("deactivate", "alpha/x.small", "--reason", "tests", "--for", "10m")

    assert stub.asked[-1][1] == {"reason": "tests", "for_s": 600.0}
    assert result.stdout == "alpha/x.small is standby, back in 10m\n"


def test_without_a_reason_there_is_one_all_the_same(invoke, stub):
    """Whoever asks why must not find nothing."""
    answer = {"id": "alpha", "status": "standby", "reason": "by an operator", "until": None}
    stub.answers["POST /ops/models/alpha/deactivate"] = (200, answer)

    assert invoke("deactivate", "alpha").stdout == "alpha is standby\n"
    assert stub.asked[-1][1] == {"reason": "by an operator", "for_s": None}


@pytest.mark.parametrize(
    ("answer", "line", "code"),
    [
        ({"verdict": "well", "latency_ms": 12.4}, "alpha/x.small well, 12 ms\n", 0),
        (
            {"verdict": "not_asked", "message": "no model is active"},
            "alpha/x.small not asked: no model is active\n",
            1,
        ),
    ],
)
def test_probe_tells_the_verdict_and_how_long_it_took(invoke, stub, answer, line, code):
    """Exit code 1 for anything but well; programs get the answer itself."""
    answer = {"id": "alpha/x.small", **answer}
    stub.answers["POST /ops/models/alpha%2Fx.small/probe"] = (200, answer)
    shown = invoke("probe", "alpha/x.small")

    assert (shown.stdout, shown.exit_code) == (line, code)
    assert json.loads(invoke("probe", "alpha/x.small", "--json").stdout).items() >= answer.items()


def test_activate_falls_back_to_a_provider(invoke, stub):
    """A name that no model has may be a provider's."""
    answer = {"id": "alpha", "status": "active", "reason": "", "until": None}
    stub.answers["POST /ops/providers/alpha/activate"] = (200, answer)

    result = invoke("activate", "alpha", "--json")

    assert json.loads(result.stdout) == answer
    assert [line for line, _ in stub.asked] == [
        "POST /ops/models/alpha/activate",
        "POST /ops/providers/alpha/activate",
    ]


def test_an_unknown_name_gets_near_ones(invoke):
    """Exit code 1, and a hint."""
    result = invoke("activate", "alpha.smal")

    assert result.exit_code == 1
    assert "no model or provider is named 'alpha.smal'; did you mean alpha.small" in result.stderr


def test_a_duration_that_is_none_is_a_usage_error(invoke, stub):
    """Nothing is sent."""
    assert invoke("deactivate", "alpha", "--for", "soon").exit_code == 2
    assert stub.asked == []


def test_the_token_is_sent(invoke, stub, monkeypatch):
    """MODELMESH_ADMIN_TOKEN opens the operators' API."""
    monkeypatch.setenv("MODELMESH_ADMIN_TOKEN", "s3cret")
    invoke("status")

    assert stub.tokens == ["Bearer s3cret"]


def test_a_refused_token_names_the_variable(invoke, stub):
    """401 is told with its remedy, on standard error."""
    stub.answers["GET /ops/status"] = (401, {"error": {"message": "admin token required"}})
    result = invoke("status")

    assert result.exit_code == 1
    assert result.stderr == "modelmesh: admin token required (set MODELMESH_ADMIN_TOKEN)\n"


@pytest.mark.parametrize("answer", [(200, b"<html>"), (502, b"<html>"), (500, {"error": "text"})])
def test_a_stranger_at_the_address_is_recognised(invoke, stub, answer):
    """What is no answer of ours is one line, not a traceback."""
    stub.answers["GET /ops/status"] = answer
    result = invoke("status")

    assert result.exit_code == 1
    assert "is it a ModelMesh?" in result.stderr


def test_nobody_there_is_one_line_and_exit_code_2(invoke, monkeypatch):
    """Connection refused says what to do."""
    monkeypatch.setenv("MODELMESH_URL", url := f"http://127.0.0.1:{free_port()}")
    result = invoke("status")

    assert result.exit_code == 2
    assert result.stderr == f"modelmesh: no ModelMesh answers at {url}: start one, or set MODELMESH_URL\n"


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://[::", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_one_line(invoke, monkeypatch, url):
    """A typo in MODELMESH_URL is no traceback."""
    monkeypatch.setenv("MODELMESH_URL", url)
    result = invoke("status")

    assert result.exit_code in (1, 2)
    assert len(result.stderr.splitlines()) == 1


def test_explain_sends_what_would_be_asked(invoke, stub, tmp_path):
    """Model, body, headers, API; the view says who would serve."""
    stub.answers["POST /ops/explain"] = (200, explained())
    body = tmp_path / "body.json"
    body.write_text('{"messages": [{"role": "user", "content": "hi"}]}')

    result = invoke("explain", "-m", "chat", "--body", str(body), "-H", "X-ModelMesh-Session: s1")

    assert result.exit_code == 0
    assert "➜ beta.large" in result.stdout
    assert stub.asked == [
        (
            "POST /ops/explain",
            {
                "model": "chat",
                "api": "chat/completions",
                "body": json.loads(body.read_text()),
                "headers": {"x-modelmesh-session": "s1"},
            },
        )
    ]
    assert json.loads(invoke("explain", "-m", "chat", "--json", "--key", "k1").stdout) == explained()
    assert stub.asked[-1][1]["key"] == "k1"


@pytest.mark.parametrize("text", ["[]", "{", None])
def test_a_body_that_is_none_is_a_usage_error(invoke, stub, tmp_path, text):
    """Nothing is asked."""
    body = tmp_path / "body.json"
    if text is not None:
        body.write_text(text)

    assert invoke("explain", "-m", "chat", "--body", str(body)).exit_code == 2
    assert stub.asked == []


def test_replay_says_whether_the_same_comes_out(invoke, stub):
    """Exit code 1 if it does not, and which way it went."""
    stub.answers["GET /ops/requests/r-1/replay"] = (200, replayed(same=True))
    stub.answers["GET /ops/requests/r-2/replay"] = (200, replayed(same=False))
    same, other = invoke("replay", "r-1"), invoke("replay", "r-2")
    unknown = invoke("replay", "r-3")

    assert (same.exit_code, other.exit_code, unknown.exit_code) == (0, 1, 1)
    assert "replayed to the same pick: beta.large" in same.stdout
    assert "pick differs" in other.stdout
    assert "unknown" in unknown.stderr


def test_rotate_moves_a_pool_on(invoke, stub):
    """The reason goes along; the answer says who went and who came."""
    answer = {"pool": "chat", "strategy": "s", "by": "standby", "was": "alpha.small", "now": "beta.large"}
    stub.answers["POST /ops/pools/chat/rotate"] = (200, answer)
    result = invoke("rotate", "chat", "--for", "10m", "--reason", "new month")

    assert (
        result.stdout.strip() == "chat has moved on from alpha.small to beta.large; alpha.small is on standby"
    )
    assert stub.asked == [("POST /ops/pools/chat/rotate", {"reason": "new month", "for_s": 600})]


def test_the_help_names_every_command(invoke):
    """The commands of this release."""
    text = invoke("--help").stdout

    for command in (
        "serve",
        "demo",
        "node",
        "scheduler",
        "config",
        "status",
        "usage",
        "stats",
        "events",
        "audit",
        "deactivate",
        "activate",
        "explain",
        "replay",
        "rotate",
        "state",
    ):
        assert command in text


def test_the_version(invoke):
    """`--version` prints it and ends."""
    assert invoke("--version").stdout == f"{__version__}\n"


def test_the_help_loads_nothing_heavy():
    """Help must be there at once: no server, no client, no configuration models."""
    heavy = ("httpx", "pydantic", "redis", "hypercorn", "starlette", "sqlalchemy", "yaml")
    code = f"import sys, modelmesh.cli.app; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout == "[]\n"


@pytest.mark.parametrize("module", ["modelmesh", "node", "scheduler"])
def test_modules_are_commands_too(module):
    """`python -m` does the same as the command."""
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )

    assert "Run one" in result.stdout


@pytest.mark.parametrize("module", ["node", "scheduler"])
def test_a_server_keeps_nothing_of_the_command_line(invoke, monkeypatch, module):
    """Typer and Rich would stay in the memory of every node: the process goes on as another program."""
    became = []
    monkeypatch.setattr(os, "execv", lambda *given: became.append(given))
    invoke(module, "-c", "mesh.yaml")

    assert became == [(sys.executable, [sys.executable, "-P", "-m", module, "-c", "mesh.yaml"])]


def test_what_a_server_is_told_wrongly_is_told_by_the_command(invoke, monkeypatch):
    """Usage names the command that was given."""
    monkeypatch.setattr(os, "execv", None)
    result = invoke("node", "--port", "many")

    assert result.exit_code == 2
    assert "usage: modelmesh node" in result.stderr


# -- client keys

KEY = {
    "id": "0f0f",
    "name": "billing",
    "status": "active",
    "created": 1_790_000_000.0,
    "expires": None,
    "revoked": None,
    "models": ["chat", "alpha.*"],
    "limits": {"rpm": 60, "usd_per_day": 2.5},
    "windows": [{"name": "rpm", "used": 7.0, "limit": 60.0, "resets": None}],
    "note": "",
}


def test_a_key_is_made_with_its_limits_and_shown_once(invoke, stub):
    """The text stands on a line of its own; what was not said is not sent."""
    stub.answers["POST /ops/keys"] = (200, {**KEY, "key": "mm-secret"})
    options = ["--models", "chat, alpha.*", "--rpm", "60", "--usd-per-day", "2.5", "--expires", "30d"]
    result = invoke("keys", "create", "billing", *options)

    assert stub.asked[-1][1] == {
        "name": "billing",
        "models": ["chat", "alpha.*"],
        "limits": {"rpm": 60, "usd_per_day": 2.5},
        "expires_s": 30 * 86400.0,
        "note": "",
    }
    assert result.stdout.splitlines()[0] == "mm-secret"
    assert "rpm=60 usd_per_day=2.5" in result.stdout
    assert json.loads(invoke("keys", "create", "billing", "--json").stdout)["key"] == "mm-secret"


def test_keys_are_listed(invoke, stub):
    """With what they may do."""
    stub.answers["GET /ops/keys"] = (200, {"keys": [KEY]})

    result = invoke("keys", "list")
    assert all(text in result.stdout for text in ("0f0f", "billing", "active", "chat alpha.*", "rpm 7/60"))
    assert json.loads(invoke("keys", "list", "--json").stdout) == [KEY]


def test_a_key_is_revoked_by_its_id(invoke, stub):
    """An unknown one is a refusal."""
    stub.answers["DELETE /ops/keys/0f0f"] = (200, {**KEY, "status": "revoked"})

    assert invoke("keys", "revoke", "0f0f").stdout == "0f0f (billing) is revoked\n"
    assert invoke("keys", "revoke", "nobody").exit_code == 1
