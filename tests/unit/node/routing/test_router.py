"""The journey of a call: who answers, who is blamed, what is charged, and that everything is settled exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from node.routing.comfort import HOLD_HEAD_S
from shared_state.errors import (
    AllProvidersExhaustedError,
    ClientDisconnectedError,
    DeadlineExceededError,
    LimitReachedError,
    NoActiveModelError,
    ProviderProtocolError,
    ProviderTimeoutError,
    RejectedRequestError,
    StateUnavailableError,
)
from shared_state.ledger import ESTIMATED, NOT_SENT, UNKNOWN, Code, Outcome, Settlement, Verdict
from tests.unit.node.house import NOW_MS, House, chat, mesh
from tests.unit.node.scripted import (
    COMMENT,
    DONE,
    FAILED,
    FINISH,
    HTML_PAGE,
    ROLE,
    USAGE,
    Answer,
    ScriptedTransport,
    Step,
    chunk,
    for_ever,
    pause,
    refused,
    stream,
    whole,
)
from tests.unit.node.virtual_time import in_virtual_time, settle_down

PRICED = {"pricing": {"input": 1.0, "output": 2.0}}
GOOD = (ROLE, chunk("one"), chunk("two"), FINISH)
CLOCKS = {"timeouts": {"connect": "5s", "first_token": "30s", "idle": "20s", "total": "300s"}}


def house(*, retry: dict[str, Any] | None = None, on_loss: str = "leased", **scripts: Any) -> House:
    """A node whose pool ``chat`` holds one model on each scripted provider, in that order."""
    topology = mesh(
        *(f"{name}.m" for name in scripts),
        model=PRICED,
        provider=CLOCKS,
        pool={"retry": retry or {"max_attempts": 1}},
    )
    return House(topology, ScriptedTransport(**scripts), on_loss=on_loss)


def charged(settlement: Settlement) -> tuple[int, int, int]:
    return settlement.tokens_in, settlement.tokens_out, settlement.cost_nano


CHARGED_IN_FULL = (UNKNOWN, UNKNOWN, UNKNOWN)
CHARGED_NOTHING = (0, 0, 0)


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
    assert place.ledger.settled[0].flags == 0
    place.assert_clean()


@in_virtual_time
async def test_a_caller_who_asked_for_usage_gets_it() -> None:
    """Then nothing at all is taken out."""
    place = house(alpha=stream(*GOOD, USAGE, DONE))
    await place.serve(stream=True, stream_options={"include_usage": True})

    assert place.reader.body == b"".join(GOOD) + USAGE + DONE


@in_virtual_time
async def test_a_stream_without_usage_is_estimated_and_flagged() -> None:
    """By the pieces that came and the size of the request."""
    place = house(alpha=stream(*GOOD, DONE))
    call = chat(stream=True)
    await place.serve(call)

    assert charged(place.ledger.settled[0])[:2] == (-(-call.body_bytes // 4), 4)
    assert place.ledger.settled[0].flags == ESTIMATED


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


# -- the caller's mistake


@pytest.mark.parametrize("status", [400, 413, 422])
@in_virtual_time
async def test_a_callers_mistake_is_tried_once_and_harms_nobody(status: int) -> None:
    """The provider's own body is what the caller gets."""
    place = house(retry={"max_attempts": 3}, alpha=refused(status, code="bad_value"), beta=whole())

    with pytest.raises(RejectedRequestError) as caught:
        await place.serve()
    assert caught.value.status == status
    assert orjson.loads(caught.value.body)["error"]["code"] == "bad_value"
    assert place.transport.hosts == ["alpha"]
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[0]) == CHARGED_NOTHING
    place.assert_clean()


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


# -- clocks


@in_virtual_time
async def test_a_provider_that_says_nothing_has_its_first_token_time() -> None:
    """Head or no head; then the next model serves, and the timeout is the model's fault."""
    for silent in (stream(wait=for_ever), stream(ROLE, COMMENT, for_ever)):
        place = house(alpha=silent, beta=stream(*GOOD, DONE))
        loop = asyncio.get_running_loop()
        began = loop.time()
        await place.serve(stream=True)

        assert loop.time() - began == pytest.approx(30)
        assert place.ledger.outcomes == [("alpha.m", Outcome.FAILURE), ("beta.m", Outcome.SUCCESS)]
        assert charged(place.ledger.settled[0]) == CHARGED_IN_FULL
        place.assert_clean()


