"""A probe is a small request of the right kind, sent once, whose end is its verdict."""

from __future__ import annotations

import io
import wave
from typing import Any

import orjson
import pytest

from node.api.probe import Prober
from node.api.probe_calls import probe_call
from node.observe.request_log import RequestLog
from shared_state.ledger import Code, How, Outcome, Verdict
from shared_state.shapes.status import ProbeView
from shared_state.state import EntityState
from tests.unit.node.house import NOW_MS, House, mesh
from tests.unit.node.scripted import Answer, ScriptedTransport, for_ever, pause, refused, whole
from tests.unit.node.virtual_time import in_virtual_time

STANDBY = EntityState("standby", "error_threshold", "trial", until_ms=NOW_MS + 60_000)


def house(*scripts: Any, provider: dict[str, Any] | None = None, **model: Any) -> House:
    """A pool of two, the first of which is probed; the other must never be asked."""
    topology = mesh(
        "a.m",
        "b.m",
        model={"capabilities": model["capabilities"]} if provider else None,
        provider=provider,
        differing={"a.m": model},
    )
    return House(topology, ScriptedTransport(a=list(scripts) or whole(), b=whole("wrong")))


async def probe(place: House, **options: Any) -> ProbeView:
    prober = Prober(place.router, RequestLog("n", io.BytesIO()))
    return await prober.probe(place.topology.models["a.m"], **options)


def sent(place: House) -> Any:
    (request,) = place.transport.requests
    return orjson.loads(request.read())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}),
        (
            {"features": {"reasoning": True}},
            {"messages": [{"role": "user", "content": "ping"}], "max_completion_tokens": 16},
        ),
        ({"capabilities": ["text-completion"]}, {"prompt": "ping", "max_tokens": 1}),
        (
            {"capabilities": ["text-completion", "chat-completion"]},
            {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1},
        ),
        ({"capabilities": ["text-embeddings"]}, {"input": "ping"}),
        ({"capabilities": ["content-moderation"]}, {"input": "ok"}),
        ({"capabilities": ["reranking"]}, {"query": "ok", "documents": ["ok"]}),
        ({"capabilities": ["text-to-speech"]}, {"input": "ok", "voice": "alloy"}),
        ({"capabilities": ["text-to-image"]}, {"prompt": "a dot"}),
        ({"capabilities": ["speech-to-text"]}, {}),
        ({"capabilities": ["web-search"]}, {"query": "ping", "max_results": 1}),
    ],
)
async def test_its_shape_is_that_of_what_the_model_does(
    model: dict[str, Any], expected: dict[str, Any]
) -> None:
    """As small as the kind allows."""
    place = house(**model)
    call = probe_call(place.topology.models["a.m"], How.PROBE)

    assert call is not None
    assert call.fields == {"model": "a.m", **expected}
    assert call.surface.serves(place.topology.models["a.m"].capabilities)


async def test_a_service_of_the_web_that_reads_is_given_a_page() -> None:
    """A model that reads documents is talked to instead."""
    page = {"data": {"markdown": "# C", "metadata": {"statusCode": 200}}}
    reads = {"connector": "firecrawl", "base_url": "http://a/v1", "api_key": "k"}
    place = house(Answer(orjson.dumps(page)), capabilities=["document-parsing"], provider=reads)
    view = await probe(place)
    talks = probe_call(house(capabilities=["document-parsing"]).topology.models["a.m"], How.PROBE)

    assert view.verdict == "well"
    assert sent(place) == {"url": "https://example.com/", "formats": ["markdown"]}
    assert talks is not None
    assert talks.surface.name == "chat completions"


async def test_a_model_that_only_streams_is_asked_to() -> None:
    """And one whose kind has no probe is not asked at all."""
    streams = house(delivery={"synchronous": False}).topology.models["a.m"]
    draws = house(capabilities=["text-to-video"])
    call = probe_call(streams, How.PROBE)

    assert call is not None
    assert call.is_stream
    assert (await probe(draws)).verdict == "no_probe"
    assert draws.transport.requests == []


@in_virtual_time
async def test_a_bound_ends_it_and_is_held_against_nobody() -> None:
    """Whoever asked for so short a time may think of it what they like."""
    place = house(Answer(wait=for_ever))
    view = await probe(place, within_s=3.0)

    assert (view.verdict, view.cause) == ("failed", "deadline_exceeded")
    assert view.latency_ms == pytest.approx(3000)
    assert place.ledger.outcomes == [("a.m", Outcome.NEUTRAL)]


async def test_a_transcriber_gets_a_moment_of_silence() -> None:
    """Long enough to be accepted, in a form, and charged as what it is."""
    place = house(Answer(b'{"text": ""}'), capabilities=["speech-to-text"])
    shown = await probe(place)
    (request,) = place.transport.requests
    body = request.read()
    sound = body[body.index(b"RIFF") : body.rindex(b"\r\n--")]

    assert shown.verdict == "well"
    assert request.url.path == "/v1/audio/transcriptions"
    assert b'name="model"\r\n\r\nm\r\n' in body
    with wave.open(io.BytesIO(sound)) as heard:
        assert 0.1 < heard.getnframes() / heard.getframerate() < 0.2
    assert 0 < place.ledger.asks[0].tokens_in < 100


