"""Calls of other kinds than chat on their way through the router: what is charged, what bounds them, who races for them."""

from __future__ import annotations

import pytest

from node.api.surfaces import IMAGES, MESSAGES, RESPONSES, SPEECH, TRANSCRIPTIONS
from shared_state.ledger import ESTIMATED, UNKNOWN, Outcome
from tests.unit.node.house import House, chat, mesh
from tests.unit.node.routing.scene import CLOCKS, PRICED
from tests.unit.node.scripted import (
    DONE,
    USAGE,
    Answer,
    ScriptedTransport,
    chunk,
    event,
    pause,
    stream,
    whole,
)
from tests.unit.node.virtual_time import in_virtual_time

_TOTAL_S = 300.0
SOUND = Answer(b"ID3", b"...", headers={"content-type": "audio/mpeg"})


def house(
    capability: str, pool: dict[str, object] | None = None, /, *, model: object = None, **scripts: object
) -> House:
    settings = {"capabilities": [capability], **(model if isinstance(model, dict) else {})}
    topology = mesh(
        *(f"{name}.m" for name in scripts),
        model=settings,
        provider=CLOCKS,
        pool={"retry": {"scope": "any", "deadline": "1000s"}, **(pool or {})},
    )
    return House(topology, ScriptedTransport(**scripts))  # type: ignore[arg-type]


async def test_sound_that_nobody_counts_is_charged_as_it_was_reserved() -> None:
    """Settlement says that it does not know, and the books keep what they hold."""
    place = house("text-to-speech", alpha=SOUND)
    await place.serve(chat(surface=SPEECH, input="hi"))
    (settled,) = place.ledger.settled

    assert (settled.tokens_in, settled.tokens_out) == (UNKNOWN, UNKNOWN)
    assert settled.flags & ESTIMATED
    assert place.reader.body == b"ID3..."


async def test_events_that_carry_no_tokens_are_not_cut_off() -> None:
    """Where money is limited a text may not go on without end; pieces of sound are no tokens."""
    parts = [event({"type": "speech.audio.delta", "audio": "AAAA"})] * 100
    last = event({"type": "speech.audio.done", "usage": {"input_tokens": 1, "output_tokens": 2}})
    place = house(
        "text-to-speech",
        model={"budget": {"daily_limit": 1.0}, "pricing": {"per_request": 0.01}},
        alpha=stream(*parts, last),
    )
    await place.serve(chat(surface=SPEECH, input="hi", stream_format="sse"))

    assert place.reader.body.count(b"delta") == 100
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]


async def test_sound_and_images_reserve_no_output_however_small_the_window() -> None:
    """Nor is a token made of nothing."""
    place = house("text-to-image", model={"limits": {"tpm": 1000}}, alpha=Answer(b'{"data": []}'))
    await place.serve(chat(surface=IMAGES, prompt="a cat", n=3))

    assert [ask.tokens_out for ask in place.ledger.asks] == [0]


@pytest.mark.parametrize("is_stream", [False, True])
@in_virtual_time
async def test_a_translated_answer_may_be_raced_for(is_stream: bool) -> None:
    """It is translated once, for whoever wins."""
    quick = stream(chunk("quick"), USAGE, DONE) if is_stream else whole("quick")
    slow = Answer(*quick.body.parts, headers=quick.headers, wait=pause(10))
    hedge = {"hedge": {"after": "1s", "max_share": 1.0}}
    place = house("chat-completion", hedge, model=PRICED, alpha=slow, beta=quick)
    await place.serve(chat(surface=RESPONSES, input="hi", stream=is_stream))
    body = place.reader.body.decode()

    assert place.trail.target is not None
    assert place.trail.target.model.id == "beta.m"
    assert "quick" in body
    assert body.count("event: response.completed" if is_stream else '"object":"response"') == 1
    assert dict(place.ledger.outcomes) == {"alpha.m": Outcome.NEUTRAL, "beta.m": Outcome.SUCCESS}


@in_virtual_time
async def test_a_long_answer_has_the_time_of_a_whole_call() -> None:
    """Only events have a first token."""
    heard = Answer(b'{"text": "hello"}', wait=pause(_TOTAL_S - 1))
    place = house("speech-to-text", alpha=heard)
    await place.serve(chat(surface=TRANSCRIPTIONS, deadline_s=1000))

    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]


PING = b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.mark.parametrize("messages", [True, False])
@in_virtual_time
async def test_who_waits_for_a_message_hears_pings(messages: bool) -> None:
    """Whether it comes as one or is translated; at once with the head, then every ten seconds."""
    kinds = ("message_start", "content_block_delta", "message_stop")
    typed = [b"event: %b\n" % kind.encode() + event({"type": kind}) for kind in kinds]
    parts = typed if messages else [chunk("late"), DONE]
    topology = mesh("alpha.m", provider={**CLOCKS, "messages": messages})
    place = House(topology, ScriptedTransport(alpha=stream(*parts, wait=pause(15))))
    await place.serve(chat(surface=MESSAGES, max_tokens=9, stream=True))

    assert place.reader.body.startswith(PING * 2 + b"event: message_start\n")
    assert place.ledger.outcomes == [("alpha.m", Outcome.SUCCESS)]
