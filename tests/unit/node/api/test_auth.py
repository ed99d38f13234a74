"""Who may come in."""

from __future__ import annotations

import hmac

import pytest
from pydantic import SecretStr

from node.api.auth import Doorkeeper
from shared_state.errors import AuthenticationRequiredError

TOKENS = ["first-token", "second-tökén"]


def knock(doorkeeper: Doorkeeper, authorization: bytes | None) -> bool:
    """Whether a request with this header may pass."""
    headers = [] if authorization is None else [(b"authorization", authorization)]
    try:
        doorkeeper.check({"method": "GET", "headers": headers})
    except AuthenticationRequiredError:
        return False
    return True


@pytest.fixture
def doorkeeper() -> Doorkeeper:
    return Doorkeeper([SecretStr(token) for token in TOKENS], is_open=True)


@pytest.mark.parametrize(
    ("authorization", "passes"),
    [
        (b"Bearer first-token", True),
        (b"bearer first-token", True),
        (b"BEARER  first-token ", True),
        ("Bearer second-tökén".encode(), True),
        (b"first-token", True),
        (None, False),
        (b"", False),
        (b"Bearer", False),
        (b"Bearer ", False),
        (b"Bearer first-toke", False),
        (b"Bearer first-tokenx", False),
        (b"Bearer First-token", False),
        (b"Basic first-token", False),
        (b"Bearer first-token second", False),
        (b"Bearer \xff\xfe", False),
    ],
)
def test_only_known_tokens_open_the_door(
    doorkeeper: Doorkeeper, authorization: bytes | None, passes: bool
) -> None:
    """With or without the scheme, to the last character."""
    assert knock(doorkeeper, authorization) is passes


@pytest.mark.parametrize(("is_open", "passes"), [(True, True), (False, False)])
def test_without_tokens_the_door_stands_as_told(is_open: bool, passes: bool) -> None:
    """Open for callers of a local node, closed for operators of a public one."""
    doorkeeper = Doorkeeper([], is_open=is_open)

    assert knock(doorkeeper, None) is passes
    assert knock(doorkeeper, b"Bearer anything") is passes


@pytest.mark.parametrize("token", ["first-token", "second-tökén", "wrong"])
def test_every_token_is_compared_whichever_matches(
    doorkeeper: Doorkeeper, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In constant time each, all of them: the time tells nothing."""
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def note(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", note)
    knock(doorkeeper, f"Bearer {token}".encode())

    assert compared == [(32, 32), (32, 32)]


def test_tokens_are_not_kept(doorkeeper: Doorkeeper) -> None:
    """Digests only: a dump of the memory's objects shows none."""
    assert all(token not in repr(vars(doorkeeper)) for token in TOKENS)