@in_virtual_time
async def test_sound_may_take_longer_than_a_first_token() -> None:
    """There is none in it: a probe has the time of a whole call."""
    place = house(Answer(b'{"text": ""}', wait=pause(100)), capabilities=["speech-to-text"])

    assert (await probe(place)).verdict == "well"


async def test_a_speaker_says_one_word() -> None:
    """Sound is an answer; what becomes of it is nobody's concern."""
    place = house(Answer(b"ID3...", headers={"content-type": "audio/mpeg"}), capabilities=["text-to-speech"])

    assert (await probe(place)).verdict == "well"
    assert place.ledger.outcomes == [("a.m", Outcome.SUCCESS)]


async def test_an_answer_is_a_good_verdict() -> None:
    """Settled and charged under the model's pool, like everybody's."""
    place = house()
    shown = await probe(place)

    assert (shown.id, shown.verdict, shown.code) == ("a.m", "well", None)
    assert shown.latency_ms is not None
    assert sent(place)["max_tokens"] == 1
    assert [(ask.pool, ask.how) for ask in place.ledger.asks] == [("chat", How.PROBE)]
    assert place.ledger.outcomes == [("a.m", Outcome.SUCCESS)]


async def test_a_failure_is_a_verdict_after_one_attempt() -> None:
    """No second try, no other model."""
    place = house(refused(503), refused(503))
    shown = await probe(place)

    assert (shown.verdict, shown.code) == ("failed", "all_providers_exhausted")
    assert shown.cause == "provider_unavailable"
    assert len(place.transport.requests) == 1
    assert place.ledger.outcomes == [("a.m", Outcome.FAILURE)]


async def test_a_provider_that_refuses_the_request_itself_is_there() -> None:
    """Nobody's record is harmed by a probe that is wrong for a model."""
    place = house(refused(400))
    shown = await probe(place)

    assert shown.verdict == "rejected"
    assert place.ledger.outcomes == [("a.m", Outcome.NEUTRAL)]


async def test_a_standby_that_waits_for_its_trial_may_be_probed_before() -> None:
    """Whatever the time; the scripts grant the trial."""
    place = house()
    place.view.models = {"a.m": STANDBY}
    await probe(place, is_startup=True)

    assert [(ask.model, ask.how) for ask in place.ledger.asks] == [("a.m", How.STARTUP_PROBE)]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (EntityState("standby", "manual", "manual"), "no_active_model"),
        (EntityState("standby", "rate_limited", "time", until_ms=NOW_MS + 5000), "rate_limit_exceeded"),
        (EntityState("standby", "outage", "trial", "trial", trial_until_ms=NOW_MS + 9), "no_active_model"),
    ],
)
async def test_other_standbys_are_not_asked(state: EntityState, code: str) -> None:
    """An order, a pause, a trial that somebody else is already."""
    place = house()
    place.view.models = {"a.m": state}
    shown = await probe(place)

    assert (shown.verdict, shown.code, shown.latency_ms) == ("not_asked", code, None)
    assert place.transport.requests == []


async def test_a_model_on_the_ramp_is_asked_whatever_the_draw() -> None:
    """A probe is no part of the traffic that is let back in steps."""
    topology = mesh("a.m", "b.m")
    place = House(topology, ScriptedTransport(a=whole(), b=whole()), draw=(0.99,))
    place.view.models = {"a.m": EntityState(phase="ramp")}
    shown = [await probe(place) for _ in range(8)]

    assert {each.verdict for each in shown} == {"well"}


async def test_limits_hold_for_probes() -> None:
    """Refused admission is no attempt."""
    place = house()
    place.ledger.verdicts = {"a.m": [Verdict(Code.AT_LIMIT, NOW_MS + 1000, "rpm")]}

    assert (await probe(place)).verdict == "not_asked"


async def test_a_pool_of_the_same_name_is_not_meant() -> None:
    """A probe is for the model, whatever else may be called so."""
    topology = mesh("a.m", "b.m", pools={"a.m": {"models": ["b.m", "a.m"]}})
    place = House(topology, ScriptedTransport(a=whole(), b=whole()))
    await probe(place)

    assert [ask.model for ask in place.ledger.asks] == ["a.m"]


@in_virtual_time
async def test_a_provider_that_does_not_answer_has_failed() -> None:
    """It has the time of a first token, for there is only one, and the silence is held against it."""
    place = house(Answer(for_ever))
    shown = await probe(place)

    assert (shown.verdict, shown.latency_ms) == ("failed", pytest.approx(30_000))
    assert place.ledger.outcomes == [("a.m", Outcome.FAILURE)]
