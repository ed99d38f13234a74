"""Multipart bodies: what routing reads of them, and the parts themselves, to be sent on under another model's name.

A form is taken apart and written anew, so that a provider cannot read another model's name in it than was read here.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from node.call import Fields, Form, FormPart, Upload
from node.routing.weight import IMAGE_TOKENS
from shared_state.errors import RequestError

_MOST_PARTS: Final = 100
_MOST_HEADERS: Final = 8
_LONGEST_HEADER: Final = 4096
#: Sound has 10 tokens a second with who counts it so, and 2,500 bytes at least even as speech of little quality.
_SOUND_BYTES_PER_TOKEN: Final = 250
_IMAGES: Final = ("image", "mask")
#: What is read here must have one meaning.
_SINGLE: Final = frozenset(
    {"model", "stream", "n", "prompt", "language", "response_format", "stream_format", "url"}
)
_TRUTH: Final = {"true": True, "false": False}


def is_form(content_type: bytes | None) -> bool:
    """Whether a body of that type is a form."""
    return content_type is not None and content_type[:19].lower() == b"multipart/form-data"


def read_form(content_type: bytes, body: bytes, *, default_model: str = "") -> tuple[Fields, Form]:
    """The texts of a form, and the form.

    Args:
        default_model: what is meant if the form names no model.

    Raises:
        RequestError: it is none, is cut off, or a field is given twice whose value matters here.
    """
    parts = _split(content_type, body)
    fields: Fields = {}
    uploads = []
    for part in parts:
        if part.is_file:
            uploads.append(Upload(part.name, len(part.content), part.name.startswith(_IMAGES)))
        else:
            _take(fields, part)
    if not fields.get("model") and default_model:
        fields["model"] = default_model
    kept = [FormPart(part.head, part.content, _is_model(part)) for part in parts]
    if not any(part.is_model for part in kept):
        kept.insert(0, FormPart(b'content-disposition: form-data; name="model"\r\n', memoryview(b""), True))
    tokens = sum(IMAGE_TOKENS if u.is_image else -(-u.size_bytes // _SOUND_BYTES_PER_TOKEN) for u in uploads)
    return fields, Form(tuple(kept), tuple(uploads), secrets.token_hex(16).encode(), tokens)


class _Part:
    """A part while it is read."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.start = self.end = 0
        self.name = ""
        self.is_file = False
        self.content = memoryview(b"")

    @property
    def head(self) -> bytes:
        return b"".join(b"%b: %b\r\n" % header for header in self.headers)


class _Reader:
    """Collects parts from a parser that is given the whole body at once: what it tells are places in that body."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.is_complete = False
        self._field = b""

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == _MOST_PARTS:
            raise RequestError(f"the form has more than {_MOST_PARTS} parts", code="invalid_form")
        self.parts.append(_Part())

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field = data[start:end].lower()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        value = data[start:end]
        if b"\n" in value or b"\0" in value:
            raise RequestError("a header within the form holds a line end or NUL", code="invalid_form")
        self.parts[-1].headers.append((self._field, value))

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.start, part.end = start if not part.end else part.start, end

    def _end(self) -> None:
        self.is_complete = True


def _split(content_type: bytes, body: bytes) -> list[_Part]:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise RequestError("the form's content-type names no boundary", code="invalid_form")
    reader = _Reader()
    try:
        parser = MultipartParser(
            boundary,
            reader.callbacks(),
            max_header_count=_MOST_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )
        parser.write(body)
    except FormParserError as error:
        raise RequestError(f"the body is not a valid form: {error}", code="invalid_form") from None
    if not reader.is_complete:
        raise RequestError("the form is cut off before its last boundary", code="invalid_form")
    view = memoryview(body)
    for part in reader.parts:
        part.content = view[part.start : part.end]
        _name(part)
    return reader.parts


def _name(part: _Part) -> None:
    dispositions = [value for name, value in part.headers if name == b"content-disposition"]
    if len(dispositions) != 1:
        raise RequestError("each part of the form needs one content-disposition", code="invalid_form")
    kind, options = parse_options_header(dispositions[0])
    name = options.get(b"name")
    if kind != b"form-data" or not name:
        raise RequestError("a part of the form has no name", code="invalid_form")
    part.name = name.decode("utf-8", "replace")
    part.is_file = b"filename" in options


def _is_model(part: _Part) -> bool:
    return part.name == "model" and not part.is_file


def _take(fields: Fields, part: _Part) -> None:
    name = part.name
    try:
        text = str(part.content, "utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{name!r} is not UTF-8 text", param=name) from None
    if name in fields and name in _SINGLE:
        raise RequestError(f"{name!r} is given twice", param=name)
    fields[name] = _typed(name, text) if name not in fields else _several(fields[name], text)


def _several(known: Any, text: str) -> list[Any]:
    return [*known, text] if isinstance(known, list) else [known, text]


def _typed(name: str, text: str) -> Any:
    """The value in the type that it has in JSON, where it is looked at here."""
    if name == "stream":
        return _TRUTH.get(text.strip().lower(), text)
    if name == "n":
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
    return text
