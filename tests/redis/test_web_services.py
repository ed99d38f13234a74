"""Searches and pages through a whole node over a real store: two vendors behind one name, and exact limits on both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from node import core
from node.api.auth import Doorkeeper
from node.service import NodeService
from shared_state.blueprints import Blueprints
from shared_state.config.loader import Written, read_config
from shared_state.store import Store
from shared_state.topology import build_topology
from tests.support.processes import wait_until
from tests.unit.node.api.asgi import Heard, ask, post
from tests.unit.node.providers.web.samples import PAGE, READINGS, SEARCHES
from tests.unit.node.scripted import Answer, ScriptedTransport, Step, refused

ANY = {"retry": {"scope": "any", "maybe_billed": "any"}}
QUIET = {"deactivation": {"retry_limit": 100, "error_rate_threshold": 1.0}}


def document(**models: dict[str, Any]) -> dict[str, Any]:
    """Accounts at four vendors, one pool of searches and one of readers."""
    vendors = ("tavily", "serper", "jina", "firecrawl")
    known = {
        "tavily.tavily-search": {"provider": "tavily"},
        "serper.serper-google-search": {"provider": "serper"},
        "firecrawl.firecrawl-scrape": {"provider": "firecrawl"},
        "jina.jina-reader": {"provider": "jina", "constraints": {"max_output_tokens": 1000}},
    }
    return {
        "providers": {
            name: {"connector": name, "base_url": f"http://{name}", "api_key": f"key-{name}"}
            for name in vendors
        },
        "models": {name: {**model, **models.get(model["provider"], {})} for name, model in known.items()},
        "pools": {
            "finding": {"models": ["tavily.tavily-search", "serper.serper-google-search"], **ANY, **QUIET},
            "web-search": {**ANY, **QUIET},
            "reading": {"models": ["firecrawl.firecrawl-scrape", "jina.jina-reader"], **ANY, **QUIET},
        },
    }


@pytest.fixture
def serve(open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A node whose providers are scripted: ``serve(document, tavily=..., serper=...)``."""

    @asynccontextmanager
    async def start(file: dict[str, Any], **scripts: Step | list[Step]) -> AsyncIterator[NodeService]:
        transport = ScriptedTransport(**scripts)
        monkeypatch.setattr(core, "_open_transport", lambda topology: transport)
        service = NodeService(
            build_topology(read_config(file, environ={}, source="test")),
            open_store(),
            Blueprints(Written(file, "test"), environ={}),
            name="n",
            host="127.0.0.1",
            port=1,
            ops=Doorkeeper([], is_open=True),
            home=None,
        )
        await service.start()
        await service.until_ready()
        yield service
        await service.stop()

    return start


def transport_of(node: NodeService) -> ScriptedTransport:
    transport = node.core.transport
    assert isinstance(transport, ScriptedTransport)
    return transport


def good(fields: dict[str, Any]) -> Answer:
    return Answer(orjson.dumps(fields))


async def search(node: NodeService, model: str | None = "finding", **fields: Any) -> Heard:
    named = {} if model is None else {"model": model}
    return await post(node.application, {**named, "query": "q", **fields}, path="/v1/search")


async def books(node: NodeService) -> dict[str, Any]:
    view: dict[str, Any] = (await ask(node.application, "GET", "/ops/books")).json
    return view


async def test_a_search_is_taken_over_and_its_limits_are_exact(serve: Callable[..., Any]) -> None:
    """A vendor that fails is stood in for; one whose plan of the month is spent too; money ends it all."""
    limited = {"tavily": {"limits": {"rpM": 3}}, "serper": {"budget": {"daily_limit": 0.0025}}}
    tavily = [good(SEARCHES["tavily"]), refused(500), good(SEARCHES["tavily"])]
    scripts = {"tavily": tavily, "serper": good(SEARCHES["serper"])}
    async with serve(document(**limited), **scripts) as node:
        answers = [await search(node) for _ in range(5)]
        served = [(heard.header(b"x-modelmesh-model") or b"").decode() for heard in answers]
        await wait_until(lambda: not node.core.offices.unsettled)
        sums = await books(node)
        sent = [orjson.loads(request.read()) for request in transport_of(node).requests]

    assert [heard.status for heard in answers] == [200, 200, 200, 200, 429]
    assert served[:4] == ["tavily.tavily-search", "serper.serper-google-search"] * 2
    assert [heard.json["results"][0]["content"] for heard in answers[:4]] == ["C"] * 4
    assert answers[0].json["usage"] == {"requests": 1, "credits": 2}
    assert answers[4].header(b"retry-after") is not None
    assert sent == [
        {"query": "q", "max_results": 10},
        {"query": "q", "max_results": 10},
        {"q": "q", "num": 10},
        {"query": "q", "max_results": 10},
        {"q": "q", "num": 10},
    ]
    assert sums["balanced"]


