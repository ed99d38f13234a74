"""Every error of ModelMesh, with the facts that the next decision needs.

ModelMeshError
├── ConfigurationError             the configuration is refused; every fault is listed
├── SecretStoreError               a secret store cannot be used, or cannot give a secret
├── StateUnavailableError          Redis is away and the deployment prefers refusing
│   └── TermChangedError           the server is new; this node has to assert what it knows
├── FencedOffError                 another scheduler leads
├── RequestError                   the caller's mistake
│   ├── ModelNotFoundError
│   ├── RouteNotFoundError
│   ├── MethodNotAllowedError
│   ├── UnsupportedFeatureError
│   ├── ContextLengthError
│   ├── PayloadTooLargeError
│   ├── IdempotencyKeyReusedError
│   ├── IdempotencyConflictError
│   ├── AuthenticationRequiredError
│   ├── ModelNotAllowedError
│   ├── OriginNotAllowedError      a web page of another site sends it, where nobody needs a token
│   ├── VersionNotFoundError       no such version of the configuration is remembered
│   ├── VersionConflictError       another version came into force in between
│   ├── VersionRefusedError        a node cannot run the version
│   └── ClientDisconnectedError
├── RoutingError                   nobody could serve the request
│   ├── NoActiveModelError
│   ├── SessionModelUnavailableError
│   ├── LimitReachedError
│   ├── BudgetExceededError
│   ├── AllProvidersExhaustedError
│   ├── LoopDetectedError
│   └── DeadlineExceededError
└── ProviderError                  one attempt on one provider failed
    ├── RejectedRequestError       the provider says that the caller is wrong; its body is passed on
    │   ├── ApiMissingError        it has no such API
    │   └── PageUnreadableError    a page of the web cannot be read by it
    │       └── PageGoneError      nor by anybody else
    ├── AuthenticationError
    ├── RateLimitError
    ├── QuotaExhaustedError
    ├── ProviderTimeoutError
    ├── ProviderUnavailableError   no connection, or a 5xx
    ├── ProviderProtocolError      an answer that cannot be understood, or breaks off
    ├── OutputOverrunError         a stream went on beyond what was reserved for it, where money is limited
    └── AdmissionLapsedError       nothing was sent: the admission had become too old
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar


class Blame(StrEnum):
    """Who a failure is held against."""

    NOBODY = "nobody"
    CALLER = "caller"
    MODEL = "model"
    ACCOUNT = "account"
    PROVIDER = "provider"


class ModelMeshError(Exception):
    """Base of all errors.

    Attributes:
        http_status: status that an API answers with.
        type: the ``error.type`` of an OpenAI error body.
        code: the ``error.code`` of an OpenAI error body.
        retry_after_s: when trying again could succeed, seconds from now; None if unknown.
        is_final: asks callers not to try again by themselves.
    """

    http_status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s
        self.is_final = False


class ConfigurationError(ModelMeshError):
    """The configuration is refused.

    Args:
        faults: one line each, ``path: what is wrong and what is accepted``.
    """

    default_code = "configuration_error"

    def __init__(self, faults: list[str], *, source: str = "configuration") -> None:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(f"{source}: {len(faults)} fault{'s' if len(faults) != 1 else ''}\n{lines}")
        self.faults = faults


class SecretStoreError(ModelMeshError):
    """A secret store cannot be used, or cannot give a secret. The message never holds a value.

    Attributes:
        key: the key of the ``secrets`` section that it is about, if it is about one.
        is_outage: asking for another secret would end the same way.
    """

    default_code = "secret_store"

    def __init__(self, message: str, *, key: str | None = None, is_outage: bool = False) -> None:
        super().__init__(message)
        self.key = key
        self.is_outage = is_outage


class StateUnavailableError(ModelMeshError):
    """The shared state cannot be reached and nothing may be admitted without it."""

    http_status = 503
    default_code = "state_unavailable"


class TermChangedError(StateUnavailableError):
    """The server may have forgotten its last moments; this node has to assert what it knows before anything else is applied."""

    default_code = "term_changed"


class FencedOffError(ModelMeshError):
    """Another scheduler leads: a newer fencing token was seen."""

    default_code = "fenced_off"


class RequestError(ModelMeshError):
    """The caller's mistake, found here."""

    http_status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class ModelNotFoundError(RequestError):
    """The name in ``model`` means nothing here."""

    http_status = 404
    default_code = "model_not_found"


