"""`modelmesh.create`: what it wishes for, what it refuses, and a plain script that uses it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import modelmesh
from modelmesh.zero_config import Wishes, find_providers

_ROOT = Path(__file__).parents[3]
ENVIRON = {"OPENAI_API_KEY": "sk-o", "GROQ_API_KEY": "gsk-g", "HOME": "/home/x"}
NOTHING: dict[str, Any] = dict.fromkeys(("providers", "models", "strategy", "api_keys"))


def wishes(**given: Any) -> Wishes:
    return Wishes(**{**NOTHING, **given})


def found(**given: Any) -> dict[str, Any]:
    return find_providers(wishes(**given), ENVIRON)[0].document


def test_without_wishes_it_is_what_the_environment_has():
    """As `modelmesh serve` without a configuration has it."""
    assert found()["providers"].keys() == {"openai", "groq"}


def test_providers_are_narrowed_down():
    """Others are not there, nor are their models."""
    assert found(providers=["groq"])["providers"].keys() == {"groq"}
    assert {model["provider"] for model in found(providers=["groq"])["models"].values()} == {"groq"}


def test_models_are_narrowed_down_with_the_pools_that_they_make():
    """No provider, and no pool, is left without a model."""
    document = found(models=["groq.llama-3.3-70b-versatile"])

    assert document["models"].keys() == {"groq.llama-3.3-70b-versatile"}
    assert document["providers"].keys() == {"groq"}
    assert document["pools"].keys() == {"chat-completion"} or "chat-completion" in document["pools"]


def test_a_strategy_is_that_of_every_pool():
    """Whatever pools there are."""
    strategies = {pool["strategy"] for pool in found(strategy="round-robin")["pools"].values()}

    assert strategies == {"round-robin"}


def test_given_keys_replace_those_of_the_environment():
    """They stand in no document, and no other provider is used."""
    written, environ = find_providers(wishes(api_keys={"mistral": "key-m"}), ENVIRON)

    assert written.document["providers"].keys() == {"mistral"}
    assert "key-m" not in json.dumps(written.document)
    assert (environ["MISTRAL_API_KEY"], environ.get("OPENAI_API_KEY")) == ("key-m", None)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"providers": ["opena"]}, "unknown provider 'opena'; did you mean 'openai'"),
        ({"api_keys": {"nobody": "x"}}, "unknown provider 'nobody'"),
        ({"models": ["openai.gpt-4"]}, "unknown model 'openai.gpt-4'"),
    ],
)
def test_a_wish_that_means_nothing_is_refused(given, says):
    """With what there is."""
    with pytest.raises(ValueError, match=says):
        found(**given)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without any key."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_HOST")) or name.startswith("MODELMESH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MODELMESH_HOME", str(tmp_path))


@pytest.mark.usefixtures("bare")
def test_without_keys_the_variables_are_named():
    """The error is one of configuration, and a RuntimeError."""
    with pytest.raises(modelmesh.NoProvidersError, match="OPENAI_API_KEY.*OLLAMA_HOST") as refused:
        modelmesh.create("chat-completion")

    assert isinstance(refused.value, modelmesh.ConfigurationError)
    assert isinstance(refused.value, RuntimeError)


@pytest.mark.usefixtures("bare")
def test_names_are_checked_before_anything_starts(monkeypatch, tmp_path):
    """A name that nothing serves, none at all, wishes beside a configuration."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-o")

    with pytest.raises(modelmesh.ModelNotFoundError, match="near names: chat-completion"):
        modelmesh.create("chat-complet")
    with pytest.raises(ValueError, match="Name a capability"):
        modelmesh.create()
    with pytest.raises(ValueError, match="a configuration says that itself"):
        modelmesh.create("chat-completion", config={"providers": {"x": {}}}, providers=["openai"])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(monkeypatch):
    """Whoever has no `openai` hears what to install, before anything starts."""
    monkeypatch.setitem(sys.modules, "openai", None)

    with pytest.raises(modelmesh.MissingExtraError, match=r"modelmesh\[openai\]") as refused:
        modelmesh.create("chat-completion")

    assert isinstance(refused.value, ImportError)


_SCRIPT = """
import asyncio, os, threading
import modelmesh

HI = [{"role": "user", "content": "hi"}]
PATIENT = {"redis": {"timeout": "5s"}}  # laid over what the environment has
client = modelmesh.create("chat-completion", config=PATIENT)

def ask(**more):
    return client.chat.completions.create(messages=HI, **more)

print("plain", ask().choices[0].message.content)
print("alias", ask(model="chat-completion").model)
print("stream", "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True) if chunk.choices))
print("raw", client.chat.completions.with_raw_response.create(messages=HI).headers["x-modelmesh-model"])
print("copy", client.with_options(timeout=9).chat.completions.create(messages=HI).choices[0].finish_reason)

other = modelmesh.create("text-generation", config=PATIENT)
print("shared", other.mesh is client.mesh)
other.close()
other.close()

answers = []
threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("threads", len(answers))

async def notebook():
    return ask().choices[0].finish_reason

print("notebook", asyncio.run(notebook()))

pid = os.fork()
if not pid:
    try:
        ask()
    except modelmesh.MeshClosedError as error:
        print("child", error, flush=True)
    print("lock let go of", client.mesh._embedded._lock._file.closed, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print("nodes", [node.state for node in client.status().nodes], client.mesh.describe().splitlines()[-1])

late = threading.Thread(target=lambda: (threading.main_thread().join(), print("late", ask().choices[0].finish_reason)))
late.start()
"""


#: What Python says of things that were not ended; lines of our log may be there on a slow machine.
_COMPLAINTS = re.compile(
    "ResourceWarning|RuntimeWarning|never awaited|was destroyed|Exception ignored|shutdown"
)


def test_a_plain_script(mock_provider, tmp_path):
    """Calls, streams, threads, a running loop, a fork; and at the end nothing is left, and nothing said, of what was started."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_HOST"))}
    environ |= {
        "OLLAMA_HOST": mock_provider("alpha", tokens=2).root_url,
        "MODELMESH_HOME": str(tmp_path),
        "PYTHONPATH": str(_ROOT),
        "PYTHONWARNINGS": "default",
    }
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=50
    )

    assert not _COMPLAINTS.search(done.stderr), done.stderr
    assert done.stdout.splitlines() == [
        "plain alpha: hi",
        "alias llama3",
        "stream alpha: hi",
        "raw ollama.llama3",
        "copy stop",
        "shared True",
        "threads 8",
        "notebook stop",
        "child this mesh belongs to the process that this one was forked from; make one here",
        "lock let go of True",
        "nodes ['alive']   -> ollama.llama3 [ollama] (active)",
        "late stop",
    ]
    assert done.returncode == 0
    assert (tmp_path / "statistics.db").exists()
    assert not _uses(tmp_path)


def _uses(folder: Path) -> list[str]:
    """Processes that name the folder in their command line."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [command for command in commands if str(folder) in command]
