"""Client keys on a real server: kept as digests, found by them, revoked for good, told to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette

from node.api.application import build_application
from node.api.auth import Doorkeeper
from node.ops.routes import OpsParts, ops_routes
from shared_state.bus import Bus
from shared_state.client_keys import ClientKey, ClientKeys, is_key_text, key_ids, new_key_id, new_key_text
from shared_state.config import LimitsConfig
from shared_state.errors import StateUnavailableError
from shared_state.events import Event
from shared_state.store import Store
from tests.unit.node.api.asgi import Findings, ask
from tests.unit.node.api.test_application import ranker_of
from tests.unit.node.house import View, Watch, mesh


def key(name: str = "billing", **fields: object) -> ClientKey:
    return ClientKey.model_validate(
        {"id": new_key_id(), "name": name, "created": 1_790_000_000.5, "limits": {"rpm": 5}, **fields}
    )


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


async def test_a_key_is_found_by_its_text(store: Store) -> None:
    """Everything that it may do comes back; another text finds nothing."""
    keys, text = ClientKeys(store, None), new_key_text()
    made = key(models=["chat", "alpha.*"], expires=1_800_000_000.0, note="of the team")
    await keys.put(made, text, node="n1")
    found = await keys.find(keys.digest(text.encode()))

    assert found == made
    assert found.limits.model_fields_set == {"rpm"}
    assert await keys.find(keys.digest(new_key_text().encode())) is None


async def test_nothing_in_redis_holds_the_text(store: Store) -> None:
    """Neither as it is nor as a digest that others could make."""
    keys, text = ClientKeys(store, SecretStr("pepper")), new_key_text()
    await keys.put(key(), text, node="n1")
    dump = b""
    async for name in store.client.scan_iter(f"{store.keys._prefix}*"):
        kind = await store.client.type(name)
        if kind == b"list":
            value = await store.client.lrange(name, 0, -1)
        else:
            value = await (store.client.hgetall(name) if kind == b"hash" else store.client.get(name))
        dump += name + repr(value).encode()

    assert text.removeprefix("mm-").encode() not in dump
    assert ClientKeys(store, None).digest(text.encode()).encode() not in dump
    assert await ClientKeys(store, None).find(keys.digest(text.encode())) is not None
    assert await ClientKeys(store, None).find(ClientKeys(store, None).digest(text.encode())) is None


async def test_a_revocation_is_for_good_and_keeps_its_time(store: Store) -> None:
    """Twice is as good as once; an unknown id is none."""
    keys, text, made = ClientKeys(store, None), new_key_text(), key()
    await keys.put(made, text, node="n1")
    first = await keys.revoke(made.id, node="n1")
    again = await keys.revoke(made.id, node="n2")
    found = await keys.find(keys.digest(text.encode()))

    assert first is not None
    assert first.revoked
    assert first == again == found
    assert first.status(0) == "revoked"
    assert await keys.revoke("nobody", node="n1") is None


async def test_what_was_lost_can_be_said_again(store: Store) -> None:
    """With its revocation; nobody needs the text for it."""
    keys, texts, made = ClientKeys(store, None), [new_key_text(), new_key_text()], [key("a"), key("b")]
    for one, text in zip(made, texts, strict=True):
        await keys.put(one, text, node="n1")
    digests = [keys.digest(text.encode()) for text in texts]
    await keys.revoke(made[1].id, node="n1")
    known = [await keys.find(digest) for digest in digests]
    for part in ("", ":digests", ":revoked", ":version"):
        await store.client.delete(store.keys.client_keys + part)
    for one, digest in zip(known, digests, strict=True):
        assert one is not None
        await keys.put_back(one, digest)
    found = [await keys.find(digest) for digest in digests]

    assert found[0] == known[0]
    assert found[1] is not None
    assert found[1].revoked is not None


async def test_all_keys_are_listed_and_counted(store: Store) -> None:
    """Oldest first, revoked ones too; what a later release wrote is passed over."""
    keys = ClientKeys(store, None)
    made = [key(f"k{number}", created=float(number)) for number in (3, 1, 2)]
    for one in made:
        await keys.put(one, new_key_text(), node="n1")
    await keys.revoke(made[0].id, node="n1")
    await store.client.hset(
        store.keys.client_keys, "later", orjson.dumps({"id": "later", "limits": {"x": 1}})
    )

    listed = await keys.all()
    assert [one.name for one in listed] == ["k1", "k2", "k3"]
    assert [one.revoked is not None for one in listed] == [False, False, True]
    assert set(await key_ids(store)) == {*(one.id for one in made), "later"}


async def test_a_record_that_cannot_be_read_opens_nothing(store: Store) -> None:
    """It may forbid what we would allow."""
    keys, text = ClientKeys(store, None), new_key_text()
    await keys.put(key(), text, node="n1")
    (known,) = await key_ids(store)
    await store.client.hset(store.keys.client_keys, known, b'{"id": "x", "limits": {"rps": 1}}')

    with pytest.raises(StateUnavailableError):
        await keys.find(keys.digest(text.encode()))


async def test_everybody_is_told(open_store: Callable[..., Store]) -> None:
    """By an event at once, by the version if that is lost; a second revocation is no news."""
    heard: asyncio.Queue[Event] = asyncio.Queue()
    ready = asyncio.Event()
    listener = asyncio.create_task(Bus(open_store(), on_event=heard.put_nowait, on_gap=ready.set).run())
    await asyncio.wait_for(ready.wait(), 20)
    keys, made = ClientKeys(open_store(), None), key()
    versions = [await keys.version()]
    await keys.put(made, new_key_text(), node="n1")
    versions.append(await keys.version())
    for _ in range(2):
        await keys.revoke(made.id, node="n2")
        versions.append(await keys.version())
    events = [await asyncio.wait_for(heard.get(), 20) for _ in range(2)]
    listener.cancel()

    assert [(e.type, e.kind, e.id, e.node) for e in events] == [
        ("key_created", "key", made.id, "n1"),
        ("key_revoked", "key", made.id, "n2"),
    ]
    assert heard.empty()
    assert versions == [0, 1, 2, 2]


def test_texts_are_long_random_and_safe_in_a_header() -> None:
    """256 bits behind the prefix."""
    texts = {new_key_text() for _ in range(100)}

    assert len(texts) == 100
    assert all(is_key_text(text.encode()) and len(text) >= 46 and text.isascii() for text in texts)
    assert not is_key_text(b"sk-" + b"x" * 40)


def test_rights_are_names_and_patterns() -> None:
    """A star stands for any part; brackets in a name are just brackets if it is written out."""
    narrow = key(models=["chat", "alpha.*", "odd[1]"])

    assert [narrow.may_use(name) for name in ("chat", "chats", "alpha.m", "alpha", "odd[1]")] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert key().may_use("anything")
    assert LimitsConfig(rpm=5) == key().limits


# -- the operators' API


@pytest.fixture
def office(store: Store) -> Starlette:
    """The operators' API of a node with one priced and one unpriced model."""
    topology = mesh("alpha.m", "beta.m", differing={"alpha.m": {"pricing": {"input": 1, "output": 2}}})
    view = View(topology)
    parts = OpsParts("n1", store, topology, view, Watch(), Findings(), ranker_of(view))  # type: ignore[arg-type]
    return build_application({}, routes=ops_routes(parts, Doorkeeper([], is_open=True)))  # type: ignore[return-value]


