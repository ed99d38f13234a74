"""The caller's caps, from headers."""

from __future__ import annotations

import pytest

from node.api.caps import read_caps
from node.call import Caps
from shared_state.errors import RequestError

PRICE, PROVIDERS, REGIONS = "x-modelmesh-max-price", "x-modelmesh-allow-providers", "x-modelmesh-regions"


def caps(*headers: tuple[str, str]) -> Caps | None:
    return read_caps({"headers": [(name.encode(), value.encode("latin-1")) for name, value in headers]})


def test_a_request_without_caps_has_none():
    """Nothing is made for what nobody asked."""
    assert caps(("content-type", "application/json"), ("x-modelmesh-session", "s")) is None


def test_each_header_is_a_cap():
    """Money in USD, names in lists."""
    assert caps((PRICE, "0.05")) == Caps(max_price_nano=50_000_000)
    assert caps((PRICE, "0")) == Caps(max_price_nano=0)
    assert caps((PROVIDERS, "alpha, beta")) == Caps(providers=frozenset({"alpha", "beta"}))
    assert caps((PROVIDERS, "alpha"), (PROVIDERS, "beta")) == caps((PROVIDERS, "alpha,beta"))
    assert caps((REGIONS, "EU-West-1,us")) == Caps(regions=frozenset({"eu-west-1", "us"}))


@pytest.mark.parametrize(
    "headers",
    [
        *(((PRICE, text),) for text in ("", "-1", "nan", "inf", "1e3", "1_0", "free", "$1", "1" * 30)),
        *(((name, text),) for name in (PROVIDERS, REGIONS) for text in ("", " ", "a,,b", "a,", "a" * 5000)),
        ((PRICE, "1"), (PRICE, "2")),
    ],
)
def test_what_cannot_be_understood_is_refused(headers):
    """A cap that were ignored would be worse than none; the header is named."""
    with pytest.raises(RequestError) as caught:
        caps(*headers)
    assert caught.value.http_status == 400
    assert caught.value.param == headers[0][0]
