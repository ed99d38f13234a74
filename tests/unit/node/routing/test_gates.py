"""Gates: admitted once before the candidates, settled once with the sum, given back when nobody was asked."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from node.routing.interrupts import Interrupts
from shared_state.client_keys import ClientKey
from shared_state.errors import (
    AllProvidersExhaustedError,
    BudgetExceededError,
    LimitReachedError,
    ModelMeshError,
    StateUnavailableError,
)
from shared_state.ledger import (
    ESTIMATED,
    LEASED,
    NOT_SENT,
    Amounts,
    Code,
    LeaseWish,
    Outcome,
    Settlement,
    Verdict,
)
from tests.unit.node.house import NOW_MS, House, chat, mesh
from tests.unit.node.scripted import DONE, FINISH, USAGE, ScriptedTransport, chunk, refused, stream, whole
from tests.unit.node.virtual_time import in_virtual_time

POOL, MESH = "pool:chat", "mesh:budget"
CHEAP = {"pricing": {"input": 1.0, "output": 2.0}}
DEAR = {"pricing": {"input": 1.0, "output": 20.0}}
LIMITED = {"limits": {"rpm": 60, "tpm": 100_000}, "retry": {"max_attempts": 1}}
AWAY = Verdict(Code.STORE_AWAY)


def gated(pool: dict[str, Any] | None = None, **scripts: Any) -> House:
    """A limited pool of one model per provider; the second one is dearer."""
    models = [f"{name}.m" for name in scripts]
    topology = mesh(
        *models,
        model=CHEAP,
        differing={models[-1]: DEAR} if len(models) > 1 else None,
        pool={**LIMITED, **(pool or {})},
    )
    return House(topology, ScriptedTransport(**scripts))


def charged(settlement: Settlement) -> tuple[int, int, int]:
    return settlement.tokens_in, settlement.tokens_out, settlement.cost_nano


# -- once in, once out


@in_virtual_time
async def test_a_pool_admits_with_the_most_that_any_candidate_may_need() -> None:
    """One reservation for the call; the dearest candidate says what money may be needed."""
    place = gated(alpha=whole(), beta=whole())
    call = chat(max_tokens=100)
    await place.serve(call)
    (ask,) = place.at_gate(POOL).asks

    assert (ask.model, ask.pool, ask.tokens_out) == ("*", "", 100)
    assert ask.tokens_in == -(-call.body_bytes // 2)
    assert ask.cost_nano == ask.tokens_in * 1000 + 100 * 20_000
    assert ask.lease_ms == 320_000 + 120_000
    place.assert_clean()


@in_virtual_time
async def test_it_is_settled_with_what_was_used() -> None:
    """Nobody's fault, whatever the outcome: a gate has no health."""
    place = gated(alpha=whole(usage=(7, 3)))
    await place.serve()
    (settled,) = place.at_gate(POOL).settled

    assert (settled.outcome, settled.flags, charged(settled)) == (Outcome.NEUTRAL, 0, (7, 3, 13_000))
    place.assert_clean()


@in_virtual_time
async def test_attempts_that_cost_nothing_share_one_reservation() -> None:
    """Three candidates were tried, one call was counted."""
    place = gated(alpha=refused(500), beta=refused(429), gamma=whole(usage=(7, 3)))
    await place.serve()
    (settled,) = place.at_gate(POOL).settled

    assert len(place.at_gate(POOL).asks) == 1
    assert charged(settled) == (7, 3, 67_000)


