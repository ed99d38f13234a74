"""The page over answers in the API's own shapes that real clusters seldom give: hostile names, thousands of models, trouble of every kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from shared_state.shapes.status import FindingView, StoreView
from tests.ui import samples
from tests.ui.pages import Page

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
VIEWS = ("overview", "models", "traffic", "events", "request", "cluster", "books")
MANY = 5000


def answers(status: Any, *, events: str = "", **more: Any) -> dict[str, Any]:
    read = {"books": samples.books(), "stats": samples.stats("chat"), "events": lambda: events}
    return {"status": status, **read, **more}


def stream(*events: Any) -> str:
    return "".join(f"id: {n}\nevent: x\ndata: {e.model_dump_json()}\n\n" for n, e in enumerate(events))


def test_hostile_names_are_text(open_page: Open):
    """Wherever a name is shown: table, card, dialog, question, event, banner, answer of an order."""
    name = samples.HOSTILE
    bad = samples.model(name, provider=name, reason=name)
    status = samples.status(
        [bad],
        pools=[samples.pool(name, [bad], strategy=name, current=name)],
        nodes=[samples.node(name, state="dead", config_fault=name)],
    )
    happened = stream(samples.event(name, reason=name, node=name))
    refusal = (400, {"error": {"message": name, "code": "x", "request_id": name}})
    path = f"models/{name}/activate".replace("%", "%25")
    page = open_page(token=None, answers=answers(status, events=happened, **{path: refusal}))
    for view in VIEWS:
        page.shows(view)
        page.tab.wait_for_timeout(50)
        if view in ("overview", "models", "events", "cluster"):
            page.sees(name, within="main")
    page.sees(f"Pool {name} has nobody who serves", within="#banner")
    page.shows("models")
    page.row(name).first.locator("td.main button").click()
    page.sees(name, within="dialog h2")
    page.tab.locator("dialog").get_by_role("button", name="Activate").click()
    page.tab.locator("dialog [type=submit]").click()
    page.tab.locator("dialog [role=alert]").wait_for()

    assert page.tab.evaluate("window.hurt") is None
    assert page.tab.locator("main img, dialog img, main script, dialog script").count() == 0


def test_five_thousand_models(open_page: Open):
    """One page of them is in the document; filter, order and pages reach all of them, and typing is not disturbed by what comes in."""
    models = [samples.model(f"alpha.m{n:04d}", requests=n) for n in range(MANY)]
    models[3210] = samples.model("alpha.needle", reason="outage")
    page = open_page(token=None, answers=answers(samples.status(models)), view="models")
    page.sees("1 to 60 of 5,000", within=".pager")
    rows = page.tab.locator("main tbody tr")

    assert rows.count() < 100
    assert "alpha.needle" in rows.first.inner_text()  # who is ill stands first
    page.tab.get_by_role("button", name="After").click()
    page.sees("61 to 120 of 5,000", within=".pager")
    page.tab.keyboard.press("/")
    page.tab.keyboard.type("needle")
    page.tab.wait_for_function("document.querySelectorAll('main table')[0].tBodies[0].rows.length === 1")
    page.tab.wait_for_timeout(2500)  # an answer has come meanwhile

    assert page.tab.evaluate("[document.activeElement.value, document.activeElement.type]") == [
        "needle",
        "search",
    ]


@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_screen_scrolls_one_way_only(open_page: Open, width: int):
    """On every view, with the worst that it may have to show, and in a dialog."""
    long = "a-provider-with-a-rather-long-name.and-a-model-of-a-longer-one-2026-11-26-preview"
    models = [samples.model(long, provider=long[:34], reason="quota_exhausted"), samples.model("b.m")]
    status = samples.status(models, pools=[samples.pool(long, models, has_panic=True)])
    page = open_page(
        token=None,
        answers=answers(status, events=stream(samples.event(long))),
        viewport={"width": width, "height": 740},
        has_touch=True,
    )
    for view in VIEWS:
        page.shows(view)
        page.tab.wait_for_timeout(60)
        assert page.overflow <= 0, view
    page.shows("models")
    page.row(long).locator("td.main button").click()
    box = page.tab.locator("dialog").bounding_box()

    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_trouble_is_told_in_words_the_gravest_first(open_page: Open):
    """What is wrong and what to do; the rest is folded away, not lost."""
    ill = [samples.model("alpha.a", reason="outage"), samples.model("beta.b", provider="beta")]
    finding = FindingView(code="persistence", severity="warning", message="appendonly is off")
    status = samples.status(
        ill,
        pools=[samples.pool("chat", ill), samples.pool("dry", ill[:1])],
        providers=[samples.provider("alpha"), samples.provider("beta", reason="auth")],
        nodes=[samples.node("node-1"), samples.node("node-2", state="dead", seen_s=90)],
        store=StoreView(url="unix:///s", connected=True, round_trip_ms=1, findings=[finding]),
    )
    page = open_page(token=None, answers=answers(status))
    page.sees("Pool dry has nobody who serves", within="#banner > :first-child")
    page.sees("Trouble", within="#verdict")
    page.tab.locator("#banner summary").click()
    for words in ("appendonly is off", "Node node-2 is dead", "beta stands by: credentials refused"):
        page.sees(words, within="#banner")

    page.sees("Mend the key", within="#banner")
    page.sees("1 of 2", within="#facts")


def test_redis_away(open_page: Open):
    """The node lives, and says in which mode; what was last known stays, marked as old."""
    away = (503, {"error": {"message": "the shared state is away", "code": "state_unavailable"}})
    given = answers(samples.status([samples.model("alpha.a")]))
    page = open_page(token=None, answers=given)
    page.sees("All is well", within="#verdict")
    page.answers["status"] = away
    page.sees("Redis does not answer this node", within="#banner")
    page.sees("chat", within=".card")
    page.answers["status"] = samples.status([samples.model("alpha.a")])

    page.sees("All is well", within="#verdict")


def test_a_part_that_fails_takes_nothing_else_with_it(open_page: Open):
    """Statistics are refused; models are shown all the same."""
    refused = (400, {"error": {"message": "no", "code": "none"}})
    given = answers(samples.status([samples.model("alpha.a")]), stats=refused)
    page = open_page(token=None, answers=given)
    page.sees("could not be read (pools)", within="#banner")

    page.sees("serves", within=".card")


def test_keys_alone_are_enough(open_page: Open):
    """Views, help, filter and tabs without a pointer; the views are tabs to a screen reader."""
    page = open_page(token=None, answers=answers(samples.status([samples.model("alpha.a")])))
    page.sees("serves", within=".card")
    page.tab.keyboard.press("2")
    page.tab.get_by_role("tab", name="Models", selected=True).wait_for()
    page.tab.keyboard.press("?")
    page.sees("Keys", within="dialog")
    page.tab.keyboard.press("Escape")
    page.tab.locator("#tab-models").focus()
    page.tab.keyboard.press("ArrowRight")
    page.tab.get_by_role("tab", name="Traffic", selected=True).wait_for()
    page.tab.keyboard.press("/")

    assert page.tab.evaluate("document.activeElement.dataset.act") == "filter-models"
    assert page.tab.locator("button:not([aria-label])").filter(has_not_text=re.compile(r"\S")).count() == 0


def test_nobody_who_looks_away_asks(open_page: Open):
    """A page in the background asks nothing; one that is looked at asks for the status every two seconds at most."""
    page = open_page(token=None, answers=answers(samples.status([samples.model("alpha.a")])))
    page.sees("serves", within=".card")
    start = len([url for url, _ in page.asked if url.endswith("/ops/status")])
    page.tab.wait_for_timeout(4500)
    asked = len([url for url, _ in page.asked if url.endswith("/ops/status")]) - start
    page.tab.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.tab.wait_for_timeout(100)
    before = len(page.asked)
    page.tab.wait_for_timeout(2600)

    assert 1 <= asked <= 3
    assert len(page.asked) - before <= 1  # one may have been under way
