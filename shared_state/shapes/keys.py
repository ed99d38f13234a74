"""Client keys in the operators' API; times in unix seconds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from shared_state.config.limits import BudgetConfig, LimitsConfig
from shared_state.config.values import DurationS
from shared_state.shapes.row import Row
from shared_state.shapes.status import WindowView


class KeyView(Row):
    """A client key; ``limits`` holds what is limited, ``windows`` in the list how much of it is used."""

    id: str
    name: str
    status: str
    created: float
    expires: float | None
    revoked: float | None
    models: list[str]
    limits: dict[str, Any]
    windows: list[WindowView]
    note: str


class KeysView(Row):
    """All client keys."""

    keys: list[KeyView]


class NewKeyView(KeyView):
    """A client key that was made just now; ``key`` is its text, which nobody will show again."""

    key: str


class KeyBody(BaseModel):
    """What a new client key may do; everything but its name may be left out."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    models: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list,
        max_length=200,
        description="pools, models and capabilities; * stands for any part of a name; empty: all",
    )
    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
    expires_s: DurationS | None = Field(None, gt=0)
    note: str = Field("", max_length=500)
