"""Parts of a chat message, and the blocks of content that say the same. None where there is none."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from node.call import Fields

_DATA: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[^,;]*)*;base64,")


def texts_of(content: Any) -> list[Fields] | None:
    """The blocks for a content of nothing but text."""
    blocks = blocks_of(content)
    return None if blocks is None or any(block["type"] != "text" for block in blocks) else blocks


def blocks_of(content: Any) -> list[Fields] | None:
    """The blocks for a content; empty texts are none, and would be refused."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return None
    blocks = [_marked(part, _block(part)) for part in content]
    known = [block for block in blocks if block is not None]
    return None if len(known) < len(blocks) else [block for block in known if block.get("text") != ""]


def call_of(call: Any) -> Fields | None:
    """The block for a call of a function."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return None
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except (orjson.JSONDecodeError, TypeError):
        arguments = None
    if not isinstance(arguments, dict):  # the model had botched them, and was told so
        arguments = {"arguments": function.get("arguments")}
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}


def _marked(part: Any, block: Fields | None) -> Fields | None:
    """With the mark for the cache that callers of several gateways are used to set."""
    if block is not None and part.get("cache_control"):
        return {**block, "cache_control": part["cache_control"]}
    return block


def _block(part: Any) -> Fields | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        return {"type": "text", "text": str(part.get(kind) or "")}
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        return {"type": "image", "source": _source(url)} if isinstance(url, str) else None
    file = part.get("file") if kind == "file" else None
    data = file.get("file_data") if isinstance(file, dict) else None
    if not isinstance(data, str) or not isinstance(file, dict):
        return None
    block: Fields = {"type": "document", "source": _source(data)}
    return {**block, "title": file["filename"]} if file.get("filename") else block


def _source(url: str) -> Fields:
    """Data in line, or an address."""
    found = _DATA.match(url[:200])
    if found is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": found[1], "data": url[found.end() :]}
