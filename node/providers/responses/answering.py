"""From a chat completion to a response."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

from node.call import Fields

#: Why a chat ended -> why a response is incomplete.
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ECHOED: Final = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
)
_USUAL: Final = {
    "metadata": {},
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "truncation": "disabled",
}


def answer_of(chat: Fields, asked: Fields) -> Fields:
    """A response that says what the chat completion says.

    Args:
        asked: the request, parts of which a response repeats.
    """
    choices = chat.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    response = draft(asked, model=chat.get("model"))
    output = _output(message) if isinstance(message, dict) else []
    return finished(response, output, choice.get("finish_reason"), chat.get("usage"))


def draft(asked: Fields, *, model: Any) -> Fields:
    """A response that has only begun."""
    echoed = {name: _USUAL.get(name) if asked.get(name) is None else asked[name] for name in _ECHOED}
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
        "store": False,
        "previous_response_id": None,
        **echoed,
    }


def finished(response: Fields, output: list[Fields], reason: Any, usage: Any) -> Fields:
    """The same response with its end."""
    cut = _INCOMPLETE.get(reason) if isinstance(reason, str) else None
    return {
        **response,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": cut} if cut else None,
        "output": output,
        "usage": _usage(usage),
    }


def new_id(kind: str) -> str:
    """An id as the API makes them."""
    return f"{kind}_{uuid.uuid4().hex}"


def _output(message: Fields) -> list[Fields]:
    items = []
    thought = message.get("reasoning_content")
    if isinstance(thought, str) and thought:
        items.append(reasoning_item(new_id("rs"), thought))
    parts: list[Fields] = []
    for name, kind in (("content", "output_text"), ("refusal", "refusal")):
        said = message.get(name)
        if isinstance(said, str) and said:
            parts.append(content_part(kind, said))
    if parts:
        items.append(message_item(new_id("msg"), parts, "completed"))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = function.get("arguments") or ""
            items.append(
                call_item(new_id("fc"), call.get("id"), function.get("name"), arguments, "completed")
            )
    return items


def content_part(kind: str, text: str) -> Fields:
    """A piece of a message: text, or a refusal."""
    if kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(item: str, parts: list[Fields], status: str) -> Fields:
    """What the assistant says."""
    return {"type": "message", "id": item, "status": status, "role": "assistant", "content": parts}


def reasoning_item(item: str, text: str) -> Fields:
    """What it has thought before."""
    parts = [{"type": "reasoning_text", "text": text}] if text else []
    return {"type": "reasoning", "id": item, "summary": [], "content": parts}


def call_item(item: str, call: Any, name: Any, arguments: str, status: str) -> Fields:
    """A function that it wants called."""
    return {
        "type": "function_call",
        "id": item,
        "call_id": call or item,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _usage(usage: Any) -> Fields | None:
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return {
        "input_tokens": tokens_in,
        "input_tokens_details": {"cached_tokens": _detail(usage, "prompt_tokens_details", "cached_tokens")},
        "output_tokens": tokens_out,
        "output_tokens_details": {
            "reasoning_tokens": _detail(usage, "completion_tokens_details", "reasoning_tokens")
        },
        "total_tokens": tokens_in + tokens_out,
    }


def _detail(usage: Fields, section: str, name: str) -> Any:
    found = usage.get(section)
    return (found.get(name) if isinstance(found, dict) else 0) or 0
