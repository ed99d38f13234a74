"""From a chat completion to a message."""

from __future__ import annotations

import uuid
from typing import Any, Final

import orjson

from node.call import Fields
from node.providers.usage import usage_from

#: Why a chat ended -> why a message did.
_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
#: What a model thinks has two names.
THOUGHTS: Final = ("reasoning_content", "reasoning")


def answer_of(chat: Fields, asked: Fields) -> Fields:
    """A message that says what the chat completion says.

    Args:
        asked: the request; who has not asked for thoughts gets none.
    """
    choices = chat.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    said = choice.get("message")
    said = said if isinstance(said, dict) else {}
    content = _content(said, thinks=wants_thoughts(asked))
    return {
        **draft(asked, model=chat.get("model")),
        "content": content,
        **end_of(choice, asked, has_calls=_has_calls(content), refuses=bool(said.get("refusal"))),
        "usage": usage_of(chat.get("usage")),
    }


def draft(asked: Fields, *, model: Any) -> Fields:
    """A message that has only begun."""
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": model or asked.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(None),
    }


def wants_thoughts(asked: Fields) -> bool:
    """Whether the caller looks out for what the model thinks; others would take the first block for the answer."""
    thinking = asked.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")


def end_of(choice: Fields, asked: Fields, *, has_calls: bool, refuses: bool = False) -> Fields:
    """Why the message ended. Which of several sequences it was only some servers tell (vLLM, in ``stop_reason``)."""
    told, stop = choice.get("finish_reason"), choice.get("stop_reason")
    reason = _REASONS.get(told, "end_turn") if isinstance(told, str) else "end_turn"
    sequences, found = asked.get("stop_sequences"), None
    if reason == "end_turn" and has_calls:
        reason = "tool_use"
    elif reason == "end_turn" and refuses:
        reason = "refusal"
    elif reason == "end_turn" and isinstance(sequences, list) and isinstance(stop, str) and stop in sequences:
        reason, found = "stop_sequence", stop
    return {"stop_reason": reason, "stop_sequence": found}


def usage_of(raw: Any) -> Fields:
    """The usage of a chat in the API's words: what came out of a cache is told apart from the rest."""
    usage = usage_from(raw)
    tokens_in, tokens_out, cached = (usage.tokens_in, usage.tokens_out, usage.cached) if usage else (0, 0, 0)
    return {
        "input_tokens": tokens_in - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": tokens_out,
    }


def new_id(kind: str) -> str:
    """An id as the API makes them."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def text_in(said: Fields, name: str) -> str:
    """What a message or a piece of one says: a text, or parts of which some are (Mistral)."""
    told = said.get(name)
    if isinstance(told, list):
        parts = [part.get("text") for part in told if isinstance(part, dict)]
        return "".join(text for text in parts if isinstance(text, str))
    return told if isinstance(told, str) else ""


def thought_in(said: Fields) -> str:
    """What a message or a piece of one holds of thoughts."""
    return next((text for name in THOUGHTS if isinstance(text := said.get(name), str) and text), "")


def _content(said: Fields, *, thinks: bool) -> list[Fields]:
    blocks: list[Fields] = []
    thought = thought_in(said) if thinks else ""
    if thought:
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    for name in ("content", "refusal"):
        text = text_in(said, name)
        if text:
            blocks.append({"type": "text", "text": text})
    calls = said.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            blocks.append(
                {
                    "type": "tool_use",
                    "id": call.get("id") or new_id("toolu"),
                    "name": function.get("name"),
                    "input": _arguments(function.get("arguments")),
                }
            )
    return blocks


def _has_calls(content: list[Fields]) -> bool:
    return any(block["type"] == "tool_use" for block in content)


def _arguments(given: Any) -> Any:
    """The arguments as an object. What the model has botched is shown to the tool, which knows what to say."""
    try:
        arguments = orjson.loads(given or "{}")
    except (orjson.JSONDecodeError, TypeError):
        arguments = given
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}
