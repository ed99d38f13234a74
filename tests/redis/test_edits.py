"""What `serve` makes of an edited file where a version is in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.edits import FileEdits
from shared_state.config.loader import Written
from shared_state.store import Store
from shared_state.versions import Told, Versions

FILE: dict[str, Any] = {"models": {"a": {}, "b": {}}, "redis": {"url": "redis://:hunter2@x"}}


@pytest.fixture
def versions(open_store: Callable[..., Store]) -> Versions:
    return Versions(open_store(), node="n1")


@pytest.fixture
def look(open_store: Callable[..., Store]) -> Callable[..., Any]:
    """Starts `serve` with a document; the lines that it tells."""

    async def look(document: dict[str, Any], *, may_push: bool = True) -> list[str]:
        lines: list[str] = []
        step = FileEdits(
            Written(document, "mesh.yaml"),
            open_store=open_store,
            digest="d",
            may_push=may_push,
            tell=lambda name, line: lines.append(line),
        )
        await step.start()
        await step.wait_ready()
        return lines

    return look


async def push(versions: Versions, document: dict[str, Any]) -> int:
    number = await versions.propose(document, Told(), base=(await versions.pulse()).current)
    await versions.decide(number, is_good=True)
    return number


async def test_without_versions_the_file_is_all_there_is(look: Callable[..., Any], versions: Versions):
    """Nothing is pushed unasked."""
    assert await look(FILE) == []
    assert (await versions.pulse()).current == 0


async def test_an_edited_file_is_the_next_version(look: Callable[..., Any], versions: Versions):
    """Without what is the process's own; once, however often `serve` is started. An edit may be of the order alone."""
    await push(versions, {"models": {"a": {}}})
    first, again = await look(FILE), await look(FILE)
    turned = await look({**FILE, "models": {"b": {}, "a": {}}})

    assert first == ["mesh.yaml was edited: it is version 2 now"]
    assert again == []
    assert turned == ["mesh.yaml was edited: it is version 3 now"]
    assert (await versions.read(2)).document == {"models": {"a": {}, "b": {}}}
    assert (await versions.read(3)).told.author == "serve"


async def test_a_file_that_was_a_version_is_no_edit(look: Callable[..., Any], versions: Versions):
    """What was pushed after it counts; that is told."""
    await push(versions, {"models": {"a": {}, "b": {}}})
    await push(versions, {"models": {"c": {}}})

    assert await look(FILE) == [
        "version 2 is in force, not mesh.yaml, which is as version 1 was: `modelmesh config history`"
    ]
    assert (await versions.pulse()).current == 2


async def test_what_may_not_be_pushed_is_told(look: Callable[..., Any], versions: Versions):
    """A file with secrets, and any file on a Redis that others use."""
    await push(versions, {"models": {"c": {}}})
    secret = await look({"providers": {"p": {"api_key": "hunter2"}}})
    elsewhere = await look(FILE, may_push=False)

    assert [line.partition(":")[0] for line in secret + elsewhere] == [
        "version 1 is in force, and mesh.yaml differs and is not used"
    ] * 2
    assert "hunter2" not in str(secret)
    assert (await versions.pulse()).current == 1


async def test_a_store_that_is_away_holds_nobody_up(look: Callable[..., Any]):
    """The nodes will say so."""
    step = FileEdits(
        Written(FILE, "mesh.yaml"),
        open_store=lambda: Store("redis://127.0.0.1:1/0", timeout_s=0.2),
        digest="d",
        may_push=True,
        tell=lambda name, line: pytest.fail(line),
    )

    await step.wait_ready()
