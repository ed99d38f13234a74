"""Chromium of the system, driven by Playwright, in front of real nodes; without them the tests are skipped, and say so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool
from tests.ui.pages import TOKEN, Page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: A website that points its name at this machine.
OTHER_SITE = "evil.example"
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def _program() -> str | None:
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all pages; each test has a profile of its own."""
    api = pytest.importorskip("playwright.sync_api", reason="*** Playwright is not installed: make ui-test")
    program = _program()
    if program is None:
        pytest.skip(
            "*** Chromium is not installed: the page is not looked at (Debian: apt-get install chromium)"
        )
    with api.sync_playwright() as playwright:
        # as root Chromium has no sandbox; what it shows here is ours
        names = f"--host-resolver-rules=MAP {OTHER_SITE} 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", names])
        with closing(browser):
            yield browser


@pytest.fixture(scope="session")
def site(browser: Browser) -> Iterator[Cluster]:
    """Two nodes, a scheduler, three accounts; operators need the token."""
    chat = pool("chat", "alpha", "beta", Member("gamma", limits={"rpm": 60}), strategy="round-robin")
    sticky = pool("sticky", "alpha", "beta", strategy="stick-until-failure")
    cluster = Cluster(
        mesh(chat, sticky),
        mocks={"alpha": {}, "beta": {}, "gamma": {}},
        nodes=2,
        schedulers=1,
    )
    with mock.patch.dict(os.environ, {"MODELMESH_ADMIN_TOKEN": TOKEN}), closing(cluster):
        yield cluster.start()


@pytest.fixture
def open_page(browser: Browser, site: Cluster) -> Iterator[Callable[..., Page]]:
    """Opens the page of a node: ``open_page(token=None, answers={...}, viewport=...)``; whatever happened, nothing was forbidden."""
    pages: list[Page] = []

    def open_it(**options: Any) -> Page:
        base_url = options.pop("base_url", site.nodes[0].base_url)
        pages.append(Page(browser, base_url, **options))
        return pages[-1]

    yield open_it
    for page in pages:
        page.close()
        assert page.faults == []
