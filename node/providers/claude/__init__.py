"""Chat completions for providers that only have Anthropic's Messages API: the request one way, the answer or its events the other."""

from node.providers.claude.answering import answer_of
from node.providers.claude.asking import beyond_messages, message_fields
from node.providers.claude.events import ChatEvents

__all__ = ["ChatEvents", "answer_of", "beyond_messages", "message_fields"]
