"""What a provider says about its own limits tightens the books at once, and never loosens them."""

from __future__ import annotations

from shared_state.ledger import Code, Outcome


async def learn(bench, *learned: tuple[str, int, int]) -> None:
    await bench.attempt(Outcome.SUCCESS, learned=list(learned))


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
