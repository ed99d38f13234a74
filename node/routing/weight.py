"""How many tokens a request's body holds at most, by the look of its bytes. Errs upward, and costs microseconds.

A byte-level tokenizer never makes more tokens than bytes; how many fewer depends on the kind of text. Lower-case words and the spaces
between them never need more than a token for two bytes; digits, punctuation and capitals may need one each; other scripts one for
a byte and a half. Measured with the tokenizers of three families (cl100k, o200k, Voyage), JSON around it included, the weight is 1.0
to 2.9 times the strictest count for prose in any major language, code, JSON, CSV, logs, tables, base64 and hex (at worst 0.93: long
hexadecimal ids). It falls short for lines of single digits between spaces (0.76) and for scripts that a vocabulary hardly
knows (Amharic and Cherokee: 0.7).
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any, Final

import orjson

#: What an image takes at most with most vendors, whatever its size in bytes: OpenAI scales it to at most 1,445 to 1,844 tokens,
#: Anthropic to about 1,600, Google tiles a large one into some 2,000. A small model that charges images many times dearer
#: is corrected by its usage.
IMAGE_TOKENS: Final = 2000
#: The same where the caller asks for a small view of it.
SMALL_IMAGE_TOKENS: Final = 300
#: Sound takes 10 to 32 tokens a second; in base64 a second has at least 2,600 bytes, even of speech at 16 kbit/s.
AUDIO_BYTES_PER_TOKEN: Final = 64

#: Of a large body three pieces of this size are looked at, and the rest is taken to be like them, or worse: the event loop waits for no
#: more than a tenth of a millisecond.
_PIECE: Final = 16 * 1024
_HALF: Final = (string.ascii_lowercase + " ").encode()
_FOREIGN: Final = bytes(range(128, 256))
_CONVERSATIONS: Final = ("messages", "input")
_NUMBERED: Final = ("input", "prompt")
_ITSELF: Final = -1


def weigh(body: bytes, fields: dict[str, Any]) -> int:
    """Tokens of a request.

    Args:
        body: as received.
        fields: the same, parsed; it is not changed.
    """
    lean, tokens = without_media(fields)
    # Escapes would hide what the provider reads. One byte is found ten times faster than two, and most bodies do not have it.
    is_escaped = b"\\" in body and b"\\u" in body
    text = body if lean is fields and not is_escaped else orjson.dumps(lean)
    return tokens + weigh_text(text)


def weigh_text(text: bytes) -> int:
    """Tokens of UTF-8 text, JSON or plain."""
    size = len(text)
    if size > 3 * _PIECE:
        middle = (size - _PIECE) // 2
        pieces = text[:_PIECE] + text[middle : middle + _PIECE] + text[-_PIECE:]
        return max(-(-weigh_text(pieces) * size // len(pieces)), -(-size // 2))
    rest = text.translate(None, _HALF)  # mostly little, and all that there is left to look at
    half = size - len(rest)
    foreign = 0 if rest.isascii() else len(rest) - len(rest.translate(None, _FOREIGN))
    # A backslash of JSON belongs to the character that follows.
    whole = len(rest) - foreign - rest.count(b"\\")
    return whole - (-half // 2) - (-2 * foreign // 3)


def without_media(fields: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The fields without what is no text, and the tokens that it stands for; the very same fields if all of it is text.

    Images and sound travel as base64 data, whose bytes say nothing about their tokens. Lists of token numbers are counted exactly.
    """
    for name in _NUMBERED:
        numbers = _token_numbers(fields.get(name))
        if numbers:
            return {**fields, name: None}, numbers
    tokens, lean = 0, fields
    for name in _CONVERSATIONS:
        items = fields.get(name)
        if isinstance(items, list) and (found := list(_media_in(items))):
            tokens += sum(weight for _, _, weight, _ in found)
            lean = {**lean, name: _taken_out(items, found)}
    return lean, tokens


def _token_numbers(given: Any) -> int:
    """How many tokens an ``input`` of numbers holds: one list, or a list of lists."""
    if not isinstance(given, list) or not given:
        return 0
    if type(given[0]) is int:
        return len(given)
    if isinstance(given[0], list) and given[0] and type(given[0][0]) is int:
        return sum(len(numbers) if isinstance(numbers, list) else 1 for numbers in given)
    return 0


def _media_in(items: list[Any]) -> Iterator[tuple[int, int, int, Any]]:
    """Images and sounds of a conversation: place of the message, place in it, tokens, and what else stands in that place.

    Moderations are asked for parts without messages.
    """
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        if "type" in item and (weight := _media_tokens(item)):
            yield place, _ITSELF, weight, None
            continue
        parts = item.get("content")
        for inner, part in enumerate(parts if isinstance(parts, list) else ()):
            weight, rest = _weighed(part) if isinstance(part, dict) else (0, None)
            if weight:
                yield place, inner, weight, rest


def _weighed(part: dict[str, Any]) -> tuple[int, Any]:
    """The tokens of the media in a part, and what is left of it: what a tool has shown stands one level deeper."""
    shown = part.get("content") if part.get("type") == "tool_result" else None
    if not isinstance(shown, list):
        return _media_tokens(part), None
    weights = [_media_tokens(inner) if isinstance(inner, dict) else 0 for inner in shown]
    rest = [inner for inner, weight in zip(shown, weights, strict=True) if not weight]
    return sum(weights), {**part, "content": rest}


def _media_tokens(part: dict[str, Any]) -> int:
    """What a part takes if it is an image or a sound; the shapes are OpenAI's and Anthropic's."""
    kind = part.get("type")
    if kind in ("image_url", "input_image", "image"):
        holder = part.get("image_url")
        detail = part.get("detail") or (holder.get("detail") if isinstance(holder, dict) else None)
        return SMALL_IMAGE_TOKENS if detail == "low" else IMAGE_TOKENS
    if kind == "input_audio":
        sound = part.get("input_audio")
        data = sound.get("data") if isinstance(sound, dict) else None
        return -(-len(data) // AUDIO_BYTES_PER_TOKEN) if isinstance(data, str) else 0
    return 0


def _taken_out(items: list[Any], found: list[tuple[int, int, int, Any]]) -> list[Any]:
    lean = list(items)
    for place, inner, _, rest in found:
        if inner == _ITSELF:
            lean[place] = None
            continue
        if lean[place] is items[place]:
            lean[place] = {**items[place], "content": list(items[place]["content"])}
        lean[place]["content"][inner] = rest
    return lean
