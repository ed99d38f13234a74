"""What the mock provider does besides text: moderations, rerank, speech, images, transcriptions. Each answer names the mock.

A form is only searched for its model and its file: it comes from a router.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final

import orjson

from benchmarks.mock_answers import Headers, Script, compose_unary
from benchmarks.mock_behaviour import Behaviour
from benchmarks.mock_calls import Call, CallError, count_tokens

_SPEECH: Final = "/v1/audio/speech"
_HEARD: Final = ("/v1/audio/transcriptions", "/v1/audio/translations")
_DRAWN: Final = ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations")
_MODERATIONS: Final = "/v1/moderations"
_RERANK: Final = "/v1/rerank"

MEDIA: Final = frozenset({_SPEECH, _MODERATIONS, _RERANK, *_HEARD, *_DRAWN})

_MODEL = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n')
_FILE = re.compile(rb'filename="[^"]*"\r\n(?:[^\r\n]+\r\n)*\r\n')


def read_media(path: str, body: bytes, content_type: bytes) -> Call:
    """What the body asks for.

    Raises:
        CallError: it names no model.
    """
    if content_type.startswith(b"multipart/form-data"):
        named = _MODEL.search(body)
        if named is None or (path in _HEARD and _FILE.search(body) is None):
            raise CallError("the form must have a 'model' and a file")
        return Call(path, named[1].decode(), [f"{len(body)} bytes"])
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CallError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("model"), str):
        raise CallError("the body must be an object with a string 'model'")
    given = document.get("documents") or [document.get("input") or document.get("prompt") or ""]
    return Call(path, document["model"], [text if isinstance(text, str) else repr(text) for text in given])


def compose_media(call: Call, behaviour: Behaviour, *, name: str, headers: Headers = ()) -> Script:
    """The script of the answer to a call."""
    if call.path == _SPEECH:
        sound = f"{name}: {call.texts[-1]}".encode() * 100
        return compose_unary(sound, behaviour, headers=headers, content_type="audio/mpeg")
    return compose_unary(orjson.dumps(_answer(call, name)), behaviour, headers=headers)


def _answer(call: Call, name: str) -> dict[str, Any]:
    tokens = count_tokens("".join(call.texts))
    usage = {"input_tokens": tokens, "output_tokens": 2, "total_tokens": tokens + 2}
    if call.path in _HEARD:
        return {"text": f"{name}: heard", "usage": {"type": "tokens", **usage}}
    if call.path in _DRAWN:
        picture = base64.b64encode(f"{name}: picture".encode()).decode()
        return {"created": 1_700_000_000, "data": [{"b64_json": picture}], "usage": usage}
    if call.path == _MODERATIONS:
        return {"id": "modr-0", "model": call.model, "results": [{"flagged": "bomb" in call.texts[0]}]}
    ranked = [{"index": n, "relevance_score": 1 / (n + 1)} for n in range(len(call.texts))]
    return {"model": name, "results": ranked, "usage": {"total_tokens": tokens}}
