"""What a provider says is told without the secrets of its account."""

from __future__ import annotations

import json

import pytest

from node.providers.masking import Mask
from shared_state.config.loader import read_config
from shared_state.errors import RejectedRequestError
from shared_state.topology import build_topology

KEY = "sk-canary-0815"
TOKEN = 'tok"canary\\4711'


@pytest.fixture
def mask() -> Mask:
    provider = {
        "connector": "openai.llm.v1",
        "api_key": KEY,
        "headers": {"X-Api-Token": TOKEN, "X-Title": "ordinary words", "X-Auth": "short"},
    }
    document = {"providers": {"a": provider}, "models": {"a.gpt-4o": {"provider": "a"}}}
    return Mask(build_topology(read_config(document, environ={})).providers["a"])


def test_secrets_are_cut_out_of_everything_an_error_tells(mask: Mask):
    """Message, code and body, in plain and as JSON spells them; the rest stays, short and ordinary values included."""
    words = f"{KEY} {TOKEN} ordinary words short"
    error = RejectedRequestError(words, code=f"bad_{KEY}", body=json.dumps({"error": words}).encode())
    mask.clean(error)

    assert error.message == str(error) == "*** *** ordinary words short"
    assert error.code == "bad_***"
    assert json.loads(error.body) == {"error": "*** *** ordinary words short"}


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("x sk-canary-0", "x ***"),
        ("x sk-canary", "x ***"),
        ("x sk-canar", "x ***"),
        ("x sk-cana", "x sk-cana"),
    ],
)
def test_a_secret_that_was_cut_off_is_none_the_less_one(mask: Mask, told: str, shown: str):
    """Complaints are shown up to a length; fewer than eight characters give nothing away that an ordinary word would not."""
    error = RejectedRequestError(told)
    mask.clean(error)

    assert error.message == shown


def test_a_body_without_secrets_stays_the_same(mask: Mask):
    """Byte for byte, whatever it is."""
    body = bytes(range(256))

    assert mask.raw(body) == body
