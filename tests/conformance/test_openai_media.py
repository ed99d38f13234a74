"""Speech, images and transcriptions by the official client, on both HTTP engines."""

from __future__ import annotations

import base64
import email
from typing import Any

import httpx
import openai
import pytest

from node.engine.contract import EngineName
from shared_state.ledger import ESTIMATED, Outcome
from tests.conformance.openai_node import POOL, Served, answer, served
from tests.unit.node.scripted import DONE, Answer, event, refused, stream

SOUND = bytes(range(256)) * 300
PICTURE = base64.b64encode(bytes(range(256)) * 8000).decode()
SAY: dict[str, Any] = {"model": POOL, "input": "hello there", "voice": "alloy"}


def sound(*parts: Any, kind: str = "audio/mpeg") -> Answer:
    return Answer(*(parts or (SOUND[:1000], SOUND[1000:])), headers={"content-type": kind})


def typed(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\n" + event({"type": kind, **fields})


def form_of(node: Served, place: int = 0) -> list[tuple[str, str | None, bytes]]:
    """Name, file name and content of what a provider got, read by the standard library."""
    request = node.front.place.transport.requests[place]
    body = request.read()
    assert request.headers["content-length"] == str(len(body))
    head = b"content-type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
    parts: Any = email.message_from_bytes(head + body).get_payload()
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_payload(decode=True).removesuffix(b"\r\n"),
        )
        for part in parts
    ]


# -- speech


async def test_a_text_is_spoken(engine: EngineName) -> None:
    """The provider's bytes under its content-type; nothing counts them, so the estimate is booked."""
    async with served(engine, "text-to-speech", sound()) as node:
        given = await node.client.audio.speech.with_raw_response.create(**SAY, extra_body={"lang": "en"})

    assert given.content == SOUND
    assert given.headers["content-type"] == "audio/mpeg"
    assert given.headers["x-modelmesh-model"] == "alpha.m"
    assert node.asked == ["alpha/v1/audio/speech"]
    assert node.sent == [{**SAY, "model": "m", "lang": "en"}]
    assert [(s.outcome, bool(s.flags & ESTIMATED)) for s in node.settled] == [(Outcome.SUCCESS, True)]
    assert [ask.tokens_out for ask in node.front.place.ledger.asks] == [0]


async def test_where_sound_is_paid_by_the_token_its_most_is_reserved(engine: EngineName) -> None:
    """By what the model says, else as for any other answer."""
    model = {"pricing": {"output": 12.0}, "constraints": {"max_output_tokens": 9000}}
    async with served(engine, "text-to-speech", sound(), model=model) as node:
        await node.client.audio.speech.create(**SAY)

    assert [ask.tokens_out for ask in node.front.place.ledger.asks] == [9000]


@pytest.mark.parametrize(
    "first", [refused(503), sound(b""), sound(ConnectionResetError()), answer({"error": {"message": "no"}})]
)
async def test_a_speaker_that_fails_before_its_first_byte_is_replaced(engine: EngineName, first: Any) -> None:
    """By status, silence, a break, or an error in place of sound."""
    async with served(engine, "text-to-speech", first, sound()) as node:
        given = await node.client.audio.speech.create(**SAY)

    assert given.content == SOUND
    assert node.asked == ["alpha/v1/audio/speech", "beta/v1/audio/speech"]


async def test_sound_that_breaks_off_is_seen_to(engine: EngineName) -> None:
    """The connection is cut: no caller takes the half for the whole, and nothing is added to it."""
    broken = sound(SOUND, httpx.ReadError("gone"))
    async with served(engine, "text-to-speech", broken) as node:
        heard = b""
        with pytest.raises(Exception, match="payload is not completed"):
            async with node.client.audio.speech.with_streaming_response.create(**SAY) as given:
                async for part in given.iter_bytes():
                    heard += part

    assert SOUND.startswith(heard)
    assert [s.outcome for s in node.settled] == [Outcome.FAILURE]


async def test_speech_may_come_as_events(engine: EngineName) -> None:
    """With its usage in the last."""
    parts = (
        typed("speech.audio.delta", audio="AAAA"),
        typed("speech.audio.done", usage={"input_tokens": 4, "output_tokens": 50, "total_tokens": 54}),
    )
    async with served(engine, "text-to-speech", stream(*parts)) as node:
        given = await node.client.audio.speech.create(**SAY, stream_format="sse")

    assert given.content == b"".join(parts)
    assert node.booked == [(4, 50)]


@pytest.mark.parametrize("fields", [{"input": ""}, {"input": ["a"]}, {"input": None}])
async def test_there_must_be_something_to_say(engine: EngineName, fields: dict[str, Any]) -> None:
    """Told in the API's shape, without asking anybody."""
    async with served(engine, "text-to-speech", sound()) as node:
        with pytest.raises(openai.BadRequestError) as refusal:
            await node.client.audio.speech.create(**{**SAY, **fields})

    assert refusal.value.param == "input"
    assert node.asked == []


# -- images


USAGE = {"input_tokens": 11, "output_tokens": 272, "total_tokens": 283}


