"""What vendors were seen, or document, to answer: status, headers, body, and what it means to us."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from shared_state.errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
    RejectedRequestError,
)
from tests.unit.node.scripted import HTML_PAGE

#: When all of it was answered.
NOW_S = datetime(2026, 8, 31, 23, 0, 0, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Seen:
    """One answer, and its meaning.

    Attributes:
        learned: triples, in any order.
        is_day_spent: the wait is left to the calendar.
    """

    name: str
    status: int
    body: bytes
    kind: type[ProviderError]
    wait_s: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    dialect: str = "openai"
    learned: tuple[tuple[str, int, int], ...] = ()
    is_day_spent: bool = False


def error(message: str, **fields: Any) -> bytes:
    """OpenAI's shape."""
    return orjson.dumps({"error": {"message": message, "param": None, **fields}})


def anthropic(kind: str, message: str, **fields: Any) -> bytes:
    """Anthropic's shape."""
    inner = {"type": kind, "message": message, **fields}
    return orjson.dumps({"type": "error", "error": inner, "request_id": "req_011"})


def google(code: int, status: str, message: str, *details: dict[str, Any]) -> bytes:
    """Google's shape."""
    inner = {"code": code, "message": message, "status": status, "details": list(details)}
    return orjson.dumps({"error": inner})


def quota_failure(*quotas: str) -> dict[str, Any]:
    """Google's list of exceeded quotas."""
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": "generate_requests", "quotaId": quota} for quota in quotas],
    }