@in_virtual_time
async def test_an_attempt_that_may_be_billed_counts_in_full_and_the_next_is_admitted_anew() -> None:
    """Both may be on the bill, so both must fit into the limit."""
    place = gated(alpha=stream(chunk(""), httpx.ReadError("cut")), beta=whole(usage=(7, 3)))
    place.transport._scripts["beta"] = [stream(chunk("one"), FINISH, USAGE, DONE)]
    call = chat(stream=True, max_tokens=100)
    await place.serve(call)
    first, second = place.at_gate(POOL).settled
    tokens_in = -(-call.body_bytes // 2)

    assert charged(first) == (tokens_in, 100, tokens_in * 1000 + 100 * 2000)
    assert charged(second) == (7, 3, 67_000)
    assert [ask.reservation for ask in place.at_gate(POOL).asks] == [first.reservation, second.reservation]
    place.assert_clean()


@in_virtual_time
async def test_the_second_admission_may_be_refused() -> None:
    """The gate's own answer, for it is what stands in the way now."""
    place = gated(alpha=stream(chunk(""), httpx.ReadError("cut")), beta=whole())
    place.at_gate(POOL).verdicts["*"] = [Verdict(Code.ADMITTED), Verdict(Code.AT_LIMIT, NOW_MS + 5000, "tpm")]

    with pytest.raises(ModelMeshError):
        await place.serve(stream=True)
    assert place.transport.hosts == ["alpha"]
    place.assert_clean()


@pytest.mark.parametrize("verdict", [Verdict(Code.AT_LIMIT, NOW_MS + 1000, "rpm"), AWAY])
@in_virtual_time
async def test_it_is_given_back_when_no_candidate_admits(verdict: Verdict) -> None:
    """A refused call consumes nothing anywhere."""
    place = gated(alpha=whole(), pool={"limits": {"rpm": 1}})
    place.ledger.verdicts["alpha.m"] = [verdict]
    place.allowances["alpha.m"].spend = lambda ask: False  # type: ignore[method-assign]
    if verdict is AWAY:
        place = _limited_model(place)

    with pytest.raises((LimitReachedError, StateUnavailableError)):
        await place.serve()
    (settled,) = place.at_gate(POOL).settled
    assert settled.flags == NOT_SENT
    place.assert_clean()


def _limited_model(place: House) -> House:
    topology = mesh("alpha.m", model={"limits": {"rpm": 1}}, pool={"limits": {"rpm": 1}})
    other = House(topology, place.transport)
    other.ledger.verdicts["alpha.m"] = [AWAY]
    return other


@in_virtual_time
async def test_it_is_given_back_when_nothing_was_sent() -> None:
    """Nobody listens at the provider: nothing can be on a bill."""
    place = gated(alpha=httpx.ConnectError("refused"))

    with pytest.raises(AllProvidersExhaustedError):
        await place.serve()
    (settled,) = place.at_gate(POOL).settled
    assert settled.flags == NOT_SENT
    place.assert_clean()


@in_virtual_time
async def test_a_caller_who_leaves_is_charged() -> None:
    """The answer was not complete: what was reserved may be on the bill."""
    place = gated(alpha=stream(chunk("one"), lambda: asyncio.sleep(1000)))
    task = place.start(stream=True, max_tokens=50)
    await asyncio.sleep(1)
    assert place.interrupts is not None
    place.interrupts.client_left()

    with pytest.raises(ModelMeshError):
        await task
    (settled,) = place.at_gate(POOL).settled
    assert settled.tokens_out == 50
    place.assert_clean()


@in_virtual_time
async def test_attempts_side_by_side_each_have_their_part() -> None:
    """A second one while the first is under way needs a reservation of its own; the sum is settled once."""
    place = gated(alpha=whole())
    call = chat(max_tokens=100)
    plan = await place.pipeline.plan(call)
    task = asyncio.current_task()
    assert task is not None
    interrupts, (target,) = Interrupts(task), plan.targets
    walk = place.router._gates.walk(plan)  # type: ignore[union-attr]
    assert walk is not None
    for _ in range(2):
        assert await walk.admit(target, interrupts, call.started + 60) is None
    used = Settlement("r1", "alpha.m", target.pool.config, Outcome.SUCCESS, 7, 3, 13_000, flags=ESTIMATED)
    walk.leave(target, used)
    walk.leave(target, None)
    assert place.at_gate(POOL).settled == []
    walk.end()
    interrupts.close()
    gate = place.at_gate(POOL)

    assert [ask.reservation for ask in gate.asks] == [settled.reservation for settled in gate.settled]
    assert [charged(settled) for settled in gate.settled] == [(7, 3, 13_000), (0, 0, 0)]
    assert [settled.flags for settled in gate.settled] == [ESTIMATED, ESTIMATED]
    assert gate.open == set()


# -- refusals


@pytest.mark.parametrize(
    ("verdict", "error", "code"),
    [
        (Verdict(Code.AT_LIMIT, NOW_MS + 4000, "rpm"), LimitReachedError, "rate_limit_exceeded"),
        (Verdict(Code.TOO_LARGE, -1, "tpm"), LimitReachedError, "request_too_large_for_limit"),
        (Verdict(Code.AT_LIMIT, NOW_MS + 4000, "usd_per_day"), BudgetExceededError, "insufficient_quota"),
        (AWAY, StateUnavailableError, "state_unavailable"),
    ],
)
@in_virtual_time
async def test_a_closed_pool_is_the_answer_where_there_is_no_other(
    verdict: Verdict, error: type[ModelMeshError], code: str
) -> None:
    """With the earliest time at which it makes sense again; nobody was asked."""
    place = gated(alpha=whole())
    place.at_gate(POOL).verdicts["*"] = [verdict]

    with pytest.raises(error) as caught:
        await place.serve()
    assert caught.value.code == code
    assert caught.value.retry_after_s == (4.0 if verdict.at_ms > 0 else 1.0)
    assert place.ledger.asks == []
    assert place.transport.requests == []
    place.assert_clean()


def two_pools(**rules: Any) -> House:
    """``first`` and ``second`` serve the same capability; the first has limits."""
    topology = mesh(
        "alpha.m",
        "alpha.n",
        "beta.m",
        model=CHEAP,
        pools={
            "first": {"capability": "chat-completion", "providers": ["alpha"], "limits": {"rpm": 9}, **rules},
            "second": {"capability": "chat-completion", "providers": ["beta"]},
        },
    )
    return House(topology, ScriptedTransport(alpha=whole(), beta=whole()))


@pytest.mark.parametrize(
    ("window", "rules", "serves"),
    [
        ("rpm", {}, True),
        ("rpm", {"on_budget_exceeded": "error"}, True),
        ("usd_per_day", {}, False),
        ("usd_per_day", {"on_budget_exceeded": "error"}, False),
        ("usd_per_day", {"on_budget_exceeded": "rotate"}, True),
    ],
)
@in_virtual_time
async def test_another_pool_takes_over_unless_money_is_spent(
    window: str, rules: dict[str, Any], serves: bool
) -> None:
    """A pool's rate limit rotates; its money does so where it says ``rotate``. Its other models are not asked again."""
    place = two_pools(**rules)
    place.at_gate("pool:first").verdicts["*"] = [Verdict(Code.AT_LIMIT, NOW_MS + 4000, window)]

    if serves:
        await place.serve(model="chat-completion")
        assert place.transport.hosts == ["beta"]
        assert place.trail.skipped == {"alpha.m": f"pool:{window}", "alpha.n": f"pool:{window}"}
    else:
        with pytest.raises(BudgetExceededError):
            await place.serve(model="chat-completion")
        assert place.transport.requests == []
    assert len(place.at_gate("pool:first").asks) == 1
    place.assert_clean()


@pytest.mark.parametrize("rule", [None, "rotate", "error"])
@in_virtual_time
async def test_money_of_a_model_rotates_unless_the_pool_says_error(rule: str | None) -> None:
    """By itself the next model serves; with ``error`` the caller hears of it at once."""
    pool = {} if rule is None else {"on_budget_exceeded": rule}
    place = House(
        mesh("alpha.m", "beta.m", model=CHEAP, pool=pool), ScriptedTransport(alpha=whole(), beta=whole())
    )
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.AT_LIMIT, NOW_MS + 9000, "usd_per_day")]

    if rule == "error":
        with pytest.raises(BudgetExceededError) as caught:
            await place.serve()
        assert (caught.value.limit_type, caught.value.retry_after_s) == ("daily", 9.0)
    else:
        await place.serve()
    assert place.transport.hosts == ([] if rule == "error" else ["beta"])


