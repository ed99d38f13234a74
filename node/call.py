"""A request on its way through the router, and the kind of API that it came by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from node.passport import FRESH, Passport
from shared_state.capabilities.catalogue import WEB_LEAVES
from shared_state.client_keys import ClientKey
from shared_state.entries import How
from shared_state.errors import ModelMeshError, ProviderError
from shared_state.ledger import Settlement, Verdict
from shared_state.topology import ModelSpec, PoolSpec

Fields = dict[str, Any]


class Voice(StrEnum):
    """In whose words an API speaks of itself: its errors, its headers, the signs of life in its streams."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Kind(StrEnum):
    """What a complete answer is made of."""

    OBJECT = "object"
    TEXT = "text"
    BYTES = "bytes"


def _usage(answer: Fields) -> Any:
    return answer.get("usage")


def _always(_: frozenset[str]) -> bool:
    return True


def _object(_: Fields) -> Kind:
    return Kind.OBJECT


def _answers(fields: Fields) -> int:
    return int(fields.get("n") or 1)


def _nothing_more(_: Fields) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class EventShape:
    """Streams whose events name their types, and which end with an event of their own.

    Attributes:
        ends: types of the last event, which tells the usage.
        fails: types of events after which there will be no answer.
        opening: types that come before any content and hold none.
        usage_of: from the last event to its usage.
        reports: types of events that tell parts of the usage on the way; what comes later counts.
        idle: types that only say that there is somebody; a stream of them gets nowhere.
    """

    ends: frozenset[str]
    fails: frozenset[str] = frozenset({"error"})
    opening: frozenset[str] = frozenset()
    usage_of: Callable[[Fields], Any] = _usage
    reports: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Surface:
    """One API that callers speak and providers understand.

    Attributes:
        path: upstream path behind the provider's base URL.
        proof: the field without which a complete answer is none.
        streams: whether the API has a streaming form.
        serves: whether a model with these capabilities can answer here.
        check: raises RequestError for a body that no provider could serve.
        most_output: most tokens that the body allows in the answer; None if it does not say.
        answers: how many answers the body asks for, each of which may take all the output that the model can give.
        more_tokens: tokens of the input that count more than once.
        usage_of: from a complete answer to its usage in OpenAI's words; None if it reports none.
        asks_usage: whether a stream reports its usage only if ``stream_options`` asks for it.
        default_model: what ``model`` means where the API lets callers leave it out.
        kind: what the answer to a body is, if it is no stream of events; ``proof`` is for objects.
        stream_mark: the field, and its value, that asks for a stream of events.
        events: the shape of these events; None for chunks with ``choices`` and an end marker.
        files: forms are taken, with one of these fields at least; empty where bodies are JSON alone.
        is_sure: whether a model of these capabilities, which may answer here, surely can: then its refusal is its own fault.
        api: what a provider is known to have or to lack; empty where nobody knows.
        stand_in: the API by which a provider is asked that lacks this one; how it is translated is known to ``node.routing.bridge``.
        is_metered: answers count in tokens whatever the model; else only if it has a price for them, or says how many there may be.
        is_read: what is asked counts in tokens.
        is_web: a service of the web answers, in words of its own, which ``node.providers.web`` knows.
        wants: what a body asks for, as a sum of features, beyond what every API can ask for.
        voice: in whose words its errors are.
        passes: request headers that a provider with this API is sent as well, as they came.
    """

    name: str
    path: str
    proof: str
    streams: bool
    serves: Callable[[frozenset[str]], bool]
    check: Callable[[Fields], None]
    most_output: Callable[[Fields], int | None]
    answers: Callable[[Fields], int] = _answers
    more_tokens: Callable[[Fields], int] = _nothing_more
    usage_of: Callable[[Fields], Any] = _usage
    asks_usage: bool = False
    default_model: str = ""
    kind: Callable[[Fields], Kind] = _object
    stream_mark: tuple[str, Any] = ("stream", True)
    events: EventShape | None = None
    files: frozenset[str] = frozenset()
    is_sure: Callable[[frozenset[str]], bool] = _always
    api: str = ""
    stand_in: Surface | None = None
    is_metered: bool = True
    is_read: bool = True
    is_web: bool = False
    wants: Callable[[Fields], int] | None = None
    voice: Voice = Voice.OPENAI
    passes: frozenset[bytes] = frozenset()

    def suits(self, model: ModelSpec) -> bool:
        """Whether a model can answer here: a service of the web reads documents too, but holds no conversation about them."""
        if model.web and not self.is_web:
            return self.serves(model.capabilities - WEB_LEAVES)
        return self.serves(model.capabilities)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file in a form."""

    name: str
    size_bytes: int
    is_image: bool


@dataclass(frozen=True, slots=True)
class FormPart:
    """A part of a form as it came: its headers, each with its line end, and its content."""

    head: bytes
    content: memoryview
    is_model: bool


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body that can be sent again, under another boundary and with another model's name in it.

    Attributes:
        boundary: occurs nowhere in the parts.
        tokens: of the files, at most.
    """

    parts: tuple[FormPart, ...]
    uploads: tuple[Upload, ...]
    boundary: bytes
    tokens: int

    def body(self, model: str, boundary: bytes | None = None) -> bytes:
        """The body for a model of that name."""
        mark, name = boundary or self.boundary, model.encode()
        pieces: list[bytes | memoryview] = []
        for part in self.parts:
            content = name if part.is_model else part.content
            pieces += (b"--", mark, b"\r\n", part.head, b"\r\n", content, b"\r\n")
        return b"".join([*pieces, b"--", mark, b"--\r\n"])


