"""Who is probed: what waits for a trial and nothing else, once nobody has asked for it for long enough."""

from __future__ import annotations

from typing import Any

import pytest

from shared_state.config.loader import read_config
from shared_state.rotation.probing import interval_of, is_probed_on_start, is_waiting, waits_since_ms
from shared_state.state import ACTIVE, EntityState
from shared_state.topology import Topology, build_topology
from tests.unit.shared_state.test_selection import document

NOW_MS = 1_000_000


def out(reason: str = "error_threshold", mode: str = "trial", **fields: Any) -> EntityState:
    return EntityState("standby", reason, mode, **{"until_ms": NOW_MS - 500, **fields})


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((ACTIVE, ACTIVE), False),
        ((out(), ACTIVE), True),
        ((ACTIVE, out("auth")), True),
        ((out(until_ms=NOW_MS + 9), ACTIVE), True),
        ((out(mode="manual"), ACTIVE), False),
        ((out(mode="time"), ACTIVE), False),
        ((out(), out(mode="manual")), False),
        ((out(phase="trial", trial_until_ms=NOW_MS + 9), ACTIVE), False),
        ((out(phase="trial", trial_until_ms=NOW_MS - 9), ACTIVE), True),
    ],
)
def test_only_a_trial_may_stand_in_the_way(states: tuple[EntityState, ...], expected: bool) -> None:
    """And none that runs: real traffic is as good as a probe."""
    assert is_waiting(states, NOW_MS) is expected


def test_it_waits_since_the_later_of_both_was_due() -> None:
    """Before that no request could have tried it."""
    assert waits_since_ms((out(until_ms=5), out(until_ms=9))) == 9
    assert waits_since_ms((out(until_ms=5), EntityState(until_ms=9))) == 5


def topology(usual: str | None = None, **pools: dict[str, Any]) -> Topology:
    scheduler = {} if usual is None else {"scheduler": {"probe_interval": usual}}
    return build_topology(read_config({**document(**pools), **scheduler}, environ={}))


@pytest.mark.parametrize(
    ("usual", "pools", "expected"),
    [
        (None, {}, 300),
        ("20s", {}, 20),
        ("20s", {"chat": {}}, 20),
        ("20s", {"chat": {"recovery": {"probe_interval": "7s"}}}, 7),
        (None, {"chat": {"recovery": {"probe_interval": 0}}}, 0),
        (None, {"chat": {"recovery": {"probe_interval": 0}}, "more": {"recovery": {"probe_interval": 9}}}, 9),
        ("0s", {"chat": {}}, 0),
    ],
)
def test_the_most_impatient_pool_decides(usual: str | None, pools: dict[str, Any], expected: float) -> None:
    """A pool that says nothing follows the scheduler; 0 is never."""
    built = topology(usual, **pools)

    assert interval_of(built.models["a.m"], built) == expected


@pytest.mark.parametrize(
    ("capabilities", "recovery", "expected"),
    [
        (["text-to-image"], {}, 0),
        (["text-to-image"], {"probe_interval": "7s"}, 7),
        (["text-to-image", "text-to-video"], {}, 0),
        (["text-to-image", "chat-completion"], {}, 300),
        (["text-to-speech"], {}, 300),
    ],
)
def test_what_costs_real_money_is_probed_only_by_order(
    capabilities: list[str], recovery: dict[str, Any], expected: float
) -> None:
    """An image is never small; who does something else as well is asked for that."""
    given = document(chat={"models": ["a.m"], "recovery": recovery})
    given["models"]["a.m"]["capabilities"] = capabilities
    built = build_topology(read_config(given, environ={}))

    assert interval_of(built.models["a.m"], built) == expected


def test_a_pool_may_ask_for_a_probe_at_the_start() -> None:
    """For its own members."""
    built = topology(chat={"models": ["a.m"], "recovery": {"probe_on_start": True}}, more={})

    assert [is_probed_on_start(model, built) for model in built.models.values()] == [True, False, False]
