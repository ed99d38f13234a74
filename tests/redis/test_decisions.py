"""Decisions on a real server: records that die by themselves, looks that take nothing, pools that move on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from node.call import Call, Step, Target, Trail
from node.observe.decisions import DecisionLog, DecisionMetrics
from node.observe.record import record_of
from node.routing.pipeline import Pipeline
from shared_state.config import MeshConfig
from shared_state.config.root import DecisionsConfig
from shared_state.cursors import read_current
from shared_state.decisions import read_decision
from shared_state.ledger import Code, Verdict
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.redis.office import Office, mesh, open_office
from tests.support.processes import wait_until
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import ValkeyServer
from tests.unit.node.house import Watch, chat

ADMITTED = Verdict(Code.ADMITTED)
AT_LIMIT = Verdict(Code.AT_LIMIT, 0, "rpm")
MODELS: dict[str, dict[str, Any]] = {"alpha.m": {"rpm": 10, "tpm": 100_000}, "beta.m": {}, "gamma.m": {}}


def log_of(store: Store, watch: Any = None, **rules: Any) -> DecisionLog:
    return DecisionLog(
        store,
        watch or Watch(),
        DecisionsConfig.model_validate(rules),
        node="n1",
        version="v1",
        draw=lambda: 0.5,
    )


def trail_of(office: Office, *verdicts: Verdict) -> Trail:
    """A trail over the members of the pool, in their order."""
    pool = office.topology.pools["chat"]
    steps = [
        Step(Target(model, pool), "r.1", verdict, 0.0)
        for model, verdict in zip(pool.models, verdicts, strict=False)
    ]
    return Trail(steps=steps)


async def planned(office: Office, **fields: Any) -> tuple[Call, Trail]:
    """A call and its trail, as far as planning goes."""
    call, trail = chat(**fields), Trail()
    await Pipeline(office.snapshot, office.parts.ranker).plan(call, trail)
    return call, trail


# -- records


async def test_failures_and_fail_overs_are_recorded_and_plain_requests_sampled(open_store):
    """By default only what somebody may ask about."""
    store = open_store()
    async with open_office(store, mesh(MODELS)) as office:
        plain, moved, failed = (
            trail_of(office, ADMITTED),
            trail_of(office, AT_LIMIT, ADMITTED),
            trail_of(office),
        )
        usual, half, none = log_of(store), log_of(store, sample=0.6), log_of(store, failures=False)

    assert [usual.wants(plain, "ok"), usual.wants(moved, "ok"), usual.wants(failed, "no_active_model")] == [
        False,
        True,
        True,
    ]
    assert half.wants(plain, "ok")
    assert not half.wants(failed, "replayed")
    assert not log_of(store, sample=0.4).wants(plain, "ok")
    assert [none.wants(moved, "ok"), none.wants(failed, "no_active_model")] == [False, False]


async def test_a_record_reaches_redis_in_the_background_and_any_node_reads_it(open_store):
    """In the shape that the API describes, under its own key, with its end."""
    store = open_store()
    async with open_office(store, mesh(MODELS)) as office:
        call, trail = await planned(office)
        decisions = log_of(store, ttl="90s")
        running = asyncio.create_task(decisions.queue.run())
        decisions.add(call, trail, status=503, outcome="no_active_model")
        await wait_until(lambda: decisions.queue.written)
        running.cancel()
        heard = await office.ask("requests/req-1")
        await office.check("/ops/requests/{request_id}", heard)
        again = await office.ask("requests/req-1/replay")
        await office.check("/ops/requests/{request_id}/replay", again)
        unknown = await office.ask("requests/req-2")
        life_ms = await store.command("PTTL", store.keys.request("req-1"))

    assert (heard.json["node"], heard.json["config_version"]) == ("n1", "v1")
    assert heard.json["plans"][0]["targets"][0]["model"] == "alpha.m"
    assert 60_000 < life_ms <= 90_000
    assert again.json["same"]
    assert (unknown.status, unknown.error["code"]) == (404, "decision_not_found")


async def test_a_flood_is_cut_off_and_counted(open_store):
    """Ten seconds' worth at once, then the rate; requests never wait for it."""
    store = open_store()
    async with open_office(store, mesh(MODELS)) as office:
        call, trail = await planned(office)
        decisions = log_of(store, max_per_second=2)
        for _ in range(50):
            decisions.add(call, trail, status=503, outcome="no_active_model")
        await decisions.queue.flush()

    assert (decisions.queue.written, decisions.queue.dropped["rate"]) == (20, 30)
    dropped = {
        sample.labels["cause"]: sample.value
        for family in DecisionMetrics(decisions.queue).collect()
        for sample in family.samples
        if "cause" in sample.labels
    }
    assert dropped == {"rate": 30, "waiting": 0, "store": 0}


