"""Strategies of one's own: found, created with their options, and kept from doing harm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.routing.strategies import Need, build_strategies
from shared_state.errors import ConfigurationError
from tests.unit.node.house import mesh
from tests.unit.node.routing.strategies.ranks import Ranks

MODULE = """
class Backwards:
    needs = frozenset({"turn"})

    def __init__(self, skip=0):
        self.skip = skip

    def rank(self, candidates, request, hints):
        return list(reversed(candidates))[self.skip:]


class Broken:
    def rank(self, candidates, request, hints):
        raise KeyError("oops")


class Doubling:
    def rank(self, candidates, request, hints):
        return [*candidates, candidates[0]]


class Inventing:
    def rank(self, candidates, request, hints):
        return [*candidates, "gpt-9"]


class Aimless:
    pass


number = 5
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that every node could import."""
    (tmp_path / "my_choice.py").write_text(MODULE)
    (tmp_path / "my_ruin.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("my_choice", "my_ruin"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["my_choice:Backwards", "my_choice.Backwards"])
def test_a_class_is_found_by_its_path(name: str) -> None:
    """With a colon or a dot; it need not derive from anything."""
    ranks = Ranks(name)

    assert ranks("abc") == "cba"
    assert Need.TURN in ranks.strategy.needs


def test_options_are_its_keyword_arguments() -> None:
    """What it leaves out is not tried."""
    assert Ranks("my_choice:Backwards", strategy_options={"skip": 1})("abc") == "ba"


def test_an_entry_point_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed packages need no path in the configuration."""
    entry = EntryPoint("backwards", "my_choice:Backwards", "modelmesh.strategies")

    def entry_points(*, group: str, name: str) -> list[EntryPoint]:
        return [entry] if (group, name) == (entry.group, entry.name) else []

    monkeypatch.setattr("shared_state.config.strategies.entry_points", entry_points)
    monkeypatch.setattr("node.routing.strategies.custom.entry_points", entry_points)

    assert Ranks("backwards")("abc") == "cba"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "nowhere.at.all:X",
            {},
            "module 'nowhere.at.all' of 'nowhere.at.all:X' cannot be imported: No module named",
        ),
        (
            "my_ruin:X",
            {},
            "module 'my_ruin' of 'my_ruin:X' cannot be imported: No module named 'no_such_module'",
        ),
        ("my_choice:Forwards", {}, "module 'my_choice' has no 'Forwards'"),
        ("my_choice:number", {}, "'my_choice:number' is no class with a method rank"),
        ("my_choice:Aimless", {}, "'my_choice:Aimless' is no class with a method rank"),
        (
            "my_choice:Backwards",
            {"jump": 1},
            "'my_choice:Backwards' cannot be created with its strategy_options: .*unexpected keyword argument 'jump'",
        ),
    ],
)
def test_what_is_missing_is_named(name: str, options: dict[str, Any], message: str) -> None:
    """At the start of a node, with the pool's path; all faults at once."""
    pool = {"models": ["a.m"], "strategy": name, **({"strategy_options": options} if options else {})}
    pools = mesh("a.m", pools={"one": pool, "two": pool, "three": {"models": ["a.m"]}}).pools.values()
    with pytest.raises(ConfigurationError, match=message) as caught:
        build_strategies(pools)

    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "pools.one.strategy",
        "pools.two.strategy",
    ]


@pytest.mark.parametrize("name", ["Broken", "Doubling", "Inventing"])
def test_a_strategy_that_fails_is_contained(name: str) -> None:
    """Pool order is used, and one line in the log says so, however often it happens."""
    ranks = Ranks(f"my_choice:{name}")
    with capture_logs() as lines:
        rankings = [ranks("abc"), ranks("abc"), ranks("bc")]

    assert rankings == ["abc", "abc", "bc"]
    assert len(lines) == 1
    assert lines[0]["strategy"] == f"my_choice:{name}"


def test_it_may_be_the_fallback_of_a_priority() -> None:
    """Wherever a strategy is named."""
    ranks = Ranks("priority-selection", model_priority=["b.m"], fallback_strategy="my_choice:Backwards")

    assert ranks("abcd") == "bdca"
