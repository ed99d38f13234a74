"""Any sequence of asks, settlements, deaths and pauses: the scripts do as the plain model says, and the promises hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared_state.config import LimitsConfig
from shared_state.domains import abandon_of_nodes
from shared_state.ledger import NOT_SENT, UNKNOWN, Ask, Code, Outcome, Settlement, Verdict
from shared_state.limits import GUARD_MS, HOUR_MS, MINUTE_MS
from tests.redis.ground import BIG, EPOCH_MS, SMALL, Caller, SteeredStore, make_domain, make_pool
from tests.redis.reference import Reference
from tests.support.valkey import ValkeyServer

T = TypeVar("T")
NODES = ("n1", "n2")
SLIDING_MS = {"rpm": MINUTE_MS, "rph": HOUR_MS, "tpm": MINUTE_MS, "tph": HOUR_MS}
POOL = make_pool()


def limits_of(**choices: list[int] | list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these limits, each with one of its values."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(of) for name, of in choices.items()})


ACCOUNT_LIMITS = limits_of(
    rpm=[4, 7], rph=[9], tpm=[150, 400], concurrency=[3, 5], rpd=[12], timezone=["Asia/Tokyo"]
)
MODEL_LIMITS = limits_of(
    rpm=[3, 5], tpm=[100, 200], tph=[500], tpd=[900], concurrency=[1, 4], min_delta=[0.05, 2]
)
PAUSES_MS = st.one_of(
    st.integers(1, 2000),
    st.sampled_from(
        [MINUTE_MS - 500, MINUTE_MS, MINUTE_MS + GUARD_MS, MINUTE_MS + GUARD_MS + 500, 5 * MINUTE_MS]
    ),
    st.sampled_from([HOUR_MS, HOUR_MS + 30_000 + GUARD_MS, 6 * HOUR_MS, 70 * HOUR_MS]),
)


@dataclass
class Call:
    """What truly happened, as a provider would log it: sent a little after admission, within the guard."""

    model: str
    at_ms: int
    sent_ms: int
    tokens: int
    counts: bool = True


class AdmissionMachine(RuleBasedStateMachine):
    """Two nodes, two models of one account, one steered clock."""

    reservations = Bundle("reservations")
    runs = 0

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any], store: SteeredStore) -> None:
        super().__init__()
        AdmissionMachine.runs += 1
        self._run = run
        self._store = store
        self._store.move_to(f"{store.clock_key}-{AdmissionMachine.runs}")
        self._now_ms = EPOCH_MS
        self._calls: dict[str, Call] = {}
        self._token = 1

    @initialize(account=ACCOUNT_LIMITS, small=MODEL_LIMITS, big=MODEL_LIMITS)
    def configure(self, account: dict[str, Any], small: dict[str, Any], big: dict[str, Any]) -> None:
        domain = make_domain(account, small, big)
        scopes = {"": account, SMALL: small, BIG: big}
        self._limits = {scope: LimitsConfig.model_validate(limits) for scope, limits in scopes.items()}
        self._model = Reference(self._limits, self._now_ms)
        self._callers = {node: Caller(self._store, domain, node=node) for node in NODES}
        for caller in self._callers.values():
            caller.clock.observe(self._now_ms)  # a run must not depend on the wall clock
        self._run(self._store.set_time(self._now_ms))

    def _expect(self, ask: Ask, *, delay_ms: int) -> int | None:
        when = self._model.admit(
            ask.reservation,
            ask.model,
            ask.tokens_in + ask.tokens_out,
            lease_ms=ask.lease_ms,
            now_ms=self._now_ms,
        )
        if when is None:
            sent_ms = self._now_ms + delay_ms
            self._calls[ask.reservation] = Call(
                ask.model, self._now_ms, sent_ms, ask.tokens_in + ask.tokens_out
            )
        return when

    @rule(
        target=reservations,
        node=st.sampled_from(NODES),
        wants=st.lists(st.tuples(st.sampled_from([SMALL, BIG]), st.integers(1, 160)), min_size=1, max_size=4),
        lease_ms=st.sampled_from([1000, 45_000, 600_000]),
        delay_ms=st.integers(0, GUARD_MS),
    )
    def ask(self, node: str, wants: list[tuple[str, int]], lease_ms: int, delay_ms: int) -> str:
        """One batch; the last of its reservations is what other rules go on with."""
        caller = self._callers[node]
        asks = [caller.ask(m, tokens=(n // 2, n - n // 2), lease_ms=lease_ms) for m, n in wants]
        verdicts = self._run(caller.ledger.admit(asks))
        self._model.expire(self._now_ms)
        for ask, verdict in zip(asks, verdicts, strict=True):
            when = self._expect(ask, delay_ms=delay_ms)
            assert (verdict.code, verdict.at_ms) == _as_reply(when), (verdict, when)
            if verdict.code == Code.AT_LIMIT:
                self._check_that_it_was_nearly_full(ask, verdict)
        return asks[-1].reservation

    def _check_that_it_was_nearly_full(self, ask: Ask, verdict: Verdict) -> None:
        """A sliding window holds back for no longer than a bucket and the guard."""
        length_ms = SLIDING_MS.get(verdict.name)
        if length_ms is None or verdict.name.startswith("t"):
            return
        since_ms = self._now_ms - length_ms - length_ms // 120 - GUARD_MS
        assert any(
            self._count(scope, since_ms, self._now_ms, by_admission=True) >= limit
            for scope in ("", ask.model)
            if (limit := getattr(self._limits[scope], verdict.name)) is not None
        )

    @rule(reservation=reservations, node=st.sampled_from(NODES))
    def ask_again(self, reservation: str, node: str) -> None:
        """The reply was lost: the same ask, over another node's connection."""
        held = self._model.flight.get(reservation)
        if held is None or held.expires_ms <= self._now_ms:
            return
        self._model.expire(self._now_ms)
        again = self._callers[node].ask(held.model, tokens=(9, 9), reservation=reservation, resent=True)
        (verdict,) = self._run(self._callers[node].ledger.admit([again]))
        assert verdict == Verdict(Code.ADMITTED)

    @rule(
        reservation=consumes(reservations),
        tokens=st.one_of(st.just(UNKNOWN), st.integers(0, 200)),
        is_sent=st.booleans(),
        delay_ms=st.sampled_from([0, 0, 0, 700, 20_000]),
        times=st.integers(1, 2),
    )
    def settle(self, reservation: str, tokens: int, is_sent: bool, delay_ms: int, times: int) -> None:
        """Once or twice; twice changes no more than once."""
        call = self._calls.get(reservation)
        settlement = Settlement(
            reservation,
            call.model if call else SMALL,
            POOL,
            Outcome.SUCCESS if is_sent else Outcome.NEUTRAL,
            tokens_in=tokens,
            tokens_out=UNKNOWN if tokens == UNKNOWN else 0,
            flags=0 if is_sent else NOT_SENT,
            dispatch_delay_ms=delay_ms if is_sent else 0,
        )
        was_open = self._model.settle(
            reservation, tokens, is_sent=is_sent, delay_ms=delay_ms if is_sent else 0, now_ms=self._now_ms
        )
        for i in range(times):
            (applied,) = self._run(self._callers["n1"].ledger.settle([settlement]))
            assert applied is (was_open and i == 0)
        if call and was_open:
            call.counts = is_sent and not delay_ms
            if tokens != UNKNOWN:
                call.tokens = min(call.tokens, tokens)

    @rule(node=st.sampled_from(NODES))
    def bury(self, node: str) -> None:
        """A node dies and the reaper comes; its late settlements change nothing, which `settle` checks."""
        dead = [r for r in self._model.flight if r.startswith(f"{node}.")]
        self._model.abandon(dead)
        assert self._run(abandon_of_nodes(self._store, "alpha", {node}, token=self._token)) == len(dead)

    @rule(pause_ms=PAUSES_MS)
    def pass_time(self, pause_ms: int) -> None:
        self._now_ms += pause_ms
        self._run(self._store.set_time(self._now_ms))

    @precondition(lambda self: self._calls)
    @rule(model=st.sampled_from([SMALL, BIG]), tokens=st.integers(1, 100))
    def wait_as_told(self, model: str, tokens: int) -> None:
        """The named time is true: just before it the same ask is refused, then it is admitted."""
        verdict = self._ask_and_compare(model, tokens)
        if verdict.at_ms <= 0 or verdict.code != Code.AT_LIMIT:
            return
        self.pass_time(verdict.at_ms - 1 - self._now_ms)
        assert self._ask_and_compare(model, tokens) == verdict
        self.pass_time(1)
        self._model.expire(self._now_ms)
        is_full = self._model.is_full("") or self._model.is_full(model)
        assert (self._ask_and_compare(model, tokens).code == Code.ADMITTED) is not is_full

    def _ask_and_compare(self, model: str, tokens: int) -> Verdict:
        ask = self._callers["n1"].ask(model, tokens=(tokens, 0))
        (verdict,) = self._run(self._callers["n1"].ledger.admit([ask]))
        self._model.expire(self._now_ms)
        assert (verdict.code, verdict.at_ms) == _as_reply(self._expect(ask, delay_ms=0))
        return verdict

    @rule()
    def look_at_the_windows(self) -> None:
        """What is used in each window is what the model says."""
        used = self._run(self._callers["n2"].used())
        for scope, meters in self._model.meters.items():
            for meter in meters:
                if meter.name != "min_delta":
                    assert used[scope, meter.name][0] == meter.used(self._now_ms), (scope, meter.name)
            if self._limits[scope].concurrency is not None:
                assert used[scope, "concurrency"][0] == self._model.in_flight(scope)

    @invariant()
    def the_books_balance(self) -> None:
        if not self._calls:
            return
        books = self._run(self._callers["n1"].books())
        totals = [
            sum(getattr(row, name) for row in books.rows) for name in ("admitted", "settled", "abandoned")
        ]
        assert books.is_balanced
        assert totals == [self._model.admitted, self._model.settled, self._model.abandoned]
        assert books.leases == len(self._model.flight)

    def teardown(self) -> None:
        """No interval of a window's true length ever held more than the limit, as the provider's log shows."""
        for scope in ("", SMALL, BIG) if self._calls else ():
            for name, length_ms in SLIDING_MS.items():
                limit = getattr(self._limits[scope], name)
                if limit is None:
                    continue
                for call in self._calls.values():
                    amount = self._count(
                        scope, call.sent_ms, call.sent_ms + length_ms - 1, in_tokens=name.startswith("t")
                    )
                    assert amount <= limit, (scope, name)

    def _count(
        self, scope: str, first_ms: int, last_ms: int, *, in_tokens: bool = False, by_admission: bool = False
    ) -> int:
        """Calls or tokens of an interval, without what was not sent and what was reported as sent late."""
        return sum(
            call.tokens if in_tokens else 1
            for call in self._calls.values()
            if scope in ("", call.model)
            and (call.counts or by_admission)
            and first_ms <= (call.at_ms if by_admission else call.sent_ms) <= last_ms
        )


def _as_reply(when: int | None) -> tuple[Code, int]:
    if when is None:
        return Code.ADMITTED, 0
    return (Code.TOO_LARGE if when == -1 else Code.AT_LIMIT), when


def test_the_scripts_do_as_the_model_says(valkey_server: ValkeyServer, namespace: str) -> None:
    """Some hundred lives of a quota domain, drawn by hypothesis and shrunk to the shortest that fails."""
    with asyncio.Runner() as runner:
        store = SteeredStore(valkey_server.url, namespace=namespace, clock_key=f"{namespace}-machine")
        try:
            run_state_machine_as_test(
                lambda: AdmissionMachine(runner.run, store),
                settings=settings(
                    max_examples=60,
                    stateful_step_count=30,
                    deadline=None,
                    database=None,
                    phases=(Phase.generate, Phase.shrink),
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(store.aclose())
