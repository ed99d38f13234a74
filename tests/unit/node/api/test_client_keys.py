"""Client keys at the door: who is let in, with Redis and without it, and what the keyring remembers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared_state.client_keys import ClientKey
from shared_state.errors import ModelNotFoundError
from shared_state.events import Event
from tests.support.processes import wait_until
from tests.unit.node.api.asgi import Front, Heard, Keys, ask, post
from tests.unit.node.house import NOW_MS, House, mesh
from tests.unit.node.scripted import ScriptedTransport, whole

NOW_S = NOW_MS / 1000


def key(**fields: Any) -> ClientKey:
    return ClientKey.model_validate({"id": "k1", "name": "billing", "created": NOW_S - 60, **fields})


def front(*, required: bool = True, tokens: tuple[str, ...] = (), **keys: ClientKey) -> Front:
    """A node that knows these keys: ``front(good=key())`` has the text ``mm-good``."""
    return Front(keys=Keys(**keys), keys_required=required, tokens=tokens)


async def knock(node: Front, text: str | None, *, header: bytes = b"authorization", **more: Any) -> Heard:
    value = f"Bearer {text}" if header == b"authorization" else text
    headers = [] if text is None else [(header, (value or "").encode())]
    return await post(node.app, headers=headers, **more)


# -- the door


@pytest.mark.parametrize("header", [b"authorization", b"x-api-key"])
async def test_a_client_key_opens_the_door(header: bytes) -> None:
    """By either header; the log names its id, and nothing names its text."""
    node = front(good=key())
    heard = await knock(node, "mm-good", header=header)
    (line,) = node.lines

    assert heard.status == 200
    assert line["key"] == "k1"
    assert "mm-good" not in str(line)


@pytest.mark.parametrize("text", [None, "", "mm-unknown", "sk-something", "mm-" + "x" * 300, "mm-\x00"])
async def test_without_a_valid_key_nobody_comes_in_where_one_is_required(text: str | None) -> None:
    """401 in the API's shape, and no provider hears of it."""
    node = front(good=key())
    heard = await knock(node, text)

    assert heard.status == 401
    assert (heard.error["code"], heard.error["type"]) == ("invalid_api_key", "authentication_error")
    assert text is None or not text or text not in heard.body.decode()
    assert node.place.transport.requests == []


@pytest.mark.parametrize(
    ("fields", "word"), [({"expires": NOW_S - 1}, "expired"), ({"revoked": NOW_S - 1}, "revoked")]
)
async def test_a_key_whose_time_is_over_is_refused(fields: dict[str, float], word: str) -> None:
    """Its owner learns why; a moment before it still opens."""
    heard = await knock(front(old=key(**fields)), "mm-old")

    assert heard.status == 401
    assert word in heard.error["message"]
    assert (await knock(front(old=key(expires=NOW_S + 1)), "mm-old")).status == 200


@pytest.mark.parametrize(
    ("required", "tokens", "text", "status"),
    [
        (True, ("static",), "static", 200),
        (True, ("static",), "mm-good", 200),
        (True, ("mm-static",), "mm-static", 200),
        (False, ("static",), "mm-good", 200),
        (False, ("static",), None, 401),
        (False, ("static",), "wrong", 401),
        (False, (), None, 200),
        (False, (), "unused", 200),
        (False, (), "mm-unknown", 401),
    ],
)
async def test_static_tokens_and_keys_stand_side_by_side(
    required: bool, tokens: tuple[str, ...], text: str | None, status: int
) -> None:
    """A key that is not valid is refused even at an open door: its owner believes in its limits."""
    assert (await knock(front(required=required, tokens=tokens, good=key()), text)).status == status


# -- what a key may use


def two_models(**fields: Any) -> Front:
    topology = mesh(
        "alpha.m", "beta.m", pools={"chat": {"models": ["alpha.m"]}, "talk": {"models": ["beta.m"]}}
    )
    place = House(topology, ScriptedTransport(alpha=whole(), beta=whole()))
    return Front(keys=Keys(good=key(**fields)), place=place)


