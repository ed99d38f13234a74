"""The page's files: what they are, how they may be kept, what they may do in a browser, and what they do not hold."""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType

import pytest

from node.api.application import build_application
from node.ui.routes import load_page, ui_routes
from tests.unit.node.api.asgi import Heard, ask

PAGE = load_page()
APP = build_application({}, routes=ui_routes())


async def get(path: str, *, method: str = "GET", **headers: str) -> Heard:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return await ask(APP, method, path, headers=given)


def part(name: str, *, digest: str = PAGE.digest) -> str:
    return f"/ui/{digest}/{name}"


def policy(heard: Heard) -> dict[str, list[str]]:
    parts = (heard.header(b"content-security-policy") or b"").decode().split("; ")
    return {name: words for name, *words in (part.split() for part in parts)}


async def test_the_document_leads_to_its_parts():
    """Every address in it is relative, holds the digest, and is answered."""
    heard = await get("/ui")
    addresses = re.findall(rb'(?:src|href)="([^"#]+)"', heard.body)

    assert heard.status == 200
    assert heard.header(b"content-type") == b"text/html; charset=utf-8"
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith(b"ui/" + PAGE.digest.encode())
        assert (await get("/" + address.decode())).status == 200


async def test_every_import_is_there():
    """A module that is not served would leave the page blank."""
    names = set(PAGE.contents)
    for name, content in PAGE.contents.items():
        if name.endswith(".js"):
            assert set(re.findall(r"from '\./([^']+)'", content.decode())) <= names


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("main.js", b"text/javascript; charset=utf-8"),
        ("style.css", b"text/css; charset=utf-8"),
        ("icon.svg", b"image/svg+xml"),
    ],
)
async def test_parts_have_their_types_and_may_be_kept_for_ever(name, media):
    """Their addresses change with their content."""
    heard = await get(part(name))

    assert heard.header(b"content-type") == media
    assert heard.header(b"cache-control") == b"public, max-age=31536000, immutable"
    assert heard.body == PAGE.contents[name]


async def test_under_another_digest_parts_are_not_kept():
    """A document of another release may ask this node; what it gets must not stay under that address."""
    heard = await get(part("main.js", digest="0" * 16))

    assert (heard.status, heard.header(b"cache-control")) == (200, b"no-cache")


@pytest.mark.parametrize("path", ["/ui", part("main.js")])
async def test_who_has_it_already_is_not_sent_it_again(path):
    """By its tag, weak ones and lists included; another tag gets the whole."""
    first = await get(path)
    tag = (first.header(b"etag") or b"").decode()
    again = [await get(path, if_none_match=given) for given in (tag, f'W/{tag}, "x"', '"x"')]

    assert [heard.status for heard in again] == [304, 304, 200]
    assert again[0].body == b""
    assert again[0].header(b"etag") == tag.encode()


async def test_the_tag_changes_with_any_file():
    """So that nobody goes on with yesterday's scripts."""
    changed = replace(
        PAGE, digest="f" * 16, contents=MappingProxyType({**PAGE.contents, "style.css": b"body {}"})
    )
    app = build_application({}, routes=ui_routes(changed))
    heard = await ask(app, "GET", "/ui")

    assert heard.header(b"etag") == b'"ffffffffffffffff"'
    assert b"ui/ffffffffffffffff/style.css" in heard.body
    assert (await ask(app, "GET", "/ui/ffffffffffffffff/style.css")).body == b"body {}"


@pytest.mark.parametrize("path", ["/ui", "/ui/", part("main.js"), part("style.css")])
async def test_a_browser_is_told_to_allow_nothing_else(path):
    """Nothing from elsewhere, nothing inline, no text made into markup, no frame around it."""
    heard = await get(path)
    allowed = policy(heard)

    assert allowed.pop("default-src") == ["'none'"]
    for kind in ("script-src", "style-src", "connect-src", "img-src"):
        assert allowed.pop(kind) == ["'self'"]
    for kind in ("base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert allowed.pop(kind) == ["'none'"]
    assert allowed == {"require-trusted-types-for": ["'script'"]}
    assert heard.header(b"x-content-type-options") == b"nosniff"
    assert heard.header(b"x-frame-options") == b"DENY"
    assert heard.header(b"referrer-policy") == b"no-referrer"


async def test_the_files_keep_the_policy():
    """No inline script or style, no sink that takes markup, no address elsewhere."""
    document = PAGE.document.decode()
    scripts = "".join(body.decode() for name, body in PAGE.contents.items() if name.endswith(".js"))

    assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|<style", document)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", scripts
    )
    for name, body in PAGE.contents.items():
        elsewhere = re.sub(rb"http://www\.w3\.org/2000/svg", b"", body)
        assert not re.search(rb"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", elsewhere), name


@pytest.mark.parametrize(
    "path",
    [
        part("index.html"),
        part("../routes.py"),
        part("..%2froutes.py"),
        part("%2e%2e/routes.py"),
        part("/etc/passwd"),
        part("routes.py"),
        part("none.js"),
        "/ui/main.js",
        "/ui/../ops/status",
        f"/ui/{PAGE.digest}",
    ],
)
async def test_nothing_else_is_served(path):
    """Only names of the list; there is no path to walk."""
    heard = await get(path)

    assert heard.status == 404
    assert heard.error["code"] == "not_found"


async def test_only_reading():
    """HEAD answers without a body; orders go elsewhere."""
    head = await get("/ui", method="HEAD")
    post = await get("/ui", method="POST")

    assert (head.status, post.status) == (200, 405)
    assert head.header(b"content-length") == str(len(PAGE.document)).encode()


async def test_a_slash_leads_to_the_page():
    """Also behind a proxy that has put a path before it."""
    heard = await get("/ui/")

    assert (heard.status, heard.header(b"location")) == (308, b"../ui")