async def test_a_frozen_store_loses_records_and_nothing_else(
    open_store, valkey_server: ValkeyServer, namespace: str
):
    """What it does not take in time is dropped; the node is not told that its store is away."""
    async with (
        open_office(open_store(), mesh(MODELS)) as office,
        TcpProxy(valkey_server.unix_socket) as proxy,
    ):
        call, trail = await planned(office)
        slow, watch = Store(proxy.redis_url, namespace=namespace, timeout_s=0.1), Watch()
        decisions = log_of(slow, watch)
        decisions.add(call, trail, status=503, outcome="no_active_model")
        proxy.pause()

        assert not await decisions.queue.flush()
        assert decisions.queue.dropped["store"] == 1
        assert watch.failures == []
        await proxy.resume()
        await slow.aclose()


async def test_an_immense_plan_is_kept_without_its_stages(open_store):
    """What is left still says who was tried and how it ended."""
    store = open_store()
    async with open_office(store, mesh(MODELS)) as office:
        call, trail = await planned(office)
        trail.plan.skipped.update({f"{n:x}" * 7: f"{n * 7919:x}" for n in range(9)})
        trail.plan.draws = [n / 7919 for n in range(60_000)]
        decisions = log_of(store)
        decisions.add(call, trail, status=200, outcome="ok")
        await decisions.queue.flush()
        raw = await read_decision(store, "req-1")

    assert raw is not None
    assert orjson.loads(raw)["plans"] == []


async def test_records_hold_neither_text_nor_session_names(open_store):
    """Callers choose both."""
    async with open_office(open_store(), mesh(MODELS)) as office:
        call, trail = await planned(
            office, session="mrs-miller", messages=[{"role": "user", "content": "Xanthippe"}]
        )
        record = record_of(call, trail, node="n", version="v", status=200, outcome="ok", ended=0.0)
        text = orjson.dumps(record).decode()

    assert "Xanthippe" not in text
    assert "miller" not in text


# -- what would be


def with_pool(**rules: Any) -> Topology:
    document = mesh(MODELS).config.model_dump(mode="json", exclude_unset=True)
    document["pools"]["chat"] |= rules
    return build_topology(MeshConfig.model_validate(document))


async def explain(office: Office, **asked: Any) -> dict[str, Any]:
    heard = await office.ask("explain", method="POST", body=orjson.dumps({"model": "chat", **asked}))
    assert heard.status == 200, heard.body
    await office.check("/ops/explain", heard, method="post")
    found: dict[str, Any] = heard.json
    return found


async def keys_of(store: Store) -> dict[bytes, bytes]:
    """Everything that the namespace holds, as it is dumped."""
    names = sorted(await store.command("KEYS", f"{store.keys._prefix}*"))
    return {name: await store.command("DUMP", name) for name in names}


@pytest.mark.parametrize(
    "strategy", ["round-robin", "stick-until-failure", "session-stickiness", "power-of-two", "latency-first"]
)
async def test_an_explanation_takes_nothing(open_store: Callable[..., Store], strategy: str):
    """No turn, no pointer, no session, no reservation: Redis holds the same bytes as before."""
    store = open_store()
    async with open_office(store, with_pool(strategy=strategy)) as office:
        await office.attempt("alpha.m")
        await office.cursors.turn("chat")
        before = await keys_of(store)
        picks = [(await explain(office, headers={"x-modelmesh-session": "s"}))["picked"] for _ in range(3)]
        after = await keys_of(store)
        turn = await office.cursors.turn("chat")

    assert before == after
    assert None not in picks
    assert turn == 1


