"""What a new list means, beside the one before and the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.comparison import MOST_DISCOVERED, Changes, Configured, compare, unlisted
from shared_state.config.discovery import SyncConfig
from shared_state.listings import Listing, ModelNews, ModelOrder
from shared_state.shapes.listing import ListedModel

NOW_S = 1_795_000_000.0
SMALL, BIG = Configured("a.small", "small"), Configured("a.big", "big")
FIRST = Listing()


def listed(name: str, **said: Any) -> ListedModel:
    return ListedModel(id=name, **said)


def kept(*models: ListedModel) -> Listing:
    """A list of an hour ago."""
    return Listing(1, round((NOW_S - 3600) * 1000), models)


def changes(before: Listing, *now: ListedModel, **rules: str) -> Changes:
    config = SyncConfig.model_validate({"on_deprecated_model": "deactivate", **rules})
    return compare(before, now, [SMALL, BIG], config, provider="a", now_s=NOW_S)


def test_the_same_list_again_is_no_news():
    """Nothing is told, nothing done."""
    models = (listed("small", retires=NOW_S - 9000, is_deprecated=True), listed("other"))

    assert changes(kept(*models), *models) == Changes((), ())


def test_a_first_list_has_nothing_new_and_nothing_gone():
    """Names that a vendor understands and does not list are not taken for gone."""
    assert changes(FIRST, listed("small"), listed("other")) == Changes((), ())
    assert unlisted([listed("small")], [SMALL, BIG]) == ["a.big"]


def test_a_first_list_tells_what_is_deprecated():
    """Who starts with a model that is about to go has to hear of it."""
    found = changes(FIRST, listed("small", is_deprecated=True, retires=NOW_S + 60))

    assert found.news == (ModelNews("model_deprecated", "a.small", "announced", round((NOW_S + 60) * 1000)),)
    assert found.orders == ()


def test_other_sizes_than_the_configured_are_told_once() -> None:
    """From the first list on, and again when one of both is another; what either does not say is no difference."""
    ours = [Configured("a.small", "small", 8192, 4096), Configured("a.big", "big")]
    rules = SyncConfig()

    def look(before: Listing, configured: list[Configured], *now: ListedModel) -> Changes:
        return compare(before, now, configured, rules, provider="a", now_s=NOW_S)

    now = (listed("small", context_window=16384, max_output_tokens=4096), listed("big", context_window=1))
    first = look(FIRST, ours, *now)
    told = replace(kept(*now), mismatches=first.mismatches)
    raised = [Configured("a.small", "small", 32768), ours[1]]

    assert first.news == (
        ModelNews("model_changed", "a.small", "context_window 16384 listed, 8192 configured"),
    )
    assert look(told, ours, *now).news == ()
    assert [item.reason for item in look(told, raised, *now).news] == [
        "context_window 16384 listed, 32768 configured"
    ]
    assert look(told, [Configured("a.small", "small", 16384), ours[1]], *now).mismatches == {}


def test_a_model_that_nobody_configured_is_discovered():
    """It is told under the name that a request may use."""
    found = changes(kept(listed("small")), listed("small"), listed("new"))

    assert found == Changes((ModelNews("model_discovered", "a/new", "new"),), (), (listed("new"),))


def test_hundreds_of_new_models_are_not_hundreds_of_events():
    """The list of events is short, and others need it, too."""
    found = changes(kept(listed("small")), *(listed(f"m{i}") for i in range(MOST_DISCOVERED + 5)))
    new = [item for item in found.news if item.event == "model_discovered"]

    assert len(new) == MOST_DISCOVERED
    assert {item.numbers["more"] for item in new} == {5}


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ([listed("big")], "no longer listed"),
        ([listed("small", is_active=False), listed("big")], "retired"),
        ([listed("small", is_deprecated=True, retires=NOW_S - 9000), listed("big")], "retired"),
    ],
)
def test_a_configured_model_that_is_over_is_taken_out(now: list[ListedModel], reason: str):
    """Gone from the list, switched off, or past its day; and once it serves again it comes back."""
    before = kept(listed("small"), listed("big"))
    found, again = changes(before, *now), changes(kept(*now), *before.models)

    assert [(n.event, n.model, n.reason) for n in found.news] == [("model_deprecated", "a.small", reason)]
    assert found.orders == (ModelOrder("a.small", "deactivate"),)
    assert again.orders == (ModelOrder("a.small", "activate"),)


def test_an_announcement_alone_takes_nothing_out():
    """Its last day may be months away."""
    found = changes(kept(listed("small")), listed("small", is_deprecated=True))

    assert [(n.event, n.reason) for n in found.news] == [("model_deprecated", "announced")]
    assert found.orders == ()


def test_the_day_itself_takes_it_out():
    """The list says the same as before, but the day has come between the two."""
    model = listed("small", is_deprecated=True, retires=NOW_S - 60)
    found = changes(kept(model), model)

    assert [n.reason for n in found.news] == ["retired"]
    assert found.orders == (ModelOrder("a.small", "deactivate"),)


def test_sizes_and_prices_that_differ_are_told():
    """What one of the lists does not say is no difference."""
    before = kept(listed("small", context_window=8192, price_input=0.15, price_output=1.0))
    found = changes(before, listed("small", context_window=16384, price_input=0.3, max_output_tokens=9))

    assert [(n.event, n.reason) for n in found.news] == [
        ("model_changed", "context_window 8192 -> 16384; pricing.input 0.15 -> 0.3")
    ]


def test_what_is_to_be_ignored_is_ignored():
    """Neither told nor done; with ``notify`` told and not done."""
    before, now = kept(listed("small")), [listed("new")]

    assert changes(before, *now, on_new_model="ignore", on_deprecated_model="ignore") == Changes((), ())
    told = changes(before, *now, on_new_model="notify", on_deprecated_model="notify")
    assert {n.event for n in told.news} == {"model_discovered", "model_deprecated"}
    assert told.orders == ()


@pytest.mark.parametrize("name", ["small", "models/small", "small:latest"])
def test_a_model_is_known_by_the_names_that_vendors_list(name: str):
    """Gemini and Ollama list other names than they are asked for."""
    assert changes(kept(listed(name)), listed(name)) == Changes((), ())
    assert changes(kept(listed(name)), listed("x")).orders == (ModelOrder("a.small", "deactivate"),)


lists = st.lists(
    st.builds(
        ListedModel,
        id=st.sampled_from(["small", "big", "x", "y"]),
        is_active=st.booleans(),
        is_deprecated=st.booleans(),
        retires=st.none() | st.floats(NOW_S - 9999, NOW_S + 9999),
        context_window=st.none() | st.integers(1, 3),
    ),
    unique_by=lambda model: model.id,
)


@given(before=lists, now=lists)
def test_each_model_gets_one_word_and_one_order_at_most(before: list[ListedModel], now: list[ListedModel]):
    """And orders only concern what is configured, each following from the two lists alone."""
    found = changes(kept(*before), *now)

    assert len({n.model for n in found.news}) == len(found.news)
    assert len({o.model for o in found.orders}) == len(found.orders)
    assert {o.model for o in found.orders} <= {"a.small", "a.big"}
    for order in found.orders:
        if order.action == "deactivate":
            assert order.model in {n.model for n in found.news if n.event == "model_deprecated"}
