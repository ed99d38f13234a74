"""Addresses: which reach this machine alone."""

from __future__ import annotations

import pytest

from shared_state.addresses import is_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_loopback_addresses(host, expected):
    """A name that might be anything is not taken for loopback."""
    assert is_loopback(host) is expected