@in_virtual_time
async def test_a_whole_answer_has_the_total_time() -> None:
    """Without a stream there is no sign of life before the end."""
    place = house(retry={"deadline": "1000s", "max_attempts": 3}, alpha=Answer(for_ever), beta=whole())
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve()

    assert loop.time() - began == pytest.approx(300)
    assert place.transport.hosts == ["alpha", "beta"]
    assert place.ledger.outcomes[0] == ("alpha.m", Outcome.FAILURE)


@pytest.mark.parametrize("noise", [COMMENT, b"\n", b"data: half an ev"], ids=["comment", "blank", "half"])
@in_virtual_time
async def test_only_events_are_progress(noise: bytes) -> None:
    """A provider that sends comments for ever is as silent as one that sends nothing."""
    place = house(alpha=stream(chunk("one"), *[pause(5), noise] * 50))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve(stream=True)

    assert loop.time() - began == pytest.approx(20)
    assert [error.code for error in place.reader.errors] == ["provider_timeout"]
    assert place.ledger.outcomes == [("alpha.m", Outcome.FAILURE)]


@in_virtual_time
async def test_a_stream_that_makes_progress_goes_on() -> None:
    """A pause just below the idle time, again and again; usage beside the content changes nothing."""
    both = b'data: {"choices": [{"delta": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\n'
    place = house(alpha=stream(chunk("one"), *[pause(19), both] * 10, DONE))
    await place.serve(stream=True)

    assert place.reader.errors == []
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]


@in_virtual_time
async def test_a_stream_has_a_total_time_as_well() -> None:
    """A provider that drips for ever is ended."""
    place = house(alpha=stream(chunk("one"), *[pause(19), chunk("x")] * 50))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve(stream=True)

    assert loop.time() - began == pytest.approx(300)
    assert [error.code for error in place.reader.errors] == ["provider_timeout"]


@in_virtual_time
async def test_a_slow_reader_is_not_the_providers_fault() -> None:
    """Time in which the caller takes nothing stops the provider's clocks, and they run again afterwards."""
    place = house(alpha=stream(chunk("one"), chunk("two"), chunk("three"), for_ever))
    waits = iter([0.0, 100.0, 0.0])
    place.reader.wait = lambda: asyncio.sleep(next(waits, 0))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve(stream=True)

    assert place.reader.body == chunk("one") + chunk("two") + chunk("three")
    assert loop.time() - began == pytest.approx(100 + 20)
    assert [error.code for error in place.reader.errors] == ["provider_timeout"]


@pytest.mark.parametrize(
    "answer", [stream(chunk("one"), chunk("two"), DONE), whole()], ids=["stream", "whole"]
)
@in_virtual_time
async def test_a_reader_who_takes_nothing_is_as_good_as_gone(answer: Answer) -> None:
    """Nobody is blamed, or three such callers could take a model out."""
    place = house(alpha=answer)
    place.reader.wait = for_ever

    with pytest.raises(ClientDisconnectedError):
        await place.serve(stream=answer.headers["content-type"] == "text/event-stream")
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    place.assert_clean()


