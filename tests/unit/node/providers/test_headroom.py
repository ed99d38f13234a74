"""The share of its limits that a provider says is left."""

from __future__ import annotations

import pytest

from node.providers.headroom import Told, headroom_told


def headers(**said: str) -> dict[str, str]:
    """``remaining_requests="5"`` as the header of that name."""
    return {f"x-ratelimit-{name.replace('_', '-')}": text for name, text in said.items()}


def test_the_tightest_family_counts() -> None:
    """For as long as it says, else for a minute."""
    requests = headers(limit_requests="100", remaining_requests="60", reset_requests="6m0s")
    tokens = headers(limit_tokens="1000", remaining_tokens="100", reset_tokens="12s")
    plain = headers(limit="10", remaining="3")

    assert headroom_told(requests) == Told(0.6, 360.0)
    assert headroom_told(requests | tokens) == Told(0.1, 12.0)
    assert headroom_told(requests | plain) == Told(0.3, 60.0)
    assert headroom_told(plain | headers(limit_tokens="10", remaining_tokens="3", reset_tokens="1s")) == Told(
        0.3, 60.0
    )


@pytest.mark.parametrize(
    "said",
    [
        {},
        headers(remaining_requests="5"),
        headers(limit_requests="100"),
        headers(limit_requests="0", remaining_requests="0"),
        headers(limit_requests="many", remaining_requests="5"),
        headers(limit_requests="100", remaining_requests="-1"),
        headers(limit_requests="100", remaining_requests="9" * 13),
        headers(limit_requests="100", remaining_requests="\u0665"),
    ],
)
def test_nonsense_is_passed_over(said: dict[str, str]) -> None:
    """Nothing is told then."""
    assert headroom_told(said) is None


def test_more_than_everything_is_everything() -> None:
    """Some providers grant bursts."""
    assert headroom_told(headers(limit_requests="10", remaining_requests="12")) == Told(1.0, 60.0)
