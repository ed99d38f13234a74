"""Clocks of a call, callers who read slowly, and comfort for those who wait."""

from __future__ import annotations

import asyncio

import pytest

from shared_state.errors import AllProvidersExhaustedError, ClientDisconnectedError, DeadlineExceededError
from shared_state.ledger import Outcome
from tests.unit.node.house import chat
from tests.unit.node.routing.scene import CHARGED_IN_FULL, GOOD, charged, house
from tests.unit.node.scripted import (
    COMMENT,
    DONE,
    FAILED,
    ROLE,
    Answer,
    chunk,
    for_ever,
    pause,
    refused,
    stream,
    whole,
)
from tests.unit.node.virtual_time import in_virtual_time

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


@in_virtual_time
async def test_a_caller_is_comforted_while_the_providers_head_is_awaited() -> None:
    """Many providers send their head together with the first token."""
    place = house(alpha=stream(chunk("one"), DONE, wait=pause(15)))
    await place.serve(stream=True)

    assert place.reader.body.startswith(b": waiting\n\n")
