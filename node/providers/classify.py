"""From a provider's answer to one of our errors: by status, type, code and retry-after, never by status alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from node.providers.complaint import Complaint, complaint_of, read_complaint
from node.providers.learned import Learned, learn, wait_s
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
        "billing_not_active",
        "billing_error",
        "exceeded_current_quota_error",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
    }
)
#: Of vendors whose codes do not tell: Anthropic's caps, xAI's credits, Gemini's prepayment, Hugging Face's month, Cohere's trial keys.
_MONEY = re.compile(
    r"reached your (?:specified )?(?:workspace )?api usage limits|credit balance is too low|(?:used|out of) (?:all available )?credits"
    r"|monthly spending limit|credits are depleted|monthly included credits|api calls / month",
    re.I,
)
#: A status of 400 is the caller's fault, but for Anthropic's two sentences about the account, which begin so, and Serper's one.
_MONEY_AS_400 = re.compile(
    r"You have reached your specified (?:workspace )?API usage limits\.|Your credit balance is too low to access the |Not enough credits"
)
#: An account that has nothing left: besides HTTP's own word for it Tavily's, for its plan and for what may be paid beyond it.
_MONEY_STATUSES: Final = frozenset({402, 432, 433})
#: Google refuses a key with a 400.
_KEY_AS_400: Final = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED"})
#: OpenAI's word, Azure's, and those of Anthropic, Ollama and vLLM.
_UNKNOWN_MODEL: Final = frozenset(
    {"model_not_found", "model_not_available", "DeploymentNotFound", "not_found_error", "NotFoundError"}
)
#: Where no word says it: Ollama's and vLLM's sentences.
_NO_SUCH_MODEL = re.compile(r"\bmodel\b.{0,200}\b(?:not found|does not exist)\b", re.I)
_TRANSIENT_4XX: Final = frozenset({408, 409, 425, 498, 499})
_PACE_WORDS: Final = frozenset({"rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"})
_CALLERS_WORDS: Final = frozenset(
    {"invalid_request_error", "context_length_exceeded", "content_filter", "INVALID_ARGUMENT"}
)
_QUOTA_PAUSE_S: Final = 3600.0


def classify_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    provider: str,
    dialect: str = "openai",
    now_s: float | None = None,
) -> ProviderError:
    """The error that an answer other than a success means, with what its headers (in lower case) teach."""
    complaint = read_complaint(body, now_s=now_s)
    learned = learn(headers, dialect=dialect)
    asked_s = parse_retry_after(headers, now_s=now_s)
    error = _judge(status, asked_s, complaint, learned, body, provider)
    if error.retry_after_s is not None:
        # A wait that was asked for is more exact than the time at which a window will be full again.
        learned = [
            Learned(window, remaining, 0 if remaining == 0 else ms) for window, remaining, ms in learned
        ]
    error.learned = tuple(learned)
    error.is_final = headers.get("x-should-retry", "").lower() == "false"
    return error


def classify_event(error: Any, *, provider: str) -> ProviderError:
    """The error that an error object inside a 200 answer means."""
    complaint = complaint_of(error)
    message = f"{provider} failed within its answer: {complaint.message or 'no message'}"
    if _is_money(429, complaint):
        return _quota(message, 429, None, complaint)
    if complaint.words & _PACE_WORDS or complaint.status == 429:
        return _pace(message, None, complaint, [])
    if complaint.words & _CALLERS_WORDS:
        body = orjson.dumps({"error": error})
        return RejectedRequestError(message, status=400, code=complaint.code or None, body=body)
    return ProviderUnavailableError(message, status=max(500, complaint.status))


def _judge(
    status: int,
    asked_s: float | None,
    complaint: Complaint,
    learned: list[Learned],
    body: bytes,
    provider: str,
) -> ProviderError:
    message = f"{provider} answered {status}"
    if complaint.message:
        message = f"{message}: {complaint.message}"
    if _is_money(status, complaint):
        return _quota(message, status, asked_s, complaint)
    if status == 403 and complaint.is_moderation:
        return RejectedRequestError(message, status=status, code="content_policy_violation", body=body)
    if status in (401, 403) or (status == 400 and complaint.words & _KEY_AS_400):
        return AuthenticationError(f"{provider} refused the account's credentials ({status})", status=status)
    if status == 429:
        return _pace(message, asked_s, complaint, learned)
    if 400 <= status < 500 and status not in _TRANSIENT_4XX:
        return _callers_or_unknown(message, status, complaint, body)
    if status < 400:
        return ProviderProtocolError(f"{provider} answered with an unexpected {status}", status=status)
    return ProviderUnavailableError(message, status=status, retry_after_s=asked_s)


def _callers_or_unknown(message: str, status: int, complaint: Complaint, body: bytes) -> ProviderError:
    is_unknown = complaint.words & _UNKNOWN_MODEL or _NO_SUCH_MODEL.search(complaint.message)
    if status == 404 and (is_unknown or not complaint.is_json):
        return ProviderUnavailableError(message, status=status, code="model_not_available")
    return RejectedRequestError(
        message, status=status, code=complaint.code or None, body=body if complaint.is_json else b""
    )


def _is_money(status: int, complaint: Complaint) -> bool:
    """Whether the account has nothing left, which no other model of it has either."""
    if status in _MONEY_STATUSES:
        return True
    if status == 400:
        return _MONEY_AS_400.match(complaint.message) is not None
    if status not in (403, 429):
        return False
    if complaint.words & _QUOTA_WORDS or _MONEY.search(complaint.message):
        return True
    return complaint.is_day_spent and not complaint.is_models_own


def _quota(message: str, status: int, asked_s: float | None, complaint: Complaint) -> ProviderError:
    """Until the time that is named; a day that is spent ends with the calendar, else it is an hour."""
    named_s = complaint.access_s if asked_s is None else asked_s
    return QuotaExhaustedError(
        message,
        status=status,
        retry_after_s=_QUOTA_PAUSE_S if named_s is None else named_s,
        is_day_spent=complaint.is_day_spent and named_s is None,
        is_reset_unknown=named_s is None,
    )


def _pace(message: str, asked_s: float | None, complaint: Complaint, learned: list[Learned]) -> ProviderError:
    """As long as the headers ask, else the body, else until the empty window is full again."""
    waits = (asked_s, complaint.wait_s, wait_s(learned))
    named_s = next((wait for wait in waits if wait is not None), None)
    return RateLimitError(
        message,
        status=429,
        retry_after_s=named_s,
        is_day_spent=complaint.is_day_spent and named_s is None,
    )
