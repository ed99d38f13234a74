"""OpenAI clients of a mesh in this process."""

from __future__ import annotations

from typing import Any

import httpx

from modelmesh.errors import MissingExtraError
from modelmesh.in_process import PLACEHOLDER

try:
    import openai
except ImportError as error:
    raise MissingExtraError(
        "clients need the openai package: pip install 'modelmesh[openai]'", name="openai"
    ) from error


def async_client(transport: httpx.AsyncBaseTransport, *, base_url: str, **options: Any) -> openai.AsyncOpenAI:
    """An asynchronous client; whatever proxies the environment names are for other calls."""
    http: Any = httpx.AsyncClient(transport=transport, trust_env=False)
    return openai.AsyncOpenAI(base_url=base_url, http_client=http, **{"api_key": PLACEHOLDER, **options})


def sync_client(transport: httpx.BaseTransport, *, base_url: str, **options: Any) -> openai.OpenAI:
    """A client for other threads."""
    http: Any = httpx.Client(transport=transport, trust_env=False)
    return openai.OpenAI(base_url=base_url, http_client=http, **{"api_key": PLACEHOLDER, **options})