class UnsupportedFeatureError(RequestError):
    """No model of that name can do what the request asks for; ``param`` is the field that asks."""

    default_code = "unsupported_feature"


class ContextLengthError(RequestError):
    """The text is longer than the context window of every model of that name."""

    default_code = "context_length_exceeded"


class RouteNotFoundError(RequestError):
    """No such route."""

    http_status = 404
    default_code = "not_found"


class MethodNotAllowedError(RequestError):
    """The route exists, the method does not."""

    http_status = 405
    default_code = "method_not_allowed"


class PayloadTooLargeError(RequestError):
    """The body is larger than ``proxy.max_body``."""

    http_status = 413
    default_code = "payload_too_large"


class IdempotencyKeyReusedError(RequestError):
    """The key came with another request before."""

    http_status = 422
    default_code = "idempotency_key_reused"


class IdempotencyConflictError(RequestError):
    """The request under this key is being carried out, or was and its answer is not there to be given again; ``code`` tells."""

    http_status = 409
    default_code = "idempotency_conflict"


class AuthenticationRequiredError(RequestError):
    """The client's token is missing or unknown."""

    http_status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class ModelNotAllowedError(RequestError):
    """The client key may not use what was asked for."""

    http_status = 403
    type = "permission_error"
    default_code = "model_not_allowed"


class OriginNotAllowedError(RequestError):
    """A web page of another site sends the request, or could, where nobody needs a token."""

    http_status = 403
    type = "permission_error"
    default_code = "origin_not_allowed"


class VersionNotFoundError(RequestError):
    """No such version of the configuration is remembered."""

    http_status = 404
    default_code = "version_not_found"


class VersionConflictError(RequestError):
    """Another version of the configuration has come into force since the one that a change was made on."""

    http_status = 409
    default_code = "version_conflict"


class VersionRefusedError(RequestError):
    """A node cannot run the version, or does not say; nothing was changed."""

    http_status = 409
    default_code = "version_refused"


class ClientDisconnectedError(RequestError):
    """The caller left; nobody reads the answer, the status is for the log only."""

    http_status = 499
    default_code = "client_disconnected"


class RoutingError(ModelMeshError):
    """Nobody could serve the request."""

    http_status = 503
    default_code = "routing_error"


class NoActiveModelError(RoutingError):
    """Every fit model is on standby."""

    default_code = "no_active_model"


class SessionModelUnavailableError(RoutingError):
    """The model that a strict session belongs to is on standby."""

    default_code = "session_model_unavailable"