@pytest.mark.parametrize(
    ("models", "name", "status"),
    [
        ([], "chat", 200),
        (["chat"], "chat", 200),
        (["chat"], "talk", 403),
        (["chat"], "alpha.m", 403),
        (["alpha.*"], "alpha.m", 200),
        (["alpha.*"], "alpha/m", 200),
        (["alpha.*"], "beta/m", 403),
        (["alpha.*"], "chat", 403),
        (["*"], "talk", 200),
        (["chat"], "nonsense", 404),
        (["chat-completion"], "chat-completion", 200),
    ],
)
async def test_a_key_may_use_what_it_names(models: list[str], name: str, status: int) -> None:
    """Names of pools, models and capabilities; everything else is not allowed."""
    node = two_models(models=models)
    heard = await knock(node, "mm-good", body={"model": name, "messages": [{"role": "user", "content": "x"}]})

    assert heard.status == status
    if status == 403:
        assert (heard.error["code"], heard.error["type"]) == ("model_not_allowed", "permission_error")
        assert node.place.transport.requests == []
    if status == 404:
        assert "near names" not in heard.error["message"]


async def test_a_capability_means_the_pools_that_are_allowed() -> None:
    """Of two pools that serve it the key reaches one."""
    pools = {name: {"capability": "chat-completion", "providers": [name]} for name in ("alpha", "beta")}
    place = House(mesh("alpha.m", "beta.m", pools=pools), ScriptedTransport(alpha=whole(), beta=whole()))
    node = Front(keys=Keys(good=key(models=["beta"])), place=place)
    heard = await knock(
        node, "mm-good", body={"model": "chat-completion", "messages": [{"role": "user", "content": "x"}]}
    )

    assert heard.status == 200
    assert place.transport.hosts == ["beta"]


async def test_the_list_of_models_shows_what_the_key_may_use() -> None:
    """Both routes agree."""
    node = two_models(models=["chat", "beta.*"])
    headers = [(b"authorization", b"Bearer mm-good")]
    listed = await ask(node.app, "GET", "/v1/models", headers=headers)
    singles = {
        name: (await ask(node.app, "GET", f"/v1/models/{name}", headers=headers)).status
        for name in ("chat", "talk", "alpha.m", "beta.m")
    }

    assert [entry["id"] for entry in listed.json["data"]] == ["chat", "beta.m"]
    assert singles == {"chat": 200, "talk": 404, "alpha.m": 404, "beta.m": 200}


# -- without Redis


async def test_a_key_that_was_seen_works_without_redis() -> None:
    """The last word counts; whether another is unknown nobody can say, so it is told to come again."""
    node = front(good=key())
    assert (await knock(node, "mm-good")).status == 200
    node.keyring.doubt()
    node.place.watch.connected = False

    assert (await knock(node, "mm-good")).status == 200
    for text in ("mm-other", "mm-unknown"):
        heard = await knock(node, text)
        assert (heard.status, heard.error["code"]) == (503, "state_unavailable")
        assert heard.header(b"retry-after") == b"1"


async def test_a_key_known_to_be_unknown_may_have_been_made_since() -> None:
    """Without Redis a refusal is no longer certain."""
    node = front(good=key())
    assert (await knock(node, "mm-new")).status == 401
    node.place.watch.connected = False

    assert (await knock(node, "mm-new")).status == 503


async def test_a_store_that_fails_is_away_for_everybody() -> None:
    """The node takes note at once; a key that was seen works on."""
    node = front(good=key())
    await knock(node, "mm-good")
    node.keyring.doubt()
    node.keys.error = TimeoutError()

    assert (await knock(node, "mm-good")).status == 200
    assert len(node.place.watch.failures) == 1


async def test_a_key_that_the_store_has_lost_is_put_back() -> None:
    """Keys are never deleted: a server that came back empty shuts nobody out, nor lets a revoked key in."""
    node = front(good=key(), old=key(id="k2", revoked=NOW_S))
    before = [(await knock(node, text)).status for text in ("mm-good", "mm-old")]
    kept = dict(node.keys.found)
    node.keys.found.clear()
    node.keyring.doubt()
    after = [(await knock(node, text)).status for text in ("mm-good", "mm-old", "mm-new")]

    assert before == [200, 401]
    assert after == [200, 401, 401]
    assert node.keys.found == kept