async def test_images_are_drawn(engine: EngineName) -> None:
    """Several megabytes of them; tokens are booked where the provider counts any."""
    drawn = answer({"created": 1, "data": [{"b64_json": PICTURE}] * 2, "usage": USAGE})
    model = {"pricing": {"per_request": 0.04}}
    async with served(engine, "text-to-image", drawn, model=model) as node:
        given = await node.client.images.generate(prompt="a cat", n=2, size="1024x1024")

    assert given.data is not None
    assert [image.b64_json for image in given.data] == [PICTURE] * 2
    assert node.sent == [{"model": "m", "prompt": "a cat", "n": 2, "size": "1024x1024"}]
    assert node.booked == [(11, 272)]
    assert [s.cost_nano for s in node.settled] == [40_000_000]


async def test_an_image_is_drawn_in_steps(engine: EngineName) -> None:
    """Each event whole, however small the pieces it came in."""
    partial = typed("image_generation.partial_image", b64_json=PICTURE, partial_image_index=0)
    last = typed("image_generation.completed", b64_json=PICTURE, usage=USAGE)
    whole = partial + last
    pieces = [whole[at : at + 65_537] for at in range(0, len(whole), 65_537)]
    async with served(engine, "text-to-image", stream(*pieces)) as node:
        given = await node.client.images.generate(model=POOL, prompt="a cat", stream=True, partial_images=1)
        events = [step async for step in given]

    assert [step.type for step in events] == ["image_generation.partial_image", "image_generation.completed"]
    assert [step.b64_json for step in events] == [PICTURE] * 2
    assert node.booked == [(11, 272)]


async def test_each_of_several_images_has_its_last_event(engine: EngineName) -> None:
    """The stream ends with the last of them, and the usage is that of all."""
    last = typed("image_generation.completed", b64_json="AAAA", usage=USAGE)
    async with served(engine, "text-to-image", stream(last, last)) as node:
        given = await node.client.images.generate(model=POOL, prompt="a cat", n=2, stream=True)
        events = [step async for step in given]

    assert len(events) == 2
    assert node.booked == [(22, 544)]


@pytest.mark.parametrize(
    "first",
    [
        stream(typed("error", error={"message": "overloaded", "code": "server_error"})),
        stream(b": hello\n\n"),
        stream(b"data: <html>\n\n"),
    ],
)
async def test_a_painter_that_fails_before_its_first_image_is_replaced(
    engine: EngineName, first: Any
) -> None:
    """An error event, an end without an image, or rubbish."""
    drawn = stream(typed("image_generation.completed", b64_json="AAAA", usage=USAGE))
    async with served(engine, "text-to-image", first, drawn) as node:
        given = await node.client.images.generate(model=POOL, prompt="a cat", stream=True)
        events = [step async for step in given]

    assert [step.type for step in events] == ["image_generation.completed"]
    assert [s.outcome for s in node.settled] == [Outcome.FAILURE, Outcome.SUCCESS]


async def test_a_painter_that_fails_later_ends_with_an_error(engine: EngineName) -> None:
    """An event of the type ``error``, which the client raises."""
    parts = (
        typed("image_generation.partial_image", b64_json="AAAA"),
        typed("error", error={"message": "tired"}),
    )
    async with served(engine, "text-to-image", stream(*parts)) as node:
        given = await node.client.images.generate(model=POOL, prompt="a cat", stream=True)
        assert (await anext(given)).type == "image_generation.partial_image"
        with pytest.raises(openai.APIError, match="tired"):
            await anext(given)


async def test_images_are_edited(engine: EngineName) -> None:
    """The form goes on whole, but for the name of the model."""
    drawn = answer({"created": 1, "data": [{"b64_json": "AAAA"}], "usage": USAGE})
    tricky = b"\x89PNG\r\n--\r\n\r\n" + SOUND
    async with served(engine, "image-to-image", drawn) as node:
        given = await node.client.images.edit(
            model=POOL,
            image=[("a.png", tricky, "image/png"), ("b.png", b"BB", "image/png")],
            mask=("m.png", b"MM", "image/png"),
            prompt="größer",
            n=1,
        )

    assert given.data is not None
    assert node.asked == ["alpha/v1/images/edits"]
    assert sorted(form_of(node)) == sorted(
        [
            ("image[]", "a.png", tricky),
            ("image[]", "b.png", b"BB"),
            ("mask", "m.png", b"MM"),
            ("model", None, b"m"),
            ("n", None, b"1"),
            ("prompt", None, "größer".encode()),
        ]
    )
    assert node.booked == [(11, 272)]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_images_are_varied(engine: EngineName) -> None:
    """Without a model the capability is meant, and the provider is told its own name."""
    async with served(
        engine, "image-to-image", answer({"created": 1, "data": [{"url": "http://x"}]})
    ) as node:
        await node.client.images.create_variation(image=b"PNG")

    assert sorted(name for name, _, _ in form_of(node)) == ["image", "model"]
    assert ("model", None, b"m") in form_of(node)


