"""From a chat request to one of the Messages API; what that has no words for is refused, not dropped."""

from __future__ import annotations

from typing import Any, Final

from node.call import Fields
from node.providers.claude.parts import blocks_of, call_of, texts_of
from shared_state.errors import UnsupportedFeatureError

#: What has a place of its own in a message request.
_TAKEN: Final = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "parallel_tool_calls",
        "response_format",
        "stop",
        "temperature",
        "tool_choice",
        "tools",
        "user",
    }
)
#: What asks for no other answer, only for a likelier, cheaper or better kept one, or says what goes without saying.
_HINTS: Final = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "metadata",
        "modalities",
        "n",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "stream_options",
        "verbosity",
    }
)
#: What there is nothing like.
_STRANGE: Final = ("functions", "function_call", "logit_bias", "audio", "web_search_options", "top_logprobs")
_CHOICES: Final = {"auto": "auto", "required": "any", "none": "none"}


def beyond_messages(fields: Fields) -> str:
    """The first field that a message request cannot express; empty if it can all be said."""
    try:
        message_fields(fields, most_output=1)
    except UnsupportedFeatureError as error:
        return error.param or "messages"
    return ""


def message_fields(fields: Fields, *, most_output: int) -> Fields:
    """The same request for the Messages API.

    Args:
        most_output: the bound of the output where the request has none, for there must be one.

    Raises:
        UnsupportedFeatureError: a field has no equivalent.
    """
    for name in _STRANGE:
        if fields.get(name):
            raise _beyond(name)
    if (fields.get("n") or 1) != 1:
        raise _beyond("n")
    system, messages = _conversation(fields)
    return {
        **{name: value for name, value in fields.items() if _goes_on(name, value)},
        "model": fields.get("model"),
        "max_tokens": fields.get("max_completion_tokens") or fields.get("max_tokens") or most_output,
        "messages": messages,
        **({"system": system} if system else {}),
        **_sampling(fields),
        **_tools(fields),
        **_format(fields),
    }


def _goes_on(name: str, value: Any) -> bool:
    """Whether it is a field that may mean something there: this API refuses what it does not know, even if it is null."""
    return value is not None and name not in _TAKEN and name not in _HINTS and name not in _STRANGE


def _beyond(field: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(f"the Messages API has nothing like this in {field!r}", param=field)


# -- the conversation


def _conversation(fields: Fields) -> tuple[Any, list[Fields]]:
    """The system prompt, wherever its parts stand, and the turns; what one side says in a row is one turn."""
    system: list[Fields] = []
    turns: list[Fields] = []
    given = fields.get("messages")
    for message in given if isinstance(given, list) else ():
        role = message.get("role")
        if role in ("system", "developer"):
            system += _said(texts_of(message.get("content")))
            continue
        side, blocks = _turn(role, message)
        if turns and turns[-1]["role"] == side:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": side, "content": blocks})
    return _system(system), turns


def _system(texts: list[Fields]) -> Any:
    """One text, unless a place in it is marked for the cache."""
    if any("cache_control" in text for text in texts):
        return texts
    return "\n\n".join(text["text"] for text in texts)


def _turn(role: Any, message: Fields) -> tuple[str, list[Fields]]:
    content = message.get("content")
    if role == "user":
        return "user", _said(blocks_of(content))
    if role == "tool":
        result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id")}
        return "user", [
            {**result, "content": content if isinstance(content, str) else _said(blocks_of(content))}
        ]
    if role != "assistant" or message.get("function_call"):
        raise _beyond("messages")
    calls = message.get("tool_calls")
    return "assistant", [
        *_said(blocks_of(content)),
        *[_said(call_of(call)) for call in (calls if isinstance(calls, list) else ())],
    ]


def _said(translated: Any) -> Any:
    if translated is None:
        raise _beyond("messages")
    return translated


# -- everything else


def _sampling(fields: Fields) -> Fields:
    """Anthropic's heat ends at 1, where OpenAI's goes to 2."""
    asked = Fields()
    heat, stop, user = fields.get("temperature"), fields.get("stop"), fields.get("user")
    if heat is not None:
        asked["temperature"] = min(heat, 1.0) if isinstance(heat, int | float) else heat
    if stop:
        asked["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if isinstance(user, str) and user:
        asked["metadata"] = {"user_id": user}
    return asked


def _tools(fields: Fields) -> Fields:
    tools = fields.get("tools")
    if not tools:
        return {}
    if not isinstance(tools, list):
        raise _beyond("tools")
    asked: Fields = {"tools": [_tool(tool) for tool in tools]}
    choice = _choice(fields.get("tool_choice"))
    if fields.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return {**asked, "tool_choice": choice} if choice else asked


def _tool(tool: Any) -> Fields:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise _beyond("tools")
    given: Fields = {
        "name": function.get("name"),
        "input_schema": function.get("parameters") or {"type": "object"},
    }
    given.update(
        {name: function[name] for name in ("description", "strict") if function.get(name) is not None}
    )
    if tool.get("cache_control"):
        given["cache_control"] = tool["cache_control"]
    return given


def _choice(choice: Any) -> Fields:
    if choice is None:
        return {}
    if isinstance(choice, str) and choice in _CHOICES:
        return {"type": _CHOICES[choice]}
    function = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(function, dict):
        raise _beyond("tool_choice")
    return {"type": "tool", "name": function.get("name")}


def _format(fields: Fields) -> Fields:
    given = fields.get("response_format")
    kind = given.get("type") if isinstance(given, dict) else given
    if kind in (None, "text"):
        return {}
    inner = given.get("json_schema") if isinstance(given, dict) and kind == "json_schema" else None
    if not isinstance(inner, dict):
        raise _beyond("response_format")
    return {"output_config": {"format": {"type": "json_schema", "schema": inner.get("schema")}}}
