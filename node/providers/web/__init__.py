"""Services of the web: one shape of ours for searches and pages before the words of every vendor, a module each."""

from node.providers.web.answering import page_fault, tokens_told, told_in_our_words
from node.providers.web.contract import WebApi
from node.providers.web.vendors import counts_tokens, web_apis, web_lacks

__all__ = [
    "WebApi",
    "counts_tokens",
    "page_fault",
    "told_in_our_words",
    "tokens_told",
    "web_apis",
    "web_lacks",
]
