"""Why a request went where it did, or where it would go: the record of a decision, with all that led to it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from shared_state.shapes.row import Row


class SkipView(Row):
    """A candidate that a stage left out."""

    model: str
    reason: str


class StageView(Row):
    """What one stage has left of the candidates."""

    name: str
    left: list[str]
    skipped: list[SkipView]


class StateView(Row):
    """State of a model and of its account as they were seen; what is ordinary is left out."""

    model: dict[str, str | int] = {}
    account: dict[str, str | int] = {}


class ExpectedView(Row):
    """What a request was expected to use, for comparing models."""

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_known: int = 0
    is_stream: bool = False


class RankingView(Row):
    """One pool's ranking: what its strategy was told, and its order."""

    pool: str
    strategy: str
    candidates: list[str] = Field(description="in pool order")
    order: list[str] = Field(description="best first; the rest is the fallback chain")
    is_exclusive: bool = Field(False, description="nothing else may be tried")
    turn: int = Field(0, description="the request's number in the pool's sequence, over all nodes")
    current: str = Field("", description="the model that a sticky pool points at")
    held: str = Field("", description="the model that the session belongs to")
    draw: float | None = Field(None, description="chance, 0 to 1; null if there was no choice")
    signals: dict[str, dict[str, float]] = Field(
        {}, description="of each candidate, where they were asked for"
    )
    expected: ExpectedView = ExpectedView()


class TargetView(Row):
    """A target, in the order of trying."""

    model: str
    pool: str
    provider: str
    role: str = Field(
        "ranked",
        description="ranked, trial (it recovers), reserve (its share is used up), or despite (its health: too few are well)",
    )


class NeedsView(Row):
    """What the request needs of a model: numbers read off its text, never the text."""

    features: list[str] = []
    input_least: int = 0
    input_most: int = 0
    output: int = 0
    images: int = 0
    file_bytes: int = 0
    language: str = ""
    beyond: str = ""


class CapsView(Row):
    """The caller's own bounds."""

    max_price_usd: float | None = None
    providers: list[str] = []
    regions: list[str] = []


class KeyScopeView(Row):
    """The client key that the request came with, and the names that it may use; none for all."""

    id: str
    models: list[str] = []


class PlanView(Row):
    """What a name came to: stage by stage, ranking, targets."""

    asked: str
    because: str | None = Field(None, description="the kind of fallback that led to this name")
    now_ms: int = Field(description="server time at which states were judged")
    needs: NeedsView
    words: int | None = Field(
        None, description="words of the text, where a context window made somebody count"
    )
    costs: dict[str, int] = Field(
        {}, description="most that an attempt may cost, USD 1e-9, where a cap asked"
    )
    states: dict[str, StateView] = {}
    draws: list[float] = Field([], description="numbers that decided whether recovering models take part")
    signals: dict[str, dict[str, float]] = Field(
        {}, description="of each model, where a score asked for them"
    )
    stages: list[StageView]
    rankings: list[RankingView]
    targets: list[TargetView]
    error: str | None = Field(None, description="code of the error that ended the plan")


class StepView(Row):
    """A target that was tried: what admission said, and how the attempt ended."""

    model: str
    pool: str
    provider: str
    reservation: str
    verdict: str = Field(
        description="admitted, at_limit, standby, too_large, trial_taken, store_away or held"
    )
    window: str = Field("", description="the window or reason that refused")
    at: float | None = Field(None, description="when admission could succeed")
    asked_ms: float = Field(description="when it was asked, from the beginning of the request")
    outcome: str | None = Field(None, description="as settled; null if it was not admitted")
    error: str | None = None
    status: int | None = Field(None, description="the provider's, of an error")
    ms: int | None = None
    first_content_ms: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None


class DecisionView(Row):
    """The record of one request. It holds neither text nor secrets."""

    request_id: str
    node: str
    time: float
    config_version: str
    config_number: int = Field(0, description="of the pushed version; 0: the node ran its own file")
    api: str
    asked: str
    is_stream: bool
    session: str = ""
    provider: str | None = Field(None, description="that the caller prefers")
    caps: CapsView | None = None
    key: KeyScopeView | None = None
    outcome: str = Field(description="ok, or the code of the error")
    status: int
    mode: str
    ms: float
    picked: str | None = Field(None, description="the first model that admitted the request")
    served: str | None = Field(None, description="the model that answered")
    plans: list[PlanView] = Field(
        description="the last plan, then those that fallbacks led to; empty for an unknown name"
    )
    steps: list[StepView]


class HeadroomWindow(Row):
    """A window, and what this request would take of it; money in USD."""

    name: str
    limit: float
    remaining: float
    takes: float
    fits: bool
    opens: float | None = Field(
        None, description="when it is expected to fit; null if that is now, unknown or never"
    )


class HeadroomView(Row):
    """Whether a candidate would admit the request now."""

    model: str
    pool: str
    provider: str
    place: int | None = Field(description="in the order of trying; null if it would not be tried")
    admits: bool
    opens: float | None
    never: bool = Field(description="it asks for more than a limit ever allows")
    tokens_in: int
    tokens_out: int
    cost_usd: float | None = Field(description="at most; null without a price")
    windows: list[HeadroomWindow]


class WaitingView(Row):
    """What becomes of a request in a pool that rather waits than switches models."""

    pool: str
    action: str = Field(description="delay_request or queue")
    waits: bool = Field(description="it would be held now")
    because: str = Field(
        "",
        description="near_limit: the preferred model is; no_room: nobody would admit it; queue: others came earlier; queue_full: refused",
    )
    max_wait_s: float
    threshold: float
    length: int = Field(0, description="requests that wait in the queue of this node")
    size: int | None = Field(None, description="most that may; null without a queue")


class ExplainView(Row):
    """What would be chosen for a request now. Nothing was sent, and nothing taken."""

    time: float
    node: str
    config_version: str
    api: str
    asked: str
    is_stream: bool
    picked: str | None = Field(description="the first target that would admit it; null if none would")
    error: str | None = Field(None, description="what the caller would be told instead")
    message: str | None = None
    key: KeyScopeView | None = Field(None, description="the client key that it would come with")
    waiting: WaitingView | None = Field(None, description="null where the pool switches models instead")
    plans: list[PlanView]
    headroom: list[HeadroomView]


class ExplainBody(BaseModel):
    """The request that would be sent. ``model`` wins over that of the body."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=256)
    api: str = Field("chat/completions", description="as in the path behind /v1/")
    body: dict[str, object] = Field({}, description="as it would be sent")
    headers: dict[str, str] = Field(
        {}, description="those that route: x-modelmesh-session, -provider, -regions, ..."
    )
    key: str | None = Field(None, max_length=256, description="id of the client key that it would come with")


class DifferenceOfReplay(Row):
    """Where a replay came to something else."""

    what: str
    recorded: str
    replayed: str


class ReplayView(Row):
    """A recorded decision made again, out of what the record holds."""

    request_id: str
    same: bool
    recorded: str | None = Field(description="the model that was picked")
    replayed: str | None
    config_version: str
    recorded_version: str
    missing: list[str] = Field(
        [], description="what the replay would have needed and the record does not hold"
    )
    differences: list[DifferenceOfReplay] = []
    decision: DecisionView
