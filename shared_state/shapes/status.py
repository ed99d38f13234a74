"""What is going on: status, books, orders."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from shared_state.config.values import DurationS
from shared_state.shapes.row import Row


class FindingView(Row):
    """What the scheduler's self-test found: ``info``, ``warning`` or ``error``."""

    code: str
    severity: str
    message: str


class StoreView(Row):
    """The shared state as this node reaches it, and as the scheduler found it when it last looked."""

    url: str
    connected: bool
    round_trip_ms: float
    checked: float | None = None
    findings: list[FindingView] = []


class JobView(Row):
    """One job of the scheduler's timetable."""

    name: str
    interval_s: float
    last_run: float | None = None
    duration_ms: float | None = None
    next_run: float | None = Field(None, description="when it is due; in the past: it is overdue")
    last_error: str | None = None
    runs: int = Field(0, description="since its scheduler began to lead, as the other counts")
    failures: int = 0
    missed: int = Field(0, description="runs that fell out")
    overruns: int = Field(0, description="runs that took longer than the interval")


class SchedulerView(Row):
    """Who keeps the timetable."""

    leader: str | None
    token: int
    since: float | None
    jobs: list[JobView]
    config_number: int = 0
    config_fault: str = ""


class NodeView(Row):
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
    config_number: int = 0
    config_fault: str = ""


class WindowView(Row):
    """How full a window is; money in USD."""

    name: str
    used: float
    limit: float
    resets: float | None


class PanicView(Row):
    """A pool in panic: too few members are well, so the others are asked on faith."""

    since: float
    asked: int = Field(description="requests on faith so far, as reported by nodes once a second")
    answered: int = Field(description="how many of them were answered")


class PoolView(Row):
    """A pool, the state of its members, and its own windows."""

    id: str
    capability: str | None
    strategy: str
    active: int
    standby: int
    models: list[str]
    current: str | None
    windows: list[WindowView] = []
    panic: PanicView | None = None


class ModelView(Row):
    """A model: state, books and windows, its account's included (``account.`` before their names)."""

    id: str
    provider: str
    domain: str
    status: str
    phase: str
    reason: str
    trigger: str = Field("", description="what is to bring it back")
    since: float | None
    until: float | None
    fails: int
    in_flight: int
    requests: int
    failed: int
    windows: list[WindowView]
    availability: float | None = Field(None, description="from 0 to 1; null while nothing watches it")
    price_input: float | None = Field(None, description="USD per million tokens; null if none is configured")
    price_output: float | None = Field(None, description="as price_input")


class ProviderView(Row):
    """A provider account."""

    id: str
    domain: str
    connector: str
    status: str
    reason: str
    trigger: str = Field("", description="what is to bring it back")
    until: float | None
    models: int
    health: str | None = Field(
        None, description="healthy, degraded or unavailable; null while nothing watches it"
    )
    availability: float | None = Field(None, description="from 0 to 1, a moving average")
    probed: float | None = Field(None, description="when it was last probed for want of traffic")


class EventView(Row):
    """A change of state."""

    time: float
    type: str
    domain: str
    model: str | None
    provider: str | None
    pool: str | None = None
    reason: str
    until: float | None
    node: str | None
    numbers: dict[str, int] = Field(
        {}, description="what else belongs to the event, in milliseconds or counts"
    )


class EventsQuery(BaseModel):
    """Which events are asked for."""

    model_config = ConfigDict(extra="forbid")

    follow: bool = Field(True, description="go on with what happens from here on")
    last: int = Field(50, ge=0, le=1000, description="how many of the latest come first")


class NodesView(Row):
    """The nodes alone."""

    nodes: list[NodeView]


class PoolsView(Row):
    """The pools alone."""

    pools: list[PoolView]


class ModelsView(Row):
    """The models alone."""

    models: list[ModelView]


class ProvidersView(Row):
    """The provider accounts alone."""

    providers: list[ProviderView]


class StatusView(Row):
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


class BookView(Row):
    """One account of the books; ``difference`` is 0 when it balances.

    ``kind`` is ``account`` for traffic to models. Gates (``mesh``, ``pool``, ``key``) count the same calls once more.
    """

    domain: str
    kind: str = "account"
    model: str
    provider: str
    pool: str
    admitted: int
    settled: int
    abandoned: int
    in_flight: int
    difference: int


class BalanceView(Row):
    """The sum of some accounts of the books."""

    name: str
    admitted: int
    settled: int
    abandoned: int
    in_flight: int
    difference: int


class BalancesView(Row):
    """The same books, summed in five ways; gates are in ``keys`` and ``domains`` alone."""

    models: list[BalanceView] = []
    providers: list[BalanceView] = []
    pools: list[BalanceView] = []
    keys: list[BalanceView] = []
    domains: list[BalanceView] = []


class DifferenceView(Row):
    """Something that does not agree."""

    cause: str
    domain: str
    where: str
    amount: int


class LeftoverView(Row):
    """What Redis still holds of a domain, provider or model that this node's configuration does not have."""

    kind: str
    domain: str
    id: str
    seen: float = Field(description="when a scheduler had it in its configuration last")
    goes: float | None = Field(description="when it may be deleted; null: never")
    in_flight: int = Field(description="calls in its domain; it stays as long as there are any")


class BooksView(Row):
    """The books of the cluster."""

    balanced: bool
    time: float
    rows: list[BookView]
    totals: dict[str, int]
    balances: BalancesView = BalancesView()
    causes: dict[str, int] = Field({}, description="how much is off for each cause; every cause is there")
    differences: list[DifferenceView] = []
    leftovers: list[LeftoverView] = []


class OrderView(Row):
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


class RotateBody(BaseModel):
    """Body of ``rotate``; everything may be left out."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("rotated", min_length=1, max_length=200)
    for_s: DurationS | None = Field(
        None, gt=0, description="when the model that had to go comes back; not for pools with a pointer"
    )


class RotationView(Row):
    """A pool that has moved on to its next model."""

    pool: str
    strategy: str
    by: str = Field(description="pointer: it was moved; standby: the first active member was put there")
    was: str | None
    now: str


class ProbeBody(BaseModel):
    """Body of ``probe``; everything may be left out."""

    model_config = ConfigDict(extra="forbid")

    startup: bool = Field(False, description="one of those that a scheduler sends when it takes the lead")
    within: DurationS | None = Field(None, gt=0, description="deadline of the request")


class ProbeView(Row):
    """What a probe has shown: ``well``, ``failed``, ``rejected`` (the provider answers, but not to this), ``not_asked`` (a state or limit
    forbids it), ``no_probe`` (for what the model does there is none).
    """

    id: str
    verdict: str
    latency_ms: float | None = None
    code: str | None = None
    cause: str | None = Field(None, description="what the provider's own failure was, where it was asked")
    message: str = ""


class ErrorDetail(Row):
    """What went wrong."""

    message: str
    type: str
    code: str | None
    param: str | None
    request_id: str


class ErrorView(Row):
    """Every refusal of a node."""

    error: ErrorDetail