async def test_operators_make_list_and_revoke_keys(office: Starlette, store: Store) -> None:
    """The text is in one answer only; what is used of its limits is in the list."""
    body = {"name": "billing", "models": ["chat", "al*"], "limits": {"rpm": 5}, "budget": {"daily_limit": 2}}
    made = (await ask(office, "POST", "/ops/keys", orjson.dumps({**body, "expires_s": "30d"}))).json
    listed = await ask(office, "GET", "/ops/keys")
    (row,) = listed.json["keys"]
    keys = ClientKeys(store, None)
    found = await keys.find(keys.digest(made["key"].encode()))
    revoked = (await ask(office, "DELETE", f"/ops/keys/{made['id']}")).json

    assert made["key"].encode() not in listed.body
    assert (row["status"], row["limits"]) == ("active", {"rpm": 5, "usd_per_day": 2.0})
    assert [(window["name"], window["used"], window["limit"]) for window in row["windows"]] == [
        ("rpm", 0, 5),
        ("usd_per_day", 0, 2),
    ]
    assert row["expires"] == pytest.approx(row["created"] + 30 * 86400)
    assert found is not None
    assert found.limits.usd_per_day == 2.0
    assert (revoked["id"], revoked["status"]) == (made["id"], "revoked")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "name: Field required"),
        ({"name": ""}, "name"),
        ({"name": "x", "rpm": 5}, "rpm: Extra inputs are not permitted"),
        ({"name": "x", "limits": {"rpm": 0}}, "limits.rpm"),
        ({"name": "x", "limits": {"rps": 1}}, "limits.rps"),
        ({"name": "x", "expires_s": "soon"}, "expires_s"),
        ({"name": "x", "models": ["alpha.mm"]}, "unknown model 'alpha.mm'; near names: alpha.m"),
    ],
)
async def test_an_order_that_cannot_be_obeyed_is_refused(office: Starlette, body: Any, message: str) -> None:
    """With its faults, and no key is made."""
    heard = await ask(office, "POST", "/ops/keys", orjson.dumps(body))

    assert heard.status == 400
    assert message in heard.error["message"]
    assert (await ask(office, "GET", "/ops/keys")).json == {"keys": []}


async def test_money_needs_a_model_with_a_price(store: Store) -> None:
    """A budget that nothing can be charged to is a mistake."""
    topology = mesh("alpha.m")
    view = View(topology)
    parts = OpsParts("n1", store, topology, view, Watch(), Findings(), ranker_of(view))  # type: ignore[arg-type]
    office = build_application({}, routes=ops_routes(parts, Doorkeeper([], is_open=True)))
    body = {"name": "x", "budget": {"daily_limit": 5}}

    assert (await ask(office, "POST", "/ops/keys", orjson.dumps(body))).status == 400
    assert (await ask(office, "DELETE", "/ops/keys/nobody")).status == 404