@in_virtual_time
async def test_a_budget_that_is_only_counted_needs_neither_a_lease_nor_a_bound() -> None:
    """Redis is away: nothing is limited, so the call goes out, and nobody cuts its answer short."""
    watched = {"budget": {"daily_limit": 1, "enforce": False}}
    place = House(mesh("alpha.m", model=CHEAP | watched, pool=watched), ScriptedTransport(alpha=whole()))

    assert not place._lanes()["alpha.m"].is_limited
    assert not place._lanes()["alpha.m"].spends_money
    await place.serve()
    assert place.at_gate("pool:chat").asks


# -- the whole mesh


@in_virtual_time
async def test_the_budget_of_the_mesh_stands_before_every_pool() -> None:
    """A pool behind it is not even asked."""
    topology = mesh("alpha.m", model=CHEAP, pool={"limits": {"rpm": 9}}, budget={"daily_limit": 5})
    place = House(topology, ScriptedTransport(alpha=whole(usage=(7, 3))))
    await place.serve()
    place.at_gate(MESH).verdicts["*"] = [Verdict(Code.AT_LIMIT, NOW_MS + 9000, "usd_per_day")]

    with pytest.raises(BudgetExceededError, match="whole mesh"):
        await place.serve()
    assert charged(place.at_gate(MESH).settled[0]) == (7, 3, 13_000)
    assert len(place.at_gate(POOL).asks) == 1
    place.assert_clean()


# -- client keys


def key(**fields: Any) -> ClientKey:
    return ClientKey.model_validate({"id": "k1", "name": "billing", "created": 0.0, **fields})


