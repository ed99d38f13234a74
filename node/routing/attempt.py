"""One attempt on one target: send, relay the answer, and settle once whatever happens."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn

import httpx
import orjson

from node.call import Call, Kind, Reply, Target, Trail
from node.providers.classify import classify_event
from node.providers.connector import translate, unary_fields
from node.providers.learned import Learned, fresh, limit_headers
from node.providers.taps import Tap, drain, open_tap, until_content
from node.providers.usage import Usage, cost_nano, usage_from
from node.providers.web import WebApi, tokens_told, told_in_our_words
from node.routing.bridge import bridged
from node.routing.comfort import Comfort
from node.routing.estimate import prompt_tokens
from node.routing.interrupts import Cause, Interrupted, Interrupts
from node.routing.lanes import Lane
from node.routing.outcomes import outcome_of, pause_s, reset_s
from node.upstream import content_type, parts_of, raw_headers
from shared_state.catalogue.dialects import dialect_of
from shared_state.errors import (
    AdmissionLapsedError,
    ApiMissingError,
    OutputOverrunError,
    ProviderError,
    ProviderProtocolError,
    ProviderTimeoutError,
)
from shared_state.ledger import ESTIMATED, LEASED, NOT_SENT, STREAM, Outcome, Settlement

_SETTLE_WAIT_S: Final = 0.1
#: How far a stream may go beyond what was reserved: providers count tokens, we count pieces.
_OVERRUN: Final = 1.1
_OVERRUN_PIECES: Final = 32
_NO_BOUND: Final = sys.maxsize
_NO_ROUTE: Final = frozenset({404, 405, 501})
_BYTES: Final = b"application/octet-stream"
_JSON: Final = b"application/json"
#: From asking for admission to the first byte; well below the time after which a silent node's reservations are given to others.
_ADMISSION_LIFE_S: Final = 2.0


class Attempt:
    """Carries one admitted reservation to its settlement.

    Attributes:
        limits_told: headers of the provider's answer that tell of its limits.
    """

    def __init__(
        self,
        call: Call,
        target: Target,
        lane: Lane,
        reservation: str,
        reply: Reply,
        interrupts: Interrupts,
        trail: Trail,
        *,
        deadline: float,
        asked: float,
        passport: bytes = b"",
        is_reserved: bool = True,
        most_out: int | None = None,
    ) -> None:
        self._caller = reply
        self._call, self._reply = bridged(call, target.model, lane.connector.provider, reply)
        self._web = lane.connector.web_api(call.surface)
        self._target = target
        self._lane = lane
        self._reservation = reservation
        self._interrupts = interrupts
        self._trail = trail
        self._deadline = deadline
        self._asked = asked
        self._passport = passport
        self._loop = interrupts.loop
        self._admitted = self._loop.time()
        self._sent = self._admitted
        self._is_sent = False
        self._first_content = 0.0
        self._usage: Usage | None = None
        self._learned: list[Learned] = []
        self._learned_at = self._admitted
        self._is_reserved = is_reserved
        self._most_pieces = (
            _NO_BOUND
            if most_out is None or not call.surface.is_metered
            else round(most_out * _OVERRUN) + _OVERRUN_PIECES
        )
        #: What it has come to, once it is settled.
        self.settlement: Settlement | None = None
        self.limits_told: dict[str, str] = {}

    @property
    def ends(self) -> tuple[Reply, Trail, Interrupts]:
        """Whom it answers, where it leaves its trail, what may interrupt it."""
        return self._caller, self._trail, self._interrupts

    @property
    def waited_s(self) -> float:
        """From admission to the first content, or until now."""
        return (self._first_content or self._loop.time()) - self._admitted

    async def run(self) -> None:
        """Sends the call and passes the answer on.

        Raises:
            ProviderError: it failed before any content; another attempt may follow.
            Interrupted: the caller left, or the request's deadline passed.
        """
        settlement = Settlement(
            self._reservation,
            self._target.model.id,
            self._target.pool.config,
            Outcome.NEUTRAL,
            pool_id=self._target.pool.id,
        )
        try:
            await self._relay()
        except ProviderError as error:
            self._lane.connector.mask.clean(error)
            self._trail.may_be_billed |= error.may_be_billed
            self._settle_failure(settlement, error)
            # Whoever tries next, here or on another node, acts on what has just been learned.
            await self._lane.batcher.until_settled(_SETTLE_WAIT_S)
            if self._trail.first_content:
                await self._end_with_error(error)
            else:
                raise
        except BaseException:
            # The caller left or the deadline passed: nobody is blamed; if the answer was not complete, what was reserved is charged.
            self._trail.may_be_billed |= self._is_sent
            if not self._is_sent:
                settlement.flags |= NOT_SENT
            self._settle(settlement, self._usage)
            raise
        else:
            settlement.outcome = Outcome.SUCCESS
            self._settle(settlement, self._usage)

    async def _relay(self) -> None:
        call = self._call
        comfort = Comfort(self._reply, self._trail, call.surface.voice) if call.is_stream else None
        try:
            self._start_clock()
            with self._interrupts:
                response = await self._send()
            self._heed(limit_headers(raw_headers(response)))
            if comfort is not None or self._call.kind is Kind.BYTES:
                self._learn_early()
                await self._relay_stream(response, comfort)
            else:
                await self._relay_whole(response)
        except Interrupted as interrupted:
            if interrupted.cause in (Cause.GONE, Cause.DEADLINE):
                raise
            raise ProviderTimeoutError(
                f"{self._target.model.provider} exceeded its {interrupted.cause} time", sent=self._is_sent
            ) from None
        finally:
            if comfort is not None:
                await comfort.stop()

    async def _send(self) -> httpx.Response:
        """The answer; where it is not sure that the provider has this API, a route that it does not know is nobody's failure.

        The request lives no longer than this: a stream may take minutes, and what was asked may be long.
        """
        connector, model, trace = self._lane.connector, self._target.model, self._call.trace
        try:
            return await connector.send(
                connector.request(
                    self._call,
                    model,
                    passport=self._passport,
                    traceparent=b"" if trace is None else trace.begin(self._reservation, model),
                    on_send=self._begin_sending,
                ),
                self._web,
            )
        except ProviderError as error:
            surface = self._call.surface
            if error.status not in _NO_ROUTE or surface.is_sure(model.capabilities):
                raise
            message = f"{model.provider} has no {surface.name} API for {model.id!r} ({error.status})"
            raise ApiMissingError(message, status=404) from error

    def _heed(self, told: dict[str, str]) -> None:
        """What the provider says of its limits; most say nothing."""
        if told:
            self.limits_told = told
            self._learned = self._lane.connector.heed(told, self._target.model)
            self._learned_at = self._loop.time()

    def _learn_early(self) -> None:
        """A stream may take minutes to settle; what its head says about limits holds for everybody from now on."""
        if self._learned and self._lane.batcher.learn(self._target.model.id, self._learned):
            self._learned = []

    def _begin_sending(self) -> None:
        """The provider counts from here on. Not with an old admission: if this process slept, others may have taken its place."""
        self._sent = self._loop.time()
        self._is_sent = True
        if self._sent - self._asked > _ADMISSION_LIFE_S:
            raise AdmissionLapsedError(f"{self._target.model.provider} could not be called in time")

    def _start_clock(self) -> None:
        clocks, now = self._lane.clocks, self._loop.time()
        longest, cause = (
            (clocks.first_token, Cause.FIRST_TOKEN)
            # An answer of one token is a first token; a sound or an image is not.
            if self._call.is_stream or (self._call.is_probe and self._call.surface.is_metered)
            else (clocks.total, Cause.TOTAL)
        )
        if self._deadline <= now + longest:
            self._interrupts.set_clock(self._deadline, Cause.DEADLINE)
        else:
            self._interrupts.set_clock(now + longest, cause)

    # -- answers in one piece

    async def _relay_whole(self, response: httpx.Response) -> None:
        connector = self._lane.connector
        with self._interrupts:
            body = await connector.read(response)
        if self._web is not None:
            body = self._translate(self._web, unary_fields(body, provider=connector.provider.id))
        elif self._call.kind is Kind.OBJECT or content_type(response).startswith(_JSON):
            self._understand(unary_fields(body, provider=connector.provider.id))
        self._trail.first_content = self._first_content = self._loop.time()
        kind = content_type(response) or b"application/json"
        self._wait_for_reader(self._loop.time() + self._lane.clocks.total)
        with self._interrupts:
            await self._reply.whole(200, kind, body, self._trail)

    def _understand(self, fields: dict[str, Any]) -> None:
        """Usage of an answer in JSON; where a text is asked for some wrap it all the same."""
        surface = self._call.surface
        if surface.proof not in fields and (fields.get("error") or self._call.kind is Kind.OBJECT):
            self._refuse_answer(fields)
        self._usage = usage_from(surface.usage_of(fields))

    def _translate(self, api: WebApi, given: dict[str, Any]) -> bytes:
        """The answer of a service of the web in our words, and its usage."""
        if api.proof.isdisjoint(given):
            self._refuse_answer(given)
        answer = told_in_our_words(api, given, self._call, self._target.model)
        self._usage = tokens_told(answer, self._target.model)
        return orjson.dumps(answer)

    # -- streams

    async def _relay_stream(self, response: httpx.Response, comfort: Comfort | None) -> None:
        """Events, or bytes, of which no comfort may be a part."""
        provider = self._lane.connector.provider.id
        kind = content_type(response)
        if not kind.startswith(b"text/event-stream") if comfort is not None else kind.startswith(_JSON):
            with self._interrupts:
                body = await self._lane.connector.read(response)
            self._refuse_answer(unary_fields(body, provider=provider))
        tap = open_tap(self._call, provider)
        parts = parts_of(response)
        try:
            with self._interrupts:
                held = await until_content(parts, tap)
            if comfort is not None:
                await comfort.stop()
            self._first_content = self._trail.first_content = self._loop.time()
            with self._interrupts:
                await self._pass_on(parts, tap, held, b"" if comfort is not None else kind or _BYTES)
                await self._reply.end()
            await drain(parts)
        except (httpx.HTTPError, OSError) as error:
            raise translate(error, provider=provider) from error
        finally:
            self._note_usage(tap)
            await response.aclose()

    async def _pass_on(self, parts: AsyncIterator[bytes], tap: Tap, held: bytes, kind: bytes) -> None:
        """Bytes go through as they come; only events count as progress, comments do not."""
        interrupts, loop, send = self._interrupts, self._loop, self._reply.part
        idle, ends = self._lane.clocks.idle, self._admitted + self._lane.clocks.total
        self._wait_for_reader(ends)
        if not self._reply.is_started:
            await self._reply.begin(self._trail, kind)
        await send(held)
        pieces, due = tap.pieces, min(loop.time() + idle, ends)
        while not tap.is_done:
            interrupts.set_clock(due, Cause.IDLE)
            part = await anext(parts, None)
            out = tap.finish() if part is None else tap.feed(part)
            began = loop.time()
            if out:
                self._wait_for_reader(ends)
                await send(out)
            if tap.pieces > self._most_pieces:
                self._stop_overrun(tap)
            now = loop.time()
            due = min(due + now - began if tap.pieces == pieces else now + idle, ends)
            pieces = tap.pieces

    def _stop_overrun(self, tap: Tap) -> NoReturn:
        """Where money is limited a stream costs what was reserved for it, not what a provider likes; what came is charged."""
        prompt = prompt_tokens(self._call, self._target.model)
        self._usage = Usage(prompt, tap.tokens, is_estimated=True)
        raise OutputOverrunError(
            f"{tap.provider} went on beyond max_tokens, and money is limited here: ended after some {tap.tokens} tokens"
        )

    def _wait_for_reader(self, due: float) -> None:
        """While bytes go out the provider's clocks stand still; a reader who does not take them is as good as gone."""
        self._interrupts.set_clock(due, Cause.GONE)

    def _refuse_answer(self, fields: dict[str, Any]) -> NoReturn:
        """An answer of 200 without what was asked for: an error object, or nothing that anybody could use."""
        provider = self._lane.connector.provider.id
        if fields.get("error"):
            raise classify_event(fields["error"], provider=provider)
        raise ProviderProtocolError(f"{provider} answered with something else than {self._call.surface.name}")

    async def _end_with_error(self, error: ProviderError) -> None:
        """After content nothing is spliced or repeated: the stream ends with an error event and without its end marker."""
        self._trail.outcome = error.code or "provider_error"
        self._wait_for_reader(self._loop.time() + self._lane.clocks.idle)
        with self._interrupts:
            await self._reply.break_off(error)

    def _note_usage(self, tap: Tap) -> None:
        if not tap.is_done:
            return  # what was reported so far need not be all
        if tap.usage is not None:
            self._usage = tap.usage
        elif self._call.surface.is_metered:
            # Nothing of the prompt's reservation is given back: nobody knows better.
            prompt = prompt_tokens(self._call, self._target.model)
            self._usage = Usage(prompt, max(0, tap.tokens), is_estimated=True)

    # -- settlement

    def _reset_s(self, error: ProviderError) -> float | None:
        """When a spent quota comes back whose provider names no time."""
        provider, target = self._lane.connector.provider, self._target
        return reset_s(
            error,
            target.pool.config.recovery.quota_reset_schedule,
            (target.model.config.limits, provider.config.limits),
            dialect_of(provider.connector.dialect),
            now_ms=round(time.time() * 1000),
        )

    def _settle_failure(self, settlement: Settlement, error: ProviderError) -> None:
        error.retry_after_s = self._reset_s(error) or error.retry_after_s
        settlement.outcome = outcome_of(error, self._target.pool.config.deactivation)
        settlement.retry_after_ms = round(pause_s(error) * 1000)
        if error.learned:
            self._learned, self._learned_at = [Learned(*told) for told in error.learned], self._loop.time()
        if not error.sent:
            settlement.flags |= NOT_SENT
        refused = error.status >= 400 and not self._trail.first_content
        # A provider that refuses a request has generated nothing; the request itself still counts.
        self._settle(settlement, Usage(0, 0) if refused else self._usage)

    def _settle(self, settlement: Settlement, usage: Usage | None) -> None:
        now = self._loop.time()
        settlement.latency_ms = round((now - self._admitted) * 1000)
        settlement.dispatch_delay_ms = _ms_beyond(self._sent - self._admitted)
        if self._call.is_stream:
            settlement.flags |= STREAM
        if self._first_content:
            settlement.first_token_ms = round((self._first_content - self._admitted) * 1000)
        if usage is not None:
            settlement.tokens_in, settlement.tokens_out = usage.tokens_in, usage.tokens_out
            settlement.cost_nano = cost_nano(usage, self._target.model.config.pricing)
            self._trail.tokens_in, self._trail.tokens_out = usage.tokens_in, usage.tokens_out
        if usage is None or usage.is_estimated:
            settlement.flags |= ESTIMATED
        settlement.learned = fresh(self._learned, age_s=now - self._learned_at)
        if not self._is_reserved:
            settlement.flags |= LEASED
        self.settlement = settlement
        self._lane.batcher.settle(settlement)


def _ms_beyond(delay_s: float) -> int:
    """A delay between admission and sending that matters for the provider's own windows, in ms."""
    delay_ms = round(delay_s * 1000)
    return delay_ms if delay_ms >= 100 else 0