@pytest.mark.parametrize("is_stream", [True, False])
@in_virtual_time
async def test_the_deadline_ends_everything(is_stream: bool) -> None:
    """The caller's own bound, over all attempts; nobody is blamed for what it cut short."""
    place = house(alpha=refused(500), beta=Answer(wait=for_ever), gamma=whole())
    loop = asyncio.get_running_loop()
    began = loop.time()

    with pytest.raises(DeadlineExceededError):
        await place.serve(chat(deadline_s=2.5, stream=is_stream))
    assert loop.time() - began == pytest.approx(2.5)
    assert place.transport.hosts == ["alpha", "beta"]
    assert place.ledger.outcomes == [("alpha.m", Outcome.FAILURE), ("beta.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[1]) == CHARGED_IN_FULL
    place.assert_clean()


@in_virtual_time
async def test_the_pools_deadline_bounds_the_callers() -> None:
    """A caller cannot ask for more time than the pool gives."""
    place = house(retry={"deadline": "4s"}, alpha=Answer(wait=for_ever))
    loop = asyncio.get_running_loop()
    began = loop.time()

    with pytest.raises(DeadlineExceededError):
        await place.serve(chat(deadline_s=600))
    assert loop.time() - began == pytest.approx(4)


@in_virtual_time
async def test_a_deadline_while_waiting_for_admission_ends_the_call() -> None:
    """Nothing was sent, nothing is settled here: the batcher gives back what it admitted."""
    place = house(alpha=whole())
    place.ledger.wait = for_ever

    with pytest.raises(DeadlineExceededError):
        await place.serve(chat(deadline_s=1))
    assert place.transport.requests == []
    assert place.ledger.settled == []
    place.assert_clean()


# -- a caller who leaves


@pytest.mark.parametrize(
    ("answer", "at_s"),
    [
        (stream(wait=for_ever), 1),
        (stream(ROLE, for_ever), 1),
        (stream(ROLE, for_ever), HOLD_HEAD_S + 1),
        (stream(chunk("one"), for_ever), 1),
        (stream(chunk("one"), chunk("two"), *[pause(1), chunk("x")] * 9), 4.5),
        (refused(500), 0.1),
        (Answer(for_ever, status=500), 1),
    ],
    ids=[
        "before the head",
        "before content",
        "comforted",
        "after content",
        "in the middle",
        "pause",
        "error body",
    ],
)
@in_virtual_time
async def test_a_caller_who_leaves_ends_the_work_at_once(answer: Answer, at_s: float) -> None:
    """Everything is closed and settled, nobody is blamed, nobody else is asked, nothing more is sent."""
    place = house(retry={"max_attempts": 3, "initial_delay": "10s"}, alpha=answer, beta=whole())
    task = place.start(stream=True)
    await asyncio.sleep(at_s)
    assert place.interrupts is not None
    seen = place.reader.body

    place.interrupts.client_left()
    with pytest.raises(ClientDisconnectedError):
        await task

    assert place.transport.hosts == ["alpha"]
    assert len(place.ledger.settled) == 1
    assert place.reader.body == seen
    assert place.reader.errors == []
    place.assert_clean()


@in_virtual_time
async def test_an_aborted_stream_is_charged_in_full_and_harms_nobody() -> None:
    """The provider may go on and bill; usage that was reported so far need not be all."""
    both = b'data: {"choices": [{"delta": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\n'
    place = house(alpha=stream(both, both, for_ever))
    task = place.start(stream=True)
    await asyncio.sleep(1)
    assert place.interrupts is not None
    place.interrupts.client_left()
    await asyncio.wait([task])

    assert isinstance(task.exception(), ClientDisconnectedError)
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[0]) == CHARGED_IN_FULL
    assert place.ledger.settled[0].flags == ESTIMATED


@pytest.mark.parametrize(
    ("answer", "at_s"), [(whole(), 5), (stream(*GOOD, USAGE, DONE), 35)], ids=["whole", "stream"]
)
@in_virtual_time
async def test_a_caller_who_leaves_at_the_last_byte_pays_what_was_used(answer: Answer, at_s: float) -> None:
    """The answer was complete: its usage is exact, and nobody is blamed."""
    place = house(alpha=answer)
    place.reader.wait = pause(10)
    task = place.start(stream=answer.headers["content-type"] == "text/event-stream")
    await asyncio.sleep(at_s)
    assert place.interrupts is not None
    place.interrupts.client_left()
    await asyncio.wait([task])

    assert isinstance(task.exception(), ClientDisconnectedError)
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[0]) == (7, 3, 13_000)
    place.assert_clean()


@in_virtual_time
async def test_a_caller_who_left_before_it_began_is_not_sent_anywhere() -> None:
    """Noticed before the admission."""
    place = house(alpha=whole())
    task = place.start()
    place.ledger.wait = pause(1)
    await settle_down()
    assert place.interrupts is not None
    place.interrupts.client_left()

    with pytest.raises(ClientDisconnectedError):
        await task
    assert place.transport.requests == []
    assert place.ledger.settled == []


@pytest.mark.parametrize(
    "answer",
    [
        stream(wait=for_ever),
        stream(ROLE, for_ever),
        stream(chunk("one"), for_ever),
        Answer(for_ever),
        Answer(for_ever, status=500),
    ],
    ids=["head", "before content", "after content", "whole", "error body"],
)
@in_virtual_time
async def test_a_server_that_ends_its_requests_is_obeyed(answer: Answer) -> None:
    """Cancellation passes through everything, and the books are in order behind it."""
    place = house(alpha=answer, beta=whole())
    task = place.start(stream=True)
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    assert charged(place.ledger.settled[0]) == CHARGED_IN_FULL
    place.assert_clean()


