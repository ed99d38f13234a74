"""Searches and pages on their way through the router: where they are sent, what is reserved, who stands in, who is blamed."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from node.api.surfaces import SCRAPE, SEARCH
from node.call import Call
from node.observe.record import _needs
from node.ops.replay import _BITS
from node.routing.estimate import DEFAULT_OUTPUT_TOKENS
from node.routing.fitness import TextFacts
from shared_state.errors import (
    ModelNotFoundError,
    PageGoneError,
    RejectedRequestError,
    UnsupportedFeatureError,
)
from shared_state.ledger import ESTIMATED, Outcome
from tests.unit.node.house import House, mesh
from tests.unit.node.providers.web.samples import PAGE, READINGS, SEARCHES, scrape, search
from tests.unit.node.scripted import Answer, ScriptedTransport, refused


def house(*vendors: str, capability: str = "web-search", model: Any = None, **scripts: Any) -> House:
    """A model at each vendor, at the vendor's own address; the first in the pool is asked first."""
    topology = mesh(
        *(f"{vendor}.m" for vendor in vendors),
        providers={vendor: {"connector": vendor, "api_key": f"key-{vendor}"} for vendor in vendors},
        model={"capabilities": [capability], **(model or {})},
        pool={"retry": {"scope": "any"}},
    )
    return House(topology, ScriptedTransport(**scripts))


def call(surface: Any, **fields: Any) -> Call:
    body = search(**fields) if surface is SEARCH else scrape(**fields)
    return Call(surface, "req-1", body, len(orjson.dumps(body)), time.monotonic(), prompt_tokens=50)


def good(fields: Any) -> Answer:
    return Answer(orjson.dumps(fields))


@pytest.mark.parametrize(
    ("vendor", "surface", "fields", "url", "key"),
    [
        ("tavily", SEARCH, {}, "https://api.tavily.com/search", ("authorization", "Bearer key-tavily")),
        ("tavily", SCRAPE, {}, "https://api.tavily.com/extract", ("authorization", "Bearer key-tavily")),
        ("serper", SEARCH, {}, "https://google.serper.dev/search", ("x-api-key", "key-serper")),
        ("serper", SEARCH, {"topic": "news"}, "https://google.serper.dev/news", ("x-api-key", "key-serper")),
        ("serper", SCRAPE, {}, "https://scrape.serper.dev/", ("x-api-key", "key-serper")),
        ("jina", SEARCH, {}, "https://s.jina.ai/", ("authorization", "Bearer key-jina")),
        ("jina", SCRAPE, {}, "https://r.jina.ai/", ("authorization", "Bearer key-jina")),
        (
            "firecrawl",
            SEARCH,
            {},
            "https://api.firecrawl.dev/v1/search",
            ("authorization", "Bearer key-firecrawl"),
        ),
        (
            "firecrawl",
            SCRAPE,
            {},
            "https://api.firecrawl.dev/v1/scrape",
            ("authorization", "Bearer key-firecrawl"),
        ),
    ],
)
async def test_a_request_goes_to_the_vendors_own_address(
    vendor: str, surface: Any, fields: dict[str, Any], url: str, key: tuple[str, str]
) -> None:
    """With the account's key where the vendor looks for it, and once; with the host that it goes to."""
    answers = SEARCHES if surface is SEARCH else READINGS
    host = url.split("/")[2]
    capability = "web-search" if surface is SEARCH else "document-parsing"
    place = house(vendor, capability=capability, **{host: good(answers[vendor])})
    await place.serve(call(surface, **fields))
    (request,) = place.transport.requests

    assert str(request.url) == url
    assert request.headers["host"] == host
    assert request.headers["content-type"] == request.headers["accept"] == "application/json"
    assert request.headers[key[0]] == key[1]
    assert [name for name, value in request.headers.items() if f"key-{vendor}" in value] == [key[0]]
    assert place.ledger.outcomes == [(f"{vendor}.m", Outcome.SUCCESS)]


async def test_an_address_of_the_configuration_takes_the_place_of_them_all() -> None:
    """For whoever runs the vendor's software, or stands in between."""
    topology = mesh(
        "jina.m",
        provider={"connector": "jina"},
        model={"capabilities": ["document-parsing"]},
    )
    place = House(topology, ScriptedTransport(jina=good(READINGS["jina"])))
    await place.serve(call(SCRAPE))

    assert str(place.transport.requests[0].url) == "http://jina/v1/"


async def test_a_request_is_charged_as_one() -> None:
    """No tokens are reserved or booked, the price of a request is."""
    place = house(
        "tavily", model={"pricing": {"per_request": 0.01}}, **{"api.tavily.com": good(SEARCHES["tavily"])}
    )
    await place.serve(call(SEARCH))
    (ask,), (settled,) = place.ledger.asks, place.ledger.settled

    assert (ask.tokens_in, ask.tokens_out, ask.cost_nano) == (0, 0, 10_000_000)
    assert (settled.tokens_in, settled.tokens_out, settled.cost_nano) == (0, 0, 10_000_000)
    assert not settled.flags & ESTIMATED


