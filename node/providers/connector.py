"""A provider account as a node uses it: prebuilt address and headers, one send, errors in our own terms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import orjson

from node.call import Call, Kind, Surface
from node.passport import HEADER
from node.providers.classify import classify_response
from node.providers.learned import Learned, learn
from node.providers.masking import Mask
from node.providers.notices import LimitNotices
from node.providers.web import WebApi, page_fault, web_apis
from node.upstream import Address, AddressedRequest, parts_of
from shared_state.config.limits import COUNTING
from shared_state.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from shared_state.topology import ModelSpec, ProviderSpec

#: Largest complete answer, and largest error body that is read.
MAX_ANSWER_BYTES: Final = 64 * 2**20
_MAX_ERROR_BYTES: Final = 64 * 2**10

#: Of Anthropic's API; every request must name one.
_VERSION: Final = (b"anthropic-version", b"2023-06-01")
_EVENTS: Final = b"text/event-stream"
_ACCEPTS: Final = {Kind.OBJECT: b"application/json", Kind.TEXT: b"*/*", Kind.BYTES: b"*/*"}

#: How a key travels: header, and what stands before it. A local server that expects none may have been given one all the same.
_BEARER: Final = ("authorization", "Bearer ")
_KEYS: Final = {"x-api-key": ("x-api-key", "")}

#: httpx errors that mean: nothing of the request can have reached the provider.
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Connector:
    """Sends requests to one provider account: in the OpenAI format, or in the words of a service of the web."""

    def __init__(self, provider: ProviderSpec, transport: httpx.AsyncBaseTransport) -> None:
        self.provider = provider
        self._transport = transport
        self._addresses: dict[tuple[str, bytes, bool], Address] = {}
        self._headers = _fixed_headers(provider)
        self._bare_headers = [header for header in self._headers if header[0] != b"content-type"]
        self._notices = LimitNotices(provider)
        self.mask = Mask(provider)
        self._web = web_apis(provider.connector.web)
        clocks = provider.config.timeouts
        # The node's own clocks rule; the transport's are only the last resort.
        self._timeouts_s: dict[str, float | None] = {
            "connect": clocks.connect,
            "pool": clocks.connect,
            "read": clocks.total,
            "write": clocks.total,
        }

    def request(
        self,
        call: Call,
        model: ModelSpec,
        *,
        passport: bytes = b"",
        traceparent: bytes = b"",
        on_send: Callable[[], None] | None = None,
    ) -> AddressedRequest:
        """The upstream request: the caller's fields as they came, but for the model's name and the usage that we need.

        Args:
            passport: for a provider that is a router like this one.
            traceparent: of the span that this attempt is.
            on_send: called just before the first byte goes out; what it raises is raised instead.
        """
        headers = [(b"x-request-id", call.request_id.encode())]
        if call.surface.passes:
            headers += self._passed_on(call)
        if passport:
            headers.append((HEADER, passport))
        if traceparent:
            headers.append((b"traceparent", traceparent))
        if call.surface.is_web:
            return self._web_request(call, model, headers, on_send)
        if call.form is None:
            body = self._json(call, model)
        else:
            body = call.form.body(model.upstream)
            headers.append((b"content-type", b"multipart/form-data; boundary=" + call.form.boundary))
        accept = _EVENTS if call.is_stream else _ACCEPTS[call.kind]
        address = self._address(call.surface.path, accept, is_form=call.form is not None)
        return AddressedRequest(address, headers, body, on_send=on_send)

    def _address(self, path: str, accept: bytes, *, is_form: bool) -> Address:
        known = self._addresses.get((path, accept, is_form))
        if known is None:
            known = self._addresses[path, accept, is_form] = Address(
                httpx.URL(self.provider.base_url + path),
                [*(self._bare_headers if is_form else self._headers), (b"accept", accept)],
                self._timeouts_s,
            )
        return known

    def web_api(self, surface: Surface) -> WebApi | None:
        """How the provider does what a service of the web is asked for; None for any other API."""
        return self._web[surface.path] if surface.is_web else None

    def _web_request(
        self,
        call: Call,
        model: ModelSpec,
        headers: list[tuple[bytes, bytes]],
        on_send: Callable[[], None] | None,
    ) -> AddressedRequest:
        api = self._web[call.surface.path]
        fields = api.ask(call.fields, model.upstream)
        most = model.config.constraints.max_output_tokens
        if api.most_field and most:
            fields[api.most_field] = most
        body = orjson.dumps(fields)
        if api.url and not self.provider.config.base_url:
            address = self._web_address(api.url)
        else:
            is_news = api.news_path and call.fields.get("topic") == "news"
            address = self._web_address(self.provider.base_url + (api.news_path if is_news else api.path))
        return AddressedRequest(address, headers, body, on_send=on_send)

    def _web_address(self, url: str) -> Address:
        """An address that may be on another host than the provider's others."""
        key = (url, b"", False)
        known = self._addresses.get(key)
        if known is None:
            host = (b"host", httpx.URL(url).netloc)
            rest = [header for header in self._headers if header[0] != b"host"]
            headers = [host, *rest, (b"accept", b"application/json")]
            known = self._addresses[key] = Address(httpx.URL(url), headers, self._timeouts_s)
        return known

    def _passed_on(self, call: Call) -> list[tuple[bytes, bytes]]:
        """The caller's own headers for this API, but those that the configuration has set; the version must be named."""
        fixed = {name for name, _ in self._headers}
        passed = [given for given in call.headers if given[0] not in fixed]
        named = fixed.union(name for name, _ in passed)
        version = [] if _VERSION[0] in named or _VERSION[0] not in call.surface.passes else [_VERSION]
        return passed + version

    def _json(self, call: Call, model: ModelSpec) -> bytes:
        fields = {**call.fields, "model": model.upstream}
        if call.is_stream and call.surface.asks_usage:
            options = fields.get("stream_options")
            fields["stream_options"] = {
                **(options if isinstance(options, dict) else {}),
                "include_usage": True,
            }
        return orjson.dumps(fields)

    def listing_request(self) -> httpx.Request:
        """Asks for the provider's list of models; Anthropic's comes in pages, unless one asks for a long one."""
        query = "" if "chat" in self.provider.apis else "?limit=1000"
        return httpx.Request(
            "GET",
            httpx.URL(f"{self.provider.base_url}/models{query}"),
            headers=[
                *self._bare_headers,
                (b"accept", b"application/json"),
                *([_VERSION] if "messages" in self.provider.apis else []),
            ],
            extensions={"timeout": self._timeouts_s},
        )

    async def send(self, request: httpx.Request, web: WebApi | None = None) -> httpx.Response:
        """Sends; the successful answer with its body still to come.

        Args:
            web: how a service of the web excuses itself.

        Raises:
            ProviderError: no connection, or an answer that is not a success; it was read and closed.
        """
        name = self.provider.id
        try:
            response = await self._transport.handle_async_request(request)
        except (httpx.HTTPError, OSError) as error:
            raise translate(error, provider=name) from error
        if response.status_code == 200:
            return response
        body = await self._error_body(response)
        if web is not None and (fault := page_fault(web, response.status_code, body, provider=name)):
            raise fault
        raise classify_response(
            response.status_code,
            response.headers,
            body,
            provider=name,
            dialect=self.provider.connector.dialect,
        )

    def heed(self, headers: Mapping[str, str], model: ModelSpec) -> list[Learned]:
        """What the headers of a successful answer (see `limit_headers`) tell about the provider's own limits.

        Windows that our books do not know, such as those of a second, matter only once they refuse.
        """
        self._notices.note(headers, model)
        learned = learn(headers, dialect=self.provider.connector.dialect)
        return [word for word in learned if word.window in COUNTING]

    async def read(self, response: httpx.Response, *, most_bytes: int | None = None) -> bytes:
        """The whole body of a successful answer, of at most ``MAX_ANSWER_BYTES`` or fewer.

        Raises:
            ProviderError: it broke off or is too large.
        """
        most_bytes = most_bytes or MAX_ANSWER_BYTES
        parts: list[bytes] = []
        size = 0
        try:
            async for part in parts_of(response):
                parts.append(part)
                size += len(part)
                if size > most_bytes:
                    raise ProviderProtocolError(f"{self.provider.id} sent more than {most_bytes} bytes")
        except (httpx.HTTPError, OSError) as error:
            raise translate(error, provider=self.provider.id) from error
        finally:
            await response.aclose()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _error_body(self, response: httpx.Response) -> bytes:
        body = b""
        try:
            async with asyncio.timeout(self.provider.config.timeouts.idle):
                async for part in parts_of(response):
                    body += part
                    if len(body) > _MAX_ERROR_BYTES:
                        break
        except (httpx.HTTPError, OSError, TimeoutError):
            pass  # the status alone tells enough
        finally:
            await response.aclose()
        return self.mask.raw(body)


