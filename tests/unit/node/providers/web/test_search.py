"""Searches in the words of every vendor, and their results in ours."""

from __future__ import annotations

from typing import Any

import pytest

from node.providers.web import web_lacks
from node.providers.web.vendors import VENDORS
from shared_state.catalogue import spoken_profiles
from shared_state.errors import ProviderProtocolError
from tests.unit.node.providers.web.samples import PAGE, SEARCHES, asked, booked, search, told

NARROW = {
    "max_results": 3,
    "search_depth": "advanced",
    "include_domains": ["a.com", "b.org"],
    "exclude_domains": ["c.net"],
    "country": "us",
    "language": "en",
    "time_range": "week",
}
OPERATORS = "q (site:a.com OR site:b.org) -site:c.net"


@pytest.mark.parametrize(
    ("vendor", "body"),
    [
        ("own", {"model": "m", "query": "q", **NARROW}),
        (
            "tavily",
            {"query": "q", "max_results": 3, "search_depth": "advanced", "time_range": "week"}
            | {"include_domains": ["a.com", "b.org"], "exclude_domains": ["c.net"]},
        ),
        ("serper", {"q": OPERATORS, "num": 3, "gl": "us", "hl": "en", "tbs": "qdr:w"}),
        ("jina", {"q": OPERATORS, "num": 3, "gl": "us", "hl": "en"}),
        (
            "firecrawl",
            {"query": OPERATORS, "limit": 3, "country": "us", "lang": "en", "tbs": "qdr:w"}
            | {"scrapeOptions": {"formats": ["markdown"]}},
        ),
    ],
)
def test_a_narrow_search_is_asked_for_in_the_vendors_words(vendor: str, body: dict[str, Any]) -> None:
    """Every vendor narrows by domains; what else one does not know is left out, or keeps it away."""
    assert asked(vendor, search(**NARROW)) == body


@pytest.mark.parametrize(
    ("vendor", "body"),
    [
        ("own", {"model": "m", "query": "q"}),
        ("tavily", {"query": "q", "max_results": 10}),
        ("serper", {"q": "q", "num": 10}),
        ("jina", {"q": "q", "num": 10, "respondWith": "no-content"}),
        ("firecrawl", {"query": "q", "limit": 10}),
    ],
)
def test_a_plain_search_says_how_many_results_it_wants(vendor: str, body: dict[str, Any]) -> None:
    """Ten, whoever is asked; no model's name goes to a vendor who knows none."""
    assert asked(vendor, search()) == body


def test_what_a_vendor_cannot_give_is_bounded() -> None:
    """Tavily refuses more than twenty results."""
    assert asked("tavily", search(max_results=50))["max_results"] == 20
    assert asked("serper", search(max_results=50))["num"] == 50


def test_a_model_of_the_basic_price_searches_at_that_depth() -> None:
    """Tavily charges the other one twice."""
    assert asked("tavily", search(search_depth="advanced"), "tavily-search-basic")["search_depth"] == "basic"
    assert asked("tavily", search(search_depth="advanced"), "tavily-search")["search_depth"] == "advanced"


def test_news_are_asked_for_where_there_are_news() -> None:
    """By a field, or at another path."""
    assert asked("tavily", search(topic="news"))["topic"] == "news"
    assert asked("jina", search(topic="news"))["type"] == "news"
    assert "topic" not in asked("serper", search(topic="news"))
    assert VENDORS["serper"].search.news_path == "/news"


@pytest.mark.parametrize("vendor", VENDORS)
def test_fields_of_a_vendors_own_are_passed_on(vendor: str) -> None:
    """But for one that refuses what it does not know; and nobody brings an account of their own."""
    body = asked(vendor, search(include_images=True, tbs="qdr:y", api_key="sk-mine"))

    assert body.get("include_images", False) == (vendor != "firecrawl")
    assert body["tbs"] == "qdr:y"
    assert ("api_key" in body) == (vendor == "own")


