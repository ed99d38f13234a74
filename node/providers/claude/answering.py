"""From a message to a chat completion."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

import orjson

from node.call import Fields
from node.providers.usage import usage_from

#: Why a message ended -> why a chat did.
_REASONS: Final = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def answer_of(message: Fields, asked: Fields) -> Fields:
    """A chat completion that says what the message says.

    Args:
        asked: the request.
    """
    content = message.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    said: Fields = {"role": "assistant", "content": _joined(blocks, "text"), "refusal": None}
    thought = _joined(blocks, "thinking")
    if thought:
        said["reasoning_content"] = thought
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    if calls:
        said["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": said,
        "finish_reason": finish_of(message.get("stop_reason")),
        "logprobs": None,
    }
    return {
        **draft("chat.completion", message, asked),
        "choices": [choice],
        "usage": usage_of(message.get("usage")),
    }


def draft(kind: str, message: Fields, asked: Fields) -> Fields:
    """What stands around every answer, and every piece of one."""
    return {
        "id": f"chatcmpl-{message.get('id') or uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": message.get("model") or asked.get("model"),
    }


def finish_of(reason: Any) -> str:
    """Why it ended, in the words of a chat."""
    return _REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"


def usage_of(raw: Any) -> Fields | None:
    """The usage of a message in the words of a chat: what came out of a cache, or went there, is input like the rest."""
    usage = usage_from(raw)
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.tokens_in,
        "completion_tokens": usage.tokens_out,
        "total_tokens": usage.tokens_in + usage.tokens_out,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def _joined(blocks: list[Fields], kind: str) -> str | None:
    texts = [
        block[kind] for block in blocks if block.get("type") == kind and isinstance(block.get(kind), str)
    ]
    return "".join(texts) or None


def _call(block: Fields) -> Fields:
    arguments = orjson.dumps(block.get("input") or {}).decode()
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}
