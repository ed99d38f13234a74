"""Pages: how each vendor is asked to read one, what it tells, and how it says that it could not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from node.providers.classify import classify_response
from node.providers.web import page_fault, web_apis
from node.providers.web.vendors import VENDORS
from shared_state.errors import (
    AuthenticationError,
    PageGoneError,
    PageUnreadableError,
    ProviderError,
    ProviderProtocolError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
)
from tests.unit.node.providers.web.samples import PAGE, READINGS, asked, booked, scrape, told


@pytest.mark.parametrize(
    ("vendor", "fields", "body"),
    [
        ("own", {}, {"model": "m", "url": PAGE}),
        ("own", {"formats": ["html"]}, {"model": "m", "url": PAGE, "formats": ["html"]}),
        ("tavily", {}, {"urls": [PAGE], "format": "markdown"}),
        ("tavily", {"formats": ["text"], "timeout": 300}, {"urls": [PAGE], "format": "text", "timeout": 60}),
        (
            "tavily",
            {"extract_depth": "advanced"},
            {"urls": [PAGE], "format": "markdown", "extract_depth": "advanced"},
        ),
        ("serper", {"timeout": 5}, {"url": PAGE, "includeMarkdown": True}),
        ("jina", {}, {"url": PAGE}),
        (
            "jina",
            {"formats": ["html"], "timeout": 5, "include_links": True},
            {"url": PAGE, "respondWith": "html", "timeout": 5, "withLinksSummary": True},
        ),
        ("firecrawl", {}, {"url": PAGE, "formats": ["markdown"]}),
        (
            "firecrawl",
            {"formats": ["html", "markdown"], "timeout": 1.5, "include_links": True, "mobile": True, "x": 1},
            {"url": PAGE, "formats": ["html", "markdown", "links"], "timeout": 1500, "mobile": True},
        ),
    ],
)
def test_a_page_is_asked_for_in_the_vendors_words(
    vendor: str, fields: dict[str, Any], body: dict[str, Any]
) -> None:
    """Times in its unit and within its bounds."""
    assert asked(vendor, scrape(**fields)) == body


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_page_is_told_in_our_words(vendor: str) -> None:
    """Its title and its text, whoever read it."""
    answer = told(vendor, READINGS[vendor], scrape())

    assert (answer["object"], answer["id"], answer["model"], answer["url"]) == (
        "scrape",
        "scrape-req-1",
        "alpha.m",
        PAGE,
    )
    assert (answer["title"], answer["content"]) == ("T", "# C")
    assert answer.get("links", [PAGE]) == [PAGE]
    assert answer["usage"]["requests"] == 1
    assert not answer.keys() & {"results", "failed_results", "data", "success", "markdown"}


def test_several_formats_come_side_by_side() -> None:
    """The first that was asked for is the content."""
    page = {**READINGS["firecrawl"]["data"], "html": "<h1>C</h1>"}
    answer = told("firecrawl", {"data": page}, scrape(formats=["html", "markdown"]))

    assert answer["content"] == "<h1>C</h1>"
    assert answer["formats"] == {"html": "<h1>C</h1>", "markdown": "# C"}
    assert told("serper", READINGS["serper"], scrape(formats=["text"]))["content"] == "C"


def test_tokens_are_booked_where_the_vendor_counts_them() -> None:
    """Jina bills what it gives."""
    assert booked("jina", told("jina", READINGS["jina"], scrape())) == (0, 21)
    assert booked("firecrawl", told("firecrawl", READINGS["firecrawl"], scrape())) == (0, 0)


@pytest.mark.parametrize(
    ("vendor", "answer", "kind"),
    [
        (
            "tavily",
            {"results": [], "failed_results": [{"url": PAGE, "error": "404 Not Found"}]},
            PageGoneError,
        ),
        (
            "tavily",
            {"results": [], "failed_results": [{"url": PAGE, "error": "blocked"}]},
            PageUnreadableError,
        ),
        ("tavily", {"results": []}, PageUnreadableError),
        ("serper", {"text": "", "credits": 2}, PageUnreadableError),
        (
            "jina",
            {"data": {"content": "", "warning": "Target URL returned error 404: Not Found"}},
            PageGoneError,
        ),
        ("jina", {"data": {"warning": "Target URL returned error 403: Forbidden"}}, PageUnreadableError),
        ("jina", {"data": None}, PageUnreadableError),
        ("firecrawl", {"data": {"metadata": {"statusCode": 410}}}, PageGoneError),
        (
            "firecrawl",
            {"data": {"markdown": "Go away", "metadata": {"statusCode": 403}}},
            PageUnreadableError,
        ),
    ],
)
def test_a_page_that_was_not_read_is_no_answer(
    vendor: str, answer: dict[str, Any], kind: type[PageUnreadableError]
) -> None:
    """One that is not there for anybody ends the matter; another vendor may be let in where one is not."""
    with pytest.raises(PageUnreadableError) as refusal:
        told(vendor, answer, scrape())

    assert type(refusal.value) is kind
    assert refusal.value.retryable == (kind is PageUnreadableError)
    assert (refusal.value.status, refusal.value.http_status) == (422, 502)


def test_a_warning_that_is_none_of_the_sites_does_not_matter() -> None:
    """Jina warns of caches too."""
    page = {**READINGS["jina"]["data"], "warning": "This is a cached snapshot"}

    assert told("jina", {"data": page}, scrape())["warning"] == "This is a cached snapshot"


def test_an_answer_of_another_build_is_the_vendors_fault() -> None:
    """It never comes to an exception that nobody expects."""
    for vendor, answer in (("tavily", {"results": 7}), ("firecrawl", {"x": 1}), ("jina", {})):
        with pytest.raises((ProviderProtocolError, PageUnreadableError)):
            told(vendor, answer, scrape())


def error_of(vendor: str, status: int, body: dict[str, Any]) -> ProviderError:
    """What the connector makes of an answer that is not a success."""
    raw = orjson.dumps(body)
    fault = page_fault(web_apis(vendor)["/scrape"], status, raw, provider=vendor)
    return fault or classify_response(status, {}, raw, provider=vendor)


@pytest.mark.parametrize(
    ("vendor", "status", "body", "kind"),
    [
        (
            "tavily",
            401,
            {"detail": {"error": "Unauthorized: missing or invalid API key."}},
            AuthenticationError,
        ),
        (
            "tavily",
            432,
            {"detail": {"error": "This request exceeds your plan's set usage limit."}},
            QuotaExhaustedError,
        ),
        (
            "tavily",
            433,
            {"detail": {"error": "This request exceeds the pay-as-you-go limit."}},
            QuotaExhaustedError,
        ),
        (
            "tavily",
            429,
            {"detail": {"error": "Your request has been blocked due to excessive requests."}},
            RateLimitError,
        ),
        ("serper", 400, {"message": "Not enough credits", "statusCode": 400}, QuotaExhaustedError),
        ("serper", 403, {"message": "Unauthorized.", "statusCode": 403}, AuthenticationError),
        (
            "jina",
            402,
            {"code": 402, "name": "InsufficientBalanceError", "message": "Account balance not enough"},
            QuotaExhaustedError,
        ),
        ("jina", 422, {"code": 422, "message": "Domain 'x.example' could not be resolved"}, PageGoneError),
        ("jina", 422, {"code": 422, "message": "TimeoutError: Navigation timeout"}, PageUnreadableError),
        ("jina", 451, {"code": 451, "message": "Anonymous access to domain x blocked"}, PageUnreadableError),
        ("jina", 409, {"code": 409, "message": "Token budget (10) exceeded"}, PageUnreadableError),
        ("jina", 503, {"code": 503, "message": "Service busy"}, ProviderUnavailableError),
        ("firecrawl", 402, {"success": False, "error": "Insufficient credits"}, QuotaExhaustedError),
        (
            "firecrawl",
            403,
            {"success": False, "error": "This website is no longer supported, please reach out"},
            PageUnreadableError,
        ),
        ("firecrawl", 403, {"success": False, "error": "Forbidden"}, AuthenticationError),
        (
            "firecrawl",
            408,
            {"success": False, "code": "SCRAPE_TIMEOUT", "error": "Timed out"},
            PageUnreadableError,
        ),
        (
            "firecrawl",
            500,
            {"success": False, "code": "SCRAPE_DNS_RESOLUTION_ERROR", "error": "x"},
            PageGoneError,
        ),
        (
            "firecrawl",
            500,
            {"success": False, "code": "SCRAPE_ALL_ENGINES_FAILED", "error": "x"},
            PageUnreadableError,
        ),
        ("firecrawl", 500, {"success": False, "error": "Internal server error"}, ProviderUnavailableError),
        ("own", 422, {"error": {"code": "page_not_found", "message": "gone"}}, PageGoneError),
        ("own", 422, {"error": {"code": "page_unreadable", "message": "blocked"}}, PageUnreadableError),
    ],
)
def test_a_vendors_complaint_is_held_against_whom_it_concerns(
    vendor: str, status: int, body: dict[str, Any], kind: type[ProviderError]
) -> None:
    """A site that is away, slow or shut is no failure of who tried to read it; spent plans take out the account."""
    assert type(error_of(vendor, status, body)) is kind


def test_a_wait_that_is_told_is_kept() -> None:
    """Firecrawl says it in its sentence."""
    told_wait = "Rate limit exceeded. Consumed (req/min): 11, Remaining (req/min): 0. Please retry after 23s"

    assert error_of("firecrawl", 429, {"success": False, "error": told_wait}).retry_after_s == 23
