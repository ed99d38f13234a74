"""What the mock provider does as a service of the web: searches and pages in ModelMesh's own shape, in Tavily's and in Serper's.

Each vendor stands under a prefix of its own: ``base_url: http://127.0.0.1:9001/tavily``. Answers name the mock and what was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from benchmarks.mock_answers import Headers, Script, compose_unary
from benchmarks.mock_behaviour import Behaviour
from benchmarks.mock_calls import Call, CallError

_RESULTS: Final = 3


def _page(call: Call, name: str) -> str:
    return f"{name}: {call.texts[0]}"


def _rows(call: Call, name: str, *, url: str, content: str) -> list[dict[str, Any]]:
    return [
        {"title": f"{name} {n}", url: f"https://example.com/{n}", content: _page(call, name)}
        for n in range(_RESULTS)
    ]


def _search(call: Call, name: str) -> dict[str, Any]:
    rows = _rows(call, name, url="url", content="content")
    return {"object": "search", "model": call.model, "query": call.texts[0], "results": rows}


def _scrape(call: Call, name: str) -> dict[str, Any]:
    return {"object": "scrape", "url": call.texts[0], "title": name, "content": _page(call, name)}


def _tavily_search(call: Call, name: str) -> dict[str, Any]:
    rows = [{**row, "score": 0.9} for row in _rows(call, name, url="url", content="content")]
    return {"query": call.texts[0], "results": rows, "response_time": 0.1}


def _tavily_extract(call: Call, name: str) -> dict[str, Any]:
    return {"results": [{"url": call.texts[0], "raw_content": _page(call, name)}], "failed_results": []}


def _serper_search(call: Call, name: str) -> dict[str, Any]:
    return {"organic": _rows(call, name, url="link", content="snippet"), "credits": 1}


#: Path -> the field that is asked, and the answer.
_ROUTES: Final[dict[str, tuple[str, Callable[[Call, str], dict[str, Any]]]]] = {
    "/v1/search": ("query", _search),
    "/v1/scrape": ("url", _scrape),
    "/tavily/search": ("query", _tavily_search),
    "/tavily/extract": ("urls", _tavily_extract),
    "/serper/search": ("q", _serper_search),
}
WEB: Final = frozenset(_ROUTES)


def read_web(path: str, body: bytes) -> Call:
    """What the body asks for; vendors know no models.

    Raises:
        CallError: it asks for nothing.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CallError(f"the body is not JSON: {error}") from error
    name = _ROUTES[path][0]
    asked = document.get(name) if isinstance(document, dict) else None
    text = asked[0] if isinstance(asked, list) and asked else asked
    if not isinstance(text, str):
        raise CallError(f"the body must be an object with {name!r}")
    return Call(path, str(document.get("model") or ""), [text])


def compose_web(call: Call, behaviour: Behaviour, *, name: str, headers: Headers = ()) -> Script:
    """The script of the answer to a call."""
    return compose_unary(orjson.dumps(_ROUTES[call.path][1](call, name)), behaviour, headers=headers)
