"""``/ui``: the files of the operators' page. Anybody may have them, as a login page; what the page shows stands behind the admin token.

Scripts and style are asked for under the digest of all files together, so they may be kept for ever: a new release is a new address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from shared_state.errors import RouteNotFoundError

_DOCUMENT: Final = "index.html"
_DIGEST_PLACE: Final = b"{digest}"
_MEDIA: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: Nothing from elsewhere, nothing inline, no text that becomes markup, nobody around it.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "connect", "img")),
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_GUARDS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_ASK_FIRST: Final = "no-cache"


@dataclass(frozen=True, slots=True)
class Page:
    """The files by name, and the digest that their addresses hold."""

    digest: str
    contents: Mapping[str, bytes]

    @property
    def document(self) -> bytes:
        """What ``/ui`` answers: the addresses in it are those of these very files."""
        return self.contents[_DOCUMENT].replace(_DIGEST_PLACE, self.digest.encode())


@cache
def load_page() -> Page:
    """Reads the files once a process."""
    found = {
        file.name: file.read_bytes()
        for file in sorted(files("node.ui").joinpath("static").iterdir(), key=lambda file: file.name)
        if _suffix(file.name) in _MEDIA
    }
    digest = hashlib.sha256()
    for name, content in found.items():
        digest.update(b"%b %d\n%b" % (name.encode(), len(content), content))
    return Page(digest.hexdigest()[:16], MappingProxyType(found))


def ui_routes(
    page: Page | None = None, *, check: Callable[[Scope], None] = lambda scope: None
) -> list[BaseRoute]:
    """``/ui`` and what belongs to it; ``check`` raises for a request that is not to be served."""
    page = page or load_page()

    async def document(request: Request) -> Response:
        check(request.scope)
        return _answer(request, page.document, name=_DOCUMENT, tag=page.digest, caching=_ASK_FIRST)

    async def part(request: Request) -> Response:
        check(request.scope)
        name, digest = request.path_params["name"], request.path_params["digest"]
        if name not in page.contents or name == _DOCUMENT:
            raise RouteNotFoundError(f"no route {request.scope['path']!r}")
        # while releases change, a document of one node may ask another node for its parts
        caching = _FOR_EVER if digest == page.digest else _ASK_FIRST
        return _answer(request, page.contents[name], name=name, tag=page.digest, caching=caching)

    async def slash(request: Request) -> Response:
        check(request.scope)
        return Response(status_code=308, headers={"location": "../ui", **_GUARDS})

    return [Route("/ui", document), Route("/ui/", slash), Route("/ui/{digest}/{name}", part)]


def _answer(request: Request, content: bytes, *, name: str, tag: str, caching: str) -> Response:
    headers = {"etag": f'"{tag}"', "cache-control": caching, **_GUARDS}
    if _has(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=_MEDIA[_suffix(name)])


def _has(request: Request, tag: str) -> bool:
    """Whether the caller has these bytes already."""
    given = request.headers.get("if-none-match", "")
    return any(each.strip().removeprefix("W/") in ("*", f'"{tag}"') for each in given.split(","))


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
