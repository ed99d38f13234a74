"""From a provider's answer to one of our errors: by status, type, code and retry-after, never by status alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from node.providers.retry_after import parse_retry_after
from shared_state.errors import (
    AuthenticationError,
    ProviderError,
    ProviderProtocolError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
    RejectedRequestError,
)

#: Codes and types that mean money, not pace: waiting a little does not help.
_QUOTA_WORDS: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "billing_error",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
    }
)
#: OpenAI's word, Azure's, and those of Anthropic, Ollama and vLLM.
_UNKNOWN_MODEL: Final = frozenset(
    {"model_not_found", "model_not_available", "DeploymentNotFound", "not_found_error", "NotFoundError"}
)
_TRANSIENT_4XX: Final = frozenset({408, 409, 425, 498, 499})
_QUOTA_PAUSE_S: Final = 3600.0
_SHOWN: Final = 300


def classify_response(
    status: int, headers: Mapping[str, str], body: bytes, *, provider: str
) -> ProviderError:
    """The error that an answer other than a success means."""
    described = _describe(body)
    message = (
        f"{provider} answered {status}: {described['message']}"
        if described["message"]
        else f"{provider} answered {status}"
    )
    words = {described["type"], described["code"]}
    retry_after_s = parse_retry_after(headers)
    if status == 402 or (status in (403, 429) and words & _QUOTA_WORDS):
        return QuotaExhaustedError(
            message, status=status, retry_after_s=_QUOTA_PAUSE_S if retry_after_s is None else retry_after_s
        )
    if status == 403 and described["is_moderation"]:
        return RejectedRequestError(message, status=status, code="content_policy_violation", body=body)
    if status in (401, 403):
        return AuthenticationError(f"{provider} refused the account's credentials ({status})", status=status)
    if status == 429:
        return RateLimitError(message, status=status, retry_after_s=retry_after_s)
    if 400 <= status < 500 and status not in _TRANSIENT_4XX:
        if status == 404 and (words & _UNKNOWN_MODEL or not described["is_json"]):
            return ProviderUnavailableError(message, status=status, code="model_not_available")
        return RejectedRequestError(
            message, status=status, code=described["code"] or None, body=body if described["is_json"] else b""
        )
    if status < 400:
        return ProviderProtocolError(f"{provider} answered with an unexpected {status}", status=status)
    return ProviderUnavailableError(message, status=status, retry_after_s=retry_after_s)


def classify_event(error: Any, *, provider: str) -> ProviderError:
    """The error that an error object inside a 200 answer means."""
    described = _describe_error(error)
    message = f"{provider} failed within its answer: {described['message'] or 'no message'}"
    words = {described["type"], described["code"]}
    if words & _QUOTA_WORDS:
        return QuotaExhaustedError(message, status=429, retry_after_s=_QUOTA_PAUSE_S)
    if words & {"rate_limit_exceeded", "rate_limit_error", "429"}:
        return RateLimitError(message, status=429)
    if words & {"invalid_request_error", "context_length_exceeded", "content_filter"}:
        body = orjson.dumps({"error": error})
        return RejectedRequestError(message, status=400, code=described["code"] or None, body=body)
    return ProviderUnavailableError(message, status=500)


def _describe(body: bytes) -> dict[str, str]:
    """Message, type and code of an error body; ``is_json`` is empty for anything but a JSON object."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        return {"message": "", "type": "", "code": "", "is_moderation": "", "is_json": ""}
    return {**_describe_error(parsed.get("error", parsed)), "is_json": "yes"}


def _describe_error(error: Any) -> dict[str, str]:
    if not isinstance(error, dict):
        return {"message": _shown(error), "type": "", "code": "", "is_moderation": ""}
    details, metadata = error.get("details"), error.get("metadata")
    inner_code = details.get("error_code") if isinstance(details, dict) else None
    return {
        "message": _shown(error.get("message")),
        "type": _shown(error.get("type")),
        "code": _shown(error.get("code")) or _shown(inner_code),
        # OpenRouter's way of saying that the caller's content was flagged.
        "is_moderation": "yes" if isinstance(metadata, dict) and "flagged_input" in metadata else "",
    }


def _shown(value: Any) -> str:
    """Text for a message: printable, bounded, never None."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    return "".join(c if c.isprintable() else " " for c in str(value)[:_SHOWN])
