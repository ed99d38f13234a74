"""The body of an error, whichever vendor's: its words, and what it says about time. Never fails, whatever the bytes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from node.providers.retry_after import parse_reset

#: Spent money may be said to come back with the next month.
LONGEST_SPENT_S: Final = 32 * 24 * 3600.0

_SHOWN: Final = 300
_SEARCHED: Final = 2000
_MOST_DETAILS: Final = 32
#: OpenAI, Groq: "try again in 1m2.5s"; Azure: "retry after 6 seconds"; Gemini: "retry in 20.04s".
_TOLD_WAIT = re.compile(
    r"(?:try again|retry) (?:in|after) (?:(\d+(?:\.\d+)?) ?seconds?\b|((?:\d+(?:\.\d+)?(?:ms|[smhd]))+))",
    re.I,
)
#: Anthropic: "You will regain access on 2026-09-01 at 00:00 UTC."
_ACCESS_ON = re.compile(r"regain access on (\d{4}-\d\d-\d\d)(?:(?: at |T)(\d\d:\d\d))?")


@dataclass(frozen=True, slots=True)
class Complaint:
    """What an error body says.

    Attributes:
        message: printable and bounded.
        words: types, codes, states and reasons, wherever the vendor puts them.
        code: the one for the caller.
        status: a status named within; 0 without one.
        is_json: whether the body is JSON at all; anything else is somebody's error page.
        is_moderation: the caller's content was flagged.
        wait_s: how long to wait, by the body.
        access_s: how long until spent money comes back, by the body.
        is_day_spent: the quota of a day is used up, not the pace of a minute.
        is_models_own: that quota is one model's, not the account's.
    """

    message: str = ""
    words: frozenset[str] = frozenset()
    code: str = ""
    status: int = 0
    is_json: bool = False
    is_moderation: bool = False
    wait_s: float | None = None
    access_s: float | None = None
    is_day_spent: bool = False
    is_models_own: bool = False


def read_complaint(body: bytes, *, now_s: float | None = None) -> Complaint:
    """The complaint of a whole body."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Complaint()
    if isinstance(parsed, list) and parsed:  # Google wraps its errors so
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return Complaint()
    return complaint_of(_error_in(parsed), envelope=parsed, now_s=now_s)


def complaint_of(
    error: Any, *, envelope: dict[str, Any] | None = None, now_s: float | None = None
) -> Complaint:
    """The complaint of an error object; ``envelope`` is what it came in, for vendors who put a part of it there."""
    if not isinstance(error, dict):
        return _of_text(error, envelope or {})
    details = list(_details(error))
    message = next((text for name in ("message", "detail", "title") if (text := _text(error.get(name)))), "")
    spent = [quota for quota in _quotas(details) if "PerDay" in quota]
    is_free_day = _is_free_day(_metadata(error), message)
    return Complaint(
        message=_shown(message),
        words=frozenset(_words(error, details)),
        code=_shown(error.get("code")) or _inner(error, "error_code"),
        status=_status(error.get("code")),
        is_json=True,
        is_moderation="flagged_input" in _metadata(error),
        # Google sends a short delay along even where only the next day helps.
        wait_s=None if spent else _wait_s(error, details, message),
        access_s=_access_s(message, now_s),
        is_day_spent=bool(spent) or is_free_day,
        is_models_own=is_free_day or all("PerModel" in quota for quota in spent),
    )


def _of_text(error: Any, envelope: dict[str, Any]) -> Complaint:
    """An error that is a plain sentence: xAI and TGI have their word beside it, Ollama has none."""
    text = _text(error)
    beside = [_shown(envelope.get(name)) for name in ("code", "type", "error_type")]
    return Complaint(
        message=_shown(text),
        words=frozenset(word for word in beside if word),
        code=beside[0],
        is_json=True,
        wait_s=_wait_in(text),
        access_s=_access_s(text, None),
    )


def _error_in(parsed: dict[str, Any]) -> Any:
    """The error itself: under ``error``, first of ``errors`` (Cloudflare), within ``detail`` (Tavily), or the whole object (Mistral, Cerebras, Cohere)."""
    if parsed.get("error"):
        return parsed["error"]
    errors = parsed.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return errors[0]
    detail = parsed.get("detail")
    if isinstance(detail, dict) and detail.get("error"):
        return detail["error"]
    return parsed


def _words(error: dict[str, Any], details: list[dict[str, Any]]) -> Iterator[str]:
    for name in ("type", "code", "status", "error_type", "reason"):
        yield _shown(error.get(name))
    yield _inner(error, "error_code")
    inner = error.get("innererror")
    if isinstance(inner, dict):
        yield _shown(inner.get("code"))
    for detail in details:
        yield _shown(detail.get("reason"))


def _inner(error: dict[str, Any], name: str) -> str:
    details = error.get("details")
    return _shown(details.get(name)) if isinstance(details, dict) else ""


def _details(error: dict[str, Any]) -> Iterator[dict[str, Any]]:
    details = error.get("details")
    if isinstance(details, list):
        yield from (detail for detail in details[:_MOST_DETAILS] if isinstance(detail, dict))


def _metadata(error: dict[str, Any]) -> dict[str, Any]:
    metadata = error.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _is_free_day(metadata: dict[str, Any], message: str) -> bool:
    """OpenRouter counts its free models by the day, apart from the rest of the account."""
    return "free-models-per-day" in message or metadata.get("limit_source") == "openrouter_free_tier_daily"


def _quotas(details: list[dict[str, Any]]) -> Iterator[str]:
    """Google names every quota that is exceeded."""
    for detail in details:
        violations = detail.get("violations")
        for violation in violations[:_MOST_DETAILS] if isinstance(violations, list) else ():
            if isinstance(violation, dict):
                yield _text(violation.get("quotaId"))


def _wait_s(error: dict[str, Any], details: list[dict[str, Any]], message: str) -> float | None:
    """By Google's RetryInfo, by the headers that OpenRouter quotes, or by the sentence."""
    for detail in details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (wait := parse_reset(delay)) is not None:
            return wait
    headers = _metadata(error).get("headers")
    if isinstance(headers, dict):
        quoted = {str(name).lower(): _text(value) for name, value in headers.items()}
        wait = parse_reset(quoted.get("x-ratelimit-reset", ""))
        if wait is not None and quoted.get("x-ratelimit-remaining", "0") == "0":
            return wait
    return _wait_in(message)


def _wait_in(message: str) -> float | None:
    found = _TOLD_WAIT.search(message)
    return parse_reset(found[1] or found[2]) if found else None


def _access_s(message: str, now_s: float | None) -> float | None:
    found = _ACCESS_ON.search(message)
    if found is None:
        return None
    try:
        at = datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}").replace(tzinfo=UTC)
        seconds = at.timestamp() - (time.time() if now_s is None else now_s)
    except (ValueError, OverflowError):
        return None
    return min(seconds, LONGEST_SPENT_S) if seconds > 0 else None


def _status(code: Any) -> int:
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599 else 0


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, (dict, list)) else str(value)[:_SEARCHED]


def _shown(value: Any) -> str:
    """Text for a message: printable, bounded, never None."""
    return "".join(c if c.isprintable() else " " for c in _text(value)[:_SHOWN])
