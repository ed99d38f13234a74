"""Events by HTTP: one call an event, or a list; signed, if there is a secret. Who calls again and when is not decided here."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from scheduler.sinks.events.base import EventTarget, Record, TargetError
from shared_state.config.observability import EventTargetConfig
from shared_state.config.targets import PLACEHOLDER

#: The call itself is wrong, and will be. What a receiver does not know or allow, its owner may mend.
_REFUSED: Final = frozenset({400, 406, 409, 411, 413, 414, 415, 422})
_LONGEST_WAIT_S: Final = 300.0
_CONNECT_S: Final = 5.0
_MOST_HEARD: Final = 64 * 1024


class WebhookTarget(EventTarget):
    """Calls an address.

    Args:
        transport: in place of the network.
    """

    def __init__(
        self, config: EventTargetConfig, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        assert config.url is not None
        self.most = config.batch_size
        self._url = config.url
        self._method = config.method
        self._template = config.template
        self._secret = config.secret.get_secret_value().encode() if config.secret else b""
        headers = {"content-type": config.content_type, "user-agent": "modelmesh"}
        headers |= {name.lower(): value.get_secret_value() for name, value in config.headers.items()}
        parts = urlsplit(config.url)
        #: Paths of such addresses are often secrets.
        self._shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(config.timeout, connect=min(_CONNECT_S, config.timeout)),
            trust_env=False,
            follow_redirects=False,
            transport=transport,
        )

    async def tell(self, records: Sequence[Record]) -> None:
        body = orjson.dumps(self._body(records))
        headers = {"x-modelmesh-event-id": records[0]["id"]}
        if self._secret:
            headers["x-modelmesh-signature"] = sign(body, self._secret)
        try:
            request = self._client.build_request(self._method, self._url, content=body, headers=headers)
            response = await self._client.send(request, stream=True)
            await _hear_out(response)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            # Texts of the library may hold the address.
            raise TargetError(f"{self._shown} cannot be reached: {type(error).__name__}") from None
        if not response.is_success:
            raise self._fault(response)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _body(self, records: Sequence[Record]) -> Any:
        if self._template is not None:
            return fill(self._template, records[0])
        return records[0] if self.most == 1 else list(records)

    def _fault(self, response: httpx.Response) -> TargetError:
        status = response.status_code
        wait = response.headers.get("retry-after", "")
        wait_s = min(float(wait), _LONGEST_WAIT_S) if wait.isascii() and wait.isdigit() else 0.0
        return TargetError(f"{self._shown} answered {status}", is_final=status in _REFUSED, wait_s=wait_s)


async def _hear_out(response: httpx.Response) -> None:
    """Reads a short answer to its end, so that the connection can be used again; a long one costs it."""
    heard = 0
    try:
        async for part in response.aiter_raw():
            heard += len(part)
            if heard > _MOST_HEARD:
                break
    finally:
        await response.aclose()


def sign(body: bytes, secret: bytes) -> str:
    """What ``x-modelmesh-signature`` holds."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"


def fill(template: Any, record: Record) -> Any:
    """The template with the fields of an event in place of their names."""
    if isinstance(template, dict):
        return {key: fill(inner, record) for key, inner in template.items()}
    if isinstance(template, list):
        return [fill(inner, record) for inner in template]
    if not isinstance(template, str):
        return template
    return PLACEHOLDER.sub(lambda found: str(record.get(found[1]) or ""), template)
