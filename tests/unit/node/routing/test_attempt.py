"""One attempt: what goes through, who is blamed, what is charged, and that everything is settled exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from shared_state.errors import ProviderTimeoutError
from shared_state.ledger import ESTIMATED, NOT_SENT, STREAM, Outcome
from tests.unit.node.house import chat
from tests.unit.node.routing.scene import CHARGED_IN_FULL, CHARGED_NOTHING, GOOD, charged, house
from tests.unit.node.scripted import (
    COMMENT,
    DONE,
    FAILED,
    HTML_PAGE,
    ROLE,
    USAGE,
    Answer,
    Step,
    chunk,
    for_ever,
    pause,
    refused,
    stream,
    whole,
)
from tests.unit.node.virtual_time import in_virtual_time

# -- success


@in_virtual_time
async def test_a_whole_answer_goes_through_and_is_settled_by_its_usage() -> None:
    """Body as it came, exact tokens and money, one settlement."""
    place = house(alpha=whole())
    await place.serve()

    assert orjson.loads(place.reader.body)["choices"][0]["message"]["content"] == "hello"
    assert (place.reader.status, place.reader.ended) == (200, 1)
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
    assert charged(place.ledger.settled[0]) == (7, 3, 13_000)
    assert place.ledger.settled[0].flags == 0
    assert (place.trail.attempts, place.trail.tokens_in, place.trail.tokens_out) == (1, 7, 3)
    place.assert_clean()


@in_virtual_time
async def test_a_whole_answer_without_usage_is_charged_in_full() -> None:
    """Nobody knows what it cost: the reservation, and flagged."""
    place = house(alpha=whole(usage=None))
    await place.serve()

    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
    assert charged(place.ledger.settled[0]) == CHARGED_IN_FULL
    assert place.ledger.settled[0].flags == ESTIMATED


@in_virtual_time
async def test_a_stream_goes_through_and_is_settled_by_its_usage() -> None:
    """Everything but the usage event that the caller did not ask for."""
    place = house(alpha=stream(*GOOD, USAGE, DONE))
    await place.serve(stream=True)

    assert place.reader.body == b"".join(GOOD) + DONE
    assert (place.reader.begun, place.reader.ended, place.reader.errors) == (1, 1, [])
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
    assert charged(place.ledger.settled[0]) == (7, 3, 13_000)
    assert place.ledger.settled[0].flags == STREAM
    place.assert_clean()


@in_virtual_time
async def test_a_caller_who_asked_for_usage_gets_it() -> None:
    """Then nothing at all is taken out."""
    place = house(alpha=stream(*GOOD, USAGE, DONE))
    await place.serve(stream=True, stream_options={"include_usage": True})

    assert place.reader.body == b"".join(GOOD) + USAGE + DONE


@in_virtual_time
async def test_a_stream_without_usage_is_estimated_and_flagged() -> None:
    """By the text that came and, without giving anything back, the size of the request."""
    place = house(alpha=stream(*GOOD, DONE))
    call = chat(stream=True)
    await place.serve(call)

    assert charged(place.ledger.settled[0])[:2] == (-(-call.body_bytes // 2), 5)
    assert place.ledger.settled[0].flags == ESTIMATED | STREAM


@in_virtual_time
async def test_times_are_measured_from_admission() -> None:
    """Latency to the end, first token to the first content, and a late dispatch is told."""
    place = house(alpha=stream(pause(2), ROLE, pause(1), chunk("one"), pause(4), DONE, wait=pause(3)))
    await place.serve(stream=True)
    settlement = place.ledger.settled[0]

    assert (settlement.first_token_ms, settlement.latency_ms, settlement.dispatch_delay_ms) == (
        6000,
        10_000,
        0,
    )


@in_virtual_time
async def test_what_follows_the_end_marker_is_read_but_not_waited_for() -> None:
    """The caller has its end at once; the connection gets half a second to become usable again."""
    place = house(alpha=stream(*GOOD, DONE, b"\n", for_ever))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve(stream=True)

    assert loop.time() - began == pytest.approx(0.5)
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
    place.assert_clean()


# -- failover before content


@pytest.mark.parametrize(
    ("first", "outcome", "charge", "flags"),
    [
        (refused(500), Outcome.FAILURE, CHARGED_NOTHING, 0),
        (refused(429), Outcome.FAILURE, CHARGED_NOTHING, 0),
        (refused(429, headers={"retry-after": "90"}), Outcome.RATE_LIMITED, CHARGED_NOTHING, 0),
        (refused(429, code="insufficient_quota"), Outcome.QUOTA, CHARGED_NOTHING, 0),
        (refused(401), Outcome.CREDENTIALS, CHARGED_NOTHING, 0),
        (refused(404, code="model_not_found"), Outcome.FAILURE, CHARGED_NOTHING, 0),
        (refused(529), Outcome.NEUTRAL, CHARGED_NOTHING, 0),
        (Answer(HTML_PAGE, status=502), Outcome.FAILURE, CHARGED_NOTHING, 0),
        (Answer(b"", status=302), Outcome.FAILURE, CHARGED_IN_FULL, ESTIMATED),
        (httpx.ConnectError("refused"), Outcome.UNREACHABLE, CHARGED_IN_FULL, ESTIMATED | NOT_SENT),
        (httpx.ConnectTimeout("slow"), Outcome.UNREACHABLE, CHARGED_IN_FULL, ESTIMATED | NOT_SENT),
        (httpx.ReadTimeout("slow"), Outcome.FAILURE, CHARGED_IN_FULL, ESTIMATED),
        (httpx.RemoteProtocolError("cut"), Outcome.FAILURE, CHARGED_IN_FULL, ESTIMATED),
        (Answer(b"<html>"), Outcome.FAILURE, CHARGED_IN_FULL, ESTIMATED),
        (Answer(b'{"error": {"message": "busy"}}'), Outcome.FAILURE, CHARGED_NOTHING, 0),
        (Answer(b'{"choices": [', httpx.ReadError("reset")), Outcome.FAILURE, CHARGED_IN_FULL, ESTIMATED),
    ],
)
@in_virtual_time
async def test_a_failed_answer_is_settled_and_the_next_model_serves(
    first: Step, outcome: Outcome, charge: tuple[int, int, int], flags: int
) -> None:
    """Who is blamed and what is charged: a refused status costs nothing, what nobody knows costs everything."""
    place = house(alpha=first, beta=whole())
    await place.serve()

    assert place.ledger.outcomes == [("alpha.m", outcome), ("beta.m", Outcome.SUCCESS)]
    failed = place.ledger.settled[0]
    assert charged(failed) == charge
    assert failed.flags == flags
    assert place.trail.attempts == 2
    assert place.trail.target is not None
    assert place.trail.target.model.id == "beta.m"
    assert place.reader.ended == 1
    place.assert_clean()


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        (refused(503), Outcome.FAILURE),
        (stream(FAILED), Outcome.FAILURE),
        (stream(ROLE, FAILED), Outcome.FAILURE),
        (stream(COMMENT, ROLE, httpx.ReadError("reset")), Outcome.FAILURE),
        (stream(ROLE, OSError("reset")), Outcome.FAILURE),
        (stream(), Outcome.FAILURE),
        (stream(ROLE, COMMENT), Outcome.FAILURE),
        (stream(b"data: <html>\n\n"), Outcome.FAILURE),
        (stream(b"data: " + b"x" * (1 << 20), b"x"), Outcome.FAILURE),
        (whole(), Outcome.FAILURE),
        (Answer(b'{"error": {"message": "busy", "type": "server_error"}}'), Outcome.FAILURE),
    ],
)
@in_virtual_time
async def test_a_stream_that_fails_before_content_is_taken_over(first: Answer, outcome: Outcome) -> None:
    """The caller sees one good stream and nothing of the failure."""
    place = house(alpha=first, beta=stream(*GOOD, DONE))
    await place.serve(stream=True)

    assert place.reader.body == b"".join(GOOD) + DONE
    assert (place.reader.begun, place.reader.ended, place.reader.errors) == (1, 1, [])
    assert place.ledger.outcomes == [("alpha.m", outcome), ("beta.m", Outcome.SUCCESS)]
    place.assert_clean()


@in_virtual_time
async def test_an_event_that_says_to_wait_is_not_charged_and_passed_over() -> None:
    """A rate limit inside a 200 is one."""
    limited = stream(b'data: {"error": {"message": "slow", "code": "rate_limit_exceeded"}}\n\n')
    place = house(alpha=limited, beta=stream(*GOOD, DONE))
    await place.serve(stream=True)

    assert place.ledger.outcomes[0] == ("alpha.m", Outcome.FAILURE)
    assert charged(place.ledger.settled[0]) == CHARGED_NOTHING


@pytest.mark.parametrize(
    ("answer", "wait_ms"),
    [
        (refused(429, headers={"retry-after": "90"}), 90_000),
        (refused(429, headers={"retry-after": "86400"}), 3_600_000),
        (refused(429, code="insufficient_quota"), 3_600_000),
        (refused(429, code="insufficient_quota", headers={"retry-after": "86400"}), 86_400_000),
        (refused(500), 0),
    ],
)
@in_virtual_time
async def test_the_wait_a_provider_asks_for_reaches_the_books(answer: Answer, wait_ms: int) -> None:
    """A rate limit rests a model for an hour at most; spent money as long as it is said."""
    place = house(alpha=answer, beta=whole())
    await place.serve()

    assert place.ledger.settled[0].retry_after_ms == wait_ms


# -- after content


@pytest.mark.parametrize(
    ("tail", "code"),
    [
        ((FAILED,), "provider_unavailable"),
        ((httpx.ReadError("reset"),), "provider_unavailable"),
        ((httpx.RemoteProtocolError("cut"),), "provider_protocol"),
        ((), "provider_protocol"),
        ((chunk("two"), b"data: [DON"), "provider_protocol"),
        ((for_ever,), "provider_timeout"),
    ],
)
@in_virtual_time
async def test_after_content_nothing_is_spliced_or_repeated(tail: tuple[Any, ...], code: str) -> None:
    """One error event ends the stream, without its end marker; nobody else is asked, the model is blamed."""
    place = house(alpha=stream(ROLE, chunk("one"), *tail), beta=stream(*GOOD, DONE))
    await place.serve(stream=True)

    assert place.reader.body.startswith(ROLE + chunk("one"))
    assert DONE not in place.reader.body
    assert [error.code for error in place.reader.errors] == [code]
    assert place.reader.ended == 0
    assert place.transport.hosts == ["alpha"]
    assert place.ledger.outcomes == [("alpha.m", Outcome.FAILURE)]
    assert charged(place.ledger.settled[0]) == CHARGED_IN_FULL
    assert place.trail.outcome == code
    place.assert_clean()


@in_virtual_time
async def test_an_error_event_reaches_a_reader_who_is_slow() -> None:
    """The clock that ended the stream does not cut its last word off, and there is one last word."""
    place = house(alpha=stream(chunk("one"), for_ever))
    place.reader.wait = pause(5)
    await place.serve(stream=True)

    assert [type(error) for error in place.reader.errors] == [ProviderTimeoutError]
    place.assert_clean()


# -- the way to the provider


@in_virtual_time
async def test_the_providers_clock_begins_when_the_request_goes_out() -> None:
    """Time that a connection took moves the charge to where the provider counts it."""
    place = house(alpha=whole())
    place.transport.connects = [pause(0.4)]
    await place.serve()

    assert place.ledger.settled[0].dispatch_delay_ms == 400


@in_virtual_time
async def test_an_admission_that_has_become_old_is_given_back_and_asked_anew() -> None:
    """Nothing was sent, nobody is blamed, nothing is charged."""
    place = house(alpha=whole())
    place.transport.connects = [pause(3)]
    await place.serve()
    first, second = place.ledger.settled

    assert (first.outcome, first.flags & NOT_SENT) == (Outcome.NEUTRAL, NOT_SENT)
    assert second.outcome is Outcome.SUCCESS
    assert [ask.reservation for ask in place.ledger.asks] == [first.reservation, second.reservation]
    assert len(place.transport.requests) == 1
    place.assert_clean()