async def test_a_page_is_read_by_who_gets_through(serve: Callable[..., Any]) -> None:
    """A site that shuts one reader out is no failure of it; a page that nobody has ends the matter. Jina's tokens are booked."""
    shut = good({"data": {"metadata": {"statusCode": 403}}})
    gone = good({"data": {"metadata": {"statusCode": 404}}})
    limits = {"jina": {"limits": {"tpm": 1500}}}
    scripts = {"firecrawl": [shut, gone, shut], "jina": good(READINGS["jina"])}
    async with serve(document(**limits), **scripts) as node:
        asked = {"model": "reading", "url": PAGE}
        read, missing, again = [await post(node.application, asked, path="/v1/scrape") for _ in range(3)]
        await wait_until(lambda: not node.core.offices.unsettled)
        usage = (await ask(node.application, "GET", "/ops/usage")).json
        models = (await ask(node.application, "GET", "/ops/models")).json
        sums = await books(node)
        hosts = transport_of(node).hosts

    assert (read.status, read.json["content"], read.json["model"]) == (200, "# C", "jina.jina-reader")
    assert (missing.status, missing.error["code"]) == (422, "page_not_found")
    assert again.status == 200
    assert hosts == ["firecrawl", "jina", "firecrawl", "firecrawl", "jina"]
    (tokens,) = [
        window
        for account in usage["accounts"]
        for model in account["models"]
        if model["id"] == "jina.jina-reader"
        for window in model["windows"]
    ]
    assert (tokens["unit"], tokens["used"]) == ("tokens_per_minute", 42)
    assert {model["id"]: (model["status"], model["fails"]) for model in models["models"]}[
        "firecrawl.firecrawl-scrape"
    ] == ("active", 0)
    assert sums["balanced"]


async def test_every_kind_of_name_will_do(serve: Callable[..., Any]) -> None:
    """A capability, a node above it, an account with the vendor's own name; none at all means the web."""
    names = ("web-search", "retrieval.search.web-search", "retrieval", "tavily/tavily-search", None)
    async with serve(document(), tavily=good(SEARCHES["tavily"])) as node:
        answers = [await search(node, name) for name in names]

    assert [heard.status for heard in answers] == [200] * len(names)
    assert {heard.json["model"] for heard in answers} == {"tavily.tavily-search"}


async def test_what_is_asked_decides_who_is_fit(serve: Callable[..., Any]) -> None:
    """A filter that would be ignored keeps a vendor away; if it keeps everybody away the caller hears of it."""
    html = {"model": "jina/jina-reader", "url": PAGE, "formats": ["html", "text"]}
    scripts = {"firecrawl": AssertionError("no text"), "jina": good(READINGS["jina"])}
    async with serve(document(), **scripts) as node:
        text = await post(
            node.application, {"model": "reading", "url": PAGE, "formats": ["text"]}, path="/v1/scrape"
        )
        both = await post(node.application, html, path="/v1/scrape")
        chat = await post(
            node.application, {"model": "reading", "messages": [{"role": "user", "content": "hi"}]}
        )

    assert (text.status, text.json["model"]) == (200, "jina.jina-reader")
    assert (both.status, both.error["code"], both.error["param"]) == (400, "unsupported_feature", "formats")
    assert "several_formats" in both.error["message"]
    assert (chat.status, chat.error["code"]) == (404, "model_not_found")
