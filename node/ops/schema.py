"""What the operators' API answers; times in unix seconds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from shared_state.config.limits import BudgetConfig, LimitsConfig
from shared_state.config.values import DurationS


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class StoreView(_Row):
    """The shared state as this node reaches it."""

    url: str
    connected: bool
    round_trip_ms: float


class JobView(_Row):
    """One job of the scheduler's timetable."""

    name: str
    interval_s: float
    last_run: float | None = None
    duration_ms: float | None = None
    last_error: str | None = None
    runs: int = 0
    missed: int = 0


class SchedulerView(_Row):
    """Who keeps the timetable."""

    leader: str | None
    token: int
    since: float | None
    jobs: list[JobView]


class NodeView(_Row):
    """A router node in the registry."""

    id: str
    host: str
    port: int
    pid: int
    started: float
    seen_s: float
    state: str
    version: str
    config_version: str
    mode: str
    in_flight: int


class WindowView(_Row):
    """How full a window is; money in USD."""

    name: str
    used: float
    limit: float
    resets: float | None


class PoolView(_Row):
    """A pool, the state of its members, and its own windows."""

    id: str
    capability: str | None
    strategy: str
    active: int
    standby: int
    models: list[str]
    current: str | None
    windows: list[WindowView]


class ModelView(_Row):
    """A model: state, books and windows, its account's included (``account.`` before their names)."""

    id: str
    provider: str
    domain: str
    status: str
    phase: str
    reason: str
    since: float | None
    until: float | None
    fails: int
    in_flight: int
    requests: int
    failed: int
    windows: list[WindowView]


class ProviderView(_Row):
    """A provider account."""

    id: str
    domain: str
    connector: str
    status: str
    reason: str
    until: float | None
    models: int


class EventView(_Row):
    """A change of state."""

    time: float
    type: str
    domain: str
    model: str | None
    provider: str | None
    reason: str
    until: float | None
    node: str | None


class StatusView(_Row):
    """Everything at once."""

    mode: str
    config_version: str
    store: StoreView
    scheduler: SchedulerView
    nodes: list[NodeView]
    pools: list[PoolView]
    models: list[ModelView]
    providers: list[ProviderView]
    events: list[EventView]


class BookView(_Row):
    """One account of the books; ``difference`` is 0 when it balances.

    ``kind`` is ``account`` for traffic to models. Gates (``mesh``, ``pool``, ``key``) count the same calls once more, so they are not
    in the totals.
    """

    domain: str
    kind: str
    model: str
    provider: str
    pool: str
    admitted: int
    settled: int
    abandoned: int
    in_flight: int
    difference: int


class BooksView(_Row):
    """The books of the cluster."""

    balanced: bool
    time: float
    rows: list[BookView]
    totals: dict[str, int]


class KeyView(_Row):
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


class KeysView(_Row):
    """All client keys."""

    keys: list[KeyView]


class NewKeyView(KeyView):
    """A client key that was made just now; ``key`` is its text, which nobody will show again."""

    key: str


class KeyBody(BaseModel):
    """What a new client key may do; everything but its name may be left out.

    Attributes:
        models: pools, models and capabilities; ``*`` stands for any part of a name; empty: all.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    models: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list, max_length=200
    )
    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
    expires_s: DurationS | None = Field(None, gt=0)
    note: str = Field("", max_length=500)


class OrderView(_Row):
    """State of a model or provider after an order."""

    id: str
    status: str
    reason: str
    until: float | None


class OrderBody(BaseModel):
    """Body of ``deactivate``; everything may be left out."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("manual", min_length=1, max_length=200)
    for_s: DurationS | None = Field(None, gt=0)
