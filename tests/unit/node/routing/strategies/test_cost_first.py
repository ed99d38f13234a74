"""Cost first: the price of this request."""

from __future__ import annotations

from node.routing.strategies import Request
from tests.unit.node.routing.strategies.ranks import Ranks


def priced(**prices: dict[str, float]) -> Ranks:
    return Ranks("cost-first", models={letter: {"pricing": price} for letter, price in prices.items()})


def test_a_long_prompt_and_a_long_answer_have_different_cheapest_models() -> None:
    """Input and output are priced apart."""
    ranks = priced(a={"input": 1.0, "output": 10.0}, b={"input": 3.0, "output": 4.0})

    assert ranks("ab", request=Request(tokens_in=10_000, tokens_out=100)) == "ab"
    assert ranks("ab", request=Request(tokens_in=100, tokens_out=10_000)) == "ba"


def test_a_price_per_request_counts() -> None:
    """It decides small requests."""
    ranks = priced(a={"input": 1.0, "per_request": 0.01}, b={"input": 5.0})

    assert ranks("ab", request=Request(tokens_in=1000)) == "ba"
    assert ranks("ab", request=Request(tokens_in=100_000)) == "ab"


def test_what_a_session_has_said_is_priced_as_cached_on_its_model() -> None:
    """The others would read it for the first time."""
    ranks = priced(a={"input": 2.0}, b={"input": 3.0, "cached_input": 0.3})
    request = Request(tokens_in=10_000, tokens_known=9_000, session="s")

    assert ranks("ab", request=request) == "ab"
    assert ranks("ab", request=request, held="b") == "ba"


def test_an_unknown_price_comes_last() -> None:
    """A free model says so with prices of 0; saying nothing is not free."""
    ranks = priced(b={"input": 100.0}, c={"input": 0.0})

    assert ranks(request=Request(tokens_in=1)) == "cbad"


def test_ties_go_by_pool_order() -> None:
    """Equal prices."""
    ranks = priced(a={"input": 1.0}, b={"input": 1.0}, c={"input": 0.5})

    assert ranks("abc", request=Request(tokens_in=1000)) == "cab"
