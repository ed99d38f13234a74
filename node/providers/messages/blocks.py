"""Blocks of content in the Messages API, and the parts of a chat message that say the same. None where there is none."""

from __future__ import annotations

from typing import Any, Final

from node.call import Fields

#: Stands in the result of a tool for a picture, which follows in the next message.
_SHOWN: Final = "(attached below)"


def kind_of(block: Any) -> str:
    """Its type; empty if it is no block."""
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if isinstance(kind, str) else ""


def text_of(content: Any) -> str | None:
    """The text of a content of nothing else, blocks separated by blank lines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or any(kind_of(block) != "text" for block in content):
        return None
    return "\n\n".join(text for block in content if isinstance(text := block.get("text"), str))


def part_of(block: Any) -> Fields | None:
    """The part of a chat message for a block of a user's."""
    kind = kind_of(block)
    if kind == "text":
        text = block.get("text")
        return {"type": "text", "text": text} if isinstance(text, str) else None
    source = block.get("source") if kind in ("image", "document") else None
    if not isinstance(source, dict):
        return None
    return _image(source) if kind == "image" else _document(block, source)


def result_of(block: Fields) -> tuple[str, list[Fields]] | None:
    """What a tool has said, and what it has shown."""
    content = block.get("content")
    if not content:
        content = ""
    texts, shown = [content] if isinstance(content, str) else [], []
    for inner in content if isinstance(content, list) else ():
        part = part_of(inner)
        if part is None:
            return None
        if part["type"] == "text":
            texts.append(part["text"])
        else:
            shown.append(part)
            texts.append(_SHOWN)
    text = "\n\n".join(texts)
    return f"Error: {text}" if block.get("is_error") is True else text, shown


def _image(source: Fields) -> Fields | None:
    if source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": source.get("url")}}
    data = _data_url(source)
    return data and {"type": "image_url", "image_url": {"url": data}}


def _document(block: Fields, source: Fields) -> Fields | None:
    """A file in line, or a text under its title."""
    title = block.get("title")
    if source.get("type") == "base64":
        return {"type": "file", "file": {"filename": title or "document.pdf", "file_data": _data_url(source)}}
    told = {"text": source.get("data"), "content": source.get("content")}.get(str(source.get("type")))
    text = text_of(told)
    if text is None:
        return None
    above = [given for given in (title, block.get("context")) if isinstance(given, str) and given]
    return {"type": "text", "text": "\n\n".join([*above, text])}


def _data_url(source: Fields) -> Any:
    """None for a file that only the provider has."""
    if source.get("type") != "base64":
        return None
    return f"data:{source.get('media_type')};base64,{source.get('data')}"
