"""A vendor's answer in our words, and its excuses for a page that it could not read. Pure."""

from __future__ import annotations

from typing import Any

from node.call import Call, Fields
from node.providers.complaint import read_complaint
from node.providers.usage import Usage
from node.providers.web.contract import Unread, WebApi
from node.providers.web.vendors import counts_tokens
from shared_state.errors import PageGoneError, PageUnreadableError, ProviderProtocolError
from shared_state.topology import ModelSpec


def told_in_our_words(api: WebApi, given: Fields, call: Call, model: ModelSpec) -> Fields:
    """The whole answer for the caller.

    Args:
        given: the vendor's answer, which has what proves it to be one.

    Raises:
        PageUnreadableError: it says that the page could not be read.
        ProviderProtocolError: it is not built as the vendor's answers are.
    """
    kind, subject = ("search", "query") if "query" in call.fields else ("scrape", "url")
    try:
        unread = api.unread(given)
        if unread is not None:
            raise _error(unread, model.provider)
        told = api.answer(given, call.fields)
        usage = api.usage(given)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ProviderProtocolError(f"{model.provider} answered with something else than {kind}") from error
    return {
        **told,  # an envelope of the vendor's own gives way
        "object": kind,
        "id": f"{kind}-{call.request_id}",
        "model": model.id,
        subject: call.fields[subject],
        "usage": {"requests": 1, **usage},
    }


def tokens_told(answer: Fields, model: ModelSpec) -> Usage:
    """What an answer of ours is booked as: tokens where the vendor counts them, and they were reserved; else the request alone."""
    tokens: Any = answer["usage"].get("total_tokens") if counts_tokens(model.web) else 0
    return Usage(0, tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0 else 0)


def page_fault(api: WebApi, status: int, body: bytes, *, provider: str) -> PageUnreadableError | None:
    """The error that an answer other than a success means if the vendor could not read the page; None if it means something else."""
    if not api.faults:
        return None
    complaint = read_complaint(body)
    words = f"{status} {complaint.code} {' '.join(sorted(complaint.words))} {complaint.message}"
    for fault in api.faults:
        if fault.words.search(words):
            return _error(Unread(complaint.message or f"status {status}", fault.is_gone), provider)
    return None


def _error(unread: Unread, provider: str) -> PageUnreadableError:
    kind = PageGoneError if unread.is_gone else PageUnreadableError
    return kind(f"{provider} could not read the page: {unread.reason}")
