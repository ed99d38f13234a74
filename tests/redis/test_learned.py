"""What a provider says about its own limits tightens the books at once, and never loosens them."""

from __future__ import annotations

import asyncio

import pytest

from node.providers.learned import Learned
from shared_state.ledger import Amounts, Code, LeaseWish, Outcome
from tests.redis.ground import BIG, EPOCH_MS, SMALL, Caller, admitted, make_domain, make_pool


async def learn(bench, *learned: tuple[str, int, int]) -> None:
    await bench.attempt(Outcome.SUCCESS, learned=list(learned))


async def test_words_arrive_as_nodes_send_them(bench):
    """A node's own type of word passes the packer, both at the head of an answer and at its settlement."""
    node = bench(account={"rpm": 600})
    await learn(node, Learned("rpm", 8, 1000))
    await node.ledger.learn({SMALL: [Learned("rpm", 2, 1000)]})

    assert admitted(await node.admit_many(9)) == 2


async def test_the_provider_wins_when_it_is_stricter(bench):
    """Somebody else uses the account: only what the provider still has may be admitted."""
    node = bench(small={"rpm": 60})
    await learn(node, ("rpm", 2, 1000))
    verdicts = await node.admit_many(4)

    assert [v.code for v in verdicts] == [Code.ADMITTED] * 2 + [Code.AT_LIMIT] * 2


async def test_a_generous_provider_changes_nothing(bench):
    """Our own limit stays."""
    node = bench(small={"rpm": 3})
    await learn(node, ("rpm", 500, 1000))
    verdicts = await node.admit_many(3)

    assert [v.code for v in verdicts] == [Code.ADMITTED] * 2 + [Code.AT_LIMIT]


async def test_the_account_learns_what_the_model_does_not_limit(bench):
    """The window is looked for on the model, then on its account."""
    node = bench(account={"rpd": 100})
    await learn(node, ("rpd", 1, 1000))
    verdicts = await node.admit_many(2)

    assert [v.code for v in verdicts] == [Code.ADMITTED, Code.AT_LIMIT]


async def test_an_empty_window_that_is_not_configured_is_waited_out(bench, steered):
    """The model rests until the provider counts afresh, then comes back by itself."""
    node = bench()
    await learn(node, ("tpm", 0, 5000))
    _, refused = await node.admit()
    await steered.pass_time(5000)
    _, admitted = await node.admit()

    assert (refused.code, refused.name) == (Code.STANDBY, "rate_limited")
    assert admitted.code == Code.ADMITTED


#: Window -> tokens of one request (in, out), and what one of them takes of the window.
WINDOWS = {
    "rpm": ((5, 5), 1),
    "rpd": ((5, 5), 1),
    "tpm": ((6, 4), 10),
    "itpm": ((10, 90), 10),
    "otpm": ((90, 10), 10),
    "tpd": ((6, 4), 10),
}
_LENGTH_MS = {"m": 60_000, "d": 24 * 3600_000}


@pytest.mark.parametrize("told_by", ["settlement", "head"])
@pytest.mark.parametrize("scope", ["account", "small"])
@pytest.mark.parametrize("algorithm", ["sliding", "calendar", "token_bucket"])
@pytest.mark.parametrize("window", WINDOWS)
async def test_the_whole_cluster_obeys_at_once(steered, window, algorithm, scope, told_by):
    """Configured are 600 requests' worth, the provider says 3: at most 3 more are admitted, by whichever node, until the window is over."""
    tokens, amount = WINDOWS[window]
    limits = {window: 600 * amount, "algorithms": {window: algorithm}}
    domain = make_domain(**{scope: limits})
    nodes = [Caller(steered, domain, node=f"n{i}") for i in range(3)]
    for node in nodes:
        node.clock.observe(EPOCH_MS)
    first, _ = await nodes[0].admit(tokens=tokens)
    await steered.pass_time(300)
    told = (window, 3 * amount + amount // 2, 20_000)
    if told_by == "head":
        await nodes[0].ledger.learn({SMALL: [told]})
    used = {"tokens_in": tokens[0], "tokens_out": tokens[1]}
    learned = [told] if told_by == "settlement" else []
    await nodes[0].settle(first, pool=make_pool(), learned=learned, **used)
    batches = await asyncio.gather(*(node.admit_many(10, tokens=tokens) for node in nodes))
    await steered.pass_time(_LENGTH_MS[window[-1]] * 101 // 100 + 1000)
    later = await nodes[1].admit_many(10, tokens=tokens)

    assert sum(admitted(batch) for batch in batches) == 3
    assert {v.name for batch in batches for v in batch if v.code} == {window}
    assert admitted(later) == 10


async def test_a_race_on_the_servers_own_clock_admits_no_more(fleet):
    """Hundreds of callers on five nodes while the words arrive; what was admitted before them is not taken back."""
    domain = make_domain(account={"rpm": 600})
    nodes = fleet(5, domain)
    first, _ = await nodes[0].admit()

    async def ask(node: Caller, count: int) -> int:
        return admitted([(await node.admit())[1] for _ in range(count)])

    before = sum(await asyncio.gather(*(ask(node, 20) for node in nodes)))
    await nodes[0].settle(first, pool=make_pool(), learned=[("rpm", 3, 30_000)])
    after = sum(await asyncio.gather(*(ask(node, 20) for node in nodes)))

    assert (before, after) == (100, 3)


async def test_the_same_word_twice_takes_nothing_more(bench):
    """An older or repeated word is no stricter than what is booked already."""
    node = bench(account={"rpm": 600})
    for remaining in (5, 5, 9):
        await node.ledger.learn({SMALL: [("rpm", remaining, 0)]})
    verdicts = await node.admit_many(8)
    await node.ledger.learn({SMALL: [("rpm", 5, 0)]})

    assert admitted(verdicts) == 5
    assert (await node.used())["", "rpm"][0] == 600


async def test_what_is_held_in_leases_counts_as_left(bench):
    """A pre-paid allowance may be spent too, so it is no room on top of what the provider says."""
    node = bench(account={"rpm": 600})
    (held,) = await node.ledger.renew_leases(
        [LeaseWish(SMALL, Amounts(), Amounts(), 2, Amounts(requests=1, cost_nano=1000))],
        sequence=1,
        life_ms=60_000,
        share=2,
    )
    await node.ledger.learn({SMALL: [("rpm", 3, 0)]})
    verdicts = await node.admit_many(8)

    assert held.requests == 2
    assert admitted(verdicts) == 3
    assert sum(verdict.from_lease for verdict in verdicts) == 2


async def test_a_head_that_tells_of_an_empty_window_rests_the_model(bench):
    """The same rule as at settlement, before anything is settled."""
    node = bench()
    await node.ledger.learn({SMALL: [("tpm", 0, 5000)], BIG: [("tpm", 9, 5000)]})
    _, refused = await node.admit()
    _, other = await node.admit(BIG)

    assert (refused.code, refused.name) == (Code.STANDBY, "rate_limited")
    assert other.code == Code.ADMITTED


async def test_a_calendar_that_has_turned_is_read_again(bench, steered):
    """Words that come after midnight are booked on the new day."""
    node = bench(account={"rpd": 600})
    await node.attempt()
    await steered.pass_time(3 * 24 * 3600_000)
    await node.ledger.learn({SMALL: [("rpd", 2, 0)]})

    assert admitted(await node.admit_many(5)) == 2