@dataclass(frozen=True, slots=True)
class Caps:
    """Bounds that a caller sets to who may serve, by request headers.

    Attributes:
        max_price_nano: most that one attempt may cost, in USD 1e-9; None without a bound.
        providers: the only providers that may serve; empty for any.
        regions: the only regions, in lower case; empty for any.
    """

    max_price_nano: int | None = None
    providers: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()


class Trace(Protocol):
    """Where a call is traced."""

    def begin(self, reservation: str, model: ModelSpec) -> bytes:
        """An attempt begins; what its provider is told of the trace, in ``traceparent``."""


@dataclass(slots=True)
class Call:
    """One client request.

    Attributes:
        fields: the parsed body; never changed.
        body_bytes: size of the body as received.
        started: monotonic seconds of the loop.
        deadline_s: the caller's own bound in seconds from ``started``; None: the pool's rule.
        provider: a provider that the caller prefers.
        prompt_tokens: most tokens that the body can hold, as weighed at the door; 0 if nobody weighed it.
        counted: the same by the tokenizers that were asked, each once.
        caps: bounds that the caller sets to who may serve.
        key: the client key that it came with.
        how: a probe looks at states in a way of its own.
        session: the caller's name for a conversation, empty for none.
        passport: what it says of its way so far.
        form: the body, if it came as a form; ``fields`` are its texts.
        trace: None unless it is traced.
        headers: those of the request that go on to a provider of the same API.
        name: what the caller asked for in ``model``.
        is_stream: whether the answer is a stream of events.
        kind: what the answer is if it is no stream of events; bytes go out as they come.
    """

    surface: Surface
    request_id: str
    fields: dict[str, Any]
    body_bytes: int
    started: float
    deadline_s: float | None = None
    provider: str | None = None
    prompt_tokens: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    caps: Caps | None = None
    key: ClientKey | None = None
    session: str = ""
    how: How = How.NORMAL
    passport: Passport = FRESH
    form: Form | None = None
    trace: Trace | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    name: str = field(init=False)
    is_stream: bool = field(init=False)
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        surface, fields = self.surface, self.fields
        mark, value = surface.stream_mark
        self.name = str(fields["model"])
        self.is_stream = surface.streams and fields.get(mark) == value
        self.kind = surface.kind(fields)

    @property
    def is_probe(self) -> bool:
        """Whether it is sent to learn how a model is: one attempt, on that model alone."""
        return self.how in (How.PROBE, How.STARTUP_PROBE)


class Fallback(StrEnum):
    """Why a call goes on beyond what was asked for; each is a key of a pool's ``fallbacks``."""

    CONTEXT_WINDOW = "context_window"
    CONTENT_POLICY = "content_policy"


class Target(NamedTuple):
    """A candidate for a call: a model, seen through the pool that offered it.

    Attributes:
        how: the way in which its state is looked at.
    """

    model: ModelSpec
    pool: PoolSpec
    how: How = How.NORMAL


@dataclass(slots=True)
class Step:
    """A target that a call turned to: what admission said and, if it was admitted, how the attempt ended.

    Attributes:
        asked: loop time at which admission was asked for.
        is_gate: the pool's own limits have refused, not the model.
        settlement: None while the attempt runs, and if there was none.
        error: why it failed.
    """

    target: Target
    reservation: str
    verdict: Verdict
    asked: float
    is_gate: bool = False
    settlement: Settlement | None = None
    error: ProviderError | None = None


@dataclass(slots=True)
class Trail:
    """What happened to a call so far; becomes the log line, the answer's headers and the record of the decision.

    Attributes:
        skipped: model -> why it was not tried.
        attempts: attempts that reached a provider or tried to.
        fallback: why it went on beyond what was asked for.
        plan: the last ``node.routing.pipeline.Plan``; None if the name meant nothing.
        steps: the targets that were tried, admitted or not, in order.
        is_panic: whether the target was asked though it is on standby for its health.
        key: id of the caller's key, for the log.
        may_be_billed: an attempt was sent whose answer was not seen to its end.
    """

    skipped: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    fallback: Fallback | None = None
    is_panic: bool = False
    target: Target | None = None
    mode: str = "exact"
    outcome: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    first_content: float = 0.0
    plan: Any = None
    steps: list[Step] = field(default_factory=list)
    key: str = ""
    may_be_billed: bool = False


class Reply(Protocol):
    """The caller's end. Every method may wait for a slow reader."""

    is_started: bool

    async def whole(self, status: int, content_type: bytes, body: bytes, trail: Trail) -> None:
        """Sends a complete answer."""

    async def begin(self, trail: Trail, content_type: bytes = b"") -> None:
        """Sends the head of an event stream, or of bytes of that type."""

    async def part(self, data: bytes) -> None:
        """Sends a piece of the stream."""

    async def end(self) -> None:
        """Ends the stream."""

    async def break_off(self, error: ModelMeshError) -> None:
        """Ends a stream that has begun with an error event in the caller's dialect; bytes are cut off."""