# -- the keyring


def told(kind: str) -> Event:
    return Event("key_revoked", NOW_MS, 0, "key:k1", kind, "k1", "", 0, "n2")


async def test_a_key_is_read_once_and_again_when_it_is_in_doubt() -> None:
    """By an event about keys, after a gap, on the return of Redis; not by news of models."""
    node = front(good=key())
    for _ in range(5):
        await knock(node, "mm-good")
    assert node.keys.asked == ["mm-good"]

    node.keyring.observe_event(told("model"))
    await knock(node, "mm-good")
    assert len(node.keys.asked) == 1

    node.keys.found["mm-good"] = key(revoked=NOW_S)
    node.keyring.observe_event(told("key"))
    assert (await knock(node, "mm-good")).status == 401
    assert len(node.keys.asked) == 2

    for told_of_return in node.place.watch.returns:
        told_of_return()
    await knock(node, "mm-good")
    assert len(node.keys.asked) == 3


async def test_a_key_that_is_made_later_is_found() -> None:
    """A refusal is remembered too, until somebody makes a key."""
    node = front(good=key())
    assert [(await knock(node, "mm-late")).status for _ in range(3)] == [401] * 3
    assert node.keys.asked == ["mm-late"]
    node.keys.found["mm-late"] = key()
    node.keyring.observe_event(told("key"))

    assert (await knock(node, "mm-late")).status == 200


async def test_a_revocation_while_the_key_is_read_is_not_missed() -> None:
    """What was read before the news is in doubt after it."""
    node = front(good=key())
    node.keys.on_find = node.keyring.doubt
    await knock(node, "mm-good")
    node.keys.on_find = lambda: None
    await knock(node, "mm-good")

    assert len(node.keys.asked) == 2


async def test_callers_who_come_together_share_one_look() -> None:
    """A thousand requests with a new key are one question."""
    node = front(good=key())
    heard = await asyncio.gather(*(knock(node, "mm-good") for _ in range(20)))

    assert {answer.status for answer in heard} == {200}
    assert len(node.keys.asked) == 1


async def test_guessing_pushes_no_known_key_out() -> None:
    """What is remembered is bounded, the good and the bad apart."""
    node = front(good=key())
    await knock(node, "mm-good")
    for number in range(5000):
        assert await node.keyring.find(b"mm-guess%d" % number) is None

    assert len(node.keyring._unknown) == 4096
    await knock(node, "mm-good")
    assert node.keys.asked.count("mm-good") == 1


async def test_a_missed_event_is_noticed_by_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll compares a counter, not the keys."""
    monkeypatch.setattr("node.api.keyring._POLL_S", 0.01)
    node, versions = front(good=key()), [1, 1, 1]

    async def version() -> int:
        return versions.pop(0) if len(versions) > 1 else versions[0]

    node.keys.version = version  # type: ignore[attr-defined]
    await knock(node, "mm-good")
    task = asyncio.create_task(node.keyring.run())

    async def is_calm() -> bool:
        return len(versions) == 1

    async def is_refused() -> bool:
        return (await knock(node, "mm-good")).status == 401

    await wait_until(is_calm, 5, interval=0.005, what="a few looks")
    await knock(node, "mm-good")
    node.keys.found["mm-good"] = key(revoked=NOW_S)
    versions[0] = 2
    await wait_until(is_refused, 5, interval=0.005, what="the revocation to be noticed")
    task.cancel()


def test_near_names_are_for_keys_that_may_use_everything() -> None:
    """A narrow one learns nothing of what else there is."""
    from node.routing.access import resolve_for

    topology = mesh("alpha.m")
    with pytest.raises(ModelNotFoundError, match="near names: alpha"):
        resolve_for(key(), topology, "alpha.mm")
    with pytest.raises(ModelNotFoundError, match="^unknown model$"):
        resolve_for(key(models=["chat"]), topology, "alpha.mm")
