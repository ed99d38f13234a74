"""OpenAI clients of a mesh in this process. Importing this needs the `openai` package: see `extras`."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx
import openai

from modelmesh.in_process import PLACEHOLDER

Client = TypeVar("Client", bound=openai.OpenAI)


def async_client(transport: httpx.AsyncBaseTransport, *, base_url: str, **options: Any) -> openai.AsyncOpenAI:
    """An asynchronous client; whatever proxies the environment names are for other calls."""
    http: Any = httpx.AsyncClient(transport=transport, trust_env=False)
    return openai.AsyncOpenAI(base_url=base_url, http_client=http, **{"api_key": PLACEHOLDER, **options})


def sync_client(
    transport: httpx.BaseTransport, *, base_url: str, kind: type[Client], **options: Any
) -> Client:
    """A client for other threads."""
    http: Any = httpx.Client(transport=transport, trust_env=False)
    return kind(base_url=base_url, http_client=http, **{"api_key": PLACEHOLDER, **options})
