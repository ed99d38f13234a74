"""From a request of the Responses API to one for chat completions; what chat has no words for is refused, not dropped."""

from __future__ import annotations

from typing import Any, Final

from node.call import Fields
from shared_state.errors import UnsupportedFeatureError

#: What has a place of its own in a chat request, or matters only to who keeps responses.
_TAKEN: Final = frozenset(
    {
        "input",
        "instructions",
        "include",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "reasoning",
        "store",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
        "previous_response_id",
        "conversation",
        "prompt",
        "background",
    }
)
#: What needs a provider that keeps responses, or runs them by itself.
_KEEPERS: Final = ("previous_response_id", "conversation", "prompt", "background")
_CHOICES: Final = frozenset({"none", "auto", "required"})
_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def beyond_chat(fields: Fields) -> str:
    """The first field that a chat request cannot express; empty if it can all be said."""
    try:
        chat_fields(fields)
    except UnsupportedFeatureError as error:
        return error.param or "input"
    return ""


def chat_fields(fields: Fields, *, bound: str = "max_tokens") -> Fields:
    """The same request for chat completions.

    Args:
        bound: the name by which the model takes the bound of its output.

    Raises:
        UnsupportedFeatureError: a field has no equivalent.
    """
    for name in _KEEPERS:
        if fields.get(name):
            raise _beyond(name)
    chat: Fields = {
        **{name: value for name, value in fields.items() if name not in _TAKEN},
        "model": fields.get("model"),
        "messages": _messages(fields),
        **_tools(fields),
        **_format(fields),
    }
    if fields.get("max_output_tokens") is not None:
        chat[bound] = fields["max_output_tokens"]
    reasoning = fields.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("effort"):
        chat["reasoning_effort"] = reasoning["effort"]
    if fields.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return chat


def _beyond(field: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(f"chat completions have nothing like this in {field!r}", param=field)


# -- the conversation


def _messages(fields: Fields) -> list[Fields]:
    messages: list[Fields] = []
    instructions, given = fields.get("instructions"), fields.get("input")
    if isinstance(instructions, str) and instructions:
        messages.append({"role": "system", "content": instructions})
    elif instructions:
        raise _beyond("instructions")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in given if isinstance(given, list) else ():
        _add(messages, item)
    return messages


def _add(messages: list[Fields], item: Any) -> None:
    """One item of the input behind the others; calls of functions belong to what the assistant said before."""
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if kind == "message":
        messages.append(_message(item))
    elif kind == "function_call":
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        call = {"name": item.get("name"), "arguments": item.get("arguments")}
        calls = messages[-1].setdefault("tool_calls", [])
        calls.append({"id": item.get("call_id"), "type": "function", "function": call})
    elif kind == "function_call_output":
        output = item.get("output")
        content = output if isinstance(output, str) else _parts(output)
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
    elif kind != "reasoning":  # what a model thought in an earlier turn is nothing to another
        raise _beyond("input")


def _message(item: Fields) -> Fields:
    role = item.get("role")
    if role not in _ROLES:
        raise _beyond("input")
    content = item.get("content")
    return {"role": _ROLES[role], "content": content if isinstance(content, str) else _parts(content)}


def _parts(content: Any) -> list[Fields]:
    if not isinstance(content, list):
        raise _beyond("input")
    return [_part(part) for part in content]


def _part(part: Any) -> Fields:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"]}
        if part.get("detail"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    if kind == "input_file" and part.get("file_data"):
        return {"type": "file", "file": {"filename": part.get("filename"), "file_data": part["file_data"]}}
    raise _beyond("input")


# -- tools, formats


def _tools(fields: Fields) -> Fields:
    tools, chat = fields.get("tools"), Fields()
    if tools:
        if not isinstance(tools, list):
            raise _beyond("tools")
        chat["tools"] = [_tool(tool) for tool in tools]
    choice = fields.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice in _CHOICES if isinstance(choice, str) else False:
        if tools:
            chat["tool_choice"] = choice
    elif choice is not None:
        raise _beyond("tool_choice")
    return chat


def _tool(tool: Any) -> Fields:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise _beyond("tools")
    kept = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in kept if tool.get(name) is not None}}


def _format(fields: Fields) -> Fields:
    text = fields.get("text")
    given = text.get("format") if isinstance(text, dict) else None
    kind = given.get("type") if isinstance(given, dict) else None
    if kind in (None, "text"):
        return {}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind != "json_schema" or not isinstance(given, dict):
        raise _beyond("text")
    schema = {name: value for name, value in given.items() if name != "type" and value is not None}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