@pytest.mark.parametrize("vendor", VENDORS)
def test_results_are_told_in_our_words(vendor: str) -> None:
    """The same title, address and text, whoever found it; of a vendor's envelope nothing is left."""
    answer = told(vendor, SEARCHES[vendor], search())
    row = answer["results"][0]

    assert (answer["object"], answer["id"], answer["model"], answer["query"]) == (
        "search",
        "search-req-1",
        "alpha.m",
        "q",
    )
    assert (row["title"], row["url"], row["content"]) == ("T", PAGE, "C")
    assert row.get("published_at", "2026-01-02") == "2026-01-02"
    assert row.get("score", 0.5) == 0.5
    assert answer.get("answer", "42") == "42"
    assert not answer.keys() & {"organic", "data", "success", "searchParameters", "code"}


def test_a_vendors_own_envelope_gives_way() -> None:
    """Who counts requests goes by our ids."""
    answer = told(
        "firecrawl", {**SEARCHES["firecrawl"], "id": "theirs", "object": "x", "model": "y"}, search()
    )

    assert (answer["id"], answer["object"], answer["model"]) == ("search-req-1", "search", "alpha.m")


def test_what_a_vendor_adds_stays_under_its_own_name() -> None:
    """Who asks for a vendor's own gets it."""
    answer = told("tavily", SEARCHES["tavily"], search())

    assert answer["response_time"] == 1.2
    assert answer["results"][0]["favicon"] == "f.ico"


@pytest.mark.parametrize(
    ("vendor", "usage", "tokens"),
    [
        ("own", {"requests": 1, "credits": 2, "total_tokens": 99}, 0),
        ("tavily", {"requests": 1, "credits": 2}, 0),
        ("serper", {"requests": 1, "credits": 2}, 0),
        ("jina", {"requests": 1, "total_tokens": 10000}, 10000),
        ("firecrawl", {"requests": 1, "credits": 2}, 0),
    ],
)
def test_a_search_is_one_request(vendor: str, usage: dict[str, int], tokens: int) -> None:
    """Tokens are booked only where the vendor counts them, and they were reserved; what else is told of them and of credits is passed on."""
    answer = told(vendor, SEARCHES[vendor], search())

    assert answer["usage"] == usage
    assert booked(vendor, answer) == (0, tokens)


def test_no_more_results_are_told_than_were_asked_for() -> None:
    """Some vendors give whole pages of them."""
    many = {"organic": [{"title": str(n), "link": PAGE, "snippet": ""} for n in range(10)]}

    assert len(told("serper", many, search(max_results=2))["results"]) == 2
    assert len(told("serper", many, search())["results"]) == 10


@pytest.mark.parametrize("vendor", VENDORS)
def test_nothing_found_is_an_answer(vendor: str) -> None:
    """And rows without an address are no results."""
    name = next(name for name in ("organic", "results", "data") if name in SEARCHES[vendor])

    for rows in ([], [{"title": "T"}], [None, 7]):
        assert told(vendor, {**SEARCHES[vendor], name: rows}, search())["results"] == []


def test_an_answer_of_another_build_is_the_vendors_fault() -> None:
    """It never comes to an exception that nobody expects."""
    for vendor in ("tavily", "jina", "firecrawl"):
        with pytest.raises(ProviderProtocolError):
            told(vendor, {}, search())


def test_every_vendor_of_the_catalogue_is_known() -> None:
    """And none that it does not name."""
    assert {profile.web for profile in spoken_profiles()} - {""} == set(VENDORS)


@pytest.mark.parametrize(
    ("vendor", "lacks"),
    [
        ("", set()),
        ("own", set()),
        ("tavily", {"html", "several_formats"}),
        ("serper", {"html"}),
        ("jina", {"time_range", "several_formats"}),
        ("firecrawl", {"news", "text"}),
    ],
)
def test_what_a_vendor_lacks_is_known(vendor: str, lacks: set[str]) -> None:
    """A filter that would be ignored keeps it away."""
    assert web_lacks(vendor) == lacks
