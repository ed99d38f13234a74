"""Answers of vendors as their documents show them, and calls to ask for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from node.api.surfaces import SCRAPE, SEARCH
from node.call import Call, Fields
from node.providers.web import tokens_told, told_in_our_words, web_apis
from shared_state.topology import ModelSpec
from tests.unit.node.house import mesh

PAGE = "https://example.com/a"

SEARCHES: dict[str, Fields] = {
    "own": {
        "object": "search",
        "id": "search-9",
        "model": "their.model",
        "query": "q",
        "results": [{"title": "T", "url": PAGE, "content": "C", "score": 0.5, "published_at": "2026-01-02"}],
        "answer": "42",
        "usage": {"requests": 1, "credits": 2, "total_tokens": 99},
    },
    "tavily": {
        "query": "q",
        "answer": "42",
        "images": [],
        "results": [
            {"title": "T", "url": PAGE, "content": "C", "score": 0.5, "raw_content": None}
            | {"published_date": "2026-01-02", "favicon": "f.ico"}
        ],
        "response_time": 1.2,
        "usage": {"credits": 2},
        "request_id": "r",
    },
    "serper": {
        "searchParameters": {"q": "q", "type": "search"},
        "answerBox": {"snippet": "42", "link": PAGE},
        "organic": [{"title": "T", "link": PAGE, "snippet": "C", "date": "2026-01-02", "position": 1}],
        "credits": 2,
    },
    "jina": {
        "code": 200,
        "status": 20000,
        "data": [
            {"title": "T", "url": PAGE, "description": "C", "date": "2026-01-02", "usage": {"tokens": 1000}}
        ],
        "meta": {"usage": {"tokens": 10000}},
    },
    "firecrawl": {
        "success": True,
        "data": [{"title": "T", "url": PAGE, "description": "C"}],
        "creditsUsed": 2,
    },
}

READINGS: dict[str, Fields] = {
    "own": {"object": "scrape", "id": "scrape-9", "url": PAGE, "title": "T", "content": "# C", "usage": {}},
    "tavily": {
        "results": [{"url": PAGE, "title": "T", "raw_content": "# C", "images": []}],
        "failed_results": [],
        "response_time": 0.2,
    },
    "serper": {"text": "C", "markdown": "# C", "metadata": {"title": "T"}, "credits": 2},
    "jina": {
        "code": 200,
        "data": {"title": "T", "url": PAGE, "content": "# C", "links": {"x": PAGE}, "usage": {"tokens": 21}},
    },
    "firecrawl": {
        "success": True,
        "data": {"markdown": "# C", "links": [PAGE], "metadata": {"title": "T", "statusCode": 200}},
    },
}


def search(**fields: Any) -> Fields:
    """A search of ours."""
    return {"model": "chat", "query": "q", **fields}


def scrape(**fields: Any) -> Fields:
    """A page that is to be read."""
    return {"model": "chat", "url": PAGE, **fields}


def asked(vendor: str, fields: Fields, upstream: str = "m") -> Fields:
    """What the vendor is sent."""
    return web_apis(vendor)["/search" if "query" in fields else "/scrape"].ask(fields, upstream)


def told(vendor: str, given: Fields, fields: Fields) -> Fields:
    """What the caller is told of the vendor's answer."""
    surface = SEARCH if "query" in fields else SCRAPE
    call = Call(surface, "req-1", fields, 10, 0.0)
    return told_in_our_words(web_apis(vendor)[surface.path], given, call, _model())


def booked(vendor: str, answer: Fields) -> tuple[int, int]:
    """Tokens that an answer of ours is booked as."""
    return tokens_told(answer, replace(_model(), web=vendor))[:2]


def _model() -> ModelSpec:
    return mesh("alpha.m").models["alpha.m"]
