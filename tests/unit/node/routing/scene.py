"""What the tests of the router share: a priced house, and how a settlement is charged."""

from __future__ import annotations

from typing import Any

from shared_state.ledger import UNKNOWN, Settlement
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import FINISH, ROLE, ScriptedTransport, chunk

PRICED = {"pricing": {"input": 1.0, "output": 2.0}}
GOOD = (ROLE, chunk("one"), chunk("two"), FINISH)
CLOCKS = {"timeouts": {"connect": "5s", "first_token": "30s", "idle": "20s", "total": "300s"}}


def house(*, retry: dict[str, Any] | None = None, **scripts: Any) -> House:
    """A node whose pool ``chat`` holds one model on each scripted provider, in that order."""
    topology = mesh(
        *(f"{name}.m" for name in scripts),
        model=PRICED,
        provider=CLOCKS,
        pool={"retry": retry or {"max_attempts": 1}},
    )
    return House(topology, ScriptedTransport(**scripts))


def charged(settlement: Settlement) -> tuple[int, int, int]:
    return settlement.tokens_in, settlement.tokens_out, settlement.cost_nano


CHARGED_IN_FULL = (UNKNOWN, UNKNOWN, UNKNOWN)
CHARGED_NOTHING = (0, 0, 0)
