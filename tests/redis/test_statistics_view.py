"""Statistics of the last minutes are those of the books: nothing is missing, nothing is told twice."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shared_state.books import read_books
from shared_state.ledger import ESTIMATED, NOT_SENT, Outcome
from shared_state.statistics import close_minutes, forget_minute, minutes_of
from tests.redis.office import Office, mesh, open_office

MODELS: dict[str, dict[str, Any]] = {"alpha.small": {}, "alpha.big": {}, "beta.one": {}}
COUNTS = ("requests", "ok", "failed", "neutral", "estimated", "abandoned", "tokens_in", "tokens_out")


async def settled(office: Office) -> dict[str, int]:
    """Settled and abandoned in the books, by model."""
    found: dict[str, int] = {}
    for domain in office.topology.domains:
        for row in (await read_books(office.store, domain)).rows:
            found[row.model] = found.get(row.model, 0) + row.settled + row.abandoned
    return found


async def test_their_sum_equals_the_books(open_store):
    """For every model, whatever became of its attempts; by pool and provider it is the same sum."""
    chance = random.Random(4)
    async with open_office(open_store(), mesh(MODELS)) as office:
        for _ in range(60):
            await office.attempt(
                chance.choice(list(MODELS)),
                chance.choice([Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE, Outcome.NEUTRAL]),
                flags=chance.choice([0, ESTIMATED]),
                tokens_in=chance.randrange(100),
                tokens_out=chance.randrange(100),
                cost_nano=10**6,
                latency_ms=chance.randrange(3000),
            )
            for model in MODELS:  # no failure takes one out
                await office.ask(f"models/{model}/activate", method="POST")
        await office.admit("beta.one", lease_ms=1, tokens=(3, 4))
        await office.expire("beta.one")
        seen = {
            by: await office.view("stats", query=f"minutes=60&by={by}")
            for by in ("model", "pool", "provider")
        }
        books = await settled(office)
    rows = {row["name"]: row["requests"] + row["abandoned"] for row in seen["model"]["rows"]}
    totals = seen["model"]["totals"]

    assert rows == {model: count for model, count in books.items() if count}
    assert totals["requests"] == totals["ok"] + totals["failed"] + totals["neutral"]
    assert totals["abandoned"] == 1
    assert totals["cost_usd"] == pytest.approx(totals["requests"] * 0.001 + 1e-6)
    assert sum(minute["requests"] for minute in seen["model"]["timeline"]) == totals["requests"]
    for view in seen.values():
        assert view["totals"] == totals
        assert {name: sum(row[name] for row in view["rows"]) for name in COUNTS} == {
            name: totals[name] for name in COUNTS
        }
    assert {row["name"] for row in seen["provider"]["rows"]} == {"alpha", "beta"}
    assert {row["name"] for row in seen["pool"]["rows"]} == {"chat"}


async def test_what_was_stored_durably_is_still_told(open_store):
    """A flush in between changes nothing."""
    async with open_office(open_store(), mesh({"alpha.m": {}})) as office:
        await office.attempt("alpha.m")
        (minute,) = await minutes_of(office.store, "alpha")
        await close_minutes(office.store, "alpha", before=minute + 1)
        await forget_minute(office.store, "alpha", minute)
        before = await office.view("stats")
        await office.attempt("alpha.m")
        after = await office.view("stats", query="minutes=60")

    assert before["totals"]["requests"] == 1
    assert [row["failed"] for row in after["rows"]] == [0]


async def test_what_was_never_sent_is_no_attempt(open_store):
    """An admission given back untried is in the books alone."""
    async with open_office(open_store(), mesh({"alpha.m": {}})) as office:
        await office.attempt("alpha.m", Outcome.NEUTRAL, flags=NOT_SENT)
        view = await office.view("stats")

    assert view["totals"]["requests"] == 0
    assert view["rows"] == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [("minutes=0", "minutes"), ("minutes=61", "minutes"), ("by=key", "by"), ("since=1", "since")],
)
async def test_a_query_that_means_nothing_is_refused(open_store, query, fault):
    """Redis keeps an hour; the message names what was wrong."""
    async with open_office(open_store(), mesh({"alpha.m": {}})) as office:
        heard = await office.ask("stats", query=query)

    assert heard.status == 400
    assert fault in heard.error["message"]


async def test_rows_have_timelines_where_they_are_asked_for(open_store):
    """Only minutes in which something was counted; the whole view's has every minute, with tokens, money and latency."""
    async with open_office(open_store(), mesh(MODELS)) as office:
        for model in ("alpha.small", "alpha.small", "beta.one"):
            await office.attempt(model, tokens_in=5, tokens_out=6, cost_nano=10**6, latency_ms=80)
        await office.attempt("beta.one", Outcome.FAILURE)
        plain = await office.view("stats", query="minutes=5")
        view = await office.view("stats", query="minutes=5&each=true")
    timelines = {row["name"]: row["timeline"] for row in view["rows"]}
    sums = {
        name: [sum(minute[field] for minute in timeline) for field in ("requests", "failed", "tokens")]
        for name, timeline in timelines.items()
    }

    assert [row["timeline"] for row in plain["rows"]] == [[], []]
    assert sums == {"alpha.small": [2, 0, 22], "beta.one": [2, 1, 11]}
    assert all(minute["requests"] for timeline in timelines.values() for minute in timeline)
    assert len(view["timeline"]) == 5
    assert sum(minute["cost_usd"] for minute in view["timeline"]) == pytest.approx(view["totals"]["cost_usd"])
    assert max(minute["p95_ms"] or 0 for minute in view["timeline"]) == pytest.approx(100, abs=5)
