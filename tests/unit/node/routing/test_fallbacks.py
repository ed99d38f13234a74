"""Where a call goes on after a refusal that others need not share, and where it does not."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from node.call import Caps, Fallback
from node.routing.fallbacks import fallback_for
from shared_state.errors import (
    ContextLengthError,
    DeadlineExceededError,
    LimitReachedError,
    ProviderUnavailableError,
    RejectedRequestError,
)
from shared_state.ledger import Code, Outcome, Verdict
from tests.unit.node.house import NOW_MS, House, chat, mesh
from tests.unit.node.routing.scene import GOOD
from tests.unit.node.scripted import DONE, ScriptedTransport, event, for_ever, refused, stream, whole
from tests.unit.node.virtual_time import in_virtual_time

TOO_LONG = refused(400, code="context_length_exceeded")
FILTERED = refused(400, code="content_filter")
LARGE = {"context_window": ["large"]}


def house(
    fallbacks: dict[str, Any] | None = LARGE,
    *,
    members: tuple[str, ...] = ("alpha.m",),
    pools: dict[str, Any] | None = None,
    differing: dict[str, Any] | None = None,
    retry: dict[str, Any] | None = None,
    **scripts: Any,
) -> House:
    """The pool ``chat`` of ``members``, and further pools; ``large`` holds the model of gamma."""
    rules = {"retry": {"max_attempts": 1, **(retry or {})}}
    topology = mesh(
        *(f"{name}.m" for name in scripts),
        differing=differing,
        pools={
            "chat": {"models": list(members), "fallbacks": fallbacks or {}, **rules},
            "large": {"models": ["gamma.m"], **rules},
            **(pools or {}),
        },
    )
    return House(topology, ScriptedTransport(**scripts))


# -- which refusals


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("context_length_exceeded", "", Fallback.CONTEXT_WINDOW),
        (
            "400",
            "alpha answered 400: This model's maximum context length is 4096 tokens.",
            Fallback.CONTEXT_WINDOW,
        ),
        (None, "the request exceeds the available context size, try increasing it", Fallback.CONTEXT_WINDOW),
        (None, "prompt is too long: 208310 tokens > 200000 maximum", Fallback.CONTEXT_WINDOW),
        ("content_filter", "", Fallback.CONTENT_POLICY),
        ("content_policy_violation", "", Fallback.CONTENT_POLICY),
        ("invalid_value", "max_tokens is too large", None),
        (None, "", None),
    ],
)
def test_the_kind_of_a_refusal(code, message, kind):
    """By its code, or by the words of servers that have none."""
    assert fallback_for(RejectedRequestError(message, status=400, code=code)) is kind


def test_only_refusals_lead_to_fallbacks():
    """An outage is no refusal, whatever it says."""
    error = ProviderUnavailableError("maximum context length", status=500, code="context_length_exceeded")

    assert fallback_for(error) is None


# -- where to


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("kind", "refusal"), [("context_window", TOO_LONG), ("content_policy", FILTERED)])
@in_virtual_time
async def test_a_refusal_goes_on_where_the_pool_says(kind: str, refusal: Any, streams: bool) -> None:
    """Once, to the pool of that kind; the first model's record stays clean, and its pool's other members are not asked."""
    place = house(
        {kind: ["large"]},
        members=("alpha.m", "beta.m"),
        alpha=refusal,
        beta=whole(),
        gamma=stream(*GOOD, DONE) if streams else whole(),
    )
    await place.serve(stream=streams)

    assert place.transport.hosts == ["alpha", "gamma"]
    assert place.ledger.outcomes == [("alpha.m", Outcome.NEUTRAL), ("gamma.m", Outcome.SUCCESS)]
    assert place.reader.status == 200
    assert (place.trail.attempts, place.trail.fallback) == (2, kind)
    assert place.trail.target is not None
    assert place.trail.target.pool.id == "large"
    place.assert_clean()


@in_virtual_time
async def test_an_error_event_before_the_first_content_is_a_refusal_too() -> None:
    """A provider may find out after its head."""
    refusal = stream(event({"error": {"message": "too long", "code": "context_length_exceeded"}}))
    place = house(alpha=refusal, gamma=stream(*GOOD, DONE))
    await place.serve(stream=True)

    assert place.transport.hosts == ["alpha", "gamma"]
    assert place.reader.errors == []


@pytest.mark.parametrize(
    ("fallbacks", "refusal"),
    [(None, TOO_LONG), (LARGE, FILTERED), (LARGE, refused(400, code="invalid_value"))],
)
@in_virtual_time
async def test_without_a_fallback_of_that_kind_the_provider_has_the_last_word(
    fallbacks: Any, refusal: Any
) -> None:
    """Its own error, after one attempt."""
    place = house(fallbacks, alpha=refusal, gamma=whole())

    with pytest.raises(RejectedRequestError) as caught:
        await place.serve()
    assert orjson.loads(caught.value.body)["error"]["message"] == "scripted 400"
    assert place.transport.hosts == ["alpha"]
    assert place.trail.fallback is None


@in_virtual_time
async def test_fallbacks_are_tried_in_their_order() -> None:
    """A model, then a pool; each until one answers."""
    place = house(
        {"context_window": ["beta.m", "large"]}, alpha=TOO_LONG, beta=TOO_LONG, gamma=whole(), delta=whole()
    )
    await place.serve()

    assert place.transport.hosts == ["alpha", "beta", "gamma"]


@in_virtual_time
async def test_a_fallback_may_have_its_own() -> None:
    """Its list comes before the rest of the first one; nobody is asked twice, and no circle is endless."""
    place = house(
        {"context_window": ["large", "delta.m"]},
        pools={
            "large": {"models": ["gamma.m"], "fallbacks": {"context_window": ["beta.m", "chat"]}},
        },
        alpha=TOO_LONG,
        beta=TOO_LONG,
        gamma=TOO_LONG,
        delta=TOO_LONG,
    )
    with pytest.raises(RejectedRequestError):
        await place.serve()
    assert place.transport.hosts == ["alpha", "gamma", "beta", "delta"]
    assert {outcome for _, outcome in place.ledger.outcomes} == {Outcome.NEUTRAL}
    place.assert_clean()


@in_virtual_time
async def test_a_failing_fallback_does_not_hide_the_refusal() -> None:
    """What the caller can change is the request."""
    place = house(members=("alpha.m", "beta.m"), alpha=TOO_LONG, beta=whole(), gamma=refused(500))

    with pytest.raises(RejectedRequestError) as caught:
        await place.serve()
    assert caught.value.code == "context_length_exceeded"
    assert place.transport.hosts == ["alpha", "gamma"]


@pytest.mark.parametrize("name", ["alpha.m", "alpha/m"])
@in_virtual_time
async def test_a_request_for_one_exact_model_stays_with_it(name: str) -> None:
    """Whoever names a model wants that one."""
    place = house(alpha=TOO_LONG, gamma=whole())

    with pytest.raises(RejectedRequestError):
        await place.serve(model=name)
    assert place.transport.hosts == ["alpha"]


@in_virtual_time
async def test_fallbacks_share_the_attempts_of_the_call() -> None:
    """Ten, all together."""
    scripts = {f"p{number}": TOO_LONG for number in range(12)}
    names = [f"{name}.m" for name in scripts]
    place = house({"context_window": names}, alpha=TOO_LONG, gamma=whole(), **scripts)

    with pytest.raises(RejectedRequestError):
        await place.serve()
    assert place.trail.attempts == 10


@in_virtual_time
async def test_a_list_of_nobody_new_is_no_fallback() -> None:
    """The answer does not speak of one."""
    place = house({"context_window": ["alpha.m"]}, alpha=TOO_LONG, gamma=whole())

    with pytest.raises(RejectedRequestError):
        await place.serve()
    assert place.transport.hosts == ["alpha"]
    assert place.trail.fallback is None


@in_virtual_time
async def test_fallbacks_share_the_deadline_of_the_call() -> None:
    """That of the pool that was asked, not of those that stand in."""
    rules = {"retry": {"deadline": "100s"}, "fallbacks": {"context_window": ["beta.m"]}}
    patient = {"large": {"models": ["gamma.m"], **rules}}
    place = house(
        retry={"deadline": "5s"}, pools=patient, alpha=TOO_LONG, beta=stream(for_ever), gamma=TOO_LONG
    )
    loop = asyncio.get_running_loop()
    began = loop.time()

    with pytest.raises(DeadlineExceededError):
        await place.serve(stream=True)
    assert loop.time() - began == pytest.approx(5.0)
    place.assert_clean()


@in_virtual_time
async def test_caps_and_needs_hold_for_fallbacks_too() -> None:
    """Who may not serve at first may not serve later."""
    place = house({"context_window": ["beta.m", "large"]}, alpha=TOO_LONG, beta=whole(), gamma=whole())
    call = chat()
    call.caps = Caps(providers=frozenset({"alpha", "gamma"}))
    await place.serve(call)

    assert place.transport.hosts == ["alpha", "gamma"]


# -- a text that fits nowhere


def long_text() -> list[dict[str, Any]]:
    return [{"role": "user", "content": "lorem-ipsum " * 2000}]


def tight(**options: Any) -> House:
    return house(differing={"alpha.m": {"constraints": {"context_window": 1000}}}, alpha=whole(), **options)


@in_virtual_time
async def test_a_text_that_surely_fits_nowhere_goes_to_the_fallback_at_once() -> None:
    """Nobody is asked in vain."""
    place = tight(gamma=whole())
    await place.serve(messages=long_text())

    assert place.transport.hosts == ["gamma"]
    assert (place.trail.attempts, place.trail.fallback) == (1, "context_window")
    assert place.trail.skipped == {"alpha.m": "context_window"}


@in_virtual_time
async def test_a_text_that_fits_nowhere_and_has_no_fallback_is_refused() -> None:
    """Neither for the pool without one, nor for the exact model."""
    with pytest.raises(ContextLengthError):
        await tight(fallbacks=None, gamma=whole()).serve(messages=long_text())
    with pytest.raises(ContextLengthError):
        await tight(gamma=whole()).serve(model="alpha.m", messages=long_text())


@in_virtual_time
async def test_a_fallback_at_its_limit_says_when_to_come_back() -> None:
    """429, for waiting helps."""
    place = tight(gamma=whole())
    place.ledger.verdicts["gamma.m"] = [Verdict(Code.AT_LIMIT, NOW_MS + 9000, "rpm")]

    with pytest.raises(LimitReachedError) as caught:
        await place.serve(messages=long_text())
    assert caught.value.retry_after_s == pytest.approx(9.0)
