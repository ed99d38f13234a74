"""From a request of the Messages API to one for chat completions; what chat has no words for is refused, not dropped."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import orjson

from node.call import Fields
from node.providers.messages.blocks import kind_of, part_of, result_of, text_of
from shared_state.errors import UnsupportedFeatureError

#: What has a place of its own in a chat request.
_TAKEN: Final = frozenset(
    {
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "stop_sequences",
        "stream_options",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
#: What asks for no other answer, only for a cheaper, faster or likelier one; who has no word for it is asked without.
_HINTS: Final = frozenset(
    {
        "cache_control",
        "context_management",
        "diagnostics",
        "service_tier",
        "speed",
        "top_k",
        "user_profile_id",
        "workspace_id",
    }
)
#: What needs a provider that keeps things, runs them by itself, or promises where it computes.
_KEEPERS: Final = ("container", "inference_geo", "mcp_servers")
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})
_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
#: Tokens of thought up to which the effort is called so.
_BUDGETS: Final = ((4096, "low"), (16_384, "medium"))
#: OpenAI takes no longer name for a user.
_LONGEST_USER: Final = 64


def beyond_chat(fields: Fields) -> str:
    """The first field that a chat request cannot express; empty if it can all be said."""
    try:
        chat_fields(fields)
    except UnsupportedFeatureError as error:
        return error.param or "messages"
    return ""


def chat_fields(fields: Fields, *, bound: str = "max_tokens", thinks: bool = False) -> Fields:
    """The same request for chat completions.

    Args:
        bound: the name by which the model takes the bound of its output.
        thinks: whether the model is known to take an effort of reasoning.

    Raises:
        UnsupportedFeatureError: a field has no equivalent.
    """
    for name in _KEEPERS:
        if fields.get(name):
            raise _beyond(name)
    chat: Fields = {
        **{name: value for name, value in fields.items() if name not in _TAKEN and name not in _HINTS},
        "model": fields.get("model"),
        "messages": _messages(fields),
        **_bounds(fields, bound),
        **_user_of(fields),
        **_tools(fields),
        **_format(fields),
    }
    effort = _effort(fields) if thinks else None
    if effort is not None:
        chat["reasoning_effort"] = effort
    if fields.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return chat


def own_fields(fields: Fields) -> Fields:
    """The request for a provider that has this API: as it is, but for thoughts of models that have signed nothing.

    They come from models that only chat; whoever checks signatures would refuse the whole conversation for them.
    """
    given = fields.get("messages")
    messages = [_signed(message) for message in given] if isinstance(given, list) else []
    if all(signed is message for signed, message in zip(messages, given or (), strict=True)):
        return fields
    return {**fields, "messages": messages}


def _signed(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return message
    kept = [block for block in content if kind_of(block) != "thinking" or block.get("signature")]
    return message if len(kept) == len(content) else {**message, "content": kept}


def _beyond(field: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(f"chat completions have nothing like this in {field!r}", param=field)


# -- the conversation


def _messages(fields: Fields) -> list[Fields]:
    messages: list[Fields] = []
    system = text_of(fields.get("system") or "")
    if system is None:
        raise _beyond("system")
    if system:
        messages.append({"role": "system", "content": system})
    given = fields.get("messages")
    for message in given if isinstance(given, list) else ():
        messages += _turn(message)
    return messages


def _turn(message: Any) -> list[Fields]:
    """One turn, which may be several messages of a chat."""
    role, content = (message.get(name) if isinstance(message, dict) else None for name in ("role", "content"))
    if role == "system" and (text := text_of(content)) is not None:
        return [{"role": "system", "content": text}]
    if role not in ("user", "assistant") or not isinstance(content, str | list):
        raise _beyond("messages")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    return _user(content) if role == "user" else [_assistant(content)]


def _user(blocks: list[Any]) -> list[Fields]:
    """Results of tools come first, for they belong to the calls before them; what they show, a tool cannot say, but a user can."""
    results, shown, parts = [], [], []
    for block in blocks:
        if kind_of(block) != "tool_result":
            parts.append(_said(part_of(block)))
            continue
        text, media = _said(result_of(block))
        results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text})
        shown += media
    parts = shown + parts
    if parts or not results:
        results.append({"role": "user", "content": _plain(parts)})
    return results


def _said(translated: Any) -> Any:
    if translated is None:
        raise _beyond("messages")
    return translated


def _plain(parts: list[Fields]) -> str | list[Fields]:
    """Text alone is a text: not every server takes a list."""
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _assistant(blocks: list[Any]) -> Fields:
    texts, calls = [], []
    for block in blocks:
        kind = kind_of(block)
        if kind == "text":
            texts.append(str(block.get("text") or ""))
        elif kind == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind not in _THOUGHTS:  # what a model thought in an earlier turn is nothing to another
            raise _beyond("messages")
    message: Fields = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    return {**message, "tool_calls": calls} if calls else message


# -- everything else


def _bounds(fields: Fields, bound: str) -> Fields:
    chat = Fields()
    if fields.get("max_tokens") is not None:
        chat[bound] = fields["max_tokens"]
    if fields.get("stop_sequences"):
        chat["stop"] = fields["stop_sequences"]
    return chat


def _user_of(fields: Fields) -> Fields:
    metadata = fields.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(user, str) or not user:
        return {}
    return {"user": user if len(user) <= _LONGEST_USER else hashlib.sha256(user.encode()).hexdigest()}


def _tools(fields: Fields) -> Fields:
    tools, choice = fields.get("tools"), fields.get("tool_choice")
    if not tools:
        return {}
    if not isinstance(tools, list):
        raise _beyond("tools")
    chat: Fields = {"tools": [_tool(tool) for tool in tools]}
    if choice is not None:
        chat["tool_choice"] = _choice(choice)
        if choice.get("disable_parallel_tool_use") is True:
            chat["parallel_tool_calls"] = False
    return chat


def _tool(tool: Any) -> Fields:
    if not isinstance(tool, dict) or tool.get("type") not in (None, "custom"):
        raise _beyond("tools")
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema")}
    function.update({name: tool[name] for name in ("description", "strict") if tool.get(name) is not None})
    return {"type": "function", "function": function}


def _choice(choice: Any) -> Any:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise _beyond("tool_choice")
    return _CHOICES[kind]


def _format(fields: Fields) -> Fields:
    config = fields.get("output_config")
    name = "output_config" if isinstance(config, dict) and config.get("format") else "output_format"
    given = config.get("format") if name == "output_config" and isinstance(config, dict) else fields.get(name)
    if not given:
        return {}
    if not isinstance(given, dict) or given.get("type") != "json_schema":
        raise _beyond(name)
    schema = {"name": "answer", "schema": given.get("schema"), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _effort(fields: Fields) -> str | None:
    config, thinking = fields.get("output_config"), fields.get("thinking")
    effort = config.get("effort") if isinstance(config, dict) else None
    if isinstance(effort, str):
        return _EFFORTS.get(effort)
    if not isinstance(thinking, dict) or thinking.get("type") != "enabled":
        return None
    budget = thinking.get("budget_tokens")
    most = budget if isinstance(budget, int) else 0
    return next((name for tokens, name in _BUDGETS if most <= tokens), "high")
