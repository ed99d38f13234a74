"""The operators' page in a browser, as a test drives it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Route

TOKEN = "an-admin-token-of-tests"
#: What a page waits for at most; a slow machine needs its time.
PATIENCE_MS = 20_000
_WATCH = "addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))"
#: The browser's own line about an answer that is no 2xx, which the page deals with.
_ANSWERS = "Failed to load resource"

Answer = BaseModel | tuple[int, Mapping[str, Any]] | Callable[[], Any]


class Page:
    """A tab.

    Args:
        token: kept in the tab from the beginning; None: somebody has to type it.
        answers: path below ``/ops/`` -> what is answered instead of asking the node; everything else there is a 404 then.
    """

    def __init__(
        self,
        browser: Browser,
        base_url: str,
        *,
        token: str | None = TOKEN,
        answers: Mapping[str, Answer] | None = None,
        view: str = "",
        **context: Any,
    ) -> None:
        self.faults: list[str] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._context = browser.new_context(**context)
        self.tab = self._context.new_page()
        self.tab.set_default_timeout(PATIENCE_MS)
        self.tab.on("console", self._hear)
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append((request.url, request.headers)))
        self.tab.add_init_script(_WATCH)
        if token is not None:
            self.tab.add_init_script(f"sessionStorage.setItem('modelmesh.token', {json.dumps(token)})")
        if answers is not None:
            self.answers = dict(answers)
            self.tab.route("**/ops/**", self._answer)
        self.tab.goto(f"{base_url}/ui{view and '#'}{view}")

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(_ANSWERS):
            self.faults.append(message.text)

    def _answer(self, route: Route) -> None:
        answer = self.answers.get(urlsplit(route.request.url).path.partition("/ops/")[2])
        if answer is not None and not isinstance(answer, (BaseModel, tuple)):
            answer = answer()
        if isinstance(answer, BaseModel):
            route.fulfill(body=answer.model_dump_json(), content_type="application/json")
        elif isinstance(answer, str):
            route.fulfill(body=answer, content_type="text/event-stream")
        else:
            code, body = answer or (404, {"error": {"message": "not of this test", "code": "none"}})
            route.fulfill(status=code, body=json.dumps(body), content_type="application/json")

    def close(self) -> None:
        self._context.close()

    def sees(self, text: str, *, within: str = "body", timeout: int = PATIENCE_MS) -> Locator:
        """Waits until a part of the page shows this text."""
        found = self.tab.locator(within).filter(has_text=text).first
        found.wait_for(timeout=timeout)
        return found

    def shows(self, view: str) -> None:
        """Goes to a view."""
        self.tab.locator(f"#tab-{view}").click()
        self.tab.locator(f"#tab-{view}[aria-selected=true]").wait_for()

    def row(self, name: str) -> Locator:
        """The row of a table about that model, account, ..."""
        heading = self.tab.locator("td.main > :is(b, button)", has_text=re.compile(f"^{re.escape(name)}$"))
        return self.tab.locator("tr").filter(has=heading)

    @property
    def overflow(self) -> int:
        """How far the page scrolls sideways."""
        width: int = self.tab.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return width