class LimitReachedError(RoutingError):
    """Every fit model is at a limit; ``retry_after_s`` is the earliest time."""

    http_status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class BudgetExceededError(RoutingError):
    """The money of a client key, a pool, a model or the mesh is spent; waiting helps only when its period turns.

    Args:
        window: the limit that refused: ``usd_per_request``, ``usd_per_day`` or ``usd_per_month``.
    """

    http_status = 429
    type = "insufficient_quota"
    default_code = "insufficient_quota"

    def __init__(self, message: str, *, window: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit_type = {"usd_per_day": "daily", "usd_per_month": "monthly"}.get(window, "per_request")


class AllProvidersExhaustedError(RoutingError):
    """Every attempt failed."""

    http_status = 502
    default_code = "all_providers_exhausted"


class LoopDetectedError(RoutingError):
    """The request has come through too many routers."""

    http_status = 508
    default_code = "loop_detected"


class DeadlineExceededError(RoutingError):
    """The request's deadline passed."""

    http_status = 504
    default_code = "deadline_exceeded"


class ProviderError(ModelMeshError):
    """One attempt on one provider failed.

    Attributes:
        status: HTTP status of the provider's answer, 0 without one.
        blame: who the failure is held against.
        retryable: whether another attempt, here or elsewhere, could succeed.
        sent: whether the request may have reached the provider (and may be billed).
        stale: a kept connection had died; a new one may do better at once.
        is_day_spent: a day's quota is used up: it comes back with the provider's calendar, if that is known.
        is_reset_unknown: a quota is used up, and the provider does not say until when; ``retry_after_s`` is a guess.
        learned: (window, remaining, reset ms) by the provider's own count, as its answer told.
        body: the provider's own answer, for errors that are passed on.
    """

    http_status = 502
    default_code = "provider_error"
    blame: ClassVar[Blame] = Blame.MODEL
    retryable: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str | None = None,
        retry_after_s: float | None = None,
        sent: bool = True,
        stale: bool = False,
        is_day_spent: bool = False,
        is_reset_unknown: bool = False,
        body: bytes = b"",
        content_type: str = "application/json",
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.status = status
        self.sent = sent
        self.stale = stale
        self.is_day_spent = is_day_spent
        self.is_reset_unknown = is_reset_unknown
        self.learned: Sequence[tuple[str, int, int]] = ()
        self.body = body
        self.content_type = content_type

    @property
    def may_be_billed(self) -> bool:
        """Whether the provider may have done the work although its answer was not seen: it was asked, and has not refused."""
        return self.sent and self.status == 0


class RejectedRequestError(ProviderError):
    """The provider says that the request itself is wrong (400, 404, 413, 422, content policy)."""

    type = "invalid_request_error"
    blame = Blame.CALLER
    retryable = False


class ApiMissingError(RejectedRequestError):
    """The provider has no such API for the model, which may be well all the same; another provider may have it."""

    default_code = "unsupported_api"
    blame = Blame.NOBODY
    retryable = True


class PageUnreadableError(RejectedRequestError):
    """A page of the web does not let itself be read by this provider, which is well all the same; another may get through."""

    default_code = "page_unreadable"
    blame = Blame.NOBODY
    retryable = True

    def __init__(self, message: str) -> None:
        super().__init__(message, status=422)


class PageGoneError(PageUnreadableError):
    """There is no such page, whoever asks for it."""

    default_code = "page_not_found"
    blame = Blame.CALLER
    retryable = False


class OutputOverrunError(ProviderError):
    """A provider does not keep to ``max_tokens``: the answer would cost more than what was reserved for it."""

    default_code = "output_overrun"
    blame = Blame.CALLER
    retryable = False


class AuthenticationError(ProviderError):
    """The provider refuses the account's credentials: another account may still serve."""

    default_code = "provider_authentication"
    blame = Blame.ACCOUNT


class RateLimitError(ProviderError):
    """The provider asks to wait."""

    default_code = "provider_rate_limited"


class QuotaExhaustedError(ProviderError):
    """The account's credit or quota is spent: waiting a little does not help."""

    default_code = "provider_quota_exhausted"
    blame = Blame.ACCOUNT


class ProviderTimeoutError(ProviderError):
    """One of the clocks of the call ran out."""

    default_code = "provider_timeout"


class ProviderUnavailableError(ProviderError):
    """No connection (``sent`` is false), or a server error."""

    default_code = "provider_unavailable"


class ProviderProtocolError(ProviderError):
    """Garbage, an empty answer, or a stream without its end."""

    default_code = "provider_protocol"


class AdmissionLapsedError(ProviderError):
    """Nothing was sent: there was no connection in time, or the process slept, and the admission may count no more. Ask anew."""

    default_code = "admission_lapsed"
    blame = Blame.NOBODY

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False, stale=True)