@in_virtual_time
async def test_whenever_a_caller_leaves_the_books_are_in_order() -> None:
    """At every step of a call with a failure, a pause, a failover and a stream."""
    for steps in range(0, 60, 1):
        place = house(
            retry={"max_attempts": 2, "initial_delay": "1s"},
            alpha=[refused(500), stream(ROLE, FAILED)],
            beta=stream(ROLE, chunk("one"), pause(1), chunk("two"), FINISH, USAGE, DONE),
        )
        task = place.start(stream=True)
        await settle_down(steps % 20)
        for _ in range(steps // 20):
            await asyncio.sleep(0.7)
        if place.interrupts is not None and not task.done():
            place.interrupts.client_left()
        await asyncio.wait([task])

        assert task.exception() is None or isinstance(task.exception(), ClientDisconnectedError)
        assert place.reader.errors == []
        if place.interrupts is not None:
            place.assert_clean()


# -- comfort


@in_virtual_time
async def test_a_provider_that_thinks_for_long_gets_its_caller_comforted() -> None:
    """Head and comments while nothing comes; the content follows, and there is one head."""
    place = house(alpha=stream(ROLE, pause(15), chunk("one"), DONE))
    await place.serve(stream=True)

    assert place.reader.begun == 1
    assert place.reader.body == b": waiting\n\n" * 2 + ROLE + chunk("one") + DONE


@in_virtual_time
async def test_a_comforted_stream_can_still_be_taken_over() -> None:
    """Until content has come another model may answer, and its caller is comforted as well."""
    place = house(alpha=stream(ROLE, pause(5), FAILED), beta=stream(ROLE, pause(5), chunk("one"), DONE))
    await place.serve(stream=True)

    assert place.reader.begun == 1
    assert place.reader.body == b": waiting\n\n" * 2 + ROLE + chunk("one") + DONE
    assert place.ledger.outcomes == [("alpha.m", Outcome.FAILURE), ("beta.m", Outcome.SUCCESS)]


@in_virtual_time
async def test_a_comforted_stream_that_fails_everywhere_raises() -> None:
    """The endpoint tells it in the stream that has begun."""
    place = house(alpha=stream(ROLE, pause(5), FAILED))

    with pytest.raises(AllProvidersExhaustedError):
        await place.serve(stream=True)
    assert place.reader.is_started
    place.assert_clean()


@pytest.mark.xfail(strict=True, reason="comfort begins with the provider's head, not with the wait for it")
@in_virtual_time
async def test_a_caller_is_comforted_while_the_providers_head_is_awaited() -> None:
    """Many providers send their head together with the first token."""
    place = house(alpha=stream(chunk("one"), DONE, wait=pause(15)))
    await place.serve(stream=True)

    assert place.reader.body.startswith(b": waiting\n\n")


# -- retries and refusals


@in_virtual_time
async def test_the_same_model_is_tried_again_after_a_pause() -> None:
    """Each attempt is a reservation of its own."""
    place = house(
        retry={"max_attempts": 3, "backoff": "fixed", "initial_delay": "500ms"},
        alpha=[refused(500), refused(503), whole()],
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve()

    assert loop.time() - began == pytest.approx(1.0)
    assert place.transport.hosts == ["alpha"] * 3
    assert [ask.reservation for ask in place.ledger.asks] == ["r1", "r2", "r3"]
    assert [outcome for _, outcome in place.ledger.outcomes] == [
        Outcome.FAILURE,
        Outcome.FAILURE,
        Outcome.SUCCESS,
    ]
    place.assert_clean()


@in_virtual_time
async def test_a_provider_that_says_when_is_believed() -> None:
    """The pause is the one that was asked for."""
    place = house(retry={"max_attempts": 2}, alpha=[refused(429, headers={"retry-after": "3"}), whole()])
    loop = asyncio.get_running_loop()
    began = loop.time()
    await place.serve()

    assert loop.time() - began == pytest.approx(3.0)


@in_virtual_time
async def test_attempts_are_bounded() -> None:
    """However many pools, models and retries: ten attempts, then the caller hears of it."""
    scripts = {f"p{number}": refused(500) for number in range(8)}
    place = house(retry={"max_attempts": 3, "initial_delay": "1ms"}, **scripts)

    with pytest.raises(AllProvidersExhaustedError, match="10 attempts"):
        await place.serve()
    assert len(place.transport.requests) == 10
    assert place.trail.attempts == 10
    place.assert_clean()


@in_virtual_time
async def test_the_same_provider_goes_first_if_the_pool_says_so() -> None:
    """Its other model before everybody else's."""
    topology = mesh("alpha.m", "beta.m", "alpha.n", pool={"retry": {"scope": "same_provider"}})
    place = House(topology, ScriptedTransport(alpha=[refused(500), whole()], beta=whole()))
    await place.serve()

    assert [model for model, _ in place.ledger.outcomes] == ["alpha.m", "alpha.n"]


@in_virtual_time
async def test_a_refusal_is_no_attempt_and_the_next_model_is_asked() -> None:
    """Nothing was sent; the trail says why."""
    place = house(alpha=whole(), beta=whole())
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.AT_LIMIT, NOW_MS + 9000, "rpm")]
    await place.serve()

    assert place.transport.hosts == ["beta"]
    assert place.trail.attempts == 1
    assert place.trail.skipped == {"alpha.m": "rpm"}
    assert place.ledger.outcomes == [("beta.m", Outcome.SUCCESS)]