def translate(error: Exception, *, provider: str) -> ProviderError:
    """One of our errors for one of the transport's."""
    sent = bool(getattr(error, "request_sent", not isinstance(error, _NEVER_SENT)))
    stale = bool(getattr(error, "was_stale", False))
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return ProviderUnavailableError(f"{provider} could not be connected to: {what}", sent=False)
    if isinstance(error, httpx.TimeoutException):
        return ProviderTimeoutError(f"{provider} did not answer in time: {what}", sent=sent, stale=stale)
    if isinstance(error, httpx.RemoteProtocolError):
        return ProviderProtocolError(f"{provider} broke off its answer: {what}", sent=sent, stale=stale)
    return ProviderUnavailableError(f"{provider} could not be reached: {what}", sent=sent, stale=stale)


def _fixed_headers(provider: ProviderSpec) -> list[tuple[bytes, bytes]]:
    headers: dict[str, str] = {
        "host": httpx.URL(provider.base_url).netloc.decode(),
        "user-agent": "modelmesh",
        "content-type": "application/json",
        "accept-encoding": "identity",
    }
    headers.update(provider.connector.extra_headers)
    if provider.api_key is not None and provider.api_key.get_secret_value():
        key = provider.api_key.get_secret_value()
        name, prefix = _KEYS.get(provider.connector.auth, _BEARER)
        headers[name] = prefix + key
    if provider.config.organization:
        headers["openai-organization"] = provider.config.organization
    headers.update(
        {name.lower(): value.get_secret_value() for name, value in provider.config.headers.items()}
    )
    return [(name.encode("ascii"), value.encode()) for name, value in headers.items()]


def unary_fields(body: bytes, *, provider: str) -> dict[str, Any]:
    """The parsed object of a complete answer.

    Raises:
        ProviderProtocolError: it is not a JSON object.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProviderProtocolError(f"{provider} answered with something that is not JSON") from error
    if not isinstance(fields, dict):
        raise ProviderProtocolError(f"{provider} answered with something that is not an object")
    return fields