@in_virtual_time
async def test_a_key_is_admitted_for_all_candidates_of_all_pools() -> None:
    """One reservation that reaches for whoever answers; one settlement."""
    place = two_pools()
    place.ledger.verdicts["alpha.m"] = [Verdict(Code.AT_LIMIT, NOW_MS + 1, "rpm")]
    place.ledger.verdicts["alpha.n"] = [Verdict(Code.AT_LIMIT, NOW_MS + 1, "rpm")]
    await place.serve(chat(model="chat-completion", key=key(limits={"rpm": 5})))
    at_key, at_pool = place.at_gate("key:k1"), place.at_gate("pool:first")

    assert [charged(settled) for settled in at_key.settled] == [(7, 3, 13_000)]
    assert [settled.flags for settled in at_pool.settled] == [NOT_SENT]
    place.assert_clean()


@pytest.mark.parametrize(
    ("window", "error", "code"),
    [
        ("rpm", LimitReachedError, "rate_limit_exceeded"),
        ("tpd", LimitReachedError, "rate_limit_exceeded"),
        ("usd_per_month", BudgetExceededError, "insufficient_quota"),
    ],
)
@in_virtual_time
async def test_a_key_at_its_limit_is_the_answer(window: str, error: type[ModelMeshError], code: str) -> None:
    """No pool and no model is asked; the time is the key's own."""
    place = gated(alpha=whole())
    call = chat(key=key(limits={"rpm": 5}))
    place._key_gate(call.key)  # type: ignore[arg-type]
    place.at_gate("key:k1").verdicts["*"] = [Verdict(Code.AT_LIMIT, NOW_MS + 30_000, window)]

    with pytest.raises(error) as caught:
        await place.serve(call)
    assert (caught.value.code, caught.value.retry_after_s) == (code, 30.0)
    assert "client key k1" in caught.value.message
    assert place.at_gate(POOL).asks == place.ledger.asks == []
    place.assert_clean()


@in_virtual_time
async def test_a_key_with_money_uses_no_model_without_a_price() -> None:
    """What costs nobody knows how much cannot be charged."""
    topology = mesh("alpha.m", "beta.m", differing={"beta.m": CHEAP})
    place = House(topology, ScriptedTransport(alpha=whole(), beta=whole()))
    await place.serve(chat(key=key(limits={"usd_per_day": 5})))

    assert place.transport.hosts == ["beta"]
    assert place.trail.skipped == {"alpha.m": "unpriced"}
    with pytest.raises(BudgetExceededError, match="no model of 'alpha.m' has a price"):
        await place.serve(chat(model="alpha.m", key=key(limits={"usd_per_day": 5})))
    place.assert_clean()


@in_virtual_time
async def test_a_small_token_window_cuts_an_unstated_bound() -> None:
    """Else a key with a small window would never be let in; a stated bound stands."""
    place = House(mesh("alpha.m", model=CHEAP), ScriptedTransport(alpha=whole()))
    small = key(limits={"tpm": 1000})
    await place.serve(chat(key=small))
    await place.serve(chat(key=small, max_tokens=5000))
    cut, stated = place.at_gate("key:k1").asks

    assert cut.tokens_in + cut.tokens_out == 1000
    assert stated.tokens_out == 5000
    assert place.ledger.asks[0].tokens_out == 4096


# -- without Redis


@in_virtual_time
async def test_without_redis_a_gate_spends_what_it_holds() -> None:
    """Paid in advance, booked later, and not a call more."""
    place = gated(alpha=whole())
    place.watch.connected = False
    place.at_gate(POOL).verdicts["*"] = [AWAY] * 2
    place.ledger.verdicts["alpha.m"] = [AWAY] * 2
    held = Amounts(1, 10_000, 10_000, 10_000, 10**12)
    now = asyncio.get_running_loop().time()
    place.gates[POOL].allowance.renewed(LeaseWish("*", Amounts(), Amounts(), 1, held), held, asked_at=now)

    await place.serve()
    (settled,) = place.at_gate(POOL).settled
    assert settled.flags == LEASED
    with pytest.raises(StateUnavailableError):
        await place.serve()
    assert len(place.transport.requests) == 1
    place.assert_clean()


# -- no gates


@in_virtual_time
async def test_a_pool_without_limits_has_no_gate() -> None:
    """Nothing is asked that nobody limits."""
    place = House(mesh("alpha.m"), ScriptedTransport(alpha=whole()))
    await place.serve()

    assert place.gates == {}
    assert [ask.reservation for ask in place.ledger.asks] == ["r1"]
