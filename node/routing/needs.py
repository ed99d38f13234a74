"""What a request needs of a model, read off its body. Pure and bounded.

Two estimates of the input stand side by side. The least decides about refusing: a sixth of the characters, but no more
than one token a word, of the text alone, without media, tools or roles. So nothing is refused that a provider would
take. The most, half the bytes without inline media, decides only who is asked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntFlag
from itertools import islice
from typing import Any, Final, NamedTuple

from node.routing.estimate import BYTES_PER_TOKEN

#: More characters to a token than any text has on average; long runs of one character are caught by counting words.
CHARS_PER_TOKEN: Final = 6
#: Parts of messages that are looked at: a body of nothing but tiny messages must not hold up a node.
_MOST_PARTS: Final = 20_000
_MOST_KEYS: Final = 32
_SLICE: Final = 1 << 16
#: Input tokens of an image or a sound, about; they are billed by size, not by the bytes that carry them.
_MEDIA_TOKENS: Final = 1_500


class Feature(IntFlag):
    """What a request may ask of a model; in the order in which a missing one is named."""

    TOOL_CALLING = 1
    VISION = 2
    AUDIO = 4
    FILES = 8
    STRUCTURED_OUTPUT = 16
    JSON_MODE = 32
    GROUNDING = 64
    LOGPROBS = 128
    REASONING = 256
    SYSTEM_PROMPT = 512


NAMES: Final[Mapping[int, str]] = {feature.value: str(feature.name).lower() for feature in Feature}
"""Value of a feature -> its key in the configuration."""

# Plain numbers from here on: arithmetic on members of an enumeration costs a microsecond each time.
_OF_FIELDS: Final[Mapping[str, int]] = {
    "tools": Feature.TOOL_CALLING.value,
    "functions": Feature.TOOL_CALLING.value,
    "tool_choice": Feature.TOOL_CALLING.value,
    "function_call": Feature.TOOL_CALLING.value,
    "logprobs": Feature.LOGPROBS.value,
    "top_logprobs": Feature.LOGPROBS.value,
    "web_search_options": Feature.GROUNDING.value,
    "reasoning_effort": Feature.REASONING.value,
    "audio": Feature.AUDIO.value,
    "system": Feature.SYSTEM_PROMPT.value,
}
#: Fields by which a body may want something of its model; most bodies have none of them.
_WANTING: Final = frozenset(
    {*_OF_FIELDS, "response_format", "text", "modalities", "output_config", "output_format"}
)
_OF_PARTS: Final[Mapping[str, int]] = {
    "image_url": Feature.VISION.value,
    "input_image": Feature.VISION.value,
    "image": Feature.VISION.value,
    "video_url": Feature.VISION.value,
    "input_audio": Feature.AUDIO.value,
    "audio_url": Feature.AUDIO.value,
    "file": Feature.FILES.value,
    "input_file": Feature.FILES.value,
    "document": Feature.FILES.value,
}
#: Blocks in which the Messages API calls and answers tools.
_TOOL_BLOCKS: Final = frozenset({"tool_use", "tool_result"})
_OF_ROLES: Final[Mapping[str, int]] = {
    "system": Feature.SYSTEM_PROMPT.value,
    "developer": Feature.SYSTEM_PROMPT.value,
    "tool": Feature.TOOL_CALLING.value,
    "function": Feature.TOOL_CALLING.value,
}
_OF_FORMATS: Final[Mapping[str, int]] = {
    "json_object": Feature.JSON_MODE.value,
    "json_schema": Feature.STRUCTURED_OUTPUT.value,
}
_VISION: Final[int] = Feature.VISION.value
_AUDIO: Final[int] = Feature.AUDIO.value
_TOOLS: Final[int] = Feature.TOOL_CALLING.value
_OUTPUT_FIELDS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_FORMATS: Final = ("response_format", "text", "output_config", "output_format")
_INPUT_FIELDS: Final = ("messages", "input", "prompt")


class Needs(NamedTuple):
    """What a request needs.

    Attributes:
        wants: features, as a sum of `Feature`.
        input_least: input tokens at least; of the longest input where a body holds several.
        input_most: input tokens at most.
        output: tokens that the caller wants to be allowed for one answer; 0 if that is not said.
        images: pictures in the messages.
        file_bytes: size of the largest inline attachment.
        language: what ``language`` says, as a transcription does.
        beyond: the field that only a provider with this API of its own can serve.
    """

    wants: int = 0
    input_least: int = 0
    input_most: int = 0
    output: int = 0
    images: int = 0
    file_bytes: int = 0
    language: str = ""
    beyond: str = ""


def needs_of(fields: Mapping[str, Any], body_bytes: int) -> Needs:
    """The needs of a parsed body; never raises, whatever JSON it is."""
    content = _Content()
    for name in _INPUT_FIELDS:
        given = fields.get(name)
        if given:
            content.take(given)
    if "system" in fields:
        content.take_system(fields["system"])
    language = fields.get("language")
    return Needs(
        wants=content.wants | _wanted_by_fields(fields),
        input_least=content.least,
        input_most=content.most(body_bytes),
        output=_most_output(fields),
        images=content.images,
        file_bytes=content.file_bytes,
        language=language_of(language) if isinstance(language, str) else "",
    )


def language_of(tag: str) -> str:
    """The language that a tag names, without region or script."""
    return tag[:_MOST_KEYS].strip().lower().partition("-")[0]


def _most_output(fields: Mapping[str, Any]) -> int:
    most = 0
    for name in _OUTPUT_FIELDS:
        if name in fields:
            most = max(most, _count(fields[name]))
    return most


def words_in(fields: Mapping[str, Any], most: int) -> int:
    """Words of the longest input, counted up to ``most`` and a little more."""
    system = _count_words(_block_texts(fields["system"]), most) if fields.get("system") else 0
    return system + max(
        [_words(given, most) for name in _INPUT_FIELDS if (given := fields.get(name))], default=0
    )


def param_of(missing: str, fields: Mapping[str, Any]) -> str:
    """The field of the body that asks for what is missing."""
    if missing == "max_output_tokens":
        return next((name for name in _OUTPUT_FIELDS if _count(fields.get(name))), "max_tokens")
    if missing == "supported_languages":
        return "language"
    for name, feature in _OF_FIELDS.items():
        if NAMES[feature] == missing and _is_asked(fields.get(name)):
            return name
    if missing in ("json_mode", "structured_output"):
        return next((name for name in _FORMATS if isinstance(fields.get(name), dict)), "text")
    if missing == "audio" and _wants_sound(fields):
        return "modalities"
    return next((name for name in _INPUT_FIELDS if fields.get(name)), "messages")


class _Content:
    """What the input fields of a body hold: one conversation, one text, or several texts that are read one by one."""

    __slots__ = ("_several_most", "file_bytes", "images", "least", "media", "media_bytes", "parts", "wants")

    def __init__(self) -> None:
        self.wants = 0
        self.least = 0
        self.images = 0
        self.media = 0
        self.media_bytes = 0
        self.file_bytes = 0
        self.parts = 0
        self._several_most: int | None = None

    def most(self, body_bytes: int) -> int:
        """Input tokens at most: of one conversation everything in the body is input."""
        if self._several_most is not None:
            return self._several_most
        text_bytes = max(0, body_bytes - self.media_bytes)
        return -(-text_bytes // BYTES_PER_TOKEN) + _MEDIA_TOKENS * self.media

    def take(self, given: Any) -> None:
        """Looks at the value of an input field."""
        if isinstance(given, str):
            self.least = max(self.least, len(given) // CHARS_PER_TOKEN)
        elif isinstance(given, list):
            if isinstance(given[0], dict):
                self._take_messages(given)
            else:
                self._take_several(given)

    def take_system(self, given: Any) -> None:
        """What the Messages API keeps apart belongs to the conversation."""
        chars = len(given) if isinstance(given, str) else 0
        if isinstance(given, list):
            chars = self._take_parts(given)
        self.least += chars // CHARS_PER_TOKEN

    def _take_several(self, given: list[Any]) -> None:
        """Texts or rows of tokens, each an input of its own; a plain row of numbers is one."""
        rows = [given] if isinstance(given[0], int) else given[:_MOST_PARTS]
        most = 0
        for row in rows:
            if isinstance(row, str):
                self.least = max(self.least, len(row) // CHARS_PER_TOKEN)
                most = max(most, -(-len(row) * (1 if row.isascii() else 3) // BYTES_PER_TOKEN))
            elif isinstance(row, list):
                self.least = max(self.least, len(row))
                most = max(most, len(row))
        self._several_most = most

    def _take_messages(self, messages: list[Any]) -> None:
        chars = 0
        for message in messages:
            self.parts += 1
            if self.parts > _MOST_PARTS:
                break
            if not isinstance(message, dict):
                continue
            role, content = message.get("role"), message.get("content")
            if isinstance(role, str):
                self.wants |= _OF_ROLES.get(role, 0)
            if isinstance(content, str):
                chars += len(content)
            elif isinstance(content, list):
                chars += self._take_parts(content)
        self.least = max(self.least, chars // CHARS_PER_TOKEN)

    def _take_parts(self, parts: list[Any]) -> int:
        """Characters of the text among the parts of a message."""
        chars = 0
        for part in parts:
            self.parts += 1
            if self.parts > _MOST_PARTS:
                break
            if not isinstance(part, dict):
                continue
            text, kind = part.get("text"), part.get("type")
            if isinstance(text, str):
                chars += len(text)
            if isinstance(kind, str) and kind in _OF_PARTS and not _is_written(part):
                self._take_medium(part, _OF_PARTS[kind], is_image=kind != "video_url")
            elif isinstance(kind, str) and kind in _TOOL_BLOCKS:
                self.wants |= _TOOLS
                chars += self._take_result(part.get("content"))
        return chars

    def _take_result(self, content: Any) -> int:
        if isinstance(content, str):
            return len(content)
        return self._take_parts(content) if isinstance(content, list) else 0

    def _take_medium(self, part: dict[str, Any], feature: int, *, is_image: bool) -> None:
        size = _longest_text(part)
        self.wants |= feature
        self.media += 1
        self.media_bytes += size
        self.file_bytes = max(self.file_bytes, size * 3 // 4)  # base64
        self.images += feature == _VISION and is_image


def _is_written(part: Mapping[str, Any]) -> bool:
    """Whether a document is plain text, which is no file to anybody."""
    source = part.get("source")
    return isinstance(source, dict) and source.get("type") in ("text", "content")


def _longest_text(part: Mapping[str, Any]) -> int:
    """The longest string of a part, which is its data if that stands in line."""
    longest = 0
    for value in islice(part.values(), _MOST_KEYS):
        for inner in islice(value.values(), _MOST_KEYS) if isinstance(value, dict) else (value,):
            if isinstance(inner, str):
                longest = max(longest, len(inner))
    return longest


def _wanted_by_fields(fields: Mapping[str, Any]) -> int:
    wants = 0
    if _WANTING.isdisjoint(fields):
        return wants
    for name in _OF_FIELDS.keys() & fields.keys():
        if _is_asked(fields[name]):
            wants |= _OF_FIELDS[name]
    if "response_format" in fields:
        wants |= _of_format(fields["response_format"])
    if "text" in fields:  # the spelling of the Responses API
        text = fields["text"]
        wants |= _of_format(text.get("format")) if isinstance(text, dict) else 0
    if "output_config" in fields or "output_format" in fields:  # those of the Messages API
        config = fields.get("output_config")
        wants |= _of_format(config.get("format")) if isinstance(config, dict) else 0
        wants |= _of_format(fields.get("output_format"))
    if "modalities" in fields and _wants_sound(fields):
        wants |= _AUDIO
    return wants


def _of_format(wanted: Any) -> int:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    return _OF_FORMATS.get(kind, 0) if isinstance(kind, str) else 0


def _wants_sound(fields: Mapping[str, Any]) -> bool:
    modalities = fields.get("modalities")
    return isinstance(modalities, list) and "audio" in modalities[:_MOST_KEYS]


def _is_asked(value: Any) -> bool:
    return bool(value) and value != "none"


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _words(given: Any, most: int) -> int:
    if isinstance(given, list) and given and isinstance(given[0], int):
        return len(given)
    if isinstance(given, list) and given and not isinstance(given[0], dict):
        return max([_row_words(row, most) for row in given[:_MOST_PARTS]])
    return _count_words(_texts(given), most)


def _row_words(row: Any, most: int) -> int:
    if isinstance(row, str):
        return _count_words((row,), most) if len(row) > most else 0
    return len(row) if isinstance(row, list) else 0


def _texts(given: Any) -> Iterator[Any]:
    """The texts of one conversation, or the one text."""
    if not isinstance(given, list):
        yield given
        return
    for message in given[:_MOST_PARTS]:
        content = message.get("content") if isinstance(message, dict) else None
        yield from _block_texts(content)


def _block_texts(content: Any) -> Iterator[Any]:
    """The texts of a content: it is one, or a list of parts, some of which hold what a tool has said."""
    if not isinstance(content, list):
        yield content
        return
    for part in content[:_MOST_PARTS]:
        if isinstance(part, dict):
            yield part.get("text")
            if part.get("type") == "tool_result":
                yield from _block_texts(part.get("content"))


def _count_words(texts: Iterable[Any], most: int) -> int:
    words = 0
    for text in texts:
        if not isinstance(text, str):
            continue
        for start in range(0, len(text), _SLICE):
            # A slice may cut a word in two, which then counts once.
            words += max(0, len(text[start : start + _SLICE].split()) - (start > 0))
            if words > most:
                return words
    return words