@in_virtual_time
async def test_limits_everywhere_say_when_to_come_back() -> None:
    """429 with the earliest time of all."""
    place = house(alpha=whole(), beta=whole())
    place.ledger.verdicts = {
        "alpha.m": [Verdict(Code.AT_LIMIT, NOW_MS + 9000, "rpm")],
        "beta.m": [Verdict(Code.AT_LIMIT, NOW_MS + 4000, "tpm")],
    }

    with pytest.raises(LimitReachedError) as caught:
        await place.serve()
    assert caught.value.retry_after_s == pytest.approx(4.0)
    assert place.transport.requests == []


@in_virtual_time
async def test_nobody_active_is_unavailable() -> None:
    """503; the admission's own verdict counts like the snapshot's."""
    place = house(alpha=whole())
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.STANDBY, NOW_MS + 1000, "error_threshold")]

    with pytest.raises(NoActiveModelError):
        await place.serve()


@in_virtual_time
async def test_a_reservation_says_what_may_be_used() -> None:
    """Tokens, money, and how long it may live unsettled."""
    place = house(alpha=whole())
    call = chat(max_tokens=100)
    await place.serve(call)
    ask = place.ledger.asks[0]

    assert (ask.model, ask.pool, ask.tokens_out) == ("alpha.m", "chat", 100)
    assert ask.tokens_in == -(-call.body_bytes // 2)
    assert ask.cost_nano == ask.tokens_in * 1000 + 100 * 2000
    assert ask.lease_ms == 320_000


# -- without Redis


@pytest.mark.parametrize(
    ("on_loss", "limits", "serves"),
    [
        ("leased", {}, True),
        ("leased", {"rpm": 60}, False),
        ("open", {"rpm": 60}, True),
        ("closed", {}, False),
    ],
)
@in_virtual_time
async def test_without_redis_the_deployment_decides(
    on_loss: str, limits: dict[str, int], serves: bool
) -> None:
    """Unlimited models go on, limited ones only where availability was preferred; it is settled later all the same."""
    place = House(
        mesh("alpha.m", model={"limits": limits}), ScriptedTransport(alpha=whole()), on_loss=on_loss
    )
    place.watch.connected = False
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.STORE_AWAY)]

    if serves:
        await place.serve()
        assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
        assert place.trail.mode == "leased"
    else:
        with pytest.raises(StateUnavailableError):
            await place.serve()
        assert place.transport.requests == []


@in_virtual_time
async def test_a_node_that_has_seen_nothing_serves_nothing() -> None:
    """It cannot know who is on standby."""
    place = house(alpha=whole())
    place.view.is_complete.clear()

    with pytest.raises(StateUnavailableError) as caught:
        await place.serve()
    assert caught.value.retry_after_s == 1.0
    assert place.router.in_flight == 0


@in_virtual_time
async def test_a_fault_of_ours_is_settled_too() -> None:
    """Whatever is raised, the reservation ends and the answer is closed."""
    place = house(alpha=stream(chunk("one"), RuntimeError("a bug")))

    with pytest.raises(RuntimeError, match="a bug"):
        await place.serve(stream=True)
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL)]
    place.assert_clean()


@in_virtual_time
async def test_an_oversized_answer_is_the_providers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it reaches the caller."""
    monkeypatch.setattr("node.providers.connector.MAX_ANSWER_BYTES", 10)
    place = house(alpha=Answer(b"x" * 20))

    with pytest.raises(AllProvidersExhaustedError) as caught:
        await place.serve()
    assert ProviderProtocolError.__name__ not in caught.value.message
    assert place.reader.body == b""
    assert place.ledger.outcomes == [("alpha.m", Outcome.FAILURE)]
    place.assert_clean()