def retry_info(delay: str) -> dict[str, Any]:
    """Google's wait."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


_EXCEEDED = "You exceeded your current quota, please check your plan and billing details."
_XAI_SPENT = (
    "Your team 16f2151a has either used all available credits or reached its monthly spending limit. "
    "To continue making API requests, please purchase more credits or raise your spending limit."
)

OPENAI = [
    Seen(
        "openai tokens a minute, the wait in the sentence",
        429,
        error(
            "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. "
            "Please try again in 2s.",
            type="tokens",
            code="rate_limit_exceeded",
        ),
        RateLimitError,
        2.0,
        {
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-tokens": "1000",
            "x-ratelimit-reset-tokens": "58s",
        },
        learned=(("tpm", 1000, 58_000),),
    ),
    Seen(
        "openai requests a day",
        429,
        error("... on requests per day (RPD): Limit 200. Please try again in 7m12s.", type="requests"),
        RateLimitError,
        432.0,
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7m12s"},
        learned=(("rpd", 0, 0),),
    ),
    Seen(
        "openai without any word but an empty window",
        429,
        error("Rate limit reached", type="requests", code="rate_limit_exceeded"),
        RateLimitError,
        8.5,
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "8.5s",
            "x-ratelimit-remaining-project-tokens": "57000",
            "x-ratelimit-reset-project-tokens": "3s",
        },
        learned=(("rpm", 0, 0), ("tpm", 57_000, 3000)),
    ),
    Seen("openai quota", 429, error(_EXCEEDED, type="insufficient_quota"), QuotaExhaustedError, 3600.0),
    Seen("openai inactive", 429, error("Not active", code="billing_not_active"), QuotaExhaustedError, 3600.0),
    Seen("openai overloaded", 503, error("Overloaded", type="server_error"), ProviderUnavailableError),
    Seen("openai too long", 400, error("x", code="context_length_exceeded"), RejectedRequestError),
    Seen(
        "openai quoting a caller who writes about money",
        400,
        error("Invalid 'user': Your credit balance is too low to access the x", code="invalid_value"),
        RejectedRequestError,
    ),
]

GROQ = [
    Seen(
        "groq tokens a day",
        429,
        error("... on tokens per day (TPD): Limit 100000. Please try again in 15m2s.", type="tokens"),
        RateLimitError,
        902.0,
        {
            "retry-after": "902",
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-remaining-tokens": "5997",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        "groq",
        learned=(("rpd", 14370, 179_560), ("tpm", 5997, 7660)),
    ),
    Seen("groq flex", 498, error("No capacity", code="capacity_exceeded"), ProviderUnavailableError),
    Seen("groq cancelled", 499, error("Cancelled"), ProviderUnavailableError),
]

ANTHROPIC = [
    Seen(
        "anthropic pace",
        429,
        anthropic("rate_limit_error", "This request would exceed your organization's rate limit"),
        RateLimitError,
        42.0,
        {
            "retry-after": "42",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-08-31T23:00:01Z",
            "anthropic-ratelimit-tokens-remaining": "8000",
            "anthropic-ratelimit-tokens-reset": "2026-08-31T23:00:50Z",
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": "2026-08-31T23:00:55+00:00",
            "anthropic-ratelimit-output-tokens-remaining": "8000",
            "anthropic-ratelimit-output-tokens-reset": "2026-08-31T18:00:10-05:00",
        },
        "anthropic",
        learned=(("rpm", 49, 1000), ("tpm", 8000, 50_000), ("itpm", 0, 0), ("otpm", 8000, 10_000)),
    ),
    Seen(
        "anthropic tier's cap of the month",
        429,
        anthropic(
            "rate_limit_error",
            "You have reached your API usage limits: your organization has crossed its monthly API usage threshold. "
            "You will regain access on 2026-09-01 at 00:00 UTC.",
            details={"error_code": "enforced_spend_limit_reached"},
        ),
        QuotaExhaustedError,
        3600.0,
    ),
    Seen(
        "anthropic cap of the organization",
        400,
        anthropic(
            "invalid_request_error",
            "You have reached your specified API usage limits. You will regain access on 2026-09-01 at 02:30 UTC.",
        ),
        QuotaExhaustedError,
        12_600.0,
    ),
    Seen(
        "anthropic cap of the workspace, long from now",
        400,
        anthropic(
            "invalid_request_error",
            "You have reached your specified workspace API usage limits. You will regain access on 2026-09-05.",
        ),
        QuotaExhaustedError,
        4 * 86_400 + 3600.0,
    ),
    Seen(
        "anthropic credit",
        400,
        anthropic(
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
        ),
        QuotaExhaustedError,
        3600.0,
    ),
    Seen(
        "anthropic billing", 402, anthropic("billing_error", "A billing issue."), QuotaExhaustedError, 3600.0
    ),
    Seen(
        "anthropic mistake",
        400,
        anthropic("invalid_request_error", "max_tokens: required"),
        RejectedRequestError,
    ),
    Seen("anthropic too large", 413, anthropic("request_too_large", "too large"), RejectedRequestError),
    Seen("anthropic key", 401, anthropic("authentication_error", "invalid x-api-key"), AuthenticationError),
    Seen("anthropic no model", 404, anthropic("not_found_error", "model: x"), ProviderUnavailableError),
    Seen("anthropic overloaded", 529, anthropic("overloaded_error", "Overloaded"), ProviderUnavailableError),
]

GEMINI = [
    Seen(
        "gemini requests a minute",
        429,
        google(
            429,
            "RESOURCE_EXHAUSTED",
            _EXCEEDED,
            quota_failure("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
            retry_info("34s"),
        ),
        RateLimitError,
        34.0,
        dialect="gemini",
    ),
    Seen(
        "gemini requests a day of one model, with a delay that would not help",
        429,
        google(
            429,
            "RESOURCE_EXHAUSTED",
            _EXCEEDED,
            quota_failure(
                "GenerateContentInputTokensPerModelPerMinute-FreeTier",
                "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
            ),
            retry_info("31s"),
        ),
        RateLimitError,
        dialect="gemini",
        is_day_spent=True,
    ),
    Seen(
        "gemini requests a day of the whole project",
        429,
        google(429, "RESOURCE_EXHAUSTED", _EXCEEDED, quota_failure("GenerateRequestsPerDayPerProject")),
        QuotaExhaustedError,
        3600.0,
        dialect="gemini",
        is_day_spent=True,
    ),
    Seen(
        "gemini in a list, the wait in the sentence",
        429,
        b"[" + google(429, "RESOURCE_EXHAUSTED", _EXCEEDED + " Please retry in 20.04466179s.") + b"]",
        RateLimitError,
        20.04466179,
        dialect="gemini",
    ),
    Seen(
        "gemini prepayment",
        429,
        google(429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
        QuotaExhaustedError,
        3600.0,
    ),
    Seen(
        "gemini key",
        400,
        google(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"}),
        AuthenticationError,
    ),
    Seen("gemini mistake", 400, google(400, "INVALID_ARGUMENT", "bad"), RejectedRequestError),
    Seen("gemini busy", 503, google(503, "UNAVAILABLE", "overloaded"), ProviderUnavailableError),
]

AZURE = [
    Seen(
        "azure tokens a minute",
        429,
        error(
            "Requests to the ChatCompletions_Create Operation have exceeded token rate limit. Please retry after 6 seconds.",
            code="429",
        ),
        RateLimitError,
        5.71,
        {
            "retry-after": "6",
            "retry-after-ms": "5710",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-remaining-requests": "12",
        },
        learned=(("tpm", 0, 0), ("rpm", 12, 0)),
    ),
    Seen(
        "azure tokens a minute, the wait in the sentence",
        429,
        error("Please retry after 6 seconds.", code="RateLimitReached"),
        RateLimitError,
        6.0,
    ),
    Seen(
        "azure content filter",
        400,
        error(
            "The response was filtered",
            code="content_filter",
            status=400,
            innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
        ),
        RejectedRequestError,
    ),
    Seen("azure no deployment", 404, error("x", code="DeploymentNotFound"), ProviderUnavailableError),
    Seen("azure key", 401, b'{"statusCode": 401, "message": "Access denied"}', AuthenticationError),
]

MISTRAL = [
    Seen(
        "mistral pace",
        429,
        b'{"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": null, "code": "1300"}',
        RateLimitError,
        None,
        {
            "x-ratelimit-limit-req-minute": "720",
            "x-ratelimit-remaining-req-minute": "0",
            "x-ratelimit-limit-tokens-minute": "5000000",
            "x-ratelimit-remaining-tokens-minute": "4999911",
        },
        "mistral",
        learned=(("rpm", 0, 0), ("tpm", 4_999_911, 0)),
    ),
    Seen(
        "mistral, older",
        429,
        b'{"message": "Requests rate limit exceeded"}',
        RateLimitError,
        28.0,
        {
            "ratelimitbysize-limit": "500000",
            "ratelimitbysize-remaining": "0",
            "ratelimitbysize-reset": "28",
            "x-ratelimitbysize-remaining-month": "9990000",
        },
        "mistral",
        learned=(("tpm", 0, 0), ("tpM", 9_990_000, 0)),
    ),
    Seen(
        "mistral mistake",
        422,
        b'{"detail": [{"type": "missing", "msg": "Field required"}]}',
        RejectedRequestError,
    ),
]

OPENROUTER = [
    Seen(
        "openrouter free models a day",
        429,
        error(
            "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
            code=429,
            metadata={
                "headers": {
                    "X-RateLimit-Limit": "50",
                    "X-RateLimit-Remaining": "0",
                    "X-RateLimit-Reset": str(round((NOW_S + 3600) * 1000)),
                }
            },
        ),
        RateLimitError,
        3600.0,
        dialect="openrouter",
    ),
    Seen(
        "openrouter free models a day, without a time",
        429,
        error("Rate limit exceeded: free-models-per-day-high-balance.", type="rate_limit_error", code="429"),
        RateLimitError,
        dialect="openrouter",
        is_day_spent=True,
    ),
    Seen(
        "openrouter a minute",
        429,
        error("Rate limit exceeded: free-models-per-min", code=429),
        RateLimitError,
    ),
    Seen("openrouter credits", 402, error("Insufficient credits", code=402), QuotaExhaustedError, 3600.0),
    Seen(
        "openrouter moderation",
        403,
        error("flagged", code=403, metadata={"flagged_input": "x"}),
        RejectedRequestError,
    ),
]

OTHERS = [
    Seen(
        "cerebras",
        429,
        b'{"message": "Rate limit exceeded", "type": "rate_limit_error", "param": null, "code": "rate_limit_error"}',
        RateLimitError,
        11.38,
        {
            "x-ratelimit-limit-requests-day": "14400",
            "x-ratelimit-remaining-requests-day": "99",
            "x-ratelimit-reset-requests-day": "33011.4",
            "x-ratelimit-remaining-tokens-minute": "0",
            "x-ratelimit-reset-tokens-minute": "11.38",
        },
        learned=(("rpd", 99, 3_600_000), ("tpm", 0, 0)),
    ),
    Seen(
        "together",
        429,
        error("You have reached the rate limit", type="model_rate_limit"),
        RateLimitError,
        1.0,
        {
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": "1",
            "x-tokenlimit-limit": "3000",
            "x-tokenlimit-remaining": "2000",
        },
        "together",
        learned=(("rps", 0, 0), ("tps", 2000, 0)),
    ),
    Seen(
        "fireworks",
        429,
        error("slow down"),
        RateLimitError,
        None,
        {"x-ratelimit-remaining-tokens-prompt": "7", "x-ratelimit-remaining-tokens-generated": "3"},
        "fireworks",
        learned=(("itpm", 7, 0), ("otpm", 3, 0)),
    ),
    Seen(
        "deepseek balance",
        402,
        error("Insufficient Balance", code="invalid_request_error"),
        QuotaExhaustedError,
        3600.0,
    ),
    Seen(
        "xai credits as 403",
        403,
        orjson.dumps({"code": "permission-denied", "error": _XAI_SPENT}),
        QuotaExhaustedError,
        3600.0,
    ),
    Seen(
        "xai credits as 429",
        429,
        orjson.dumps({"code": "x", "error": _XAI_SPENT}),
        QuotaExhaustedError,
        3600.0,
    ),
    Seen(
        "xai pace",
        429,
        orjson.dumps({"error": "Too many tokens for team e9fe19cb and model grok-4"}),
        RateLimitError,
    ),
    Seen(
        "cohere trial month",
        429,
        b'{"message": "You are using a Trial key, which is limited to 1000 API calls / month."}',
        QuotaExhaustedError,
        3600.0,
    ),
    Seen(
        "cohere trial pace",
        429,
        b'{"message": "You are using a Trial key, which is limited to 20 API calls / minute."}',
        RateLimitError,
    ),
    Seen(
        "hugging face",
        402,
        error("You have exceeded your monthly included credits"),
        QuotaExhaustedError,
        3600.0,
    ),
    Seen(
        "tgi overloaded", 429, b'{"error": "Model is overloaded", "error_type": "overloaded"}', RateLimitError
    ),
    Seen(
        "tgi mistake",
        422,
        b'{"error": "Input validation error", "error_type": "validation"}',
        RejectedRequestError,
    ),
    Seen(
        "vllm mistake",
        400,
        b'{"object": "error", "message": "too long", "type": "BadRequestError", "param": null, "code": 400}',
        RejectedRequestError,
    ),
    Seen("vllm no model", 404, error("The model `x` does not exist.", code=404), ProviderUnavailableError),
    Seen("ollama no model", 404, b'{"error": "model \'x\' not found"}', ProviderUnavailableError),
    Seen("nvidia pace", 429, b'{"status": 429, "title": "Too Many Requests"}', RateLimitError),
    Seen("cloudflare", 520, HTML_PAGE, ProviderUnavailableError),
    Seen(
        "cloudflare workers",
        429,
        b'{"success": false, "errors": [{"code": 3036, "message": "x"}]}',
        RateLimitError,
    ),
    Seen("too early", 425, b"", ProviderUnavailableError),
]

SEEN = [*OPENAI, *GROQ, *ANTHROPIC, *GEMINI, *AZURE, *MISTRAL, *OPENROUTER, *OTHERS]