async def test_too_many_images_for_a_model_are_not_sent_to_it(engine: EngineName) -> None:
    """Files of a form are as good as parts of a message."""
    model = {"constraints": {"max_images": 1}}
    async with served(engine, "image-to-image", answer({"data": []}), model=model) as node:
        with pytest.raises(openai.BadRequestError, match="max_images"):
            await node.client.images.edit(model=POOL, image=[b"A", b"B"], prompt="x")


# -- transcriptions


HEARD = {
    "text": "hello",
    "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 2, "total_tokens": 16},
}


async def transcribe(node: Served, **fields: Any) -> Any:
    file = ("talk.wav", SOUND, "audio/wav")
    return await node.client.audio.transcriptions.create(**{"model": POOL, "file": file, **fields})


async def test_sound_is_transcribed(engine: EngineName) -> None:
    """The form goes on whole, but for the name of the model."""
    async with served(engine, "speech-to-text", answer(HEARD)) as node:
        given = await transcribe(node, temperature=0.5, timestamp_granularities=["word", "segment"])

    assert given.text == "hello"
    assert node.asked == ["alpha/v1/audio/transcriptions"]
    assert sorted(form_of(node)) == [
        ("file", "talk.wav", SOUND),
        ("model", None, b"m"),
        ("temperature", None, b"0.5"),
        ("timestamp_granularities[]", None, b"segment"),
        ("timestamp_granularities[]", None, b"word"),
    ]
    assert node.booked == [(14, 2)]


@pytest.mark.parametrize("kind", ["text", "srt", "vtt"])
async def test_a_transcription_may_be_a_text(engine: EngineName, kind: str) -> None:
    """Passed on as it is, even if it is empty."""
    async with served(
        engine, "speech-to-text", Answer(b"1\n00:00\n", headers={"content-type": "text/plain"})
    ) as node:
        given = await transcribe(node, response_format=kind)

    assert given == "1\n00:00\n"
    assert [(s.outcome, bool(s.flags & ESTIMATED)) for s in node.settled] == [(Outcome.SUCCESS, True)]


async def test_what_is_billed_by_its_length_has_no_tokens(engine: EngineName) -> None:
    """The estimate is given back."""
    timed = answer({"text": "hello", "usage": {"type": "duration", "seconds": 3}})
    async with served(engine, "speech-to-text", timed) as node:
        await transcribe(node)

    assert node.booked == [(0, 0)]
    assert node.front.place.ledger.asks[0].tokens_in > len(SOUND) // 250


async def test_a_transcription_is_streamed(engine: EngineName) -> None:
    """Events that name their types in their data alone."""
    parts = (
        event({"type": "transcript.text.delta", "delta": "hel"}),
        event({"type": "transcript.text.delta", "delta": "lo"}),
        event({"type": "transcript.text.done", **HEARD}),
        DONE,
    )
    async with served(engine, "speech-to-text", stream(*parts)) as node:
        events = [e async for e in await transcribe(node, stream=True)]

    assert [e.type for e in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert ("stream", None, b"true") in form_of(node)
    assert node.booked == [(14, 2)]


@pytest.mark.parametrize(
    "first", [refused(500), answer({"language": "en"}), stream(event({"error": {"message": "no"}}))]
)
async def test_a_listener_that_fails_is_replaced(engine: EngineName, first: Any) -> None:
    """The form is sent again, under the other model's name."""
    async with served(engine, "speech-to-text", first, answer(HEARD)) as node:
        given = await transcribe(node)

    assert given.text == "hello"
    assert form_of(node, 0) == form_of(node, 1)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_sound_is_translated(engine: EngineName) -> None:
    """To a route of its own."""
    async with served(engine, "speech-to-text", answer({"text": "hello"})) as node:
        given = await node.client.audio.translations.create(model=POOL, file=("t.mp3", SOUND, "audio/mpeg"))

    assert given.text == "hello"
    assert node.asked == ["alpha/v1/audio/translations"]


async def test_a_file_may_be_too_large(engine: EngineName) -> None:
    """For us, or for the model, whichever says so first."""
    model = {"constraints": {"max_file_size": 1000}}
    async with served(engine, "speech-to-text", answer(HEARD), model=model) as node:
        with pytest.raises(openai.APIStatusError) as ours:
            await transcribe(node, file=("t.wav", b"x" * (8 << 20), "audio/wav"))
        with pytest.raises(openai.BadRequestError, match="max_file_size"):
            await transcribe(node)

    assert ours.value.status_code == 413
    assert node.asked == []


async def test_without_a_file_there_is_nothing_to_hear(engine: EngineName) -> None:
    """Told in the API's shape, without asking anybody."""
    async with served(engine, "speech-to-text", answer(HEARD)) as node:
        with pytest.raises(openai.BadRequestError) as refusal:
            await node.client.post(
                "/audio/transcriptions",
                body={"model": POOL},
                files=[("other", b"x")],
                options={"headers": {"content-type": "multipart/form-data"}},
                cast_to=object,
            )

    assert refusal.value.param == "file"
    assert node.asked == []
