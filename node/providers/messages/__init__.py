"""Anthropic's Messages API for providers that only chat: the request one way, the answer or its events the other."""

from node.providers.messages.answering import answer_of
from node.providers.messages.asking import beyond_chat, chat_fields, own_fields
from node.providers.messages.events import MessageEvents

__all__ = ["MessageEvents", "answer_of", "beyond_chat", "chat_fields", "own_fields"]