async def test_an_explanation_tells_the_room_of_each_candidate(open_store):
    """Who would admit the request now, and when the others would; also of those that would not be asked."""
    topology = mesh({"alpha.m": {"rpm": 1}, "beta.m": {"tpm": 50}, "gamma.m": {}, "delta.m": {}})
    async with open_office(open_store(), topology) as office:
        await office.attempt("alpha.m")
        await office.ask("models/delta.m/deactivate", method="POST", body=b'{"reason": "a whim"}')
        await office.look_again()
        explained = await explain(
            office, body={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
        )
    rooms = {row["model"]: row for row in explained["headroom"]}

    assert explained["picked"] == "gamma.m"
    assert (rooms["alpha.m"]["admits"], rooms["alpha.m"]["place"]) == (False, 0)
    assert rooms["alpha.m"]["opens"] > explained["time"]
    assert (rooms["beta.m"]["admits"], rooms["beta.m"]["never"]) == (False, True)
    assert rooms["gamma.m"]["admits"]
    assert rooms["delta.m"]["place"] is None
    stages = {stage["name"]: stage for stage in explained["plans"][0]["stages"]}
    assert stages["StateFilter"]["skipped"] == [{"model": "delta.m", "reason": "a whim"}]


async def test_the_limits_of_the_pool_and_the_mesh_count_too(open_store):
    """Whoever passes them all is admitted, and nobody else."""
    topology = with_pool(limits={"tpm": 60}, models=["gamma.m"])
    async with open_office(open_store(), topology) as office:
        small = await explain(office, body={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
        large = await explain(
            office, body={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 99}
        )

    assert (small["picked"], large["picked"]) == ("gamma.m", None)
    assert [(w["name"], w["fits"]) for w in large["headroom"][0]["windows"]] == [("pool.tpm", False)]


async def test_an_explanation_of_what_cannot_be_served_says_why(open_store):
    """The error that the caller would get, with the stage that it comes from; an unknown name is refused as ever."""
    async with open_office(open_store(), mesh(MODELS)) as office:
        embedding = await explain(office, api="embeddings")
        unknown = await office.ask("explain", method="POST", body=b'{"model": "nonsense"}')
        wrong = await office.ask("explain", method="POST", body=b'{"model": "chat", "body": {"stream": 1}}')

    assert (embedding["error"], embedding["picked"]) == ("model_not_found", None)
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert wrong.status == 400


async def test_the_least_time_between_two_calls_is_a_window_too(open_store):
    """Of the model and of its account: it names the moment from which the next may come."""
    topology = mesh({"alpha.m": {"min_delta": 30}, "beta.m": {}}, accounts={"beta": {"min_delta": 60}})
    async with open_office(open_store(), topology) as office:
        before = await explain(office)
        await office.attempt("alpha.m")
        await office.attempt("beta.m")
        after = await explain(office)
    windows = {row["model"]: row["windows"][-1] for row in after["headroom"]}

    assert before["picked"] == "alpha.m"
    assert [row["windows"][-1]["fits"] for row in before["headroom"]] == [True, True]
    assert after["picked"] is None
    assert {model: window["name"] for model, window in windows.items()} == {
        "alpha.m": "min_delta",
        "beta.m": "account.min_delta",
    }
    assert 25 < windows["alpha.m"]["opens"] - after["time"] <= 31
    assert 55 < windows["beta.m"]["opens"] - after["time"] <= 61


async def make_key(office: Office, **said: Any) -> str:
    heard = await office.ask("keys", method="POST", body=orjson.dumps({"name": "billing", **said}))
    return str(heard.json["id"])


async def test_the_limits_of_a_client_key_count_too(open_store):
    """What is left of them, by its id; nothing is taken, and without the key they are not looked at."""
    store = open_store()
    async with open_office(store, mesh({"alpha.m": {}})) as office:
        key = await make_key(office, limits={"tpm": 50})
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 99}
        before = await keys_of(store)
        without = await explain(office, body=body)
        explained = await explain(office, body=body, key=key)
        after = await keys_of(store)

    assert before == after
    assert (without["picked"], without["key"]) == ("alpha.m", None)
    assert (explained["picked"], explained["key"]) == (None, {"id": key, "models": []})
    assert [(w["name"], w["limit"], w["fits"]) for w in explained["headroom"][0]["windows"]] == [
        ("key.tpm", 50, False)
    ]


async def test_what_a_client_key_may_not_do_is_told(open_store):
    """Other models, models without a price on limited money, anything once it is revoked; an id that is none is refused."""
    document = mesh({"alpha.m": {}, "beta.m": {}}).config.model_dump(mode="json", exclude_unset=True)
    del document["models"]["beta.m"]["pricing"]
    async with open_office(open_store(), build_topology(MeshConfig.model_validate(document))) as office:
        narrow = await make_key(office, models=["alpha.m"])
        spending = await make_key(office, budget={"daily_limit": 1.0})
        refused = await explain(office, model="beta.m", key=narrow)
        allowed = await explain(office, model="alpha.m", key=narrow)
        priced = await explain(office, key=spending)
        unpriced = await explain(office, model="beta.m", key=spending)
        await office.ask(f"keys/{narrow}", method="DELETE")
        revoked = await explain(office, model="alpha.m", key=narrow)
        none = await office.ask("explain", method="POST", body=b'{"model": "chat", "key": "nobody"}')

    assert (refused["error"], refused["plans"]) == ("model_not_allowed", [])
    assert allowed["picked"] == "alpha.m"
    assert [row["model"] for row in priced["headroom"] if row["place"] is not None] == ["alpha.m"]
    assert (unpriced["picked"], unpriced["error"]) == (None, "insufficient_quota")
    assert f"client key {narrow} is revoked" in revoked["message"]
    assert (none.status, none.error["code"]) == (404, "key_not_found")


async def test_a_pool_that_rather_waits_says_whether_it_would(open_store):
    """Near the limit of the preferred model, when nobody has room, or behind those that came earlier."""
    rules = {"action": "queue", "threshold": 0.8, "queue_size": 2, "max_wait": "5s"}
    topology = with_pool(rate_limit=rules, models=["alpha.m"])
    async with open_office(open_store(), topology) as office:
        free = await explain(office)
        office.signals.tell("alpha.m", (0.1, 60.0))
        near = await explain(office)
        office.signals.tell("alpha.m", (0.9, 60.0))
        for _ in range(10):
            await office.attempt("alpha.m")
        full = await explain(office)
        length = {"chat": 1}
        office.parts = replace(office.parts, queued=lambda pool: length[pool])
        office.open_again()
        behind = await explain(office)
        length["chat"] = 2
        refused = await explain(office)
    told = [view["waiting"] for view in (free, near, full, behind, refused)]

    assert [(view["waits"], view["because"]) for view in told] == [
        (False, ""),
        (True, "near_limit"),
        (True, "no_room"),
        (True, "queue"),
        (False, "queue_full"),
    ]
    assert (told[4]["pool"], told[4]["action"], told[4]["threshold"]) == ("chat", "queue", 0.8)
    assert (told[4]["max_wait_s"], told[4]["length"], told[4]["size"]) == (5.0, 2, 2)


async def test_a_pool_that_delays_has_no_queue(open_store):
    """And one that switches models never waits."""
    async with open_office(open_store(), with_pool(rate_limit={"action": "delay_request"})) as office:
        delaying = await explain(office)
    async with open_office(open_store(), with_pool(strategy="rate-limit-aware")) as office:
        switching = await explain(office)

    assert (delaying["waiting"]["action"], delaying["waiting"]["size"]) == ("delay_request", None)
    assert switching["waiting"] is None


# -- moving on


async def rotate(office: Office, **body: Any) -> Any:
    return await office.ask("pools/chat/rotate", method="POST", body=orjson.dumps(body))


async def test_a_sticky_pool_moves_its_pointer(open_store):
    """To the next active member, around the end; nobody goes to standby, and everybody is told."""
    store = open_store()
    async with open_office(store, with_pool(strategy="stick-until-failure")) as office:
        await office.ask("models/beta.m/deactivate", method="POST")
        await office.look_again()
        moved = [(await rotate(office)).json for _ in range(2)]
        current = await read_current(store, "chat")
        await office.look_again()
        states = {model["id"]: model["status"] for model in (await office.view("models"))["models"]}
        (event,) = [e for e in (await office.view("status"))["events"] if e["model"] == "gamma.m"]
        refused = await rotate(office, for_s=5)

    assert [(m["was"], m["now"], m["by"]) for m in moved] == [
        ("alpha.m", "gamma.m", "pointer"),
        ("gamma.m", "alpha.m", "pointer"),
    ]
    assert current == "alpha.m"
    assert states == {"alpha.m": "active", "beta.m": "standby", "gamma.m": "active"}
    assert event["type"] == "model_rotated"
    assert refused.status == 400


async def test_another_pool_puts_its_first_active_member_on_standby(open_store):
    """For good, or for the time that is said; the last one stays."""
    async with open_office(open_store(), with_pool(strategy="priority-selection")) as office:
        first = (await rotate(office, for_s=60, reason="new month")).json
        await office.look_again()
        second = (await rotate(office)).json
        await office.look_again()
        last = await rotate(office)
        models = {model["id"]: model for model in (await office.view("models"))["models"]}

    assert (first["was"], first["now"], first["by"]) == ("alpha.m", "beta.m", "standby")
    assert (second["was"], second["now"]) == ("beta.m", "gamma.m")
    assert (last.status, last.error["code"]) == (400, "nothing_to_rotate")
    assert models["alpha.m"]["reason"] == "new month"
    assert models["alpha.m"]["until"] > 0
    assert models["beta.m"]["until"] is None