async def test_tokens_are_reserved_where_the_vendor_counts_them() -> None:
    """Jina bills what it gives, and keeps to the bound that the configuration names."""
    both = {"s.jina.ai": good(SEARCHES["jina"]), "r.jina.ai": good(READINGS["jina"])}
    place = house("jina", model={"constraints": {"max_output_tokens": 20_000}}, **both)
    await place.serve(call(SEARCH))
    page = house(
        "jina", capability="document-parsing", model={"constraints": {"max_output_tokens": 500}}, **both
    )
    await page.serve(call(SCRAPE, tokenBudget=1_000_000))
    unbound = house("jina", capability="document-parsing", **both)
    await unbound.serve(call(SCRAPE))

    assert [ask.tokens_out for ask in place.ledger.asks] == [20_000]
    assert [settled.tokens_out for settled in place.ledger.settled] == [10_000]
    assert [ask.tokens_out for ask in page.ledger.asks] == [500]
    assert orjson.loads(page.transport.requests[0].read())["tokenBudget"] == 500
    assert [ask.tokens_out for ask in unbound.ledger.asks] == [DEFAULT_OUTPUT_TOKENS]


async def test_a_vendor_that_is_not_well_is_stood_in_for() -> None:
    """An answer without results is no answer, whatever its status; spent credit takes out the account."""
    for first, outcome in (
        (good({"detail": "x"}), Outcome.FAILURE),
        (Answer(b"<html>"), Outcome.FAILURE),
        (refused(503), Outcome.FAILURE),
        (Answer(b'{"detail": {"error": "plan"}}', status=432), Outcome.QUOTA),
        (Answer(b'{"detail": {"error": "key"}}', status=401), Outcome.CREDENTIALS),
    ):
        hosts = {"api.tavily.com": first, "google.serper.dev": good(SEARCHES["serper"])}
        place = house("tavily", "serper", **hosts)
        await place.serve(call(SEARCH))

        assert dict(place.ledger.outcomes) == {"tavily.m": outcome, "serper.m": Outcome.SUCCESS}
        assert orjson.loads(place.reader.body)["model"] == "serper.m"
        place.assert_clean()


async def test_an_answer_that_is_none_is_not_taken_for_an_empty_one() -> None:
    """Serper leaves out what it has not found; an error in its place says what it is."""
    for first, outcome in (
        (good({"message": "x"}), Outcome.FAILURE),
        (good({"error": {"message": "x", "code": "insufficient_quota"}}), Outcome.QUOTA),
    ):
        hosts = {"google.serper.dev": first, "api.tavily.com": good(SEARCHES["tavily"])}
        place = house("serper", "tavily", **hosts)
        await place.serve(call(SEARCH))

        assert dict(place.ledger.outcomes) == {"serper.m": outcome, "tavily.m": Outcome.SUCCESS}


@pytest.mark.parametrize(
    "shut",
    [
        good({"data": {"metadata": {"statusCode": 403}}}),
        Answer(b'{"success": false, "code": "SCRAPE_ALL_ENGINES_FAILED"}', status=500),
    ],
)
async def test_a_page_that_one_cannot_read_is_tried_by_another_and_harms_nobody(shut: Answer) -> None:
    """A page that is not there is not looked for twice."""
    gone = good({"data": {"metadata": {"statusCode": 404}}})
    read = {"r.jina.ai": good(READINGS["jina"])}
    place = house("firecrawl", "jina", capability="document-parsing", **{"api.firecrawl.dev": shut}, **read)
    await place.serve(call(SCRAPE))
    missing = house("firecrawl", "jina", capability="document-parsing", **{"api.firecrawl.dev": gone}, **read)
    with pytest.raises(PageGoneError):
        await missing.serve(call(SCRAPE))

    assert dict(place.ledger.outcomes) == {"firecrawl.m": Outcome.NEUTRAL, "jina.m": Outcome.SUCCESS}
    assert missing.ledger.outcomes == [("firecrawl.m", Outcome.NEUTRAL)]
    assert missing.transport.hosts == ["api.firecrawl.dev"]


async def test_a_request_that_the_vendor_refuses_is_passed_on() -> None:
    """With its own words."""
    body = b'{"detail": {"error": "Query is too long."}}'
    place = house("tavily", "serper", **{"api.tavily.com": Answer(body, status=400)})
    with pytest.raises(RejectedRequestError) as refusal:
        await place.serve(call(SEARCH))

    assert (refusal.value.status, refusal.value.body) == (400, body)
    assert "Query is too long." in refusal.value.message


async def test_filters_decide_who_is_fit() -> None:
    """Hints do not."""
    place = house("firecrawl", "serper", **{"google.serper.dev": good(SEARCHES["serper"])})
    await place.serve(call(SEARCH, topic="news", language="de"))
    nobody = house("jina", **{"s.jina.ai": AssertionError("not to be asked")})
    with pytest.raises(UnsupportedFeatureError) as refusal:
        await nobody.serve(call(SEARCH, time_range="day"))

    assert place.trail.skipped == {"firecrawl.m": "news"}
    assert refusal.value.param == "time_range"


async def test_a_service_of_the_web_is_not_asked_to_chat() -> None:
    """Though it reads documents."""
    place = house(
        "firecrawl", capability="document-parsing", **{"api.firecrawl.dev": AssertionError("no chat")}
    )
    with pytest.raises(ModelNotFoundError):
        await place.serve()


def test_a_record_keeps_what_was_asked_of_the_web() -> None:
    """So that a replay leaves out whom the request left out."""
    facts = TextFacts(call(SCRAPE, formats=["text", "html"]))
    kept = _needs(facts.needs)["features"]

    assert set(kept) == {"html", "text", "several_formats"}
    assert sum(_BITS[name] for name in kept) == facts.needs.wants
    assert TextFacts(call(SEARCH, url=PAGE)).needs.wants == 0
