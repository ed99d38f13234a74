"""The smallest request of each kind, by which a model is asked how it is."""

from __future__ import annotations

import asyncio
import io
import uuid
import wave
from collections.abc import Callable
from typing import Any, Final

import orjson

from node.api.form import read_form
from node.api.surfaces import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGES,
    MODERATIONS,
    RERANK,
    SCRAPE,
    SEARCH,
    SPEECH,
    TRANSCRIPTIONS,
)
from node.call import Call, Fields, Form, Surface
from node.routing.weight import weigh
from shared_state.entries import How
from shared_state.topology import ModelSpec

#: Models that think before they speak refuse fewer tokens, and the older name of the bound.
_THINKERS_TOKENS: Final = 16
_COMPLETES: Final = "generation.text-generation.text-completion"
_DRAWS: Final = "generation.image-generation.text-to-image"
#: A little more than the tenth of a second that transcribers insist on.
_SILENCE_S: Final = 0.12
_SAMPLES_PER_S: Final = 16_000
#: A page that is there for everybody, and small.
_PAGE: Final = "https://example.com/"
_BOUNDARY: Final = b"modelmesh-probe"


def _chat(model: ModelSpec) -> Fields:
    bound = {"max_tokens": 1}
    if model.config.features.reasoning:
        bound = {"max_completion_tokens": _THINKERS_TOKENS}
    return _delivered({"messages": [{"role": "user", "content": "ping"}], **bound}, model)


def _completion(model: ModelSpec) -> Fields:
    return _delivered({"prompt": "ping", "max_tokens": 1}, model)


def _delivered(fields: Fields, model: ModelSpec) -> Fields:
    return fields if model.config.delivery.synchronous else {**fields, "stream": True}


def _only_completes(model: ModelSpec) -> bool:
    return model.capabilities == {_COMPLETES}


def _draws(model: ModelSpec) -> bool:
    return _DRAWS in model.capabilities


def _fixed(**fields: Any) -> Callable[[ModelSpec], Fields]:
    return lambda _: dict(fields)


#: A kind of API, whose models are asked by it, and its smallest request; of several the first. There is none that is small for video
#: and for changing an image.
_PROBES: Final[tuple[tuple[Surface, Callable[[ModelSpec], bool], Callable[[ModelSpec], Fields]], ...]] = (
    (COMPLETIONS, _only_completes, _completion),
    (CHAT, CHAT.suits, _chat),
    (EMBEDDINGS, EMBEDDINGS.suits, _fixed(input="ping")),
    (MODERATIONS, MODERATIONS.suits, _fixed(input="ok")),
    (RERANK, RERANK.suits, _fixed(query="ok", documents=["ok"])),
    (TRANSCRIPTIONS, TRANSCRIPTIONS.suits, _fixed()),
    (SPEECH, SPEECH.suits, _fixed(input="ok", voice="alloy")),
    (IMAGES, _draws, _fixed(prompt="a dot")),
    (SEARCH, SEARCH.suits, _fixed(query="ping", max_results=1)),
    (SCRAPE, SCRAPE.suits, _fixed(url=_PAGE)),
)


def probe_call(model: ModelSpec, how: How, within_s: float | None = None) -> Call | None:
    """The probe of a model; None if for what it does there is none.

    Args:
        within_s: its deadline; None: the pool's rule.
    """
    for surface, is_for, write in _PROBES:
        if is_for(model):
            fields = {"model": model.id, **write(model)}
            form = _silence(model.id) if surface is TRANSCRIPTIONS else None
            return _call(surface, fields, how, form, within_s)
    return None


def _call(surface: Surface, fields: Fields, how: How, form: Form | None, within_s: float | None) -> Call:
    body = orjson.dumps(fields)
    return Call(
        surface=surface,
        request_id=f"probe-{uuid.uuid4().hex}",
        fields=fields,
        body_bytes=len(body),
        started=asyncio.get_running_loop().time(),
        deadline_s=within_s,
        prompt_tokens=weigh(body, fields) + (form.tokens if form else 0),
        how=how,
        form=form,
    )


def _silence(model: str) -> Form:
    """A form with a moment of silence in it."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(_SAMPLES_PER_S)
        writer.writeframes(bytes(2 * round(_SILENCE_S * _SAMPLES_PER_S)))
    parts = (
        (b'form-data; name="model"', model.encode()),
        (b'form-data; name="file"; filename="silence.wav"\r\ncontent-type: audio/wav', sound.getvalue()),
    )
    body = b"".join(b"--%b\r\ncontent-disposition: %b\r\n\r\n%b\r\n" % (_BOUNDARY, *part) for part in parts)
    return read_form(b"multipart/form-data; boundary=" + _BOUNDARY, body + b"--%b--" % _BOUNDARY)[1]
