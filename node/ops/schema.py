"""What the operators' API answers; times in unix seconds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from shared_state.config.values import DurationS


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)


class FindingView(_Row):
    """What the scheduler's self-test found: ``info``, ``warning`` or ``error``."""

    code: str
    severity: str
    message: str


class StoreView(_Row):
    """The shared state as this node reaches it, and as the scheduler found it when it last looked."""

    url: str
    connected: bool
    round_trip_ms: float
    checked: float | None = None
    findings: list[FindingView] = []


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


class PoolView(_Row):
    """A pool and the state of its members."""

    id: str
    capability: str | None
    strategy: str
    active: int
    standby: int
    models: list[str]
    current: str | None


class WindowView(_Row):
    """How full a window is; money in USD."""

    name: str
    used: float
    limit: float
    resets: float | None


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
    """One account of the books; ``difference`` is 0 when it balances."""

    domain: str
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
