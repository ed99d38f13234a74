"""What each API insists on in a body, before anybody is asked: only what no provider could serve is refused here."""

from __future__ import annotations

from node.call import Fields, Form
from shared_state.errors import RequestError


def check_chat(fields: Fields) -> None:
    """A conversation."""
    check_messages(fields)
    _check_stream(fields)
    check_counts(fields, "max_tokens", "max_completion_tokens", "n")


def check_message(fields: Fields) -> None:
    """A conversation, and how long the answer may be: Anthropic insists on both."""
    check_messages(fields)
    _check_stream(fields)
    if fields.get("max_tokens") is None:
        raise RequestError("'max_tokens' is required", param="max_tokens")
    check_counts(fields, "max_tokens")


def check_messages(fields: Fields) -> None:
    """A conversation."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("'messages' must be a non-empty array", param="messages")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise RequestError("each of 'messages' must be an object with a 'role'", param="messages")


def check_response(fields: Fields) -> None:
    """An input, or a template that the provider keeps."""
    if not fields.get("prompt"):
        _check_input(fields, "input")
    _check_stream(fields)
    check_counts(fields, "max_output_tokens")


def check_completion(fields: Fields) -> None:
    """A prompt, several, or their tokens; no output at all may be asked for, to have the prompt judged."""
    _check_input(fields, "prompt")
    _check_stream(fields)
    check_counts(fields, "n", "best_of")
    check_counts(fields, "max_tokens", least=0)


def check_input(fields: Fields) -> None:
    """Embeddings and moderations: a text or several."""
    _check_input(fields, "input")


def check_rerank(fields: Fields) -> None:
    """A query, and documents to be put in order."""
    if not isinstance(fields.get("query"), (str, dict)) or not fields["query"]:
        raise RequestError("'query' must be a non-empty string", param="query")
    documents = fields.get("documents")
    if not isinstance(documents, list) or not documents:
        raise RequestError("'documents' must be a non-empty array", param="documents")
    check_counts(fields, "top_n")


def check_files(fields: Fields, form: Form, names: frozenset[str]) -> None:
    """A form brings at least one of the files that the API is about, or says where it is."""
    given = {upload.name.removesuffix("[]") for upload in form.uploads}
    if not names & (given | {name.removesuffix("[]") for name in fields}):
        name = min(names)
        raise RequestError(f"'{name}' is missing: a file is expected", param=name)


def check_speech(fields: Fields) -> None:
    """A text to be spoken; whether there must be a voice is for the provider to say."""
    check_text(fields, "input")
    if not isinstance(fields.get("stream_format"), str | None):
        raise RequestError("'stream_format' must be a string", param="stream_format")


def check_image(fields: Fields) -> None:
    """What is to be drawn, or done to an image."""
    check_text(fields, "prompt")
    check_variation(fields)


def check_variation(fields: Fields) -> None:
    """An image alone will do."""
    _check_stream(fields)
    check_counts(fields, "n")


def check_transcription(fields: Fields) -> None:
    """Sound, and what is to become of it."""
    _check_stream(fields)
    if not isinstance(fields.get("response_format"), str | None):
        raise RequestError("'response_format' must be a string", param="response_format")


def check_text(fields: Fields, name: str) -> None:
    """A field that must be a text."""
    given = fields.get(name)
    if not isinstance(given, str) or not given:
        raise RequestError(f"'{name}' must be a non-empty string", param=name)


def _check_input(fields: Fields, name: str) -> None:
    given = fields.get(name)
    if not isinstance(given, (str, list)) or not given:
        raise RequestError(f"'{name}' must be a non-empty string or array", param=name)


def _check_stream(fields: Fields) -> None:
    if not isinstance(fields.get("stream"), bool | None):
        raise RequestError("'stream' must be a boolean", param="stream")
    if not isinstance(fields.get("stream_options"), dict | None):
        raise RequestError("'stream_options' must be an object", param="stream_options")


def check_counts(fields: Fields, *names: str, least: int = 1) -> None:
    """Fields that are whole numbers if they are there."""
    kind = "positive integer" if least else "whole number, 0 or more"
    for name in names:
        value = fields.get(name)
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 31
        ):
            raise RequestError(f"'{name}' must be a {kind}", param=name)
