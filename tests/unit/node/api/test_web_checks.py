"""What is refused of searches and pages before anybody is asked."""

from __future__ import annotations

from typing import Any

import pytest

from node.api.web_checks import check_scrape, check_search
from shared_state.errors import RequestError


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_results": 100, "search_depth": "advanced", "topic": "news", "time_range": "day"},
        {"include_domains": ["example.com", "*.example.org", "example.net/blog"], "exclude_domains": []},
        {"country": "DE", "language": "pt-BR"},
        {"country": None, "topic": None, "include_domains": None, "time_range": None},
        {"include_images": True, "anything": {"else": 1}},
    ],
)
def test_a_sound_search_passes(fields: dict[str, Any]) -> None:
    """Fields that are not known here are the vendors'."""
    check_search({"query": "q", **fields})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": ["q"]}, "query"),
        ({"query": None}, "query"),
        ({"max_results": 0}, "max_results"),
        ({"max_results": 101}, "max_results"),
        ({"max_results": "5"}, "max_results"),
        ({"search_depth": "deep"}, "search_depth"),
        ({"topic": ["news"]}, "topic"),
        ({"time_range": "hour"}, "time_range"),
        ({"include_domains": "example.com"}, "include_domains"),
        ({"include_domains": ["a.com OR site:b.com"]}, "include_domains"),
        ({"exclude_domains": [7]}, "exclude_domains"),
        ({"exclude_domains": ["a.com"] * 301}, "exclude_domains"),
        ({"country": "usa"}, "country"),
        ({"language": "english please"}, "language"),
    ],
)
def test_a_bad_search_is_the_callers_mistake(fields: dict[str, Any], param: str) -> None:
    """The field is named, and what it may be."""
    with pytest.raises(RequestError) as refusal:
        check_search({"query": "q", **fields})

    assert refusal.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"url": "http://127.0.0.1:8080/x?y=1#z"},
        {"url": "HTTPS://EXAMPLE.COM"},
        {"formats": ["markdown", "html", "text"], "timeout": 0.5, "include_links": True},
        {"formats": None, "timeout": None},
    ],
)
def test_a_sound_address_passes(fields: dict[str, Any]) -> None:
    """Whether there is such a page is for others to find out."""
    check_scrape({"url": "https://example.com/ü", **fields})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"url": ""}, "url"),
        ({"url": 7}, "url"),
        ({"url": "example.com"}, "url"),
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://[::1"}, "url"),
        ({"url": "https://example.com:99999/"}, "url"),
        ({"url": "https://example.com/a b"}, "url"),
        ({"url": "https://example.com/\r\nx: y"}, "url"),
        ({"url": "https://example.com/" + "a" * 9000}, "url"),
        ({"formats": []}, "formats"),
        ({"formats": "html"}, "formats"),
        ({"formats": ["pdf"]}, "formats"),
        ({"formats": [["html"]]}, "formats"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "5s"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"include_links": "yes"}, "include_links"),
    ],
)
def test_a_bad_address_is_the_callers_mistake(fields: dict[str, Any], param: str) -> None:
    """Only pages of the web are read."""
    with pytest.raises(RequestError) as refusal:
        check_scrape({"url": "https://example.com/", **fields})

    assert refusal.value.param == param
