"""The Responses API for providers that only chat: the request one way, the answer or its events the other."""

from node.providers.responses.answering import answer_of
from node.providers.responses.asking import beyond_chat, chat_fields
from node.providers.responses.events import ResponseEvents

__all__ = ["ResponseEvents", "answer_of", "beyond_chat", "chat_fields"]
